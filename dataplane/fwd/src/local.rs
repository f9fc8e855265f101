//! What belongs to one worker and to no other thread.

use crate::counters::{CounterSnapshot, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::event::{EVENTS_MAX, Event};
use crate::limiter::Limiter;
use crate::verdict::{PuntReason, Verdict};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// Where the ID of outer packets without DF comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpId {
    /// A counter that no two workers share a value of (RFC 6864 section 4.3 asks for uniqueness as
    /// far as 16 bits go).
    #[default]
    Counter,
    /// Always this: for packet vectors.
    Fixed(u16),
}

/// How to make a [`Local`].
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Which worker, from 0.
    pub worker: usize,
    /// How many there are: they share the rates.
    pub workers: usize,
    /// Random number, the same for all workers of a start.
    pub seed: u64,
    /// Where the ID of outer packets without DF comes from.
    pub ip_id: IpId,
    /// Where the counters are published.
    pub shared: Arc<WorkerCounters>,
    /// Leaves no trace: no tunnel counter moves and nothing is learnt. For trying a packet out.
    pub dry_run: bool,
}

/// One worker's counters, and rate limits. On lines of its own, in pairs as processors fetch them: wherever
/// it lies, no other worker writes beside it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Local {
    pub(crate) worker: usize,
    pub(crate) errors: Limiter,
    pub(crate) answers: Limiter,
    pub(crate) counters: CounterSnapshot,
    shared: Arc<WorkerCounters>,
    ip_id: IpId,
    next_id: u16,
    id_step: u16,
    seed: u64,
    events: ArrayVec<Event, EVENTS_MAX>,
    events_lost: u64,
    pub(crate) dry_run: bool,
}

impl Local {
    /// A worker's private state.
    #[must_use]
    pub fn new(config: LocalConfig) -> Self {
        let LocalConfig {
            worker,
            workers,
            seed,
            ip_id,
            shared,
            dry_run,
        } = config;
        Self {
            // no counters there
            worker: if dry_run { usize::MAX } else { worker },
            errors: Limiter::new(workers, seed),
            answers: Limiter::new(workers, seed),
            counters: CounterSnapshot::default(),
            shared,
            ip_id,
            next_id: u16::try_from(worker % 0x1_0000).unwrap_or(0),
            // a divisor of the circle, or after a round one worker walks in another's steps
            id_step: u16::try_from(workers.clamp(1, 0x8000).next_power_of_two()).unwrap_or(1),
            seed,
            events: ArrayVec::new(),
            events_lost: 0,
            dry_run,
        }
    }

