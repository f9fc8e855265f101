//! The XDP program's decisions, frame by frame, run by the kernel (`BPF_PROG_TEST_RUN`).

#[path = "support/frames.rs"]
mod frames;

use std::net::{Ipv4Addr, Ipv6Addr};

use frames::{FRAMES, unhex};
use sixferry_xsk::{
    AddressUse, Covering, Outcome, SetupError, SteerConfig, SteerVerdict, SteeringHarness,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PORT: u16 = 4028;
const ETHER: usize = 14;

fn covering(text: &str, len: u8) -> Covering {
    Covering::new(text.parse().unwrap(), len).unwrap()
}

fn config() -> SteerConfig {
    let proto41 = AddressUse {
        proto41: true,
        dedicated: false,
    };
    SteerConfig {
        mac: MAC,
        tunnel_addresses: [(LOCAL, proto41)].into(),
        udp_ports: [(LOCAL, PORT)].into(),
        host_addresses: ["2001:db8:ffff::1".parse().unwrap()].into(),
        covering: (1..=8)
            .map(|i| covering(&format!("2001:db8:{i}00::"), 48))
            .collect(),
        vlans: [100].into(),
    }
}

fn harness(config: &SteerConfig) -> SteeringHarness {
    SteeringHarness::new(config).unwrap()
}

/// Ethernet header to the port, then `payload`.
fn ether(proto: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = MAC.to_vec();
    out.extend([2, 0, 0, 0, 0, 2]);
    out.extend(proto.to_be_bytes());
    out.extend(payload);
    out
}

/// As `ether`, with tags (protocol, TCI) in front of the protocol.
fn tagged(tags: &[(u16, u16)], proto: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = ether(proto, payload);
    let at = 12;
    let tags = tags
        .iter()
        .flat_map(|(proto, tci)| [proto.to_be_bytes(), tci.to_be_bytes()].concat());
    out.splice(at..at, tags);
    out
}

/// An IPv4 packet. `ihl` counts 32-bit words; options are no-operations.
fn ipv4(ihl: u8, proto: u8, src: Ipv4Addr, dst: Ipv4Addr, frag: u16, payload: &[u8]) -> Vec<u8> {
    let options = usize::from(ihl.saturating_sub(5)) * 4;
    let mut out = vec![0x40 | ihl, 0];
    out.extend(((20 + options + payload.len()) as u16).to_be_bytes());
    out.extend([0x12, 0x34]);
    out.extend(frag.to_be_bytes());
    out.extend([64, proto, 0, 0]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.resize(20 + options, 1);
    out.extend(payload);
    out
}

fn udp(src: u16, dst: u16) -> Vec<u8> {
    let mut out = src.to_be_bytes().to_vec();
    out.extend(dst.to_be_bytes());
    out.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    out
}

fn icmp4(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    out.extend(quoted);
    out
}

fn ipv6(dst: &str) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    out.extend("2001:db8:77::1".parse::<Ipv6Addr>().unwrap().octets());
    out.extend(dst.parse::<Ipv6Addr>().unwrap().octets());
    out.extend(udp(1, 2));
    out
}

/// Numbers below what is asked, the same in every run: xorshift64.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    }
}

#[track_caller]
fn check(harness: &mut SteeringHarness, frame: &[u8], expected: Outcome) {
    let verdict = harness.run(frame).unwrap();
    let wanted = if expected.is_redirect() {
        SteerVerdict::Redirect(expected)
    } else {
        SteerVerdict::Pass(expected)
    };
    assert_eq!(verdict, wanted);
}

#[track_caller]
fn check_ipv4(harness: &mut SteeringHarness, packet: &[u8], expected: Outcome) {
    check(harness, &ether(0x0800, packet), expected);
}

