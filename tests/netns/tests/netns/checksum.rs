//! What checksum offload of a virtual peer does to a relay (P41-66).
//!
//! A kernel sender on veth leaves only the pseudo-header sum in the checksum field. A relay takes
//! the bytes as they are: what it encapsulates is then corrupt, and the receiver must notice.
//! Hence every lab here switches the offload off; this test shows that it matters.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use sixferry_netns_tests::link::no_offload;
use sixferry_netns_tests::tcp::{Server, bulk};
use sixferry_netns_tests::topology::{LabPlan, USER_V6};
use sixferry_netns_tests::{Net, wait_until};

use crate::started;

#[test]
#[ignore = "needs root"]
fn veth_checksum_offload_corrupts_and_is_noticed() {
    let plan = LabPlan::new().keep_tx_offload();
    let Some((_daemon, lab)) = started(&plan, "auto", 1280) else {
        return;
    };
    let before = checksum_errors(&lab.user);
    let server = Server::listen(&lab.user, USER_V6);
    let to = server.address;
    let attempt = lab
        .host
        .enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(4)));
    assert!(attempt.is_err(), "a SYN with half a checksum was accepted");
    wait_until(
        "the receiver counts a bad checksum",
        Duration::from_secs(30),
        || checksum_errors(&lab.user) > before,
    );

    no_offload(&lab.host, "eth0");
    bulk(&lab.host, &lab.user, USER_V6, 1 << 20).expect("TCP with whole checksums");
}

/// TCP segments with a bad checksum that a namespace has received.
fn checksum_errors(net: &Net) -> u64 {
    let table = net
        .enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))
        .expect("snmp");
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let column = names
        .split(' ')
        .position(|name| name == "InCsumErrors")
        .expect("the counter");
    values
        .split(' ')
        .nth(column)
        .and_then(|value| value.parse().ok())
        .expect("a number")
}
