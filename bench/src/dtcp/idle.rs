//! Sessions that do nothing but say `ping` once a minute.

use super::daemons::Setup;
use super::latency::Latency;
use super::stand::Stand;
use super::swarm::Order;
use super::usage::{self, Usage};
use crate::e2e::{Context, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Logins under way while the sessions are made.
const AT_ONCE: usize = 256;
/// Late writes and timers of the logins are over by then.
const REST: Duration = Duration::from_secs(2);

/// How much and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sessions.
    pub sessions: u32,
    /// Seconds of measurement.
    pub seconds: f64,
    /// Seconds between two pings of a session.
    pub period: f64,
    /// Most sessions of one process of clients.
    pub per_swarm: u32,
}

/// A daemon's share.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Of one core, in per cent.
    pub cpu_percent: f64,
    /// Resident bytes more than before the sessions, for each of them.
    pub bytes_per_session: f64,
    /// Resident bytes in all, users and everything else included, for each session.
    pub bytes_in_all_per_session: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    sessions: u32,
    seconds: f64,
    load: f64,
    logins: Latency,
    logins_per_second: f64,
    /// Of `sixferry-control`.
    pub control: Cost,
    /// Of `sixferryd`.
    pub dataplane: Cost,
    /// Of pings, at the client.
    pub pings: Latency,
    /// What went wrong.
    pub failed: BTreeMap<String, u64>,
    /// Tunnels of the dataplane at the end.
    pub tunnels: u64,
}

impl Idle {
    /// Whether everybody was served.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.tunnels == u64::from(self.sessions)
    }
}

/// Measures once, on daemons of its own.
///
/// # Errors
/// When something does not start or ends early.
pub async fn run(setup: &Setup, plan: &Plan) -> Result<Idle, Error> {
    let stand = Stand::start(setup, plan.sessions).await?;
    let mut swarms = stand.swarms(plan.sessions, plan.per_swarm)?;
    tokio::time::sleep(REST).await;
    let empty = stand.daemons.usage()?;
    let login = swarms.obey(Order::Login { at_once: AT_ONCE })?;
    let mut failed = login.failed;
    tokio::time::sleep(REST).await;
    let (before, start) = (stand.daemons.usage()?, Instant::now());
    let pinged = swarms.obey(Order::Ping {
        seconds: plan.seconds,
        period: plan.period,
    })?;
    let (after, seconds) = (stand.daemons.usage()?, start.elapsed().as_secs_f64());
    for (reason, count) in pinged.failed {
        *failed.entry(reason).or_default() += count;
    }
    let cost = |empty: Usage, before: Usage, after: Usage| {
        let sessions = f64::from(plan.sessions);
        Cost {
            cpu_percent: (after.cpu - before.cpu) / seconds * 100.0,
            bytes_per_session: (after.resident as f64 - empty.resident as f64) / sessions,
            bytes_in_all_per_session: after.resident as f64 / sessions,
        }
    };
    let idle = Idle {
        sessions: plan.sessions,
        seconds,
        load: usage::load(),
        logins_per_second: login.done as f64 / login.seconds,
        logins: Latency::of(login.micros),
        control: cost(empty.0, before.0, after.0),
        dataplane: cost(empty.1, before.1, after.1),
        pings: Latency::of(pinged.micros),
        failed,
        tunnels: stand.daemons.tunnels().await?,
    };
    drop(swarms);
    stand.is_empty().await.during("after the idle sessions")?;
    Ok(idle)
}

impl std::fmt::Display for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "idle: {} sessions, {:.1} s, load {:.1}; {} tunnels in the dataplane, failed: {:?}",
            self.sessions, self.seconds, self.load, self.tunnels, self.failed
        )?;
        for (name, cost) in [
            ("sixferry-control", self.control),
            ("sixferryd", self.dataplane),
        ] {
            writeln!(
                f,
                "  {name:<17} {:.2} % of a core, {:.2} KiB a session ({:.2} KiB with all else)",
                cost.cpu_percent,
                cost.bytes_per_session / 1024.0,
                cost.bytes_in_all_per_session / 1024.0
            )?;
        }
        writeln!(
            f,
            "  {} pings: {}; logged in at {:.0}/s, {AT_ONCE} at a time",
            self.pings.count, self.pings, self.logins_per_second
        )
    }
}
