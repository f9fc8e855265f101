//! Percentiles of times.

use serde::Serialize;

/// What a number of times say, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Half of them are no longer.
    pub p50: f64,
    /// 99 of 100 are no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// Sums up microseconds; all zero when there is none.
    #[must_use]
    pub fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        // nearest rank: a time that there was, and never one better than the share says
        let rank = |percent: usize| {
            let at = (micros.len() * percent).div_ceil(100).saturating_sub(1);
            micros
                .get(at)
                .map_or(0.0, |micros| f64::from(*micros) / 1e3)
        };
        Self {
            count: micros.len(),
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50, p99, max, .. } = self;
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_times_that_there_were() {
        let thousand = Latency::of((1..=1000).rev().map(|ms| ms * 1000).collect());
        assert_eq!(
            (thousand.p50, thousand.p99, thousand.max),
            (500.0, 990.0, 1000.0)
        );
        let two = Latency::of(vec![9000, 1000]);
        assert_eq!((two.p50, two.p99, two.max), (1.0, 9.0, 9.0));
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
