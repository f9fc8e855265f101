//! What each dataplane has yet to be told: an ordered set of tunnels. What is told is always the
//! tunnel's present committed state, so a tunnel that changes faster than a dataplane can follow costs
//! one entry. No number moves from one tunnel to another before every connected dataplane has
//! confirmed that the first one is gone: the order of different tunnels carries no meaning.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashSet;
use tokio::sync::Notify;

use crate::machine::forwards;
use crate::{RelayStats, Tunnel, TunnelId, TunnelState};

use super::State;

/// One dataplane.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) stats: RelayStats,
    pub(crate) wake: Arc<Notify>,
    /// Changes; at most one entry per tunnel.
    changed: VecDeque<TunnelId>,
    queued: HashSet<TunnelId>,
    /// To be removed before anything else is sent: the dataplane has something else by that name.
    removed: VecDeque<TunnelId>,
    /// What the re-sync has left to send.
    resync: VecDeque<TunnelId>,
    /// Last position that was stored.
    pub(crate) stored_seq: i64,
}

impl Relay {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            stats: RelayStats {
                name,
                ..RelayStats::default()
            },
            wake: Arc::new(Notify::new()),
            changed: VecDeque::new(),
            queued: HashSet::new(),
            removed: VecDeque::new(),
            resync: VecDeque::new(),
            stored_seq: 0,
        }
    }

    pub(crate) fn push(&mut self, id: TunnelId) {
        if self.queued.insert(id) {
            self.changed.push_back(id);
        }
        self.wake.notify_one();
    }

    /// Removes it and sends it anew.
    pub(crate) fn remove_first(&mut self, id: TunnelId) {
        self.removed.push_back(id);
        self.push(id);
    }

    fn clear(&mut self) {
        self.changed.clear();
        self.queued.clear();
        self.removed.clear();
        self.resync.clear();
    }

    pub(crate) fn backlog(&self) -> usize {
        self.changed.len() + self.resync.len() + self.removed.len()
    }
}

/// Entries to send, and what they stand for.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// The change each entry brings, and the tunnel; `None`: it is to go.
    pub(crate) entries: Vec<(TunnelId, u64, Option<Arc<Tunnel>>)>,
    /// With these everything up to this sequence was told.
    pub(crate) through: Option<i64>,
    /// Entries of the re-sync that are still to come.
    pub(crate) resync_left: usize,
}

impl State {
    /// The lowest bits of the connected ones.
    pub(crate) fn connected(&self) -> u64 {
        let connected = self.relays.iter().enumerate();
        connected
            .filter(|(_, relay)| relay.stats.connected)
            .fold(0, |mask, (index, _)| mask | 1 << index)
    }

    /// Tells the connected dataplanes of a committed change.
    pub(crate) fn publish(&mut self, id: TunnelId) {
        let mask = self.connected();
        self.changes += 1;
        let change = self.changes;
        let Some(entry) = self.tunnels.get_mut(&id) else {
            return;
        };
        entry.change = change;
        entry.outstanding = mask;
        entry.confirmed = false;
        entry.collisions = 0;
        let gone = entry.tunnel.state == TunnelState::Releasing;
        for relay in self.relays.iter_mut().filter(|r| r.stats.connected) {
            relay.push(id);
        }
        // Nobody forwards it, and whoever comes back is told everything.
        if gone && mask == 0 {
            self.settle(id);
        }
    }

    /// A session is open: everything is to be told anew.
    pub(crate) fn relay_connected(&mut self, index: usize, instance: &str) {
        let bit = 1 << index;
        let relay = &mut self.relays[index];
        relay.clear();
        relay.stats.connected = true;
        relay.stats.synced = false;
        relay.stats.instance = instance.to_owned();
        let mut all = VecDeque::with_capacity(self.order.len());
        for id in &self.order {
            let Some(entry) = self.tunnels.get_mut(id) else {
                continue;
            };
            let Some(committed) = &entry.committed else {
                continue;
            };
            let settled = entry.outstanding == 0 && entry.waiter.is_none();
            if !(settled && forwards(committed.state)) || committed.state == TunnelState::Pending {
                entry.outstanding |= bit;
            }
            all.push_back(*id);
        }
        relay.resync = all;
        self.came_free = true;
    }

    /// The session is over: nobody waits for this dataplane any more.
    pub(crate) fn relay_lost(&mut self, index: usize, error: &str) {
        let relay = &mut self.relays[index];
        error.clone_into(&mut relay.stats.last_error);
        if !relay.stats.connected {
            return;
        }
        relay.stats.connected = false;
        relay.stats.synced = false;
        relay.clear();
        let bit = 1_u64 << index;
        let waiting = self.tunnels.iter_mut().filter_map(|(id, entry)| {
            let was = entry.outstanding & bit != 0;
            entry.outstanding &= !bit;
            let gone = entry.tunnel.state == TunnelState::Releasing && !entry.in_commit;
            (was && entry.outstanding == 0 && (entry.confirmed || gone)).then_some(*id)
        });
        for id in waiting.collect::<Vec<_>>() {
            self.settle(id);
        }
    }

    /// The next entries for a dataplane, at most `limit`.
    pub(crate) fn relay_work(&mut self, index: usize, limit: usize) -> Work {
        let mut work = Work::default();
        let relay = &mut self.relays[index];
        let removed = relay.removed.len().min(limit);
        let removed = relay.removed.drain(..removed);
        work.entries.extend(removed.map(|id| (id, 0, None)));
        while work.entries.len() < limit {
            let id = match relay.changed.pop_front() {
                Some(id) => {
                    relay.queued.remove(&id);
                    id
                }
                None => match relay.resync.pop_front() {
                    Some(id) => id,
                    None => break,
                },
            };
            let entry = self.tunnels.get(&id);
            let change = entry.map_or(0, |e| e.change);
            let committed = entry.and_then(|e| e.committed.as_ref());
            let tunnel = committed.filter(|t| forwards(t.state)).cloned();
            work.entries.push((id, change, tunnel));
        }
        work.resync_left = relay.resync.len();
        work.through = (relay.backlog() == 0).then_some(self.told_seq);
        work
    }
}
