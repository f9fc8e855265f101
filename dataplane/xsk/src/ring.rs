//! The four single-producer single-consumer rings an AF_XDP socket shares with the kernel.
//!
//! A ring is a power-of-two array of descriptors with two free-running 32-bit indices. Each side
//! owns one index: it stores its own with release and loads the other's with acquire, so that a
//! descriptor is never read before it was written, nor overwritten before it was read.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::XdpRingOffset;

/// A descriptor of the rx and tx rings (`struct xdp_desc`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) options: u32,
}

const _: () = assert!(size_of::<Desc>() == 16);

/// Types whose every bit pattern is a value, as ring memory is the kernel's to write.
pub(crate) trait Plain: Copy + private::Sealed {}
impl Plain for Desc {}
impl Plain for u64 {}

mod private {
    pub(crate) trait Sealed {}
    impl Sealed for super::Desc {}
    impl Sealed for u64 {}
}

/// `XDP_RING_NEED_WAKEUP`.
const NEED_WAKEUP: u32 = 1;

/// Memory of one ring and where in it things are.
struct Memory<T> {
    start: NonNull<u8>,
    len: usize,
    producer: usize,
    consumer: usize,
    flags: usize,
    descs: usize,
    entries: u32,
    _descs: PhantomData<T>,
}

// SAFETY: the struct is the only Rust owner of its mapping; the kernel, the other user of the
// memory, does not care which thread it is.
unsafe impl<T: Plain> Send for Memory<T> {}

