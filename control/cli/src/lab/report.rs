//! What a demo found: for people as text, for programs as JSON. One structure feeds both.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::Api;
use super::error::Error;
use super::flow::{FlowResult, spoof};

use super::instance::{Lab, Options};
use super::stop::Stop;
use super::story::Step;
use super::topology::Topology;

const SETTLE_TRIES: u32 = 40;
const SETTLE_STEP: Duration = Duration::from_millis(50);

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        })
    }
}

/// Packets under a name.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tally {
    pub(super) name: String,
    pub(super) packets: u64,
}

/// One drop reason that occurred.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Drop {
    pub(super) reason: String,
    pub(super) text: String,
    #[serde(flatten)]
    pub(super) count: Count,
}

/// One port of the relay.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) driver: String,
    /// zero-copy, copy or generic.
    pub(super) mode: &'static str,
    /// Why not a faster one.
    pub(super) reason: String,
    pub(super) queues: u32,
    pub(super) received: Count,
    pub(super) sent: Count,
    /// Redirected by XDP, lost before a worker saw it: its ring was full.
    pub(super) lost: u64,
    /// What the XDP program decided.
    pub(super) steering: Vec<Tally>,
}

impl Port {
    /// Packets that the XDP program took away from the kernel.
    fn redirected(&self) -> u64 {
        let ours = |outcome: &&Tally| outcome.name.starts_with("xsk_");
        self.steering
            .iter()
            .filter(ours)
            .map(|outcome| outcome.packets)
            .sum()
    }
}

/// The tunnel, as the relay sees it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tunnel {
    pub(super) id: String,
    /// Where the user of a UDP tunnel was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    pub(super) received: Count,
    pub(super) sent: Count,
    pub(super) drops: Vec<Drop>,
}

/// The counters of `sixferry-cpe`, as it prints them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UserCounters {
    encap_packets: u64,
    encap_bytes: u64,
    decap_packets: u64,
    decap_bytes: u64,
    #[serde(default)]
    keepalives_sent: u64,
    socket_overflow: u64,
    drops: BTreeMap<String, u64>,
}

/// Where every packet went.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) received: Count,
    pub(super) injected: Count,
    pub(super) forwarded: Count,
    pub(super) answered: Count,
    pub(super) punted: Count,
    pub(super) dropped: Count,
    pub(super) drops: Vec<Drop>,
    pub(super) punts: Vec<Tally>,
}

impl Totals {
    /// received + injected = forwarded + answered + punted + dropped, to the packet.
    fn balance(&self) -> bool {
        self.received.packets + self.injected.packets
            == self.forwarded.packets
                + self.answered.packets
                + self.punted.packets
                + self.dropped.packets
    }
}

/// Which daemon it was.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Daemon {
    pub(super) version: String,
    pub(super) kernel: String,
    pub(super) workers: u32,
    pub(super) idle_policy: String,
    pub(super) resident_bytes: u64,
}

/// The result of a demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) passed: bool,
    options: Options,
    #[serde(skip)]
    topology: Topology,
    daemon: Daemon,
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    story: Vec<Step>,
    flows: Vec<FlowResult>,
    tunnel: Tunnel,
    totals: Totals,
    every_packet_accounted_for: bool,
    /// The tunnel's traffic as the relay counts it is at least what the flows sent and got.
    traffic_went_through_the_tunnel: bool,
    cpe: Option<UserCounters>,
}

impl Report {
    pub(super) async fn collect(
        lab: &Lab,
        api: &Api,
        mut flows: Vec<FlowResult>,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let account = Account::settled(api, stop).await?;
        let balanced = account.balance();
        let kind = lab.options.kind;
        let tunnel = api.tunnel(kind, lab.tunnel_id()).await?;
        let drops = account.totals.drops.iter();
        flows.push(spoof::judge(
            kind,
            drops.map(|drop| (drop.reason.as_str(), drop.count.packets)),
        ));
        let least = least_traffic(&flows);
        let through = tunnel.received.packets.min(tunnel.sent.packets) >= least;
        let flows_passed = !flows.is_empty() && flows.iter().all(|flow| flow.passed);
        Ok(Self {
            passed: flows_passed && balanced && through,
            options: lab.options.clone(),
            topology: lab.topology.clone(),
            daemon: api.daemon().await?,
            ports: account.ports,
            story: Vec::new(),
            flows,
            tunnel,
            totals: account.totals,
            every_packet_accounted_for: balanced,
            traffic_went_through_the_tunnel: through,
            cpe: lab.cpe_counters(stop)?,
        })
    }
}

