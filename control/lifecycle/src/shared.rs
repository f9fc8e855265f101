//! What the tasks share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{Notify, broadcast, oneshot};

use crate::machine::forwards;
use crate::mirror::{End, Mirror};
use crate::pace::Pace;
use crate::state::State;
use crate::{Cause, LeaseNumber, LifecycleConfig, Revocation, RevokeCause, Transition, TunnelId};

/// Figures that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) logins_ok: AtomicU64,
    pub(crate) logins_denied: AtomicU64,
    pub(crate) acquired: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) sold_out: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) waiting: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A tunnel to be given up.
#[derive(Debug)]
pub(crate) struct Release {
    /// Only if this is still the holder; `None`: whoever holds it.
    pub(crate) number: Option<LeaseNumber>,
    pub(crate) cause: Cause,
    /// The holder is told.
    pub(crate) revoke: Option<RevokeCause>,
    /// Who waits for the commit.
    pub(crate) waiters: Vec<oneshot::Sender<()>>,
}

/// Releases that are not committed yet: at most one per tunnel, so as many as there are tunnels, and
/// kept for as long as the store is away.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    order: VecDeque<TunnelId>,
    by_tunnel: HashMap<TunnelId, Release>,
}

impl Releases {
    pub(crate) fn push(&mut self, id: TunnelId, release: Release) {
        match self.by_tunnel.get_mut(&id) {
            None => {
                self.order.push_back(id);
                self.by_tunnel.insert(id, release);
            }
            Some(known) => {
                // Whatever applies to any holder is stronger; of two holders the later one.
                let stronger = match (known.number, release.number) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(old), Some(new)) => new > old,
                };
                known.waiters.extend(release.waiters);
                if stronger {
                    known.number = release.number;
                    known.cause = release.cause;
                    known.revoke = release.revoke;
                }
            }
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(TunnelId, Release)> {
        loop {
            let id = self.order.pop_front()?;
            if let Some(release) = self.by_tunnel.remove(&id) {
                return Some((id, release));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_tunnel.is_empty()
    }
}

/// What the tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: LifecycleConfig,
    pub(crate) state: Mirror,
    pub(crate) end: Arc<End>,
    pub(crate) releases: Mutex<Releases>,
    /// Wakes the writer.
    pub(crate) work: Notify,
    pub(crate) revocations: broadcast::Sender<Revocation>,
    pub(crate) transitions: broadcast::Sender<Transition>,
    pub(crate) counters: Counters,
    /// Since when the store has been away, by the runtime's clock.
    pub(crate) store_away: Mutex<Option<tokio::time::Instant>>,
    /// What is wrong, by task; what was overcome is taken out.
    pub(crate) faults: Mutex<std::collections::BTreeMap<String, String>>,
    pub(crate) stopping: AtomicBool,
    /// Of lines about tunnels that dataplanes refuse, and about releases that the store does not take.
    pub(crate) refused_pace: Pace,
    pub(crate) release_pace: Pace,
}

impl Shared {
    pub(crate) fn new(config: LifecycleConfig, state: State) -> Arc<Self> {
        let backlog = config.watch_backlog;
        let end = Arc::new(End::default());
        Arc::new(Self {
            state: Mirror::new(state, end.clone()),
            end,
            releases: Mutex::default(),
            work: Notify::new(),
            revocations: broadcast::Sender::new(backlog),
            transitions: broadcast::Sender::new(backlog),
            counters: Counters::default(),
            store_away: Mutex::default(),
            faults: Mutex::default(),
            stopping: AtomicBool::new(false),
            refused_pace: Pace::default(),
            release_pace: Pace::default(),
            config,
        })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> i64 {
        self.state.lock().clock.now()
    }

    /// Queues a release, unless there is nothing to release; what to wait for, in case one wants to.
    pub(crate) fn release(
        &self,
        id: TunnelId,
        number: Option<LeaseNumber>,
        cause: Cause,
        revoke: Option<RevokeCause>,
    ) -> Option<oneshot::Receiver<()>> {
        {
            let state = self.state.lock();
            let entry = state.tunnel(id)?;
            let current = number.is_none_or(|number| entry.tunnel.lease == number);
            if !current || !forwards(entry.tunnel.state) {
                return None;
            }
        }
        let (sender, receiver) = oneshot::channel();
        let release = Release {
            number,
            cause,
            revoke,
            waiters: vec![sender],
        };
        let mut releases = self.releases.lock();
        // Nobody will do it any more; asked here, so that none comes after the last were let go.
        if !self.end.is_over() {
            releases.push(id, release);
        }
        drop(releases);
        self.work.notify_one();
        Some(receiver)
    }

    /// Queues the release of a tunnel whose taker gave up, where the state is locked already.
    pub(crate) fn give_back_later(&self, id: TunnelId, number: LeaseNumber) {
        let release = Release {
            number: Some(number),
            cause: Cause::ConnectionLost,
            revoke: None,
            waiters: Vec::new(),
        };
        self.releases.lock().push(id, release);
        self.work.notify_one();
    }

    /// Lets everybody go who waits for what does not come any more.
    pub(crate) fn let_go(&self) {
        let waiters = {
            let mut state = self.state.lock();
            let entries = state.tunnels.values_mut();
            entries.filter_map(|e| e.waiter.take()).collect::<Vec<_>>()
        };
        drop(waiters);
        drop(std::mem::take(&mut *self.releases.lock()));
    }

    pub(crate) fn set_fault(&self, task: &str, fault: Option<String>) {
        let mut faults = self.faults.lock();
        match fault {
            Some(fault) => {
                faults.insert(task.to_owned(), fault);
            }
            None => {
                faults.remove(task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(number: Option<i64>, cause: Cause) -> Release {
        Release {
            number: number.map(LeaseNumber),
            cause,
            revoke: None,
            waiters: Vec::new(),
        }
    }

    #[test]
    fn one_release_per_tunnel_and_the_strongest_stays() {
        let mut releases = Releases::default();
        let id = TunnelId(1);
        releases.push(id, release(Some(1), Cause::Quit));
        releases.push(id, release(Some(2), Cause::ConnectionLost));
        releases.push(id, release(Some(1), Cause::Quit));
        releases.push(TunnelId(2), release(Some(1), Cause::Quit));
        releases.push(id, release(None, Cause::Administrative));
        releases.push(id, release(Some(9), Cause::Quit));
        let (first, strongest) = releases.pop().unwrap();
        assert_eq!((first, strongest.number), (id, None));
        assert_eq!(strongest.cause, Cause::Administrative);
        assert_eq!(releases.pop().unwrap().0, TunnelId(2));
        assert!(releases.pop().is_none() && releases.is_empty());
    }
}
