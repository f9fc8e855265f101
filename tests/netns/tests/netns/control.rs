//! A controller may crash or start over: no packet of a tunnel it does not touch is lost.

use std::time::Duration;

use sixferry_netns_tests::Ping;
use sixferry_netns_tests::api::{Api, delete, ip_prefix, tunnel, upsert};
use sixferry_netns_tests::daemon::{Daemon, DaemonConfig};
use sixferry_netns_tests::flow::UdpFlow;
use sixferry_netns_tests::process::Guarded;
use sixferry_netns_tests::topology::{
    GUEST_V4, HOST_V6, LINK_PREFIX, Lab, LabPlan, RELAY_INNER, RELAY_V4, USER_PREFIX, USER_V6,
};
use sixferry_proto::dataplane::v1::{Tunnel, TunnelUpdate};

use crate::started;

const RATE: u32 = 500;
/// What one batch may hold.
const BATCH: usize = 512;
/// Tunnels re-synced under traffic; a million are loaded by the benches.
const MANY: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(30);

struct Flows {
    up: UdpFlow,
    down: UdpFlow,
}

impl Flows {
    fn start(lab: &Lab) -> Self {
        let ping = Ping::to(HOST_V6).count(2).from(&lab.user);
        assert!(ping.complete(), "{}", ping.text);
        let up = UdpFlow::start((&lab.user, USER_V6), (&lab.host, HOST_V6), 200, RATE);
        let down = UdpFlow::start((&lab.host, HOST_V6), (&lab.user, USER_V6), 200, RATE);
        up.wait_received(u64::from(RATE) / 2, PATIENCE);
        Self { up, down }
    }

    fn expect_no_loss(self) {
        for (name, flow) in [("up", self.up), ("down", self.down)] {
            flow.wait_received(u64::from(RATE) / 2, PATIENCE);
            let report = flow.stop();
            assert!(
                report.lost.is_empty() && report.duplicated == 0,
                "{name}: {report:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn control_crash_mid_stream_loses_nothing() {
    let Some((daemon, lab)) = started(&LabPlan::new(), "auto", 1280) else {
        return;
    };
    let flows = Flows::start(&lab);
    let socket = daemon.socket();
    for run in 0..3 {
        let log = daemon.home().join(format!("programmer-{run}"));
        let words = [
            env!("CARGO_BIN_EXE_sixferry-netns-programmer"),
            socket.to_str().expect("a plain path"),
            "crasher",
            "5000",
        ];
        let mut controller = Guarded::spawn("controller", &[], &words, &log);
        // One round through, so that it is in the middle of replacing all of them.
        controller.wait_for_log("round 0", PATIENCE);
        controller.kill();
        assert_eq!(daemon.api().info().expect("an answer").tunnel_count, 5001);
    }
    flows.expect_no_loss();

    // Its successor starts over with one tunnel: the rest is swept, the lab's own is not its.
    let api = daemon.api();
    let session = api.open_session("crasher", u64::MAX).expect("a session");
    let generation = api.begin_sync(&session).expect("a re-sync");
    api.program(&session, vec![vec![upsert(far(0, 1))]])
        .expect("one tunnel");
    let swept = api
        .commit_sync(&session, generation)
        .expect("a commit")
        .swept_tunnels;
    assert_eq!(swept, 4999);
    assert_eq!(api.info().expect("an answer").tunnel_count, 2);
    let ping = Ping::to(HOST_V6).count(2).from(&lab.user);
    assert!(ping.complete(), "{}", ping.text);
}

#[test]
#[ignore = "needs root"]
fn resync_with_one_changed_loses_nothing() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let daemon = Daemon::start(&lab.relay, &DaemonConfig::ports_of_lab(&lab, "auto"));
    let api = daemon.api();
    let session = api.open_session("lifecycle", 1).expect("a session");
    load(api, &session, 1);
    assert_eq!(
        api.info().expect("an answer").tunnel_count,
        u64::from(MANY) + 1
    );

    let flows = Flows::start(&lab);
    // The same controller again, as after its restart: everything asserted, one changed.
    let session = api.open_session("lifecycle", 2).expect("a session");
    let generation = api.begin_sync(&session).expect("a re-sync");
    load(api, &session, 2);
    let done = api.commit_sync(&session, generation).expect("a commit");
    assert_eq!(done.swept_tunnels, 0);
    let changed = api.tunnel("bulk-0").expect("the changed tunnel");
    assert_eq!(changed.remote, far(0, 2).remote);
    // And one taken out.
    api.program(&session, vec![vec![delete("bulk-1")]])
        .expect("a deletion");
    flows.expect_no_loss();
    assert_eq!(api.info().expect("an answer").tunnel_count, u64::from(MANY));
}

#[test]
#[ignore = "needs root"]
fn tunnel_programmed_over_grpc_forwards_and_its_deletion_stops_it() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let daemon = Daemon::start(&lab.relay, &DaemonConfig::ports_of_lab(&lab, "auto"));
    let api = daemon.api();
    let before = Ping::to(HOST_V6).from(&lab.user);
    assert_eq!(before.received, 0, "{}", before.text);
    let session = api.open_session("lifecycle", 1).expect("a session");
    api.program(&session, vec![vec![upsert(near())]])
        .expect("a tunnel");
    let during = Ping::to(HOST_V6).count(3).from(&lab.user);
    assert!(during.complete(), "{}\n{}", during.text, daemon.log());
    api.program(&session, vec![vec![delete("near")]])
        .expect("a deletion");
    let after = Ping::to(HOST_V6).from(&lab.user);
    assert_eq!(after.received, 0, "{}", after.text);
}

/// All of a controller's tunnels; `version` changes the first of the far ones.
fn load(api: &Api, session: &str, version: u32) {
    let mut updates = vec![upsert(near())];
    updates.extend((0..MANY).map(|n| upsert(far(n, if n == 0 { version } else { 1 }))));
    let batches: Vec<Vec<TunnelUpdate>> = updates.chunks(BATCH).map(<[_]>::to_vec).collect();
    let answers = api.program(session, batches).expect("the tunnels");
    let failed = answers.iter().find(|answer| !answer.failures.is_empty());
    assert!(failed.is_none(), "{failed:?}");
}

/// The guest's tunnel.
fn near() -> Tunnel {
    let mut tunnel = tunnel("near", RELAY_V4, GUEST_V4, USER_PREFIX);
    tunnel.link_prefix = Some(ip_prefix(LINK_PREFIX));
    tunnel.link_address = RELAY_INNER.octets().to_vec();
    tunnel
}

/// One of many to nowhere; `version` 1 or 2 is part of its remote address.
fn far(n: u32, version: u32) -> Tunnel {
    let remote = std::net::Ipv4Addr::from((9 + version) << 24 | n);
    tunnel(
        &format!("bulk-{n}"),
        RELAY_V4,
        remote,
        &format!("2001:db8:4000:{n:x}::/64"),
    )
}