impl Report {
    /// Adds what happened to the user's account and login.
    pub(super) fn tell(&mut self, story: Vec<Step>) {
        self.passed &= story.iter().all(|step| step.passed);
        self.story = story;
    }
}

/// The figures of one moment, and whether they account for every packet.
struct Account {
    ports: Vec<Port>,
    totals: Totals,
}

impl Account {
    async fn read(api: &Api) -> Result<Self, Error> {
        Ok(Self {
            ports: api.ports().await?,
            totals: api.totals().await?,
        })
    }

    /// What XDP took from the kernel reached a worker or was lost at its ring, and what reached
    /// a worker went somewhere.
    fn balance(&self) -> bool {
        let redirected: u64 = self.ports.iter().map(Port::redirected).sum();
        let lost: u64 = self.ports.iter().map(|port| port.lost).sum();
        let ports: u64 = self.ports.iter().map(|port| port.received.packets).sum();
        let received = self.totals.received.packets;
        self.totals.balance() && ports == received && redirected == received + lost
    }

    /// Reads until the figures agree. They are published one after the other, those of the
    /// ports at intervals, so a reader in between sees sums that are off.
    async fn settled(api: &Api, stop: &Stop) -> Result<Self, Error> {
        let mut account = Self::read(api).await?;
        for _ in 0..SETTLE_TRIES {
            if account.balance() || stop.requested() {
                break;
            }
            tokio::time::sleep(SETTLE_STEP).await;
            account = Self::read(api).await?;
        }
        Ok(account)
    }
}

/// Packets that must have crossed the tunnel in each direction if the flows tell the truth:
/// what counted flows sent and did not lose crosses it once there and once back.
fn least_traffic(flows: &[FlowResult]) -> u64 {
    flows
        .iter()
        .filter_map(|flow| Some(flow.figures.sent? - flow.figures.lost.unwrap_or(0)))
        .sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTopology\n{}", self.topology)?;
        writeln!(
            f,
            "\nDataplane\n  sixferryd {}, kernel {}, {} worker(s), idle policy {}, {} MiB resident",
            self.daemon.version,
            self.daemon.kernel,
            self.daemon.workers,
            self.daemon.idle_policy,
            self.daemon.resident_bytes >> 20
        )?;
        for port in &self.ports {
            self.write_port(f, port)?;
        }
        if !self.story.is_empty() {
            writeln!(f, "\nStory")?;
            for step in &self.story {
                writeln!(f, "  {step}")?;
            }
        }
        writeln!(f, "\nFlows")?;
        for flow in &self.flows {
            writeln!(f, "  {flow}")?;
        }
        writeln!(f, "\nTunnel {}, MTU {}", self.tunnel.id, self.options.mtu)?;
        if let Some(endpoint) = &self.tunnel.endpoint {
            writeln!(f, "  the user was found at {endpoint}")?;
        }
        write_count(f, "from the user", self.tunnel.received)?;
        write_count(f, "to the user", self.tunnel.sent)?;
        write_drops(f, &self.tunnel.drops)?;
        self.write_totals(f)?;
        if let Some(cpe) = &self.cpe {
            write_user(f, cpe)?;
        }
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        let passed = self.flows.iter().filter(|flow| flow.passed).count();
        write!(f, "\n{verdict}: {passed} of {} flows", self.flows.len())?;
        if !self.story.is_empty() {
            let passed = self.story.iter().filter(|step| step.passed).count();
            write!(f, ", {passed} of {} steps", self.story.len())?;
        }
        writeln!(f)
    }
}

impl Report {
    fn write_port(&self, f: &mut fmt::Formatter<'_>, port: &Port) -> fmt::Result {
        write!(f, "  {} ({}): AF_XDP {}", port.name, port.driver, port.mode)?;
        if !port.reason.is_empty() {
            write!(f, " ({})", port.reason)?;
        }
        writeln!(
            f,
            ", {} queue(s), {} packets in, {} out, {} lost",
            port.queues, port.received.packets, port.sent.packets, port.lost
        )?;
        write_tallies(f, &port.steering)
    }

