//! Publishes table snapshots to the workers.
//!
//! A store is one pointer swap; a worker notices it with one relaxed load per turn. The publisher
//! keeps every snapshot until it is the last to refer to it, so the memory of the tables is freed
//! on its thread and never on a packet thread (freeing a million tunnels takes milliseconds).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use sixferry_fwd::Tables;

use crate::wake::Waker;

/// Least time between two snapshots that whoever changes the tables is to keep. Bounds both what a
/// change waits until packets see it and how often workers see new tables (cold caches) under a bulk
/// load.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(2);

/// A snapshot and its number.
#[derive(Debug)]
struct Published<T> {
    tables: Arc<T>,
    generation: u64,
}

/// The writing end: one thread's. Generic so that tests can watch what a snapshot does.
#[derive(Debug)]
pub struct Publisher<T = Tables> {
    current: Arc<ArcSwap<Published<T>>>,
    /// Former snapshots that a reader may still refer to.
    retired: Vec<Arc<Published<T>>>,
    readers: Readers,
    generation: u64,
}

impl<T> Publisher<T> {
    /// A publisher whose first snapshot, generation 1, is `tables`.
    pub fn new(tables: Arc<T>) -> Self {
        let first = Arc::new(Published {
            tables,
            generation: 1,
        });
        Self {
            current: Arc::new(ArcSwap::new(first)),
            retired: Vec::new(),
            readers: Readers::default(),
            generation: 1,
        }
    }

    /// The reading end for one worker, which `waker` wakes when somebody waits for it.
    pub fn reader(&mut self, waker: Waker) -> TablesReader<T> {
        let adopted = Arc::new(AtomicU64::new(self.generation));
        self.readers.forget_gone();
        self.readers.list.push((Arc::clone(&adopted), waker));
        TablesReader {
            cache: Cache::new(Arc::clone(&self.current)),
            seen: self.generation,
            adopted: Adopted(adopted),
        }
    }

    /// Makes `tables` the snapshot of all workers from their next turn on; frees those no worker
    /// refers to any more. Returns the new generation.
    pub fn store(&mut self, tables: Arc<T>) -> u64 {
        self.generation += 1;
        let next = Arc::new(Published {
            tables,
            generation: self.generation,
        });
        self.retired.push(self.current.swap(next));
        self.collect();
        self.generation
    }

    /// Frees the former snapshots that only the publisher still refers to; returns how many remain.
    ///
    /// Once a snapshot has been swapped out nobody can obtain a new reference to it, so a count of
    /// one is final. One former snapshot per worker can remain, two while it changes to a newer one.
    pub fn collect(&mut self) -> usize {
        self.retired.retain(|former| Arc::strong_count(former) > 1);
        self.retired.len()
    }

    /// The number of the newest snapshot.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The newest snapshot.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.load().tables)
    }

    /// A handle that tells which snapshots the present readers have adopted; it can wait on another
    /// thread while this one goes on publishing.
    pub fn readers(&mut self) -> Readers {
        self.readers.forget_gone();
        self.readers.clone()
    }
}

/// The readers of one publisher, as of the moment the handle was taken.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    list: Vec<(Arc<AtomicU64>, Waker)>,
}

/// What a reader that is gone has adopted: everything.
const GONE: u64 = u64::MAX;

impl Readers {
    fn forget_gone(&mut self) {
        self.list
            .retain(|(adopted, _)| adopted.load(Ordering::Acquire) != GONE);
    }

    /// Whether every worker looks packets up in snapshot `generation` or a later one.
    pub fn have_adopted(&self, generation: u64) -> bool {
        self.list
            .iter()
            .all(|(adopted, _)| adopted.load(Ordering::Acquire) >= generation)
    }

    /// Wakes the workers that have not adopted `generation`: an idle one sleeps in `poll`.
    pub fn nudge(&self, generation: u64) {
        for (adopted, waker) in &self.list {
            if adopted.load(Ordering::Acquire) < generation {
                waker.wake();
            }
        }
    }

    /// Waits until every worker has adopted `generation`; `false` when `timeout` passes first. A
    /// turn takes microseconds, so the usual wait is one look and one short sleep.
    pub fn wait_adopted(&self, generation: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(20);
        if self.have_adopted(generation) {
            return true;
        }
        self.nudge(generation);
        while !self.have_adopted(generation) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        true
    }
}

