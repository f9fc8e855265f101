//! Accounts.

use std::sync::Arc;

use ipnet::Ipv6Net;

use super::types::{AdminError, NewAccount};
use crate::jobs::{Decision, release_all};
use crate::secret::{Sealed, Secret};
use crate::state::State;
use crate::state::edit::Edit;
use crate::{Account, AccountId, AccountStatus, Lifecycle};

pub(super) fn check_name(name: &str) -> Result<(), AdminError> {
    let good = |b: u8| b.is_ascii_graphic();
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(AdminError::Invalid {
        field: "name",
        problem: "1 to 64 bytes of printable ASCII without space".to_owned(),
    })
}

/// Whether an account may have these prefixes: well-formed, nobody else's, and of a pool only what the
/// pool gives.
pub(super) fn check_prefixes(
    state: &State,
    account: AccountId,
    prefixes: &[Ipv6Net],
    limit: usize,
) -> Result<(), AdminError> {
    if prefixes.len() > limit {
        return Err(AdminError::Limit {
            what: "prefixes per account",
            limit: limit as u64,
        });
    }
    for (index, prefix) in prefixes.iter().enumerate() {
        let invalid = |problem: &str| AdminError::Invalid {
            field: "prefixes",
            problem: format!("{prefix}: {problem}"),
        };
        if prefix.trunc() != *prefix {
            return Err(invalid("has host bits"));
        }
        if prefix.prefix_len() < 8 {
            return Err(invalid("is shorter than /8"));
        }
        if prefixes[..index].contains(prefix) {
            return Err(invalid("is given twice"));
        }
        let foreign = state
            .claims
            .overlapping(*prefix, |claim| claim.account != account);
        if let Some(claim) = foreign {
            let owner = state.account(claim.account);
            return Err(AdminError::PrefixInUse {
                prefix: *prefix,
                other: claim.prefix,
                owner: owner.map_or_else(String::new, |e| e.account.name.clone()),
            });
        }
        for entry in state.pools.values() {
            let pool = &entry.pool;
            let overlaps = pool.prefix.contains(prefix) || prefix.contains(&pool.prefix);
            let given = entry.delegations.as_ref().and_then(|d| d.index_of(*prefix));
            if overlaps && given.is_none() {
                return Err(AdminError::PrefixInUse {
                    prefix: *prefix,
                    other: pool.prefix,
                    owner: format!("pool {}", pool.name),
                });
            }
        }
    }
    Ok(())
}

pub(super) fn no_account(id: AccountId) -> AdminError {
    AdminError::NotFound {
        what: "account",
        name: id.0.to_string(),
    }
}

/// An account that nothing is being done to.
pub(super) enum Found {
    Here(Arc<Account>, Option<Sealed>),
    Busy,
}

pub(super) fn find(state: &State, id: AccountId) -> Result<Found, AdminError> {
    let entry = state.account(id).ok_or_else(|| no_account(id))?;
    Ok(match entry.in_commit {
        true => Found::Busy,
        false => Found::Here(entry.account.clone(), entry.sealed.clone()),
    })
}

pub(super) fn change(before: &Arc<Account>, after: Account, at: i64) -> (Edit, Account) {
    let after = Account {
        changed_at: at,
        ..after
    };
    let edit = Edit::Account {
        before: Some(before.clone()),
        after: Arc::new(after.clone()),
        at,
    };
    (edit, after)
}

impl Lifecycle {
    /// Adds an account.
    pub async fn add_account(&self, new: NewAccount) -> Result<Account, AdminError> {
        check_name(&new.name)?;
        let config = self.inner.shared.config.clone();
        let auth = self.inner.auth.clone();
        self.administer(move |state, now| {
            if state.names.contains_key(&new.name) {
                return Err(AdminError::Exists {
                    what: "account",
                    name: new.name.clone(),
                });
            }
            if state.accounts.len() >= config.max_accounts {
                return Err(AdminError::Limit {
                    what: "accounts",
                    limit: config.max_accounts as u64,
                });
            }
            let id = AccountId(state.next.account);
            check_prefixes(state, id, &new.prefixes, config.max_prefixes)?;
            state.next.account += 1;
            let mut account = Account {
                id,
                name: new.name.clone(),
                status: new.status,
                has_secret: false,
                prefixes: new.prefixes.clone(),
                created_at: now,
                changed_at: now,
            };
            let mut edits = vec![Edit::Account {
                before: None,
                after: Arc::new(account.clone()),
                at: now,
            }];
            if let Some(secret) = &new.secret {
                account.has_secret = true;
                edits.push(Edit::Secret {
                    account: id,
                    before: None,
                    after: Some(auth.keys().seal(id, secret)),
                    at: now,
                });
            }
            Ok(Decision::Edits(edits, account))
        })
        .await
    }

