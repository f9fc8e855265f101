//! Packets no well-behaved stack would send.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RawProtocol, RecvFlags, SendFlags, SocketType, bind, ipproto, recv, sendto,
    socket,
};

use crate::net::Net;

/// IPPROTO_RAW: the caller writes the whole header, source address included.
const RAW: u32 = 255;

/// A protocol-41 socket of a host: it writes the inner packet, the kernel the outer header.
#[derive(Debug)]
pub struct Protocol41 {
    socket: OwnedFd,
}

impl Protocol41 {
    /// A socket that sends from `local` and receives what comes to it.
    ///
    /// # Panics
    /// Without root or when `local` is not there.
    #[must_use]
    pub fn open(net: &Net, local: Ipv4Addr) -> Self {
        let socket = net.enter(|| {
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::IPV6));
            let socket = socket.expect("a raw socket");
            bind(&socket, &SocketAddrV4::new(local, 0)).expect("a local address");
            socket
        });
        Self { socket }
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
        let mut bytes = vec![0; 65536];
        let (len, _) = recv(&self.socket, bytes.as_mut_slice(), RecvFlags::empty()).ok()?;
        bytes.truncate(len);
        Some(bytes)
    }
}

/// Sends `inner` in protocol 41 with any outer source.
///
/// # Panics
/// Without root.
pub fn send_spoofed(net: &Net, source: Ipv4Addr, destination: Ipv4Addr, inner: &[u8]) {
    let len = u16::try_from(inner.len()).expect("a packet");
    let (from, to) = (source.octets(), destination.octets());
    let header = Ipv4Header::new(len, 64, IpNumber::IPV6, from, to).expect("a header");
    let mut packet = header.to_bytes().to_vec();
    packet.extend_from_slice(inner);
    net.enter(|| {
        let protocol = RawProtocol::new(RAW).map(rustix::net::Protocol::from_raw);
        let socket = socket(AddressFamily::INET, SocketType::RAW, protocol);
        let to = SocketAddrV4::new(destination, 0);
        let _ = sendto(
            socket.expect("a raw socket"),
            &packet,
            SendFlags::empty(),
            &to,
        );
    });
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