    fn write_totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        writeln!(f, "\nEvery packet")?;
        write_count(f, "received", totals.received)?;
        write_count(f, "injected", totals.injected)?;
        write_count(f, "forwarded", totals.forwarded)?;
        write_count(f, "answered", totals.answered)?;
        write_count(f, "punted", totals.punted)?;
        write_tallies(f, &totals.punts)?;
        write_count(f, "dropped", totals.dropped)?;
        write_drops(f, &totals.drops)?;
        let sum = if self.every_packet_accounted_for {
            "every packet is accounted for"
        } else {
            "THE SUMS DIFFER"
        };
        let through = if self.traffic_went_through_the_tunnel {
            "all counted traffic went through the tunnel"
        } else {
            "COUNTED TRAFFIC DID NOT GO THROUGH THE TUNNEL"
        };
        writeln!(f, "  {sum}; {through}")
    }
}

fn write_count(f: &mut fmt::Formatter<'_>, what: &str, count: Count) -> fmt::Result {
    writeln!(
        f,
        "  {what:<14} {:>10} packets {:>14} bytes",
        count.packets, count.bytes
    )
}

fn write_user(f: &mut fmt::Formatter<'_>, cpe: &UserCounters) -> fmt::Result {
    let count = |packets, bytes| Count { packets, bytes };
    writeln!(f, "\nUser's end")?;
    write_count(f, "to the relay", count(cpe.encap_packets, cpe.encap_bytes))?;
    write_count(
        f,
        "from the relay",
        count(cpe.decap_packets, cpe.decap_bytes),
    )?;
    if cpe.keepalives_sent > 0 {
        writeln!(f, "      keepalives {}", cpe.keepalives_sent)?;
    }
    if cpe.socket_overflow > 0 {
        writeln!(f, "      socket overflow {}", cpe.socket_overflow)?;
    }
    cpe.drops
        .iter()
        .try_for_each(|(reason, packets)| writeln!(f, "      {reason} {packets}"))
}

fn write_tallies(f: &mut fmt::Formatter<'_>, tallies: &[Tally]) -> fmt::Result {
    for tally in tallies {
        writeln!(f, "      {} {}", tally.name, tally.packets)?;
    }
    Ok(())
}

fn write_drops(f: &mut fmt::Formatter<'_>, drops: &[Drop]) -> fmt::Result {
    for drop in drops {
        writeln!(
            f,
            "      {} {}: {}",
            drop.reason, drop.count.packets, drop.text
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::flow::Figures;

    fn packets(packets: u64) -> Count {
        Count { packets, bytes: 0 }
    }

    fn tally(name: &str, packets: u64) -> Tally {
        let name = name.to_owned();
        Tally { name, packets }
    }

    fn account() -> Account {
        Account {
            ports: vec![Port {
                name: "nic".to_owned(),
                driver: "veth".to_owned(),
                mode: "copy",
                reason: String::new(),
                queues: 1,
                received: packets(10),
                sent: packets(9),
                lost: 3,
                steering: vec![
                    tally("xsk_ipv6", 6),
                    tally("pass_arp", 4),
                    tally("xsk_proto41", 7),
                ],
            }],
            totals: Totals {
                received: packets(10),
                injected: packets(2),
                forwarded: packets(7),
                answered: packets(2),
                punted: packets(2),
                dropped: packets(1),
                ..Totals::default()
            },
        }
    }

    #[test]
    fn the_account_is_to_the_packet() {
        assert!(account().balance());
        let mut off = account();
        off.totals.dropped.packets += 1;
        assert!(!off.balance(), "a packet too many went somewhere");
        let mut off = account();
        off.ports[0].lost -= 1;
        assert!(!off.balance(), "a redirected packet never arrived");
        let mut off = account();
        off.ports[0].received.packets -= 1;
        assert!(!off.balance(), "a worker received what no port did");
    }

    #[test]
    fn only_traffic_that_came_back_must_have_crossed() {
        let flow = |sent, lost| FlowResult {
            name: "",
            direction: "",
            passed: true,
            detail: String::new(),
            figures: Figures {
                sent,
                lost,
                ..Figures::default()
            },
        };
        let flows = [
            flow(Some(10), Some(3)),
            flow(None, None),
            flow(Some(5), None),
        ];
        assert_eq!(least_traffic(&flows), 12);
    }
}
