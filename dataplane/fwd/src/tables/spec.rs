//! What the control side says about tunnels, ports, next hops and the relay itself.

use crate::drop_reason::DropReason;
use crate::id::{NextHopId, PortId, TunnelId};
use crate::prefix::Ipv6Prefix;
use sixferry_wire::ether::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How a tunnel's packets look on the IPv4 side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncapKind {
    /// IPv6 directly in IPv4, protocol 41 (RFC 4213).
    #[default]
    SixInFour,
    /// IPv6 directly in UDP over IPv4.
    Udp(UdpEncap),
}

/// The UDP side of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpEncap {
    /// Our port, 1 to 65535.
    pub local_port: u16,
    /// The peer's port; 0 when the first packet is to tell: with the remote address 0.0.0.0, or with
    /// [`Rebind::InnerSourcePort`].
    pub remote_port: u16,
    /// Whether other tunnels have the same local address and port: then the peer's address and port
    /// tell them apart, and must be known.
    pub shared: bool,
    /// What a packet from elsewhere does.
    pub rebind: Rebind,
}

/// What becomes of a packet with the right inner source that comes from another address or port than
/// the peer's: a NAT may have forgotten its mapping, or somebody guesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rebind {
    /// It is dropped: only the control side moves the peer.
    Deny,
    /// It is dropped and announced, so that the control side can move the peer.
    #[default]
    Control,
    /// The peer has moved there, at most once in ten seconds. Whoever can guess an inner address can
    /// then draw the downlink to himself.
    InnerSource,
    /// The peer has moved there if only the port is another one, at most once a second. A guesser must
    /// sit behind the same address: for users that are known by it, behind a NAT.
    InnerSourcePort,
}

/// Who decides the tunnel MTU (RFC 4213 section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuMode {
    /// The configured MTU; DF is never set, so routers on the way may fragment (section 3.2.1).
    #[default]
    Static,
    /// The configured MTU, DF set: for networks whose MTU is known.
    Managed,
    /// What ICMPv4 says of the path, DF set, the configured MTU at most; where the path has less
    /// than 1280 for the inner packet, 1280 with DF clear (section 3.2.2).
    Dynamic,
}

/// TTL of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Always this, 1 to 255.
    Fixed(u8),
    /// The inner hop limit as it leaves.
    Inherit,
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(64)
    }
}

/// DSCP of the outer header (RFC 2983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// Pipe model: always this, 0 to 63.
    Fixed(u8),
    /// Uniform model: the inner DSCP.
    Copy,
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// ECN at the tunnel entry (RFC 6040 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The outer field copies the inner.
    #[default]
    Normal,
    /// The outer field is Not-ECT, for a far end that does not know ECN.
    Compat,
}

/// The numbered link of a tunnel: a prefix both ends share and our address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelLink {
    /// Link prefix, usually a /64; longer than /8, at most /127.
    pub prefix: Ipv6Prefix,
    /// Our address, inside the prefix.
    pub address: Ipv6Addr,
}

/// A configured tunnel. Its key are both outer addresses; of a UDP tunnel our address and port, and
/// the peer's if the port is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Our IPv4 address.
    pub local: Ipv4Addr,
    /// The peer's IPv4 address.
    pub remote: Ipv4Addr,
    /// Packet form.
    pub encap: EncapKind,
    /// What lies behind the tunnel: routes to it, and the only sources it may use.
    pub prefixes: Vec<Ipv6Prefix>,
    /// Numbered link, if any.
    pub link: Option<TunnelLink>,
    /// Our link-local address; `None`: fe80:: with the local IPv4 address below (RFC 4213 section 3.7).
    pub link_local: Option<Ipv6Addr>,
    /// Largest inner packet, 1280 to [`TunnelSpec::MAX_MTU`]. Default 1280.
    pub mtu: u16,
    /// Who decides it.
    pub mtu_mode: MtuMode,
    /// Path MTU known at the start, for [`MtuMode::Dynamic`]; what is learnt replaces it.
    pub path_mtu: Option<u16>,
    /// No report lowers the path MTU below this, 68 to 65535. Default 576.
    pub min_path_mtu: u16,
    /// Whether the MSS option of TCP SYNs is lowered to what the tunnel takes (RFC 4459 section 3.2).
    pub mss_clamp: bool,
    /// Outer TTL.
    pub ttl: Ttl,
    /// Outer DSCP.
    pub dscp: Dscp,
    /// Whether the outer DSCP replaces the inner one at the exit.
    pub dscp_decap_copy: bool,
    /// ECN at the entry.
    pub ecn: Ecn,
    /// Whether inner sources must lie in the tunnel's prefixes (RFC 4213 section 3.6, BCP 38).
    pub strict_source: bool,
    /// Whether it carries traffic.
    pub up: bool,
}

impl TunnelSpec {
    /// Largest inner packet a frame can hold.
    pub const MAX_MTU: u16 = 1700;
    /// Most prefixes of one tunnel.
    pub const MAX_PREFIXES: usize = 64;
    /// Default of [`TunnelSpec::min_path_mtu`].
    pub const MIN_PATH_MTU: u16 = 576;

    /// A 6in4 tunnel with defaults and no prefix.
    #[must_use]
    pub const fn new(local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        Self {
            local,
            remote,
            encap: EncapKind::SixInFour,
            prefixes: Vec::new(),
            link: None,
            link_local: None,
            mtu: 1280,
            mtu_mode: MtuMode::Static,
            path_mtu: None,
            min_path_mtu: Self::MIN_PATH_MTU,
            mss_clamp: false,
            ttl: Ttl::Fixed(64),
            dscp: Dscp::Fixed(0),
            dscp_decap_copy: false,
            ecn: Ecn::Normal,
            strict_source: true,
            up: true,
        }
    }
}

