//! Where the netlink mirror's news go: the tables, the ports' state, the steering programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sixferry_engine::{Publisher, Readers};
use sixferry_fwd::{
    Ipv6Prefix, NextHop, NextHopId, PortConfig, PortId, PortKind, Route, RouteSource, Tables,
};
use sixferry_xsk::{AddressUse, Covering, SteerConfig};
use tokio::sync::watch;

use crate::control::Control;
use crate::control::shared::{Gateway, News, Publish, Shared, Steered};
use crate::events::EventBus;
use crate::live::What;
use crate::netlink::{HostAddresses, Mirror, MirrorSink, Prefix, TableSink};
use crate::runtime::Runtime;

/// Longest a publication waits for a worker to take the new tables: one that does not turn for so
/// long is stuck, and the watchdog's business.
const ADOPTION: Duration = Duration::from_secs(1);
const PIN_TRIES: usize = 20;
const PIN_PAUSE: Duration = Duration::from_millis(10);

/// The tables as the mirror writes them, with a note of what changed about ports.
struct MirroredTables<'a> {
    control: &'a mut Control,
    ports: Vec<(PortId, PortConfig)>,
}

impl TableSink for MirroredTables<'_> {
    fn set_port(&mut self, port: PortId, config: PortConfig) {
        self.ports.push((port, config.clone()));
        self.control.set_port(port, Some(config));
    }

    fn remove_port(&mut self, port: PortId) {
        self.control.set_port(port, None);
    }

    fn add_next_hop(&mut self, next_hop: NextHop) -> NextHopId {
        self.control.builder_mut().add_next_hop(next_hop)
    }

    fn set_next_hop(&mut self, id: NextHopId, next_hop: NextHop) {
        self.control.builder_mut().set_next_hop(id, next_hop);
    }

    fn remove_next_hop(&mut self, id: NextHopId) {
        self.control.builder_mut().remove_next_hop(id);
    }

    fn set_route(&mut self, prefix: Prefix, source: RouteSource, route: Route) {
        self.control.set_mirrored(prefix, source, route);
    }

    fn remove_route(&mut self, prefix: Prefix, source: RouteSource) {
        self.control.remove_mirrored(prefix, source);
    }
}

/// What every steering program must know, whoever found it out.
#[derive(Debug, Default)]
struct Wanted {
    steered: Steered,
    hosts: BTreeSet<Ipv6Addr>,
    hosts_v4: BTreeSet<Ipv4Addr>,
}

impl Wanted {
    /// Fragments after the first carry no port: on an address the host has itself they could be
    /// anybody's, and stay the kernel's.
    fn addresses(&self) -> BTreeMap<Ipv4Addr, AddressUse> {
        let (proto41, udp) = (&self.steered.proto41, &self.steered.udp);
        let all = proto41.iter().chain(udp.iter().map(|(address, _)| address));
        let of = |address: &Ipv4Addr| AddressUse {
            proto41: proto41.contains(address),
            dedicated: !self.hosts_v4.contains(address),
        };
        all.map(|address| (*address, of(address))).collect()
    }
}

/// The steering programs of all ports.
#[derive(Debug)]
pub(crate) struct Steerers {
    runtime: Arc<Runtime>,
    wanted: Mutex<Wanted>,
}

impl Steerers {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            wanted: Mutex::default(),
        }
    }

    fn change(&self, edit: impl FnOnce(&mut Wanted)) {
        // Held while applying, so that two changes cannot overtake each other.
        let mut wanted = self.wanted.lock();
        edit(&mut wanted);
        let covering: BTreeSet<Covering> = wanted
            .steered
            .covering
            .iter()
            .filter_map(|p| Covering::new(p.address(), p.len()))
            .collect();
        let addresses = wanted.addresses();
        for port in &self.runtime.ports {
            let link = port.link.read().clone();
            let config = SteerConfig {
                mac: link.mac,
                tunnel_addresses: addresses.clone(),
                udp_ports: wanted.steered.udp.clone(),
                host_addresses: wanted.hosts.clone(),
                covering: covering.clone(),
                vlans: link.vlans.iter().copied().collect(),
            };
            if let Err(error) = port.steering.lock().apply(&config) {
                tracing::error!(
                    port = port.name,
                    "steering: {}",
                    sixferry_service::chain(&error)
                );
            }
        }
    }
}