    /// Sets the DTCP secret, or takes it away. Counts from the next login on.
    pub async fn set_secret(
        &self,
        id: AccountId,
        secret: Option<Secret>,
    ) -> Result<Account, AdminError> {
        let auth = self.inner.auth.clone();
        self.administer(move |state, now| {
            let Found::Here(account, before) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            let mut changed = Account::clone(&account);
            changed.has_secret = secret.is_some();
            let (edit, changed) = change(&account, changed, now);
            let sealed = Edit::Secret {
                account: id,
                before,
                after: secret.as_ref().map(|s| auth.keys().seal(id, s)),
                at: now,
            };
            Ok(Decision::Edits(vec![edit, sealed], changed))
        })
        .await
    }

    /// Suspends an account, which takes its tunnels away, or lets it in again.
    pub async fn set_status(
        &self,
        id: AccountId,
        status: AccountStatus,
    ) -> Result<Account, AdminError> {
        self.administer(move |state, now| {
            let Found::Here(account, _) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            if account.status == status {
                return Ok(Decision::Nothing(Account::clone(&account)));
            }
            let mut changed = Account::clone(&account);
            changed.status = status;
            let (edit, changed) = change(&account, changed, now);
            let mut edits = vec![edit];
            if status == AccountStatus::Suspended {
                let Some(released) = release_all(state, id, now) else {
                    return Ok(Decision::Defer);
                };
                edits.extend(released);
            }
            Ok(Decision::Edits(edits, changed))
        })
        .await
    }

    /// Sets the account's own prefixes. Tunnels that exist keep what they have.
    pub async fn set_prefixes(
        &self,
        id: AccountId,
        prefixes: Vec<Ipv6Net>,
    ) -> Result<Account, AdminError> {
        let limit = self.inner.shared.config.max_prefixes;
        self.administer(move |state, now| {
            let Found::Here(account, _) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            check_prefixes(state, id, &prefixes, limit)?;
            let mut changed = Account::clone(&account);
            changed.prefixes.clone_from(&prefixes);
            let (edit, changed) = change(&account, changed, now);
            Ok(Decision::Edits(vec![edit], changed))
        })
        .await
    }

    /// Takes the account's tunnels away and, once they are gone, the account. If the caller goes away
    /// before, or this process does, the account stays as it was, without its tunnels.
    pub async fn delete_account(&self, id: AccountId) -> Result<(), AdminError> {
        // Or a new login comes in between.
        let mut leaving = None;
        self.administer(move |state, now| {
            let Found::Here(account, sealed) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            let Some(released) = release_all(state, id, now) else {
                return Ok(Decision::Defer);
            };
            let entry = state.accounts.get_mut(&id).ok_or_else(|| no_account(id))?;
            entry.leave(&mut leaving);
            if !released.is_empty() {
                return Ok(Decision::First(released));
            }
            if !entry.tunnels.is_empty() {
                return Ok(Decision::Wait);
            }
            let gone = Edit::RemoveAccount {
                before: account,
                sealed,
                at: now,
            };
            Ok(Decision::Edits(vec![gone], ()))
        })
        .await
    }

    /// Takes all tunnels of an account away; how many.
    pub async fn disconnect_account(&self, id: AccountId) -> Result<u64, AdminError> {
        self.administer(move |state, now| {
            state.account(id).ok_or_else(|| no_account(id))?;
            let Some(released) = release_all(state, id, now) else {
                return Ok(Decision::Defer);
            };
            let count = released.len() as u64;
            Ok(match released.is_empty() {
                true => Decision::Nothing(0),
                false => Decision::Edits(released, count),
            })
        })
        .await
    }
}
