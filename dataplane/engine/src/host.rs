//! The way between the workers and the relay host's own stack: what is for the host, and the
//! answers to what the host sent.
//!
//! Rings of its own, both ways: traffic of the host is no control traffic, so it may fill its rings
//! without pushing a single punt aside, and a flood of punts takes no buffer from it. There is no
//! rate: the host's stack is made for load, and the rings bound what a worker may leave it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sixferry_fwd::PortId;

use crate::inject::{InjectReceiver, Injector, inject_path};
use crate::punt::bump;
use crate::ring::{Loan, PacketRing};
use crate::wake::Waker;

/// How to make the host's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The port that stands for the host.
    pub port: PortId,
    /// Packet buffers per worker and direction, 2 KiB each.
    pub buffers: usize,
}

impl HostConfig {
    /// The defaults for that port: 1,024 buffers.
    pub const fn new(port: PortId) -> Self {
        Self {
            port,
            buffers: 1024,
        }
    }
}

/// One worker's packets for the host.
#[derive(Debug, Default)]
struct Counters {
    queued: AtomicU64,
    refused: AtomicU64,
}

/// A worker's end of the ring to the host.
#[derive(Debug)]
pub struct HostProducer {
    port: PortId,
    ring: PacketRing<()>,
    counters: Arc<Counters>,
    waker: Waker,
    unannounced: bool,
}

/// The host thread's end: takes from the workers in turn, and hands them the host's packets.
#[derive(Debug)]
pub struct HostEnd {
    rings: Vec<PacketRing<()>>,
    counters: Vec<Arc<Counters>>,
    next: usize,
    waker: Waker,
    injector: Injector,
}

/// Makes the rings of the workers with these wakers: each worker's two ends, and the host thread's.
pub(crate) fn host_path(
    wakers: &[Waker],
    config: &HostConfig,
) -> io::Result<(Vec<(HostProducer, InjectReceiver)>, HostEnd)> {
    let waker = Waker::new()?;
    let (receivers, injector) = inject_path(wakers, config.buffers);
    let producers: Vec<HostProducer> = wakers
        .iter()
        .map(|_| HostProducer {
            port: config.port,
            ring: PacketRing::new(config.buffers, ()),
            counters: Arc::default(),
            waker: waker.clone(),
            unannounced: false,
        })
        .collect();
    let end = HostEnd {
        rings: producers.iter().map(|p| p.ring.clone()).collect(),
        counters: producers.iter().map(|p| Arc::clone(&p.counters)).collect(),
        next: 0,
        waker,
        injector,
    };
    Ok((producers.into_iter().zip(receivers).collect(), end))
}

impl HostProducer {
    /// The port that stands for the host.
    pub(crate) const fn port(&self) -> PortId {
        self.port
    }

    /// Copies a bare IPv6 packet into the ring; `false` when no buffer is free.
    pub(crate) fn offer(&mut self, packet: &[u8]) -> bool {
        let queued = self.ring.push(packet, ()).is_ok();
        bump(if queued {
            &self.counters.queued
        } else {
            &self.counters.refused
        });
        self.unannounced |= queued;
        queued
    }

    /// Wakes the host's thread if something was queued since the last call.
    pub(crate) fn announce(&mut self) {
        if self.unannounced {
            self.unannounced = false;
            self.waker.wake();
        }
    }
}

impl HostEnd {
    /// The next packet for the host. Its buffer goes back when the loan is dropped.
    pub fn pop(&mut self) -> Option<Loan<'_, ()>> {
        let workers = self.rings.len();
        let at = (0..workers)
            .map(|step| (self.next + step) % workers)
            .find(|at| !self.rings[*at].is_empty())?;
        self.next = (at + 1) % workers;
        self.rings[at].pop()
    }

    /// Hands the workers packets from the host.
    pub fn injector(&self) -> &Injector {
        &self.injector
    }

    /// Wakes the thread that owns this.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Forgets past wake-ups. Clear first, then pop: what arrives in between wakes again.
    pub fn clear(&self) {
        self.waker.clear();
    }

    /// Packets the workers queued for the host, and those that found no buffer.
    pub fn totals(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.counters.iter().fold((0, 0), |(queued, refused), c| {
            (queued + load(&c.queued), refused + load(&c.refused))
        })
    }
}

/// Readable when a worker has queued something.
impl AsFd for HostEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
