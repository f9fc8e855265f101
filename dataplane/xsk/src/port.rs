//! One queue of one interface through AF_XDP, as a worker's [`Port`].

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use sixferry_engine::{BATCH_MAX, FRAME_LEN, Frame, FramePool, Port, PortQueueStats, RxPacket};

use crate::RING_ENTRIES;
use crate::bind::BindMode;
use crate::error::{Operation, SetupError};
use crate::socket::{QueueId, Rings, Socket};
use crate::umem::{Held, Umem};

/// Wake-up calls in a row without any descriptor taken before the rest waits for the next turn.
const MAX_STALLS: u32 = 3;

/// An AF_XDP socket on one queue with the frames it holds.
///
/// Dropped or closed, it leaves the frames the kernel may still use with the [`Umem`], where the
/// next port on the same queue finds them.
pub struct XskPort {
    queue: QueueId,
    umem: Arc<Umem>,
    mode: BindMode,
    open: Option<Open>,
    held: Held,
    /// Frames in the fill and rx rings; the others of `held` are in tx or completion.
    rx_held: u32,
    /// How many frames the fill and rx rings get together.
    rx_target: u32,
    /// Frames of an earlier port on this queue, on their way to the pool.
    recovered: Vec<Frame>,
    stats: PortQueueStats,
}

struct Open {
    // Dropped first: a mapped ring keeps the socket open.
    rings: Rings,
    socket: Arc<Socket>,
}

impl XskPort {
    /// Opens a socket on `queue`. The port starts without frames: [`Port::flush`] gives it some.
    pub(crate) fn open(
        queue: QueueId,
        umem: &Arc<Umem>,
        mode: BindMode,
        rx_target: u32,
    ) -> Result<Self, SetupError> {
        let (socket, rings) = Socket::open(&queue, umem, mode)?;
        let recovered = umem.recover(queue.ifindex, queue.queue);
        let in_force = socket
            .bind_mode()
            .map_err(|error| SetupError::new(&queue.interface, Operation::Bind, error))?;
        Ok(Self {
            umem: Arc::clone(umem),
            held: Held::new(Arc::clone(umem)),
            mode: in_force,
            open: Some(Open { rings, socket }),
            rx_held: 0,
            rx_target: rx_target.min(RING_ENTRIES),
            recovered,
            stats: PortQueueStats::default(),
            queue,
        })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.queue.interface
    }

    /// The queue's number.
    pub fn queue(&self) -> u32 {
        self.queue.queue
    }

    /// How the socket is bound, as the kernel tells.
    pub fn bind_mode(&self) -> BindMode {
        self.mode
    }

    /// The memory the port's frames live in.
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// The socket, to put into the map that the XDP program redirects to.
    pub fn socket_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.socket.as_fd())
    }

    fn reap_completions(&mut self, pool: &mut FramePool) {
        let Some(open) = &mut self.open else { return };
        let ring = &mut open.rings.completion;
        if ring.refresh() == 0 {
            return;
        }
        while let Some(addr) = ring.pop() {
            match self.held.release(addr) {
                Some(frame) => pool.push(frame),
                None => self.stats.tx_invalid += 1,
            }
        }
        ring.release();
    }

    /// Calls the kernel until it took everything. Copy mode takes 32 descriptors a call and then
    /// answers EAGAIN; a full device queue or send buffer answers EAGAIN, EBUSY or ENOBUFS too,
    /// and is given up on for this turn when nothing moves.
    fn kick(&mut self, pool: &mut FramePool) {
        let mut stalls = 0;
        loop {
            let Some(open) = &mut self.open else { return };
            let before = open.rings.tx.pending();
            let awake = self.mode == BindMode::ZeroCopy && !open.rings.tx.needs_wakeup();
            if before == 0 || awake {
                return;
            }
            self.stats.tx_kicks += 1;
            let result = open.socket.kick_tx();
            match result {
                Ok(()) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {}
                Err(_) => {
                    // ENETDOWN and the like: the descriptors stay queued.
                    self.stats.tx_errors += 1;
                    return;
                }
            }
            if self.mode == BindMode::ZeroCopy {
                // The driver is awake now and works on its own.
                return;
            }
            if open.rings.tx.pending() < before {
                stalls = 0;
            } else {
                stalls += 1;
                if stalls == MAX_STALLS {
                    return;
                }
                // A full completion ring stops the kernel.
                self.reap_completions(pool);
            }
        }
    }

    fn refill(&mut self, pool: &mut FramePool) {
        let Some(open) = &mut self.open else { return };
        let ring = &mut open.rings.fill;
        let want = self.rx_target.saturating_sub(self.rx_held);
        let want = if want == 0 {
            0
        } else {
            want.min(ring.room(want))
        };
        let mut filled = 0;
        while filled < want {
            let Some(frame) = pool.pop() else { break };
            match self.held.take(frame) {
                Ok(addr) => {
                    // `room` promised the slot.
                    let pushed = ring.push(addr);
                    debug_assert!(pushed);
                    filled += 1;
                }
                Err(foreign) => {
                    // A pool of other memory: nothing this port can receive into.
                    pool.push(foreign);
                    break;
                }
            }
        }
        if filled > 0 {
            self.rx_held += filled;
            ring.publish();
        }
        if ring.needs_wakeup() {
            self.stats.rx_kicks += 1;
            open.socket.kick_rx();
        }
    }

    /// Leaves what the kernel may still use with the umem and lets go of the socket.
    fn shut(&mut self) {
        self.open = None;
        self.held.park(self.queue.ifindex, self.queue.queue);
        self.rx_held = 0;
    }
}

