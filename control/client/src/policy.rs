//! The relay's own rules, typed, and what they would do to a packet.

use std::net::{IpAddr, Ipv6Addr};

use sixferry_proto::dataplane::v1 as api;

use api::policy_service_client::PolicyServiceClient;

use crate::address::optional_ip;
use crate::{Client, Error};

pub use api::{OuterOptions, PacketForm, RateLimit, TestVerdict};

/// The rules that are not about a single tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Source of ICMPv6 errors; `None`: the dataplane has none yet.
    pub router_address: Option<Ipv6Addr>,
    /// How many ICMPv6 errors.
    pub icmp_errors: RateLimit,
    /// How many echo replies and neighbour advertisements.
    pub answers: RateLimit,
    /// IPv4 options in outer headers.
    pub outer_options: OuterOptions,
    /// Refuse a tunnel's addresses as sources on the native side.
    pub native_source_check: bool,
}

impl TryFrom<api::Policy> for Policy {
    type Error = Error;

    fn try_from(proto: api::Policy) -> Result<Self, Error> {
        let field = "policy.router_address";
        let router_address = match optional_ip(field, &proto.router_address)? {
            None => None,
            Some(IpAddr::V6(address)) => Some(address),
            Some(IpAddr::V4(_)) => return Err(Error::malformed(field, "is not an IPv6 address")),
        };
        Ok(Self {
            router_address,
            outer_options: match proto.outer_options() {
                OuterOptions::Unspecified => OuterOptions::Drop,
                options => options,
            },
            icmp_errors: proto.icmp_errors.unwrap_or_default(),
            answers: proto.answers.unwrap_or_default(),
            native_source_check: proto.native_source_check,
        })
    }
}

impl Policy {
    fn to_proto(&self) -> api::Policy {
        api::Policy {
            router_address: self
                .router_address
                .map_or_else(Vec::new, |a| a.octets().to_vec()),
            icmp_errors: Some(self.icmp_errors),
            answers: Some(self.answers),
            outer_options: self.outer_options.into(),
            native_source_check: self.native_source_check,
        }
    }
}

/// A rule that can be changed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyField {
    /// `router_address`
    RouterAddress,
    /// `icmp_errors`, all four numbers
    IcmpErrors,
    /// `answers`, all four numbers
    Answers,
    /// `outer_options`
    OuterOptions,
    /// `native_source_check`
    NativeSourceCheck,
}

impl PolicyField {
    fn path(self) -> &'static str {
        match self {
            Self::RouterAddress => "router_address",
            Self::IcmpErrors => "icmp_errors",
            Self::Answers => "answers",
            Self::OuterOptions => "outer_options",
            Self::NativeSourceCheck => "native_source_check",
        }
    }
}

/// The rules in force, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyReport {
    /// In force.
    pub policy: Policy,
    /// Names of the fields that differ from the configuration file.
    pub overridden: Vec<String>,
}

/// A packet to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestPacket {
    /// The bytes.
    pub data: Vec<u8>,
    /// How they begin.
    pub form: PacketForm,
    /// The port it arrives at; `None`: the first.
    pub port: Option<String>,
    /// With [`PacketForm::Ip`]: the VLAN it arrives in.
    pub vlan_id: Option<u16>,
}

/// What would happen to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// In one word.
    pub verdict: TestVerdict,
    /// Dropped or punted: name of the reason.
    pub reason: String,
    /// Dropped or punted: what it means.
    pub reason_text: String,
    /// Sent: the port it leaves by.
    pub egress_port: String,
    /// What would be sent, link header included.
    pub packet_out: Vec<u8>,
    /// The steps in words.
    pub steps: Vec<String>,
    /// The tunnel it came out of or would go into, if any.
    pub tunnel_id: Option<String>,
    /// The domain it came out of or would go into, if any.
    pub domain_id: Option<String>,
}

