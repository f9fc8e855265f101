//! The service manager: readiness, and a watchdog that is fed only while every packet thread
//! makes progress. A daemon that answers its API but forwards nothing must be restarted too.

use std::sync::Arc;
use std::time::Duration;

use sixferry_service::{NotifyState, tell};

use crate::runtime::Runtime;

/// What of the workers is stuck: those whose turns did not rise since `before`.
pub(crate) fn stuck(before: &[u64], now: &[u64]) -> Vec<usize> {
    let still = before
        .iter()
        .zip(now)
        .enumerate()
        .filter(|(_, (before, now))| before == now);
    still.map(|(worker, _)| worker).collect()
}

/// Feeds the watchdog for ever, if the service manager has one.
pub(crate) async fn watchdog(runtime: Arc<Runtime>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Twice per period, as sd_watchdog_enabled(3) recommends. An idle worker turns at least every
    // few milliseconds: its sleep is bounded.
    let pause = (limit / 2).max(Duration::from_millis(50));
    let turns = || -> Vec<u64> {
        runtime
            .workers
            .iter()
            .map(|worker| worker.stats.report().turns)
            .collect()
    };
    let mut before: Vec<u64> = Vec::new();
    loop {
        let now = turns();
        let stuck = stuck(&before, &now);
        if stuck.is_empty() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(?stuck, "workers make no progress; the watchdog is not fed");
        }
        before = now;
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::stuck;

    #[test]
    fn only_workers_without_progress_are_stuck() {
        assert_eq!(stuck(&[], &[5, 5]), Vec::<usize>::new());
        assert_eq!(stuck(&[5, 5, 7], &[6, 5, 9]), [1]);
    }
}
