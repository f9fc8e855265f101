//! Programming at scale, over the API: all tunnels replaced and confirmed, changes as fast as they go
//! and 10,000 a second under traffic, and how long a new tunnel's first packet takes.

use super::account::{self, Account};
use super::changer::{self, Changes, Order};
use super::controller::{Changed, Controller, Job, Load, Said};
use super::first::{self, FirstPackets};
use super::rig::{Rates, Rig};
use super::trial::Plan;
use super::{Context, Error};
use crate::pktgen::pace::Pace;
use crate::pktgen::role::Seat;
use crate::pktgen::search::ATTEMPTS;
use crate::pktgen::sizes::Sizes;
use crate::pktgen::stream::Tester;
use crate::pktgen::traffic::Traffic;
use serde::Serialize;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// Changes a second under traffic.
const RATE: u32 = 10_000;
/// Changes in a message of those.
const BATCH: usize = 20;
/// Changes in a message when as many are to be made as go.
const BATCH_FULL: usize = 512;
/// How long either lasts.
const SECONDS: f64 = 3.0;
/// The control process's weight: more than other work on the host, less than generator and daemon.
const CHANGER_NICE: i32 = -5;
/// One of so many tunnels changes; the others carry the traffic.
const CHANGING: u32 = 8;

/// 10,000 changes a second under traffic.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    offered_mpps: f64,
    worker_share: f64,
    #[serde(flatten)]
    changes: Changes,
    account: Account,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    tunnels: u32,
    /// What loading has added to the resident memory, for each tunnel.
    resident_bytes_a_tunnel: f64,
    load_seconds: f64,
    /// Every tunnel changed, nobody else at work.
    replace_seconds: f64,
    /// Every tunnel confirmed, none changed.
    confirm_seconds: f64,
    /// As many changes as are acknowledged, nobody else at work.
    fastest: Changes,
    fastest_per_second: f64,
    asked_mpps: f64,
    /// Frames of untouched tunnels lost in the last attempt.
    lost: i64,
    /// Changes a second in that, and how long each waited for its acknowledgement.
    reached_per_second: f64,
    acknowledged_ms: [f64; 3],
    /// Every attempt, in order.
    phases: Vec<Phase>,
    /// On a relay without tunnels, and with all of them.
    first_packets: Vec<FirstPackets>,
}

impl Report {
    /// Whether the last attempt lost nothing.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0
    }
}

/// Runs the case, and ends the rig.
///
/// # Errors
/// What does not start, and when the daemon refuses something.
pub fn run(mut rig: Rig<'_>, plan: &Plan, rates: Rates) -> Result<Report, Error> {
    let tunnels = rig.tunnels;
    let asked = rates.loss_free / 2.0;
    let changing = tunnels - tunnels / CHANGING..tunnels;
    let [empty, loaded] = rig.resident;
    let load = rig.load;
    let phases = phases(&mut rig, plan, changing.clone(), asked)?;
    let last = phases.last();
    let lost = last.map_or(0, |phase| phase.account.lost());
    let reached = last.map_or_else(Changes::default, |phase| phase.changes);
    let undisturbed = undisturbed(rig, plan, changing)?;
    Ok(Report {
        tunnels,
        resident_bytes_a_tunnel: loaded.saturating_sub(empty) as f64 / f64::from(tunnels),
        load_seconds: load.as_secs_f64(),
        replace_seconds: undisturbed.replace.as_secs_f64(),
        confirm_seconds: undisturbed.confirm.as_secs_f64(),
        fastest_per_second: undisturbed.fastest.per_second(),
        fastest: undisturbed.fastest,
        asked_mpps: asked,
        lost,
        reached_per_second: reached.per_second(),
        acknowledged_ms: reached.acknowledged_ms,
        phases,
        first_packets: vec![undisturbed.first],
    })
}

/// Attempts under traffic, until one loses nothing.
fn phases(
    rig: &mut Rig<'_>,
    plan: &Plan,
    changing: Range<u32>,
    mpps: f64,
) -> Result<Vec<Phase>, Error> {
    let mut phases = Vec::new();
    for _ in 0..ATTEMPTS {
        let phase = under_traffic(rig, plan, changing.clone(), mpps)?;
        eprintln!("{phase}");
        let clean = phase.account.lost() == 0;
        phases.push(phase);
        if clean {
            break;
        }
    }
    Ok(phases)
}

/// What is measured with nobody else at work.
struct Undisturbed {
    replace: Duration,
    confirm: Duration,
    fastest: Changes,
    first: FirstPackets,
}

