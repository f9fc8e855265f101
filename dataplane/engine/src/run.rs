//! A worker's thread: the loop, when it sleeps, how it is pinned, stopped and given other ports.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet, sched_setaffinity, set_capabilities};
use sixferry_fwd::PortId;

use crate::port::Port;
use crate::stats::WorkerStats;
use crate::wake::{Waker, monotonic};
use crate::worker::{PortChange, PortChanges, Worker};

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Looks again at once: the lowest delay, a whole core.
    Spin,
    /// Sleeps until a port has packets, something is injected or the worker is wanted.
    Poll {
        /// Empty turns before it sleeps.
        spin_turns: u32,
        /// Longest sleep: bounds the delay of what wakes nobody, such as a finished transmission.
        timeout: Duration,
    },
}

impl IdlePolicy {
    /// [`IdlePolicy::Poll`] after 64 empty turns, for at most 10 ms.
    pub const POLL: Self = Self::Poll {
        spin_turns: 64,
        timeout: Duration::from_millis(10),
    };
}

/// How long a worker pauses when a port's descriptor reports an error (its interface is gone)
/// instead of packets: `poll` would return at once for ever.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// Asks a worker to stop. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct StopFlag {
    flag: Arc<AtomicBool>,
    waker: Waker,
}

impl StopFlag {
    /// The worker ends after its present turn.
    pub fn set(&self) {
        self.flag.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it has been asked.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

/// Why a worker's thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The thread itself.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Its capabilities.
    #[error("cannot take thread {name}'s capabilities away: {source}")]
    Capabilities {
        /// The thread's name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Its CPU.
    #[error("cannot pin thread {name} to CPU {cpu}: {source}")]
    Pin {
        /// The thread's name.
        name: String,
        /// The CPU.
        cpu: usize,
        /// The system's answer.
        source: io::Error,
    },
}

/// What a new thread could not do.
enum Unprepared {
    Pin(usize, io::Error),
    Capabilities(io::Error),
}

/// Takes every capability away from the calling thread, for good; other threads keep theirs.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, sets)?;
    Ok(())
}

/// How to run a worker.
#[derive(Clone, Debug)]
pub struct SpawnOptions {
    /// Name of the thread; the system shows the first 15 characters.
    pub name: String,
    /// The CPU to pin it to.
    pub cpu: Option<usize>,
    /// What it does when there is nothing to do.
    pub idle: IdlePolicy,
    /// Give up every capability first. A worker needs none: its sockets are bound and its memory is
    /// registered, and whatever opens others is another thread.
    pub drop_capabilities: bool,
}

/// The rest of the process's hold on a running worker.
#[derive(Debug)]
pub struct WorkerHandle<P> {
    thread: JoinHandle<Worker<P>>,
    stop: StopFlag,
    stats: Arc<WorkerStats>,
    changes: Arc<PortChanges<P>>,
}

impl<P> WorkerHandle<P> {
    /// Asks the worker to stop; it closes its ports. Does not wait.
    pub fn stop(&self) {
        self.stop.set();
    }

    /// What [`WorkerHandle::stop`] sets, for signal handlers and other threads.
    pub fn stop_flag(&self) -> StopFlag {
        self.stop.clone()
    }

    /// Whether the thread has ended, by itself only if it panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread and takes the worker back.
    ///
    /// # Errors
    /// What the worker panicked with.
    pub fn join(self) -> thread::Result<Worker<P>> {
        self.thread.join()
    }

    /// The worker's statistics.
    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// Gives the worker another port, from one of its next turns on. If the number is taken by then
    /// the port comes back through [`WorkerHandle::departed`].
    ///
    /// # Errors
    /// Gives the port back when too many changes wait.
    pub fn attach(&self, id: PortId, port: P) -> Result<(), P> {
        let refused = self.changes.wanted.push(PortChange::Attach(id, port));
        self.stop.waker.wake();
        match refused {
            Err(PortChange::Attach(_, port)) => Err(port),
            Ok(()) | Err(PortChange::Detach(_)) => Ok(()),
        }
    }

    /// Asks the worker to close a port; it comes back through [`WorkerHandle::departed`]. `false`
    /// when too many changes wait.
    pub fn detach(&self, id: PortId) -> bool {
        let accepted = self.changes.wanted.push(PortChange::Detach(id)).is_ok();
        self.stop.waker.wake();
        accepted
    }

