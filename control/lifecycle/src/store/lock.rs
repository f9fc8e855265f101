//! One control process per PostgreSQL database (or schema in it): each keeps everything in memory, so
//! two would decide the same numbers differently. SQLite's file has a lock of its own.
//!
//! The connection that writes holds an advisory lock of its session, which ends with the process. A
//! connection that breaks loses it: who comes back checks that nobody else had the store meanwhile,
//! because what he has in memory would no longer be true.

use std::time::Duration;

use tokio::time::Instant;

use super::StoreError;
use super::engine::failure;
use super::link::{Link, Value};

/// A process that was killed is gone a little before the server knows.
const TAKEOVER: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// The lock's number, with which the schema is told from others of the database.
macro_rules! lock {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "hashtextextended('sixferry-control ' || coalesce(current_schema(), ''), 0)",
            $after
        )
    };
}

const TRY: &str = lock!(
    "SELECT CASE WHEN pg_try_advisory_lock(",
    ") THEN 1 ELSE 0 END::bigint"
);

const WAIT: &str = lock!("SELECT pg_advisory_lock(", ")");

const HOLDER: &str = lock!(
    "SELECT coalesce(nullif(a.application_name, ''), 'an unknown process') || ', ' \
     || coalesce('from ' || host(a.client_addr), 'on the server''s machine') || ', since ' \
     || to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' \
     || ' (server process ' || a.pid || ')' \
     FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid \
     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
     AND ((l.classid::bigint << 32) | l.objid::bigint) = ",
    ""
);

const OWNER: &str = "SELECT value FROM meta WHERE name = 'owner'";

const OPERATION: &str = "lock";

fn failed(error: sqlx::Error) -> StoreError {
    failure(OPERATION, &error)
}

/// As the store notes whose it is.
fn name(writer_id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*writer_id))
}

/// Takes the lock at the start, or says who has it.
pub(super) async fn take(link: &mut Link) -> Result<(), StoreError> {
    let deadline = Instant::now() + TAKEOVER;
    loop {
        let rows = link.rows(TRY, Vec::new()).await.map_err(failed)?;
        let taken = rows.first().map(|row| row.int(0)).transpose();
        if taken.map_err(failed)? == Some(1) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let rows = link.rows(HOLDER, Vec::new()).await.map_err(failed)?;
    let holder = rows.first().map(|row| row.text(0)).transpose();
    let holder = holder.map_err(failed)?.unwrap_or("one that just ended");
    Err(StoreError::InUseBy(holder.to_owned()))
}

/// Notes whose the store is now.
pub(super) async fn claim(link: &mut Link, writer_id: &[u8; 16]) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta (name, value) VALUES ('owner', $1) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    let name = Value::Text(name(writer_id).into());
    link.execute(sql, vec![name])
        .await
        .map(drop)
        .map_err(failed)
}

/// Takes the lock for a new connection of a process that had it.
pub(super) async fn retake(link: &mut Link, writer_id: &[u8; 16]) -> Result<(), StoreError> {
    check(link, writer_id).await?;
    // The session that broke off may not have ended yet, which the server's time limit allows for.
    link.run(WAIT).await.map_err(failed)?;
    check(link, writer_id).await
}

async fn check(link: &mut Link, writer_id: &[u8; 16]) -> Result<(), StoreError> {
    let rows = link.rows(OWNER, Vec::new()).await.map_err(failed)?;
    let owner = rows.first().map(|row| row.text(0)).transpose();
    match owner.map_err(failed)? == Some(name(writer_id).as_str()) {
        true => Ok(()),
        false => Err(StoreError::Overtaken),
    }
}
