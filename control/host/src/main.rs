//! The Sixferry control plane's daemon.
//!
//! Runs the plugins that its configuration switches on, each watched and started again by itself, and
//! serves `sixferry.control.v1`. It knows users, not packets: the dataplanes are told by the
//! lifecycle.
#![forbid(unsafe_code)]

mod api;
mod config;
mod daemon;
mod holder;
mod metrics;
mod parts;
mod plugins;
mod reload;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{Checked, Config, Only};
use daemon::Start;
use sixferry_service::{Severity, chain, init_log};

/// A login is some hundred small objects, made by one thread and freed by another: a quarter of this
/// process's time went into glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of every set-up error.
const SETUP_ERROR: u8 = 2;

/// The Sixferry control plane: users, tunnels, and the services that give them.
#[derive(Debug, Parser)]
#[command(name = "sixferry-control", version)]
struct Args {
    /// Configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/sixferry/control.toml"
    )]
    config: PathBuf,
    /// Check the configuration against this host, print what was found, and exit.
    #[arg(long)]
    check: bool,
    /// Run this part alone; dtcp then asks the lifecycle at `[control] lifecycle`.
    #[arg(long, value_name = "NAME")]
    only: Option<Only>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (_, checked) = config::check_file(&args.config, args.only);
    if args.check {
        return print_check(&args, &checked);
    }
    let Some(config) = checked.config.clone() else {
        return refuse(&first_error(&checked));
    };
    let set_level = match init_log(&config.log) {
        Ok(set_level) => set_level,
        Err(error) => return refuse(&format!("cannot start logging: {error}")),
    };
    for finding in &checked.findings {
        tracing::warn!("{finding}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("cannot start threads: {error}")),
    };
    let start = Start {
        path: args.config,
        config,
        set_level,
    };
    match runtime.block_on(daemon::run(start)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&chain(&error)),
    }
}

fn refuse(line: &str) -> ExitCode {
    // Nobody reads a closed stderr; the exit code says enough.
    let _written = writeln!(std::io::stderr(), "sixferry-control: {line}");
    ExitCode::from(SETUP_ERROR)
}

/// The first error, and how to see the others.
fn first_error(checked: &Checked) -> String {
    let mut errors = checked.errors();
    let first = errors.next().map_or_else(String::new, ToString::to_string);
    match errors.count() {
        0 => first,
        more => format!("{first} (and {more} more; sixferry-control --check lists them)"),
    }
}

fn print_check(args: &Args, checked: &Checked) -> ExitCode {
    let mut out = std::io::stderr().lock();
    for finding in &checked.findings {
        let severity = match finding.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let _written = writeln!(out, "{severity}: {finding}");
    }
    match &checked.config {
        Some(config) => {
            let _written = writeln!(std::io::stdout(), "{}", summary(args, config));
            ExitCode::SUCCESS
        }
        None => ExitCode::from(SETUP_ERROR),
    }
}

fn summary(args: &Args, config: &Config) -> String {
    let mut runs = Vec::new();
    if config.runs_lifecycle() {
        let dataplanes = config.lifecycle.dataplanes.len();
        runs.push(format!("lifecycle with {dataplanes} dataplane(s)"));
    }
    if config.runs_dtcp().is_some() {
        runs.push("dtcp".to_owned());
    }
    format!("{}: fine ({})", args.config.display(), runs.join(", "))
}
