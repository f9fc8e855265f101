//! `sixferry route`.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use sixferry_client::{
    NextHop, ProgramOptions, Route, RouteAction, RouteOrigin, RouteUpdate, WriteMode,
};

use crate::args::{Global, Writer};
use crate::error::CliError;
use crate::json::route as shape;
use crate::json::written;
use crate::output::{Column, Facts, Table};
use crate::{output, parse};

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Add a route, beside those of the kernel and of the tunnels.
    Add(AddArgs),
    /// Remove routes that were added here.
    #[command(visible_alias = "del")]
    Delete(DeleteArgs),
    /// List routes. Those of tunnels are shown by `tunnel list`.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what happens to packets to an address.
    Lookup(LookupArgs),
}

#[derive(Args, Debug)]
#[group(id = "action", required = true, multiple = false,
    args = ["port", "domain", "blackhole", "unreachable", "prohibit"])]
pub(crate) struct AddArgs {
    /// Destination.
    #[arg(value_parser = parse::prefix)]
    prefix: IpNet,
    /// Forward to this port.
    #[arg(long, value_name = "NAME", add = crate::completion::ports())]
    port: Option<String>,
    /// Through this gateway. [default: the destination is directly connected]
    #[arg(long, value_name = "ADDRESS", requires = "port")]
    via: Option<IpAddr>,
    /// On this VLAN of the port.
    #[arg(long, value_name = "ID", requires = "port",
        value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Into this domain, to its way out: the border relay of a 6rd customer edge, the relay of a
    /// 6to4 site.
    #[arg(long, value_name = "NAME", value_parser = parse::tunnel_id,
        add = crate::completion::domains())]
    domain: Option<String>,
    /// Drop silently.
    #[arg(long)]
    blackhole: bool,
    /// Answer: no route.
    #[arg(long)]
    unreachable: bool,
    /// Answer: administratively prohibited.
    #[arg(long)]
    prohibit: bool,
    /// Replace the route if it exists.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    writer: Writer,
}

