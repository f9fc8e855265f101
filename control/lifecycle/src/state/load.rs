//! The mirror at the start.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::clock::Clock;
use crate::machine::{Event, forwards};
use crate::secret::Sealed;
use crate::store::Loaded;
use crate::{AccountId, LifecycleConfig, TunnelState};

use super::{Relay, State};

impl State {
    /// Fills the mirror. Tunnels of services whose sessions died with the last process are orphaned.
    pub(crate) fn load(
        loaded: Loaded,
        mut secrets: HashMap<AccountId, Sealed>,
        config: &LifecycleConfig,
        clock: Clock,
    ) -> Self {
        let now = clock.now();
        let mut state = Self {
            clock,
            next: loaded.next,
            told_seq: loaded.last_seq,
            ..Self::default()
        };
        for dataplane in &config.dataplanes {
            let mut relay = Relay::new(dataplane.name.clone());
            let known = loaded.relays.iter().find(|r| r.relay == dataplane.name);
            relay.stored_seq = known.map_or(0, |r| r.seq);
            relay.stats.applied_seq = relay.stored_seq;
            state.relays.push(relay);
        }
        for account in loaded.accounts {
            let id = account.id;
            state.replace_account(None, Some(&Arc::new(account)));
            if let Some(entry) = state.accounts.get_mut(&id) {
                entry.sealed = secrets.remove(&id);
            }
        }
        for pool in loaded.pools {
            state.insert_pool(pool);
        }
        for (prefix, until) in loaded.quarantine {
            state.hold(prefix, until);
        }
        // The longest free first: that is the order in which they come back.
        for (freed, _) in loaded.freed_ports {
            if state.ports.take(freed.address, freed.port) {
                state.ports.free(freed.address, freed.port);
            }
        }
        for tombstone in loaded.tombstones {
            state.put_into_quarantine(&tombstone.tunnel, tombstone.quarantine_until);
        }
        let grace = i64::try_from(config.grace.as_micros()).unwrap_or(i64::MAX);
        for tunnel in loaded.tunnels {
            let (id, session_bound) = (tunnel.id, config.session_bound.contains(&tunnel.service));
            let was = tunnel.state;
            state.put_tunnel(Arc::new(tunnel));
            if let Some(entry) = state.tunnels.get_mut(&id) {
                entry.committed = Some(entry.tunnel.clone());
            }
            if session_bound && forwards(was) {
                if was != TunnelState::Orphaned {
                    state.late_step(id, Event::Restarted, now);
                }
                state.set_grace(id, Some(now.saturating_add(grace)));
            }
        }
        state.came_free = false;
        state
    }
}
