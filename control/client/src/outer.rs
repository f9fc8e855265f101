//! The outer header: what tunnels and domains have in common.

use std::net::Ipv4Addr;

use sixferry_proto::dataplane::v1 as api;

use crate::Error;
use crate::address::required_v4;

/// How the MTU relates to the outer Don't Fragment bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuMode {
    /// Fixed MTU, DF clear (RFC 4213 section 3.2.1).
    #[default]
    Static,
    /// Fixed MTU, DF set: for networks whose MTU is known.
    Managed,
    /// The path MTU is learnt, DF set (RFC 4213 section 3.2.2). Tunnels only.
    Dynamic,
}

impl MtuMode {
    pub(crate) fn to_proto(self) -> api::MtuMode {
        match self {
            Self::Static => api::MtuMode::Static,
            Self::Managed => api::MtuMode::Managed,
            Self::Dynamic => api::MtuMode::Dynamic,
        }
    }

    pub(crate) fn from_proto(proto: api::MtuMode) -> Self {
        match proto {
            api::MtuMode::Static | api::MtuMode::Unspecified => Self::Static,
            api::MtuMode::Managed => Self::Managed,
            api::MtuMode::Dynamic => Self::Dynamic,
        }
    }
}

/// The outer TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Always this, 1..=255.
    Fixed(u8),
    /// The inner hop limit.
    Inherit,
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(64)
    }
}

impl Ttl {
    /// The fields `ttl` and `ttl_inherit`.
    pub(crate) fn to_proto(self) -> (Option<u32>, bool) {
        match self {
            Self::Fixed(ttl) => (Some(u32::from(ttl)), false),
            Self::Inherit => (None, true),
        }
    }

    pub(crate) fn from_proto(
        field: &'static str,
        ttl: Option<u32>,
        inherit: bool,
    ) -> Result<Self, Error> {
        match ttl {
            _ if inherit => Ok(Self::Inherit),
            None => Ok(Self::default()),
            Some(ttl) => Ok(Self::Fixed(small(field, ttl)?)),
        }
    }
}

/// The outer DSCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// Always this, 0..=63 (the pipe model of RFC 2983).
    Fixed(u8),
    /// The inner one (the uniform model).
    Copy,
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Dscp {
    /// The fields `dscp` and `dscp_copy`.
    pub(crate) fn to_proto(self) -> (Option<u32>, bool) {
        match self {
            Self::Fixed(dscp) => (Some(u32::from(dscp)), false),
            Self::Copy => (None, true),
        }
    }

    pub(crate) fn from_proto(
        field: &'static str,
        dscp: Option<u32>,
        copy: bool,
    ) -> Result<Self, Error> {
        match dscp {
            _ if copy => Ok(Self::Copy),
            None => Ok(Self::default()),
            Some(dscp) => Ok(Self::Fixed(small(field, dscp)?)),
        }
    }
}

/// ECN at the tunnel entry (RFC 6040 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The outer header carries the inner field.
    #[default]
    Normal,
    /// The outer header is Not-ECT.
    Compat,
}

impl Ecn {
    pub(crate) fn to_proto(self) -> api::EcnMode {
        match self {
            Self::Normal => api::EcnMode::Normal,
            Self::Compat => api::EcnMode::Compat,
        }
    }

    pub(crate) fn from_proto(proto: api::EcnMode) -> Self {
        match proto {
            api::EcnMode::Compat => Self::Compat,
            api::EcnMode::Normal | api::EcnMode::Unspecified => Self::Normal,
        }
    }
}

/// An IPv4 address and, with UDP, a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv4Addr,
    /// The UDP port; `None` where the encapsulation has none.
    pub port: Option<u16>,
}

impl Endpoint {
    pub(crate) fn from_proto(field: &'static str, proto: &api::Endpoint) -> Result<Self, Error> {
        let port: u16 = small(field, proto.port)?;
        Ok(Self {
            address: required_v4(field, &proto.address)?,
            port: (port != 0).then_some(port),
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// A number of the API, which knows no shorter ones than 32 bits, in the type it fits.
pub(crate) fn small<T: TryFrom<u32>>(field: &'static str, value: u32) -> Result<T, Error> {
    T::try_from(value).map_err(|_| Error::malformed(field, "is too large"))
}

/// The `mtu` of a message: absent means the smallest an IPv6 link may have.
pub(crate) fn mtu(field: &'static str, value: u32) -> Result<u16, Error> {
    small(field, if value == 0 { 1280 } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_converts_both_ways() {
        for mode in [MtuMode::Static, MtuMode::Managed, MtuMode::Dynamic] {
            assert_eq!(MtuMode::from_proto(mode.to_proto()), mode);
        }
        for ecn in [Ecn::Normal, Ecn::Compat] {
            assert_eq!(Ecn::from_proto(ecn.to_proto()), ecn);
        }
        for ttl in [Ttl::Fixed(1), Ttl::Fixed(255), Ttl::Inherit] {
            let (value, inherit) = ttl.to_proto();
            assert_eq!(Ttl::from_proto("ttl", value, inherit).unwrap(), ttl);
        }
        for dscp in [Dscp::Fixed(0), Dscp::Fixed(63), Dscp::Copy] {
            let (value, copy) = dscp.to_proto();
            assert_eq!(Dscp::from_proto("dscp", value, copy).unwrap(), dscp);
        }
        assert!(Ttl::from_proto("ttl", Some(256), false).is_err());
    }

    #[test]
    fn endpoints_print_a_port_only_if_there_is_one() {
        let text = |port| {
            let proto = api::Endpoint {
                address: vec![192, 0, 2, 1],
                port,
            };
            Endpoint::from_proto("endpoint", &proto).map(|e| e.to_string())
        };
        assert_eq!(text(0).unwrap(), "192.0.2.1");
        assert_eq!(text(4028).unwrap(), "192.0.2.1:4028");
        assert!(text(65_536).is_err());
    }
}
