//! RFC 8219: benchmarking of IPv6 transition technologies, class encapsulation.
//!
//! One relay is the device under test (section 4.2, "single DUT"): for decapsulation the tester sends
//! encapsulated packets, for encapsulation native ones. Traffic goes one way at a time, as a generator
//! needs a CPU of its own. Each measurement names the section it comes from; section 8 (stateful
//! technologies) and 9 (DNS64) do not apply to tunnels without state.

mod events;
mod rates;
pub mod report;
mod scalability;
pub mod scale;
mod stand;
mod times;

use super::lab::Lab;
use super::{Context, Error};
use crate::cpu;
use crate::environment::Environment;
use crate::pktgen::traffic::{Encapsulation, TAG_LEN};
use scale::Scale;
use serde::{Deserialize, Serialize};
use stand::Stand;
use std::path::PathBuf;

pub use events::{Recovery, Reset};
pub use rates::{BackToBack, FrameLoss, Throughput};
pub use scalability::Scalability;
pub use times::{Latency, Variation};

/// Bytes that a frame has on the wire besides those that a program sees.
pub const FCS_LEN: usize = 4;

/// What the device does with the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Strips the outer header.
    Decap,
    /// Puts an outer header in front.
    Encap,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// The highest rate without loss (7.1; RFC 2544, 26.1)
    Throughput,
    /// Typical and worst-case delay at that rate (7.2)
    Latency,
    /// Packet delay variation at that rate (7.3.1)
    Pdv,
    /// Loss by rate, from the flat-out rate down (7.4; RFC 2544, 26.3)
    FrameLoss,
    /// The longest burst without loss (7.5; RFC 2544, 26.4)
    BackToBack,
    /// From the end of an overload to the last frame lost (7.6; RFC 2544, 26.5)
    Recovery,
    /// Time without forwarding when the process is restarted (7.7; RFC 6201)
    Reset,
    /// Throughput with more and more tunnels (10.2)
    Scalability,
}

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Job {
    /// `sixferryd`.
    pub daemon: PathBuf,
    /// The outer header: protocol 41 or UDP.
    pub encapsulation: Encapsulation,
    /// In this order.
    pub directions: Vec<Direction>,
    /// Frame lengths at the tunnel's side, with FCS.
    pub sizes: Vec<usize>,
    /// What to measure.
    pub tests: Vec<Test>,
    /// Numbers of tunnels of the overload test.
    pub tunnels: Vec<u32>,
    /// How long everything takes.
    pub scale: Scale,
}

/// The lengths of a frame on its way through the device, without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// As the RFC calls it: at the tunnel's side, with FCS. 64 stands for the shortest possible.
    pub nominal: usize,
    /// With the outer header.
    pub outer: usize,
    /// Without it.
    pub inner: usize,
}

impl Lengths {
    /// Of a nominal size. What is too short for a packet (and a time tag, if it shall have one) is as
    /// long as it must be.
    #[must_use]
    pub fn new(nominal: usize, encapsulation: Encapsulation, tagged: bool) -> Self {
        let tag = if tagged { TAG_LEN } else { 0 };
        let outer = nominal
            .saturating_sub(FCS_LEN)
            .max(encapsulation.frame_min() + tag);
        Self {
            nominal,
            outer,
            inner: outer - encapsulation.outer_len(),
        }
    }

    /// What the generator sends.
    const fn sent(self, direction: Direction) -> usize {
        match direction {
            Direction::Decap => self.outer,
            Direction::Encap => self.inner,
        }
    }
}

/// All that was measured with frames of one size in one direction; what was not asked for is absent.
#[derive(Clone, Debug, Serialize)]
pub struct Sized {
    /// Which way.
    pub direction: Direction,
    /// How long the frames were.
    pub lengths: Lengths,
    /// How long those with time tags were.
    pub tagged_lengths: Lengths,
    /// Section 7.1; the other tests need it, so it is always there.
    pub throughput: Throughput,
    /// Section 7.2.
    pub latency: Option<Latency>,
    /// Section 7.3.1.
    pub pdv: Option<Variation>,
    /// Section 7.4.
    pub frame_loss: Option<FrameLoss>,
    /// Section 7.5.
    pub back_to_back: Option<BackToBack>,
    /// Section 7.6.
    pub recovery: Option<Recovery>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Where and when.
    pub environment: Environment,
    /// The outer header.
    pub encapsulation: Encapsulation,
    /// How long everything took.
    pub scale: Scale,
    /// By direction and size.
    pub sizes: Vec<Sized>,
    /// Section 7.7, by direction.
    pub resets: Vec<Reset>,
    /// Section 10.2, by direction.
    pub scalability: Vec<Scalability>,
    /// The load average afterwards.
    pub load_after: String,
}

