//! Messages as the kernel sends them.

use super::*;
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::route::{RouteHeader, RouteMetric};

fn link_message(family: AddressFamily, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header = LinkHeader {
        interface_family: family,
        index: 7,
        link_layer_type: LinkLayerType::Ether,
        flags: LinkFlags::Up | LinkFlags::Running,
        ..LinkHeader::default()
    };
    message.attributes = attributes;
    message
}

fn route_message(kind: RouteType, len: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: len,
        table: 254,
        kind,
        ..RouteHeader::default()
    };
    message.attributes = attributes;
    message
}

fn v4(text: &str) -> RouteAddress {
    RouteAddress::Inet(text.parse().expect("address"))
}

#[test]
fn a_vlan_names_its_parent_unless_that_is_elsewhere() {
    let data = vec![
        InfoVlan::Id(100),
        InfoVlan::Protocol(VlanProtocol::Ieee8021Ad),
    ];
    let mut attributes = vec![
        LinkAttribute::IfName("eth0.100".into()),
        LinkAttribute::Link(2),
        LinkAttribute::LinkInfo(vec![LinkInfo::Data(InfoData::Vlan(data))]),
    ];
    let message = link_message(AddressFamily::Unspec, attributes.clone());
    let vlan = link(&message).and_then(|link| link.vlan);
    assert_eq!(
        vlan,
        Some(Vlan {
            parent: 2,
            vid: 100,
            ad: true
        })
    );
    attributes.push(LinkAttribute::LinkNetNsId(0));
    let message = link_message(AddressFamily::Unspec, attributes);
    assert_eq!(
        link(&message)
            .and_then(|link| link.vlan)
            .map(|vlan| vlan.parent),
        Some(0)
    );
}

#[test]
fn partial_and_bridge_messages_say_nothing_about_a_link() {
    let named = vec![LinkAttribute::IfName("eth0".into())];
    assert!(link(&link_message(AddressFamily::Unspec, named.clone())).is_some());
    assert!(link(&link_message(AddressFamily::Unspec, vec![])).is_none());
    let bridge = link_message(AddressFamily::Bridge, named);
    assert!(link(&bridge).is_none());
    // Else leaving a bridge would look like the interface's end.
    assert_eq!(change(&RouteNetlinkMessage::DelLink(bridge), 0), None);
}

#[test]
fn attached_programs_are_named() {
    let native = [LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(9)];
    assert_eq!(
        attached_xdp(&native),
        Some(AttachedXdp {
            mode: "native",
            prog_id: Some(9)
        })
    );
    assert_eq!(attached_xdp(&[LinkXdp::Attached(XdpAttached::None)]), None);
}

#[test]
fn our_address_on_a_point_to_point_link_is_the_local_one() {
    let mut message = AddressMessage::default();
    message.attributes = vec![
        AddressAttribute::Address(IpAddr::from([192, 0, 2, 9])),
        AddressAttribute::Local(IpAddr::from([192, 0, 2, 1])),
    ];
    assert_eq!(
        address(&message).map(|a| a.addr),
        Some(IpAddr::from([192, 0, 2, 1]))
    );
}

#[test]
fn large_table_numbers_are_read_from_the_attribute() {
    let attributes = vec![RouteAttribute::Table(1000), RouteAttribute::Oif(2)];
    let route = route(&route_message(RouteType::Unicast, 0, attributes)).expect("a route");
    assert_eq!(route.table, 1000);
    assert_eq!(
        route.prefix,
        Prefix::of(IpAddr::from([0, 0, 0, 0]), 0).expect("prefix")
    );
}

#[test]
fn routes_that_need_more_than_a_destination_are_not_mirrored() {
    let oif = vec![RouteAttribute::Oif(2)];
    let base = route_message(RouteType::Unicast, 0, oif);
    assert!(route(&base).is_some());
    let with = |change: fn(&mut RouteHeader)| {
        let mut message = base.clone();
        change(&mut message.header);
        route(&message)
    };
    assert_eq!(with(|h| h.tos = 4), None);
    assert_eq!(with(|h| h.source_prefix_length = 64), None);
    assert_eq!(with(|h| h.flags = RouteFlags::Cloned), None);
    assert_eq!(with(|h| h.kind = RouteType::Throw), None);
    assert_eq!(with(|h| h.kind = RouteType::Multicast), None);
}

#[test]
fn what_we_cannot_encapsulate_leads_nowhere_rather_than_to_the_next_best_route() {
    let attributes = vec![
        RouteAttribute::Destination(v4("10.0.0.0")),
        RouteAttribute::Encap(vec![]),
        RouteAttribute::Gateway(v4("192.0.2.1")),
        RouteAttribute::Oif(2),
    ];
    let route = route(&route_message(RouteType::Unicast, 8, attributes)).expect("a route");
    assert_eq!(route.target, RouteTarget::Unicast(vec![]));
}

#[test]
fn metric_gateway_and_object_are_read() {
    let attributes = vec![
        RouteAttribute::Destination(v4("10.0.0.0")),
        RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
        RouteAttribute::Priority(20),
        RouteAttribute::NhId(3),
        RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().expect("address"))),
        RouteAttribute::Oif(2),
    ];
    let route = route(&route_message(RouteType::Unicast, 8, attributes)).expect("a route");
    let gateway = Some("fe80::1".parse().expect("address"));
    assert_eq!(
        route.target,
        RouteTarget::Unicast(vec![Via {
            ifindex: 2,
            gateway
        }])
    );
    assert_eq!((route.metric, route.nexthop_object), (20, 3));
}

#[test]
fn placement_follows_the_request() {
    assert_eq!(placement(NLM_F_REPLACE), Placement::Replace);
    assert_eq!(placement(NLM_F_APPEND), Placement::Last);
    assert_eq!(placement(NLM_F_MULTIPART), Placement::Last);
    assert_eq!(placement(0), Placement::First);
}

#[test]
fn neighbour_states_that_can_be_sent_to() {
    let with = |state, flags| {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        message.header.flags = flags;
        message.attributes = vec![
            NeighbourAttribute::Destination(IpAddr::from([192, 0, 2, 1]).into()),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        ];
        neighbour(&message)
    };
    let none = NeighbourFlags::empty();
    let mac = [2, 0, 0, 0, 0, 1];
    for state in [Nud::Reachable, Nud::Stale, Nud::Delay, Nud::Probe] {
        assert_eq!(
            with(state, none).map(|n| n.state),
            Some(NeighbourState::Learnt(mac))
        );
    }
    for state in [Nud::Permanent, Nud::Noarp] {
        assert_eq!(
            with(state, none).map(|n| n.state),
            Some(NeighbourState::Fixed(mac))
        );
    }
    for state in [Nud::Incomplete, Nud::Failed, Nud::None] {
        assert_eq!(
            with(state, none).map(|n| n.state),
            Some(NeighbourState::Unresolved)
        );
    }
    assert_eq!(
        with(Nud::Reachable, none).map(|n| n.care),
        Some(Care::Others)
    );
    assert_eq!(with(Nud::Reachable, NeighbourFlags::Proxy), None);
}
