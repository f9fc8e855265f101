//! The way from other threads back to the workers: one bounded ring per worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sixferry_fwd::PortId;

use crate::frame::{FRAME_LEN, HEADROOM};
use crate::ring::{Loan, PacketRing, RingError};
use crate::wake::Waker;

/// Longest packet that can be injected: it is put into a frame behind the usual headroom.
pub const INJECT_MAX: usize = FRAME_LEN - HEADROOM;

/// What the worker does with an injected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectKind {
    /// As if received on this port: a held packet whose next hop resolved, a reassembled datagram.
    Process {
        /// The port it is taken to have come from.
        rx_port: PortId,
    },
    /// Sends it as it is: a complete frame made by the slow path.
    Transmit {
        /// The port it leaves by.
        port: PortId,
    },
}

/// Why a packet was not accepted. The caller still owns it, and counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// No worker of that number.
    #[error("there is no worker {0}")]
    NoSuchWorker(usize),
    /// All buffers of the worker's ring are in use.
    #[error("the inject ring of worker {0} is full")]
    Full(usize),
    /// Longer than [`INJECT_MAX`].
    #[error("{0} bytes are more than the {INJECT_MAX} that can be injected")]
    TooLong(usize),
}

/// How many packets entered the inject rings, and how many did not.
#[derive(Debug, Default)]
struct InjectCounters {
    accepted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    rings: Vec<(PacketRing<InjectKind>, Waker)>,
    counters: InjectCounters,
}

/// Makes the inject path: a receiver for each worker (in the order of their wakers), and the handle
/// for everybody else. Each ring has `buffers` buffers of 2 KiB.
pub fn inject_path(wakers: &[Waker], buffers: usize) -> (Vec<InjectReceiver>, Injector) {
    let blank = InjectKind::Process { rx_port: PortId(0) };
    let rings: Vec<_> = wakers
        .iter()
        .map(|waker| (PacketRing::new(buffers, blank), waker.clone()))
        .collect();
    let receivers = rings
        .iter()
        .map(|(ring, _)| InjectReceiver { ring: ring.clone() })
        .collect();
    let shared = Shared {
        rings,
        counters: InjectCounters::default(),
    };
    (
        receivers,
        Injector {
            shared: Arc::new(shared),
        },
    )
}

/// Hands packets to workers; any thread, any number of clones.
#[derive(Clone, Debug)]
pub struct Injector {
    shared: Arc<Shared>,
}

impl Injector {
    /// Copies a packet into a worker's inject ring and wakes the worker. Does not wait.
    ///
    /// # Errors
    /// When there is no such worker, its ring is full or the packet is too long.
    pub fn inject(&self, worker: usize, bytes: &[u8], kind: InjectKind) -> Result<(), InjectError> {
        let outcome = self.try_inject(worker, bytes, kind);
        let counter = match outcome {
            Ok(()) => &self.shared.counters.accepted,
            Err(_) => &self.shared.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn try_inject(&self, worker: usize, bytes: &[u8], kind: InjectKind) -> Result<(), InjectError> {
        let (ring, waker) = self
            .shared
            .rings
            .get(worker)
            .ok_or(InjectError::NoSuchWorker(worker))?;
        if bytes.len() > INJECT_MAX {
            return Err(InjectError::TooLong(bytes.len()));
        }
        ring.push(bytes, kind).map_err(|error| match error {
            RingError::Full => InjectError::Full(worker),
            RingError::TooLong => InjectError::TooLong(bytes.len()),
        })?;
        waker.wake();
        Ok(())
    }

    /// How many workers can be addressed.
    pub fn workers(&self) -> usize {
        self.shared.rings.len()
    }

    /// Packets that entered a ring.
    pub fn accepted(&self) -> u64 {
        self.shared.counters.accepted.load(Ordering::Relaxed)
    }

    /// Packets refused to their caller.
    pub fn refused(&self) -> u64 {
        self.shared.counters.refused.load(Ordering::Relaxed)
    }
}

/// A worker's end of its inject ring.
#[derive(Debug)]
pub struct InjectReceiver {
    ring: PacketRing<InjectKind>,
}

impl InjectReceiver {
    pub(crate) fn pop(&self) -> Option<Loan<'_, InjectKind>> {
        self.ring.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_and_counted() {
        let wakers = [Waker::new().unwrap()];
        let (receivers, injector) = inject_path(&wakers, 1);
        let kind = InjectKind::Transmit { port: PortId(1) };
        assert_eq!(
            injector.inject(1, b"x", kind),
            Err(InjectError::NoSuchWorker(1))
        );
        let long = [0; INJECT_MAX + 1];
        assert_eq!(
            injector.inject(0, &long, kind),
            Err(InjectError::TooLong(INJECT_MAX + 1))
        );
        assert_eq!(injector.inject(0, &long[1..], kind), Ok(()));
        assert_eq!(injector.inject(0, b"x", kind), Err(InjectError::Full(0)));
        assert_eq!((injector.accepted(), injector.refused()), (1, 3));
        let packet = receivers[0].pop().unwrap();
        assert_eq!((packet.bytes().len(), packet.meta), (INJECT_MAX, kind));
    }
}
