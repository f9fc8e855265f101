//! What the operator's side asks for and is told.

use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;

use crate::secret::Secret;
use crate::{
    AccountId, AccountStatus, Cause, Pool, PoolKind, Service, Slot, TunnelId, TunnelState,
};

/// A new account.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Unique, 1 to 64 bytes of printable ASCII without space.
    pub name: String,
    /// DTCP secret, if any.
    pub secret: Option<Secret>,
    /// Whether it may log in.
    pub status: AccountStatus,
    /// Its own prefixes.
    pub prefixes: Vec<Ipv6Net>,
}

/// An account of an import: what is `None` stays as it is.
#[derive(Clone, Debug)]
pub struct ImportedAccount {
    /// Name.
    pub name: String,
    /// Whether it may log in; a new one may. Suspending it takes its tunnels away.
    pub status: Option<AccountStatus>,
    /// New secret.
    pub secret: Option<Secret>,
    /// New prefixes, all of them.
    pub prefixes: Option<Vec<Ipv6Net>>,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Accounts that are new.
    pub added: u64,
    /// Accounts that are different now.
    pub changed: u64,
    /// Accounts that were as wished.
    pub skipped: u64,
    /// Those that were refused, and why; the first [`ImportReport::MAX_REFUSED`].
    pub refused: Vec<(String, AdminError)>,
    /// All that were refused.
    pub refused_count: u64,
}

impl ImportReport {
    /// Refusals kept in full.
    pub const MAX_REFUSED: usize = 1000;
}

/// A new pool.
#[derive(Clone, Debug)]
pub struct NewPool {
    /// Unique, 1 to 63 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// What is given.
    pub kind: PoolKind,
    /// What it is given from.
    pub prefix: Ipv6Net,
    /// Seconds during which a freed number is given to nobody.
    pub quarantine_seconds: u32,
}

/// A pool and how full it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// The pool.
    pub pool: Pool,
    /// Numbers that are given.
    pub used: u64,
    /// Numbers in quarantine.
    pub quarantined: u64,
    /// Numbers there are.
    pub total: u64,
}

impl PoolView {
    /// Given and in quarantine, in per cent.
    pub fn fill(&self) -> f64 {
        if self.total == 0 {
            return 100.0;
        }
        (self.used + self.quarantined) as f64 * 100.0 / self.total as f64
    }
}

/// Which accounts.
#[derive(Clone, Debug, Default)]
pub struct AccountFilter {
    /// Names that begin so.
    pub name_prefix: String,
    /// Only those.
    pub status: Option<AccountStatus>,
}

/// Which tunnels.
#[derive(Clone, Debug, Default)]
pub struct TunnelFilter {
    /// Of this account.
    pub account: Option<AccountId>,
    /// Of this service.
    pub service: Option<Service>,
    /// In this state.
    pub state: Option<TunnelState>,
}

/// A tunnel changed its state. Told after it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// `change_log` sequence; 0 where only an older state was passed over.
    pub seq: i64,
    /// Which.
    pub tunnel: TunnelId,
    /// Whose.
    pub account: AccountId,
    /// The plugin it belongs to.
    pub service: Service,
    /// Logical interface.
    pub slot: Slot,
    /// State before; `None`: it is new.
    pub from: Option<TunnelState>,
    /// State now.
    pub to: TunnelState,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: i64,
}

/// Figures for metrics; what counts never goes down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Accounts.
    pub accounts: u64,
    /// Tunnels waiting for a dataplane.
    pub pending: u64,
    /// Tunnels held by a session.
    pub active: u64,
    /// Tunnels waiting for their user.
    pub orphaned: u64,
    /// Tunnels the dataplanes have yet to remove.
    pub releasing: u64,
    /// Gone, their numbers in quarantine.
    pub tombstones: u64,
    /// Logins with the right answer.
    pub logins_ok: u64,
    /// Logins that were denied.
    pub logins_denied: u64,
    /// Tunnels that were given.
    pub acquired: u64,
    /// Of these, those the user had before.
    pub resumed: u64,
    /// Wishes that failed for want of a free number.
    pub sold_out: u64,
    /// Wishes a dataplane refused.
    pub refused: u64,
    /// Wishes that ran out of time.
    pub timed_out: u64,
    /// Tunnels given back.
    pub released: u64,
    /// Transactions.
    pub commits: u64,
    /// Groups in them.
    pub groups: u64,
    /// Groups the store refused because of another writer.
    pub conflicts: u64,
    /// Wishes waiting for the writer.
    pub queue_depth: u64,
    /// Most there may be.
    pub queue_limit: u64,
    /// For how long the store has been away; zero: it is there.
    pub store_away: Duration,
    /// Times a task ended unexpectedly and was started again.
    pub restarts: u64,
    /// The dataplanes.
    pub relays: Vec<RelayStats>,
}

/// A dataplane as the lifecycle sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelayStats {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// A session is open.
    pub connected: bool,
    /// The re-sync after the connection is complete.
    pub synced: bool,
    /// Instance it runs as; empty: never seen.
    pub instance: String,
    /// Tunnels to be written to it.
    pub backlog: u64,
    /// `change_log` sequence it has applied everything up to.
    pub applied_seq: i64,
    /// Re-syncs that were completed.
    pub resyncs: u64,
    /// Entries it confirmed.
    pub applied: u64,
    /// Entries it refused.
    pub refused: u64,
    /// What ended the last connection; empty: nothing did.
    pub last_error: String,
}

/// Why the operator's wish was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// There is none.
    #[error("no such {what}: {name}")]
    NotFound {
        /// `account`, `pool`, `tunnel`, `prefix`.
        what: &'static str,
        /// As asked for.
        name: String,
    },
    /// There is one already.
    #[error("the {what} {name} exists already")]
    Exists {
        /// `account` or `pool`.
        what: &'static str,
        /// As asked for.
        name: String,
    },
    /// The wish contradicts itself.
    #[error("{field}: {problem}")]
    Invalid {
        /// Field of the wish.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A prefix is somebody else's.
    #[error("{prefix} overlaps {other}, which belongs to {owner}")]
    PrefixInUse {
        /// As asked for.
        prefix: Ipv6Net,
        /// What is in the way.
        other: Ipv6Net,
        /// Whose that is: an account or a pool.
        owner: String,
    },
    /// Something still needs it.
    #[error("{what} is in use: {by}")]
    InUse {
        /// What.
        what: String,
        /// By what.
        by: String,
    },
    /// A limit.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: u64,
    },
    /// The pool is empty.
    #[error("the pool {0} is sold out")]
    SoldOut(String),
    /// The store is away.
    #[error("{0}")]
    Unavailable(String),
}
