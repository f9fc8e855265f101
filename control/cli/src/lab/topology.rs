//! What a lab looks like: who is where, with which addresses, on which wire.
//!
//! ```text
//! two-armed                                one-armed
//!
//!  user --IPv4-- relay --IPv6-- host        user --IPv4-- router --IPv6-- host
//!                                                           |
//!                                                     IPv4 and IPv6
//!                                                           |
//!                                                         relay
//! ```
//!
//! The user's uplink speaks IPv4 only; its IPv6 comes out of the tunnel. With a UDP tunnel he
//! stands behind a NAT of nftables, as at home:
//!
//! ```text
//!  user --private IPv4-- nat --IPv4-- relay --IPv6-- host
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::netns::{Netns, run};

/// A namespace of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The tunnel's user, with IPv4 only.
    User,
    /// The relay: `sixferryd` runs here.
    Relay,
    /// A host of the IPv6 internet.
    Host,
    /// The relay's upstream router (one-armed labs).
    Router,
    /// The user's NAT (UDP labs).
    Nat,
}

impl Role {
    pub(super) const ALL: [Self; 5] =
        [Self::User, Self::Relay, Self::Host, Self::Router, Self::Nat];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Relay => "relay",
            Self::Host => "host",
            Self::Router => "router",
            Self::Nat => "nat",
        }
    }
}

/// How the user gets his IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A configured tunnel, protocol 41.
    #[default]
    #[value(name = "6in4")]
    #[serde(rename = "6in4")]
    SixInFour,
    /// A configured tunnel in UDP, through a NAT.
    Udp,
    /// The user is a 6to4 site.
    #[value(name = "6to4")]
    #[serde(rename = "6to4")]
    SixToFour,
    /// The user is a 6rd customer edge.
    #[value(name = "6rd")]
    #[serde(rename = "6rd")]
    SixRd,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SixInFour => "6in4",
            Self::Udp => "udp",
            Self::SixToFour => "6to4",
            Self::SixRd => "6rd",
        }
    }

    /// Whether there is a numbered link between relay and user.
    pub(super) const fn has_link(self) -> bool {
        matches!(self, Self::SixInFour | Self::Udp)
    }
}

/// How many interfaces the relay has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Arms {
    One,
    Two,
}

/// The IPv6 side of the tunnel and the far host: documentation prefixes (RFC 3849, 5737).
pub(super) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
pub(super) const USER_LINK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 2);
pub(super) const RELAY_LINK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 1);
pub(super) const RELAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const DELEGATED: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0), 48);
pub(super) const LINK: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 0), 64);
pub(super) const USER_PORT: &str = "uplink";
/// The relay's port of the UDP tunnel, the first by DTCP's convention.
pub(super) const UDP_PORT: u16 = 4028;
/// 6to4 believes global IPv4 addresses only; these are as far away as those of stf(4)'s page.
const GLOBAL_RELAY_V4: Ipv4Addr = Ipv4Addr::new(9, 1, 2, 1);
const GLOBAL_USER_V4: Ipv4Addr = Ipv4Addr::new(9, 1, 2, 10);
const SIX_TO_FOUR_DELEGATED: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0x901, 0x20a, 0, 0, 0, 0, 0), 48);
/// The 6rd domain: 24 bits in common, 8 in the prefix.
pub(super) const SIX_RD_PREFIX: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0x4000, 0, 0, 0, 0, 0), 40);
pub(super) const SIX_RD_COMMON: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24);
const SIX_RD_DELEGATED: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0x400a, 0, 0, 0, 0, 0), 48);
/// Behind the NAT, and its outside.
const PRIVATE_USER_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const NAT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// One lab's namespaces and wires.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    name: String,
    arms: Arms,
    kind: Kind,
}

/// One end of a wire.
struct End<'a> {
    role: Role,
    port: &'a str,
    addresses: &'a [&'a str],
}

impl Topology {
    pub(super) fn new(name: &str, arms: Arms, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            arms,
            kind,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn netns(&self, role: Role) -> Netns {
        Netns::new(namespace(&self.name, role))
    }

    pub(super) fn roles(&self) -> &'static [Role] {
        match (self.kind, self.arms) {
            (Kind::Udp, _) => &[Role::User, Role::Nat, Role::Relay, Role::Host],
            (_, Arms::One) => &[Role::User, Role::Relay, Role::Host, Role::Router],
            (_, Arms::Two) => &[Role::User, Role::Relay, Role::Host],
        }
    }

