//! Waiting between attempts.

use std::time::Duration;

use crate::Error;

/// Exponential waiting with jitter, and an end.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
    /// Attempts in a row without progress before giving up.
    pub attempts: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            longest: Duration::from_secs(2),
            attempts: 8,
        }
    }
}

impl Backoff {
    /// The wait before attempt `attempt` (the first retry is 1): half fixed, half random, so that
    /// clients of a restarted dataplane do not return in step. `None`: give up.
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        Some(self.delay_unbounded(attempt))
    }

    /// The same without giving up, for watchers.
    fn delay_unbounded(&self, attempt: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32 << attempt.saturating_sub(1).min(16));
        let full = doubled.min(self.longest);
        full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }
}

/// The reconnections of something that is watched for ever.
#[derive(Debug)]
pub(crate) struct Reconnect {
    attempt: u32,
    backoff: Backoff,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            attempt: 0,
            backoff: Backoff {
                first: Duration::from_millis(100),
                ..Backoff::default()
            },
        }
    }
}

impl Reconnect {
    /// A message came.
    pub(crate) fn progressed(&mut self) {
        self.attempt = 0;
    }

    /// The stream broke, or could not be opened. Says whether the reader is to be told, at once
    /// and once; the waits come before the later attempts. An error that will not go away ends
    /// the watch.
    pub(crate) async fn broken(&mut self, was_open: bool, error: Error) -> Result<bool, Error> {
        // An orderly end after `STREAM_LIFETIME` is as good a reason to open the next stream.
        let expired = error.code() == Some(tonic::Code::DeadlineExceeded);
        if !(error.is_transient() || expired) {
            return Err(error);
        }
        let tell = was_open || self.attempt == 0;
        self.attempt = self.attempt.saturating_add(1);
        if !tell {
            tokio::time::sleep(self.backoff.delay_unbounded(self.attempt)).await;
        }
        Ok(tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_end() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            longest: Duration::from_millis(400),
            attempts: 10,
        };
        for (attempt, full) in [(1, 100), (2, 200), (3, 400), (4, 400), (9, 400)] {
            let wait = backoff.delay(attempt).unwrap();
            assert!(wait <= Duration::from_millis(full), "{attempt}: {wait:?}");
            assert!(
                wait >= Duration::from_millis(full / 2),
                "{attempt}: {wait:?}"
            );
        }
        assert_eq!(backoff.delay(10), None);
        assert!(backoff.delay_unbounded(1_000_000) <= Duration::from_millis(400));
    }
}
