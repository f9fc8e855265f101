//! Accounts, prefix pools and tunnels: the store, and the state of every tunnel from the wish to the
//! tombstone.
//!
//! * [`Tunnels`] is what a plugin (DTCP, the broker, DHCPv6, Teredo) asks for: check a user, get a
//!   tunnel, give it back. It is served in the same process or over `sixferry.control.v1`.
//! * A change is committed to the store before its side effect; the dataplanes follow the
//!   `change_log`. Whatever moment the process is killed at, there is nothing of a tunnel, or
//!   something that the next start completes or, after a grace time, removes.
//!
//! What it must not do: speak a user's protocol, or look at a packet.
#![forbid(unsafe_code)]

mod admin;
mod api;
mod auth;
mod claims;
mod clock;
mod config;
mod delegations;
mod freed;
mod jobs;
mod lifecycle;
mod machine;
mod mirror;
mod model;
mod pace;
mod pairs;
mod ports;
mod relays;
mod runs;
pub mod secret;
mod shared;
mod slots;
mod state;
pub mod store;
#[cfg(test)]
mod tests;
mod timer;
mod writer;

pub use admin::{
    AccountFilter, AdminError, ImportReport, ImportedAccount, NewAccount, NewPool, PoolView,
    RelayStats, Stats, Transition, TunnelFilter,
};
pub use api::{
    Acquire, Denied, Digest, Error, Reply, Revocation, RevokeCause, SlotChoice, Tunnels,
    WantedTransport,
};
pub use config::{DataplaneConfig, LifecycleConfig};
pub use lifecycle::{Lifecycle, StartError};
pub use model::{
    Account, AccountId, AccountStatus, AddressPair, Cause, EndpointV4, Lease, LeaseNumber, Pool,
    PoolId, PoolKind, Profile, Service, Slot, Transport, Tunnel, TunnelId, TunnelState,
};
