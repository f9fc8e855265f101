//! The lab most tests use: a user site behind a real `sit` router, the relay, a native IPv6 host.
//!
//! ```text
//!  user namespace                          relay namespace            host namespace
//!  tap6 2001:db8:100:1::2                  wan 198.51.100.1           eth0 2001:db8:ffff::2
//!    |                                     lan 2001:db8:ffff::1         |
//!  [guest: vec1  sit t0  vec0 198.51.100.2]   |          |              |
//!    tap4 --- br4 (198.51.100.3) --- uplink --+          +--------------+
//! ```
//!
//! One-armed, `wan` carries both families and the IPv6 host hangs on `br4` as well. The addresses
//! are those of the configured tunnel; [`crate::site`] has the other kinds.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::guest::{Card, Guest};
use crate::link::Veth;
use crate::net::Net;
use crate::require::available;
use crate::site::{SIX_IN_FOUR, Site};

/// The relay's tunnel address, an ordinary address of its `wan`.
pub const RELAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The guest's end of the tunnel.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Another IPv4 host on the underlay, in the user namespace.
pub const PLAIN_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// The relay's native IPv6 address and the source of its ICMPv6 errors.
pub const RELAY_V6: Ipv6Addr = v6([0xffff, 0, 0, 0, 0, 1]);
/// The native IPv6 host.
pub const HOST_V6: Ipv6Addr = v6([0xffff, 0, 0, 0, 0, 2]);
/// The relay's address inside the tunnel.
pub const RELAY_INNER: Ipv6Addr = v6([0xfe, 0, 0, 0, 0, 1]);
/// The guest's address inside the tunnel.
pub const GUEST_INNER: Ipv6Addr = v6([0xfe, 0, 0, 0, 0, 2]);
/// A host on the user's LAN, reached through the guest.
pub const USER_V6: Ipv6Addr = v6([0x100, 1, 0, 0, 0, 2]);
/// The guest on the user's LAN.
pub const GUEST_LAN: Ipv6Addr = v6([0x100, 1, 0, 0, 0, 1]);
/// The user's prefix.
pub const USER_PREFIX: &str = "2001:db8:100::/48";
/// The tunnel's link prefix.
pub const LINK_PREFIX: &str = "2001:db8:fe::/64";
/// The guest's first MAC address on the underlay.
pub const GUEST_MAC: &str = "02:00:5e:00:02:04";
/// Another one, for the test in which it changes.
pub const GUEST_MAC_NEW: &str = "02:00:5e:00:02:44";

const GUEST_LAN_MAC: &str = "02:00:5e:00:02:06";

const fn v6(tail: [u16; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = tail;
    Ipv6Addr::new(0x2001, 0xdb8, a, b, c, d, e, f)
}

/// How many arms the relay has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// `wan` alone.
    One,
    /// `wan` to the users, `lan` to native IPv6.
    Two,
}

/// The namespaces and the guest of one test.
#[derive(Debug)]
pub struct Lab {
    /// The guest first: it goes before its namespace does.
    guest: Option<Guest>,
    /// The user's site and the IPv4 underlay.
    pub user: Net,
    /// Where `sixferryd` runs.
    pub relay: Net,
    /// Native IPv6.
    pub host: Net,
    /// The topology.
    pub arms: Arms,
    /// The kind of peer and its addresses.
    pub site: Site,
}

/// What a lab is built like.
#[derive(Clone, Debug)]
pub struct LabPlan {
    arms: Arms,
    site: Site,
    guest_mtu: u16,
    lan_mtu: u32,
    guest: bool,
    guest_vlan: Option<u16>,
    keep_tx_offload: bool,
    queues: u32,
}

