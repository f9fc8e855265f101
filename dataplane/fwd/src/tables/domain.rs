//! Domains whose IPv6 addresses contain the peer's IPv4 address: 6to4 (RFC 3056, 3964, 7526) and 6rd
//! (RFC 5969). One type for both: 6to4 is the domain 2002::/16 with all 32 bits embedded.
//!
//! A domain stands in the tunnel table like a tunnel, with counters, MTU and outer fields; its far
//! end is computed from each packet instead of being configured.

use super::error::TableError;
use super::spec::{Dscp, Ecn, MtuMode, Ttl};
use crate::prefix::{Ipv4Prefix, Ipv6Prefix};
use sixferry_wire::embed::{self, Embedding};
use sixferry_wire::ipv6;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What a 6to4 router is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SixToFourRole {
    /// Between 2002::/16 and the native Internet; serves no site of its own.
    Relay,
    /// A site's own router.
    Site {
        /// Where packets to native addresses go, when a route leads into the domain.
        relay: Ipv4Addr,
    },
}

/// What a 6rd router is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SixRdRole {
    /// Border relay.
    Br {
        /// The local address is shared by several relays: it is the outer source, DF is set (RFC 5969
        /// section 9.1).
        anycast: bool,
    },
    /// A customer's edge.
    Ce {
        /// Border relay.
        br: Ipv4Addr,
    },
}

/// The mechanism of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainKind {
    /// RFC 3056.
    SixToFour {
        /// Relay or site.
        role: SixToFourRole,
        /// Only peers that share this many leading bits with the local address; 0: all. stf(4)'s
        /// `prefixlen 16+N`.
        peer_v4_len: u8,
        /// Also answer at 192.88.99.1 and send from there (RFC 3068; deprecated by RFC 7526).
        anycast: bool,
    },
    /// RFC 5969.
    SixRd {
        /// The domain's prefix.
        prefix: Ipv6Prefix,
        /// Leading bits that all customers' IPv4 addresses share.
        v4_common: Ipv4Addr,
        /// How many bits these are.
        v4_mask_len: u8,
        /// Border relay or customer edge.
        role: SixRdRole,
    },
}

/// Reverse path check of outer sources (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urpf {
    /// None.
    #[default]
    Off,
    /// There is a route to the source.
    Loose,
    /// The route to the source leads out of the port, and VLAN, that the packet came in by.
    Strict,
}

/// A 6to4 or 6rd domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec {
    /// Mechanism.
    pub kind: DomainKind,
    /// Our IPv4 address. No two domains have the same.
    pub local: Ipv4Addr,
    /// Whether packets are taken out of the domain; when not, only packets into it flow.
    pub input: bool,
    /// Reverse path check of outer sources.
    pub urpf: Urpf,
    /// IPv4 blocks exempt from the martian rules of 6to4, for laboratories.
    pub allow_v4: Vec<Ipv4Prefix>,
    /// IPv4 blocks that no packet comes from or goes to: other relays (RFC 5969 section 12).
    pub deny_v4: Vec<Ipv4Prefix>,
    /// Largest inner packet, 1280 to [`TunnelSpec::MAX_MTU`](super::TunnelSpec::MAX_MTU).
    pub mtu: u16,
    /// [`MtuMode::Static`] or [`MtuMode::Managed`].
    pub mtu_mode: MtuMode,
    /// Outer TTL.
    pub ttl: Ttl,
    /// Outer DSCP; 6rd copies by default (RFC 5969 section 9).
    pub dscp: Dscp,
    /// Whether the outer DSCP replaces the inner one at the exit.
    pub dscp_decap_copy: bool,
    /// ECN at the entry.
    pub ecn: Ecn,
    /// Whether the MSS option of TCP SYNs is lowered to what the domain takes.
    pub mss_clamp: bool,
    /// Whether it carries traffic.
    pub up: bool,
}

impl DomainSpec {
    /// Most entries of [`DomainSpec::allow_v4`] and of [`DomainSpec::deny_v4`].
    pub const MAX_FILTERS: usize = 64;

    const fn with(kind: DomainKind, local: Ipv4Addr, dscp: Dscp) -> Self {
        Self {
            kind,
            local,
            input: true,
            urpf: Urpf::Off,
            allow_v4: Vec::new(),
            deny_v4: Vec::new(),
            mtu: 1280,
            mtu_mode: MtuMode::Static,
            ttl: Ttl::Fixed(64),
            dscp,
            dscp_decap_copy: false,
            ecn: Ecn::Normal,
            mss_clamp: false,
            up: true,
        }
    }