#[test]
#[ignore = "needs root"]
fn reference_frames_are_decided_as_specified() {
    let mut harness = harness(&config());
    for (name, to_relay, hex) in FRAMES {
        let verdict = harness.run(&unhex(hex)).unwrap();
        assert_eq!(verdict.is_redirect(), to_relay, "{name}: {verdict:?}");
        assert_eq!(verdict.is_pass(), !to_relay, "{name}: {verdict:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn truncated_frames_never_redirect_wrongly() {
    let mut harness = harness(&config());
    for (name, to_relay, hex) in FRAMES {
        let frame = unhex(hex);
        for len in 0..ETHER {
            assert!(
                harness.run(&frame[..len]).is_err(),
                "no frame is that short"
            );
        }
        for len in ETHER..frame.len() {
            let verdict = harness.run(&frame[..len]).unwrap();
            assert!(
                verdict.is_pass() || verdict.is_redirect(),
                "{name} cut to {len}: {verdict:?}"
            );
            // Whose it is cannot be known before the addresses are there.
            let readable = to_relay && len >= ETHER + 20;
            assert!(
                readable || !verdict.is_redirect(),
                "{name} cut to {len}: {verdict:?}"
            );
        }
    }
    let (_, _, hex) = FRAMES[1];
    let frame = unhex(hex);
    check(&mut harness, &frame[..ETHER + 19], Outcome::PassTruncated);
    check(&mut harness, &frame[..ETHER + 20], Outcome::XskProto41);
}

#[test]
#[ignore = "needs root"]
fn mutated_frames_are_passed_or_redirected() {
    let mut harness = harness(&config());
    let mut next = numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000 {
        let mut frame = unhex(FRAMES[next(FRAMES.len())].2);
        frame.truncate(ETHER + next(frame.len() - ETHER + 1));
        for _ in 0..=next(3) {
            let at = next(frame.len());
            frame[at] = next(256) as u8;
        }
        let verdict = harness.run(&frame).unwrap();
        assert!(
            verdict.is_pass() || verdict.is_redirect(),
            "round {round}: {verdict:?} for {frame:02x?}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn proto41_goes_to_the_relay_whatever_its_shape() {
    let mut harness = harness(&config());
    let mut proto41 = |packet: &[u8]| check_ipv4(&mut harness, packet, Outcome::XskProto41);
    let inner = [0x60; 48];
    for frag in [0x2000, 0x2001, 0x00b9, 0x4000] {
        proto41(&ipv4(5, 41, PEER, LOCAL, frag, &inner));
    }
    proto41(&ipv4(6, 41, PEER, LOCAL, 0, &inner));
    proto41(&ipv4(15, 41, PEER, LOCAL, 0, &inner));
    // Malformed but surely ours: the worker counts V4_IHL, V4_VERSION, V4_LENGTH.
    proto41(&ipv4(4, 41, PEER, LOCAL, 0, &inner));
    let mut packet = ipv4(5, 41, PEER, LOCAL, 0, &inner);
    packet[0] = 0x55;
    proto41(&packet);
    packet[0] = 0x45;
    packet[2] = 0xff;
    proto41(&packet);
    let elsewhere = ipv4(5, 41, PEER, OTHER, 0, &inner);
    check_ipv4(&mut harness, &elsewhere, Outcome::PassIpv4);
}

#[test]
#[ignore = "needs root"]
fn address_without_proto41_leaves_it_to_the_kernel() {
    let mut config = config();
    config.tunnel_addresses.insert(LOCAL, AddressUse::default());
    let mut harness = harness(&config);
    let packet = ipv4(5, 41, PEER, LOCAL, 0, &[0x60; 48]);
    check_ipv4(&mut harness, &packet, Outcome::PassIpv4);
    let packet = ipv4(5, 17, PEER, LOCAL, 0, &udp(9, PORT));
    check_ipv4(&mut harness, &packet, Outcome::XskUdp);
}

#[test]
#[ignore = "needs root"]
fn udp_port_is_found_behind_options() {
    let mut harness = harness(&config());
    let to_port = |ihl, port| ipv4(ihl, 17, PEER, LOCAL, 0, &udp(40000, port));
    check_ipv4(&mut harness, &to_port(5, PORT), Outcome::XskUdp);
    check_ipv4(&mut harness, &to_port(7, PORT), Outcome::XskUdp);
    check_ipv4(&mut harness, &to_port(15, PORT), Outcome::XskUdp);
    check_ipv4(&mut harness, &to_port(5, PORT + 1), Outcome::PassUdp);
    check_ipv4(&mut harness, &to_port(4, PORT), Outcome::PassUdp);
    let to_other = ipv4(5, 17, PEER, OTHER, 0, &udp(40000, PORT));
    check_ipv4(&mut harness, &to_other, Outcome::PassIpv4);
    let cut = to_port(7, PORT);
    check_ipv4(&mut harness, &cut[..31], Outcome::PassTruncated);
    check_ipv4(&mut harness, &cut[..32], Outcome::XskUdp);
}

#[test]
#[ignore = "needs root"]
fn udp_fragments_follow_the_address_policy() {
    let mut harness = harness(&config());
    // The payload looks like a UDP header with our port, which it is not.
    let later = ipv4(5, 17, PEER, LOCAL, 0x0010, &udp(9, PORT));
    let first = ipv4(5, 17, PEER, LOCAL, 0x2000, &udp(9, PORT));
    check_ipv4(&mut harness, &first, Outcome::XskUdp);
    check_ipv4(&mut harness, &later, Outcome::PassUdp);
    let dedicated = AddressUse {
        proto41: false,
        dedicated: true,
    };
    let tables = harness.tables_mut();
    tables.add_tunnel_address(LOCAL, dedicated).unwrap();
    check_ipv4(&mut harness, &later, Outcome::XskUdpFragment);
    check_ipv4(&mut harness, &first, Outcome::XskUdp);
}

#[test]
#[ignore = "needs root"]
fn icmp4_errors_about_our_packets_go_to_the_relay() {
    let mut harness = harness(&config());
    let router = Ipv4Addr::new(203, 0, 113, 254);
    let error = |kind, quoted: &[u8]| ipv4(5, 1, router, LOCAL, 0, &icmp4(kind, quoted));
    let quoted41 = ipv4(5, 41, LOCAL, PEER, 0, &[0x60; 8]);
    for kind in [3, 4, 11, 12] {
        check_ipv4(&mut harness, &error(kind, &quoted41), Outcome::XskIcmp4);
    }
    for kind in [0, 5, 8, 9, 13] {
        check_ipv4(&mut harness, &error(kind, &quoted41), Outcome::PassIcmp4);
    }
    let mut quoting = |quoted: &[u8], expected| {
        check_ipv4(&mut harness, &error(3, quoted), expected);
    };
    quoting(&ipv4(6, 41, LOCAL, PEER, 0, &[]), Outcome::XskIcmp4);
    quoting(&ipv4(5, 41, LOCAL, PEER, 0x0010, &[]), Outcome::XskIcmp4);
    quoting(&ipv4(5, 41, OTHER, PEER, 0, &[0; 8]), Outcome::PassIcmp4);
    quoting(&quoted41[..19], Outcome::PassTruncated);
    quoting(
        &ipv4(5, 17, LOCAL, PEER, 0, &udp(PORT, 9)),
        Outcome::XskIcmp4,
    );
    quoting(
        &ipv4(7, 17, LOCAL, PEER, 0, &udp(PORT, 9)),
        Outcome::XskIcmp4,
    );
    // Our port as the destination is somebody else's packet.
    quoting(
        &ipv4(5, 17, LOCAL, PEER, 0, &udp(9, PORT)),
        Outcome::PassIcmp4,
    );
    quoting(
        &ipv4(5, 17, LOCAL, PEER, 0x10, &udp(PORT, 9)),
        Outcome::PassIcmp4,
    );
    quoting(
        &ipv4(4, 17, LOCAL, PEER, 0, &udp(PORT, 9)),
        Outcome::PassIcmp4,
    );
    quoting(&ipv4(5, 6, LOCAL, PEER, 0, &[0; 8]), Outcome::PassIcmp4);
}

#[test]
#[ignore = "needs root"]
fn icmp4_errors_of_odd_shape_stay_with_the_kernel() {
    let mut harness = harness(&config());
    let error = icmp4(3, &ipv4(5, 41, LOCAL, PEER, 0, &[0x60; 8]));
    let behind_options = ipv4(8, 1, PEER, LOCAL, 0, &error);
    check_ipv4(&mut harness, &behind_options, Outcome::XskIcmp4);
    for frag in [0x2000, 0x0001] {
        let packet = ipv4(5, 1, PEER, LOCAL, frag, &error);
        check_ipv4(&mut harness, &packet, Outcome::PassIcmp4);
    }
    let packet = ipv4(3, 1, PEER, LOCAL, 0, &error);
    check_ipv4(&mut harness, &packet, Outcome::PassIcmp4);
    let packet = ipv4(5, 1, PEER, OTHER, 0, &error);
    check_ipv4(&mut harness, &packet, Outcome::PassIpv4);
    let packet = ipv4(5, 1, PEER, LOCAL, 0, &error[..7]);
    check_ipv4(&mut harness, &packet, Outcome::PassTruncated);
}

#[test]
#[ignore = "needs root"]
fn one_known_tag_is_looked_through() {
    let mut harness = harness(&config());
    let inner = ipv4(5, 41, PEER, LOCAL, 0, &[0x60; 48]);
    let native = ipv6("2001:db8:100::9");
    let mut case = |tags: &[(u16, u16)], proto, payload: &[u8], expected| {
        check(&mut harness, &tagged(tags, proto, payload), expected);
    };
    case(&[(0x8100, 100)], 0x0800, &inner, Outcome::XskProto41);
    case(&[(0x88a8, 100)], 0x0800, &inner, Outcome::XskProto41);
    case(&[(0x8100, 0xf064)], 0x0800, &inner, Outcome::XskProto41);
    case(&[(0x8100, 100)], 0x86dd, &native, Outcome::XskIpv6);
    case(&[(0x8100, 101)], 0x0800, &inner, Outcome::PassVlan);
    case(&[(0x8100, 0)], 0x0800, &inner, Outcome::PassVlan);
    case(&[(0x8100, 4095)], 0x0800, &inner, Outcome::PassVlan);
    let twice = [(0x88a8, 100), (0x8100, 100)];
    case(&twice, 0x0800, &inner, Outcome::PassVlan);
    case(&[(0x8100, 100)], 0x0806, &inner, Outcome::PassArp);
    case(&[(0x8100, 100)], 0x8847, &inner, Outcome::PassEthertype);
    case(&[(0x9100, 100)], 0x0800, &inner, Outcome::PassEthertype);
    let frame = tagged(&[(0x8100, 100)], 0x0800, &inner);
    for len in ETHER..18 {
        check(&mut harness, &frame[..len], Outcome::PassTruncated);
    }
}

#[test]
#[ignore = "needs root"]
fn ipv6_follows_the_covering_prefixes() {
    let mut config = config();
    config.covering = [covering("::", 0), covering("2001:db8:100::", 48)].into();
    let mut harness = harness(&config);
    let mut to = |dst: &str, expected| {
        check(&mut harness, &ether(0x86dd, &ipv6(dst)), expected);
    };
    to("2001:db8:100::9", Outcome::XskIpv6);
    to("2001:db8:9999::1", Outcome::XskIpv6);
    to("2001:db8:ffff::1", Outcome::PassIpv6Host);
    to("fe80::1", Outcome::PassIpv6Scope);
    to("febf::1", Outcome::PassIpv6Scope);
    to("ff02::1", Outcome::PassIpv6Scope);
    to("fec0::1", Outcome::XskIpv6);
    let tables = harness.tables_mut();
    tables
        .set_covering(&[covering("2001:db8:100::", 40)].into())
        .unwrap();
    let mut to = |dst: &str, expected| {
        check(&mut harness, &ether(0x86dd, &ipv6(dst)), expected);
    };
    to("2001:db8:1ff::9", Outcome::XskIpv6);
    to("2001:db8:200::9", Outcome::PassIpv6);
    // The worker counts V6_VERSION.
    let mut bad_version = ipv6("2001:db8:100::9");
    bad_version[0] = 0x40;
    check(&mut harness, &ether(0x86dd, &bad_version), Outcome::XskIpv6);
    let cut = ether(0x86dd, &ipv6("2001:db8:100::9")[..39]);
    check(&mut harness, &cut, Outcome::PassTruncated);
}

#[test]
#[ignore = "needs root"]
fn only_frames_to_the_ports_mac_are_ours() {
    let mut harness = harness(&config());
    let packet = ipv4(5, 41, PEER, LOCAL, 0, &[0x60; 48]);
    let ours = ether(0x0800, &packet);
    for at in 0..6 {
        for bit in 0..8 {
            let mut frame = ours.clone();
            frame[at] ^= 1 << bit;
            check(&mut harness, &frame, Outcome::PassL2);
        }
    }
    let moved = [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x10];
    harness.tables_mut().set_mac(moved).unwrap();
    check(&mut harness, &ours, Outcome::PassL2);
    let mut frame = ours;
    frame[..6].copy_from_slice(&moved);
    check(&mut harness, &frame, Outcome::XskProto41);
}

#[test]
#[ignore = "needs root"]
fn empty_configuration_passes_everything() {
    let mut harness = harness(&SteerConfig::default());
    for (name, _, hex) in FRAMES {
        let verdict = harness.run(&unhex(hex)).unwrap();
        assert!(verdict.is_pass(), "{name}: {verdict:?}");
    }
    let mut zero_mac = unhex(FRAMES[1].2);
    zero_mac[..6].fill(0);
    check(&mut harness, &zero_mac, Outcome::PassIpv4);
}

/// RFC 7526: who has not switched 6to4 on leaves its anycast address to the kernel.
#[test]
#[ignore = "needs root"]
fn the_6to4_anycast_address_is_the_kernels_by_default() {
    let anycast = Ipv4Addr::new(192, 88, 99, 1);
    let packet = ipv4(5, 41, PEER, anycast, 0, &ipv6("2002:c058:6301::"));
    let mut without_tunnels = config();
    without_tunnels.tunnel_addresses.clear();
    without_tunnels.udp_ports.clear();
    for config in [without_tunnels, config()] {
        check_ipv4(&mut harness(&config), &packet, Outcome::PassIpv4);
    }
}

#[test]
#[ignore = "needs root"]
fn apply_changes_only_what_differs_and_removes_the_rest() {
    let mut harness = harness(&config());
    let packet = ipv4(5, 41, PEER, LOCAL, 0, &[0x60; 48]);
    let moved = ipv4(5, 41, PEER, OTHER, 0, &[0x60; 48]);
    let mut wanted = config();
    let used = wanted.tunnel_addresses.remove(&LOCAL).unwrap();
    wanted.tunnel_addresses.insert(OTHER, used);
    wanted.udp_ports = [(OTHER, 4029)].into();
    wanted.vlans = [200].into();
    wanted.covering = [covering("2001:db8:ffff::", 48)].into();
    wanted.host_addresses = ["2001:db8:ffff::2".parse().unwrap()].into();
    harness.tables_mut().apply(&wanted).unwrap();
    assert_eq!(harness.tables_mut().config(), &wanted);
    check_ipv4(&mut harness, &packet, Outcome::PassIpv4);
    check_ipv4(&mut harness, &moved, Outcome::XskProto41);
    let udp_packet = ipv4(5, 17, PEER, OTHER, 0, &udp(1, 4029));
    check_ipv4(&mut harness, &udp_packet, Outcome::XskUdp);
    let frame = tagged(&[(0x8100, 100)], 0x0800, &moved);
    check(&mut harness, &frame, Outcome::PassVlan);
    let frame = tagged(&[(0x8100, 200)], 0x0800, &moved);
    check(&mut harness, &frame, Outcome::XskProto41);
    let to = |dst| ether(0x86dd, &ipv6(dst));
    check(&mut harness, &to("2001:db8:ffff::1"), Outcome::XskIpv6);
    check(&mut harness, &to("2001:db8:ffff::2"), Outcome::PassIpv6Host);
    check(&mut harness, &to("2001:db8:100::1"), Outcome::PassIpv6);
    harness.tables_mut().apply(&SteerConfig::default()).unwrap();
    check_ipv4(&mut harness, &moved, Outcome::PassL2);
}

#[test]
#[ignore = "needs root"]
fn full_tables_can_be_replaced_whole_but_not_exceeded() {
    let prefixes = |from: u128, count: u128| -> std::collections::BTreeSet<Covering> {
        let base = "3fff::".parse::<Ipv6Addr>().unwrap().to_bits();
        (from..from + count)
            .map(|i| Covering::new(Ipv6Addr::from_bits(base + (i << 80)), 48).unwrap())
            .collect()
    };
    let limit = SteerConfig::MAX_COVERING as u128;
    let mut harness = harness(&config());
    let tables = harness.tables_mut();
    tables.set_covering(&prefixes(0, limit)).unwrap();
    tables.set_covering(&prefixes(limit, limit)).unwrap();
    assert_eq!(tables.config().covering, prefixes(limit, limit));
    let error = tables.set_covering(&prefixes(0, limit + 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "steering test: at most 1024 covering prefixes can be steered, 1025 were asked for"
    );
    let mut too_many = tables.config().clone();
    too_many.covering = prefixes(0, limit + 1);
    too_many.mac = [2; 6];
    assert!(matches!(
        tables.apply(&too_many),
        Err(SetupError::TableFull { .. })
    ));
    assert_eq!(tables.config().mac, MAC, "nothing of it was done");
    check(
        &mut harness,
        &ether(0x86dd, &ipv6("3fff:0:400::1")),
        Outcome::XskIpv6,
    );
    check(
        &mut harness,
        &ether(0x86dd, &ipv6("3fff:0:3ff::1")),
        Outcome::PassIpv6,
    );
}

/// What the program is to say about a destination, from the configuration alone.
fn outcome_of_v4(config: &SteerConfig, addr: Ipv4Addr) -> Outcome {
    match config.tunnel_addresses.get(&addr) {
        Some(used) if used.proto41 => Outcome::XskProto41,
        _ => Outcome::PassIpv4,
    }
}

fn outcome_of_v6(config: &SteerConfig, addr: Ipv6Addr) -> Outcome {
    let holds = |prefix: &Covering| Covering::new(addr, prefix.prefix_len()) == Some(*prefix);
    if !config.covering.iter().any(holds) {
        Outcome::PassIpv6
    } else if config.host_addresses.contains(&addr) {
        Outcome::PassIpv6Host
    } else {
        Outcome::XskIpv6
    }
}

/// The near tables say what the large ones say, whatever came and went in whatever order.
#[test]
#[ignore = "needs root"]
fn whatever_is_added_and_removed_is_followed() {
    let mut next = numbers(0x2545_f491_4f6c_dd1d);
    let addresses: Vec<Ipv4Addr> = (0..7).map(|i| Ipv4Addr::new(198, 51, 100, i)).collect();
    let texts = [
        "2001:db8::",
        "2001:db8:1::",
        "2001:db8:1:2::",
        "2a00::",
        "::",
    ];
    let prefixes: Vec<Covering> = [0, 1, 16, 32, 47, 48, 56, 57, 64, 128]
        .into_iter()
        .flat_map(|len| texts.map(|text| covering(text, len)))
        .collect();
    let hosts: Vec<Ipv6Addr> = ["2001:db8::", "2001:db8:1::1", "2001:db8:1:2:3::", "2a00::1"]
        .map(|text| text.parse().unwrap())
        .into();
    let mut config = config();
    let mut harness = harness(&config);
    for step in 0..400 {
        let addr = addresses[next(addresses.len())];
        let host = hosts[next(hosts.len())];
        let tables = harness.tables_mut();
        match next(6) {
            0 => {
                let used = AddressUse {
                    proto41: next(2) == 0,
                    dedicated: false,
                };
                config.tunnel_addresses.insert(addr, used);
                tables.add_tunnel_address(addr, used).unwrap();
            }
            1 => {
                config.tunnel_addresses.remove(&addr);
                tables.remove_tunnel_address(addr).unwrap();
            }
            2 => {
                config.host_addresses.insert(host);
                tables.add_host_address(host).unwrap();
            }
            3 => {
                config.host_addresses.remove(&host);
                tables.remove_host_address(host).unwrap();
            }
            4 => {
                let few = (0..next(7)).map(|_| prefixes[next(prefixes.len())]);
                config.covering = few.collect();
                tables.set_covering(&config.covering).unwrap();
            }
            _ => {
                config.covering.insert(prefixes[next(prefixes.len())]);
                config.host_addresses.remove(&host);
                config.tunnel_addresses.remove(&addr);
                tables.apply(&config).unwrap();
            }
        }
        assert_eq!(tables.config(), &config);
        for addr in &addresses {
            let packet = ipv4(5, 41, PEER, *addr, 0, &[0x60; 48]);
            let expected = outcome_of_v4(&config, *addr);
            check_ipv4(&mut harness, &packet, expected);
        }
        for text in ["2001:db8::1", "2001:db8:1:2:4::", "2a00::2", "3000::"] {
            let expected = outcome_of_v6(&config, text.parse().unwrap());
            check(&mut harness, &ether(0x86dd, &ipv6(text)), expected);
        }
        for host in &hosts {
            let packet = ether(0x86dd, &ipv6(&host.to_string()));
            let verdict = harness.run(&packet).unwrap();
            let expected = outcome_of_v6(&config, *host);
            let redirect = SteerVerdict::Redirect(expected);
            let right = verdict == SteerVerdict::Pass(expected) || verdict == redirect;
            assert!(right, "step {step}: {host}: {verdict:?}, not {expected:?}");
        }
    }
}
