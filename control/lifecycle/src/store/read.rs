//! Everything that is read.

use hashbrown::HashMap;
use ipnet::Ipv6Net;

use super::StoreError;
use super::code::{self, TUNNEL_COLUMN_COUNT, TUNNEL_COLUMNS};
use super::engine::Inner;
use super::link::{Link, Row, Value};
use super::record::{HistoryEntry, Loaded, LoggedChange, NextIds, RelayPosition, Tombstone};
use crate::model::{Account, AccountId, EndpointV4, Tunnel, TunnelId};
use crate::secret::Sealed;

/// Rows of an answer at most; what is longer is read in pages.
const PAGE: i64 = 10_000;

pub(super) async fn load(inner: &Inner, now: i64) -> Result<Loaded, StoreError> {
    const OPERATION: &str = "load";
    // A large store takes its time.
    let work = async {
        let mut reader = inner.reader().await?;
        let loaded = load_all(&mut reader.link, now).await;
        reader.finish(OPERATION, loaded)
    };
    inner.within(OPERATION, 10, work).await
}

async fn load_all(link: &mut Link, now: i64) -> Result<Loaded, sqlx::Error> {
    link.begin_reading().await?;
    let mut loaded = Loaded::default();
    load_counters(link, &mut loaded).await?;
    loaded.accounts = load_accounts(link).await?;
    let sql = "SELECT id, name, delegated_len, prefix, len, quarantine_seconds FROM pool \
         ORDER BY id";
    for row in link.rows(sql, Vec::new()).await? {
        loaded.pools.push(code::parse_pool(&row)?);
    }
    load_tunnels(link, &mut loaded, now).await?;
    let sql = "SELECT prefix, len, ends_at FROM quarantine WHERE ends_at > $1 \
         ORDER BY prefix, len";
    for row in link.rows(sql, vec![now.into()]).await? {
        let net = code::parse_net(&row, 0)?;
        loaded.quarantine.push((net, row.int(2)?));
    }
    load_freed_ports(link, &mut loaded).await?;
    let sql = "SELECT name, last_seq FROM relay ORDER BY name";
    for row in link.rows(sql, Vec::new()).await? {
        loaded.relays.push(RelayPosition {
            relay: row.text(0)?.into(),
            seq: row.int(1)?,
        });
    }
    link.run("COMMIT").await?;
    Ok(loaded)
}

async fn load_counters(link: &mut Link, loaded: &mut Loaded) -> Result<(), sqlx::Error> {
    let sql = "SELECT seq, next_account, next_pool, next_tunnel, \
         (SELECT value FROM meta WHERE name = 'store_id') FROM counter";
    for row in link.rows(sql, Vec::new()).await? {
        loaded.last_seq = row.int(0)?;
        loaded.next = NextIds {
            account: row.int(1)?,
            pool: row.int(2)?,
            tunnel: row.int(3)?,
        };
        row.text(4)?.clone_into(&mut loaded.store_id);
    }
    Ok(())
}

/// Those that live, and the tombstones whose numbers nobody may have yet.
async fn load_tunnels(link: &mut Link, loaded: &mut Loaded, now: i64) -> Result<(), sqlx::Error> {
    let live = format!(
        "SELECT {TUNNEL_COLUMNS} FROM tunnel WHERE state <> 'tombstone' AND id > $1 \
         ORDER BY id LIMIT $2"
    );
    let mut last = i64::MIN;
    loop {
        let values = vec![last.into(), PAGE.into()];
        let mut page = tunnels(&link.rows(live.as_str(), values).await?)?;
        add_prefixes(link, page.iter_mut()).await?;
        let Some(tunnel) = page.last() else { break };
        last = tunnel.id.0;
        loaded.tunnels.append(&mut page);
    }
    let quarantined = format!(
        "SELECT {TUNNEL_COLUMNS}, quarantine_until FROM tunnel \
         WHERE state = 'tombstone' AND quarantine_until > $3 AND id > $1 ORDER BY id LIMIT $2"
    );
    let mut last = i64::MIN;
    loop {
        let values = vec![last.into(), PAGE.into(), now.into()];
        let mut page = read_tombstones(link, &quarantined, values).await?;
        let Some(tombstone) = page.last() else { break };
        last = tombstone.tunnel.id.0;
        loaded.tombstones.append(&mut page);
    }
    Ok(())
}

