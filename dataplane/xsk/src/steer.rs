//! What the XDP program is told and what it tells: the steering of one port as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

macro_rules! outcomes {
    ($($variant:ident $name:literal $text:literal,)*) => {
        /// Where the XDP program sent a frame and why. The order is that of `bpf/steer.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Outcome {
            $(#[doc = $text] $variant,)*
        }

        impl Outcome {
            /// Every outcome, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Number of outcomes.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric label.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line for operators.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

outcomes! {
    XskProto41 "xsk_proto41" "protocol 41 to a tunnel address: to the relay",
    XskUdp "xsk_udp" "UDP to a tunnel address and configured port: to the relay",
    XskUdpFragment "xsk_udp_fragment" "fragment to a dedicated tunnel address: to the relay",
    XskIcmp4 "xsk_icmp4" "ICMPv4 error about a tunnel packet: to the relay",
    XskIpv6 "xsk_ipv6" "IPv6 to a covering prefix: to the relay",
    PassTruncated "pass_truncated" "too short to tell whose it is: to the kernel",
    PassL2 "pass_l2" "not to the port's own MAC address: to the kernel",
    PassVlan "pass_vlan" "VLAN not configured or tagged twice: to the kernel",
    PassArp "pass_arp" "ARP: to the kernel",
    PassEthertype "pass_ethertype" "neither IPv4, IPv6 nor ARP: to the kernel",
    PassIpv4 "pass_ipv4" "IPv4 that no tunnel claims: to the kernel",
    PassIcmp4 "pass_icmp4" "ICMPv4 that is not about a tunnel packet: to the kernel",
    PassUdp "pass_udp" "UDP to a tunnel address but no tunnel port: to the kernel",
    PassIpv6 "pass_ipv6" "IPv6 to no covering prefix: to the kernel",
    PassIpv6Scope "pass_ipv6_scope" "IPv6 multicast or link-local (ND, RA, MLD): to the kernel",
    PassIpv6Host "pass_ipv6_host" "IPv6 to an address of this host: to the kernel",
    PassNoSocket "pass_no_socket" "the relay's, but no socket serves the queue: to the kernel",
}

impl Outcome {
    /// Whether the frame went to the relay's socket.
    pub fn is_redirect(self) -> bool {
        (self as usize) < Self::PassTruncated as usize
    }
}

/// The program's counters, summed over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerCounters {
    pub(crate) frames: [u64; Outcome::COUNT],
}

impl SteerCounters {
    /// Frames with this outcome since the program was loaded.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.frames[outcome as usize]
    }

    /// Every outcome with its frames.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.iter().copied().zip(self.frames)
    }

    /// Frames sent to the relay's sockets.
    pub fn redirected(&self) -> u64 {
        let ours = self.iter().filter(|(outcome, _)| outcome.is_redirect());
        ours.map(|(_, frames)| frames).sum()
    }
}

/// What a tunnel address of this host is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressUse {
    /// Protocol 41 to it is the relay's.
    pub proto41: bool,
    /// The host itself does not use it: UDP fragments without a port are the relay's too.
    pub dedicated: bool,
}

/// An IPv6 prefix whose destinations the relay takes from the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Covering {
    addr: Ipv6Addr,
    len: u8,
}

impl Covering {
    /// The prefix `addr/len`; bits beyond the length are cleared. `None` above 128.
    pub fn new(addr: Ipv6Addr, len: u8) -> Option<Self> {
        let mask = match len {
            0 => 0,
            1..=128 => u128::MAX << (128 - len),
            _ => return None,
        };
        let addr = Ipv6Addr::from_bits(addr.to_bits() & mask);
        Some(Self { addr, len })
    }

    /// The first address.
    pub fn addr(self) -> Ipv6Addr {
        self.addr
    }

    /// The length in bits.
    pub fn prefix_len(self) -> u8 {
        self.len
    }
}

impl fmt::Display for Covering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The whole steering of one port. [`Steering::apply`](crate::Steering::apply) makes the XDP
/// program follow it, changing only what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteerConfig {
    /// The port's own MAC address.
    pub mac: [u8; 6],
    /// Addresses of this host that are ends of tunnels.
    pub tunnel_addresses: BTreeMap<Ipv4Addr, AddressUse>,
    /// Local ends of UDP tunnels.
    pub udp_ports: BTreeSet<(Ipv4Addr, u16)>,
    /// IPv6 addresses of this host, which stay the kernel's even inside a covering prefix.
    pub host_addresses: BTreeSet<Ipv6Addr>,
    /// Prefixes whose destinations are the relay's.
    pub covering: BTreeSet<Covering>,
    /// VLAN ids besides untagged frames. Id 0 stands for frames with only a priority.
    pub vlans: BTreeSet<u16>,
}

