//! What is written to the store and read from it, besides the vocabulary of [`crate::model`].

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::Ipv6Net;

use crate::model::{
    Account, AccountId, Cause, EndpointV4, Pool, PoolId, Tunnel, TunnelId, TunnelState,
};
use crate::secret::Sealed;

/// Writes that are applied together or not at all. Their order counts only where they concern the
/// same object.
pub type Group = Vec<Write>;

/// Groups for one transaction, with a mark by which a repeated [`super::Store::commit`] finds out
/// that it was done already.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) mark: [u8; 16],
    pub(super) groups: Vec<Group>,
}

impl Batch {
    /// Groups per batch. More bring no speed, and every one waits for the last.
    pub const MAX_GROUPS: usize = 1024;

    /// A batch of at most [`Batch::MAX_GROUPS`] groups (more are refused by the commit). Give the
    /// same value to every attempt to commit it.
    #[must_use]
    pub fn new(groups: Vec<Group>) -> Batch {
        Batch {
            mark: rand::random(),
            groups,
        }
    }

    /// What it writes.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Takes it apart again.
    #[must_use]
    pub fn into_groups(self) -> Vec<Group> {
        self.groups
    }
}

/// One change. All but [`Write::Quarantine`] and [`Write::RelayAt`] are entered in the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new account with its prefixes; `has_secret` is not looked at.
    InsertAccount(Account),
    /// Name, status, prefixes and `changed_at` of an account; `has_secret` is not looked at.
    UpdateAccount(Account),
    /// Sets or takes away an account's secret.
    SetSecret {
        /// Whose.
        account: AccountId,
        /// Sealed for this account; `None`: it has none any more.
        secret: Option<Sealed>,
        /// When: the account's new `changed_at`.
        at: i64,
    },
    /// Removes an account with secret and prefixes. Conflicts while it has tunnels that are no
    /// tombstones.
    RemoveAccount {
        /// Which.
        account: AccountId,
        /// When.
        at: i64,
    },
    /// A new pool.
    InsertPool {
        /// The pool.
        pool: Pool,
        /// When.
        at: i64,
    },
    /// Everything of a pool but its id.
    UpdatePool {
        /// The pool.
        pool: Pool,
        /// When.
        at: i64,
    },
    /// Removes a pool.
    RemovePool {
        /// Which.
        pool: PoolId,
        /// When.
        at: i64,
    },
    /// A new tunnel, not a tombstone. `revision` is not looked at: it becomes this write's sequence.
    InsertTunnel {
        /// The tunnel.
        tunnel: Tunnel,
        /// For the history.
        cause: Cause,
    },
    /// A tunnel as it is now, not a tombstone; id, account and `created_at` do not change. `revision`
    /// as above. The history has `tunnel.state_at` as the time.
    UpdateTunnel {
        /// The tunnel.
        tunnel: Tunnel,
        /// State before.
        from: TunnelState,
        /// For the history.
        cause: Cause,
        /// `tunnel.prefixes` is not what the store has. Else it is not looked at.
        new_prefixes: bool,
    },
    /// Makes a tunnel a tombstone: what it had is free for the constraints. `tunnel` as it was but
    /// for `state_at`, which is the time; `state` and `revision` are not looked at.
    BuryTunnel {
        /// The tunnel.
        tunnel: Tunnel,
        /// State before.
        from: TunnelState,
        /// For the history.
        cause: Cause,
        /// Until when its numbers are given to nobody. [`super::Store::load`] brings it back until
        /// then.
        quarantine_until: i64,
    },
    /// Removes a tombstone before its time (an account is erased). Not needed for tidying: see
    /// [`super::Store::prune`].
    ForgetTunnel {
        /// Which.
        tunnel: TunnelId,
        /// When.
        at: i64,
    },
    /// A prefix that was taken back is given to nobody before `until`; the later of two times counts.
    /// Not logged: what takes it back is.
    Quarantine {
        /// The prefix.
        prefix: Ipv6Net,
        /// Until when. [`super::Store::load`] brings it back until then.
        until: i64,
    },
    /// How far a dataplane follows. Not logged.
    RelayAt {
        /// Name of the dataplane in the configuration.
        relay: Arc<str>,
        /// Sequence up to which it has everything.
        seq: i64,
        /// When.
        at: i64,
    },
}

impl Write {
    /// Whether it has a sequence in the change log.
    pub(crate) fn is_logged(&self) -> bool {
        !matches!(self, Write::Quarantine { .. } | Write::RelayAt { .. })
    }
}

/// A group was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Sequences of its logged writes, in their order.
    pub seqs: Range<i64>,
}

/// A group was refused, and nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by the store: {constraint}")]
pub struct Conflict {
    /// What it violated.
    pub constraint: Constraint,
}

