//! Lab, daemons and users of a measurement, and swarms for them.

use super::daemons::{Daemons, NICE, Setup};
use super::lab::{Lab, Place};
use super::swarm::{Order, Said};
use crate::e2e::lab::Role;
use crate::e2e::{Context, Error};
use std::time::{Duration, Instant};

/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long tunnels may take to go or come.
const SETTLE: Duration = Duration::from_secs(60);

/// What is measured. Nothing of it outlives it.
#[derive(Debug)]
pub struct Stand {
    /// Gone before the lab is.
    pub daemons: Daemons,
    lab: Lab,
    users: u32,
    /// Seconds that adding the users took.
    pub import_seconds: f64,
}

impl Stand {
    /// Starts daemons and adds users.
    ///
    /// # Errors
    /// What does not start.
    pub async fn start(setup: &Setup, users: u32) -> Result<Self, Error> {
        let lab = Lab::new(setup.somaxconn)?;
        let daemons = Daemons::start(&lab, setup).await?;
        let start = Instant::now();
        daemons.import(users).await?;
        Ok(Self {
            daemons,
            lab,
            users,
            import_seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Swarms that together are the first `users`, none with more than `most`.
    ///
    /// # Errors
    /// When one does not start.
    pub fn swarms(&self, users: u32, most: u32) -> Result<Swarms, Error> {
        if users > self.users {
            return Err(format!("there are {}", self.users)).during(format!("{users} users"));
        }
        let program = std::env::current_exe().during("this program's path")?;
        let swarms = parts(users, most).map(|(first, count)| {
            let words = ["swarm", &first.to_string(), &count.to_string()].map(str::to_owned);
            let mut command = self.lab.command(Place::Users, &program);
            Role::spawn(words.join(" "), command.args(&words), NICE)
        });
        Ok(Swarms(swarms.collect::<Result<_, _>>()?))
    }

    /// Waits until the dataplane has so many tunnels; when that was.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn tunnels_are(&self, wanted: u64) -> Result<Instant, Error> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let there = self.daemons.tunnels().await?;
            let now = Instant::now();
            if there == wanted {
                return Ok(now);
            }
            if now > deadline {
                return Err(format!("there are {there}")).during(format!("{wanted} tunnels"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until nothing is left of any session, in daemons and store.
    ///
    /// # Errors
    /// When something stays.
    pub async fn is_empty(&self) -> Result<(), Error> {
        const LIVE: [&str; 5] = [
            "dtcp_sessions",
            "control_tunnels_pending",
            "control_tunnels_active",
            "control_tunnels_orphaned",
            "control_tunnels_releasing",
        ];
        self.tunnels_are(0).await?;
        let deadline = Instant::now() + SETTLE;
        loop {
            let figures = self.daemons.figures().await?;
            let left = LIVE.map(|name| (name, figures.get(name)));
            if left.iter().all(|(_, count)| *count == 0) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{left:?}")).during("waiting for the end of all sessions");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// `users` in parts of at most `most`, nearly alike: (first, count).
fn parts(users: u32, most: u32) -> impl Iterator<Item = (u32, u32)> {
    let parts = users.div_ceil(most.max(1)).max(1);
    let bound = move |part: u32| {
        let bound = u64::from(users) * u64::from(part) / u64::from(parts);
        u32::try_from(bound).unwrap_or(users)
    };
    (0..parts).map(move |part| (bound(part), bound(part + 1) - bound(part)))
}

/// Processes with clients; all are killed when this goes.
#[derive(Debug)]
pub struct Swarms(Vec<Role>);

impl Swarms {
    /// Has all of them do the same; what came of it.
    ///
    /// # Errors
    /// When one has ended.
    pub fn obey(&mut self, order: Order) -> Result<Said, Error> {
        self.begin(order)?;
        self.end()
    }

    /// Has all of them begin.
    ///
    /// # Errors
    /// When one has ended.
    pub fn begin(&mut self, order: Order) -> Result<(), Error> {
        let line = serde_json::to_string(&order).during("an order")?;
        self.0.iter_mut().try_for_each(|swarm| swarm.order(&line))
    }

    /// Waits until all have done what they were told.
    ///
    /// # Errors
    /// When one has ended.
    pub fn end(&mut self) -> Result<Said, Error> {
        let mut sum = Said::default();
        for swarm in &mut self.0 {
            sum.merge(swarm.answer()?);
        }
        Ok(sum)
    }

    /// CPU seconds of all of them.
    ///
    /// # Errors
    /// When one has ended.
    pub fn cpu(&self) -> Result<f64, Error> {
        let each = self
            .0
            .iter()
            .map(|swarm| super::usage::Usage::of(swarm.process()));
        each.map(|usage| usage.map(|usage| usage.cpu)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_there_is_and_none_is_too_large() {
        for (users, most) in [(10_000, 15_000), (30_000, 15_000), (30_001, 15_000), (7, 3)] {
            let parts: Vec<_> = parts(users, most).collect();
            let mut next = 0;
            for (first, count) in parts {
                assert_eq!(first, next);
                assert!((1..=most).contains(&count));
                next += count;
            }
            assert_eq!(next, users);
        }
    }
}
