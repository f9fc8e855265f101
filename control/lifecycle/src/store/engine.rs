//! Which engine, its connections, and what its errors mean.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, PgConnection, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::link::Link;
use super::lock;
use super::{StoreError, StoreOptions};

static SQLITE_SCHEMA: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_SCHEMA: Migrator = sqlx::migrate!("migrations/postgres");

/// Prepared statements kept per connection: more than there are.
const STATEMENTS: usize = 256;

enum Engine {
    Sqlite {
        path: PathBuf,
        options: Box<SqliteConnectOptions>,
        /// Held as long as the store is open: two processes that each keep the tunnels in memory
        /// must not share a file.
        lock: Mutex<Option<File>>,
    },
    Postgres(Box<PgConnectOptions>),
}

/// What the clones of a store share.
pub(super) struct Inner {
    engine: Engine,
    options: StoreOptions,
    /// Under which its commits are marked.
    pub(super) writer_id: [u8; 16],
    /// The connection that writes. It is taken out while it is in a transaction, so that one whose
    /// transaction was broken off is dropped and not used again.
    pub(super) writer: tokio::sync::Mutex<Option<Link>>,
    readers: Mutex<Vec<Link>>,
    permits: Semaphore,
    closed: AtomicBool,
}

impl Inner {
    pub(super) async fn open(url: &str, options: &StoreOptions) -> Result<Inner, StoreError> {
        let engine = if let Some(path) = url.strip_prefix("sqlite:") {
            open_sqlite(path.strip_prefix("//").unwrap_or(path), options)?
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            // The parser's error could quote the URL, which may have a password.
            let parsed = PgConnectOptions::from_str(url)
                .map_err(|_| StoreError::Url("not a PostgreSQL URL".to_owned()))?;
            Engine::Postgres(Box::new(postgres_options(parsed, options)))
        } else {
            let problem = "must begin with sqlite: or postgres://";
            return Err(StoreError::Url(problem.to_owned()));
        };
        let inner = Inner {
            engine,
            options: options.clone(),
            writer_id: rand::random(),
            writer: tokio::sync::Mutex::new(None),
            readers: Mutex::new(Vec::new()),
            permits: Semaphore::new(options.readers.max(1)),
            closed: AtomicBool::new(false),
        };
        let link = inner.within("migrate", 10, inner.migrated()).await?;
        *inner.writer.lock().await = Some(link);
        Ok(inner)
    }

