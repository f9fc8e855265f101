//! One test: a device under test, a generator, a counter, for a while.

use super::account;
use super::device::{Device, Running};
use super::lab::{Lab, Place, Role, hold};
use super::role::Reading;
use super::{Context, Error, LOOK};
use crate::pktgen::pace::Pace;
use crate::pktgen::sizes::Sizes;
use crate::pktgen::stream::Tester;
use crate::pktgen::traffic::{Encapsulation, Traffic};
use serde::Serialize;
use sixferry_wire::ipv4;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the first packet may take.
const FIRST_PACKET: Duration = Duration::from_secs(10);
/// Until rings and caches are as they will be.
const WARM_UP: Duration = Duration::from_millis(60);
/// With less of its CPU than this the generator was not what the device had to bear, and the device
/// was not what is measured.
pub const SHARE_MIN: f64 = 0.85;

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its name in tables.
    pub name: &'static str,
    /// What it measures, for people.
    pub text: &'static str,
    /// The device under test.
    pub device: Device,
    /// What the generator sends.
    pub encapsulation: Encapsulation,
    /// Where packets are counted: at the sink of this place, or by the reference worker.
    pub counted: Option<(Place, &'static str)>,
}

/// How to run tests.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `sixferryd`.
    pub daemon: PathBuf,
    /// Length of the generated frames.
    pub frame_len: usize,
    /// How long to measure a rate.
    pub window: Duration,
    /// How long a trial is where rates are compared.
    pub trial: Duration,
    /// The generator's CPU.
    pub generator_cpu: usize,
    /// The device's CPU.
    pub device_cpu: usize,
}

/// What one test gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Million packets a second that got through.
    pub mpps: f64,
    /// Million packets a second that the generator sent.
    pub offered_mpps: f64,
    /// The share of its CPU that the generator had.
    pub generator_share: f64,
    /// The share of its CPU that the device's worker had; 1 without one.
    pub device_share: f64,
    /// Packets, of all that the daemon had to do with, of which no counter says where they are.
    pub unexplained: i64,
}

impl Trial {
    /// Whether generator and device had their CPUs, and every packet is accounted for.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.generator_share.min(self.device_share) >= SHARE_MIN && self.unexplained == 0
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} Mpps of {:.3}, share of its CPU: generator {:.2}, device {:.2}",
            self.mpps, self.offered_mpps, self.generator_share, self.device_share
        )?;
        if self.unexplained != 0 {
            write!(f, "; {} packets unexplained", self.unexplained)?;
        }
        Ok(())
    }
}

/// A test with its namespaces and processes, which wait while another is measured: then the next trial
/// follows within the blink in which the machine is still the same.
#[derive(Debug)]
pub struct Stand<'a> {
    lab: &'a Lab,
    name: &'static str,
    device: Running<'a>,
    generator: Role,
    sink: Option<Role>,
    fresh: account::Snapshot,
}

impl<'a> Stand<'a> {
    /// Starts a test; packets have come through when it returns.
    ///
    /// # Errors
    /// What does not start, and when no packet gets through.
    pub fn start(lab: &'a Lab, test: &Test, plan: &Plan) -> Result<Self, Error> {
        let sink = test.counted;
        let sink = sink
            .map(|(place, interface)| lab.sink(place, interface))
            .transpose()?;
        let device = Running::start(lab, test.device, plan)?;
        let fresh = account::Snapshot::fresh(lab)?;
        let generator = lab.generator(&test.traffic(plan), plan.generator_cpu)?;
        let mut stand = Self {
            lab,
            name: test.name,
            device,
            generator,
            sink,
            fresh,
        };
        stand.generator.tell(&Pace::Full.line())?;
        let first = match (&mut stand.sink, &mut stand.device) {
            (Some(sink), _) => await_traffic(sink),
            (None, Running::Worker(worker)) => await_traffic(worker),
            (None, _) => Err("nobody counts".into()),
        };
        first.during(test.name)?;
        stand.generator.tell(&Pace::Paused.line())?;
        stand.hold(true)?;
        Ok(stand)
    }

    fn hold(&self, held: bool) -> Result<(), Error> {
        let processes = [Some(self.generator.process()), self.device.process()];
        for process in processes.into_iter().flatten() {
            hold(process, held).during(self.name)?;
        }
        Ok(())
    }

    /// Measures for a while.
    ///
    /// # Errors
    /// When somebody has ended.
    pub fn trial(&mut self, plan: &Plan) -> Result<Trial, Error> {
        self.hold(false)?;
        self.generator.tell(&Pace::Full.line())?;
        // the measurement itself: these waits are its length, not a hope that something is ready
        std::thread::sleep(WARM_UP);
        let before = self.read()?;
        std::thread::sleep(plan.trial);
        let after = self.read()?;
        self.generator.tell(&Pace::Paused.line())?;
        self.hold(true)?;
        let share = |from: Reading, to: Reading| match to.at - from.at {
            0 => 1.0,
            span => per(to.on_cpu - from.on_cpu, span),
        };
        Ok(Trial {
            mpps: rate(before[0], after[0]),
            offered_mpps: rate(before[1], after[1]),
            generator_share: share(before[1], after[1]),
            device_share: share(before[2], after[2]),
            unexplained: 0,
        })
    }

    /// Counter, generator and device.
    fn read(&mut self) -> Result<[Reading; 3], Error> {
        let own = self.device.read()?;
        let counted = self.sink.as_mut().map_or(Ok(own), Role::read)?;
        Ok([counted, self.generator.read()?, own])
    }

    /// Ends it; returns how many packets, of all that the daemon had to do with, no counter accounts for.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub fn unexplained(self) -> Result<i64, Error> {
        self.hold(false)?;
        let (Running::Daemon(daemon), Some(sink)) = (&self.device, self.sink) else {
            return Ok(0);
        };
        let mut tester = Tester {
            generator: self.generator,
            sink,
            worker: None,
        };
        let total = account::take(self.lab, daemon, &mut tester)?;
        Ok(account::between(&self.fresh, &total).unexplained)
    }
}

impl Test {
    fn traffic(&self, plan: &Plan) -> Traffic {
        let (flows, routes) = self.device.flows();
        // the packet inside is the same, whatever is around it
        let outer = self
            .encapsulation
            .outer_len()
            .saturating_sub(ipv4::HEADER_LEN);
        Traffic {
            encapsulation: self.encapsulation,
            flows,
            sizes: Sizes::one(plan.frame_len + outer),
            routes,
            ..Traffic::default()
        }
    }
}

pub(super) fn await_traffic(
    counter: &mut Role,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + FIRST_PACKET;
    let first = counter.read()?.packets;
    // neighbour discovery and the like arrive too: wait for more than that
    while counter.read()?.packets < first + 1000 {
        if Instant::now() > deadline {
            return Err("no packets get through".into());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn rate(from: Reading, to: Reading) -> f64 {
    per(to.packets - from.packets, to.at - from.at) * 1000.0
}

fn per(count: u64, nanoseconds: u64) -> f64 {
    count as f64 / nanoseconds.max(1) as f64
}
