//! Benchmarks a relay by RFC 8219 and reports in its format.

#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use sixferry_bench::e2e::lab;
use sixferry_bench::e2e::rfc8219::{Direction, Job, Test, scale};
use sixferry_bench::e2e::{Context, Error};
use sixferry_bench::pktgen;
use sixferry_bench::pktgen::traffic::Encapsulation;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// RFC 8219 (IPv6 transition technologies, encapsulation class) with `sixferryd` as the device under
/// test. Needs root and two CPUs; traffic stays in namespaces of its own
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// How long everything takes
    #[arg(long, value_enum, default_value = "ci")]
    scale: scale::Named,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Test>,
    /// Which way the packets go
    #[arg(long, value_enum, value_delimiter = ',', default_value = "decap,encap")]
    direction: Vec<Direction>,
    /// The outer header
    #[arg(long, value_enum, default_value = "6in4")]
    encapsulation: Tunnels,
    /// Frame sizes at the tunnel's side, with FCS: 64 (the shortest possible) to 1518; by default the
    /// scale's
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(64..=1518))]
    sizes: Vec<u16>,
    /// Numbers of tunnels of the overload test; the first is what the others are compared with
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000,100000,1000000",
          value_parser = clap::value_parser!(u32).range(1..=1 << 22))]
    tunnels: Vec<u32>,
    /// The daemon; by default the one beside this program
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// Where the report goes: Markdown, and JSON with every trial beside it
    #[arg(long, default_value = "target/bench/rfc8219.md")]
    report: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tunnels {
    /// Protocol 41
    #[value(name = "6in4")]
    SixInFour,
    /// IPv6 in UDP
    Udp,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sixferry-rfc8219: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Cli) -> Result<(), Error> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus < 2 {
        return Err("the generator and the relay need a CPU each").during("this machine");
    }
    if !args.tunnels.is_sorted() {
        return Err("want growing numbers").during("--tunnels");
    }
    let scale = args.scale.scale();
    let mut sizes: Vec<usize> = args.sizes.iter().copied().map(usize::from).collect();
    if sizes.is_empty() {
        sizes = scale.sizes.to_vec();
    }
    let mut tests = args.only.clone();
    if tests.is_empty() {
        tests = Test::value_variants().to_vec();
    }
    let daemon = match &args.daemon {
        Some(path) => path.clone(),
        None => pktgen::beside("sixferryd")?,
    };
    let job = Job {
        daemon,
        encapsulation: match args.encapsulation {
            Tunnels::SixInFour => Encapsulation::SixInFour,
            Tunnels::Udp => Encapsulation::Udp,
        },
        directions: args.direction.clone(),
        sizes,
        tests,
        tunnels: args.tunnels.clone(),
        scale,
    };
    // before the work: minutes or days are not to be lost for want of a directory
    write(&args.report, b"")?;
    lab::clean_up_when_interrupted()?;
    let measured = job.run()?;
    let text = measured.to_string();
    write(&args.report, text.as_bytes())?;
    let json = serde_json::to_vec_pretty(&measured).during("the figures")?;
    write(&args.report.with_extension("json"), &json)?;
    print!("{text}");
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).during(directory.display().to_string())?;
    }
    std::fs::write(path, bytes).during(path.display().to_string())
}
