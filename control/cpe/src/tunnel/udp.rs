//! IPv6-in-UDP at the user's end: bare IPv6 directly after the UDP header, as DTCP clients and
//! Linux fou speak it. It passes NAT, as long as something passes often enough.
//!
//! ```text
//!  outer IPv4 (20)   UDP (8)                    inner IPv6 (40 + payload length)
//! +---------------+---------------------------+----------------------------------+
//! |  protocol=17  | ports, length, checksum   | ver  TC  flow | len nh hl src dst|
//! +---------------+---------------------------+----------------------------------+
//! ```
//!
//! The kernel writes and checks both outer headers. An empty datagram is a keepalive.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rand::RngExt;

use super::inner;
use crate::counters::DropReason;

/// Length of both outer headers.
pub const OUTER_LEN: usize = 28;

/// NAT devices forget a UDP mapping after 30 s or more (RFC 4787 section 4.3 asks for two
/// minutes); every 20 to 25 s is often enough, and no two clients stay in step.
const KEEPALIVE_MILLIS: std::ops::RangeInclusive<u64> = 20_000..=25_000;

/// The time to the next keepalive.
pub(super) fn keepalive_delay() -> Duration {
    Duration::from_millis(rand::rng().random_range(KEEPALIVE_MILLIS))
}

/// Decides about a UDP payload and returns the packet for the TUN device; `None` for a keepalive.
///
/// # Errors
/// The first check that failed.
pub fn decap<'p>(
    payload: &'p mut [u8],
    from: SocketAddr,
    relay: SocketAddrV4,
    outer_ecn: u8,
    own: &[Ipv6Addr],
) -> Result<Option<&'p [u8]>, DropReason> {
    if from != SocketAddr::V4(relay) {
        return Err(DropReason::UdpRemoteMismatch);
    }
    if payload.is_empty() {
        return Ok(None);
    }
    inner::decap(payload, outer_ecn, own).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 1), 4028);

    #[test]
    fn only_the_relays_port_is_believed_and_silence_keeps_alive() {
        let mut packet = vec![0x60; 40];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 59, 64]);
        let other = SocketAddrV4::new(*RELAY.ip(), 4029).into();
        assert_eq!(
            decap(&mut packet.clone(), other, RELAY, 0, &[]),
            Err(DropReason::UdpRemoteMismatch)
        );
        assert_eq!(decap(&mut [], RELAY.into(), RELAY, 0, &[]), Ok(None));
        assert_eq!(
            decap(&mut packet.clone(), RELAY.into(), RELAY, 0, &[]),
            Ok(Some(packet.as_slice()))
        );
        // Congestion on a packet that cannot carry the mark (its class is 0): RFC 6040.
        let refused = decap(&mut packet, RELAY.into(), RELAY, 3, &[]);
        assert_eq!(refused, Err(DropReason::EcnCeOnNotEct));
    }

    #[test]
    fn keepalives_come_before_a_mapping_expires_and_out_of_step() {
        let delays: Vec<Duration> = (0..50).map(|_| keepalive_delay()).collect();
        let limits = Duration::from_secs(20)..=Duration::from_secs(25);
        assert!(delays.iter().all(|delay| limits.contains(delay)));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
}
