//! Tunnels for people.

use sixferry_client::ProgramReport;

use crate::json::tunnel::{Ecn, MtuMode, Tunnel};
use crate::output::{Column, Facts, Table};
use crate::units;

/// A list of tunnels.
pub(super) struct List {
    table: Table,
    wide: bool,
    empty: bool,
}

impl List {
    pub(super) fn new(wide: bool) -> Self {
        let mut columns = vec![Column::Left("ID"), Column::Left("REMOTE")];
        if wide {
            columns.push(Column::Left("LOCAL"));
        }
        columns.push(Column::Left("PREFIXES"));
        if wide {
            columns.push(Column::Right("MTU"));
        }
        columns.extend([
            Column::Left("STATE"),
            Column::Left("OWNER"),
            Column::Right("IN"),
            Column::Right("OUT"),
        ]);
        if wide {
            columns.push(Column::Right("DROPS"));
        }
        Self {
            table: Table::new(&columns),
            wide,
            empty: true,
        }
    }

    pub(super) fn add(&mut self, tunnel: &Tunnel) {
        self.empty = false;
        let counters = tunnel.counters.clone().unwrap_or_default();
        let mut row = vec![tunnel.id.clone(), tunnel.remote.to_string()];
        if self.wide {
            row.push(tunnel.local.to_string());
        }
        row.push(prefixes(tunnel, self.wide));
        if self.wide {
            row.push(tunnel.mtu.to_string());
        }
        row.extend([
            state(tunnel).to_owned(),
            tunnel.owner.clone(),
            units::count(counters.received.packets),
            units::count(counters.sent.packets),
        ]);
        if self.wide {
            let drops = counters.drops.iter().map(|d| d.packets).sum();
            row.push(units::count(drops));
        }
        self.table.row(row);
    }

    pub(super) fn render(&self) -> String {
        if self.empty {
            return "no tunnels\n".to_owned();
        }
        self.table.render()
    }
}

fn prefixes(tunnel: &Tunnel, all: bool) -> String {
    match tunnel.prefixes.as_slice() {
        [] => "-".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] if !all => format!("{first} +{}", rest.len()),
        several => join(several),
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn state(tunnel: &Tunnel) -> &'static str {
    match (tunnel.admin_up, tunnel.stale) {
        (true, false) => "up",
        (true, true) => "up, stale",
        (false, false) => "down",
        (false, true) => "down, stale",
    }
}

/// Everything about one tunnel.
pub(super) fn details(tunnel: &Tunnel) -> String {
    let mut facts = Facts::default();
    facts
        .add("Tunnel", &tunnel.id)
        .add("Owner", &tunnel.owner)
        .add("State", state(tunnel))
        .add("Local", tunnel.local.to_string())
        .add("Remote", tunnel.remote.to_string());
    if tunnel.prefixes.is_empty() {
        facts.add("Prefix", "-");
    }
    for prefix in &tunnel.prefixes {
        facts.add("Prefix", prefix.to_string());
    }
    if let (Some(prefix), Some(address)) = (tunnel.link_prefix, tunnel.link_address) {
        facts.add("Link", format!("{prefix}, ours is {address}"));
    }
    if let Some(address) = tunnel.link_local_address {
        facts.add("Link-local", address.to_string());
    }
    let df = match tunnel.mtu_mode {
        MtuMode::Static => "static, DF clear",
        MtuMode::Managed => "managed, DF set",
    };
    facts.add("MTU", format!("{} ({df})", tunnel.mtu));
    let ttl = tunnel.ttl.map(|t| t.to_string());
    facts.add("TTL", ttl.unwrap_or_else(|| "inherit".to_owned()));
    let mut dscp = tunnel
        .dscp
        .map_or_else(|| "copy".to_owned(), |d| d.to_string());
    if tunnel.dscp_decap_copy {
        dscp.push_str(", copied to the inner header at the exit");
    }
    facts.add("DSCP", dscp);
    facts.add(
        "ECN",
        match tunnel.ecn {
            Ecn::Normal => "normal",
            Ecn::Compat => "compat",
        },
    );
    let check = if tunnel.strict_source {
        "strict"
    } else {
        "off: the user can spoof"
    };
    facts.add("Source check", check);
    let Some(counters) = &tunnel.counters else {
        return facts.render();
    };
    let traffic =
        |c: &crate::json::PacketsBytes| format!("{} packets, {}", c.packets, units::bytes(c.bytes));
    facts.add("Out of the tunnel", traffic(&counters.received));
    facts.add("Into the tunnel", traffic(&counters.sent));
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
    facts.render()
}

