//! Namespace tests with real peers.
