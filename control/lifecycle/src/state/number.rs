//! Which numbers a tunnel has, kept in step with the tunnel.

use std::sync::Arc;

use ipnet::Ipv6Net;

use crate::pairs::link_of;
use crate::runs::Runs;
use crate::{Pool, PoolKind, Transport, Tunnel, TunnelId, TunnelState};

use super::{Entry, Foreign, PoolEntry, State};
use crate::delegations::Delegations;
use crate::store::Constraint;

/// How long a number of another writer is left alone, and how many of them are remembered.
const FOREIGN_MICROS: i64 = 60_000_000;
const MAX_FOREIGN: usize = 10_000;

impl State {
    /// Adds a tunnel or puts it in the place of what it was.
    pub(crate) fn put_tunnel(&mut self, tunnel: Arc<Tunnel>) {
        let id = tunnel.id;
        if let Some(old) = self.tunnels.get(&id).map(|e| e.tunnel.clone()) {
            self.give_numbers_back(&old);
        }
        self.take_numbers(&tunnel);
        self.order.insert(id);
        match self.tunnels.get_mut(&id) {
            Some(entry) => entry.tunnel = tunnel,
            None => {
                let entry = Entry {
                    tunnel,
                    committed: None,
                    in_commit: false,
                    change: 0,
                    outstanding: 0,
                    confirmed: false,
                    collisions: 0,
                    waiter: None,
                    grace_end: None,
                };
                self.tunnels.insert(id, entry);
            }
        }
    }

    /// Forgets a tunnel and frees its numbers.
    pub(crate) fn remove_tunnel(&mut self, id: TunnelId) {
        let Some(entry) = self.tunnels.remove(&id) else {
            return;
        };
        self.order.remove(&id);
        self.give_numbers_back(&entry.tunnel);
        if let Some(end) = entry.grace_end {
            self.grace.remove(&(end, id));
        }
        self.came_free = true;
    }

    fn count(&mut self, state: TunnelState) -> Option<&mut u64> {
        let counts = &mut self.counts;
        match state {
            TunnelState::Pending => Some(&mut counts.pending),
            TunnelState::Active => Some(&mut counts.active),
            TunnelState::Orphaned => Some(&mut counts.orphaned),
            TunnelState::Releasing => Some(&mut counts.releasing),
            TunnelState::Tombstone => None,
        }
    }

    fn take_numbers(&mut self, tunnel: &Tunnel) {
        if let Some(count) = self.count(tunnel.state) {
            *count += 1;
        }
        self.slots.take(&tunnel.slot);
        match tunnel.transport {
            Transport::SixInFour => {
                self.ends.insert((tunnel.local, tunnel.remote), tunnel.id);
            }
            Transport::Udp { local_port, .. } => {
                self.ports.take(tunnel.local, local_port);
            }
        }
        if let Some(pair) = &tunnel.pair {
            self.pairs.take(pair, tunnel.slot.unit);
            self.claims.route(link_of(pair), tunnel.account, tunnel.id);
        }
        for prefix in &tunnel.prefixes {
            self.claims.route(*prefix, tunnel.account, tunnel.id);
        }
        if tunnel.state == TunnelState::Releasing {
            self.releasing.insert(tunnel.id);
        }
        if let Some(account) = self.accounts.get_mut(&tunnel.account) {
            account.tunnels.insert(tunnel.id);
            if tunnel.state == TunnelState::Orphaned {
                account.orphans.insert(tunnel.id);
            }
        }
    }

    fn give_numbers_back(&mut self, tunnel: &Tunnel) {
        if let Some(count) = self.count(tunnel.state) {
            *count -= 1;
        }
        self.slots.free(&tunnel.slot);
        match tunnel.transport {
            Transport::SixInFour => {
                let ends = (tunnel.local, tunnel.remote);
                if self.ends.get(&ends) == Some(&tunnel.id) {
                    self.ends.remove(&ends);
                }
            }
            Transport::Udp { local_port, .. } => {
                self.ports.free(tunnel.local, local_port);
            }
        }
        if let Some(pair) = &tunnel.pair {
            self.pairs.free(pair, tunnel.slot.unit);
            let (link, account) = (link_of(pair), tunnel.account);
            self.claims.unroute(link, account, tunnel.id);
        }
        for prefix in &tunnel.prefixes {
            self.claims.unroute(*prefix, tunnel.account, tunnel.id);
        }
        self.releasing.remove(&tunnel.id);
        if let Some(account) = self.accounts.get_mut(&tunnel.account) {
            account.tunnels.remove(&tunnel.id);
            account.orphans.remove(&tunnel.id);
        }
    }

    /// Starts or ends the grace of a tunnel as its state says.
    pub(crate) fn set_grace(&mut self, id: TunnelId, end: Option<i64>) {
        let Some(entry) = self.tunnels.get_mut(&id) else {
            return;
        };
        if let Some(old) = entry.grace_end.take() {
            self.grace.remove(&(old, id));
        }
        if let Some(end) = end {
            entry.grace_end = Some(end);
            self.grace.insert((end, id));
        }
    }

