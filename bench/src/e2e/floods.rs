//! What strangers and misbehaving users send, at speed: an established flow must not notice.
//!
//! At half of the highest rate that this run forwards without loss, seven of eight packets are such as
//! a relay drops, answers or sets aside: inner hop limit 1, another user's inner source, an outer source
//! that nobody knows, first fragments whose rest never comes, CE marks on packets that are not
//! ECN-capable, a multicast inner source, an inner length beyond the end. Every eighth belongs to the
//! flows that are counted.

use super::Error;
use super::lab::Lab;
use super::rig::Rig;
use super::trial::Plan;
use crate::pktgen::pace::Pace;
use crate::pktgen::search::ATTEMPTS;
use crate::pktgen::stream::settle;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Until reassembly and the like have taken their fill.
const FILL: Duration = Duration::from_secs(2);

/// One flood.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    seconds: f64,
    /// Packets of the established flows.
    generated: u64,
    arrived: u64,
    flooded: u64,
    /// Resident memory: while the flood had filled what it can, and at its end.
    resident_mib: [f64; 2],
}

impl Phase {
    const fn lost(&self) -> u64 {
        self.generated.saturating_sub(self.arrived)
    }
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    tunnels: u32,
    loss_free_mpps: f64,
    offered_mpps: f64,
    /// Every attempt, in order.
    phases: Vec<Phase>,
}

impl Report {
    /// Whether the last attempt lost nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.phases.last().is_some_and(|phase| phase.lost() == 0)
    }
}

/// Runs the case.
///
/// # Errors
/// What does not start.
pub fn run(lab: &Lab, plan: &Plan, tunnels: u32) -> Result<Report, Error> {
    let mut rig = Rig::start(lab, plan, tunnels)?;
    let loss_free = rig.rates()?.loss_free;
    let mut report = Report {
        tunnels,
        loss_free_mpps: loss_free,
        offered_mpps: loss_free / 2.0,
        phases: Vec::new(),
    };
    for _ in 0..ATTEMPTS {
        let phase = flood(&mut rig, plan, report.offered_mpps)?;
        eprintln!("{phase}");
        report.phases.push(phase);
        if report.is_clean() {
            break;
        }
    }
    Ok(report)
}

fn flood(rig: &mut Rig<'_>, plan: &Plan, mpps: f64) -> Result<Phase, Error> {
    settle(&mut rig.tester.sink)?;
    let arrived = rig.tester.sink.read()?.packets;
    let from = rig.tester.generator.read()?;
    let flood = Pace::Flood((mpps * 1e6) as u64);
    rig.tester.generator.tell(&flood.line())?;
    std::thread::sleep(FILL);
    let filled = rig.daemon.resident()?.0;
    std::thread::sleep(plan.window * 2);
    let end = rig.daemon.resident()?.0;
    let to = rig.tester.generator.tell(&Pace::Paused.line())?;
    let arrived = settle(&mut rig.tester.sink)? - arrived;
    let last = rig.tester.generator.read()?;
    Ok(Phase {
        seconds: (to.at - from.at) as f64 / 1e9,
        generated: last.packets - from.packets,
        arrived,
        flooded: last.flooded - from.flooded,
        resident_mib: [filled, end].map(|bytes| bytes as f64 / f64::from(1 << 20)),
    })
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [filled, end] = self.resident_mib;
        write!(
            f,
            "{:.1} s: {} packets of the flood; of the flows {}, lost {}; {filled:.1} MiB resident after \
             {} s, {end:.1} at the end",
            self.seconds,
            self.flooded,
            self.generated,
            self.lost(),
            FILL.as_secs()
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tunnels; without loss {:.3} Mpps, offered {:.3}, seven of eight packets bad",
            self.tunnels, self.loss_free_mpps, self.offered_mpps
        )?;
        for phase in &self.phases {
            writeln!(f, "{phase}")?;
        }
        let verdict = if self.is_clean() {
            "lost nothing"
        } else {
            "lost packets"
        };
        writeln!(f, "the established flows {verdict}")
    }
}
