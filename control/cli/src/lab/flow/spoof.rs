//! A user who lies about the source of its packets: the relay must drop every one of them and
//! say why (RFC 4213 section 3.6, BCP 38). The user's own kernel would not write them, so they
//! are written by hand and routed into the tunnel.

use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use super::FlowResult;
use crate::lab::error::Error;
use crate::lab::topology::{HOST_V6, Kind, Role, Topology};

/// Somebody else's address.
const FOREIGN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1);
const PACKETS: u64 = 5;
const NO_NEXT_HEADER: u8 = 59;

/// The relay's name for it.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::SixInFour | Kind::Udp => "INNER_SRC_SPOOF",
        Kind::SixToFour => "S6TO4_NATIVE_NATIVE",
        Kind::SixRd => "S6RD_SRC_NOT_IN_DOMAIN",
    }
}

/// Sends the packets; whether they were refused is for the counters to say.
pub(in crate::lab) fn send(topology: &Topology) -> Result<(), Error> {
    let cannot = || Error::errno("cannot send spoofed packets");
    let socket = topology.netns(Role::User).enter(|| {
        // With this protocol the whole header is ours to write.
        let protocol = Some(ipproto::RAW);
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET6, SocketType::RAW, flags, protocol)
    })?;
    let socket = socket.map_err(cannot())?;
    let packet = packet(FOREIGN, HOST_V6);
    let to = SocketAddrV6::new(HOST_V6, 0, 0, 0);
    for _ in 0..PACKETS {
        sendto(&socket, &packet, SendFlags::empty(), &to).map_err(cannot())?;
    }
    Ok(())
}

/// A bare IPv6 header that announces nothing behind it.
fn packet(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, NO_NEXT_HEADER, 64];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet
}

/// The flow's result from the drop counters.
pub(in crate::lab) fn judge<'a>(
    kind: Kind,
    drops: impl IntoIterator<Item = (&'a str, u64)>,
) -> FlowResult {
    let expected = reason(kind);
    let dropped = drops
        .into_iter()
        .filter(|(reason, _)| *reason == expected)
        .map(|(_, packets)| packets)
        .sum::<u64>();
    let detail = format!("{PACKETS} packets from {FOREIGN} sent, {dropped} dropped as {expected}");
    super::result("spoofed source", "user -> host", dropped == PACKETS, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_reason_and_number_will_do() {
        let spoof = reason(Kind::Udp);
        let judge = |drops: &[(&'static str, u64)]| judge(Kind::Udp, drops.iter().copied()).passed;
        assert!(judge(&[("NO_TUNNEL", 1), (spoof, PACKETS)]));
        assert!(!judge(&[(spoof, PACKETS - 1)]));
        assert!(!judge(&[("NO_TUNNEL", PACKETS)]));
        assert!(!judge(&[(reason(Kind::SixRd), PACKETS)]));
        assert_eq!(packet(FOREIGN, HOST_V6).len(), 40);
    }
}
