//! The kinds of tunnel a real peer can be at the far end of, with the addresses each needs.
//!
//! 6to4 needs an underlay that looks global, or its own rules refuse it (RFC 3964 5.3.1); the
//! 6rd domain has prefix and address bits that fall on no nibble (RFC 5969 section 4).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::guest::Engine;
use crate::topology::{
    GUEST_INNER, GUEST_LAN, GUEST_V4, LINK_PREFIX, PLAIN_V4, RELAY_INNER, RELAY_V4, USER_PREFIX,
    USER_V6,
};

/// The port of both ends of the UDP tunnel.
pub const UDP_PORT: u16 = 4028;

/// How the guest's tunnel works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A configured tunnel.
    SixInFour,
    /// 2002::/16, any remote.
    SixToFour,
    /// The domain of [`SIX_RD`].
    SixRd,
    /// IPv6 directly after a UDP header: Linux fou.
    Udp {
        /// The guest computes the checksum of its datagrams; else it sends zero.
        checksum: bool,
    },
}

/// One kind of peer and the addresses of its lab.
#[derive(Clone, Debug)]
pub struct Site {
    /// The mechanism.
    pub kind: Kind,
    /// The relay's tunnel address, an ordinary address of its `wan`.
    pub relay_v4: Ipv4Addr,
    /// The guest's end of the tunnel.
    pub guest_v4: Ipv4Addr,
    /// Another IPv4 host on the underlay, in the user namespace.
    pub plain_v4: Ipv4Addr,
    /// The relay inside the tunnel, where it has an address there.
    pub relay_inner: Option<Ipv6Addr>,
    /// The guest inside the tunnel.
    pub guest_inner: Ipv6Addr,
    /// The guest on the user's LAN, a /64.
    pub guest_lan: Ipv6Addr,
    /// A host on the user's LAN, reached through the guest.
    pub user_v6: Ipv6Addr,
    /// What native IPv6 routes to the relay.
    pub prefixes: &'static [&'static str],
    /// What the mechanism adds to a packet.
    pub overhead: u16,
}

/// The configured tunnel most tests use.
pub const SIX_IN_FOUR: Site = Site {
    kind: Kind::SixInFour,
    relay_v4: RELAY_V4,
    guest_v4: GUEST_V4,
    plain_v4: PLAIN_V4,
    relay_inner: Some(RELAY_INNER),
    guest_inner: GUEST_INNER,
    guest_lan: GUEST_LAN,
    user_v6: USER_V6,
    prefixes: &[USER_PREFIX, LINK_PREFIX],
    overhead: 20,
};

/// 8.0.0.2 is 2002:800:2::/48.
pub const SIX_TO_FOUR: Site = Site {
    kind: Kind::SixToFour,
    relay_v4: Ipv4Addr::new(8, 0, 0, 1),
    guest_v4: Ipv4Addr::new(8, 0, 0, 2),
    plain_v4: Ipv4Addr::new(8, 0, 0, 3),
    relay_inner: None,
    guest_inner: Ipv6Addr::new(0x2002, 0x800, 2, 0, 0, 0, 0, 1),
    guest_lan: Ipv6Addr::new(0x2002, 0x800, 2, 1, 0, 0, 0, 1),
    user_v6: Ipv6Addr::new(0x2002, 0x800, 2, 1, 0, 0, 0, 2),
    prefixes: &["2002::/16"],
    overhead: 20,
};

/// The 6rd prefix, IPv4MaskLen and common bits of [`SIX_RD`].
pub const RD_PREFIX: &str = "2001:db8:6800::/37";
/// IPv4MaskLen of [`SIX_RD`].
pub const RD_MASK_LEN: u8 = 12;
/// The bits all its users share.
pub const RD_COMMON: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);

/// 10.79.18.2 without its first 12 bits is 0xf1202; at bit 37 that gives 2001:db8:6f89:100::/57,
/// and 10.79.18.1, the border relay, 2001:db8:6f89:80::/57.
pub const SIX_RD: Site = Site {
    kind: Kind::SixRd,
    relay_v4: Ipv4Addr::new(10, 79, 18, 1),
    guest_v4: Ipv4Addr::new(10, 79, 18, 2),
    plain_v4: Ipv4Addr::new(10, 79, 18, 3),
    // The subnet-router anycast address of the relay's own prefix (RFC 5969 section 5).
    relay_inner: Some(Ipv6Addr::new(0x2001, 0xdb8, 0x6f89, 0x80, 0, 0, 0, 0)),
    guest_inner: Ipv6Addr::new(0x2001, 0xdb8, 0x6f89, 0x100, 0, 0, 0, 1),
    guest_lan: Ipv6Addr::new(0x2001, 0xdb8, 0x6f89, 0x101, 0, 0, 0, 1),
    user_v6: Ipv6Addr::new(0x2001, 0xdb8, 0x6f89, 0x101, 0, 0, 0, 2),
    prefixes: &[RD_PREFIX],
    overhead: 20,
};

