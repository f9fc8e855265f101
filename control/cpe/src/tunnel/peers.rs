//! Who is at the other end: one relay, or everybody of a domain whose IPv6 addresses contain
//! IPv4 addresses.
//!
//! RFC 3056 and RFC 3964 (6to4 site), RFC 5969 (6rd customer edge).

use std::net::Ipv4Addr;

use sixferry_wire::embed::{self, Embedding};

use super::inner;
use crate::counters::DropReason;

/// Where packets go and whom they may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// One relay, and nobody else.
    Relay(Ipv4Addr),
    /// A 6to4 site: other sites directly, the rest of the world by way of a relay.
    SixToFour {
        /// Our IPv4 address.
        local: Ipv4Addr,
        /// The way out.
        relay: Ipv4Addr,
    },
    /// A 6rd customer edge: other customers directly, the rest by way of the border relay.
    SixRd {
        /// How addresses of the domain contain IPv4 addresses.
        embedding: Embedding,
        /// Our IPv4 address.
        local: Ipv4Addr,
        /// The border relay.
        br: Ipv4Addr,
    },
}

impl Peers {
    /// The relay everything goes to that has no nearer end.
    #[must_use]
    pub const fn relay(&self) -> Ipv4Addr {
        match *self {
            Self::Relay(relay) | Self::SixToFour { relay, .. } => relay,
            Self::SixRd { br, .. } => br,
        }
    }

    /// The outer destination of a packet.
    ///
    /// # Errors
    /// When its address contains an IPv4 address nobody can have, or our own.
    pub fn destination(&self, packet: &[u8]) -> Result<Ipv4Addr, DropReason> {
        let (embedding, local, relay) = match *self {
            Self::Relay(relay) => return Ok(relay),
            Self::SixToFour { local, relay } => (Embedding::SIX_TO_FOUR, local, relay),
            Self::SixRd {
                embedding,
                local,
                br,
            } => (embedding, local, br),
        };
        let (_, to) = inner::addresses(packet).ok_or(DropReason::InnerTruncated)?;
        let Some(v4) = embedding.embedded(to) else {
            return Ok(relay);
        };
        // A route sent our own prefix into the tunnel: it would come back for ever (RFC 6324).
        if v4 == u32::from(local) {
            return Err(DropReason::LoopSelf);
        }
        self.check_unicast(v4)?;
        Ok(v4.into())
    }

    /// Whether a packet with this inner packet may come from there.
    ///
    /// # Errors
    /// When it may not.
    pub fn accept(&self, from: Ipv4Addr, packet: &[u8]) -> Result<(), DropReason> {
        let (embedding, local) = match *self {
            // Anybody may send protocol 41 to us; only the relay may put packets into our network.
            Self::Relay(relay) if from == relay => return Ok(()),
            Self::Relay(_) => return Err(DropReason::NoTunnel),
            Self::SixToFour { local, .. } => (Embedding::SIX_TO_FOUR, local),
            Self::SixRd {
                embedding, local, ..
            } => (embedding, local),
        };
        // What is no IPv6 packet is named by the checks that follow.
        let Some((source, destination)) = inner::addresses(packet) else {
            return Ok(());
        };
        if matches!(self, Self::SixToFour { .. }) {
            self.check_unicast(from.into())
                .map_err(|_| DropReason::V4SrcMartian)?;
        }
        if embedding.embedded(destination) != Some(local.into()) {
            return Err(match self {
                Self::SixRd { .. } => DropReason::S6rdDstNotMine,
                _ => DropReason::S6to4DstMismatch,
            });
        }
        match (embedding.embedded(source), self) {
            // RFC 3964 section 5.3: else anybody could speak for every site.
            (Some(v4), _) if v4 == u32::from(from) => Ok(()),
            (Some(_), Self::SixToFour { .. }) => Err(DropReason::S6to4SrcMismatch),
            // RFC 5969 section 8.1: the border relay vouches for any source.
            (_, Self::SixRd { br, .. }) if from == *br => Ok(()),
            (_, Self::SixRd { .. }) => Err(DropReason::S6rdSrcMismatch),
            // Relays may answer from the anycast address (RFC 6343 section 4.2.1).
            (None, _) if from == self.relay() => Ok(()),
            (None, _) if from.octets() == embed::SIX_TO_FOUR_ANYCAST => Ok(()),
            _ => Err(DropReason::NoTunnel),
        }
    }

