//! Tests of the DTCP server from outside. Names begin with the row of `docs/dtcp-coverage.md` that
//! they show.
#![forbid(unsafe_code)]

mod bed;
mod client;
mod configuration;
mod dumps;
mod fake;
mod hostile;
mod load;
mod protocol;
mod routes;
mod sessions;
mod timing;
mod transcripts;
