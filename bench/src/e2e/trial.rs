//! One test: a device under test, a generator, a counter, for a while.

use super::account;
use super::daemon::Daemon;
use super::generator::{Pace, Traffic};
use super::lab::{Lab, Place, Role};
use super::role::{self, Reading};
use super::{Context, Error};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the first packet may take.
const FIRST_PACKET: Duration = Duration::from_secs(10);
/// Until rings and caches are as they will be.
const WARM_UP: Duration = Duration::from_millis(300);
/// With less of its CPU than this the generator was not what the device had to bear, and the device
/// was not what is measured.
pub const SHARE_MIN: f64 = 0.85;

/// What stands in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Nothing: frames are dropped by XDP where they arrive.
    None,
    /// The reference worker, with the name of its work.
    Reference(&'static str),
    /// The daemon with so many tunnels.
    Daemon(u32),
}

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its name in tables.
    pub name: &'static str,
    /// What it measures, for people.
    pub text: &'static str,
    /// The device under test.
    pub device: Device,
    /// Whether the generator sends tunnel packets.
    pub tunnelled: bool,
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
    /// How long to measure.
    pub window: Duration,
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

/// Runs one test in a lab.
///
/// # Errors
/// What does not start, and when no packet gets through.
pub fn run(lab: &Lab, test: &Test, plan: &Plan) -> Result<Trial, Error> {
    let nice = role::FIRST_IN_LINE;
    let mut sink = test
        .counted
        .map(|(place, interface)| Role::start(lab, place, nice, &["sink", interface]))
        .transpose()?;
    let device_cpu = plan.device_cpu.to_string();
    let (mut daemon, mut worker) = (None, None);
    match test.device {
        Device::None => {}
        Device::Reference(work) => {
            let args = ["reference", work, "dut0", "dut1", "--cpu", &device_cpu];
            worker = Some(Role::start(lab, Place::Device, nice, &args)?);
        }
        Device::Daemon(tunnels) => {
            let started = Daemon::start(lab, &plan.daemon, plan.device_cpu)?;
            started.load(lab, tunnels)?;
            daemon = Some(started);
        }
    }
    let fresh = account::Snapshot::fresh(lab)?;
    let mut generator = start_generator(lab, test, plan)?;
    let counter = sink.as_mut().or(worker.as_mut());
    await_traffic(counter.ok_or("nobody counts").during(test.name)?).during(test.name)?;
    // the measurement itself: these waits are its length, not a hope that something is ready
    std::thread::sleep(WARM_UP);
    let mut read = || -> Result<[Reading; 3], Error> {
        let device = match (&daemon, &mut worker) {
            (Some(daemon), _) => Reading {
                at: role::now(),
                packets: 0,
                on_cpu: daemon.worker_on_cpu()?,
                ..Reading::default()
            },
            (None, Some(worker)) => worker.read()?,
            (None, None) => Reading::default(),
        };
        let counted = sink.as_mut().map_or(Ok(device), Role::read)?;
        Ok([counted, generator.read()?, device])
    };
    let before = read()?;
    std::thread::sleep(plan.window);
    let after = read()?;
    let unexplained = match (&daemon, &mut sink) {
        (Some(daemon), Some(sink)) => {
            generator.tell(&Pace::Paused.line())?;
            let total = account::take(lab, daemon, &mut generator, sink)?;
            account::between(&fresh, &total).unexplained
        }
        _ => 0,
    };
    let share = |from: Reading, to: Reading| match to.at - from.at {
        0 => 1.0,
        span => per(to.on_cpu - from.on_cpu, span),
    };
    Ok(Trial {
        mpps: rate(before[0], after[0]),
        offered_mpps: rate(before[1], after[1]),
        generator_share: share(before[1], after[1]),
        device_share: share(before[2], after[2]),
        unexplained,
    })
}

fn start_generator(lab: &Lab, test: &Test, plan: &Plan) -> Result<Role, Error> {
    let flows = match test.device {
        Device::Daemon(tunnels) => tunnels,
        Device::None | Device::Reference(_) => 1,
    };
    let traffic = Traffic {
        tunnelled: test.tunnelled,
        flows,
        frame_len: plan.frame_len,
    };
    traffic.start(lab, plan.generator_cpu, role::FIRST_IN_LINE)
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
        std::thread::yield_now();
    }
    Ok(())
}

fn rate(from: Reading, to: Reading) -> f64 {
    per(to.packets - from.packets, to.at - from.at) * 1000.0
}

fn per(count: u64, nanoseconds: u64) -> f64 {
    count as f64 / nanoseconds.max(1) as f64
}

impl Traffic {
    /// Starts the generator.
    ///
    /// # Errors
    /// What does not start.
    pub fn start(&self, lab: &Lab, cpu: usize, nice: i32) -> Result<Role, Error> {
        let (flows, len) = (self.flows.to_string(), self.frame_len.to_string());
        let (cpu, nice_text) = (cpu.to_string(), nice.to_string());
        let kind = if self.tunnelled { "6in4" } else { "ipv6" };
        let args = ["generator", "gen0", "--kind", kind, "--flows", &flows];
        let more = ["--frame-len", &len, "--cpu", &cpu, "--nice", &nice_text];
        Role::start(
            lab,
            Place::Generator,
            nice,
            &[&args[..], &more[..]].concat(),
        )
    }

    /// Checks what cannot be generated.
    ///
    /// # Errors
    /// Says why.
    pub fn check(&self) -> Result<(), String> {
        if !self.flows.is_power_of_two() || self.flows > 1 << 20 {
            return Err(format!(
                "{} flows: need a power of two up to 2^20",
                self.flows
            ));
        }
        if !(super::generator::FRAME_MIN..=1514).contains(&self.frame_len) {
            return Err(format!(
                "frames of {} bytes: need 82 to 1514",
                self.frame_len
            ));
        }
        Ok(())
    }
}
