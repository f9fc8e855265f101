//! What the flat-out rates do not say: the loss-free rate, the delay at half the rate and the round trip
//! when idle, each of the relay and of the reference worker in the same round.

use super::controller::Load;
use super::device::{Device, Running};
use super::lab::{ECHO, Lab, Place};
use super::trial::{self, Plan, SHARE_MIN};
use super::{Context, Error};
use crate::pktgen::histogram::Delays;
use crate::pktgen::pace::Pace;
use crate::pktgen::search::{ATTEMPTS, Search};
use crate::pktgen::sizes::Sizes;
use crate::pktgen::stream::{Length, Outcome, Stream, Tester};
use crate::pktgen::traffic::{Addresses, TAG_LEN, Traffic};
use crate::statistics::{Summary, ratios};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Steps of the search for the loss-free rate, from 0.99 of the flat-out rate on.
const STEPS: u32 = 6;
/// The search goes so far beyond the flat-out rate: what is dropped costs time too.
const BEYOND: f64 = 1.1;
/// Frames a second of an idle device: each has left before the next comes.
const IDLE: u64 = 10_000;
/// Streams of which the quietest counts where delays are measured. On a shared machine a CPU stands still for
/// a millisecond or two several times a second: short streams, and many, meet a moment without.
const QUIETEST_OF: usize = 15;
/// The part of a window that such a stream takes.
const QUIET_PART: u32 = 8;
/// Each so many frames one is tagged where the rate counts.
const TAG_EVERY: u32 = 16;
/// Frames of one go: a tagged frame must not wait for the rest of its batch.
const BATCH: u32 = 4;
/// A generator that was away must not come back with a burst that is a delay of its own.
const CATCH_UP: u32 = 64;

/// The loss-free rate and the delays through one device.
#[derive(Clone, Debug, Serialize)]
pub struct Through {
    /// Million frames a second that get through when more come than can.
    pub flat_out_mpps: f64,
    /// The highest rate without loss; 0: there was none.
    pub loss_free_mpps: f64,
    /// The share of the rates that failed: (rate, frames lost).
    pub failed: Vec<(f64, i64)>,
    /// At the rate of [`Round::half_mpps`].
    pub delays: Delays,
    /// The shares of their CPUs that generator and worker had flat out and meanwhile: the lowest.
    pub share: f64,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// The rate at which delays are measured: half of the slower one's flat-out rate.
    pub half_mpps: f64,
    /// The reference worker.
    pub reference: Through,
    /// The relay.
    pub relay: Through,
    /// Round trips, idle: the reference worker.
    pub reference_echo: Delays,
    /// Round trips, idle: the relay, tunnel in and native packet out by the same port.
    pub relay_echo: Delays,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    frame_len: usize,
    rounds: Vec<Round>,
    /// Rounds in which somebody lacked CPU time in spite of repetition: they count in no figure.
    rejected: usize,
    /// Loss-free rate / flat-out rate of the relay.
    loss_free: Summary,
    /// The same of the reference worker.
    reference_loss_free: Summary,
    /// Loss-free rate of the relay / that of the reference worker.
    loss_free_to_reference: Summary,
    /// Delays of the relay / those of the reference worker: p50, p99, p99.9.
    delay_ratios: [Summary; 3],
    /// Idle round trips likewise: p50, p99.
    echo_ratios: [Summary; 2],
    /// In microseconds: relay's p50, p99, p99.9; the reference's.
    delays: [[Summary; 3]; 2],
    /// In microseconds: relay's p50, p99; the reference's.
    echoes: [[Summary; 2]; 2],
}

impl Round {
    /// Measures one.
    ///
    /// # Errors
    /// What does not start.
    pub fn run(lab: &Lab, plan: &Plan) -> Result<Self, Error> {
        let devices = [
            Device::Reference("decap"),
            Device::Daemon(Load::SixInFour(1)),
        ];
        let [mut reference, mut relay] =
            [rates(lab, devices[0], plan)?, rates(lab, devices[1], plan)?];
        let half_mpps = reference.flat_out_mpps.min(relay.flat_out_mpps) / 2.0;
        for (through, device) in [&mut reference, &mut relay].into_iter().zip(devices) {
            let mut bench = Bench::start(lab, device, plan, &at_half(plan), "sink0")?;
            let outcome = bench.quietest(Pace::mpps(half_mpps), plan.window / QUIET_PART)?;
            through.share = through.share.min(share(&outcome));
            through.delays = outcome.delays;
        }
        let echo = |device| -> Result<Delays, Error> {
            let mut bench = Bench::start(lab, device, plan, &idle(plan), "gen0")?;
            let outcome = bench.quietest(Pace::PerSecond(IDLE), plan.window / QUIET_PART)?;
            if outcome.delays.count < outcome.sent / 2 {
                return Err("frames do not come back").during("the echo");
            }
            Ok(outcome.delays)
        };
        Ok(Self {
            half_mpps,
            reference,
            relay,
            reference_echo: echo(Device::Reference("echo"))?,
            relay_echo: echo(devices[1])?,
        })
    }

