//! The daemon and its configuration as JSON.

use serde::Serialize;
use sixferry_client::api;

use super::timestamp;

/// The daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    pub(crate) dataplane_instance_id: String,
    pub(crate) version: String,
    pub(crate) start_time: Option<String>,
    pub(crate) uptime_seconds: f64,
    pub(crate) worker_count: u32,
    pub(crate) idle_policy: String,
    pub(crate) features: Vec<String>,
    pub(crate) port_count: u32,
    pub(crate) tunnel_count: u64,
    pub(crate) domain_count: u64,
    pub(crate) route_count: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) table_bytes: u64,
    pub(crate) config_path: String,
    pub(crate) revision: u64,
    pub(crate) pid: u32,
    pub(crate) kernel: String,
}

impl From<api::GetInfoResponse> for Info {
    fn from(proto: api::GetInfoResponse) -> Self {
        let uptime = proto.uptime.unwrap_or_default();
        Self {
            dataplane_instance_id: proto.dataplane_instance_id,
            version: proto.version,
            start_time: proto.start_time.and_then(|t| timestamp(t.seconds)),
            uptime_seconds: uptime.seconds as f64 + f64::from(uptime.nanos) / 1e9,
            worker_count: proto.worker_count,
            idle_policy: proto.idle_policy,
            features: proto.features,
            port_count: proto.port_count,
            tunnel_count: proto.tunnel_count,
            domain_count: proto.domain_count,
            route_count: proto.route_count,
            resident_bytes: proto.resident_bytes,
            table_bytes: proto.table_bytes,
            config_path: proto.config_path,
            revision: proto.revision,
            pid: proto.pid,
            kernel: proto.kernel,
        }
    }
}

/// Something noticed in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: &'static str,
    pub(crate) key: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) message: String,
}

impl From<api::Finding> for Finding {
    fn from(proto: api::Finding) -> Self {
        let severity = match proto.severity() {
            api::Severity::Error => "error",
            api::Severity::Warning => "warning",
            api::Severity::Unspecified => "unknown",
        };
        Self {
            severity,
            key: proto.key,
            line: proto.line,
            column: proto.column,
            message: proto.message,
        }
    }
}

/// The verdict on a configuration, checked or reloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    /// After a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) valid: Option<bool>,
    /// After a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) applied: Option<bool>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) changes: Vec<String>,
    pub(crate) restart_required: Vec<String>,
}

impl From<api::CheckConfigResponse> for Verdict {
    fn from(proto: api::CheckConfigResponse) -> Self {
        Self {
            valid: Some(proto.valid),
            applied: None,
            findings: proto.findings.into_iter().map(Into::into).collect(),
            changes: proto.changes,
            restart_required: proto.restart_required,
        }
    }
}

impl From<api::ReloadConfigResponse> for Verdict {
    fn from(proto: api::ReloadConfigResponse) -> Self {
        Self {
            valid: None,
            applied: Some(proto.applied),
            findings: proto.findings.into_iter().map(Into::into).collect(),
            changes: proto.changes,
            restart_required: proto.restart_required,
        }
    }
}
