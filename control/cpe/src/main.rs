//! `sixferry-cpe`: the user's end of a tunnel.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};
use sixferry_cpe::Error;
use sixferry_cpe::counters::Snapshot;
use sixferry_cpe::dtcp::machine::Outcome;
use sixferry_cpe::dtcp::options::Options;
use sixferry_cpe::netlink::{Netlink, Plan, link_local};
use sixferry_cpe::tunnel::peers::Peers;
use sixferry_cpe::tunnel::{Config, Encap, Keepalive, MIN_MTU, Tunnel};
use sixferry_wire::embed::{Embedding, SIX_TO_FOUR_ANYCAST};
use tokio::signal::unix::{SignalKind, signal};

/// DTCP: the server refused, was not reached, or a NAT is in the way.
const EXIT_REFUSED: u8 = 1;
/// Set-up errors, like those of the other programs of the project.
const EXIT_SETUP: u8 = 2;

/// The user's end of a Sixferry tunnel.
#[derive(Parser, Debug)]
#[command(name = "sixferry-cpe", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// All of them run until SIGINT or SIGTERM and take the device away again. SIGUSR1 prints the
/// counters.
#[derive(Subcommand, Debug)]
enum Command {
    #[command(flatten)]
    Configured(Configured),
    /// A tunnel from a DTCP server, for a user with a name and a password.
    Dtcp(Box<Options>),
}

/// Tunnels whose ends are known beforehand.
#[derive(Subcommand, Debug)]
enum Configured {
    /// A configured 6in4 tunnel (RFC 4213).
    #[command(name = "6in4")]
    SixInFour(SixInFourArgs),
    /// A configured tunnel in UDP, which passes NAT.
    Udp(UdpArgs),
    /// A 6to4 site (RFC 3056): its prefix is 2002: and the IPv4 address.
    #[command(name = "6to4")]
    SixToFour(SixToFourArgs),
    /// A 6rd customer edge (RFC 5969): its prefix is the provider's and the IPv4 address.
    #[command(name = "6rd")]
    SixRd(SixRdArgs),
}