    pub(super) fn name(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite { .. } => "sqlite",
            Engine::Postgres(_) => "postgresql",
        }
    }

    pub(super) fn path(&self) -> Option<&PathBuf> {
        match &self.engine {
            Engine::Sqlite { path, .. } => Some(path),
            Engine::Postgres(_) => None,
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Link, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable {
                operation: "connect",
                problem: "it was closed".to_owned(),
            });
        }
        match &self.engine {
            Engine::Sqlite { options, .. } => {
                let link: SqliteConnection = options
                    .connect()
                    .await
                    .map_err(|error| failure("open", &error))?;
                Ok(Link::Sqlite(Box::new(link)))
            }
            Engine::Postgres(options) => {
                let link: PgConnection = options
                    .connect()
                    .await
                    .map_err(|error| failure("connect", &error))?;
                let mut link = Link::Postgres(Box::new(link));
                // A role or a database may be configured to lose commits; this store is not.
                link.run(
                    "SELECT set_config('synchronous_commit', 'on', false) \
                     WHERE current_setting('synchronous_commit') = 'off'",
                )
                .await
                .map_err(|error| failure("connect", &error))?;
                Ok(link)
            }
        }
    }

    /// A new connection that writes.
    pub(super) async fn connect_writer(&self) -> Result<Link, StoreError> {
        let mut link = self.connect().await?;
        if self.has_lock() {
            lock::retake(&mut link, &self.writer_id).await?;
        }
        Ok(link)
    }

    fn has_lock(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_)) && self.options.exclusive
    }

    async fn migrated(&self) -> Result<Link, StoreError> {
        let mut link = self.connect().await?;
        if self.has_lock() {
            lock::take(&mut link).await?;
        }
        match &mut link {
            Link::Sqlite(link) => {
                migrate_result(SQLITE_SCHEMA.run_direct(None, &mut **link, false).await)?
            }
            Link::Postgres(link) => {
                migrate_result(POSTGRES_SCHEMA.run_direct(None, &mut **link, false).await)?
            }
        }
        if self.has_lock() {
            lock::claim(&mut link, &self.writer_id).await?;
        }
        Ok(link)
    }

    /// Gives up after `times` the configured time where the engine is across a network. SQLite
    /// waits for nothing but its file's lock, which has a limit of its own.
    pub(super) async fn within<T>(
        &self,
        operation: &'static str,
        times: u32,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.engine {
            Engine::Sqlite { .. } => work.await,
            Engine::Postgres(_) => {
                tokio::time::timeout(self.options.timeout.saturating_mul(times), work)
                    .await
                    .unwrap_or_else(|_| {
                        Err(StoreError::Unavailable {
                            operation,
                            problem: "no answer in time".to_owned(),
                        })
                    })
            }
        }
    }

    /// A connection to read with, when one is free.
    pub(super) async fn reader(&self) -> Result<Reader<'_>, StoreError> {
        let permit = self.permits.acquire().await.map_err(|_| {
            let problem = "it was closed".to_owned();
            StoreError::Unavailable {
                operation: "read",
                problem,
            }
        })?;
        let idle = self.readers.lock().pop();
        let link = match idle {
            Some(link) => link,
            None => self.connect().await?,
        };
        Ok(Reader {
            link,
            inner: self,
            _permit: permit,
        })
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.permits.close();
        let writer = self.writer.lock().await.take();
        let readers = std::mem::take(&mut *self.readers.lock());
        for link in readers.into_iter().chain(writer) {
            if let Err(error) = link.close().await {
                tracing::debug!(%error, "a connection to the store did not close in order");
            }
        }
        if let Engine::Sqlite { lock, .. } = &self.engine {
            lock.lock().take();
        }
    }
}

/// A connection to read with. One that is not handed back with [`Reader::finish`], or after an error,
/// is dropped: its state is unknown.
pub(super) struct Reader<'a> {
    pub(super) link: Link,
    inner: &'a Inner,
    _permit: SemaphorePermit<'a>,
}

impl Reader<'_> {
    pub(super) fn finish<T>(
        self,
        operation: &'static str,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        match result {
            Ok(value) => {
                if !self.inner.closed.load(Ordering::Acquire) {
                    self.inner.readers.lock().push(self.link);
                }
                Ok(value)
            }
            Err(error) => {
                let error = failure(operation, &error);
                if error.is_unavailable() {
                    // The idle ones ended with it: one failed call is enough to find out.
                    self.inner.readers.lock().clear();
                }
                Err(error)
            }
        }
    }
}

fn open_sqlite(path: &str, options: &StoreOptions) -> Result<Engine, StoreError> {
    if path.is_empty() || path == ":memory:" {
        let problem = "sqlite: needs the path of a file";
        return Err(StoreError::Url(problem.to_owned()));
    }
    let path = PathBuf::from(path);
    let mut lock_path = path.clone().into_os_string();
    lock_path.push(".lock");
    // Not the file itself: closing it would drop SQLite's own locks.
    let lock = private_file(Path::new(&lock_path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            StoreError::InUse(path.clone())
        } else {
            file_error(
                Path::new(&lock_path),
                "cannot be locked",
                Some(error.into()),
            )
        }
    })?;
    drop(private_file(&path)?);
    let connect = SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(options.timeout)
        .statement_cache_capacity(STATEMENTS)
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging();
    Ok(Engine::Sqlite {
        path,
        options: Box::new(connect),
        lock: Mutex::new(Some(lock)),
    })
}

fn postgres_options(parsed: PgConnectOptions, options: &StoreOptions) -> PgConnectOptions {
    let millis = u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX);
    // A server that outlives us must not keep our locks: the next process waits for them.
    parsed
        .statement_cache_capacity(STATEMENTS)
        .application_name(&own_name())
        .options([
            // That of a machine that died ends within a minute, and its lock with it.
            ("tcp_keepalives_idle", "30".to_owned()),
            ("tcp_keepalives_interval", "10".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            // A plan that is kept was made when the tables were small: it would read them from end to end
            // for every tunnel that changes, however many there are by now.
            ("plan_cache_mode", "force_custom_plan".to_owned()),
            ("lock_timeout", millis.to_string()),
            ("statement_timeout", millis.saturating_mul(10).to_string()),
            ("idle_in_transaction_session_timeout", millis.to_string()),
        ])
        .disable_statement_logging()
}

