//! The host port: a TUN device through which the relay host's own stack reaches tunnel users, and
//! they it.
//!
//! What is for an address of the host comes from the workers through rings of its own and is
//! written to the device; what the host sends to a tunnel's prefix comes back the other way and is
//! processed like a received packet, with every check and counter. The thread here moves packets
//! and decides nothing. When the workers' rings are full it stops reading, and the device's own
//! queue fills: the host slows down, nobody else.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sixferry_engine::{HostEnd, INJECT_MAX, InjectError, InjectKind, Waker, drop_capabilities};
use sixferry_fwd::{Ipv6Prefix, PacketsBytes, PortId};
use sixferry_wire::ipv6;
use tokio::sync::watch;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::live::HostPortCounts;
use crate::netlink::device::{DeviceRoutes, bring_up};

/// Packets taken in one direction before the other has its turn.
const BURST: usize = 64;
/// Longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Pause while the workers' rings are full, or the device is in trouble.
const FULL: Duration = Duration::from_millis(1);
const TROUBLE: Duration = Duration::from_millis(100);
/// Routes that somebody else removed come back after this time at the latest.
const AUDIT: Duration = Duration::from_secs(60);

/// What passed.
#[derive(Debug, Default)]
pub(crate) struct HostPortCounters {
    to_host: [AtomicU64; 2],
    from_host: [AtomicU64; 2],
    dropped: AtomicU64,
}

impl HostPortCounters {
    pub(crate) fn counts(&self) -> HostPortCounts {
        let sum = |[packets, bytes]: &[AtomicU64; 2]| PacketsBytes {
            packets: packets.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        };
        HostPortCounts {
            to_host: sum(&self.to_host),
            from_host: sum(&self.from_host),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

fn count([packets, bytes]: &[AtomicU64; 2], len: usize) {
    packets.fetch_add(1, Ordering::Relaxed);
    bytes.fetch_add(len as u64, Ordering::Relaxed);
}

/// Where the thread's packets come from and go to: the TUN device, or a stand-in.
pub(crate) trait Device: AsFd + Send {
    /// The next packet of the host; `WouldBlock` when there is none.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Hands the host a packet.
    fn deliver(&self, packet: &[u8]) -> io::Result<()>;
}

/// A TUN device of ours; the kernel removes it when it is dropped.
pub(crate) struct Tun {
    device: SyncDevice,
    index: u32,
}

impl Tun {
    /// Makes the device and sets it up.
    pub(crate) async fn open(name: &str, mtu: u16) -> Result<Self, String> {
        let made = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L3)
            .enable(false)
            .build_sync();
        let explain = |error: io::Error| {
            format!(
                "cannot make the host port {name}: {error} (needs CAP_NET_ADMIN and /dev/net/tun; \
                 is there a device of that name?)"
            )
        };
        let device = made.map_err(explain)?;
        device.set_nonblocking(true).map_err(explain)?;
        let index = device.if_index().map_err(explain)?;
        bring_up(index, mtu.into())
            .await
            .map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { device, index })
    }

    /// The interface's number.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Device for Tun {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer)
    }

    fn deliver(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).map(drop)
    }
}

/// The thread's handle.
#[derive(Debug)]
pub(crate) struct HostPort {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl HostPort {
    /// Starts moving packets between `device` and the workers.
    pub(crate) fn start(
        device: impl Device + 'static,
        end: HostEnd,
        port: PortId,
        counters: Arc<HostPortCounters>,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let waker = end.waker();
        let mut mover = Mover {
            device,
            end,
            port,
            counters,
            pending: None,
        };
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("host".to_owned())
            .spawn(move || {
                if let Err(error) = drop_capabilities() {
                    tracing::error!(%error, "the host port's thread keeps its capabilities");
                }
                while !flag.load(Ordering::Acquire) {
                    mover.turn();
                }
            })?;
        Ok(Self {
            stop,
            waker,
            thread,
        })
    }

    /// Ends the thread, and with it the device.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if self.thread.join().is_err() {
            tracing::error!("the host port's thread had panicked");
        }
    }
}

