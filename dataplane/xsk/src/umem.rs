//! Packet memory shared with the kernel: one region per worker, cut into frames.
//!
//! The region is leaked on purpose: frames are `&'static mut`, and a driver in zero-copy mode
//! may still write into it for some milliseconds after the last socket is gone.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use sixferry_engine::{FRAME_LEN, Frame};

use crate::bind::BindMode;
use crate::socket::Socket;

/// Huge pages are this long; a region that starts on such a boundary can be made of them.
const HUGE_PAGE: usize = 2 << 20;

/// The packet memory of one worker.
///
/// Each chunk of [`FRAME_LEN`] bytes is, at any moment, either a [`Frame`] in somebody's hands or
/// held by exactly one socket; `Held` keeps the books on the second half.
pub struct Umem {
    base: NonNull<u8>,
    chunks: u32,
    /// Sockets through which the region is registered with the kernel, one per bind mode: all
    /// sockets that share a registration must be of the same mode.
    leaders: Mutex<Vec<(BindMode, Weak<Socket>)>>,
    /// Chunks that closed sockets still held: the kernel may use them until another socket could
    /// be bound to the same queue.
    parked: Mutex<Vec<Parked>>,
}

struct Parked {
    ifindex: u32,
    queue: u32,
    bits: Box<[u64]>,
}

// SAFETY: `base` is never dereferenced through `Umem` except by `claim`, whose caller proves with
// its `Held` book that nobody else has the chunk; the address itself may be read by any thread.
unsafe impl Send for Umem {}
// SAFETY: as above; the only interior mutability is behind a lock.
unsafe impl Sync for Umem {}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Umem({} chunks)", self.chunks)
    }
}

impl Umem {
    /// Maps memory for `chunks` frames and hands them out, lowest address last so that a pool
    /// (last in, first out) starts with the lowest.
    ///
    /// # Errors
    /// The kernel's, when the memory cannot be had.
    pub fn new(chunks: u32) -> io::Result<(Arc<Self>, Vec<Frame>)> {
        let len = chunks as usize * FRAME_LEN;
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches
        // no existing memory.
        let raw = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len + HUGE_PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let pad = raw.cast::<u8>().align_offset(HUGE_PAGE);
        let pad = if pad > HUGE_PAGE { 0 } else { pad };
        let base = raw.cast::<u8>().wrapping_add(pad);
        // SAFETY: [base, base + len) lies inside the mapping made above (pad <= HUGE_PAGE). A
        // refusal only means small pages.
        let _ = unsafe { rustix::mm::madvise(base.cast(), len, Advice::LinuxHugepage) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        let umem = Arc::new(Self {
            base,
            chunks,
            leaders: Mutex::new(Vec::new()),
            parked: Mutex::new(Vec::new()),
        });
        let frames = (0..chunks).rev().map(|chunk| umem.claim(chunk)).collect();
        Ok((umem, frames))
    }

    /// How many frames the region holds.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    pub(crate) fn base_addr(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.chunks) * FRAME_LEN as u64
    }

    /// Which chunk `frame` is, if it belongs to this region at all.
    pub(crate) fn chunk_of(&self, frame: &Frame) -> Option<u32> {
        let chunk = u32::try_from(frame.addr() / FRAME_LEN as u64).ok()?;
        let expected = self.chunk_ptr(chunk)?;
        std::ptr::eq(expected.as_ptr().cast_const(), frame.bytes()).then_some(chunk)
    }

    fn chunk_ptr(&self, chunk: u32) -> Option<NonNull<[u8; FRAME_LEN]>> {
        if chunk >= self.chunks {
            return None;
        }
        // SAFETY: chunk < self.chunks, so the offset stays inside the mapping of `new`.
        Some(unsafe { self.base.add(chunk as usize * FRAME_LEN) }.cast())
    }

    /// Makes the token of a chunk that nobody holds. Private to this module: the callers are
    /// `new` (nothing handed out yet), `Held::release` (the book says the socket had it) and
    /// `recover` (the book of a socket that is gone).
    fn claim(&self, chunk: u32) -> Frame {
        let ptr = self.chunk_ptr(chunk);
        let mut ptr = ptr.expect("callers stay below `chunks`");
        // SAFETY: the memory is mapped for good (never unmapped) and initialised (zeroed by the
        // kernel). Exclusive: `new` claims each chunk once before anything else exists; the
        // other two only claim a chunk whose token was consumed in `Held::take` and whose bit
        // they clear in the same step, `Held::release` when the kernel gave it back, `recover`
        // when the kernel has let go of the whole queue.
        let data: &'static mut [u8; FRAME_LEN] = unsafe { ptr.as_mut() };
        Frame::new(data, u64::from(chunk) * FRAME_LEN as u64)
    }

    /// The socket to share a registration with, if one of this mode is still open.
    pub(crate) fn leader(&self, mode: BindMode) -> Option<Arc<Socket>> {
        let leaders = self.leaders.lock();
        leaders
            .iter()
            .filter(|(of, _)| *of == mode)
            .find_map(|(_, socket)| socket.upgrade())
    }

    pub(crate) fn add_leader(&self, mode: BindMode, socket: &Arc<Socket>) {
        let mut leaders = self.leaders.lock();
        leaders.retain(|(_, socket)| socket.strong_count() > 0);
        leaders.push((mode, Arc::downgrade(socket)));
    }
}

