//! The durable store: SQLite in the state directory, or PostgreSQL by URL, with one schema and one
//! behaviour.
//!
//! * A [`Batch`] of groups is one durable transaction; a group is applied whole or refused whole, and
//!   the others of the batch are not harmed. Uniqueness is the engine's: a slot, a port, an address
//!   pair or a prefix cannot be given twice, whoever else writes.
//! * Every change has a sequence in the change log, without gaps and in the order of the commits.
//! * An answer that was lost is no problem: a batch that is committed again is recognised.
//!
//! It must not decide anything: what is written is thought out before, in memory.

mod apply;
mod code;
mod commit;
mod engine;
mod error;
mod link;
mod lock;
mod prune;
mod read;
mod record;
mod rows;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

pub use error::StoreError;
pub use record::{
    Batch, Change, Committed, Conflict, Constraint, Group, HistoryEntry, Loaded, LoggedChange,
    NextIds, Pruned, RelayPosition, Retention, Tombstone, Write,
};

use crate::model::{AccountId, TunnelId};
use crate::secret::Sealed;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Connections that read; default 2.
    pub readers: usize,
    /// PostgreSQL: time for a connection, a read or a commit, then [`StoreError::Unavailable`];
    /// default 10 s. SQLite: how long to wait for a lock that somebody else has on the file.
    pub timeout: Duration,
    /// PostgreSQL: no other process may have it, and commits end with [`StoreError::Overtaken`] once
    /// another one had. Default; a SQLite file never has two.
    pub exclusive: bool,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            readers: 2,
            timeout: Duration::from_secs(10),
            exclusive: true,
        }
    }
}

/// An open store. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<engine::Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the URL: it may have a password.
        f.debug_struct("Store")
            .field("engine", &self.engine())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens `sqlite:PATH` or `postgres://USER@HOST/DATABASE?sslmode=…` and brings the schema up to
    /// date. A SQLite file is made where there is none, for its owner alone. The store is this
    /// process's until it is closed.
    pub async fn open(url: &str, options: &StoreOptions) -> Result<Store, StoreError> {
        let inner = engine::Inner::open(url, options).boxed().await?;
        Ok(Store {
            inner: Arc::new(inner),
        })
    }

    /// `sqlite` or `postgresql`.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.inner.name()
    }

    /// The SQLite file.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        self.inner.path()
    }

    /// Reads everything, in one consistent state. `now`: which tombstones are still in quarantine.
    pub async fn load(&self, now: i64) -> Result<Loaded, StoreError> {
        read::load(&self.inner, now).boxed().await
    }

    /// Applies the groups in order, in one durable transaction; the answers are in the same order.
    ///
    /// Where a group takes what a later one of the batch gives up it may be refused or applied.
    ///
    /// On [`StoreError::Unavailable`] the batch may have been committed or not: try the same value
    /// again, before any other batch, until there is another answer. What had been committed is
    /// recognised and answered as it would have been.
    ///
    /// A future that is dropped leaves the same doubt.
    pub async fn commit(
        &self,
        batch: &Batch,
    ) -> Result<Vec<Result<Committed, Conflict>>, StoreError> {
        commit::commit(&self.inner, batch).boxed().await
    }

    /// The change log after this sequence, oldest first, at most `limit` entries. Where the first one
    /// is not `seq + 1` the log was pruned: load everything.
    pub async fn changes_since(
        &self,
        seq: i64,
        limit: usize,
    ) -> Result<Vec<LoggedChange>, StoreError> {
        read::changes_since(&self.inner, seq, limit).boxed().await
    }

    /// The last `limit` entries of a tunnel's history, oldest first.
    pub async fn history(
        &self,
        tunnel: TunnelId,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        read::history(&self.inner, tunnel, limit).boxed().await
    }

    /// Tunnels that are gone, newest first, at most `limit`; `before`: of a lower id than this.
    pub async fn tombstones(
        &self,
        before: Option<TunnelId>,
        limit: usize,
    ) -> Result<Vec<Tombstone>, StoreError> {
        read::tombstones(&self.inner, before, limit).boxed().await
    }

    /// An account's secret.
    pub async fn secret(&self, account: AccountId) -> Result<Option<Sealed>, StoreError> {
        read::secret(&self.inner, account).boxed().await
    }

    /// Secrets by account, at most `limit`, of ids above `after`: to seal them anew after the key
    /// changed.
    pub async fn secrets(
        &self,
        after: AccountId,
        limit: usize,
    ) -> Result<Vec<(AccountId, Sealed)>, StoreError> {
        read::secrets(&self.inner, after, limit).boxed().await
    }

    /// Removes some of what is older than wanted, little enough not to hold a commit up for long.
    /// Once a minute, and again at once while [`Pruned::more`], keeps the limits.
    pub async fn prune(&self, keep: &Retention, now: i64) -> Result<Pruned, StoreError> {
        prune::prune(&self.inner, keep, now).boxed().await
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        read::ping(&self.inner).boxed().await
    }

    /// Closes it after the commit that is under way. Calls after it end with
    /// [`StoreError::Unavailable`].
    pub async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks on several threads use it; sqlx's types make it easy to lose that.
    #[test]
    fn its_futures_are_send() {
        fn sendable(_: impl Send) {}
        let options = StoreOptions::default();
        sendable(Store::open("sqlite:x", &options));
        let _unused = |store: Store, batch: Batch| {
            sendable(store.load(0));
            sendable(store.close());
            sendable(async move { store.commit(&batch).await.is_ok() });
        };
    }
}
