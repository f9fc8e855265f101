//! A packet generator and a sink for relays: tunnel packets and native ones, at a given rate, with time
//! tags that survive encapsulation.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use sixferry_bench::error::{Context, Error};
use sixferry_bench::pktgen::generator::{self, Choice};
use sixferry_bench::pktgen::role::Seat;
use sixferry_bench::pktgen::sizes::Sizes;
use sixferry_bench::pktgen::traffic::{Addresses, Encapsulation, TEREDO_PORT, Traffic};
use sixferry_bench::pktgen::{operate, sink};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

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
    },
    Sink {
        interface: String,
    },
}

#[derive(Args)]
struct Send {
    /// Where frames leave
    interface: String,
    /// Hardware address of the device under test
    #[arg(long, value_name = "MAC", value_parser = operate::mac)]
    to_mac: [u8; 6],
    /// Hardware address of the sender; by default the interface's
    #[arg(long, value_name = "MAC", value_parser = operate::mac)]
    from_mac: Option<[u8; 6]>,
    /// Frames a second, as in 250000, 500k or 1.5M; by default as many as go
    #[arg(long, value_parser = operate::rate)]
    rate: Option<u64>,
    /// Seconds; by default until --count frames are sent, or until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = operate::seconds)]
    duration: Option<Duration>,
    /// Frames
    #[arg(long)]
    count: Option<u64>,
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
    /// Put a time tag at the end of every so many frames; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    tag_every: u32,
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
    /// How to send
    #[arg(long, default_value = "auto")]
    mode: Choice,
    /// Stay on this CPU
    #[arg(long)]
    cpu: Option<usize>,
    /// Frames of one go: fewer leave more evenly and cost more
    #[arg(long, default_value_t = Traffic::default().batch)]
    batch: u32,
    /// Frames that are sent at once to catch up after the generator had no CPU
    #[arg(long, default_value_t = Traffic::default().catch_up)]
    catch_up: u32,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
    /// No line a second on standard error
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct SinkArgs {
    /// Where frames arrive
    interface: String,
    /// Seconds; by default until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = operate::seconds)]
    duration: Option<Duration>,
    /// End when so many frames have arrived; with --duration, fail when they have not
    #[arg(long)]
    count: Option<u64>,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
    /// No line a second on standard error
    #[arg(long)]
    quiet: bool,
}

impl Send {
    fn job(self) -> Result<operate::Send, Error> {
        let sizes = self.size.unwrap_or_else(|| {
            let tag = if self.tag_every > 0 { 12 } else { 0 };
            Sizes::one(self.encap.frame_min() + tag)
        });
        let source_mac = match self.from_mac {
            Some(mac) => mac,
            None => operate::interface_mac(&self.interface)?,
        };
        let traffic = Traffic {
            encapsulation: self.encap,
            flows: self.flows,
            sizes,
            tag_every: self.tag_every,
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
        };
        Ok(operate::Send {
            traffic,
            interface: self.interface,
            rate: self.rate,
            choice: self.mode,
            cpu: self.cpu,
            end: operate::End {
                duration: self.duration,
                count: self.count,
            },
            output: operate::Output {
                json: self.json,
                quiet: self.quiet,
            },
        })
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Send(send) => send.job().and_then(|job| operate::send(&job)),
        Verb::Sink(args) => operate::sink(&operate::SinkJob {
            interface: args.interface,
            end: operate::End {
                duration: args.duration,
                count: args.count,
            },
            output: operate::Output {
                json: args.json,
                quiet: args.quiet,
            },
        }),
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
        Part::Sink { interface } => sink::obey(&interface),
        Part::Generator {
            interface,
            traffic,
            cpu,
            nice,
        } => {
            let traffic: Traffic = serde_json::from_str(&traffic).during("--traffic")?;
            generator::obey(&interface, &traffic, Seat { cpu, nice })
        }
    }
}
