//! Goals of the pipeline and whether figures meet them.

use serde::Serialize;

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

/// One goal: the smaller the figure, the better.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// Number in the list of all goals.
    pub number: u8,
    /// What is measured.
    pub what: String,
    /// The figure.
    pub figure: f64,
    /// What it may be at most.
    pub must: f64,
    /// What it had better be at most.
    pub aim: f64,
    /// Which of them it meets.
    pub verdict: Verdict,
}

impl Goal {
    /// A goal whose figure may be `must` and had better be `aim` at most.
    #[must_use]
    pub fn at_most(number: u8, what: impl Into<String>, figure: f64, must: f64, aim: f64) -> Self {
        let verdict = if figure <= aim {
            Verdict::Aim
        } else if figure <= must {
            Verdict::Must
        } else {
            // a figure that is no number has met nothing
            Verdict::Missed
        };
        Self {
            number,
            what: what.into(),
            figure,
            must,
            aim,
            verdict,
        }
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
    }
}
