//! The Sixferry dataplane daemon.
//!
//! Owns the NIC's queues, the forwarding tables and the counters; serves `sixferry.dataplane.v1`
//! and follows the kernel over netlink. It knows packets, not users: everything it forwards was
//! programmed by the configuration file or over gRPC.
#![forbid(unsafe_code)]

mod affinity;
mod api;
mod config;
mod control;
mod convert;
mod daemon;
mod dataplane;
mod events;
mod host_port;
mod live;
mod liveness;
mod memory;
mod metrics;
mod netlink;
mod notify;
mod prober;
mod punt;
mod reload;
mod runtime;
mod sink;
mod state_file;
mod surroundings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{Config, LiveHost};
use daemon::Start;
use sixferry_service::{answer_check, chain, first_error, init_log, refuse};

/// Chunks of the tables are copied and freed all the time, between small objects that stay: an
/// allocator that mixes sizes ends with half of its memory in holes too small for a chunk.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What errors begin with.
const NAME: &str = "sixferryd";

/// The Sixferry dataplane: carries IPv6 across IPv4 through AF_XDP.
#[derive(Debug, Parser)]
#[command(name = "sixferryd", version)]
struct Args {
    /// Configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/sixferry/dataplane.toml"
    )]
    config: PathBuf,
    /// Check the configuration against this host, print what was found, and exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let kept = if args.check { Ok(()) } else { memory::keep() };
    let (text, checked) = config::check_file(&args.config, &LiveHost);
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
    if let Err(error) = kept {
        tracing::warn!(%error, "cannot start again with an allocator that keeps freed memory");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(NAME, &format!("cannot start threads: {error}")),
    };
    let start = Start {
        path: args.config,
        text,
        config,
        set_level,
    };
    match runtime.block_on(daemon::run(start)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(NAME, &chain(&error)),
    }
}

fn summary(args: &Args, config: &Config) -> String {
    format!(
        "{}: fine ({} port(s), {} static tunnel(s), {} static domain(s))",
        args.config.display(),
        config.ports.len(),
        config.tunnels.len(),
        config.domains.len()
    )
}
