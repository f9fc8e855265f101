//! The user's end of a tunnel: IPv6 from a TUN device, carried in IPv4 to the relay.
//!
//! The whole endpoint lives in user space: it needs `/dev/net/tun` and one raw socket, no
//! kernel module, and takes its device away when it stops. [`tunnel::inner`],
//! [`tunnel::proto41`], [`tunnel::udp`] and [`tunnel::peers`] decide about packets and do no I/O;
//! [`tunnel`] moves them; [`netlink`] gives the device its addresses
//! and routes; [`dtcp`] gets a tunnel from a server, by name and password, and keeps it.
//!
//! RFC 4213 (6in4), RFC 3056 (6to4), RFC 5969 (6rd), RFC 6040 (ECN across tunnels).

#![forbid(unsafe_code)]

pub mod counters;
pub mod dtcp;
pub mod netlink;
pub mod tunnel;

use std::io;
use std::net::Ipv4Addr;

/// Why the endpoint could not be set up or had to stop: what was tried, on what, and why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TUN device could not be created.
    #[error(
        "cannot create TUN device {name}: {source} (needs CAP_NET_ADMIN and /dev/net/tun; the \
         name must not be in use)"
    )]
    TunCreate {
        /// Name asked for, or `(any)`.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The TUN device stopped working, for example because it was deleted.
    #[error("TUN device {name}: {operation}: {source}")]
    Tun {
        /// Name of the device.
        name: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket towards the relay could not be set up.
    #[error("{socket}: {operation}: {source}{hint}")]
    SocketSetup {
        /// Which socket.
        socket: &'static str,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What it may need.
        hint: &'static str,
    },
    /// The local address does not belong to this host.
    #[error("{local} is not an address of this host: give one of `ip -4 addr` to --local")]
    LocalAddress {
        /// The address asked for.
        local: Ipv4Addr,
    },
    /// The socket towards the relay stopped working.
    #[error("{socket}: {operation}: {source}")]
    Socket {
        /// Which socket.
        socket: &'static str,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An address, route or link setting was refused.
    #[error("netlink: {operation}: {reason}")]
    Netlink {
        /// What was tried.
        operation: String,
        /// What the kernel said.
        reason: String,
    },
    /// A setting that can never work.
    #[error("{0}")]
    Config(String),
}
