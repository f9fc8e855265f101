//! How long packets are on their way.

use super::super::Error;
use super::scale::Scale;
use crate::pktgen::histogram::{Delays, Histogram};
use crate::pktgen::pace::Pace;
use crate::pktgen::sink::{Arrived, DELAYS};
use crate::pktgen::stream::{Length, Stream, Tester, settle};
use crate::statistics::Summary;
use serde::Serialize;
use std::fmt;

/// RFC 8219, 7.2: so many tagged frames at least.
pub(super) const TAGGED_MIN: u64 = 500;
/// A tagged frame in so many, where there are frames enough.
const TAG_EVERY: u32 = 64;
/// Below this rate every frame is tagged, or there would be too few.
const SLOW_MPPS: f64 = 0.1;

/// Section 7.2.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// The rate, in million frames a second.
    pub mpps: f64,
    /// Of each repetition.
    pub repetitions: Vec<Delays>,
    /// Typical latency in microseconds: medians of the repetitions.
    pub typical: Summary,
    /// Worst-case latency in microseconds: their 99.9th percentiles.
    pub worst: Summary,
}

/// Section 7.3.1.
#[derive(Clone, Debug, Serialize)]
pub struct Variation {
    /// The rate, in million frames a second.
    pub mpps: f64,
    /// Of each repetition.
    pub repetitions: Vec<Delays>,
    /// In microseconds: the 99.9th percentile less the minimum.
    pub variation: Summary,
}

/// How many frames there are to one with a time tag at this rate.
pub(super) fn every(mpps: f64) -> u32 {
    if mpps < SLOW_MPPS { 1 } else { TAG_EVERY }
}

pub(super) fn latency(tester: &mut Tester, scale: &Scale, mpps: f64) -> Result<Latency, Error> {
    let mut repetitions = Vec::new();
    for _ in 0..scale.repetitions {
        tester.generator.tell(&Pace::mpps(mpps).line())?;
        // the stream's two halves; what the first one met is not counted
        std::thread::sleep(scale.latency / 2);
        let from = histogram(tester)?;
        std::thread::sleep(scale.latency / 2);
        let to = histogram(tester)?;
        tester.generator.tell(&Pace::Paused.line())?;
        settle(&mut tester.sink)?;
        repetitions.push(to.since(&from).delays());
    }
    let micros = |pick: fn(&Delays) -> f64| {
        let all: Vec<f64> = repetitions.iter().map(|d| pick(d) / 1e3).collect();
        Summary::of(&all)
    };
    Ok(Latency {
        mpps,
        typical: micros(|delays| delays.p50),
        worst: micros(|delays| delays.p999),
        repetitions,
    })
}

fn histogram(tester: &mut Tester) -> Result<Histogram, Error> {
    tester.sink.order(DELAYS)?;
    let arrived: Arrived = tester.sink.answer()?;
    Ok(arrived.delays.unwrap_or_default())
}

pub(super) fn variation(tester: &mut Tester, scale: &Scale, mpps: f64) -> Result<Variation, Error> {
    let mut repetitions = Vec::new();
    for _ in 0..scale.repetitions {
        let outcome = tester.run(&Stream {
            pace: Pace::mpps(mpps),
            length: Length::Time(scale.variation),
        })?;
        repetitions.push(outcome.delays);
    }
    let all: Vec<f64> = repetitions.iter().map(|delays| delays.pdv / 1e3).collect();
    Ok(Variation {
        mpps,
        variation: Summary::of(&all),
        repetitions,
    })
}

impl Latency {
    /// Whether there were as many tagged frames as the RFC wants.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.repetitions
            .iter()
            .all(|delays| delays.count >= TAGGED_MIN)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "latency {:.2} µs, worst case {:.2} µs",
            self.typical.median, self.worst.median
        )
    }
}

impl fmt::Display for Variation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay variation {:.2} µs", self.variation.median)
    }
}
