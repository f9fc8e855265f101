//! One batch, one transaction, once.

use std::ops::Range;

use super::StoreError;
use super::apply::{Refusal, apply};
use super::engine::{Inner, failure};
use super::link::{Link, Value};
use super::record::{Batch, Committed, Conflict, Constraint, Group, NextIds, Write};

type Answers = Vec<Result<Committed, Conflict>>;

pub(super) async fn commit(inner: &Inner, batch: &Batch) -> Result<Answers, StoreError> {
    const OPERATION: &str = "commit";
    if batch.groups.is_empty() {
        return Ok(Vec::new());
    }
    if batch.groups.len() > Batch::MAX_GROUPS {
        return Err(StoreError::Fatal {
            operation: OPERATION,
            problem: format!("more than {} groups", Batch::MAX_GROUPS),
        });
    }
    let work = async {
        let mut slot = inner.writer.lock().await;
        let mut link = match slot.take() {
            Some(link) => link,
            None => inner.connect_writer().await?,
        };
        let answers = transaction(&mut link, inner, batch)
            .await
            .map_err(|error| failure(OPERATION, &error))?;
        *slot = Some(link);
        Ok(answers)
    };
    inner.within(OPERATION, 1, work).await
}

async fn transaction(
    link: &mut Link,
    inner: &Inner,
    batch: &Batch,
) -> Result<Answers, sqlx::Error> {
    let groups = &batch.groups;
    let begun = match begin(link, inner, batch).await? {
        Begun::Done(answers) => return Ok(answers),
        Begun::After(seq) => seq,
    };
    // Nearly always nothing is refused, and no savepoint was needed.
    let answers = match apply(link, groups, begun).await {
        Ok(seqs) => seqs
            .into_iter()
            .map(|seqs| Ok(Committed { seqs }))
            .collect(),
        Err(Refusal::Failed(error)) => return Err(error),
        Err(Refusal::Conflict(constraint)) => {
            link.run("ROLLBACK").await?;
            if groups.len() == 1 {
                return Ok(vec![Err(Conflict { constraint })]);
            }
            match begin(link, inner, batch).await? {
                Begun::Done(answers) => return Ok(answers),
                Begun::After(seq) => apply_divided(link, groups, seq).await?,
            }
        }
    };
    let Some(last) = last_seq(&answers) else {
        link.run("ROLLBACK").await?;
        return Ok(answers);
    };
    finish(link, inner, batch, &answers, last).await?;
    link.run("COMMIT").await?;
    Ok(answers)
}

enum Begun {
    /// This batch was committed already.
    Done(Answers),
    /// The last sequence that was given.
    After(i64),
}

async fn begin(link: &mut Link, inner: &Inner, batch: &Batch) -> Result<Begun, sqlx::Error> {
    link.begin().await?;
    let sql = "SELECT seq, (SELECT outcome FROM writer WHERE id = $1 AND mark = $2) FROM counter";
    let values = vec![
        Value::Bytes(inner.writer_id.to_vec()),
        Value::Bytes(batch.mark.to_vec()),
    ];
    let rows = link.rows(sql, values).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    if let Some(outcome) = row.maybe_bytes(1)? {
        let answers = decode_outcome(outcome)
            .filter(|answers| answers.len() == batch.groups.len())
            .ok_or_else(|| sqlx::Error::Decode("unexpected outcome of a commit".into()))?;
        link.run("ROLLBACK").await?;
        return Ok(Begun::Done(answers));
    }
    Ok(Begun::After(row.int(0)?))
}

/// Halves what is refused until it is one group.
async fn apply_divided(
    link: &mut Link,
    groups: &[Group],
    mut seq: i64,
) -> Result<Answers, sqlx::Error> {
    let mut answers = Vec::with_capacity(groups.len());
    let (left, right) = groups.split_at(groups.len() / 2);
    let mut waiting = vec![right, left];
    while let Some(part) = waiting.pop() {
        link.run("SAVEPOINT part").await?;
        match apply(link, part, seq).await {
            Ok(applied) => {
                link.run("RELEASE part").await?;
                seq = applied.last().map_or(seq, |seqs| seqs.end - 1);
                answers.extend(applied.into_iter().map(|seqs| Ok(Committed { seqs })));
            }
            Err(Refusal::Failed(error)) => return Err(error),
            Err(Refusal::Conflict(constraint)) => {
                link.run("ROLLBACK TO part; RELEASE part").await?;
                if part.len() == 1 {
                    answers.push(Err(Conflict { constraint }));
                } else {
                    let (left, right) = part.split_at(part.len() / 2);
                    waiting.extend([right, left]);
                }
            }
        }
    }
    Ok(answers)
}

