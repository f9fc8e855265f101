//! Floods do no harm (P41-16, P41-27, P41-31, P41-33): while strangers and users send what
//! costs a relay most, an established flow loses nothing, memory stays flat and the log quiet.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{IpNumber, PacketBuilder};
use sixferry_netns_tests::daemon::{Daemon, DaemonConfig};
use sixferry_netns_tests::flow::{Peer, UdpFlow};
use sixferry_netns_tests::ledger::{assert_every_packet_accounted_for, dropped_for, packets};
use sixferry_netns_tests::raw::{Forger, echo_request, ipv4};
use sixferry_netns_tests::topology::{HOST_V6, Lab, LabPlan, PLAIN_V4, RELAY_V4, RELAY_V6};
use sixferry_netns_tests::wait_until;
use sixferry_proto::dataplane::v1::CounterReport;

/// First fragments; a tenth as many of each other kind.
const FRAGMENTS: u32 = 100_000;
const EACH: u32 = FRAGMENTS / 10;
/// Fragments that come from nobody known.
const STRANGERS: u32 = FRAGMENTS / 5;
/// Packets a second of the flood, all kinds together, and of the flow in each direction: far below
/// what a debug build on two cores carries.
const FLOOD_RATE: u32 = 16_000;
const FLOW_RATE: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(20);
/// Users beside the one whose flow is watched: with their four reassemblies each, more than the
/// relay keeps of all.
const CROWD: u32 = 301;
/// Bytes of data in a fragment: all of them kept would be 80 MB.
const FRAGMENT: usize = 1000;
/// Memory may grow by this much: reassembly's own limit is 2 MiB, and the kernel gives the allocator
/// pages of 2 MiB.
const GROWTH: u64 = 10 << 20;
/// Errors to one user: what the configuration's defaults allow.
const ERRORS_PER_SECOND: u64 = 10;
const ERRORS_BURST: u64 = 10;

/// In the first byte of the fragment field.
const MORE_FRAGMENTS: u8 = 0x20;

const PEER_INNER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 2);
/// In the prefix of the crowd's first.
const CROWD_INNER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x300, 0, 0, 0, 0, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// What is sent besides fragments, and the reason it is dropped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LastHop,
    InnerSpoof,
    OuterSpoof,
    ForgedNoTunnel,
    ForgedMismatch,
    ForgedMtu,
    ForgedMtuOfStatic,
    ForgedUnreachable,
    CongestedNotEct,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::LastHop,
        Self::InnerSpoof,
        Self::OuterSpoof,
        Self::ForgedNoTunnel,
        Self::ForgedMismatch,
        Self::ForgedMtu,
        Self::ForgedMtuOfStatic,
        Self::ForgedUnreachable,
        Self::CongestedNotEct,
    ];

    /// The reason all of them are dropped for; none where some are answered.
    fn reason(self) -> Option<&'static str> {
        match self {
            // Both may be told to somebody, at a limited rate; the rest is counted here.
            Self::LastHop | Self::ForgedUnreachable => None,
            Self::InnerSpoof => Some("INNER_SRC_SPOOF"),
            Self::OuterSpoof => Some("NO_TUNNEL"),
            Self::ForgedNoTunnel => Some("ICMP4_NO_TUNNEL"),
            Self::ForgedMismatch => Some("ICMP4_INNER_MISMATCH"),
            // The first one lowers the path MTU to what all of them claim.
            Self::ForgedMtu => Some("ICMP4_NO_CHANGE"),
            Self::ForgedMtuOfStatic => Some("ICMP4_STATIC_MTU"),
            Self::CongestedNotEct => Some("ECN_CE_ON_NOT_ECT"),
        }
    }

    fn packet(self) -> Vec<u8> {
        let from_user = |inner: &[u8]| ipv4(IpNumber::IPV6, PLAIN_V4, RELAY_V4, inner);
        let inside = echo_request(PEER_INNER, HOST_V6, 64);
        let towards = echo_request(HOST_V6, PEER_INNER, 64);
        let ours = |inner: &[u8]| ipv4(IpNumber::IPV6, RELAY_V4, PLAIN_V4, inner);
        match self {
            Self::LastHop => from_user(&echo_request(PEER_INNER, HOST_V6, 1)),
            Self::InnerSpoof => from_user(&echo_request(HOST_V6, PEER_INNER, 64)),
            Self::OuterSpoof => ipv4(IpNumber::IPV6, STRANGER, RELAY_V4, &inside),
            Self::ForgedNoTunnel => {
                forged(3, 1, &ipv4(IpNumber::IPV6, RELAY_V4, STRANGER, &towards))
            }
            Self::ForgedMismatch => forged(3, 1, &ours(&inside)),
            Self::ForgedMtu => forged(3, 4, &ours(&towards)),
            Self::ForgedMtuOfStatic => {
                let inside = echo_request(HOST_V6, CROWD_INNER, 64);
                forged(3, 4, &ipv4(IpNumber::IPV6, RELAY_V4, crowd(0), &inside))
            }
            Self::ForgedUnreachable => forged(3, 1, &ours(&towards)),
            Self::CongestedNotEct => {
                let mut packet = from_user(&inside);
                packet[1] = 3;
                packet
            }
        }
    }
}

