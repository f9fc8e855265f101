//! The device under test with tunnels, and generators and sinks around it.

use super::super::controller::Load;
use super::super::daemon::Daemon;
use super::super::lab::{Lab, Place};
use super::super::{Context, Error, trial};
use super::{Direction, Job, Lengths};
use crate::pktgen::pace::Pace;
use crate::pktgen::sizes::Sizes;
use crate::pktgen::stream::Tester;
use crate::pktgen::traffic::{Encapsulation, Traffic};

/// The CPU of generator and the reception it triggers.
const GENERATOR_CPU: usize = 0;
/// The CPU of the worker and what it sends.
pub(super) const DEVICE_CPU: usize = 1;
/// Frames a second until the first have come through.
const FIRST: u64 = 50_000;
/// Frames of one go where delays count: a tagged frame must not wait for the rest of its batch.
const BATCH: u32 = 4;
/// A generator that was away must not come back with a burst that is a delay of its own.
const CATCH_UP: u32 = 64;

/// A device at work.
#[derive(Debug)]
pub(super) struct Stand<'a> {
    pub(super) lab: &'a Lab,
    pub(super) daemon: Daemon,
    pub(super) direction: Direction,
    encapsulation: Encapsulation,
    tunnels: u32,
}

impl<'a> Stand<'a> {
    /// Starts the device with so many tunnels.
    pub(super) fn start(
        lab: &'a Lab,
        job: &Job,
        direction: Direction,
        tunnels: u32,
    ) -> Result<Self, Error> {
        let daemon = Daemon::start(lab, &job.daemon, DEVICE_CPU)?;
        let mut stand = Self {
            lab,
            daemon,
            direction,
            encapsulation: job.encapsulation,
            tunnels: 0,
        };
        stand.grow(tunnels)?;
        Ok(stand)
    }

    /// From now on there are so many tunnels; those that there were stay. Returns the seconds it took.
    pub(super) fn grow(&mut self, tunnels: u32) -> Result<f64, Error> {
        let load = match self.encapsulation {
            Encapsulation::Udp => Load::Udp(tunnels),
            _ => Load::SixInFour(tunnels),
        };
        let (said, took) = self.daemon.load(self.lab, load)?;
        if said.created != u64::from(tunnels - self.tunnels) {
            return Err(format!("{said:?}")).during("adding tunnels");
        }
        self.tunnels = tunnels;
        Ok(took.as_secs_f64())
    }

    /// Generator and sink, through all tunnels; packets have come through when it returns.
    pub(super) fn tester(&self, lengths: Lengths, tag_every: u32) -> Result<Tester, Error> {
        let sink = self.lab.sink(Place::Sink, "sink0")?;
        let traffic = self.traffic(lengths, tag_every);
        traffic.check().during("the traffic")?;
        let generator = self.lab.generator(&traffic, GENERATOR_CPU)?;
        let mut tester = Tester {
            generator,
            sink,
            worker: Some(self.daemon.worker()?),
        };
        tester.generator.tell(&Pace::PerSecond(FIRST).line())?;
        trial::await_traffic(&mut tester.sink).during("the first packets")?;
        tester.generator.tell(&Pace::Paused.line())?;
        Ok(tester)
    }

    fn traffic(&self, lengths: Lengths, tag_every: u32) -> Traffic {
        let plain = Traffic {
            encapsulation: match self.direction {
                Direction::Decap => self.encapsulation,
                Direction::Encap => Encapsulation::Native,
            },
            flows: self.tunnels,
            sizes: Sizes::one(lengths.sent(self.direction)),
            tag_every,
            ..Traffic::default()
        };
        if tag_every == 0 {
            return plain;
        }
        Traffic {
            batch: BATCH,
            catch_up: CATCH_UP,
            ..plain
        }
    }
}
