//! Medians and quartiles: the machine is shared, so means tell of the neighbours.

use serde::Serialize;

/// What a number of measurements say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them is below.
    pub lower_quartile: f64,
    /// Three quarters of them are below.
    pub upper_quartile: f64,
    /// The smallest: what the machine does when nobody else is on it.
    pub min: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Summary {
    /// Sums up `values`; all zero when there is none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 0.5),
            lower_quartile: quantile(&sorted, 0.25),
            upper_quartile: quantile(&sorted, 0.75),
            min: sorted.first().copied().unwrap_or(0.0),
            rounds: sorted.len(),
        }
    }
}

/// What this share of sorted values is below, between the two nearest of them; 0 of none.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = last as f64 * share.clamp(0.0, 1.0);
    let below = (at as usize).min(last);
    let low = sorted[below];
    let high = sorted[(below + 1).min(last)];
    low + (high - low) * (at - below as f64)
}

/// `a / b` of each round, paired: what disturbs one of a round disturbs the other too.
#[must_use]
pub fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter()
        .zip(b)
        .filter(|(_, b)| **b > 0.0)
        .map(|(a, b)| a / b)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_five_and_of_four() {
        let five = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(
            (five.lower_quartile, five.median, five.upper_quartile),
            (2.0, 3.0, 4.0)
        );
        let four = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            (four.lower_quartile, four.median, four.upper_quartile),
            (1.75, 2.5, 3.25)
        );
        assert_eq!((four.min, four.rounds), (1.0, 4));
        assert_eq!(Summary::of(&[]), Summary::default());
        assert_eq!(Summary::of(&[7.0]).upper_quartile, 7.0);
        let shares = [0.0, 0.5, 0.75, 1.0, 2.0].map(|share| quantile(&[1.0, 2.0, 4.0], share));
        assert_eq!(shares, [1.0, 2.0, 3.0, 4.0, 4.0]);
    }

    #[test]
    fn ratios_are_per_round() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), [2.0, 3.0]);
        assert!(ratios(&[1.0], &[0.0]).is_empty());
    }
}
