//! A tunnel as JSON, out and in.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use sixferry_client::{self as client, api};

use super::outer::{self, Ecn, MtuMode, words};
use super::{PacketsBytes, yes};
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
    /// Absent only for a UDP tunnel whose user is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<Ipv4Addr>,
    /// This one and the next three are there with UDP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) local_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_port: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rebind: Option<Rebind>,
    #[serde(default)]
    pub(crate) prefixes: Vec<Ipv6Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_prefix: Option<Ipv6Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_address: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_local_address: Option<Ipv6Addr>,
    /// Absent: 1280, or as large as the path of a dynamic tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u16>,
    #[serde(default)]
    pub(crate) mtu_mode: MtuMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path_mtu: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min_path_mtu: Option<u16>,
    #[serde(default)]
    pub(crate) mss_clamp: bool,
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
    #[serde(default)]
    pub(crate) liveness: Liveness,
    /// Absent while `liveness` is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) liveness_interval_seconds: Option<u16>,
    /// From here on what the dataplane says; ignored when it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// Where the user is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) learnt_path_mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_seen_seconds: Option<f64>,
    #[serde(default)]
    pub(crate) outer_errors: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counters: Option<TunnelCounters>,
    #[serde(default)]
    pub(crate) generation: u64,
    #[serde(default)]
    pub(crate) stale: bool,
    #[serde(default)]
    pub(crate) revision: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(crate) enum Encapsulation {
    /// IPv4 protocol 41 (RFC 4213).
    #[default]
    #[serde(rename = "sixInFour")]
    #[value(name = "6in4")]
    SixInFour,
    /// UDP: passes NAT.
    #[serde(rename = "udp")]
    Udp,
}

/// What a UDP tunnel does when its user appears elsewhere.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Rebind {
    /// Drop.
    Deny,
    /// Drop, and tell of it as an event: the controller decides.
    #[default]
    Control,
    /// Follow, if the inner source is one of the tunnel's.
    InnerSource,
    /// Follow, if the inner source is one of the tunnel's and only the port is another one.
    InnerSourcePort,
}

words! { Rebind = client::Rebind { Deny, Control, InnerSource, InnerSourcePort } }

/// How the user's life is watched.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Liveness {
    /// Not at all.
    #[default]
    Off,
    /// By any valid packet of his.
    Passive,
    /// By neighbour solicitations to his link-local address.
    Nud,
    /// By echo requests to his address on the numbered link.
    Echo,
}

words! { Liveness = client::LivenessMode { Off, Passive, Nud, Echo } }

/// An IPv4 address and, with UDP, a port.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
}

