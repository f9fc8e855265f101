//! Groups into statements.
//!
//! Tunnels are most of the writes, and many groups come at once. So the writes of consecutive groups
//! are folded into the state each tunnel ends in, and written with one statement per kind: what is
//! given up first, what is taken last. When the engine refuses that, the caller divides the batch
//! until it knows which group it was.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use hashbrown::HashMap;
use ipnet::Ipv6Net;

use super::code;
use super::link::{Link, Value};
use super::record::{Change, Constraint, Group, Write};
use super::rows::write_rows;
use crate::model::{Account, Cause, Tunnel, TunnelId, TunnelState};

/// Why groups were not applied.
pub(super) enum Refusal {
    /// One of them violates this.
    Conflict(Constraint),
    /// The engine failed.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Refusal {
        match violated(&error) {
            Some(constraint) => Refusal::Conflict(constraint),
            None => Refusal::Failed(error),
        }
    }
}

impl From<Constraint> for Refusal {
    fn from(constraint: Constraint) -> Refusal {
        Refusal::Conflict(constraint)
    }
}

/// Each constraint's name in PostgreSQL, and the columns by which SQLite tells it.
const CONSTRAINTS: [(Constraint, &str, &str); 13] = [
    (Constraint::AccountId, "account_pkey", "account.id"),
    (Constraint::AccountName, "account_name", "account.name"),
    (
        Constraint::AccountPrefix,
        "account_prefix_once",
        "account_prefix.prefix, account_prefix.len",
    ),
    (Constraint::PoolId, "pool_pkey", "pool.id"),
    (Constraint::PoolName, "pool_name", "pool.name"),
    (Constraint::TunnelId, "tunnel_pkey", "tunnel.id"),
    (Constraint::Slot, "tunnel_slot", "tunnel.stem, tunnel.unit"),
    (
        Constraint::Pair41,
        "tunnel_pair41",
        "tunnel.local, tunnel.remote",
    ),
    (
        Constraint::UdpPort,
        "tunnel_udp_port",
        "tunnel.local, tunnel.local_port",
    ),
    (
        Constraint::ClientAddress,
        "tunnel_client6",
        "tunnel.client6",
    ),
    (
        Constraint::ServerAddress,
        "tunnel_server6",
        "tunnel.server6",
    ),
    (
        Constraint::Prefix,
        "tunnel_prefix_once",
        "tunnel_prefix.prefix, tunnel_prefix.len",
    ),
    (Constraint::Account, "tunnel_holder_fkey", ""),
];

/// The constraint an error is about.
fn violated(error: &sqlx::Error) -> Option<Constraint> {
    let error = error.as_database_error()?;
    if error.is_foreign_key_violation() {
        // SQLite does not say which; all of ours but this one are within one write.
        return Some(Constraint::Account);
    }
    if !error.is_unique_violation() {
        return None;
    }
    CONSTRAINTS
        .iter()
        .find(|(_, name, columns)| match error.constraint() {
            Some(given) => given == *name,
            // SQLite has no name to give, but always exactly this text.
            None => error
                .message()
                .strip_prefix("UNIQUE constraint failed: ")
                .is_some_and(|given| given == *columns),
        })
        .map(|(constraint, ..)| *constraint)
}

/// Applies groups in the transaction `link` is in. `seq`: the last sequence that was given; answers
/// with the sequences of each group.
pub(super) async fn apply(
    link: &mut Link,
    groups: &[Group],
    seq: i64,
) -> Result<Vec<Range<i64>>, Refusal> {
    let mut next = seq + 1;
    let mut answers = Vec::with_capacity(groups.len());
    let mut tunnels = Tunnels::default();
    let mut journal = Journal::default();
    for group in groups {
        let first = next;
        for write in group {
            journal.note(write, next);
            if !tunnels.add(write, next)? {
                tunnels.write(link).await?;
                apply_one(link, write).await?;
            }
            if write.is_logged() {
                next += 1;
            }
        }
        answers.push(first..next);
    }
    tunnels.write(link).await?;
    journal.write(link).await?;
    Ok(answers)
}

/// What becomes of one tunnel.
struct Outcome<'a> {
    tunnel: &'a Tunnel,
    state: TunnelState,
    revision: i64,
    inserted: bool,
    quarantine_until: Option<i64>,
    /// To be written; `None`: as they are.
    prefixes: Option<&'a [Ipv6Net]>,
}

/// Consecutive writes of tunnels, folded.
#[derive(Default)]
struct Tunnels<'a> {
    outcomes: Vec<Outcome<'a>>,
    index: HashMap<TunnelId, usize>,
}