impl SteerConfig {
    /// Most tunnel addresses.
    pub const MAX_TUNNEL_ADDRESSES: usize = 4096;
    /// Most UDP tunnel ends.
    pub const MAX_UDP_PORTS: usize = 65_536;
    /// Most addresses of the host.
    pub const MAX_HOST_ADDRESSES: usize = 4096;
    /// Most covering prefixes: a kernel LPM map with a million costs 1 µs per packet.
    pub const MAX_COVERING: usize = 1024;

    /// The first table that is too long: its name, its limit, its length.
    pub(crate) fn over_limit(&self) -> Option<(&'static str, usize, usize)> {
        [
            (
                "tunnel addresses",
                Self::MAX_TUNNEL_ADDRESSES,
                self.tunnel_addresses.len(),
            ),
            ("UDP ports", Self::MAX_UDP_PORTS, self.udp_ports.len()),
            (
                "addresses of the host",
                Self::MAX_HOST_ADDRESSES,
                self.host_addresses.len(),
            ),
            ("covering prefixes", Self::MAX_COVERING, self.covering.len()),
        ]
        .into_iter()
        .find(|(_, limit, len)| len > limit)
    }
}

/// `NEAR_SLOTS` of `bpf/steer.h`.
const NEAR_SLOTS: usize = 4;
/// `ADDR_PRESENT`, `NEAR_HOSTS`, and the longest prefix that a slot can say, of `bpf/steer.h`.
const ADDR_PRESENT: u32 = 4;
const NEAR_HOSTS: u64 = 0x80;
const NEAR_LEN_MAX: u8 = 56;

/// What the near tables of the program hold: what a configuration says about the first tunnel addresses
/// and the widest covering prefixes, slot by slot, none in use behind one that is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Near {
    /// Address and flags, as `struct near_addr`.
    pub(crate) addresses: [[u8; 8]; NEAR_SLOTS],
    pub(crate) covering: [u64; NEAR_SLOTS],
}

impl Near {
    pub(crate) fn of(config: &SteerConfig) -> Self {
        let addresses = &config.tunnel_addresses;
        Self::new(addresses, &config.covering, &config.host_addresses)
    }

    pub(crate) fn new<'a>(
        addresses: impl IntoIterator<Item = (&'a Ipv4Addr, &'a AddressUse)>,
        covering: &BTreeSet<Covering>,
        hosts: &BTreeSet<Ipv6Addr>,
    ) -> Self {
        let mut near = Self::default();
        for (slot, (addr, used)) in near.addresses.iter_mut().zip(addresses) {
            let [a, b, c, d] = addr.octets();
            let [e, f, g, h] = (address_flags(*used) | ADDR_PRESENT).to_ne_bytes();
            *slot = [a, b, c, d, e, f, g, h];
        }
        let fits = |prefix: &&Covering| (1..=NEAR_LEN_MAX).contains(&prefix.len);
        let mut widest: Vec<&Covering> = covering.iter().filter(fits).collect();
        widest.sort_by_key(|prefix| prefix.len);
        for (slot, prefix) in near.covering.iter_mut().zip(widest) {
            let first = prefix.addr.to_bits();
            let last = Ipv6Addr::from_bits(first | u128::MAX >> prefix.len);
            let host = hosts.range(prefix.addr..=last).next();
            *slot = (first >> 64) as u64 | u64::from(prefix.len) | host.map_or(0, |_| NEAR_HOSTS);
        }
        near
    }
}

/// `ADDR_PROTO41` and `ADDR_DEDICATED` of `bpf/steer.h`.
pub(crate) fn address_flags(used: AddressUse) -> u32 {
    u32::from(used.proto41) | u32::from(used.dedicated) << 1
}

