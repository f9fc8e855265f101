//! A control process re-syncs all tunnels, or dies in the middle of it, under traffic: what is lost?
//!
//! The traffic goes through random tunnels at half of the highest rate that this run forwards without
//! loss. Three things share two CPUs: the worker has one; the generator, the control process and what
//! the kernel lets of the daemon's own control threads share the other.

use super::account::{self, Account};
use super::controller::{Changed, Controller, Job, Load, Said};
use super::rig::{Rates, Rig};
use super::trial::Plan;
use super::{Context, Error};
use crate::pktgen::pace::Pace;
use crate::pktgen::role::Seat;
use crate::pktgen::search::ATTEMPTS;
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};

/// The control process's weight: more than other work on the host, less than generator and daemon.
const CONTROLLER_NICE: i32 = -5;
/// Traffic before something happens, and after it.
const AROUND: Duration = Duration::from_millis(500);

/// What happens while packets are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Nothing: what the machine itself loses.
    Quiet,
    /// A control process is killed in the middle of a re-sync.
    Killed,
    /// A control process asserts all tunnels, one of them changed.
    Resync,
}

impl Event {
    const ALL: [Self; 3] = [Self::Quiet, Self::Killed, Self::Resync];
}

/// One event under traffic.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    event: Event,
    seconds: f64,
    offered_mpps: f64,
    worker_share: f64,
    account: Account,
}

impl Phase {
    fn is_clean(&self) -> bool {
        self.account.lost() == 0
    }
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    tunnels: u32,
    load_seconds: f64,
    resident_loaded_mib: u64,
    resident_peak_mib: u64,
    flat_out_mpps: f64,
    loss_free_mpps: f64,
    asked_mpps: f64,
    /// Packets lost in the last attempt of each event.
    lost: i64,
    /// Packets of every attempt.
    packets_in_all: u64,
    /// Lost in every attempt.
    lost_in_all: i64,
    /// Every attempt, in order.
    phases: Vec<Phase>,
}

impl Report {
    /// Whether every event had an attempt, in each round, without a lost packet.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0
    }
}

/// Packets lost in the last attempt of each event: one that lost something is followed by another, if
/// there was one left.
fn lost(phases: &[Phase]) -> i64 {
    let mut lost = 0;
    for (at, phase) in phases.iter().enumerate() {
        let repeated = phases
            .get(at + 1)
            .is_some_and(|next| next.event == phase.event);
        if !repeated {
            lost += phase.account.lost();
        }
    }
    lost
}

struct Bench<'a, 'lab> {
    rig: &'a mut Rig<'lab>,
    plan: &'a Plan,
    /// The tunnel that the next control process changes; what its predecessors changed it puts right.
    changed: u32,
}

/// Runs the case, its events so many times.
///
/// # Errors
/// What does not start, and when a control process did not do what it should.
pub fn run(rig: &mut Rig<'_>, plan: &Plan, rates: Rates, rounds: u32) -> Result<Report, Error> {
    let (tunnels, load, resident) = (rig.tunnels, rig.load, rig.resident[1]);
    let mut bench = Bench {
        rig,
        plan,
        changed: 0,
    };
    let asked = rates.loss_free / 2.0;
    let mut phases = Vec::new();
    for _ in 0..rounds {
        for event in Event::ALL {
            for _ in 0..ATTEMPTS {
                let phase = bench.phase(event, asked)?;
                eprintln!("{phase}");
                let clean = phase.is_clean();
                phases.push(phase);
                if clean {
                    break;
                }
            }
        }
    }
    Ok(Report {
        tunnels,
        load_seconds: load.as_secs_f64(),
        resident_loaded_mib: resident >> 20,
        resident_peak_mib: bench.rig.daemon.resident()?.1 >> 20,
        flat_out_mpps: rates.flat_out,
        loss_free_mpps: rates.loss_free,
        asked_mpps: asked,
        lost: lost(&phases),
        packets_in_all: phases.iter().map(|phase| phase.account.generated).sum(),
        lost_in_all: phases.iter().map(|phase| phase.account.lost()).sum(),
        phases,
    })
}

