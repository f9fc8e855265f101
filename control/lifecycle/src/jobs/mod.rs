//! What is decided by the writer: a wish for a tunnel, its end, and what the operator wants.

mod acquire;
mod admin;
mod release;
mod rivals;

pub(crate) use acquire::{Acquiring, Held};
pub(crate) use admin::{Administering, Decision, release_all, release_one};
pub(crate) use release::Releasing;