    /// A 6to4 relay with defaults, no anycast.
    #[must_use]
    pub const fn six_to_four(local: Ipv4Addr, role: SixToFourRole) -> Self {
        let kind = DomainKind::SixToFour {
            role,
            peer_v4_len: 0,
            anycast: false,
        };
        Self::with(kind, local, Dscp::Fixed(0))
    }

    /// A 6rd domain with defaults.
    #[must_use]
    pub const fn six_rd(
        local: Ipv4Addr,
        prefix: Ipv6Prefix,
        v4_common: Ipv4Addr,
        v4_mask_len: u8,
        role: SixRdRole,
    ) -> Self {
        let kind = DomainKind::SixRd {
            prefix,
            v4_common,
            v4_mask_len,
            role,
        };
        Self::with(kind, local, Dscp::Copy)
    }

    /// The domain's prefix.
    #[must_use]
    pub fn prefix(&self) -> Ipv6Prefix {
        match self.kind {
            DomainKind::SixToFour { .. } => {
                Ipv6Prefix::containing(Ipv6Addr::from(embed::SIX_TO_FOUR), embed::SIX_TO_FOUR_LEN)
            }
            DomainKind::SixRd { prefix, .. } => prefix,
        }
    }

    /// The mapping; `None` when no domain can look like this.
    #[must_use]
    pub fn embedding(&self) -> Option<Embedding> {
        match self.kind {
            DomainKind::SixToFour { .. } => Some(Embedding::SIX_TO_FOUR),
            DomainKind::SixRd {
                prefix,
                v4_common,
                v4_mask_len,
                ..
            } => Embedding::new(
                prefix.bits(),
                prefix.len(),
                u32::from(v4_common),
                v4_mask_len,
            ),
        }
    }

    /// The prefix delegated to an IPv4 address; `None` for an address outside the domain.
    #[must_use]
    pub fn delegated(&self, address: Ipv4Addr) -> Option<Ipv6Prefix> {
        let embedding = self.embedding()?;
        let bits = embedding.delegated(u32::from(address))?;
        Some(Ipv6Prefix::containing(
            Ipv6Addr::from(bits),
            embedding.delegated_len(),
        ))
    }

    /// The IPv4 address inside an IPv6 address of the domain.
    #[must_use]
    pub fn embedded(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let v4 = self.embedding()?.embedded(u128::from(address))?;
        Some(Ipv4Addr::from(v4))
    }

    pub(crate) const fn anycast(&self) -> bool {
        matches!(
            self.kind,
            DomainKind::SixToFour { anycast: true, .. }
                | DomainKind::SixRd {
                    role: SixRdRole::Br { anycast: true },
                    ..
                }
        )
    }

    pub(crate) fn check(&self) -> Result<(), TableError> {
        let shape = |what| Err(TableError::DomainShape { what });
        let impossible = |a: Ipv4Addr| embed::is_impossible(u32::from(a));
        if impossible(self.local) {
            return Err(TableError::OuterAddress {
                address: self.local,
            });
        }
        let Some(embedding) = self.embedding() else {
            return shape(
                "a 6rd prefix and its IPv4 bits make a delegated prefix of at most 64 bits, host bits zero",
            );
        };
        match self.kind {
            DomainKind::SixToFour {
                peer_v4_len: 33.., ..
            } => {
                return shape("a restriction to more than 32 bits of an IPv4 address");
            }
            DomainKind::SixToFour {
                role: SixToFourRole::Site { relay: far },
                ..
            }
            | DomainKind::SixRd {
                role: SixRdRole::Ce { br: far },
                ..
            } if impossible(far) || far == self.local => {
                return Err(TableError::OuterAddress { address: far });
            }
            _ => {}
        }
        if embedding.delegated(u32::from(self.local)).is_none() {
            return shape("the local address lies outside the domain's IPv4 prefix");
        }
        let (prefix, len) = embedding.prefix();
        let unusable = ipv6::is_invalid_source(prefix) || ipv6::is_link_local(prefix);
        if len < 8 || unusable {
            return Err(TableError::PrefixInvalid {
                prefix: self.prefix(),
            });
        }
        let filters = self.allow_v4.len().max(self.deny_v4.len());
        if filters > Self::MAX_FILTERS {
            return Err(TableError::TooManyFilters { count: filters });
        }
        if self.mtu_mode == MtuMode::Dynamic {
            return shape("path MTU discovery needs one far end: domains are static or managed");
        }
        Ok(())
    }
}

/// 169.254.0.0/16.
const LINK_LOCAL_V4: u32 = 0xa9fe;
/// 192.88.99.0/24, the anycast addresses of 6to4 relays.
const RELAYS_V4: u32 = 0x00c0_5863;

