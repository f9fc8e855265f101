//! The mirror: everything that lives, in memory, with an index for every number that must not be given
//! twice. It runs ahead of the store by the transaction that is on its way (see [`edit`]); what the
//! dataplanes are told is the part that is committed.

mod confirm;
pub(crate) mod edit;
mod load;
mod number;
mod queue;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};

use hashbrown::{HashMap, HashSet};
use ipnet::Ipv6Net;
use tokio::sync::oneshot;

use crate::claims::Claims;
use crate::clock::Clock;
use crate::delegations::Delegations;
use crate::freed::Freed;
use crate::pairs::Pairs;
use crate::ports::Ports;
use crate::secret::Sealed;
use crate::slots::Slots;
use crate::store::NextIds;
use crate::{
    Account, AccountId, AccountStatus, Error, Lease, Pool, PoolId, Slot, Tunnel, TunnelId,
};

pub(crate) use confirm::{Refusal, Verdict};
use edit::Logged;
pub(crate) use queue::{Relay, Work};

/// An account.
#[derive(Debug)]
pub(crate) struct AccountEntry {
    pub(crate) account: Arc<Account>,
    pub(crate) sealed: Option<Sealed>,
    /// All of its tunnels that are no tombstones.
    pub(crate) tunnels: BTreeSet<TunnelId>,
    /// Those of them that wait for their user.
    pub(crate) orphans: BTreeSet<TunnelId>,
    /// A change of it is on its way to the store.
    pub(crate) in_commit: bool,
    /// Held by whoever is deleting it. The store knows nothing of it: a deletion that is broken off
    /// leaves the account as it was.
    leaving: Weak<()>,
}

impl AccountEntry {
    /// Whether it gets tunnels.
    pub(crate) fn may_log_in(&self) -> bool {
        self.account.status == AccountStatus::Active && self.leaving.strong_count() == 0
    }

    /// Keeps it from getting tunnels for as long as this is held.
    pub(crate) fn leave(&mut self, held: &mut Option<Arc<()>>) {
        let one = self.leaving.upgrade().unwrap_or_default();
        self.leaving = Arc::downgrade(&one);
        *held = Some(one);
    }
}

/// Whoever waits for a tunnel to forward.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) reply: oneshot::Sender<Result<Lease, Error>>,
    pub(crate) resumed: bool,
}

/// A tunnel.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As decided.
    pub(crate) tunnel: Arc<Tunnel>,
    /// As the store has it: what the dataplanes are told.
    pub(crate) committed: Option<Arc<Tunnel>>,
    /// A change of it is on its way to the store.
    pub(crate) in_commit: bool,
    /// Number of its last committed change, in memory order.
    pub(crate) change: u64,
    /// Connected dataplanes that have not confirmed that change, a bit each.
    pub(crate) outstanding: u64,
    /// Some dataplane has confirmed it.
    pub(crate) confirmed: bool,
    /// Times a dataplane refused it because of another tunnel of ours that was in the way.
    pub(crate) collisions: u8,
    pub(crate) waiter: Option<Waiter>,
    /// Orphaned: when its grace ends.
    pub(crate) grace_end: Option<i64>,
}

/// A pool, with its numbers where it gives prefixes.
#[derive(Debug)]
pub(crate) struct PoolEntry {
    pub(crate) pool: Pool,
    pub(crate) delegations: Option<Delegations>,
}

/// Counts of tunnels by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) pending: u64,
    pub(crate) active: u64,
    pub(crate) orphaned: u64,
    pub(crate) releasing: u64,
}

/// A number that another writer on the same store has.
#[derive(Debug)]
enum Foreign {
    Slot(Slot),
    Port(Ipv4Addr, u16),
    Pair(crate::AddressPair, u32),
}

/// The mirror.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) accounts: HashMap<AccountId, AccountEntry>,
    pub(crate) names: BTreeMap<String, AccountId>,
    pub(crate) pools: BTreeMap<PoolId, PoolEntry>,
    pub(crate) tunnels: HashMap<TunnelId, Entry>,
    /// By id, for pages.
    pub(crate) order: BTreeSet<TunnelId>,
    pub(crate) counts: Counts,
    pub(crate) claims: Claims,
    pub(crate) slots: Slots,
    pub(crate) ports: Ports,
    pub(crate) pairs: Pairs,
    ends: HashMap<(Ipv4Addr, Ipv4Addr), TunnelId>,
    /// Tunnels whose numbers come free soon: a wish for them may wait.
    pub(crate) releasing: HashSet<TunnelId>,
    /// By the end of their grace.
    grace: BTreeSet<(i64, TunnelId)>,
    /// Prefixes that accounts had.
    pub(crate) freed: Freed,
    /// Pairs of tombstones, by the end of their quarantine.
    quarantine: BTreeMap<(i64, TunnelId), (crate::AddressPair, u32)>,
    pub(crate) next: NextIds,
    /// Number of the last committed change.
    changes: u64,
    /// Last sequence of the change log that the relays were told of.
    pub(crate) told_seq: i64,
    pub(crate) relays: Vec<Relay>,
    /// Writes that nobody waits for and that free numbers: they precede every other write.
    pub(crate) burials: VecDeque<Logged>,
    /// Writes that nobody waits for, by tunnel: they precede the next write of the same tunnel.
    pub(crate) late: HashMap<TunnelId, Vec<Logged>>,
    pub(crate) late_order: VecDeque<TunnelId>,
    /// The late writes have waited long enough for company.
    pub(crate) late_due: bool,
    /// Numbers another writer on the same store has, and until when they are not tried again.
    foreign: VecDeque<(i64, Foreign)>,
    /// Something a waiting wish may have waited for has happened.
    pub(crate) came_free: bool,
}

