//! What a packet costs in memory, both ways: beside a yardstick that does only what no relay can do
//! without, and with a million tunnels beside one.
//!
//! Every round runs every case once, `process` and yardstick one after the other, so that what else the
//! machine does touches all alike; figures are medians over rounds, ratios are taken within a round.

#![forbid(unsafe_code)]

use clap::Parser;
use serde::Serialize;
use sixferry_bench::arena::{Arena, Direction, FRAMES, Memory, Shape};
use sixferry_bench::cpu;
use sixferry_bench::goals::Goal;
use sixferry_bench::latency;
use sixferry_bench::population::{Layout, Population, local};
use sixferry_bench::statistics::{Summary, ratios};
use sixferry_bench::yardstick::{Policy, Yardstick};
use sixferry_fwd::{BATCH_MAX, Local, TableError};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The daemon's: where its tables lie decides how many pages, and of what size, a lookup touches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Passes before the one that counts. The other cases of a round have taken the caches; a relay with
/// a million tunnels has its own page tables and directories in them, if not its tunnels.
const WARM_UP: usize = 2;

const SEED: u64 = 0x000a_4e4a;

/// Routes of the table that stands for the global one.
const ROUTES: usize = 220_000;

/// Cost per packet, beside a yardstick and of a million tunnels beside one.
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
    /// With `--only`: the yardstick instead of `process`
    #[arg(long, requires = "only")]
    yardstick: bool,
    /// The same packets in every round, so that caches hold what they are looked up in
    #[arg(long)]
    same_packets: bool,
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
    /// The yardstick with inner-source compare and destination lookup.
    yardstick_nanoseconds: Summary,
    ratio_to_yardstick: Summary,
    /// The yardstick without them; none on the way into tunnels.
    bare_yardstick_nanoseconds: Option<Summary>,
    bytes_of_yardstick: usize,
}

#[derive(Serialize)]
struct Report {
    inner_len: u16,
    batch_len: u8,
    tunnels: u32,
    read_latency_nanoseconds: Vec<Latency>,
    cases: Vec<Case>,
    goals: Vec<Goal>,
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
        cpu::pin(cpu)?;
    }
    let cases = measure(args)?;
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
        goals: goals(args, &cases),
        cases,
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

/// One table in one direction, and what it took in each round.
struct Measured {
    direction: Direction,
    /// Place in the list of tables.
    table: usize,
    process: Vec<f64>,
    yardstick: Vec<f64>,
    bare: Vec<f64>,
}

/// A population in both its forms.
struct Table {
    name: &'static str,
    population: Population,
    yardstick: Yardstick,
}

fn tables(args: &Args) -> Result<Vec<Table>, TableError> {
    let all = [
        ("one tunnel", Some((1, Layout::Contiguous))),
        ("10k", Some((10_000.min(args.tunnels), Layout::Contiguous))),
        ("contiguous", Some((args.tunnels, Layout::Contiguous))),
        ("scattered", Some((args.tunnels, Layout::Scattered))),
        ("routes", None),
    ];
    let wanted = |name: &str| {
        let of_it = |direction: &Direction| !args.skips(&case_name(*direction, name));
        Direction::ALL.iter().any(of_it)
    };
    all.into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, tunnels)| {
            let population = match tunnels {
                Some((count, layout)) => Population::tunnels(count, layout)?,
                None => Population::routes(ROUTES)?,
            };
            Ok(Table {
                name,
                yardstick: Yardstick::new(&population),
                population,
            })
        })
        .collect()
}

/// The prefixes of the table of routes are none of a tunnel, so nothing comes out of one.
fn applies(direction: Direction, table: &str) -> bool {
    direction == Direction::Encap || table != "routes"
}

fn measure(args: &Args) -> Result<Vec<Case>, TableError> {
    let mut tables = tables(args)?;
    let mut memory = Memory::new();
    let mut arena = Arena::new(&mut memory, SEED);
    let mut local = local();
    let mut all = Vec::new();
    for direction in Direction::ALL {
        for (at, table) in tables.iter().enumerate() {
            if applies(direction, table.name) && !args.skips(&case_name(direction, table.name)) {
                all.push(Measured {
                    direction,
                    table: at,
                    process: Vec::new(),
                    yardstick: Vec::new(),
                    bare: Vec::new(),
                });
            }
        }
    }
    for _ in 0..args.rounds {
        for measured in &mut all {
            let table = &mut tables[measured.table];
            measured.round(args, table, &mut arena, &mut local);
        }
    }
    let one = |direction| {
        let same = |m: &&Measured| m.direction == direction && tables[m.table].name == "one tunnel";
        all.iter().find(same).map_or(&[][..], |m| &m.process)
    };
    let case = |m: &Measured| m.case(&tables[m.table], one(m.direction));
    Ok(all.iter().map(case).collect())
}

