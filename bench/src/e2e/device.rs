//! What stands in the middle, running.

use super::controller::Load;
use super::daemon::Daemon;
use super::lab::{Lab, Place, Role};
use super::peers::{Forwarding, Testpmd};
use super::role::{self, Reading};
use super::trial::Plan;
use super::{Context, Error, reference};
use std::path::PathBuf;

/// What stands in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Nothing: frames are dropped by XDP where they arrive.
    None,
    /// The reference worker, with the name of its work.
    Reference(&'static str),
    /// The daemon with tunnels.
    Daemon(Load),
    /// The kernel's own IPv6 forwarding.
    Forwarding,
    /// Decapsulation in the kernel, with so many tunnels.
    InKernel(u32),
    /// DPDK's forwarder.
    Testpmd,
}

impl Device {
    /// How many flows it is to have, and whether they go to prefixes without a rule.
    #[must_use]
    pub const fn flows(self) -> (u32, bool) {
        match self {
            Self::Daemon(Load::SixInFour(count) | Load::Udp(count)) | Self::InKernel(count) => {
                (count, false)
            }
            Self::Daemon(Load::Routes(count)) => (count, true),
            Self::None | Self::Reference(_) | Self::Forwarding | Self::Testpmd => (1, false),
        }
    }
}

/// A device at work; it ends when dropped.
#[derive(Debug)]
pub enum Running<'a> {
    /// Nothing.
    Nothing,
    /// A process that answers.
    Worker(Role),
    /// The daemon.
    Daemon(Daemon),
    /// The kernel.
    Forwarding(Forwarding<'a>),
    /// DPDK.
    Testpmd(Testpmd),
}

impl<'a> Running<'a> {
    /// Starts it.
    ///
    /// # Errors
    /// What does not start.
    pub fn start(lab: &'a Lab, device: Device, plan: &Plan) -> Result<Self, Error> {
        let nice = role::FIRST_IN_LINE;
        let cpu = plan.device_cpu;
        Ok(match device {
            Device::None => Self::Nothing,
            Device::Reference(work) => {
                let cpu = cpu.to_string();
                let args = ["reference", work, "dut0", "dut1", "--cpu", &cpu];
                Self::Worker(Role::start(lab, Place::Device, nice, &args)?)
            }
            Device::InKernel(tunnels) => {
                let tunnels = tunnels.to_string();
                let args = ["decap-in-kernel", "dut0", "dut1", "--tunnels", &tunnels];
                Self::Worker(Role::start(lab, Place::Device, nice, &args)?)
            }
            Device::Daemon(load) => {
                let daemon = Daemon::start(lab, &plan.daemon, cpu)?;
                daemon.load(lab, load)?;
                Self::Daemon(daemon)
            }
            Device::Forwarding => Self::Forwarding(Forwarding::start(lab, cpu)?),
            Device::Testpmd => Self::Testpmd(Testpmd::start(lab, [plan.generator_cpu, cpu])?),
        })
    }

    /// The process that does the work, if it is one.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        match self {
            Self::Worker(worker) => Some(worker.process()),
            Self::Daemon(daemon) => Some(daemon.process()),
            Self::Testpmd(testpmd) => Some(testpmd.process()),
            Self::Nothing | Self::Forwarding(_) => None,
        }
    }

    /// The directory in /proc of the thread that does the work.
    ///
    /// # Errors
    /// When it has none.
    pub fn thread(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Worker(worker) => role::thread_of(worker.process(), reference::THREAD),
            Self::Daemon(daemon) => daemon.worker(),
            Self::Nothing | Self::Forwarding(_) | Self::Testpmd(_) => {
                Err("no thread of its own").during("the device")
            }
        }
    }

    /// What it has taken, if it counts, and how long its worker has been on a CPU, if it has one.
    ///
    /// # Errors
    /// When it has ended.
    pub fn read(&mut self) -> Result<Reading, Error> {
        match self {
            Self::Worker(worker) => worker.read(),
            Self::Daemon(daemon) => Ok(on_cpu(daemon.worker_on_cpu()?)),
            Self::Testpmd(testpmd) => Ok(on_cpu(testpmd.worker_on_cpu()?)),
            Self::Nothing | Self::Forwarding(_) => Ok(Reading::default()),
        }
    }
}

fn on_cpu(on_cpu: u64) -> Reading {
    Reading {
        at: role::now(),
        on_cpu,
        ..Reading::default()
    }
}
