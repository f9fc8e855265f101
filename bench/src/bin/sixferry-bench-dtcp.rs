//! The DTCP service with thousands of users: idle sessions, logins a second, everybody at once.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand, ValueEnum};
use parking_lot::Mutex;
use sixferry_bench::dtcp::daemons::Setup;
use sixferry_bench::dtcp::lab::{self, Postgres};
use sixferry_bench::dtcp::report::Report;
use sixferry_bench::dtcp::usage::{self, Machine};
use sixferry_bench::dtcp::{CLIENTS_MAX, churn, idle, logins, swarm};
use sixferry_bench::e2e::{Context, Error};
use sixferry_postgres::Cluster;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Sessions of `sixferryd`, `sixferry-control` and thousands of clients. Needs root; everything stays
/// in namespaces of its own.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    bench: Bench,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Logged-in sessions that ping once a minute
    Idle,
    /// Logins a second, each with its logout
    Logins,
    /// All sessions cut at once, and all users back at once
    Churn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Store {
    Sqlite,
    Postgres,
}

#[derive(Args)]
struct Bench {
    /// Run only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the control plane keeps everything
    #[arg(long, default_value = "sqlite")]
    store: Store,
    /// Rounds of each part; the report has their medians
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Sessions that are idle
    #[arg(long, default_value_t = 15_000)]
    idle_sessions: u32,
    /// Seconds of idleness
    #[arg(long, default_value_t = 60.0)]
    idle_seconds: f64,
    /// Seconds between two pings of an idle session
    #[arg(long, default_value_t = 60.0)]
    ping_period: f64,
    /// Clients that log in and quit all the time; one measurement each
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024")]
    clients: Vec<usize>,
    /// Users who take turns at that
    #[arg(long, default_value_t = 15_000)]
    login_users: u32,
    /// Seconds of logins
    #[arg(long, default_value_t = 10.0)]
    login_seconds: f64,
    /// Sessions that go and come all at once
    #[arg(long, default_value_t = 10_000)]
    churn_sessions: u32,
    /// Most sessions of one process of clients
    #[arg(long, default_value_t = 15_000)]
    per_process: u32,
    /// `net.core.somaxconn` of the relay's namespace: connections that may wait to be accepted
    #[arg(long, default_value_t = 16_384)]
    somaxconn: u32,
    /// `sixferryd`; by default the one beside this program
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// `sixferry-control`; by default the one beside this program
    #[arg(long)]
    control: Option<PathBuf>,
    /// Where the figures go, as JSON
    #[arg(long, default_value = "target/bench/dtcp.json")]
    json: PathBuf,
}

/// The processes with clients, which the bench starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Swarm { first: u32, count: u32 },
}

/// Seconds of logins until anything counts.
const WARM_UP: f64 = 2.0;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        Some(Role::Swarm { first, count }) => swarm::run(first, count).map(|()| true),
        None => bench(&cli.bench),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sixferry-bench-dtcp: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether everybody was served, however fast.
fn bench(args: &Bench) -> Result<bool, Error> {
    let most = [args.idle_sessions, args.login_users, args.churn_sessions];
    if most.iter().any(|users| !(1..=CLIENTS_MAX).contains(users)) {
        return Err(format!("1 to {CLIENTS_MAX} users")).during("arguments");
    }
    let clients = args.clients.iter().max().copied().unwrap_or(0);
    if clients * 2 > args.login_users as usize {
        let text = "--login-users: at least two for each client, or one replaces the other";
        return Err(text).during("arguments");
    }
    let postgres: Postgres = Arc::new(Mutex::new(None));
    lab::clean_up_when_interrupted(postgres.clone())?;
    // its threads end with the one that starts it
    if args.store == Store::Postgres {
        *postgres.lock() = Some(Cluster::start().during("PostgreSQL")?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .during("a runtime")?;
    let report = runtime.block_on(measure(args, &postgres));
    drop(postgres.lock().take());
    let report = report?;
    print!("{report}");
    if let Some(directory) = args.json.parent() {
        std::fs::create_dir_all(directory).during(directory.display().to_string())?;
    }
    let text = serde_json::to_vec_pretty(&report).during("the report")?;
    std::fs::write(&args.json, text).during(args.json.display().to_string())?;
    Ok(report.is_clean())
}

async fn measure(args: &Bench, postgres: &Postgres) -> Result<Report, Error> {
    let programs = Programs::new(args, postgres)?;
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut report = Report {
        machine: Machine::here(lab::directory()?.path())?,
        store: match args.store {
            Store::Sqlite => "sqlite",
            Store::Postgres => "postgres",
        },
        load_before: usage::load(),
        idle: Vec::new(),
        logins: Vec::new(),
        churn: None,
    };
    if wanted(Part::Idle) {
        let plan = idle::Plan {
            sessions: args.idle_sessions,
            seconds: args.idle_seconds,
            period: args.ping_period,
            per_swarm: args.per_process,
        };
        for round in 0..args.rounds {
            let setup = programs.setup(&format!("idle{round}"))?;
            let idle = idle::run(&setup, &plan).await?;
            eprint!("{idle}");
            report.idle.push(idle);
        }
    }
    if wanted(Part::Logins) {
        let plan = logins::Plan {
            clients: args.clients.clone(),
            users: args.login_users,
            warm_up: WARM_UP,
            seconds: args.login_seconds,
            rounds: args.rounds,
            store: postgres.lock().as_ref().and_then(Cluster::process),
        };
        report.logins = logins::run(&programs.setup("logins")?, &plan).await?;
    }
    if wanted(Part::Churn) {
        let plan = churn::Plan {
            sessions: args.churn_sessions,
            rounds: args.rounds,
            per_swarm: args.per_process,
        };
        report.churn = Some(churn::run(&programs.setup("churn")?, &plan).await?);
    }
    Ok(report)
}

/// What is started, and an empty store for each start.
struct Programs {
    dataplane: PathBuf,
    control: PathBuf,
    somaxconn: u32,
    postgres: Postgres,
}

impl Programs {
    fn new(args: &Bench, postgres: &Postgres) -> Result<Self, Error> {
        Ok(Self {
            dataplane: program(args.daemon.as_ref(), "sixferryd")?,
            control: program(args.control.as_ref(), "sixferry-control")?,
            somaxconn: args.somaxconn,
            postgres: postgres.clone(),
        })
    }

    fn setup(&self, name: &str) -> Result<Setup, Error> {
        let cluster = self.postgres.lock();
        let schema = cluster.as_ref().map(|cluster| cluster.create_schema(name));
        Ok(Setup {
            dataplane: self.dataplane.clone(),
            control: self.control.clone(),
            somaxconn: self.somaxconn,
            store: schema.transpose().during("a schema")?,
        })
    }
}

fn program(given: Option<&PathBuf>, name: &str) -> Result<PathBuf, Error> {
    let path = match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .during("this program's path")?
            .with_file_name(name),
    };
    if path.exists() {
        return Ok(path);
    }
    let fix = "not there; fix: cargo build --release -p sixferryd -p sixferry-control";
    Err(fix).during(path.display().to_string())
}