impl Measured {
    fn round(&mut self, args: &Args, table: &mut Table, arena: &mut Arena<'_>, local: &mut Local) {
        let shape = Shape {
            direction: self.direction,
            inner_len: usize::from(args.inner),
            batch_len: usize::from(args.batch),
        };
        let Table {
            population,
            yardstick,
            ..
        } = table;
        let nanoseconds = |took: Duration| took.as_nanos() as f64 / FRAMES as f64;
        // the last of some rounds
        let last = |arena: &mut Arena<'_>, round: &mut dyn FnMut(&mut Arena<'_>) -> Duration| {
            let mut took = Duration::ZERO;
            for _ in 0..=WARM_UP {
                if args.same_packets {
                    arena.draw_again(SEED);
                }
                took = round(arena);
            }
            nanoseconds(took)
        };
        if !args.yardstick {
            let process = last(arena, &mut |arena| arena.round(population, local, shape));
            self.process.push(process);
        }
        if args.only.is_some() && !args.yardstick {
            return;
        }
        let mut measure = |policy, times: &mut Vec<f64>| {
            times.push(last(arena, &mut |arena| {
                arena.yardstick_round(population, yardstick, policy, shape)
            }));
        };
        measure(Policy::Sources, &mut self.yardstick);
        if self.direction == Direction::Decap {
            measure(Policy::None, &mut self.bare);
        }
    }

    fn case(&self, table: &Table, one_tunnel: &[f64]) -> Case {
        Case {
            name: case_name(self.direction, table.name),
            direction: self.direction.name(),
            table: table.name,
            bytes_of_tables: table.population.bytes(),
            nanoseconds: Summary::of(&self.process),
            ratio_to_one_tunnel: Summary::of(&ratios(&self.process, one_tunnel)),
            yardstick_nanoseconds: Summary::of(&self.yardstick),
            ratio_to_yardstick: Summary::of(&ratios(&self.process, &self.yardstick)),
            bare_yardstick_nanoseconds: (!self.bare.is_empty()).then(|| Summary::of(&self.bare)),
            bytes_of_yardstick: table.yardstick.bytes(),
        }
    }
}

/// The goals that these cases decide about.
fn goals(args: &Args, cases: &[Case]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for case in cases
        .iter()
        .filter(|case| case.ratio_to_yardstick.rounds > 0)
    {
        let (number, name) = match (case.direction, case.table) {
            ("decap", "one tunnel" | "contiguous" | "scattered") => (7, &case.name),
            ("encap", "routes") => (8, &case.name),
            _ => continue,
        };
        let what = format!("{name}, time relative to the yardstick");
        let figure = case.ratio_to_yardstick.median;
        goals.push(Goal::at_most(number, what, figure, 1.5, 1.1));
    }
    let of = |name| cases.iter().find(|case| case.name == name);
    if let Some(case) = of("decap scattered").filter(|case| case.ratio_to_one_tunnel.rounds > 0) {
        // RFC 8219 section 10.2: what of the rate is lost
        let lost = (1.0 - 1.0 / case.ratio_to_one_tunnel.median) * 100.0;
        let what = "decap, degradation from one tunnel to a million scattered, %";
        goals.push(Goal::at_most(9, what, lost, 65.0, 55.0));
    }
    for case in cases.iter().filter(|case| case.direction == "decap") {
        if let "contiguous" | "scattered" = case.table {
            let bytes = case.bytes_of_tables as f64 / f64::from(args.tunnels);
            let what = format!("bytes of tables a tunnel, {}, one worker", case.table);
            goals.push(Goal::at_most(16, what, bytes, 256.0, 128.0));
        }
    }
    goals
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
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "case", "ns", "q1", "q3", "min", "x one", "yardstick", "x yards.", "bare", "MiB"
    );
    for case in &report.cases {
        let ns = &case.nanoseconds;
        let bare = case.bare_yardstick_nanoseconds;
        println!(
            "{:<18} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>9.2} {:>9.1} {:>9.2} {:>9.1} {:>8.1}",
            case.name,
            ns.median,
            ns.lower_quartile,
            ns.upper_quartile,
            ns.min,
            case.ratio_to_one_tunnel.median,
            case.yardstick_nanoseconds.median,
            case.ratio_to_yardstick.median,
            bare.map_or(0.0, |bare| bare.median),
            case.bytes_of_tables as f64 / 1_048_576.0,
        );
    }
    for goal in &report.goals {
        println!("{goal}");
    }
}