/// By which an operator finds the process: in the server's list of sessions, and in the error of the
/// next one that wants the store.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // The server keeps 63 bytes.
    let host: String = host.trim().chars().take(24).collect();
    format!("sixferry-control {} on {host}", std::process::id())
}

/// Opens or makes a file that nobody else may read.
fn private_file(path: &Path) -> Result<File, StoreError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match parent.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(file_error(parent, "is no directory", None));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(file_error(
                parent,
                "there is no such directory",
                Some(error),
            ));
        }
        Err(error) => return Err(file_error(parent, "cannot be entered", Some(error))),
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| file_error(path, "cannot be opened for writing", Some(error)))?;
    let metadata = file
        .metadata()
        .map_err(|error| file_error(path, "cannot be examined", Some(error)))?;
    if !metadata.is_file() {
        return Err(file_error(path, "is no regular file", None));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(file_error(path, "others may use it; chmod 600", None));
    }
    Ok(file)
}

fn file_error(path: &Path, problem: &str, source: Option<io::Error>) -> StoreError {
    let problem = match &source {
        Some(source) => format!("{problem}: {source}"),
        None => problem.to_owned(),
    };
    StoreError::File {
        path: path.to_owned(),
        problem,
        source,
    }
}

fn migrate_result(result: Result<(), MigrateError>) -> Result<(), StoreError> {
    const OPERATION: &str = "migrate";
    let known = SQLITE_SCHEMA.iter().map(|step| step.version).max();
    let known = known.unwrap_or_default();
    match result {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) if found > known => {
            Err(StoreError::Newer { found, known })
        }
        Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
            Err(failure(OPERATION, &error))
        }
        Err(other) => Err(StoreError::Fatal {
            operation: OPERATION,
            problem: other.to_string(),
        }),
    }
}

/// What an error means to the caller.
pub(super) fn failure(operation: &'static str, error: &sqlx::Error) -> StoreError {
    let problem = error.to_string();
    match meaning(error) {
        Meaning::Away => StoreError::Unavailable { operation, problem },
        Meaning::Damaged => StoreError::Damaged { operation, problem },
        Meaning::Other => StoreError::Fatal { operation, problem },
    }
}

enum Meaning {
    Away,
    Damaged,
    Other,
}

fn meaning(error: &sqlx::Error) -> Meaning {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        // The stream ended or went out of step.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed => Meaning::Away,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Meaning::Damaged,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                Some(_) => sqlite_meaning(&code),
                None => postgres_meaning(&code),
            }
        }
        _ => Meaning::Other,
    }
}

/// By SQLite's extended result code, whose low byte is the primary one.
fn sqlite_meaning(code: &str) -> Meaning {
    const BUSY: i64 = 5;
    const LOCKED: i64 = 6;
    const IOERR: i64 = 10;
    const CORRUPT: i64 = 11;
    const FULL: i64 = 13;
    const CANTOPEN: i64 = 14;
    const NOTADB: i64 = 26;
    match code.parse::<i64>().unwrap_or_default() & 0xff {
        BUSY | LOCKED | IOERR | FULL | CANTOPEN => Meaning::Away,
        CORRUPT | NOTADB => Meaning::Damaged,
        _ => Meaning::Other,
    }
}

/// By SQLSTATE.
fn postgres_meaning(code: &str) -> Meaning {
    match code {
        // Conflicts of concurrency; timeouts that we set; a standby after a fail-over; I/O.
        "40001" | "40P01" | "55P03" | "57014" | "25P03" | "25006" | "58030" => Meaning::Away,
        "XX001" | "XX002" => Meaning::Damaged,
        // Connection, resources (disk, memory, connections), operator's intervention.
        _ if ["08", "53", "57"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Meaning::Away
        }
        _ => Meaning::Other,
    }
}
