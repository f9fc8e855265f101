//! Two relays whose tunnels lead to each other: the loop rules end a packet's journey at once,
//! and what they cannot see the hop limit ends (P41-53, RFC 6324).
//!
//! ```text
//!            +--- wan 8.0.0.1 --- [router: every packet counted] --- 8.0.1.1 wan ---+
//!         relay a                                                                relay b
//!            +--- lan ffff::1 --- [host: bridge, ffff::2, native IPv6] --- ffff::4 lan ---+
//! ```

use std::net::Ipv6Addr;
use std::time::Duration;

use sixferry_netns_tests::ledger::{assert_every_packet_accounted_for, dropped_for};
use sixferry_netns_tests::raw::{Tap, echo_request, send_ipv6};
use sixferry_netns_tests::wait_until;
use sixferry_netns_tests::{Daemon, DaemonConfig, Net, Veth};

const A_V6: &str = "2001:db8:ffff::1";
const B_V6: &str = "2001:db8:ffff::4";
const HOST_V6: &str = "2001:db8:ffff::2";
/// Somewhere in the prefix both relays believe to be behind the other.
const LOST: &str = "2001:db8:bad::1";
const LOST_PREFIX: &str = "2001:db8:bad::/48";
const HOPS: u8 = 64;
const PACKETS: u64 = 10;
const COUNTED: Duration = Duration::from_secs(30);
const IPV4_HEADER: usize = 20;

struct Crossed {
    a: Net,
    b: Net,
    router: Net,
    host: Net,
}

impl Crossed {
    /// `routed` is what the host sends to relay a.
    fn build(routed: &str) -> Self {
        let (a, b) = (Net::new("a"), Net::new("b"));
        let (router, host) = (Net::new("router"), Net::new("host"));
        router.sysctl("net/ipv4/ip_forward", "1");
        host.ip("link add br6 type bridge stp_state 0 forward_delay 0");
        host.ip("link set br6 up");
        host.ip(&format!("addr add {HOST_V6}/64 dev br6 nodad"));
        for (relay, side, third, v6) in [(&a, "to-a", 0, A_V6), (&b, "to-b", 1, B_V6)] {
            Veth::between(relay, "wan", &router, side).build();
            router.ip(&format!("addr add 8.0.{third}.254/24 dev {side}"));
            for last in [1, 5] {
                relay.ip(&format!("addr add 8.0.{third}.{last}/24 dev wan"));
            }
            relay.ip(&format!("route add default via 8.0.{third}.254"));
            Veth::between(relay, "lan", &host, side).build();
            host.ip(&format!("link set {side} master br6"));
            relay.ip(&format!("addr add {v6}/64 dev lan nodad"));
        }
        host.ip(&format!("route add {routed} via {A_V6}"));
        Self { a, b, router, host }
    }

    fn start(&self, a: &str, b: &str) -> [Daemon; 2] {
        [(&self.a, A_V6, a), (&self.b, B_V6, b)].map(|(net, address, sections)| {
            let config = DaemonConfig::default()
                .router(v6(address))
                .port("wan", "")
                .port("lan", "")
                .section("[worker]\nidle = \"poll\"\npin = false")
                .section(sections);
            Daemon::start(net, &config)
        })
    }

