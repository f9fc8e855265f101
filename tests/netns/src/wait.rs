//! Waiting for a condition instead of sleeping for a guess.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at: short enough not to blur a one-second deadline.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds and says how long that took.
///
/// # Panics
/// When it does not hold within `timeout`; the message names `what`.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    match wait_for(timeout, || condition().then_some(())) {
        Some(((), took)) => took,
        None => panic!("waited {timeout:?} in vain: {what}"),
    }
}

/// Waits until `probe` gives a value; `None` when `timeout` ends first.
pub fn wait_for<T>(
    timeout: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Option<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Some((value, start.elapsed()));
        }
        if start.elapsed() >= timeout {
            return None;
        }
        thread::sleep(POLL);
    }
}
