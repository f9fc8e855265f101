//! Domains for people.

use crate::describe::{self, Outer};
use crate::json::domain::{Domain, Urpf};
use crate::json::outer::MtuMode;
use crate::output::{Column, Facts, Table};
use crate::units;

use super::Found;

/// `6to4 relay`, `6rd ce`, ...
fn kind(domain: &Domain) -> String {
    match (&domain.six_to_four, &domain.six_rd) {
        (Some(m), _) => format!("6to4 {}", m.role),
        (None, Some(m)) => format!("6rd {}", m.role),
        (None, None) => "-".to_owned(),
    }
}

fn state(domain: &Domain) -> String {
    let state = match (domain.admin_up, domain.input) {
        (true, true) => "up",
        (true, false) => "output only",
        (false, _) => "down",
    };
    describe::state(state, domain.stale)
}

fn prefix(prefix: Option<ipnet::Ipv6Net>) -> String {
    prefix.map_or_else(|| "-".to_owned(), |p| p.to_string())
}

pub(super) fn list(domains: &[Domain]) -> String {
    if domains.is_empty() {
        return "no domains\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Left("ID"),
        Column::Left("KIND"),
        Column::Left("LOCAL"),
        Column::Left("PREFIX"),
        Column::Left("STATE"),
        Column::Left("OWNER"),
        Column::Right("IN"),
        Column::Right("OUT"),
    ]);
    for domain in domains {
        let counters = domain.counters.clone().unwrap_or_default();
        table.row([
            domain.id.clone(),
            kind(domain),
            domain.local.to_string(),
            prefix(domain.domain_prefix),
            state(domain),
            domain.owner.clone(),
            units::count(counters.received.packets),
            units::count(counters.sent.packets),
        ]);
    }
    table.render()
}

/// Everything about one domain.
pub(super) fn details(domain: &Domain) -> String {
    let mut facts = Facts::default();
    facts
        .add("Domain", &domain.id)
        .add("Owner", &domain.owner)
        .add("Kind", kind(domain))
        .add("State", state(domain))
        .add("Local", domain.local.to_string())
        .add("Prefix", prefix(domain.domain_prefix))
        .add("Own prefix", prefix(domain.delegated_prefix));
    mechanism(&mut facts, domain);
    let urpf = match domain.urpf {
        Urpf::Off => "off",
        Urpf::Loose => "loose",
        Urpf::Strict => "strict",
    };
    facts.add("Source routes", urpf);
    if !domain.allow_v4.is_empty() {
        facts.add("Not martian", describe::all(&domain.allow_v4));
    }
    if !domain.deny_v4.is_empty() {
        facts.add("Refused peers", describe::all(&domain.deny_v4));
    }
    let df = match domain.mtu_mode {
        MtuMode::Static => "static, DF clear",
        MtuMode::Managed => "managed, DF set",
        MtuMode::Dynamic => "dynamic",
    };
    facts.add("MTU", format!("{} ({df})", domain.mtu));
    let outer = Outer {
        ttl: domain.ttl,
        dscp: domain.dscp,
        dscp_decap_copy: domain.dscp_decap_copy,
        ecn: domain.ecn,
        mss_clamp: domain.mss_clamp,
    };
    describe::outer(&mut facts, &outer);
    if let Some(counters) = &domain.counters {
        describe::traffic(&mut facts, "domain", counters);
    }
    facts.render()
}

fn mechanism(facts: &mut Facts, domain: &Domain) {
    if let Some(m) = &domain.six_to_four {
        if m.role == "site" {
            let relay = m.relay.map(|r| r.to_string());
            facts.add("Way out", relay.unwrap_or_else(|| "192.88.99.1".to_owned()));
        }
        if m.peer_v4_length > 0 {
            let peers = ipnet::Ipv4Net::new(domain.local, m.peer_v4_length);
            let peers = peers.map_or_else(|_| "-".to_owned(), |net| net.trunc().to_string());
            facts.add("Peers", format!("only {peers}"));
        }
        if m.anycast {
            facts.add("Anycast", "192.88.99.1");
        }
    }
    if let Some(m) = &domain.six_rd {
        let common = match m.v4_mask_length {
            0 => "none in common".to_owned(),
            length => format!("{}/{length}", m.v4_common),
        };
        facts.add("IPv4 addresses", common);
        if let Some(br) = m.br {
            facts.add("Way out", br.to_string());
        }
        if m.anycast {
            facts.add("Anycast", "the local address is shared");
        }
    }
}

pub(super) fn found(found: &Found) -> String {
    let mut facts = Facts::default();
    let own = if found.own { " (our own)" } else { "" };
    facts
        .add("Domain", &found.domain_id)
        .add("Outer address", format!("{}{own}", found.outer_address))
        .add("Prefix", prefix(found.delegated_prefix));
    if let Some(reason) = &found.refused_reason {
        facts.add("Refused", reason);
    }
    facts.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::domain::tests::{six_rd, six_to_four};

    #[test]
    fn the_list_fits_80_columns() {
        let mut output_only = six_to_four();
        output_only.domain.input = false;
        output_only.stale = true;
        let domains = [six_to_four().into(), six_rd().into(), output_only.into()];
        assert_eq!(
            list(&domains),
            "\
ID  KIND        LOCAL       PREFIX         STATE               OWNER  IN  OUT
d   6to4 relay  9.1.2.3     2002::/16      up                  cli     0    0
d   6rd ce      10.100.0.1  2001:db8::/32  up                  cli     0    0
d   6to4 relay  9.1.2.3     2002::/16      output only, stale  cli     0    0
"
        );
        assert_eq!(list(&[]), "no domains\n");
    }

    #[test]
    fn details_name_what_the_mechanism_has() {
        assert_eq!(
            details(&six_rd().into()),
            "\
Domain          d
Owner           cli
Kind            6rd ce
State           up
Local           10.100.0.1
Prefix          2001:db8::/32
Own prefix      2001:db8:6400:100::/56
IPv4 addresses  10.0.0.0/8
Way out         10.0.0.1
Source routes   off
MTU             1280 (static, DF clear)
TTL             64
DSCP            copy
ECN             normal
"
        );
        let mut restricted = six_to_four();
        if let sixferry_client::Mechanism::SixToFour(m) = &mut restricted.domain.mechanism {
            m.peer_v4_length = 16;
        }
        let text = details(&restricted.into());
        assert!(text.contains("Peers          only 9.1.0.0/16\n"), "{text}");
    }

    #[test]
    fn a_lookup_says_why_a_peer_is_refused() {
        let answer = Found {
            domain_id: "d".into(),
            outer_address: [10, 0, 0, 1].into(),
            delegated_prefix: Some("2002:a00:1::/48".parse().unwrap()),
            own: false,
            refused_reason: Some("V4_SRC_MARTIAN".into()),
        };
        assert_eq!(
            found(&answer),
            "\
Domain         d
Outer address  10.0.0.1
Prefix         2002:a00:1::/48
Refused        V4_SRC_MARTIAN
"
        );
    }
}
