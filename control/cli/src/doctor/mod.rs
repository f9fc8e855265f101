//! `sixferry doctor`: would a relay run here, and if not, what to do about it.
//!
//! Reads sysfs and procfs; asks `ip` and `ethtool` for what is only to be had there, and says so
//! when they are missing. Changes nothing. Needs neither root nor the daemon: without them it
//! knows less and says that too.

mod daemon;
mod drivers;
mod host;
mod link;
mod port;
mod settings;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::args::Global;
use crate::error::CliError;
use crate::output;

use self::daemon::Daemon;
use self::settings::Settings;
use self::system::System;

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Interfaces to check. [default: those of the configuration, else every Ethernet interface]
    interfaces: Vec<String>,
    /// Configuration of the daemon.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/sixferry/dataplane.toml"
    )]
    config: PathBuf,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// What, e.g. `mtu`.
    name: &'static str,
    /// Of which interface; `None`: of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    status: Status,
    /// What was found.
    detail: String,
    /// What to do, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            interface: None,
            status: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            fix: Some(fix.into()),
            ..Self::ok(name, detail)
        }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            fix: Some(fix.into()),
            ..Self::ok(name, detail)
        }
    }

    fn of(self, interface: &str) -> Self {
        Self {
            interface: Some(interface.to_owned()),
            ..self
        }
    }
}

/// The answer of the command.
#[derive(Debug, Serialize)]
struct Diagnosis {
    status: Status,
    checks: Vec<Check>,
}

impl Diagnosis {
    fn new(checks: Vec<Check>) -> Self {
        let worst = checks.iter().map(|c| c.status).max();
        Self {
            status: worst.unwrap_or(Status::Ok),
            checks,
        }
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|c| c.status == status).count()
    }
}

pub(crate) async fn run(global: &Global, args: DoctorArgs) -> Result<ExitCode, CliError> {
    let system = System::real();
    let daemon = Daemon::ask(global).await;
    let diagnosis = examine(&system, &args, &daemon);
    if global.json {
        output::json(&diagnosis)?;
    } else {
        output::line(&text(&diagnosis, output::terminal().map(|t| t.0)))?;
    }
    Ok(match diagnosis.status {
        Status::Fail => ExitCode::FAILURE,
        Status::Ok | Status::Warn => ExitCode::SUCCESS,
    })
}

fn examine(system: &System, args: &DoctorArgs, daemon: &Daemon) -> Diagnosis {
    let (settings, configuration) = Settings::read(system, &args.config);
    let mut checks = host::checks(system, &settings, daemon);
    checks.push(configuration);
    checks.push(daemon.check());
    let (names, chosen) = interfaces(system, args, &settings, daemon);
    if names.is_empty() {
        checks.push(Check::fail(
            "interfaces",
            "there is no Ethernet interface",
            "a relay needs one; to try without, use `sixferry lab demo`",
        ));
    }
    for check in port::checks(system, &names, &settings, daemon) {
        // An interface nobody chose need not be fit.
        let status = match check.status {
            Status::Fail if !chosen => Status::Warn,
            status => status,
        };
        checks.push(Check { status, ..check });
    }
    Diagnosis::new(checks)
}

/// The interfaces to look at, and whether somebody chose them for the relay.
fn interfaces(
    system: &System,
    args: &DoctorArgs,
    settings: &Settings,
    daemon: &Daemon,
) -> (Vec<String>, bool) {
    if !args.interfaces.is_empty() {
        return (args.interfaces.clone(), true);
    }
    if !settings.ports.is_empty() {
        return (settings.ports.clone(), true);
    }
    if !daemon.ports.is_empty() {
        let names = daemon.ports.iter().map(|p| p.name.clone());
        return (names.collect(), true);
    }
    (link::candidates(system), false)
}

fn text(diagnosis: &Diagnosis, width: Option<u16>) -> String {
    let width = usize::from(width.unwrap_or(100)).clamp(60, 120);
    let mut text = String::new();
    let mut interface = None;
    for check in &diagnosis.checks {
        if check.interface != interface {
            interface.clone_from(&check.interface);
            if let Some(name) = &interface {
                text.push_str(&format!("\n{name}\n"));
            }
        }
        let status = match check.status {
            Status::Ok => "OK",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        let head = format!("{status:<5} {:<13} ", check.name);
        push_wrapped(&mut text, &head, &check.detail, width);
        if let Some(fix) = &check.fix {
            push_wrapped(&mut text, &format!("{:20}-> ", ""), fix, width);
        }
    }
    text.push_str(&format!(
        "\n{} ok, {} warnings, {} failures\n",
        diagnosis.count(Status::Ok),
        diagnosis.count(Status::Warn),
        diagnosis.count(Status::Fail)
    ));
    text
}

/// Words after a head; further lines start below the first word.
fn push_wrapped(text: &mut String, head: &str, words: &str, width: usize) {
    let indent = head.chars().count();
    let mut line = head.to_owned();
    let mut used = indent;
    for word in words.split_whitespace() {
        let len = word.chars().count();
        if used > indent && used + 1 + len > width {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent);
            used = indent;
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += len;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_groups_by_interface_and_wraps() {
        let diagnosis = Diagnosis::new(vec![
            Check::ok("kernel", "6.18.1"),
            Check::warn("jit", "off", "sysctl net.core.bpf_jit_enable=1").of("eth0"),
            Check::fail(
                "mtu",
                "1400 is too small for a tunnel of 1480 bytes and its outer header",
                "ip link set dev eth0 mtu 1500",
            )
            .of("eth0"),
        ]);
        assert_eq!(diagnosis.status, Status::Fail);
        assert_eq!(
            text(&diagnosis, Some(60)),
            "\
OK    kernel        6.18.1

eth0
WARN  jit           off
                    -> sysctl net.core.bpf_jit_enable=1
FAIL  mtu           1400 is too small for a tunnel of 1480
                    bytes and its outer header
                    -> ip link set dev eth0 mtu 1500

1 ok, 1 warnings, 1 failures
"
        );
    }

    #[test]
    fn the_shape_is_stable() {
        let check = Check::warn("mtu", "small", "make it larger").of("eth0");
        let value = serde_json::to_value(Diagnosis::new(vec![check])).unwrap();
        assert_eq!(
            value.to_string(),
            r#"{"checks":[{"detail":"small","fix":"make it larger","interface":"eth0","name":"mtu","status":"WARN"}],"status":"WARN"}"#
        );
    }
}
