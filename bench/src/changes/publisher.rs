//! Who makes the changes: applies them to the tables and publishes as `sixferryd` does.

use super::plan::{Kind, MOVED, Plan, Step, due};
use crate::population::{Destination, spec};
use serde::Serialize;
use sixferry_engine::{PUBLISH_INTERVAL, Publisher};
use sixferry_fwd::{EncapKind, TableError, Tables, TablesBuilder, TunnelId, TunnelSpec};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest a publication waits for the worker, as `sixferryd` waits.
const ADOPTION: Duration = Duration::from_secs(1);

/// How much is changed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Demand {
    /// Tunnels a second.
    pub per_second: u32,
    /// Tunnels in a message of the API.
    pub batch: usize,
}

/// The changing tunnels as they are.
#[derive(Debug)]
pub(super) struct Changes {
    tunnels: Vec<Changing>,
    plan: Plan,
}

#[derive(Debug)]
struct Changing {
    spec: TunnelSpec,
    id: Option<TunnelId>,
}

impl Changes {
    /// Takes those out of the tables that are not to be there.
    pub(super) fn new(
        builder: &mut TablesBuilder,
        destinations: Vec<Destination>,
        plan: Plan,
    ) -> Result<Self, TableError> {
        let changing = |destination: Destination| {
            let spec = spec(
                destination.peer,
                &[destination.prefix],
                EncapKind::SixInFour,
            );
            let id = builder.tunnel_by_outer(spec.local, spec.remote);
            Changing { spec, id }
        };
        let mut tunnels: Vec<Changing> = destinations.into_iter().map(changing).collect();
        for absent in plan.absent() {
            if let Some(id) = tunnels[*absent].id.take() {
                builder.remove_tunnel(id)?;
            }
        }
        Ok(Self { tunnels, plan })
    }

    /// The next one; whether there was one.
    fn apply(&mut self, builder: &mut TablesBuilder) -> Result<bool, TableError> {
        let Some(Step { kind, tunnel }) = self.plan.next() else {
            return Ok(false);
        };
        let Changing { spec, id } = &mut self.tunnels[tunnel];
        match kind {
            Kind::Remove => {
                let id = id.take().ok_or(TableError::NoSuchTunnel)?;
                builder.remove_tunnel(id)?;
            }
            Kind::Replace => {
                spec.remote = (u32::from(spec.remote) ^ MOVED).into();
                let id = id.ok_or(TableError::NoSuchTunnel)?;
                builder.update_tunnel(id, spec)?;
            }
            Kind::Add => *id = Some(builder.insert_tunnel(spec)?),
        }
        Ok(true)
    }
}

/// A message of changes: when it was due, and the snapshot that was the first to have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Since the bench's epoch.
    pub(super) due: Duration,
    pub(super) generation: u64,
}

/// What was done in one stretch.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) changes: u64,
    /// Changes that were due in time for somebody who publishes when he should.
    pub(super) wanted: u64,
    pub(super) messages: Vec<Message>,
    pub(super) publications: u64,
    /// Time spent on changing tables, on making snapshots and on freeing former ones.
    pub(super) applying: Duration,
    pub(super) publishing: Duration,
    pub(super) reclaiming: Duration,
    pub(super) took: Duration,
    /// A worker did not take a snapshot in time.
    pub(super) stuck: bool,
}

/// Makes changes when they are due.
pub(super) struct Changer<T> {
    builder: TablesBuilder,
    publisher: Publisher<T>,
    changes: Changes,
    demand: Demand,
    epoch: Instant,
}

impl Changer<Tables> {
    pub(super) fn new(
        builder: TablesBuilder,
        publisher: Publisher,
        changes: Changes,
        demand: Demand,
        epoch: Instant,
    ) -> Self {
        Self {
            builder,
            publisher,
            changes,
            demand,
            epoch,
        }
    }

    /// Bytes of the tables.
    pub(super) fn bytes(&self) -> usize {
        self.builder.memory()
    }

    /// Goes on until told to stop.
    pub(super) fn change_until(&mut self, stop: &AtomicBool) -> Result<Done, TableError> {
        let Demand { per_second, batch } = self.demand;
        let start = Instant::now();
        let mut done = Done::default();
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let before = done.messages.len();
            // who comes late catches up, but never beyond the time
            while due(number, batch, per_second) <= start.elapsed() && !stop.load(Ordering::Relaxed)
            {
                let at = start.duration_since(self.epoch) + due(number, batch, per_second);
                self.message(at, &mut done)?;
                number += 1;
            }
            if done.messages.len() > before {
                self.publish(&mut done);
                std::thread::sleep(PUBLISH_INTERVAL);
            } else {
                let wait = due(number, batch, per_second).saturating_sub(start.elapsed());
                std::thread::sleep(wait.min(PUBLISH_INTERVAL));
            }
        }
        done.took = start.elapsed();
        let in_time = done.took.saturating_sub(PUBLISH_INTERVAL * 2);
        done.wanted = (in_time.as_secs_f64() * f64::from(per_second)) as u64;
        Ok(done)
    }

    fn message(&mut self, due: Duration, done: &mut Done) -> Result<(), TableError> {
        let start = Instant::now();
        for _ in 0..self.demand.batch {
            done.changes += u64::from(self.changes.apply(&mut self.builder)?);
        }
        done.messages.push(Message {
            due,
            generation: self.publisher.generation() + 1,
        });
        done.applying += start.elapsed();
        Ok(())
    }

    /// As the daemon's publishing thread does.
    fn publish(&mut self, done: &mut Done) {
        let start = Instant::now();
        // nobody steers packets by it here, but the daemon asks
        _ = self.builder.take_covering_changed();
        let tables = self.builder.snapshot();
        let made = start.elapsed();
        // frees what nobody refers to any more
        let generation = self.publisher.store(tables);
        let stored = start.elapsed();
        let readers = self.publisher.readers();
        done.stuck |= !readers.wait_adopted(generation, ADOPTION);
        let adopted = Instant::now();
        self.publisher.collect();
        done.publishing += made;
        done.reclaiming += stored - made + adopted.elapsed();
        done.publications += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::{Layout, programmed};

    #[test]
    fn what_is_changed_is_what_the_plan_says() {
        let (mut builder, all) = programmed(64, Layout::Contiguous, 1).expect("tables");
        let plan = Plan::new(all.len(), 8, 3);
        let mut changes = Changes::new(&mut builder, all, plan).expect("taken out");
        assert_eq!(builder.tunnel_count(), 56);
        for at in 1..=300 {
            assert!(changes.apply(&mut builder).expect("is taken"));
            let removed = usize::from(at % 3 != 0);
            assert_eq!(builder.tunnel_count(), 56 - removed);
        }
        for Changing { spec, id } in &changes.tunnels {
            let found = builder.tunnel_by_outer(spec.local, spec.remote);
            assert_eq!(found, *id);
            if let Some(id) = id {
                assert_eq!(builder.tunnel(*id).as_ref(), Some(spec));
            }
        }
    }
}
