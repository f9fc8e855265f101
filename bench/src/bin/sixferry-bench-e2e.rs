//! Throughput of `sixferryd` over veth beside the bare AF_XDP ceiling, in interleaved rounds.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use sixferry_bench::e2e::controller::{self, Job};
use sixferry_bench::e2e::generator::{self, Seat, Traffic};
use sixferry_bench::e2e::lab::{self, Lab, Place};
use sixferry_bench::e2e::reference::{self, Work};
use sixferry_bench::e2e::report::{Pair, Report};
use sixferry_bench::e2e::trial::{self, Device, Plan, Test, Trial};
use sixferry_bench::e2e::{Context, Error, floods, resync, sink};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The tests that are none of the rounds.
const RESYNC: &str = "resync";
const FLOODS: &str = "floods";
/// Tries of a trial in which generator or device lack CPU time.
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
    /// How often a control process dies and another re-syncs all tunnels
    #[arg(long, default_value_t = 2)]
    events: u32,
    /// Run only these tests; `resync` is the one with a control process under traffic, `floods` the
    /// one in which most packets are bad
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
        #[arg(long, allow_hyphen_values = true)]
        nice: i32,
    },
    #[command(hide = true)]
    Controller {
        socket: PathBuf,
        #[arg(long)]
        tunnels: u32,
        #[arg(long)]
        changed: Option<u32>,
        #[arg(long)]
        cpu: Option<usize>,
        #[arg(long, allow_hyphen_values = true, default_value_t = 0)]
        nice: i32,
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
        None => match bench(&cli.bench) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
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
            nice,
        }) => {
            let traffic = Traffic {
                tunnelled: matches!(kind, Kind::SixInFour),
                flows,
                frame_len,
            };
            generator::run(&interface, &traffic, Seat { cpu, nice })
        }
        Some(Role::Controller {
            socket,
            tunnels,
            changed,
            cpu,
            nice,
        }) => {
            let job = Job {
                tunnels,
                changed,
                seat: cpu.map(|cpu| Seat { cpu, nice }),
            };
            controller::run(&socket, job)
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

/// All that was measured; what was not asked for is absent.
#[derive(Default, Serialize)]
struct Measured {
    throughput: Option<Report>,
    resync: Option<resync::Report>,
    floods: Option<floods::Report>,
}

impl Measured {
    fn is_good(&self) -> bool {
        self.resync.as_ref().is_none_or(resync::Report::is_clean)
            && self.floods.as_ref().is_none_or(floods::Report::is_clean)
    }
}

/// Returns whether everything was as it must be, whatever the speed.
fn bench(args: &Bench) -> Result<bool, Error> {
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
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut tests = tests(args.tunnels);
    let known = |name: &String| {
        [RESYNC, FLOODS].contains(&name.as_str()) || tests.iter().any(|test| test.name == *name)
    };
    if let Some(unknown) = args.only.iter().find(|name| !known(name)) {
        return Err("no such test").during(unknown);
    }
    tests.retain(|test| wanted(test.name));
    lab::clean_up_when_interrupted()?;
    let mut measured = Measured::default();
    if !tests.is_empty() {
        let report = throughput(args, &tests, &plan)?;
        print!("{report}");
        measured.throughput = Some(report);
    }
    if wanted(RESYNC) {
        let report = resync::run(&Lab::new()?, &plan, args.tunnels, args.events)?;
        print!("{report}");
        measured.resync = Some(report);
    }
    if wanted(FLOODS) {
        let report = floods::run(&Lab::new()?, &plan, args.tunnels)?;
        print!("{report}");
        measured.floods = Some(report);
    }
    if let Some(directory) = args.json.parent() {
        std::fs::create_dir_all(directory).during(directory.display().to_string())?;
    }
    let text = serde_json::to_vec_pretty(&measured).during("the report")?;
    std::fs::write(&args.json, text).during(args.json.display().to_string())?;
    Ok(measured.is_good())
}

fn throughput(args: &Bench, tests: &[Test], plan: &Plan) -> Result<Report, Error> {
    let mut trials: Vec<Vec<Trial>> = vec![Vec::new(); tests.len()];
    for round in 1..=args.rounds {
        // promiscuous mode and learnt neighbours outlive a test
        let lab = Lab::new()?;
        for (test, trials) in tests.iter().zip(&mut trials) {
            let trial = sound(&lab, test, plan)?;
            eprintln!("[{round}/{}] {:<12} {trial}", args.rounds, test.name);
            trials.push(trial);
        }
    }
    Ok(Report::new(args.frame_len, tests, &trials, &PAIRS))
}

/// A trial in which everybody had its CPU, or the last of some attempts, which then does not count.
fn sound(lab: &Lab, test: &Test, plan: &Plan) -> Result<Trial, Error> {
    let mut trial = trial::run(lab, test, plan)?;
    for _ in 1..ATTEMPTS {
        if trial.is_sound() {
            break;
        }
        eprintln!("      again     {:<12} {trial}", test.name);
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
