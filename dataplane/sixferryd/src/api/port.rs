//! PortService.

use std::net::IpAddr;

use sixferry_engine::PortQueueStats;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::port_service_server::PortService;
use sixferry_xsk::{BindMode, Rung};
use tonic::{Request, Response, Status};

use super::Api;
use crate::control::error::Error;
use crate::convert::ip_bytes;
use crate::runtime::PortView;

#[tonic::async_trait]
impl PortService for Api {
    async fn list_ports(
        &self,
        _request: Request<pb::ListPortsRequest>,
    ) -> Result<Response<pb::ListPortsResponse>, Status> {
        Ok(Response::new(pb::ListPortsResponse {
            dataplane_instance_id: self.instance(),
            ports: self
                .runtime
                .ports
                .iter()
                .map(|port| self.port_message(port))
                .collect(),
        }))
    }

    async fn get_port(
        &self,
        request: Request<pb::GetPortRequest>,
    ) -> Result<Response<pb::GetPortResponse>, Status> {
        let port = self.port_named(&request.into_inner().name)?;
        Ok(Response::new(pb::GetPortResponse {
            dataplane_instance_id: self.instance(),
            port: Some(self.port_message(port)),
        }))
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let name = request.into_inner().port;
        let ports: Vec<&PortView> = if name.is_empty() {
            self.runtime.ports.iter().collect()
        } else {
            vec![self.port_named(&name)?]
        };
        let queues = ports.into_iter().flat_map(|port| {
            self.runtime
                .queues(port.id)
                .map(|(queue, stats)| pb::Queue {
                    port: port.name.clone(),
                    queue_id: queue,
                    worker: queue,
                    bind_mode: bind_mode(port).into(),
                    bind_reason: port.bind_reason(),
                    counters: Some(queue_counters(&stats)),
                })
        });
        Ok(Response::new(pb::ListQueuesResponse {
            dataplane_instance_id: self.instance(),
            queues: queues.collect(),
        }))
    }
}

impl Api {
    fn port_named(&self, name: &str) -> Result<&PortView, Error> {
        self.runtime
            .port(name)
            .ok_or_else(|| Error::PortNotFound(name.to_owned()))
    }

    fn local_addresses(&self, port: &PortView) -> Vec<pb::LocalAddress> {
        let hosts = self.runtime.hosts.read().clone();
        self.shared.with(|control| {
            let on_port = |address: &IpAddr| {
                let (id, vlan, length) = control.connected(*address)?;
                (id == port.id).then(|| pb::LocalAddress {
                    address: ip_bytes(*address),
                    prefix_length: length.into(),
                    vlan_id: vlan.into(),
                })
            };
            hosts.iter().filter_map(on_port).collect()
        })
    }

    fn port_message(&self, port: &PortView) -> pb::Port {
        let link = port.link.read().clone();
        let local_addresses = self.local_addresses(port);
        // Without its counters the port is still worth showing.
        let steering = port.steering.lock().counters().map_or_else(
            |_| Vec::new(),
            |counters| {
                counters
                    .iter()
                    .map(|(outcome, packets)| pb::SteeringCounter {
                        outcome: outcome.name().to_owned(),
                        packets,
                    })
                    .collect()
            },
        );
        pb::Port {
            name: port.name.clone(),
            port_id: port.id.0.into(),
            ifindex: port.ifindex,
            driver: port.driver.clone(),
            bind_mode: bind_mode(port).into(),
            bind_reason: port.bind_reason(),
            xdp_mode: port.xdp_mode().to_owned(),
            queue_count: port.queue_count,
            mac: link.mac.to_vec(),
            mtu: link.mtu,
            up: link.up,
            vlan_ids: link.vlans.into_iter().map(u32::from).collect(),
            local_addresses,
            steering,
            counters: Some(queue_counters(&total(
                self.runtime.queues(port.id).map(|(_, s)| s),
            ))),
        }
    }
}

fn bind_mode(port: &PortView) -> pb::BindMode {
    match (port.report.rung, port.report.mode) {
        (Rung::Generic, _) => pb::BindMode::Generic,
        (_, BindMode::ZeroCopy) => pb::BindMode::ZeroCopy,
        (_, BindMode::Copy) => pb::BindMode::Copy,
    }
}

fn total(all: impl Iterator<Item = PortQueueStats>) -> PortQueueStats {
    all.fold(PortQueueStats::default(), |a, b| PortQueueStats {
        rx_packets: a.rx_packets + b.rx_packets,
        rx_bytes: a.rx_bytes + b.rx_bytes,
        tx_packets: a.tx_packets + b.tx_packets,
        tx_bytes: a.tx_bytes + b.tx_bytes,
        rx_dropped: a.rx_dropped + b.rx_dropped,
        rx_ring_full: a.rx_ring_full + b.rx_ring_full,
        rx_fill_empty: a.rx_fill_empty + b.rx_fill_empty,
        rx_invalid: a.rx_invalid + b.rx_invalid,
        tx_invalid: a.tx_invalid + b.tx_invalid,
        tx_ring_full: a.tx_ring_full + b.tx_ring_full,
        tx_errors: a.tx_errors + b.tx_errors,
        tx_kicks: a.tx_kicks + b.tx_kicks,
        rx_kicks: a.rx_kicks + b.rx_kicks,
    })
}

fn queue_counters(stats: &PortQueueStats) -> pb::QueueCounters {
    let pair = |packets, bytes| Some(pb::PacketsBytes { packets, bytes });
    pb::QueueCounters {
        received: pair(stats.rx_packets, stats.rx_bytes),
        sent: pair(stats.tx_packets, stats.tx_bytes),
        rx_dropped: stats.rx_dropped,
        rx_ring_full: stats.rx_ring_full,
        rx_fill_ring_empty: stats.rx_fill_empty,
        tx_ring_full: stats.tx_ring_full,
        tx_kicks: stats.tx_kicks,
        tx_invalid: stats.tx_invalid,
        rx_invalid: stats.rx_invalid,
        tx_errors: stats.tx_errors,
    }
}
