//! 6rd: RFC 5969.

use crate::{icmp_of, inner_header, outer_header, sent_from};
use sixferry_fwd::{
    DomainKind, DomainSpec, DropReason, Dscp, MtuMode, PortId, Route, RouteSource, Settings,
    SixRdRole, Urpf, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, OUTSIDE, ROUTER, Relay, USER_A, echo, ethernet, in_ipv4, prefix, udp,
};
use sixferry_wire::{ether, icmpv6, ipv4, ipv6};
use std::net::Ipv4Addr;

const BR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CE: Ipv4Addr = Ipv4Addr::new(10, 100, 100, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 80, 80, 80);
/// Behind [`CE`], [`OTHER`] and [`BR`] in the domain 3fff::/32, 10.0.0.0/8.
const AT_CE: &str = "3fff:0:6464:100::1";
const AT_OTHER: &str = "3fff:0:5050:5000::9";
const AT_BR: &str = "3fff:0:0:100::9";

fn domain(local: Ipv4Addr, role: SixRdRole) -> DomainSpec {
    DomainSpec::six_rd(
        local,
        prefix("3fff::/32"),
        Ipv4Addr::new(10, 0, 0, 0),
        8,
        role,
    )
}

fn border(edit: impl FnOnce(&mut DomainSpec)) -> Relay {
    let mut relay = Relay::new();
    let mut spec = domain(BR, SixRdRole::Br { anycast: false });
    edit(&mut spec);
    relay.builder.insert_domain(&spec).expect("domain");
    relay.publish();
    relay
}

fn customer() -> Relay {
    customer_with(|_| ())
}

fn customer_with(edit: impl FnOnce(&mut DomainSpec)) -> Relay {
    let mut relay = Relay::new();
    let mut spec = domain(CE, SixRdRole::Ce { br: BR });
    edit(&mut spec);
    let id = relay.builder.insert_domain(&spec).expect("domain");
    let own = spec.delegated(CE).expect("in the domain");
    assert_eq!(own, prefix("3fff:0:6464:100::/56"));
    let inside = Route::NextHop(relay.hop6);
    relay.builder.set_route6(own, RouteSource::Kernel, inside);
    relay
        .builder
        .set_route6(prefix("::/0"), RouteSource::Kernel, Route::Domain(id));
    relay.publish();
    relay
}

#[test]
fn defaults_are_those_of_the_rfc() {
    let spec = domain(BR, SixRdRole::Br { anycast: false });
    assert_eq!(
        (spec.mtu, spec.mtu_mode, spec.dscp),
        (1280, MtuMode::Static, Dscp::Copy)
    );
    assert!(spec.input && spec.up);
    let mut relay = border(|_| ());
    let mut packet = udp(HOST, AT_CE, 64, 8);
    ipv6::set_traffic_class(packet.first_chunk_mut().expect("header"), 46 << 2 | 1);
    let sent = relay.native(&packet);
    assert_eq!(sent_from(&sent), (BR, CE));
    let header = outer_header(sent.ip());
    assert_eq!((header.tos(), header.fragment_word()), (46 << 2 | 1, 0));
}

#[test]
fn anycast_border_relay_sends_from_the_anycast_address_with_df() {
    let mut relay = border(|spec| {
        if let DomainKind::SixRd { role, .. } = &mut spec.kind {
            *role = SixRdRole::Br { anycast: true };
        }
    });
    let sent = relay.native(&udp(HOST, AT_CE, 64, 8));
    assert_eq!(sent_from(&sent), (BR, CE));
    assert_eq!(outer_header(sent.ip()).fragment_word(), ipv4::DF);
    let sent = relay.native(&udp(HOST, AT_CE, 1, 8));
    assert_eq!(icmp_of(sent.ip()).0, icmpv6::TIME_EXCEEDED);
}

