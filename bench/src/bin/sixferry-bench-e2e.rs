//! Throughput of `sixferryd` over veth beside the bare AF_XDP ceiling, in interleaved rounds.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use sixferry_bench::cpu;
use sixferry_bench::e2e::controller::{self, Changed, Job, Load};
use sixferry_bench::e2e::lab::{self, Lab};
use sixferry_bench::e2e::matrix::{self, PAIRS};
use sixferry_bench::e2e::reference::{self, Work};
use sixferry_bench::e2e::report::{Report, Skipped};
use sixferry_bench::e2e::rig::Rig;
use sixferry_bench::e2e::trial::{Plan, Stand, Test, Trial};
use sixferry_bench::e2e::{Context, Error, changer, changes, first, floods, peers, resync, timing};
use sixferry_bench::environment::{self, Environment};
use sixferry_bench::pktgen::role::Seat;
use sixferry_bench::pktgen::sizes::Sizes;
use sixferry_bench::pktgen::traffic::{Encapsulation, Traffic};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The tests that are none of the rounds.
const TIMING: &str = "timing";
const RESYNC: &str = "resync";
const CHANGES: &str = "changes";
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
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Namespaces and processes are made anew so often
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    sets: u32,
    /// Seconds of a test in each round
    #[arg(long, default_value_t = 0.2)]
    trial_seconds: f64,
    /// Seconds of measurement in the parts that are none of the rounds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Length of the generated frames, without FCS: 82 to 1480
    #[arg(long, default_value_t = Encapsulation::SixInFour.frame_min())]
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
    /// Rounds of loss-free rates, delays and idle round trips
    #[arg(long, default_value_t = 5)]
    timing_rounds: u32,
    /// How often a control process dies and another re-syncs all tunnels
    #[arg(long, default_value_t = 2)]
    events: u32,
    /// Run only these tests; `timing` has loss-free rates, delays and idle round trips, `resync` a
    /// control process under traffic, `changes` what programming a million tunnels takes, and in `floods`
    /// most packets are bad
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// The processes of a trial, which the bench starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    DecapInKernel {
        ingress: String,
        egress: String,
        #[arg(long)]
        tunnels: u32,
    },
    #[command(hide = true)]
    Controller {
        socket: PathBuf,
        kind: String,
        count: u32,
        #[arg(long)]
        changed: Changed,
        #[arg(long)]
        cpu: Option<usize>,
        #[arg(long, allow_hyphen_values = true, default_value_t = 0)]
        nice: i32,
    },
    #[command(hide = true)]
    Changer {
        socket: PathBuf,
        from: u32,
        to: u32,
        cpu: usize,
        #[arg(long, allow_hyphen_values = true)]
        nice: i32,
    },
    #[command(hide = true)]
    Reference {
        work: Work,
        interfaces: Vec<String>,
        #[arg(long)]
        cpu: usize,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        None => match bench(&cli.bench) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Some(Role::Reference {
            work,
            interfaces,
            cpu,
        }) => reference::run(work, &interfaces, cpu),
        Some(Role::DecapInKernel {
            ingress,
            egress,
            tunnels,
        }) => peers::decap_in_kernel(&ingress, &egress, tunnels),
        Some(Role::Changer {
            socket,
            from,
            to,
            cpu,
            nice,
        }) => changer::run(&socket, from..to, Seat { cpu, nice }),
        Some(Role::Controller {
            socket,
            kind,
            count,
            changed,
            cpu,
            nice,
        }) => Load::parse(&kind, count).and_then(|load| {
            let job = Job {
                load,
                changed,
                seat: cpu.map(|cpu| Seat { cpu, nice }),
            };
            controller::run(&socket, job)
        }),
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
    environment: Environment,
    load_after: String,
    throughput: Option<Report>,
    timing: Option<timing::Report>,
    resync: Option<resync::Report>,
    changes: Option<changes::Report>,
    floods: Option<floods::Report>,
}

impl Measured {
    fn is_good(&self) -> bool {
        self.resync.as_ref().is_none_or(resync::Report::is_clean)
            && self.changes.as_ref().is_none_or(changes::Report::is_clean)
            && self.floods.as_ref().is_none_or(floods::Report::is_clean)
    }
}