    /// A port the worker no longer has. Dropping it here keeps the worker from the system calls.
    pub fn departed(&self) -> Option<(PortId, P)> {
        self.changes.departed.pop()
    }
}

impl<P: Port> Worker<P> {
    /// A flag that stops [`Worker::run`].
    pub fn stop_flag(&self) -> StopFlag {
        StopFlag {
            flag: Arc::default(),
            waker: self.waker.clone(),
        }
    }

    /// Turns until `stop` is set, then shuts down.
    pub fn run(&mut self, idle: IdlePolicy, stop: &StopFlag) {
        let mut last = monotonic();
        let mut busy = false;
        let mut empty_turns = 0_u32;
        while !stop.is_set() {
            let now = monotonic();
            self.stats().count_time(busy, now.0.saturating_sub(last.0));
            last = now;
            busy = !self.turn(now).is_empty();
            if busy {
                empty_turns = 0;
                continue;
            }
            empty_turns = empty_turns.saturating_add(1);
            match idle {
                IdlePolicy::Poll {
                    spin_turns,
                    timeout,
                } if empty_turns > spin_turns => {
                    self.sleep(timeout);
                    empty_turns = 0;
                }
                IdlePolicy::Spin | IdlePolicy::Poll { .. } => std::hint::spin_loop(),
            }
        }
        self.shut_down();
    }

    /// Waits for packets or a wake-up, at most `timeout`.
    fn sleep(&self, timeout: Duration) {
        self.stats().count_sleep();
        let mut fds: ArrayVec<PollFd<'_>, { PortId::MAX + 1 }> = ArrayVec::new();
        fds.push(PollFd::new(&self.waker, PollFlags::IN));
        for (_, port) in self.ports().iter() {
            if let Some(fd) = port.poll_fd() {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        let limit = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        // A failure (a signal, no memory) only shortens the sleep.
        let ready = poll(&mut fds, Some(&limit));
        if fds
            .first()
            .is_some_and(|own| own.revents().contains(PollFlags::IN))
        {
            self.waker.clear();
        } else if ready != Ok(0) && !fds.iter().any(|fd| fd.revents().contains(PollFlags::IN)) {
            thread::sleep(ERROR_PAUSE.min(timeout));
        }
    }
}

impl<P: Port + Send + 'static> Worker<P> {
    /// Runs the worker on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started, pinned or rid of its capabilities.
    pub fn spawn(mut self, options: SpawnOptions) -> Result<WorkerHandle<P>, SpawnError> {
        let SpawnOptions {
            name,
            cpu,
            idle,
            drop_capabilities,
        } = options;
        let stop = self.stop_flag();
        let stats = Arc::clone(self.stats());
        let changes = Arc::clone(&self.changes);
        let (told, pinned) = std::sync::mpsc::sync_channel(1);
        let flag = stop.clone();
        let body = move || {
            let result = self.prepare(cpu, drop_capabilities);
            let run = result.is_ok();
            if told.send(result).is_ok() && run {
                self.run(idle, &flag);
            }
            self
        };
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(body)
            .map_err(|source| SpawnError::Thread {
                name: name.clone(),
                source,
            })?;
        match pinned.recv() {
            Ok(Err(Unprepared::Pin(cpu, source))) => Err(SpawnError::Pin { name, cpu, source }),
            Ok(Err(Unprepared::Capabilities(source))) => {
                Err(SpawnError::Capabilities { name, source })
            }
            Ok(Ok(())) | Err(_) => Ok(WorkerHandle {
                thread,
                stop,
                stats,
                changes,
            }),
        }
    }

    fn prepare(&self, cpu: Option<usize>, drop_capabilities: bool) -> Result<(), Unprepared> {
        if let Some(cpu) = cpu {
            self.pin(cpu)
                .map_err(|source| Unprepared::Pin(cpu, source))?;
        }
        if drop_capabilities {
            self::drop_capabilities().map_err(Unprepared::Capabilities)?;
        }
        Ok(())
    }

    fn pin(&self, cpu: usize) -> io::Result<()> {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut cpus = CpuSet::new();
        cpus.set(cpu);
        sched_setaffinity(None, &cpus)?;
        self.stats().set_cpu(cpu);
        Ok(())
    }
}
