//! One connection to either engine: the same statements, values and rows for both.
//!
//! Statements number their parameters (`$1`), which both understand; integers are 64 bits wide and
//! addresses are blobs, so nothing else differs but what this module hides.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Executor, PgConnection, Row as _, SqliteConnection,
};

/// A parameter.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Int(i64),
    MaybeInt(Option<i64>),
    Text(Arc<str>),
    MaybeText(Option<&'static str>),
    Bytes(Vec<u8>),
    MaybeBytes(Option<Vec<u8>>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.into())
    }
}

macro_rules! arguments {
    ($arguments:ty, $values:expr) => {{
        let mut arguments = <$arguments>::default();
        let mut added = Ok(());
        for value in $values {
            added = added.and(match value {
                Value::Int(value) => arguments.add(value),
                Value::MaybeInt(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value),
                Value::MaybeText(value) => arguments.add(value),
                Value::Bytes(value) => arguments.add(value),
                Value::MaybeBytes(value) => arguments.add(value),
            });
        }
        added.map(|()| arguments).map_err(sqlx::Error::Encode)?
    }};
}

/// A row of an answer.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $index:expr) => {
        match $row {
            Row::Sqlite(row) => row.try_get($index),
            Row::Postgres(row) => row.try_get($index),
        }
    };
}

impl Row {
    pub(super) fn int(&self, index: usize) -> Result<i64, sqlx::Error> {
        column!(self, index)
    }

    pub(super) fn maybe_int(&self, index: usize) -> Result<Option<i64>, sqlx::Error> {
        column!(self, index)
    }

    pub(super) fn text(&self, index: usize) -> Result<&str, sqlx::Error> {
        column!(self, index)
    }

    pub(super) fn maybe_text(&self, index: usize) -> Result<Option<&str>, sqlx::Error> {
        column!(self, index)
    }

    pub(super) fn bytes(&self, index: usize) -> Result<&[u8], sqlx::Error> {
        column!(self, index)
    }

    pub(super) fn maybe_bytes(&self, index: usize) -> Result<Option<&[u8]>, sqlx::Error> {
        column!(self, index)
    }
}

/// A connection.
pub(super) enum Link {
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<PgConnection>),
}

impl Link {
    /// Executes a statement; says how many rows it changed.
    pub(super) async fn execute(
        &mut self,
        sql: impl Into<Arc<str>>,
        values: Vec<Value>,
    ) -> Result<u64, sqlx::Error> {
        let sql = AssertSqlSafe(sql.into());
        Ok(match self {
            Link::Sqlite(link) => {
                let arguments = arguments!(SqliteArguments, values);
                sqlx::query_with(sql, arguments)
                    .execute(&mut **link)
                    .await?
                    .rows_affected()
            }
            Link::Postgres(link) => {
                let arguments = arguments!(PgArguments, values);
                sqlx::query_with(sql, arguments)
                    .execute(&mut **link)
                    .await?
                    .rows_affected()
            }
        })
    }

    /// Executes statements without parameters, several in one string, in one round trip.
    pub(super) async fn run(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Link::Sqlite(link) => link.execute(sqlx::raw_sql(sql)).await.map(drop),
            Link::Postgres(link) => link.execute(sqlx::raw_sql(sql)).await.map(drop),
        }
    }

    /// All rows of an answer.
    pub(super) async fn rows(
        &mut self,
        sql: impl Into<Arc<str>>,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let sql = AssertSqlSafe(sql.into());
        Ok(match self {
            Link::Sqlite(link) => {
                let arguments = arguments!(SqliteArguments, values);
                let rows = sqlx::query_with(sql, arguments)
                    .fetch_all(&mut **link)
                    .await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Link::Postgres(link) => {
                let arguments = arguments!(PgArguments, values);
                let rows = sqlx::query_with(sql, arguments)
                    .fetch_all(&mut **link)
                    .await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Starts a transaction that writes, and waits for other writers.
    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.run(match self {
            Link::Sqlite(_) => "BEGIN IMMEDIATE",
            // The lock on the one row of counter orders the writers. It is taken by a statement of
            // its own: the next one sees what the writer before committed.
            Link::Postgres(_) => "BEGIN; SELECT seq FROM counter FOR UPDATE",
        })
        .await
    }

    /// A transaction that reads one state of the store.
    pub(super) async fn begin_reading(&mut self) -> Result<(), sqlx::Error> {
        self.run(match self {
            Link::Sqlite(_) => "BEGIN",
            Link::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })
        .await
    }

    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Link::Sqlite(link) => link.close().await,
            Link::Postgres(link) => link.close().await,
        }
    }
}
