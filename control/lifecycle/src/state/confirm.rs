//! What follows from the dataplanes' answers.

use std::sync::Arc;

use crate::machine::{Event, step};
use crate::store::Write;
use crate::{Error, Lease, Tunnel, TunnelId, TunnelState};

use super::edit::{Logged, transition, tunnel_write};
use super::{Entry, State, Waiter};

/// Times a tunnel is sent again because another of ours, that has since changed, was in the way.
const MAX_COLLISIONS: u8 = 8;

/// A dataplane did not take an entry.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// What it said.
    pub(crate) text: String,
    /// Another tunnel of ours is in the way.
    pub(crate) blocker: Option<TunnelId>,
    /// The entry changes what only a new tunnel can have, or the dataplane has something older under
    /// this name: removing it first helps.
    pub(crate) replace: bool,
}

/// What the caller must do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is sent again, or a later change overtook it.
    Again,
    /// Release it.
    Release,
}

impl State {
    /// The store has the tunnel as it was decided.
    pub(crate) fn committed_tunnel(&mut self, id: TunnelId, seq: i64) {
        let Some(entry) = self.tunnels.get_mut(&id) else {
            return;
        };
        let tunnel = Arc::make_mut(&mut entry.tunnel);
        tunnel.revision = seq;
        entry.committed = Some(entry.tunnel.clone());
        entry.in_commit = false;
        self.told_seq = self.told_seq.max(seq);
        self.publish(id);
    }

    /// A dataplane applied an entry.
    pub(crate) fn confirmed(&mut self, index: usize, id: TunnelId, change: u64) {
        let relay = &mut self.relays[index];
        relay.stats.applied += 1;
        let Some(entry) = self.tunnels.get_mut(&id) else {
            return;
        };
        let bit = 1 << index;
        if entry.change != change || entry.outstanding & bit == 0 {
            return;
        }
        entry.outstanding &= !bit;
        entry.confirmed = true;
        if entry.outstanding == 0 {
            self.settle(id);
        }
    }

    /// A dataplane refused an entry.
    pub(crate) fn refused(
        &mut self,
        index: usize,
        id: TunnelId,
        change: u64,
        refusal: &Refusal,
    ) -> Verdict {
        let relay = &mut self.relays[index];
        relay.stats.refused += 1;
        let Some(entry) = self.tunnels.get_mut(&id) else {
            return Verdict::Again;
        };
        if entry.change != change {
            return Verdict::Again;
        }
        let gone = entry.committed.as_ref();
        if gone.is_some_and(|t| t.state == TunnelState::Releasing) {
            // It has no such tunnel of ours: as good as removed.
            self.confirmed(index, id, change);
            return Verdict::Again;
        }
        if refusal.replace && entry.collisions < MAX_COLLISIONS {
            entry.collisions += 1;
            relay.remove_first(id);
            return Verdict::Again;
        }
        if refusal.blocker.is_some() && entry.collisions < MAX_COLLISIONS {
            entry.collisions += 1;
            // First what was in the way, as it is now, or that it is gone.
            relay.push(refusal.blocker.unwrap_or(id));
            relay.push(id);
            return Verdict::Again;
        }
        if let Some(waiter) = entry.waiter.take() {
            // Whoever asked may have gone away.
            let _ = waiter.reply.send(Err(Error::Refused(refusal.text.clone())));
        }
        Verdict::Release
    }

    /// What was on its way to the store was not taken: if the dataplanes confirmed meanwhile what was
    /// before, that counts now.
    pub(super) fn confirmed_meanwhile(&mut self, id: TunnelId) {
        let entry = self.tunnels.get(&id);
        if entry.is_some_and(|entry| entry.confirmed && entry.outstanding == 0) {
            self.settle(id);
        }
    }

    /// All connected dataplanes have the present state of a tunnel.
    pub(super) fn settle(&mut self, id: TunnelId) {
        let Some(entry) = self.tunnels.get_mut(&id) else {
            return;
        };
        let Some(committed) = entry.committed.clone() else {
            return;
        };
        match committed.state {
            TunnelState::Releasing => self.bury(&committed),
            TunnelState::Pending if !entry.in_commit => {
                answer(entry.waiter.take(), &committed);
                self.late_step(id, Event::Confirmed, self.clock.now());
            }
            _ => answer(entry.waiter.take(), &committed),
        }
    }

