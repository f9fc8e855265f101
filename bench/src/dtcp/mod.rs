//! The DTCP service under load: the real `sixferryd` and `sixferry-control`, thousands of clients.
//!
//! ```text
//!   users: u0 -------- r0 :relay  sixferry-control (store, DTCP)
//!   (swarm)                         | gRPC over a unix socket
//!          i0 -------- r1        sixferryd
//! ```
//!
//! Every client has an IPv4 address of its own: the users' namespace takes all of [`CLIENTS`] for its
//! own, so that any of them can be bound without being configured. A swarm is a process of its own
//! with at most as many clients as it may have descriptors; what it costs is measured apart from the
//! daemons, but on the same CPUs.

pub mod churn;
pub mod daemons;
pub mod idle;
pub mod lab;
pub mod latency;
pub mod logins;
pub mod report;
pub mod stand;
pub mod swarm;
pub mod usage;

use ipnet::Ipv4Net;
use serde::Serialize;
use std::net::Ipv4Addr;

/// Where clients come from.
pub const CLIENTS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 64, 0, 0), 14);

/// Most clients: each has an address of its own, and the first one is no host's.
pub const CLIENTS_MAX: u32 = (1 << (32 - CLIENTS.1)) - 2;

/// The relay's end of the link to the users.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Whose session it is, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct User(pub u32);

impl User {
    /// His name.
    #[must_use]
    pub fn name(self) -> String {
        format!("u{:06}", self.0)
    }

    /// His secret, which is nobody else's.
    #[must_use]
    pub fn secret(self) -> String {
        format!("secret-of-{:06}", self.0)
    }

    /// The address he comes from.
    ///
    /// # Panics
    /// For a number of [`CLIENTS_MAX`] or more.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        assert!(self.0 < CLIENTS_MAX, "no address for {self:?}");
        Ipv4Addr::from_bits(CLIENTS.0.to_bits() + 1 + self.0)
    }
}

/// The clients' addresses as `ip` takes them.
fn clients() -> Ipv4Net {
    Ipv4Net::new_assert(CLIENTS.0, CLIENTS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_differ_and_stay_within_their_network() {
        let (first, last) = (User(0), User(CLIENTS_MAX - 1));
        assert_eq!(first.address(), Ipv4Addr::new(10, 64, 0, 1));
        assert_eq!(last.address(), Ipv4Addr::new(10, 67, 255, 254));
        assert!(clients().contains(&last.address()));
        assert_ne!(first.name(), last.name());
        assert_ne!(first.secret(), last.secret());
        assert!(sixferry_dtcp::wire::is_user_name(last.name().as_bytes()));
    }
}