impl Job {
    fn wants(&self, test: Test) -> bool {
        self.tests.contains(&test)
    }

    /// Measures everything, and says how far it is on standard error.
    ///
    /// # Errors
    /// What does not start, or ends early.
    pub fn run(&self) -> Result<Measured, Error> {
        let mut measured = Measured {
            environment: Environment::now(),
            encapsulation: self.encapsulation,
            scale: self.scale,
            sizes: Vec::new(),
            resets: Vec::new(),
            scalability: Vec::new(),
            load_after: String::new(),
        };
        cpu::leave(stand::DEVICE_CPU).during("a CPU besides the relay's")?;
        let by_size = [
            Test::Throughput,
            Test::Latency,
            Test::Pdv,
            Test::FrameLoss,
            Test::BackToBack,
            Test::Recovery,
        ];
        for direction in self.directions.iter().copied() {
            if by_size.iter().any(|test| self.wants(*test)) {
                // promiscuous mode and learnt neighbours outlive a device
                let lab = Lab::new()?;
                let stand = Stand::start(&lab, self, direction, 1)?;
                for nominal in self.sizes.iter().copied() {
                    measured.sizes.push(self.sized(&stand, nominal)?);
                }
            }
            if self.wants(Test::Reset) {
                let reset = events::reset(self, direction)?;
                eprintln!("{direction}: {reset}");
                measured.resets.push(reset);
            }
            if self.wants(Test::Scalability) {
                let scalability = scalability::run(self, direction)?;
                measured.scalability.push(scalability);
            }
        }
        measured.load_after = crate::environment::load();
        Ok(measured)
    }

    fn sized(&self, stand: &Stand<'_>, nominal: usize) -> Result<Sized, Error> {
        let (direction, scale) = (stand.direction, &self.scale);
        let [lengths, tagged_lengths] =
            [false, true].map(|tagged| Lengths::new(nominal, self.encapsulation, tagged));
        let say = |result: &dyn std::fmt::Display| eprintln!("{direction} {nominal}: {result}");
        let mut tester = stand.tester(lengths, 0)?;
        let throughput = rates::throughput(&mut tester, scale)?;
        say(&throughput);
        let mut sized = Sized {
            direction,
            lengths,
            tagged_lengths,
            throughput,
            latency: None,
            pdv: None,
            frame_loss: None,
            back_to_back: None,
            recovery: None,
        };
        if self.wants(Test::FrameLoss) {
            let curve = rates::frame_loss(&mut tester, scale, &sized.throughput)?;
            say(&curve);
            sized.frame_loss = Some(curve);
        }
        if self.wants(Test::BackToBack) {
            let burst = rates::back_to_back(&mut tester, scale)?;
            say(&burst);
            sized.back_to_back = Some(burst);
        }
        if self.wants(Test::Recovery) {
            let recovery = events::recovery(&mut tester, scale, &sized.throughput)?;
            say(&recovery);
            sized.recovery = Some(recovery);
        }
        // one generator at a time: it is on its CPU also while it sends nothing
        drop(tester);
        let rate = sized.throughput.usable_mpps();
        if self.wants(Test::Latency) {
            let mut tester = stand.tester(tagged_lengths, times::every(rate))?;
            let latency = times::latency(&mut tester, scale, rate)?;
            say(&latency);
            sized.latency = Some(latency);
        }
        if self.wants(Test::Pdv) {
            let mut tester = stand.tester(tagged_lengths, 1)?;
            let variation = times::variation(&mut tester, scale, rate)?;
            say(&variation);
            sized.pdv = Some(variation);
        }
        Ok(sized)
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Decap => "decapsulation",
            Self::Encap => "encapsulation",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_tunnels_side() {
        let lengths = |nominal, tagged| Lengths::new(nominal, Encapsulation::SixInFour, tagged);
        let got = lengths(64, false);
        assert_eq!((got.outer, got.inner), (82, 62));
        assert_eq!(lengths(64, true).outer, 94);
        let got = lengths(1518, true);
        assert_eq!((got.outer, got.inner), (1514, 1494));
        assert_eq!(got.sent(Direction::Encap), 1494);
        assert_eq!(got.sent(Direction::Decap), 1514);
        let udp = Lengths::new(1280, Encapsulation::Udp, false);
        assert_eq!(udp.outer - udp.inner, 28);
    }
}
