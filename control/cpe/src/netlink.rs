//! Addresses and routes of the tunnel device, set over netlink.
//!
//! Everything but the null routes and the addresses of other interfaces belongs to the device and
//! goes with it. A plan that replaces another one touches only what differs, and adds before it
//! removes: what both have is never interrupted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::Ipv6Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

use rustix::io::Errno;

use crate::Error;

/// Metric of null routes: any other route to the same prefix is better.
const NULL_METRIC: u32 = 0x7fff_ffff;
/// Loopback's index in every network namespace: unreachable routes hang on it.
const LOOPBACK: u32 = 1;

/// What the tunnel device is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses with the length of their on-link prefix.
    pub addresses: Vec<Ipv6Net>,
    /// Point-to-point addresses: ours, and that of the other end.
    pub peers: Vec<(Ipv6Addr, Ipv6Addr)>,
    /// Prefixes to send into the tunnel.
    pub routes: Vec<Ipv6Net>,
    /// Delegated prefixes: what no longer route covers is unreachable here. Without that, a
    /// packet for an unused subnet would bounce between relay and us until its hop limit ends
    /// (RFC 6324).
    pub delegated: Vec<Ipv6Net>,
    /// Addresses on other interfaces, by interface index.
    pub lan: Vec<(u32, Ipv6Net)>,
}

/// One thing the kernel is asked to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Address(Ipv6Net),
    Peer(Ipv6Addr, Ipv6Addr),
    Route(Ipv6Net),
    Null(Ipv6Net),
    Lan(u32, Ipv6Net),
}

impl Item {
    /// Whether it stays when the tunnel device goes.
    const fn outlives_device(self) -> bool {
        matches!(self, Self::Null(_) | Self::Lan(..))
    }
}

impl Plan {
    fn items(&self) -> Vec<Item> {
        let addresses = self.addresses.iter().copied().map(Item::Address);
        let peers = self.peers.iter().map(|(own, peer)| Item::Peer(*own, *peer));
        // Before the addresses of other interfaces: no moment at which a part that nobody has yet
        // would be sent back into the tunnel.
        let null = self.delegated.iter().copied().map(Item::Null);
        let lan = self.lan.iter().map(|(index, net)| Item::Lan(*index, *net));
        let routes = self.routes.iter().copied().map(Item::Route);
        let items = addresses.chain(peers).chain(null).chain(lan);
        items.chain(routes).collect()
    }
}

/// What is to be added and what to be removed, in this order.
fn difference(old: &[Item], new: &[Item]) -> (Vec<Item>, Vec<Item>) {
    let without = |all: &[Item], but: &[Item]| {
        let left = all.iter().filter(|item| !but.contains(item));
        left.copied().collect::<Vec<_>>()
    };
    let mut gone = without(old, new);
    gone.reverse();
    (without(new, old), gone)
}

/// The link-local address of a tunnel end: fe80::/96 and the IPv4 address (RFC 4213
/// section 3.7).
#[must_use]
pub fn link_local(local: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = local.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, high, low)
}

