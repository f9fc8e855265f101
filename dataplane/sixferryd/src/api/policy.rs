//! PolicyService: the rules; `test_packet` tries them.

use sixferry_fwd::{OuterOptions, RateLimits, Settings};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::policy_service_server::PolicyService;
use tonic::{Request, Response, Status};

use super::{Api, test_packet};
use crate::config::is_router_address;
use crate::control::error::Error;
use crate::convert::ip6_from;

/// Top-level fields of Policy.
const FIELDS: [&str; 5] = [
    "router_address",
    "icmp_errors",
    "answers",
    "outer_options",
    "native_source_check",
];

#[tonic::async_trait]
impl PolicyService for Api {
    async fn get_policy(
        &self,
        _request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::GetPolicyResponse>, Status> {
        let now = self
            .shared
            .with(|control| control.builder().settings().clone());
        Ok(Response::new(pb::GetPolicyResponse {
            dataplane_instance_id: self.instance(),
            policy: Some(message(&now)),
            overridden: overridden(&now, &self.manager.settings()),
        }))
    }

    async fn set_policy(
        &self,
        request: Request<pb::SetPolicyRequest>,
    ) -> Result<Response<pb::SetPolicyResponse>, Status> {
        let request = request.into_inner();
        let policy = request.policy;
        let policy = policy.ok_or_else(|| Error::field("policy", "missing"))?;
        let paths = match request.update_mask {
            None => FIELDS.iter().map(|field| (*field).to_owned()).collect(),
            Some(mask) => mask.paths,
        };
        let (now, change) = self.shared.with(|control| {
            let mut settings = control.builder().settings().clone();
            update(&mut settings, &policy, &paths)?;
            control.set_settings(&settings);
            Ok::<_, Error>((control.builder().settings().clone(), control.change()))
        })?;
        self.shared.visible(change).await;
        let overridden = overridden(&now, &self.manager.settings());
        tracing::info!(fields = paths.join(","), "policy changed over the API");
        Ok(Response::new(pb::SetPolicyResponse {
            dataplane_instance_id: self.instance(),
            policy: Some(message(&now)),
            overridden,
        }))
    }

    async fn test_packet(
        &self,
        request: Request<pb::TestPacketRequest>,
    ) -> Result<Response<pb::TestPacketResponse>, Status> {
        let results = test_packet::run(self, request.into_inner().packets)?;
        Ok(Response::new(pb::TestPacketResponse {
            dataplane_instance_id: self.instance(),
            results,
        }))
    }
}

/// All named fields, or an error and none.
fn update(settings: &mut Settings, policy: &pb::Policy, paths: &[String]) -> Result<(), Error> {
    let mut bad = Vec::new();
    for path in paths {
        let mut complain = |text: String| bad.push((format!("policy.{path}"), text));
        match path.as_str() {
            "router_address" => match ip6_from(&policy.router_address) {
                Ok(address) if is_router_address(address) => settings.router_address = address,
                Ok(address) => complain(format!(
                    "{address} cannot be a source: give a global unicast one"
                )),
                Err(text) => complain(text),
            },
            "icmp_errors" => match &policy.icmp_errors {
                Some(limit) => settings.icmp_errors = limits(limit),
                None => complain("missing".to_owned()),
            },
            "answers" => match &policy.answers {
                Some(limit) => settings.answers = limits(limit),
                None => complain("missing".to_owned()),
            },
            "outer_options" => match pb::OuterOptions::try_from(policy.outer_options) {
                Ok(pb::OuterOptions::Unspecified | pb::OuterOptions::Drop) => {
                    settings.outer_options = OuterOptions::Drop;
                }
                Ok(pb::OuterOptions::Skip) => settings.outer_options = OuterOptions::Skip,
                Err(_) => complain("unknown to this version".to_owned()),
            },
            "native_source_check" => settings.native_source_check = policy.native_source_check,
            other => bad.push((
                "update_mask".to_owned(),
                format!("no field {other:?} to set"),
            )),
        }
    }
    if bad.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(bad))
    }
}

fn limits(limit: &pb::RateLimit) -> RateLimits {
    RateLimits {
        global_per_second: limit.per_second,
        global_burst: limit.burst,
        tunnel_per_second: limit.per_tunnel_per_second,
        tunnel_burst: limit.per_tunnel_burst,
    }
}

fn limit_message(limits: RateLimits) -> pb::RateLimit {
    pb::RateLimit {
        per_second: limits.global_per_second,
        burst: limits.global_burst,
        per_tunnel_per_second: limits.tunnel_per_second,
        per_tunnel_burst: limits.tunnel_burst,
    }
}

fn message(settings: &Settings) -> pb::Policy {
    let options = match settings.outer_options {
        OuterOptions::Drop => pb::OuterOptions::Drop,
        OuterOptions::Skip => pb::OuterOptions::Skip,
    };
    pb::Policy {
        router_address: settings.router_address.octets().to_vec(),
        icmp_errors: Some(limit_message(settings.icmp_errors)),
        answers: Some(limit_message(settings.answers)),
        outer_options: options.into(),
        native_source_check: settings.native_source_check,
    }
}

/// What differs from the file.
fn overridden(now: &Settings, file: &Settings) -> Vec<String> {
    let differs = [
        now.router_address != file.router_address,
        now.icmp_errors != file.icmp_errors,
        now.answers != file.answers,
        now.outer_options != file.outer_options,
        now.native_source_check != file.native_source_check,
    ];
    let fields = FIELDS.iter().zip(differs).filter(|(_, differs)| *differs);
    fields.map(|(field, _)| (*field).to_owned()).collect()
}
