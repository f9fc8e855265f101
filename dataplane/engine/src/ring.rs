//! Bounded rings of packet copies between a worker and another thread.
//!
//! All buffers exist from the start and circulate: the producer takes one from the *free* ring,
//! copies its packet and pushes it on the *full* ring; the consumer's [`Loan`] goes back to the
//! free ring when dropped. So neither end allocates, frees or waits, and the number of packets
//! under way can never exceed the number of buffers.

use std::ops::Deref;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::frame::FRAME_LEN;

/// A packet copy and what belongs to it.
pub struct RingPacket<M> {
    data: [u8; FRAME_LEN],
    len: usize,
    /// What the producer said about the packet.
    pub meta: M,
}

impl<M> RingPacket<M> {
    /// The packet's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl<M: std::fmt::Debug> std::fmt::Debug for RingPacket<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingPacket")
            .field("len", &self.len)
            .field("meta", &self.meta)
            .finish()
    }
}

#[derive(Debug)]
struct Rings<M> {
    free: ArrayQueue<Box<RingPacket<M>>>,
    full: ArrayQueue<Box<RingPacket<M>>>,
}

/// A pair of rings, free and full, with its buffers. Clones are the same ring.
#[derive(Debug)]
pub struct PacketRing<M> {
    rings: Arc<Rings<M>>,
}

impl<M> Clone for PacketRing<M> {
    fn clone(&self) -> Self {
        Self {
            rings: Arc::clone(&self.rings),
        }
    }
}

/// Why a packet did not enter a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Every buffer is under way.
    #[error("the ring is full")]
    Full,
    /// The packet is longer than a buffer.
    #[error("the packet is longer than {FRAME_LEN} bytes")]
    TooLong,
}

impl<M: Copy> PacketRing<M> {
    /// A ring of `capacity` buffers (at least one); `blank` fills them until their first use.
    pub fn new(capacity: usize, blank: M) -> Self {
        let capacity = capacity.max(1);
        let rings = Rings {
            free: ArrayQueue::new(capacity),
            full: ArrayQueue::new(capacity),
        };
        for _ in 0..capacity {
            let packet = RingPacket {
                data: [0; FRAME_LEN],
                len: 0,
                meta: blank,
            };
            let pushed = rings.free.push(Box::new(packet));
            debug_assert!(pushed.is_ok(), "a new ring has room for its own buffers");
        }
        Self {
            rings: Arc::new(rings),
        }
    }

    /// Copies a packet into the ring.
    ///
    /// # Errors
    /// When no buffer is free or the packet does not fit one.
    pub fn push(&self, bytes: &[u8], meta: M) -> Result<(), RingError> {
        if bytes.len() > FRAME_LEN {
            return Err(RingError::TooLong);
        }
        // An empty `pop` costs a full fence: look first.
        if self.rings.free.is_empty() {
            return Err(RingError::Full);
        }
        let mut packet = self.rings.free.pop().ok_or(RingError::Full)?;
        packet.data[..bytes.len()].copy_from_slice(bytes);
        packet.len = bytes.len();
        packet.meta = meta;
        // Each ring has room for all buffers, so this cannot fail; were it to, the buffer would be
        // freed here and the ring be one shorter.
        self.rings.full.push(packet).map_err(|_| RingError::Full)
    }
}

impl<M> PacketRing<M> {
    /// The oldest packet in the ring.
    pub fn pop(&self) -> Option<Loan<'_, M>> {
        if self.rings.full.is_empty() {
            return None;
        }
        let packet = self.rings.full.pop()?;
        Some(Loan {
            packet: Some(packet),
            free: &self.rings.free,
        })
    }

    /// Whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.rings.full.is_empty()
    }

    /// Packets waiting.
    pub fn len(&self) -> usize {
        self.rings.full.len()
    }

    /// Buffers free.
    pub fn room(&self) -> usize {
        self.rings.free.len()
    }

    /// All buffers.
    pub fn capacity(&self) -> usize {
        self.rings.full.capacity()
    }
}

/// A packet taken from a ring; its buffer returns to the ring when this is dropped.
#[derive(Debug)]
pub struct Loan<'r, M> {
    packet: Option<Box<RingPacket<M>>>,
    free: &'r ArrayQueue<Box<RingPacket<M>>>,
}

impl<M> Deref for Loan<'_, M> {
    type Target = RingPacket<M>;

    fn deref(&self) -> &RingPacket<M> {
        self.packet
            .as_ref()
            .expect("a loan has its packet until it is dropped")
    }
}

impl<M> Drop for Loan<'_, M> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            let returned = self.free.push(packet);
            debug_assert!(returned.is_ok(), "the free ring has room for all buffers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_is_bounded_and_keeps_order() {
        let ring = PacketRing::new(2, 0_u8);
        assert_eq!(ring.push(b"one", 1), Ok(()));
        assert_eq!(ring.push(b"two", 2), Ok(()));
        assert_eq!(ring.push(b"three", 3), Err(RingError::Full));
        let one = ring.pop().unwrap();
        assert_eq!((one.bytes(), one.meta), (&b"one"[..], 1));
        assert_eq!(
            ring.push(b"three", 3),
            Err(RingError::Full),
            "the loan is still out"
        );
        drop(one);
        assert_eq!(ring.push(b"three", 3), Ok(()));
        assert_eq!(ring.pop().unwrap().bytes(), b"two");
        assert_eq!(ring.pop().unwrap().bytes(), b"three");
        assert!(ring.pop().is_none());
        assert_eq!((ring.len(), ring.room(), ring.capacity()), (0, 2, 2));
    }

    #[test]
    fn too_long_a_packet_takes_no_buffer() {
        let ring = PacketRing::new(1, ());
        assert_eq!(ring.push(&[0; FRAME_LEN + 1], ()), Err(RingError::TooLong));
        assert_eq!(ring.push(&[7; FRAME_LEN], ()), Ok(()));
        assert_eq!(ring.pop().unwrap().bytes(), &[7; FRAME_LEN]);
    }

    #[test]
    fn no_buffer_is_lost_between_two_threads() {
        const PACKETS: u32 = 20_000;
        let ring = PacketRing::new(8, 0_u32);
        let producer = {
            let ring = ring.clone();
            std::thread::spawn(move || {
                let mut sent = 0;
                while sent < PACKETS {
                    match ring.push(&sent.to_be_bytes(), sent) {
                        Ok(()) => sent += 1,
                        Err(_) => std::thread::yield_now(),
                    }
                }
            })
        };
        let mut expected = 0;
        while expected < PACKETS {
            match ring.pop() {
                Some(packet) => {
                    assert_eq!(packet.meta, expected);
                    assert_eq!(packet.bytes(), expected.to_be_bytes());
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        producer.join().unwrap();
        assert_eq!(ring.room(), 8);
    }
}
