//! Many rows with few statements, each of which is prepared once.
//!
//! PostgreSQL gets an array per column and makes the rows of them: one statement, however many. SQLite
//! has no arrays: its statements list the rows, in a few sizes. It counts question marks, because it
//! would look a number up in a list of all, a hundred times slower than the insert.

use std::sync::{Arc, LazyLock};

use hashbrown::HashMap;
use parking_lot::Mutex;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, AssertSqlSafe};

use super::link::{Link, Value};

/// Rows per statement of SQLite. Each is a round trip between two threads.
const CHUNKS: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// Executes `head`, a query that gives the rows, and `tail`; says how many rows it changed. Both
/// engines call the columns of that query `column1`, `column2`...
pub(super) async fn write_rows(
    link: &mut Link,
    head: &'static str,
    tail: &'static str,
    rows: Vec<Vec<Value>>,
) -> Result<u64, sqlx::Error> {
    let Some(first) = rows.first() else {
        return Ok(0);
    };
    if let Link::Postgres(link) = link {
        let sql = statement((Engine::Postgres, head), || arrays(first), tail);
        let mut arguments = PgArguments::default();
        for column in 0..first.len() {
            add_array(&mut arguments, &rows, column).map_err(sqlx::Error::Encode)?;
        }
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
        return Ok(query.execute(&mut **link).await?.rows_affected());
    }
    let columns = first.len();
    let mut changed = 0;
    let mut left = rows.len();
    let mut rows = rows.into_iter();
    for size in CHUNKS {
        while left >= size {
            left -= size;
            let sql = statement((Engine::Sqlite(size), head), || list(size, columns), tail);
            let values = rows.by_ref().take(size).flatten().collect();
            changed += link.execute(sql, values).await?;
        }
    }
    Ok(changed)
}

/// Which statement: its engine and its head.
type Key = (Engine, &'static str);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Engine {
    /// So many rows.
    Sqlite(usize),
    Postgres,
}

/// A statement; each is made once: the long ones have thousands of parameters.
fn statement(key: Key, rows: impl FnOnce() -> String, tail: &'static str) -> Arc<str> {
    static MADE: LazyLock<Mutex<HashMap<Key, Arc<str>>>> = LazyLock::new(Mutex::default);
    let head = key.1;
    let make = || format!("{head}{}{tail}", rows()).into();
    MADE.lock().entry(key).or_insert_with(make).clone()
}

fn list(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    format!("VALUES {}", vec![row; rows].join(", "))
}

fn arrays(row: &[Value]) -> String {
    let numbered = || row.iter().zip(1..);
    let arrays = numbered().map(|(value, number)| format!("${number}::{}[]", kind(value)));
    let names = numbered().map(|(_, number)| format!("column{number}"));
    let (arrays, names) = (arrays.collect::<Vec<_>>(), names.collect::<Vec<_>>());
    let (arrays, names) = (arrays.join(", "), names.join(", "));
    format!("SELECT * FROM unnest({arrays}) AS rows ({names})")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) | Value::MaybeInt(_) => "bigint",
        Value::Text(_) | Value::MaybeText(_) => "text",
        Value::Bytes(_) | Value::MaybeBytes(_) => "bytea",
    }
}

/// A column of the rows, all of whose values are of the kind of the first.
fn add_array(
    arguments: &mut PgArguments,
    rows: &[Vec<Value>],
    column: usize,
) -> Result<(), sqlx::error::BoxDynError> {
    let values = rows.iter().map(|row| &row[column]);
    match &rows[0][column] {
        Value::Int(_) | Value::MaybeInt(_) => {
            let values = values.map(|value| match *value {
                Value::Int(value) => Some(value),
                Value::MaybeInt(value) => value,
                _ => None,
            });
            arguments.add(values.collect::<Vec<Option<i64>>>())
        }
        Value::Text(_) | Value::MaybeText(_) => {
            let values = values.map(|value| match value {
                Value::Text(value) => Some(&**value),
                Value::MaybeText(value) => *value,
                _ => None,
            });
            arguments.add(values.collect::<Vec<Option<&str>>>())
        }
        Value::Bytes(_) | Value::MaybeBytes(_) => {
            let values = values.map(|value| match value {
                Value::Bytes(value) => Some(&**value),
                Value::MaybeBytes(value) => value.as_deref(),
                _ => None,
            });
            arguments.add(values.collect::<Vec<Option<&[u8]>>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_gets_its_own_query() {
        assert_eq!(list(2, 3), "VALUES (?, ?, ?), (?, ?, ?)");
        let row = [
            Value::MaybeInt(None),
            Value::MaybeText(None),
            Value::MaybeBytes(None),
        ];
        assert_eq!(
            arrays(&row),
            "SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[]) \
             AS rows (column1, column2, column3)"
        );
    }
}
