//! What the lab asks of the dataplane, over gRPC like any controller.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

use sixferry_client::{Client, ElectionId, Options, Target, Tunnel as NewTunnel, TunnelLink, api};

use super::error::Error;
use super::report::{Count, Daemon, Drop, Port, Tally, Totals, Tunnel};
use super::topology::{DELEGATED, LINK, RELAY_LINK_V6, RELAY_V4};

/// Id of the lab's tunnel.
const TUNNEL: &str = "lab-user";
/// Owner of what the lab programs.
const OWNER: &str = "lab";

pub(super) struct Api {
    client: Client,
    /// Texts of the drop reasons by name.
    texts: HashMap<String, String>,
}

impl Api {
    pub(super) async fn connect(socket: &Path) -> Result<Self, Error> {
        let target = Target::Unix(socket.to_owned());
        let client = Client::connect(&target, &Options::default()).await?;
        let reasons = client.drop_reasons().await?.reasons;
        let texts = reasons
            .into_iter()
            .map(|reason| (reason.name, reason.text))
            .collect();
        Ok(Self { client, texts })
    }

    pub(super) async fn add_tunnel(&self, remote: Ipv4Addr, mtu: u16) -> Result<(), Error> {
        let tunnel = NewTunnel {
            prefixes: vec![DELEGATED],
            link: Some(TunnelLink {
                prefix: LINK,
                address: RELAY_LINK_V6,
            }),
            mtu,
            ..NewTunnel::new(TUNNEL, RELAY_V4, remote)
        };
        let mut session = self.client.open_session(OWNER, ElectionId::now()).await?;
        session.upsert_tunnel(tunnel).await?;
        Ok(())
    }

    pub(super) async fn tunnel(&self) -> Result<Tunnel, Error> {
        let entry = self.client.tunnel(TUNNEL).await?;
        let counters = entry.counters.unwrap_or_default();
        Ok(Tunnel {
            id: entry.tunnel.id,
            received: count(counters.received),
            sent: count(counters.sent),
            drops: self.drops(counters.drops),
        })
    }

    pub(super) async fn totals(&self) -> Result<Totals, Error> {
        let report = self
            .client
            .counters(api::CounterSelection::default())
            .await?;
        let total = report.total.unwrap_or_default();
        let drops = self.drops(total.drops);
        Ok(Totals {
            received: count(total.received),
            injected: count(total.injected),
            forwarded: count(total.forwarded),
            answered: count(total.answered),
            punted: count(total.punted),
            dropped: drops.iter().map(|drop| drop.count).sum(),
            drops,
            punts: total
                .punts
                .into_iter()
                .map(|punt| Tally {
                    name: punt.reason,
                    packets: punt.packets,
                })
                .collect(),
        })
    }

    pub(super) async fn daemon(&self) -> Result<Daemon, Error> {
        let info = self.client.info().await?;
        Ok(Daemon {
            version: info.version,
            kernel: info.kernel,
            workers: info.worker_count,
            idle_policy: info.idle_policy,
            resident_bytes: info.resident_bytes,
        })
    }

    pub(super) async fn ports(&self) -> Result<Vec<Port>, Error> {
        Ok(self.client.ports().await?.into_iter().map(port).collect())
    }

    fn drops(&self, drops: Vec<api::DropCount>) -> Vec<Drop> {
        drops
            .into_iter()
            .map(|drop| Drop {
                text: self.texts.get(&drop.reason).cloned().unwrap_or_default(),
                reason: drop.reason,
                count: count(drop.count),
            })
            .collect()
    }
}

fn port(port: api::Port) -> Port {
    let mode = match port.bind_mode() {
        api::BindMode::ZeroCopy => "zero-copy",
        api::BindMode::Copy => "copy",
        api::BindMode::Generic => "generic",
        api::BindMode::Unspecified => "unknown",
    };
    let counters = port.counters.unwrap_or_default();
    Port {
        name: port.name,
        driver: port.driver,
        mode,
        reason: port.bind_reason,
        queues: port.queue_count,
        received: count(counters.received),
        sent: count(counters.sent),
        lost: counters.rx_dropped + counters.rx_ring_full,
        steering: port
            .steering
            .into_iter()
            .filter(|outcome| outcome.packets > 0)
            .map(|outcome| Tally {
                name: outcome.outcome,
                packets: outcome.packets,
            })
            .collect(),
    }
}

fn count(count: Option<api::PacketsBytes>) -> Count {
    count.map_or_else(Count::default, |count| Count {
        packets: count.packets,
        bytes: count.bytes,
    })
}
