//! Packets no well-behaved stack would send.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use etherparse::{
    Icmpv6Type, IpNumber, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, RawProtocol, RecvFlags, SendFlags, SocketType, bind, ipproto, recv, sendto,
    socket,
};

use crate::net::Net;

/// IPPROTO_RAW: the caller writes the whole header, source address included.
const RAW: u32 = 255;

/// The EtherType of IPv4.
const ETHERTYPE_IPV4: u16 = 0x0800;

/// A raw IPv4 socket of a host: it writes the payload, the kernel the outer header.
#[derive(Debug)]
pub struct RawIpv4 {
    socket: OwnedFd,
}

impl RawIpv4 {
    /// A socket for protocol 41 that sends from `local` and receives what comes to it.
    ///
    /// # Panics
    /// Without root or when `local` is not there.
    #[must_use]
    pub fn protocol_41(net: &Net, local: Ipv4Addr) -> Self {
        Self::open(net, local, ipproto::IPV6)
    }

    /// The same for UDP; it sees every datagram, the kernel delivers them besides.
    ///
    /// # Panics
    /// As [`RawIpv4::protocol_41`].
    #[must_use]
    pub fn udp(net: &Net, local: Ipv4Addr) -> Self {
        Self::open(net, local, ipproto::UDP)
    }

    fn open(net: &Net, local: Ipv4Addr, protocol: rustix::net::Protocol) -> Self {
        let socket = net.enter(|| {
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(protocol));
            let socket = socket.expect("a raw socket");
            bind(&socket, &SocketAddrV4::new(local, 0)).expect("a local address");
            socket
        });
        Self { socket }
    }

    /// Room for packets that wait to be received.
    ///
    /// # Panics
    /// Without root.
    pub fn receive_buffer(&self, bytes: usize) {
        set_socket_recv_buffer_size_force(&self.socket, bytes).expect("a larger receive buffer");
    }

    /// Sends `inner` to `remote`.
    pub fn send(&self, remote: Ipv4Addr, inner: &[u8]) {
        let to = SocketAddrV4::new(remote, 0);
        // A full queue loses it, as a wire would.
        let _ = sendto(&self.socket, inner, SendFlags::empty(), &to);
    }

    /// The next packet, outer header first; `None` after `timeout`.
    ///
    /// # Panics
    /// When the socket refuses the timeout.
    #[must_use]
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        set_socket_timeout(&self.socket, Timeout::Recv, Some(timeout)).expect("a timeout");
        next_packet(&self.socket)
    }
}

/// Every IPv4 packet that enters a namespace, once for each interface it enters by: also those
/// it forwards. Bridged frames stay below it.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Listens from now on.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn ipv4(net: &Net) -> Self {
        let ethertype = u32::from(ETHERTYPE_IPV4.to_be());
        let protocol = RawProtocol::new(ethertype).map(rustix::net::Protocol::from_raw);
        let opened = net.enter(|| socket(AddressFamily::PACKET, SocketType::DGRAM, protocol));
        let socket = opened.expect("a packet socket");
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(1)))
            .expect("a timeout");
        Self { socket }
    }

    /// What has come since the last call, each packet from its IPv4 header on.
    #[must_use]
    pub fn drain(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| next_packet(&self.socket)).collect()
    }
}

fn next_packet(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 65536];
    let len = match recv(socket, bytes.as_mut_slice(), RecvFlags::empty()) {
        Ok((len, _)) => len,
        Err(Errno::AGAIN) => return None,
        Err(error) => panic!("receiving: {error}"),
    };
    bytes.truncate(len);
    Some(bytes)
}

/// Sends IPv4 packets with every field of the caller's; the kernel adds the checksum.
#[derive(Debug)]
pub struct Forger {
    socket: OwnedFd,
}

impl Forger {
    /// Sends from `net`.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new(net: &Net) -> Self {
        let protocol = RawProtocol::new(RAW).map(rustix::net::Protocol::from_raw);
        let opened = net.enter(|| socket(AddressFamily::INET, SocketType::RAW, protocol));
        Self {
            socket: opened.expect("a raw socket"),
        }
    }

    /// Sends `packet`, header included, and says whether it left.
    pub fn send(&self, packet: &[u8]) -> bool {
        let field: [u8; 4] = packet[16..20].try_into().expect("four bytes");
        let to = SocketAddrV4::new(Ipv4Addr::from(field), 0);
        sendto(&self.socket, packet, SendFlags::empty(), &to).is_ok()
    }
}

/// An IPv4 packet without options.
///
/// # Panics
/// When `payload` is too long for one.
#[must_use]
pub fn ipv4(
    protocol: IpNumber,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    payload: &[u8],
) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a packet");
    let (from, to) = (source.octets(), destination.octets());
    let mut header = Ipv4Header::new(len, 64, protocol, from, to).expect("a header");
    header.header_checksum = header.calc_header_checksum();
    let mut packet = header.to_bytes().to_vec();
    packet.extend_from_slice(payload);
    packet
}

/// Sends `inner` in protocol 41 with any outer source.
///
/// # Panics
/// Without root.
pub fn send_spoofed(net: &Net, source: Ipv4Addr, destination: Ipv4Addr, inner: &[u8]) {
    let packet = ipv4(IpNumber::IPV6, source, destination, inner);
    Forger::new(net).send(&packet);
}

/// Sends `inner` in UDP with any outer source.
///
/// # Panics
/// Without root.
pub fn send_spoofed_udp(net: &Net, source: SocketAddrV4, destination: SocketAddrV4, inner: &[u8]) {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(source.ip().octets(), destination.ip().octets(), 64)
        .udp(source.port(), destination.port())
        .write(&mut packet, inner)
        .expect("a packet");
    Forger::new(net).send(&packet);
}

/// Sends a whole IPv6 packet, header included, into the native network of `net`.
///
/// # Panics
/// Without root.
pub fn send_ipv6(net: &Net, destination: Ipv6Addr, packet: &[u8]) {
    net.enter(|| {
        let protocol = RawProtocol::new(RAW).map(rustix::net::Protocol::from_raw);
        let socket = socket(AddressFamily::INET6, SocketType::RAW, protocol);
        let to = SocketAddrV6::new(destination, 0, 0, 0);
        let _ = sendto(
            socket.expect("a raw socket"),
            packet,
            SendFlags::empty(),
            &to,
        );
    });
}

/// An ICMPv6 echo request with its IPv6 header.
///
/// # Panics
/// Never: the packet is small.
#[must_use]
pub fn echo_request(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(source.octets(), destination.octets(), hop_limit)
        .icmpv6_echo_request(0x4141, 1)
        .write(&mut packet, b"six ferries")
        .expect("a small packet");
    packet
}

/// The answer to an ICMPv6 echo request, both with their IPv6 headers.
///
/// # Panics
/// When `request` is none.
#[must_use]
pub fn echo_reply(request: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ip(request).expect("an IPv6 packet");
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) =
        (sliced.net, sliced.transport)
    else {
        panic!("no ICMPv6: {request:02x?}")
    };
    let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() else {
        panic!("no echo request: {request:02x?}")
    };
    let header = ip.header();
    let mut reply = Vec::new();
    PacketBuilder::ipv6(header.destination(), header.source(), 64)
        .icmpv6_echo_reply(echo.id, echo.seq)
        .write(&mut reply, icmp.payload())
        .expect("a small packet");
    reply
}
