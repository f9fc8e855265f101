//! Why a call, or one entry of a bulk call, is refused.
//!
//! Plain data: `api::status` gives each its gRPC code and `google.rpc` details.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sixferry_fwd::Ipv6Prefix;

use super::spec::Violation;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// Fields of the request, by path, and what is wrong with each.
    Invalid(Vec<(String, String)>),
    BadOwner(String),
    OwnerReserved(String),
    TooManyOwners,
    ElectionLost {
        owner: Arc<str>,
        current: u128,
    },
    SessionUnknown,
    SessionFenced {
        owner: Arc<str>,
        current: u128,
    },
    NoSync {
        owner: Arc<str>,
    },
    TunnelNotFound(String),
    TunnelExists {
        id: String,
        owner: Arc<str>,
    },
    TunnelOwned {
        id: String,
        owner: Arc<str>,
    },
    OuterInUse {
        local: Ipv4Addr,
        remote: Ipv4Addr,
        id: String,
        owner: Arc<str>,
    },
    PrefixInUse {
        prefix: Ipv6Prefix,
        what: &'static str,
        id: String,
        owner: Arc<str>,
    },
    Immutable {
        field: &'static str,
    },
    TableFull {
        what: &'static str,
        limit: usize,
    },
    NoTunnel(String),
    BadPageToken,
    TooManyEntries {
        field: &'static str,
        given: usize,
        most: usize,
    },
    BadSeq {
        given: u64,
        last: u64,
    },
    DomainNotFound(String),
    DomainExists {
        id: String,
        owner: Arc<str>,
    },
    DomainOwned {
        id: String,
        owner: Arc<str>,
    },
    /// Tunnels and domains share their ids.
    IdInUse {
        what: &'static str,
        id: String,
        owner: Arc<str>,
    },
    LocalInUse {
        local: Ipv4Addr,
        id: String,
        owner: Arc<str>,
    },
    PortInUse {
        local: Ipv4Addr,
        port: u16,
        id: String,
        owner: Arc<str>,
    },
    NoDomain(String),
    NoSuchDomain(String),
    NoWayOut(String),
    TooManyWatchers(usize),
    RouteNotFound(String),
    RouteExists {
        prefix: String,
        owner: Arc<str>,
    },
    RouteOwned {
        prefix: String,
        owner: Arc<str>,
    },
    NoRoute(IpAddr),
    PortNotFound(String),
    NoSuchPort(String),
    Busy(&'static str),
}

impl Error {
    /// One bad field.
    pub(crate) fn field(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Invalid(vec![(path.into(), text.into())])
    }

    /// Bad fields of a tunnel; paths start at the tunnel.
    pub(crate) fn violations(found: Vec<Violation>) -> Self {
        Self::Invalid(
            found
                .into_iter()
                .map(|v| (v.field.to_owned(), v.text))
                .collect(),
        )
    }

    /// The same with field paths below `prefix`, which ends in a dot.
    #[must_use]
    pub(crate) fn below(self, prefix: &str) -> Self {
        let join = |path: &str| match path {
            "" => prefix.trim_end_matches('.').to_owned(),
            path => format!("{prefix}{path}"),
        };
        match self {
            Self::Invalid(fields) => Self::Invalid(
                fields
                    .into_iter()
                    .map(|(path, text)| (join(&path), text))
                    .collect(),
            ),
            other => other,
        }
    }
}
