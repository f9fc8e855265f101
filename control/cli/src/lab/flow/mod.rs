//! The traffic of a demo: pings, UDP and TCP through the tunnel, both ways, each checked.

mod ping;
pub(super) mod spoof;
mod tcp;
mod udp;

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use serde::Serialize;

use self::ping::{Outcome, Pinger};
use super::error::Error;
use super::netns::Netns;
use super::stop::Stop;
use super::topology::{HOST_V6, RELAY_LINK_V6, Role, Topology};

/// The first packet waits for daemon, neighbours and routes; later ones do not.
const FIRST_REPLY_LIMIT: Duration = Duration::from_secs(15);
const REPLY_LIMIT: Duration = Duration::from_secs(1);
const PINGS: u16 = 10;
/// An echo request as `ping` sends it: 56 bytes of data.
const PING_LEN: usize = 104;

/// Result of one flow.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FlowResult {
    pub(super) name: &'static str,
    pub(super) direction: &'static str,
    pub(super) passed: bool,
    /// What was seen, for people.
    pub(super) detail: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// What was measured, where the flow measures it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) damaged: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) packets_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) megabits_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) round_trip_microseconds: Option<f64>,
}

impl fmt::Display for FlowResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "pass" } else { "FAIL" };
        write!(
            f,
            "{verdict}  {:<18} {:<13} {}",
            self.name, self.direction, self.detail
        )
    }
}

/// One side of a conversation.
#[derive(Clone, Debug)]
struct Party {
    netns: Netns,
    address: Ipv6Addr,
}

/// What flows must know of the tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) mtu: u16,
    /// Its link has addresses.
    pub(super) linked: bool,
}

/// Whether the user reaches nobody, and what he saw.
pub(super) fn silence(topology: &Topology) -> Result<(bool, String), Error> {
    let user = Party {
        netns: topology.netns(Role::User),
        address: Ipv6Addr::UNSPECIFIED,
    };
    let outcome = Pinger::open(&user, HOST_V6)?.ping(PING_LEN, REPLY_LIMIT)?;
    let silent = matches!(outcome, Outcome::NoRoute | Outcome::Silence);
    Ok((silent, format!("ping of {HOST_V6}: {outcome}")))
}

/// Runs all flows; `seen` is called with each result as it comes.
pub(super) fn run_all(
    topology: &Topology,
    Path { mtu, linked }: Path,
    seconds: Duration,
    stop: &Stop,
    mut seen: impl FnMut(&FlowResult),
) -> Result<Vec<FlowResult>, Error> {
    let user = Party {
        netns: topology.netns(Role::User),
        address: topology.user_v6(),
    };
    let host = Party {
        netns: topology.netns(Role::Host),
        address: HOST_V6,
    };
    let up = "user -> host";
    let down = "host -> user";
    let mut results = Vec::new();
    let mut done = |result: FlowResult| {
        seen(&result);
        results.push(result);
        stop.check()
    };
    done(first_reply(&user, &host, up, stop)?)?;
    done(first_reply(&host, &user, down, stop)?)?;
    done(ping_series(&user, host.address, up, stop)?)?;
    done(ping_series(&host, user.address, down, stop)?)?;
    if linked {
        done(ping_series(&user, RELAY_LINK_V6, "user -> relay", stop)?)?;
    }
    done(ping_exact(&user, host.address, mtu, up)?)?;
    done(ping_exact(&host, user.address, mtu, down)?)?;
    done(ping_refused_at_home(&user, host.address, mtu, up)?)?;
    done(ping_too_big(&host, user.address, mtu, down)?)?;
    for result in udp::both_ways(&user, &host, mtu, seconds, stop)? {
        done(result)?;
    }
    done(tcp::transfer(&user, &host, up, seconds, stop)?)?;
    done(tcp::transfer(&host, &user, down, seconds, stop)?)?;
    Ok(results)
}

fn result(name: &'static str, direction: &'static str, passed: bool, detail: String) -> FlowResult {
    FlowResult {
        name,
        direction,
        passed,
        detail,
        figures: Figures::default(),
    }
}

