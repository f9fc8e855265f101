//! The file as written: every key optional, every value with its place in the text.
//!
//! An unknown key is an error, for a typo must not silently become a default.

use serde::Deserialize;
use toml::Spanned;

/// A value that may be absent and knows where it stands.
pub(super) type Key<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) control: RawControl,
    pub(super) metrics: RawMetrics,
    pub(super) log: RawLog,
    pub(super) store: RawStore,
    pub(super) lifecycle: RawLifecycle,
    pub(super) dataplane: Vec<Spanned<RawDataplane>>,
    pub(super) dtcp: Key<sixferry_dtcp::Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawControl {
    pub(super) state_dir: Key<String>,
    pub(super) unix_socket: Key<String>,
    pub(super) tcp: Key<RawTcp>,
    pub(super) lifecycle: Key<String>,
    pub(super) lifecycle_tls: Key<RawTls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTcp {
    pub(super) listen: Key<String>,
    pub(super) cert: Key<String>,
    pub(super) key: Key<String>,
    pub(super) client_ca: Key<String>,
}

/// The client's half of mutual TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub(super) ca: Key<String>,
    pub(super) cert: Key<String>,
    pub(super) key: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    pub(super) listen: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: Key<String>,
    pub(super) level: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    pub(super) url: Key<String>,
    pub(super) key_file: Key<String>,
    pub(super) timeout_seconds: Key<u32>,
    pub(super) keep_days: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLifecycle {
    pub(super) grace_seconds: Key<u32>,
    pub(super) wait_seconds: Key<u32>,
    pub(super) tunnels_per_user: Key<u32>,
    pub(super) max_tunnels: Key<u32>,
    pub(super) max_users: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDataplane {
    pub(super) name: Key<String>,
    pub(super) address: Key<String>,
    pub(super) tls: Key<RawTls>,
    pub(super) timeout_seconds: Key<u32>,
}