/// An ICMPv4 error about `quoted`, from somebody on the way.
fn forged(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let mtu_1300 = [0, 0, 0x05, 0x14];
    PacketBuilder::ipv4(STRANGER.octets(), RELAY_V4.octets(), 64)
        .icmpv4_raw(kind, code, mtu_1300)
        .write(&mut packet, quoted)
        .expect("a packet");
    packet
}

/// The first fragment of a datagram whose rest never comes. Users take turns, and every fifth comes
/// from nobody known.
fn first_fragment(template: &mut [u8], serial: u32) -> &[u8] {
    let source = match serial % 5 {
        0 => Ipv4Addr::from(u32::from(STRANGER) ^ (serial << 8)),
        _ => crowd(serial % CROWD),
    };
    let id = u16::try_from(serial % 65_535 + 1).expect("16 bits");
    template[4..6].copy_from_slice(&id.to_be_bytes());
    template[6] = MORE_FRAGMENTS;
    template[12..16].copy_from_slice(&source.octets());
    template
}

fn crowd(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + n)
}

/// Sends `fragments` fragments from `serial` on, and a tenth as many packets of each kind.
fn flood(forger: &Forger, serial: u32, fragments: u32) {
    let payload = [echo_request(PEER_INNER, HOST_V6, 64), vec![0x5a; FRAGMENT]].concat();
    let whole = payload.len() / 8 * 8;
    let mut fragment = ipv4(IpNumber::IPV6, STRANGER, RELAY_V4, &payload[..whole]);
    let others = Kind::ALL.map(Kind::packet);
    let (start, mut sent) = (Instant::now(), 0_u32);
    for serial in serial..serial + fragments {
        while f64::from(sent) > start.elapsed().as_secs_f64() * f64::from(FLOOD_RATE) {
            thread::sleep(Duration::from_millis(1));
        }
        let fragment = first_fragment(&mut fragment, serial);
        assert!(forger.send(fragment), "a fragment did not leave");
        sent += 1;
        if serial.is_multiple_of(10) {
            for packet in &others {
                assert!(forger.send(packet), "a packet did not leave");
                sent += 1;
            }
        }
    }
}

fn config(lab: &Lab) -> DaemonConfig {
    let mut tunnels = String::from("[reassembly]\ntimeout_seconds = 1\n");
    let mut tunnel = |id: &str, mode: &str, remote: Ipv4Addr, prefix: &str| {
        let _ = writeln!(
            tunnels,
            "[[tunnel]]\nid = \"{id}\"\nlocal = \"{RELAY_V4}\"\nremote = \"{remote}\"\n\
             prefixes = [\"{prefix}\"]\nmtu_mode = \"{mode}\""
        );
    };
    tunnel("watched", "dynamic", PLAIN_V4, "2001:db8:200::/48");
    for n in 0..CROWD {
        tunnel(
            &format!("crowd-{n}"),
            "static",
            crowd(n),
            &format!("2001:db8:300:{n:x}::/64"),
        );
    }
    DaemonConfig::ports_of_lab(lab, "auto").section(&tunnels)
}

#[test]
#[ignore = "needs root"]
fn floods_cost_an_established_flow_nothing() {
    let lab = LabPlan::new()
        .without_guest()
        .build()
        .expect("a lab without a guest");
    let mut daemon = Daemon::start(&lab.relay, &config(&lab));
    lab.host
        .ip(&format!("route add 2001:db8:200::/48 via {RELAY_V6}"));
    let peer = Peer {
        net: &lab.user,
        outer: PLAIN_V4,
        relay: RELAY_V4,
        inner: PEER_INNER,
    };
    let flows = |rate| {
        let up = UdpFlow::from_peer(peer, (&lab.host, HOST_V6), 200, rate);
        let down = UdpFlow::to_peer((&lab.host, HOST_V6), peer, 200, rate);
        up.wait_received(5, PATIENCE);
        down.wait_received(5, PATIENCE);
        [up, down]
    };
    // Neighbours resolved, memory touched.
    let forger = Forger::new(&lab.user);
    for flow in flows(50) {
        let _ = flow.stop();
    }
    flood(&forger, 0, FRAGMENTS / 20);
    let before = settled(&daemon);
    let memory = resident(&mut daemon);
    let quiet = daemon.log().len();

    let flows = flows(FLOW_RATE);
    let start = Instant::now();
    flood(&forger, 0, FRAGMENTS);
    let peak = resident(&mut daemon);
    for (name, flow) in ["up", "down"].into_iter().zip(flows) {
        let report = flow.stop();
        assert!(report.sent > 1000, "{name}: {report:?}");
        assert!(
            report.lost.is_empty() && report.duplicated == 0,
            "{name}: {report:?}"
        );
    }
    let took = start.elapsed();
    let after = settled(&daemon);

    expect_reasons(&before, &after, took);
    expect_fragments(&before, &after);
    let end = resident(&mut daemon);
    eprintln!("{took:?}, resident before {memory}, at the peak {peak}, after {end} bytes");
    for (when, now) in [("during", peak), ("after", end)] {
        assert!(
            now.saturating_sub(memory) < GROWTH,
            "{when} the flood: {memory} bytes resident became {now}"
        );
    }
    expect_paced(&daemon.log()[quiet..]);
}

