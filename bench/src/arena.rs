//! Packets in memory, processed in rounds.
//!
//! 8192 frames of 2048 bytes, taken in shuffled order, so that neither the headers nor the tables of
//! the next packet are where the hardware prefetcher would guess: what a worker meets on a busy
//! queue. `process` rewrites frames in place; every round therefore begins by writing all of them
//! anew, outside of the time that counts.

use crate::frame::{self, Flow};
use crate::population::{Destinations, INSIDE, OUTSIDE, Population};
use crate::rng::Rng;
use crate::yardstick::{Policy, Slot, Yardstick};
use arrayvec::ArrayVec;
use sixferry_fwd::{
    BATCH_MAX, Batch, FRAME_LEN, HEADROOM, Local, Packet, PortId, Tables, Ticks, Verdict, process,
};
use std::time::{Duration, Instant};

/// Frames in the arena: 16 MiB, more than any second-level cache.
pub const FRAMES: usize = 8192;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of a tunnel, to the native side.
    Decap,
    /// From the native side into a tunnel.
    Encap,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Decap, Self::Encap];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decap => "decap",
            Self::Encap => "encap",
        }
    }

    const fn ports(self) -> (PortId, PortId) {
        match self {
            Self::Decap => (OUTSIDE, INSIDE),
            Self::Encap => (INSIDE, OUTSIDE),
        }
    }

    fn flow(self, destinations: &Destinations, rng: &mut Rng, inner_len: usize) -> Flow {
        match self {
            Self::Decap => destinations.decap(rng, inner_len),
            Self::Encap => destinations.encap(rng, inner_len),
        }
    }
}

/// A frame lies in memory as in a umem: at a multiple of its length.
#[derive(Clone, Debug)]
#[repr(align(2048))]
struct Chunk([u8; FRAME_LEN]);

/// The memory of the frames.
#[derive(Debug)]
pub struct Memory(Vec<Chunk>);

impl Memory {
    /// All frames, touched once so that every page is there.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![Chunk([0xa5; FRAME_LEN]); FRAMES])
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// The frames in the order they are received.
#[derive(Debug)]
pub struct Arena<'m> {
    frames: Vec<&'m mut [u8]>,
    lens: Vec<usize>,
    rng: Rng,
}

impl<'m> Arena<'m> {
    /// Shuffles the frames once.
    #[must_use]
    pub fn new(memory: &'m mut Memory, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut frames: Vec<&mut [u8]> = memory
            .0
            .iter_mut()
            .map(|chunk| chunk.0.as_mut_slice())
            .collect();
        rng.shuffle(&mut frames);
        Self {
            lens: vec![0; frames.len()],
            frames,
            rng,
        }
    }

    /// Draws again what it drew since it was made with this seed.
    pub fn draw_again(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }

    /// Writes one packet of a random tunnel into every frame.
    pub fn fill(&mut self, destinations: &Destinations, direction: Direction, inner_len: usize) {
        self.fill_and(destinations, direction, inner_len, || ());
    }

    /// [`Arena::fill`] that does something else after every batch of frames.
    pub fn fill_and(
        &mut self,
        destinations: &Destinations,
        direction: Direction,
        inner_len: usize,
        mut between: impl FnMut(),
    ) {
        let ports = destinations.udp_ports();
        let batches = self.frames.chunks_mut(BATCH_MAX);
        for (frames, lens) in batches.zip(self.lens.chunks_mut(BATCH_MAX)) {
            for (frame, len) in frames.iter_mut().zip(lens) {
                let flow = direction.flow(destinations, &mut self.rng, inner_len);
                *len = frame::write_with(&mut frame[HEADROOM..], &flow, ports);
            }
            between();
        }
    }

