//! A domain as the part of dataplane.toml that configures it.

use serde::Serialize;
use sixferry_client::{Domain, Dscp, Mechanism, SixToFour, SixToFourRole, Ttl, Urpf};

#[derive(Serialize)]
struct File<'a> {
    domain: [Section<'a>; 1],
}

/// The keys in the order of the example file; what is the default is left out.
#[derive(Serialize)]
struct Section<'a> {
    id: &'a str,
    kind: &'static str,
    role: &'static str,
    local: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_v4_length: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    anycast: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    urpf: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_v4: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dscp: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    up: Option<bool>,
}

/// The section of a 6to4 domain as stf(4) has it; empty for any other.
pub(super) fn render(domain: &Domain) -> String {
    let Mechanism::SixToFour(SixToFour {
        role,
        peer_v4_length,
    }) = domain.mechanism
    else {
        return String::new();
    };
    let (name, relay, anycast, routes) = match role {
        SixToFourRole::Relay { anycast } => ("relay", None, anycast, Vec::new()),
        SixToFourRole::Site { relay } => ("site", relay, false, vec!["::/0"]),
    };
    let section = Section {
        id: &domain.id,
        kind: "6to4",
        role: name,
        local: domain.local.to_string(),
        relay: relay.map(|r| r.to_string()),
        peer_v4_length: (peer_v4_length > 0).then_some(peer_v4_length),
        anycast: anycast.then_some(true),
        input: (!domain.input).then_some(false),
        urpf: match domain.urpf {
            Urpf::Off => None,
            Urpf::Loose => Some("loose"),
            Urpf::Strict => Some("strict"),
        },
        allow_v4: domain.allow_v4.iter().map(ToString::to_string).collect(),
        routes,
        mtu: (domain.mtu != 1280).then_some(domain.mtu),
        ttl: match domain.ttl {
            Ttl::Fixed(ttl) => (ttl != 64).then_some(ttl),
            Ttl::Inherit => None,
        },
        dscp: (domain.dscp == Dscp::Copy).then_some("copy"),
        up: (!domain.admin_up).then_some(false),
    };
    ::toml::to_string(&File { domain: [section] }).unwrap_or_default()
}
