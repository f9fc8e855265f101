//! `sixferry port`.

use clap::{Args, Subcommand};

use crate::args::Global;
use crate::error::CliError;
use crate::json::port::Port;
use crate::output::{Column, Facts, Table};
use crate::{output, units};

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List the ports.
    #[command(visible_alias = "ls")]
    List,
    /// Show one port: addresses, queues, what the XDP program decided.
    Show(ShowArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Interface name.
    #[arg(add = crate::completion::ports())]
    name: String,
}

pub(crate) async fn run(global: &Global, command: PortCommand) -> Result<(), CliError> {
    let client = global.connect().await?;
    match command {
        PortCommand::List => {
            let ports: Vec<Port> = client.ports().await?.into_iter().map(Into::into).collect();
            if global.json {
                return output::json(&serde_json::json!({ "ports": ports }));
            }
            output::line(&list(&ports))
        }
        PortCommand::Show(args) => {
            let mut port = Port::from(client.port(&args.name).await?);
            let queues = client.queues(Some(&args.name)).await?;
            port.queues = queues.into_iter().map(Into::into).collect();
            if global.json {
                return output::json(&port);
            }
            output::line(&details(&port))
        }
    }
}

pub(crate) fn list(ports: &[Port]) -> String {
    if ports.is_empty() {
        return "no ports\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Left("PORT"),
        Column::Left("STATE"),
        Column::Left("DRIVER"),
        Column::Left("MODE"),
        Column::Right("QUEUES"),
        Column::Right("MTU"),
        Column::Right("RX"),
        Column::Right("TX"),
        Column::Right("LOST"),
    ]);
    for port in ports {
        table.row([
            port.name.clone(),
            if port.up { "up" } else { "down" }.to_owned(),
            port.driver.clone(),
            port.bind_mode.to_owned(),
            port.queue_count.to_string(),
            port.mtu.to_string(),
            units::count(port.counters.received.packets),
            units::count(port.counters.sent.packets),
            units::count(port.counters.lost()),
        ]);
    }
    table.render()
}

