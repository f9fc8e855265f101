//! What plugins ask of the lifecycle, in the same process or over `sixferry.control.v1`.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::future::BoxFuture;
use ipnet::Ipv6Net;
use tokio::sync::broadcast;

use crate::model::{AccountId, Cause, Lease, LeaseNumber, Profile, Service, Slot, TunnelId};

/// An answer that is waited for.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// The lifecycle as plugins see it.
pub trait Tunnels: Send + Sync + 'static {
    /// Checks a challenge-response login. An unknown user, a wrong digest, a user without a secret and
    /// a suspended one are all [`Denied`], after the same work.
    fn authenticate<'a>(&'a self, attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>>;

    /// Gives a tunnel that forwards: committed, and applied by the dataplanes that are connected.
    /// Waits for a store or a dataplane that is away, up to the configured time, then
    /// [`Error::Unavailable`], and nothing is left of the attempt.
    ///
    /// Where the account already has what is asked for, that is given: an orphaned tunnel of the same
    /// profile and ends; with `exclusive` any tunnel of the account in this slot or profile; with
    /// protocol 41 the one with the same (local, remote) pair. An older holder is told
    /// ([`Revocation`], [`RevokeCause::Replaced`]).
    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease>;

    /// Gives a tunnel back. Resolves when it is committed; the dataplanes follow within a second.
    /// Does nothing when `number` is not the present holder's. Kept and retried while the store is
    /// away, so a caller need not wait.
    fn release<'a>(&'a self, tunnel: TunnelId, number: LeaseNumber, cause: Cause) -> Reply<'a, ()>;

    /// Leases taken away from their holders from now on. A receiver that lags behind must check its
    /// leases with [`Tunnels::holds`].
    fn revocations(&self) -> broadcast::Receiver<Revocation>;

    /// Which of these leases still hold.
    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>>;
}

/// A login by challenge and response (DTCP, APOP): MD5 of user, challenge and secret.
#[derive(Clone, Copy)]
pub struct Digest<'a> {
    /// User name as sent.
    pub user: &'a [u8],
    /// The challenge as sent: ASCII.
    pub challenge: &'a [u8],
    /// The answer.
    pub digest: [u8; 16],
}

impl fmt::Debug for Digest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the digest nor what it was made from belongs into a log.
        f.debug_struct("Digest")
            .field("user", &String::from_utf8_lossy(self.user))
            .finish_non_exhaustive()
    }
}

/// No such login. Says no more, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

/// A wish for a tunnel.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The plugin that asks.
    pub service: Service,
    /// For whom.
    pub account: AccountId,
    /// Addressing.
    pub profile: Profile,
    /// IPv4 address of the relay.
    pub local: Ipv4Addr,
    /// IPv4 address of the user.
    pub remote: Ipv4Addr,
    /// Encapsulation.
    pub transport: WantedTransport,
    /// Which logical interfaces are good.
    pub slot: SlotChoice,
    /// [`Profile::Host`]: the /64 (or longer) its pair is taken from, by the slot's unit.
    pub host_prefix: Option<Ipv6Net>,
    /// [`Profile::Network`]: what is routed to him. Empty: the account's own prefixes, and with none
    /// of these it is [`Error::NoPrefix`], unless `prefixless`.
    pub prefixes: Vec<Ipv6Net>,
    /// [`Profile::Network`] without any prefix is wanted (`-` in a routetable).
    pub prefixless: bool,
    /// Largest inner packet, 1280 to 1480 (1472 with UDP).
    pub mtu: u16,
    /// The account has one tunnel of this kind: the newest login wins.
    pub exclusive: bool,
}

/// Encapsulation asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedTransport {
    /// Protocol 41.
    SixInFour,
    /// UDP with a port of its own.
    Udp {
        /// Where the relay's port is taken from: the lowest one never used, then the one that was
        /// freed longest ago.
        ports: RangeInclusive<u16>,
        /// The user's port; `None`: learnt.
        remote_port: Option<u16>,
        /// His packets may come from any address.
        any_source: bool,
    },
}

/// Logical interfaces that will do. The lowest free one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotChoice {
    /// `stem` with a unit of this range.
    Range {
        /// Letters.
        stem: Arc<str>,
        /// Units.
        units: RangeInclusive<u32>,
        /// Units that others are pinned to; sorted.
        except: Arc<[u32]>,
    },
    /// One of these, in this order.
    OneOf(Arc<[Slot]>),
    /// This one and no other.
    Exactly(Slot),
}

/// A lease was taken away from its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Number of the holder that lost it.
    pub number: LeaseNumber,
    /// Why.
    pub cause: RevokeCause,
}

/// Why a lease was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeCause {
    /// A newer login of the same account.
    Replaced,
    /// The operator: disconnected, suspended, deleted.
    Administrative,
    /// No dataplane can carry it (any more).
    Refused,
}

/// Why a wish was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No slot of the choice, no UDP port, or no number of the pool is free.
    #[error("no free {what}")]
    SoldOut {
        /// What ran out: `interface`, `UDP port`, `prefix`.
        what: &'static str,
    },
    /// Another account's protocol-41 tunnel has the same two ends.
    #[error("the tunnel from {local} to {remote} belongs to another account")]
    EndpointInUse {
        /// IPv4 address of the relay.
        local: Ipv4Addr,
        /// IPv4 address of the user.
        remote: Ipv4Addr,
    },
    /// A prefix of the wish is routed to another account.
    #[error("{prefix} is routed to another account")]
    PrefixInUse {
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// A network tunnel was wanted and the account has no prefix.
    #[error("the account has no prefix")]
    NoPrefix,
    /// The account is gone or may not log in.
    #[error("no such account, or it is suspended")]
    NoAccount,
    /// The wish contradicts itself or a limit.
    #[error("{field}: {problem}")]
    Invalid {
        /// Field of [`Acquire`].
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A dataplane refused it.
    #[error("the dataplane refused it: {0}")]
    Refused(String),
    /// The store or every dataplane is away.
    #[error("{0}")]
    Unavailable(String),
}