    /// Takes all frames as packets of batches and processes them; returns how long that took.
    ///
    /// # Panics
    /// When a packet is not forwarded: then it is not forwarding that was measured.
    pub fn run(
        &mut self,
        tables: &Tables,
        local: &mut Local,
        direction: Direction,
        batch_len: usize,
    ) -> Duration {
        let (_, tx) = direction.ports();
        let before = local.counters().forwarded.packets;
        let mut last = None;
        let start = Instant::now();
        self.batches(tables, local, direction, batch_len, |verdict| {
            last = Some(verdict)
        });
        let took = start.elapsed();
        let forwarded = local.counters().forwarded.packets - before;
        assert_eq!(forwarded, self.frames.len() as u64, "packets were lost");
        assert_eq!(last, Some(Verdict::Tx(tx)), "packets went elsewhere");
        took
    }

    /// Takes all frames as packets of batches and processes them; `see` gets every verdict.
    pub fn batches(
        &mut self,
        tables: &Tables,
        local: &mut Local,
        direction: Direction,
        batch_len: usize,
        mut see: impl FnMut(Verdict),
    ) {
        self.each_batch(direction, batch_len, |batch| {
            process(batch, tables, local, Ticks(1));
            batch.verdicts().iter().copied().for_each(&mut see);
        });
    }

    /// Takes all frames as packets of batches, and does `work` with each batch.
    pub fn each_batch(
        &mut self,
        direction: Direction,
        batch_len: usize,
        mut work: impl FnMut(&mut Batch<'_>),
    ) {
        let (rx, _) = direction.ports();
        let batch_len = batch_len.clamp(1, BATCH_MAX);
        for (frames, lens) in self
            .frames
            .chunks_mut(batch_len)
            .zip(self.lens.chunks(batch_len))
        {
            let mut batch = Batch::new();
            for (frame, len) in frames.iter_mut().zip(lens) {
                if let Some(packet) = Packet::new(frame, HEADROOM, *len, rx) {
                    _ = batch.push(packet);
                }
            }
            work(&mut batch);
        }
    }

    /// [`Arena::run`] with the yardstick instead of `process`.
    ///
    /// # Panics
    /// When a packet does not pass.
    pub fn run_yardstick(
        &mut self,
        yardstick: &mut Yardstick,
        policy: Policy,
        direction: Direction,
        batch_len: usize,
    ) -> Duration {
        let batch_len = batch_len.clamp(1, BATCH_MAX);
        let mut passed = 0;
        let start = Instant::now();
        for (frames, lens) in self
            .frames
            .chunks_mut(batch_len)
            .zip(self.lens.chunks(batch_len))
        {
            let mut batch = ArrayVec::<Slot<'_, '_>, BATCH_MAX>::new();
            for (frame, len) in frames.iter_mut().zip(lens) {
                batch.push(Slot {
                    frame,
                    head: HEADROOM,
                    len: *len,
                });
            }
            passed += match direction {
                Direction::Decap => yardstick.decap(&mut batch, policy),
                Direction::Encap => yardstick.encap(&mut batch),
            };
        }
        let took = start.elapsed();
        assert_eq!(passed, self.frames.len(), "packets were lost");
        took
    }

    /// [`Arena::fill`], then [`Arena::run`].
    pub fn round(
        &mut self,
        population: &Population,
        local: &mut Local,
        Shape {
            direction,
            inner_len,
            batch_len,
        }: Shape,
    ) -> Duration {
        self.fill(population.destinations(), direction, inner_len);
        self.run(population.tables(), local, direction, batch_len)
    }
}

impl Arena<'_> {
    /// [`Arena::fill`], then [`Arena::run_yardstick`].
    pub fn yardstick_round(
        &mut self,
        population: &Population,
        yardstick: &mut Yardstick,
        policy: Policy,
        shape: Shape,
    ) -> Duration {
        self.fill(population.destinations(), shape.direction, shape.inner_len);
        self.run_yardstick(yardstick, policy, shape.direction, shape.batch_len)
    }
}

/// What a round processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Which way.
    pub direction: Direction,
    /// Length of the IPv6 packets.
    pub inner_len: usize,
    /// Packets in a batch.
    pub batch_len: usize,
}
