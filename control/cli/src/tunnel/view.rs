//! Tunnels for people.

use std::time::Duration;

use crate::describe::{self, Outer};
use crate::json::outer::MtuMode;
use crate::json::tunnel::{Encapsulation, Liveness, Rebind, Tunnel};
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
        let mut row = vec![tunnel.id.clone(), user(tunnel)];
        if self.wide {
            row.push(local(tunnel));
        }
        row.push(if self.wide {
            describe::all(&tunnel.prefixes)
        } else {
            describe::first(&tunnel.prefixes)
        });
        if self.wide {
            row.push(mtu_now(tunnel));
        }
        row.extend([
            describe::state(state(tunnel), tunnel.stale),
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

/// Our end.
pub(super) fn local(tunnel: &Tunnel) -> String {
    with_port(tunnel.local, tunnel.local_port)
}

fn with_port(address: std::net::Ipv4Addr, port: Option<u16>) -> String {
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    format!("{address}{port}")
}

/// The user's end as it was written; `-`: not known.
fn configured(tunnel: &Tunnel) -> String {
    let remote = tunnel.remote.map(|r| with_port(r, tunnel.remote_port));
    remote.unwrap_or_else(|| "-".to_owned())
}

/// The user's end as it is now.
pub(super) fn user(tunnel: &Tunnel) -> String {
    let endpoint = tunnel.endpoint.map(|e| e.to_string());
    endpoint.unwrap_or_else(|| configured(tunnel))
}

pub(super) fn state(tunnel: &Tunnel) -> &str {
    match &tunnel.state {
        Some(state) => state,
        None if tunnel.admin_up => "up",
        None => "down",
    }
}

/// The MTU that counts now, if it is known.
fn mtu_now(tunnel: &Tunnel) -> String {
    let now = tunnel.current_mtu.or(tunnel.mtu.map(u32::from));
    now.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string())
}

fn mtu(tunnel: &Tunnel) -> String {
    let now = mtu_now(tunnel);
    match tunnel.mtu_mode {
        MtuMode::Static => format!("{now} (static, DF clear)"),
        MtuMode::Managed => format!("{now} (managed, DF set)"),
        MtuMode::Dynamic => {
            let path = tunnel.learnt_path_mtu;
            let path = path.map_or_else(|| "not learnt yet".to_owned(), |p| p.to_string());
            let least = tunnel
                .min_path_mtu
                .map_or_else(String::new, |least| format!(", not below {least}"));
            format!("{now} (dynamic; path MTU {path}{least})")
        }
    }
}

fn rebind(rebind: Rebind) -> &'static str {
    match rebind {
        Rebind::Deny => "deny",
        Rebind::Control => "control: the controller decides",
        Rebind::InnerSource => "inner-source: follows a packet from a right source",
        Rebind::InnerSourcePort => "inner-source-port: follows a right source to another port",
    }
}

fn liveness(tunnel: &Tunnel) -> Option<String> {
    let how = match tunnel.liveness {
        Liveness::Off => return None,
        Liveness::Passive => "passive",
        Liveness::Nud => "neighbour solicitations",
        Liveness::Echo => "echo requests",
    };
    let every = tunnel.liveness_interval_seconds.unwrap_or_default();
    let seen = tunnel
        .last_seen_seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let seen = seen.map_or_else(
        || "never seen".to_owned(),
        |ago| format!("last seen {} ago", units::age(ago)),
    );
    Some(format!("{how}, every {every} s; {seen}"))
}

/// Everything about one tunnel.
pub(super) fn details(tunnel: &Tunnel) -> String {
    let mut facts = Facts::default();
    facts
        .add("Tunnel", &tunnel.id)
        .add("Owner", &tunnel.owner)
        .add("State", describe::state(state(tunnel), tunnel.stale));
    if tunnel.encapsulation == Encapsulation::Udp {
        facts.add("Encapsulation", "UDP");
    }
    facts.add("Local", local(tunnel));
    if tunnel.shared_port == Some(true) {
        facts.add("Local port", "shared with other tunnels");
    }
    facts.add("Remote", configured(tunnel));
    if let Some(policy) = tunnel.rebind {
        let now = tunnel.endpoint.map(|e| e.to_string());
        facts.add(
            "Endpoint",
            now.unwrap_or_else(|| "not known yet".to_owned()),
        );
        facts.add("Rebinding", rebind(policy));
    }
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
    facts.add("MTU", mtu(tunnel));
    let outer = Outer {
        ttl: tunnel.ttl,
        dscp: tunnel.dscp,
        dscp_decap_copy: tunnel.dscp_decap_copy,
        ecn: tunnel.ecn,
        mss_clamp: tunnel.mss_clamp,
    };
    describe::outer(&mut facts, &outer);
    let check = if tunnel.strict_source {
        "strict"
    } else {
        "off: the user can spoof"
    };
    facts.add("Source check", check);
    if let Some(liveness) = liveness(tunnel) {
        facts.add("Liveness", liveness);
    }
    if tunnel.outer_errors > 0 {
        facts.add("ICMPv4 errors", tunnel.outer_errors.to_string());
    }
    if let Some(counters) = &tunnel.counters {
        describe::traffic(&mut facts, "tunnel", counters);
    }
    facts.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tunnel::tests::{entry, udp_entry};

    fn tunnels() -> Vec<Tunnel> {
        let mut second = entry();
        second.tunnel.id = "user-2".into();
        second.tunnel.admin_up = false;
        second.state = sixferry_client::TunnelState::Down;
        second.tunnel.prefixes.clear();
        second.stale = true;
        second.counters = None;
        vec![entry().into(), second.into(), udp_entry().into()]
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
ID      REMOTE             PREFIXES              STATE        OWNER     IN  OUT
user-1  192.0.2.10         2001:db8:100::/48 +1  up           cli    12.3k    7
user-2  192.0.2.10         -                     down, stale  cli        0    0
user-3  203.0.113.7:61000  2001:db8:300::/48     unreachable  dtcp       0    0
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

    #[test]
    fn a_udp_tunnel_shows_where_its_user_is() {
        assert_eq!(
            details(&udp_entry().into()),
            "\
Tunnel         user-3
Owner          dtcp
State          unreachable
Encapsulation  UDP
Local          198.51.100.1:4028
Remote         -
Endpoint       203.0.113.7:61000
Rebinding      inner-source: follows a packet from a right source
Prefix         2001:db8:300::/48
MTU            1372 (dynamic; path MTU 1400, not below 576)
TTL            64
DSCP           0
ECN            normal
MSS clamp      on
Source check   strict
Liveness       passive, every 60 s; last seen 3 min 20 s ago
ICMPv4 errors  2
"
        );
    }
}