/// See the module.
pub(crate) struct Sink {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) steerers: Arc<Steerers>,
    pub(crate) bus: Arc<EventBus>,
}

impl MirrorSink for Sink {
    fn with_tables(&self, edit: &mut dyn FnMut(&mut dyn TableSink)) {
        let ports = self.shared.with(|control| {
            let before = control.change();
            let mut tables = MirroredTables {
                control,
                ports: Vec::new(),
            };
            edit(&mut tables);
            let ports = tables.ports;
            if control.change() != before {
                control.refresh_hops();
            }
            ports
        });
        if ports.is_empty() {
            return;
        }
        for (id, config) in ports {
            let Some(port) = self.runtime.ports.iter().find(|port| port.id == id) else {
                continue;
            };
            let mut link = port.link.write();
            if let PortKind::Ethernet { mac } = config.kind {
                link.mac = mac;
            }
            link.ethernet = matches!(config.kind, PortKind::Ethernet { .. });
            link.mtu = config.mtu.into();
            link.vlans = config.vlans;
            if std::mem::replace(&mut link.up, config.up) != config.up {
                let name = port.name.as_str().into();
                let up = config.up;
                self.bus.publish(None, What::Port { port: name, up });
            }
        }
        self.steerers.change(|_| {});
    }

    fn host_addresses(&self, addresses: &HostAddresses) {
        let v4 = addresses.v4.iter().copied().map(IpAddr::from);
        let v6 = addresses.v6.iter().copied().map(IpAddr::from);
        *self.runtime.hosts.write() = v4.chain(v6).collect();
        self.steerers.change(|wanted| {
            wanted.hosts.clone_from(&addresses.v6);
            wanted.hosts_v4.clone_from(&addresses.v4);
        });
        let broadcasts = addresses.v4_broadcast.iter().copied();
        self.shared
            .with(|control| control.builder_mut().set_broadcasts(broadcasts));
    }
}

/// Hands finished tables to the workers, then to the steering programs: no packet is steered to a
/// worker that does not know what to do with it.
pub(crate) struct Target {
    pub(crate) publisher: Arc<Mutex<Publisher>>,
    pub(crate) steerers: Arc<Steerers>,
    pub(crate) mirror: Arc<Mirror>,
    /// Where the host port's routes learn of the tunnels' prefixes.
    pub(crate) prefixes: Option<watch::Sender<BTreeSet<Ipv6Prefix>>>,
}

impl Publish for Target {
    fn publish(&self, tables: Arc<Tables>, news: News<'_>) {
        let (generation, readers): (u64, Readers) = {
            let mut publisher = self.publisher.lock();
            (publisher.store(tables), publisher.readers())
        };
        if !readers.wait_adopted(generation, ADOPTION) {
            tracing::warn!(generation, "a worker does not take the new tables");
        }
        self.publisher.lock().collect();
        if let Some(steered) = news.steered {
            self.steerers
                .change(|wanted| wanted.steered.clone_from(steered));
            if let Some(prefixes) = &self.prefixes {
                prefixes.send_replace(steered.covering.iter().copied().collect());
            }
        }
        if let Some(gateways) = news.gateways {
            self.pin(gateways);
        }
    }
}

impl Target {
    /// The keeper is busy only while thousands of neighbours are asked for at once.
    fn pin(&self, gateways: &[Gateway]) {
        for _ in 0..PIN_TRIES {
            if self.mirror.pin(gateways) {
                return;
            }
            std::thread::sleep(PIN_PAUSE);
        }
        tracing::warn!("gateways of API routes are not kept resolved: too many requests");
    }
}

/// Without ports there is nobody to tell.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Publish for Nobody {
    fn publish(&self, _tables: Arc<Tables>, _news: News<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_dedicated_unless_the_host_has_it() {
        let [shared, own, udp] = [1, 2, 3].map(|last| Ipv4Addr::new(198, 51, 100, last));
        let wanted = Wanted {
            steered: Steered {
                proto41: [shared, own].into(),
                udp: [(shared, 4028), (udp, 4028), (udp, 4029)].into(),
                ..Steered::default()
            },
            hosts_v4: [shared].into(),
            ..Wanted::default()
        };
        let seen: Vec<_> = wanted
            .addresses()
            .into_iter()
            .map(|(address, of)| (address, of.proto41, of.dedicated))
            .collect();
        assert_eq!(
            seen,
            [(shared, true, false), (own, true, true), (udp, false, true)]
        );
    }
}