    /// Whether generator and workers had their CPUs.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.reference.share.min(self.relay.share) >= SHARE_MIN
    }
}

/// The lower one of the shares of their CPUs that generator and worker had.
const fn share(outcome: &Outcome) -> f64 {
    outcome.generator_share.min(outcome.worker_share)
}

fn at_half(plan: &Plan) -> Traffic {
    Traffic {
        sizes: Sizes::one(plan.frame_len + TAG_LEN),
        tag_every: TAG_EVERY,
        batch: BATCH,
        catch_up: CATCH_UP,
        ..Traffic::default()
    }
}

fn idle(plan: &Plan) -> Traffic {
    Traffic {
        tag_every: 1,
        batch: 1,
        catch_up: 1,
        addresses: Addresses {
            native: ECHO,
            ..Addresses::default()
        },
        ..at_half(plan)
    }
}

fn rates(lab: &Lab, device: Device, plan: &Plan) -> Result<Through, Error> {
    let traffic = Traffic {
        sizes: Sizes::one(plan.frame_len),
        ..Traffic::default()
    };
    let mut bench = Bench::start(lab, device, plan, &traffic, "sink0")?;
    let outcome = bench.sound(Pace::Full, plan.window)?;
    let flat_out = outcome.received_mpps();
    let search = Search {
        trial: plan.window / 2,
        steps: STEPS,
        loss: 0.0,
    };
    let found = bench
        .tester
        .search(&search, flat_out * BEYOND, flat_out * 0.99)?;
    let failed = found.steps.iter().filter(|step| !step.passed);
    Ok(Through {
        flat_out_mpps: flat_out,
        loss_free_mpps: found.mpps,
        failed: failed.map(|step| (step.mpps, step.outcome.lost)).collect(),
        delays: Delays::default(),
        share: share(&outcome),
    })
}

/// A device at work between generator and sink.
struct Bench<'a> {
    tester: Tester,
    _device: Running<'a>,
}

impl<'a> Bench<'a> {
    fn start(
        lab: &'a Lab,
        device: Device,
        plan: &Plan,
        traffic: &Traffic,
        counted: &str,
    ) -> Result<Self, Error> {
        let place = match counted {
            "gen0" => Place::Generator,
            _ => Place::Sink,
        };
        let sink = lab.sink(place, counted)?;
        let device = Running::start(lab, device, plan)?;
        let generator = lab.generator(traffic, plan.generator_cpu)?;
        let mut tester = Tester {
            generator,
            sink,
            worker: Some(device.thread()?),
        };
        tester.generator.tell(&Pace::PerSecond(IDLE).line())?;
        trial::await_traffic(&mut tester.sink).during("the first packets")?;
        tester.generator.tell(&Pace::Paused.line())?;
        Ok(Self {
            tester,
            _device: device,
        })
    }

    /// Of some streams the one with the shortest long delays: other work on the machine that takes the
    /// worker's CPU adds milliseconds, and can only add.
    fn quietest(&mut self, pace: Pace, time: Duration) -> Result<Outcome, Error> {
        let stream = Stream {
            pace,
            length: Length::Time(time),
        };
        let mut best = self.tester.run(&stream)?;
        for _ in 1..QUIETEST_OF {
            let outcome = self.tester.run(&stream)?;
            if outcome.delays.count > 0 && outcome.delays.p999 < best.delays.p999 {
                best = outcome;
            }
        }
        Ok(best)
    }

    /// A stream whose generator and worker had their CPUs, or the last of some attempts.
    fn sound(&mut self, pace: Pace, time: Duration) -> Result<Outcome, Error> {
        let stream = Stream {
            pace,
            length: Length::Time(time),
        };
        let mut outcome = self.tester.run(&stream)?;
        for _ in 1..ATTEMPTS {
            if share(&outcome) >= SHARE_MIN {
                break;
            }
            outcome = self.tester.run(&stream)?;
        }
        Ok(outcome)
    }
}

