//! Why a change is refused.

use super::domain::DomainSpec;
use super::spec::TunnelSpec;
use crate::id::TunnelId;
use crate::prefix::Ipv6Prefix;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a change to the tables was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Another tunnel has these outer addresses.
    OuterInUse {
        /// Our address.
        local: Ipv4Addr,
        /// The peer's.
        remote: Ipv4Addr,
        /// That tunnel.
        by: TunnelId,
    },
    /// Another tunnel has this prefix.
    PrefixInUse {
        /// The prefix.
        prefix: Ipv6Prefix,
        /// That tunnel.
        by: TunnelId,
    },
    /// The same prefix twice in one tunnel.
    PrefixRepeated {
        /// The prefix.
        prefix: Ipv6Prefix,
    },
    /// A prefix no tunnel can have: shorter than /8, multicast, link-local, loopback or IPv4-mapped.
    PrefixInvalid {
        /// The prefix.
        prefix: Ipv6Prefix,
    },
    /// More prefixes than [`TunnelSpec::MAX_PREFIXES`].
    TooManyPrefixes {
        /// How many.
        count: usize,
    },
    /// The link's address does not lie in its prefix.
    LinkAddress {
        /// The address.
        address: Ipv6Addr,
        /// The prefix.
        prefix: Ipv6Prefix,
    },
    /// An address that is no fe80::/10 address.
    LinkLocal {
        /// The address.
        address: Ipv6Addr,
    },
    /// An outer address that is no unicast address, or both the same.
    OuterAddress {
        /// The address.
        address: Ipv4Addr,
    },
    /// Another tunnel has this local address and port.
    PortInUse {
        /// Our address.
        local: Ipv4Addr,
        /// Our port.
        port: u16,
        /// That tunnel; `None` when several share the port.
        by: Option<TunnelId>,
    },
    /// Local port 0, or a shared port without the peer's address and port.
    Port {
        /// What is wrong.
        port: u16,
        /// Whether it is the peer's.
        remote: bool,
    },
    /// Too many different shared ports.
    TooManySharedPorts,
    /// Another domain works at this local address (RFC 3964 section 6.1).
    LocalInUse {
        /// Our address.
        local: Ipv4Addr,
        /// That domain.
        by: TunnelId,
    },
    /// No 6rd domain can look like this (RFC 5969 section 4, 7.1).
    DomainShape {
        /// What is wrong.
        what: &'static str,
    },
    /// More than [`DomainSpec::MAX_FILTERS`](super::DomainSpec::MAX_FILTERS) entries.
    TooManyFilters {
        /// How many.
        count: usize,
    },
    /// A path MTU, or its lower bound, below 68.
    PathMtu {
        /// What was asked for.
        mtu: u16,
    },
    /// MTU outside 1280 to [`TunnelSpec::MAX_MTU`].
    Mtu {
        /// What was asked for.
        mtu: u16,
    },
    /// TTL 0.
    Ttl,
    /// DSCP above 63.
    Dscp {
        /// What was asked for.
        dscp: u8,
    },
    /// No such tunnel.
    NoSuchTunnel,
    /// No room for more tunnels.
    Full {
        /// The limit.
        limit: usize,
    },
}

impl TableError {
    /// The field of [`TunnelSpec`] it is about.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::OuterInUse { .. } | Self::OuterAddress { .. } => "remote",
            Self::PortInUse { .. }
            | Self::TooManySharedPorts
            | Self::Port { remote: false, .. } => "local_port",
            Self::Port { remote: true, .. } => "remote_port",
            Self::LocalInUse { .. } => "local",
            Self::DomainShape { .. } => "prefix",
            Self::TooManyFilters { .. } => "allow_v4",
            Self::PathMtu { .. } => "path_mtu",
            Self::PrefixInUse { .. }
            | Self::PrefixRepeated { .. }
            | Self::PrefixInvalid { .. }
            | Self::TooManyPrefixes { .. } => "prefixes",
            Self::LinkAddress { .. } => "link_address",
            Self::LinkLocal { .. } => "link_local_address",
            Self::Mtu { .. } => "mtu",
            Self::Ttl => "ttl",
            Self::Dscp { .. } => "dscp",
            Self::NoSuchTunnel | Self::Full { .. } => "id",
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OuterInUse { local, remote, .. } => {
                write!(
                    f,
                    "outer addresses {local} - {remote} belong to another tunnel"
                )
            }
            Self::PrefixInUse { prefix, .. } => {
                write!(f, "prefix {prefix} belongs to another tunnel")
            }
            Self::PrefixRepeated { prefix } => write!(f, "prefix {prefix} is given twice"),
            Self::PrefixInvalid { prefix } => {
                write!(f, "prefix {prefix} cannot lie behind a tunnel")
            }
            Self::TooManyPrefixes { count } => {
                write!(
                    f,
                    "{count} prefixes; at most {} are allowed",
                    TunnelSpec::MAX_PREFIXES
                )
            }
            Self::LinkAddress { address, prefix } => {
                write!(
                    f,
                    "link address {address} is not usable in link prefix {prefix}"
                )
            }
            Self::LinkLocal { address } => write!(f, "{address} is no link-local address"),
            Self::OuterAddress { address } => {
                write!(f, "{address} cannot be an outer address here")
            }
            Self::PortInUse { local, port, .. } => {
                write!(f, "UDP port {port} of {local} belongs to other tunnels")
            }
            Self::Port { remote: true, .. } => {
                f.write_str("a shared local port needs the peer's address and port")
            }
            Self::Port { port, .. } => write!(f, "{port} is no usable UDP port"),
            Self::TooManySharedPorts => f.write_str("too many different shared ports"),
            Self::LocalInUse { local, .. } => write!(
                f,
                "another domain works at {local}; one automatic mechanism per address"
            ),
            Self::DomainShape { what } => f.write_str(what),
            Self::TooManyFilters { count } => {
                write!(
                    f,
                    "{count} IPv4 prefixes; at most {} are allowed",
                    DomainSpec::MAX_FILTERS
                )
            }
            Self::PathMtu { mtu } => write!(f, "path MTU {mtu} is below 68, the least of IPv4"),
            Self::Mtu { mtu } => {
                write!(f, "MTU {mtu} is outside 1280 to {}", TunnelSpec::MAX_MTU)
            }
            Self::Ttl => f.write_str("TTL 0 would never leave the relay"),
            Self::Dscp { dscp } => write!(f, "DSCP {dscp} is above 63"),
            Self::NoSuchTunnel => f.write_str("no such tunnel"),
            Self::Full { limit } => write!(f, "the table is full ({limit} tunnels)"),
        }
    }
}

impl std::error::Error for TableError {}
