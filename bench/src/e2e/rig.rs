//! Generator, daemon with tunnels and sink at work, and the highest rate they forward without loss.

use super::account::{self, Snapshot};
use super::daemon::Daemon;
use super::generator::{Pace, Traffic};
use super::lab::{Lab, Place, Role};
use super::role;
use super::trial::{self, Plan};
use super::{Context, Error};
use std::time::Duration;

/// Steps of the search for the loss-free rate: to 1.6 % of the flat-out rate.
const STEPS: u32 = 6;
/// On a shared machine a rate or a phase passes if one of so many trials does (performance goals).
pub const ATTEMPTS: usize = 3;
/// A trial whose generator sent less than this share of what was asked proves nothing.
const OFFERED_MIN: f64 = 0.98;
/// Until rings and caches are as they will be.
const AROUND: Duration = Duration::from_millis(500);

/// What runs.
#[derive(Debug)]
pub struct Rig<'a> {
    /// Where.
    pub lab: &'a Lab,
    /// The device under test.
    pub daemon: Daemon,
    /// Sends through random tunnels.
    pub generator: Role,
    /// Counts what arrives.
    pub sink: Role,
    /// How long loading the tunnels took.
    pub load: Duration,
    window: Duration,
}

impl<'a> Rig<'a> {
    /// Starts everything; packets flow when it returns.
    ///
    /// # Errors
    /// What does not start.
    pub fn start(lab: &'a Lab, plan: &Plan, tunnels: u32) -> Result<Self, Error> {
        let nice = role::FIRST_IN_LINE;
        let mut sink = Role::start(lab, Place::Sink, nice, &["sink", "sink0"])?;
        let daemon = Daemon::start(lab, &plan.daemon, plan.device_cpu)?;
        let (said, load) = daemon.load(lab, tunnels)?;
        if said.created != u64::from(tunnels) {
            return Err(format!("{said:?}")).during("loading");
        }
        let traffic = Traffic {
            tunnelled: true,
            flows: tunnels,
            frame_len: plan.frame_len,
        };
        let generator = traffic.start(lab, plan.generator_cpu, nice)?;
        trial::await_traffic(&mut sink).during("the first packets")?;
        Ok(Self {
            lab,
            daemon,
            generator,
            sink,
            load,
            window: plan.window,
        })
    }

    /// All counters, after waiting until no packet is on its way. The generator must be paused.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub fn account(&mut self) -> Result<Snapshot, Error> {
        account::take(self.lab, &self.daemon, &mut self.generator, &mut self.sink)
    }

    /// Million packets a second that get through when more come than can.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub fn flat_out(&mut self) -> Result<f64, Error> {
        self.generator.tell(&Pace::Full.line())?;
        std::thread::sleep(AROUND);
        let before = self.sink.read()?;
        std::thread::sleep(self.window);
        let after = self.sink.read()?;
        self.generator.tell(&Pace::Paused.line())?;
        account::settle(&mut self.sink)?;
        Ok((after.packets - before.packets) as f64 * 1e3 / (after.at - before.at) as f64)
    }

    /// The highest rate without loss, by bisection below the flat-out rate.
    ///
    /// # Errors
    /// When every rate loses packets.
    pub fn loss_free(&mut self, flat_out: f64) -> Result<f64, Error> {
        let (mut good, mut bad) = (0.0, flat_out);
        // most often nearly all of it
        let mut rate = flat_out * 0.9;
        for _ in 0..STEPS {
            if self.passes(rate)? {
                good = rate;
            } else {
                bad = rate;
            }
            rate = f64::midpoint(good, bad);
        }
        if good == 0.0 {
            return Err("every rate loses packets").during("the search for the loss-free rate");
        }
        Ok(good)
    }

    fn passes(&mut self, mpps: f64) -> Result<bool, Error> {
        for _ in 0..ATTEMPTS {
            let from = (self.sink.read()?, self.generator.read()?);
            self.generator.tell(&pace(mpps))?;
            std::thread::sleep(self.window);
            let paused = self.generator.tell(&Pace::Paused.line())?;
            let arrived = account::settle(&mut self.sink)?;
            let generated = self.generator.read()?.packets - from.1.packets;
            let asked = mpps * (paused.at - from.1.at) as f64 / 1e3;
            let lost = generated - (arrived - from.0.packets).min(generated);
            eprintln!("{mpps:.3} Mpps: {generated} packets, {lost} lost");
            if lost == 0 && generated as f64 >= asked * OFFERED_MIN {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The line that asks the generator for so many million packets a second.
#[must_use]
pub fn pace(mpps: f64) -> String {
    Pace::PerSecond(per_second(mpps)).line()
}

/// Whole packets a second.
#[must_use]
pub const fn per_second(mpps: f64) -> u64 {
    // a rate of packets is far below 2^53 and positive
    (mpps * 1e6) as u64
}
