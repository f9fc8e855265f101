//! What tunnels and domains have in common, for people.

use crate::json::PacketsBytes;
use crate::json::outer::Ecn;
use crate::json::tunnel::TunnelCounters;
use crate::output::Facts;
use crate::units;

/// How the outer header is made.
pub(crate) struct Outer {
    pub(crate) ttl: Option<u8>,
    pub(crate) dscp: Option<u8>,
    pub(crate) dscp_decap_copy: bool,
    pub(crate) ecn: Ecn,
    pub(crate) mss_clamp: bool,
}

/// The lines of `show` about the outer header.
pub(crate) fn outer(facts: &mut Facts, outer: &Outer) {
    let number = |n: Option<u8>, other: &str| n.map_or_else(|| other.to_owned(), |n| n.to_string());
    facts.add("TTL", number(outer.ttl, "inherit"));
    let mut dscp = number(outer.dscp, "copy");
    if outer.dscp_decap_copy {
        dscp.push_str(", copied to the inner header at the exit");
    }
    facts.add("DSCP", dscp);
    facts.add(
        "ECN",
        match outer.ecn {
            Ecn::Normal => "normal",
            Ecn::Compat => "compat",
        },
    );
    if outer.mss_clamp {
        facts.add("MSS clamp", "on");
    }
}

/// The lines of `show` about traffic; `what` is "tunnel" or "domain".
pub(crate) fn traffic(facts: &mut Facts, what: &str, counters: &TunnelCounters) {
    let traffic = |c: PacketsBytes| format!("{} packets, {}", c.packets, units::bytes(c.bytes));
    facts.add(format!("Out of the {what}"), traffic(counters.received));
    facts.add(format!("Into the {what}"), traffic(counters.sent));
    if counters.drops.is_empty() {
        facts.add("Dropped", "nothing");
    }
    for drop in &counters.drops {
        let what = format!("{} packets {}", drop.packets, drop.reason);
        facts.add("Dropped", what);
    }
    if counters.ecn_unusual > 0 {
        let what = format!("{} packets (RFC 6040 section 4.2)", counters.ecn_unusual);
        facts.add("Unusual ECN", what);
    }
}

/// `up`, `down, stale`, ...
pub(crate) fn state(state: &str, stale: bool) -> String {
    let stale = if stale { ", stale" } else { "" };
    format!("{state}{stale}")
}

/// The first of several, and how many more there are.
pub(crate) fn first<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "-".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{} +{}", first.to_string(), rest.len()),
    }
}

/// All of several; `-` if there is none.
pub(crate) fn all<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
