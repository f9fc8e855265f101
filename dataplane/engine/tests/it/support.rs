//! A relay with one tunnel: port 0 is the IPv4 side, port 1 the IPv6 side.

use std::net::{Ipv4Addr, Ipv6Addr};

use sixferry_engine::{Engine, EngineConfig, FramePool, MemLink, MemPort, PortSet, Worker};
use sixferry_fwd::{
    Ipv6Prefix, NextHop, NextHopId, NextHopState, PortConfig, PortId, PortKind, Route, RouteSource,
    Settings, TablesBuilder, TunnelId, TunnelSpec,
};
use sixferry_wire::{ether, ipv4, ipv6};

pub(crate) const V4_PORT: PortId = PortId(0);
pub(crate) const V6_PORT: PortId = PortId(1);
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Behind the tunnel.
pub(crate) const USER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
/// Beyond the gateway of the IPv6 side.
pub(crate) const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x9999, 0, 0, 0, 0, 1);
/// Beyond a gateway that is not resolved.
pub(crate) const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 1);
/// On the IPv6 side's own link, not resolved.
pub(crate) const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x300, 0, 0, 0, 0, 5);
pub(crate) const RELAY_MAC: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x10], [2, 0, 0, 0, 0, 0x11]];
pub(crate) const GATEWAY_MAC: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x20], [2, 0, 0, 0, 0, 0x21]];

/// The control side's tables, and what they are about.
pub(crate) struct Control {
    pub(crate) tables: TablesBuilder,
    pub(crate) tunnel: TunnelId,
    pub(crate) far_hop: NextHopId,
}

pub(crate) fn tunnel_to(remote: Ipv4Addr) -> TunnelSpec {
    let mut spec = TunnelSpec::new(LOCAL, remote);
    spec.prefixes = vec!["2001:db8:100::/48".parse().unwrap()];
    spec
}

fn hop(side: usize, state: NextHopState) -> NextHop {
    NextHop {
        port: PortId(side as u8),
        vlan: None,
        vlan_service_tag: false,
        src_mac: RELAY_MAC[side],
        mtu: 1500,
        state,
    }
}

pub(crate) fn control(workers: usize) -> Control {
    let settings = Settings {
        router_address: "2001:db8:ffff::1".parse().unwrap(),
        ..Settings::default()
    };
    let mut tables = TablesBuilder::new(settings, workers);
    for side in [V4_PORT, V6_PORT] {
        let kind = PortKind::Ethernet {
            mac: RELAY_MAC[side.index()],
        };
        tables.set_port(
            side,
            PortConfig {
                kind,
                mtu: 1500,
                vlans: vec![],
                up: true,
            },
        );
    }
    let resolved = |side| {
        hop(
            side,
            NextHopState::Resolved {
                dst_mac: GATEWAY_MAC[side],
            },
        )
    };
    let v4_hop = tables.add_next_hop(resolved(0));
    let v6_hop = tables.add_next_hop(resolved(1));
    let unresolved = NextHopState::Unresolved {
        gateway: "fe80::1".parse().unwrap(),
    };
    let far_hop = tables.add_next_hop(hop(1, unresolved));
    let kernel = RouteSource::Kernel;
    tables.set_route4("0.0.0.0/0".parse().unwrap(), kernel, Route::NextHop(v4_hop));
    tables.set_route6("::/0".parse().unwrap(), kernel, Route::NextHop(v6_hop));
    let far = "2001:db8:200::/48".parse().unwrap();
    tables.set_route6(far, kernel, Route::NextHop(far_hop));
    let on_link = tables.add_next_hop(hop(1, NextHopState::OnLink));
    let link = "2001:db8:300::/64".parse().unwrap();
    tables.set_route6(link, kernel, Route::NextHop(on_link));
    let tunnel = tables.insert_tunnel(&tunnel_to(REMOTE)).unwrap();
    Control {
        tables,
        tunnel,
        far_hop,
    }
}

