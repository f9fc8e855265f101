//! The maps of the steering program: what each frame is judged by, changed entry by entry.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};

use crate::attach::{load_program, require_bpf, xdp_program};
use crate::error::{Operation, SetupError};
use crate::steer::{
    AddressUse, Covering, Near, Outcome, SteerConfig, SteerCounters, address_flags, udp_key,
};

/// The steering program's name in the kernel, by which a second daemon is recognised.
pub(crate) const STEER_PROGRAM: &str = "sixferry_steer";
/// `MAX_QUEUES` of `bpf/steer.h`; the loader makes more room where a NIC has more.
const MIN_QUEUE_SLOTS: u32 = 64;

static STEER_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The steering program of one port with its maps, loaded but not necessarily attached.
///
/// Changes take effect entry by entry, in an order that never takes a packet from the host: its
/// addresses are added before the prefixes around them, and removed after. The near tables, which are asked
/// first, follow what has been added, and go before what is removed.
pub struct SteerTables {
    interface: String,
    ebpf: Ebpf,
    /// What the maps hold now.
    applied: SteerConfig,
    near: Near,
    port: Array<MapData, [u8; 8]>,
    tunnel_addresses: HashMap<MapData, [u8; 4], u32>,
    udp_ports: HashMap<MapData, [u8; 8], u8>,
    host_addresses: HashMap<MapData, [u8; 16], u8>,
    covering: LpmTrie<MapData, [u8; 16], u8>,
    vlans: Array<MapData, u8>,
    outcomes: PerCpuArray<MapData, u64>,
    near_addresses: Array<MapData, [u8; 8]>,
    near_covering: Array<MapData, u64>,
    sockets: XskMap<MapData>,
}

impl SteerTables {
    pub(crate) fn load(interface: &str, queues: u32) -> Result<Self, SetupError> {
        require_bpf(interface)?;
        let fail =
            |error: aya::EbpfError| SetupError::new(interface, Operation::LoadProgram, error);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("xsks", queues.max(MIN_QUEUE_SLOTS))
            .load(STEER_OBJECT)
            .map_err(fail)?;
        load_program(&mut ebpf, STEER_PROGRAM).map_err(fail)?;
        Self::new(interface, ebpf).map_err(|error| fail(error.into()))
    }

    fn new(interface: &str, mut ebpf: Ebpf) -> Result<Self, MapError> {
        let from = &mut ebpf;
        Ok(Self {
            interface: interface.to_owned(),
            applied: SteerConfig::default(),
            near: Near::default(),
            port: take(from, "port")?,
            tunnel_addresses: take(from, "tunnel_addrs")?,
            udp_ports: take(from, "udp_ports")?,
            host_addresses: take(from, "host_addrs")?,
            covering: take(from, "covering")?,
            vlans: take(from, "vlans")?,
            outcomes: take(from, "outcomes")?,
            near_addresses: take(from, "near_addrs")?,
            near_covering: take(from, "near_covering")?,
            sockets: take(from, "xsks")?,
            ebpf,
        })
    }

    /// What the program steers by now.
    pub fn config(&self) -> &SteerConfig {
        &self.applied
    }

    /// Makes the program steer by `wanted`, changing only what differs.
    ///
    /// # Errors
    /// A table over its limit changes nothing. An error of the kernel may leave part of the
    /// change done; [`SteerTables::config`] tells which, and a repeated call completes it.
    pub fn apply(&mut self, wanted: &SteerConfig) -> Result<(), SetupError> {
        self.check_limits(wanted)?;
        for addr in missing(&wanted.host_addresses, &self.applied.host_addresses) {
            self.put_host_address(addr)?;
        }
        self.near_follows()?;
        for vid in missing(&wanted.vlans, &self.applied.vlans) {
            self.put_vlan(vid, true)?;
        }
        self.set_mac(wanted.mac)?;
        for (addr, used) in &wanted.tunnel_addresses {
            self.put_tunnel_address(*addr, *used)?;
        }
        for (addr, port) in missing(&wanted.udp_ports, &self.applied.udp_ports) {
            self.put_udp_port(addr, port)?;
        }
        for prefix in missing(&wanted.covering, &self.applied.covering) {
            self.put_covering(prefix)?;
        }
        self.remove_surplus(wanted)
    }

    fn remove_surplus(&mut self, wanted: &SteerConfig) -> Result<(), SetupError> {
        self.set_near(Near::of(wanted))?;
        for prefix in missing(&self.applied.covering, &wanted.covering) {
            self.remove_covering(prefix)?;
        }
        for (addr, port) in missing(&self.applied.udp_ports, &wanted.udp_ports) {
            self.remove_udp_port(addr, port)?;
        }
        let addresses: Vec<Ipv4Addr> = self.applied.tunnel_addresses.keys().copied().collect();
        for addr in addresses {
            if !wanted.tunnel_addresses.contains_key(&addr) {
                self.remove_tunnel_address(addr)?;
            }
        }
        for vid in missing(&self.applied.vlans, &wanted.vlans) {
            self.put_vlan(vid, false)?;
        }
        for addr in missing(&self.applied.host_addresses, &wanted.host_addresses) {
            self.remove_host_address(addr)?;
        }
        Ok(())
    }

