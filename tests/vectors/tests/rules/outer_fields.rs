//! What the outer header says, and what becomes of it at the exit.

use crate::{icmp_of, inner_header, outer_header, with_class};
use sixferry_fwd::{DropReason, Dscp, Ecn, MtuMode, NextHop, Ttl, TunnelSpec, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, Relay, USER_A, USER_B, ethernet, outer, udp,
};
use sixferry_wire::{ether, icmpv6, ipv4};

#[test]
fn new_tunnel_has_the_rfc_defaults() {
    let spec = TunnelSpec::new(LOCAL, REMOTE_A);
    assert_eq!((spec.mtu, spec.mtu_mode), (1280, MtuMode::Static));
    assert_eq!(
        (spec.ttl, spec.dscp, spec.ecn),
        (Ttl::Fixed(64), Dscp::Fixed(0), Ecn::Normal)
    );
    assert!(spec.strict_source && spec.up && !spec.dscp_decap_copy);
    let mut relay = Relay::new();
    relay.change(relay.b, |spec| spec.mtu = 1280);
    let sent = relay.native(&udp(HOST, USER_B, 64, 100));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    assert_eq!(
        outer_header(sent.ip()).fragment_word(),
        0,
        "DF is never set"
    );
    assert_eq!(outer_header(sent.ip()).identification(), 0x1234);
}

#[test]
fn managed_mtu_sets_df_and_id_zero() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.mtu_mode = MtuMode::Managed);
    let sent = relay.native(&udp(HOST, USER_A, 64, 100));
    let header = outer_header(sent.ip());
    assert_eq!(
        (header.fragment_word(), header.identification()),
        (ipv4::DF, 0)
    );
    let sent = relay.native(&udp(HOST, USER_A, 64, 1481 - 48));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    assert_eq!(icmp_of(sent.ip()), (icmpv6::PACKET_TOO_BIG, 0, 1480));
}

#[test]
fn ttl_fixed_and_inherited() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.ttl = Ttl::Fixed(7));
    assert_eq!(
        outer_header(relay.native(&udp(HOST, USER_A, 33, 8)).ip()).ttl(),
        7
    );
    relay.change(relay.a, |spec| spec.ttl = Ttl::Inherit);
    let sent = relay.native(&udp(HOST, USER_A, 33, 8));
    assert_eq!(outer_header(sent.ip()).ttl(), 32);
    assert_eq!(inner_header(&sent.ip()[20..]).hop_limit(), 32);
}

#[test]
fn dscp_and_ecn_at_the_entry() {
    let mut relay = Relay::new();
    let send = |relay: &mut Relay| {
        let packet = with_class(udp(HOST, USER_A, 64, 8), 46 << 2 | 3);
        outer_header(relay.native(&packet).ip()).tos()
    };
    relay.change(relay.a, |spec| spec.dscp = Dscp::Fixed(10));
    assert_eq!(send(&mut relay), 10 << 2 | 3, "CE is copied");
    relay.change(relay.a, |spec| spec.dscp = Dscp::Copy);
    assert_eq!(send(&mut relay), 46 << 2 | 3);
    relay.change(relay.a, |spec| spec.ecn = Ecn::Compat);
    assert_eq!(send(&mut relay), 46 << 2);
}

#[test]
fn dscp_at_the_exit_is_kept_or_copied() {
    let mut relay = Relay::new();
    let packet = with_class(udp(USER_A, HOST, 64, 8), 46 << 2);
    let frame = ethernet(ether::TYPE_IPV4, &outer(REMOTE_A, 10 << 2, &packet));
    assert_eq!(
        inner_header(relay.frame(OUTSIDE, &frame).ip()).traffic_class(),
        46 << 2
    );
    relay.change(relay.a, |spec| spec.dscp_decap_copy = true);
    assert_eq!(
        inner_header(relay.frame(OUTSIDE, &frame).ip()).traffic_class(),
        10 << 2
    );
}

#[test]
fn unusual_ecn_is_counted_per_tunnel() {
    let mut relay = Relay::new();
    let packet = with_class(udp(USER_A, HOST, 64, 8), 0);
    for tos in [0u8, 1, 2, 3] {
        let frame = ethernet(ether::TYPE_IPV4, &outer(REMOTE_A, tos, &packet));
        let sent = relay.frame(OUTSIDE, &frame);
        let dropped = sent.verdict == Verdict::Drop(DropReason::EcnCeOnNotEct);
        assert_eq!(dropped, tos == 3);
    }
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.ecn_unusual, 3);
    assert_eq!(relay.local.counters().ecn_unusual, 3);
    assert_eq!(totals.drops, [(DropReason::EcnCeOnNotEct, 1)]);
    assert_eq!((totals.in_packets, totals.in_bytes), (3, 3 * 56));
}

#[test]
fn what_does_not_fit_the_link_is_not_counted_as_carried() {
    let mut relay = Relay::new();
    let carried = |relay: &Relay| {
        let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
        totals.out_packets
    };
    relay.change(relay.a, |spec| spec.mtu_mode = MtuMode::Managed);
    let hop = NextHop {
        mtu: 1280,
        ..*relay.builder.next_hop(relay.hop4).expect("hop")
    };
    relay.builder.set_next_hop(relay.hop4, hop);
    relay.publish();
    let sent = relay.native(&udp(HOST, USER_A, 64, 1280 - 48));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4TooBig));
    assert_eq!(carried(&relay), 0);
    let sent = relay.native(&udp(HOST, USER_A, 64, 1260 - 48));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    assert_eq!(carried(&relay), 1);
}
