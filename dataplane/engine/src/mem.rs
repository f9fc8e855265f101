//! A port in memory: what is pushed at its handle is received, what is sent can be pulled there.
//!
//! Tests and benchmarks run the worker over these; nothing in `rx` or `tx` allocates.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;

use crate::frame::{BATCH_MAX, FRAME_LEN, Frame, FramePool, HEADROOM};
use crate::port::{Port, PortQueueStats, RxPacket};
use crate::ring::PacketRing;
use crate::wake::Waker;

/// The worker's end of a port in memory.
#[derive(Debug)]
pub struct MemPort {
    rx: PacketRing<()>,
    tx: PacketRing<()>,
    /// For a worker that sleeps; without it the port is only asked in turn.
    waker: Option<Waker>,
    closed: bool,
    stats: PortQueueStats,
}

/// The other end of a [`MemPort`]: the network it is connected to. Any thread, any number of
/// clones.
#[derive(Clone, Debug)]
pub struct MemLink {
    rx: PacketRing<()>,
    tx: PacketRing<()>,
    waker: Option<Waker>,
}

impl MemPort {
    /// A port whose rx and tx queues take that many packets each.
    pub fn pair(rx_packets: usize, tx_packets: usize) -> (Self, MemLink) {
        Self::with_waker(rx_packets, tx_packets, None)
    }

    /// The same, able to wake a worker that sleeps in `poll`.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn pair_pollable(rx_packets: usize, tx_packets: usize) -> io::Result<(Self, MemLink)> {
        Ok(Self::with_waker(
            rx_packets,
            tx_packets,
            Some(Waker::new()?),
        ))
    }

    fn with_waker(rx_packets: usize, tx_packets: usize, waker: Option<Waker>) -> (Self, MemLink) {
        let rx = PacketRing::new(rx_packets, ());
        let tx = PacketRing::new(tx_packets, ());
        let link = MemLink {
            rx: rx.clone(),
            tx: tx.clone(),
            waker: waker.clone(),
        };
        (
            Self {
                rx,
                tx,
                waker,
                closed: false,
                stats: PortQueueStats::default(),
            },
            link,
        )
    }

    /// Moves packets from the queue to `out` until one of them has no more.
    fn receive(&mut self, pool: &mut FramePool, out: &mut ArrayVec<RxPacket, BATCH_MAX>) {
        while !out.is_full() && !self.rx.is_empty() {
            let Some(mut frame) = pool.pop() else {
                self.stats.rx_fill_empty += 1;
                return;
            };
            let Some(packet) = self.rx.pop() else {
                pool.push(frame);
                return;
            };
            let bytes = packet.bytes();
            frame.bytes_mut()[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += bytes.len() as u64;
            out.push(RxPacket {
                frame,
                head: HEADROOM as u16,
                len: bytes.len() as u16,
            });
        }
    }
}

impl MemLink {
    /// Lets the port receive a packet; `false` when its queue is full or the packet does not fit
    /// behind a frame's headroom.
    pub fn push(&self, packet: &[u8]) -> bool {
        if packet.len() > FRAME_LEN - HEADROOM || self.rx.push(packet, ()).is_err() {
            return false;
        }
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        true
    }

    /// The oldest packet the port has sent and nobody has pulled.
    pub fn pull(&self) -> Option<Vec<u8>> {
        self.tx.pop().map(|packet| packet.bytes().to_vec())
    }

    /// Discards what the port has sent; returns how many packets that were. Does not allocate.
    pub fn discard(&self) -> usize {
        std::iter::from_fn(|| self.tx.pop()).count()
    }

    /// Packets the port has not received yet.
    pub fn backlog(&self) -> usize {
        self.rx.len()
    }

    /// Packets sent and not pulled.
    pub fn sent(&self) -> usize {
        self.tx.len()
    }
}

impl Port for MemPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut ArrayVec<RxPacket, BATCH_MAX>) {
        if self.closed {
            return;
        }
        self.receive(pool, out);
        // Only an empty queue may be forgotten about, and a push after the look wakes again.
        if let Some(waker) = &self.waker
            && self.rx.is_empty()
        {
            waker.clear();
            self.receive(pool, out);
        }
    }

    fn tx(&mut self, frame: Frame, head: u16, len: u16, pool: &mut FramePool) -> Result<(), Frame> {
        let start = usize::from(head);
        let bytes = frame.bytes().get(start..start + usize::from(len));
        match bytes {
            Some(bytes) if !self.closed && self.tx.push(bytes, ()).is_ok() => {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += u64::from(len);
                pool.push(frame);
                Ok(())
            }
            _ => {
                self.stats.tx_ring_full += 1;
                Err(frame)
            }
        }
    }

    fn flush(&mut self, _pool: &mut FramePool) {}

    fn held(&self) -> usize {
        0
    }

    fn stats(&self) -> PortQueueStats {
        self.stats
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.waker.as_ref().map(AsFd::as_fd)
    }

    fn close(&mut self, _pool: &mut FramePool) {
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cross_both_ways() {
        let (mut port, link) = MemPort::pair(2, 1);
        let mut pool = FramePool::heap(2);
        let mut out = ArrayVec::new();
        assert!(link.push(b"first") && link.push(b"second") && !link.push(b"third"));
        port.rx(&mut pool, &mut out);
        assert_eq!((out.len(), pool.available()), (2, 0));
        let second = out.pop().unwrap();
        let first = out.pop().unwrap();
        assert_eq!((first.head, first.len), (256, 5));
        port.tx(second.frame, second.head, second.len, &mut pool)
            .unwrap();
        let refused = port
            .tx(first.frame, first.head, first.len, &mut pool)
            .unwrap_err();
        pool.push(refused);
        assert_eq!(link.pull().unwrap(), b"second");
        assert_eq!((pool.available(), port.held()), (2, 0));
        let stats = port.stats();
        assert_eq!((stats.rx_packets, stats.rx_bytes), (2, 11));
        assert_eq!(
            (stats.tx_packets, stats.tx_bytes, stats.tx_ring_full),
            (1, 6, 1)
        );
    }

    #[test]
    fn without_frames_packets_stay_in_the_queue() {
        let (mut port, link) = MemPort::pair(4, 4);
        let mut pool = FramePool::heap(1);
        let mut out = ArrayVec::new();
        assert!(link.push(b"a") && link.push(b"b"));
        port.rx(&mut pool, &mut out);
        assert_eq!(
            (out.len(), link.backlog(), port.stats().rx_fill_empty),
            (1, 1, 1)
        );
        out.drain(..).for_each(|packet| pool.push(packet.frame));
    }

    #[test]
    fn a_closed_port_takes_and_gives_nothing() {
        let (mut port, link) = MemPort::pair(4, 4);
        let mut pool = FramePool::heap(1);
        let mut out = ArrayVec::new();
        assert!(link.push(b"a"));
        port.close(&mut pool);
        port.rx(&mut pool, &mut out);
        assert!(out.is_empty());
        let frame = pool.pop().unwrap();
        let refused = port.tx(frame, 0, 1, &mut pool).unwrap_err();
        pool.push(refused);
        assert_eq!(link.discard(), 0);
    }
}
