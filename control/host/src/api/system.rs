//! SystemService.

use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::system_service_server::SystemService;
use sixferry_service::{Finding, MAX_TEXT_LEN, Severity, resident_bytes};
use tonic::{Request, Response, Status};

use super::Api;
use super::status::bad_field;
use crate::metrics;

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_info(
        &self,
        _request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        Ok(Response::new(pb::GetInfoResponse {
            control_instance_id: self.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(self.start_time.into()),
            uptime: prost_types::Duration::try_from(self.started.elapsed()).ok(),
            pid: std::process::id(),
            config_path: self.manager.path().display().to_string(),
            resident_bytes: resident_bytes().unwrap_or(0),
        }))
    }

    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let state = |up: bool| match up {
            true => pb::PartState::Up.into(),
            false => pb::PartState::Down.into(),
        };
        let mut parts: Vec<_> = self
            .board
            .read()
            .into_iter()
            .map(|(name, part)| pb::Part {
                name: name.to_owned(),
                state: state(part.up),
                message: part.message,
                restarts: part.restarts,
            })
            .collect();
        if let Ok(lifecycle) = self.lifecycle() {
            let stats = lifecycle.stats();
            let away = stats.store_away;
            parts.push(pb::Part {
                name: "store".to_owned(),
                state: state(away.is_zero()),
                message: match away.as_secs_f64() {
                    0.0 => String::new(),
                    seconds => format!("away for {seconds:.0} s"),
                },
                restarts: 0,
            });
            parts.extend(stats.relays.iter().map(|relay| pb::Part {
                name: format!("dataplane {}", relay.name),
                state: state(relay.connected && relay.synced),
                message: relay.last_error.clone(),
                restarts: relay.resyncs,
            }));
        }
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        let figures = metrics::figures(self).into_iter();
        let figure = |(name, value): (String, u64)| pb::Figure { name, value };
        Ok(Response::new(pb::GetStatusResponse {
            parts,
            figures: figures.map(figure).collect(),
        }))
    }

    async fn check_config(
        &self,
        request: Request<pb::CheckConfigRequest>,
    ) -> Result<Response<pb::CheckConfigResponse>, Status> {
        let text = request.into_inner().text;
        if text.len() > MAX_TEXT_LEN {
            let problem = format!("{} bytes; at most {MAX_TEXT_LEN}", text.len());
            return Err(bad_field("text", problem));
        }
        let (checked, plan) = self.manager.check(&text);
        Ok(Response::new(pb::CheckConfigResponse {
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
        let report = self.manager.reload().await;
        Ok(Response::new(pb::ReloadConfigResponse {
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