/// The counters when no fragment waits any more.
fn settled(daemon: &Daemon) -> CounterReport {
    wait_until("no reassembly is open", PATIENCE, || {
        daemon.api().counters().reassembly.unwrap_or_default().open == 0
    });
    assert_every_packet_accounted_for(daemon)
}

/// Every packet of the flood met exactly the end that was meant for it.
fn expect_reasons(before: &CounterReport, after: &CounterReport, took: Duration) {
    let grown = |reason| dropped_for(after, reason) - dropped_for(before, reason);
    let fragments = |reason| u64::from(if reason == "NO_TUNNEL" { STRANGERS } else { 0 });
    for kind in Kind::ALL {
        if let Some(reason) = kind.reason() {
            let all = u64::from(EACH) + fragments(reason);
            assert_eq!(grown(reason), all, "{kind:?}: {reason}");
        }
    }
    let answers = |report: &CounterReport| {
        let total = report.total.clone().unwrap_or_default();
        packets(total.answered)
    };
    let answered = answers(after) - answers(before);
    // One user's errors, whether he caused them or somebody on the way claims that he did.
    let limit = ERRORS_BURST + ERRORS_PER_SECOND * (took.as_secs() + 1);
    assert!(answered > 0 && answered <= limit, "{answered} of {limit}");
    let silent = grown("ICMP_RATE_LIMITED") + grown("ICMP4_CONSUMED");
    assert_eq!(
        answered + silent,
        u64::from(2 * EACH),
        "{silent} unanswered"
    );
}

/// Reassembly took its fill and refused the rest; of strangers it saw nothing.
fn expect_fragments(before: &CounterReport, after: &CounterReport) {
    let [before, after] = [before, after].map(|report| {
        let slow = report.slow_path.clone().unwrap_or_default();
        let of = |wanted: &str| -> u64 {
            let drops = slow.drops.iter().filter(|drop| drop.reason == wanted);
            drops.map(|drop| packets(drop.count)).sum()
        };
        let unpunted = dropped_for(report, "PUNT_LIMIT");
        [of("REASM_LIMIT"), of("REASM_TIMEOUT"), unpunted]
    });
    let [limited, overdue, unpunted] = std::array::from_fn(|i| after[i] - before[i]);
    let all = u64::from(FRAGMENTS - STRANGERS);
    assert_eq!(limited + overdue + unpunted, all);
    assert!(limited > 0 && overdue > 0, "{limited} {overdue} {unpunted}");
}

fn resident(daemon: &mut Daemon) -> u64 {
    let status = format!("/proc/{}/status", daemon.process().pid());
    let text = fs::read_to_string(status).expect("the daemon's status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kib.expect("its memory")
        .trim()
        .parse::<u64>()
        .expect("a number")
        << 10
}

/// At most one line a second of each cause, and some: the forged errors are worth a line.
fn expect_paced(log: &str) {
    let mut last: HashMap<String, f64> = HashMap::new();
    for line in log.lines() {
        let (stamp, rest) = line.split_once(' ').expect("a time");
        let words = rest.split_whitespace().filter(|word| !word.contains('='));
        let cause: Vec<&str> = words.collect();
        let at = seconds(stamp);
        if let Some(before) = last.insert(cause.join(" "), at) {
            assert!(at - before >= 0.99, "twice within a second: {line}\n{log}");
        }
    }
    let told = |what: &str| last.keys().any(|cause| cause.contains(what));
    assert!(told("ICMPv4 error about a tunnel"), "{log}");
}

/// Seconds of the day in `2026-11-21T08:56:20.590287Z`.
fn seconds(stamp: &str) -> f64 {
    let time = stamp
        .trim_end_matches('Z')
        .split_once('T')
        .expect("a time")
        .1;
    time.split(':').fold(0.0, |sum, part| {
        sum * 60.0 + part.parse::<f64>().expect("a number")
    })
}
