//! What happens to a user of the access service, step by step: account, login, logout; and what must
//! be true before and after.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::api::Api;
use super::control::{ControlApi, USER};
use super::error::Error;
use super::flow;
use super::instance::{Lab, TUNNEL_DEVICE};
use super::stop::Stop;
use super::topology::{Role, Topology};

/// A logout reaches the dataplane within a second; a busy machine gets more.
const GONE_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(50);

/// One step and how it went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    name: &'static str,
    pub(super) passed: bool,
    /// What was seen, for people.
    detail: String,
}

impl Step {
    pub(super) fn new(name: &'static str, passed: bool, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            name,
            passed,
            detail,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "pass" } else { "FAIL" };
        write!(f, "{verdict}  {:<18} {}", self.name, self.detail)
    }
}

pub(super) fn account(topology: &Topology) -> Step {
    let delegated = topology.delegated();
    let detail = format!("sixferry user add {USER} --prefix {delegated}");
    Step::new("account", true, detail)
}

/// Without a tunnel nothing gets out.
pub(super) fn nothing_passes(name: &'static str, topology: &Topology) -> Result<Step, Error> {
    let (silent, detail) = flow::silence(topology)?;
    Ok(Step::new(name, silent, detail))
}

/// The login, by what both daemons say of it.
pub(super) async fn login(
    topology: &Topology,
    api: &Api,
    control: &ControlApi,
    took: Duration,
) -> Result<(Step, String), Error> {
    let tunnels = control.tunnels().await?;
    let sessions = control.sessions().await?;
    let [tunnel] = tunnels.as_slice() else {
        let detail = format!("{} tunnels instead of one", tunnels.len());
        return Ok((Step::new("login", false, detail), String::new()));
    };
    let slot = tunnel.slot.clone().unwrap_or_default();
    let carried = api.tunnel_count().await?;
    let passed = tunnel.user == USER && sessions == 1 && carried == 1;
    let detail = format!(
        "{USER} has {}{} with {} after {} ms; {sessions} session, {carried} tunnel in the dataplane",
        slot.stem,
        slot.unit,
        topology.delegated(),
        took.as_millis()
    );
    Ok((Step::new("login", passed, detail), tunnel.id.clone()))
}

/// The logout, and that nothing is left of the user.
pub(super) async fn logout(lab: &mut Lab, api: &Api, stop: &Stop) -> Result<Vec<Step>, Error> {
    let started = Instant::now();
    let status = lab.log_out()?;
    let ended = Step::new(
        "logout",
        status.success(),
        format!(
            "the client took {} ms and said {status}",
            started.elapsed().as_millis()
        ),
    );
    let mut steps = vec![ended];
    if let Some(control) = lab.control_api() {
        steps.push(nothing_left(api, control, stop).await?);
    }
    let left = device_left(&lab.topology)?;
    let detail = if left {
        format!("{TUNNEL_DEVICE} is left behind")
    } else {
        format!("{TUNNEL_DEVICE} is gone")
    };
    steps.push(Step::new("the user's host", !left, detail));
    steps.push(nothing_passes("after the logout", &lab.topology)?);
    Ok(steps)
}

async fn nothing_left(api: &Api, control: &ControlApi, stop: &Stop) -> Result<Step, Error> {
    let started = Instant::now();
    loop {
        let (tunnels, sessions) = (control.tunnels().await?.len(), control.sessions().await?);
        let carried = api.tunnel_count().await?;
        let clean = tunnels == 0 && sessions == 0 && carried == 0;
        if clean || started.elapsed() > GONE_LIMIT {
            let detail = format!(
                "{sessions} sessions, {tunnels} tunnels, {carried} in the dataplane after {} ms",
                started.elapsed().as_millis()
            );
            return Ok(Step::new("the relay", clean, detail));
        }
        stop.check()?;
        tokio::time::sleep(STEP).await;
    }
}

fn device_left(topology: &Topology) -> Result<bool, Error> {
    // A thread inside the namespace sees its devices here, whatever is mounted on /sys.
    let devices = topology
        .netns(Role::User)
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?
        .map_err(Error::io("cannot list the user's devices"))?;
    Ok(devices.contains(&format!("{TUNNEL_DEVICE}:")))
}
