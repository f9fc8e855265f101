//! What the lab asks of the dataplane, over gRPC like any controller.

use std::collections::HashMap;
use std::path::Path;

use sixferry_client::{
    Client, Domain, ElectionId, Encap, Mechanism, Options, Rebind, SixRd, SixRdRole, SixToFour,
    SixToFourRole, Target, Tunnel as NewTunnel, TunnelLink, UdpEncap, api,
};

use super::error::Error;
use super::report::{Count, Daemon, Drop, Port, Tally, Totals, Tunnel};
use super::topology::{
    DELEGATED, Kind, LINK, RELAY_LINK_V6, SIX_RD_COMMON, SIX_RD_PREFIX, Topology, UDP_PORT,
};

/// Id of the lab's tunnel or domain.
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

    /// Programs what carries the user's packets.
    pub(super) async fn add_user(&self, topology: &Topology, mtu: u16) -> Result<(), Error> {
        let mut session = self.client.open_session(OWNER, ElectionId::now()).await?;
        match mechanism(topology) {
            Some(mechanism) => {
                let domain = Domain {
                    mtu,
                    ..Domain::new(TUNNEL, topology.relay_v4(), mechanism)
                };
                session.upsert_domain(domain).await?;
            }
            None => {
                session.upsert_tunnel(tunnel(topology, mtu)).await?;
            }
        }
        Ok(())
    }

    /// How many tunnels there are, whoever programmed them.
    pub(super) async fn tunnel_count(&self) -> Result<u64, Error> {
        Ok(self.client.info().await?.tunnel_count)
    }

    /// The tunnel or domain of the user; `id` is that of a tunnel the control plane made.
    pub(super) async fn tunnel(&self, kind: Kind, id: Option<&str>) -> Result<Tunnel, Error> {
        let id = id.unwrap_or(TUNNEL);
        let (counters, endpoint) = if kind.has_link() {
            let entry = self.client.tunnel(id).await?;
            let endpoint = entry.endpoint.filter(|_| kind == Kind::Udp);
            (entry.counters, endpoint.map(|e| e.to_string()))
        } else {
            (self.client.domain(id).await?.counters, None)
        };
        let counters = counters.unwrap_or_default();
        Ok(Tunnel {
            id: id.to_owned(),
            endpoint,
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

/// `None`: the user has a tunnel of his own.
fn mechanism(topology: &Topology) -> Option<Mechanism> {
    match topology.kind() {
        Kind::SixInFour | Kind::Udp => None,
        Kind::SixToFour => Some(Mechanism::SixToFour(SixToFour {
            role: SixToFourRole::Relay { anycast: false },
            peer_v4_length: 0,
        })),
        Kind::SixRd => Some(Mechanism::SixRd(SixRd {
            prefix: SIX_RD_PREFIX,
            v4_common: SIX_RD_COMMON,
            role: SixRdRole::Br { anycast: false },
        })),
    }
}

fn tunnel(topology: &Topology, mtu: u16) -> NewTunnel {
    let plain = match topology.kind() {
        Kind::Udp => NewTunnel {
            // Nobody knows where the NAT will show the user: his first packet tells.
            encap: Encap::Udp(UdpEncap {
                rebind: Rebind::InnerSource,
                ..UdpEncap::new(UDP_PORT)
            }),
            ..NewTunnel::udp(TUNNEL, topology.relay_v4(), UDP_PORT)
        },
        _ => NewTunnel::new(TUNNEL, topology.relay_v4(), topology.user_v4()),
    };
    NewTunnel {
        prefixes: vec![DELEGATED],
        link: Some(TunnelLink {
            prefix: LINK,
            address: RELAY_LINK_V6,
        }),
        mtu,
        ..plain
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