impl State {
    pub(crate) fn account(&self, id: AccountId) -> Option<&AccountEntry> {
        self.accounts.get(&id)
    }

    pub(crate) fn tunnel(&self, id: TunnelId) -> Option<&Entry> {
        self.tunnels.get(&id)
    }

    /// The protocol-41 tunnel with these ends.
    pub(crate) fn between(&self, local: Ipv4Addr, remote: Ipv4Addr) -> Option<&Entry> {
        let id = self.ends.get(&(local, remote))?;
        self.tunnels.get(id)
    }

    pub(crate) fn set_in_commit(&mut self, id: TunnelId, in_commit: bool) {
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.in_commit = in_commit;
        }
    }

    pub(crate) fn set_sealed(&mut self, account: AccountId, sealed: Option<Sealed>) {
        if let Some(entry) = self.accounts.get_mut(&account) {
            let mut changed = Account::clone(&entry.account);
            changed.has_secret = sealed.is_some();
            entry.account = Arc::new(changed);
            entry.sealed = sealed;
        }
    }

    /// Adds, changes or removes an account, with its claims.
    pub(crate) fn replace_account(
        &mut self,
        before: Option<&Account>,
        after: Option<&Arc<Account>>,
    ) {
        if let Some(before) = before {
            self.names.remove(&before.name);
            let kept = after.map_or(&[][..], |a| &a.prefixes);
            for prefix in &before.prefixes {
                self.claims.set_own(*prefix, before.id, false);
                if !kept.contains(prefix) {
                    for pool in self.pools.values_mut() {
                        pool.delegations.as_mut().map(|d| d.free(*prefix));
                    }
                }
            }
        }
        match (before, after) {
            (Some(before), None) => {
                self.accounts.remove(&before.id);
            }
            (_, Some(after)) => {
                self.names.insert(after.name.clone(), after.id);
                for prefix in &after.prefixes {
                    self.claims.set_own(*prefix, after.id, true);
                    for pool in self.pools.values_mut() {
                        pool.delegations.as_mut().map(|d| d.take(*prefix));
                    }
                }
                let entry = self
                    .accounts
                    .entry(after.id)
                    .or_insert_with(|| AccountEntry {
                        account: after.clone(),
                        sealed: None,
                        tunnels: BTreeSet::new(),
                        orphans: BTreeSet::new(),
                        in_commit: false,
                        leaving: Weak::new(),
                    });
                entry.account = after.clone();
            }
            (None, None) => {}
        }
    }

    /// What goes into quarantine, and until when, if an account changes so.
    pub(crate) fn freed_by(
        &self,
        before: Option<&Account>,
        after: Option<&Account>,
        at: i64,
    ) -> Vec<(Ipv6Net, i64)> {
        let had = before.map_or(&[][..], |a| &a.prefixes);
        let kept = after.map_or(&[][..], |a| &a.prefixes);
        let gone = had.iter().filter(|prefix| !kept.contains(prefix));
        let until = |prefix: &Ipv6Net| {
            let mut pools = self.pools.values();
            let pool = pools.find(|entry| {
                let numbers = entry.delegations.as_ref();
                numbers.is_some_and(|d| d.index_of(*prefix).is_some())
            });
            let seconds = pool.map_or(0, |entry| entry.pool.quarantine_seconds);
            (seconds > 0).then(|| (*prefix, at + i64::from(seconds) * 1_000_000))
        };
        gone.filter_map(until).collect()
    }

    /// Keeps a prefix from everybody until then.
    pub(crate) fn hold(&mut self, prefix: Ipv6Net, until: i64) {
        self.freed.hold(prefix, until);
        for pool in self.pools.values_mut() {
            if let Some(delegations) = &mut pool.delegations {
                delegations.hold(prefix);
            }
        }
    }

    pub(crate) fn replace_pool(&mut self, before: Option<&Pool>, after: Option<&Pool>) {
        match (before, after) {
            (_, Some(after)) => self.insert_pool(after.clone()),
            (Some(before), None) => {
                self.pools.remove(&before.id);
            }
            (None, None) => {}
        }
    }

    /// The committed tunnel, for those who look.
    pub(crate) fn visible(&self, id: TunnelId) -> Option<&Arc<Tunnel>> {
        self.tunnels.get(&id)?.committed.as_ref()
    }
}

/// A bare tunnel.
#[cfg(test)]
pub(crate) fn sample(id: i64) -> Tunnel {
    let number = u32::try_from(id).unwrap_or(0);
    Tunnel {
        id: TunnelId(id),
        account: AccountId(1),
        service: "dtcp".into(),
        lease: crate::LeaseNumber(1),
        slot: Slot {
            stem: "gif".into(),
            unit: number,
        },
        profile: crate::Profile::Link,
        transport: crate::Transport::SixInFour,
        local: Ipv4Addr::new(192, 0, 2, 1),
        remote: Ipv4Addr::from(0xc633_6400 + number),
        pair: None,
        prefixes: Vec::new(),
        mtu: 1280,
        state: crate::TunnelState::Pending,
        state_at: 0,
        created_at: 0,
        revision: 0,
    }
}
