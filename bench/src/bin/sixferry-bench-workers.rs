//! Whether two workers get in each other's way: two threads on two CPUs with one snapshot of the tables,
//! beside two threads with tables of their own, which have nothing in common but the machine.
//!
//! A line that both write would travel between the CPUs with every packet, which costs more than the packet.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_bench::arena::{Arena, Direction, FRAMES, Memory, Shape};
use sixferry_bench::cpu;
use sixferry_bench::population::{Layout, Population, local_of};
use sixferry_bench::statistics::{Summary, ratios};
use sixferry_fwd::{BATCH_MAX, TableError};
use std::process::ExitCode;
use std::sync::Barrier;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Cost per packet of two workers that share tables, beside two that share nothing.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Rounds; each runs every case once
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Passes over 8192 frames of each worker in a round
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..))]
    passes: u32,
    /// Tunnels; every packet of both workers is of one of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tunnels: u32,
    /// CPUs of the two workers
    #[arg(long, default_values_t = [0, 1], num_args = 2)]
    cpus: Vec<usize>,
    /// Fail when sharing costs more than this times not sharing
    #[arg(long)]
    max_ratio: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sixferry-bench-workers: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, TableError> {
    let tables = |workers| Population::of_workers(args.tunnels, Layout::Contiguous, workers);
    let shared = tables(2)?;
    let (first, second) = (tables(1)?, tables(1)?);
    let mut fine = true;
    println!(
        "{:<8} {:>10} {:>10} {:>10} {:>14}",
        "", "alone", "shared", "apart", "shared/apart"
    );
    for direction in Direction::ALL {
        let [mut alone, mut together, mut apart] = [const { Vec::new() }; 3];
        for _ in 0..args.rounds {
            alone.push(round(args, direction, &[(&first, 0)]));
            together.push(round(args, direction, &[(&shared, 0), (&shared, 1)]));
            apart.push(round(args, direction, &[(&first, 0), (&second, 0)]));
        }
        let ratio = Summary::of(&ratios(&together, &apart));
        let median = |times: &[f64]| Summary::of(times).median;
        println!(
            "{:<8} {:>10.1} {:>10.1} {:>10.1} {:>6.2} ({:.2}-{:.2})",
            direction.name(),
            median(&alone),
            median(&together),
            median(&apart),
            ratio.median,
            ratio.lower_quartile,
            ratio.upper_quartile,
        );
        fine &= args.max_ratio.is_none_or(|limit| ratio.median <= limit);
    }
    Ok(fine)
}

/// Nanoseconds a packet, of workers with these tables at the same time.
fn round(args: &Args, direction: Direction, workers: &[(&Population, usize)]) -> f64 {
    let start = Barrier::new(workers.len());
    let work = |cpu: usize, population: &Population, worker: usize| {
        // where that is not allowed the kernel's choice has to do
        _ = cpu::pin(cpu);
        let mut memory = Memory::new();
        let mut arena = Arena::new(&mut memory, cpu as u64 + 1);
        let mut local = local_of(worker, 2);
        let shape = Shape {
            direction,
            inner_len: 64,
            batch_len: BATCH_MAX,
        };
        _ = arena.round(population, &mut local, shape);
        _ = start.wait();
        let times: Vec<f64> = (0..args.passes)
            .map(|_| arena.round(population, &mut local, shape))
            .map(|took| took.as_nanos() as f64 / FRAMES as f64)
            .collect();
        Summary::of(&times).median
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter()
            .zip(&args.cpus)
            .map(|((population, worker), cpu)| scope.spawn(|| work(*cpu, population, *worker)))
            .collect();
        let times = threads.into_iter().filter_map(|thread| thread.join().ok());
        times.sum::<f64>() / workers.len() as f64
    })
}
