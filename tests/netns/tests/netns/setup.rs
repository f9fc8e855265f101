//! What cannot work is refused at the start: one line with cause and fix, exit code 2.

use std::os::unix::net::UnixListener;

use sixferry_netns_tests::Ping;
use sixferry_netns_tests::daemon::{Daemon, DaemonConfig, home};
use sixferry_netns_tests::link::attach_foreign_xdp;
use sixferry_netns_tests::topology::{HOST_V6, RELAY_V4, RELAY_V6};
use sixferry_netns_tests::topology::{Lab, LabPlan};

fn lab() -> Lab {
    LabPlan::new()
        .without_guest()
        .build()
        .expect("a lab without a guest")
}

#[test]
#[ignore = "needs root"]
fn second_daemon_on_same_interface_refused() {
    let lab = lab();
    let config = DaemonConfig::of_lab(&lab, "auto", 1280);
    let daemon = Daemon::start(&lab.relay, &config);
    Daemon::refused(&lab.relay, &config).expect(&["wan"]);
    // The first one has not noticed.
    daemon.api().info().expect("the first daemon still serves");
    assert!(
        lab.relay.ip("link show wan").contains("xdp"),
        "its program is still there"
    );
    assert!(Ping::to(RELAY_V4).from(&lab.user).complete());
}

#[test]
#[ignore = "needs root"]
fn foreign_xdp_program_refused() {
    let lab = lab();
    attach_foreign_xdp(&lab.relay, "wan");
    Daemon::refused(&lab.relay, &DaemonConfig::of_lab(&lab, "auto", 1280)).expect(&["wan", "xdp"]);
    assert!(
        lab.relay.ip("link show wan").contains("xdp"),
        "the foreign program is still there"
    );
}

#[test]
#[ignore = "needs root"]
fn missing_interface_refused() {
    let lab = lab();
    let config = DaemonConfig::default().port("nosuch0", "");
    Daemon::refused(&lab.relay, &config).expect(&["nosuch0"]);
}

/// Root without a single capability is nobody to the kernel; unlike another user it can still
/// read the program wherever it was built.
#[test]
#[ignore = "needs root"]
fn no_privileges_refused() {
    let lab = lab();
    let home = home();
    let nobody = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--",
    ];
    let config = DaemonConfig::of_lab(&lab, "auto", 1280);
    let refusal = Daemon::refused_in(&lab.relay, &config, home.path(), &nobody);
    refusal.expect(&["cap_net_admin"]);
    assert!(!lab.relay.ip("link show wan").contains("xdp"));
}

#[test]
#[ignore = "needs root"]
fn api_socket_in_use_refused() {
    let lab = lab();
    let home = home();
    let _holder = UnixListener::bind(home.path().join("api.sock")).expect("a socket");
    let config = DaemonConfig::of_lab(&lab, "auto", 1280);
    Daemon::refused_in(&lab.relay, &config, home.path(), &[]).expect(&["api.sock"]);
}

#[test]
#[ignore = "needs root"]
fn overlapping_tunnels_refused() {
    let lab = lab();
    let config = DaemonConfig::of_lab(&lab, "auto", 1280).section(
        "[[tunnel]]\nid = \"other\"\nlocal = \"198.51.100.1\"\nremote = \"192.0.2.77\"\n\
         prefixes = [\"2001:db8:100::/48\"]",
    );
    Daemon::refused(&lab.relay, &config).expect(&["2001:db8:100::/48", "lab"]);
}

/// A daemon that was killed leaves a socket file and busy queues behind: the next one starts.
#[test]
#[ignore = "needs root"]
fn restart_after_kill_needs_no_cleaning() {
    let lab = lab();
    let config = DaemonConfig::of_lab(&lab, "auto", 1280);
    for _ in 0..3 {
        let mut daemon = Daemon::start(&lab.relay, &config);
        daemon.process().kill();
    }
    let daemon = Daemon::start(&lab.relay, &config);
    daemon.api().info().expect("an answer");
    assert!(Ping::to(RELAY_V6).from(&lab.host).complete());
    assert!(Ping::to(HOST_V6).from(&lab.relay).complete());
}

#[test]
#[ignore = "needs root"]
fn sigterm_detaches_and_exits_cleanly() {
    let lab = lab();
    let mut daemon = Daemon::start(&lab.relay, &DaemonConfig::of_lab(&lab, "auto", 1280));
    let status = daemon.process().stop(std::time::Duration::from_secs(10));
    assert!(status.success(), "{status}\n{}", daemon.log());
    assert!(!lab.relay.ip("link show wan").contains("xdp"));
    assert!(!daemon.socket().exists(), "the socket is removed");
}
