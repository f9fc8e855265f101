//! Header views, in-place edits and checksums.
//!
//! etherparse builds and prints whole packets; this crate holds what it lacks: fixed-offset reads and
//! writes on a packet that stays where it is, and the one's complement arithmetic that goes with
//! them. No I/O, no allocation except in [`describe`].
//!
//! Every view borrows an array of exactly the header's length, so a bounds check happens once, where
//! the slice becomes an array, and nothing here can panic.

#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

pub mod checksum;
pub mod describe;
pub mod embed;
pub mod ether;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod udp;