    /// Changes the state of a tunnel here at once and in the store with some later transaction.
    /// Nothing that a dataplane sees may change by it.
    pub(crate) fn late_step(&mut self, id: TunnelId, event: Event, now: i64) {
        let Some(entry) = self.tunnels.get(&id) else {
            return;
        };
        let from = entry.tunnel.state;
        let Ok(step) = step(Some(from), event) else {
            return;
        };
        let before = entry.tunnel.clone();
        let mut after = Tunnel::clone(&before);
        after.state = step.to;
        after.state_at = now;
        let logged = tunnel_write(Some(&before), &after, step.cause);
        let after = Arc::new(after);
        self.put_tunnel(after.clone());
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.committed = Some(after);
        }
        self.write_late(id, logged);
    }

    /// The sequence of a late write.
    pub(crate) fn set_revision(&mut self, id: TunnelId, seq: i64) {
        let Some(entry) = self.tunnels.get_mut(&id).filter(|e| !e.in_commit) else {
            return;
        };
        entry.committed = None;
        Arc::make_mut(&mut entry.tunnel).revision = seq;
        entry.committed = Some(entry.tunnel.clone());
    }

    /// Takes back a write that the store did not take, to write it again before what follows it.
    pub(crate) fn write_again(&mut self, logged: Logged) {
        match &logged.write {
            Write::UpdateTunnel { tunnel, .. } if self.tunnels.contains_key(&tunnel.id) => {
                let id = tunnel.id;
                let writes = self.late.entry(id).or_default();
                if writes.is_empty() {
                    self.late_order.push_back(id);
                }
                writes.insert(0, logged);
            }
            _ => self.burials.push_front(logged),
        }
    }

    fn write_late(&mut self, id: TunnelId, logged: Logged) {
        let writes = self.late.entry(id).or_default();
        if writes.is_empty() {
            self.late_order.push_back(id);
        }
        writes.push(logged);
    }

    fn bury(&mut self, tunnel: &Tunnel) {
        let now = self.clock.now();
        let until = self.quarantine_end(tunnel, now);
        let from = tunnel.state;
        let Ok(step) = step(Some(from), Event::Removed) else {
            return;
        };
        let (to, cause) = (step.to, step.cause);
        // What was to be written of it earlier comes first.
        let earlier = self.late.remove(&tunnel.id).unwrap_or_default();
        self.burials.extend(earlier);
        self.burials.push_back(Logged {
            write: Write::BuryTunnel {
                tunnel: Tunnel {
                    state_at: now,
                    ..tunnel.clone()
                },
                from,
                cause,
                quarantine_until: until,
            },
            with: Vec::new(),
            transition: Some(transition(tunnel, Some(from), to, cause, now)),
        });
        self.remove_tunnel(tunnel.id);
        if until > now {
            self.put_into_quarantine(tunnel, until);
        }
    }

    /// The lease a holder is given.
    pub(crate) fn lease(tunnel: &Tunnel, resumed: bool) -> Lease {
        Lease {
            tunnel: tunnel.id,
            number: tunnel.lease,
            slot: tunnel.slot.clone(),
            local: tunnel.local,
            remote: tunnel.remote,
            transport: tunnel.transport,
            pair: tunnel.pair,
            prefixes: tunnel.prefixes.clone(),
            mtu: tunnel.mtu,
            resumed,
        }
    }

    /// Lets somebody wait for the tunnel to forward; whoever waited before has lost it.
    pub(crate) fn wait_for(&mut self, id: TunnelId, waiter: Waiter) {
        if let Some(Entry { waiter: slot, .. }) = self.tunnels.get_mut(&id)
            && let Some(older) = slot.replace(waiter)
        {
            let gone = "a newer login took the tunnel".to_owned();
            let _ = older.reply.send(Err(Error::Unavailable(gone)));
        }
    }
}

fn answer(waiter: Option<Waiter>, tunnel: &Tunnel) {
    if let Some(waiter) = waiter {
        let lease = State::lease(tunnel, waiter.resumed);
        // Whoever asked may have gone away; the guard on his side gives the tunnel back.
        let _ = waiter.reply.send(Ok(lease));
    }
}
