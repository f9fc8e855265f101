//! Pools, and prefixes given from them.

use ipnet::Ipv6Net;

use super::accounts::{Found, change, check_prefixes, find};
use super::types::{AdminError, NewPool, PoolView};
use crate::delegations::Delegations;
use crate::jobs::Decision;
use crate::state::State;
use crate::state::edit::Edit;
use crate::{Account, AccountId, Lifecycle, Pool, PoolId, PoolKind};

/// Every prefix an operator gives is compared with every pool.
const MAX_POOLS: usize = 1024;
/// Numbers of a pool that turn out to be routed still, or not to be free: this many are passed over.
const MAX_PASSED: usize = 1024;

/// Whether it makes sense in itself; the numbers of one that gives prefixes.
fn check_shape(new: &NewPool) -> Result<Option<Delegations>, AdminError> {
    let invalid = |field, problem: &str| AdminError::Invalid {
        field,
        problem: problem.to_owned(),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=63).contains(&new.name.len()) || !new.name.bytes().all(good) {
        return Err(invalid("name", "1 to 63 of [A-Za-z0-9._-]"));
    }
    if new.prefix.trunc() != new.prefix {
        return Err(invalid("prefix", "has host bits"));
    }
    match new.kind {
        PoolKind::HostPair if !(64..=125).contains(&new.prefix.prefix_len()) => Err(invalid(
            "prefix",
            "a pool of link addresses is a /64 to /125",
        )),
        PoolKind::HostPair => Ok(None),
        PoolKind::Delegation { len } if !(48..=64).contains(&len) => {
            Err(invalid("len", "48 to 64"))
        }
        PoolKind::Delegation { len } => match Delegations::new(new.prefix, len) {
            None => Err(invalid("len", "cannot be cut out of the prefix")),
            delegations => Ok(delegations),
        },
    }
}

/// Whether there may be such a pool.
fn check(state: &State, new: &NewPool) -> Result<(), AdminError> {
    let delegations = check_shape(new)?;
    if state.pools.len() >= MAX_POOLS {
        return Err(AdminError::Limit {
            what: "pools",
            limit: MAX_POOLS as u64,
        });
    }
    for entry in state.pools.values() {
        let other = entry.pool.prefix;
        if entry.pool.name == new.name {
            return Err(AdminError::Exists {
                what: "pool",
                name: new.name.clone(),
            });
        }
        if other.contains(&new.prefix) || new.prefix.contains(&other) {
            return Err(AdminError::PrefixInUse {
                prefix: new.prefix,
                other,
                owner: format!("pool {}", entry.pool.name),
            });
        }
    }
    // Accounts may have numbers of it already, but nothing else of it.
    let fits = |prefix| {
        delegations
            .as_ref()
            .is_some_and(|d| d.index_of(prefix).is_some())
    };
    let in_the_way = state
        .claims
        .overlapping(new.prefix, |claim| claim.own && !fits(claim.prefix));
    if let Some(claim) = in_the_way {
        let owner = state.account(claim.account);
        return Err(AdminError::PrefixInUse {
            prefix: new.prefix,
            other: claim.prefix,
            owner: owner.map_or_else(String::new, |e| e.account.name.clone()),
        });
    }
    Ok(())
}

fn no_pool(id: PoolId) -> AdminError {
    AdminError::NotFound {
        what: "pool",
        name: id.0.to_string(),
    }
}

impl Lifecycle {
    /// Adds a pool.
    pub async fn add_pool(&self, new: NewPool) -> Result<Pool, AdminError> {
        self.administer(move |state, now| {
            check(state, &new)?;
            let pool = Pool {
                id: PoolId(state.next.pool),
                name: new.name.clone(),
                kind: new.kind,
                prefix: new.prefix,
                quarantine_seconds: new.quarantine_seconds,
            };
            state.next.pool += 1;
            let edit = Edit::Pool {
                before: None,
                after: Some(pool.clone()),
                at: now,
            };
            Ok(Decision::Edits(vec![edit], pool))
        })
        .await
    }

    /// Removes a pool of which nothing is given.
    pub async fn delete_pool(&self, id: PoolId) -> Result<(), AdminError> {
        self.administer(move |state, now| {
            let entry = state.pools.get(&id).ok_or_else(|| no_pool(id))?;
            let pool = entry.pool.clone();
            let used = state.claims.overlapping(pool.prefix, |_| true);
            if let Some(claim) = used {
                return Err(AdminError::InUse {
                    what: format!("pool {}", pool.name),
                    by: claim.prefix.to_string(),
                });
            }
            let edit = Edit::Pool {
                before: Some(pool),
                after: None,
                at: now,
            };
            Ok(Decision::Edits(vec![edit], ()))
        })
        .await
    }

