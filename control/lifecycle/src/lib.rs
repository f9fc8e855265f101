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

mod api;
mod model;
pub mod secret;
pub mod store;

pub use api::{
    Acquire, Denied, Digest, Error, Reply, Revocation, RevokeCause, SlotChoice, Tunnels,
    WantedTransport,
};
pub use model::{
    Account, AccountId, AccountStatus, AddressPair, Cause, EndpointV4, Lease, LeaseNumber, Pool,
    PoolId, PoolKind, Profile, Service, Slot, Transport, Tunnel, TunnelId, TunnelState,
};