/// The list of [`Constraint`]s: the number kept in the store, and a text for people.
macro_rules! constraints {
    ($($(#[$doc:meta])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// What a group can violate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Constraint {
            $($(#[$doc])+ $name,)+
        }

        impl Constraint {
            pub(super) fn code(self) -> i64 {
                match self {
                    $(Constraint::$name => $code,)+
                }
            }

            pub(super) fn from_code(code: i64) -> Option<Constraint> {
                match code {
                    $($code => Some(Constraint::$name),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for Constraint {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Constraint::$name => $text,)+
                })
            }
        }
    };
}

constraints! {
    /// The id of an account is taken.
    AccountId = 1, "the account's id is taken";
    /// The name of an account is taken.
    AccountName = 2, "the account's name is taken";
    /// The prefix is another account's.
    AccountPrefix = 3, "the prefix is another account's";
    /// There is no such account (any more), or it has tunnels and cannot be removed.
    Account = 4, "the account is gone, or has tunnels";
    /// The id of a pool is taken.
    PoolId = 5, "the pool's id is taken";
    /// The name of a pool is taken.
    PoolName = 6, "the pool's name is taken";
    /// The id of a tunnel is taken.
    TunnelId = 7, "the tunnel's id is taken";
    /// The logical interface is a live tunnel's.
    Slot = 8, "the interface is another tunnel's";
    /// A live protocol-41 tunnel has the same two ends.
    Pair41 = 9, "another tunnel has the same two ends";
    /// A live UDP tunnel has the port.
    UdpPort = 10, "the UDP port is another tunnel's";
    /// The user's address is a live tunnel's.
    ClientAddress = 11, "the user's address is another tunnel's";
    /// The relay's address is a live tunnel's.
    ServerAddress = 12, "the relay's address is another tunnel's";
    /// The prefix is routed into a live tunnel.
    Prefix = 13, "the prefix is routed into another tunnel";
    /// What is to be changed is not there, or is a tombstone.
    Missing = 14, "it is not there any more";
}

/// Everything a control process needs in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Identifies the store: drawn when it was made, 32 hexadecimal digits.
    pub store_id: String,
    /// By id.
    pub accounts: Vec<Account>,
    /// By id.
    pub pools: Vec<Pool>,
    /// All that are no tombstones, by id.
    pub tunnels: Vec<Tunnel>,
    /// Those in quarantine, by id.
    pub tombstones: Vec<Tombstone>,
    /// Prefixes in quarantine, and until when.
    pub quarantine: Vec<(Ipv6Net, i64)>,
    /// Relay UDP ports of tombstones that are still known, in quarantine or not, and when each was
    /// last given up; longest ago first.
    pub freed_ports: Vec<(EndpointV4, i64)>,
    /// How far each dataplane follows, by name.
    pub relays: Vec<RelayPosition>,
    /// Ids never used so far: take them from here on.
    pub next: NextIds,
    /// Last sequence of the change log; 0: none yet.
    pub last_seq: i64,
}

/// A tunnel that is gone while its numbers are in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The tunnel as it was.
    pub tunnel: Tunnel,
    /// Until when its numbers are given to nobody.
    pub quarantine_until: i64,
}

/// How far a dataplane follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayPosition {
    /// Name in the configuration.
    pub relay: Arc<str>,
    /// Sequence up to which it has everything.
    pub seq: i64,
}

/// The lowest ids that were never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextIds {
    /// Account.
    pub account: i64,
    /// Pool.
    pub pool: i64,
    /// Tunnel.
    pub tunnel: i64,
}

impl Default for NextIds {
    fn default() -> NextIds {
        NextIds {
            account: 1,
            pool: 1,
            tunnel: 1,
        }
    }
}

/// An entry of the change log: that something changed, not into what; its present state is in the
/// store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedChange {
    /// Without gaps, in the order of the commits.
    pub seq: i64,
    /// When, by the writer's clock.
    pub at: i64,
    /// What.
    pub change: Change,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An account is new or different, or its secret is.
    Account(AccountId),
    /// An account was removed.
    AccountRemoved(AccountId),
    /// A pool is new or different.
    Pool(PoolId),
    /// A pool was removed.
    PoolRemoved(PoolId),
    /// A tunnel is new or different.
    Tunnel(TunnelId),
    /// A tunnel became a tombstone.
    TunnelBuried(TunnelId),
    /// A tombstone was removed.
    TunnelForgotten(TunnelId),
}

/// An entry of a tunnel's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Sequence of the change.
    pub seq: i64,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Whose it was.
    pub account: AccountId,
    /// When.
    pub at: i64,
    /// State before; `None`: it was created.
    pub from: Option<TunnelState>,
    /// State after.
    pub to: TunnelState,
    /// Why.
    pub cause: Cause,
    /// The user's IPv4 address then.
    pub remote: Ipv4Addr,
}

/// How much of the past is kept. What is younger than `age` goes too where there is more than the
/// row limit; a tombstone in quarantine never goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Microseconds; default 90 days.
    pub age: i64,
    /// Rows of the change log; default 1 000 000.
    pub changes: u64,
    /// Rows of the history; default 2 000 000.
    pub history: u64,
    /// Tombstones; default 500 000.
    pub tombstones: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            age: 90 * 24 * 3600 * 1_000_000,
            changes: 1_000_000,
            history: 2_000_000,
            tombstones: 500_000,
        }
    }
}

/// What a [`super::Store::prune`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows of the change log.
    pub changes: u64,
    /// Rows of the history.
    pub history: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// There is more: call again soon.
    pub more: bool,
}
