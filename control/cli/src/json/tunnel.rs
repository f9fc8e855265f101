//! A tunnel as JSON, out and in.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use sixferry_client::{self as client, api};

use super::PacketsBytes;
use crate::parse;

/// A tunnel. Fields that only the dataplane fills are ignored when it is loaded.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Tunnel {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) owner: String,
    #[serde(default)]
    pub(crate) encapsulation: Encapsulation,
    pub(crate) local: Ipv4Addr,
    pub(crate) remote: Ipv4Addr,
    #[serde(default)]
    pub(crate) prefixes: Vec<Ipv6Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_prefix: Option<Ipv6Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_address: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_local_address: Option<Ipv6Addr>,
    #[serde(default = "default_mtu")]
    pub(crate) mtu: u16,
    #[serde(default)]
    pub(crate) mtu_mode: MtuMode,
    /// Absent together with `ttl_inherit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<u8>,
    #[serde(default)]
    pub(crate) ttl_inherit: bool,
    /// Absent together with `dscp_copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dscp: Option<u8>,
    #[serde(default)]
    pub(crate) dscp_copy: bool,
    #[serde(default)]
    pub(crate) dscp_decap_copy: bool,
    #[serde(default)]
    pub(crate) ecn: Ecn,
    #[serde(default = "yes")]
    pub(crate) strict_source: bool,
    #[serde(default = "yes")]
    pub(crate) admin_up: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counters: Option<TunnelCounters>,
    #[serde(default)]
    pub(crate) generation: u64,
    #[serde(default)]
    pub(crate) stale: bool,
    #[serde(default)]
    pub(crate) revision: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Encapsulation {
    #[default]
    #[serde(rename = "sixInFour")]
    SixInFour,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MtuMode {
    /// DF clear (RFC 4213 section 3.2.1).
    #[default]
    Static,
    /// DF set: for networks whose MTU is known.
    Managed,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ecn {
    /// The outer header carries the inner field.
    #[default]
    Normal,
    /// The outer header is Not-ECT.
    Compat,
}

/// Traffic of one tunnel.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TunnelCounters {
    pub(crate) received: PacketsBytes,
    pub(crate) sent: PacketsBytes,
    pub(crate) drops: Vec<TunnelDrop>,
    #[serde(default)]
    pub(crate) ecn_unusual: u64,
}

/// Packets dropped for one reason; bytes are not counted per tunnel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct TunnelDrop {
    pub(crate) reason: String,
    pub(crate) packets: u64,
}

impl From<api::TunnelCounters> for TunnelCounters {
    fn from(proto: api::TunnelCounters) -> Self {
        let drop = |d: api::DropCount| TunnelDrop {
            reason: d.reason,
            packets: d.count.unwrap_or_default().packets,
        };
        Self {
            received: proto.received.into(),
            sent: proto.sent.into(),
            drops: proto.drops.into_iter().map(drop).collect(),
            ecn_unusual: proto.ecn_unusual,
        }
    }
}

fn default_mtu() -> u16 {
    1280
}

fn yes() -> bool {
    true
}

impl From<MtuMode> for client::MtuMode {
    fn from(mode: MtuMode) -> Self {
        match mode {
            MtuMode::Static => Self::Static,
            MtuMode::Managed => Self::Managed,
        }
    }
}

impl From<Ecn> for client::Ecn {
    fn from(mode: Ecn) -> Self {
        match mode {
            Ecn::Normal => Self::Normal,
            Ecn::Compat => Self::Compat,
        }
    }
}

