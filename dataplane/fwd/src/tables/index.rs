//! Which tunnel a received IPv4 packet belongs to.
//!
//! Protocol 41 is matched by both addresses. UDP is matched by our address and port where one tunnel
//! has the port to itself; where several share it, by the peer's address and port as well. Then the
//! 6to4 and 6rd domains, by our address.

use super::error::TableError;
use super::live::Endpoint;
use super::outer::{self, OuterTable};
use super::spec::{EncapKind, Rebind, TunnelSpec, UdpEncap};
use crate::id::TunnelId;
use hashbrown::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Marks a value of the port table as the number of a group of tunnels that share the port.
const GROUP: u32 = 1 << 31;
/// Most different shared ports: the group is 16 bits of a key.
const MAX_GROUPS: usize = 1 << 16;

/// What our UDP address and port lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UdpMatch {
    /// One tunnel.
    Tunnel(u32),
    /// Several: the peer decides.
    Group(u16),
}

/// The part that the packet path reads.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    proto41: OuterTable,
    udp_ports: OuterTable,
    udp_peers: OuterTable,
    /// Local address and domain, sorted.
    domains: Arc<Vec<(u32, TunnelId)>>,
    /// Our address and a peer's, of UDP tunnels: any tunnel of the two.
    udp_hosts: OuterTable,
    /// Our addresses that have UDP tunnels whose peers may move, sorted.
    moving: Arc<Vec<u32>>,
}

/// Key of our address and port in the port table.
#[inline]
pub(crate) const fn port_key(local: [u8; 4], port: u16) -> u64 {
    (u32::from_be_bytes(local) as u64) << 32 | port as u64
}

#[inline]
const fn peer_key(group: u16, peer: Endpoint) -> u64 {
    (group as u64) << 48 | (u32::from_be_bytes(peer.address) as u64) << 16 | peer.port as u64
}

impl Index {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            proto41: OuterTable::new(seed),
            udp_ports: OuterTable::new(seed.rotate_left(21)),
            udp_peers: OuterTable::new(seed.rotate_left(42)),
            domains: Arc::new(Vec::new()),
            udp_hosts: OuterTable::new(seed.rotate_left(11)),
            moving: Arc::new(Vec::new()),
        }
    }

    /// Starts fetching what [`Index::tunnel41_at`] reads, and says where that is.
    #[inline]
    pub(crate) fn prefetch41(&self, key: u64) -> u32 {
        self.proto41.prefetch(key)
    }

    /// Starts fetching what [`Index::udp_at`] reads, and says where that is.
    #[inline]
    pub(crate) fn prefetch_udp(&self, key: u64) -> u32 {
        self.udp_ports.prefetch(key)
    }

    /// The configured tunnel of two outer addresses.
    #[inline]
    pub(crate) fn tunnel41(&self, key: u64) -> Option<u32> {
        self.proto41.lookup(key)
    }

    /// [`Index::tunnel41`] where [`Index::prefetch41`] has said.
    #[inline]
    pub(crate) fn tunnel41_at(&self, home: u32, key: u64) -> Option<u32> {
        self.proto41.lookup_at(home, key)
    }

    /// The domain at one of our addresses.
    #[inline]
    pub(crate) fn domain(&self, local: u32) -> Option<TunnelId> {
        // a handful at most, and none on most relays
        let at = self
            .domains
            .binary_search_by_key(&local, |(l, _)| *l)
            .ok()?;
        self.domains.get(at).map(|(_, id)| *id)
    }

    /// What is at our address and UDP port.
    #[inline]
    pub(crate) fn udp(&self, key: u64) -> Option<UdpMatch> {
        Self::udp_match(self.udp_ports.lookup(key)?)
    }

    /// [`Index::udp`] where [`Index::prefetch_udp`] has said.
    #[inline]
    pub(crate) fn udp_at(&self, home: u32, key: u64) -> Option<UdpMatch> {
        Self::udp_match(self.udp_ports.lookup_at(home, key)?)
    }

    #[inline]
    fn udp_match(value: u32) -> Option<UdpMatch> {
        Some(match u16::try_from(value & !GROUP) {
            Ok(group) if value & GROUP != 0 => UdpMatch::Group(group),
            _ => UdpMatch::Tunnel(value),
        })
    }

    /// Whether several tunnels share our address and port.
    pub(crate) fn shares_port(&self, key: u64) -> bool {
        matches!(self.udp(key), Some(UdpMatch::Group(_)))
    }

    /// The tunnel of a group that has this peer.
    #[inline]
    pub(crate) fn peer(&self, group: u16, peer: Endpoint) -> Option<u32> {
        self.udp_peers.lookup(peer_key(group, peer))
    }

    /// A UDP tunnel between these two addresses, whatever its ports: later fragments have none.
    pub(crate) fn udp_host(&self, key: u64) -> Option<u32> {
        self.udp_hosts.lookup(key)
    }

    /// Whether peers of UDP tunnels at this address of ours may move.
    pub(crate) fn peers_move(&self, local: u32) -> bool {
        self.moving.binary_search(&local).is_ok()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.proto41.bytes()
            + self.udp_ports.bytes()
            + self.udp_peers.bytes()
            + self.udp_hosts.bytes()
    }
}

