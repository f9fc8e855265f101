//! A token bucket private to one thread.

use sixferry_fwd::Ticks;

/// How many events per second, and how many at once. Zero per second switches the limit off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Long-term rate.
    pub per_second: u32,
    /// Most events at one moment, at least 1.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        per_second: 0,
        burst: 0,
    };
}

/// A token bucket in nanoseconds of credit: exact at any rate, no division when it fills.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Nanoseconds one event costs; 0 means unlimited.
    cost: u64,
    /// Most credit.
    full: u64,
    credit: u64,
    updated: Ticks,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        let cost = match rate.per_second {
            0 => 0,
            per_second => (Ticks::PER_SECOND / u64::from(per_second)).max(1),
        };
        let full = cost.saturating_mul(u64::from(rate.burst.max(1)));
        Self {
            cost,
            full,
            credit: full,
            updated: Ticks(0),
        }
    }

    /// How many tokens there are now.
    pub fn available(&mut self, now: Ticks) -> u64 {
        if self.cost == 0 {
            return u64::MAX;
        }
        self.fill(now);
        self.credit / self.cost
    }

    fn fill(&mut self, now: Ticks) {
        let passed = now.0.saturating_sub(self.updated.0);
        self.updated = Ticks(self.updated.0.max(now.0));
        self.credit = self.full.min(self.credit.saturating_add(passed));
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Ticks) -> bool {
        if self.cost == 0 {
            return true;
        }
        self.fill(now);
        if self.credit < self.cost {
            return false;
        }
        self.credit -= self.cost;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn burst_then_rate() {
        let mut bucket = TokenBucket::new(Rate {
            per_second: 100,
            burst: 5,
        });
        let start = 77 * Ticks::PER_SECOND;
        assert_eq!(bucket.available(Ticks(start)), 5);
        assert_eq!((0..50).filter(|_| bucket.take(Ticks(start))).count(), 5);
        assert_eq!(bucket.available(Ticks(start)), 0);
        // one second, tried every millisecond: the rate, not one more
        let passed = (1..=1000)
            .filter(|ms| bucket.take(Ticks(start + ms * MS)))
            .count();
        assert_eq!(passed, 100);
    }

    #[test]
    fn zero_is_unlimited_and_time_may_stand_still() {
        let mut bucket = TokenBucket::new(Rate::UNLIMITED);
        assert!((0..10_000).all(|_| bucket.take(Ticks(0))));
        assert_eq!(bucket.available(Ticks(0)), u64::MAX);
    }

    #[test]
    fn a_clock_that_steps_back_gives_no_credit() {
        let mut bucket = TokenBucket::new(Rate {
            per_second: 1,
            burst: 1,
        });
        assert!(bucket.take(Ticks(10 * Ticks::PER_SECOND)));
        assert!(!bucket.take(Ticks(0)));
        assert!(!bucket.take(Ticks(10 * Ticks::PER_SECOND + 1)));
        assert!(bucket.take(Ticks(11 * Ticks::PER_SECOND)));
    }
}
