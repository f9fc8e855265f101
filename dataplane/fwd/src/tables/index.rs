//! Which tunnel a received IPv4 packet belongs to.
//!
//! Protocol 41 is matched by both addresses. UDP is matched by our address and port where one tunnel
//! has the port to itself; where several share it, by the peer's address and port as well. Then the
//! 6to4 and 6rd domains, by our address.

use super::error::TableError;
use super::live::Endpoint;
use super::outer::{self, OuterTable};
use super::spec::{EncapKind, TunnelSpec};
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
    /// Local addresses of UDP tunnels, sorted.
    udp_locals: Arc<Vec<u32>>,
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
            udp_locals: Arc::new(Vec::new()),
        }
    }

    /// Starts fetching what a lookup of this protocol 41 packet reads.
    #[inline]
    pub(crate) fn prefetch41(&self, key: u64) {
        self.proto41.prefetch(key);
    }

    /// Starts fetching what a lookup of this UDP packet reads.
    #[inline]
    pub(crate) fn prefetch_udp(&self, key: u64) {
        self.udp_ports.prefetch(key);
    }

    /// The configured tunnel of two outer addresses.
    #[inline]
    pub(crate) fn tunnel41(&self, key: u64) -> Option<u32> {
        self.proto41.lookup(key)
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
        let value = self.udp_ports.lookup(key)?;
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

    /// Whether any UDP tunnel ends at this address of ours.
    pub(crate) fn has_udp(&self, local: u32) -> bool {
        self.udp_locals.binary_search(&local).is_ok()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.proto41.bytes() + self.udp_ports.bytes() + self.udp_peers.bytes()
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
    udp_locals: HashMap<u32, u32>,
}

impl IndexBuilder {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            index: Index::new(seed),
            groups: HashMap::new(),
            free_groups: Vec::new(),
            next_group: 0,
            udp_locals: HashMap::new(),
        }
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }

    /// Who stands in the way of a tunnel's key.
    pub(crate) fn check(&self, spec: &TunnelSpec, own: Option<TunnelId>) -> Result<(), TableError> {
        let taken = |by: Option<u32>| by.map(TunnelId).filter(|by| Some(*by) != own);
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
        match self.index.udp(port_key(local.octets(), port)) {
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
            // a port to itself, where others share one: it may be the last of them that changes
            Some(UdpMatch::Group(_)) => {
                let key = port_key(local.octets(), port);
                let alone = self.groups.get(&key).is_some_and(|g| g.tunnels == 1);
                if alone && own.is_some() {
                    Ok(())
                } else {
                    in_use(None)
                }
            }
            None if udp.shared && self.free_groups.is_empty() && self.next_group >= MAX_GROUPS => {
                Err(TableError::TooManySharedPorts)
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
        let count = self.udp_locals.entry(u32::from(spec.local)).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.publish_udp_locals();
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
    pub(crate) fn remove(&mut self, spec: &TunnelSpec) {
        let local = spec.local.octets();
        let udp = match spec.encap {
            EncapKind::SixInFour => {
                let key = outer::key(local, spec.remote.octets());
                _ = self.index.proto41.remove(key);
                return;
            }
            EncapKind::Udp(udp) => udp,
        };
        let address = u32::from(spec.local);
        if let Some(count) = self.udp_locals.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.udp_locals.remove(&address);
                self.publish_udp_locals();
            }
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

    fn publish_udp_locals(&mut self) {
        let mut locals: Vec<u32> = self.udp_locals.keys().copied().collect();
        locals.sort_unstable();
        self.index.udp_locals = Arc::new(locals);
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

#[cfg(test)]
mod tests {
    use super::super::spec::{Rebind, UdpEncap};
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
                .check(&spec(4028, 2, false), Some(TunnelId(1)))
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

        index.remove(&spec(5000, 100, true));
        assert_eq!(index.index().peer(group, peer(100)), None);
        assert!(index.index().udp(key(5000)).is_some());
        index.remove(&spec(5000, 200, true));
        assert_eq!(index.index().udp(key(5000)), None);
        assert!(index.check(&spec(5000, 300, false), None).is_ok());
        assert_eq!(index.udp_endpoints().collect::<Vec<_>>(), [(LOCAL, 4028)]);
        assert!(index.index().has_udp(u32::from(LOCAL)));
        index.remove(&spec(4028, 1, false));
        assert!(!index.index().has_udp(u32::from(LOCAL)));
    }
}