/// Returns whether everything was as it must be, whatever the speed.
fn bench(args: &Bench) -> Result<bool, Error> {
    let traffic = Traffic {
        flows: args.tunnels,
        sizes: Sizes::one(args.frame_len),
        ..Traffic::default()
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
        trial: Duration::from_secs_f64(args.trial_seconds.clamp(0.05, 60.0)),
        generator_cpu: 0,
        device_cpu: 1,
    };
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let (mut tests, mut skipped) = matrix::tests(args.tunnels);
    skipped.retain(|test| wanted(test.name));
    let known = |name: &String| {
        [TIMING, RESYNC, CHANGES, FLOODS].contains(&name.as_str())
            || tests.iter().any(|test| test.name == *name)
    };
    if let Some(unknown) = args.only.iter().find(|name| !known(name)) {
        return Err("no such test").during(unknown);
    }
    tests.retain(|test| wanted(test.name));
    lab::clean_up_when_interrupted()?;
    let mut measured = Measured {
        environment: Environment::now(),
        ..Measured::default()
    };
    cpu::leave(plan.device_cpu).during(format!("a CPU besides {}", plan.device_cpu))?;
    if !tests.is_empty() {
        let report = throughput(args, &tests, skipped, &plan)?;
        print!("{report}");
        measured.throughput = Some(report);
    }
    if wanted(TIMING) {
        let report = timings(args, &plan)?;
        print!("{report}");
        measured.timing = Some(report);
    }
    if wanted(RESYNC) || wanted(CHANGES) {
        at_scale(args, &plan, wanted, &mut measured)?;
    }
    if wanted(FLOODS) {
        let report = floods::run(&Lab::new()?, &plan, args.tunnels)?;
        print!("{report}");
        measured.floods = Some(report);
    }
    measured.load_after = environment::load();
    if let Some(directory) = args.json.parent() {
        std::fs::create_dir_all(directory).during(directory.display().to_string())?;
    }
    let text = serde_json::to_vec_pretty(&measured).during("the report")?;
    std::fs::write(&args.json, text).during(args.json.display().to_string())?;
    Ok(measured.is_good())
}

/// What needs a daemon with all tunnels.
fn at_scale(
    args: &Bench,
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    measured: &mut Measured,
) -> Result<(), Error> {
    let alone = wanted(CHANGES)
        .then(|| first::run_alone(plan))
        .transpose()?;
    let lab = Lab::new()?;
    let mut rig = Rig::start(&lab, plan, args.tunnels)?;
    let rates = rig.rates()?;
    if wanted(RESYNC) {
        let report = resync::run(&mut rig, plan, rates, args.events)?;
        print!("{report}");
        measured.resync = Some(report);
    }
    if let Some(alone) = alone {
        let report = changes::run(rig, plan, rates)?.and_alone(alone);
        print!("{report}");
        measured.changes = Some(report);
    }
    Ok(())
}

fn timings(args: &Bench, plan: &Plan) -> Result<timing::Report, Error> {
    let mut rounds = Vec::new();
    for round in 1..=args.timing_rounds {
        let measured = timing::Round::run(&Lab::new()?, plan)?;
        eprintln!("[{round}/{}] {measured}", args.timing_rounds);
        rounds.push(measured);
    }
    Ok(timing::Report::new(args.frame_len, rounds))
}

fn throughput(
    args: &Bench,
    tests: &[Test],
    skipped: Vec<Skipped>,
    plan: &Plan,
) -> Result<Report, Error> {
    let mut trials: Vec<Vec<Trial>> = vec![Vec::new(); tests.len()];
    let per_set = args.rounds.div_ceil(args.sets);
    for set in 1..=args.sets {
        let all = tests.iter().map(|_| Lab::new());
        let labs = all.collect::<Result<Vec<_>, _>>()?;
        let all = tests.iter().zip(&labs).map(|(test, lab)| {
            eprintln!("[set {set}/{}] starting {}", args.sets, test.name);
            Stand::start(lab, test, plan)
        });
        let mut stands = all.collect::<Result<Vec<_>, _>>()?;
        for round in 1..=per_set {
            for (stand, trials) in stands.iter_mut().zip(&mut trials) {
                trials.push(sound(stand, plan)?);
            }
            eprintln!("[set {set}/{}] round {round}/{per_set}", args.sets);
        }
        for ((stand, trials), test) in stands.into_iter().zip(&mut trials).zip(tests) {
            let unexplained = stand.unexplained()?;
            if unexplained != 0 {
                eprintln!("{}: {unexplained} packets unexplained", test.name);
            }
            // whatever it was, it may have been in any trial of the set
            let own = trials.iter_mut().rev().take(per_set as usize);
            own.for_each(|trial| trial.unexplained = unexplained);
        }
    }
    let frame_len = args.frame_len;
    Ok(Report::new(frame_len, tests, &trials, &PAIRS, skipped))
}

/// A trial in which everybody had its CPU, or the last of some attempts, which then does not count.
fn sound(stand: &mut Stand<'_>, plan: &Plan) -> Result<Trial, Error> {
    let mut trial = stand.trial(plan)?;
    for _ in 1..ATTEMPTS {
        if trial.is_sound() {
            break;
        }
        trial = stand.trial(plan)?;
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
