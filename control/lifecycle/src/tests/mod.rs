//! The service against a model of the dataplane and of the store, in virtual time.

mod dtcp;
mod faults;
mod flow;
mod model;
mod refusals;
mod storm;
