//! Medians, quartiles and paired ratios of all rounds.

use super::trial::{Test, Trial};
use crate::statistics::{Summary, ratios};
use serde::Serialize;
use std::fmt;

/// Two tests whose ratio means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The one that is judged.
    pub test: &'static str,
    /// The yardstick.
    pub yardstick: &'static str,
}

/// A test's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    name: &'static str,
    text: &'static str,
    mpps: Summary,
    trials: Vec<Trial>,
}

/// A ratio over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    test: &'static str,
    yardstick: &'static str,
    ratio: Summary,
}

/// A test that was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its name.
    pub name: &'static str,
    /// Why not.
    pub why: &'static str,
}

/// The result of a bench.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    frame_len: usize,
    rounds: usize,
    /// Trials in which somebody lacked CPU time in spite of repetition; they count in no median and
    /// no ratio.
    rejected: usize,
    tests: Vec<Line>,
    ratios: Vec<Ratio>,
    skipped: Vec<Skipped>,
}

impl Report {
    /// Sums up `trials[test][round]`.
    #[must_use]
    pub fn new(
        frame_len: usize,
        tests: &[Test],
        trials: &[Vec<Trial>],
        pairs: &[Pair],
        skipped: Vec<Skipped>,
    ) -> Self {
        // a round's place stays where its trial is rejected: ratios are of the same round
        let mpps = |name: &str| {
            let at = tests.iter().position(|test| test.name == name)?;
            let sound = |trial: &Trial| trial.is_sound().then_some(trial.mpps);
            Some(trials.get(at)?.iter().map(sound).collect::<Vec<_>>())
        };
        let lines = tests.iter().zip(trials).map(|(test, own)| Line {
            name: test.name,
            text: test.text,
            mpps: Summary::of(&flat(mpps(test.name).unwrap_or_default())),
            trials: own.clone(),
        });
        let ratios = pairs.iter().filter_map(|pair| {
            let rounds = mpps(pair.test)?.into_iter().zip(mpps(pair.yardstick)?);
            let (own, other): (Vec<_>, Vec<_>) = rounds.filter_map(|(a, b)| a.zip(b)).unzip();
            Some(Ratio {
                test: pair.test,
                yardstick: pair.yardstick,
                ratio: Summary::of(&ratios(&own, &other)),
            })
        });
        Self {
            frame_len,
            rounds: trials.first().map_or(0, Vec::len),
            rejected: trials
                .iter()
                .flatten()
                .filter(|trial| !trial.is_sound())
                .count(),
            tests: lines.collect(),
            ratios: ratios.collect(),
            skipped,
        }
    }
}

fn flat(rounds: Vec<Option<f64>>) -> Vec<f64> {
    rounds.into_iter().flatten().collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rounds, frames of {} bytes",
            self.rounds, self.frame_len
        )?;
        writeln!(
            f,
            "{:<14} {:>7} {:>7} {:>7}  what",
            "Mpps", "median", "q1", "q3"
        )?;
        for line in &self.tests {
            let Summary {
                median,
                lower_quartile,
                upper_quartile,
                ..
            } = line.mpps;
            writeln!(
                f,
                "{:<14} {median:>7.3} {lower_quartile:>7.3} {upper_quartile:>7.3}  {}",
                line.name, line.text
            )?;
        }
        writeln!(
            f,
            "{:<28} {:>7} {:>7} {:>7}",
            "ratio in a round", "median", "q1", "q3"
        )?;
        for line in &self.ratios {
            writeln!(
                f,
                "{:<28} {:>7.2} {:>7.2} {:>7.2}",
                format!("{} / {}", line.test, line.yardstick),
                line.ratio.median,
                line.ratio.lower_quartile,
                line.ratio.upper_quartile
            )?;
        }
        for Skipped { name, why } in &self.skipped {
            writeln!(f, "{name}: not measured: {why}")?;
        }
        if self.rejected > 0 {
            writeln!(
                f,
                "{} trials rejected: somebody lacked CPU time, or packets were not accounted for",
                self.rejected
            )?;
        }
        Ok(())
    }
}
