//! The tables on disk: what controllers programmed, so that a daemon that starts again forwards
//! before any of them connects.
//!
//! Written off the packet path, when something changed and at most every few seconds, to a new file
//! that takes the old one's place. Objects of the configuration file are not in it. A file that is
//! damaged, foreign or of a newer version is set aside and the daemon starts fresh.

mod format;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sixferry_proto::dataplane::v1 as pb;
use tokio::sync::watch;

use crate::control::error::Error;
use crate::control::routes::Origin;
use crate::control::session::OwnerId;
use crate::control::shared::Shared;
use crate::control::{Atomicity, Outcome};
use crate::convert::domain::{domain_message, domain_op};
use crate::convert::route::{route_message, route_op};
use crate::convert::tunnel::{tunnel_message, tunnel_op};

use format::{Block, ENTRIES, Refused, Writer};

/// Name of the file in the state directory.
const NAME: &str = "tables";
/// The configuration file is its own truth.
const STATIC: &str = "static";
/// Writing takes at most this share of the time: a million tunnels that change all the time are not
/// written all the time.
const SHARE: u32 = 20;

/// What saving did, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct SaveCounts {
    written: AtomicU64,
    failed: AtomicU64,
    objects: AtomicU64,
}

impl SaveCounts {
    /// Files written, writes that failed, objects in the last file (or one after it).
    pub(crate) fn read(&self) -> (u64, u64, u64) {
        // First, so that the objects of the files it counts are there.
        let written = self.written.load(Ordering::Acquire);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (written, load(&self.failed), load(&self.objects))
    }

    fn file(&self, objects: u64) {
        self.objects.store(objects, Ordering::Relaxed);
        self.written.fetch_add(1, Ordering::Release);
    }
}

/// What a start took from the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) objects: u64,
    /// In the way of the configuration file, or no longer possible.
    pub(crate) left_out: u64,
}

/// Puts back what the file has, beside what the tables have already. Says what it did in the log;
/// there is nothing a caller could do better.
pub(crate) fn restore(shared: &Shared, dir: &Path) -> Restored {
    let path = dir.join(NAME);
    match try_restore(shared, &path) {
        Ok(Some((restored, first))) => {
            let Restored { objects, left_out } = restored;
            tracing::info!(objects, left_out, "tables restored from {}", path.display());
            if let Some(first) = first {
                tracing::warn!("left out of the restored tables, first of {left_out}: {first}");
            }
            restored
        }
        Ok(None) => {
            tracing::info!("no tables to restore: no file {}", path.display());
            Restored::default()
        }
        Err(refused) => {
            // Kept for whoever wants to know; the next save would overwrite it.
            let aside = path.with_extension("refused");
            let kept = std::fs::rename(&path, &aside).is_ok();
            tracing::error!(
                "{} {refused}; starting with empty tables{}",
                path.display(),
                if kept {
                    ", the file is kept as tables.refused"
                } else {
                    ""
                }
            );
            Restored::default()
        }
    }
}

type Story = (Restored, Option<String>);

fn try_restore(shared: &Shared, path: &Path) -> Result<Option<Story>, Refused> {
    let open = || File::open(path).map(BufReader::new);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // Once to see that it is whole, once to use it: half a table would be worse than none.
    format::read(file, drop)?;
    let mut restored = Restored::default();
    let mut first = None;
    format::read(open()?, |block| {
        for outcome in apply(shared, block) {
            let counts = outcome.counts;
            restored.objects += u64::from(counts.created + counts.updated + counts.unchanged);
            restored.left_out += outcome.failures.len() as u64;
            if let (None, Some((_, error))) = (&first, outcome.failures.into_iter().next()) {
                first = Some(tonic::Status::from(error).message().to_owned());
            }
        }
    })?;
    Ok(Some((restored, first)))
}