impl<T: Plain> Memory<T> {
    /// Maps a ring of `entries` descriptors at page offset `pgoff` of an AF_XDP socket.
    fn map(
        socket: impl AsFd,
        offsets: &XdpRingOffset,
        entries: u32,
        pgoff: u64,
    ) -> io::Result<Self> {
        let at = |offset: u64| usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidData);
        let descs = at(offsets.desc)?;
        let flags = at(offsets.flags.ok_or(io::ErrorKind::Unsupported)?)?;
        let len = descs + entries as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                pgoff,
            )?
        };
        let memory = Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            len,
            producer: at(offsets.producer)?,
            consumer: at(offsets.consumer)?,
            flags,
            descs,
            entries,
            _descs: PhantomData,
        };
        memory.check()
    }

    /// Every access below stays inside the memory and is aligned if this holds.
    fn check(self) -> io::Result<Self> {
        let word = |at: usize| at.is_multiple_of(4) && at + 4 <= self.len;
        let fits = word(self.producer)
            && word(self.consumer)
            && word(self.flags)
            && self.descs.is_multiple_of(align_of::<T>())
            && self.descs + self.entries as usize * size_of::<T>() <= self.len
            && self.entries.is_power_of_two();
        if fits {
            Ok(self)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is one of the three offsets that `check` found aligned and in bounds; the
        // mapping (page aligned) lives as long as `self`, and both sides only use the word
        // atomically.
        unsafe { self.start.add(at).cast::<AtomicU32>().as_ref() }
    }

    fn slot(&self, index: u32) -> NonNull<T> {
        let slot = (index & (self.entries - 1)) as usize;
        // SAFETY: the mask keeps `slot` below `entries`, and `check` found room for that many.
        unsafe { self.start.add(self.descs).cast::<T>().add(slot) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are what mmap returned; no reference into the mapping
        // outlives `self`. Failure would only leave it mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A ring we write and the kernel reads: fill and tx.
pub(crate) struct Producer<T: Plain> {
    memory: Memory<T>,
    /// Next index to write; published up to here by `publish`.
    next: u32,
    /// The kernel's index as last seen.
    consumer: u32,
}

impl<T: Plain> Producer<T> {
    pub(crate) fn map(
        socket: impl AsFd,
        offsets: &XdpRingOffset,
        entries: u32,
        pgoff: u64,
    ) -> io::Result<Self> {
        Ok(Self::over(Memory::map(socket, offsets, entries, pgoff)?))
    }

    fn over(memory: Memory<T>) -> Self {
        let next = memory.word(memory.producer).load(Ordering::Relaxed);
        let consumer = memory.word(memory.consumer).load(Ordering::Acquire);
        Self {
            memory,
            next,
            consumer,
        }
    }

    /// Free slots; asks the kernel's index only when the last look promises fewer than `want`.
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        let entries = self.memory.entries;
        let room = entries - self.next.wrapping_sub(self.consumer).min(entries);
        if room >= want {
            return room;
        }
        entries - self.pending().min(entries)
    }

    /// Writes one descriptor, unseen by the kernel until `publish`. False if the ring is full.
    pub(crate) fn push(&mut self, desc: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: `slot` is in bounds; the kernel has read this slot (room was left, judged by
        // its index loaded with acquire) and does not look again before `publish`.
        unsafe { self.memory.slot(self.next).write(desc) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel everything pushed so far; tells whether any of it still waits.
    pub(crate) fn publish(&mut self) -> bool {
        let producer = self.memory.word(self.memory.producer);
        // Only this side writes the index. Not storing the same again keeps the cache line
        // shared in the many turns without traffic.
        if producer.load(Ordering::Relaxed) != self.next {
            producer.store(self.next, Ordering::Release);
        }
        self.pending() > 0
    }

    /// Descriptors pushed that the kernel has not taken yet.
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumer = self
            .memory
            .word(self.memory.consumer)
            .load(Ordering::Acquire);
        self.next.wrapping_sub(self.consumer)
    }

    /// Whether the kernel sleeps on this ring until it is called.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.memory.word(self.memory.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// A ring the kernel writes and we read: rx and completion.
pub(crate) struct Consumer<T: Plain> {
    memory: Memory<T>,
    /// Next index to read.
    next: u32,
    /// The kernel's index as last seen.
    producer: u32,
}

impl<T: Plain> Consumer<T> {
    pub(crate) fn map(
        socket: impl AsFd,
        offsets: &XdpRingOffset,
        entries: u32,
        pgoff: u64,
    ) -> io::Result<Self> {
        Ok(Self::over(Memory::map(socket, offsets, entries, pgoff)?))
    }

    fn over(memory: Memory<T>) -> Self {
        let next = memory.word(memory.consumer).load(Ordering::Relaxed);
        Self {
            memory,
            next,
            producer: next,
        }
    }

    /// Looks once at the kernel's index; `pop` then yields no more than was there.
    pub(crate) fn refresh(&mut self) -> u32 {
        self.producer = self
            .memory
            .word(self.memory.producer)
            .load(Ordering::Acquire);
        // More than the ring holds would be nonsense in shared memory: do not follow it.
        if self.producer.wrapping_sub(self.next) > self.memory.entries {
            self.producer = self.next;
        }
        self.producer.wrapping_sub(self.next)
    }

    /// The next descriptor seen by the last `refresh`.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.next == self.producer {
            return None;
        }
        // SAFETY: `slot` is in bounds; the kernel wrote it before the producer index that
        // `refresh` loaded with acquire, and does not write it again before `release`.
        let desc = unsafe { self.memory.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(desc)
    }

    /// Gives the slots of everything popped back to the kernel.
    pub(crate) fn release(&mut self) {
        let consumer = self.memory.word(self.memory.consumer);
        consumer.store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::os::fd::OwnedFd;

    /// A ring in a memory file: mapped twice, one side plays the kernel.
    struct TestRing {
        file: OwnedFd,
        entries: u32,
    }

    const OFFSETS: XdpRingOffset = XdpRingOffset {
        producer: 0,
        consumer: 64,
        desc: 192,
        flags: Some(128),
    };

    impl TestRing {
        fn new(entries: u32, start: u32) -> Self {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let file = rustix::fs::memfd_create("ring", flags).unwrap();
            rustix::fs::ftruncate(&file, 192 + u64::from(entries) * 16).unwrap();
            rustix::io::pwrite(&file, &start.to_ne_bytes(), 0).unwrap();
            rustix::io::pwrite(&file, &start.to_ne_bytes(), 64).unwrap();
            Self { file, entries }
        }

        fn producer<T: Plain>(&self) -> Producer<T> {
            Producer::map(&self.file, &OFFSETS, self.entries, 0).unwrap()
        }

        fn consumer<T: Plain>(&self) -> Consumer<T> {
            Consumer::map(&self.file, &OFFSETS, self.entries, 0).unwrap()
        }
    }

    #[test]
    fn nothing_is_seen_before_publish() {
        let ring = TestRing::new(4, 0);
        let (mut producer, mut consumer) = (ring.producer::<u64>(), ring.consumer::<u64>());
        assert!(producer.push(7));
        assert_eq!(consumer.refresh(), 0);
        producer.publish();
        assert_eq!(consumer.refresh(), 1);
        assert_eq!(producer.pending(), 1);
        assert_eq!(consumer.pop(), Some(7));
        assert_eq!(consumer.pop(), None);
        assert_eq!(producer.pending(), 1, "read but not released");
        consumer.release();
        assert_eq!(producer.pending(), 0);
    }

    #[test]
    fn full_ring_refuses_until_slots_are_released() {
        let ring = TestRing::new(4, 0);
        let (mut producer, mut consumer) = (ring.producer::<u64>(), ring.consumer::<u64>());
        for i in 0..4 {
            assert!(producer.push(i));
        }
        assert!(!producer.push(9));
        producer.publish();
        consumer.refresh();
        assert_eq!(consumer.pop(), Some(0));
        assert!(
            !producer.push(9),
            "popped slots stay the reader's until released"
        );
        consumer.release();
        assert!(producer.push(4));
        assert_eq!(producer.room(1), 0);
    }

    #[test]
    fn wakeup_flag_is_read_from_the_ring() {
        let ring = TestRing::new(4, 0);
        let producer = ring.producer::<u64>();
        assert!(!producer.needs_wakeup());
        rustix::io::pwrite(&ring.file, &1_u32.to_ne_bytes(), 128).unwrap();
        assert!(producer.needs_wakeup());
    }

    #[test]
    fn absurd_index_of_the_other_side_yields_nothing() {
        let ring = TestRing::new(4, 0);
        let mut consumer = ring.consumer::<u64>();
        rustix::io::pwrite(&ring.file, &5_u32.to_ne_bytes(), 0).unwrap();
        assert_eq!(consumer.refresh(), 0);
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn bad_geometry_is_refused() {
        let ring = TestRing::new(4, 0);
        let odd = XdpRingOffset {
            producer: 2,
            ..OFFSETS
        };
        assert!(Producer::<u64>::map(&ring.file, &odd, 4, 0).is_err());
        assert!(Producer::<u64>::map(&ring.file, &OFFSETS, 3, 0).is_err());
        let no_flags = XdpRingOffset {
            flags: None,
            ..OFFSETS
        };
        assert!(Consumer::<u64>::map(&ring.file, &no_flags, 4, 0).is_err());
    }

    #[test]
    fn two_threads_keep_order_and_content() {
        let ring = TestRing::new(8, u32::MAX - 100);
        let (mut producer, mut consumer) = (ring.producer::<Desc>(), ring.consumer::<Desc>());
        let writer = std::thread::spawn(move || {
            for i in 0..20_000_u64 {
                let desc = Desc {
                    addr: i,
                    len: !(i as u32),
                    options: 0,
                };
                while !producer.push(desc) {
                    std::thread::yield_now();
                }
                producer.publish();
            }
        });
        let mut expected = 0_u64;
        while expected < 20_000 {
            if consumer.refresh() == 0 {
                std::thread::yield_now();
            }
            while let Some(desc) = consumer.pop() {
                assert_eq!((desc.addr, desc.len), (expected, !(expected as u32)));
                expected += 1;
            }
            consumer.release();
        }
        writer.join().unwrap();
    }

    proptest! {
        /// Against a queue: whatever the order of calls, also where the indices wrap.
        #[test]
        fn ring_behaves_like_a_queue(
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 3), any::<u32>()],
            steps in prop::collection::vec(0_u8..4, 1..200),
        ) {
            let ring = TestRing::new(8, start);
            let (mut producer, mut consumer) = (ring.producer::<u64>(), ring.consumer::<u64>());
            let (mut hidden, mut shown) = (VecDeque::new(), VecDeque::new());
            let (mut unreleased, mut value) = (0, 0_u64);
            for step in steps {
                match step {
                    0 => {
                        let room = hidden.len() + shown.len() + unreleased < 8;
                        prop_assert_eq!(producer.push(value), room);
                        if room {
                            hidden.push_back(value);
                        }
                        value += 1;
                    }
                    1 => {
                        producer.publish();
                        shown.append(&mut hidden);
                    }
                    2 => {
                        prop_assert_eq!(consumer.refresh() as usize, shown.len());
                        prop_assert_eq!(consumer.pop(), shown.front().copied());
                        unreleased += usize::from(shown.pop_front().is_some());
                    }
                    _ => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
            }
        }
    }
}
