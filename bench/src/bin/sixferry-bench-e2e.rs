//! Throughput of `sixferryd` over veth beside the bare AF_XDP ceiling, in interleaved rounds.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand, ValueEnum};
use sixferry_bench::e2e::generator::{self, Traffic};
use sixferry_bench::e2e::lab::{Lab, Place};
use sixferry_bench::e2e::reference::{self, Work};
use sixferry_bench::e2e::report::{Pair, Report};
use sixferry_bench::e2e::trial::{self, Device, Plan, Test, Trial};
use sixferry_bench::e2e::{Context, Error, sink};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Tries of a trial in which the generator lacks CPU time.
const ATTEMPTS: usize = 3;

/// Packets per second end to end. Needs root and two CPUs; traffic stays in namespaces of its own.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    bench: Bench,
}

#[derive(Args)]
struct Bench {
    /// Rounds; each runs every test once
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of measurement in each test
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Length of the generated frames, without FCS: 82 to 1480
    #[arg(long, default_value_t = generator::FRAME_MIN)]
    frame_len: usize,
    /// Also measure with so many tunnels, a power of two
    #[arg(long, default_value_t = 1 << 20)]
    tunnels: u32,
    /// The daemon; by default the one beside this program
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// Where the figures go, as JSON
    #[arg(long, default_value = "target/bench/e2e.json")]
    json: PathBuf,
    /// Run only these tests
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// The processes of a trial, which the bench starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Generator {
        interface: String,
        #[arg(long)]
        kind: Kind,
        #[arg(long)]
        flows: u32,
        #[arg(long)]
        frame_len: usize,
        #[arg(long)]
        cpu: usize,
    },
    #[command(hide = true)]
    Sink { interface: String },
    #[command(hide = true)]
    Reference {
        work: Work,
        interfaces: Vec<String>,
        #[arg(long)]
        cpu: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    #[value(name = "6in4")]
    SixInFour,
    Ipv6,
}

const SINK: Option<(Place, &str)> = Some((Place::Sink, "sink0"));

fn tests(tunnels: u32) -> Vec<Test> {
    let test = |name, text, device, tunnelled, counted| Test {
        name,
        text,
        device,
        tunnelled,
        counted,
    };
    let reference = Device::Reference;
    let device = Some((Place::Device, "dut0"));
    let back = Some((Place::Generator, "gen0"));
    vec![
        test(
            "generator",
            "XDP drop: what is offered",
            Device::None,
            true,
            device,
        ),
        test(
            "rxdrop",
            "AF_XDP receives and drops",
            reference("drop"),
            true,
            None,
        ),
        test(
            "l2fwd",
            "AF_XDP sends it back",
            reference("echo"),
            true,
            back,
        ),
        test(
            "ref-decap",
            "AF_XDP strips, no lookup",
            reference("decap"),
            true,
            SINK,
        ),
        test(
            "decap",
            "sixferryd, 1 tunnel",
            Device::Daemon(1),
            true,
            SINK,
        ),
        test(
            "decap-many",
            "sixferryd, many tunnels",
            Device::Daemon(tunnels),
            true,
            SINK,
        ),
        test(
            "ref-encap",
            "AF_XDP prepends, no lookup",
            reference("encap"),
            false,
            SINK,
        ),
        test(
            "encap",
            "sixferryd, 1 tunnel",
            Device::Daemon(1),
            false,
            SINK,
        ),
        test(
            "encap-many",
            "sixferryd, many tunnels",
            Device::Daemon(tunnels),
            false,
            SINK,
        ),
    ]
}

const PAIRS: [Pair; 8] = {
    const fn pair(test: &'static str, yardstick: &'static str) -> Pair {
        Pair { test, yardstick }
    }
    [
        pair("decap", "rxdrop"),
        pair("decap", "l2fwd"),
        pair("decap", "ref-decap"),
        pair("decap-many", "ref-decap"),
        pair("encap", "rxdrop"),
        pair("encap", "l2fwd"),
        pair("encap", "ref-encap"),
        pair("encap-many", "ref-encap"),
    ]
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        None => bench(&cli.bench),
        Some(Role::Sink { interface }) => sink::run(&interface),
        Some(Role::Reference {
            work,
            interfaces,
            cpu,
        }) => reference::run(work, &interfaces, cpu),
        Some(Role::Generator {
            interface,
            kind,
            flows,
            frame_len,
            cpu,
        }) => {
            let traffic = Traffic {
                tunnelled: matches!(kind, Kind::SixInFour),
                flows,
                frame_len,
            };
            generator::run(&interface, &traffic, cpu)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sixferry-bench-e2e: {error}");
            ExitCode::from(2)
        }
    }
}

fn bench(args: &Bench) -> Result<(), Error> {
    let traffic = Traffic {
        tunnelled: true,
        flows: args.tunnels,
        frame_len: args.frame_len,
    };
    traffic.check().during("arguments")?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus < 2 {
        return Err("the generator and the relay need a CPU each").during("this machine");
    }
    let plan = Plan {
        daemon: daemon(args)?,
        frame_len: args.frame_len,
        window: Duration::from_secs_f64(args.seconds.clamp(0.1, 60.0)),
        generator_cpu: 0,
        device_cpu: 1,
    };
    let mut tests = tests(args.tunnels);
    tests.retain(|test| args.only.is_empty() || args.only.iter().any(|name| name == test.name));
    let mut trials: Vec<Vec<Trial>> = vec![Vec::new(); tests.len()];
    for round in 1..=args.rounds {
        // promiscuous mode and learnt neighbours outlive a test
        let lab = Lab::new()?;
        for (test, trials) in tests.iter().zip(&mut trials) {
            let trial = sound(&lab, test, &plan)?;
            eprintln!(
                "[{round}/{}] {:<12} {:.3} Mpps of {:.3}, generator's share {:.2}",
                args.rounds, test.name, trial.mpps, trial.offered_mpps, trial.generator_share
            );
            trials.push(trial);
        }
    }
    let report = Report::new(args.frame_len, &tests, &trials, &PAIRS);
    print!("{report}");
    if let Some(directory) = args.json.parent() {
        std::fs::create_dir_all(directory).during(directory.display().to_string())?;
    }
    let text = serde_json::to_vec_pretty(&report).during("the report")?;
    std::fs::write(&args.json, text).during(args.json.display().to_string())
}

/// A trial in which the generator had its CPU, or the last of some attempts.
fn sound(lab: &Lab, test: &Test, plan: &Plan) -> Result<Trial, Error> {
    let mut trial = trial::run(lab, test, plan)?;
    for _ in 1..ATTEMPTS {
        if trial.is_sound() {
            break;
        }
        trial = trial::run(lab, test, plan)?;
    }
    Ok(trial)
}

fn daemon(args: &Bench) -> Result<PathBuf, Error> {
    let path = match &args.daemon {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .during("this program's path")?
            .with_file_name("sixferryd"),
    };
    if path.exists() {
        Ok(path)
    } else {
        Err("not there; fix: cargo build --release -p sixferryd").during(path.display().to_string())
    }
}
