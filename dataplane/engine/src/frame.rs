//! Frames: move-only tokens of packet buffers, and the per-worker pool of free ones.
//!
//! A buffer is in exactly one place at a time: a pool, a ring of a port, or the hands of the
//! worker. The token cannot be copied, so the compiler keeps that promise; what it cannot keep is
//! that nobody forgets a token, so debug builds panic when one is dropped.

pub use sixferry_fwd::{BATCH_MAX, FRAME_LEN, HEADROOM};

/// The right to use one packet buffer.
///
/// Whoever holds it is the only one who may touch the bytes. It must end in a [`FramePool`], in a
/// port, or in [`Frame::retire`]; dropping it is a leak, which debug builds turn into a panic.
#[must_use = "a dropped frame is a lost buffer"]
pub struct Frame {
    data: &'static mut [u8; FRAME_LEN],
    addr: u64,
    armed: LeakAlarm,
}

/// A separate field, so that `into_parts` may take `Frame` apart without an `Option` to test on
/// each access.
struct LeakAlarm;

impl Drop for LeakAlarm {
    fn drop(&mut self) {
        if cfg!(debug_assertions) && !std::thread::panicking() {
            panic!("a frame was dropped instead of being given back");
        }
    }
}

impl Frame {
    /// A token for `data`. `addr` is what names the buffer to its owner: the offset of the chunk
    /// in the umem, or `index * FRAME_LEN` in heap pools.
    pub fn new(data: &'static mut [u8; FRAME_LEN], addr: u64) -> Self {
        Self {
            data,
            addr,
            armed: LeakAlarm,
        }
    }

    /// The whole buffer, headroom included.
    pub fn bytes(&self) -> &[u8; FRAME_LEN] {
        self.data
    }

    /// The whole buffer, headroom included.
    pub fn bytes_mut(&mut self) -> &mut [u8; FRAME_LEN] {
        self.data
    }

    /// The name of the buffer, see [`Frame::new`].
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Takes the token apart: a port does this when the kernel becomes the buffer's holder.
    pub fn into_parts(self) -> (&'static mut [u8; FRAME_LEN], u64) {
        let Self { data, addr, armed } = self;
        std::mem::forget(armed);
        (data, addr)
    }

    /// Takes the buffer out of service for good, when its pool or port is torn down.
    pub fn retire(self) {
        let _ = self.into_parts();
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({:#x})", self.addr)
    }
}

/// The free frames of one worker, last in first out: the frame used last is still in the cache.
///
/// The room for all frames is reserved at the start, so that a push never allocates.
#[derive(Debug)]
pub struct FramePool {
    free: Vec<Frame>,
    capacity: usize,
}

impl FramePool {
    /// A pool that owns `frames`; its capacity is their number.
    pub fn from_frames(frames: Vec<Frame>) -> Self {
        let capacity = frames.len();
        Self {
            free: frames,
            capacity,
        }
    }

    /// A pool over `count` buffers of heap memory, which stays allocated until the process ends:
    /// for tests, replay and ports that have no umem.
    pub fn heap(count: usize) -> Self {
        let memory: &'static mut [[u8; FRAME_LEN]] =
            Box::leak(vec![[0_u8; FRAME_LEN]; count].into_boxed_slice());
        let mut frames: Vec<Frame> = memory
            .iter_mut()
            .enumerate()
            .map(|(index, data)| Frame::new(data, (index * FRAME_LEN) as u64))
            .collect();
        frames.reverse();
        Self::from_frames(frames)
    }

    /// A free frame.
    pub fn pop(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Gives a frame back. The pool grows past its capacity only if a frame of another pool is
    /// pushed, which is a mistake of the caller.
    pub fn push(&mut self, frame: Frame) {
        debug_assert!(
            self.free.len() < self.capacity,
            "a frame of another pool came back"
        );
        self.free.push(frame);
    }

    /// How many frames are free now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// How many frames the pool was made with: `available` plus what ports and callers hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        for frame in self.free.drain(..) {
            frame.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_gives_each_frame_once() {
        let mut pool = FramePool::heap(3);
        let mut out: Vec<Frame> = std::iter::from_fn(|| pool.pop()).collect();
        assert_eq!(
            out.iter().map(Frame::addr).collect::<Vec<_>>(),
            [0, 2048, 4096]
        );
        assert_eq!((pool.available(), pool.capacity()), (0, 3));
        out[1].bytes_mut()[7] = 9;
        assert_eq!((out[0].bytes()[7], out[1].bytes()[7]), (0, 9));
        for frame in out {
            pool.push(frame);
        }
        assert_eq!(pool.available(), 3);
    }

    #[test]
    fn retired_frame_is_no_leak() {
        FramePool::heap(1).pop().unwrap().retire();
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "a frame was dropped")]
    fn dropped_frame_panics() {
        drop(FramePool::heap(1).pop());
    }
}
