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
    pub(super) state_dir: Key<String>,
    pub(super) api: RawApi,
    pub(super) metrics: RawMetrics,
    pub(super) log: RawLog,
    pub(super) worker: RawWorker,
    pub(super) router: RawRouter,
    pub(super) steering: RawSteering,
    pub(super) host_port: RawHostPort,
    pub(super) reassembly: RawReassembly,
    pub(super) liveness: RawLiveness,
    pub(super) state: RawState,
    pub(super) port: Vec<Spanned<RawPort>>,
    pub(super) tunnel: Vec<Spanned<RawTunnel>>,
    pub(super) domain: Vec<Spanned<RawDomain>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApi {
    pub(super) unix_socket: Key<String>,
    pub(super) tcp: Key<RawTcp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTcp {
    pub(super) listen: Key<String>,
    pub(super) cert: Key<String>,
    pub(super) key: Key<String>,
    pub(super) client_ca: Key<String>,
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
pub(super) struct RawWorker {
    pub(super) count: Key<u32>,
    pub(super) idle: Key<String>,
    pub(super) pin: Key<bool>,
    pub(super) first_cpu: Key<u32>,
    pub(super) frames: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRouter {
    pub(super) address: Key<String>,
    pub(super) icmp_errors_per_second: Key<u32>,
    pub(super) icmp_errors_burst: Key<u32>,
    pub(super) icmp_errors_per_tunnel_per_second: Key<u32>,
    pub(super) icmp_errors_per_tunnel_burst: Key<u32>,
    pub(super) answers_per_second: Key<u32>,
    pub(super) answers_burst: Key<u32>,
    pub(super) answers_per_tunnel_per_second: Key<u32>,
    pub(super) answers_per_tunnel_burst: Key<u32>,
    pub(super) outer_options: Key<String>,
    pub(super) native_source_check: Key<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSteering {
    pub(super) prefixes: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHostPort {
    pub(super) enabled: Key<bool>,
    pub(super) name: Key<String>,
    pub(super) mtu: Key<u32>,
    pub(super) routes: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReassembly {
    pub(super) per_source: Key<u32>,
    pub(super) contexts: Key<u32>,
    pub(super) bytes: Key<u32>,
    pub(super) timeout_seconds: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLiveness {
    pub(super) probes_per_second: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawState {
    pub(super) save: Key<bool>,
    pub(super) restore: Key<bool>,
    pub(super) interval_seconds: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPort {
    pub(super) name: Key<String>,
    pub(super) mode: Key<String>,
    pub(super) vlans: Key<RawVlans>,
}

/// `vlans = "auto"` or `vlans = [100, 200]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawVlans {
    Word(String),
    List(Vec<u16>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTunnel {
    pub(super) id: Key<String>,
    pub(super) local: Key<String>,
    pub(super) remote: Key<String>,
    pub(super) prefixes: Vec<Spanned<String>>,
    /// The prefixes may lie inside those of another tunnel.
    pub(super) nested: Key<bool>,
    pub(super) link_prefix: Key<String>,
    pub(super) link_address: Key<String>,
    pub(super) link_local_address: Key<String>,
    pub(super) mtu: Key<u32>,
    pub(super) mtu_mode: Key<String>,
    pub(super) ttl: Key<RawTtl>,
    pub(super) dscp: Key<RawDscp>,
    pub(super) dscp_decap_copy: Key<bool>,
    pub(super) ecn: Key<String>,
    pub(super) strict_source: Key<bool>,
    pub(super) up: Key<bool>,
    pub(super) encap: Key<String>,
    pub(super) local_port: Key<u32>,
    pub(super) remote_port: Key<u32>,
    pub(super) shared_port: Key<bool>,
    pub(super) rebind: Key<String>,
    pub(super) path_mtu: Key<u32>,
    pub(super) min_path_mtu: Key<u32>,
    pub(super) mss_clamp: Key<bool>,
    pub(super) liveness: Key<String>,
    pub(super) liveness_interval_seconds: Key<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDomain {
    pub(super) id: Key<String>,
    /// `6to4` or `6rd`.
    pub(super) kind: Key<String>,
    pub(super) role: Key<String>,
    pub(super) local: Key<String>,
    pub(super) relay: Key<String>,
    pub(super) peer_v4_length: Key<u32>,
    pub(super) prefix: Key<String>,
    /// `address/length`: the bits all IPv4 addresses share.
    pub(super) v4_common: Key<String>,
    pub(super) br: Key<String>,
    pub(super) anycast: Key<bool>,
    pub(super) input: Key<bool>,
    pub(super) urpf: Key<String>,
    pub(super) allow_v4: Vec<Spanned<String>>,
    pub(super) deny_v4: Vec<Spanned<String>>,
    /// Prefixes routed out through the domain's relay.
    pub(super) routes: Vec<Spanned<String>>,
    pub(super) mtu: Key<u32>,
    pub(super) mtu_mode: Key<String>,
    pub(super) ttl: Key<RawTtl>,
    pub(super) dscp: Key<RawDscp>,
    pub(super) dscp_decap_copy: Key<bool>,
    pub(super) ecn: Key<String>,
    pub(super) mss_clamp: Key<bool>,
    pub(super) up: Key<bool>,
}

/// `ttl = 64` or `ttl = "inherit"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawTtl {
    Number(u32),
    Word(String),
}

/// `dscp = 0` or `dscp = "copy"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawDscp {
    Number(u32),
    Word(String),
}
