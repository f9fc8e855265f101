//! Many accounts at once, from another server.

use std::sync::Arc;

use super::accounts::{change, check_name, check_prefixes};
use super::types::{AdminError, ImportReport, ImportedAccount};
use crate::auth::Authenticator;
use crate::claims::Claims;
use crate::jobs::{Decision, release_all};
use crate::state::State;
use crate::state::edit::Edit;
use crate::{Account, AccountId, AccountStatus, Lifecycle, LifecycleConfig};

/// Accounts per transaction: logins go on in between.
const CHUNK: usize = 256;

impl Lifecycle {
    /// Adds accounts and brings those that exist in line; what is as wished is left alone, so that a
    /// second run changes nothing. An account that is refused does not stop the others. Where the
    /// store goes away in between, what was done stays done: run it again.
    pub async fn import(&self, accounts: Vec<ImportedAccount>) -> Result<ImportReport, AdminError> {
        let mut report = ImportReport::default();
        let mut rest = accounts.into_iter().peekable();
        while rest.peek().is_some() {
            let mut chunk: Vec<ImportedAccount> = Vec::new();
            // A name that comes again is decided after its first time is stored.
            while chunk.len() < CHUNK
                && let Some(next) = rest.next_if(|n| chunk.iter().all(|c| c.name != n.name))
            {
                chunk.push(next);
            }
            let auth = self.inner.auth.clone();
            let config = self.inner.shared.config.clone();
            let decide =
                move |state: &mut State, now| chunk_edits(state, &chunk, &auth, &config, now);
            let part = self.administer(decide).await?;
            report.added += part.added;
            report.changed += part.changed;
            report.skipped += part.skipped;
            report.refused_count += part.refused_count;
            let room = ImportReport::MAX_REFUSED - report.refused.len();
            report.refused.extend(part.refused.into_iter().take(room));
        }
        Ok(report)
    }
}

fn chunk_edits(
    state: &mut State,
    chunk: &[ImportedAccount],
    auth: &Authenticator,
    config: &LifecycleConfig,
    now: i64,
) -> Result<Decision<ImportReport>, AdminError> {
    let mut report = ImportReport::default();
    let mut edits = Vec::new();
    // Prefixes of this chunk: the mirror has them only afterwards.
    let mut claims = Claims::default();
    let mut added = 0;
    for wanted in chunk {
        let known = state.names.get(&wanted.name).copied();
        if known
            .and_then(|id| state.account(id))
            .is_some_and(|e| e.in_commit)
        {
            return Ok(Decision::Defer);
        }
        let id = known.unwrap_or(AccountId(state.next.account));
        let full = known.is_none() && state.accounts.len() + added >= config.max_accounts;
        if let Err(error) = check(state, &claims, id, wanted, config, full) {
            report.refused_count += 1;
            report.refused.push((wanted.name.clone(), error));
            continue;
        }
        for prefix in wanted.prefixes.iter().flatten() {
            claims.set_own(*prefix, id, true);
        }
        let own = match known {
            Some(id) => {
                let Some(edits) = changes(state, id, wanted, auth, now) else {
                    return Ok(Decision::Defer);
                };
                edits
            }
            None => {
                state.next.account += 1;
                added += 1;
                additions(id, wanted, auth, now)
            }
        };
        match (known, own.is_empty()) {
            (_, true) => report.skipped += 1,
            (Some(_), false) => report.changed += 1,
            (None, false) => report.added += 1,
        }
        edits.extend(own);
    }
    Ok(match edits.is_empty() {
        true => Decision::Nothing(report),
        false => Decision::Edits(edits, report),
    })
}

fn check(
    state: &State,
    claims: &Claims,
    id: AccountId,
    wanted: &ImportedAccount,
    config: &LifecycleConfig,
    full: bool,
) -> Result<(), AdminError> {
    check_name(&wanted.name)?;
    let prefixes = wanted.prefixes.as_deref().unwrap_or_default();
    check_prefixes(state, id, prefixes, config.max_prefixes)?;
    for prefix in prefixes {
        if let Some(claim) = claims.overlapping(*prefix, |claim| claim.account != id) {
            return Err(AdminError::PrefixInUse {
                prefix: *prefix,
                other: claim.prefix,
                owner: "another account of the import".to_owned(),
            });
        }
    }
    if full {
        return Err(AdminError::Limit {
            what: "accounts",
            limit: config.max_accounts as u64,
        });
    }
    Ok(())
}

fn additions(id: AccountId, wanted: &ImportedAccount, auth: &Authenticator, now: i64) -> Vec<Edit> {
    let account = Account {
        id,
        name: wanted.name.clone(),
        status: wanted.status.unwrap_or(AccountStatus::Active),
        has_secret: false,
        prefixes: wanted.prefixes.clone().unwrap_or_default(),
        created_at: now,
        changed_at: now,
    };
    let mut edits = vec![Edit::Account {
        before: None,
        after: Arc::new(account),
        at: now,
    }];
    if let Some(secret) = &wanted.secret {
        edits.push(Edit::Secret {
            account: id,
            before: None,
            after: Some(auth.keys().seal(id, secret)),
            at: now,
        });
    }
    edits
}

/// `None`: a tunnel it must lose is on its way to the store.
fn changes(
    state: &State,
    id: AccountId,
    wanted: &ImportedAccount,
    auth: &Authenticator,
    now: i64,
) -> Option<Vec<Edit>> {
    let Some(entry) = state.account(id) else {
        return Some(Vec::new());
    };
    let known = entry.sealed.as_ref();
    let known = known.and_then(|sealed| auth.keys().unseal(id, sealed).ok());
    let secret = wanted.secret.as_ref();
    let secret = secret.filter(|secret| known.as_ref() != Some(secret));
    let mut changed = Account::clone(&entry.account);
    changed.status = wanted.status.unwrap_or(changed.status);
    changed.has_secret |= secret.is_some();
    if let Some(prefixes) = &wanted.prefixes {
        changed.prefixes.clone_from(prefixes);
    }
    let suspends = changed.status == AccountStatus::Suspended;
    let suspends = suspends && entry.account.status != AccountStatus::Suspended;
    let mut edits = Vec::new();
    if changed != *entry.account || secret.is_some() {
        edits.push(change(&entry.account, changed, now).0);
    }
    if suspends {
        edits.extend(release_all(state, id, now)?);
    }
    edits.extend(secret.map(|secret| Edit::Secret {
        account: id,
        before: entry.sealed.clone(),
        after: Some(auth.keys().seal(id, secret)),
        at: now,
    }));
    Some(edits)
}