/// A worker's end.
#[derive(Debug)]
pub struct TablesReader<T = Tables> {
    cache: Cache<Arc<ArcSwap<Published<T>>>, Arc<Published<T>>>,
    seen: u64,
    adopted: Adopted,
}

impl<T> TablesReader<T> {
    /// The newest snapshot: one relaxed load and a compare unless there is a new one.
    pub fn load(&mut self) -> &T {
        let published = self.cache.load();
        if published.generation != self.seen {
            self.seen = published.generation;
            self.adopted
                .0
                .store(published.generation, Ordering::Release);
        }
        &published.tables
    }

    /// The number of the snapshot [`TablesReader::load`] returned last.
    pub fn generation(&self) -> u64 {
        self.seen
    }
}

/// Lets nobody wait for a reader that is gone, whichever way it went.
#[derive(Debug)]
struct Adopted(Arc<AtomicU64>);

impl Drop for Adopted {
    fn drop(&mut self) {
        self.0.store(GONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread::{self, ThreadId};

    use parking_lot::Mutex;

    use super::*;

    /// A snapshot that notes on which thread it was freed. Both halves always agree.
    struct Probe {
        value: [u64; 2],
        freed_on: Arc<Mutex<Vec<ThreadId>>>,
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            self.freed_on.lock().push(thread::current().id());
        }
    }

    #[test]
    fn snapshots_are_freed_on_the_publishers_thread() {
        /// Each worker must have seen so many different snapshots.
        const SEEN: u64 = 500;
        let freed_on = Arc::new(Mutex::new(Vec::new()));
        let probe = |n| {
            let freed_on = Arc::clone(&freed_on);
            Arc::new(Probe {
                value: [n, n],
                freed_on,
            })
        };
        let mut publisher = Publisher::new(probe(1));
        let stop = Arc::new(AtomicBool::new(false));
        let seen: [Arc<AtomicU64>; 2] = Default::default();
        let workers: Vec<_> = seen
            .iter()
            .map(|seen| {
                let mut reader = publisher.reader(Waker::new().unwrap());
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(seen));
                thread::spawn(move || {
                    let mut newest = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let [a, b] = reader.load().value;
                        assert_eq!(a, b);
                        assert!(a >= newest, "a worker never sees an older snapshot again");
                        seen.fetch_add(u64::from(a > newest), Ordering::Relaxed);
                        newest = a;
                    }
                    (reader, newest)
                })
            })
            .collect();
        let mut last = 1;
        while seen.iter().any(|seen| seen.load(Ordering::Relaxed) < SEEN) {
            assert!(!workers.iter().any(thread::JoinHandle::is_finished));
            last += 1;
            assert_eq!(publisher.store(probe(last)), last);
            // one each, and one more each at the moment of changing over
            assert!(publisher.collect() <= 4);
        }
        assert!(
            publisher
                .readers()
                .wait_adopted(last, Duration::from_secs(30))
        );
        assert_eq!(publisher.collect(), 0);
        stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        assert!(ends.iter().all(|(_, newest)| *newest == last));
        drop(ends);
        drop(publisher);
        let freed_on = freed_on.lock();
        assert_eq!(freed_on.len() as u64, last);
        assert!(freed_on.iter().all(|id| *id == thread::current().id()));
    }

    #[test]
    fn waiting_for_a_worker_that_does_not_turn_is_bounded() {
        let mut publisher = Publisher::new(Arc::new(0_u8));
        let mut reader = publisher.reader(Waker::new().unwrap());
        let generation = publisher.store(Arc::new(1));
        let readers = publisher.readers();
        assert!(!readers.wait_adopted(generation, Duration::from_millis(5)));
        assert_eq!(
            publisher.collect(),
            1,
            "the reader still refers to the first"
        );
        assert_eq!((*reader.load(), reader.generation()), (1, generation));
        assert!(readers.wait_adopted(generation, Duration::ZERO));
        assert_eq!(publisher.collect(), 0);
    }

    #[test]
    fn a_reader_that_is_gone_holds_nobody_up() {
        let mut publisher = Publisher::new(Arc::new(0_u8));
        let gone = publisher.reader(Waker::new().unwrap());
        let readers = publisher.readers();
        drop(gone);
        let generation = publisher.store(Arc::new(1));
        assert!(readers.have_adopted(generation));
        assert_eq!(
            (publisher.readers().list.len(), *publisher.current()),
            (0, 1)
        );
    }
}
