//! What the operator wants.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::release::{release_edit, revoke};
use crate::machine::forwards;
use crate::shared::Shared;
use crate::state::State;
use crate::state::edit::Edit;
use crate::writer::{Job, Plan};
use crate::{AccountId, AdminError, Cause, RevokeCause, Tunnel, TunnelState};

/// What a wish comes to; with the answer once it is stored.
pub(crate) enum Decision<T> {
    Edits(Vec<Edit>, T),
    First(Vec<Edit>),
    Wait,
    Defer,
    Nothing(T),
}

type Decide<T> = Box<dyn FnMut(&mut State, i64) -> Result<Decision<T>, AdminError> + Send>;

/// One wish.
pub(crate) struct Administering<T> {
    decide: Decide<T>,
    reply: Option<oneshot::Sender<Result<T, AdminError>>>,
    answer: Option<T>,
}

impl<T: Send> Administering<T> {
    pub(crate) fn new(
        decide: impl FnMut(&mut State, i64) -> Result<Decision<T>, AdminError> + Send + 'static,
        reply: oneshot::Sender<Result<T, AdminError>>,
    ) -> Self {
        Self {
            decide: Box::new(decide),
            reply: Some(reply),
            answer: None,
        }
    }

    fn answer(&mut self, answer: Result<T, AdminError>) {
        if let Some(reply) = self.reply.take() {
            // He may have gone away.
            let _ = reply.send(answer);
        }
    }
}

impl<T: Send> Job for Administering<T> {
    fn plan(&mut self, state: &mut State, now: i64) -> Plan {
        match (self.decide)(state, now) {
            Ok(Decision::Edits(edits, answer)) => {
                self.answer = Some(answer);
                Plan::Edits(edits)
            }
            Ok(Decision::First(edits)) => Plan::First(edits),
            Ok(Decision::Wait) => Plan::Wait,
            Ok(Decision::Defer) => Plan::Defer,
            Ok(Decision::Nothing(answer)) => {
                self.answer(Ok(answer));
                Plan::Done
            }
            Err(error) => {
                self.answer(Err(error));
                Plan::Done
            }
        }
    }

    fn committed(&mut self, shared: &Shared, state: &mut State, edits: &[Edit]) {
        for edit in edits {
            let Edit::Tunnel { before, after, .. } = edit else {
                continue;
            };
            if after.state == TunnelState::Releasing {
                if let Some(entry) = state.tunnels.get_mut(&after.id) {
                    entry.waiter = None;
                }
                if before
                    .as_ref()
                    .is_some_and(|b| b.state != TunnelState::Orphaned)
                {
                    revoke(shared, after, RevokeCause::Administrative);
                }
            }
        }
        if let Some(answer) = self.answer.take() {
            self.answer(Ok(answer));
        }
    }

    fn failed(&mut self, _shared: &Shared, problem: &str) {
        self.answer(Err(AdminError::Unavailable(problem.to_owned())));
    }

    fn abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The edit that takes one tunnel away; `None`: it is on its way out.
pub(crate) fn release_one(tunnel: &Arc<Tunnel>, now: i64) -> Option<Edit> {
    release_edit(tunnel, Cause::Administrative, now)
}

/// The edits that take all tunnels of an account away; `None`: some are on their way to the store.
pub(crate) fn release_all(state: &State, account: AccountId, now: i64) -> Option<Vec<Edit>> {
    let Some(entry) = state.account(account) else {
        return Some(Vec::new());
    };
    let mut edits = Vec::new();
    for tunnel in entry.tunnels.iter().filter_map(|id| state.tunnel(*id)) {
        if tunnel.in_commit {
            return None;
        }
        if forwards(tunnel.tunnel.state) {
            edits.extend(release_one(&tunnel.tunnel, now));
        }
    }
    Some(edits)
}
