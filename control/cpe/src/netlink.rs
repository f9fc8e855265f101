//! Addresses and routes of the tunnel device, set over netlink.
//!
//! Everything but the null routes belongs to the device and goes with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::Error;

/// Metric of null routes: any other route to the same prefix is better.
const NULL_METRIC: u32 = 0x7fff_ffff;
/// Loopback's index in every network namespace: unreachable routes hang on it.
const LOOPBACK: u32 = 1;

/// What the tunnel device is to have.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Addresses with the length of their on-link prefix.
    pub addresses: Vec<Ipv6Net>,
    /// Prefixes to send into the tunnel.
    pub routes: Vec<Ipv6Net>,
    /// Delegated prefixes: what no longer route covers is unreachable here. Without that, a
    /// packet for an unused subnet would bounce between relay and us until its hop limit ends
    /// (RFC 6324).
    pub delegated: Vec<Ipv6Net>,
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

    /// Gives a device its addresses, sets it up, then adds the routes.
    ///
    /// # Errors
    /// The first operation that the kernel refused.
    pub async fn apply(&self, index: u32, local: Ipv4Addr, plan: &Plan) -> Result<(), Error> {
        self.set_link(quiet(index), "switch off automatic link-local addresses")
            .await?;
        let own = Ipv6Net::new(link_local(local), 64).map_err(|e| Error::Config(e.to_string()))?;
        for address in [own].iter().chain(&plan.addresses) {
            let mut request =
                self.handle
                    .address()
                    .add(index, IpAddr::V6(address.addr()), address.prefix_len());
            // A TUN device has nobody to ask, but without the flag the address cannot be used until
            // the kernel's worker has found that out, some time after this call.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request
                .execute()
                .await
                .map_err(|e| failed(format!("add address {address}"), &e))?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        self.set_link(up, "set the device up").await?;
        for prefix in &plan.routes {
            self.add_route(route(*prefix).output_interface(index).build(), *prefix)
                .await?;
        }
        for prefix in &plan.delegated {
            self.add_route(null_route(*prefix), *prefix).await?;
        }
        Ok(())
    }

    /// Removes what does not go with the device.
    ///
    /// # Errors
    /// The first operation that the kernel refused.
    pub async fn withdraw(&self, plan: &Plan) -> Result<(), Error> {
        for prefix in &plan.delegated {
            self.handle
                .route()
                .del(null_route(*prefix))
                .execute()
                .await
                .map_err(|e| failed(format!("remove unreachable route {prefix}"), &e))?;
        }
        Ok(())
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
}