/// The configured tunnel in UDP.
pub const UDP: Site = Site {
    kind: Kind::Udp { checksum: true },
    overhead: 28,
    ..SIX_IN_FOUR
};

/// The same; the guest sends no checksum.
pub const UDP_WITHOUT_CHECKSUM: Site = Site {
    kind: Kind::Udp { checksum: false },
    ..UDP
};

impl Site {
    /// What runs the guest.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.kind {
            Kind::SixInFour | Kind::SixToFour => Engine::UserMode,
            Kind::SixRd | Kind::Udp { .. } => Engine::Machine,
        }
    }

    /// Shell code with which a Linux router sets up its end as device `t0`.
    #[must_use]
    pub fn tunnel_script(&self, mtu: u16) -> String {
        let (local, remote, inner) = (self.guest_v4, self.relay_v4, self.guest_inner);
        let sit = format!("ip tunnel add t0 mode sit local {local}");
        let (add, length, gateway) = match self.kind {
            Kind::SixInFour => (format!("{sit} remote {remote} ttl 64"), 64, None),
            Kind::SixToFour => (format!("{sit} remote any ttl 64"), 16, Some(remote)),
            Kind::SixRd => (
                format!(
                    "{sit} remote any ttl 64\n\
                     ip tunnel 6rd dev t0 6rd-prefix {RD_PREFIX} \
                     6rd-relay_prefix {RD_COMMON}/{RD_MASK_LEN}"
                ),
                37,
                Some(remote),
            ),
            Kind::Udp { checksum } => {
                let checksum = if checksum {
                    "encap-csum"
                } else {
                    "noencap-csum"
                };
                let add = format!(
                    "ip fou add port {UDP_PORT} ipproto 41\n\
                     ip link add t0 type sit local {local} remote {remote} ttl 64 encap fou \
                     encap-sport {UDP_PORT} encap-dport {UDP_PORT} {checksum}"
                );
                (add, 64, None)
            }
        };
        let gateway = match (gateway, self.relay_inner) {
            // RFC 4213 and `sit`: the last 32 bits name the tunnel endpoint.
            (Some(v4), _) => format!("via ::{v4} "),
            (None, Some(inner)) => format!("via {inner} "),
            (None, None) => String::new(),
        };
        format!(
            "{add}\nip link set t0 mtu {mtu} up\n\
             ip -6 addr add {inner}/{length} dev t0 nodad\n\
             ip -6 route add default {gateway}dev t0\n"
        )
    }

    /// The section of the daemon's configuration that serves this peer, as `id`.
    #[must_use]
    pub fn daemon_section(&self, id: &str, mtu: u16) -> String {
        let local = self.relay_v4;
        let domain = |kind: &str, rest: &str| {
            format!("[[domain]]\nid = \"{id}\"\nkind = \"{kind}\"\nlocal = \"{local}\"\n{rest}")
        };
        let udp = format!("encap = \"udp\"\nlocal_port = {UDP_PORT}\nremote_port = {UDP_PORT}\n");
        let section = match self.kind {
            Kind::SixInFour => self.tunnel_section(id, ""),
            Kind::Udp { .. } => self.tunnel_section(id, &udp),
            Kind::SixToFour => domain("6to4", "role = \"relay\"\n"),
            Kind::SixRd => domain(
                "6rd",
                &format!(
                    "role = \"br\"\nprefix = \"{RD_PREFIX}\"\n\
                     v4_common = \"{RD_COMMON}/{RD_MASK_LEN}\"\n"
                ),
            ),
        };
        format!("{section}mtu = {mtu}\n")
    }

    pub(crate) fn tunnel_section(&self, id: &str, keys: &str) -> String {
        let (local, remote) = (self.relay_v4, self.guest_v4);
        format!(
            "[[tunnel]]\nid = \"{id}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
             prefixes = [\"{USER_PREFIX}\"]\nlink_prefix = \"{LINK_PREFIX}\"\n\
             link_address = \"{RELAY_INNER}\"\n{keys}"
        )
    }
}
