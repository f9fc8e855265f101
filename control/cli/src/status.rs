//! `sixferry status`.

use std::time::Duration;

use serde::Serialize;
use sixferry_client::api;
use sixferry_client::control::api as control;

use crate::args::Global;
use crate::error::CliError;
use crate::json::control::Control;
use crate::json::counters::Report;
use crate::json::port::Port;
use crate::json::system::Info;
use crate::output::{Column, Facts, Table};
use crate::{output, port, units};

/// The answer of the command.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    info: Info,
    ports: Vec<Port>,
    counters: Report,
    /// Absent: no control plane answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<Control>,
}

/// `None` where no control plane answers: many relays have none.
async fn control(global: &Global) -> Option<Control> {
    let client = global.control().await.ok()?;
    let info = client.get_info(control::GetInfoRequest {}).await.ok()?;
    let status = client.get_status(control::GetStatusRequest {}).await.ok()?;
    Some(Control::new(info, status))
}

pub(crate) async fn run(global: &Global) -> Result<(), CliError> {
    let control = control(global).await;
    let client = match global.connect().await {
        Ok(client) => client,
        // Half of the relay is down: what is known is shown before the error says so.
        Err(error) => {
            if let Some(control) = &control {
                if global.json {
                    output::json(&serde_json::json!({ "control": control }))?;
                } else {
                    output::line(&control_text(control))?;
                }
            }
            return Err(error);
        }
    };
    let status = Status {
        info: client.info().await?.into(),
        ports: client.ports().await?.into_iter().map(Into::into).collect(),
        counters: Report::new(
            client.counters(api::CounterSelection::default()).await?,
            false,
        ),
        control,
    };
    if global.json {
        return output::json(&status);
    }
    output::line(&text(&status))
}

fn text(status: &Status) -> String {
    let info = &status.info;
    let uptime = Duration::try_from_secs_f64(info.uptime_seconds).unwrap_or_default();
    let mut facts = Facts::default();
    facts
        .add(
            "Dataplane",
            format!(
                "sixferryd {}, up {}, pid {}",
                info.version,
                units::age(uptime),
                info.pid
            ),
        )
        .add("Configuration", &info.config_path)
        .add(
            "Workers",
            format!("{}, idle policy {}", info.worker_count, info.idle_policy),
        )
        .add("Tunnels", info.tunnel_count.to_string())
        .add("Domains", info.domain_count.to_string())
        .add("API routes", info.route_count.to_string())
        .add(
            "Memory",
            format!(
                "{}, tables {}",
                units::memory(info.resident_bytes),
                units::memory(info.table_bytes)
            ),
        );
    packets(status, &mut facts);
    let mut text = format!("{}\n{}", facts.render(), port::list(&status.ports));
    if let Some(control) = &status.control {
        text.push('\n');
        text.push_str(&control_text(control));
    }
    text
}

/// What became of the packets.
fn packets(status: &Status, facts: &mut Facts) {
    let total = &status.counters.total;
    let traffic = |c: crate::json::PacketsBytes| {
        format!(
            "{} packets, {}",
            units::count(c.packets),
            units::bytes(c.bytes)
        )
    };
    facts
        .add("Received", traffic(total.received))
        .add("Forwarded", traffic(total.forwarded))
        .add("Answered", traffic(total.answered))
        .add("Punted", traffic(total.punted))
        .add("Dropped", traffic(total.dropped()));
    if status.counters.held_packets > 0 {
        let held = format!(
            "{} packets wait for a next hop",
            status.counters.held_packets
        );
        facts.add("Held", held);
    }
    for (name, text) in [
        ("Fragments", fragments(&status.counters)),
        ("Host port", host_port(&status.counters)),
        ("Liveness", liveness(&status.counters)),
    ] {
        if let Some(text) = text {
            facts.add(name, text);
        }
    }
    if total.unaccounted() != 0 {
        let missing = format!("{} packets: please report this", total.unaccounted());
        facts.add("Unaccounted", missing);
    }
}

