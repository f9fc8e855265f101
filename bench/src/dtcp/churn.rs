//! All sessions go at once, and all come back at once.

use super::daemons::Setup;
use super::latency::Latency;
use super::stand::{Stand, Swarms};
use super::swarm::{Order, Said};
use super::usage;
use crate::e2e::{Context, Error};
use crate::statistics::Summary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// How many and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sessions.
    pub sessions: u32,
    /// Rounds.
    pub rounds: u32,
    /// Most sessions of one process of clients.
    pub per_swarm: u32,
}

/// All users come at once.
#[derive(Clone, Debug, Serialize)]
pub struct Storm {
    /// Seconds until the last one had his tunnel.
    pub seconds: f64,
    /// From connecting to `+OK`.
    pub latency: Latency,
    /// What went wrong.
    pub failed: BTreeMap<String, u64>,
}

impl Storm {
    fn of(said: Said) -> Self {
        Self {
            seconds: said.seconds,
            latency: Latency::of(said.micros),
            failed: said.failed,
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Churn {
    sessions: u32,
    load: f64,
    /// Seconds from the order to kill the clients until the dataplane had none of their tunnels.
    pub cut: Summary,
    /// Everybody comes; nothing is left of former sessions.
    pub storms: Vec<Storm>,
    /// Everybody comes back in the moment in which all were cut.
    pub returns: Vec<Storm>,
}

impl Churn {
    /// Whether everybody was served.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let mut all = self.storms.iter().chain(&self.returns);
        all.all(|storm| storm.failed.is_empty())
    }
}

/// Measures some rounds on the same daemons.
///
/// # Errors
/// When something does not start, ends early, or stays.
pub async fn run(setup: &Setup, plan: &Plan) -> Result<Churn, Error> {
    let stand = Stand::start(setup, plan.sessions).await?;
    let (mut cuts, mut storms, mut returns) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let mut first = stand.swarms(plan.sessions, plan.per_swarm)?;
        storms.push(storm(&stand, plan, &mut first).await?);
        cuts.push(cut(&stand, first).await?);

        let mut before = stand.swarms(plan.sessions, plan.per_swarm)?;
        storms.push(storm(&stand, plan, &mut before).await?);
        // ready before the others go, so that nothing lies between
        let mut after = stand.swarms(plan.sessions, plan.per_swarm)?;
        drop(before);
        returns.push(storm(&stand, plan, &mut after).await?);
        cuts.push(cut(&stand, after).await?);
    }
    Ok(Churn {
        sessions: plan.sessions,
        load: usage::load(),
        cut: Summary::of(&cuts),
        storms,
        returns,
    })
}

async fn storm(stand: &Stand, plan: &Plan, swarms: &mut Swarms) -> Result<Storm, Error> {
    let everybody = usize::try_from(plan.sessions).unwrap_or(usize::MAX);
    let said = swarms.obey(Order::Login { at_once: everybody })?;
    let up = said.done;
    let storm = Storm::of(said);
    eprint!("{storm}");
    // those whose clients are gone are given back meanwhile
    let there = stand.tunnels_are(up).await;
    there.during("after a storm")?;
    Ok(storm)
}

/// Kills the clients; seconds until the dataplane has no tunnel.
async fn cut(stand: &Stand, swarms: Swarms) -> Result<f64, Error> {
    let start = Instant::now();
    // closing ten thousand connections takes the kernel a while, which is part of it
    let killing = tokio::task::spawn_blocking(move || drop(swarms));
    let gone = stand.tunnels_are(0).await.during("after a cut")?;
    let seconds = (gone - start).as_secs_f64();
    eprintln!("cut: gone after {seconds:.3} s");
    killing.await.during("killing the clients")?;
    stand.is_empty().await.during("after a cut")?;
    Ok(seconds)
}

impl std::fmt::Display for Storm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.latency.count;
        writeln!(
            f,
            "storm: {count} in {:.2} s ({:.0}/s), {}, failed: {:?}",
            self.seconds,
            count as f64 / self.seconds,
            self.latency,
            self.failed
        )
    }
}

impl std::fmt::Display for Churn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |storms: &[Storm]| {
            let seconds: Vec<f64> = storms.iter().map(|storm| storm.seconds).collect();
            Summary::of(&seconds)
        };
        let refused = |storms: &[Storm]| -> u64 {
            storms.iter().flat_map(|storm| storm.failed.values()).sum()
        };
        writeln!(
            f,
            "{} sessions at once, load {:.1}; seconds, median (quartiles) of {} and {}:",
            self.sessions,
            self.load,
            self.storms.len(),
            self.returns.len()
        )?;
        for (what, summary, failed) in [
            ("cut until gone", self.cut, 0),
            (
                "storm on empty",
                seconds(&self.storms),
                refused(&self.storms),
            ),
            (
                "cut and back at once",
                seconds(&self.returns),
                refused(&self.returns),
            ),
        ] {
            writeln!(
                f,
                "  {what:<21} {:.2} ({:.2} to {:.2}), {failed} failed",
                summary.median, summary.lower_quartile, summary.upper_quartile
            )?;
        }
        Ok(())
    }
}