    fn check_unicast(&self, v4: u32) -> Result<(), DropReason> {
        let bad = match self {
            // A 6rd domain may well have private addresses.
            Self::SixRd { .. } => embed::is_impossible(v4),
            _ => embed::is_martian(v4),
        };
        if bad {
            return Err(DropReason::V4DstMartian);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(9, 1, 2, 3);
    const RELAY: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

    fn packet(source: &str, destination: &str) -> Vec<u8> {
        let address = |text: &str| {
            text.parse::<std::net::Ipv6Addr>()
                .expect("address")
                .octets()
        };
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        packet.extend_from_slice(&address(source));
        packet.extend_from_slice(&address(destination));
        packet
    }

    fn site() -> Peers {
        Peers::SixToFour {
            local: LOCAL,
            relay: RELAY,
        }
    }

    fn edge() -> Peers {
        let prefix = u128::from("2001:db8::".parse::<std::net::Ipv6Addr>().expect("address"));
        Peers::SixRd {
            embedding: Embedding::new(prefix, 32, 0x0a00_0000, 8).expect("a domain"),
            local: Ipv4Addr::new(10, 1, 1, 1),
            br: Ipv4Addr::new(10, 0, 0, 1),
        }
    }

    #[test]
    fn packets_go_to_the_nearest_end() {
        let to = |peers: Peers, to: &str| peers.destination(&packet("2001:db8::1", to));
        assert_eq!(to(site(), "2002:905:607::1"), Ok(Ipv4Addr::new(9, 5, 6, 7)));
        assert_eq!(to(site(), "2001:db8:2::2"), Ok(RELAY));
        assert_eq!(to(site(), "2002:7f00:1::1"), Err(DropReason::V4DstMartian));
        assert_eq!(to(site(), "2002:901:203::1"), Err(DropReason::LoopSelf));
        assert_eq!(
            to(edge(), "2001:db8:202:200::1"),
            Ok(Ipv4Addr::new(10, 2, 2, 2))
        );
        assert_eq!(to(edge(), "2001:db9::1"), Ok(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(to(Peers::Relay(RELAY), "2002:905:607::1"), Ok(RELAY));
    }

    #[test]
    fn a_site_believes_sites_and_relays() {
        let accept = |from: [u8; 4], source: &str| {
            site().accept(from.into(), &packet(source, "2002:901:203::1"))
        };
        assert_eq!(accept([9, 5, 6, 7], "2002:905:607::1"), Ok(()));
        assert_eq!(
            accept([9, 5, 6, 8], "2002:905:607::1"),
            Err(DropReason::S6to4SrcMismatch)
        );
        assert_eq!(accept([9, 9, 9, 9], "2001:db8:2::2"), Ok(()));
        assert_eq!(accept([192, 88, 99, 1], "2001:db8:2::2"), Ok(()));
        assert_eq!(
            accept([9, 5, 6, 7], "2001:db8:2::2"),
            Err(DropReason::NoTunnel)
        );
        assert_eq!(
            accept([10, 0, 0, 1], "2001:db8:2::2"),
            Err(DropReason::V4SrcMartian)
        );
        let elsewhere = packet("2002:905:607::1", "2002:901:204::1");
        assert_eq!(
            site().accept([9, 5, 6, 7].into(), &elsewhere),
            Err(DropReason::S6to4DstMismatch)
        );
    }

    #[test]
    fn a_customer_edge_believes_its_border_relay_and_its_like() {
        let accept = |from: [u8; 4], source: &str| {
            edge().accept(from.into(), &packet(source, "2001:db8:101:100::1"))
        };
        assert_eq!(accept([10, 0, 0, 1], "2001:db9::1"), Ok(()));
        assert_eq!(accept([10, 2, 2, 2], "2001:db8:202:200::1"), Ok(()));
        assert_eq!(
            accept([10, 2, 2, 3], "2001:db8:202:200::1"),
            Err(DropReason::S6rdSrcMismatch)
        );
        assert_eq!(
            accept([10, 2, 2, 2], "2001:db9::1"),
            Err(DropReason::S6rdSrcMismatch)
        );
        let elsewhere = packet("2001:db9::1", "2001:db8:101:200::1");
        assert_eq!(
            edge().accept([10, 0, 0, 1].into(), &elsewhere),
            Err(DropReason::S6rdDstNotMine)
        );
    }
}
