//! Keeps the neighbours we send to resolved.
//!
//! Frames sent by AF_XDP are no traffic to the kernel: it would let the entries of our next hops
//! grow stale and forget them. So gateways in use become *managed* entries (`ip neigh ...
//! managed`, Linux 5.16), which the kernel keeps resolving on its own; an older kernel is asked
//! again every few seconds (`NTF_USE`).
//!
//! An address on a connected prefix is asked for when a packet needs it. At first with an ordinary
//! entry, which becomes managed only when somebody answers: a scan of a /64 must not leave entries
//! behind that the kernel probes for ever. There is a limit on the questions per second, on those
//! open at once and on the entries kept; of the latter the one asked for longest ago gives way.
//!
//! What the kernel has learnt on a connected prefix by itself is used for forwarding as it stands,
//! so no packet ever asks for it, and the kernel would let it rot: the neighbour's new MAC address
//! would go unnoticed until the entry is collected. A limited number of those is managed too, as
//! long as they answer and nothing else needs the room.
//!
//! Entries that somebody configured (permanent, no-ARP) or manages already are left alone. On stop
//! ours become ordinary again, and those nobody answered for are deleted.

mod task;

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::time::Instant;

pub(super) use self::task::NeighbourTask;
use super::types::{Care, Neighbour, NeighbourState};

/// A neighbour's interface and address.
pub(super) type Key = (u32, IpAddr);

/// Limits of the keeper.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeeperConfig {
    /// Entries kept resolved, gateways included.
    pub(super) capacity: usize,
    /// Those of them that only the kernel's own traffic brought.
    pub(super) learnt: usize,
    /// Addresses asked for and not answered yet.
    pub(super) pending: usize,
    /// Questions per second, and how many at once.
    pub(super) rate: u32,
    pub(super) burst: u32,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self {
            capacity: 4096,
            // Below the default `gc_thresh3` of 1,024, which holds for all entries of a family.
            learnt: 512,
            pending: 1024,
            rate: 500,
            burst: 128,
        }
    }
}

/// The kernel gives up after three probes a second apart.
const PENDING_FOR: Duration = Duration::from_secs(4);
/// Not more often than this is one address asked for, or a lost entry restored.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Below the shortest base reachable time in use (15 s), for kernels without managed entries.
const USE_EVERY: Duration = Duration::from_secs(10);
/// Old kernels' entries refreshed per tick, so that a full table does not come in one burst.
const USE_PER_TICK: usize = 512;
/// How often the keeper looks at its clock.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// What the keeper is told.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A gateway came into use by routes, or went out of it.
    Gateway(Key, bool),
    /// All neighbours that somebody else wants kept, whether routes use them or not.
    Pinned(Vec<Key>),
    /// Packets are sent to this address of a connected prefix because the kernel knew it already.
    Used(Key),
    /// A packet waits for this address.
    Wanted(Key),
    /// The kernel's entry has changed.
    Seen(Neighbour),
    /// The kernel's entry is gone.
    Lost(Key),
    /// Time has passed.
    Tick,
}

/// What the keeper wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make it a managed entry, unless it is somebody else's.
    Manage(Key),
    /// Ask now, without any promise for later.
    Probe(Key),
    /// Make it an ordinary entry again, or delete it if nobody answers for it.
    Release(Key),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Asked for; not answered yet.
    Pending,
    /// Kept resolved.
    Kept,
    /// Somebody else looks after it.
    LeftAlone,
    /// Vanished or lost its flag; to be restored.
    Lost,
}

/// A route of the kernel leads to it.
const BY_ROUTE: u8 = 1;
/// Somebody else named it.
const BY_PIN: u8 = 2;

#[derive(Clone, Copy, Debug)]
struct Entry {
    phase: Phase,
    /// Who needs it for good: a mask of `BY_...`; 0 if packets asked for it.
    holders: u8,
    /// Taken over from the kernel; nobody ever asked for it.
    learnt: bool,
    asked: Instant,
    acted: Instant,
}

/// Counters of the keeper.
#[derive(Debug, Default)]
pub(super) struct KeeperStats {
    pub(super) kept: AtomicU64,
    pub(super) pending: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// What to keep and what to ask for. Pure: time comes in by argument.
#[derive(Debug)]
pub(super) struct Keeper {
    config: KeeperConfig,
    entries: HashMap<Key, Entry>,
    pending: usize,
    learnt: usize,
    tokens: f64,
    refilled: Instant,
    /// Whether the kernel must be asked again and again.
    pub(super) refresh_by_use: bool,
    /// Whether the kernel has ever shown an entry as managed by us.
    pub(super) managed_works: bool,
    /// Questions not asked: over the rate or the number of open ones.
    pub(super) refused: u64,
}

impl Keeper {
    pub(super) fn new(config: KeeperConfig, now: Instant) -> Self {
        Self {
            config,
            entries: HashMap::new(),
            pending: 0,
            learnt: 0,
            tokens: f64::from(config.burst),
            refilled: now,
            refresh_by_use: false,
            managed_works: false,
            refused: 0,
        }
    }

