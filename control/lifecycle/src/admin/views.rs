//! Looking: accounts, tunnels, figures.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use tokio::sync::broadcast;

use super::types::{AccountFilter, AdminError, Stats, Transition, TunnelFilter};
use crate::jobs::{Decision, release_one};
use crate::store::HistoryEntry;
use crate::{Account, AccountId, Lifecycle, Tunnel, TunnelId};

/// Most entries of a page.
const MAX_PAGE: usize = 1000;

impl Lifecycle {
    /// One account.
    pub fn account(&self, id: AccountId) -> Option<Account> {
        let state = self.inner.shared.state.lock();
        state
            .account(id)
            .map(|entry| Account::clone(&entry.account))
    }

    /// One account, by name.
    pub fn account_named(&self, name: &str) -> Option<Account> {
        let state = self.inner.shared.state.lock();
        let id = state.names.get(name)?;
        state
            .account(*id)
            .map(|entry| Account::clone(&entry.account))
    }

    /// Accounts by name, those after a name; at most `limit` and 1000.
    pub fn accounts(
        &self,
        filter: &AccountFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Account> {
        let state = self.inner.shared.state.lock();
        let prefix = filter.name_prefix.as_str();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let names = state.names.range::<str, _>((from, Bound::Unbounded));
        names
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter_map(|(_, id)| state.account(*id))
            .filter(|entry| filter.status.is_none_or(|s| s == entry.account.status))
            .take(limit.min(MAX_PAGE))
            .map(|entry| Account::clone(&entry.account))
            .collect()
    }

    /// One tunnel that lives.
    pub fn tunnel(&self, id: TunnelId) -> Option<Tunnel> {
        let state = self.inner.shared.state.lock();
        state.visible(id).map(|tunnel| Tunnel::clone(tunnel))
    }

    /// Tunnels that live by id, those after an id; at most `limit` and 1000.
    pub fn tunnels(
        &self,
        filter: &TunnelFilter,
        after: Option<TunnelId>,
        limit: usize,
    ) -> Vec<Tunnel> {
        let state = self.inner.shared.state.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let fits = |tunnel: &&std::sync::Arc<Tunnel>| {
            filter.account.is_none_or(|a| a == tunnel.account)
                && filter.service.as_ref().is_none_or(|s| *s == tunnel.service)
                && filter.state.is_none_or(|s| s == tunnel.state)
        };
        let one = filter.account.and_then(|id| state.account(id));
        let ids: Box<dyn Iterator<Item = &TunnelId>> = match (filter.account, one) {
            (None, _) => Box::new(state.order.range((from, Bound::Unbounded))),
            (Some(_), Some(entry)) => Box::new(entry.tunnels.range((from, Bound::Unbounded))),
            (Some(_), None) => Box::new(std::iter::empty()),
        };
        ids.filter_map(|id| state.visible(*id))
            .filter(fits)
            .take(limit.min(MAX_PAGE))
            .map(|tunnel| Tunnel::clone(tunnel))
            .collect()
    }

    /// What became of a tunnel, also after its end, oldest first.
    pub async fn history(&self, id: TunnelId, limit: u32) -> Result<Vec<HistoryEntry>, AdminError> {
        let Some(store) = &self.inner.store else {
            return Ok(Vec::new());
        };
        let history = store.history(id, (limit as usize).min(MAX_PAGE)).await;
        history.map_err(|e| AdminError::Unavailable(e.to_string()))
    }

    /// Takes a tunnel from its holder.
    pub async fn disconnect(&self, id: TunnelId) -> Result<(), AdminError> {
        self.administer(move |state, now| {
            let entry = state.tunnel(id).ok_or_else(|| AdminError::NotFound {
                what: "tunnel",
                name: id.to_string(),
            })?;
            if entry.in_commit {
                return Ok(Decision::Defer);
            }
            Ok(match release_one(&entry.tunnel, now) {
                Some(edit) => Decision::Edits(vec![edit], ()),
                None => Decision::Nothing(()),
            })
        })
        .await
    }

    /// Changes of state from now on. Who lags behind by more than the backlog is told how much he lost.
    pub fn transitions(&self) -> broadcast::Receiver<Transition> {
        self.inner.shared.transitions.subscribe()
    }

    /// What is wrong at present, if anything. What it cannot overcome itself ends it: [`Self::ended`].
    pub fn health(&self) -> Result<(), String> {
        let faults = self.inner.shared.faults.lock();
        match faults.values().next() {
            None => Ok(()),
            Some(_) => Err(faults.values().cloned().collect::<Vec<_>>().join("; ")),
        }
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        let store_away = shared.store_away.lock().map(|since| since.elapsed());
        let state = shared.state.lock();
        let relays = state.relays.iter().map(|relay| {
            let mut stats = relay.stats.clone();
            stats.backlog = relay.backlog() as u64;
            stats
        });
        Stats {
            accounts: state.accounts.len() as u64,
            pending: state.counts.pending,
            active: state.counts.active,
            orphaned: state.counts.orphaned,
            releasing: state.counts.releasing,
            tombstones: state.quarantined(),
            logins_ok: read(&counters.logins_ok),
            logins_denied: read(&counters.logins_denied),
            acquired: read(&counters.acquired),
            resumed: read(&counters.resumed),
            sold_out: read(&counters.sold_out),
            refused: read(&counters.refused),
            timed_out: read(&counters.timed_out),
            released: read(&counters.released),
            commits: read(&counters.commits),
            groups: read(&counters.groups),
            conflicts: read(&counters.conflicts),
            queue_depth: read(&counters.waiting),
            queue_limit: shared.config.queue as u64,
            store_away: store_away.unwrap_or_default(),
            restarts: read(&counters.restarts),
            relays: relays.collect(),
        }
    }
}
