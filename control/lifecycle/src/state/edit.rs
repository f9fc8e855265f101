//! Changes to the mirror, each with what was before: they are made when they are decided, written to
//! the store, and taken back if the store refuses them.

use std::sync::Arc;

use crate::secret::Sealed;
use crate::store::Write;
use crate::{Account, AccountId, Cause, Pool, Transition, Tunnel, TunnelId, TunnelState};

use super::State;

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Tunnel {
        before: Option<Arc<Tunnel>>,
        after: Arc<Tunnel>,
        cause: Cause,
    },
    /// A new one has no `before`.
    Account {
        before: Option<Arc<Account>>,
        after: Arc<Account>,
        at: i64,
    },
    /// It has no tunnels; its secret goes with it.
    RemoveAccount {
        before: Arc<Account>,
        sealed: Option<Sealed>,
        at: i64,
    },
    Secret {
        account: AccountId,
        before: Option<Sealed>,
        after: Option<Sealed>,
        at: i64,
    },
    /// Either side may be missing, not both.
    Pool {
        before: Option<Pool>,
        after: Option<Pool>,
        at: i64,
    },
}

/// A write, and what watchers are told of it.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) write: Write,
    /// Goes with it, and has no sequence of its own.
    pub(crate) with: Vec<Write>,
    pub(crate) transition: Option<Transition>,
}

/// What watchers are told of a tunnel's change; the sequence is filled in after the commit.
pub(crate) fn transition(
    tunnel: &Tunnel,
    from: Option<TunnelState>,
    to: TunnelState,
    cause: Cause,
    at: i64,
) -> Transition {
    Transition {
        seq: 0,
        tunnel: tunnel.id,
        account: tunnel.account,
        service: tunnel.service.clone(),
        slot: tunnel.slot.clone(),
        from,
        to,
        cause,
        at,
    }
}

/// The write of a tunnel that goes from one state to another (or the same).
pub(crate) fn tunnel_write(before: Option<&Tunnel>, after: &Tunnel, cause: Cause) -> Logged {
    let from = before.map(|b| b.state);
    let told = transition(after, from, after.state, cause, after.state_at);
    let tunnel = after.clone();
    let write = match before {
        None => Write::InsertTunnel { tunnel, cause },
        Some(before) => Write::UpdateTunnel {
            new_prefixes: before.prefixes != tunnel.prefixes,
            tunnel,
            from: before.state,
            cause,
        },
    };
    Logged {
        write,
        with: Vec::new(),
        transition: Some(told),
    }
}

impl Edit {
    pub(crate) fn tunnel_id(&self) -> Option<TunnelId> {
        match self {
            Self::Tunnel { after, .. } => Some(after.id),
            _ => None,
        }
    }

    /// Whether it takes a tunnel away and nothing else, so that it needs no number.
    pub(crate) fn releases(&self) -> bool {
        matches!(self, Self::Tunnel { after, .. } if after.state == TunnelState::Releasing)
    }

    /// What is written of it; asked before it is made.
    pub(crate) fn log(&self, state: &State) -> Option<Logged> {
        let write = match self {
            Self::Tunnel {
                before,
                after,
                cause,
            } => return Some(tunnel_write(before.as_deref(), after, *cause)),
            Self::Account { before, after, .. } => match before {
                None => Write::InsertAccount(Account::clone(after)),
                Some(_) => Write::UpdateAccount(Account::clone(after)),
            },
            Self::RemoveAccount { before, at, .. } => Write::RemoveAccount {
                account: before.id,
                at: *at,
            },
            Self::Secret {
                account, after, at, ..
            } => Write::SetSecret {
                account: *account,
                secret: after.clone(),
                at: *at,
            },
            Self::Pool { before, after, at } => match (before, after) {
                (None, Some(pool)) => Write::InsertPool {
                    pool: pool.clone(),
                    at: *at,
                },
                (Some(_), Some(pool)) => Write::UpdatePool {
                    pool: pool.clone(),
                    at: *at,
                },
                (Some(pool), None) => Write::RemovePool {
                    pool: pool.id,
                    at: *at,
                },
                (None, None) => return None,
            },
        };
        let freed = self.freed(state).into_iter();
        let with = freed.map(|(prefix, until)| Write::Quarantine { prefix, until });
        Some(Logged {
            write,
            with: with.collect(),
            transition: None,
        })
    }

    /// Prefixes it puts into quarantine.
    fn freed(&self, state: &State) -> Vec<(ipnet::Ipv6Net, i64)> {
        match self {
            Self::Account { before, after, at } => {
                state.freed_by(before.as_deref(), Some(after), *at)
            }
            Self::RemoveAccount { before, at, .. } => state.freed_by(Some(before), None, *at),
            _ => Vec::new(),
        }
    }

    /// Makes the change; what it touches is then on its way to the store.
    pub(crate) fn apply(&self, state: &mut State) {
        for (prefix, until) in self.freed(state) {
            state.hold(prefix, until);
        }
        match self {
            Self::Tunnel { after, .. } => {
                state.put_tunnel(after.clone());
                state.set_in_commit(after.id, true);
            }
            Self::Account { before, after, .. } => {
                state.replace_account(before.as_deref(), Some(after));
            }
            Self::RemoveAccount { before, .. } => state.replace_account(Some(before), None),
            Self::Secret { account, after, .. } => state.set_sealed(*account, after.clone()),
            Self::Pool { before, after, .. } => {
                state.replace_pool(before.as_ref(), after.as_ref());
            }
        }
        self.mark_account(state, true);
    }

    /// Takes the change back, after those that were made later. A quarantine it began stays: it keeps
    /// the number from others only.
    pub(crate) fn revert(&self, state: &mut State) {
        match self {
            Self::Tunnel { before, after, .. } => {
                match before {
                    Some(before) => state.put_tunnel(before.clone()),
                    None => state.remove_tunnel(after.id),
                }
                state.set_in_commit(after.id, false);
                state.confirmed_meanwhile(after.id);
            }
            Self::Account { before, after, .. } => {
                state.replace_account(Some(after), before.as_ref());
            }
            Self::RemoveAccount { before, sealed, .. } => {
                state.replace_account(None, Some(before));
                state.set_sealed(before.id, sealed.clone());
            }
            Self::Secret {
                account, before, ..
            } => state.set_sealed(*account, before.clone()),
            Self::Pool { before, after, .. } => {
                state.replace_pool(after.as_ref(), before.as_ref());
            }
        }
        self.mark_account(state, false);
    }

    /// The store has it, under this sequence.
    pub(crate) fn committed(&self, state: &mut State, seq: i64) {
        if let Self::Tunnel { after, .. } = self {
            state.committed_tunnel(after.id, seq);
        }
        self.mark_account(state, false);
    }

    fn mark_account(&self, state: &mut State, in_commit: bool) {
        let account = match self {
            Self::Account { after, .. } => Some(after.id),
            Self::Secret { account, .. } => Some(*account),
            // Nothing is left to be marked, or nobody can have asked for it meanwhile.
            Self::RemoveAccount { .. } | Self::Tunnel { .. } | Self::Pool { .. } => None,
        };
        if let Some(entry) = account.and_then(|id| state.accounts.get_mut(&id)) {
            entry.in_commit = in_commit;
        }
    }
}