    /// Sets the port's own MAC address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), SetupError> {
        if self.applied.mac != mac {
            let [a, b, c, d, e, f] = mac;
            let result = self.port.set(0, [a, b, c, d, e, f, 0, 0], 0);
            self.done(result)?;
            self.applied.mac = mac;
        }
        Ok(())
    }

    /// Adds a tunnel address, or changes what it is used for.
    ///
    /// # Errors
    /// [`SetupError::TableFull`], or the kernel's.
    pub fn add_tunnel_address(
        &mut self,
        addr: Ipv4Addr,
        used: AddressUse,
    ) -> Result<(), SetupError> {
        let count = self.applied.tunnel_addresses.len();
        let new = !self.applied.tunnel_addresses.contains_key(&addr);
        let limit = SteerConfig::MAX_TUNNEL_ADDRESSES;
        self.check_room("tunnel addresses", limit, count + usize::from(new))?;
        self.put_tunnel_address(addr, used)?;
        self.near_follows()
    }

    /// Removes a tunnel address, if it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_tunnel_address(&mut self, addr: Ipv4Addr) -> Result<(), SetupError> {
        if self.applied.tunnel_addresses.contains_key(&addr) {
            let applied = &self.applied;
            let others = applied.tunnel_addresses.iter();
            let others = others.filter(|(other, _)| **other != addr);
            let near = Near::new(others, &applied.covering, &applied.host_addresses);
            self.set_near(near)?;
            let result = self.tunnel_addresses.remove(&addr.octets());
            self.done(result)?;
            self.applied.tunnel_addresses.remove(&addr);
        }
        Ok(())
    }

    /// Adds the local end of UDP tunnels.
    ///
    /// # Errors
    /// [`SetupError::TableFull`], or the kernel's.
    pub fn add_udp_port(&mut self, addr: Ipv4Addr, port: u16) -> Result<(), SetupError> {
        let new = !self.applied.udp_ports.contains(&(addr, port));
        let count = self.applied.udp_ports.len() + usize::from(new);
        self.check_room("UDP ports", SteerConfig::MAX_UDP_PORTS, count)?;
        self.put_udp_port(addr, port)
    }

    /// Removes the local end of UDP tunnels, if it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_udp_port(&mut self, addr: Ipv4Addr, port: u16) -> Result<(), SetupError> {
        if self.applied.udp_ports.contains(&(addr, port)) {
            let result = self.udp_ports.remove(&udp_key(addr, port));
            self.done(result)?;
            self.applied.udp_ports.remove(&(addr, port));
        }
        Ok(())
    }

    /// Adds an IPv6 address of the host, which then stays the kernel's.
    ///
    /// # Errors
    /// [`SetupError::TableFull`], or the kernel's.
    pub fn add_host_address(&mut self, addr: Ipv6Addr) -> Result<(), SetupError> {
        let new = !self.applied.host_addresses.contains(&addr);
        let count = self.applied.host_addresses.len() + usize::from(new);
        let limit = SteerConfig::MAX_HOST_ADDRESSES;
        self.check_room("addresses of the host", limit, count)?;
        self.put_host_address(addr)?;
        self.near_follows()
    }

    /// Removes an IPv6 address of the host, if it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_host_address(&mut self, addr: Ipv6Addr) -> Result<(), SetupError> {
        if self.applied.host_addresses.contains(&addr) {
            let result = self.host_addresses.remove(&addr.octets());
            self.done(result)?;
            self.applied.host_addresses.remove(&addr);
        }
        self.near_follows()
    }

    /// Replaces the covering prefixes, new ones before old ones go.
    ///
    /// # Errors
    /// [`SetupError::TableFull`], or the kernel's.
    pub fn set_covering(&mut self, wanted: &BTreeSet<Covering>) -> Result<(), SetupError> {
        let limit = SteerConfig::MAX_COVERING;
        self.check_room("covering prefixes", limit, wanted.len())?;
        for prefix in missing(wanted, &self.applied.covering) {
            self.put_covering(prefix)?;
        }
        let applied = &self.applied;
        let near = Near::new(&applied.tunnel_addresses, wanted, &applied.host_addresses);
        self.set_near(near)?;
        for prefix in missing(&self.applied.covering, wanted) {
            self.remove_covering(prefix)?;
        }
        Ok(())
    }

    /// Replaces the VLAN ids.
    ///
    /// # Errors
    /// The kernel's; an id above 4095 is refused.
    pub fn set_vlans(&mut self, wanted: &BTreeSet<u16>) -> Result<(), SetupError> {
        for vid in missing(wanted, &self.applied.vlans) {
            self.put_vlan(vid, true)?;
        }
        for vid in missing(&self.applied.vlans, wanted) {
            self.put_vlan(vid, false)?;
        }
        Ok(())
    }

    /// The program's counters.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counters(&self) -> Result<SteerCounters, SetupError> {
        let mut frames = [0; Outcome::COUNT];
        for (index, sum) in frames.iter_mut().enumerate() {
            let per_cpu = self.outcomes.get(&(index as u32), 0).map_err(|error| {
                SetupError::new(&self.interface, Operation::ReadCounters, error)
            })?;
            *sum = per_cpu.iter().sum();
        }
        Ok(SteerCounters { frames })
    }

    /// Makes a socket the receiver of what a queue redirects.
    pub(crate) fn set_socket(
        &mut self,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), SetupError> {
        let result = self.sockets.set(queue, socket.as_raw_fd(), 0);
        self.done(result)
    }

    pub(crate) fn program(&mut self) -> Result<&mut Xdp, SetupError> {
        xdp_program(&mut self.ebpf, STEER_PROGRAM)
            .map_err(|error| SetupError::new(&self.interface, Operation::LoadProgram, error))
    }

    /// The near tables say what the large ones say.
    fn near_follows(&mut self) -> Result<(), SetupError> {
        self.set_near(Near::of(&self.applied))
    }

    /// What `wanted` says must be in the large tables.
    fn set_near(&mut self, wanted: Near) -> Result<(), SetupError> {
        let near = &mut self.near;
        let addresses = set_slots(
            &mut self.near_addresses,
            &mut near.addresses,
            &wanted.addresses,
        );
        let covering = set_slots(
            &mut self.near_covering,
            &mut near.covering,
            &wanted.covering,
        );
        self.done(addresses.and(covering))
    }

    fn put_tunnel_address(&mut self, addr: Ipv4Addr, used: AddressUse) -> Result<(), SetupError> {
        if self.applied.tunnel_addresses.get(&addr) != Some(&used) {
            let flags = address_flags(used);
            let result = self.tunnel_addresses.insert(addr.octets(), flags, 0);
            self.done(result)?;
            self.applied.tunnel_addresses.insert(addr, used);
        }
        Ok(())
    }

    fn put_udp_port(&mut self, addr: Ipv4Addr, port: u16) -> Result<(), SetupError> {
        let result = self.udp_ports.insert(udp_key(addr, port), 1, 0);
        self.done(result)?;
        self.applied.udp_ports.insert((addr, port));
        Ok(())
    }

    fn put_host_address(&mut self, addr: Ipv6Addr) -> Result<(), SetupError> {
        let result = self.host_addresses.insert(addr.octets(), 1, 0);
        self.done(result)?;
        self.applied.host_addresses.insert(addr);
        Ok(())
    }

    fn put_covering(&mut self, prefix: Covering) -> Result<(), SetupError> {
        let result = self.covering.insert(&lpm_key(prefix), 1, 0);
        self.done(result)?;
        self.applied.covering.insert(prefix);
        Ok(())
    }

    fn remove_covering(&mut self, prefix: Covering) -> Result<(), SetupError> {
        let result = self.covering.remove(&lpm_key(prefix));
        self.done(result)?;
        self.applied.covering.remove(&prefix);
        Ok(())
    }

    fn put_vlan(&mut self, vid: u16, known: bool) -> Result<(), SetupError> {
        let result = self.vlans.set(u32::from(vid), u8::from(known), 0);
        self.done(result)?;
        if known {
            self.applied.vlans.insert(vid);
        } else {
            self.applied.vlans.remove(&vid);
        }
        Ok(())
    }

    fn done(&self, result: Result<(), MapError>) -> Result<(), SetupError> {
        result.map_err(|error| SetupError::new(&self.interface, Operation::UpdateMap, error))
    }

    fn check_limits(&self, wanted: &SteerConfig) -> Result<(), SetupError> {
        match wanted.over_limit() {
            Some((table, limit, wanted)) => self.check_room(table, limit, wanted),
            None => Ok(()),
        }
    }

    fn check_room(
        &self,
        table: &'static str,
        limit: usize,
        wanted: usize,
    ) -> Result<(), SetupError> {
        if wanted <= limit {
            return Ok(());
        }
        Err(SetupError::TableFull {
            interface: self.interface.clone(),
            table,
            limit,
            wanted,
        })
    }
}

/// A map of the program by its name there.
fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, MapError> {
    let missing = || MapError::InvalidName {
        name: name.to_owned(),
    };
    T::try_from(ebpf.take_map(name).ok_or_else(missing)?)
}

fn lpm_key(prefix: Covering) -> Key<[u8; 16]> {
    Key::new(u32::from(prefix.prefix_len()), prefix.addr().octets())
}

/// What is in the first set and not in the second.
fn missing<T: Ord + Copy>(first: &BTreeSet<T>, second: &BTreeSet<T>) -> Vec<T> {
    first.difference(second).copied().collect()
}

/// Makes the slots of a map what they are to be, and `held` with them as far as it comes.
fn set_slots<T: aya::Pod + PartialEq>(
    map: &mut Array<MapData, T>,
    held: &mut [T],
    wanted: &[T],
) -> Result<(), MapError> {
    for (at, (held, wanted)) in held.iter_mut().zip(wanted).enumerate() {
        if held != wanted {
            map.set(at as u32, wanted, 0)?;
            *held = *wanted;
        }
    }
    Ok(())
}