impl From<api::TestPacketResult> for TestResult {
    fn from(proto: api::TestPacketResult) -> Self {
        let some = |id: String| (!id.is_empty()).then_some(id);
        Self {
            verdict: proto.verdict(),
            reason: proto.reason,
            reason_text: proto.reason_text,
            egress_port: proto.egress_port,
            packet_out: proto.packet_out,
            steps: proto.steps,
            tunnel_id: some(proto.tunnel_id),
            domain_id: some(proto.domain_id),
        }
    }
}

impl TestPacket {
    /// Most packets of one call; beyond, [`Client::test_packets`] makes another.
    pub const MAX_PER_CALL: usize = 64;

    fn to_proto(&self) -> api::TestPacketInput {
        api::TestPacketInput {
            data: self.data.clone(),
            port: self.port.clone().unwrap_or_default(),
            form: self.form.into(),
            vlan_id: self.vlan_id.map_or(0, u32::from),
        }
    }
}

fn report(policy: Option<api::Policy>, overridden: Vec<String>) -> Result<PolicyReport, Error> {
    let policy = policy.ok_or(Error::malformed("policy", "is missing"))?;
    Ok(PolicyReport {
        policy: policy.try_into()?,
        overridden,
    })
}

impl Client {
    /// The rules in force.
    pub async fn policy(&self) -> Result<PolicyReport, Error> {
        let request = api::GetPolicyRequest {};
        let answer = self
            .call("GetPolicy", request, async |channel, r| {
                PolicyServiceClient::new(channel).get_policy(r).await
            })
            .await?;
        report(answer.policy, answer.overridden)
    }

    /// Changes rules until the next start or reload.
    pub async fn set_policy(
        &self,
        policy: &Policy,
        fields: &[PolicyField],
    ) -> Result<PolicyReport, Error> {
        let request = api::SetPolicyRequest {
            policy: Some(policy.to_proto()),
            update_mask: Some(prost_types::FieldMask {
                paths: fields.iter().map(|f| f.path().to_owned()).collect(),
            }),
        };
        let answer = self
            .call("SetPolicy", request, async |channel, r| {
                PolicyServiceClient::new(channel).set_policy(r).await
            })
            .await?;
        report(answer.policy, answer.overridden)
    }

    /// What would happen to these packets? A dry run; one result each. Rate limits start full
    /// with every [`TestPacket::MAX_PER_CALL`] packets.
    pub async fn test_packets(&self, packets: &[TestPacket]) -> Result<Vec<TestResult>, Error> {
        let mut results = Vec::with_capacity(packets.len());
        for packets in packets.chunks(TestPacket::MAX_PER_CALL) {
            let request = api::TestPacketRequest {
                packets: packets.iter().map(TestPacket::to_proto).collect(),
            };
            let answer = self
                .call("TestPacket", request, async |channel, r| {
                    PolicyServiceClient::new(channel).test_packet(r).await
                })
                .await?;
            if answer.results.len() != packets.len() {
                return Err(Error::malformed("results", "are not one per packet"));
            }
            results.extend(answer.results.into_iter().map(TestResult::from));
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_convert_both_ways() {
        let limit = |n| RateLimit {
            per_second: n,
            burst: n + 1,
            per_tunnel_per_second: n + 2,
            per_tunnel_burst: n + 3,
        };
        let policy = Policy {
            router_address: Some("2001:db8::1".parse().unwrap()),
            icmp_errors: limit(1),
            answers: limit(10),
            outer_options: OuterOptions::Skip,
            native_source_check: false,
        };
        assert_eq!(Policy::try_from(policy.to_proto()).unwrap(), policy);
        let mut proto = policy.to_proto();
        proto.router_address = vec![1, 2, 3, 4];
        let error = Policy::try_from(proto).unwrap_err().to_string();
        assert!(error.contains("policy.router_address is not an IPv6 address"));
        assert_eq!(
            Policy::try_from(api::Policy::default())
                .unwrap()
                .outer_options,
            OuterOptions::Drop
        );
    }
}
