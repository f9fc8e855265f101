//! `sixferry policy`: the relay's own rules, and what they would do to a packet.

mod packets;
mod test;

use std::net::Ipv6Addr;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use sixferry_client as client;

use crate::args::Global;
use crate::error::CliError;
use crate::output::{self, Facts};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show the rules in force.
    Show,
    /// Change rules until the next start or reload, which put back those of the configuration
    /// file.
    Set(Box<SetArgs>),
    /// Try packets on the tables in force: nothing is sent, counted or learnt.
    TestPacket(test::TestArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// Source of ICMPv6 errors; answers ping.
    #[arg(long, value_name = "ADDRESS")]
    router_address: Option<Ipv6Addr>,
    /// ICMPv6 errors, all tunnels together; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    icmp_errors_per_second: Option<u32>,
    /// ICMPv6 errors at once, all tunnels together.
    #[arg(long, value_name = "NUMBER")]
    icmp_errors_burst: Option<u32>,
    /// ICMPv6 errors about one tunnel; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    icmp_errors_per_tunnel_per_second: Option<u32>,
    /// ICMPv6 errors at once about one tunnel.
    #[arg(long, value_name = "NUMBER")]
    icmp_errors_per_tunnel_burst: Option<u32>,
    /// Echo replies and neighbour advertisements, all tunnels together; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    answers_per_second: Option<u32>,
    /// Echo replies and neighbour advertisements at once, all tunnels together.
    #[arg(long, value_name = "NUMBER")]
    answers_burst: Option<u32>,
    /// Echo replies and neighbour advertisements to one tunnel; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    answers_per_tunnel_per_second: Option<u32>,
    /// Echo replies and neighbour advertisements at once to one tunnel.
    #[arg(long, value_name = "NUMBER")]
    answers_per_tunnel_burst: Option<u32>,
    /// IPv4 options in outer headers; source routes are dropped always.
    #[arg(long, value_enum, value_name = "WHAT")]
    outer_options: Option<OuterOptions>,
    /// Refuse a tunnel's addresses as sources on the native side.
    #[arg(long, value_name = "true|false")]
    native_source_check: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum OuterOptions {
    /// The packet is dropped.
    Drop,
    /// Harmless ones are skipped.
    Skip,
}

impl SetArgs {
    /// Puts what is given into the rules and tells which fields that were.
    fn apply(&self, policy: &mut client::Policy) -> Vec<client::PolicyField> {
        use client::PolicyField as Field;
        let mut fields = Vec::new();
        if let Some(address) = self.router_address {
            policy.router_address = Some(address);
            fields.push(Field::RouterAddress);
        }
        let mut put = |limit: &mut client::RateLimit, given: [Option<u32>; 4], field| {
            let [per_second, burst, per_tunnel, per_tunnel_burst] = given;
            limit.per_second = per_second.unwrap_or(limit.per_second);
            limit.burst = burst.unwrap_or(limit.burst);
            limit.per_tunnel_per_second = per_tunnel.unwrap_or(limit.per_tunnel_per_second);
            limit.per_tunnel_burst = per_tunnel_burst.unwrap_or(limit.per_tunnel_burst);
            if given.iter().any(Option::is_some) {
                fields.push(field);
            }
        };
        let errors = [
            self.icmp_errors_per_second,
            self.icmp_errors_burst,
            self.icmp_errors_per_tunnel_per_second,
            self.icmp_errors_per_tunnel_burst,
        ];
        put(&mut policy.icmp_errors, errors, Field::IcmpErrors);
        let answers = [
            self.answers_per_second,
            self.answers_burst,
            self.answers_per_tunnel_per_second,
            self.answers_per_tunnel_burst,
        ];
        put(&mut policy.answers, answers, Field::Answers);
        if let Some(options) = self.outer_options {
            policy.outer_options = match options {
                OuterOptions::Drop => client::OuterOptions::Drop,
                OuterOptions::Skip => client::OuterOptions::Skip,
            };
            fields.push(Field::OuterOptions);
        }
        if let Some(check) = self.native_source_check {
            policy.native_source_check = check;
            fields.push(Field::NativeSourceCheck);
        }
        fields
    }
}

/// The rules as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    router_address: Option<Ipv6Addr>,
    icmp_errors: RateLimit,
    answers: RateLimit,
    outer_options: OuterOptions,
    native_source_check: bool,
    /// What was changed at run time.
    overridden: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    per_second: u32,
    burst: u32,
    per_tunnel_per_second: u32,
    per_tunnel_burst: u32,
}

impl From<client::RateLimit> for RateLimit {
    fn from(limit: client::RateLimit) -> Self {
        Self {
            per_second: limit.per_second,
            burst: limit.burst,
            per_tunnel_per_second: limit.per_tunnel_per_second,
            per_tunnel_burst: limit.per_tunnel_burst,
        }
    }
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bucket = |rate: u32, burst: u32| match rate {
            0 => "no limit".to_owned(),
            rate => format!("{rate}/s, burst {burst}"),
        };
        let all = bucket(self.per_second, self.burst);
        let one = bucket(self.per_tunnel_per_second, self.per_tunnel_burst);
        write!(f, "{all}; per tunnel {one}")
    }
}

