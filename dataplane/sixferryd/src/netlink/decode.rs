//! Netlink messages to [`Change`]s. Pure; what we do not mirror decodes to nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    VlanProtocol, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState as Nud,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteProtocol, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_MULTIPART, NLM_F_REPLACE};

use super::types::{
    Address, AttachedXdp, Care, Change, KernelRoute, Link, Neighbour, NeighbourState, Placement,
    Prefix, RouteTarget, Via, Vlan,
};
use crate::live;

/// Marks neighbour entries that we made managed (`ip neigh` shows `proto 141`), so that a daemon
/// that was killed finds its own again. No routing protocol has this number (rt_protos of
/// iproute2).
pub(super) const OUR_PROTOCOL: RouteProtocol = RouteProtocol::Other(141);

/// The change a message tells of. `flags` are those of its netlink header.
pub(super) fn change(message: &RouteNetlinkMessage, flags: u16) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(m) => link(m).map(Change::Link),
        // A bridge port that leaves its bridge is announced as the deletion of an AF_BRIDGE link.
        RouteNetlinkMessage::DelLink(m) if m.header.interface_family == AddressFamily::Unspec => {
            Some(Change::LinkGone(m.header.index))
        }
        RouteNetlinkMessage::NewAddress(m) => address(m).map(Change::Address),
        RouteNetlinkMessage::DelAddress(m) => address(m).map(Change::AddressGone),
        RouteNetlinkMessage::NewRoute(m) => route(m).map(|r| Change::Route(r, placement(flags))),
        RouteNetlinkMessage::DelRoute(m) => route(m).map(Change::RouteGone),
        RouteNetlinkMessage::NewNeighbour(m) => neighbour(m).map(Change::Neighbour),
        RouteNetlinkMessage::DelNeighbour(m) => neighbour(m).map(|n| Change::NeighbourGone {
            ifindex: n.ifindex,
            addr: n.addr,
        }),
        _ => None,
    }
}

/// `ip route prepend` sets neither flag, and `add` only succeeds where there is nothing to order.
fn placement(flags: u16) -> Placement {
    if flags & NLM_F_MULTIPART != 0 || flags & NLM_F_APPEND != 0 {
        Placement::Last
    } else if flags & NLM_F_REPLACE != 0 {
        Placement::Replace
    } else {
        Placement::First
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        vlan: None,
        controller: None,
        rx_queues: 0,
        tx_queues: 0,
        xdp: None,
    };
    let (mut parent, mut parent_elsewhere) = (0, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) if ethernet => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(ifindex) => parent = *ifindex,
            LinkAttribute::LinkNetNsId(_) => parent_elsewhere = true,
            LinkAttribute::Controller(ifindex) => link.controller = Some(*ifindex),
            LinkAttribute::NumRxQueues(n) => link.rx_queues = *n,
            LinkAttribute::NumTxQueues(n) => link.tx_queues = *n,
            LinkAttribute::Xdp(xdp) => link.xdp = attached_xdp(xdp),
            LinkAttribute::LinkInfo(info) => link_info(info, &mut link),
            _ => {}
        }
    }
    if let Some(vlan) = &mut link.vlan {
        // The number would name an unrelated interface of ours.
        vlan.parent = if parent_elsewhere { 0 } else { parent };
    }
    // Wireless drivers send partial messages; one without a name says nothing about the link.
    (!link.name.is_empty()).then_some(link)
}

fn link_info(info: &[LinkInfo], link: &mut Link) {
    for item in info {
        match item {
            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vlan(data)) => {
                let (mut vid, mut ad) = (None, false);
                for field in data {
                    match field {
                        InfoVlan::Id(id) => vid = Some(*id),
                        InfoVlan::Protocol(p) => ad = *p == VlanProtocol::Ieee8021Ad,
                        _ => {}
                    }
                }
                link.vlan = vid.map(|vid| Vlan { parent: 0, vid, ad });
            }
            _ => {}
        }
    }
}

fn attached_xdp(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mut mode = None;
    let mut prog_id = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => {}
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some("native"),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some("generic"),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some("offloaded"),
            LinkXdp::Attached(XdpAttached::Multiple) => mode = Some("several"),
            LinkXdp::Attached(_) => mode = Some("unknown"),
            LinkXdp::ProgId(id) => prog_id = Some(*id),
            _ => {}
        }
    }
    mode.map(|mode| AttachedXdp { mode, prog_id })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            AddressAttribute::Broadcast(a) => broadcast = Some(*a),
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the peer's address and IFA_LOCAL ours.
    Some(Address {
        ifindex: message.header.index,
        addr: local.or(address)?,
        prefix_len: message.header.prefix_len,
        broadcast,
    })
}

fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    // Cached exceptions are no routes; source- and TOS-specific ones need more than a destination.
    if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length != 0 {
        return None;
    }
    if header.tos != 0 {
        return None;
    }
    let mut destination = any;
    let (mut table, mut metric, mut nexthop_object) = (u32::from(header.table), 0, 0);
    let (mut oif, mut gateway, mut multipath, mut encap) = (None, None, Vec::new(), false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = ip(a)?,
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::Oif(ifindex) => oif = Some(*ifindex),
            RouteAttribute::Gateway(a) => gateway = ip(a),
            RouteAttribute::Via(via) => gateway = via_address(via),
            RouteAttribute::MultiPath(hops) => multipath = hops.iter().map(next_hop).collect(),
            RouteAttribute::NhId(id) => nexthop_object = *id,
            RouteAttribute::Encap(_) => encap = true,
            _ => {}
        }
    }
    let target = match header.kind {
        RouteType::Unicast => {
            // The packet would have to leave in another encapsulation, which is not ours to add.
            if multipath.is_empty() && !encap {
                multipath.extend(oif.map(|ifindex| Via {
                    ifindex,
                    gateway: specified(gateway),
                }));
            }
            RouteTarget::Unicast(multipath)
        }
        RouteType::Local | RouteType::Anycast => RouteTarget::Local,
        RouteType::BlackHole | RouteType::Broadcast => RouteTarget::Blackhole,
        RouteType::Unreachable => RouteTarget::Unreachable,
        RouteType::Prohibit => RouteTarget::Prohibit,
        _ => return None,
    };
    let prefix = Prefix::of(destination, header.destination_prefix_length)?;
    mirrored(prefix).then_some(KernelRoute {
        prefix,
        table,
        metric,
        nexthop_object,
        target,
    })
}

/// Link-local destinations mean nothing without an interface, multicast ones are never forwarded.
fn mirrored(prefix: Prefix) -> bool {
    match prefix.addr() {
        IpAddr::V4(a) => !(a.is_multicast() && prefix.len() >= 4),
        IpAddr::V6(a) => {
            let link_local = a.is_unicast_link_local() && prefix.len() >= 10;
            !(link_local || a.is_multicast() && prefix.len() >= 8)
        }
    }
}

fn next_hop(hop: &RouteNextHop) -> Via {
    let mut via = Via {
        ifindex: hop.interface_index,
        gateway: None,
    };
    for attribute in &hop.attributes {
        match attribute {
            RouteAttribute::Gateway(a) => via.gateway = ip(a),
            RouteAttribute::Via(a) => via.gateway = via_address(a),
            RouteAttribute::Encap(_) => via.ifindex = 0,
            _ => {}
        }
    }
    via.gateway = specified(via.gateway);
    via
}

fn specified(gateway: Option<IpAddr>) -> Option<IpAddr> {
    gateway.filter(|a| !a.is_unspecified())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn via_address(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(a) => Some((*a).into()),
        RouteVia::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// The neighbour of a message about an IP neighbour; bridge entries and proxies are none.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut addr, mut mac, mut managed, mut ours) = (None, None, false, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some((*a).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some((*a).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(f) => managed = f.contains(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(p) => ours = *p == OUR_PROTOCOL,
            _ => {}
        }
    }
    let addr: IpAddr = addr?;
    if addr.is_multicast() {
        return None;
    }
    let state = match (message.header.state, mac) {
        (Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe, Some(mac)) => {
            NeighbourState::Learnt(mac)
        }
        (Nud::Permanent | Nud::Noarp, Some(mac)) => NeighbourState::Fixed(mac),
        _ => NeighbourState::Unresolved,
    };
    let nud = match message.header.state {
        Nud::Reachable => live::NeighbourState::Reachable,
        Nud::Stale => live::NeighbourState::Stale,
        Nud::Delay => live::NeighbourState::Delay,
        Nud::Probe => live::NeighbourState::Probe,
        Nud::Failed => live::NeighbourState::Failed,
        Nud::Permanent => live::NeighbourState::Permanent,
        Nud::Noarp => live::NeighbourState::NoArp,
        // None: an entry that was made just now.
        _ => live::NeighbourState::Incomplete,
    };
    let care = if message.header.flags.contains(NeighbourFlags::ExtLearned) {
        Care::Others
    } else if managed {
        if ours { Care::Ours } else { Care::Others }
    } else {
        Care::None
    };
    Some(Neighbour {
        ifindex: message.header.ifindex,
        addr,
        state,
        nud,
        care,
    })
}

#[cfg(test)]
#[path = "tests/decode.rs"]
mod tests;
