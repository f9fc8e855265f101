//! Sends captured packets through the forwarding core.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_bench::replay::{Config, Decided, Error, Files, Replay, Time};
use sixferry_fwd::Verdict;
use sixferry_wire::{describe, ether};
use std::path::PathBuf;
use std::process::ExitCode;

/// Capture files through the forwarding core: pcap or pcapng in, pcap and counters out.
///
/// The same files and configuration give the same output, byte for byte.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Ports, routes and tunnels, as TOML
    #[arg(long, short)]
    config: PathBuf,
    /// Packets that a port receives; once per port
    #[arg(long = "in", short, value_name = "PORT=FILE", value_parser = port_file)]
    inputs: Vec<(String, PathBuf)>,
    /// Where packets that leave by a port are written; once per port
    #[arg(long = "out", short, value_name = "PORT=FILE", value_parser = port_file)]
    outputs: Vec<(String, PathBuf)>,
    /// Let so many nanoseconds pass from packet to packet instead of what the capture says
    #[arg(long, value_name = "NANOSECONDS")]
    step: Option<u64>,
    /// Print the counters as JSON
    #[arg(long)]
    json: bool,
    /// Print each packet and its verdict, on standard error
    #[arg(long, short)]
    verbose: bool,
}

fn port_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => {
            Ok((port.to_owned(), file.into()))
        }
        _ => Err("expected PORT=FILE".to_owned()),
    }
}

fn files(given: Vec<(String, PathBuf)>) -> Result<Files, String> {
    let mut files = Files::new();
    for (port, path) in given {
        if files.insert(port.clone(), path).is_some() {
            return Err(format!("port {port} has two files of the same direction"));
        }
    }
    Ok(files)
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sixferry-replay: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(&args.config)
        .map_err(|error| format!("{}: {error}", args.config.display()))?;
    let config = Config::parse(&text).map_err(Error::Config)?;
    let time = args.step.map_or(Time::Captured, Time::Step);
    let replay = Replay::open(&config, files(args.inputs)?, files(args.outputs)?, time)?;
    let report = replay.run(|decided| {
        if args.verbose {
            eprint!("{}", describe_decided(decided));
        }
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn describe_decided(decided: &Decided<'_>) -> String {
    let verdict = match decided.verdict {
        Verdict::Tx(port) => format!("forwarded by port {}", port.0),
        Verdict::Answer(port) => format!("answered by port {}", port.0),
        Verdict::Punt(reason) => format!("punted: {}", reason.text()),
        Verdict::Drop(reason) => format!("dropped: {} ({})", reason.name(), reason.text()),
    };
    // a frame says what it carries, a bare packet does not
    let skip = ether::parse(decided.bytes)
        .filter(|header| matches!(header.ether_type, ether::TYPE_IPV4 | ether::TYPE_IPV6))
        .map_or(0, |header| header.len);
    let packet = describe::packet(decided.bytes.get(skip..).unwrap_or(&[]));
    format!(
        "{} at {} ns from {}: {verdict}\n{packet}",
        decided.number, decided.now.0, decided.port
    )
}