/// What the packet path asks of a domain's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Relay,
    Site { relay: [u8; 4] },
    Br,
    Ce { br: [u8; 4] },
}

/// A domain as the packet path reads it.
#[derive(Clone, Debug)]
pub(crate) struct DomainRecord {
    pub(crate) embedding: Embedding,
    pub(crate) role: Role,
    pub(crate) local: u32,
    /// Outer source: the local or the anycast address.
    pub(crate) source: [u8; 4],
    /// First address of what our own IPv4 address is delegated.
    pub(crate) own: u128,
    peers: Ipv4Prefix,
    pub(crate) anycast: bool,
    pub(crate) input: bool,
    pub(crate) urpf: Urpf,
    allow: Arc<[Ipv4Prefix]>,
    deny: Arc<[Ipv4Prefix]>,
}

impl DomainRecord {
    /// The record of a spec that passed its checks.
    pub(crate) fn new(spec: &DomainSpec) -> Option<Self> {
        let embedding = spec.embedding()?;
        let (role, peer_len) = match spec.kind {
            DomainKind::SixToFour {
                role, peer_v4_len, ..
            } => (
                match role {
                    SixToFourRole::Relay => Role::Relay,
                    SixToFourRole::Site { relay } => Role::Site {
                        relay: relay.octets(),
                    },
                },
                peer_v4_len,
            ),
            DomainKind::SixRd { role, .. } => (
                match role {
                    SixRdRole::Br { .. } => Role::Br,
                    SixRdRole::Ce { br } => Role::Ce { br: br.octets() },
                },
                0,
            ),
        };
        let local = u32::from(spec.local);
        let six_to_four = matches!(role, Role::Relay | Role::Site { .. });
        Some(Self {
            embedding,
            role,
            local,
            source: if six_to_four && spec.anycast() {
                embed::SIX_TO_FOUR_ANYCAST
            } else {
                spec.local.octets()
            },
            own: embedding.delegated(local)?,
            peers: Ipv4Prefix::containing(spec.local, peer_len),
            anycast: spec.anycast(),
            input: spec.input,
            urpf: spec.urpf,
            allow: spec.allow_v4.as_slice().into(),
            deny: spec.deny_v4.as_slice().into(),
        })
    }

    #[inline]
    pub(crate) const fn is_six_to_four(&self) -> bool {
        matches!(self.role, Role::Relay | Role::Site { .. })
    }

    /// Whether the domain serves a site at our own delegated prefix.
    #[inline]
    pub(crate) const fn has_site(&self) -> bool {
        matches!(self.role, Role::Site { .. } | Role::Ce { .. })
    }

    /// Whether an IPv6 address lies in what our own IPv4 address is delegated.
    #[inline]
    pub(crate) fn is_own(&self, address: u128) -> bool {
        self.embedding.embedded(address) == Some(self.local)
    }

    /// Whether an IPv6 address is of the site that we serve ourselves.
    #[inline]
    pub(crate) fn serves(&self, address: u128) -> bool {
        self.has_site() && self.is_own(address)
    }

    /// Whether no peer can have this IPv4 address. Private addresses are a 6rd domain's daily bread and
    /// martians in 6to4.
    #[inline]
    pub(crate) fn is_martian(&self, address: u32) -> bool {
        if self.is_six_to_four() {
            embed::is_martian(address) && !self.allow.iter().any(|p| holds(*p, address))
        } else {
            embed::is_impossible(address) || address >> 16 == LINK_LOCAL_V4
        }
    }

    /// Whether the operator refuses this IPv4 address.
    #[inline]
    pub(crate) fn is_denied(&self, address: u32) -> bool {
        // RFC 5969 section 12: a 6to4 relay is no customer
        let relays = !self.is_six_to_four() && address >> 8 == RELAYS_V4;
        relays || self.deny.iter().any(|p| holds(*p, address))
    }

    /// Whether peers may have this IPv4 address at all.
    #[inline]
    pub(crate) fn is_peer(&self, address: u32) -> bool {
        holds(self.peers, address)
    }

    /// The outer destination for a packet to `dst`: the embedded address, or the relay.
    #[inline]
    pub(crate) fn far_end(&self, dst: u128) -> Option<[u8; 4]> {
        match (self.embedding.embedded(dst), self.role) {
            (Some(v4), _) => Some(v4.to_be_bytes()),
            (None, Role::Site { relay: far } | Role::Ce { br: far }) => Some(far),
            (None, Role::Relay | Role::Br) => None,
        }
    }
}

fn holds(prefix: Ipv4Prefix, address: u32) -> bool {
    prefix.contains(Ipv4Addr::from(address))
}
