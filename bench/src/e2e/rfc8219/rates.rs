//! How many packets a second, and how many at once.

use super::super::Error;
use super::scale::Scale;
use crate::pktgen::pace::Pace;
use crate::pktgen::search::{Found, Search};
use crate::pktgen::stream::{Length, Stream, Tester};
use serde::Serialize;
use std::fmt;

/// The search goes so far beyond the flat-out rate: what is dropped costs time too.
const BEYOND: f64 = 1.1;
/// Where nothing gets through without loss, the other tests use this share of the flat-out rate.
const FALLBACK: f64 = 0.1;
/// The first burst that is tried.
const FIRST_BURST: u64 = 512;
/// A burst is known to one part in so many.
const BURST_PRECISION: u64 = 32;

/// Section 7.1.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Million frames a second that get through when more come than can.
    pub flat_out_mpps: f64,
    /// The highest rate without loss, with every trial.
    pub found: Found,
}

impl Throughput {
    /// The rate at which the other tests send.
    #[must_use]
    pub fn usable_mpps(&self) -> f64 {
        self.found.mpps.max(self.flat_out_mpps * FALLBACK)
    }
}

/// One rate of the loss curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// In percent of the flat-out rate.
    pub percent: u32,
    /// Million frames a second that were sent.
    pub offered_mpps: f64,
    /// In percent of the frames.
    pub lost_percent: f64,
    /// Frames.
    pub lost: i64,
}

/// Section 7.4.
#[derive(Clone, Debug, Serialize)]
pub struct FrameLoss {
    /// From the highest rate down to the second in a row that lost nothing.
    pub points: Vec<Point>,
}

/// Section 7.5.
#[derive(Clone, Debug, Serialize)]
pub struct BackToBack {
    /// Frames of the longest burst without loss, of each repetition.
    pub bursts: Vec<u64>,
    /// Their mean, which is what the RFC reports.
    pub mean: f64,
    /// Whether the longest burst that was tried passed.
    pub is_bound: bool,
}

pub(super) fn throughput(tester: &mut Tester, scale: &Scale) -> Result<Throughput, Error> {
    let flat_out_mpps = tester.flat_out(scale.trial)?.received_mpps();
    let search = Search {
        trial: scale.trial,
        steps: scale.steps,
        loss: 0.0,
    };
    let found = tester.search(&search, flat_out_mpps * BEYOND, flat_out_mpps * 0.97)?;
    Ok(Throughput {
        flat_out_mpps,
        found,
    })
}

pub(super) fn frame_loss(
    tester: &mut Tester,
    scale: &Scale,
    throughput: &Throughput,
) -> Result<FrameLoss, Error> {
    let mut points = Vec::<Point>::new();
    for percent in (1..=10).rev().map(|tenth| tenth * 10) {
        let outcome = tester.run(&Stream {
            pace: Pace::mpps(throughput.flat_out_mpps * f64::from(percent) / 100.0),
            length: Length::Time(scale.trial),
        })?;
        points.push(Point {
            percent,
            offered_mpps: outcome.offered_mpps(),
            lost_percent: outcome.loss() * 100.0,
            lost: outcome.lost,
        });
        if points.len() >= 2
            && points[points.len() - 2..]
                .iter()
                .all(|point| point.lost <= 0)
        {
            break;
        }
    }
    Ok(FrameLoss { points })
}

pub(super) fn back_to_back(tester: &mut Tester, scale: &Scale) -> Result<BackToBack, Error> {
    let mut bursts = Vec::new();
    for _ in 0..scale.bursts {
        let burst = longest(scale.burst_max, |frames| {
            let outcome = tester.run(&Stream {
                pace: Pace::Full,
                length: Length::Frames(frames),
            })?;
            Ok(outcome.lost <= 0)
        })?;
        bursts.push(burst);
    }
    Ok(BackToBack {
        mean: bursts.iter().sum::<u64>() as f64 / bursts.len().max(1) as f64,
        is_bound: bursts.contains(&scale.burst_max),
        bursts,
    })
}

/// The longest burst up to `most` that passes: doubled until one fails, then by bisection.
fn longest(most: u64, mut passes: impl FnMut(u64) -> Result<bool, Error>) -> Result<u64, Error> {
    let (mut good, mut bad) = (0, None);
    let mut burst = FIRST_BURST.min(most);
    loop {
        if passes(burst)? {
            good = burst;
        } else {
            bad = Some(burst);
        }
        burst = match bad {
            None if good == most => return Ok(good),
            None => (good * 2).min(most),
            Some(bad) if bad - good <= (good / BURST_PRECISION).max(1) => return Ok(good),
            Some(bad) => u64::midpoint(good, bad),
        };
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            flat_out_mpps,
            found,
        } = self;
        write!(
            f,
            "throughput {:.3} Mpps, flat out {flat_out_mpps:.3}",
            found.mpps
        )
    }
}

impl fmt::Display for FrameLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("frame loss")?;
        for point in &self.points {
            write!(f, ", {} %: {:.3} %", point.percent, point.lost_percent)?;
        }
        Ok(())
    }
}

impl fmt::Display for BackToBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.is_bound { " or more" } else { "" };
        write!(f, "back to back {:.0} frames{more}", self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_burst_is_found() {
        let longest_of = |limit: u64, most| longest(most, |burst| Ok(burst <= limit)).unwrap();
        for limit in [0, 1, 7, 511, 512, 513, 4096, 100_000] {
            let found = longest_of(limit, 1 << 17);
            assert!(found <= limit, "{found} of {limit}");
            assert!(
                limit - found <= found / BURST_PRECISION + 1,
                "{found} of {limit}"
            );
        }
        assert_eq!(longest_of(u64::MAX, 1 << 17), 1 << 17);
        assert_eq!(longest_of(u64::MAX, 100), 100);
    }
}
