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
//! The user's uplink speaks IPv4 only; its IPv6 comes out of the tunnel.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use ipnet::Ipv6Net;
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
}

impl Role {
    pub(super) const ALL: [Self; 4] = [Self::User, Self::Relay, Self::Host, Self::Router];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Relay => "relay",
            Self::Host => "host",
            Self::Router => "router",
        }
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
pub(super) const USER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
pub(super) const USER_LINK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 2);
pub(super) const RELAY_LINK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 1);
pub(super) const RELAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const DELEGATED: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0), 48);
pub(super) const LINK: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 0), 64);
pub(super) const USER_PORT: &str = "uplink";

/// One lab's namespaces and wires.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    name: String,
    arms: Arms,
}

/// One end of a wire.
struct End<'a> {
    role: Role,
    port: &'a str,
    addresses: &'a [&'a str],
}

impl Topology {
    pub(super) fn new(name: &str, arms: Arms) -> Self {
        Self {
            name: name.to_owned(),
            arms,
        }
    }

    pub(super) fn netns(&self, role: Role) -> Netns {
        Netns::new(namespace(&self.name, role))
    }

    pub(super) fn roles(&self) -> &'static [Role] {
        match self.arms {
            Arms::One => &Role::ALL,
            Arms::Two => &[Role::User, Role::Relay, Role::Host],
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
        match self.arms {
            Arms::One => Ipv4Addr::new(192, 0, 2, 10),
            Arms::Two => Ipv4Addr::new(198, 51, 100, 10),
        }
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
        match self.arms {
            Arms::One => self.build_one_armed()?,
            Arms::Two => self.build_two_armed()?,
        }
        self.netns(Role::User)
            .sysctl(&format!("ipv6/conf/{USER_PORT}/disable_ipv6"), "1")
    }

    fn build_two_armed(&self) -> Result<(), Error> {
        self.wire(
            &End {
                role: Role::User,
                port: USER_PORT,
                addresses: &["198.51.100.10/24"],
            },
            &End {
                role: Role::Relay,
                port: "nic-v4",
                addresses: &["198.51.100.1/24"],
            },
        )?;
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
        let user = self.user_v4();
        match self.arms {
            Arms::Two => write!(
                f,
                "  user {user} --IPv4-- {RELAY_V4} relay {} --IPv6-- {HOST_V6} host\n  \
                 user {USER_V6} ==6in4== relay",
                self.relay_v6(),
            ),
            Arms::One => write!(
                f,
                "  user {user} --IPv4-- router --IPv6-- {HOST_V6} host\n  \
                 router --IPv4 and IPv6-- {RELAY_V4}, {} relay\n  \
                 user {USER_V6} ==6in4== relay",
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
        assert_eq!(names.len(), 12);
    }
}