/// Writes a block's objects for their owners.
fn apply(shared: &Shared, block: Block) -> Vec<Outcome> {
    let each = Atomicity::EachForItself;
    let domains = by_owner(block.domains, |domain| domain.owner.clone());
    let tunnels = by_owner(block.tunnels, |tunnel| tunnel.owner.clone());
    let routes = by_owner(block.routes, |route| route.owner.clone());
    let mut outcomes = Vec::new();
    let mut write = |owner: &str, work: &mut dyn FnMut(&Shared, OwnerId) -> Outcome| {
        outcomes.push(match shared.with(|control| control.restore_owner(owner)) {
            Ok(owner) => work(shared, owner),
            Err(error) => refused(error),
        });
    };
    for (owner, domains) in domains {
        let mut ops: Vec<_> = domains.into_iter().map(put_domain).map(domain_op).collect();
        write(&owner, &mut |shared, owner| {
            let ops = std::mem::take(&mut ops);
            shared.with(|control| control.program_domains(owner, ops, each, false))
        });
    }
    for (owner, tunnels) in tunnels {
        let mut ops: Vec<_> = tunnels.into_iter().map(put_tunnel).map(tunnel_op).collect();
        write(&owner, &mut |shared, owner| {
            let ops = std::mem::take(&mut ops);
            shared.with(|control| control.program_tunnels(owner, ops, each, false))
        });
    }
    for (owner, routes) in routes {
        let mut ops: Vec<_> = routes.into_iter().map(put_route).map(route_op).collect();
        write(&owner, &mut |shared, owner| {
            let ops = std::mem::take(&mut ops);
            shared.with(|control| control.program_routes(owner, ops, each, false))
        });
    }
    outcomes
}

/// One failure that stands for all objects of an owner.
fn refused(error: Error) -> Outcome {
    Outcome {
        failures: vec![(0, error)],
        ..Outcome::default()
    }
}

fn by_owner<T>(objects: Vec<T>, owner: impl Fn(&T) -> String) -> BTreeMap<String, Vec<T>> {
    let mut sorted: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for object in objects {
        sorted.entry(owner(&object)).or_default().push(object);
    }
    sorted
}

fn put_domain(domain: pb::EmbeddedDomain) -> pb::DomainUpdate {
    pb::DomainUpdate {
        update: Some(pb::domain_update::Update::Upsert(pb::DomainUpsert {
            domain: Some(domain),
            ..pb::DomainUpsert::default()
        })),
    }
}

fn put_tunnel(tunnel: pb::Tunnel) -> pb::TunnelUpdate {
    pb::TunnelUpdate {
        update: Some(pb::tunnel_update::Update::Upsert(pb::TunnelUpsert {
            tunnel: Some(tunnel),
            ..pb::TunnelUpsert::default()
        })),
    }
}

fn put_route(route: pb::Route) -> pb::RouteUpdate {
    pb::RouteUpdate {
        update: Some(pb::route_update::Update::Upsert(pb::RouteUpsert {
            route: Some(route),
            ..pb::RouteUpsert::default()
        })),
    }
}

/// Keeps the file in step with the tables.
#[derive(Debug)]
pub(crate) struct Saver {
    shared: Arc<Shared>,
    dir: PathBuf,
    interval: Duration,
    counts: Arc<SaveCounts>,
    /// State of the objects in the last file.
    saved: Option<[u64; 3]>,
}

impl Saver {
    pub(crate) fn new(shared: Arc<Shared>, dir: PathBuf, interval: Duration) -> Self {
        Self {
            shared,
            dir,
            interval,
            counts: Arc::default(),
            saved: None,
        }
    }

    /// What it did, while it runs.
    pub(crate) fn counts(&self) -> Arc<SaveCounts> {
        Arc::clone(&self.counts)
    }

