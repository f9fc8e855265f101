//! The vocabulary: what the store keeps and the plugins see. Times are microseconds since 1970 UTC.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::Ipv6Net;

/// Key of an account in the store; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub i64);

/// Key of a pool in the store; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub i64);

/// Key of a tunnel in the store; never reused. The dataplane knows the tunnel as `t` and this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub i64);

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// Counts who held a tunnel: each acquisition of the same tunnel has the next number, and a release by
/// an earlier holder does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseNumber(pub i64);

/// The plugin a tunnel belongs to: `dtcp`, `broker`, `static`…; 1 to 32 of `[a-z0-9-]`.
pub type Service = Arc<str>;

/// Somebody who may have tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Key.
    pub id: AccountId,
    /// Unique, 1 to 64 bytes of printable ASCII without space; case counts.
    pub name: String,
    /// Whether it may log in.
    pub status: AccountStatus,
    /// Whether a DTCP secret is set; the secret itself never leaves the store.
    pub has_secret: bool,
    /// Prefixes that are the account's own, whatever service its tunnels come from.
    pub prefixes: Vec<Ipv6Net>,
    /// When it was created.
    pub created_at: i64,
    /// When it was last changed.
    pub changed_at: i64,
}

/// Whether an account may log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccountStatus {
    /// It may.
    #[default]
    Active,
    /// It may not, and its tunnels are taken away (abuse, or the operator's wish).
    Suspended,
}

/// Numbers that tunnels are given from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Key.
    pub id: PoolId,
    /// Unique, 1 to 63 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// What is given.
    pub kind: PoolKind,
    /// What it is given from. No two pools overlap.
    pub prefix: Ipv6Net,
    /// Seconds during which a freed number is given to nobody.
    pub quarantine_seconds: u32,
}

/// What a pool gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Address pairs of point-to-point links, by the unit of the tunnel's slot: 4(n+1)+1 is the
    /// relay's, 4(n+1)+2 the user's.
    HostPair,
    /// Prefixes of this length, 48 to 64.
    Delegation {
        /// Length of each.
        len: u8,
    },
}

/// How a tunnel is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Nothing but the link (DTCP `tunnelonly`), and the account's own prefixes if it has any.
    Link,
    /// One address pair (DTCP `host`).
    Host,
    /// Routed prefixes, no address on the link (DTCP `network`).
    Network,
}

/// An IPv4 address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointV4 {
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// How a tunnel's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// IPv4 protocol 41 (RFC 4213).
    SixInFour,
    /// The bare IPv6 packet after a UDP header.
    Udp {
        /// The relay's port, this tunnel's alone.
        local_port: u16,
        /// The user's port; `None`: learnt from his first packet, and anew when his NAT rebinds.
        remote_port: Option<u16>,
        /// His packets may come from any address, not only the one he logged in from.
        any_source: bool,
    },
}

/// The two ends of a numbered link, a /128 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressPair {
    /// The user's.
    pub client: Ipv6Addr,
    /// The relay's: it answers pings.
    pub server: Ipv6Addr,
}

/// A logical interface: what the original server's kernel interface was. Unique among live tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// Letters, such as `gif`; 1 to 15 of `[A-Za-z0-9_.-]`, the last no digit.
    pub stem: Arc<str>,
    /// The number after it.
    pub unit: u32,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, self.unit)
    }
}

/// The life of a tunnel (more states join with the broker).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelState {
    /// Committed; the dataplane has not confirmed it yet.
    Pending,
    /// Forwarding, held by a session.
    Active,
    /// Forwarding; its session was lost without a goodbye (the control process died). Whoever had it
    /// finds it again until the grace time ends.
    Orphaned,
    /// Committed as gone; the dataplane has not confirmed it yet, so its numbers stay taken.
    Releasing,
    /// Gone: kept to say who had what, and while its numbers are in quarantine.
    Tombstone,
}

/// Why a tunnel changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A user asked for it.
    Login,
    /// The dataplane confirmed it.
    Confirmed,
    /// The user said goodbye.
    Quit,
    /// The connection ended without a goodbye.
    ConnectionLost,
    /// Nothing was heard for too long.
    IdleTimeout,
    /// A newer login took its place.
    Replaced,
    /// The operator disconnected it, or deleted or suspended the account.
    Administrative,
    /// The control process stopped in order.
    Shutdown,
    /// The control process started and found it without a session.
    Restart,
    /// Nobody came for it within the grace time.
    GraceEnded,
    /// It could not be programmed.
    Refused,
}

/// A tunnel as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Key.
    pub id: TunnelId,
    /// Whose it is.
    pub account: AccountId,
    /// The plugin that asked for it.
    pub service: Service,
    /// Number of the present holder.
    pub lease: LeaseNumber,
    /// Logical interface.
    pub slot: Slot,
    /// Addressing.
    pub profile: Profile,
    /// Encapsulation.
    pub transport: Transport,
    /// IPv4 address of the relay.
    pub local: Ipv4Addr,
    /// IPv4 address of the user.
    pub remote: Ipv4Addr,
    /// Link addresses, with [`Profile::Host`].
    pub pair: Option<AddressPair>,
    /// Prefixes routed into it, besides the user's link address.
    pub prefixes: Vec<Ipv6Net>,
    /// Largest inner packet.
    pub mtu: u16,
    /// Where in its life it is.
    pub state: TunnelState,
    /// Since when.
    pub state_at: i64,
    /// When it was created.
    pub created_at: i64,
    /// `change_log` sequence of its last change.
    pub revision: i64,
}

/// What a plugin holds: enough to tell the user, and to give it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The tunnel, forwarding.
    pub tunnel: TunnelId,
    /// Number of this holder.
    pub number: LeaseNumber,
    /// Logical interface.
    pub slot: Slot,
    /// IPv4 address of the relay.
    pub local: Ipv4Addr,
    /// IPv4 address of the user.
    pub remote: Ipv4Addr,
    /// Encapsulation, with the ports that were found.
    pub transport: Transport,
    /// Link addresses, with [`Profile::Host`].
    pub pair: Option<AddressPair>,
    /// Prefixes routed into it, in the order they were given.
    pub prefixes: Vec<Ipv6Net>,
    /// Largest inner packet.
    pub mtu: u16,
    /// It is one he had before: orphaned, or taken from an older session of his.
    pub resumed: bool,
}