impl LabPlan {
    /// Two arms, a guest whose tunnel has an MTU of 1280.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arms: Arms::Two,
            site: SIX_IN_FOUR,
            guest_mtu: 1280,
            lan_mtu: 1500,
            guest: true,
            guest_vlan: None,
            keep_tx_offload: false,
            queues: 1,
        }
    }

    /// The topology.
    #[must_use]
    pub fn arms(mut self, arms: Arms) -> Self {
        self.arms = arms;
        self
    }

    /// Another kind of peer.
    #[must_use]
    pub fn site(mut self, site: &Site) -> Self {
        self.site = site.clone();
        self
    }

    /// The MTU of the guest's `sit` device.
    #[must_use]
    pub fn guest_mtu(mut self, mtu: u16) -> Self {
        self.guest_mtu = mtu;
        self
    }

    /// The MTU of the link between relay and native host.
    #[must_use]
    pub fn lan_mtu(mut self, mtu: u32) -> Self {
        self.lan_mtu = mtu;
        self
    }

    /// No guest: tests of set-up need no peer.
    #[must_use]
    pub fn without_guest(mut self) -> Self {
        self.guest = false;
        self
    }

    /// The guest's underlay is a VLAN.
    #[must_use]
    pub fn guest_vlan(mut self, vid: u16) -> Self {
        self.guest_vlan = Some(vid);
        self
    }

    /// The native host leaves checksums to a network card that is not there.
    #[must_use]
    pub fn keep_tx_offload(mut self) -> Self {
        self.keep_tx_offload = true;
        self
    }

    /// Queues of the relay's interfaces.
    #[must_use]
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// Builds it; `None` when a guest is wanted, cannot be had and is not required.
    ///
    /// # Panics
    /// When a step fails, or a required guest cannot be had.
    #[must_use]
    pub fn build(&self) -> Option<Lab> {
        let site = &self.site;
        let engine = site.engine();
        if self.guest && !available(engine.feature(), engine.missing().as_deref()) {
            return None;
        }
        let (user, relay, host) = (Net::new("user"), Net::new("relay"), Net::new("host"));
        user.ip("link add br4 type bridge stp_state 0 forward_delay 0");
        user.ip("link set br4 up");
        user.ip(&format!("addr add {}/24 dev br4", site.plain_v4));
        let queues = self.queues;
        Veth::between(&relay, "wan", &user, "uplink")
            .queues(queues)
            .build();
        user.ip("link set uplink master br4");
        relay.ip(&format!("addr add {}/24 dev wan", site.relay_v4));

        let native = match self.arms {
            Arms::One => {
                Veth::between(&user, "tohost", &host, "eth0")
                    .mtu(self.lan_mtu)
                    .build();
                user.ip("link set tohost master br4");
                "wan"
            }
            Arms::Two => {
                let veth = Veth::between(&relay, "lan", &host, "eth0")
                    .mtu(self.lan_mtu)
                    .queues(queues);
                if self.keep_tx_offload {
                    veth.keep_tx_offload().build()
                } else {
                    veth.build()
                }
                "lan"
            }
        };
        relay.ip(&format!("addr add {RELAY_V6}/64 dev {native} nodad"));
        host.ip(&format!("addr add {HOST_V6}/64 dev eth0 nodad"));
        for prefix in site.prefixes {
            host.ip(&format!("route add {prefix} via {RELAY_V6}"));
        }
        let guest = self.guest.then(|| self.boot(&user));
        Some(Lab {
            guest,
            user,
            relay,
            host,
            arms: self.arms,
            site: site.clone(),
        })
    }

    fn boot(&self, user: &Net) -> Guest {
        let cards = [("tap4", GUEST_MAC), ("tap6", GUEST_LAN_MAC)];
        let cards = cards.map(|(tap, mac)| Card {
            tap: tap.to_owned(),
            mac: mac.to_owned(),
        });
        let (uplink, vlan) = match self.guest_vlan {
            None => ("vec0".to_owned(), String::new()),
            Some(vid) => (
                format!("vec0.{vid}"),
                format!("ip link add link vec0 name vec0.{vid} type vlan id {vid}\n"),
            ),
        };
        let site = &self.site;
        let (guest_v4, guest_lan) = (site.guest_v4, site.guest_lan);
        let setup = format!(
            "ip link set vec0 up\n{vlan}ip link set {uplink} up\nip link set vec1 up\n\
             ip addr add {guest_v4}/24 dev {uplink}\n\
             ip -6 addr add {guest_lan}/64 dev vec1 nodad\n{}",
            site.tunnel_script(self.guest_mtu)
        );
        let guest = Guest::boot(site.engine(), user, &cards, &setup);
        user.ip("link set tap4 master br4");
        user.ip(&format!("addr add {}/64 dev tap6 nodad", site.user_v6));
        user.ip(&format!("route add default via {guest_lan} dev tap6"));
        guest
    }
}

impl Default for LabPlan {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// The real router.
    ///
    /// # Panics
    /// When the lab was built without.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        self.guest.as_ref().expect("this lab has a guest")
    }

    /// The relay's ports.
    #[must_use]
    pub fn ports(&self) -> &'static [&'static str] {
        match self.arms {
            Arms::One => &["wan"],
            Arms::Two => &["wan", "lan"],
        }
    }
}