/// `struct udp_key` of `bpf/steer.h`.
pub(crate) fn udp_key(addr: Ipv4Addr, port: u16) -> [u8; 8] {
    let [a, b, c, d] = addr.octets();
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../bpf/steer.h");

    #[test]
    fn outcomes_match_the_header() {
        let body = HEADER.split("enum steer_outcome {").nth(1).unwrap();
        let names: Vec<String> = body
            .split('}')
            .next()
            .unwrap()
            .lines()
            .filter_map(|line| line.trim().split(',').next())
            .filter(|name| !name.is_empty() && *name != "STEER_OUTCOMES")
            .map(str::to_lowercase)
            .collect();
        let ours: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names, ours);
        assert_eq!(Outcome::ALL.iter().filter(|o| o.is_redirect()).count(), 5);
    }

    #[test]
    fn limits_are_half_of_the_maps() {
        let defined = |name: &str| -> usize {
            let line = HEADER.lines().find(|line| line.contains(name)).unwrap();
            line.split_whitespace().nth(2).unwrap().parse().unwrap()
        };
        for (name, limit) in [
            ("#define MAX_ADDRS", SteerConfig::MAX_TUNNEL_ADDRESSES),
            ("#define MAX_UDP_PORTS", SteerConfig::MAX_UDP_PORTS),
            ("#define MAX_HOST_ADDRS", SteerConfig::MAX_HOST_ADDRESSES),
            ("#define MAX_COVERING", SteerConfig::MAX_COVERING),
        ] {
            assert_eq!(defined(name), 2 * limit, "{name}");
        }
        let both = AddressUse {
            proto41: true,
            dedicated: true,
        };
        assert_eq!(
            address_flags(both) as usize,
            defined("#define ADDR_PROTO41") | defined("#define ADDR_DEDICATED")
        );
    }

    #[test]
    fn near_slots_are_those_of_the_header() {
        let defined = |name: &str| {
            let mut lines = HEADER.lines();
            let line = lines.find(|line| line.split_whitespace().nth(1) == Some(name));
            let value = line.unwrap().split_whitespace().nth(2).unwrap();
            let hex = value
                .strip_prefix("0x")
                .map(|hex| u64::from_str_radix(hex, 16));
            hex.unwrap_or_else(|| value.parse()).unwrap()
        };
        assert_eq!(defined("NEAR_SLOTS"), NEAR_SLOTS as u64);
        assert_eq!(defined("ADDR_PRESENT"), u64::from(ADDR_PRESENT));
        assert_eq!(defined("NEAR_HOSTS"), NEAR_HOSTS);
        assert!(defined("NEAR_LEN") >= u64::from(NEAR_LEN_MAX));
        assert_eq!(defined("NEAR_LEN") & NEAR_HOSTS, 0);
    }

    #[test]
    fn near_slots_say_what_the_configuration_says() {
        let prefix = |text: &str, len| Covering::new(text.parse().unwrap(), len).unwrap();
        let mut config = SteerConfig {
            tunnel_addresses: (1..=6)
                .map(|i| (Ipv4Addr::new(198, 51, 100, i), AddressUse::default()))
                .collect(),
            covering: [
                prefix("2001:db8:1::", 48),
                prefix("2001:db8:1:2::", 64),
                prefix("2a00::", 16),
                prefix("::", 0),
            ]
            .into(),
            ..SteerConfig::default()
        };
        let near = Near::of(&config);
        assert_eq!(near.addresses[0], [198, 51, 100, 1, 4, 0, 0, 0]);
        assert_eq!(near.addresses[3][3], 4);
        // the widest first; those that do not fit in a slot are only in the large table
        assert_eq!(
            near.covering,
            [0x2a00 << 48 | 16, 0x2001_0db8_0001_0030, 0, 0]
        );
        config.host_addresses = ["2001:db8:1:ffff:ffff:ffff:ffff:ffff".parse().unwrap()].into();
        assert_eq!(Near::of(&config).covering[1], 0x2001_0db8_0001_00b0);
        config.host_addresses = ["2001:db8:2::".parse().unwrap()].into();
        assert_eq!(Near::of(&config).covering[1], 0x2001_0db8_0001_0030);
        assert_eq!(Near::of(&SteerConfig::default()), Near::default());
    }

    #[test]
    fn prefixes_are_cut_to_their_length() {
        let addr: Ipv6Addr = "2001:db8:1:2::3".parse().unwrap();
        let text = |len| Covering::new(addr, len).map(|prefix| prefix.to_string());
        assert_eq!(text(48).as_deref(), Some("2001:db8:1::/48"));
        assert_eq!(text(0).as_deref(), Some("::/0"));
        assert_eq!(text(128).as_deref(), Some("2001:db8:1:2::3/128"));
        assert_eq!(text(129), None);
    }

    #[test]
    fn too_long_table_is_named() {
        let mut config = SteerConfig::default();
        assert_eq!(config.over_limit(), None);
        config.covering = (0..1025_u128)
            .filter_map(|i| Covering::new(Ipv6Addr::from_bits(i << 80), 48))
            .collect();
        assert_eq!(config.over_limit(), Some(("covering prefixes", 1024, 1025)));
    }
}