    /// ID of the next outer packet without DF. Every tunnel starts elsewhere in the circle; each
    /// worker steps by the number of workers.
    #[inline]
    pub(crate) const fn next_ip_id(&mut self, template_sum: u32) -> u16 {
        match self.ip_id {
            IpId::Fixed(id) => id,
            IpId::Counter => {
                let id = self.next_id;
                self.next_id = id.wrapping_add(self.id_step);
                let base = (template_sum as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                id.wrapping_add((base >> 48) as u16)
            }
        }
    }

    #[inline]
    pub(crate) fn drop_packet(&mut self, reason: DropReason, len: usize) {
        if let Some(count) = self.counters.drops.get_mut(reason.index()) {
            count.add(len);
        }
    }

    #[inline]
    pub(crate) fn count(&mut self, verdict: Verdict, len: usize) {
        match verdict {
            Verdict::Tx(_) => self.counters.forwarded.add(len),
            Verdict::Answer(_) => self.counters.answered.add(len),
            Verdict::Punt(reason) => {
                self.counters.punted.add(len);
                if let Some(count) = self.counters.punts.get_mut(reason.index()) {
                    *count += 1;
                }
            }
            Verdict::Drop(reason) => self.drop_packet(reason, len),
        }
    }

    /// A packet of `len` bytes that `verdict` had sent on its way did not leave, because the egress
    /// queue is full or there is no such port: it counts as dropped for `reason` instead.
    pub fn tx_refused(&mut self, verdict: Verdict, reason: DropReason, len: usize) {
        match verdict {
            Verdict::Tx(_) => self.counters.forwarded.take_back(len),
            Verdict::Answer(_) => self.counters.answered.take_back(len),
            Verdict::Punt(_) | Verdict::Drop(_) => return,
        }
        self.drop_packet(reason, len);
    }

    /// The slow path did not take a packet of `len` bytes: it counts as dropped instead.
    pub fn punt_refused(&mut self, reason: PuntReason, len: usize) {
        self.counters.punted.take_back(len);
        if let Some(count) = self.counters.punts.get_mut(reason.index()) {
            *count = count.wrapping_sub(1);
        }
        self.drop_packet(DropReason::PuntLimit, len);
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.events.try_push(event).is_err() {
            self.events_lost = self.events_lost.wrapping_add(1);
        }
    }

    /// Takes what was noticed since the last call; after each batch.
    #[inline]
    pub fn take_events(&mut self, f: impl FnMut(Event)) {
        if !self.events.is_empty() {
            self.events.drain(..).for_each(f);
        }
    }

    /// How many events were left out because a batch had more than [`EVENTS_MAX`].
    #[must_use]
    pub const fn events_lost(&self) -> u64 {
        self.events_lost
    }

    /// Where its own memory lies, for a look at who writes what.
    #[cfg(test)]
    fn written(&self) -> Vec<std::ops::Range<usize>> {
        let own = std::ptr::from_ref(self).addr();
        let shared = Arc::as_ptr(&self.shared).addr();
        vec![
            own..own + size_of::<Self>(),
            shared..shared + size_of::<WorkerCounters>(),
            self.errors.written(),
            self.answers.written(),
        ]
    }

    /// The counters as of now.
    #[must_use]
    pub const fn counters(&self) -> &CounterSnapshot {
        &self.counters
    }

    /// Publishes the counters; once a batch.
    pub fn flush(&self) {
        self.shared.publish(&self.counters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TunnelId;
    use crate::tables::{Settings, TablesBuilder, TunnelSpec};
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    /// Blocks of `size` bytes that `ranges` touch.
    fn blocks(ranges: &[std::ops::Range<usize>], size: usize) -> HashSet<usize> {
        let of = |range: &std::ops::Range<usize>| range.start / size..=(range.end - 1) / size;
        ranges.iter().flat_map(of).collect()
    }

    /// What a packet makes a worker write besides its frame: its own state, the counters it publishes, and
    /// those of the packet's tunnel.
    #[test]
    fn workers_write_no_common_line() {
        const WORKERS: usize = 4;
        const TUNNELS: u32 = 3000;
        let mut builder = TablesBuilder::new(Settings::default(), WORKERS);
        for k in 0..TUNNELS {
            let remote = Ipv4Addr::from(0x0a00_0001 + k);
            let spec = TunnelSpec::new(Ipv4Addr::new(192, 0, 2, 1), remote);
            builder.insert_tunnel(&spec).expect("distinct");
        }
        let tables = builder.snapshot();
        let local = |worker| {
            Local::new(LocalConfig {
                worker,
                workers: WORKERS,
                seed: 1,
                ip_id: IpId::Counter,
                shared: Arc::new(WorkerCounters::new()),
                dry_run: false,
            })
        };
        // side by side, as no daemon would have them
        let workers: Vec<Local> = (0..WORKERS).map(local).collect();
        let tunnels = |worker| {
            let line = |k| {
                let counters = tables.counters(worker, TunnelId(k)).expect("in use");
                let at = std::ptr::from_ref(counters).addr();
                at..at + size_of_val(counters)
            };
            (0..TUNNELS).map(line).collect::<Vec<_>>()
        };
        let mut pairs = HashSet::new();
        let mut lines = HashSet::new();
        let (mut own_pairs, mut own_lines) = (0, 0);
        for worker in &workers {
            let own = blocks(&worker.written(), 128);
            own_pairs += own.len();
            pairs.extend(own);
            let own = blocks(&tunnels(worker.worker), 64);
            own_lines += own.len();
            lines.extend(own);
        }
        assert_eq!(
            pairs.len(),
            own_pairs,
            "two workers write to one pair of lines"
        );
        assert_eq!(lines.len(), own_lines, "two workers count in one line");
        assert_eq!(own_lines, WORKERS * TUNNELS as usize);
    }
}