impl<'a> Tunnels<'a> {
    /// Folds a write in; says whether it was one of these.
    fn add(&mut self, write: &'a Write, seq: i64) -> Result<bool, Constraint> {
        let (tunnel, inserted, quarantine_until, prefixes) = match write {
            Write::InsertTunnel { tunnel, .. } => {
                (tunnel, true, None, Some(tunnel.prefixes.as_slice()))
            }
            Write::UpdateTunnel {
                tunnel,
                new_prefixes,
                ..
            } => {
                let prefixes = new_prefixes.then_some(tunnel.prefixes.as_slice());
                (tunnel, false, None, prefixes)
            }
            Write::BuryTunnel {
                tunnel,
                quarantine_until,
                ..
            } => (tunnel, false, Some(*quarantine_until), None),
            // These can wait for the end.
            Write::Quarantine { .. } | Write::RelayAt { .. } => return Ok(true),
            _ => return Ok(false),
        };
        let state = match quarantine_until {
            Some(_) => TunnelState::Tombstone,
            None => tunnel.state,
        };
        let outcome = Outcome {
            tunnel,
            state,
            revision: seq,
            inserted,
            quarantine_until,
            prefixes,
        };
        match self.index.get(&tunnel.id) {
            None => {
                self.index.insert(tunnel.id, self.outcomes.len());
                self.outcomes.push(outcome);
            }
            Some(_) if inserted => return Err(Constraint::TunnelId),
            Some(&at) => {
                let before = &mut self.outcomes[at];
                if before.quarantine_until.is_some() {
                    return Err(Constraint::Missing);
                }
                *before = Outcome {
                    inserted: before.inserted,
                    prefixes: outcome.prefixes.or(before.prefixes),
                    ..outcome
                };
            }
        }
        Ok(true)
    }

    async fn write(&mut self, link: &mut Link) -> Result<(), Refusal> {
        self.index.clear();
        let outcomes = std::mem::take(&mut self.outcomes);
        let (inserted, changed): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(|outcome| outcome.inserted);
        let (buried, updated): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|outcome| outcome.quarantine_until.is_some());
        update_tunnels(link, &buried).await?;
        let ids = |outcomes: &[Outcome<'_>]| -> Vec<Vec<Value>> {
            let ids = outcomes.iter().map(|outcome| outcome.tunnel.id.0);
            ids.map(|id| vec![Value::Int(id)]).collect()
        };
        let free = "UPDATE tunnel_prefix SET live = 0 WHERE tunnel IN (";
        write_rows(link, free, ")", ids(&buried)).await?;
        update_tunnels(link, &updated).await?;
        insert_tunnels(link, &inserted).await?;
        // A tombstone too: it says what the tunnel had in the end.
        let renumbered: Vec<_> = buried
            .into_iter()
            .chain(updated)
            .filter(|outcome| outcome.prefixes.is_some())
            .collect();
        let clear = "DELETE FROM tunnel_prefix WHERE tunnel IN (";
        write_rows(link, clear, ")", ids(&renumbered)).await?;
        insert_prefixes(link, inserted.iter().chain(&renumbered)).await
    }
}

fn columns(outcome: &Outcome<'_>) -> Vec<Value> {
    let mut values = code::tunnel_values(outcome.tunnel, outcome.state, outcome.revision);
    values.push(Value::MaybeInt(outcome.quarantine_until));
    values
}

