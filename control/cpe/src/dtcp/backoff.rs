//! The pause between two attempts.
//!
//! A session that was up for a while and broke is most often a server that restarts: its clients come
//! back within a second, spread over it. What fails again and again, or is up only for moments (two
//! clients that push each other out), waits twice as long each time, with jitter so that no crowd stays
//! in step.

use std::time::Duration;

use rand::RngExt;

/// A session that lasted this long was a good one: the next pause is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// The first pause is spread over this.
const FIRST: Duration = Duration::from_secs(1);
/// A refusal is rarely lifted at once, and servers count failures.
const FIRST_REFUSED: Duration = Duration::from_secs(10);
/// The longest pause after refusals is so much longer: a refused user costs the server work.
const REFUSED_FACTOR: u32 = 10;

/// How often it failed.
#[derive(Debug)]
pub(super) struct Backoff {
    max: Duration,
    failures: u32,
    refusals: u32,
    was_up: bool,
}

impl Backoff {
    pub(super) const fn new(max: Duration) -> Self {
        Self {
            max,
            failures: 0,
            refusals: 0,
            was_up: false,
        }
    }

    /// Whether no session ever came up.
    pub(super) const fn never_up(&self) -> bool {
        !self.was_up
    }

    /// A session is up.
    pub(super) fn came_up(&mut self) {
        self.was_up = true;
        self.refusals = 0;
    }

    /// A session, or an attempt at one, ended after being up for so long.
    pub(super) fn lost(&mut self, up_for: Option<Duration>) -> Duration {
        if up_for.is_some_and(|up_for| up_for >= GOOD_SESSION) {
            self.failures = 0;
        }
        let whole = doubled(FIRST, self.failures).min(self.max);
        let least = if self.failures == 0 {
            Duration::ZERO
        } else {
            whole / 2
        };
        self.failures = self.failures.saturating_add(1);
        jitter(least, whole)
    }

    /// The server said no.
    pub(super) fn refused(&mut self) -> Duration {
        let whole = doubled(FIRST_REFUSED.min(self.max), self.refusals);
        let whole = whole.min(self.max.saturating_mul(REFUSED_FACTOR));
        self.refusals = self.refusals.saturating_add(1);
        jitter(whole / 2, whole)
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times.min(16)).unwrap_or(u32::MAX))
}

fn jitter(from: Duration, to: Duration) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(from.as_secs_f64()..=to.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_grow_to_the_limit_and_a_good_session_ends_that() {
        let mut backoff = Backoff::new(MAX);
        assert!(backoff.never_up());
        assert!(backoff.lost(None) <= FIRST);
        for n in 1..10_u32 {
            let whole = Duration::from_secs(1 << n).min(MAX);
            let pause = backoff.lost(None);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?}");
        }
        backoff.came_up();
        assert!(!backoff.never_up());
        assert!(backoff.lost(Some(Duration::from_secs(1))) >= MAX / 2);
        assert!(backoff.lost(Some(GOOD_SESSION)) <= FIRST);
    }

    #[test]
    fn a_refused_client_asks_less_and_less_often() {
        let mut backoff = Backoff::new(MAX);
        let first = backoff.refused();
        assert!(first >= FIRST_REFUSED / 2 && first <= FIRST_REFUSED);
        for _ in 0..40 {
            assert!(backoff.refused() <= MAX * REFUSED_FACTOR);
        }
        assert!(backoff.refused() >= MAX * REFUSED_FACTOR / 2);
        backoff.came_up();
        assert!(backoff.refused() <= FIRST_REFUSED);
        let quick = Duration::from_millis(100);
        assert!(Backoff::new(quick).refused() <= quick);
    }

    #[test]
    fn no_two_clients_come_back_in_step() {
        let pause = || Backoff::new(MAX).lost(Some(GOOD_SESSION));
        let first = pause();
        assert!((0..50).any(|_| pause() != first));
    }
}
