//! Sends mutated packets through the forwarding core and checks each one's treatment.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_bench::mutate;
use sixferry_fwd::DropReason;
use std::time::Instant;

/// Mutated packets through the forwarding core: any panic, lost or uncounted packet ends it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// How many packets
    #[arg(long, default_value_t = 10_000_000)]
    count: u64,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let args = Args::parse();
    let start = Instant::now();
    let run = mutate::run(args.count, args.seed);
    let took = start.elapsed();
    let counters = &run.counters;
    println!(
        "{} packets in {:.1} s: {} forwarded, {} answered, {} punted, {} dropped, 0 unaccounted",
        run.sent,
        took.as_secs_f64(),
        counters.forwarded.packets,
        counters.answered.packets,
        counters.punted.packets,
        counters.dropped().packets,
    );
    println!("digest of what became of them: {:016x}", run.digest);
    for reason in DropReason::ALL {
        let count = counters.drops_for(*reason).packets;
        if count > 0 {
            println!("{count:>10} {}", reason.name());
        }
    }
}