impl From<client::TunnelEntry> for Tunnel {
    fn from(entry: client::TunnelEntry) -> Self {
        let tunnel = entry.tunnel;
        let (ttl, ttl_inherit) = match tunnel.ttl {
            client::Ttl::Fixed(ttl) => (Some(ttl), false),
            client::Ttl::Inherit => (None, true),
        };
        let (dscp, dscp_copy) = match tunnel.dscp {
            client::Dscp::Fixed(dscp) => (Some(dscp), false),
            client::Dscp::Copy => (None, true),
        };
        Self {
            id: tunnel.id,
            owner: entry.owner,
            encapsulation: Encapsulation::SixInFour,
            local: tunnel.local,
            remote: tunnel.remote,
            prefixes: tunnel.prefixes,
            link_prefix: tunnel.link.map(|l| l.prefix),
            link_address: tunnel.link.map(|l| l.address),
            link_local_address: tunnel.link_local,
            mtu: tunnel.mtu,
            mtu_mode: match tunnel.mtu_mode {
                client::MtuMode::Static => MtuMode::Static,
                client::MtuMode::Managed => MtuMode::Managed,
            },
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy,
            dscp_decap_copy: tunnel.dscp_decap_copy,
            ecn: match tunnel.ecn {
                client::Ecn::Normal => Ecn::Normal,
                client::Ecn::Compat => Ecn::Compat,
            },
            strict_source: tunnel.strict_source,
            admin_up: tunnel.admin_up,
            counters: entry.counters.map(Into::into),
            generation: entry.generation,
            stale: entry.stale,
            revision: entry.revision,
        }
    }
}

impl Tunnel {
    /// What is to be programmed; an error names the field.
    pub(crate) fn into_client(self) -> Result<client::Tunnel, String> {
        let link = match (self.link_prefix, self.link_address) {
            (None, None) => None,
            (Some(prefix), Some(address)) => Some(client::TunnelLink { prefix, address }),
            (Some(_), None) => return Err("linkPrefix needs linkAddress".to_owned()),
            (None, Some(_)) => return Err("linkAddress needs linkPrefix".to_owned()),
        };
        let ttl = match (self.ttl, self.ttl_inherit) {
            (None, true) => client::Ttl::Inherit,
            (Some(_), true) => return Err("ttl and ttlInherit exclude each other".to_owned()),
            (ttl, false) => client::Ttl::Fixed(ttl.unwrap_or(64)),
        };
        let dscp = match (self.dscp, self.dscp_copy) {
            (None, true) => client::Dscp::Copy,
            (Some(_), true) => return Err("dscp and dscpCopy exclude each other".to_owned()),
            (dscp, false) => client::Dscp::Fixed(dscp.unwrap_or(0)),
        };
        for prefix in self.prefixes.iter().chain(&self.link_prefix) {
            if prefix.trunc() != *prefix {
                return Err(format!("{prefix} has host bits set"));
            }
        }
        Ok(client::Tunnel {
            id: parse::tunnel_id(&self.id).map_err(|e| format!("id: {e}"))?,
            local: self.local,
            remote: self.remote,
            prefixes: self.prefixes,
            link,
            link_local: self.link_local_address,
            mtu: self.mtu,
            mtu_mode: self.mtu_mode.into(),
            ttl,
            dscp,
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: self.ecn.into(),
            strict_source: self.strict_source,
            admin_up: self.admin_up,
        })
    }
}

/// What a write did.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) unchanged: u64,
    pub(crate) deleted: u64,
    pub(crate) failed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swept_tunnels: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
}

/// One entry that was not written.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failed {
    pub(crate) position: u64,
    pub(crate) key: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
}

