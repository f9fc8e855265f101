//! What is for the relay itself: echo, neighbour discovery, host delivery.

use crate::{icmp_of, inner_header};
use sixferry_fwd::{DropReason, PortId, PuntReason, Route, RouteSource, Settings, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, LINK_A, OUTSIDE, REMOTE_A, ROUTER, Relay, USER_A, echo, icmp, udp, v6,
};
use sixferry_wire::icmpv6;

#[test]
fn echo_is_answered_on_every_own_address() {
    let mut relay = Relay::new();
    for dst in [LINK_A, ROUTER, "fe80::c633:6401"] {
        let request = echo(USER_A, dst);
        let sent = relay.tunnelled(REMOTE_A, &request);
        assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE), "{dst}");
        let reply = &sent.ip()[20..];
        assert_eq!(icmp_of(reply).0, icmpv6::ECHO_REPLY);
        assert_eq!(
            (inner_header(reply).src(), inner_header(reply).dst()),
            (u128::from(v6(dst)), u128::from(v6(USER_A)))
        );
        assert_eq!(reply[44..], request[44..], "identifier, sequence and data");
    }
    let sent = relay.native(&echo(HOST, LINK_A));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    let sent = relay.tunnelled(REMOTE_A, &echo("fe80::1", "fe80::c633:6401"));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
}

#[test]
fn damaged_echo_stays_damaged() {
    let mut relay = Relay::new();
    let mut request = echo(USER_A, LINK_A);
    *request.last_mut().expect("data") ^= 1;
    let sent = relay.tunnelled(REMOTE_A, &request);
    let reply = &sent.ip()[20..];
    let header = inner_header(reply);
    assert!(!icmpv6::checksum_ok(
        header.src(),
        header.dst(),
        &reply[40..]
    ));
}

#[test]
fn echo_reply_larger_than_the_tunnel_is_not_sent() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.mtu = 1280);
    let mut message = vec![128, 0, 0, 0, 0, 1, 0, 1];
    message.resize(1400, 0x5a);
    let sent = relay.tunnelled(REMOTE_A, &icmp(USER_A, LINK_A, 64, &message));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6TooBig));
    message.truncate(1280 - 40);
    let sent = relay.tunnelled(REMOTE_A, &icmp(USER_A, LINK_A, 64, &message));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
}

#[test]
fn other_packets_for_the_relay_need_a_subscriber() {
    let mut relay = Relay::new();
    let packet = udp(USER_A, LINK_A, 64, 8);
    let sent = relay.tunnelled(REMOTE_A, &packet);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::HostPortAbsent));
    let settings = relay.builder.settings().clone();
    let punt_subscriptions = 1 << PuntReason::HostDelivery.index();
    relay.builder.set_settings(Settings {
        punt_subscriptions,
        ..settings
    });
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &packet);
    assert_eq!(sent.verdict, Verdict::Punt(PuntReason::HostDelivery));
    assert_eq!(sent.punt.tunnel, Some(relay.a));
    assert_eq!(sent.frame, packet, "the bare packet");
}

/// An operator pings a user from the relay host, whose address is the router's as well.
#[test]
fn the_hosts_own_echo_replies_reach_it_by_the_host_port() {
    let mut relay = Relay::new();
    let reply = icmp(USER_A, ROUTER, 64, &[129, 0, 0, 0, 0, 1, 0, 1]);
    let probe = Verdict::Drop(DropReason::ProbeReply);
    assert_eq!(relay.tunnelled(REMOTE_A, &reply).verdict, probe);
    let host = format!("{ROUTER}/128").parse().expect("prefix");
    let kernel = RouteSource::Kernel;
    relay.builder.set_route6(host, kernel, Route::Local);
    relay.publish();
    assert_eq!(relay.tunnelled(REMOTE_A, &reply).verdict, probe);
    let settings = relay.builder.settings().clone();
    relay.builder.set_settings(Settings {
        punt_subscriptions: 1 << PuntReason::HostDelivery.index(),
        host_port: Some(PortId(2)),
        ..settings
    });
    relay.publish();
    let delivered = Verdict::Punt(PuntReason::HostDelivery);
    assert_eq!(relay.tunnelled(REMOTE_A, &reply).verdict, delivered);
    let asked = relay.tunnelled(REMOTE_A, &echo(USER_A, ROUTER));
    assert_eq!(
        asked.verdict,
        Verdict::Answer(OUTSIDE),
        "still answered here"
    );
}

/// A neighbour solicitation, options as given.
fn solicitation(src: &str, dst: &str, target: &str, hop_limit: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&v6(target).octets());
    message.extend_from_slice(options);
    icmp(src, dst, hop_limit, &message)
}

#[test]
fn solicitations_are_answered_or_refused_by_the_book() {
    let mut relay = Relay::new();
    let own = "fe80::c633:6401";
    let answered = relay.tunnelled(REMOTE_A, &solicitation("fe80::9", own, own, 255, &[]));
    assert_eq!(answered.verdict, Verdict::Answer(OUTSIDE));
    let advert = &answered.ip()[20..];
    assert_eq!(
        (icmp_of(advert).0, icmp_of(advert).2),
        (136, 0xc000_0000),
        "R and S, no O"
    );
    assert_eq!(advert.len(), 64, "no option");
    assert_eq!(inner_header(advert).hop_limit(), 255);
    // to the solicited-node address, for the link address
    let node = "ff02::1:ff00:1";
    let sent = relay.tunnelled(REMOTE_A, &solicitation("fe80::9", node, LINK_A, 255, &[]));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    let invalid = Verdict::Drop(DropReason::NdInvalid);
    let cases = [
        solicitation("fe80::9", own, own, 254, &[]),
        solicitation("fe80::9", own, "ff02::1", 255, &[]),
        solicitation("fe80::9", own, own, 255, &[1, 0, 0, 0, 0, 0, 0, 0]),
        solicitation("fe80::9", own, own, 255, &[1, 2, 0, 0, 0, 0, 0, 0]),
        solicitation("fe80::9", own, own, 255, &[1]),
    ];
    for (i, packet) in cases.iter().enumerate() {
        assert_eq!(
            relay.tunnelled(REMOTE_A, packet).verdict,
            invalid,
            "case {i}"
        );
    }
    let mut damaged = solicitation("fe80::9", own, own, 255, &[]);
    damaged[42] ^= 1;
    assert_eq!(relay.tunnelled(REMOTE_A, &damaged).verdict, invalid);
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.drops, [(DropReason::NdInvalid, 6)]);
    let stranger = solicitation("fe80::9", own, "fe80::1234", 255, &[]);
    let sent = relay.tunnelled(REMOTE_A, &stranger);
    // with a link-local source only what concerns this link is looked at
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6SrcScope));
}

#[test]
fn duplicate_address_probe_is_defended_only_for_own_addresses() {
    let mut relay = Relay::new();
    let own = "fe80::c633:6401";
    let sent = relay.tunnelled(
        REMOTE_A,
        &solicitation("::", "ff02::1:ff33:6401", own, 255, &[]),
    );
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    let advert = &sent.ip()[20..];
    assert_eq!(inner_header(advert).dst(), u128::from(v6("ff02::1")));
    assert_eq!(icmp_of(advert).2, 0x8000_0000, "not solicited");
    let sent = relay.tunnelled(
        REMOTE_A,
        &solicitation("::", "ff02::1:ff00:9", "fe80::9", 255, &[]),
    );
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6SrcInvalid));
}
