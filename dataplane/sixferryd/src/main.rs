//! The Sixferry dataplane daemon.
//!
//! Owns the NIC's queues, the forwarding tables and the counters; serves `sixferry.dataplane.v1`
//! and follows the kernel over netlink. It knows packets, not users: everything it forwards was
//! programmed by the configuration file or over gRPC.
#![forbid(unsafe_code)]

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

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{Checked, Config, LiveHost, Severity};
use daemon::Start;
use sixferry_service::{chain, init_log};

/// Chunks of the tables are copied and freed all the time, between small objects that stay: an
/// allocator that mixes sizes ends with half of its memory in holes too small for a chunk.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of every set-up error.
const SETUP_ERROR: u8 = 2;

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
    let (text, checked) = config::check_file(&args.config, &LiveHost);
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
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("cannot start threads: {error}")),
    };
    let start = Start {
        path: args.config,
        text,
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
    let _written = writeln!(std::io::stderr(), "sixferryd: {line}");
    ExitCode::from(SETUP_ERROR)
}

/// The first error, and how to see the others.
fn first_error(checked: &Checked) -> String {
    let mut errors = checked.errors();
    let first = errors.next().map_or_else(String::new, ToString::to_string);
    match errors.count() {
        0 => first,
        more => format!("{first} (and {more} more; sixferryd --check lists them)"),
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
    format!(
        "{}: fine ({} port(s), {} static tunnel(s), {} static domain(s))",
        args.config.display(),
        config.ports.len(),
        config.tunnels.len(),
        config.domains.len()
    )
}
