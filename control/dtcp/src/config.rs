//! What an operator may set. Every option of dtcps(8) has its place here; the letter is named.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv6Net;
use serde::{Deserialize, Deserializer};

use crate::interfaces::Interfaces;
use crate::machine::Rules;
use crate::wire;

/// Section `[dtcp]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// IPv4 addresses to listen on. Default: all.
    pub listen: Vec<Ipv4Addr>,
    /// TCP port (`-p`). Default 20200.
    pub port: u16,
    /// Let several processes share the port, where one may not hold enough descriptors.
    pub share_port: bool,
    /// Connections the kernel keeps for us until they are accepted; it takes `net.core.somaxconn` if
    /// that is less. Default 16384.
    pub backlog: u32,
    /// What follows the challenge in the greeting.
    pub banner: String,
    /// Logical interfaces (`-i`): `gif10` (from gif10 up, created at need) or a regular expression
    /// over the existing ones (`gif1[0-9]`). Default: every existing one.
    pub interfaces: Option<String>,
    /// `false` (`-c`): `interfaces` is a regular expression even if it looks like a name.
    pub cloning: bool,
    /// Keep what was created at need (`-o`).
    pub keep: bool,
    /// The logical interfaces that exist without being created: names such as `gif0-gif16383`.
    pub existing: Vec<String>,
    /// Prefix of the address pairs (the argument of dtcps): turns `host` on.
    #[serde(deserialize_with = "prefix")]
    pub host_prefix: Option<Ipv6Net>,
    /// Address told to clients as the server's (`-g`), where the server is behind NAT.
    pub announce: Option<Ipv4Addr>,
    /// Who has which prefixes and interface.
    pub routetable: Option<PathBuf>,
    /// Whether `network` is offered. Default: if there is a routetable. `true` without one: accounts
    /// have the prefixes that the account store knows.
    pub network: Option<bool>,
    /// Largest IPv6 packet in a tunnel, 1280 to 1480 (1472 over UDP). Default 1280.
    pub mtu: u16,
    /// Answer `+OK` to an empty line, as one of the two drafts has it.
    pub empty_line_ok: bool,
    /// Tunnels over UDP.
    pub udp: Udp,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much there may be.
    pub limits: Limits,
}

/// Section `[dtcp.udp]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Udp {
    /// Offer it (`-U`). Default off.
    pub enabled: bool,
    /// First port of the server, one per tunnel (`-b`). Default 4028.
    pub first_port: u16,
    /// Last port. Default 20199, below the TCP port.
    pub last_port: u16,
    /// Take packets from any IPv4 address, not only the one that logged in.
    pub any_source: bool,
}

/// Section `[dtcp.timeouts]`, in seconds; fractions are fine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Idle limit of a session without a tunnel. Default 60.
    #[serde(deserialize_with = "seconds")]
    pub greeted: Duration,
    /// Idle limit of a session with a tunnel. Default 300.
    #[serde(deserialize_with = "seconds")]
    pub up: Duration,
    /// How long a session may be without a tunnel, however lively. Default 600.
    #[serde(deserialize_with = "seconds")]
    pub greeted_total: Duration,
    /// End sessions whose tunnel brings no packet for so long; needs a source of packet counts.
    /// Default 0: never.
    #[serde(deserialize_with = "seconds")]
    pub traffic: Duration,
    /// How long to wait for the peer's FIN after ours. Default 5.
    #[serde(deserialize_with = "seconds")]
    pub fin: Duration,
    /// The n-th wrong login in a row is answered n times this later, at most 10 s. Default 1.
    #[serde(deserialize_with = "seconds")]
    pub failure_delay: Duration,
}

/// Section `[dtcp.limits]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions. Default 200000, and never more than descriptors allow.
    pub sessions: usize,
    /// Descriptors left to the rest of the process. Default 512.
    pub reserved_descriptors: usize,
    /// Sessions without a tunnel, in per cent of all sessions. Default 75.
    pub greeted_percent: u8,
    /// Sessions without a tunnel from one address. Default 1024.
    pub greeted_per_address: usize,
    /// Wrong logins in a row that end a session. Default 10.
    pub failures_per_session: u32,
    /// Wrong logins from one address before it has to wait. Default 100.
    pub failures_per_address: u32,
    /// How many of these are forgotten per minute. Default 10.
    pub failures_forgotten_per_minute: u32,
    /// Lines per second of one session, after a first 20 times as many; what comes faster waits.
    /// Default 50.
    pub lines_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Ipv4Addr::UNSPECIFIED],
            port: wire::PORT,
            share_port: false,
            backlog: 16_384,
            banner: wire::reply::DEFAULT_BANNER.to_owned(),
            interfaces: None,
            cloning: true,
            keep: false,
            existing: vec!["gif0-gif65535".to_owned()],
            host_prefix: None,
            announce: None,
            routetable: None,
            network: None,
            mtu: 1280,
            empty_line_ok: false,
            udp: Udp::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            enabled: false,
            first_port: wire::udp::FIRST_PORT,
            last_port: wire::PORT - 1,
            any_source: false,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            greeted: Duration::from_secs(60),
            up: Duration::from_secs(300),
            greeted_total: Duration::from_secs(600),
            traffic: Duration::ZERO,
            fin: Duration::from_secs(5),
            failure_delay: Duration::from_secs(1),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 200_000,
            reserved_descriptors: 512,
            greeted_percent: 75,
            greeted_per_address: 1024,
            failures_per_session: 10,
            failures_per_address: 100,
            failures_forgotten_per_minute: 10,
            lines_per_second: 50,
        }
    }
}

