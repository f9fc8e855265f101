//! The kernel's links, addresses, routes and neighbours, mirrored into the forwarding tables.
//!
//! AF_XDP sends frames past the kernel, so the dataplane must know what the kernel knows: which
//! interface a destination leaves by, with which VLAN tag, and the MAC address behind the next
//! hop. Nothing here decides about a packet; it turns netlink messages into operations on the
//! tables and keeps the kernel resolving the neighbours we depend on.
//!
//! * [`socket`]: one rtnetlink socket: subscribe, dump, request with acknowledgement. The message
//!   formats are those of `netlink-packet-route`; no type of it leaves this module.
//! * [`decode`]: netlink messages to the plain [`types`].
//! * [`view`]: pure: `(kernel's state, change) -> operations on a [`TableSink`]`.
//! * [`mirror`]: the task that subscribes, dumps, follows and, after an overrun, dumps again.
//! * [`neigh`]: keeps next hops resolved without traffic of the kernel's own (managed entries).
//! * [`list`]: the neighbours as the API lists them.
//! * [`device`]: the host port's device and its routes, the only things of the kernel we change
//!   besides neighbours.
//!
//! # What a route becomes
//!
//! | kernel | tables |
//! |---|---|
//! | unicast over a configured port or its VLAN sub-interface | `Route::NextHop` |
//! | unicast over anything else (management NIC, `lo`, a tunnel device) | `Route::Unreachable` |
//! | local, anycast | `Route::Local` |
//! | blackhole, and IPv4 broadcast | `Route::Blackhole` |
//! | unreachable, prohibit | the same |
//! | unicast over the host port | not mirrored: it is for the host only |
//! | multicast, link-local, throw, with a source prefix or TOS | not mirrored |
//!
//! A destination that only an interface without AF_XDP reaches cannot be sent to by a worker.
//! Dropping it silently would hide the operator's mistake, and handing it to the kernel would let
//! tunnel traffic out past every check, so the sender gets an ICMPv6 "no route" and
//! [`MirrorStats::routes_without_port`] counts such routes.
//!
//! Of several routes to one prefix the first configured table wins, then the lowest metric. Of a
//! multipath route only one next hop is used: the first whose port is up. Policy rules are not
//! evaluated: the tables are merged by longest prefix. Routes made from next-hop objects are
//! understood while the kernel describes them in full, which it does unless
//! `net.ipv4.nexthop_compat_mode` is 0; then they are unreachable and counted as above. A route's
//! own MTU metric is not used.

mod decode;
pub(crate) mod device;
mod list;
mod mirror;
mod neigh;
mod socket;
mod stats;
mod types;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use mirror::{Mirror, MirrorConfig, MirrorSink};
pub(crate) use socket::NetlinkError;
pub(crate) use stats::MirrorStats;
pub(crate) use types::{HostAddresses, PortSpec, Prefix, VlanPolicy};
pub(crate) use view::TableSink;
