//! The wall clock of the records, replaceable: tests have time stand still and jump.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time in microseconds since 1970 UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(pub(crate) fn() -> i64);

impl Default for Clock {
    fn default() -> Self {
        Self(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
        })
    }
}

impl Clock {
    pub(crate) fn now(self) -> i64 {
        (self.0)()
    }
}
