//! What a million tunnels cost per packet beside one tunnel, in memory, both ways.
//!
//! Every round runs every case once, so that what else the machine does touches all alike; figures
//! are medians over rounds, ratios are taken within a round.

#![forbid(unsafe_code)]

use clap::Parser;
use serde::Serialize;
use sixferry_bench::arena::{Arena, Direction, FRAMES, Memory, Shape};
use sixferry_bench::latency;
use sixferry_bench::population::{Layout, Population, local};
use sixferry_bench::statistics::{Summary, ratios};
use sixferry_fwd::{BATCH_MAX, TableError};
use std::path::PathBuf;
use std::process::ExitCode;

/// Passes before the one that counts. The other cases of a round have taken the caches; a relay with
/// a million tunnels has its own page tables and directories in them, if not its tunnels.
const WARM_UP: usize = 2;

/// Cost per packet of a million tunnels beside one.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Rounds; each runs every case once
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(15..))]
    rounds: u32,
    /// Length of the IPv6 packets
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(48..=1480))]
    inner: u16,
    /// Packets in a batch
    #[arg(long, default_value_t = BATCH_MAX as u8, value_parser = clap::value_parser!(u8).range(1..=64))]
    batch: u8,
    /// Tunnels of the large tables
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tunnels: u32,
    /// Run on this CPU
    #[arg(long)]
    cpu: Option<usize>,
    /// Run only this case, named as in the table (for a profiler); there is no ratio then
    #[arg(long)]
    only: Option<String>,
    /// Fail when the contiguous million costs more than this times one tunnel
    #[arg(long)]
    max_ratio: Option<f64>,
    /// Write the figures here as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Case {
    name: String,
    direction: &'static str,
    table: &'static str,
    bytes_of_tables: usize,
    nanoseconds: Summary,
    ratio_to_one_tunnel: Summary,
}

#[derive(Serialize)]
struct Report {
    inner_len: u16,
    batch_len: u8,
    tunnels: u32,
    read_latency_nanoseconds: Vec<Latency>,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Latency {
    kilobytes: usize,
    nanoseconds: Summary,
}

impl Args {
    fn skips(&self, case: &str) -> bool {
        self.only.as_deref().is_some_and(|only| only != case)
    }
}

fn case_name(direction: Direction, table: &str) -> String {
    format!("{} {table}", direction.name())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sixferry-bench-ratio: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    if let Some(cpu) = args.cpu {
        pin(cpu)?;
    }
    let report = Report {
        inner_len: args.inner,
        batch_len: args.batch,
        tunnels: args.tunnels,
        read_latency_nanoseconds: [256, 4096, 16_384, 262_144]
            .into_iter()
            .filter(|_| args.only.is_none())
            .map(|kilobytes| Latency {
                kilobytes,
                nanoseconds: Summary::of(&latency::measure(kilobytes * 1024, 7)),
            })
            .collect(),
        cases: measure(args)?,
    };
    print(&report);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    let worst = report
        .cases
        .iter()
        .filter(|case| case.table == "contiguous")
        .map(|case| case.ratio_to_one_tunnel.median)
        .fold(0.0, f64::max);
    match args.max_ratio {
        Some(limit) if worst > limit => {
            println!("ratio {worst:.2} is above {limit:.2}");
            Ok(false)
        }
        _ => Ok(true),
    }
}

fn populations(args: &Args) -> Result<Vec<(&'static str, Population)>, TableError> {
    let all = [
        ("one tunnel", 1, Layout::Contiguous),
        ("10k", 10_000.min(args.tunnels), Layout::Contiguous),
        ("contiguous", args.tunnels, Layout::Contiguous),
        ("scattered", args.tunnels, Layout::Scattered),
    ];
    all.into_iter()
        .filter(|(table, ..)| {
            Direction::ALL
                .iter()
                .any(|direction| !args.skips(&case_name(*direction, table)))
        })
        .map(|(table, tunnels, layout)| Ok((table, Population::tunnels(tunnels, layout)?)))
        .collect()
}

fn measure(args: &Args) -> Result<Vec<Case>, TableError> {
    let populations = populations(args)?;
    let mut memory = Memory::new();
    let mut arena = Arena::new(&mut memory, 0x000a_4e4a);
    let mut local = local();
    let mut times = vec![Vec::new(); populations.len() * Direction::ALL.len()];
    for _ in 0..args.rounds {
        let mut times = times.iter_mut();
        for direction in Direction::ALL {
            let shape = Shape {
                direction,
                inner_len: usize::from(args.inner),
                batch_len: usize::from(args.batch),
            };
            for (table, population) in &populations {
                if args.skips(&case_name(direction, table)) {
                    _ = times.next();
                    continue;
                }
                for _ in 0..WARM_UP {
                    _ = arena.round(population, &mut local, shape);
                }
                let took = arena.round(population, &mut local, shape);
                if let Some(times) = times.next() {
                    times.push(took.as_nanos() as f64 / FRAMES as f64);
                }
            }
        }
    }
    let mut cases = Vec::new();
    for (direction, times) in Direction::ALL.iter().zip(times.chunks(populations.len())) {
        for ((table, population), own) in populations.iter().zip(times) {
            cases.push(Case {
                name: case_name(*direction, table),
                direction: direction.name(),
                table,
                bytes_of_tables: population.bytes(),
                nanoseconds: Summary::of(own),
                ratio_to_one_tunnel: Summary::of(&ratios(own, &times[0])),
            });
        }
    }
    Ok(cases)
}

fn print(report: &Report) {
    for latency in &report.read_latency_nanoseconds {
        println!(
            "read latency, {:>6} KiB: {:6.1} ns",
            latency.kilobytes, latency.nanoseconds.median
        );
    }
    println!(
        "{} tunnels, inner packets of {} bytes, batches of {}",
        report.tunnels, report.inner_len, report.batch_len
    );
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "case", "ns", "q1", "q3", "min", "ratio", "MiB"
    );
    for case in report
        .cases
        .iter()
        .filter(|case| case.nanoseconds.rounds > 0)
    {
        let ns = &case.nanoseconds;
        println!(
            "{:<18} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.2} {:>8.1}",
            case.name,
            ns.median,
            ns.lower_quartile,
            ns.upper_quartile,
            ns.min,
            case.ratio_to_one_tunnel.median,
            case.bytes_of_tables as f64 / 1_048_576.0,
        );
    }
}

fn pin(cpu: usize) -> Result<(), rustix::io::Errno> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
}
