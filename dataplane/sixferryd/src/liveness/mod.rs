//! Whether the far ends of tunnels are alive (RFC 4213 section 3.8, RFC 4861
//! section 7.3).
//!
//! Any valid packet out of a tunnel is a sign of life, so a tunnel in use is never probed. One that
//! was silent for an interval gets a probe; three in a row without an answer make it unreachable,
//! the next sign of life reachable again. Probes of all tunnels together are paced: a million
//! tunnels would be 33,000 probes a second. What the pace puts off is late, never lost, and counts
//! for nothing.
//!
//! [`Machine`] does no I/O and knows no clock: tunnels to look at come out, what was heard of them
//! goes in. [`driver`] is the thread around it.

pub(crate) mod driver;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use sixferry_engine::{Rate, TokenBucket};
use sixferry_fwd::{Ticks, TunnelId};

use crate::live::{Life, LifeState, LivenessCounts};

/// Unanswered probes, or silent intervals of a tunnel that is not probed, until it is unreachable.
pub(crate) const LOSSES: u8 = 3;
/// How long an answer may take; half the interval for shorter ones.
const REPLY_WAIT: u64 = 2 * Ticks::PER_SECOND;
/// Probes are this far from the interval at most: tunnels that began together drift apart.
const JITTER_PERCENT: u64 = 20;

/// How a tunnel is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Not at all.
    Passive,
    /// Neighbour solicitations to the peer's link-local address.
    Nud,
    /// Echo requests to the peer's address on the link.
    Echo,
}

/// How a tunnel is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) mode: Mode,
    /// In ticks, at least one.
    pub(crate) interval: u64,
}

