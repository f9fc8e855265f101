//! The real peers themselves: does each emit what its RFC says, and take the answer, before a
//! relay is involved? What a later test finds is then the relay's doing.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use etherparse::{Icmpv6Type, IpNumber, SlicedPacket, TransportSlice};
use sixferry_netns_tests::Ping;
use sixferry_netns_tests::guest::Running;
use sixferry_netns_tests::raw::{RawIpv4, echo_reply, echo_request};
use sixferry_netns_tests::site::{SIX_RD, SIX_TO_FOUR, Site, UDP, UDP_PORT, UDP_WITHOUT_CHECKSUM};
use sixferry_netns_tests::tcp::echoed;
use sixferry_netns_tests::topology::{HOST_V6, Lab, LabPlan, USER_V6};

const ANSWER: Duration = Duration::from_secs(30);
const UDP_HEADER: usize = 8;

#[test]
#[ignore = "needs root"]
fn sixtofour_peer_encapsulates_by_destination() {
    let Some(lab) = LabPlan::new().site(&SIX_TO_FOUR).build() else {
        return;
    };
    emits_protocol_41(&lab);
    // Another 6to4 site is reached directly, not through the relay.
    lab.user.ip("addr add 8.0.0.9/24 dev br4");
    let other = RawIpv4::protocol_41(&lab.user, "8.0.0.9".parse().unwrap());
    let ping = pings(&lab, "2002:800:9::1");
    let packet = other.receive(ANSWER).expect("a packet to 8.0.0.9");
    assert_eq!(packet[12..20], [8, 0, 0, 2, 8, 0, 0, 9]);
    let _ = ping.wait(ANSWER);
}

#[test]
#[ignore = "needs root"]
fn sixrd_peer_encapsulates_by_destination() {
    let Some(lab) = LabPlan::new().site(&SIX_RD).build() else {
        return;
    };
    emits_protocol_41(&lab);
    // 10.79.18.9 is 0xf1209: another user of the domain is reached directly.
    lab.user.ip("addr add 10.79.18.9/24 dev br4");
    let other = RawIpv4::protocol_41(&lab.user, "10.79.18.9".parse().unwrap());
    let ping = pings(&lab, "2001:db8:6f89:480::1");
    let packet = other.receive(ANSWER).expect("a packet to 10.79.18.9");
    assert_eq!(packet[12..20], [10, 79, 18, 2, 10, 79, 18, 9]);
    let _ = ping.wait(ANSWER);
}

#[test]
#[ignore = "needs root"]
fn fou_peer_puts_bare_ipv6_into_udp() {
    emits_udp(&UDP);
}

#[test]
#[ignore = "needs root"]
fn fou_peer_without_checksum_sends_zero() {
    emits_udp(&UDP_WITHOUT_CHECKSUM);
}

#[test]
#[ignore = "needs root"]
fn machine_runs_commands_and_traffic_on_its_lan() {
    let Some(lab) = LabPlan::new().site(&UDP).build() else {
        return;
    };
    let slow = lab.guest().start("sleep 1\necho slow\nfalse");
    let quick = lab.guest().shell("echo quick");
    assert_eq!((quick.code, quick.text.as_str()), (0, "quick"));
    let slow = slow.wait(Duration::from_secs(20));
    assert_eq!((slow.code, slow.text.as_str()), (1, "slow"));
    let site = Ping::to(USER_V6).count(2).from_guest(lab.guest());
    assert!(site.complete(), "{}", site.text);
    echoed(lab.guest(), &lab.user, USER_V6, 1 << 20).expect("TCP of the guest");
}

fn pings<'l>(lab: &'l Lab, to: &str) -> Running<'l> {
    lab.guest()
        .start(&format!("/sbin/ping -n -c 1 -W 5 -s 56 {to}"))
}

/// One echo request to native IPv6 must come to the relay, which is played here.
fn emits_protocol_41(lab: &Lab) {
    let site = &lab.site;
    let socket = RawIpv4::protocol_41(&lab.relay, site.relay_v4);
    let ping = pings(lab, &HOST_V6.to_string());
    let packet = socket.receive(ANSWER).expect("an echo request");
    let outer = checked_outer(&packet, site, IpNumber::IPV6);
    socket.send(site.guest_v4, &answer(outer, site));
    let said = ping.wait(ANSWER);
    assert_eq!(said.code, 0, "{}", said.text);

    // And it is reached from outside.
    socket.send(site.guest_v4, &echo_request(HOST_V6, site.guest_inner, 64));
    let packet = socket.receive(ANSWER).expect("an echo reply");
    let reply = checked_outer(&packet, site, IpNumber::IPV6);
    assert_eq!(icmp_type(reply), Icmpv6TypeOnly::Reply);
}

fn emits_udp(site: &Site) {
    let Some(lab) = LabPlan::new().site(site).build() else {
        return;
    };
    let seen = RawIpv4::udp(&lab.relay, site.relay_v4);
    let local = SocketAddrV4::new(site.relay_v4, UDP_PORT);
    let remote = SocketAddrV4::new(site.guest_v4, UDP_PORT);
    let socket = lab.relay.enter(|| UdpSocket::bind(local)).expect("a port");
    let ping = pings(&lab, &HOST_V6.to_string());
    let packet = seen.receive(ANSWER).expect("a datagram");
    let datagram = checked_outer(&packet, site, IpNumber::UDP);
    let field = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
    assert_eq!((field(0), field(2)), (UDP_PORT, UDP_PORT), "ports");
    assert_eq!(usize::from(field(4)), datagram.len(), "length");
    let zero = site.kind == UDP_WITHOUT_CHECKSUM.kind;
    assert_eq!(field(6) == 0, zero, "checksum {:#06x}", field(6));
    let inner = &datagram[UDP_HEADER..];
    assert_eq!(inner[0] >> 4, 6, "no shim between UDP and IPv6");
    socket
        .send_to(&answer(inner, site), remote)
        .expect("a send");
    let said = ping.wait(ANSWER);
    assert_eq!(said.code, 0, "{}", said.text);
}

/// The payload of an outer packet whose header is what a router with TTL 64 must send.
fn checked_outer<'p>(packet: &'p [u8], site: &Site, protocol: IpNumber) -> &'p [u8] {
    assert_eq!(packet[0], 0x45, "no options");
    let length = u16::from_be_bytes([packet[2], packet[3]]);
    assert_eq!(usize::from(length), packet.len());
    assert_eq!((packet[8], packet[9]), (64, protocol.0), "TTL, protocol");
    assert_eq!(packet[12..16], site.guest_v4.octets());
    assert_eq!(packet[16..20], site.relay_v4.octets());
    &packet[20..]
}

/// The echo reply to a request from the guest to the native host.
fn answer(request: &[u8], site: &Site) -> Vec<u8> {
    assert_eq!(icmp_type(request), Icmpv6TypeOnly::Request);
    assert_eq!(request[8..24], site.guest_inner.octets());
    assert_eq!(request[24..40], HOST_V6.octets());
    echo_reply(request)
}

#[derive(Debug, PartialEq, Eq)]
enum Icmpv6TypeOnly {
    Request,
    Reply,
    Other,
}

fn icmp_type(packet: &[u8]) -> Icmpv6TypeOnly {
    match SlicedPacket::from_ip(packet).expect("IPv6").transport {
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(_) => Icmpv6TypeOnly::Request,
            Icmpv6Type::EchoReply(_) => Icmpv6TypeOnly::Reply,
            _ => Icmpv6TypeOnly::Other,
        },
        _ => Icmpv6TypeOnly::Other,
    }
}