    /// Orphans whose grace is over, at most `limit`; they are told once.
    pub(crate) fn grace_over(&mut self, now: i64, limit: usize) -> Vec<TunnelId> {
        let mut over = Vec::new();
        while over.len() < limit
            && let Some(&(end, id)) = self.grace.first()
            && end <= now
        {
            self.grace.pop_first();
            if let Some(entry) = self.tunnels.get_mut(&id) {
                entry.grace_end = None;
                if entry.tunnel.state == TunnelState::Orphaned {
                    over.push(id);
                }
            }
        }
        over
    }

    /// Leaves out for a while what another writer on the same store turned out to have.
    pub(crate) fn avoid(&mut self, tunnel: &Tunnel, constraint: Constraint) {
        let unit = tunnel.slot.unit;
        let foreign = match (constraint, tunnel.transport, tunnel.pair) {
            (Constraint::Slot, _, _) if self.slots.take(&tunnel.slot) => {
                Foreign::Slot(tunnel.slot.clone())
            }
            (Constraint::UdpPort, Transport::Udp { local_port, .. }, _)
                if self.ports.take(tunnel.local, local_port) =>
            {
                Foreign::Port(tunnel.local, local_port)
            }
            (Constraint::ClientAddress | Constraint::ServerAddress, _, Some(pair))
                if self.pairs.take(&pair, unit) =>
            {
                Foreign::Pair(pair, unit)
            }
            _ => return,
        };
        if self.foreign.len() >= MAX_FOREIGN {
            self.forget_foreign(i64::MAX, 1);
        }
        let until = self.clock.now() + FOREIGN_MICROS;
        self.foreign.push_back((until, foreign));
    }

    pub(crate) fn forget_foreign(&mut self, now: i64, limit: usize) {
        for _ in 0..limit {
            let Some((_, foreign)) = self.foreign.pop_front_if(|(until, _)| *until <= now) else {
                break;
            };
            match foreign {
                Foreign::Slot(slot) => self.slots.free(&slot),
                Foreign::Port(local, port) => self.ports.free(local, port),
                Foreign::Pair(pair, unit) => self.pairs.free(&pair, unit),
            };
        }
    }

    /// Until when nobody gets the numbers of a tunnel that is gone.
    pub(crate) fn quarantine_end(&self, tunnel: &Tunnel, now: i64) -> i64 {
        let Some(pair) = &tunnel.pair else {
            return now;
        };
        let mut pools = self.pools.values().map(|entry| &entry.pool);
        let pool = pools.find(|p| p.kind == PoolKind::HostPair && p.prefix.contains(&pair.client));
        pool.map_or(now, |p| now + i64::from(p.quarantine_seconds) * 1_000_000)
    }

    /// Keeps the pair of a tombstone from everybody.
    pub(crate) fn put_into_quarantine(&mut self, tunnel: &Tunnel, until: i64) {
        if let Some(pair) = tunnel.pair
            && self.pairs.take(&pair, tunnel.slot.unit)
        {
            let unit = tunnel.slot.unit;
            self.quarantine.insert((until, tunnel.id), (pair, unit));
        }
    }

    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantine.len() as u64
    }

    /// Pairs of a pool: given, in quarantine, altogether.
    pub(crate) fn pair_fill(&self, prefix: Ipv6Net) -> (u64, u64, u64) {
        let quarantined = self.quarantine.values();
        let quarantined = quarantined
            .filter(|(pair, _)| prefix.contains(&pair.client))
            .count() as u64;
        let taken = self.pairs.taken(prefix).map_or(0, Runs::len);
        let blocks = 1_u64 << (126_u8.saturating_sub(prefix.prefix_len())).min(32);
        (taken.saturating_sub(quarantined), quarantined, blocks - 1)
    }

    /// Ends the quarantines that are over, at most `limit` of each kind; how many.
    pub(crate) fn end_quarantines(&mut self, now: i64, limit: usize) -> usize {
        let mut ended = 0;
        while ended < limit
            && let Some(first) = self.quarantine.first_entry()
            && first.key().0 <= now
        {
            let (pair, unit) = first.remove();
            self.pairs.free(&pair, unit);
            ended += 1;
        }
        for prefix in self.freed.expire(now, limit) {
            for pool in self.pools.values_mut() {
                if let Some(delegations) = &mut pool.delegations {
                    delegations.let_go(prefix);
                }
            }
            ended += 1;
        }
        self.came_free |= ended > 0;
        ended
    }

    /// Adds a pool; what accounts have or had of it already is marked.
    pub(crate) fn insert_pool(&mut self, pool: Pool) {
        let mut delegations = match pool.kind {
            PoolKind::HostPair => None,
            PoolKind::Delegation { len } => Delegations::new(pool.prefix, len),
        };
        if let Some(delegations) = &mut delegations {
            for entry in self.accounts.values() {
                for prefix in &entry.account.prefixes {
                    delegations.take(*prefix);
                }
            }
            for prefix in self.freed.inside(pool.prefix) {
                delegations.hold(prefix);
            }
        }
        self.pools.insert(pool.id, PoolEntry { pool, delegations });
    }
}