#[test]
fn border_relay_takes_what_the_outer_source_may_send() {
    let mut relay = border(|_| ());
    let ok = relay.decapsulated(CE, BR, &udp(AT_CE, HOST, 64, 8));
    assert_eq!(ok.verdict, Verdict::Tx(INSIDE));
    let cases = [
        (OTHER, AT_CE, DropReason::S6rdSrcMismatch),
        ([192, 0, 2, 9].into(), AT_CE, DropReason::S6rdSrcMismatch),
        (CE, HOST, DropReason::S6rdSrcNotInDomain),
        (CE, "fe80::1", DropReason::V6SrcInvalid),
        (CE, "::1", DropReason::V6SrcInvalid),
        (CE, "ff02::1", DropReason::V6SrcInvalid),
        ([127, 0, 0, 1].into(), AT_CE, DropReason::V4SrcMartian),
        ([224, 0, 0, 1].into(), AT_CE, DropReason::V4SrcMartian),
    ];
    for (outer, inner, reason) in cases {
        let sent = relay.decapsulated(outer, BR, &udp(inner, HOST, 64, 8));
        assert_eq!(sent.verdict, Verdict::Drop(reason), "{inner} from {outer}");
    }
}

#[test]
fn customers_reach_each_other_and_themselves_through_the_border_relay() {
    let mut relay = border(|_| ());
    for (to, at) in [(OTHER, AT_OTHER), (CE, AT_CE)] {
        let sent = relay.decapsulated(CE, BR, &udp(AT_CE, at, 64, 8));
        assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE), "{at}");
        assert_eq!(sent_from(&sent), (BR, to));
        assert_eq!(inner_header(&sent.ip()[20..]).hop_limit(), 63);
    }
}