impl Config {
    /// What is wrong with it: each line names the key. Empty: nothing.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |good: bool, problem: &str| {
            if !good {
                problems.push(problem.to_owned());
            }
        };
        require(!self.listen.is_empty(), "listen: needs an address");
        require(
            self.listen.len() <= 64,
            "listen: at most 64 addresses; leave it out for all",
        );
        require(
            self.banner.len() <= 128 && self.banner.bytes().all(|b| (0x20..0x7f).contains(&b)),
            "banner: at most 128 bytes of printable ASCII",
        );
        require(
            self.announce.is_none_or(|address| {
                !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
            }),
            "announce: must be the address of one host",
        );
        let mtu_max = if self.udp.enabled { 1472 } else { 1480 };
        require(
            (1280..=mtu_max).contains(&self.mtu),
            "mtu: 1280 to 1480, with udp.enabled to 1472",
        );
        require(
            !self.udp.enabled || (1..=self.udp.last_port).contains(&self.udp.first_port),
            "udp.first_port: 1 or more, and not above udp.last_port",
        );
        require(
            self.host_prefix
                .is_none_or(|prefix| prefix.prefix_len() <= 124),
            "host_prefix: no room for address pairs; a /64 is usual",
        );
        self.check_numbers(&mut require);
        if let Err(problem) = Interfaces::new(self) {
            problems.push(problem.to_string());
        }
        problems
    }

    fn check_numbers(&self, require: &mut impl FnMut(bool, &str)) {
        let limits = &self.limits;
        let timeouts = &self.timeouts;
        require(self.backlog > 0, "backlog: must be 1 or more");
        require(limits.sessions > 0, "limits.sessions: must be 1 or more");
        require(
            (1..=100).contains(&limits.greeted_percent),
            "limits.greeted_percent: 1 to 100",
        );
        for (value, key) in [
            (limits.greeted_per_address, "limits.greeted_per_address"),
            (
                limits.failures_per_session as usize,
                "limits.failures_per_session",
            ),
            (
                limits.failures_per_address as usize,
                "limits.failures_per_address",
            ),
            (
                limits.failures_forgotten_per_minute as usize,
                "limits.failures_forgotten_per_minute",
            ),
            (limits.lines_per_second as usize, "limits.lines_per_second"),
        ] {
            require(value > 0, &format!("{key}: must be 1 or more"));
        }
        for (value, key) in [
            (timeouts.greeted, "timeouts.greeted"),
            (timeouts.up, "timeouts.up"),
            (timeouts.greeted_total, "timeouts.greeted_total"),
        ] {
            require(!value.is_zero(), &format!("{key}: must be more than 0"));
        }
    }

    /// Whether `network` is offered.
    #[must_use]
    pub fn offers_network(&self) -> bool {
        self.network.unwrap_or(self.routetable.is_some())
    }

    /// Where to listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddrV4> {
        let mut addresses: Vec<_> = self
            .listen
            .iter()
            .map(|address| SocketAddrV4::new(*address, self.port))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// What a session must know of it.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let timeouts = &self.timeouts;
        Rules {
            greeted_idle: timeouts.greeted,
            greeted_total: timeouts.greeted_total,
            up_idle: timeouts.up,
            traffic: (!timeouts.traffic.is_zero()).then_some(timeouts.traffic),
            failure_delay: timeouts.failure_delay,
            failures_max: self.limits.failures_per_session,
            host: self.host_prefix.is_some(),
            network: self.offers_network(),
            udp: self.udp.enabled,
            empty_line_ok: self.empty_line_ok,
        }
    }
}

/// Reads the prefix argument: `2001:db8::` as the original has it, meant as a /64, or with `/len`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_host_prefix(text: &str) -> Result<Ipv6Net, String> {
    let with_len = if text.contains('/') {
        text.to_owned()
    } else if text.ends_with("::") {
        format!("{text}/64")
    } else {
        return Err(format!("{text:?}: a prefix ends in `::` or has a length"));
    };
    let net: Ipv6Net = with_len
        .parse()
        .map_err(|_| format!("{text:?} is not an IPv6 prefix"))?;
    if net.trunc() != net {
        return Err(format!("{text:?} has bits set after its length"));
    }
    Ok(net)
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv6Net>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_host_prefix(&text))
        .transpose()
        .map_err(serde::de::Error::custom)
}

/// A year: longer limits are mistakes, and cannot be added to every clock.
const SECONDS_MAX: f64 = 31_536_000.0;

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u32),
        Fraction(f64),
    }
    let value = match Number::deserialize(deserializer)? {
        Number::Whole(value) => f64::from(value),
        Number::Fraction(value) => value,
    };
    if !(0.0..=SECONDS_MAX).contains(&value) {
        return Err(serde::de::Error::custom("seconds must be 0 to 31536000"));
    }
    Ok(Duration::from_secs_f64(value))
}
