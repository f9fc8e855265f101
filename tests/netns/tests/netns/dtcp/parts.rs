//! The control plane's daemon as a process: how it stops, and its parts in two of them.

use sixferry_netns_tests::login::Login;

use super::*;

#[test]
#[ignore = "needs root"]
fn dtcp_43_stop_tells_everybody_leaves_nothing_and_the_port_is_free_at_once() {
    let mut service = Service::start(&[ALICE, BOB]);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let client = alice.log_in("-l --retry-max 1 -t network -P lo/1/1");
    let mut session = Login::connect(&bob.net, bob.outer);
    let reply = session.tunnel(BOB.0, &secret(BOB.0), "host");
    assert!(reply.starts_with("+OK "), "{reply}");
    assert_eq!(service.carried(), 2);
    let status = service.control.process().stop(SOON);
    assert!(status.success(), "{status}");
    assert_eq!(service.carried(), 0);
    let told = session.try_line().expect("a word");
    assert!(told.starts_with("-ERR "), "{told}");
    assert!(session.try_line().is_err(), "then it is closed");

    service.control.start_again(&service.lab.relay);
    wait_until("she is back", PATIENCE, || {
        service.control.sessions().len() == 1 && service.carried() == 1
    });
    wait_until("packets pass", PATIENCE, || reaches(&alice.net, HOST_V6));
    client.log_out();
    service.nothing_is_left();
}

/// The lifecycle in one process, the DTCP server in another: that one may be killed, and who logs in
/// again in time is not interrupted.
#[test]
#[ignore = "needs root"]
fn parts_alone_work_together_and_a_killed_one_is_waited_for() {
    let lifecycle = "grace_seconds = 6\ntunnels_per_user = 0";
    let config = ControlConfig::default()
        .lifecycle(lifecycle)
        .dtcp(&dtcp_keys(""))
        .only_lifecycle();
    let service = Service::start_with(&[ALICE], &config);
    let config = ControlConfig::default()
        .lifecycle(lifecycle)
        .dtcp(&dtcp_keys(""))
        .only_dtcp(&service.control.socket());
    let relay = &service.lab.relay;
    let mut dtcp = Control::start(relay, &service.daemon, &config);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let mut client = alice.log_in("-l --retry-max 1 -t network -P lo/1/1");
    let flows = Flows::start(&service, &alice, inner(&alice, ALICE));
    dtcp.kill();
    dtcp.start_again(relay);
    wait_until("she has her tunnel again", PATIENCE, || {
        let resumed = service
            .control
            .metric(relay, "sixferry_control_resumed_total");
        dtcp.sessions().len() == 1 && resumed == Some(1.0)
    });
    flows.expect_no_loss(ALICE.0);
    // Nobody comes back this time.
    dtcp.kill();
    client.process().kill();
    assert_eq!(service.carried(), 1);
    wait_until("the grace time is over", PATIENCE, || {
        service.carried() == 0
    });
    let tunnels = service.control.tunnels();
    assert!(tunnels.is_empty(), "{tunnels:?}");
}
