//! Counters of one worker: plain numbers during a batch, published by relaxed stores after it.
//!
//! There is one writer, so a load and a store do what a locked add would, at the price of a move.
//! Readers sum the workers. Counters never go back.
//!
//! Invariant, per worker and in packets, between any two batches:
//! `received + injected = forwarded + answered + punted + sum of drops`.

use crate::drop_reason::DropReason;
use crate::verdict::PuntReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketsBytes {
    /// How many packets.
    pub packets: u64,
    /// Their bytes, as received or sent at the port (Ethernet header included).
    pub bytes: u64,
}

impl PacketsBytes {
    #[inline]
    pub(crate) const fn add(&mut self, len: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(len as u64);
    }

    #[inline]
    pub(crate) const fn take_back(&mut self, len: usize) {
        self.packets = self.packets.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(len as u64);
    }

    pub(crate) const fn sum(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// The counters of one worker, or the sum of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Taken from receive rings.
    pub received: PacketsBytes,
    /// Come back from the slow path to be processed.
    pub injected: PacketsBytes,
    /// Forwarded.
    pub forwarded: PacketsBytes,
    /// Answered: ICMPv6 errors, echo replies, neighbour advertisements.
    pub answered: PacketsBytes,
    /// Handed to the slow path.
    pub punted: PacketsBytes,
    /// Discarded, by [`DropReason::index`].
    pub drops: [PacketsBytes; DropReason::COUNT],
    /// Handed to the slow path, by [`PuntReason::index`].
    pub punts: [u64; PuntReason::COUNT],
    /// Packets with a combination of ECN fields marked unusual in RFC 6040 section 4.2.
    pub ecn_unusual: u64,
}

impl Default for CounterSnapshot {
    fn default() -> Self {
        Self {
            received: PacketsBytes::default(),
            injected: PacketsBytes::default(),
            forwarded: PacketsBytes::default(),
            answered: PacketsBytes::default(),
            punted: PacketsBytes::default(),
            drops: [PacketsBytes::default(); DropReason::COUNT],
            punts: [0; PuntReason::COUNT],
            ecn_unusual: 0,
        }
    }
}

impl CounterSnapshot {
    /// Counts packets that came in.
    #[inline]
    pub(crate) const fn take(&mut self, injected: bool, packets: PacketsBytes) {
        let taken = if injected {
            &mut self.injected
        } else {
            &mut self.received
        };
        *taken = taken.sum(packets);
    }

    /// All discarded packets.
    #[must_use]
    pub fn dropped(&self) -> PacketsBytes {
        self.drops
            .iter()
            .fold(PacketsBytes::default(), |sum, one| sum.sum(*one))
    }

    /// How often packets were discarded for `reason`.
    #[must_use]
    pub fn drops_for(&self, reason: DropReason) -> PacketsBytes {
        self.drops.get(reason.index()).copied().unwrap_or_default()
    }

    /// The sum of both.
    #[must_use]
    pub fn sum(&self, other: &Self) -> Self {
        let mut total = self.clone();
        total.received = total.received.sum(other.received);
        total.injected = total.injected.sum(other.injected);
        total.forwarded = total.forwarded.sum(other.forwarded);
        total.answered = total.answered.sum(other.answered);
        total.punted = total.punted.sum(other.punted);
        for (mine, its) in total.drops.iter_mut().zip(&other.drops) {
            *mine = mine.sum(*its);
        }
        for (mine, its) in total.punts.iter_mut().zip(&other.punts) {
            *mine = mine.wrapping_add(*its);
        }
        total.ecn_unusual = total.ecn_unusual.wrapping_add(other.ecn_unusual);
        total
    }

    /// Packets in minus packets accounted for: 0 unless there is a bug.
    #[must_use]
    pub fn unaccounted(&self) -> i64 {
        let into = self.received.packets.wrapping_add(self.injected.packets);
        let out = self
            .forwarded
            .packets
            .wrapping_add(self.answered.packets)
            .wrapping_add(self.punted.packets)
            .wrapping_add(self.dropped().packets);
        into.wrapping_sub(out).cast_signed()
    }
}

/// Atomic [`PacketsBytes`].
#[derive(Debug, Default)]
struct Pair {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Pair {
    fn store(&self, value: PacketsBytes) {
        self.packets.store(value.packets, Ordering::Relaxed);
        self.bytes.store(value.bytes, Ordering::Relaxed);
    }

    fn load(&self) -> PacketsBytes {
        PacketsBytes {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// What a worker publishes; readable by any thread at any time.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Even: stable; odd: being written. Lets a reader get a consistent set without stopping the
    /// writer.
    version: AtomicU64,
    received: Pair,
    injected: Pair,
    forwarded: Pair,
    answered: Pair,
    punted: Pair,
    drops: [Pair; DropReason::COUNT],
    punts: [AtomicU64; PuntReason::COUNT],
    ecn_unusual: AtomicU64,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerCounters {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            received: Pair::default(),
            injected: Pair::default(),
            forwarded: Pair::default(),
            answered: Pair::default(),
            punted: Pair::default(),
            drops: std::array::from_fn(|_| Pair::default()),
            punts: std::array::from_fn(|_| AtomicU64::new(0)),
            ecn_unusual: AtomicU64::new(0),
        }
    }

    pub(crate) fn publish(&self, now: &CounterSnapshot) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
        self.received.store(now.received);
        self.injected.store(now.injected);
        self.forwarded.store(now.forwarded);
        self.answered.store(now.answered);
        self.punted.store(now.punted);
        for (shared, value) in self.drops.iter().zip(&now.drops) {
            shared.store(*value);
        }
        for (shared, value) in self.punts.iter().zip(&now.punts) {
            shared.store(*value, Ordering::Relaxed);
        }
        self.ecn_unusual.store(now.ecn_unusual, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// The counters as of the end of one batch: all from the same moment, so the invariant holds in
    /// the result. Tries again while the writer is at it (it writes for well under a microsecond).
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        loop {
            let before = self.version.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let copy = self.copy();
                std::sync::atomic::fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == before {
                    return copy;
                }
            }
            std::hint::spin_loop();
        }
    }

    fn copy(&self) -> CounterSnapshot {
        CounterSnapshot {
            received: self.received.load(),
            injected: self.injected.load(),
            forwarded: self.forwarded.load(),
            answered: self.answered.load(),
            punted: self.punted.load(),
            drops: std::array::from_fn(|i| self.drops.get(i).map(Pair::load).unwrap_or_default()),
            punts: std::array::from_fn(|i| {
                self.punts
                    .get(i)
                    .map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            ecn_unusual: self.ecn_unusual.load(Ordering::Relaxed),
        }
    }
}