    /// Takes note of an event; what has to be done is appended to `actions`.
    pub(super) fn handle(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Gateway(key, true) => self.hold(key, BY_ROUTE, now, actions),
            Event::Gateway(key, false) => self.let_go(key, BY_ROUTE, actions),
            Event::Pinned(keys) => self.pin(&keys, now, actions),
            Event::Used(key) => self.used(key, now, actions),
            Event::Wanted(key) => self.wanted(key, now, actions),
            Event::Seen(neighbour) => self.seen(neighbour, now, actions),
            Event::Lost(key) => self.lost(key, now, actions),
            Event::Tick => self.tick(now, actions),
        }
    }

    /// The kernel said that somebody else looks after the entry.
    pub(super) fn left_alone(&mut self, key: Key) {
        self.set_phase(key, Phase::LeftAlone);
    }

    /// The kernel refused: try again later.
    pub(super) fn refused_by_kernel(&mut self, key: Key) {
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.phase == Phase::Kept)
        {
            self.set_phase(key, Phase::Lost);
        }
    }

    /// Everything that was taken into care, to be released.
    pub(super) fn kept(&self) -> Vec<Key> {
        let kept = self
            .entries
            .iter()
            .filter(|(_, e)| matches!(e.phase, Phase::Kept | Phase::Lost));
        kept.map(|(key, _)| *key).collect()
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.entries.len() - self.pending, self.pending)
    }

    fn hold(&mut self, key: Key, holder: u8, now: Instant, actions: &mut Vec<Action>) {
        let fresh = self
            .entries
            .get(&key)
            .is_none_or(|entry| entry.phase == Phase::Pending);
        if fresh {
            self.forget(key);
            if self.make_room(actions) {
                let entry = Entry {
                    phase: Phase::Kept,
                    holders: holder,
                    learnt: false,
                    asked: now,
                    acted: now,
                };
                self.entries.insert(key, entry);
                actions.push(Action::Manage(key));
            }
        } else if let Some(entry) = self.entries.get_mut(&key) {
            entry.holders |= holder;
        }
    }

    fn let_go(&mut self, key: Key, holder: u8, actions: &mut Vec<Action>) {
        let Some(entry) = self
            .entries
            .get_mut(&key)
            .filter(|e| e.holders & holder != 0)
        else {
            return;
        };
        entry.holders &= !holder;
        let entry = *entry;
        if entry.holders == 0 {
            self.forget(key);
            if entry.phase != Phase::LeftAlone {
                actions.push(Action::Release(key));
            }
        }
    }

    fn pin(&mut self, keys: &[Key], now: Instant, actions: &mut Vec<Action>) {
        let pinned = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.holders & BY_PIN != 0);
        let wanted: HashSet<&Key> = keys.iter().collect();
        let dropped: Vec<Key> = pinned
            .map(|(key, _)| *key)
            .filter(|key| !wanted.contains(key))
            .collect();
        for key in dropped {
            self.let_go(key, BY_PIN, actions);
        }
        for key in keys {
            self.hold(*key, BY_PIN, now, actions);
        }
    }

    fn used(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let room = self.entries.len() - self.pending < self.config.capacity
            && self.learnt < self.config.learnt;
        if !room || self.entries.contains_key(&key) {
            return;
        }
        let entry = Entry {
            phase: Phase::Kept,
            holders: 0,
            learnt: true,
            asked: now,
            acted: now,
        };
        self.entries.insert(key, entry);
        self.learnt += 1;
        actions.push(Action::Manage(key));
    }

    fn wanted(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let recent = |entry: &Entry| now.duration_since(entry.acted) < AGAIN_AFTER;
        let known = self.entries.get_mut(&key);
        if let Some(entry) = &known
            && recent(entry)
        {
            return;
        }
        let full = known.is_none() && self.pending >= self.config.pending;
        if full || !self.take_token(now) {
            self.refused += 1;
            return;
        }
        match self.entries.get_mut(&key) {
            Some(entry) => {
                entry.asked = now;
                entry.acted = now;
            }
            None => {
                let entry = Entry {
                    phase: Phase::Pending,
                    holders: 0,
                    learnt: false,
                    asked: now,
                    acted: now,
                };
                self.entries.insert(key, entry);
                self.pending += 1;
            }
        }
        actions.push(Action::Probe(key));
    }

    fn seen(&mut self, neighbour: Neighbour, now: Instant, actions: &mut Vec<Action>) {
        let key = (neighbour.ifindex, neighbour.addr);
        let ours = neighbour.care == Care::Ours;
        let Some(entry) = self.entries.get(&key).copied() else {
            // Left behind by a daemon that was killed. The traffic that needed it goes on.
            if ours && self.make_room(actions) {
                let entry = Entry {
                    phase: Phase::Kept,
                    holders: 0,
                    learnt: false,
                    asked: now,
                    acted: now,
                };
                self.entries.insert(key, entry);
            }
            return;
        };
        if others(&neighbour) {
            return self.left_alone(key);
        }
        let silent = neighbour.state == NeighbourState::Unresolved;
        match entry.phase {
            // It went away: the kernel must not ask for it for ever.
            Phase::Kept | Phase::Lost if silent && entry.learnt && entry.holders == 0 => {
                self.forget(key);
                actions.push(Action::Release(key));
            }
            Phase::Pending if neighbour.state.mac().is_some() => {
                self.forget(key);
                if self.make_room(actions) {
                    let entry = Entry {
                        phase: Phase::Kept,
                        acted: now,
                        ..entry
                    };
                    self.entries.insert(key, entry);
                    actions.push(Action::Manage(key));
                }
            }
            Phase::Lost if ours => self.set_phase(key, Phase::Kept),
            // Somebody's `ip neigh replace` cleared the flag, or took back the permanence. Just
            // after our own request it may be the news of an earlier change: then wait.
            Phase::Kept | Phase::LeftAlone if !ours && !self.refresh_by_use => {
                self.restore(key, entry, now, actions);
            }
            _ => {}
        }
    }

    fn lost(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get(&key).copied() else {
            return;
        };
        if entry.holders != 0 {
            self.restore(key, entry, now, actions);
        } else {
            // The next packet asks again, if there is one.
            self.forget(key);
        }
    }

    fn restore(&mut self, key: Key, entry: Entry, now: Instant, actions: &mut Vec<Action>) {
        if now.duration_since(entry.acted) >= AGAIN_AFTER {
            self.set_phase(key, Phase::Kept);
            self.touch(key, now);
            actions.push(Action::Manage(key));
        } else {
            self.set_phase(key, Phase::Lost);
        }
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let (mut over, mut lost, mut due) = (Vec::new(), Vec::new(), Vec::new());
        for (key, entry) in &self.entries {
            let idle = now.duration_since(entry.acted);
            match entry.phase {
                Phase::Pending if idle >= PENDING_FOR => over.push(*key),
                Phase::Lost if idle >= AGAIN_AFTER => lost.push(*key),
                Phase::Kept if self.refresh_by_use && idle >= USE_EVERY => due.push(*key),
                _ => {}
            }
        }
        for key in over {
            self.forget(key);
        }
        for key in lost {
            self.set_phase(key, Phase::Kept);
            self.touch(key, now);
            actions.push(Action::Manage(key));
        }
        for key in due.into_iter().take(USE_PER_TICK) {
            self.touch(key, now);
            actions.push(Action::Probe(key));
        }
    }

    /// Lets the entry asked for longest ago go, if there are too many. `false` if there are
    /// gateways only: what finds no room is resolved by packets that need it.
    fn make_room(&mut self, actions: &mut Vec<Action>) -> bool {
        if self.entries.len() - self.pending < self.config.capacity {
            return true;
        }
        let asked = self
            .entries
            .iter()
            .filter(|(_, e)| e.holders == 0 && e.phase != Phase::Pending);
        let Some((key, entry)) = asked.min_by_key(|(_, entry)| entry.asked) else {
            self.refused += 1;
            return false;
        };
        let (key, phase) = (*key, entry.phase);
        self.forget(key);
        if phase != Phase::LeftAlone {
            actions.push(Action::Release(key));
        }
        true
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let most = f64::from(self.config.burst);
        self.tokens = (self.tokens + passed * f64::from(self.config.rate)).min(most);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn set_phase(&mut self, key: Key, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(&key) {
            self.pending -= usize::from(entry.phase == Phase::Pending);
            self.pending += usize::from(phase == Phase::Pending);
            entry.phase = phase;
        }
    }

    fn touch(&mut self, key: Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.acted = now;
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.pending -= usize::from(entry.phase == Phase::Pending);
            self.learnt -= usize::from(entry.learnt);
        }
    }
}

/// Whether an entry is none of our business: configured, or in another program's care.
fn others(neighbour: &Neighbour) -> bool {
    neighbour.care == Care::Others || matches!(neighbour.state, NeighbourState::Fixed(_))
}

#[cfg(test)]
#[path = "tests/neigh.rs"]
mod tests;
