//! Words for the outer header, shared by tunnels and domains.

use serde::{Deserialize, Serialize};
use sixferry_client as client;

/// Both directions between a word of the command line and its value in the client.
macro_rules! words {
    ($word:ident = $value:path { $($name:ident),+ }) => {
        impl From<$word> for $value {
            fn from(word: $word) -> Self {
                match word {
                    $($word::$name => Self::$name,)+
                }
            }
        }

        impl From<$value> for $word {
            fn from(value: $value) -> Self {
                match value {
                    $(<$value>::$name => Self::$name,)+
                }
            }
        }
    };
}

pub(crate) use words;

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MtuMode {
    /// DF clear (RFC 4213 section 3.2.1).
    #[default]
    Static,
    /// DF set: for networks whose MTU is known.
    Managed,
    /// DF set, and the path MTU is learnt (RFC 4213 section 3.2.2).
    Dynamic,
}

words! { MtuMode = client::MtuMode { Static, Managed, Dynamic } }

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ecn {
    /// The outer header carries the inner field.
    #[default]
    Normal,
    /// The outer header is Not-ECT.
    Compat,
}

words! { Ecn = client::Ecn { Normal, Compat } }

/// The fields `ttl` and `ttlInherit`.
pub(crate) fn ttl(ttl: client::Ttl) -> (Option<u8>, bool) {
    match ttl {
        client::Ttl::Fixed(ttl) => (Some(ttl), false),
        client::Ttl::Inherit => (None, true),
    }
}

/// The fields `dscp` and `dscpCopy`.
pub(crate) fn dscp(dscp: client::Dscp) -> (Option<u8>, bool) {
    match dscp {
        client::Dscp::Fixed(dscp) => (Some(dscp), false),
        client::Dscp::Copy => (None, true),
    }
}

pub(crate) fn into_ttl(ttl: Option<u8>, inherit: bool) -> Result<client::Ttl, String> {
    match (ttl, inherit) {
        (None, true) => Ok(client::Ttl::Inherit),
        (Some(_), true) => Err("ttl and ttlInherit exclude each other".to_owned()),
        (ttl, false) => Ok(client::Ttl::Fixed(ttl.unwrap_or(64))),
    }
}

pub(crate) fn into_dscp(dscp: Option<u8>, copy: bool) -> Result<client::Dscp, String> {
    match (dscp, copy) {
        (None, true) => Ok(client::Dscp::Copy),
        (Some(_), true) => Err("dscp and dscpCopy exclude each other".to_owned()),
        (dscp, false) => Ok(client::Dscp::Fixed(dscp.unwrap_or(0))),
    }
}
