//! Why the store did not do it, and whether it is worth another try.

use std::io;
use std::path::PathBuf;

/// The store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away: not reachable, restarting, locked by somebody else, out of disk space, or too
    /// slow. Try again: a commit with the same [`super::Batch`].
    #[error("{operation}: the store is not available: {problem}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        problem: String,
    },
    /// The URL names no store.
    #[error("store URL: {0}")]
    Url(String),
    /// The file, its directory or its lock is not as it must be.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What the system said.
        source: Option<io::Error>,
    },
    /// Another control process has this SQLite file.
    #[error("{path}: another process uses this store", path = .0.display())]
    InUse(PathBuf),
    /// Another control process has this PostgreSQL database.
    #[error("another control process uses this database: {0}")]
    InUseBy(String),
    /// Another control process had this database while the connection was lost: what this one has in
    /// memory is no longer so.
    #[error("another control process took this database over while the connection was lost")]
    Overtaken,
    /// A newer version of the program wrote it.
    #[error(
        "the store has schema {found}, this program knows schemas up to {known}: \
         use the newer program, or a backup from before the upgrade"
    )]
    Newer {
        /// Version in the store.
        found: i64,
        /// Newest known here.
        known: i64,
    },
    /// It is no store, or damaged.
    #[error("{operation}: the store is damaged: {problem}; restore it from a backup")]
    Damaged {
        /// What was tried.
        operation: &'static str,
        /// What was found.
        problem: String,
    },
    /// Anything else; another try would end the same.
    #[error("{operation}: {problem}")]
    Fatal {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        problem: String,
    },
}

impl StoreError {
    /// Whether another try may succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }
}
