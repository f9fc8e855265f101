//! Every packet accounted for: received and injected = forwarded + answered + punted + dropped.

use std::thread;
use std::time::Duration;

use sixferry_proto::dataplane::v1::{CounterReport, PacketsBytes};

use crate::daemon::Daemon;
use crate::wait::wait_for;

/// Longer than any traffic pauses that is still under way.
const STILL: Duration = Duration::from_millis(200);
const SETTLED: Duration = Duration::from_secs(30);
/// Queue counters are published less often than the workers' own.
const PORTS: Duration = Duration::from_secs(30);

/// Both sides of the counter invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Received and injected.
    pub taken_in: u64,
    /// Forwarded, answered, punted and dropped.
    pub accounted: u64,
    /// Dropped alone.
    pub dropped: u64,
    /// Forwarded alone.
    pub forwarded: u64,
}

/// Packets in and packets accounted for, of one set of counters.
#[must_use]
pub fn balance(report: &CounterReport) -> Balance {
    let total = report.total.clone().unwrap_or_default();
    let drops: u64 = total.drops.iter().map(|drop| packets(drop.count)).sum();
    Balance {
        taken_in: packets(total.received) + packets(total.injected),
        accounted: packets(total.forwarded)
            + packets(total.answered)
            + packets(total.punted)
            + drops,
        dropped: drops,
        forwarded: packets(total.forwarded),
    }
}

/// Packets dropped for one reason.
#[must_use]
pub fn dropped_for(report: &CounterReport, reason: &str) -> u64 {
    let drops = report.total.as_ref().map_or(&[][..], |total| &total.drops);
    drops
        .iter()
        .filter(|drop| drop.reason == reason)
        .map(|drop| packets(drop.count))
        .sum()
}

/// Packets handed to the slow path for one reason.
#[must_use]
pub fn punted_for(report: &CounterReport, reason: &str) -> u64 {
    let punts = report.total.as_ref().map_or(&[][..], |total| &total.punts);
    let matching = punts.iter().filter(|punt| punt.reason == reason);
    matching.map(|punt| punt.packets).sum()
}

/// Waits until the counters stand still, then demands that no packet is missing: in total, of
/// each worker, between workers and rings, and in the slow path.
///
/// # Panics
/// When one is.
pub fn assert_every_packet_accounted_for(daemon: &Daemon) -> CounterReport {
    let report = settled(daemon);
    let total = balance(&report);
    assert_eq!(total.taken_in, total.accounted, "{total:?}");
    for worker in &report.workers {
        let one = balance(&CounterReport {
            total: Some(worker.clone()),
            ..Default::default()
        });
        assert_eq!(one.taken_in, one.accounted, "worker {:?}", worker.worker);
    }
    assert_ports_agree(daemon, &report);
    let slow = report.slow_path.clone().unwrap_or_default();
    let given_up: u64 = slow.drops.iter().map(|drop| packets(drop.count)).sum();
    let kept = slow.reinjected + slow.delivered + slow.merged + slow.held;
    assert_eq!(slow.taken, kept + given_up, "{slow:?}");
    report
}

/// Reads the counters until two readings agree.
fn settled(daemon: &Daemon) -> CounterReport {
    let mut last = daemon.api().counters();
    let still = wait_for(SETTLED, || {
        thread::sleep(STILL);
        let now = daemon.api().counters();
        let (before, after) = (balance(&last), balance(&now));
        last.clone_from(&now);
        (before == after && after.taken_in == after.accounted).then_some(now)
    });
    still.map_or(last, |(report, _)| report)
}

/// The rings saw what the workers counted, in and out.
fn assert_ports_agree(daemon: &Daemon, report: &CounterReport) {
    let total = report.total.clone().unwrap_or_default();
    let slow_path = report.slow_path.clone().unwrap_or_default();
    let wanted = (
        packets(total.received),
        packets(total.forwarded) + packets(total.answered) + slow_path.transmitted,
    );
    let mut seen = (0, 0);
    let agreed = wait_for(PORTS, || {
        let ports = daemon.api().ports();
        let counters = || ports.iter().filter_map(|port| port.counters);
        seen = (
            counters().map(|port| packets(port.received)).sum(),
            counters().map(|port| packets(port.sent)).sum(),
        );
        (seen == wanted).then_some(())
    });
    assert!(
        agreed.is_some(),
        "in and out: ports {seen:?}, workers {wanted:?}"
    );
}

/// The packets of a counter; zero when it is not there.
#[must_use]
pub fn packets(count: Option<PacketsBytes>) -> u64 {
    count.unwrap_or_default().packets
}
