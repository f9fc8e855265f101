//! A domain as the command that creates it, as it would be typed.

use sixferry_client::{Domain, Dscp, Ecn, Mechanism, MtuMode, SixRdRole, SixToFourRole, Ttl, Urpf};

/// The command, without what is the default.
pub(crate) fn add_line(domain: &Domain) -> String {
    let plain = Domain::new(domain.id.clone(), domain.local, domain.mechanism.clone());
    let mut words = vec![format!("sixferry domain add {}", domain.id)];
    mechanism(&mut words, domain);
    for prefix in &domain.allow_v4 {
        words.push(format!("--allow-v4 {prefix}"));
    }
    for prefix in &domain.deny_v4 {
        words.push(format!("--deny-v4 {prefix}"));
    }
    let mut add = |differs: bool, word: String| {
        if differs {
            words.push(word);
        }
    };
    let urpf = match domain.urpf {
        Urpf::Off => "off",
        Urpf::Loose => "loose",
        Urpf::Strict => "strict",
    };
    add(domain.urpf != plain.urpf, format!("--urpf {urpf}"));
    add(domain.mtu != plain.mtu, format!("--mtu {}", domain.mtu));
    let managed = domain.mtu_mode == MtuMode::Managed;
    add(managed, "--mtu-mode managed".to_owned());
    let ttl = match domain.ttl {
        Ttl::Fixed(ttl) => ttl.to_string(),
        Ttl::Inherit => "inherit".to_owned(),
    };
    add(domain.ttl != plain.ttl, format!("--ttl {ttl}"));
    let dscp = match domain.dscp {
        Dscp::Fixed(dscp) => dscp.to_string(),
        Dscp::Copy => "copy".to_owned(),
    };
    add(domain.dscp != plain.dscp, format!("--dscp {dscp}"));
    add(domain.dscp_decap_copy, "--dscp-decap-copy".to_owned());
    let compat = domain.ecn == Ecn::Compat;
    add(compat, "--ecn compat".to_owned());
    add(domain.mss_clamp, "--mss-clamp".to_owned());
    add(!domain.input, "--no-input".to_owned());
    add(!domain.admin_up, "--down".to_owned());
    words.join(" ")
}

fn mechanism(words: &mut Vec<String>, domain: &Domain) {
    let local = domain.local;
    match &domain.mechanism {
        Mechanism::SixToFour(m) => {
            let role = match m.role {
                SixToFourRole::Relay { .. } => "relay",
                SixToFourRole::Site { .. } => "site",
            };
            words.push(format!("--kind 6to4 --role {role} --local {local}"));
            match m.role {
                SixToFourRole::Relay { anycast: true } => words.push("--anycast".to_owned()),
                SixToFourRole::Site { relay: Some(relay) } => {
                    words.push(format!("--relay {relay}"));
                }
                SixToFourRole::Relay { anycast: false } | SixToFourRole::Site { relay: None } => {}
            }
            if m.peer_v4_length > 0 {
                words.push(format!("--peer-v4-length {}", m.peer_v4_length));
            }
        }
        Mechanism::SixRd(m) => {
            let role = match m.role {
                SixRdRole::Br { .. } => "br",
                SixRdRole::Ce { .. } => "ce",
            };
            words.push(format!("--kind 6rd --role {role} --local {local}"));
            words.push(format!("--prefix {}", m.prefix));
            if m.v4_common.prefix_len() > 0 {
                words.push(format!("--v4-common {}", m.v4_common));
            }
            match m.role {
                SixRdRole::Br { anycast: true } => words.push("--anycast".to_owned()),
                SixRdRole::Br { anycast: false } => {}
                SixRdRole::Ce { br } => words.push(format!("--br {br}")),
            }
        }
    }
}
