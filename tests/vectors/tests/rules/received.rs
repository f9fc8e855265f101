//! Checks of what comes in on the IPv4 side.

use sixferry_fwd::{DropReason, OuterOptions, Settings, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, OUTSIDE, REMOTE_A, Relay, USER_A, ethernet, outer, udp,
};
use sixferry_wire::{checksum, ether, ipv6};

#[test]
fn routing_header_type_0_is_dropped_only_as_first_header() {
    let mut relay = Relay::new();
    let with_routing = |kind: u8| {
        let mut packet = udp(USER_A, HOST, 64, 16);
        packet[6] = ipv6::NH_ROUTING;
        packet[42] = kind;
        packet
    };
    let sent = relay.tunnelled(REMOTE_A, &with_routing(0));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Rh0));
    assert_eq!(
        relay.tunnelled(REMOTE_A, &with_routing(4)).verdict,
        Verdict::Tx(INSIDE)
    );
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.drops, [(DropReason::Rh0, 1)]);
}

#[test]
fn options_are_skipped_by_knob_but_source_routes_never() {
    let mut relay = Relay::new();
    let settings = relay.builder.settings().clone();
    relay.builder.set_settings(Settings {
        outer_options: OuterOptions::Skip,
        ..settings
    });
    relay.publish();
    let with_option = |option: [u8; 4]| {
        let inner = udp(USER_A, HOST, 64, 8);
        let plain = outer(REMOTE_A, 0, &inner);
        let mut packet = [&plain[..20], &option[..], &inner].concat();
        packet[0] = 0x46;
        let len = u16::try_from(packet.len()).expect("short");
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&packet[..24]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        ethernet(ether::TYPE_IPV4, &packet)
    };
    let sent = relay.frame(OUTSIDE, &with_option([148, 4, 0, 0]));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    for option in [[131, 4, 4, 0], [137, 4, 4, 0], [7, 9, 0, 0]] {
        let sent = relay.frame(OUTSIDE, &with_option(option));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V4Options),
            "{option:?}"
        );
    }
}

#[test]
fn fragments_and_strange_protocols_are_counted_apart() {
    let mut relay = Relay::new();
    let edit = |at: usize, value: u8| {
        let mut packet = outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 8));
        packet[at] = value;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        ethernet(ether::TYPE_IPV4, &packet)
    };
    let cases = [
        (6, 0x20, DropReason::V4Fragment),
        (7, 1, DropReason::V4Fragment),
        (9, 6, DropReason::V4Protocol),
        (9, 17, DropReason::NoTunnel),
    ];
    for (at, value, reason) in cases {
        let sent = relay.frame(OUTSIDE, &edit(at, value));
        assert_eq!(sent.verdict, Verdict::Drop(reason));
    }
}