struct Mover<D> {
    device: D,
    end: HostEnd,
    port: PortId,
    counters: Arc<HostPortCounters>,
    /// A packet of the host that found the ring of its worker full.
    pending: Option<(usize, Vec<u8>)>,
}

impl<D: Device> Mover<D> {
    fn turn(&mut self) {
        self.wait();
        self.end.clear();
        let (delivered, sent) = (self.deliver(), self.take());
        if delivered || sent {
            // More may be there than one burst: do not sleep on it.
            self.end.waker().wake();
        }
    }

    /// Waits for packets on either side.
    fn wait(&self) {
        let limit = if self.pending.is_some() { FULL } else { IDLE };
        let limit = Timespec::try_from(limit).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let wanted = if self.pending.is_some() {
            PollFlags::empty()
        } else {
            PollFlags::IN
        };
        let mut fds = [
            PollFd::new(&self.end, PollFlags::IN),
            PollFd::new(&self.device, wanted),
        ];
        let trouble = match poll(&mut fds, Some(&limit)) {
            Ok(_) => fds[1]
                .revents()
                .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
            Err(rustix::io::Errno::INTR) => false,
            Err(_) => true,
        };
        if trouble {
            std::thread::sleep(TROUBLE);
        }
    }

    /// From the workers to the host; whether there may be more.
    fn deliver(&mut self) -> bool {
        for _ in 0..BURST {
            let Some(packet) = self.end.pop() else {
                return false;
            };
            let bytes = packet.bytes();
            match self.device.deliver(bytes) {
                Ok(()) => count(&self.counters.to_host, bytes.len()),
                Err(_) => {
                    self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        true
    }

    /// From the host to the workers; whether there may be more.
    fn take(&mut self) -> bool {
        if let Some((worker, packet)) = self.pending.take()
            && !self.send(worker, &packet)
        {
            return false;
        }
        let mut buffer = [0; INJECT_MAX];
        for _ in 0..BURST {
            let Ok(len) = self.device.receive(&mut buffer) else {
                return false;
            };
            let packet = &buffer[..len.min(INJECT_MAX)];
            let Some(worker) = worker_of(packet, self.end.injector().workers()) else {
                continue;
            };
            if !self.send(worker, packet) {
                return false;
            }
        }
        true
    }

    fn send(&mut self, worker: usize, packet: &[u8]) -> bool {
        let kind = InjectKind::Process { rx_port: self.port };
        match self.end.injector().inject(worker, packet, kind) {
            Ok(()) => count(&self.counters.from_host, packet.len()),
            Err(InjectError::Full(_)) => {
                self.pending = Some((worker, packet.to_vec()));
                return false;
            }
            Err(InjectError::NoSuchWorker(_) | InjectError::TooLong(_)) => {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }
}

/// Which worker takes a packet of the host: always the same for one pair of addresses, so that its
/// packets stay in order. `None` for what is no business of tunnels: IPv4, and what the kernel says
/// to the device's own link.
fn worker_of(packet: &[u8], workers: usize) -> Option<usize> {
    let header: &[u8; ipv6::HEADER_LEN] = packet.first_chunk()?;
    let (src, dst) = (&header[8..24], &header[24..40]);
    let link_local = dst[0] == 0xfe && dst[1] & 0xc0 == 0x80;
    if header[0] >> 4 != 6 || dst[0] == 0xff || link_local {
        return None;
    }
    let hash = src.iter().chain(dst).fold(0_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(*byte))
    });
    Some(hash as usize % workers.max(1))
}

/// Keeps the kernel's routes to the device in step with the tunnels' prefixes, until `wanted` is
/// closed. They go with the device.
pub(crate) async fn keep_routes(
    mut routes: DeviceRoutes,
    mut wanted: watch::Receiver<BTreeSet<Ipv6Prefix>>,
) {
    let mut audit = false;
    loop {
        let now = wanted.borrow_and_update().clone();
        routes.follow(&now, audit).await;
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => audit = false,
                Err(_) => return,
            },
            () = tokio::time::sleep(AUDIT) => audit = true,
        }
    }
}

#[cfg(test)]
mod tests;