/// Tunnels that share one of our ports.
#[derive(Clone, Copy, Debug)]
struct Group {
    number: u16,
    tunnels: u32,
}

/// The index and what is needed to change it.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    index: Index,
    groups: HashMap<u64, Group>,
    free_groups: Vec<u16>,
    next_group: usize,
    /// Further tunnels of two addresses that `udp_hosts` knows.
    crowded: HashMap<u64, Vec<u32>>,
    /// UDP tunnels at an address of ours whose peers may move.
    moving: HashMap<u32, usize>,
}

impl IndexBuilder {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            index: Index::new(seed),
            groups: HashMap::new(),
            free_groups: Vec::new(),
            next_group: 0,
            crowded: HashMap::new(),
            moving: HashMap::new(),
        }
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }

    /// Who stands in the way of a tunnel's key.
    pub(crate) fn check(
        &self,
        spec: &TunnelSpec,
        own: Option<(TunnelId, &TunnelSpec)>,
    ) -> Result<(), TableError> {
        let own_id = own.map(|(id, _)| id);
        let taken = |by: Option<u32>| by.map(TunnelId).filter(|by| Some(*by) != own_id);
        let (local, remote) = (spec.local, spec.remote);
        let udp = match spec.encap {
            EncapKind::SixInFour => {
                let key = outer::key(local.octets(), remote.octets());
                return match taken(self.index.proto41.lookup(key)) {
                    Some(by) => Err(TableError::OuterInUse { local, remote, by }),
                    None => Ok(()),
                };
            }
            EncapKind::Udp(udp) => udp,
        };
        let port = udp.local_port;
        let in_use = |by| Err(TableError::PortInUse { local, port, by });
        let key = port_key(local.octets(), port);
        let no_group_left = self.free_groups.is_empty() && self.next_group >= MAX_GROUPS;
        if udp.shared && no_group_left && !self.groups.contains_key(&key) {
            return Err(TableError::TooManySharedPorts);
        }
        match self.index.udp(key) {
            Some(UdpMatch::Tunnel(by)) => taken(Some(by)).map_or(Ok(()), |by| in_use(Some(by))),
            Some(UdpMatch::Group(group)) if udp.shared => {
                let peer = Endpoint {
                    address: remote.octets(),
                    port: udp.remote_port,
                };
                match taken(self.index.peer(group, peer)) {
                    Some(by) => Err(TableError::OuterInUse { local, remote, by }),
                    None => Ok(()),
                }
            }
            // a port to itself, where others share one: the last of them may have it
            Some(UdpMatch::Group(_)) => {
                let alone = self.groups.get(&key).is_some_and(|g| g.tunnels == 1);
                let member = own.is_some_and(|(_, old)| is_member(old, local, port));
                if alone && member {
                    Ok(())
                } else {
                    in_use(None)
                }
            }
            None => Ok(()),
        }
    }

    /// Adds a tunnel's key, which [`IndexBuilder::check`] let pass.
    pub(crate) fn insert(&mut self, spec: &TunnelSpec, id: TunnelId) {
        let local = spec.local.octets();
        let udp = match spec.encap {
            EncapKind::SixInFour => {
                let key = outer::key(local, spec.remote.octets());
                return self.index.proto41.insert(key, id.0);
            }
            EncapKind::Udp(udp) => udp,
        };
        let key = port_key(local, udp.local_port);
        self.add_host(outer::key(local, spec.remote.octets()), id.0);
        if udp.rebind != Rebind::Deny {
            self.add_moving(spec.local.into());
        }
        if !udp.shared {
            return self.index.udp_ports.insert(key, id.0);
        }
        let number = match self.groups.get_mut(&key) {
            Some(group) => {
                group.tunnels += 1;
                group.number
            }
            None => {
                let number = self.free_groups.pop().unwrap_or_else(|| {
                    self.next_group += 1;
                    u16::try_from(self.next_group - 1).unwrap_or(u16::MAX)
                });
                self.groups.insert(key, Group { number, tunnels: 1 });
                self.index.udp_ports.insert(key, GROUP | u32::from(number));
                number
            }
        };
        let peer = Endpoint {
            address: spec.remote.octets(),
            port: udp.remote_port,
        };
        self.index.udp_peers.insert(peer_key(number, peer), id.0);
    }

    /// Takes a tunnel's key out.
    pub(crate) fn remove(&mut self, spec: &TunnelSpec, id: TunnelId) {
        let local = spec.local.octets();
        let udp = match spec.encap {
            EncapKind::SixInFour => {
                let key = outer::key(local, spec.remote.octets());
                _ = self.index.proto41.remove(key);
                return;
            }
            EncapKind::Udp(udp) => udp,
        };
        self.remove_host(outer::key(local, spec.remote.octets()), id.0);
        if udp.rebind != Rebind::Deny {
            self.remove_moving(spec.local.into());
        }
        let key = port_key(local, udp.local_port);
        if !udp.shared {
            _ = self.index.udp_ports.remove(key);
            return;
        }
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        let peer = Endpoint {
            address: spec.remote.octets(),
            port: udp.remote_port,
        };
        _ = self.index.udp_peers.remove(peer_key(group.number, peer));
        group.tunnels -= 1;
        if group.tunnels == 0 {
            self.free_groups.push(group.number);
            self.groups.remove(&key);
            _ = self.index.udp_ports.remove(key);
        }
    }

    fn add_moving(&mut self, local: u32) {
        let count = self.moving.entry(local).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.publish_moving();
        }
    }

    fn remove_moving(&mut self, local: u32) {
        let Some(count) = self.moving.get_mut(&local) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.moving.remove(&local);
            self.publish_moving();
        }
    }

    fn publish_moving(&mut self) {
        let mut locals: Vec<u32> = self.moving.keys().copied().collect();
        locals.sort_unstable();
        self.index.moving = Arc::new(locals);
    }

    fn add_host(&mut self, key: u64, id: u32) {
        if self.index.udp_hosts.lookup(key).is_some() {
            self.crowded.entry(key).or_default().push(id);
        } else {
            self.index.udp_hosts.insert(key, id);
        }
    }

    fn remove_host(&mut self, key: u64, id: u32) {
        let Some(others) = self.crowded.get_mut(&key) else {
            _ = self.index.udp_hosts.remove(key);
            return;
        };
        if self.index.udp_hosts.lookup(key) != Some(id) {
            others.retain(|other| *other != id);
        } else if let Some(next) = others.pop() {
            _ = self.index.udp_hosts.remove(key);
            self.index.udp_hosts.insert(key, next);
        }
        if others.is_empty() {
            self.crowded.remove(&key);
        }
    }

    /// Replaces the addresses that domains work at.
    pub(crate) fn set_domains(&mut self, mut domains: Vec<(u32, TunnelId)>) {
        domains.sort_unstable_by_key(|(local, _)| *local);
        self.index.domains = Arc::new(domains);
    }

    /// Our addresses and ports that UDP tunnels use.
    pub(crate) fn udp_endpoints(&self) -> impl Iterator<Item = (Ipv4Addr, u16)> + '_ {
        self.index.udp_ports.keys().map(|key| {
            let port = u16::try_from(key & 0xffff).unwrap_or(0);
            let local = u32::try_from(key >> 32).unwrap_or(0);
            (Ipv4Addr::from(local), port)
        })
    }
}

