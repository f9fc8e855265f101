//! The sink: counts and drops what arrives at an interface, and says how long it took.

use super::histogram::{BUCKETS, Histogram};
use super::role::{self, Reading};
use crate::error::{Context, Error};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{Xdp, xdp::XdpMode};
use serde::{Deserialize, Serialize};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// The question for delays too; any other line is for the counters alone.
pub const DELAYS: &str = "delays";

/// The question for the first tagged frame too.
pub const FIRST: &str = "first";
/// The order to forget which tagged frame was the first.
pub const FORGET: &str = "forget";

/// The first tagged frame, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// When it arrived.
    pub arrived: u64,
    /// When it was sent.
    pub sent: u64,
}

/// What a sink has counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Arrived {
    /// The generator's frames.
    #[serde(flatten)]
    pub reading: Reading,
    /// Frames of others.
    pub others: u64,
    /// Tagged frames that came again.
    pub duplicates: u64,
    /// Tagged frames that came after one that was sent later.
    pub reordered: u64,
    /// Tagged frames from the future: tagged by a clock that is not this host's.
    pub skewed: u64,
    /// How long the tagged frames took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delays: Option<Histogram>,
    /// The first tagged frame since it was forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<First>,
}

/// A sink at work; it ends when dropped.
pub struct Sink {
    arrived: PerCpuArray<MapData, u64>,
    delays: PerCpuArray<MapData, u64>,
    first: Array<MapData, [u64; 2]>,
    generic: bool,
    // holds the program at its interface
    _ebpf: Ebpf,
}

impl Sink {
    /// Takes all that arrives at an interface of the caller's namespace; in the generic mode where the
    /// driver has no XDP.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn attach(interface: &str) -> Result<Self, Error> {
        super::interface_index(interface)?;
        let mut ebpf = Ebpf::load(OBJECT).during("loading the sink")?;
        let mut map = |name: &str| ebpf.take_map(name).ok_or("no such map").during(name);
        let arrived = PerCpuArray::try_from(map("arrived")?).during("arrived")?;
        let delays = PerCpuArray::try_from(map("delays")?).during("delays")?;
        let first = Array::try_from(map("first")?).during("first")?;
        let program = ebpf
            .program_mut("sixferry_sink")
            .ok_or("no such program")
            .during("sixferry_sink")?;
        let program: &mut Xdp = program.try_into().during("sixferry_sink")?;
        program.load().during("loading the sink")?;
        let action = format!("attaching the sink to {interface}");
        let generic = match program.attach(interface, XdpMode::Driver) {
            Ok(_) => false,
            Err(native) => {
                program
                    .attach(interface, XdpMode::Skb)
                    .map_err(|generic| format!("{native}; generic: {generic}"))
                    .during(action)?;
                true
            }
        };
        Ok(Self {
            arrived,
            delays,
            first,
            generic,
            _ebpf: ebpf,
        })
    }

    /// Whether the kernel makes a buffer of each frame first, for want of XDP in the driver.
    #[must_use]
    pub const fn is_generic(&self) -> bool {
        self.generic
    }

    /// What has arrived.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counters(&self) -> Result<Arrived, Error> {
        let total = |at: u32| -> Result<u64, Error> {
            Ok(self.arrived.get(&at, 0).during("arrived")?.iter().sum())
        };
        Ok(Arrived {
            reading: Reading {
                at: role::now(),
                packets: total(0)?,
                bytes: total(1)?,
                tagged: total(3)?,
                ..Reading::default()
            },
            others: total(2)?,
            duplicates: total(4)?,
            reordered: total(5)?,
            skewed: total(6)?,
            delays: None,
            first: None,
        })
    }

    /// What has arrived, and which tagged frame was the first.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counters_and_first(&self) -> Result<Arrived, Error> {
        let [arrived, sent] = self.first.get(&0, 0).during("first")?;
        Ok(Arrived {
            first: (arrived > 0).then_some(First { arrived, sent }),
            ..self.counters()?
        })
    }

    /// The next tagged frame is the first.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn forget(&mut self) -> Result<(), Error> {
        self.first.set(0, [0, 0], 0).during("first")
    }

    /// What has arrived, and how long it took.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counters_and_delays(&self) -> Result<Arrived, Error> {
        let mut histogram = Histogram::default();
        for bucket in 0..BUCKETS {
            let counts = self.delays.get(&bucket, 0).during("delays")?;
            histogram.add(bucket, counts.iter().sum());
        }
        Ok(Arrived {
            delays: Some(histogram),
            ..self.counters()?
        })
    }
}

/// Answers the lines on standard input until that ends. Called in the interface's namespace.
///
/// # Errors
/// What the kernel refuses.
pub fn obey(interface: &str) -> Result<(), Error> {
    let mut sink = Sink::attach(interface)?;
    role::serve(|line| match line {
        DELAYS => sink.counters_and_delays(),
        FIRST => sink.counters_and_first(),
        FORGET => {
            sink.forget()?;
            sink.counters()
        }
        _ => sink.counters(),
    })
}
