//! Waking a thread that waits in `poll`: an eventfd, and a clock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};
use sixferry_fwd::Ticks;

/// Wakes one waiting thread. Clones wake the same one.
///
/// A wake-up is never lost: one sent while nobody waits ends the next wait at once.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
}

impl Waker {
    /// A waker for one thread.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Ends the thread's wait, the present one or the next.
    pub fn wake(&self) {
        // The only possible failure is EAGAIN: 2^64 - 2 wake-ups are pending, so one more is none.
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// Forgets wake-ups that have been acted upon; called by the woken thread before it looks for
    /// what woke it.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The monotonic clock all threads of the dataplane share.
pub fn monotonic() -> Ticks {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Ticks(
        seconds
            .saturating_mul(Ticks::PER_SECOND)
            .saturating_add(nanoseconds),
    )
}
