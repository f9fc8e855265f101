//! Token buckets for what the relay sends of its own (RFC 4443 section 2.4 f).
//!
//! Each worker has its share of the rates, so that none shares state with another. The per-tunnel
//! buckets lie in a fixed table; two tunnels that meet in a slot share it, which can only send less.

use crate::id::Ticks;
use crate::tables::RateLimits;

const SLOTS: usize = 4096;
/// Buckets of a pair of cache lines.
const SHELF: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Tokens times [`Ticks::PER_SECOND`].
    tokens: u64,
    last: u64,
}

impl Bucket {
    /// Whether there is a token, `rate` coming a second and `burst` at most, both per worker in
    /// 1/`share`.
    fn fill(&mut self, rate: u32, burst: u32, share: u64, now: Ticks) -> bool {
        if rate == 0 {
            return true;
        }
        let one = Ticks::PER_SECOND.saturating_mul(share);
        // a share of the burst, but never less than one packet
        let full = (u64::from(burst.max(1)) * Ticks::PER_SECOND).max(one);
        let gained = now
            .0
            .saturating_sub(self.last)
            .saturating_mul(u64::from(rate));
        self.tokens = self.tokens.saturating_add(gained).min(full);
        self.last = now.0;
        self.tokens >= one
    }

    /// Takes the token that [`Bucket::fill`] found.
    const fn take(&mut self, rate: u32, share: u64) {
        if rate != 0 {
            let one = Ticks::PER_SECOND.saturating_mul(share);
            self.tokens = self.tokens.saturating_sub(one);
        }
    }
}

/// Buckets of a pair of lines, which nothing of another worker's shares.
#[derive(Clone, Copy, Debug)]
#[repr(align(128))]
struct Shelf([Bucket; SHELF]);

/// Global and per-tunnel buckets of one worker.
#[derive(Debug)]
pub(crate) struct Limiter {
    global: Bucket,
    tunnels: Box<[Shelf]>,
    workers: u64,
    seed: u64,
}

impl Limiter {
    pub(crate) fn new(workers: usize, seed: u64) -> Self {
        // full at the start: whatever `burst` is, the first take cuts it to size
        let full = Bucket {
            tokens: u64::MAX,
            last: 0,
        };
        Self {
            global: full,
            tunnels: vec![Shelf([full; SHELF]); SLOTS / SHELF].into_boxed_slice(),
            workers: workers.max(1) as u64,
            seed: seed ^ 0x5851_f42d_4c95_7f2d,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the high bits are shifted down"
    )]
    /// Nobody outside can tell who shares a slot with whom.
    const fn slot(&self, key: u64) -> usize {
        let mixed = (key ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(self.seed | 1);
        (mixed >> (64 - SLOTS.trailing_zeros())) as usize
    }

    /// Where the buckets lie.
    #[cfg(test)]
    pub(crate) fn written(&self) -> std::ops::Range<usize> {
        let at = self.tunnels.as_ptr().addr();
        at..at + size_of_val(&*self.tunnels)
    }

    /// Whether one more may be sent. Packets of no tunnel count against the global rate only.
    pub(crate) fn allow(&mut self, limits: &RateLimits, whose: Option<u64>, now: Ticks) -> bool {
        let RateLimits {
            global_per_second,
            global_burst,
            tunnel_per_second,
            tunnel_burst,
        } = *limits;
        let global = self
            .global
            .fill(global_per_second, global_burst, self.workers, now);
        let slot = whose.map(|key| self.slot(key));
        let own = slot.and_then(|slot| self.tunnels.get_mut(slot / SHELF)?.0.get_mut(slot % SHELF));
        match own {
            Some(bucket) => {
                // a tunnel is not charged for what the others used up
                if !bucket.fill(tunnel_per_second, tunnel_burst, 1, now) || !global {
                    return false;
                }
                bucket.take(tunnel_per_second, 1);
            }
            None if !global => return false,
            None => {}
        }
        self.global.take(global_per_second, self.workers);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RateLimits = RateLimits {
        global_per_second: 1000,
        global_burst: 200,
        tunnel_per_second: 10,
        tunnel_burst: 10,
    };

    #[test]
    fn ten_thousand_in_a_second_stay_within_burst_plus_rate() {
        let mut limiter = Limiter::new(1, 7);
        let sent = (0..10_000u64)
            .filter(|i| limiter.allow(&LIMITS, Some(*i), Ticks(1_000_000_000 + i * 100_000)))
            .count();
        assert!((1190..=1200).contains(&sent), "{sent}");
    }

    #[test]
    fn one_tunnel_cannot_use_up_the_rest() {
        let mut limiter = Limiter::new(1, 7);
        let noisy = (0..10_000u64)
            .filter(|i| limiter.allow(&LIMITS, Some(1), Ticks(i * 100_000)))
            .count();
        assert!((18..=20).contains(&noisy), "{noisy}");
        assert!(limiter.allow(&LIMITS, Some(2), Ticks(1_000_000_000)));
    }

    #[test]
    fn workers_share_the_global_rate() {
        let mut limiter = Limiter::new(4, 7);
        let sent = (0..10_000u64)
            .filter(|i| limiter.allow(&LIMITS, None, Ticks(1_000_000_000 + i * 100_000)))
            .count();
        assert!((295..=300).contains(&sent), "{sent}");
    }

    #[test]
    fn zero_is_unlimited() {
        let mut limiter = Limiter::new(1, 7);
        assert!((0..10_000).all(|_| limiter.allow(&RateLimits::UNLIMITED, None, Ticks(0))));
    }
}
