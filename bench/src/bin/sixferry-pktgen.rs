//! A packet generator and a sink for relays: tunnel packets and native ones, at a given rate, with time
//! tags that survive encapsulation.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use sixferry_bench::error::{Context, Error};
use sixferry_bench::pktgen::generator::{self, Choice};
use sixferry_bench::pktgen::role::Seat;
use sixferry_bench::pktgen::sizes::Sizes;
use sixferry_bench::pktgen::traffic::{Addresses, Encapsulation, TAG_LEN, TEREDO_PORT, Traffic};
use sixferry_bench::pktgen::{self, measure, operate};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

/// Frames between two with a time tag when delays are measured.
const TAG_EVERY: u32 = 16;

/// Sends test traffic to a relay, or counts what comes out of one. Needs root.
///
/// Exit code: 0 done; 1 the rate was not reached, or fewer frames arrived than expected; 2 an error.
#[derive(Parser)]
#[command(version, name = "sixferry-pktgen")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Send frames out of an interface
    Send(Box<Send>),
    /// Count and drop the generator's frames that arrive at an interface, and all others
    Sink(SinkArgs),
    /// Flat-out rate, loss-free rate and delays of what is between two interfaces of this host
    Measure(Box<Measure>),
    /// Take orders from standard input, for benches
    #[command(hide = true)]
    Obey {
        #[command(subcommand)]
        part: Part,
    },
}

#[derive(Subcommand)]
enum Part {
    Generator {
        interface: String,
        #[arg(long)]
        traffic: String,
        #[arg(long)]
        cpu: usize,
        #[arg(long, allow_hyphen_values = true)]
        nice: i32,
        #[arg(long)]
        mode: Choice,
    },
    Sink {
        interface: String,
    },
}

/// What to send; the same for all that sends.
#[derive(Args)]
struct Frames {
    /// Hardware address of the device under test
    #[arg(long, value_name = "MAC", value_parser = operate::mac)]
    to_mac: [u8; 6],
    /// Hardware address of the sender; by default the interface's
    #[arg(long, value_name = "MAC", value_parser = operate::mac)]
    from_mac: Option<[u8; 6]>,
    /// Frames a second, as in 250000, 500k or 1.5M; by default as many as go
    #[arg(long, value_parser = operate::rate)]
    rate: Option<u64>,
    /// What is around the IPv6 packets
    #[arg(long, value_name = "KIND", default_value = "6in4")]
    encap: Encapsulation,
    /// Tunnels that the frames belong to, in mixed order
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// Length of the frames without FCS, or a mix of LENGTH[:WEIGHT],..., or imix (102:7,570:4,1514:1);
    /// by default the shortest
    #[arg(long, value_name = "BYTES")]
    size: Option<Sizes>,
    /// IPv4 address of the relay: the outer destination
    #[arg(long, default_value_t = Addresses::default().relay)]
    relay: Ipv4Addr,
    /// UDP port of the relay
    #[arg(long, default_value_t = TEREDO_PORT)]
    relay_port: u16,
    /// Outer source of the first flow; the next flow has the next address
    #[arg(long, value_name = "IPV4", default_value_t = Addresses::default().first_peer)]
    first_peer: Ipv4Addr,
    /// UDP source port of all flows
    #[arg(long, default_value_t = Addresses::default().peer_port)]
    peer_port: u16,
    /// The /48 of the first flow: inner source, or destination of native packets; the next flow has the
    /// next /48. Not with 6to4 and Teredo, whose addresses hold the peer's
    #[arg(long, value_name = "IPV6", default_value_t = Addresses::default().first_prefix)]
    first_prefix: Ipv6Addr,
    /// The address on the native side: inner destination, or source of native packets
    #[arg(long, default_value_t = Addresses::default().native)]
    native: Ipv6Addr,
    /// Frames of one go: fewer leave more evenly and cost more
    #[arg(long, default_value_t = Traffic::default().batch)]
    batch: u32,
    /// Frames that are sent at once to catch up after the generator had no CPU
    #[arg(long, default_value_t = Traffic::default().catch_up)]
    catch_up: u32,
}

