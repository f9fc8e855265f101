//! Tables with one tunnel, or a million: what the benches look packets up in.

use crate::frame::{Flow, INSIDE_MAC, OUTSIDE_MAC, RELAY_MAC};
use crate::rng::Rng;
use sixferry_fwd::{
    EncapKind, IpId, Ipv4Prefix, Ipv6Prefix, Local, LocalConfig, NextHop, NextHopState, PortConfig,
    PortId, PortKind, Rebind, Route, RouteSource, Settings, TableError, Tables, TablesBuilder,
    TunnelSpec, UdpEncap, WorkerCounters,
};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The IPv4 side.
pub const OUTSIDE: PortId = PortId(0);
/// The native IPv6 side.
pub const INSIDE: PortId = PortId(1);
/// Our end of every tunnel (RFC 2544 addresses).
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// An address on the native side (RFC 5180 addresses).
pub const NATIVE: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 2);

/// Address of the first tunnel's peer.
pub const FIRST_PEER: u32 = 0x0a40_0000;

/// How the tunnels' /48s lie in the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One after the other, as an operator hands them out of a pool.
    Contiguous,
    /// In random places of 24,000 random /32s, like the global routing table.
    Scattered,
}

/// A prefix that leads into a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// The tunnel's peer.
    pub peer: u32,
    /// The prefix.
    pub prefix: Ipv6Prefix,
}

/// Whose packets there may be.
#[derive(Clone, Debug)]
pub struct Destinations {
    list: Vec<Destination>,
    udp: Option<[u16; 2]>,
}

impl Destinations {
    /// Tunnels of 6in4.
    #[must_use]
    pub const fn new(list: Vec<Destination>) -> Self {
        Self { list, udp: None }
    }

    /// Each that a packet may pick.
    #[must_use]
    pub fn list(&self) -> &[Destination] {
        &self.list
    }

    /// Ports of the peers and of the relay, if the tunnels are in UDP.
    #[must_use]
    pub const fn udp_ports(&self) -> Option<[u16; 2]> {
        self.udp
    }

    /// A packet out of a random tunnel.
    pub fn decap(&self, rng: &mut Rng, inner_len: usize) -> Flow {
        let Destination { peer, prefix } = self.any(rng);
        Flow {
            outer: Some((peer.to_be_bytes(), LOCAL.octets())),
            src: prefix.bits() | 0x1_0000_0000_0001,
            dst: u128::from(NATIVE),
            inner_len,
        }
    }

    fn any(&self, rng: &mut Rng) -> Destination {
        self.list[rng.below(self.list.len())]
    }

    /// A native packet to a random tunnel.
    pub fn encap(&self, rng: &mut Rng, inner_len: usize) -> Flow {
        let prefix = self.any(rng).prefix;
        Flow {
            outer: None,
            src: u128::from(NATIVE),
            dst: prefix.bits() | 0x1_0000_0000_0001,
            inner_len,
        }
    }
}

/// Tunnels and the prefixes that lead into them.
#[derive(Debug)]
pub struct Population {
    tables: Arc<Tables>,
    destinations: Destinations,
    bytes: usize,
}

impl Population {
    /// Tables with `count` tunnels.
    ///
    /// # Errors
    /// What the tables refuse.
    pub fn tunnels(count: u32, layout: Layout) -> Result<Self, TableError> {
        Self::of_workers(count, layout, 1)
    }

    /// [`Population::tunnels`], with counters for several workers.
    ///
    /// # Errors
    /// What the tables refuse.
    pub fn of_workers(count: u32, layout: Layout, workers: usize) -> Result<Self, TableError> {
        let (builder, destinations) = programmed(count, layout, workers)?;
        Ok(Self::new(builder, Destinations::new(destinations)))
    }

    /// One tunnel in UDP.
    ///
    /// # Errors
    /// What the tables refuse.
    pub fn udp() -> Result<Self, TableError> {
        const PORTS: [u16; 2] = [40_000, 3_544];
        let mut builder = relay(1);
        let [remote_port, local_port] = PORTS;
        let encap = EncapKind::Udp(UdpEncap {
            local_port,
            remote_port,
            shared: false,
            rebind: Rebind::Deny,
        });
        let (peer, prefix) = (FIRST_PEER, prefixes(1, Layout::Contiguous)[0]);
        builder.insert_tunnel(&spec(peer, &[prefix], encap))?;
        let destinations = Destinations {
            list: vec![Destination { peer, prefix }],
            udp: Some(PORTS),
        };
        Ok(Self::new(builder, destinations))
    }

    /// A table of `count` prefixes of all usual lengths, spread over 1000 tunnels.
    ///
    /// # Errors
    /// What the tables refuse.
    pub fn routes(count: usize) -> Result<Self, TableError> {
        const TUNNELS: u32 = 1000;
        let mut builder = relay(1);
        let peers: Vec<u32> = (FIRST_PEER..).take(TUNNELS as usize).collect();
        let mut ids = Vec::new();
        for peer in &peers {
            ids.push(builder.insert_tunnel(&spec(*peer, &[], EncapKind::SixInFour))?);
        }
        let mut destinations = Vec::new();
        for (at, prefix) in route_prefixes(count).enumerate() {
            let at = at % ids.len();
            builder.set_route6(prefix, RouteSource::Api, Route::Tunnel(ids[at]));
            let peer = peers[at];
            destinations.push(Destination { peer, prefix });
        }
        Ok(Self::new(builder, Destinations::new(destinations)))
    }