impl From<client::Endpoint> for Endpoint {
    fn from(endpoint: client::Endpoint) -> Self {
        Self {
            address: endpoint.address,
            port: endpoint.port,
        }
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

/// `None`: the dataplane does not tell.
pub(crate) fn state_name(state: client::TunnelState) -> Option<&'static str> {
    match state {
        client::TunnelState::Unspecified => None,
        client::TunnelState::Up => Some("up"),
        client::TunnelState::Down => Some("down"),
        client::TunnelState::Unreachable => Some("unreachable"),
        client::TunnelState::Unknown => Some("unknown"),
    }
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

impl From<client::TunnelEntry> for Tunnel {
    fn from(entry: client::TunnelEntry) -> Self {
        let tunnel = entry.tunnel;
        let (ttl, ttl_inherit) = outer::ttl(tunnel.ttl);
        let (dscp, dscp_copy) = outer::dscp(tunnel.dscp);
        let udp = match tunnel.encap {
            client::Encap::SixInFour => None,
            client::Encap::Udp(udp) => Some(udp),
        };
        let dynamic = tunnel.mtu_mode == client::MtuMode::Dynamic;
        let watched = tunnel.liveness.mode != client::LivenessMode::Off;
        Self {
            id: tunnel.id,
            owner: entry.owner,
            encapsulation: match udp {
                None => Encapsulation::SixInFour,
                Some(_) => Encapsulation::Udp,
            },
            local: tunnel.local,
            remote: (!tunnel.remote.is_unspecified()).then_some(tunnel.remote),
            local_port: udp.map(|u| u.local_port),
            remote_port: udp.and_then(|u| u.remote_port),
            shared_port: udp.map(|u| u.shared),
            rebind: udp.map(|u| u.rebind.into()),
            prefixes: tunnel.prefixes,
            link_prefix: tunnel.link.map(|l| l.prefix),
            link_address: tunnel.link.map(|l| l.address),
            link_local_address: tunnel.link_local,
            mtu: (tunnel.mtu != 0).then_some(tunnel.mtu),
            mtu_mode: tunnel.mtu_mode.into(),
            path_mtu: tunnel.path_mtu,
            min_path_mtu: dynamic.then_some(tunnel.min_path_mtu),
            mss_clamp: tunnel.mss_clamp,
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy,
            dscp_decap_copy: tunnel.dscp_decap_copy,
            ecn: tunnel.ecn.into(),
            strict_source: tunnel.strict_source,
            admin_up: tunnel.admin_up,
            liveness: tunnel.liveness.mode.into(),
            liveness_interval_seconds: watched.then_some(tunnel.liveness.interval),
            state: state_name(entry.state).map(str::to_owned),
            endpoint: entry.endpoint.map(Into::into),
            learnt_path_mtu: entry.learnt_path_mtu,
            current_mtu: entry.current_mtu,
            last_seen_seconds: entry.last_seen.map(|d| d.as_secs_f64()),
            outer_errors: entry.outer_errors,
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
        let encap = self.encap()?;
        let remote = match (self.remote, encap) {
            (Some(remote), _) => remote,
            (None, client::Encap::Udp(_)) => Ipv4Addr::UNSPECIFIED,
            (None, client::Encap::SixInFour) => {
                return Err("remote is missing: only a UDP tunnel can do without".to_owned());
            }
        };
        let dynamic = self.mtu_mode == MtuMode::Dynamic;
        if !dynamic && (self.path_mtu.is_some() || self.min_path_mtu.is_some()) {
            return Err("pathMtu and minPathMtu need mtuMode dynamic".to_owned());
        }
        for prefix in self.prefixes.iter().chain(&self.link_prefix) {
            if prefix.trunc() != *prefix {
                return Err(format!("{prefix} has host bits set"));
            }
        }
        Ok(client::Tunnel {
            id: parse::tunnel_id(&self.id).map_err(|e| format!("id: {e}"))?,
            local: self.local,
            remote,
            encap,
            prefixes: self.prefixes,
            link,
            link_local: self.link_local_address,
            mtu: self.mtu.unwrap_or(if dynamic { 0 } else { 1280 }),
            mtu_mode: self.mtu_mode.into(),
            path_mtu: self.path_mtu,
            min_path_mtu: self.min_path_mtu.unwrap_or(client::DEFAULT_MIN_PATH_MTU),
            mss_clamp: self.mss_clamp,
            ttl: outer::into_ttl(self.ttl, self.ttl_inherit)?,
            dscp: outer::into_dscp(self.dscp, self.dscp_copy)?,
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: self.ecn.into(),
            strict_source: self.strict_source,
            admin_up: self.admin_up,
            liveness: client::Liveness {
                mode: self.liveness.into(),
                interval: self
                    .liveness_interval_seconds
                    .unwrap_or(client::Liveness::default().interval),
            },
        })
    }

    fn encap(&self) -> Result<client::Encap, String> {
        if self.encapsulation == Encapsulation::Udp {
            let missing = || "localPort is missing: a UDP tunnel needs it".to_owned();
            return Ok(client::Encap::Udp(client::UdpEncap {
                remote_port: self.remote_port.filter(|&port| port != 0),
                shared: self.shared_port.unwrap_or(false),
                rebind: self.rebind.unwrap_or_default().into(),
                ..client::UdpEncap::new(self.local_port.ok_or_else(missing)?)
            }));
        }
        for (given, name) in [
            (self.local_port.is_some(), "localPort"),
            (self.remote_port.is_some(), "remotePort"),
            (self.shared_port.is_some(), "sharedPort"),
            (self.rebind.is_some(), "rebind"),
        ] {
            if given {
                return Err(format!("{name} needs encapsulation udp"));
            }
        }
        Ok(client::Encap::SixInFour)
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
            revision: 42,
            state: client::TunnelState::Up,
            ..client::TunnelEntry::new(tunnel)
        }
    }

    pub(crate) fn udp_entry() -> client::TunnelEntry {
        let tunnel = client::Tunnel {
            encap: client::Encap::Udp(client::UdpEncap {
                rebind: client::Rebind::InnerSource,
                ..client::UdpEncap::new(4028)
            }),
            prefixes: vec!["2001:db8:300::/48".parse().unwrap()],
            mtu: 0,
            mtu_mode: client::MtuMode::Dynamic,
            mss_clamp: true,
            liveness: client::Liveness {
                mode: client::LivenessMode::Passive,
                interval: 60,
            },
            ..client::Tunnel::udp("user-3", [198, 51, 100, 1].into(), 4028)
        };
        client::TunnelEntry {
            owner: "dtcp".into(),
            state: client::TunnelState::Unreachable,
            endpoint: Some(client::Endpoint {
                address: [203, 0, 113, 7].into(),
                port: Some(61_000),
            }),
            learnt_path_mtu: Some(1400),
            current_mtu: Some(1372),
            last_seen: Some(std::time::Duration::from_millis(200_500)),
            outer_errors: 2,
            ..client::TunnelEntry::new(tunnel)
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
  "mssClamp": false,
  "ttlInherit": true,
  "dscp": 0,
  "dscpCopy": false,
  "dscpDecapCopy": false,
  "ecn": "normal",
  "strictSource": true,
  "adminUp": true,
  "liveness": "off",
  "state": "up",
  "outerErrors": 0,
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
    fn the_shape_of_a_udp_tunnel_is_stable() {
        let text = serde_json::to_string(&Tunnel::from(udp_entry())).unwrap();
        assert_eq!(
            text,
            r#"{"id":"user-3","owner":"dtcp","encapsulation":"udp","local":"198.51.100.1","#
                .to_owned()
                + r#""localPort":4028,"sharedPort":false,"rebind":"inner-source","#
                + r#""prefixes":["2001:db8:300::/48"],"mtuMode":"dynamic","minPathMtu":576,"#
                + r#""mssClamp":true,"ttl":64,"ttlInherit":false,"dscp":0,"dscpCopy":false,"#
                + r#""dscpDecapCopy":false,"ecn":"normal","strictSource":true,"adminUp":true,"#
                + r#""liveness":"passive","livenessIntervalSeconds":60,"state":"unreachable","#
                + r#""endpoint":{"address":"203.0.113.7","port":61000},"learntPathMtu":1400,"#
                + r#""currentMtu":1372,"lastSeenSeconds":200.5,"outerErrors":2,"#
                + r#""generation":0,"stale":false,"revision":0}"#
        );
    }

    #[test]
    fn what_is_printed_can_be_loaded() {
        for entry in [entry(), udp_entry()] {
            let text = serde_json::to_string(&Tunnel::from(entry.clone())).unwrap();
            let again: Tunnel = serde_json::from_str(&text).unwrap();
            assert_eq!(again.into_client().unwrap(), entry.tunnel);
        }
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
            (r#""localPort":4028"#, "localPort needs encapsulation udp"),
            (r#""encapsulation":"udp""#, "localPort is missing"),
            (r#""pathMtu":1400"#, "need mtuMode dynamic"),
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