async fn update_tunnels(link: &mut Link, outcomes: &[Outcome<'_>]) -> Result<(), Refusal> {
    // The columns are those of `tunnel_values`.
    let head = "UPDATE tunnel SET service = v.column3, lease = v.column4, stem = v.column5, \
         unit = v.column6, profile = v.column7, local = v.column8, remote = v.column9, \
         local_port = v.column10, remote_port = v.column11, any_source = v.column12, \
         client6 = v.column13, server6 = v.column14, mtu = v.column15, state = v.column16, \
         state_at = v.column17, revision = v.column19, quarantine_until = v.column20, \
         holder = CASE v.column16 WHEN 'tombstone' THEN NULL ELSE account END FROM (";
    let tail = ") AS v WHERE tunnel.id = v.column1 AND tunnel.state <> 'tombstone'";
    let rows: Vec<_> = outcomes.iter().map(columns).collect();
    let wanted = rows.len() as u64;
    if write_rows(link, head, tail, rows).await? != wanted {
        return Err(Constraint::Missing.into());
    }
    Ok(())
}

async fn insert_tunnels(link: &mut Link, outcomes: &[Outcome<'_>]) -> Result<(), Refusal> {
    static HEAD: LazyLock<String> = LazyLock::new(|| {
        let columns = code::TUNNEL_COLUMNS;
        format!("INSERT INTO tunnel ({columns}, quarantine_until, holder) ")
    });
    let rows = outcomes.iter().map(|outcome| {
        let mut values = columns(outcome);
        let holder = outcome.quarantine_until.is_none();
        values.push(Value::MaybeInt(holder.then_some(outcome.tunnel.account.0)));
        values
    });
    let rows = rows.collect();
    write_rows(link, &HEAD, "", rows).await?;
    Ok(())
}

async fn insert_prefixes<'a>(
    link: &mut Link,
    outcomes: impl Iterator<Item = &'a Outcome<'a>>,
) -> Result<(), Refusal> {
    let rows = outcomes.flat_map(|outcome| {
        let live = i64::from(outcome.quarantine_until.is_none());
        let prefixes = outcome.prefixes.unwrap_or_default();
        prefixes.iter().zip(0_i64..).map(move |(net, ordinal)| {
            let [prefix, len] = code::net_columns(net);
            let key = Value::Int(outcome.tunnel.id.0);
            vec![key, ordinal.into(), prefix, len, live.into()]
        })
    });
    let head = "INSERT INTO tunnel_prefix (tunnel, ordinal, prefix, len, live) ";
    let rows = rows.collect();
    write_rows(link, head, "", rows).await?;
    Ok(())
}

/// Rows of the change log and the history, prefixes in quarantine and positions of relays: nothing
/// refers to them, so they are written at the end.
#[derive(Default)]
struct Journal {
    changes: Vec<Vec<Value>>,
    history: Vec<Vec<Value>>,
    relays: HashMap<Arc<str>, (i64, i64)>,
    /// One statement must not have a row twice.
    quarantine: HashMap<Ipv6Net, i64>,
}

impl Journal {
    fn note(&mut self, write: &Write, seq: i64) {
        let (change, at) = match write {
            Write::InsertAccount(account) | Write::UpdateAccount(account) => {
                (Change::Account(account.id), account.changed_at)
            }
            Write::SetSecret { account, at, .. } => (Change::Account(*account), *at),
            Write::RemoveAccount { account, at } => (Change::AccountRemoved(*account), *at),
            Write::InsertPool { pool, at } | Write::UpdatePool { pool, at } => {
                (Change::Pool(pool.id), *at)
            }
            Write::RemovePool { pool, at } => (Change::PoolRemoved(*pool), *at),
            Write::InsertTunnel { tunnel, cause } => {
                self.happened(tunnel, seq, None, tunnel.state, *cause);
                (Change::Tunnel(tunnel.id), tunnel.state_at)
            }
            Write::UpdateTunnel {
                tunnel,
                from,
                cause,
                ..
            } => {
                self.happened(tunnel, seq, Some(*from), tunnel.state, *cause);
                (Change::Tunnel(tunnel.id), tunnel.state_at)
            }
            Write::BuryTunnel {
                tunnel,
                from,
                cause,
                ..
            } => {
                self.happened(tunnel, seq, Some(*from), TunnelState::Tombstone, *cause);
                (Change::TunnelBuried(tunnel.id), tunnel.state_at)
            }
            Write::ForgetTunnel { tunnel, at } => (Change::TunnelForgotten(*tunnel), *at),
            Write::Quarantine { prefix, until } => {
                let known = self.quarantine.entry(*prefix).or_insert(*until);
                *known = (*known).max(*until);
                return;
            }
            Write::RelayAt { relay, seq, at } => {
                self.relays.insert(relay.clone(), (*seq, *at));
                return;
            }
        };
        let (word, object) = code::change_columns(change);
        self.changes
            .push(vec![seq.into(), at.into(), word.into(), object.into()]);
    }

    fn happened(
        &mut self,
        tunnel: &Tunnel,
        seq: i64,
        from: Option<TunnelState>,
        to: TunnelState,
        cause: Cause,
    ) {
        self.history.push(vec![
            seq.into(),
            tunnel.id.0.into(),
            tunnel.account.0.into(),
            tunnel.state_at.into(),
            Value::MaybeText(from.map(code::state_word)),
            code::state_word(to).into(),
            code::cause_word(cause).into(),
            code::v4(tunnel.remote),
        ]);
    }

    async fn write(self, link: &mut Link) -> Result<(), Refusal> {
        let head = "INSERT INTO change_log (seq, at, change, object) ";
        write_rows(link, head, "", self.changes).await?;
        let head = "INSERT INTO tunnel_history \
             (seq, tunnel, account, at, from_state, to_state, cause, remote) ";
        write_rows(link, head, "", self.history).await?;
        let rows = self.quarantine.into_iter().map(|(net, until)| {
            let [prefix, len] = code::net_columns(&net);
            vec![prefix, len, until.into()]
        });
        let rows = rows.collect();
        let head = "INSERT INTO quarantine (prefix, len, ends_at) ";
        let tail = " ON CONFLICT (prefix, len) DO UPDATE SET ends_at = excluded.ends_at \
             WHERE excluded.ends_at > quarantine.ends_at";
        write_rows(link, head, tail, rows).await?;
        let relays = self.relays.into_iter();
        let rows = relays.map(|(name, (seq, at))| vec![Value::Text(name), seq.into(), at.into()]);
        let rows = rows.collect();
        let head = "INSERT INTO relay (name, last_seq, at) ";
        let tail = " ON CONFLICT (name) DO UPDATE SET last_seq = excluded.last_seq, \
             at = excluded.at";
        write_rows(link, head, tail, rows).await?;
        Ok(())
    }
}

/// Writes that are not folded.
async fn apply_one(link: &mut Link, write: &Write) -> Result<(), Refusal> {
    let changed = match write {
        Write::InsertAccount(account) => insert_account(link, account).await?,
        Write::UpdateAccount(account) => update_account(link, account).await?,
        Write::SetSecret {
            account,
            secret,
            at,
        } => {
            let id = Value::Int(account.0);
            let sql = "UPDATE account SET changed_at = $2 WHERE id = $1";
            let found = link.execute(sql, vec![id.clone(), (*at).into()]).await?;
            if let (1, Some(secret)) = (found, secret) {
                let sealed = Value::Bytes(secret.as_bytes().to_vec());
                let sql = "INSERT INTO credential (account, sealed) VALUES ($1, $2) \
                     ON CONFLICT (account) DO UPDATE SET sealed = excluded.sealed";
                link.execute(sql, vec![id, sealed]).await?;
            } else {
                let sql = "DELETE FROM credential WHERE account = $1";
                link.execute(sql, vec![id]).await?;
            }
            found
        }
        Write::RemoveAccount { account, .. } => {
            let sql = "DELETE FROM account WHERE id = $1";
            link.execute(sql, vec![account.0.into()]).await?
        }
        Write::InsertPool { pool, .. } => {
            let sql = "INSERT INTO pool (id, name, delegated_len, prefix, len, quarantine_seconds) \
                 VALUES ($1, $2, $3, $4, $5, $6)";
            link.execute(sql, code::pool_values(pool)).await?
        }
        Write::UpdatePool { pool, .. } => {
            let sql = "UPDATE pool SET name = $2, delegated_len = $3, prefix = $4, len = $5, \
                 quarantine_seconds = $6 WHERE id = $1";
            link.execute(sql, code::pool_values(pool)).await?
        }
        Write::RemovePool { pool, .. } => {
            let sql = "DELETE FROM pool WHERE id = $1";
            link.execute(sql, vec![pool.0.into()]).await?
        }
        Write::ForgetTunnel { tunnel, .. } => {
            let sql = "DELETE FROM tunnel WHERE id = $1 AND state = 'tombstone'";
            link.execute(sql, vec![tunnel.0.into()]).await?
        }
        Write::InsertTunnel { .. }
        | Write::UpdateTunnel { .. }
        | Write::BuryTunnel { .. }
        | Write::Quarantine { .. }
        | Write::RelayAt { .. } => 1,
    };
    if changed == 0 {
        return Err(Constraint::Missing.into());
    }
    Ok(())
}

async fn insert_account(link: &mut Link, account: &Account) -> Result<u64, Refusal> {
    let sql = "INSERT INTO account (id, name, status, changed_at, created_at) \
         VALUES ($1, $2, $3, $4, $5)";
    let mut values = account_values(account);
    values.push(account.created_at.into());
    let changed = link.execute(sql, values).await?;
    account_prefixes(link, account).await?;
    Ok(changed)
}

async fn update_account(link: &mut Link, account: &Account) -> Result<u64, Refusal> {
    let sql = "UPDATE account SET name = $2, status = $3, changed_at = $4 WHERE id = $1";
    let changed = link.execute(sql, account_values(account)).await?;
    if changed == 1 {
        let sql = "DELETE FROM account_prefix WHERE account = $1";
        link.execute(sql, vec![account.id.0.into()]).await?;
        account_prefixes(link, account).await?;
    }
    Ok(changed)
}

fn account_values(account: &Account) -> Vec<Value> {
    vec![
        account.id.0.into(),
        account.name.as_str().into(),
        code::status_word(account.status).into(),
        account.changed_at.into(),
    ]
}

async fn account_prefixes(link: &mut Link, account: &Account) -> Result<(), Refusal> {
    let rows = account.prefixes.iter().zip(0_i64..).map(|(net, ordinal)| {
        let [prefix, len] = code::net_columns(net);
        vec![account.id.0.into(), ordinal.into(), prefix, len]
    });
    let head = "INSERT INTO account_prefix (account, ordinal, prefix, len) ";
    let rows = rows.collect();
    write_rows(link, head, "", rows).await?;
    Ok(())
}