#[derive(Args, Debug)]
struct SixInFourArgs {
    /// IPv4 address of this host that the relay knows.
    #[arg(long)]
    local: Ipv4Addr,
    /// IPv4 address of the relay.
    #[arg(long)]
    remote: Ipv4Addr,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct UdpArgs {
    /// IPv4 address of this host; behind NAT the one it has there.
    #[arg(long)]
    local: Ipv4Addr,
    /// UDP port of this host; 0: the kernel chooses.
    #[arg(long, default_value_t = 0)]
    local_port: u16,
    /// IPv4 address and port of the relay.
    #[arg(long, value_name = "ADDRESS:PORT")]
    remote: SocketAddrV4,
    /// Send no empty datagram every 20 to 25 s: there is no NAT.
    #[arg(long)]
    no_keepalive: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct SixToFourArgs {
    /// IPv4 address of this host: a global one.
    #[arg(long)]
    local: Ipv4Addr,
    /// IPv4 address of the relay to the rest of the world.
    #[arg(long, default_value_t = Ipv4Addr::from(SIX_TO_FOUR_ANYCAST))]
    remote: Ipv4Addr,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct SixRdArgs {
    /// IPv4 address of this host.
    #[arg(long)]
    local: Ipv4Addr,
    /// IPv4 address of the border relay.
    #[arg(long)]
    remote: Ipv4Addr,
    /// The 6rd prefix of the provider.
    #[arg(long, value_name = "PREFIX")]
    prefix: Ipv6Net,
    /// The leading bits all IPv4 addresses of the provider share.
    #[arg(long, value_name = "PREFIX", default_value = "0.0.0.0/0")]
    v4_common: Ipv4Net,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct CommonArgs {
    /// IPv6 address of this end with its on-link prefix length; may be repeated. [default with
    /// 6to4 and 6rd: the first of the delegated prefix]
    #[arg(long = "address", value_name = "ADDRESS/LEN")]
    addresses: Vec<Ipv6Net>,
    /// What to send into the tunnel: `default` or a prefix; may be repeated.
    #[arg(long = "route", value_name = "PREFIX", value_parser = parse_route)]
    routes: Vec<Ipv6Net>,
    /// Delegated prefix: parts of it that are not in use become unreachable here; may be
    /// repeated. [default with 6to4 and 6rd: what follows from --local]
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
    let command = Cli::parse().command;
    let level = match &command {
        Command::Dtcp(options) if options.debug => "debug",
        _ => "info",
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level)),
        )
        .init();
    match perform(command).await {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be listening; the exit code says it too.
            let _ = writeln!(std::io::stderr(), "sixferry-cpe: {error}");
            ExitCode::from(EXIT_SETUP)
        }
    }
}

async fn perform(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Dtcp(options) => Ok(match sixferry_cpe::dtcp::serve(*options).await? {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Failed => ExitCode::from(EXIT_REFUSED),
            Outcome::Setup => ExitCode::from(EXIT_SETUP),
        }),
        Command::Configured(command) => {
            let (encap, local, args) = plan(command)?;
            carry(encap, local, args).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What the command means: the encapsulation, our address, and what all have in common.
fn plan(command: Configured) -> Result<(Encap, Ipv4Addr, CommonArgs), Error> {
    let (encap, local, mut args) = match command {
        Configured::SixInFour(a) => (Encap::Proto41(Peers::Relay(a.remote)), a.local, a.common),
        Configured::Udp(a) => {
            let encap = Encap::Udp {
                local_port: a.local_port,
                relay: a.remote,
                keepalive: if a.no_keepalive {
                    Keepalive::Off
                } else {
                    Keepalive::Empty
                },
            };
            (encap, a.local, a.common)
        }
        Configured::SixToFour(a) => {
            let peers = Peers::SixToFour {
                local: a.local,
                relay: a.remote,
            };
            let common = embedded(a.common, Embedding::SIX_TO_FOUR, a.local)?;
            (Encap::Proto41(peers), a.local, common)
        }
        Configured::SixRd(a) => {
            let (prefix, v4) = (a.prefix, a.v4_common);
            let embedding = Embedding::new(
                prefix.addr().into(),
                prefix.prefix_len(),
                v4.addr().into(),
                v4.prefix_len(),
            );
            let embedding = embedding.ok_or_else(|| {
                Error::Config(format!(
                    "{prefix} and {v4} make no 6rd domain: no host bits, and a delegated prefix \
                     of at most 64 bits"
                ))
            })?;
            let peers = Peers::SixRd {
                embedding,
                local: a.local,
                br: a.remote,
            };
            let common = embedded(a.common, embedding, a.local)?;
            (Encap::Proto41(peers), a.local, common)
        }
    };
    if args.addresses.is_empty() {
        return Err(Error::Config(
            "--address is missing: the IPv6 address of this end".to_owned(),
        ));
    }
    args.addresses.dedup();
    Ok((encap, local, args))
}

/// Address and delegated prefix follow from the IPv4 address unless they are given.
fn embedded(
    mut args: CommonArgs,
    embedding: Embedding,
    local: Ipv4Addr,
) -> Result<CommonArgs, Error> {
    let outside = || Error::Config(format!("{local} is not in the domain: see --v4-common"));
    let prefix = embedding.delegated(local.into()).ok_or_else(outside)?;
    let wrong = |e: ipnet::PrefixLenError| Error::Config(e.to_string());
    if args.delegated.is_empty() {
        let net = Ipv6Net::new(prefix.into(), embedding.delegated_len());
        args.delegated.push(net.map_err(wrong)?);
    }
    if args.addresses.is_empty() {
        let net = Ipv6Net::new(Ipv6Addr::from(prefix | 1), 64);
        args.addresses.push(net.map_err(wrong)?);
    }
    Ok(args)
}

async fn carry(encap: Encap, local: Ipv4Addr, args: CommonArgs) -> Result<(), Error> {
    // Handlers first: a stop that arrives during set-up must not leave routes behind.
    let mut signals = Signals::install()?;
    let own = args.addresses.iter().map(Ipv6Net::addr);
    let tunnel = Tunnel::open(Config {
        encap,
        local,
        mtu: args.mtu,
        dont_fragment: args.df,
        device: args.dev.clone(),
        own: own.chain([link_local(local)]).collect(),
    })?;
    let plan = Plan {
        addresses: args.addresses.clone(),
        routes: args.routes.clone(),
        delegated: args.delegated.clone(),
        ..Plan::default()
    };
    let netlink = Netlink::connect()?;
    if let Err(error) = netlink.apply(tunnel.device_index(), local, &plan).await {
        // The device goes by itself; the error to show is the first one.
        let _ = netlink.withdraw(&plan).await;
        return Err(error);
    }
    let endpoint = tunnel.local_endpoint();
    let end = endpoint.map_or_else(|| local.to_string(), |e| e.to_string());
    tracing::info!(
        device = tunnel.device(),
        local = end,
        ?encap,
        mtu = args.mtu,
        "tunnel is up"
    );
    announce(&args, tunnel.device())?;
    let result = serve(&args, &tunnel, &mut signals).await;
    print_counters(&tunnel.snapshot(), args.json);
    let withdrawn = netlink.withdraw(&plan).await;
    result.and(withdrawn)
}

/// Carries packets until a signal to stop, or until something breaks.
async fn serve(args: &CommonArgs, tunnel: &Tunnel, signals: &mut Signals) -> Result<(), Error> {
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

fn announce(args: &CommonArgs, device: &str) -> Result<(), Error> {
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
