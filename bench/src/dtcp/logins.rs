//! Logins a second through store and dataplane, by clients that quit and come again, and what bounds
//! them.

use super::daemons::Setup;
use super::latency::Latency;
use super::stand::{Stand, Swarms};
use super::swarm::Order;
use super::usage;
use crate::e2e::{Context, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How much and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Clients at a time, one measurement each.
    pub clients: Vec<usize>,
    /// Users that take turns.
    pub users: u32,
    /// Seconds until anything counts.
    pub warm_up: f64,
    /// Seconds that count.
    pub seconds: f64,
    /// Rounds; each runs every number of clients once.
    pub rounds: u32,
    /// Process whose family is the store, if it is not in the control plane.
    pub store: Option<u32>,
}

/// One number of clients, once.
#[derive(Clone, Debug, Serialize)]
pub struct Logins {
    /// Clients at a time.
    pub clients: usize,
    /// Logins a second, each with its logout.
    pub per_second: f64,
    /// From connecting to `+OK`.
    pub latency: Latency,
    /// What went wrong.
    pub failed: BTreeMap<String, u64>,
    /// Transactions a second.
    pub commits_per_second: f64,
    /// Changes in each.
    pub changes_per_commit: f64,
    /// Who had the CPUs, in cores.
    pub cores: Cores,
    /// Load average at the end.
    pub load: f64,
}

/// CPU time by whom, in cores.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cores {
    /// `sixferry-control`.
    pub control: f64,
    /// `sixferryd`.
    pub dataplane: f64,
    /// The clients.
    pub swarm: f64,
    /// PostgreSQL.
    pub store: f64,
    /// All else that is no idling: other work of the machine, and of the kernel for nobody.
    pub others: f64,
    /// Idle, or waiting for a disk.
    pub idle: f64,
}

/// CPU seconds and figures at one moment.
struct Moment {
    at: Instant,
    control: f64,
    dataplane: f64,
    swarm: f64,
    store: f64,
    busy: f64,
    all: f64,
    figures: super::daemons::Figures,
}

impl Moment {
    async fn now(stand: &Stand, swarms: &Swarms, store: Option<u32>) -> Result<Self, Error> {
        let (control, dataplane) = stand.daemons.usage()?;
        let (busy, all) = usage::machine()?;
        Ok(Self {
            at: Instant::now(),
            control: control.cpu,
            dataplane: dataplane.cpu,
            swarm: swarms.cpu()?,
            store: store.map_or(Ok(0.0), usage::family_cpu)?,
            busy,
            all,
            figures: stand.daemons.figures().await?,
        })
    }

    fn cores(&self, before: &Self) -> Cores {
        let seconds = (self.at - before.at).as_secs_f64();
        let share = |pick: fn(&Self) -> f64| (pick(self) - pick(before)) / seconds;
        let [control, dataplane, swarm, store] = [
            share(|m| m.control),
            share(|m| m.dataplane),
            share(|m| m.swarm),
            share(|m| m.store),
        ];
        let busy = share(|m| m.busy);
        Cores {
            control,
            dataplane,
            swarm,
            store,
            others: (busy - control - dataplane - swarm - store).max(0.0),
            idle: (share(|m| m.all) - busy).max(0.0),
        }
    }
}

/// Measures every number of clients in every round, on the same daemons.
///
/// # Errors
/// When something does not start or ends early.
pub async fn run(setup: &Setup, plan: &Plan) -> Result<Vec<Logins>, Error> {
    let stand = Stand::start(setup, plan.users).await?;
    let mut all = Vec::new();
    for _ in 0..plan.rounds {
        for clients in &plan.clients {
            let logins = once(&stand, plan, *clients).await?;
            eprint!("{logins}");
            all.push(logins);
        }
    }
    Ok(all)
}

async fn once(stand: &Stand, plan: &Plan, clients: usize) -> Result<Logins, Error> {
    let mut swarms = stand.swarms(plan.users, plan.users)?;
    let start = Instant::now();
    swarms.begin(Order::Cycle {
        clients,
        warm_up: plan.warm_up,
        seconds: plan.seconds,
    })?;
    let from = start + Duration::from_secs_f64(plan.warm_up);
    tokio::time::sleep_until(from).await;
    let before = Moment::now(stand, &swarms, plan.store).await?;
    tokio::time::sleep_until(from + Duration::from_secs_f64(plan.seconds)).await;
    let after = Moment::now(stand, &swarms, plan.store).await?;
    let said = swarms.end()?;
    let seconds = (after.at - before.at).as_secs_f64();
    let commits = after.figures.since(&before.figures, "control_commits") as f64;
    let changes = after.figures.since(&before.figures, "control_groups") as f64;
    let logins = Logins {
        clients,
        per_second: said.done as f64 / plan.seconds,
        latency: Latency::of(said.micros),
        failed: said.failed,
        commits_per_second: commits / seconds,
        changes_per_commit: changes / commits.max(1.0),
        cores: after.cores(&before),
        load: usage::load(),
    };
    drop(swarms);
    let empty = stand.is_empty().await;
    empty.during("after the logins")?;
    Ok(logins)
}

impl std::fmt::Display for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cores {
            control,
            dataplane,
            swarm,
            store,
            others,
            idle,
        } = self.cores;
        writeln!(
            f,
            "logins: {} clients: {:.0}/s, {}, {:.0} commits/s of {:.1} changes, failed: {:?}",
            self.clients,
            self.per_second,
            self.latency,
            self.commits_per_second,
            self.changes_per_commit,
            self.failed
        )?;
        writeln!(
            f,
            "  cores: control {control:.2}, sixferryd {dataplane:.2}, clients {swarm:.2}, store \
             apart {store:.2}, others {others:.2}, idle {idle:.2}; load {:.1}",
            self.load
        )
    }
}