fn undisturbed(rig: Rig<'_>, plan: &Plan, changing: Range<u32>) -> Result<Undisturbed, Error> {
    let Rig {
        lab,
        daemon,
        tester: Tester {
            generator,
            mut sink,
            ..
        },
        tunnels,
        ..
    } = rig;
    // it takes its CPU also while it sends nothing
    drop(generator);
    let resync = |changed| -> Result<(Said, Duration), Error> {
        let job = Job {
            load: Load::SixInFour(tunnels),
            changed,
            seat: None,
        };
        Controller::start(lab, &daemon.socket(), job)?.finish()
    };
    // what was removed or has moved is as it was
    resync(Changed::Nothing)?;
    let (said, replace) = resync(Changed::All)?;
    if said.updated != u64::from(tunnels) {
        return Err(format!("{said:?}")).during("replacing all tunnels");
    }
    let (said, confirm) = resync(Changed::All)?;
    if said.unchanged != u64::from(tunnels) {
        return Err(format!("{said:?}")).during("confirming all tunnels");
    }
    let mut changer = changer::Remote::start(lab, &daemon.socket(), changing, changer_seat(plan))?;
    let fastest = changer.work(&Order {
        per_second: None,
        batch: BATCH_FULL,
        seconds: SECONDS,
    })?;
    drop(changer);
    Ok(Undisturbed {
        replace,
        confirm,
        fastest,
        first: first::run(lab, plan, &daemon, &mut sink, tunnels)?,
    })
}

const fn changer_seat(plan: &Plan) -> Seat {
    Seat {
        cpu: plan.generator_cpu,
        nice: CHANGER_NICE,
    }
}

impl Report {
    /// Adds what was measured on a relay without tunnels.
    #[must_use]
    pub fn and_alone(mut self, alone: FirstPackets) -> Self {
        self.first_packets.insert(0, alone);
        self
    }
}

fn under_traffic(
    rig: &mut Rig<'_>,
    plan: &Plan,
    changing: Range<u32>,
    mpps: f64,
) -> Result<Phase, Error> {
    let traffic = Traffic {
        flows: changing.start,
        sizes: Sizes::one(plan.frame_len),
        ..Traffic::default()
    };
    let seat = changer_seat(plan);
    // before there is traffic: it takes every eighth of them out
    let mut changer = changer::Remote::start(rig.lab, &rig.daemon.socket(), changing, seat)?;
    rig.tester.generator = rig.lab.generator(&traffic, plan.generator_cpu)?;
    let before = rig.account()?;
    let worker = rig.daemon.worker_on_cpu()?;
    let from = rig.tester.generator.tell(&Pace::mpps(mpps).line())?;
    let changes = changer.work(&Order {
        per_second: Some(RATE),
        batch: BATCH,
        seconds: SECONDS,
    })?;
    let worker = rig.daemon.worker_on_cpu()? - worker;
    let to = rig.tester.generator.tell(&Pace::Paused.line())?;
    let account = account::between(&before, &rig.account()?);
    let nanoseconds = (to.at - from.at).max(1) as f64;
    Ok(Phase {
        offered_mpps: account.generated as f64 * 1e3 / nanoseconds,
        worker_share: worker as f64 / nanoseconds,
        changes,
        account,
    })
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, longest] = self.changes.acknowledged_ms;
        write!(
            f,
            "{:.0} changes/s, acknowledged after {p50:.1} ms (p99 {p99:.1}, longest {longest:.1}), beside {:.3} \
             Mpps: {} packets, {} lost; {}; worker's share {:.2}",
            self.changes.per_second(),
            self.offered_mpps,
            self.account.generated,
            self.account.lost(),
            self.account,
            self.worker_share
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tunnels, {:.0} bytes resident each: loaded in {:.1} s, all replaced in {:.1} s, all confirmed \
             in {:.1} s",
            self.tunnels,
            self.resident_bytes_a_tunnel,
            self.load_seconds,
            self.replace_seconds,
            self.confirm_seconds
        )?;
        let [p50, p99, _] = self.fastest.acknowledged_ms;
        writeln!(
            f,
            "at most {:.0} changes/s, in messages of {BATCH_FULL}, acknowledged after {p50:.1} ms (p99 {p99:.1})",
            self.fastest_per_second
        )?;
        for phase in &self.phases {
            writeln!(f, "{phase}")?;
        }
        for first in &self.first_packets {
            writeln!(f, "{first}")?;
        }
        Ok(())
    }
}