    /// Sends packets one by one, each when `counted` says that the one before has met its end.
    fn inject(&self, source: &str, destination: &str, hops: u8, counted: impl Fn() -> u64) {
        let packet = echo_request(v6(source), v6(destination), hops);
        for sent in 1..=PACKETS {
            send_ipv6(&self.host, v6(destination), &packet);
            wait_until("a packet has met its end", COUNTED, || counted() >= sent);
        }
    }
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

/// How many packets to `destination` crossed between the relays.
fn crossings(tap: &Tap, destination: &str) -> u64 {
    let wanted = v6(destination).octets();
    let at = IPV4_HEADER + 24;
    let is_one = |packet: &Vec<u8>| packet.get(at..at + 16) == Some(&wanted[..]);
    tap.drain().iter().filter(|packet| is_one(packet)).count() as u64
}

fn tunnel(id: &str, local: &str, remote: &str, prefix: &str) -> String {
    format!(
        "[[tunnel]]\nid = \"{id}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
         prefixes = [\"{prefix}\"]\nstrict_source = false\n"
    )
}

/// Each says the prefix is behind the other: the second sees a packet come out of the tunnel it
/// would go into.
#[test]
#[ignore = "needs root"]
fn crossed_tunnels_pass_a_packet_once() {
    let lab = Crossed::build(LOST_PREFIX);
    let [a, b] = lab.start(
        &tunnel("to-b", "8.0.0.1", "8.0.1.1", LOST_PREFIX),
        &tunnel("to-a", "8.0.1.1", "8.0.0.1", LOST_PREFIX),
    );
    let tap = Tap::ipv4(&lab.router);
    let dropped = |daemon: &Daemon| dropped_for(&daemon.api().counters(), "LOOP_SAME_TUNNEL");
    lab.inject(HOST_V6, LOST, HOPS, || dropped(&b));
    assert_every_packet_accounted_for(&a);
    assert_every_packet_accounted_for(&b);
    assert_eq!(crossings(&tap, LOST), PACKETS);
    assert_eq!((dropped(&a), dropped(&b)), (0, PACKETS));
}

/// A circle over two tunnels looks like honest transit to each relay. The hop limit ends it.
#[test]
#[ignore = "needs root"]
fn a_circle_over_two_tunnels_ends_with_the_hop_limit() {
    const FEW_HOPS: u8 = 9;
    let lab = Crossed::build(LOST_PREFIX);
    let a = tunnel("there", "8.0.0.1", "8.0.1.1", LOST_PREFIX)
        + &tunnel("back", "8.0.0.5", "8.0.1.5", "2001:db8:1::/48");
    let b = tunnel("there", "8.0.1.1", "8.0.0.1", "2001:db8:2::/48")
        + &tunnel("back", "8.0.1.5", "8.0.0.5", LOST_PREFIX);
    let daemons = lab.start(&a, &b);
    let tap = Tap::ipv4(&lab.router);
    // The relay that gets the last hop says so to the sender, or its rate limit keeps it quiet.
    let ended = || -> u64 {
        let ends = daemons.iter().map(|daemon| {
            let report = daemon.api().counters();
            let total = report.total.clone().unwrap_or_default();
            total.answered.unwrap_or_default().packets + dropped_for(&report, "ICMP_RATE_LIMITED")
        });
        ends.sum()
    };
    lab.inject(HOST_V6, LOST, FEW_HOPS, ended);
    for daemon in &daemons {
        assert_every_packet_accounted_for(daemon);
    }
    let each = u64::from(FEW_HOPS) - 1;
    assert_eq!(crossings(&tap, LOST), PACKETS * each);
}

/// The loop of RFC 6324 between a 6to4 relay and a 6rd border relay that know nothing of each
/// other: the source names the first by the second's mapping, the destination the second by the
/// first's. 8.0.0.1 is 0x00001 and 8.0.1.1 is 0x00101 at bit 37 of the domain.
#[test]
#[ignore = "needs root"]
fn sixtofour_and_sixrd_relays_do_not_loop() {
    const B_AS_6TO4: &str = "2002:800:101::1";
    const A_AS_6RD: &str = "2001:db8:6800:80::1";
    let lab = Crossed::build("2002::/16");
    lab.host
        .ip(&format!("route add 2001:db8:6800::/37 via {B_V6}"));
    let [a, b] = lab.start(
        "[[domain]]\nid = \"sixtofour\"\nkind = \"6to4\"\nrole = \"relay\"\nlocal = \"8.0.0.1\"",
        "[[domain]]\nid = \"rd\"\nkind = \"6rd\"\nrole = \"br\"\nlocal = \"8.0.1.1\"\n\
         prefix = \"2001:db8:6800::/37\"\nv4_common = \"8.0.0.0/12\"",
    );
    // The way back the loop would need.
    lab.b.ip(&format!("route add 2002::/16 via {A_V6}"));
    lab.a
        .ip(&format!("route add 2001:db8:6800::/37 via {B_V6}"));
    let tap = Tap::ipv4(&lab.router);
    let looped = |daemon: &Daemon| dropped_for(&daemon.api().counters(), "LOOP_SELF");
    lab.inject(A_AS_6RD, B_AS_6TO4, HOPS, || looped(&b));
    assert_eq!(crossings(&tap, B_AS_6TO4), PACKETS, "once each");
    // The other way round the first relay knows its own address at the entry.
    lab.inject(B_AS_6TO4, A_AS_6RD, HOPS, || looped(&b) - PACKETS);
    assert_eq!(crossings(&tap, A_AS_6RD), 0);
    assert_every_packet_accounted_for(&a);
    assert_every_packet_accounted_for(&b);
}
