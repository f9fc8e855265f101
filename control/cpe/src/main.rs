//! `sixferry-cpe`: the user's end of a tunnel.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{IsTerminal, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::Ipv6Net;
use sixferry_cpe::Error;
use sixferry_cpe::counters::Snapshot;
use sixferry_cpe::netlink::{Netlink, Plan, link_local};
use sixferry_cpe::tunnel::{Config, MIN_MTU, SixInFour};
use tokio::signal::unix::{SignalKind, signal};

/// Set-up errors, like those of the other programs of the project.
const EXIT_SETUP: u8 = 2;

/// The user's end of a Sixferry tunnel.
#[derive(Parser, Debug)]
#[command(name = "sixferry-cpe", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// A configured 6in4 tunnel (RFC 4213) over a TUN device.
    ///
    /// Runs until SIGINT or SIGTERM and takes the device away again. SIGUSR1 prints the
    /// counters.
    #[command(name = "6in4")]
    SixInFour(SixInFourArgs),
}

#[derive(Args, Debug)]
struct SixInFourArgs {
    /// IPv4 address of this host that the relay knows.
    #[arg(long)]
    local: Ipv4Addr,
    /// IPv4 address of the relay.
    #[arg(long)]
    remote: Ipv4Addr,
    /// IPv6 address of this end with its on-link prefix length; may be repeated.
    #[arg(long = "address", value_name = "ADDRESS/LEN", required = true)]
    addresses: Vec<Ipv6Net>,
    /// What to send into the tunnel: `default` or a prefix; may be repeated.
    #[arg(long = "route", value_name = "PREFIX", value_parser = parse_route)]
    routes: Vec<Ipv6Net>,
    /// Delegated prefix: parts of it that are not in use become unreachable here; may be
    /// repeated.
    #[arg(long = "delegated", value_name = "PREFIX")]
    delegated: Vec<Ipv6Net>,
    /// Inner MTU; both ends must agree.
    #[arg(long, default_value_t = MIN_MTU)]
    mtu: u16,
    /// Set DF on outer packets (for networks that are known to carry MTU + 20).
    #[arg(long)]
    df: bool,
    /// Name of the TUN device; by default the kernel chooses one.
    #[arg(long, value_name = "NAME")]
    dev: Option<String>,
    /// File that is written (with the device's name) once packets flow.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Print the counters this often.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    stats_interval: Option<u64>,
    /// Print counters as one line of JSON each.
    #[arg(long)]
    json: bool,
}

fn parse_route(text: &str) -> Result<Ipv6Net, String> {
    let text = if text == "default" { "::/0" } else { text };
    text.parse()
        .map_err(|_| format!("`{text}` is neither `default` nor an IPv6 prefix"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let Command::SixInFour(args) = Cli::parse().command;
    match six_in_four(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be listening; the exit code says it too.
            let _ = writeln!(std::io::stderr(), "sixferry-cpe: {error}");
            ExitCode::from(EXIT_SETUP)
        }
    }
}

async fn six_in_four(args: &SixInFourArgs) -> Result<(), Error> {
    // Handlers first: a stop that arrives during set-up must not leave routes behind.
    let mut signals = Signals::install()?;
    let tunnel = SixInFour::open(Config {
        local: args.local,
        remote: args.remote,
        mtu: args.mtu,
        dont_fragment: args.df,
        device: args.dev.clone(),
        own: args
            .addresses
            .iter()
            .map(Ipv6Net::addr)
            .chain([link_local(args.local)])
            .collect(),
    })?;
    let plan = Plan {
        addresses: args.addresses.clone(),
        routes: args.routes.clone(),
        delegated: args.delegated.clone(),
    };
    let netlink = Netlink::connect()?;
    if let Err(error) = netlink
        .apply(tunnel.device_index(), args.local, &plan)
        .await
    {
        // The device goes by itself; the error to show is the first one.
        let _ = netlink.withdraw(&plan).await;
        return Err(error);
    }
    tracing::info!(
        device = tunnel.device(), local = %args.local, remote = %args.remote, mtu = args.mtu,
        "tunnel is up"
    );
    announce(args, tunnel.device())?;
    let result = serve(args, &tunnel, &mut signals).await;
    print_counters(&tunnel.snapshot(), args.json);
    let withdrawn = netlink.withdraw(&plan).await;
    result.and(withdrawn)
}

/// Carries packets until a signal to stop, or until something breaks.
async fn serve(
    args: &SixInFourArgs,
    tunnel: &SixInFour,
    signals: &mut Signals,
) -> Result<(), Error> {
    let interval = args
        .stats_interval
        .map_or(Duration::MAX, Duration::from_secs);
    let running = tunnel.run();
    tokio::pin!(running);
    let mut next = tokio::time::Instant::now().checked_add(interval);
    loop {
        let tick = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            broken = &mut running => return broken.map(|never| match never {}),
            event = signals.next() => match event {
                Event::Stop => return Ok(()),
                Event::Report => print_counters(&tunnel.snapshot(), args.json),
            },
            () = tick => {
                print_counters(&tunnel.snapshot(), args.json);
                next = tokio::time::Instant::now().checked_add(interval);
            }
        }
    }
}

fn announce(args: &SixInFourArgs, device: &str) -> Result<(), Error> {
    if let Some(path) = &args.ready_file {
        fs::write(path, format!("{device}\n")).map_err(|e| {
            Error::Config(format!(
                "cannot write the ready file {}: {e}",
                path.display()
            ))
        })?;
    }
    Ok(())
}

fn print_counters(snapshot: &Snapshot, json: bool) {
    let line = if json {
        serde_json::to_string(snapshot).unwrap_or_default()
    } else {
        snapshot.to_string()
    };
    // Nobody may be listening any more; that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{line}");
}

enum Event {
    Stop,
    Report,
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    report: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Self, Error> {
        let install = |kind| {
            signal(kind).map_err(|e| Error::Config(format!("cannot install a handler: {e}")))
        };
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            report: install(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.report.recv() => Event::Report,
        }
    }
}
