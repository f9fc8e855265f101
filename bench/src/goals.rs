//! Goals of the pipeline and whether figures meet them.

use crate::statistics::Summary;
use serde::Serialize;
use std::fmt;

/// How far a figure gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As good as hoped.
    Aim,
    /// Good enough.
    Must,
    /// Not good enough.
    Missed,
}

/// One goal.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// Number in the list of all goals.
    pub number: u8,
    /// What is measured.
    pub what: String,
    /// The figure: a median, if it is of rounds.
    pub figure: f64,
    /// Its rounds with their quartiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Summary>,
    /// What it must be.
    pub must: f64,
    /// What it had better be.
    pub aim: f64,
    /// Which of them it meets.
    pub verdict: Verdict,
}

impl Goal {
    /// A goal whose figure may be `must` and had better be `aim` at most.
    #[must_use]
    pub fn at_most(number: u8, what: impl Into<String>, figure: f64, must: f64, aim: f64) -> Self {
        Self {
            number,
            what: what.into(),
            figure,
            spread: None,
            must,
            aim,
            verdict: verdict(figure <= must, figure <= aim),
        }
    }

    /// A goal whose figure, a median over rounds, has to be `must` and had better be `aim` at least.
    #[must_use]
    pub fn at_least(
        number: u8,
        what: impl Into<String>,
        spread: Summary,
        must: f64,
        aim: f64,
    ) -> Self {
        let figure = spread.median;
        Self {
            spread: Some(spread),
            verdict: verdict(figure >= must, figure >= aim),
            ..Self::at_most(number, what, figure, must, aim)
        }
    }
}

/// A figure that is no number has met nothing.
const fn verdict(must: bool, aim: bool) -> Verdict {
    match (must, aim) {
        (_, true) => Verdict::Aim,
        (true, false) => Verdict::Must,
        (false, false) => Verdict::Missed,
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            what,
            figure,
            must,
            aim,
            verdict,
            ..
        } = self;
        write!(
            f,
            "goal {number:>2}: {what}: {figure:.2} (must {must}, aim {aim}): {verdict:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_belong_to_what_meets_them() {
        let verdict = |figure| Goal::at_most(7, "time", figure, 1.5, 1.1).verdict;
        assert_eq!(verdict(1.1), Verdict::Aim);
        assert_eq!(verdict(1.11), Verdict::Must);
        assert_eq!(verdict(1.5), Verdict::Must);
        assert_eq!(verdict(1.51), Verdict::Missed);
        assert_eq!(verdict(f64::NAN), Verdict::Missed);
        let verdict = |figure| {
            let spread = Summary::of(&[figure]);
            Goal::at_least(13, "rate", spread, 0.95, 0.99).verdict
        };
        assert_eq!(verdict(0.99), Verdict::Aim);
        assert_eq!(verdict(0.98), Verdict::Must);
        assert_eq!(verdict(0.94), Verdict::Missed);
        assert_eq!(verdict(f64::NAN), Verdict::Missed);
    }
}
