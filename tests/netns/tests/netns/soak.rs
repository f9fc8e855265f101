//! Mixed traffic, good and bad, and then every packet accounted for (P41-67).
//!
//! 20 seconds in `make test`; `make soak` sets `SIXFERRY_SOAK_SECONDS` to 600.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sixferry_netns_tests::Ping;
use sixferry_netns_tests::daemon::Daemon;
use sixferry_netns_tests::flow::{FlowReport, UdpFlow};
use sixferry_netns_tests::ledger::{assert_every_packet_accounted_for, balance, dropped_for};
use sixferry_netns_tests::raw::{RawIpv4, echo_request, send_ipv6, send_spoofed};
use sixferry_netns_tests::tcp::bulk;
use sixferry_netns_tests::topology::{
    GUEST_INNER, GUEST_V4, HOST_V6, Lab, LabPlan, PLAIN_V4, RELAY_INNER, RELAY_V4, USER_V6,
};
use sixferry_netns_tests::wait::wait_for;

use crate::started;

const DEFAULT_SECONDS: u64 = 20;

#[test]
#[ignore = "needs root"]
fn counter_invariant_after_mixed_traffic() {
    let seconds = std::env::var("SIXFERRY_SOAK_SECONDS")
        .ok()
        .map_or(DEFAULT_SECONDS, |text| {
            text.parse()
                .expect("SIXFERRY_SOAK_SECONDS is a number of seconds")
        });
    let Some((daemon, lab)) = started(&LabPlan::new(), "auto", 1280) else {
        return;
    };
    let warm = Ping::to(HOST_V6).from(&lab.user);
    assert!(warm.complete(), "{}\n{}", warm.text, daemon.log());

    let up = UdpFlow::start((&lab.user, USER_V6), (&lab.host, HOST_V6), 64, 700);
    let down = UdpFlow::start((&lab.host, HOST_V6), (&lab.user, USER_V6), 1200, 700);
    let stop = AtomicBool::new(false);
    let transfers = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| bulk_loop(&lab, &stop, &transfers));
        scope.spawn(|| odd_packets_loop(&lab, &stop));
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let ping = Ping::to(GUEST_INNER).count(5).from(&lab.host);
            if !ping.complete() || !daemon_runs(&daemon) {
                stop.store(true, Ordering::Release);
                panic!("{}\n{}", ping.text, daemon.log());
            }
        }
        stop.store(true, Ordering::Release);
    });
    let (up, down) = (up.stop(), down.stop());

    assert!(transfers.load(Ordering::Acquire) >= 2, "TCP went both ways");
    assert_flow("to the host", &up);
    assert_flow("to the user", &down);
    let report = assert_every_packet_accounted_for(&daemon);
    let settled = balance(&report);
    assert!(
        settled.forwarded >= up.received + down.received,
        "{settled:?}"
    );
    for reason in [
        "NO_TUNNEL",
        "INNER_SRC_SPOOF",
        "V6_SRC_SPOOF_NATIVE",
        "INNER_TRUNCATED",
    ] {
        assert!(
            dropped_for(&report, reason) > 0,
            "{reason} was provoked: {report:?}"
        );
    }
}

fn daemon_runs(daemon: &Daemon) -> bool {
    daemon.api().info().is_ok()
}

/// At these rates a healthy path loses nothing; a busy two-core machine may cost the guest a few.
fn assert_flow(name: &str, report: &FlowReport) {
    assert!(
        report.sent > 0 && report.duplicated == 0,
        "{name}: {report:?}"
    );
    assert!(
        report.lost_packets() * 1000 <= report.sent,
        "{name}: more than 0.1 % lost {report:?}"
    );
}

fn bulk_loop(lab: &Lab, stop: &AtomicBool, transfers: &AtomicU64) {
    while !stop.load(Ordering::Acquire) {
        bulk(&lab.user, &lab.host, HOST_V6, 1 << 20).expect("TCP from the user");
        bulk(&lab.host, &lab.user, USER_V6, 1 << 20).expect("TCP to the user");
        transfers.fetch_add(2, Ordering::AcqRel);
    }
}

/// Spoofed, truncated, oversized, expiring: each must be counted somewhere.
fn odd_packets_loop(lab: &Lab, stop: &AtomicBool) {
    let stranger = RawIpv4::protocol_41(&lab.user, PLAIN_V4);
    let as_guest = |inner: &[u8]| send_spoofed(&lab.user, GUEST_V4, RELAY_V4, inner);
    while !stop.load(Ordering::Acquire) {
        stranger.send(RELAY_V4, &echo_request(GUEST_INNER, HOST_V6, 64));
        as_guest(&echo_request(HOST_V6, HOST_V6, 64));
        as_guest(&echo_request(GUEST_INNER, HOST_V6, 1));
        as_guest(&[0x60, 0, 0, 0]);
        send_ipv6(&lab.host, USER_V6, &echo_request(USER_V6, USER_V6, 64));
        send_ipv6(&lab.host, USER_V6, &echo_request(HOST_V6, USER_V6, 1));
        let _ = Ping::to(RELAY_INNER).packet_len(1281).from(&lab.host);
        let _ = wait_for(Duration::from_millis(20), || {
            stop.load(Ordering::Acquire).then_some(())
        });
    }
}