    /// The relay's interfaces, as the daemon's configuration names them.
    pub(super) fn relay_ports(&self) -> &'static [&'static str] {
        match self.arms {
            Arms::One => &["nic"],
            Arms::Two => &["nic-v4", "nic-v6"],
        }
    }

    pub(super) fn user_v4(&self) -> Ipv4Addr {
        match (self.kind, self.arms) {
            (Kind::Udp, _) => PRIVATE_USER_V4,
            (Kind::SixToFour, _) => GLOBAL_USER_V4,
            (_, Arms::One) => Ipv4Addr::new(192, 0, 2, 10),
            (_, Arms::Two) => Ipv4Addr::new(198, 51, 100, 10),
        }
    }

    pub(super) fn relay_v4(&self) -> Ipv4Addr {
        match self.kind {
            Kind::SixToFour => GLOBAL_RELAY_V4,
            _ => RELAY_V4,
        }
    }

    /// The user's prefix.
    pub(super) fn delegated(&self) -> Ipv6Net {
        match self.kind {
            Kind::SixInFour | Kind::Udp => DELEGATED,
            Kind::SixToFour => SIX_TO_FOUR_DELEGATED,
            Kind::SixRd => SIX_RD_DELEGATED,
        }
    }

    /// The user's address: the first of his prefix.
    pub(super) fn user_v6(&self) -> Ipv6Addr {
        (u128::from(self.delegated().addr()) | 1).into()
    }

    /// The relay's own IPv6 address: the source of its ICMPv6 errors.
    pub(super) fn relay_v6(&self) -> Ipv6Addr {
        match self.arms {
            Arms::One => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
            Arms::Two => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1),
        }
    }

    /// Creates namespaces, wires, addresses and routes.
    pub(super) fn build(&self) -> Result<(), Error> {
        for role in self.roles() {
            let netns = self.netns(*role);
            netns.create()?;
            netns.ip(&["link", "set", "lo", "up"])?;
            // No duplicate address detection: the first packet need not wait for it.
            netns.sysctl("ipv6/conf/default/accept_dad", "0")?;
            netns.sysctl("ipv6/conf/default/router_solicitations", "0")?;
        }
        match (self.kind, self.arms) {
            (Kind::Udp, _) => self.build_behind_nat()?,
            (_, Arms::One) => self.build_one_armed()?,
            (_, Arms::Two) => self.build_two_armed()?,
        }
        self.netns(Role::User)
            .sysctl(&format!("ipv6/conf/{USER_PORT}/disable_ipv6"), "1")
    }

    fn build_two_armed(&self) -> Result<(), Error> {
        let (user, relay) = (self.user_v4(), self.relay_v4());
        self.wire(
            &End {
                role: Role::User,
                port: USER_PORT,
                addresses: &[&format!("{user}/24")],
            },
            &End {
                role: Role::Relay,
                port: "nic-v4",
                addresses: &[&format!("{relay}/24")],
            },
        )?;
        self.native_side()
    }

    /// The IPv6 internet of a lab whose relay has two interfaces.
    fn native_side(&self) -> Result<(), Error> {
        self.wire(
            &End {
                role: Role::Host,
                port: "uplink",
                addresses: &["2001:db8:2::2/64"],
            },
            &End {
                role: Role::Relay,
                port: "nic-v6",
                addresses: &["2001:db8:2::1/64"],
            },
        )?;
        self.netns(Role::Host)
            .ip(&["-6", "route", "add", "default", "via", "2001:db8:2::1"])
    }

    fn build_behind_nat(&self) -> Result<(), Error> {
        self.wire(
            &End {
                role: Role::User,
                port: USER_PORT,
                addresses: &[&format!("{PRIVATE_USER_V4}/24")],
            },
            &End {
                role: Role::Nat,
                port: "inside",
                addresses: &["192.168.1.1/24"],
            },
        )?;
        self.wire(
            &End {
                role: Role::Nat,
                port: "outside",
                addresses: &[&format!("{NAT_V4}/24")],
            },
            &End {
                role: Role::Relay,
                port: "nic-v4",
                addresses: &[&format!("{RELAY_V4}/24")],
            },
        )?;
        self.netns(Role::User)
            .ip(&["route", "add", "default", "via", "192.168.1.1"])?;
        let nat = self.netns(Role::Nat);
        nat.sysctl("ipv4/ip_forward", "1")?;
        // Another port than the user's, as many NATs choose: the relay must learn it.
        for rule in [
            "add table ip home",
            "add chain ip home out { type nat hook postrouting priority 100 ; }",
            "add rule ip home out oifname outside masquerade fully-random",
        ] {
            nat.exec(&["nft", rule])?;
        }
        self.native_side()
    }

    fn build_one_armed(&self) -> Result<(), Error> {
        self.wire(
            &End {
                role: Role::User,
                port: USER_PORT,
                addresses: &["192.0.2.10/24"],
            },
            &End {
                role: Role::Router,
                port: "to-user",
                addresses: &["192.0.2.1/24"],
            },
        )?;
        self.wire(
            &End {
                role: Role::Host,
                port: "uplink",
                addresses: &["2001:db8:2::2/64"],
            },
            &End {
                role: Role::Router,
                port: "to-host",
                addresses: &["2001:db8:2::1/64"],
            },
        )?;
        self.wire(
            &End {
                role: Role::Relay,
                port: "nic",
                addresses: &["198.51.100.1/24", "2001:db8:1::1/64"],
            },
            &End {
                role: Role::Router,
                port: "to-relay",
                addresses: &["198.51.100.254/24", "2001:db8:1::fe/64"],
            },
        )?;
        self.netns(Role::User)
            .ip(&["route", "add", "default", "via", "192.0.2.1"])?;
        self.netns(Role::Host)
            .ip(&["-6", "route", "add", "default", "via", "2001:db8:2::1"])?;
        let relay = self.netns(Role::Relay);
        relay.ip(&["route", "add", "default", "via", "198.51.100.254"])?;
        relay.ip(&["-6", "route", "add", "default", "via", "2001:db8:1::fe"])?;
        let router = self.netns(Role::Router);
        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
        for prefix in [DELEGATED, LINK] {
            let prefix = prefix.to_string();
            router.ip(&["-6", "route", "add", &prefix, "via", "2001:db8:1::1"])?;
        }
        Ok(())
    }

    /// A veth pair between two namespaces.
    fn wire(&self, left: &End<'_>, right: &End<'_>) -> Result<(), Error> {
        let (left_ns, right_ns) = (self.netns(left.role), self.netns(right.role));
        run(
            "ip",
            &[
                "link",
                "add",
                left.port,
                "netns",
                left_ns.name(),
                "type",
                "veth",
                "peer",
                "name",
                right.port,
                "netns",
                right_ns.name(),
            ],
        )?;
        for end in [left, right] {
            let netns = self.netns(end.role);
            for address in end.addresses {
                let mut add = vec!["addr", "add", address, "dev", end.port];
                if address.contains(':') {
                    add.push("nodad");
                }
                netns.ip(&add)?;
            }
            // With checksum offload on, a veth hands over packets whose checksum nobody has
            // computed; the relay would carry them on as they are.
            if end.role != Role::Relay {
                netns.exec(&["ethtool", "-K", end.port, "tx", "off"])?;
            }
            netns.ip(&["link", "set", end.port, "up"])?;
        }
        Ok(())
    }
}

