//! The DTCP server.
#![forbid(unsafe_code)]
