//! Keeps the change log, the history and the tombstones within their limits.

use super::StoreError;
use super::engine::{Inner, failure};
use super::link::{Link, Value};
use super::record::{Pruned, Retention};

/// Rows of each kind per call: a commit waits for no more than this.
const AT_ONCE: i64 = 4_000;

/// Marks of writers that have written nothing for this long are nobody's any more.
const WRITER_AGE: i64 = 30 * 24 * 3600 * 1_000_000;

/// Up to where everything is too much, by number.
struct Bounds {
    change_seq: i64,
    history_seq: i64,
    tombstone_at: i64,
}

pub(super) async fn prune(inner: &Inner, keep: &Retention, now: i64) -> Result<Pruned, StoreError> {
    const OPERATION: &str = "prune";
    let work = async {
        // Counting takes a while in a large store: not on the connection that commits.
        let mut reader = inner.reader().await?;
        let bounds = bounds(&mut reader.link, keep).await;
        let bounds = reader.finish(OPERATION, bounds)?;
        let mut slot = inner.writer.lock().await;
        let mut link = match slot.take() {
            Some(link) => link,
            None => inner.connect_writer().await?,
        };
        let pruned = remove(&mut link, inner, &bounds, keep, now)
            .await
            .map_err(|error| failure(OPERATION, &error))?;
        *slot = Some(link);
        Ok(pruned)
    };
    inner.within(OPERATION, 10, work).await
}

async fn bounds(link: &mut Link, keep: &Retention) -> Result<Bounds, sqlx::Error> {
    let rows = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(Bounds {
        // Its sequences have no gaps: no need to count.
        change_seq: first(link, "SELECT seq - $1 FROM counter", rows(keep.changes)).await?,
        history_seq: first(
            link,
            "SELECT seq FROM tunnel_history ORDER BY seq DESC LIMIT 1 OFFSET $1",
            rows(keep.history),
        )
        .await?,
        tombstone_at: first(
            link,
            "SELECT state_at FROM tunnel WHERE state = 'tombstone' \
             ORDER BY state_at DESC LIMIT 1 OFFSET $1",
            rows(keep.tombstones),
        )
        .await?,
    })
}

/// The number an answer begins with; without an answer one that nothing is below.
async fn first(link: &mut Link, sql: &'static str, value: Value) -> Result<i64, sqlx::Error> {
    match link.rows(sql, vec![value]).await?.first() {
        Some(row) => row.int(0),
        None => Ok(i64::MIN),
    }
}

async fn remove(
    link: &mut Link,
    inner: &Inner,
    bounds: &Bounds,
    keep: &Retention,
    now: i64,
) -> Result<Pruned, sqlx::Error> {
    let age = now.saturating_sub(keep.age);
    link.begin().await?;
    // Only the oldest are looked at: without an index on the time, and without reading it all.
    let sql = "DELETE FROM change_log WHERE seq IN (SELECT seq FROM \
         (SELECT seq, at FROM change_log ORDER BY seq LIMIT $3) AS oldest \
         WHERE seq <= $1 OR at < $2)";
    let values = [bounds.change_seq, age, AT_ONCE];
    let changes = link.execute(sql, values.map(Value::Int).to_vec()).await?;
    let sql = "DELETE FROM tunnel_history WHERE seq IN (SELECT seq FROM \
         (SELECT seq, at FROM tunnel_history ORDER BY seq LIMIT $3) AS oldest \
         WHERE seq <= $1 OR at < $2)";
    let values = [bounds.history_seq, age, AT_ONCE];
    let history = link.execute(sql, values.map(Value::Int).to_vec()).await?;
    let sql = "DELETE FROM tunnel WHERE id IN (SELECT id FROM tunnel \
         WHERE state = 'tombstone' AND state_at <= $1 AND quarantine_until <= $2 \
         ORDER BY state_at LIMIT $3)";
    let oldest = bounds.tombstone_at.max(age.saturating_sub(1));
    let values = [oldest, now, AT_ONCE];
    let tombstones = link.execute(sql, values.map(Value::Int).to_vec()).await?;
    let sql = "DELETE FROM quarantine WHERE (prefix, len) IN (SELECT prefix, len FROM quarantine \
         WHERE ends_at <= $1 ORDER BY ends_at LIMIT $2)";
    let values = [now, AT_ONCE];
    let quarantine = link.execute(sql, values.map(Value::Int).to_vec()).await?;
    let sql = "DELETE FROM writer WHERE at < $1 AND id <> $2";
    let own = Value::Bytes(inner.writer_id.to_vec());
    let silent = Value::Int(now.saturating_sub(WRITER_AGE));
    link.execute(sql, vec![silent, own]).await?;
    link.run("COMMIT").await?;
    let full = AT_ONCE.unsigned_abs();
    Ok(Pruned {
        changes,
        history,
        tombstones,
        more: [changes, history, tombstones, quarantine].contains(&full),
    })
}