/// What the machine wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send one; the number tells echo requests apart.
    Probe {
        tunnel: TunnelId,
        mode: Mode,
        sequence: u16,
    },
    /// Tell who watches.
    Changed {
        tunnel: TunnelId,
        from: LifeState,
        to: LifeState,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Looked at again when the interval is over.
    Resting,
    /// A probe is under way; the next one would be due at this tick.
    Asked { next: u64 },
    /// A probe is due, but the pace does not allow it yet. The ticket in the queue.
    Deferred(u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    watch: Watch,
    state: LifeState,
    /// The tunnel's packet counter when it was last looked at.
    heard: u64,
    seen: Option<Ticks>,
    losses: u8,
    sequence: u16,
    phase: Phase,
    due: u64,
}

/// All tunnels that are watched.
#[derive(Debug)]
pub(crate) struct Machine {
    entries: HashMap<TunnelId, Entry>,
    due: BTreeSet<(u64, TunnelId)>,
    /// Those that wait for the pace; an entry without this ticket has left the queue since.
    deferred: VecDeque<(u64, TunnelId)>,
    tickets: u64,
    pace: TokenBucket,
    random: u64,
    counts: LivenessCounts,
}

impl Machine {
    /// Watches nobody yet. Bursts are a tenth of a second's probes.
    pub(crate) fn new(probes_per_second: u32, seed: u64) -> Self {
        let rate = Rate {
            per_second: probes_per_second.max(1),
            burst: (probes_per_second / 10).max(1),
        };
        Self {
            entries: HashMap::new(),
            due: BTreeSet::new(),
            deferred: VecDeque::new(),
            tickets: 0,
            pace: TokenBucket::new(rate),
            random: seed,
            counts: LivenessCounts::default(),
        }
    }

    /// Watches a tunnel from now on, or no more; what was known of it is forgotten. `heard` is its
    /// packet counter.
    pub(crate) fn watch(&mut self, tunnel: TunnelId, watch: Option<Watch>, heard: u64, now: Ticks) {
        self.forget(tunnel);
        let Some(watch) = watch else { return };
        let entry = Entry {
            watch,
            state: LifeState::Unknown,
            heard,
            seen: None,
            losses: 0,
            sequence: 0,
            phase: Phase::Resting,
            due: 0,
        };
        self.count(LifeState::Unknown, 1);
        self.counts.watched += 1;
        self.entries.insert(tunnel, entry);
        // A probed one need not wait a whole interval for its first verdict.
        let first = match watch.mode {
            Mode::Passive => self.jittered(watch.interval),
            Mode::Nud | Mode::Echo => self.draw() % (watch.interval / 4).max(1),
        };
        self.schedule(tunnel, now.0.saturating_add(first));
    }

    /// Up to `most` tunnels whose packet counters are to be looked at now. Each must be given to
    /// [`Machine::look`].
    pub(crate) fn due(&mut self, now: Ticks, most: usize) -> Vec<TunnelId> {
        let allowed = usize::try_from(self.pace.available(now)).unwrap_or(usize::MAX);
        let mut tunnels = Vec::new();
        while tunnels.len() < most.min(allowed)
            && let Some((ticket, tunnel)) = self.deferred.pop_front()
        {
            if self.waits(ticket, tunnel) {
                tunnels.push(tunnel);
            }
        }
        while tunnels.len() < most
            && let Some((at, tunnel)) = self.due.first().copied()
            && at <= now.0
        {
            self.due.pop_first();
            tunnels.push(tunnel);
        }
        tunnels
    }

    /// What became of a tunnel that was due: its packet counter, or `None` if it is gone.
    pub(crate) fn look(
        &mut self,
        tunnel: TunnelId,
        heard: Option<u64>,
        now: Ticks,
        actions: &mut Vec<Action>,
    ) {
        let Some(heard) = heard else {
            return self.forget(tunnel);
        };
        let Some(entry) = self.entries.get(&tunnel).copied() else {
            return;
        };
        if heard != entry.heard {
            return self.alive(tunnel, entry, heard, now, actions);
        }
        match (entry.phase, entry.watch.mode) {
            (Phase::Resting, Mode::Passive) => {
                self.lose(tunnel, actions);
                let next = self.jittered(entry.watch.interval);
                self.schedule(tunnel, now.0.saturating_add(next));
            }
            (Phase::Asked { next }, _) => {
                self.lose(tunnel, actions);
                self.rest(tunnel, next);
            }
            (Phase::Resting | Phase::Deferred(_), _) => self.ask(tunnel, entry, now, actions),
        }
    }

    /// What is known of a tunnel; `None`: it is not watched.
    pub(crate) fn life(&self, tunnel: TunnelId, now: Ticks) -> Option<Life> {
        let entry = self.entries.get(&tunnel)?;
        let since = |seen: Ticks| std::time::Duration::from_nanos(now.0.saturating_sub(seen.0));
        Some(Life {
            state: entry.state,
            last_seen: entry.seen.map(since),
        })
    }

    pub(crate) fn counts(&self) -> LivenessCounts {
        self.counts
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn alive(
        &mut self,
        tunnel: TunnelId,
        entry: Entry,
        heard: u64,
        now: Ticks,
        actions: &mut Vec<Action>,
    ) {
        let answered = matches!(entry.phase, Phase::Asked { .. });
        self.counts.replies += u64::from(answered);
        let next = match entry.phase {
            Phase::Asked { next } => next,
            Phase::Resting | Phase::Deferred(_) => {
                now.0.saturating_add(self.jittered(entry.watch.interval))
            }
        };
        if let Some(entry) = self.entries.get_mut(&tunnel) {
            entry.heard = heard;
            entry.seen = Some(now);
            entry.losses = 0;
        }
        self.set_state(tunnel, LifeState::Up, actions);
        self.rest(tunnel, next);
    }

    fn ask(&mut self, tunnel: TunnelId, entry: Entry, now: Ticks, actions: &mut Vec<Action>) {
        if !self.pace.take(now) {
            self.counts.deferred += u64::from(entry.phase == Phase::Resting);
            return self.defer(tunnel);
        }
        let wait = REPLY_WAIT.min(entry.watch.interval / 2);
        let next = now.0.saturating_add(self.jittered(entry.watch.interval));
        let sequence = entry.sequence.wrapping_add(1);
        if let Some(entry) = self.entries.get_mut(&tunnel) {
            entry.phase = Phase::Asked { next };
            entry.sequence = sequence;
        }
        self.counts.probes_sent += 1;
        self.schedule(tunnel, now.0.saturating_add(wait));
        actions.push(Action::Probe {
            tunnel,
            mode: entry.watch.mode,
            sequence,
        });
    }

    fn defer(&mut self, tunnel: TunnelId) {
        self.tickets += 1;
        if let Some(entry) = self.entries.get_mut(&tunnel) {
            entry.phase = Phase::Deferred(self.tickets);
            self.deferred.push_back((self.tickets, tunnel));
        }
        // Tunnels that come and go leave tickets behind.
        if self.deferred.len() > 2 * self.entries.len() + 64 {
            let mut queue = std::mem::take(&mut self.deferred);
            queue.retain(|(ticket, tunnel)| self.waits(*ticket, *tunnel));
            self.deferred = queue;
        }
    }

    fn waits(&self, ticket: u64, tunnel: TunnelId) -> bool {
        let entry = self.entries.get(&tunnel);
        entry.is_some_and(|entry| entry.phase == Phase::Deferred(ticket))
    }

    fn lose(&mut self, tunnel: TunnelId, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(&tunnel) else {
            return;
        };
        entry.losses = entry.losses.saturating_add(1).min(LOSSES);
        if entry.losses == LOSSES {
            self.set_state(tunnel, LifeState::Unreachable, actions);
        }
    }

    fn set_state(&mut self, tunnel: TunnelId, to: LifeState, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(&tunnel) else {
            return;
        };
        let from = std::mem::replace(&mut entry.state, to);
        if from != to {
            self.count(from, -1);
            self.count(to, 1);
            actions.push(Action::Changed { tunnel, from, to });
        }
    }

    fn rest(&mut self, tunnel: TunnelId, until: u64) {
        if let Some(entry) = self.entries.get_mut(&tunnel) {
            entry.phase = Phase::Resting;
        }
        self.schedule(tunnel, until);
    }

    fn schedule(&mut self, tunnel: TunnelId, at: u64) {
        if let Some(entry) = self.entries.get_mut(&tunnel) {
            let before = std::mem::replace(&mut entry.due, at);
            self.due.remove(&(before, tunnel));
            self.due.insert((at, tunnel));
        }
    }

    fn forget(&mut self, tunnel: TunnelId) {
        let Some(entry) = self.entries.remove(&tunnel) else {
            return;
        };
        self.due.remove(&(entry.due, tunnel));
        self.count(entry.state, -1);
        self.counts.watched -= 1;
    }

    fn count(&mut self, state: LifeState, change: i64) {
        let count = match state {
            LifeState::Unknown => &mut self.counts.unknown,
            LifeState::Up => &mut self.counts.up,
            LifeState::Unreachable => &mut self.counts.unreachable,
        };
        *count = count.saturating_add_signed(change);
    }

    /// The interval give or take a fifth.
    fn jittered(&mut self, interval: u64) -> u64 {
        let spread = interval / 100 * JITTER_PERCENT;
        let drawn = self.draw() % (2 * spread + 1);
        (interval - spread + drawn).max(1)
    }

    /// SplitMix64: jitter needs no secret.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
