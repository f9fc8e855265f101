//! The control state: who programmed what, and the tables it makes.
//!
//! A plain state machine: no I/O, no clock, no waiting. Everybody who wants something of it takes
//! the one lock of [`shared::Shared`] for a bounded piece of work: a message of at most 512
//! entries, a page, a slice of a sweep.

pub(crate) mod domain_spec;
pub(crate) mod domains;
pub(crate) mod error;
pub(crate) mod liveness;
mod mask;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod route_read;
pub(crate) mod routes;
pub(crate) mod session;
pub(crate) mod shared;
pub(crate) mod spec;
pub(crate) mod store;
pub(crate) mod tunnels;
pub(crate) mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use sixferry_fwd::{Settings, Tables, TablesBuilder, TunnelTotals};

use domains::DomainStore;
use error::Error;
use liveness::Rewatched;
use routes::RouteStore;
use session::{Holdings, OwnerId, Owners};
use store::TunnelStore;
use watch::WatchLog;

/// Slots looked at while a sweep holds the lock once.
const SWEEP_SLOTS: u32 = 16_384;
/// Objects removed while a sweep holds the lock once.
const SWEEP_MOST: usize = 512;

/// How the entries of a message depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomicity {
    EachForItself,
    /// One snapshot or nothing. Both of the API's stricter levels are this: a message is applied
    /// under one lock and published whole.
    AllOrNothing,
}

/// What an upsert may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteMode {
    Upsert,
    Create,
    Update,
}

/// What the entries of a message did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) created: u32,
    pub(crate) updated: u32,
    pub(crate) unchanged: u32,
    pub(crate) deleted: u32,
}

/// The end of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// By rising index.
    pub(crate) failures: Vec<(usize, Error)>,
    pub(crate) counts: Counts,
    pub(crate) rolled_back: bool,
    /// Revision of the tunnel table afterwards.
    pub(crate) revision: u64,
    /// To wait for: see [`shared::Shared::visible`].
    pub(crate) change: u64,
}

/// A slice of a sweep was done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) tunnels: u64,
    pub(crate) routes: u64,
    pub(crate) domains: u64,
    /// Where the next slice starts; `None`: the sync is over.
    pub(crate) next: Option<u32>,
    pub(crate) change: u64,
    pub(crate) revision: u64,
}

/// Everything that is programmed.
#[derive(Debug)]
pub(crate) struct Control {
    builder: TablesBuilder,
    owners: Owners,
    store: TunnelStore,
    domains: DomainStore,
    routes: RouteStore,
    log: WatchLog,
    rewatched: Rewatched,
    /// Totals of domains that a rolled-back message had removed: the tables count them from 0.
    carried: HashMap<u32, TunnelTotals>,
    /// Number of the last change to the tables.
    change: u64,
}

impl Control {
    pub(crate) fn new(settings: Settings, workers: usize, instance: Arc<str>) -> Self {
        Self {
            builder: TablesBuilder::new(settings, workers),
            owners: Owners::new(instance),
            store: TunnelStore::new(),
            domains: DomainStore::default(),
            routes: RouteStore::default(),
            log: WatchLog::new(watch::LOG_LEN),
            rewatched: Rewatched::default(),
            carried: HashMap::new(),
            change: 0,
        }
    }

    /// The tables' working copy, for changes that no owner makes (ports, kernel routes).
    pub(crate) fn builder_mut(&mut self) -> &mut TablesBuilder {
        self.touch();
        &mut self.builder
    }

    /// The tables' working copy, to read.
    pub(crate) fn builder(&self) -> &TablesBuilder {
        &self.builder
    }

    /// The tables as they are now, for who tries something on them. Publishing is another matter.
    pub(crate) fn snapshot(&mut self) -> Arc<Tables> {
        self.builder.snapshot()
    }

    /// Number of the last change to the tables.
    pub(crate) fn change(&self) -> u64 {
        self.change
    }

    /// Revision of the tunnel table.
    pub(crate) fn revision(&self) -> u64 {
        self.log.revision()
    }

    fn touch(&mut self) {
        self.change += 1;
    }

    fn finish(&mut self, mut outcome: Outcome) -> Outcome {
        if outcome.counts.created + outcome.counts.updated + outcome.counts.deleted > 0 {
            self.touch();
        }
        outcome.revision = self.log.revision();
        outcome.change = self.change;
        outcome
    }

    // --- sessions ---

    /// Opens a session; also gives what the owner has.
    pub(crate) fn open_session(
        &mut self,
        owner: &str,
        election: u128,
    ) -> Result<(session::Opened, Holdings), Error> {
        let opened = self.owners.open(owner, election)?;
        let holdings = self.owners.get(opened.owner).map(session::Owner::holdings);
        Ok((opened, holdings.unwrap_or_default()))
    }

    /// The owner of that name, who may not have connected yet since the start.
    pub(crate) fn restore_owner(&mut self, name: &str) -> Result<OwnerId, Error> {
        self.owners.known(name)
    }

    /// Moves with every change of an object, of whichever kind.
    pub(crate) fn object_revisions(&self) -> [u64; 3] {
        let domains = self.domains.revision();
        [self.log.revision(), domains, self.routes.revision]
    }

    /// The owner a session writes for.
    pub(crate) fn authorize(&self, token: &str) -> Result<OwnerId, Error> {
        self.owners.authorize(token)
    }

    /// Marks everything of the owner stale. Gives the generation and how much that is.
    pub(crate) fn begin_sync(&mut self, owner: OwnerId) -> (u32, u64) {
        let generation = self.owners.begin_sync(owner);
        let holdings = self.owners.get(owner).map(session::Owner::holdings);
        let stale = holdings.map_or(0, |h| h.tunnels + h.domains + h.routes);
        (generation, stale)
    }

    /// One slice of the sweep that ends a sync, from slot `from` on.
    pub(crate) fn commit_sync(
        &mut self,
        owner: OwnerId,
        generation: u64,
        from: u32,
    ) -> Result<Swept, Error> {
        let generation = self.owners.sync(owner, generation)?;
        let (tunnels, next) = self.sweep_tunnels(owner, generation, from, SWEEP_SLOTS, SWEEP_MOST);
        let mut swept = Swept {
            tunnels,
            routes: 0,
            domains: 0,
            next,
            change: 0,
            revision: 0,
        };
        if next.is_none() {
            swept.domains = self.sweep_domains(owner, generation);
            let (routes, more) = self.sweep_routes(owner, generation, SWEEP_MOST);
            swept.routes = routes;
            if more {
                swept.next = Some(u32::MAX);
            } else {
                self.owners.end_sync(owner);
            }
        }
        swept.change = self.change;
        swept.revision = self.log.revision();
        Ok(swept)
    }

    /// Ends a sync and removes nothing.
    pub(crate) fn abort_sync(&mut self, owner: OwnerId, generation: u64) -> Result<(), Error> {
        self.owners.sync(owner, generation)?;
        self.owners.end_sync(owner);
        Ok(())
    }

    /// Replaces the relay's own rules.
    pub(crate) fn set_settings(&mut self, settings: &Settings) {
        // These are not configuration: drawn at start, set by who subscribes to punts, and by the
        // host port once it is open.
        let now = self.builder.settings();
        let settings = Settings {
            hash_seed: now.hash_seed,
            punt_subscriptions: now.punt_subscriptions,
            host_port: now.host_port,
            ..settings.clone()
        };
        if *now != settings {
            self.builder.set_settings(settings);
            self.touch();
        }
    }
}

#[cfg(test)]
mod tests;
