//! The highest rate without loss (RFC 2544, 26.1), by bisection.

use super::pace::Pace;
use super::stream::{Length, Outcome, Stream, Tester};
use crate::error::{Context, Error};
use serde::Serialize;
use std::time::Duration;

/// On a shared machine a rate passes if one of so many trials does: what else the machine does can only
/// add loss.
pub const ATTEMPTS: usize = 3;
/// A trial whose generator sent less than this share of what was asked proves nothing.
const OFFERED_MIN: f64 = 0.98;
/// Nor does the loss of one whose worker was away from its CPU for longer than its ring lasts: so many
/// do not count.
const VOID: usize = 5;
/// The share of its CPU that a worker has when it was never away for so long.
const WORKER_MIN: f64 = 0.99;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// How long each trial is.
    pub trial: Duration,
    /// Bisections.
    pub steps: u32,
    /// The share of the frames that may be lost.
    pub loss: f64,
}

/// One trial of a search.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was asked for, in million frames a second.
    pub mpps: f64,
    /// Whether it passed.
    pub passed: bool,
    /// What became of the frames.
    pub outcome: Outcome,
}

/// What a search found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// The highest rate that passed, in million frames a second; 0 when none did.
    pub mpps: f64,
    /// Every trial, in order.
    pub steps: Vec<Step>,
}

impl Tester {
    /// Million frames a second that get through when more come than can.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub fn flat_out(&mut self, time: Duration) -> Result<Outcome, Error> {
        self.run(&Stream {
            pace: Pace::Full,
            length: Length::Time(time),
        })
    }

    /// The highest rate up to `top` that loses no more than it may; `first` is tried first.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub fn search(&mut self, search: &Search, top: f64, first: f64) -> Result<Found, Error> {
        let (mut good, mut bad) = (0.0, top);
        let mut found = Found::default();
        let mut rate = first;
        for _ in 0..search.steps {
            if self.passes(search, rate, &mut found.steps)? {
                good = rate;
            } else {
                bad = rate;
            }
            rate = f64::midpoint(good, bad);
        }
        found.mpps = good;
        Ok(found)
    }

    fn passes(&mut self, search: &Search, mpps: f64, steps: &mut Vec<Step>) -> Result<bool, Error> {
        let (mut attempts, mut void) = (0, 0);
        while attempts < ATTEMPTS {
            let outcome = self.run(&Stream {
                pace: Pace::mpps(mpps),
                length: Length::Time(search.trial),
            })?;
            let offered = outcome.offered_mpps() >= mpps * OFFERED_MIN;
            let passed = offered && outcome.loss() <= search.loss;
            let away = outcome.worker_share < WORKER_MIN;
            steps.push(Step {
                mpps,
                passed,
                outcome,
            });
            if passed {
                return Ok(true);
            }
            if away && void < VOID {
                void += 1;
            } else {
                attempts += 1;
            }
        }
        Ok(false)
    }
}

impl Found {
    /// The rate, if there is one.
    ///
    /// # Errors
    /// When every rate lost frames.
    pub fn rate(&self) -> Result<f64, Error> {
        if self.mpps > 0.0 {
            Ok(self.mpps)
        } else {
            Err("every rate loses packets").during("the search for the loss-free rate")
        }
    }
}
