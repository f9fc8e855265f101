//! Rates and delays of a device that stands between two interfaces of this host, whatever it is.

use super::generator::Choice;
use super::histogram::Delays;
use super::operate::{Output, print};
use super::pace::Pace;
use super::role::Seat;
use super::search::{Found, Search};
use super::stream::{Length, Stream, Tester};
use super::traffic::Traffic;
use super::{program, spawn_generator, spawn_sink};
use crate::environment::Environment;
use crate::error::{Context, Error};
use crate::statistics::{Summary, ratios};
use serde::Serialize;
use std::process::Command;
use std::time::Duration;

/// Bisections: to 1.6 % of the flat-out rate.
const STEPS: u32 = 7;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Measure {
    /// Frames leave here.
    pub generator: String,
    /// What the device makes of them arrives here.
    pub sink: String,
    /// The frames; some must have time tags.
    pub traffic: Traffic,
    /// The most that is offered, in frames a second.
    pub rate: Option<u64>,
    /// Share of the frames that may be lost in the search.
    pub loss: f64,
    /// How long a trial is.
    pub trial: Duration,
    /// How often all is measured.
    pub rounds: u32,
    /// The generator's CPU.
    pub cpu: usize,
    /// What to show.
    pub output: Output,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
struct Round {
    offered_mpps: f64,
    flat_out_mpps: f64,
    generator_share: f64,
    loss_free: Found,
    /// At half of the loss-free rate.
    half_mpps: f64,
    delays: Delays,
    duplicates: u64,
    reordered: u64,
}

#[derive(Serialize)]
struct Measured {
    environment: Environment,
    generator: String,
    sink: String,
    traffic: Traffic,
    flat_out_mpps: Summary,
    loss_free_mpps: Summary,
    loss_free_to_flat_out: Summary,
    /// In microseconds: p50, p99, p99.9, variation.
    delays: [Summary; 4],
    rounds: Vec<Round>,
}

/// Measures, and says whether anything came through.
///
/// # Errors
/// What does not start.
pub fn run(job: &Measure) -> Result<bool, Error> {
    let environment = Environment::now();
    let mut rounds = Vec::new();
    for number in 1..=job.rounds {
        let round = round(job)?;
        if !job.output.quiet {
            eprintln!(
                "[{number}/{}] {:.4} Mpps of {:.4}, without loss {:.4}; p50 {:.2} µs, p99.9 {:.2} µs at half",
                job.rounds,
                round.flat_out_mpps,
                round.offered_mpps,
                round.loss_free.mpps,
                round.delays.p50 / 1e3,
                round.delays.p999 / 1e3
            );
        }
        rounds.push(round);
    }
    let all = |pick: fn(&Round) -> f64| rounds.iter().map(pick).collect::<Vec<f64>>();
    let flat_out = all(|round| round.flat_out_mpps);
    let loss_free = all(|round| round.loss_free.mpps);
    let delays: [fn(&Round) -> f64; 4] = [
        |round| round.delays.p50 / 1e3,
        |round| round.delays.p99 / 1e3,
        |round| round.delays.p999 / 1e3,
        |round| round.delays.pdv / 1e3,
    ];
    let measured = Measured {
        environment,
        generator: job.generator.clone(),
        sink: job.sink.clone(),
        traffic: job.traffic.clone(),
        flat_out_mpps: Summary::of(&flat_out),
        loss_free_mpps: Summary::of(&loss_free),
        loss_free_to_flat_out: Summary::of(&ratios(&loss_free, &flat_out)),
        delays: delays.map(|pick| Summary::of(&all(pick))),
        rounds: rounds.clone(),
    };
    print(job.output, &measured, || text(&measured))?;
    Ok(flat_out.iter().all(|mpps| *mpps > 0.0))
}

fn text(measured: &Measured) -> String {
    let mut lines = vec![format!(
        "{:<28} {:>9} {:>9} {:>9}",
        "", "median", "q1", "q3"
    )];
    let [p50, p99, p999, pdv] = measured.delays;
    for (name, value) in [
        ("flat out, Mpps", measured.flat_out_mpps),
        ("without loss, Mpps", measured.loss_free_mpps),
        ("without loss / flat out", measured.loss_free_to_flat_out),
        ("delay p50, µs", p50),
        ("delay p99, µs", p99),
        ("delay p99.9, µs", p999),
        ("delay variation, µs", pdv),
    ] {
        lines.push(format!(
            "{name:<28} {:>9.4} {:>9.4} {:>9.4}",
            value.median, value.lower_quartile, value.upper_quartile
        ));
    }
    lines.join("\n")
}

fn round(job: &Measure) -> Result<Round, Error> {
    let program = program()?;
    let seat = Seat {
        cpu: job.cpu,
        nice: super::role::FIRST_IN_LINE,
    };
    let sink = spawn_sink(&mut Command::new(&program), &job.sink, seat.nice)?;
    let mut generator = Command::new(&program);
    let generator = spawn_generator(
        &mut generator,
        &job.generator,
        &job.traffic,
        seat,
        Choice::Xdp,
    )?;
    let mut tester = Tester {
        generator,
        sink,
        worker: None,
    };
    let mut send = |pace| {
        tester.run(&Stream {
            pace,
            length: Length::Time(job.trial),
        })
    };
    let flat_out = send(job.rate.map_or(Pace::Full, Pace::PerSecond))?;
    if flat_out.received == 0 {
        let action = format!("{} frames from {}", flat_out.sent, job.generator);
        return Err(format!("none arrived at {}", job.sink)).during(action);
    }
    let top = flat_out.received_mpps();
    let search = Search {
        trial: job.trial,
        steps: STEPS,
        loss: job.loss,
    };
    let loss_free = tester.search(&search, top, top * 0.99)?;
    let half_mpps = loss_free.mpps.max(top * 0.1) / 2.0;
    let half = tester.run(&Stream {
        pace: Pace::mpps(half_mpps),
        length: Length::Time(job.trial),
    })?;
    Ok(Round {
        offered_mpps: flat_out.offered_mpps(),
        flat_out_mpps: top,
        generator_share: flat_out.generator_share,
        loss_free,
        half_mpps,
        delays: half.delays,
        duplicates: half.duplicates,
        reordered: half.reordered,
    })
}