/// Pings until the path answers.
fn first_reply(
    from: &Party,
    to: &Party,
    direction: &'static str,
    stop: &Stop,
) -> Result<FlowResult, Error> {
    let mut pinger = Pinger::open(from, to.address)?;
    let started = std::time::Instant::now();
    let mut last = Outcome::Silence;
    let reply = stop.wait_for(FIRST_REPLY_LIMIT, || {
        last = pinger.ping(PING_LEN, REPLY_LIMIT / 4)?;
        Ok(matches!(last, Outcome::Reply(_)).then_some(()))
    })?;
    let detail = match reply {
        Some(()) => format!(
            "first reply after {} ms, request {}",
            started.elapsed().as_millis(),
            pinger.sent()
        ),
        None => format!("no reply in {FIRST_REPLY_LIMIT:?}, last: {last}"),
    };
    Ok(result("path comes up", direction, reply.is_some(), detail))
}

fn ping_series(
    from: &Party,
    to: Ipv6Addr,
    direction: &'static str,
    stop: &Stop,
) -> Result<FlowResult, Error> {
    let mut pinger = Pinger::open(from, to)?;
    let mut times = Vec::new();
    let mut other = None;
    for _ in 0..PINGS {
        stop.check()?;
        match pinger.ping(PING_LEN, REPLY_LIMIT)? {
            Outcome::Reply(time) => times.push(time),
            outcome => other = Some(outcome),
        }
    }
    times.sort_unstable();
    let median = times
        .get(times.len() / 2)
        .map(|time| time.as_secs_f64() * 1e6);
    let lost = u64::from(PINGS) - times.len() as u64;
    let mut detail = format!("{} of {PINGS} replies", times.len());
    if let Some(median) = median {
        detail += &format!(", median {median:.0} us");
    }
    if let Some(other) = other {
        detail += &format!("; otherwise: {other}");
    }
    let figures = Figures {
        sent: Some(u64::from(PINGS)),
        lost: Some(lost),
        round_trip_microseconds: median,
        ..Figures::default()
    };
    Ok(FlowResult {
        figures,
        ..result("ping", direction, lost == 0, detail)
    })
}

/// A packet of exactly the tunnel's MTU passes, and so does its reply.
fn ping_exact(
    from: &Party,
    to: Ipv6Addr,
    mtu: u16,
    direction: &'static str,
) -> Result<FlowResult, Error> {
    let outcome = Pinger::open(from, to)?.ping(usize::from(mtu), REPLY_LIMIT)?;
    let passed = matches!(outcome, Outcome::Reply(_));
    Ok(result(
        "ping, MTU",
        direction,
        passed,
        format!("{mtu} bytes: {outcome}"),
    ))
}

/// On the user's side the tunnel's MTU is that of the device: the kernel itself says no.
fn ping_refused_at_home(
    from: &Party,
    to: Ipv6Addr,
    mtu: u16,
    direction: &'static str,
) -> Result<FlowResult, Error> {
    let len = usize::from(mtu) + 1;
    let outcome = Pinger::open(from, to)?.ping(len, REPLY_LIMIT)?;
    let passed = matches!(outcome, Outcome::RefusedHere);
    Ok(result(
        "ping, MTU + 1",
        direction,
        passed,
        format!("{len} bytes: {outcome}"),
    ))
}

/// On the host's side the relay says Packet Too Big, and the kernel believes it.
fn ping_too_big(
    from: &Party,
    to: Ipv6Addr,
    mtu: u16,
    direction: &'static str,
) -> Result<FlowResult, Error> {
    let len = usize::from(mtu) + 1;
    let mut pinger = Pinger::open(from, to)?;
    let first = pinger.ping(len, REPLY_LIMIT)?;
    let told = matches!(first, Outcome::TooBig { mtu: told, .. } if told == u32::from(mtu));
    let mut detail = format!("{len} bytes: {first}");
    let mut passed = told;
    if told {
        let second = pinger.ping(len, REPLY_LIMIT)?;
        passed = matches!(second, Outcome::RefusedHere);
        detail += &format!("; again: {second}");
    }
    Ok(result("ping, MTU + 1", direction, passed, detail))
}
