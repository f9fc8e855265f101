//! A user who lies about the source of its packets: the relay must drop every one of them and
//! say why (RFC 4213 section 3.6, BCP 38). The user's own kernel would not send them, so they
//! are written by hand.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with,
};

use super::FlowResult;
use crate::lab::error::Error;
use crate::lab::topology::{HOST_V6, RELAY_V4, Role, Topology};

/// Somebody else's address.
const FOREIGN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1);
const PACKETS: u64 = 5;
/// The relay's name for it.
const REASON: &str = "INNER_SRC_SPOOF";
const NO_NEXT_HEADER: u8 = 59;

/// Sends the packets; whether they were refused is for the counters to say.
pub(in crate::lab) fn send(topology: &Topology) -> Result<(), Error> {
    let cannot = || Error::errno("cannot send spoofed packets");
    let from = SocketAddrV4::new(topology.user_v4(), 0);
    let socket = topology.netns(Role::User).enter(|| {
        let kind = SocketType::RAW;
        let protocol = Some(ipproto::IPV6);
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &from)?;
        Ok(socket)
    })?;
    let socket = socket.map_err(cannot())?;
    for _ in 0..PACKETS {
        send_one(&socket, RELAY_V4).map_err(cannot())?;
    }
    Ok(())
}

fn send_one(socket: &std::os::fd::OwnedFd, relay: Ipv4Addr) -> rustix::io::Result<()> {
    let packet = packet(FOREIGN, HOST_V6);
    sendto(
        socket,
        &packet,
        SendFlags::empty(),
        &SocketAddrV4::new(relay, 0),
    )
    .map(|_| ())
}

/// A bare IPv6 header that announces nothing behind it.
fn packet(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, NO_NEXT_HEADER, 64];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet
}

/// The flow's result from the tunnel's drop counters.
pub(in crate::lab) fn judge<'a>(drops: impl IntoIterator<Item = (&'a str, u64)>) -> FlowResult {
    let dropped = drops
        .into_iter()
        .filter(|(reason, _)| *reason == REASON)
        .map(|(_, packets)| packets)
        .sum::<u64>();
    let detail = format!("{PACKETS} packets from {FOREIGN} sent, {dropped} dropped as {REASON}");
    super::result("spoofed source", "user -> host", dropped == PACKETS, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_reason_and_number_will_do() {
        assert!(judge([("NO_TUNNEL", 1), (REASON, PACKETS)]).passed);
        assert!(!judge([(REASON, PACKETS - 1)]).passed);
        assert!(!judge([("NO_TUNNEL", PACKETS)]).passed);
        assert_eq!(packet(FOREIGN, HOST_V6).len(), 40);
    }
}