impl AddArgs {
    fn update(&self) -> RouteUpdate {
        let action = match (&self.port, &self.domain) {
            (Some(port), _) => RouteAction::Forward(NextHop {
                port: port.clone(),
                vlan_id: self.vlan,
                gateway: self.via,
            }),
            (None, Some(domain)) => RouteAction::Domain(domain.clone()),
            (None, None) if self.blackhole => RouteAction::Blackhole,
            (None, None) if self.prohibit => RouteAction::Prohibit,
            (None, None) => RouteAction::Unreachable,
        };
        RouteUpdate::Upsert {
            route: Route {
                destination: self.prefix,
                action,
            },
            mode: if self.replace {
                WriteMode::Upsert
            } else {
                WriteMode::Create
            },
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Destinations.
    #[arg(required = true, value_parser = parse::prefix)]
    prefix: Vec<IpNet>,
    #[command(flatten)]
    writer: Writer,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only API routes of this owner.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only routes of this origin.
    #[arg(long, value_enum)]
    origin: Option<Origin>,
    /// At most this many; 0: all. [default: 1000 for the table, all for JSON]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Origin {
    Api,
    Neighbour,
    Kernel,
}

#[derive(Args, Debug)]
pub(crate) struct LookupArgs {
    /// Destination of the packet.
    address: IpAddr,
}

pub(crate) async fn run(global: &Global, command: RouteCommand) -> Result<(), CliError> {
    match command {
        RouteCommand::Add(args) => write(global, &args.writer, vec![args.update()]).await,
        RouteCommand::Delete(args) => {
            let delete = |destination| RouteUpdate::Delete {
                destination,
                must_exist: true,
            };
            let updates = args.prefix.into_iter().map(delete).collect();
            write(global, &args.writer, updates).await
        }
        RouteCommand::List(args) => list(global, &args).await,
        RouteCommand::Lookup(args) => {
            let client = global.connect().await?;
            let route = client.lookup_route(args.address).await?.into();
            if global.json {
                return output::json(&route);
            }
            output::line(&details(&route))
        }
    }
}

async fn write(
    global: &Global,
    writer: &Writer,
    updates: Vec<RouteUpdate>,
) -> Result<(), CliError> {
    let mut session = global.session(writer).await?;
    let options = ProgramOptions::default();
    let report = session.program_routes(updates, &options, |_| {}).await?;
    written::finish(global, report)
}

async fn list(global: &Global, args: &ListArgs) -> Result<(), CliError> {
    let origin = args.origin.map(|origin| match origin {
        Origin::Api => RouteOrigin::Api,
        Origin::Neighbour => RouteOrigin::Neighbour,
        Origin::Kernel => RouteOrigin::Kernel,
    });
    let limit = match args.limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if global.json => u64::MAX,
        None => 1000,
    };
    let client = global.connect().await?;
    let mut pages = client.routes(args.owner.as_deref(), origin, 1000);
    let mut table = new_table();
    let mut shown = 0;
    let mut more = false;
    let mut separator = "{\"routes\":[";
    while !more {
        let Some(page) = pages.next().await? else {
            break;
        };
        let mut text = String::new();
        for entry in page.items {
            if shown == limit {
                more = true;
                break;
            }
            shown += 1;
            let route = shape::Route::from(entry);
            if global.json {
                let object = serde_json::to_string(&route).map_err(std::io::Error::other)?;
                text.push_str(&format!("{separator}\n{object}"));
                separator = ",";
            } else {
                add_row(&mut table, &route);
            }
        }
        output::write(text.as_bytes())?;
    }
    if global.json {
        let open = if shown == 0 { separator } else { "\n" };
        return output::line(&format!("{open}]}}"));
    }
    if shown == 0 {
        return output::line("no routes");
    }
    output::line(&table.render())?;
    if more {
        output::line(&format!("only the first {shown}; --limit 0 shows all"))?;
    }
    Ok(())
}

fn new_table() -> Table {
    Table::new(&[
        Column::Left("DESTINATION"),
        Column::Left("ACTION"),
        Column::Left("VIA"),
        Column::Left("PORT"),
        Column::Left("STATE"),
        Column::Left("ORIGIN"),
        Column::Left("OWNER"),
    ])
}

fn add_row(table: &mut Table, route: &shape::Route) {
    let dash = || "-".to_owned();
    let hop = route.next_hop.as_ref();
    table.row([
        route.destination.to_string(),
        route.action.to_owned(),
        match (&route.domain_id, hop.and_then(|h| h.gateway)) {
            (Some(domain), _) => domain.clone(),
            (None, gateway) => gateway.map_or_else(dash, |g| g.to_string()),
        },
        hop.map_or_else(dash, port_name),
        hop.map_or_else(dash, |h| h.state.to_owned()),
        route.origin.to_owned(),
        if route.owner.is_empty() {
            dash()
        } else {
            route.owner.clone()
        },
    ]);
}

fn port_name(hop: &shape::NextHop) -> String {
    match hop.vlan_id {
        Some(vlan) => format!("{}.{vlan}", hop.port),
        None => hop.port.clone(),
    }
}

fn details(route: &shape::Route) -> String {
    let mut facts = Facts::default();
    facts
        .add("Destination", route.destination.to_string())
        .add("Action", route.action)
        .add("Origin", route.origin);
    if !route.owner.is_empty() {
        facts.add("Owner", &route.owner);
    }
    if let Some(id) = &route.tunnel_id {
        facts.add("Tunnel", id);
    }
    if let Some(id) = &route.domain_id {
        facts.add("Domain", id);
    }
    if let Some(hop) = &route.next_hop {
        facts.add("Port", port_name(hop));
        let via = hop.gateway.map(|g| g.to_string());
        facts.add(
            "Via",
            via.unwrap_or_else(|| "directly connected".to_owned()),
        );
        let mac = if hop.mac.is_empty() { "" } else { ", " };
        facts.add("Next hop", format!("{}{mac}{}", hop.state, hop.mac));
        facts.add("MTU", hop.mtu.to_string());
    }
    facts.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use sixferry_client::{NextHopState, RouteEntry};

    fn parse_add(line: &str) -> Result<Route, String> {
        let words = ["sixferry", "route", "add"].into_iter();
        let cli =
            Cli::try_parse_from(words.chain(line.split_whitespace())).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Route(RouteCommand::Add(args)) => match args.update() {
                RouteUpdate::Upsert { route, .. } => Ok(route),
                RouteUpdate::Delete { .. } => panic!("a delete"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn entry() -> RouteEntry {
        RouteEntry {
            route: parse_add("2001:db8:5::/48 --port eth0 --vlan 7 --via fe80::1").unwrap(),
            origin: RouteOrigin::Api,
            owner: "cli".into(),
            next_hop_state: NextHopState::Resolved,
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
            generation: 0,
            stale: false,
        }
    }

    #[test]
    fn exactly_one_action() {
        let route = parse_add("192.0.2.0/24 --blackhole").unwrap();
        assert_eq!(route.action, RouteAction::Blackhole);
        let route = parse_add("::/0 --prohibit").unwrap();
        assert_eq!(route.action, RouteAction::Prohibit);
        let route = parse_add("::/0 --domain 6rd-ce").unwrap();
        assert_eq!(route.action, RouteAction::Domain("6rd-ce".to_owned()));
        for (line, expected) in [
            ("::/0", "required"),
            ("::/0 --via fe80::1", "--port"),
            ("::/0 --blackhole --prohibit", "cannot be used with"),
            ("::/0 --port eth0 --blackhole", "cannot be used with"),
            ("::/0 --port eth0 --domain d", "cannot be used with"),
            ("::/0 --port eth0 --vlan 4095", "4095 is not in 1..=4094"),
        ] {
            let error = parse_add(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_shape_of_a_route_is_stable() {
        let text = serde_json::to_string(&shape::Route::from(entry())).unwrap();
        assert_eq!(
            text,
            r#"{"destination":"2001:db8:5::/48","origin":"api","owner":"cli","action":"forward","#
                .to_owned()
                + r#""nextHop":{"port":"eth0","vlanId":7,"gateway":"fe80::1","#
                + r#""mac":"02:00:00:00:00:01","state":"resolved","mtu":1500},"#
                + r#""generation":0,"stale":false}"#
        );
    }

    #[test]
    fn the_table_and_the_details() {
        let route = shape::Route::from(entry());
        let mut table = new_table();
        add_row(&mut table, &route);
        assert_eq!(
            table.render(),
            "\
DESTINATION      ACTION   VIA      PORT    STATE     ORIGIN  OWNER
2001:db8:5::/48  forward  fe80::1  eth0.7  resolved  api     cli
"
        );
        assert_eq!(
            details(&route),
            "\
Destination  2001:db8:5::/48
Action       forward
Origin       api
Owner        cli
Port         eth0.7
Via          fe80::1
Next hop     resolved, 02:00:00:00:00:01
MTU          1500
"
        );
    }
}
