//! How long an overload and a restart are felt.

use super::super::lab::Lab;
use super::super::{Context, Error};
use super::rates::{self, Throughput};
use super::scale::Scale;
use super::stand::Stand;
use super::{Direction, Job, Lengths};
use crate::pktgen::pace::Pace;
use crate::pktgen::stream::{Tester, settle};
use crate::statistics::Summary;
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};

/// RFC 2544, 26.5.
const OVERLOAD: f64 = 1.1;
/// Of the throughput, afterwards and for the restart.
const HALF: f64 = 0.5;
/// Generator and sink are asked one after the other; so much time may lie between.
const SKEW: Duration = Duration::from_millis(1);
/// How long a restarted device may take until packets come through.
const RESTART: Duration = Duration::from_secs(60);
/// Frames after which it forwards again.
const FORWARDS: u64 = 1000;

/// Section 7.6.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Recovery {
    /// Million frames a second of the overload.
    pub overload_mpps: f64,
    /// Of the frames of overload and rest, lost.
    pub lost: i64,
    /// Milliseconds from the order to send half until nothing more was lost and nothing queued.
    pub milliseconds: f64,
}

/// Section 7.7.
#[derive(Clone, Debug, Serialize)]
pub struct Reset {
    /// Which way.
    pub direction: Direction,
    /// Million frames a second.
    pub mpps: f64,
    /// Frames lost in each restart.
    pub lost: Vec<i64>,
    /// Milliseconds without forwarding: frames lost over the rate (RFC 6201, 3.2.1).
    pub milliseconds: Summary,
}

pub(super) fn recovery(
    tester: &mut Tester,
    scale: &Scale,
    throughput: &Throughput,
) -> Result<Recovery, Error> {
    let overload_mpps = throughput.usable_mpps() * OVERLOAD;
    let rest_mpps = throughput.usable_mpps() * HALF;
    settle(&mut tester.sink)?;
    let missing = |tester: &mut Tester| -> Result<(u64, i64), Error> {
        let sent = tester.generator.read()?;
        let arrived = tester.sink.read()?;
        let missing = sent.packets.cast_signed() - arrived.packets.cast_signed();
        Ok((arrived.at, missing))
    };
    let (_, before) = missing(tester)?;
    tester.generator.tell(&Pace::mpps(overload_mpps).line())?;
    std::thread::sleep(scale.overload);
    let eased = tester.generator.tell(&Pace::mpps(rest_mpps).line())?.at;
    let mut samples = Vec::new();
    let end = Instant::now() + scale.recovery;
    while Instant::now() < end {
        let (at, count) = missing(tester)?;
        samples.push((at.saturating_sub(eased), count - before));
        std::thread::sleep(SKEW / 4);
    }
    tester.generator.tell(&Pace::Paused.line())?;
    settle(&mut tester.sink)?;
    let lost = missing(tester)?.1 - before;
    let slack = (rest_mpps * 1e6 * SKEW.as_secs_f64()).ceil() as i64;
    Ok(Recovery {
        overload_mpps,
        lost,
        milliseconds: recovered(&samples, lost + slack) as f64 / 1e6,
    })
}

/// The moment after which no more than `most` are missing, in the samples' nanoseconds.
fn recovered(samples: &[(u64, i64)], most: i64) -> u64 {
    let last_bad = samples.iter().rposition(|(_, missing)| *missing > most);
    let first_good = last_bad.map_or(0, |at| at + 1);
    let moment = samples.get(first_good).or(samples.last());
    moment.map_or(0, |(at, _)| *at)
}

pub(super) fn reset(job: &Job, direction: Direction) -> Result<Reset, Error> {
    let scale = &job.scale;
    let lab = Lab::new()?;
    let mut stand = Stand::start(&lab, job, direction, 1)?;
    let nominal = job.sizes.first().copied().unwrap_or_default();
    let mut tester = stand.tester(Lengths::new(nominal, job.encapsulation, false), 0)?;
    let mpps = rates::throughput(&mut tester, scale)?.usable_mpps() * HALF;
    let mut lost = Vec::new();
    for _ in 0..scale.resets {
        lost.push(restart(&mut stand, job, &mut tester, mpps)?);
    }
    let all: Vec<f64> = lost.iter().map(|lost| *lost as f64 / mpps / 1e3).collect();
    Ok(Reset {
        direction,
        mpps,
        lost,
        milliseconds: Summary::of(&all),
    })
}

/// Frames lost while the process is killed and started again. It has its tunnels from its own state.
fn restart(stand: &mut Stand<'_>, job: &Job, tester: &mut Tester, mpps: f64) -> Result<i64, Error> {
    stand.daemon.await_saved()?;
    settle(&mut tester.sink)?;
    let (sent, arrived) = (tester.generator.read()?, tester.sink.read()?);
    tester.generator.tell(&Pace::mpps(mpps).line())?;
    std::thread::sleep(job.scale.trial / 2);
    stand.daemon.restart(stand.lab, &job.daemon)?;
    let seen = tester.sink.read()?.packets;
    let deadline = Instant::now() + RESTART;
    while tester.sink.read()?.packets < seen + FORWARDS {
        if Instant::now() > deadline {
            return Err("nothing is forwarded").during("after the restart");
        }
        std::thread::sleep(SKEW);
    }
    std::thread::sleep(job.scale.trial / 2);
    tester.generator.tell(&Pace::Paused.line())?;
    settle(&mut tester.sink)?;
    let all = tester.generator.read()?.packets - sent.packets;
    let through = tester.sink.read()?.packets - arrived.packets;
    Ok(all.cast_signed() - through.cast_signed())
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            overload_mpps,
            lost,
            milliseconds,
        } = self;
        write!(
            f,
            "recovery after {milliseconds:.1} ms ({lost} lost at {overload_mpps:.3} Mpps)"
        )
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = &self.milliseconds;
        write!(
            f,
            "reset: {:.0} ms without forwarding ({:.0} to {:.0}) at {:.3} Mpps",
            time.median, time.lower_quartile, time.upper_quartile, self.mpps
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_ends_with_the_last_excess() {
        let samples = [(1, 500), (2, 700), (3, 690), (4, 701), (5, 600), (6, 601)];
        assert_eq!(recovered(&samples, 650), 5);
        assert_eq!(recovered(&samples, 1000), 1);
        assert_eq!(recovered(&samples, 0), 6);
        assert_eq!(recovered(&[], 0), 0);
    }
}
