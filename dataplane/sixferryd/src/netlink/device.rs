//! The host port's device and its routes.
//!
//! The only things of the kernel we write besides neighbour entries: the device is ours, and the
//! routes to it carry our protocol number, so that nobody takes them for an operator's.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rustix::io::Errno;
use sixferry_fwd::Ipv6Prefix;

use super::decode::OUR_PROTOCOL;
use super::socket::{NetlinkError, RouteSocket};

/// Preferred to what operators and daemons write (1,024 by default): a discard route for the
/// aggregate that BGP announces must not take the tunnels from the host.
const METRIC: u32 = 256;

/// Sets the device up: its MTU, and no link-local address, for the kernel would send router
/// solicitations and reports into tunnels that are nobody's link.
pub(crate) async fn bring_up(index: u32, mtu: u32) -> Result<(), NetlinkError> {
    let mut socket = RouteSocket::requests()?;
    let set_link = |attributes, up: bool| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message.attributes = attributes;
        RouteNetlinkMessage::SetLink(message)
    };
    let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let quiet = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![no_address],
    )])];
    if let Err(error) = socket.request(set_link(quiet, false), 0).await {
        // What the kernel then sends is filtered out where it arrives.
        tracing::debug!(%error, "the host port's device gets a link-local address");
    }
    let up = set_link(vec![LinkAttribute::Mtu(mtu)], true);
    socket
        .request(up, 0)
        .await
        .map(drop)
        .map_err(NetlinkError::Device)
}

/// The kernel's routes to the device.
pub(crate) struct DeviceRoutes {
    socket: RouteSocket,
    index: u32,
    installed: BTreeSet<Ipv6Prefix>,
}

impl DeviceRoutes {
    /// None yet, to the device of this number.
    pub(crate) fn new(index: u32) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: RouteSocket::requests()?,
            index,
            installed: BTreeSet::new(),
        })
    }

    /// Makes the routes these; with `audit` also those that should be there already, for somebody
    /// may have removed one. What the kernel refuses is tried again with the next call.
    pub(crate) async fn follow(&mut self, wanted: &BTreeSet<Ipv6Prefix>, audit: bool) {
        let gone: Vec<Ipv6Prefix> = self.installed.difference(wanted).copied().collect();
        for prefix in gone {
            let request = RouteNetlinkMessage::DelRoute(self.message(prefix));
            match self.socket.request(request, 0).await {
                Err(error) if !is(&error, Errno::SRCH) => report(prefix, "remove", &error),
                Ok(_) | Err(_) => {
                    self.installed.remove(&prefix);
                }
            }
        }
        let fresh = |prefix: &&Ipv6Prefix| audit || !self.installed.contains(*prefix);
        let new: Vec<Ipv6Prefix> = wanted.iter().filter(fresh).copied().collect();
        for prefix in new {
            let request = RouteNetlinkMessage::NewRoute(self.message(prefix));
            match self
                .socket
                .request(request, NLM_F_CREATE | NLM_F_EXCL)
                .await
            {
                Err(error) if !is(&error, Errno::EXIST) => report(prefix, "add", &error),
                Ok(_) | Err(_) => {
                    self.installed.insert(prefix);
                }
            }
        }
    }

    fn message(&self, prefix: Ipv6Prefix) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = prefix.len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = OUR_PROTOCOL;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet6(prefix.address())),
            RouteAttribute::Oif(self.index),
            RouteAttribute::Priority(METRIC),
        ];
        message
    }
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code.raw_os_error())
}

/// At most 1,024 prefixes, and only when they change.
fn report(prefix: Ipv6Prefix, what: &str, error: &io::Error) {
    tracing::warn!(%prefix, %error, "cannot {what} the host's route into the tunnels");
}