/// Ports of tombstones: the longest free come back first.
async fn load_freed_ports(link: &mut Link, loaded: &mut Loaded) -> Result<(), sqlx::Error> {
    let sql = "SELECT local, local_port, max(state_at) FROM tunnel \
         WHERE state = 'tombstone' AND local_port IS NOT NULL \
         GROUP BY local, local_port ORDER BY 3, 1, 2";
    for row in link.rows(sql, Vec::new()).await? {
        let port = u16::try_from(row.int(1)?);
        let endpoint = EndpointV4 {
            address: code::parse_v4(row.bytes(0)?)?,
            port: port.map_err(|error| sqlx::Error::Decode(error.into()))?,
        };
        loaded.freed_ports.push((endpoint, row.int(2)?));
    }
    Ok(())
}

async fn load_accounts(link: &mut Link) -> Result<Vec<Account>, sqlx::Error> {
    let mut accounts: Vec<Account> = Vec::new();
    let sql = "SELECT id, name, status, credential.account, created_at, changed_at \
         FROM account LEFT JOIN credential ON credential.account = id \
         WHERE id > $1 ORDER BY id LIMIT $2";
    loop {
        let last = accounts.last().map_or(i64::MIN, |account| account.id.0);
        let rows = link.rows(sql, vec![last.into(), PAGE.into()]).await?;
        for row in &rows {
            accounts.push(code::parse_account(row)?);
        }
        if rows.is_empty() {
            break;
        }
    }
    let mut prefixes: HashMap<i64, Vec<Ipv6Net>> = HashMap::new();
    let sql = "SELECT account, prefix, len FROM account_prefix ORDER BY account, ordinal";
    for row in link.rows(sql, Vec::new()).await? {
        let net = code::parse_net(&row, 1)?;
        prefixes.entry(row.int(0)?).or_default().push(net);
    }
    for account in &mut accounts {
        account.prefixes = prefixes.remove(&account.id.0).unwrap_or_default();
    }
    Ok(accounts)
}

fn tunnels(rows: &[Row]) -> Result<Vec<Tunnel>, sqlx::Error> {
    rows.iter().map(code::parse_tunnel).collect()
}

/// Reads the prefixes of tunnels that are one range of ids.
async fn add_prefixes(
    link: &mut Link,
    tunnels: impl Iterator<Item = &mut Tunnel>,
) -> Result<(), sqlx::Error> {
    let mut tunnels: HashMap<i64, &mut Tunnel> =
        tunnels.map(|tunnel| (tunnel.id.0, tunnel)).collect();
    let (Some(first), Some(last)) = (tunnels.keys().min(), tunnels.keys().max()) else {
        return Ok(());
    };
    let sql = "SELECT tunnel, prefix, len FROM tunnel_prefix \
         WHERE tunnel BETWEEN $1 AND $2 ORDER BY tunnel, ordinal";
    let rows = link
        .rows(sql, vec![(*first).into(), (*last).into()])
        .await?;
    for row in &rows {
        // Others of the range are of no interest here.
        if let Some(tunnel) = tunnels.get_mut(&row.int(0)?) {
            tunnel.prefixes.push(code::parse_net(row, 1)?);
        }
    }
    Ok(())
}