impl From<&client::ProgramReport> for Written {
    fn from(report: &client::ProgramReport) -> Self {
        let failed = |f: &client::ItemFailure| Failed {
            position: f.position,
            key: f.key.clone(),
            reason: f.error.reason.clone(),
            message: f.error.to_string(),
        };
        Self {
            created: report.created,
            updated: report.updated,
            unchanged: report.unchanged,
            deleted: report.deleted,
            failed: report.progress.failed,
            failures: report.failures.iter().map(failed).collect(),
            swept_tunnels: None,
            seconds: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn entry() -> client::TunnelEntry {
        let tunnel = client::Tunnel {
            prefixes: vec![
                "2001:db8:100::/48".parse().unwrap(),
                "2001:db8:200::/48".parse().unwrap(),
            ],
            link: Some(client::TunnelLink {
                prefix: "2001:db8:ffff:1::/64".parse().unwrap(),
                address: "2001:db8:ffff:1::1".parse().unwrap(),
            }),
            ttl: client::Ttl::Inherit,
            ..client::Tunnel::new("user-1", [198, 51, 100, 1].into(), [192, 0, 2, 10].into())
        };
        client::TunnelEntry {
            tunnel,
            owner: "cli".into(),
            counters: Some(api::TunnelCounters {
                received: Some(api::PacketsBytes {
                    packets: 12_345,
                    bytes: 1_500_000,
                }),
                sent: Some(api::PacketsBytes {
                    packets: 7,
                    bytes: 700,
                }),
                drops: vec![api::DropCount {
                    reason: "INNER_SRC_SPOOF".into(),
                    count: Some(api::PacketsBytes {
                        packets: 3,
                        bytes: 0,
                    }),
                }],
                ecn_unusual: 1,
            }),
            generation: 0,
            stale: false,
            revision: 42,
        }
    }

    #[test]
    fn the_shape_of_a_tunnel_is_stable() {
        let text = serde_json::to_string_pretty(&Tunnel::from(entry())).unwrap();
        assert_eq!(
            text,
            r#"{
  "id": "user-1",
  "owner": "cli",
  "encapsulation": "sixInFour",
  "local": "198.51.100.1",
  "remote": "192.0.2.10",
  "prefixes": [
    "2001:db8:100::/48",
    "2001:db8:200::/48"
  ],
  "linkPrefix": "2001:db8:ffff:1::/64",
  "linkAddress": "2001:db8:ffff:1::1",
  "mtu": 1280,
  "mtuMode": "static",
  "ttlInherit": true,
  "dscp": 0,
  "dscpCopy": false,
  "dscpDecapCopy": false,
  "ecn": "normal",
  "strictSource": true,
  "adminUp": true,
  "counters": {
    "received": {
      "packets": 12345,
      "bytes": 1500000
    },
    "sent": {
      "packets": 7,
      "bytes": 700
    },
    "drops": [
      {
        "reason": "INNER_SRC_SPOOF",
        "packets": 3
      }
    ],
    "ecnUnusual": 1
  },
  "generation": 0,
  "stale": false,
  "revision": 42
}"#
        );
    }

    #[test]
    fn what_is_printed_can_be_loaded() {
        let text = serde_json::to_string(&Tunnel::from(entry())).unwrap();
        let again: Tunnel = serde_json::from_str(&text).unwrap();
        assert_eq!(again.into_client().unwrap(), entry().tunnel);
    }

    #[test]
    fn a_minimal_tunnel_takes_the_defaults() {
        let text = r#"{"id":"t","local":"198.51.100.1","remote":"192.0.2.1"}"#;
        let tunnel: Tunnel = serde_json::from_str(text).unwrap();
        let expected = client::Tunnel::new("t", [198, 51, 100, 1].into(), [192, 0, 2, 1].into());
        assert_eq!(tunnel.into_client().unwrap(), expected);
    }

    #[test]
    fn contradictions_are_named() {
        for (extra, expected) in [
            (r#""ttl":3,"ttlInherit":true"#, "ttl and ttlInherit"),
            (r#""dscp":3,"dscpCopy":true"#, "dscp and dscpCopy"),
            (r#""linkPrefix":"2001:db8::/64""#, "needs linkAddress"),
            (
                r#""prefixes":["2001:db8::1/48"]"#,
                "2001:db8::1/48 has host bits",
            ),
        ] {
            let text = format!(r#"{{"id":"t","local":"1.2.3.4","remote":"5.6.7.8",{extra}}}"#);
            let tunnel: Tunnel = serde_json::from_str(&text).unwrap();
            let error = tunnel.into_client().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
