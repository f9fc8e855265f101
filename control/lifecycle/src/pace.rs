//! Log lines about what somebody else can cause as often as he likes.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Least time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line of a kind through per interval and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Passed>);

#[derive(Debug, Default)]
struct Passed {
    last: Option<Instant>,
    suppressed: u64,
}

impl Pace {
    /// Whether to log now, and then how many lines were left out since the last one.
    pub(crate) fn allow(&self) -> Option<u64> {
        let now = Instant::now();
        let mut passed = self.0.lock();
        if passed.last.is_some_and(|last| now - last < INTERVAL) {
            passed.suppressed += 1;
            return None;
        }
        passed.last = Some(now);
        Some(std::mem::take(&mut passed.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_an_interval_and_the_others_are_counted() {
        let pace = Pace::default();
        let allowed = |times| (0..times).filter_map(|_| pace.allow()).collect::<Vec<_>>();
        assert_eq!(allowed(100), [0]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(allowed(2), [99]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(allowed(1), [1]);
    }
}