fn control_text(control: &Control) -> String {
    let uptime = Duration::try_from_secs_f64(control.uptime_seconds).unwrap_or_default();
    let mut facts = Facts::default();
    facts
        .add(
            "Control plane",
            format!(
                "sixferry-control {}, up {}, pid {}",
                control.version,
                units::age(uptime),
                control.pid
            ),
        )
        .add("Configuration", &control.config_path)
        .add("Memory", units::memory(control.resident_bytes));
    for (name, figure) in [
        ("Users", "control_users"),
        ("Tunnels held", "control_tunnels_active"),
        ("Orphaned", "control_tunnels_orphaned"),
        ("DTCP sessions", "dtcp_sessions"),
    ] {
        if let Some(value) = control.figures.get(figure) {
            facts.add(name, value.to_string());
        }
    }
    let mut table = Table::new(&[
        Column::Left("PART"),
        Column::Left("STATE"),
        Column::Right("RESTARTS"),
        Column::Left("LAST TROUBLE"),
    ]);
    for part in &control.parts {
        let message = if part.message.is_empty() {
            "-"
        } else {
            &part.message
        };
        table.row([
            part.name.clone(),
            part.state.to_owned(),
            part.restarts.to_string(),
            message.to_owned(),
        ]);
    }
    format!("{}\n{}", facts.render(), table.render())
}

/// `None`: none came.
fn fragments(counters: &Report) -> Option<String> {
    let of = &counters.reassembly;
    (of.fragments > 0).then(|| {
        format!(
            "{} taken, {} datagrams made of them, {} open",
            units::count(of.fragments),
            units::count(of.reassembled),
            units::count(of.open)
        )
    })
}

/// `None`: there is no host port.
fn host_port(counters: &Report) -> Option<String> {
    counters.host_port.as_ref().map(|of| {
        format!(
            "{} packets to the host, {} from it, {} refused",
            units::count(of.to_host.packets),
            units::count(of.from_host.packets),
            units::count(of.dropped)
        )
    })
}

/// `None`: nobody is watched.
fn liveness(counters: &Report) -> Option<String> {
    let of = &counters.liveness;
    (of.watched > 0).then(|| {
        format!(
            "{} tunnels watched: {} up, {} unreachable, {} unknown",
            units::count(of.watched),
            units::count(of.up),
            units::count(of.unreachable),
            units::count(of.unknown)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let packets = |packets| {
            Some(api::PacketsBytes {
                packets,
                bytes: packets * 100,
            })
        };
        let total = api::WorkerCounters {
            received: packets(50_000),
            forwarded: packets(49_990),
            answered: packets(10),
            ..Default::default()
        };
        let report = api::CounterReport {
            total: Some(total),
            liveness: Some(api::LivenessCounters {
                watched: 3,
                up: 2,
                unreachable: 1,
                ..Default::default()
            }),
            host_port: Some(api::HostPortCounters {
                to_host: packets(12),
                from_host: packets(7),
                dropped: 0,
            }),
            ..Default::default()
        };
        Status {
            info: Info {
                version: "0.1.0".into(),
                uptime_seconds: 7325.5,
                worker_count: 1,
                idle_policy: "poll".into(),
                tunnel_count: 12,
                resident_bytes: 64 * 1024 * 1024,
                table_bytes: 512,
                config_path: "/etc/sixferry/dataplane.toml".into(),
                pid: 4711,
                ..Info::default()
            },
            ports: vec![port::tests::port()],
            counters: Report::new(report, false),
            control: None,
        }
    }

    #[test]
    fn the_text_fits_80_columns() {
        assert_eq!(
            text(&status()),
            "\
Dataplane      sixferryd 0.1.0, up 2 h 2 min, pid 4711
Configuration  /etc/sixferry/dataplane.toml
Workers        1, idle policy poll
Tunnels        12
Domains        0
API routes     0
Memory         64.0 MiB, tables 512 B
Received       50.0k packets, 5.00 MB
Forwarded      50.0k packets, 5.00 MB
Answered       10 packets, 1.00 kB
Punted         0 packets, 0 B
Dropped        0 packets, 0 B
Host port      12 packets to the host, 7 from it, 0 refused
Liveness       3 tunnels watched: 2 up, 1 unreachable, 0 unknown

PORT  STATE  DRIVER  MODE  QUEUES   MTU     RX  TX  LOST
eth0  up     veth    copy       1  1500  1.23M  42     2
"
        );
    }

    #[test]
    fn packets_without_a_fate_are_shown() {
        let mut status = status();
        status.counters.total.answered.packets = 7;
        assert!(text(&status).contains("Unaccounted    3 packets"));
    }

    #[test]
    fn the_shape_is_stable() {
        let value = serde_json::to_value(status()).unwrap();
        assert_eq!(value["info"]["tunnelCount"], 12);
        assert_eq!(value["counters"]["total"]["received"]["packets"], 50_000);
        assert_eq!(value["ports"][0]["name"], "eth0");
    }
}