impl Bench<'_, '_> {
    fn phase(&mut self, event: Event, mpps: f64) -> Result<Phase, Error> {
        let before = self.rig.account()?;
        let worker = self.rig.daemon.worker_on_cpu()?;
        let began = Instant::now();
        self.rig.tester.generator.tell(&Pace::mpps(mpps).line())?;
        std::thread::sleep(AROUND);
        self.happen(event)?;
        std::thread::sleep(AROUND);
        let worker = self.rig.daemon.worker_on_cpu()? - worker;
        let seconds = began.elapsed().as_secs_f64();
        self.rig.tester.generator.tell(&Pace::Paused.line())?;
        let after = self.rig.account()?;
        let account = account::between(&before, &after);
        Ok(Phase {
            event,
            seconds,
            offered_mpps: account.generated as f64 / seconds / 1e6,
            worker_share: worker as f64 / seconds / 1e9,
            account,
        })
    }

    fn happen(&mut self, event: Event) -> Result<(), Error> {
        let job = Job {
            load: Load::SixInFour(self.rig.tunnels),
            changed: Changed::One(self.changed),
            seat: Some(Seat {
                cpu: self.plan.generator_cpu,
                nice: CONTROLLER_NICE,
            }),
        };
        let socket = self.rig.daemon.socket();
        match event {
            Event::Quiet => std::thread::sleep(self.plan.window * 2),
            Event::Killed => {
                self.changed += 1;
                let controller = Controller::start(self.rig.lab, &socket, job)?;
                controller.kill_after(u64::from(self.rig.tunnels / 2))?;
            }
            Event::Resync => {
                self.changed += 1;
                let controller = Controller::start(self.rig.lab, &socket, job)?;
                let (said, _) = controller.finish()?;
                // its own, and what its predecessor had changed
                let right = said.created == 0 && said.updated == 2 && said.swept == 0;
                expect("the re-sync", right, &said)?;
            }
        }
        let tunnels = self.rig.daemon.counted()?.1;
        if tunnels != u64::from(self.rig.tunnels) {
            return Err(format!("{tunnels} tunnels are left")).during(format!("{event:?}"));
        }
        Ok(())
    }
}

fn expect(action: &str, right: bool, said: &Said) -> Result<(), Error> {
    if right {
        return Ok(());
    }
    Err(format!("{said:?}")).during(action)
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = &self.account;
        write!(
            f,
            "{:<8} {:>6.1} s {:>7.3} {:>11} {:>7}",
            format!("{:?}", self.event),
            self.seconds,
            self.offered_mpps,
            account.generated,
            account.lost()
        )?;
        if account.lost() != 0 || account.unexplained != 0 {
            write!(f, "  {account}")?;
        }
        write!(f, "  worker's share {:.2}", self.worker_share)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tunnels loaded over gRPC in {:.1} s; {} MiB resident, {} MiB at most",
            self.tunnels, self.load_seconds, self.resident_loaded_mib, self.resident_peak_mib
        )?;
        writeln!(
            f,
            "flat out {:.3} Mpps, without loss {:.3} ({:.2}), traffic of the phases {:.3}",
            self.flat_out_mpps,
            self.loss_free_mpps,
            self.loss_free_mpps / self.flat_out_mpps,
            self.asked_mpps
        )?;
        writeln!(
            f,
            "{:<8} {:>8} {:>7} {:>11} {:>7}",
            "", "length", "Mpps", "packets", "lost"
        )?;
        for phase in &self.phases {
            writeln!(f, "{phase}")?;
        }
        let verdict = if self.is_clean() { "no" } else { "there were" };
        writeln!(f, "{verdict} lost packets that a repetition does not clear")
    }
}