/// The last sequence after these answers; `None`: no group was applied.
fn last_seq(answers: &Answers) -> Option<i64> {
    let applied = answers.iter().rev().find_map(|answer| answer.as_ref().ok());
    applied.map(|committed| committed.seqs.end - 1)
}

/// Takes sequences and ids, and marks the batch as done.
async fn finish(
    link: &mut Link,
    inner: &Inner,
    batch: &Batch,
    answers: &Answers,
    last: i64,
) -> Result<(), sqlx::Error> {
    let next = used_ids(&batch.groups, answers);
    // A maximum is spelt differently by the engines, this is not.
    let sql = "UPDATE counter SET seq = $1, \
         next_account = CASE WHEN next_account < $2 THEN $2 ELSE next_account END, \
         next_pool = CASE WHEN next_pool < $3 THEN $3 ELSE next_pool END, \
         next_tunnel = CASE WHEN next_tunnel < $4 THEN $4 ELSE next_tunnel END";
    let values = [last, next.account, next.pool, next.tunnel];
    link.execute(sql, values.map(Value::Int).to_vec()).await?;
    let sql = "INSERT INTO writer (id, mark, outcome, at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE \
         SET mark = excluded.mark, outcome = excluded.outcome, at = excluded.at";
    let values = vec![
        Value::Bytes(inner.writer_id.to_vec()),
        Value::Bytes(batch.mark.to_vec()),
        Value::Bytes(encode_outcome(answers)),
        Value::Int(now()),
    ];
    link.execute(sql, values).await?;
    Ok(())
}

/// The lowest ids that no applied group used.
fn used_ids(groups: &[Group], answers: &Answers) -> NextIds {
    let mut next = NextIds::default();
    for (group, answer) in groups.iter().zip(answers) {
        if answer.is_err() {
            continue;
        }
        for write in group {
            match write {
                Write::InsertAccount(account) => {
                    next.account = next.account.max(account.id.0.saturating_add(1));
                }
                Write::InsertPool { pool, .. } => {
                    next.pool = next.pool.max(pool.id.0.saturating_add(1));
                }
                Write::InsertTunnel { tunnel, .. } => {
                    next.tunnel = next.tunnel.max(tunnel.id.0.saturating_add(1));
                }
                _ => {}
            }
        }
    }
    next
}

/// Microseconds since 1970; for the age of a writer's row only.
fn now() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

/// Per group 16 bytes: the first and the end of its sequences, or 0 and the constraint.
fn encode_outcome(answers: &Answers) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(answers.len() * 16);
    for answer in answers {
        let (first, end) = match answer {
            Ok(committed) => (committed.seqs.start, committed.seqs.end),
            Err(conflict) => (0, conflict.constraint.code()),
        };
        bytes.extend_from_slice(&first.to_be_bytes());
        bytes.extend_from_slice(&end.to_be_bytes());
    }
    bytes
}

fn decode_outcome(bytes: &[u8]) -> Option<Answers> {
    let (pairs, []) = bytes.as_chunks::<16>() else {
        return None;
    };
    let pairs = pairs.iter().map(|pair| {
        let (first, end) = pair.split_at(8);
        let first = i64::from_be_bytes(first.try_into().ok()?);
        let end = i64::from_be_bytes(end.try_into().ok()?);
        Some(if first == 0 {
            let constraint = Constraint::from_code(end)?;
            Err(Conflict { constraint })
        } else {
            let seqs: Range<i64> = first..end;
            Ok(Committed { seqs })
        })
    });
    pairs.collect()
}
