//! A domain as JSON.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;
use sixferry_client as client;

use super::outer::{self, Ecn, MtuMode, words};
use super::tunnel::TunnelCounters;

/// A domain: exactly one of `six_to_four` and `six_rd` is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Domain {
    pub(crate) id: String,
    pub(crate) owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) six_to_four: Option<SixToFour>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) six_rd: Option<SixRd>,
    pub(crate) local: Ipv4Addr,
    pub(crate) input: bool,
    pub(crate) urpf: Urpf,
    pub(crate) allow_v4: Vec<Ipv4Net>,
    pub(crate) deny_v4: Vec<Ipv4Net>,
    pub(crate) mtu: u16,
    pub(crate) mtu_mode: MtuMode,
    pub(crate) mss_clamp: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<u8>,
    pub(crate) ttl_inherit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dscp: Option<u8>,
    pub(crate) dscp_copy: bool,
    pub(crate) dscp_decap_copy: bool,
    pub(crate) ecn: Ecn,
    pub(crate) admin_up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain_prefix: Option<Ipv6Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delegated_prefix: Option<Ipv6Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) counters: Option<TunnelCounters>,
    pub(crate) generation: u64,
    pub(crate) stale: bool,
    pub(crate) revision: u64,
}

/// 6to4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SixToFour {
    /// relay or site.
    pub(crate) role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relay: Option<Ipv4Addr>,
    pub(crate) peer_v4_length: u8,
    pub(crate) anycast: bool,
}

/// 6rd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SixRd {
    /// br or ce.
    pub(crate) role: &'static str,
    pub(crate) prefix: Ipv6Net,
    pub(crate) v4_common: Ipv4Addr,
    pub(crate) v4_mask_length: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) br: Option<Ipv4Addr>,
    pub(crate) anycast: bool,
}

/// Check of outer sources against the host's IPv4 routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Urpf {
    /// None.
    #[default]
    Off,
    /// Some route other than a default leads to the source.
    Loose,
    /// The route to the source leaves by the port the packet came in by.
    Strict,
}

words! { Urpf = client::Urpf { Off, Loose, Strict } }

impl From<&client::SixToFour> for SixToFour {
    fn from(m: &client::SixToFour) -> Self {
        let (role, relay, anycast) = match m.role {
            client::SixToFourRole::Relay { anycast } => ("relay", None, anycast),
            client::SixToFourRole::Site { relay } => ("site", relay, false),
        };
        Self {
            role,
            relay,
            peer_v4_length: m.peer_v4_length,
            anycast,
        }
    }
}

impl From<&client::SixRd> for SixRd {
    fn from(m: &client::SixRd) -> Self {
        let (role, br, anycast) = match m.role {
            client::SixRdRole::Br { anycast } => ("br", None, anycast),
            client::SixRdRole::Ce { br } => ("ce", Some(br), false),
        };
        Self {
            role,
            prefix: m.prefix,
            v4_common: m.v4_common.network(),
            v4_mask_length: m.v4_common.prefix_len(),
            br,
            anycast,
        }
    }
}

impl From<client::DomainEntry> for Domain {
    fn from(entry: client::DomainEntry) -> Self {
        let domain = entry.domain;
        let (six_to_four, six_rd) = match &domain.mechanism {
            client::Mechanism::SixToFour(m) => (Some(m.into()), None),
            client::Mechanism::SixRd(m) => (None, Some(m.into())),
        };
        let (ttl, ttl_inherit) = outer::ttl(domain.ttl);
        let (dscp, dscp_copy) = outer::dscp(domain.dscp);
        Self {
            id: domain.id,
            owner: entry.owner,
            six_to_four,
            six_rd,
            local: domain.local,
            input: domain.input,
            urpf: domain.urpf.into(),
            allow_v4: domain.allow_v4,
            deny_v4: domain.deny_v4,
            mtu: domain.mtu,
            mtu_mode: domain.mtu_mode.into(),
            mss_clamp: domain.mss_clamp,
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy,
            dscp_decap_copy: domain.dscp_decap_copy,
            ecn: domain.ecn.into(),
            admin_up: domain.admin_up,
            domain_prefix: entry.prefix,
            delegated_prefix: entry.delegated,
            counters: entry.counters.map(Into::into),
            generation: entry.generation,
            stale: entry.stale,
            revision: entry.revision,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn entry(mechanism: client::Mechanism, local: [u8; 4]) -> client::DomainEntry {
        client::DomainEntry {
            domain: client::Domain::new("d", local.into(), mechanism),
            owner: "cli".into(),
            prefix: None,
            delegated: None,
            counters: None,
            generation: 0,
            stale: false,
            revision: 3,
        }
    }

    pub(crate) fn six_to_four() -> client::DomainEntry {
        let mechanism = client::Mechanism::SixToFour(client::SixToFour {
            role: client::SixToFourRole::Relay { anycast: false },
            peer_v4_length: 0,
        });
        client::DomainEntry {
            prefix: Some("2002::/16".parse().unwrap()),
            delegated: Some("2002:901:203::/48".parse().unwrap()),
            ..entry(mechanism, [9, 1, 2, 3])
        }
    }

    pub(crate) fn six_rd() -> client::DomainEntry {
        let mechanism = client::Mechanism::SixRd(client::SixRd {
            prefix: "2001:db8::/32".parse().unwrap(),
            v4_common: "10.0.0.0/8".parse().unwrap(),
            role: client::SixRdRole::Ce {
                br: [10, 0, 0, 1].into(),
            },
        });
        client::DomainEntry {
            prefix: Some("2001:db8::/32".parse().unwrap()),
            delegated: Some("2001:db8:6400:100::/56".parse().unwrap()),
            ..entry(mechanism, [10, 100, 0, 1])
        }
    }

    #[test]
    fn the_shape_of_a_domain_is_stable() {
        let tail = |dscp: &str| {
            r#""input":true,"urpf":"off","allowV4":[],"denyV4":[],"mtu":1280,"#.to_owned()
                + r#""mtuMode":"static","mssClamp":false,"ttl":64,"ttlInherit":false,"#
                + dscp
                + r#","dscpDecapCopy":false,"ecn":"normal","adminUp":true,"#
        };
        let text = serde_json::to_string(&Domain::from(six_to_four())).unwrap();
        assert_eq!(
            text,
            r#"{"id":"d","owner":"cli","sixToFour":{"role":"relay","peerV4Length":0,"#.to_owned()
                + r#""anycast":false},"local":"9.1.2.3","#
                + &tail(r#""dscp":0,"dscpCopy":false"#)
                + r#""domainPrefix":"2002::/16","delegatedPrefix":"2002:901:203::/48","#
                + r#""generation":0,"stale":false,"revision":3}"#
        );
        let text = serde_json::to_string(&Domain::from(six_rd())).unwrap();
        assert_eq!(
            text,
            r#"{"id":"d","owner":"cli","sixRd":{"role":"ce","prefix":"2001:db8::/32","#.to_owned()
                + r#""v4Common":"10.0.0.0","v4MaskLength":8,"br":"10.0.0.1","anycast":false},"#
                + r#""local":"10.100.0.1","#
                + &tail(r#""dscpCopy":true"#)
                + r#""domainPrefix":"2001:db8::/32","#
                + r#""delegatedPrefix":"2001:db8:6400:100::/56","#
                + r#""generation":0,"stale":false,"revision":3}"#
        );
    }
}