/// One line about a write; `None` if nothing of it succeeded.
pub(crate) fn done(report: &ProgramReport) -> Option<String> {
    let what = match (report.created, report.updated, report.deleted) {
        (1.., _, _) => "created",
        (_, 1.., _) => "changed",
        (_, _, 1..) => "deleted",
        _ => "unchanged",
    };
    let total = report.progress.acknowledged;
    match total.saturating_sub(report.progress.failed) {
        0 => None,
        _ if total == 1 => Some(what.to_owned()),
        applied => Some(format!("{applied} of {total} {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tunnel::tests::entry;

    fn tunnels() -> Vec<Tunnel> {
        let mut second = entry();
        second.tunnel.id = "user-2".into();
        second.tunnel.admin_up = false;
        second.tunnel.prefixes.clear();
        second.stale = true;
        second.counters = None;
        vec![entry().into(), second.into()]
    }

    #[test]
    fn the_list_fits_80_columns() {
        let mut list = List::new(false);
        for tunnel in tunnels() {
            list.add(&tunnel);
        }
        assert_eq!(
            list.render(),
            "\
ID      REMOTE      PREFIXES              STATE        OWNER     IN  OUT
user-1  192.0.2.10  2001:db8:100::/48 +1  up           cli    12.3k    7
user-2  192.0.2.10  -                     down, stale  cli        0    0
"
        );
    }

    #[test]
    fn the_wide_list_has_every_prefix() {
        let mut list = List::new(true);
        list.add(&tunnels()[0]);
        assert_eq!(
            list.render(),
            "\
ID      REMOTE      LOCAL         PREFIXES                               MTU  STATE  OWNER     IN  OUT  DROPS
user-1  192.0.2.10  198.51.100.1  2001:db8:100::/48, 2001:db8:200::/48  1280  up     cli    12.3k    7      3
"
        );
    }

    #[test]
    fn writes_are_one_line() {
        let mut report = ProgramReport {
            deleted: 1,
            ..ProgramReport::default()
        };
        report.progress.acknowledged = 1;
        assert_eq!(done(&report).as_deref(), Some("deleted"));
        report.progress.acknowledged = 2;
        report.progress.failed = 1;
        assert_eq!(done(&report).as_deref(), Some("1 of 2 deleted"));
        report.progress.failed = 2;
        assert_eq!(done(&report), None);
    }

    #[test]
    fn an_empty_list_says_so() {
        assert_eq!(List::new(false).render(), "no tunnels\n");
    }

    #[test]
    fn details_show_everything() {
        assert_eq!(
            details(&tunnels()[0]),
            "\
Tunnel             user-1
Owner              cli
State              up
Local              198.51.100.1
Remote             192.0.2.10
Prefix             2001:db8:100::/48
Prefix             2001:db8:200::/48
Link               2001:db8:ffff:1::/64, ours is 2001:db8:ffff:1::1
MTU                1280 (static, DF clear)
TTL                inherit
DSCP               0
ECN                normal
Source check       strict
Out of the tunnel  12345 packets, 1.50 MB
Into the tunnel    7 packets, 700 B
Dropped            3 packets INNER_SRC_SPOOF
Unusual ECN        1 packets (RFC 6040 section 4.2)
"
        );
    }
}