    fn new(mut builder: TablesBuilder, destinations: Destinations) -> Self {
        let tables = builder.snapshot();
        let bytes = builder.memory();
        Self {
            tables,
            destinations,
            bytes,
        }
    }

    /// The tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Bytes of all tables.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose packets there may be.
    #[must_use]
    pub const fn destinations(&self) -> &Destinations {
        &self.destinations
    }
}

/// A worker's private state for the benches.
#[must_use]
pub fn local() -> Local {
    local_of(0, 1)
}

/// The private state of one of several workers.
#[must_use]
pub fn local_of(worker: usize, workers: usize) -> Local {
    Local::new(LocalConfig {
        worker,
        workers,
        seed: 1,
        ip_id: IpId::Counter,
        shared: Arc::new(WorkerCounters::new()),
        dry_run: false,
    })
}

/// A relay with two ports, a default route each way and no tunnel.
fn relay(workers: usize) -> TablesBuilder {
    let mut builder = TablesBuilder::new(Settings::default(), workers);
    let mut hop = |port: PortId, dst_mac| {
        builder.set_port(
            port,
            PortConfig {
                kind: PortKind::Ethernet { mac: RELAY_MAC },
                mtu: 1500,
                vlans: vec![],
                up: true,
            },
        );
        Route::NextHop(builder.add_next_hop(NextHop {
            port,
            vlan: None,
            vlan_service_tag: false,
            src_mac: RELAY_MAC,
            mtu: 1500,
            state: NextHopState::Resolved { dst_mac },
        }))
    };
    let outside = hop(OUTSIDE, OUTSIDE_MAC);
    let inside = hop(INSIDE, INSIDE_MAC);
    builder.set_route4(Ipv4Prefix::all(), RouteSource::Kernel, outside);
    builder.set_route6(Ipv6Prefix::all(), RouteSource::Kernel, inside);
    builder
}

/// A relay with `count` tunnels of 6in4, a /48 each, for as many workers.
///
/// # Errors
/// What the tables refuse.
pub fn programmed(
    count: u32,
    layout: Layout,
    workers: usize,
) -> Result<(TablesBuilder, Vec<Destination>), TableError> {
    let mut builder = relay(workers);
    let mut destinations = Vec::new();
    for (peer, prefix) in (FIRST_PEER..).zip(prefixes(count, layout)) {
        builder.insert_tunnel(&spec(peer, &[prefix], EncapKind::SixInFour))?;
        destinations.push(Destination { peer, prefix });
    }
    Ok((builder, destinations))
}

/// A tunnel to a peer.
#[must_use]
pub fn spec(peer: u32, prefixes: &[Ipv6Prefix], encap: EncapKind) -> TunnelSpec {
    let mut spec = TunnelSpec::new(LOCAL, Ipv4Addr::from(peer));
    spec.mtu = 1480;
    spec.encap = encap;
    spec.prefixes = prefixes.to_vec();
    spec
}

fn prefixes(count: u32, layout: Layout) -> Vec<Ipv6Prefix> {
    match layout {
        Layout::Contiguous => (0..count)
            .map(|i| 0x2a00_u128 << 112 | u128::from(i) << 80)
            .map(|bits| Ipv6Prefix::containing(Ipv6Addr::from(bits), 48))
            .collect(),
        Layout::Scattered => {
            let mut rng = Rng::new(0x5ca7_7e4d);
            let mut seen = HashSet::new();
            std::iter::repeat_with(|| Ipv6Prefix::containing(scattered(&mut rng), 48))
                .filter(|prefix| seen.insert(*prefix))
                .take(count as usize)
                .collect()
        }
    }
}

/// An address in one of 24,000 /32s spread over 2000::/3, the rest random.
fn scattered(rng: &mut Rng) -> Ipv6Addr {
    let allocation = (rng.below(24_000) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 35;
    let top = 0x2000_0000 | allocation & 0x1fff_ffff;
    Ipv6Addr::from(u128::from(top) << 96 | u128::from(rng.bits() & 0xffff_ffff) << 64)
}

/// `count` different prefixes of all usual lengths, in random places.
pub fn route_prefixes(count: usize) -> impl Iterator<Item = Ipv6Prefix> {
    let mut rng = Rng::new(0x5ca7_7e4d);
    let mut seen = HashSet::new();
    std::iter::repeat_with(move || {
        let len = route_len(&mut rng);
        Ipv6Prefix::containing(scattered(&mut rng), len)
    })
    .filter(move |prefix| seen.insert(*prefix))
    .take(count)
}

/// Prefix lengths in about the shares of the global table.
fn route_len(rng: &mut Rng) -> u8 {
    const SHARES: [(u8, usize); 10] = [
        (48, 45),
        (32, 12),
        (44, 10),
        (40, 9),
        (36, 7),
        (29, 4),
        (46, 4),
        (47, 3),
        (45, 3),
        (42, 3),
    ];
    let mut at = rng.below(100);
    for (len, share) in SHARES {
        if at < share {
            return len;
        }
        at -= share;
    }
    48
}