async fn read_tombstones(
    link: &mut Link,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<Tombstone>, sqlx::Error> {
    let mut tombstones = Vec::new();
    for row in link.rows(sql, values).await? {
        tombstones.push(Tombstone {
            tunnel: code::parse_tunnel(&row)?,
            quarantine_until: row.int(TUNNEL_COLUMN_COUNT)?,
        });
    }
    let tunnels = tombstones.iter_mut().map(|tombstone| &mut tombstone.tunnel);
    add_prefixes(link, tunnels).await?;
    Ok(tombstones)
}

/// One query on a connection of its own.
async fn rows(
    inner: &Inner,
    operation: &'static str,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<Row>, StoreError> {
    let work = async {
        let mut reader = inner.reader().await?;
        let rows = reader.link.rows(sql, values).await;
        reader.finish(operation, rows)
    };
    inner.within(operation, 1, work).await
}

/// Rows into what they mean; one that cannot be read is damage.
fn parsed<T>(
    operation: &'static str,
    rows: &[Row],
    parse: impl Fn(&Row) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, StoreError> {
    rows.iter()
        .map(parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| super::engine::failure(operation, &error))
}

fn limit(limit: usize) -> Value {
    Value::Int(i64::try_from(limit).unwrap_or(PAGE).min(PAGE))
}

pub(super) async fn changes_since(
    inner: &Inner,
    seq: i64,
    most: usize,
) -> Result<Vec<LoggedChange>, StoreError> {
    const OPERATION: &str = "read changes";
    let sql = "SELECT seq, at, change, object FROM change_log WHERE seq > $1 \
         ORDER BY seq LIMIT $2";
    let rows = rows(inner, OPERATION, sql, vec![seq.into(), limit(most)]).await?;
    parsed(OPERATION, &rows, |row| {
        Ok(LoggedChange {
            seq: row.int(0)?,
            at: row.int(1)?,
            change: code::parse_change(row.text(2)?, row.int(3)?)?,
        })
    })
}

pub(super) async fn history(
    inner: &Inner,
    tunnel: TunnelId,
    most: usize,
) -> Result<Vec<HistoryEntry>, StoreError> {
    const OPERATION: &str = "read history";
    let sql = "SELECT seq, tunnel, account, at, from_state, to_state, cause, remote \
         FROM tunnel_history WHERE tunnel = $1 ORDER BY seq DESC LIMIT $2";
    let rows = rows(inner, OPERATION, sql, vec![tunnel.0.into(), limit(most)]).await?;
    let mut entries = parsed(OPERATION, &rows, |row| {
        Ok(HistoryEntry {
            seq: row.int(0)?,
            tunnel: TunnelId(row.int(1)?),
            account: AccountId(row.int(2)?),
            at: row.int(3)?,
            from: row.maybe_text(4)?.map(code::parse_state).transpose()?,
            to: code::parse_state(row.text(5)?)?,
            cause: code::parse_cause(row.text(6)?)?,
            remote: code::parse_v4(row.bytes(7)?)?,
        })
    })?;
    entries.reverse();
    Ok(entries)
}

pub(super) async fn tombstones(
    inner: &Inner,
    before: Option<TunnelId>,
    most: usize,
) -> Result<Vec<Tombstone>, StoreError> {
    const OPERATION: &str = "read tombstones";
    let sql = format!(
        "SELECT {TUNNEL_COLUMNS}, quarantine_until FROM tunnel \
         WHERE state = 'tombstone' AND id < $1 ORDER BY id DESC LIMIT $2"
    );
    let before = before.map_or(i64::MAX, |id| id.0);
    let work = async {
        let mut reader = inner.reader().await?;
        let values = vec![before.into(), limit(most)];
        let tombstones = read_tombstones(&mut reader.link, &sql, values).await;
        reader.finish(OPERATION, tombstones)
    };
    inner.within(OPERATION, 1, work).await
}

pub(super) async fn secret(
    inner: &Inner,
    account: AccountId,
) -> Result<Option<Sealed>, StoreError> {
    const OPERATION: &str = "read a secret";
    let sql = "SELECT sealed FROM credential WHERE account = $1";
    let rows = rows(inner, OPERATION, sql, vec![account.0.into()]).await?;
    let mut sealed = parsed(OPERATION, &rows, |row| {
        Ok(Sealed::from_bytes(row.bytes(0)?.to_vec()))
    })?;
    Ok(sealed.pop())
}

pub(super) async fn secrets(
    inner: &Inner,
    after: AccountId,
    most: usize,
) -> Result<Vec<(AccountId, Sealed)>, StoreError> {
    const OPERATION: &str = "read secrets";
    let sql = "SELECT account, sealed FROM credential WHERE account > $1 \
         ORDER BY account LIMIT $2";
    let rows = rows(inner, OPERATION, sql, vec![after.0.into(), limit(most)]).await?;
    parsed(OPERATION, &rows, |row| {
        let sealed = Sealed::from_bytes(row.bytes(1)?.to_vec());
        Ok((AccountId(row.int(0)?), sealed))
    })
}

pub(super) async fn ping(inner: &Inner) -> Result<(), StoreError> {
    rows(inner, "ping", "SELECT seq FROM counter", Vec::new())
        .await
        .map(drop)
}