impl Report {
    /// Sums up the rounds.
    #[must_use]
    pub fn new(frame_len: usize, rounds: Vec<Round>) -> Self {
        let sound: Vec<&Round> = rounds.iter().filter(|round| round.is_sound()).collect();
        let all = |pick: &dyn Fn(&Round) -> f64| {
            let figures = sound.iter().map(|round| pick(round));
            figures.collect::<Vec<f64>>()
        };
        let paired = |own: &dyn Fn(&Round) -> f64, other: &dyn Fn(&Round) -> f64| {
            Summary::of(&ratios(&all(own), &all(other)))
        };
        let loss_free = |pick: fn(&Round) -> &Through| {
            paired(&|round| pick(round).loss_free_mpps, &|round| {
                pick(round).flat_out_mpps
            })
        };
        let quantiles: [fn(&Delays) -> f64; 3] = [|d| d.p50, |d| d.p99, |d| d.p999];
        let times = |pick: fn(&Round) -> &Delays| {
            quantiles.map(|quantile| Summary::of(&all(&|round| quantile(pick(round)) / 1e3)))
        };
        let relation = |own: fn(&Round) -> &Delays, other: fn(&Round) -> &Delays| {
            quantiles.map(|quantile| {
                paired(&|round| quantile(own(round)), &|round| {
                    quantile(other(round))
                })
            })
        };
        let [echo50, echo99, _] = relation(|r| &r.relay_echo, |r| &r.reference_echo);
        let two = |[p50, p99, _]: [Summary; 3]| [p50, p99];
        Self {
            frame_len,
            rejected: rounds.len() - sound.len(),
            loss_free: loss_free(|round| &round.relay),
            reference_loss_free: loss_free(|round| &round.reference),
            loss_free_to_reference: paired(&|round| round.relay.loss_free_mpps, &|round| {
                round.reference.loss_free_mpps
            }),
            delay_ratios: relation(|r| &r.relay.delays, |r| &r.reference.delays),
            echo_ratios: [echo50, echo99],
            delays: [times(|r| &r.relay.delays), times(|r| &r.reference.delays)],
            echoes: [
                two(times(|r| &r.relay_echo)),
                two(times(|r| &r.reference_echo)),
            ],
            rounds,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, through) in [("relay", &self.relay), ("reference", &self.reference)] {
            let share = through.loss_free_mpps / through.flat_out_mpps;
            write!(
                f,
                "{name} {:.3} flat out, {share:.2} of it without loss, p50 {:.1} p99.9 {:.1} µs; ",
                through.flat_out_mpps,
                through.delays.p50 / 1e3,
                through.delays.p999 / 1e3
            )?;
        }
        let [own, other] = [self.relay_echo, self.reference_echo].map(|echo| echo.p50 / 1e3);
        write!(f, "echo {own:.2} and {other:.2} µs")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<34} {:>7} {:>7} {:>7}", "", "median", "q1", "q3")?;
        let mut line = |name: &str, value: &Summary| {
            writeln!(
                f,
                "{name:<34} {:>7.2} {:>7.2} {:>7.2}",
                value.median, value.lower_quartile, value.upper_quartile
            )
        };
        line("loss-free / flat out, relay", &self.loss_free)?;
        line("loss-free / flat out, reference", &self.reference_loss_free)?;
        line("loss-free, relay / reference", &self.loss_free_to_reference)?;
        for (who, at) in [("relay", 0), ("reference", 1)] {
            for (name, value) in ["p50", "p99", "p99.9"].iter().zip(&self.delays[at]) {
                line(&format!("delay {name} in µs, {who}"), value)?;
            }
            for (name, value) in ["p50", "p99"].iter().zip(&self.echoes[at]) {
                line(&format!("idle round trip {name} in µs, {who}"), value)?;
            }
        }
        for (name, value) in ["p50", "p99", "p99.9"].iter().zip(&self.delay_ratios) {
            line(&format!("delay {name}, relay / reference"), value)?;
        }
        for (name, value) in ["p50", "p99"].iter().zip(&self.echo_ratios) {
            line(&format!("round trip {name}, relay / reference"), value)?;
        }
        if self.rejected > 0 {
            let rejected = self.rejected;
            writeln!(
                f,
                "{rejected} rounds rejected: generator or worker lacked CPU time"
            )?;
        }
        Ok(())
    }
}
