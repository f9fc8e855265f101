//! What packets of untouched tunnels notice while 10,000 others change each second: `process` on one CPU,
//! who changes and publishes the tables on another.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_bench::changes::{self, Demand, Settings};
use sixferry_bench::error::{Context, Error};
use sixferry_bench::population::Layout;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The daemon's: where its tables lie decides how many pages, and of what size, a lookup touches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The rate of packets while tunnels change, beside the rate without.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Rounds; each has two stretches with changes and two without, in both directions
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of a stretch
    #[arg(long, default_value_t = 0.02)]
    seconds: f64,
    /// Tunnels; one of eight changes, the others carry the traffic
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    tunnels: u32,
    /// Changes a second
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Changes in a message of the API
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=512))]
    batch: u16,
    /// Prefixes in random places instead of one after the other
    #[arg(long)]
    scattered: bool,
    /// Length of the IPv6 packets
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(48..=1480))]
    inner: u16,
    /// CPUs of the worker and of who makes the changes
    #[arg(long, default_values_t = [1, 0], num_args = 2)]
    cpus: Vec<usize>,
    /// Write the figures here as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sixferry-bench-changes: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every packet of an untouched tunnel was forwarded.
fn run(args: &Args) -> Result<bool, Error> {
    let report = changes::run(&Settings {
        tunnels: args.tunnels,
        layout: if args.scattered {
            Layout::Scattered
        } else {
            Layout::Contiguous
        },
        demand: Demand {
            per_second: args.rate,
            batch: usize::from(args.batch),
        },
        rounds: args.rounds,
        stretch: Duration::from_secs_f64(args.seconds.clamp(0.01, 60.0)),
        inner_len: usize::from(args.inner),
        cpus: [args.cpus[0], args.cpus[1]],
    })?;
    print!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&report).during("the report")?;
        std::fs::write(path, text).during(path.display().to_string())?;
    }
    Ok(report.lost() == 0)
}
