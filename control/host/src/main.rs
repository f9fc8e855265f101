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

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{Config, Only};
use daemon::Start;
use sixferry_service::{answer_check, chain, first_error, init_log, refuse};

/// A login is some hundred small objects, made by one thread and freed by another: a quarter of this
/// process's time went into glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What errors begin with.
const NAME: &str = "sixferry-control";

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
        let summary = checked.config.as_ref().map(|c| summary(&args, c));
        return answer_check(&checked.findings, summary);
    }
    let Some(config) = checked.config.clone() else {
        return refuse(NAME, &first_error(NAME, checked.errors()));
    };
    let set_level = match init_log(&config.log) {
        Ok(set_level) => set_level,
        Err(error) => return refuse(NAME, &format!("cannot start logging: {error}")),
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
        Err(error) => return refuse(NAME, &format!("cannot start threads: {error}")),
    };
    let start = Start {
        path: args.config,
        config,
        set_level,
    };
    match runtime.block_on(daemon::run(start)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(NAME, &chain(&error)),
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