impl From<client::PolicyReport> for Policy {
    fn from(report: client::PolicyReport) -> Self {
        let policy = report.policy;
        Self {
            router_address: policy.router_address,
            icmp_errors: policy.icmp_errors.into(),
            answers: policy.answers.into(),
            outer_options: match policy.outer_options {
                client::OuterOptions::Skip => OuterOptions::Skip,
                client::OuterOptions::Drop | client::OuterOptions::Unspecified => {
                    OuterOptions::Drop
                }
            },
            native_source_check: policy.native_source_check,
            overridden: report.overridden,
        }
    }
}

pub(crate) async fn run(global: &Global, command: PolicyCommand) -> Result<(), CliError> {
    match command {
        PolicyCommand::Show => {
            let client = global.connect().await?;
            show(global, &client.policy().await?.into())
        }
        PolicyCommand::Set(args) => {
            let client = global.connect().await?;
            let mut policy = client.policy().await?.policy;
            let fields = args.apply(&mut policy);
            if fields.is_empty() {
                let problem = "nothing to set: name a rule, e.g. --outer-options skip";
                return Err(CliError::Usage(problem.to_owned()));
            }
            show(global, &client.set_policy(&policy, &fields).await?.into())
        }
        PolicyCommand::TestPacket(args) => test::run(global, &args).await,
    }
}

fn show(global: &Global, policy: &Policy) -> Result<(), CliError> {
    if global.json {
        output::json(policy)
    } else {
        output::line(&text(policy))
    }
}

fn text(policy: &Policy) -> String {
    let mut facts = Facts::default();
    let mut add = |name: &str, field: &str, value: String| {
        let changed = policy.overridden.iter().any(|o| o == field);
        let mark = if changed {
            "  (changed at run time)"
        } else {
            ""
        };
        facts.add(name, format!("{value}{mark}"));
    };
    let address = policy.router_address.map(|a| a.to_string());
    add(
        "Router address",
        "router_address",
        address.unwrap_or_else(|| "-".to_owned()),
    );
    add(
        "ICMPv6 errors",
        "icmp_errors",
        policy.icmp_errors.to_string(),
    );
    add("Answers", "answers", policy.answers.to_string());
    let options = match policy.outer_options {
        OuterOptions::Drop => "drop",
        OuterOptions::Skip => "skip",
    };
    add("Outer options", "outer_options", options.to_owned());
    let check = if policy.native_source_check {
        "on"
    } else {
        "off"
    };
    add(
        "Native source check",
        "native_source_check",
        check.to_owned(),
    );
    facts.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn policy() -> client::Policy {
        let limit = |per_second, burst| client::RateLimit {
            per_second,
            burst,
            per_tunnel_per_second: 10,
            per_tunnel_burst: 20,
        };
        client::Policy {
            router_address: Some("2001:db8:ffff::1".parse().unwrap()),
            icmp_errors: limit(1000, 200),
            answers: limit(0, 0),
            outer_options: client::OuterOptions::Drop,
            native_source_check: true,
        }
    }

    fn apply(line: &str) -> (client::Policy, Vec<client::PolicyField>) {
        let words = ["sixferry", "policy", "set"].into_iter();
        let cli = Cli::try_parse_from(words.chain(line.split_whitespace())).unwrap();
        let Command::Policy(PolicyCommand::Set(args)) = cli.command else {
            panic!("not a set");
        };
        let mut policy = policy();
        let fields = args.apply(&mut policy);
        (policy, fields)
    }

    #[test]
    fn set_keeps_the_other_numbers_of_a_limit() {
        let (changed, fields) = apply("--icmp-errors-burst 50 --native-source-check false");
        let expected = client::RateLimit {
            burst: 50,
            ..policy().icmp_errors
        };
        assert_eq!(changed.icmp_errors, expected);
        assert_eq!(changed.answers, policy().answers);
        assert_eq!(
            fields,
            [
                client::PolicyField::IcmpErrors,
                client::PolicyField::NativeSourceCheck
            ]
        );
        assert!(apply("").1.is_empty());
    }

    #[test]
    fn the_text_marks_what_was_changed() {
        let report = client::PolicyReport {
            policy: policy(),
            overridden: vec!["outer_options".into()],
        };
        assert_eq!(
            text(&report.into()),
            "\
Router address       2001:db8:ffff::1
ICMPv6 errors        1000/s, burst 200; per tunnel 10/s, burst 20
Answers              no limit; per tunnel 10/s, burst 20
Outer options        drop  (changed at run time)
Native source check  on
"
        );
    }

    #[test]
    fn the_shape_of_a_policy_is_stable() {
        let report = client::PolicyReport {
            policy: policy(),
            overridden: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&Policy::from(report)).unwrap(),
            r#"{"routerAddress":"2001:db8:ffff::1","icmpErrors":{"perSecond":1000,"burst":200,"#
                .to_owned()
                + r#""perTunnelPerSecond":10,"perTunnelBurst":20},"answers":{"perSecond":0,"#
                + r#""burst":0,"perTunnelPerSecond":10,"perTunnelBurst":20},"#
                + r#""outerOptions":"drop","nativeSourceCheck":true,"overridden":[]}"#
        );
    }
}