impl Umem {
    /// Keeps the book of a socket that is being closed. Closing is not enough to have the
    /// chunks back: a duplicate of the descriptor may be open, and a zero-copy driver writes
    /// until its own deferred clean-up ran.
    fn park(&self, ifindex: u32, queue: u32, bits: Box<[u64]>) {
        self.parked.lock().push(Parked {
            ifindex,
            queue,
            bits,
        });
    }

    /// The frames parked for a queue. To be called right after a socket was bound to that queue
    /// without sharing an older socket's place there: the kernel answers EBUSY until the previous
    /// owner of a queue is gone for good, so success proves that nobody writes to them.
    pub(crate) fn recover(&self, ifindex: u32, queue: u32) -> Vec<Frame> {
        let mut parked = self.parked.lock();
        let mut frames = Vec::new();
        parked.retain_mut(|entry| {
            if (entry.ifindex, entry.queue) != (ifindex, queue) {
                return true;
            }
            while let Some(chunk) = pop_bit(&mut entry.bits) {
                frames.push(self.claim(chunk));
            }
            false
        });
        frames
    }
}

/// Clears the lowest set bit and tells which it was.
fn pop_bit(bits: &mut [u64]) -> Option<u32> {
    let (index, word) = bits.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
    let bit = word.trailing_zeros();
    *word &= *word - 1;
    Some(index as u32 * 64 + bit)
}

/// One socket's book of the chunks it holds: a bit per chunk.
///
/// It turns a wrong descriptor (a kernel or driver defect) into a refusal, where trusting it
/// would make two tokens for one buffer.
pub(crate) struct Held {
    umem: Arc<Umem>,
    bits: Box<[u64]>,
    count: usize,
}

impl Held {
    pub(crate) fn new(umem: Arc<Umem>) -> Self {
        let words = (umem.chunks as usize).div_ceil(64);
        Self {
            umem,
            bits: vec![0; words].into_boxed_slice(),
            count: 0,
        }
    }

    /// Consumes the token: the chunk is now the socket's. Gives back a frame of another region.
    pub(crate) fn take(&mut self, frame: Frame) -> Result<u64, Frame> {
        let Some(chunk) = self.umem.chunk_of(&frame) else {
            return Err(frame);
        };
        let (word, bit) = (chunk as usize / 64, 1 << (chunk % 64));
        debug_assert_eq!(self.bits[word] & bit, 0, "two tokens for one chunk");
        self.bits[word] |= bit;
        self.count += 1;
        frame.retire();
        Ok(u64::from(chunk) * FRAME_LEN as u64)
    }

    /// The token of the chunk that `addr` points into, if this socket holds it.
    pub(crate) fn release(&mut self, addr: u64) -> Option<Frame> {
        let chunk = addr / FRAME_LEN as u64;
        let bit = 1 << (chunk % 64);
        let word = self.bits.get_mut(usize::try_from(chunk / 64).ok()?)?;
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        self.count -= 1;
        // The bit was set by `take`, so the chunk number is in range.
        Some(self.umem.claim(chunk as u32))
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Closes the book: what it still lists waits for the next socket on the same queue.
    pub(crate) fn park(&mut self, ifindex: u32, queue: u32) {
        if self.count > 0 {
            let empty = vec![0; self.bits.len()].into_boxed_slice();
            let bits = std::mem::replace(&mut self.bits, empty);
            self.umem.park(ifindex, queue, bits);
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sixferry_engine::FramePool;

    #[test]
    fn frames_are_disjoint_and_lowest_comes_first() {
        let (umem, frames) = Umem::new(64).unwrap();
        let mut pool = FramePool::from_frames(frames);
        let mut first = pool.pop().unwrap();
        let mut second = pool.pop().unwrap();
        assert_eq!((first.addr(), second.addr()), (0, 2048));
        first.bytes_mut().fill(1);
        second.bytes_mut().fill(2);
        assert_eq!(first.bytes()[FRAME_LEN - 1], 1);
        assert_eq!(umem.chunk_of(&second), Some(1));
        pool.push(first);
        pool.push(second);
        assert_eq!(pool.available(), 64);
    }

    #[test]
    fn book_returns_each_frame_once_and_refuses_foreign_ones() {
        let (umem, mut frames) = Umem::new(70).unwrap();
        let mut held = Held::new(Arc::clone(&umem));
        let addr = held.take(frames.pop().unwrap()).unwrap();
        // Anywhere inside the chunk names it.
        let frame = held.release(addr + 300).unwrap();
        assert!(held.release(addr).is_none(), "given back already");
        assert!(held.release(u64::MAX).is_none() && held.release(70 * 2048).is_none());
        frame.retire();

        let mut other = FramePool::heap(1);
        let foreign = held.take(other.pop().unwrap()).unwrap_err();
        other.push(foreign);
        assert_eq!(held.count(), 0);
        frames.into_iter().for_each(Frame::retire);
    }

    #[test]
    fn parked_frames_come_back_only_for_their_queue() {
        let (umem, mut frames) = Umem::new(70).unwrap();
        let mut held = Held::new(Arc::clone(&umem));
        for frame in [frames.remove(0), frames.pop().unwrap()] {
            held.take(frame).unwrap();
        }
        held.park(5, 1);
        assert_eq!(held.count(), 0);
        assert!(held.release(0).is_none());
        assert!(umem.recover(5, 0).is_empty() && umem.recover(4, 1).is_empty());
        let back = umem.recover(5, 1);
        assert_eq!(
            back.iter().map(Frame::addr).collect::<Vec<_>>(),
            [0, 69 * 2048]
        );
        assert!(umem.recover(5, 1).is_empty());
        back.into_iter().chain(frames).for_each(Frame::retire);
    }
}
