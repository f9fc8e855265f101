//! Delays, counted in buckets of which none is wider than a 64th of its delay.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Buckets of a power of two.
const STEPS: u64 = 64;
/// `BUCKETS` of `bpf/sink.bpf.c`.
pub(super) const BUCKETS: u32 = 2240;

/// How many delays fell into each bucket; empty ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u32, u64>);

/// What is asked of a histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Delays {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The typical one (RFC 8219, 7.2: the median).
    pub p50: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// 999 of 1000 are shorter (RFC 8219, 7.2: the worst case).
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// Packet delay variation (RFC 8219, 7.3.1): `p999` less `min`.
    pub pdv: f64,
}

impl Histogram {
    /// Counts `more` delays in a bucket.
    pub fn add(&mut self, bucket: u32, more: u64) {
        if more > 0 {
            *self.0.entry(bucket).or_default() += more;
        }
    }

    /// What came after `earlier`, a state of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = Self::default();
        for (bucket, count) in &self.0 {
            let before = earlier.0.get(bucket).copied().unwrap_or(0);
            later.add(*bucket, count.saturating_sub(before));
        }
        later
    }

    /// How many delays there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The delay in nanoseconds that `share` of all do not exceed: the middle of its bucket.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let total = self.count();
        // as in "the n-th of so many", counted from one
        let rank = (total as f64 * share).ceil().max(1.0);
        let mut below = 0;
        for (bucket, count) in &self.0 {
            below += count;
            if below as f64 >= rank {
                let (low, width) = bounds(*bucket);
                return low as f64 + (width - 1) as f64 / 2.0;
            }
        }
        0.0
    }

    /// Buckets with their lower bound in nanoseconds, for a plot.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0
            .iter()
            .map(|(bucket, count)| (bounds(*bucket).0, *count))
    }

    /// The quantiles that reports show.
    #[must_use]
    pub fn delays(&self) -> Delays {
        let (min, p999) = (self.quantile(0.0), self.quantile(0.999));
        Delays {
            count: self.count(),
            min,
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            p999,
            max: self.quantile(1.0),
            pdv: p999 - min,
        }
    }
}

/// The lowest delay of a bucket and how many nanoseconds it spans.
fn bounds(bucket: u32) -> (u64, u64) {
    let bucket = u64::from(bucket.min(BUCKETS - 1));
    if bucket < 2 * STEPS {
        return (bucket, 1);
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS) << shift, 1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_join_without_gaps() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (low, width) = bounds(bucket);
            assert_eq!(low, next, "bucket {bucket}");
            next = low + width;
        }
        assert_eq!(next, 1 << 40);
        let source = include_str!("../../bpf/sink.bpf.c");
        assert!(source.contains(&format!("#define BUCKETS {BUCKETS} ")));
    }

    #[test]
    fn quantiles_and_differences() {
        let mut early = Histogram::default();
        early.add(10, 5);
        let mut late = early.clone();
        late.add(10, 989);
        late.add(100, 10);
        late.add(127, 1);
        let only = late.since(&early);
        let delays = only.delays();
        assert_eq!(delays.count, 1000);
        assert_eq!(
            (delays.min, delays.p50, delays.p999, delays.max, delays.pdv),
            (10.0, 10.0, 100.0, 127.0, 90.0)
        );
        assert_eq!(Histogram::default().delays(), Delays::default());
    }
}