impl Control {
    /// The kernel found the neighbour's hardware address: it becomes a host route.
    pub(crate) fn resolve_neighbour(&mut self) {
        let state = NextHopState::Resolved {
            dst_mac: GATEWAY_MAC[1],
        };
        let resolved = self.tables.add_next_hop(hop(1, state));
        let host = Ipv6Prefix::new(NEIGHBOUR, 128).unwrap();
        self.tables
            .set_route6(host, RouteSource::Neighbour, Route::NextHop(resolved));
    }

    /// The kernel found the far gateway's hardware address.
    pub(crate) fn resolve_far(&mut self) {
        let state = NextHopState::Resolved {
            dst_mac: GATEWAY_MAC[1],
        };
        self.tables.set_next_hop(self.far_hop, hop(1, state));
    }
}

/// Sizes of one worker's world.
pub(crate) struct Sizes {
    pub(crate) frames: usize,
    pub(crate) rx: usize,
    pub(crate) tx: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frames: 256,
            rx: 128,
            tx: 128,
        }
    }
}

/// One worker over two ports in memory.
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) engine: Engine,
    pub(crate) worker: Worker<MemPort>,
    pub(crate) v4: MemLink,
    pub(crate) v6: MemLink,
}

pub(crate) fn world(sizes: &Sizes) -> World {
    world_with(sizes, &EngineConfig::new(1, 7))
}

pub(crate) fn world_with(sizes: &Sizes, config: &EngineConfig) -> World {
    let mut control = control(1);
    let mut engine = Engine::new(config, control.tables.snapshot()).unwrap();
    let (v4_port, v4) = MemPort::pair(sizes.rx, sizes.tx);
    let (v6_port, v6) = MemPort::pair(sizes.rx, sizes.tx);
    let ports = ports([v4_port, v6_port]);
    let worker = engine
        .seats
        .remove(0)
        .worker(ports, FramePool::heap(sizes.frames));
    World {
        control,
        engine,
        worker,
        v4,
        v6,
    }
}

pub(crate) fn ports<P: std::fmt::Debug>(both: [P; 2]) -> PortSet<P> {
    let mut ports = PortSet::new();
    for (id, port) in [V4_PORT, V6_PORT].into_iter().zip(both) {
        ports.insert(id, port).unwrap();
    }
    ports
}

/// An IPv6 packet with no upper layer and that many bytes of payload.
pub(crate) fn inner(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, payload: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; ipv6::HEADER_LEN + payload];
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 59, hop_limit]);
    packet[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    packet[8..24].copy_from_slice(&src.octets());
    packet[24..40].copy_from_slice(&dst.octets());
    packet
}

/// An Ethernet frame from the gateway of `side` to the relay.
pub(crate) fn frame(side: PortId, packet: &[u8]) -> Vec<u8> {
    let mut header = [0; ether::HEADER_LEN];
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    ether::emit(
        &mut header,
        RELAY_MAC[side.index()],
        GATEWAY_MAC[side.index()],
        kind,
    );
    [&header[..], packet].concat()
}

/// `packet` in the tunnel from `remote`, as the relay receives it.
pub(crate) fn tunnelled(remote: Ipv4Addr, packet: &[u8]) -> Vec<u8> {
    let mut outer = [0; ipv4::HEADER_LEN];
    outer[0] = 0x45;
    outer[2..4].copy_from_slice(&((ipv4::HEADER_LEN + packet.len()) as u16).to_be_bytes());
    outer[8] = 64;
    outer[9] = 41;
    outer[12..16].copy_from_slice(&remote.octets());
    outer[16..20].copy_from_slice(&LOCAL.octets());
    let checksum = sixferry_wire::checksum::finish(sixferry_wire::checksum::sum(&outer));
    outer[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame(V4_PORT, &[&outer[..], packet].concat())
}

/// A good packet out of the tunnel, for the IPv6 side.
pub(crate) fn from_user(payload: usize) -> Vec<u8> {
    tunnelled(REMOTE, &inner(USER, HOST, 64, payload))
}

/// A good packet from the IPv6 side, for the tunnel.
pub(crate) fn to_user(payload: usize) -> Vec<u8> {
    frame(V6_PORT, &inner(HOST, USER, 64, payload))
}
