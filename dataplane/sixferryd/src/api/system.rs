//! SystemService.

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::system_service_server::SystemService;
use tonic::{Request, Response, Status};

use super::Api;
use crate::config::{Finding, MAX_TEXT_LEN, Severity};
use crate::control::error::Error;

/// What this build can do.
const FEATURES: [&str; 17] = [
    "six_in_four",
    "udp",
    "6to4",
    "6rd",
    "mtu_static",
    "mtu_managed",
    "mtu_dynamic",
    "mss_clamp",
    "reassembly",
    "outer_fragmentation",
    "liveness",
    "host_port",
    "events",
    "test_packet",
    "vlan",
    "native_routing",
    "tunnel_to_tunnel",
];

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_info(
        &self,
        _request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let (tunnels, domains, routes, table_bytes, revision) = self.shared.with(|control| {
            let bytes = control.builder().memory() as u64;
            let counts = [
                control.tunnel_count(),
                control.domain_count(),
                control.route_count(),
            ];
            let [tunnels, domains, routes] = counts.map(|count| count as u64);
            (tunnels, domains, routes, bytes, control.revision())
        });
        let uptime = self.started.elapsed();
        Ok(Response::new(pb::GetInfoResponse {
            dataplane_instance_id: self.instance(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(self.start_time.into()),
            uptime: prost_types::Duration::try_from(uptime).ok(),
            worker_count: u32::try_from(self.runtime.workers.len()).unwrap_or(u32::MAX),
            features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
            port_count: u32::try_from(self.runtime.ports.len()).unwrap_or(u32::MAX),
            tunnel_count: tunnels,
            route_count: routes,
            resident_bytes: sixferry_service::resident_bytes().unwrap_or(0),
            table_bytes,
            idle_policy: self.runtime.idle.to_owned(),
            config_path: self.manager.path().display().to_string(),
            revision,
            pid: std::process::id(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            domain_count: domains,
        }))
    }

    async fn get_config(
        &self,
        _request: Request<pb::GetConfigRequest>,
    ) -> Result<Response<pb::GetConfigResponse>, Status> {
        let (text, applied) = self.manager.text();
        Ok(Response::new(pb::GetConfigResponse {
            dataplane_instance_id: self.instance(),
            path: self.manager.path().display().to_string(),
            text,
            applied_time: Some(applied.into()),
        }))
    }

    async fn check_config(
        &self,
        request: Request<pb::CheckConfigRequest>,
    ) -> Result<Response<pb::CheckConfigResponse>, Status> {
        let text = request.into_inner().text;
        if text.len() > MAX_TEXT_LEN {
            let message = format!("{} bytes; at most {MAX_TEXT_LEN}", text.len());
            return Err(Error::field("text", message).into());
        }
        let (checked, plan) = self.manager.check(&text);
        Ok(Response::new(pb::CheckConfigResponse {
            dataplane_instance_id: self.instance(),
            valid: checked.config.is_some(),
            findings: checked.findings.iter().map(finding).collect(),
            changes: plan.changes,
            restart_required: plan.restart_required,
        }))
    }

    async fn reload_config(
        &self,
        _request: Request<pb::ReloadConfigRequest>,
    ) -> Result<Response<pb::ReloadConfigResponse>, Status> {
        let report = self.manager.reload(&self.shared).await;
        Ok(Response::new(pb::ReloadConfigResponse {
            dataplane_instance_id: self.instance(),
            applied: report.applied,
            findings: report.findings.iter().map(finding).collect(),
            changes: report.plan.changes,
            restart_required: report.plan.restart_required,
        }))
    }
}

fn finding(finding: &Finding) -> pb::Finding {
    let severity = match finding.severity {
        Severity::Warning => pb::Severity::Warning,
        Severity::Error => pb::Severity::Error,
    };
    pb::Finding {
        severity: severity.into(),
        key: finding.key.clone(),
        line: finding.line,
        column: finding.column,
        message: finding.message.clone(),
    }
}