    /// Saves what changes, until stopped, and then once more.
    pub(crate) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        if !self.dir.is_dir() {
            // A trial run without an installation must not leave files about.
            let dir = self.dir.display();
            tracing::info!("no directory {dir}: the tables are not saved");
            return;
        }
        let mut pause = self.interval;
        loop {
            let stop = tokio::time::timeout(pause, stopped.wait_for(|stop| *stop));
            let over = stop.await.is_ok();
            let begun = Instant::now();
            self = match tokio::task::spawn_blocking(move || self.save_changes()).await {
                Ok(saver) => saver,
                Err(error) => return tracing::error!("saving the tables ended: {error}"),
            };
            if over {
                return;
            }
            pause = self.interval.max(begun.elapsed() * SHARE);
        }
    }

    fn save_changes(mut self) -> Self {
        // Taken before: what changes meanwhile is saved next time.
        let now = self.shared.with(|control| control.object_revisions());
        if self.saved == Some(now) {
            return self;
        }
        match save(&self.shared, &self.dir) {
            Ok(objects) => {
                self.saved = Some(now);
                self.counts.file(objects);
            }
            Err(error) => {
                let before = self.counts.failed.fetch_add(1, Ordering::Relaxed);
                // A full disk stays full: said once a power of two.
                if before.count_ones() <= 1 {
                    let path = self.dir.join(NAME);
                    tracing::error!("cannot save the tables in {}: {error}", path.display());
                }
            }
        }
        self
    }
}

/// Writes the file; gives how many objects it has.
fn save(shared: &Shared, dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = dir.join("tables.new");
    // Left over from a daemon that was killed while it wrote.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let (file, objects) = write(shared, BufWriter::new(file))?;
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    std::fs::rename(&new, dir.join(NAME))?;
    File::open(dir)?.sync_all()?;
    Ok(objects)
}

/// Writes all objects, some at a time: others get the lock in between. What changes meanwhile may be
/// in it or not; a file of such a moment is followed by another.
fn write<W: Write>(shared: &Shared, out: W) -> io::Result<(W, u64)> {
    let mut writer = Writer::new(out)?;
    let (domains, _) = shared.with(|control| control.list_domains(None, None, ENTRIES));
    writer.block(&Block {
        domains: domains
            .iter()
            .filter(|view| *view.owner != *STATIC)
            .map(|view| input_of_domain(domain_message(view)))
            .collect(),
        ..Block::default()
    })?;
    let mut next = Some(0);
    while let Some(from) = next {
        let (views, more) = shared.with(|c| c.list_tunnels(from, ENTRIES, None, false));
        next = more;
        let theirs = views.iter().filter(|view| *view.owner != *STATIC);
        let tunnels: Vec<_> = theirs
            .map(|view| input_of_tunnel(tunnel_message(view, None)))
            .collect();
        if !tunnels.is_empty() {
            writer.block(&Block {
                tunnels,
                ..Block::default()
            })?;
        }
    }
    let mut after = None;
    loop {
        let (routes, last) = shared.with(|control| {
            let (entries, more) = control.list_routes(after, Some(Origin::Api), None, ENTRIES);
            let last = entries
                .last()
                .filter(|_| more)
                .map(|e| (e.origin, e.prefix));
            let theirs = entries
                .iter()
                .filter(|e| e.owner.as_deref() != Some(STATIC));
            let routes: Vec<_> = theirs.map(|e| route_message(e, control)).collect();
            (routes, last)
        });
        writer.block(&Block {
            routes,
            ..Block::default()
        })?;
        match last {
            Some(last) => after = Some(last),
            None => return writer.finish(),
        }
    }
}

/// Without what the dataplane fills in, except the owner.
fn input_of_tunnel(tunnel: pb::Tunnel) -> pb::Tunnel {
    pb::Tunnel {
        generation: 0,
        stale: false,
        revision: 0,
        endpoint: None,
        learnt_path_mtu: 0,
        current_mtu: 0,
        state: 0,
        outer_errors: 0,
        ..tunnel
    }
}

fn input_of_domain(domain: pb::EmbeddedDomain) -> pb::EmbeddedDomain {
    pb::EmbeddedDomain {
        counters: None,
        generation: 0,
        stale: false,
        revision: 0,
        domain_prefix: None,
        delegated_prefix: None,
        ..domain
    }
}

#[cfg(test)]
mod tests;