impl Port for XskPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut ArrayVec<RxPacket, BATCH_MAX>) {
        let Some(open) = &mut self.open else { return };
        let ring = &mut open.rings.rx;
        if ring.refresh() == 0 {
            return;
        }
        while !out.is_full() {
            let Some(desc) = ring.pop() else { break };
            let Some(frame) = self.held.release(desc.addr) else {
                self.stats.rx_invalid += 1;
                continue;
            };
            self.rx_held -= 1;
            let head = (desc.addr % FRAME_LEN as u64) as u16;
            let room = FRAME_LEN - usize::from(head);
            match u16::try_from(desc.len) {
                Ok(len) if usize::from(len) <= room => {
                    self.stats.rx_packets += 1;
                    self.stats.rx_bytes += u64::from(len);
                    out.push(RxPacket { frame, head, len });
                }
                _ => {
                    self.stats.rx_invalid += 1;
                    pool.push(frame);
                }
            }
        }
        ring.release();
    }

    fn tx(
        &mut self,
        frame: Frame,
        head: u16,
        len: u16,
        _pool: &mut FramePool,
    ) -> Result<(), Frame> {
        let Some(open) = &mut self.open else {
            return Err(frame);
        };
        if usize::from(head) + usize::from(len) > FRAME_LEN {
            self.stats.tx_invalid += 1;
            return Err(frame);
        }
        if open.rings.tx.room(1) == 0 {
            self.stats.tx_ring_full += 1;
            return Err(frame);
        }
        let chunk = self.held.take(frame).inspect_err(|_| {
            self.stats.tx_invalid += 1;
        })?;
        let desc = crate::ring::Desc {
            addr: chunk + u64::from(head),
            len: u32::from(len),
            options: 0,
        };
        let pushed = open.rings.tx.push(desc);
        debug_assert!(pushed);
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += u64::from(len);
        Ok(())
    }

    fn flush(&mut self, pool: &mut FramePool) {
        for frame in self.recovered.drain(..) {
            pool.push(frame);
        }
        self.reap_completions(pool);
        if let Some(open) = &mut self.open
            && open.rings.tx.publish()
        {
            self.kick(pool);
            self.reap_completions(pool);
        }
        self.refill(pool);
    }

    fn held(&self) -> usize {
        self.held.count() + self.recovered.len()
    }

    fn stats(&self) -> PortQueueStats {
        let mut stats = self.stats;
        let kernel = self.open.as_ref().map(|open| open.socket.statistics());
        if let Some(Ok(kernel)) = kernel {
            stats.rx_dropped += kernel.rx_dropped;
            stats.rx_invalid += kernel.rx_invalid_descs;
            stats.tx_invalid += kernel.tx_invalid_descs;
            stats.rx_ring_full += kernel.rx_ring_full.unwrap_or(0);
            stats.rx_fill_empty += kernel.rx_fill_ring_empty_descs.unwrap_or(0);
        }
        stats
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket_fd()
    }

    fn close(&mut self, pool: &mut FramePool) {
        self.stats = self.stats();
        for frame in self.recovered.drain(..) {
            pool.push(frame);
        }
        self.reap_completions(pool);
        if let Some(open) = &mut self.open {
            let ring = &mut open.rings.rx;
            ring.refresh();
            while let Some(desc) = ring.pop() {
                if let Some(frame) = self.held.release(desc.addr) {
                    self.stats.rx_dropped += 1;
                    pool.push(frame);
                }
            }
            ring.release();
        }
        self.shut();
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        self.shut();
        for frame in self.recovered.drain(..) {
            frame.retire();
        }
    }
}