/// Kind of link a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Ethernet frames; our hardware address.
    Ethernet {
        /// Hardware address.
        mac: Mac,
    },
    /// Bare IP packets (TUN).
    RawIp,
}

/// A port as packets see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Kind of link.
    pub kind: PortKind,
    /// Largest IP packet.
    pub mtu: u16,
    /// VLAN ids accepted besides untagged frames.
    pub vlans: Vec<u16>,
    /// Whether packets may come and go.
    pub up: bool,
}

/// What is known of a next hop's hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHopState {
    /// Known.
    Resolved {
        /// The neighbour's hardware address.
        dst_mac: Mac,
    },
    /// A gateway not resolved yet.
    Unresolved {
        /// The gateway.
        gateway: IpAddr,
    },
    /// A connected prefix: the destination is itself the neighbour. Resolved neighbours stand as
    /// host routes beside it, so reaching this one means the neighbour is not resolved.
    OnLink,
    /// The interface is down.
    Down,
}

/// Where packets go from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Egress port.
    pub port: PortId,
    /// VLAN id of the egress interface, if it is one.
    pub vlan: Option<u16>,
    /// Whether its tag is 802.1ad instead of 802.1Q.
    pub vlan_service_tag: bool,
    /// Our hardware address on the egress interface.
    pub src_mac: Mac,
    /// IP MTU of the egress interface.
    pub mtu: u16,
    /// The neighbour.
    pub state: NextHopState,
}

/// What a route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Send to this next hop.
    NextHop(NextHopId),
    /// Into this tunnel, besides its own prefixes.
    Tunnel(TunnelId),
    /// Into this domain, besides its own prefix: a 6rd customer's way to the border relay, a 6to4
    /// site's to its relay.
    Domain(TunnelId),
    /// An address of this host.
    Local,
    /// Discard silently.
    Blackhole,
    /// Answer "no route".
    Unreachable,
    /// Answer "administratively prohibited".
    Prohibit,
}

/// Who says so. Of several routes to the same prefix the lowest counts; a tunnel's own prefix comes
/// before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteSource {
    /// Programmed over the API.
    Api,
    /// A resolved neighbour.
    Neighbour,
    /// The kernel's routing table.
    Kernel,
}

/// What a prefix leads to, tunnels included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteView {
    /// A prefix behind this tunnel.
    Tunnel(TunnelId),
    /// The link prefix of this tunnel.
    TunnelLink(TunnelId),
    /// Our own address on this tunnel.
    TunnelAddress(TunnelId),
    /// The prefix of this 6to4 or 6rd domain, or a route into it.
    Domain(TunnelId),
    /// An ordinary route.
    Route(Route),
}

/// IPv4 options in outer headers (RFC 7126).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OuterOptions {
    /// Drop the packet.
    #[default]
    Drop,
    /// Skip harmless ones; source routes are dropped always.
    Skip,
}

/// Token buckets, global and per tunnel. A rate of 0 means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// All tunnels together, packets a second.
    pub global_per_second: u32,
    /// All tunnels together, burst.
    pub global_burst: u32,
    /// One tunnel, packets a second.
    pub tunnel_per_second: u32,
    /// One tunnel, burst.
    pub tunnel_burst: u32,
}

impl RateLimits {
    /// No limit at all.
    pub const UNLIMITED: Self = Self {
        global_per_second: 0,
        global_burst: 0,
        tunnel_per_second: 0,
        tunnel_burst: 0,
    };
}

/// The relay's own rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Source of ICMPv6 errors; answers echo requests.
    pub router_address: Ipv6Addr,
    /// ICMPv6 errors (RFC 4443 section 2.4 f). Default 1000/s, burst 200; per tunnel 10/s, burst 10.
    pub icmp_errors: RateLimits,
    /// Echo replies and neighbour advertisements. Default 10,000/s, burst 1000; per tunnel 100/s,
    /// burst 100.
    pub answers: RateLimits,
    /// IPv4 options in outer headers.
    pub outer_options: OuterOptions,
    /// Whether a tunnel's source address is refused on the native side (RFC 4213 section 3.6).
    pub native_source_check: bool,
    /// Punt reasons somebody subscribes to, a bit each by `PuntReason::index`; the others drop.
    pub punt_subscriptions: u32,
    /// The port that leads to the relay host's own stack. What is for an address of the host goes
    /// there; without one it is dropped.
    pub host_port: Option<PortId>,
    /// Secret of the tunnel table's hash; draw it at start.
    pub hash_seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            router_address: Ipv6Addr::UNSPECIFIED,
            icmp_errors: RateLimits {
                global_per_second: 1000,
                global_burst: 200,
                tunnel_per_second: 10,
                tunnel_burst: 10,
            },
            answers: RateLimits {
                global_per_second: 10_000,
                global_burst: 1000,
                tunnel_per_second: 100,
                tunnel_burst: 100,
            },
            outer_options: OuterOptions::Drop,
            native_source_check: true,
            punt_subscriptions: 0,
            host_port: None,
            hash_seed: 0x5bd1_e995_9d2c_5680,
        }
    }
}

/// What a tunnel carried since it was added, all workers together. Bytes are inner packets'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelTotals {
    /// Packets out of the tunnel.
    pub in_packets: u64,
    /// Their bytes.
    pub in_bytes: u64,
    /// Packets into the tunnel.
    pub out_packets: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// Dropped packets, by reason; reasons that never happened are left out.
    pub drops: Vec<(DropReason, u64)>,
    /// Packets with an unusual combination of ECN fields.
    pub ecn_unusual: u64,
}
