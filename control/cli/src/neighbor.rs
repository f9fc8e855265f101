//! `sixferry neighbor`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde::Serialize;
use sixferry_client::{self as client, NeighbourState};

use crate::args::Global;
use crate::error::CliError;
use crate::output::{self, Column, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum NeighborCommand {
    /// List neighbours, as mirrored from the kernel.
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only on this port.
    #[arg(long, value_name = "NAME", add = crate::completion::ports())]
    port: Option<String>,
    /// Only those that next hops of routes point to.
    #[arg(long)]
    used: bool,
}

/// A neighbour as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Neighbour {
    address: IpAddr,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan_id: Option<u16>,
    state: &'static str,
    managed: bool,
    used_by_next_hop: bool,
}

/// The answer of the command.
#[derive(Serialize)]
struct Listed {
    neighbours: Vec<Neighbour>,
}

impl From<client::Neighbour> for Neighbour {
    fn from(neighbour: client::Neighbour) -> Self {
        Self {
            address: neighbour.address,
            mac: client::format_mac(&neighbour.mac),
            port: neighbour.port,
            vlan_id: neighbour.vlan_id,
            state: match neighbour.state {
                NeighbourState::Unspecified => "unknown",
                NeighbourState::Incomplete => "incomplete",
                NeighbourState::Reachable => "reachable",
                NeighbourState::Stale => "stale",
                NeighbourState::Delay => "delay",
                NeighbourState::Probe => "probe",
                NeighbourState::Failed => "failed",
                NeighbourState::Permanent => "permanent",
                NeighbourState::Noarp => "noarp",
            },
            managed: neighbour.managed,
            used_by_next_hop: neighbour.used,
        }
    }
}

pub(crate) async fn run(global: &Global, command: NeighborCommand) -> Result<(), CliError> {
    let NeighborCommand::List(args) = command;
    let client = global.connect().await?;
    let mut pages = client.neighbours(args.port.as_deref(), 1000);
    // The dataplane mirrors at most 65,536.
    let mut neighbours = Vec::new();
    while let Some(page) = pages.next().await? {
        let wanted = page.items.into_iter().filter(|n| n.used || !args.used);
        neighbours.extend(wanted.map(Neighbour::from));
    }
    if global.json {
        return output::json(&Listed { neighbours });
    }
    output::line(&table(&neighbours))
}

fn table(neighbours: &[Neighbour]) -> String {
    if neighbours.is_empty() {
        return "no neighbours\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Left("ADDRESS"),
        Column::Left("MAC"),
        Column::Left("PORT"),
        Column::Left("STATE"),
        Column::Left("USED"),
        Column::Left("KEPT BY"),
    ]);
    for neighbour in neighbours {
        table.row([
            neighbour.address.to_string(),
            if neighbour.mac.is_empty() {
                "-".to_owned()
            } else {
                neighbour.mac.clone()
            },
            match neighbour.vlan_id {
                Some(vlan) => format!("{}.{vlan}", neighbour.port),
                None => neighbour.port.clone(),
            },
            neighbour.state.to_owned(),
            if neighbour.used_by_next_hop {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            if neighbour.managed { "relay" } else { "-" }.to_owned(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours() -> Vec<Neighbour> {
        let known = client::Neighbour {
            address: "198.51.100.254".parse().unwrap(),
            mac: vec![2, 0, 0, 0, 0, 1],
            port: "eth0".into(),
            vlan_id: Some(7),
            state: NeighbourState::Reachable,
            managed: true,
            used: true,
        };
        let asked = client::Neighbour {
            address: "fe80::1".parse().unwrap(),
            mac: Vec::new(),
            vlan_id: None,
            state: NeighbourState::Incomplete,
            managed: false,
            used: false,
            ..known.clone()
        };
        vec![known.into(), asked.into()]
    }

    #[test]
    fn the_table_fits_80_columns() {
        assert_eq!(
            table(&neighbours()),
            "\
ADDRESS         MAC                PORT    STATE       USED  KEPT BY
198.51.100.254  02:00:00:00:00:01  eth0.7  reachable   yes   relay
fe80::1         -                  eth0    incomplete  no    -
"
        );
        assert_eq!(table(&[]), "no neighbours\n");
    }

    #[test]
    fn the_shape_of_a_neighbour_is_stable() {
        assert_eq!(
            serde_json::to_string(&neighbours()).unwrap(),
            r#"[{"address":"198.51.100.254","mac":"02:00:00:00:00:01","port":"eth0","vlanId":7,"#
                .to_owned()
                + r#""state":"reachable","managed":true,"usedByNextHop":true},"#
                + r#"{"address":"fe80::1","port":"eth0","state":"incomplete","#
                + r#""managed":false,"usedByNextHop":false}]"#
        );
    }
}