fn details(port: &Port) -> String {
    let mut facts = Facts::default();
    let mode = if port.bind_reason.is_empty() {
        port.bind_mode.to_owned()
    } else {
        format!("{} ({})", port.bind_mode, port.bind_reason)
    };
    facts
        .add("Port", format!("{} (ifindex {})", port.name, port.ifindex))
        .add("State", if port.up { "up" } else { "down" })
        .add("Driver", &port.driver)
        .add("Mode", mode)
        .add("XDP", &port.xdp_mode)
        .add("MAC", &port.mac)
        .add("MTU", port.mtu.to_string());
    let vlans: Vec<String> = port.vlan_ids.iter().map(ToString::to_string).collect();
    if !vlans.is_empty() {
        facts.add("VLANs", vlans.join(", "));
    }
    for local in &port.local_addresses {
        let vlan = match local.vlan_id {
            0 => String::new(),
            vlan => format!(" (VLAN {vlan})"),
        };
        facts.add(
            "Address",
            format!("{}/{}{vlan}", local.address, local.prefix_length),
        );
    }
    traffic(port, &mut facts);
    let mut text = facts.render();
    if !port.queues.is_empty() {
        text.push('\n');
        text.push_str(&queues(port));
    }
    if !port.steering.is_empty() {
        let mut table = Table::new(&[Column::Left("XDP PROGRAM"), Column::Right("PACKETS")]);
        for outcome in &port.steering {
            table.row([outcome.outcome.clone(), outcome.packets.to_string()]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

fn traffic(port: &Port, facts: &mut Facts) {
    let c = &port.counters;
    let sum =
        |c: crate::json::PacketsBytes| format!("{} packets, {}", c.packets, units::bytes(c.bytes));
    facts
        .add("Received", sum(c.received))
        .add("Sent", sum(c.sent))
        .add(
            "Lost",
            format!(
                "{} no room in the rx ring, {} dropped by the kernel, {} refused on tx",
                c.rx_ring_full, c.rx_dropped, c.tx_invalid
            ),
        )
        .add(
            "Rings",
            format!(
                "fill ring empty {}, tx ring full {}, tx system calls {}",
                c.rx_fill_ring_empty, c.tx_ring_full, c.tx_kicks
            ),
        );
}

fn queues(port: &Port) -> String {
    let mut table = Table::new(&[
        Column::Right("QUEUE"),
        Column::Right("WORKER"),
        Column::Left("MODE"),
        Column::Right("RX"),
        Column::Right("TX"),
        Column::Right("LOST"),
    ]);
    for queue in &port.queues {
        table.row([
            queue.queue_id.to_string(),
            queue.worker.to_string(),
            queue.bind_mode.to_owned(),
            units::count(queue.counters.received.packets),
            units::count(queue.counters.sent.packets),
            units::count(queue.counters.lost()),
        ]);
    }
    table.render()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sixferry_client::api;

    pub(crate) fn port() -> Port {
        let counters = Some(api::QueueCounters {
            received: Some(api::PacketsBytes {
                packets: 1_234_567,
                bytes: 98_000_000,
            }),
            sent: Some(api::PacketsBytes {
                packets: 42,
                bytes: 4200,
            }),
            rx_ring_full: 2,
            tx_kicks: 9,
            ..Default::default()
        });
        let mut port = Port::from(api::Port {
            name: "eth0".into(),
            ifindex: 2,
            driver: "veth".into(),
            bind_mode: api::BindMode::Copy.into(),
            bind_reason: "veth has no zero-copy".into(),
            xdp_mode: "native".into(),
            queue_count: 1,
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            vlan_ids: vec![7, 8],
            local_addresses: vec![api::LocalAddress {
                address: vec![198, 51, 100, 1],
                prefix_length: 24,
                vlan_id: 7,
            }],
            steering: vec![api::SteeringCounter {
                outcome: "redirect_proto41".into(),
                packets: 1_234_567,
            }],
            counters,
            ..Default::default()
        });
        port.queues = vec![
            api::Queue {
                port: "eth0".into(),
                bind_mode: api::BindMode::Copy.into(),
                counters,
                ..Default::default()
            }
            .into(),
        ];
        port
    }

    #[test]
    fn the_list_fits_80_columns() {
        assert_eq!(
            list(&[port()]),
            "\
PORT  STATE  DRIVER  MODE  QUEUES   MTU     RX  TX  LOST
eth0  up     veth    copy       1  1500  1.23M  42     2
"
        );
        assert_eq!(list(&[]), "no ports\n");
    }

    #[test]
    fn details_have_queues_and_steering() {
        assert_eq!(
            details(&port()),
            "\
Port      eth0 (ifindex 2)
State     up
Driver    veth
Mode      copy (veth has no zero-copy)
XDP       native
MAC       02:00:00:00:00:01
MTU       1500
VLANs     7, 8
Address   198.51.100.1/24 (VLAN 7)
Received  1234567 packets, 98.0 MB
Sent      42 packets, 4.20 kB
Lost      2 no room in the rx ring, 0 dropped by the kernel, 0 refused on tx
Rings     fill ring empty 0, tx ring full 0, tx system calls 9

QUEUE  WORKER  MODE     RX  TX  LOST
    0       0  copy  1.23M  42     2

XDP PROGRAM       PACKETS
redirect_proto41  1234567
"
        );
    }

    #[test]
    fn the_shape_of_a_port_is_stable() {
        let value = serde_json::to_value(port()).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            keys,
            [
                "bindMode",
                "bindReason",
                "counters",
                "driver",
                "ifindex",
                "localAddresses",
                "mac",
                "mtu",
                "name",
                "portId",
                "queueCount",
                "queues",
                "steering",
                "up",
                "vlanIds",
                "xdpMode"
            ]
        );
        assert_eq!(value["counters"]["rxRingFull"], 2);
        assert_eq!(value["localAddresses"][0]["address"], "198.51.100.1");
    }
}