#[test]
fn border_relays_own_prefix_is_null_but_for_its_anycast_address() {
    let mut relay = border(|_| ());
    let anycast = "3fff:0:0:100::";
    let sent = relay.native(&udp(HOST, AT_BR, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
    let sent = relay.decapsulated(CE, BR, &udp(AT_CE, AT_BR, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
    let sent = relay.decapsulated(CE, BR, &echo(AT_CE, anycast));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    assert_eq!(sent_from(&sent), (BR, CE));
    assert_eq!(icmp_of(&sent.ip()[20..]).0, icmpv6::ECHO_REPLY);
    let sent = relay.native(&echo(HOST, anycast));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
}

#[test]
fn known_relays_are_filtered_both_ways() {
    let mut relay = border(|spec| {
        let blocks = ["10.80.80.80/32", "192.88.99.0/24"];
        spec.deny_v4 = blocks.map(|text| text.parse().expect("prefix")).to_vec();
    });
    let sent = relay.decapsulated(OTHER, BR, &udp(AT_OTHER, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Denied));
    let sent = relay.native(&udp(HOST, AT_OTHER, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Denied));
    let sent = relay.decapsulated(CE, BR, &udp(AT_CE, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

#[test]
fn customers_source_on_the_native_side_is_spoofed() {
    let mut relay = border(|_| ());
    let sent = relay.native(&udp(AT_CE, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6SrcSpoofNative));
}

#[test]
fn customer_edge_receives() {
    let mut relay = customer();
    let cases = [
        (BR, HOST, AT_CE, Verdict::Tx(INSIDE)),
        (BR, AT_OTHER, AT_CE, Verdict::Tx(INSIDE)),
        (OTHER, AT_OTHER, AT_CE, Verdict::Tx(INSIDE)),
        (
            OTHER,
            HOST,
            AT_CE,
            Verdict::Drop(DropReason::S6rdSrcNotInDomain),
        ),
        (
            [10, 9, 9, 9].into(),
            AT_OTHER,
            AT_CE,
            Verdict::Drop(DropReason::S6rdSrcMismatch),
        ),
        (
            BR,
            HOST,
            AT_OTHER,
            Verdict::Drop(DropReason::S6rdDstNotMine),
        ),
        (
            OTHER,
            AT_OTHER,
            HOST,
            Verdict::Drop(DropReason::S6rdDstNotMine),
        ),
        (
            BR,
            "fe80::1",
            AT_CE,
            Verdict::Drop(DropReason::V6SrcInvalid),
        ),
    ];
    for (outer, src, dst, want) in cases {
        let sent = relay.decapsulated(outer, CE, &udp(src, dst, 64, 8));
        assert_eq!(sent.verdict, want, "{src} to {dst} from {outer}");
    }
}

#[test]
fn customer_edge_sends_to_customers_directly_and_else_to_the_border() {
    let mut relay = customer();
    let sent = relay.native(&udp(AT_CE, AT_OTHER, 64, 8));
    assert_eq!(sent_from(&sent), (CE, OTHER));
    let sent = relay.native(&udp(AT_CE, HOST, 64, 8));
    assert_eq!(sent_from(&sent), (CE, BR));
    let foreign = relay.native(&udp("2001:db8:5::1", HOST, 64, 8));
    assert_eq!(
        foreign.verdict,
        Verdict::Drop(DropReason::S6rdSrcNotInDomain)
    );
}

#[test]
fn two_domains_and_a_tunnel_side_by_side() {
    let mut relay = border(|_| ());
    let second = Ipv4Addr::new(100, 64, 0, 1);
    let shifted = DomainSpec::six_rd(
        second,
        prefix("3ffe:0:8000::/37"),
        Ipv4Addr::new(100, 64, 0, 0),
        12,
        SixRdRole::Br { anycast: false },
    );
    relay.builder.insert_domain(&shifted).expect("domain");
    relay.publish();
    // n = 37, o = 20: 100.66.2.71 has the low bits 0x20247
    let customer = Ipv4Addr::new(100, 66, 2, 71);
    let delegated = shifted.delegated(customer).expect("inside");
    assert_eq!(delegated, prefix("3ffe:0:8101:2380::/57"));
    let at = "3ffe:0:8101:2381::5";
    assert_eq!(
        sent_from(&relay.native(&udp(HOST, at, 64, 8))),
        (second, customer)
    );
    let sent = relay.decapsulated(customer, second, &udp(at, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    let sent = relay.decapsulated(customer, BR, &udp(at, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6rdSrcNotInDomain));
    // from one domain into the other
    let sent = relay.decapsulated(customer, second, &udp(at, AT_CE, 64, 8));
    assert_eq!(sent_from(&sent), (BR, CE));
}

#[test]
fn reverse_path_of_the_named_border_relay_is_checked_too() {
    let from = |relay: &mut Relay, port: PortId, outer, src| {
        let inner = udp(src, AT_CE, 64, 8);
        let packet = in_ipv4(outer, CE, ipv4::PROTO_IPV6, 0, &inner);
        relay
            .frame(port, &ethernet(ether::TYPE_IPV4, &packet))
            .verdict
    };
    let refused = Verdict::Drop(DropReason::V4IngressFilter);
    let passed = Verdict::Tx(INSIDE);
    for (outer, src) in [(BR, HOST), (OTHER, AT_OTHER)] {
        let mut relay = customer_with(|spec| spec.urpf = Urpf::Strict);
        // the route to both leads outside
        assert_eq!(from(&mut relay, OUTSIDE, outer, src), passed);
        assert_eq!(from(&mut relay, INSIDE, outer, src), refused, "{outer}");
        let mut relay = customer_with(|spec| spec.urpf = Urpf::Loose);
        assert_eq!(from(&mut relay, INSIDE, outer, src), passed);
        let all = "0.0.0.0/0".parse().expect("prefix");
        relay.builder.remove_route4(all, RouteSource::Kernel);
        relay.publish();
        assert_eq!(from(&mut relay, OUTSIDE, outer, src), refused, "{outer}");
    }
}

#[test]
fn sources_known_here_do_not_come_by_way_of_the_border_relay() {
    let mut relay = customer();
    let second = DomainSpec::six_rd(
        Ipv4Addr::new(11, 0, 0, 1),
        prefix("3ffe::/32"),
        Ipv4Addr::new(11, 0, 0, 0),
        8,
        SixRdRole::Br { anycast: false },
    );
    relay.builder.insert_domain(&second).expect("domain");
    let (own, kernel) = (prefix("2001:db8:abcd::1/128"), RouteSource::Kernel);
    relay.builder.set_route6(own, kernel, Route::Local);
    relay.publish();
    for source in [
        ROUTER,
        USER_A,
        "2001:db8:abcd::1",
        // a customer of the other domain's border relay, which is here
        "3ffe:0:6464:100::1",
    ] {
        let sent = relay.decapsulated(BR, CE, &udp(source, AT_CE, 64, 8));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::InnerSrcSpoof),
            "{source}"
        );
    }
    let sent = relay.decapsulated(BR, CE, &udp(HOST, AT_CE, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

#[test]
fn border_relays_own_source_on_the_native_side_is_a_loop_before_it_is_a_spoof() {
    let mut relay = border(|_| ());
    for to in [HOST, AT_CE] {
        let sent = relay.native(&udp(AT_BR, to, 64, 8));
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf), "{to}");
    }
}

#[test]
fn relays_of_6to4_and_link_local_hosts_are_no_customers() {
    // no common bits: any IPv4 address has a prefix in the domain
    let br = Ipv4Addr::new(9, 0, 0, 1);
    let any = Ipv4Addr::UNSPECIFIED;
    let role = SixRdRole::Br { anycast: false };
    let spec = DomainSpec::six_rd(br, prefix("3ffe::/16"), any, 0, role);
    let mut relay = Relay::new();
    relay.builder.insert_domain(&spec).expect("domain");
    relay.publish();
    let cases = [
        (
            [192, 88, 99, 1],
            "3ffe:c058:6301::1",
            DropReason::V4Denied,
            DropReason::V4Denied,
        ),
        (
            [192, 88, 99, 200],
            "3ffe:c058:63c8::1",
            DropReason::V4Denied,
            DropReason::V4Denied,
        ),
        (
            [169, 254, 1, 1],
            "3ffe:a9fe:101::1",
            DropReason::V4SrcMartian,
            DropReason::V4DstMartian,
        ),
    ];
    for (outer, inner, received, entered) in cases {
        let sent = relay.decapsulated(outer.into(), br, &udp(inner, HOST, 64, 8));
        assert_eq!(sent.verdict, Verdict::Drop(received), "{inner}");
        let sent = relay.native(&udp(HOST, inner, 64, 8));
        assert_eq!(sent.verdict, Verdict::Drop(entered), "{inner}");
    }
    for (outer, inner) in [
        ([192, 88, 98, 1], "3ffe:c058:6201::1"),
        ([192, 88, 100, 1], "3ffe:c058:6401::1"),
        ([169, 253, 1, 1], "3ffe:a9fd:101::1"),
    ] {
        let sent = relay.decapsulated(outer.into(), br, &udp(inner, HOST, 64, 8));
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "{inner}");
        let sent = relay.native(&udp(HOST, inner, 64, 8));
        assert_eq!(sent_from(&sent), (br, outer.into()));
    }
}

#[test]
fn customers_of_a_domain_have_rates_of_their_own() {
    let mut relay = border(|_| ());
    let defaults = Settings::default();
    let settings = Settings {
        icmp_errors: defaults.icmp_errors,
        answers: defaults.answers,
        ..relay.builder.settings().clone()
    };
    relay.builder.set_settings(settings);
    relay.publish();
    let spec = domain(BR, SixRdRole::Br { anycast: false });
    let mut answered = |last: u8, packet: &dyn Fn(&str) -> Vec<u8>| {
        let ce = Ipv4Addr::new(10, 1, 1, last);
        let own = spec.delegated(ce).expect("a customer").address();
        let sent = relay.decapsulated(ce, BR, &packet(&own.to_string()));
        u32::from(matches!(sent.verdict, Verdict::Answer(_)))
    };
    let expired = |src: &str| udp(src, HOST, 1, 8);
    // one of them uses up what is his, and only that
    let noisy: u32 = (0..50).map(|_| answered(1, &expired)).sum();
    assert_eq!(noisy, defaults.icmp_errors.tunnel_burst);
    let others: u32 = (2..102).map(|ce| answered(ce, &expired)).sum();
    // who meets the noisy one in a slot of the table has nothing left
    assert!(others >= 98, "{others}");
    let asked = |src: &str| echo(src, ROUTER);
    let noisy: u32 = (0..200).map(|_| answered(1, &asked)).sum();
    assert_eq!(noisy, defaults.answers.tunnel_burst);
    let others: u32 = (2..102).map(|ce| answered(ce, &asked)).sum();
    assert!(others >= 98, "{others}");
}