/// A netlink connection and the task that drives it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Connects in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn connect() -> Result<Self, Error> {
        let (connection, handle, _) = new_connection().map_err(|e| Error::Netlink {
            operation: "open the socket".to_owned(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// Index and hardware address of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub async fn interface(&self, name: &str) -> Result<(u32, Option<[u8; 6]>), Error> {
        let mut found = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        let answer = found.try_next().await;
        let link = answer.map_err(|e| failed(format!("find interface {name}"), &e))?;
        let link = link.ok_or_else(|| Error::Config(format!("there is no interface {name}")))?;
        let mac = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
                _ => None,
            });
        // The loopback interface has one of zeros.
        Ok((link.header.index, mac.filter(|mac| *mac != [0; 6])))
    }

    /// Gives a device its addresses, sets it up, then adds the routes.
    ///
    /// # Errors
    /// The first operation that the kernel refused.
    pub async fn apply(&self, index: u32, local: Ipv4Addr, plan: &Plan) -> Result<(), Error> {
        self.set_link(quiet(index), "switch off automatic link-local addresses")
            .await?;
        let own = Ipv6Net::new(link_local(local), 64).map_err(|e| Error::Config(e.to_string()))?;
        self.add(index, Item::Address(own)).await?;
        // The device is set up between its addresses and what leads to it: a route to a device that
        // is down is refused.
        let (first, then): (Vec<Item>, Vec<Item>) = plan
            .items()
            .into_iter()
            .partition(|item| matches!(item, Item::Address(_) | Item::Peer(..)));
        for item in first {
            self.add(index, item).await?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        self.set_link(up, "set the device up").await?;
        for item in then {
            self.add(index, item).await?;
        }
        Ok(())
    }

    /// Turns what [`Netlink::apply`] set up for `old` into `new`.
    ///
    /// # Errors
    /// The first operation that the kernel refused.
    pub async fn change(
        &self,
        index: u32,
        old: (Ipv4Addr, &Plan),
        new: (Ipv4Addr, &Plan),
    ) -> Result<(), Error> {
        let items = |(local, plan): (Ipv4Addr, &Plan)| {
            let own = Ipv6Net::new(link_local(local), 64);
            let own = own.map_err(|e| Error::Config(e.to_string()))?;
            let mut items = vec![Item::Address(own)];
            items.extend(plan.items());
            Ok::<_, Error>(items)
        };
        let (added, removed) = difference(&items(old)?, &items(new)?);
        for item in added {
            self.add(index, item).await?;
        }
        for item in removed {
            self.remove(index, item).await?;
        }
        Ok(())
    }

    /// Removes what does not go with the device; what is gone already is fine.
    ///
    /// # Errors
    /// The first operation that the kernel refused; the others were tried all the same.
    pub async fn withdraw(&self, plan: &Plan) -> Result<(), Error> {
        let mut outcome = Ok(());
        for item in plan.items().into_iter().rev() {
            if item.outlives_device() {
                let removed = self.remove(LOOPBACK, item).await;
                outcome = outcome.and(removed);
            }
        }
        outcome
    }

    async fn add(&self, index: u32, item: Item) -> Result<(), Error> {
        match item {
            Item::Address(net) => {
                let request = self.address(index, net);
                let done = request.execute().await;
                done.map_err(|e| failed(format!("add address {net}"), &e))
            }
            Item::Peer(own, peer) => {
                let done = self.peer_address(index, own, peer).execute().await;
                done.map_err(|e| failed(format!("add address {own} peer {peer}"), &e))
            }
            Item::Lan(index, net) => {
                // There are others on this link to ask, so the address is checked for a duplicate.
                let request = self
                    .handle
                    .address()
                    .add(index, IpAddr::V6(net.addr()), net.prefix_len())
                    .replace();
                let done = request.execute().await;
                done.map_err(|e| failed(format!("add address {net} to interface {index}"), &e))
            }
            Item::Route(net) => {
                let message = route(net).output_interface(index).build();
                self.add_route(message, net).await
            }
            Item::Null(net) => {
                // One of a predecessor that was killed may still be there.
                let request = self.handle.route().add(null_route(net)).replace();
                let done = request.execute().await;
                done.map_err(|e| failed(format!("add unreachable route {net}"), &e))
            }
        }
    }

    async fn remove(&self, index: u32, item: Item) -> Result<(), Error> {
        let (what, done) = match item {
            Item::Address(net) => {
                let message = self.address(index, net).message_mut().clone();
                let done = self.handle.address().del(message).execute().await;
                (format!("remove address {net}"), done)
            }
            Item::Peer(own, peer) => {
                let message = self.peer_address(index, own, peer).message_mut().clone();
                let done = self.handle.address().del(message).execute().await;
                (format!("remove address {own} peer {peer}"), done)
            }
            Item::Lan(index, net) => {
                let message = self.address(index, net).message_mut().clone();
                let done = self.handle.address().del(message).execute().await;
                (format!("remove address {net} of interface {index}"), done)
            }
            Item::Route(net) => {
                let message = route(net).output_interface(index).build();
                let done = self.handle.route().del(message).execute().await;
                (format!("remove route {net}"), done)
            }
            Item::Null(net) => {
                let done = self.handle.route().del(null_route(net)).execute().await;
                (format!("remove unreachable route {net}"), done)
            }
        };
        match done {
            Err(error) if !is_gone(&error) => Err(failed(what, &error)),
            _ => Ok(()),
        }
    }

    /// A request for an address on a device of ours. A TUN device has nobody to ask, but without the
    /// flag the address cannot be used until the kernel's worker has found that out.
    fn address(&self, index: u32, net: Ipv6Net) -> rtnetlink::AddressAddRequest {
        let mut request =
            self.handle
                .address()
                .add(index, IpAddr::V6(net.addr()), net.prefix_len());
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request
    }

    fn peer_address(
        &self,
        index: u32,
        own: Ipv6Addr,
        peer: Ipv6Addr,
    ) -> rtnetlink::AddressAddRequest {
        let mut request = self.address(index, Ipv6Net::from(peer));
        let attributes = &mut request.message_mut().attributes;
        attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Local(_)));
        attributes.push(AddressAttribute::Local(IpAddr::V6(own)));
        request
    }

    async fn set_link(&self, message: LinkMessage, operation: &str) -> Result<(), Error> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|e| failed(operation.to_owned(), &e))
    }

    async fn add_route(&self, message: RouteMessage, prefix: Ipv6Net) -> Result<(), Error> {
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .map_err(|e| failed(format!("add route {prefix}"), &e))
    }
}