/// Whether a tunnel shares this port of ours.
fn is_member(spec: &TunnelSpec, local: Ipv4Addr, port: u16) -> bool {
    let shares = |udp: UdpEncap| udp.shared && udp.local_port == port;
    spec.local == local && matches!(spec.encap, EncapKind::Udp(udp) if shares(udp))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn spec(port: u16, peer: u16, shared: bool) -> TunnelSpec {
        let mut spec = TunnelSpec::new(LOCAL, Ipv4Addr::new(192, 0, 2, 1));
        spec.encap = EncapKind::Udp(UdpEncap {
            local_port: port,
            remote_port: peer,
            shared,
            rebind: Rebind::Deny,
        });
        spec
    }

    fn peer(port: u16) -> Endpoint {
        Endpoint {
            address: [192, 0, 2, 1],
            port,
        }
    }

    #[test]
    fn a_port_belongs_to_one_tunnel_or_to_a_group() {
        let mut index = IndexBuilder::new(7);
        let key = |port| port_key(LOCAL.octets(), port);
        index.insert(&spec(4028, 1, false), TunnelId(1));
        assert_eq!(index.index().udp(key(4028)), Some(UdpMatch::Tunnel(1)));
        assert!(index.check(&spec(4028, 2, false), None).is_err());
        assert!(index.check(&spec(4028, 2, true), None).is_err());
        assert!(
            index
                .check(
                    &spec(4028, 2, false),
                    Some((TunnelId(1), &spec(4028, 1, false)))
                )
                .is_ok()
        );

        for (id, port) in [(2, 100), (3, 200)] {
            assert!(index.check(&spec(5000, port, true), None).is_ok());
            index.insert(&spec(5000, port, true), TunnelId(id));
        }
        assert!(index.check(&spec(5000, 100, true), None).is_err());
        assert!(index.check(&spec(5000, 300, false), None).is_err());
        let Some(UdpMatch::Group(group)) = index.index().udp(key(5000)) else {
            panic!("no group");
        };
        assert_eq!(index.index().peer(group, peer(100)), Some(2));
        assert_eq!(index.index().peer(group, peer(200)), Some(3));
        assert_eq!(index.index().peer(group, peer(300)), None);

        index.remove(&spec(5000, 100, true), TunnelId(2));
        assert_eq!(index.index().peer(group, peer(100)), None);
        assert!(index.index().udp(key(5000)).is_some());
        // the last member may have the port, nobody else
        let last = spec(5000, 200, true);
        let alone = spec(5000, 200, false);
        assert!(index.check(&alone, Some((TunnelId(3), &last))).is_ok());
        let other = spec(4028, 1, false);
        assert!(index.check(&alone, Some((TunnelId(1), &other))).is_err());
        index.remove(&spec(5000, 200, true), TunnelId(3));
        assert_eq!(index.index().udp(key(5000)), None);
        assert!(index.check(&spec(5000, 300, false), None).is_ok());
        assert_eq!(index.udp_endpoints().collect::<Vec<_>>(), [(LOCAL, 4028)]);
        let hosts = outer::key(LOCAL.octets(), [192, 0, 2, 1]);
        assert_eq!(index.index().udp_host(hosts), Some(1));
        index.remove(&spec(4028, 1, false), TunnelId(1));
        assert_eq!(index.index().udp_host(hosts), None);
    }
}