/// Name of a namespace: `sixferry-ROLE`, and the lab's name behind it if it has one.
pub(super) fn namespace(lab: &str, role: Role) -> String {
    if lab.is_empty() {
        format!("sixferry-{}", role.name())
    } else {
        format!("sixferry-{}-{lab}", role.name())
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, user_v6) = (self.user_v4(), self.user_v6());
        let (relay, kind) = (self.relay_v4(), self.kind.name());
        match (self.kind, self.arms) {
            (Kind::Udp, _) => write!(
                f,
                "  user {user} --IPv4-- nat {NAT_V4} --IPv4-- {relay} relay {} --IPv6-- {HOST_V6} \
                 host\n  user {user_v6} =={kind}== relay, port {UDP_PORT}",
                self.relay_v6(),
            ),
            (_, Arms::Two) => write!(
                f,
                "  user {user} --IPv4-- {relay} relay {} --IPv6-- {HOST_V6} host\n  \
                 user {user_v6} =={kind}== relay",
                self.relay_v6(),
            ),
            (_, Arms::One) => write!(
                f,
                "  user {user} --IPv4-- router --IPv6-- {HOST_V6} host\n  \
                 router --IPv4 and IPv6-- {relay}, {} relay\n  \
                 user {user_v6} =={kind}== relay",
                self.relay_v6(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_with_different_names_share_no_namespace() {
        let mut names: Vec<String> = ["", "a", "b"]
            .iter()
            .flat_map(|lab| Role::ALL.map(|role| namespace(lab, role)))
            .collect();
        assert!(names.contains(&"sixferry-relay".to_owned()));
        assert!(names.contains(&"sixferry-relay-a".to_owned()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 15);
    }

    #[test]
    fn automatic_prefixes_contain_the_users_address() {
        let of = |kind| Topology::new("", Arms::Two, kind);
        let six_to_four = of(Kind::SixToFour);
        let octets = six_to_four.delegated().addr().octets();
        assert_eq!(octets[2..6], six_to_four.user_v4().octets());
        let six_rd = of(Kind::SixRd);
        assert!(SIX_RD_COMMON.contains(&six_rd.user_v4()));
        assert!(SIX_RD_PREFIX.contains(&six_rd.delegated()));
        assert_eq!(
            six_rd.delegated().addr().octets()[5],
            six_rd.user_v4().octets()[3]
        );
        assert_eq!(of(Kind::Udp).delegated(), DELEGATED);
    }
}
