//! Generator, daemon with tunnels and sink at work, and the highest rate they forward without loss.

use super::account::{self, Snapshot};
use super::controller::Load;
use super::daemon::Daemon;
use super::lab::{Lab, Place};
use super::trial::{self, Plan};
use super::{Context, Error};
use crate::pktgen::pace::Pace;
use crate::pktgen::search::Search;
use crate::pktgen::sizes::Sizes;
use crate::pktgen::stream::Tester;
use crate::pktgen::traffic::Traffic;
use std::time::Duration;

/// Steps of the search for the loss-free rate: to 1.6 % of the flat-out rate.
const STEPS: u32 = 6;

/// Million packets a second.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// What gets through when more comes than can.
    pub flat_out: f64,
    /// The most without loss.
    pub loss_free: f64,
}

/// What runs.
#[derive(Debug)]
pub struct Rig<'a> {
    /// Where.
    pub lab: &'a Lab,
    /// The device under test.
    pub daemon: Daemon,
    /// Sends through random tunnels, and counts what arrives.
    pub tester: Tester,
    /// How long loading the tunnels took.
    pub load: Duration,
    /// Resident memory before and after that, in bytes.
    pub resident: [u64; 2],
    /// How many tunnels there are.
    pub tunnels: u32,
    window: Duration,
}

impl<'a> Rig<'a> {
    /// Starts everything; packets have come through when it returns.
    ///
    /// # Errors
    /// What does not start.
    pub fn start(lab: &'a Lab, plan: &Plan, tunnels: u32) -> Result<Self, Error> {
        let sink = lab.sink(Place::Sink, "sink0")?;
        let daemon = Daemon::start(lab, &plan.daemon, plan.device_cpu)?;
        let empty = daemon.resident()?.0;
        let (said, load) = daemon.load(lab, Load::SixInFour(tunnels))?;
        if said.created != u64::from(tunnels) {
            return Err(format!("{said:?}")).during("loading");
        }
        let resident = daemon.resident()?.0;
        let traffic = Traffic {
            flows: tunnels,
            sizes: Sizes::one(plan.frame_len),
            ..Traffic::default()
        };
        let generator = lab.generator(&traffic, plan.generator_cpu)?;
        let mut tester = Tester {
            generator,
            sink,
            worker: Some(daemon.worker()?),
        };
        tester.generator.tell(&Pace::Full.line())?;
        trial::await_traffic(&mut tester.sink).during("the first packets")?;
        tester.generator.tell(&Pace::Paused.line())?;
        Ok(Self {
            lab,
            resident: [empty, resident],
            tunnels,
            daemon,
            tester,
            load,
            window: plan.window,
        })
    }

    /// All counters, after waiting until no packet is on its way. The generator must be paused.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub fn account(&mut self) -> Result<Snapshot, Error> {
        account::take(self.lab, &self.daemon, &mut self.tester)
    }

    /// What gets through when more comes than can, and the highest rate without loss.
    ///
    /// # Errors
    /// When every rate loses packets.
    pub fn rates(&mut self) -> Result<Rates, Error> {
        let flat_out = self.tester.flat_out(self.window)?.received_mpps();
        let search = Search {
            trial: self.window,
            steps: STEPS,
            loss: 0.0,
        };
        // most often nearly all of it
        let found = self.tester.search(&search, flat_out, flat_out * 0.9)?;
        for step in &found.steps {
            let (sent, lost) = (step.outcome.sent, step.outcome.lost);
            eprintln!("{:.3} Mpps: {sent} packets, {lost} lost", step.mpps);
        }
        Ok(Rates {
            flat_out,
            loss_free: found.rate()?,
        })
    }
}
