//! The end of a tunnel.

use std::sync::Arc;

use crate::machine::{Event, step};
use crate::shared::{Release, Shared, count};
use crate::state::State;
use crate::state::edit::Edit;
use crate::writer::{Job, Plan};
use crate::{Cause, Revocation, RevokeCause, Tunnel, TunnelId};

/// Takes a tunnel from whoever holds it.
pub(super) fn release_edit(tunnel: &Arc<Tunnel>, cause: Cause, now: i64) -> Option<Edit> {
    let step = step(Some(tunnel.state), Event::Released(cause)).ok()?;
    let mut after = Tunnel::clone(tunnel);
    after.state = step.to;
    after.state_at = now;
    Some(Edit::Tunnel {
        before: Some(tunnel.clone()),
        after: Arc::new(after),
        cause: step.cause,
    })
}

/// Tells the holder of a tunnel that it is gone.
pub(super) fn revoke(shared: &Shared, tunnel: &Tunnel, cause: RevokeCause) {
    // Without a plugin nobody listens.
    let _ = shared.revocations.send(Revocation {
        tunnel: tunnel.id,
        number: tunnel.lease,
        cause,
    });
}

/// One release.
pub(crate) struct Releasing {
    id: TunnelId,
    release: Release,
}

impl Releasing {
    pub(crate) fn new(id: TunnelId, release: Release) -> Self {
        Self { id, release }
    }

    fn answer(&mut self) {
        for waiter in self.release.waiters.drain(..) {
            // A caller need not wait.
            let _ = waiter.send(());
        }
    }

    fn nothing(&mut self) -> Plan {
        self.answer();
        Plan::Done
    }
}

impl Job for Releasing {
    fn plan(&mut self, state: &mut State, now: i64) -> Plan {
        let Some(entry) = state.tunnel(self.id) else {
            return self.nothing();
        };
        if entry.in_commit {
            return Plan::Defer;
        }
        let holder = entry.tunnel.lease;
        if self.release.number.is_some_and(|number| number != holder) {
            return self.nothing();
        }
        match release_edit(&entry.tunnel, self.release.cause, now) {
            Some(edit) => Plan::Edits(vec![edit]),
            None => self.nothing(),
        }
    }

    fn committed(&mut self, shared: &Shared, state: &mut State, edits: &[Edit]) {
        count(&shared.counters.released);
        if let Some(entry) = state.tunnels.get_mut(&self.id) {
            entry.waiter = None;
        }
        for edit in edits {
            if let (Edit::Tunnel { after, .. }, Some(cause)) = (edit, self.release.revoke) {
                revoke(shared, after, cause);
            }
        }
        self.answer();
    }

    fn failed(&mut self, shared: &Shared, problem: &str) {
        if let Some(suppressed) = shared.release_pace.allow() {
            let tunnel = self.id;
            tracing::error!(%tunnel, problem, suppressed, "a release was not stored; tried again");
        }
        let release = Release {
            waiters: std::mem::take(&mut self.release.waiters),
            ..self.release
        };
        shared.releases.lock().push(self.id, release);
    }

    fn may_fail(&self) -> bool {
        false
    }

    fn abandoned(&self) -> bool {
        // Whether anybody waits or not: it must be done.
        false
    }
}
