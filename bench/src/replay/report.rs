//! What a replay counted, for people and for programs.

use serde::Serialize;
use sixferry_engine::PortQueueStats;
use sixferry_fwd::{CounterSnapshot, DropReason, PacketsBytes, PuntReason, TunnelTotals};
use std::collections::BTreeMap;
use std::fmt;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<PacketsBytes> for Amount {
    fn from(PacketsBytes { packets, bytes }: PacketsBytes) -> Self {
        Self { packets, bytes }
    }
}

/// All counters of a replay. Reasons that never happened are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Taken from the input files.
    pub received: Amount,
    /// Forwarded.
    pub forwarded: Amount,
    /// Answered: ICMPv6 errors, echo replies, neighbour advertisements.
    pub answered: Amount,
    /// For the slow path; a replay has none, so these end here.
    pub punted: Amount,
    /// Discarded, by the reason's name.
    pub drops: BTreeMap<&'static str, Amount>,
    /// Punted packets, by the reason's name.
    pub punts: BTreeMap<&'static str, u64>,
    /// Unusual combinations of ECN fields.
    pub ecn_unusual: u64,
    /// By port.
    pub ports: BTreeMap<String, PortReport>,
    /// By tunnel.
    pub tunnels: BTreeMap<String, TunnelReport>,
}

/// Counters of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortReport {
    /// Read from its input file.
    pub received: Amount,
    /// Written to its output file.
    pub sent: Amount,
    /// Packets of the input file that do not fit a frame.
    pub too_long: u64,
}

impl From<PortQueueStats> for PortReport {
    fn from(stats: PortQueueStats) -> Self {
        Self {
            received: Amount {
                packets: stats.rx_packets,
                bytes: stats.rx_bytes,
            },
            sent: Amount {
                packets: stats.tx_packets,
                bytes: stats.tx_bytes,
            },
            too_long: stats.rx_dropped,
        }
    }
}

/// Counters of one tunnel; bytes are inner packets'.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TunnelReport {
    /// Out of the tunnel.
    pub decapsulated: Amount,
    /// Into the tunnel.
    pub encapsulated: Amount,
    /// Dropped packets by reason.
    pub drops: BTreeMap<&'static str, u64>,
}

impl From<TunnelTotals> for TunnelReport {
    fn from(totals: TunnelTotals) -> Self {
        Self {
            decapsulated: Amount {
                packets: totals.in_packets,
                bytes: totals.in_bytes,
            },
            encapsulated: Amount {
                packets: totals.out_packets,
                bytes: totals.out_bytes,
            },
            drops: totals
                .drops
                .iter()
                .map(|(reason, count)| (reason.name(), *count))
                .collect(),
        }
    }
}

impl Report {
    /// The part that comes from the worker's counters.
    #[must_use]
    pub fn of(counters: &CounterSnapshot) -> Self {
        let drops = DropReason::ALL.iter().map(|reason| {
            let amount = Amount::from(counters.drops_for(*reason));
            (reason.name(), amount)
        });
        let punts = PuntReason::ALL
            .iter()
            .map(|reason| (reason.name(), counters.punts[reason.index()]));
        Self {
            received: counters.received.into(),
            forwarded: counters.forwarded.into(),
            answered: counters.answered.into(),
            punted: counters.punted.into(),
            drops: drops.filter(|(_, amount)| amount.packets > 0).collect(),
            punts: punts.filter(|(_, count)| *count > 0).collect(),
            ecn_unusual: counters.ecn_unusual,
            ..Self::default()
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, amount: Amount| {
            writeln!(
                f,
                "{name:<28} {:>10} packets {:>12} bytes",
                amount.packets, amount.bytes
            )
        };
        line(f, "received", self.received)?;
        line(f, "forwarded", self.forwarded)?;
        line(f, "answered", self.answered)?;
        line(f, "punted", self.punted)?;
        for (reason, count) in &self.punts {
            writeln!(f, "  {reason:<26} {count:>10} packets")?;
        }
        for (reason, amount) in &self.drops {
            line(f, &format!("drop {reason}"), *amount)?;
        }
        if self.ecn_unusual > 0 {
            writeln!(
                f,
                "unusual ECN                  {:>10} packets",
                self.ecn_unusual
            )?;
        }
        for (name, port) in &self.ports {
            line(f, &format!("port {name} in"), port.received)?;
            line(f, &format!("port {name} out"), port.sent)?;
            if port.too_long > 0 {
                writeln!(
                    f,
                    "port {name}: {} packets are too long for a frame",
                    port.too_long
                )?;
            }
        }
        for (name, tunnel) in &self.tunnels {
            line(f, &format!("tunnel {name} decap"), tunnel.decapsulated)?;
            line(f, &format!("tunnel {name} encap"), tunnel.encapsulated)?;
            for (reason, count) in &tunnel.drops {
                writeln!(f, "  {reason:<26} {count:>10} packets")?;
            }
        }
        Ok(())
    }
}