    /// The pools and how full they are, by id.
    pub fn pools(&self) -> Vec<PoolView> {
        let state = self.inner.shared.state.lock();
        let view = |entry: &crate::state::PoolEntry| {
            let (used, quarantined, total) = match &entry.delegations {
                Some(numbers) => (numbers.used(), numbers.quarantined(), numbers.total()),
                None => state.pair_fill(entry.pool.prefix),
            };
            PoolView {
                pool: entry.pool.clone(),
                used,
                quarantined,
                total,
            }
        };
        state.pools.values().map(view).collect()
    }

    /// Gives an account the lowest free prefix of a pool, for good.
    pub async fn delegate(&self, id: AccountId, pool: PoolId) -> Result<Ipv6Net, AdminError> {
        let limit = self.inner.shared.config.max_prefixes;
        self.administer(move |state, now| {
            let Found::Here(account, _) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            if account.prefixes.len() >= limit {
                return Err(AdminError::Limit {
                    what: "prefixes per account",
                    limit: limit as u64,
                });
            }
            let prefix = lowest(state, id, pool)?;
            let mut changed = Account::clone(&account);
            changed.prefixes.push(prefix);
            let (edit, _) = change(&account, changed, now);
            Ok(Decision::Edits(vec![edit], prefix))
        })
        .await
    }

    /// Gives an account a prefix of a pool by name, one in quarantine too. What the account has already
    /// it keeps.
    pub async fn assign(
        &self,
        id: AccountId,
        pool: PoolId,
        prefix: Ipv6Net,
    ) -> Result<Account, AdminError> {
        let limit = self.inner.shared.config.max_prefixes;
        self.administer(move |state, now| {
            let Found::Here(account, _) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            let numbers = delegations(state, pool)?;
            if numbers.index_of(prefix).is_none() {
                return Err(AdminError::Invalid {
                    field: "prefix",
                    problem: format!("is no /{} of {}", numbers.len(), numbers.prefix()),
                });
            }
            if account.prefixes.contains(&prefix) {
                return Ok(Decision::Nothing(Account::clone(&account)));
            }
            let mut changed = Account::clone(&account);
            changed.prefixes.push(prefix);
            check_prefixes(state, id, &changed.prefixes, limit)?;
            let (edit, changed) = change(&account, changed, now);
            Ok(Decision::Edits(vec![edit], changed))
        })
        .await
    }

    /// Takes a prefix from an account. If it is a pool's it goes into quarantine; a tunnel that has it
    /// keeps it until its end, and it is given to nobody before.
    pub async fn take_back(&self, id: AccountId, prefix: Ipv6Net) -> Result<(), AdminError> {
        self.administer(move |state, now| {
            let Found::Here(account, _) = find(state, id)? else {
                return Ok(Decision::Defer);
            };
            let mut changed = Account::clone(&account);
            changed.prefixes.retain(|p| *p != prefix);
            if changed.prefixes.len() == account.prefixes.len() {
                return Err(AdminError::NotFound {
                    what: "prefix",
                    name: prefix.to_string(),
                });
            }
            let (edit, _) = change(&account, changed, now);
            Ok(Decision::Edits(vec![edit], ()))
        })
        .await
    }
}

/// The numbers of a pool that gives prefixes.
fn delegations(state: &State, id: PoolId) -> Result<&Delegations, AdminError> {
    let entry = state.pools.get(&id).ok_or_else(|| no_pool(id))?;
    entry.delegations.as_ref().ok_or(AdminError::Invalid {
        field: "pool",
        problem: "gives address pairs, no prefixes".to_owned(),
    })
}

/// The lowest number that is free and that no tunnel of somebody else has still.
fn lowest(state: &State, account: AccountId, id: PoolId) -> Result<Ipv6Net, AdminError> {
    let entry = state.pools.get(&id).ok_or_else(|| no_pool(id))?;
    let mut candidates = delegations(state, id)?.free_ones().take(MAX_PASSED);
    // A former pool may have cut the same numbers differently.
    let passed = |p| {
        let claims = &state.claims;
        let foreign = claims.overlapping(p, |claim| claim.account != account);
        foreign.is_some() || state.freed.overlaps(p)
    };
    candidates
        .find(|prefix| !passed(*prefix))
        .ok_or_else(|| AdminError::SoldOut(entry.pool.name.clone()))
}
