//! What the mirror knows about the kernel, in plain structs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sixferry_fwd::PortId;

use crate::live::NeighbourState as Nud;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The kernel's number of the interface.
    pub(crate) ifindex: u32,
    /// Its name.
    pub(crate) name: String,
    /// What made it (`veth`, `vlan`, ...); empty for hardware.
    pub(crate) kind: String,
    /// Its MAC address, if it is an Ethernet interface.
    pub(crate) mac: Option<[u8; 6]>,
    /// The largest IP packet it sends.
    pub(crate) mtu: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// Able to send: it has a carrier and nothing below it is down.
    pub(crate) running: bool,
    /// Set on a VLAN sub-interface.
    pub(crate) vlan: Option<Vlan>,
    /// The bridge, bond or VRF it belongs to.
    pub(crate) controller: Option<u32>,
    /// Receive queues it was made with (not how many are in use: ethtool tells that).
    pub(crate) rx_queues: u32,
    /// Transmit queues it was made with.
    pub(crate) tx_queues: u32,
    /// The XDP program on it, as of the last message about this link.
    pub(crate) xdp: Option<AttachedXdp>,
}

impl Link {
    /// Whether a packet can leave by it now.
    pub(crate) fn usable(&self) -> bool {
        self.up && self.running
    }
}

/// The tag of a VLAN sub-interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// The interface below.
    pub(crate) parent: u32,
    /// The VLAN's number.
    pub(crate) vid: u16,
    /// 802.1ad instead of 802.1Q.
    pub(crate) ad: bool,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttachedXdp {
    /// `native`, `generic`, `offloaded`, `several` or `unknown`.
    pub(crate) mode: &'static str,
    /// The program's number in the kernel, if there is exactly one.
    pub(crate) prog_id: Option<u32>,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) ifindex: u32,
    pub(crate) addr: IpAddr,
    pub(crate) prefix_len: u8,
    /// The broadcast address configured with it; the subnet's own is derived.
    pub(crate) broadcast: Option<Ipv4Addr>,
}

/// An address prefix of either family, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `addr`; `None` if the family has fewer bits.
    pub(crate) fn of(addr: IpAddr, len: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(v4) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::from(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { addr, len })
    }

    /// The prefix of this one address.
    pub(crate) fn host(addr: IpAddr) -> Self {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        Self { addr, len }
    }

    /// The first address.
    pub(crate) fn addr(self) -> IpAddr {
        self.addr
    }

    /// The length in bits.
    pub(crate) fn len(self) -> u8 {
        self.len
    }

    /// Whether it names one address.
    pub(crate) fn is_host(self) -> bool {
        self.len == if self.addr.is_ipv4() { 32 } else { 128 }
    }

    /// The last address.
    pub(crate) fn last(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() | mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() | mask).into()
            }
        }
    }
}

/// One way out: an interface and, unless the destination is on it, a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Via {
    pub(crate) ifindex: u32,
    pub(crate) gateway: Option<IpAddr>,
}

/// What a route does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteTarget {
    Unicast(Vec<Via>),
    Local,
    Blackhole,
    Unreachable,
    Prohibit,
}

/// A route of one kernel table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    pub(crate) prefix: Prefix,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    /// The next-hop object it was made from, 0 for none.
    pub(crate) nexthop_object: u32,
    pub(crate) target: RouteTarget,
}

/// Where a new route goes among those of the same prefix, table and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    First,
    Last,
    Replace,
}

/// A neighbour that answered, or was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) ifindex: u32,
    pub(crate) addr: IpAddr,
    pub(crate) state: NeighbourState,
    /// The same in the kernel's words.
    pub(crate) nud: Nud,
    /// Who looks after the entry.
    pub(crate) care: Care,
}

/// Who looks after a neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// Nobody: the kernel forgets it once its own traffic ceases.
    None,
    /// We made it a managed entry, now or in an earlier life of the daemon.
    Ours,
    /// Another program manages it or put it there.
    Others,
}

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeighbourState {
    /// Reachable, stale, delay or probe: an address that was confirmed once and not refuted since.
    Learnt([u8; 6]),
    /// Permanent or without resolution: configured by somebody, never to be touched by us.
    Fixed([u8; 6]),
    /// Incomplete, failed or none.
    Unresolved,
}

impl NeighbourState {
    /// The MAC address to send to.
    pub(crate) fn mac(self) -> Option<[u8; 6]> {
        match self {
            Self::Learnt(mac) | Self::Fixed(mac) => Some(mac),
            Self::Unresolved => None,
        }
    }
}

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Link(Link),
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    Route(KernelRoute, Placement),
    RouteGone(KernelRoute),
    /// A next-hop object was deleted. The kernel then drops its IPv4 routes without a word.
    NexthopObjectGone(u32),
    Neighbour(Neighbour),
    NeighbourGone {
        ifindex: u32,
        addr: IpAddr,
    },
}

/// One table of the kernel, as far as a dump is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Links,
    Addresses,
    Neighbours,
    Routes4,
    Routes6,
}

impl Kind {
    /// In the order in which they must be dumped: what others refer to comes first.
    pub(crate) const ALL: [Self; 5] = [
        Self::Links,
        Self::Addresses,
        Self::Neighbours,
        Self::Routes4,
        Self::Routes6,
    ];
}

/// An interface the dataplane has been configured to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSpec {
    /// Its number in the tables.
    pub(crate) id: PortId,
    /// The interface's name.
    pub(crate) name: String,
    /// The VLANs whose frames it accepts besides untagged ones.
    pub(crate) vlans: VlanPolicy,
}

/// Which VLANs of a port are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VlanPolicy {
    /// Those with a sub-interface in the kernel.
    Auto,
    /// These; routes over other sub-interfaces are unreachable.
    Only(Vec<u16>),
}

/// Addresses of the host, for the steering program and the address filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostAddresses {
    /// IPv6 addresses that belong to the host's own stack; link-local ones and `::1` are left
    /// out, since nothing is ever steered by them.
    pub(crate) v6: BTreeSet<Ipv6Addr>,
    /// IPv4 addresses of the host.
    pub(crate) v4: BTreeSet<Ipv4Addr>,
    /// Broadcast addresses of every connected IPv4 subnet.
    pub(crate) v4_broadcast: BTreeSet<Ipv4Addr>,
}
