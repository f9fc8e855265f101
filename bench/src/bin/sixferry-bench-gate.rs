//! A fixed amount of work for an instruction counter: `scripts/gate.sh` runs it under one and compares
//! what a packet takes with what it took.

#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use sixferry_bench::arena::{Arena, Direction, FRAMES, Memory};
use sixferry_bench::population::{Layout, Population, local};
use sixferry_bench::yardstick::{Policy, Yardstick};
use sixferry_fwd::{BATCH_MAX, DropReason, TableError, Verdict};
use std::process::ExitCode;

/// Length of the IPv6 packets.
const INNER: usize = 64;

/// Processes 8192 packets of one kind once.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Kind of packets
    #[arg(value_enum)]
    work: Work,
}

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    /// Out of one tunnel
    DecapOne,
    /// Out of 10,000 tunnels
    DecapMany,
    /// Out of one tunnel in UDP
    DecapUdp,
    /// Into one tunnel
    EncapOne,
    /// Into 10,000 tunnels
    EncapMany,
    /// Out of no tunnel
    Drop,
    /// The yardstick, out of one tunnel
    YardstickDecap,
    /// The yardstick, into one tunnel
    YardstickEncap,
}

fn main() -> ExitCode {
    match run(Args::parse().work) {
        Ok(true) => {
            println!("{FRAMES}");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            eprintln!("sixferry-bench-gate: packets met another fate than they should");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sixferry-bench-gate: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all packets went where they should.
fn run(work: Work) -> Result<bool, TableError> {
    const MANY: u32 = 10_000;
    let sixes = |count| Population::tunnels(count, Layout::Contiguous);
    let (direction, tables, senders) = match work {
        Work::DecapOne => (Direction::Decap, sixes(1)?, None),
        Work::DecapMany => (Direction::Decap, sixes(MANY)?, None),
        Work::DecapUdp => (Direction::Decap, Population::udp()?, None),
        Work::EncapOne => (Direction::Encap, sixes(1)?, None),
        Work::EncapMany => (Direction::Encap, sixes(MANY)?, None),
        // tables that do not know the sender's UDP port
        Work::Drop => (Direction::Decap, sixes(1)?, Some(Population::udp()?)),
        Work::YardstickDecap => (Direction::Decap, sixes(1)?, None),
        Work::YardstickEncap => (Direction::Encap, sixes(1)?, None),
    };
    let mut memory = Memory::new();
    let mut arena = Arena::new(&mut memory, 1);
    let mut local = local();
    if let Work::YardstickDecap | Work::YardstickEncap = work {
        let mut yardstick = Yardstick::new(&tables);
        arena.fill(tables.destinations(), direction, INNER);
        // panics unless all pass
        _ = arena.run_yardstick(&mut yardstick, Policy::Sources, direction, BATCH_MAX);
        return Ok(true);
    }
    let senders = senders.as_ref().unwrap_or(&tables).destinations();
    arena.fill(senders, direction, INNER);
    let mut right = 0;
    arena.batches(
        tables.tables(),
        &mut local,
        direction,
        BATCH_MAX,
        |verdict| {
            right += usize::from(match work {
                Work::Drop => verdict == Verdict::Drop(DropReason::NoTunnel),
                _ => matches!(verdict, Verdict::Tx(_)),
            });
        },
    );
    Ok(right == FRAMES)
}