#[derive(Args)]
struct Show {
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
    /// No line a second on standard error
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct Until {
    /// Seconds; by default until --count frames, or until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = operate::seconds)]
    duration: Option<Duration>,
    /// Frames; a sink with --duration fails when fewer have arrived
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Args)]
struct Send {
    /// Where frames leave
    interface: String,
    #[command(flatten)]
    frames: Frames,
    #[command(flatten)]
    until: Until,
    /// Put a time tag at the end of every so many frames; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    tag_every: u32,
    /// How to send
    #[arg(long, default_value = "auto")]
    mode: Choice,
    /// Stay on this CPU
    #[arg(long)]
    cpu: Option<usize>,
    #[command(flatten)]
    show: Show,
}

#[derive(Args)]
struct Measure {
    /// Where frames leave
    generator: String,
    /// Where they arrive when the device has dealt with them
    sink: String,
    #[command(flatten)]
    frames: Frames,
    /// Seconds of each trial
    #[arg(long, value_name = "SECONDS", value_parser = operate::seconds, default_value = "2")]
    trial: Duration,
    /// How often to measure all
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Share of the frames that may be lost in the search for the loss-free rate
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// The generator's CPU
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    #[command(flatten)]
    show: Show,
}

#[derive(Args)]
struct SinkArgs {
    /// Where frames arrive
    interface: String,
    #[command(flatten)]
    until: Until,
    #[command(flatten)]
    show: Show,
}

impl From<Show> for operate::Output {
    fn from(Show { json, quiet }: Show) -> Self {
        Self { json, quiet }
    }
}

impl From<Until> for operate::End {
    fn from(Until { duration, count }: Until) -> Self {
        Self { duration, count }
    }
}

impl Frames {
    fn traffic(self, interface: &str, tag_every: u32) -> Result<Traffic, Error> {
        let source_mac = match self.from_mac {
            Some(mac) => mac,
            None => operate::interface_mac(interface)?,
        };
        Ok(Traffic {
            sizes: self.size.unwrap_or_else(|| {
                let tag = if tag_every > 0 { TAG_LEN } else { 0 };
                Sizes::one(self.encap.frame_min() + tag)
            }),
            encapsulation: self.encap,
            flows: self.flows,
            tag_every,
            catch_up: self.catch_up,
            batch: self.batch,
            addresses: Addresses {
                source_mac,
                destination_mac: self.to_mac,
                relay: self.relay,
                relay_port: self.relay_port,
                first_peer: self.first_peer,
                peer_port: self.peer_port,
                first_prefix: self.first_prefix,
                native: self.native,
            },
            routes: false,
        })
    }
}

fn send(args: Send) -> Result<bool, Error> {
    operate::send(&operate::Send {
        rate: args.frames.rate,
        traffic: args.frames.traffic(&args.interface, args.tag_every)?,
        interface: args.interface,
        choice: args.mode,
        cpu: args.cpu,
        end: args.until.into(),
        output: args.show.into(),
    })
}

fn measure(args: Measure) -> Result<bool, Error> {
    let rate = args.frames.rate;
    let traffic = args.frames.traffic(&args.generator, TAG_EVERY)?;
    traffic.check().during("the traffic")?;
    measure::run(&measure::Measure {
        traffic,
        generator: args.generator,
        sink: args.sink,
        rate,
        loss: args.loss,
        trial: args.trial,
        rounds: args.rounds,
        cpu: args.cpu,
        output: args.show.into(),
    })
}

fn sink(args: SinkArgs) -> Result<bool, Error> {
    operate::sink(&operate::SinkJob {
        interface: args.interface,
        end: args.until.into(),
        output: args.show.into(),
    })
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Send(args) => send(*args),
        Verb::Sink(args) => sink(args),
        Verb::Measure(args) => measure(*args),
        Verb::Obey { part } => obey(part).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sixferry-pktgen: {error}");
            ExitCode::from(2)
        }
    }
}

fn obey(part: Part) -> Result<(), Error> {
    match part {
        Part::Sink { interface } => pktgen::sink::obey(&interface),
        Part::Generator {
            interface,
            traffic,
            cpu,
            nice,
            mode,
        } => {
            let traffic: Traffic = serde_json::from_str(&traffic).during("--traffic")?;
            generator::obey(&interface, &traffic, Seat { cpu, nice }, mode)
        }
    }
}