/// The kernel has no such route, address or interface: somebody removed it before us.
fn is_gone(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return false;
    };
    let gone = [Errno::SRCH, Errno::ADDRNOTAVAIL, Errno::NODEV, Errno::NOENT];
    let code = message.to_io().raw_os_error();
    gone.iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn failed(operation: String, error: &rtnetlink::Error) -> Error {
    let reason = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    };
    Error::Netlink { operation, reason }
}

/// A TUN device has no hardware address, so the kernel would give it a random link-local one.
fn quiet(index: u32) -> LinkMessage {
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )]))
        .build()
}

fn route(prefix: Ipv6Net) -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(prefix.network(), prefix.prefix_len())
}

fn null_route(prefix: Ipv6Net) -> RouteMessage {
    route(prefix)
        .kind(RouteType::Unreachable)
        .output_interface(LOOPBACK)
        .priority(NULL_METRIC)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_holds_the_ipv4_address() {
        let address = link_local(Ipv4Addr::new(192, 0, 2, 10));
        assert_eq!(
            address,
            "fe80::192.0.2.10".parse::<Ipv6Addr>().expect("address")
        );
    }

    #[test]
    fn a_new_plan_adds_what_is_new_then_removes_what_is_gone_and_leaves_the_rest() {
        let net = |text: &str| text.parse::<Ipv6Net>().expect("prefix");
        let address = |text: &str| text.parse::<Ipv6Addr>().expect("address");
        let old = Plan {
            peers: vec![(address("2001:db8::6"), address("2001:db8::5"))],
            routes: vec![net("::/0")],
            delegated: vec![net("2001:db8:100::/48")],
            lan: vec![(7, net("2001:db8:100:1::1/64"))],
            ..Plan::default()
        };
        let new = Plan {
            peers: old.peers.clone(),
            routes: old.routes.clone(),
            delegated: vec![net("2001:db8:200::/48")],
            lan: vec![(7, net("2001:db8:200:1::1/64"))],
            ..Plan::default()
        };
        assert_eq!(
            difference(&old.items(), &old.items()),
            (Vec::new(), Vec::new())
        );
        let (added, removed) = difference(&old.items(), &new.items());
        assert_eq!(
            added,
            [Item::Null(new.delegated[0]), Item::Lan(7, new.lan[0].1)]
        );
        assert_eq!(
            removed,
            [Item::Lan(7, old.lan[0].1), Item::Null(old.delegated[0])]
        );
        assert!(added.iter().chain(&removed).all(|i| i.outlives_device()));
    }
}
