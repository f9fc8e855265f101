//! The task that follows the kernel.
//!
//! It subscribes first and dumps afterwards, so that no change falls between the two. Changes to a
//! table that is being dumped wait until the dump is complete (a notification is newer than what
//! the dump said, or repeats it); changes to the others are carried out at once, so a large
//! routing table does not delay the news of a neighbour. After an overrun of the receive buffer
//! everything is dumped again and compared; what did not change is not touched.
//!
//! IPv4 routes that die with their interface, their address or their next-hop object are removed
//! by the kernel without a notification: these events too cause a new dump of the routes. Dumps
//! are spaced by a multiple of their own duration, so they never take more than a fraction of a
//! processor.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sixferry_fwd::PortId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::list::NeighbourList;
use super::neigh::{Event, Keeper, KeeperConfig, KeeperStats, NeighbourTask};
use super::socket::{Message, NetlinkError, RouteSocket};
use super::stats::{Counters, MirrorStats};
use super::types::{Change, HostAddresses, Kind, Link, PortSpec};
use super::view::{KernelView, TableSink, Unseen, ViewConfig};
use super::{decode, neigh};
use crate::live::NeighbourView;

/// Where the mirror writes to.
pub(crate) trait MirrorSink: Send + Sync + 'static {
    /// Runs `edit` on the working copy of the tables and sees to it that they are published.
    /// Called from the mirror's task with small batches: up to a few hundred changes.
    fn with_tables(&self, edit: &mut dyn FnMut(&mut dyn TableSink));
    /// The host's addresses have changed.
    fn host_addresses(&self, addresses: &HostAddresses);
}

/// What to mirror.
#[derive(Clone, Debug)]
pub(crate) struct MirrorConfig {
    /// The interfaces the dataplane uses.
    pub(crate) ports: Vec<PortSpec>,
    /// The host port's interface: routes over it are the host's own business.
    pub(crate) host: Option<String>,
    /// Routing tables, the preferred one first.
    pub(crate) tables: Vec<u32>,
    /// Bytes of notifications the kernel holds for us before it drops any.
    pub(crate) receive_buffer: usize,
    /// Prefixes mirrored at most.
    pub(crate) max_routes: usize,
    /// Neighbours mirrored at most.
    pub(crate) max_neighbours: usize,
    /// Neighbours kept resolved at most.
    pub(crate) max_kept: usize,
}

impl MirrorConfig {
    /// The defaults, for these ports: tables local and main, room for two full feeds.
    pub(crate) fn new(ports: Vec<PortSpec>) -> Self {
        Self {
            ports,
            host: None,
            tables: vec![255, 254],
            receive_buffer: 32 << 20,
            max_routes: 4_000_000,
            max_neighbours: 65_536,
            max_kept: 4096,
        }
    }
}

#[derive(Debug)]
struct Shared {
    links: RwLock<Vec<Link>>,
    neighbours: NeighbourList,
    ports: Vec<PortSpec>,
    counters: Counters,
    keeper: Arc<KeeperStats>,
}

/// Handle of the running mirror.
pub(crate) struct Mirror {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Questions of the punt thread and news for the neighbour keeper that may wait.
const EVENTS_MAX: usize = 4096;
/// Notifications carried over into the tables at once.
const BATCH: usize = 256;
/// Changes that wait for the end of a dump.
const DEFERRED_MAX: usize = 65_536;
/// Several events tend to come together; one dump serves them.
const SETTLE: Duration = Duration::from_millis(50);
/// A dump is followed by a pause of this many times its duration, within limits.
const PAUSE_FACTOR: u32 = 2;
const PAUSE_MAX: Duration = Duration::from_secs(2);
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// Whatever we might have missed is found at the latest by this.
const AUDIT_EVERY: Duration = Duration::from_secs(600);

impl Mirror {
    /// Subscribes, reads everything once into the sink, and goes on following in the background.
    pub(crate) async fn start(
        config: MirrorConfig,
        sink: Arc<dyn MirrorSink>,
    ) -> Result<Self, NetlinkError> {
        let notifications = RouteSocket::notifications(config.receive_buffer)?;
        let shared = Arc::new(Shared {
            links: RwLock::default(),
            neighbours: NeighbourList::new(config.max_neighbours),
            ports: config.ports.clone(),
            counters: Counters::default(),
            keeper: Arc::default(),
        });
        let (events, events_out) = mpsc::channel(EVENTS_MAX);
        let (stop, stopped) = watch::channel(false);
        let limits = KeeperConfig {
            capacity: config.max_kept,
            ..KeeperConfig::default()
        };
        let neighbours = NeighbourTask {
            socket: RouteSocket::requests()?,
            keeper: Keeper::new(limits, Instant::now()),
            events: events_out,
            stop: stopped.clone(),
            stats: shared.keeper.clone(),
        };
        let view = KernelView::new(ViewConfig {
            ports: config.ports,
            host: config.host,
            tables: config.tables,
            max_routes: config.max_routes,
            max_neighbours: config.max_neighbours,
        });
        let mut follower = Follower {
            notifications,
            dumps: RouteSocket::requests()?,
            view,
            sink,
            events: events.clone(),
            shared: shared.clone(),
            stale: Kind::ALL.into(),
            sync_at: None,
            pause_until: Instant::now(),
        };
        let keeper = tokio::spawn(neighbours.run());
        if let Err(error) = follower.sync().await {
            keeper.abort();
            return Err(error);
        }
        // Nobody waited for this dump's successor yet.
        follower.pause_until = Instant::now();
        let follower = tokio::spawn(follower.run(stopped));
        let tasks = Mutex::new(vec![follower, keeper]);
        Ok(Self {
            shared,
            events,
            stop,
            tasks,
        })
    }

    /// Has the kernel resolve a neighbour. Returns at once; `false` if there are too many such
    /// requests just now.
    pub(crate) fn request_resolve(&self, ifindex: u32, addr: IpAddr) -> bool {
        let sent = self.events.try_send(Event::Wanted((ifindex, addr))).is_ok();
        if !sent {
            self.shared
                .counters
                .resolve_dropped
                .fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// The same for the port and VLAN of a next hop, which name the interface.
    pub(crate) fn resolve_on(&self, port: PortId, vlan: Option<u16>, addr: IpAddr) -> bool {
        let ifindex = self.ifindex(port, vlan);
        ifindex.is_some_and(|ifindex| self.request_resolve(ifindex, addr))
    }

    /// Has these neighbours kept resolved besides the gateways of the kernel's routes; replaces
    /// what the last call named. `false` if the keeper is busy: call again.
    pub(crate) fn pin(&self, neighbours: &[(PortId, Option<u16>, IpAddr)]) -> bool {
        let keys = neighbours.iter().filter_map(|(port, vlan, addr)| {
            self.ifindex(*port, *vlan).map(|ifindex| (ifindex, *addr))
        });
        self.events.try_send(Event::Pinned(keys.collect())).is_ok()
    }

    /// The interface behind a port, or behind one of its VLANs.
    pub(crate) fn ifindex(&self, port: PortId, vlan: Option<u16>) -> Option<u32> {
        let below = self.port_link(port)?.ifindex;
        let Some(vid) = vlan else { return Some(below) };
        let links = self.shared.links.read();
        let tagged = |link: &&Link| link.vlan.is_some_and(|v| (v.parent, v.vid) == (below, vid));
        links.iter().find(tagged).map(|link| link.ifindex)
    }

    /// The interface of a port, if it exists.
    pub(crate) fn port_link(&self, port: PortId) -> Option<Link> {
        let mut ports = self.shared.ports.iter();
        let name = &ports.find(|spec| spec.id == port)?.name;
        self.shared
            .links
            .read()
            .iter()
            .find(|link| link.name == *name)
            .cloned()
    }

    /// The neighbours on the links of the ports, by interface and address.
    pub(crate) fn neighbours(&self) -> Vec<NeighbourView> {
        let links = self.shared.links.read().clone();
        self.shared.neighbours.view(&self.shared.ports, &links)
    }

    /// Counters and gauges.
    pub(crate) fn stats(&self) -> MirrorStats {
        self.shared.counters.snapshot(&self.shared.keeper)
    }

    /// Stops following and gives the kernel's neighbour entries back. The tables stay as they are.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the netlink mirror failed");
            }
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Links => "interfaces",
        Kind::Addresses => "addresses",
        Kind::Neighbours => "neighbours",
        Kind::Routes4 => "IPv4 routes",
        Kind::Routes6 => "IPv6 routes",
    }
}

/// The table that a change is about.
fn kind(change: &Change) -> Option<Kind> {
    Some(match change {
        Change::Link(_) | Change::LinkGone(_) => Kind::Links,
        Change::Address(_) | Change::AddressGone(_) => Kind::Addresses,
        Change::Neighbour(_) | Change::NeighbourGone { .. } => Kind::Neighbours,
        Change::Route(route, _) | Change::RouteGone(route) => {
            if route.prefix.addr().is_ipv4() {
                Kind::Routes4
            } else {
                Kind::Routes6
            }
        }
        Change::NexthopObjectGone(_) => return None,
    })
}

struct Follower {
    notifications: RouteSocket,
    dumps: RouteSocket,
    view: KernelView,
    sink: Arc<dyn MirrorSink>,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    /// Tables that must be dumped.
    stale: BTreeSet<Kind>,
    /// When they will be, once there are any.
    sync_at: Option<Instant>,
    /// Not before this.
    pause_until: Instant,
}

enum Heard {
    Dump(Vec<Message>),
    News(Vec<Message>),
}

impl Follower {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut audit = tokio::time::interval_at(Instant::now() + AUDIT_EVERY, AUDIT_EVERY);
        loop {
            if !self.stale.is_empty() && self.sync_at.is_none() {
                self.sync_at = Some(self.pause_until.max(Instant::now() + SETTLE));
            }
            let due = tokio::time::sleep_until(self.sync_at.unwrap_or_else(Instant::now));
            tokio::select! {
                () = stopped(&mut stop) => return,
                heard = self.notifications.receive() => match heard {
                    Ok(messages) => self.follow(messages).await,
                    Err(error) => self.recover("cannot read notifications", &error).await,
                },
                () = due, if self.sync_at.is_some() => {
                    if let Err(error) = self.sync().await {
                        self.recover("cannot read the kernel's tables", &error).await;
                    }
                }
                _ = audit.tick() => self.stale.extend(Kind::ALL),
            }
        }
    }

    async fn recover(&mut self, what: &str, error: &(dyn std::error::Error + Sync)) {
        tracing::error!(%error, "{what}");
        self.stale.extend(Kind::ALL);
        tokio::time::sleep(AFTER_ERROR).await;
    }

    /// Carries out the notifications that are there, up to a batch.
    async fn follow(&mut self, messages: Vec<Message>) {
        let mut batch = self.changes(messages);
        while batch.len() < BATCH {
            match self.notifications.try_receive() {
                Ok(Some(messages)) => batch.extend(self.changes(messages)),
                // An error comes back with the next wait.
                Ok(None) | Err(_) => break,
            }
        }
        self.apply(&batch).await;
    }

    fn changes(&mut self, messages: Vec<Message>) -> Vec<Change> {
        let counters = &self.shared.counters;
        let mut changes = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                Message::Route { message, flags } => {
                    changes.extend(decode::change(&message, flags));
                }
                Message::NexthopObjectGone(id) => changes.push(Change::NexthopObjectGone(id)),
                Message::Overrun => {
                    counters.overruns.fetch_add(1, Ordering::Relaxed);
                    self.stale.extend(Kind::ALL);
                }
                Message::Undecodable(why) => {
                    counters.undecodable.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%why, "a netlink message makes no sense");
                }
                Message::Done { .. } | Message::Answer(_) => {}
            }
        }
        counters
            .changes
            .fetch_add(changes.len() as u64, Ordering::Relaxed);
        changes
    }

    async fn apply(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let view = &mut self.view;
        self.sink.with_tables(&mut |tables| {
            for change in changes {
                view.apply(change, tables);
            }
        });
        self.shared.neighbours.apply(changes);
        for change in changes {
            let event = match change {
                Change::Neighbour(neighbour) => Event::Seen(*neighbour),
                Change::NeighbourGone { ifindex, addr } => Event::Lost((*ifindex, *addr)),
                _ => continue,
            };
            self.tell(event).await;
        }
        self.settle().await;
    }

    /// Passes on what the last changes imply.
    async fn settle(&mut self) {
        let hints = self.view.take_hints();
        self.stale.extend(hints.stale);
        self.shared.neighbours.gateways(&hints.gateways);
        for (via, used) in hints.gateways {
            if let Some(gateway) = via.gateway {
                self.tell(Event::Gateway((via.ifindex, gateway), used))
                    .await;
            }
        }
        for key in hints.neighbours {
            self.tell(Event::Used(key)).await;
        }
        if hints.links {
            *self.shared.links.write() = self.view.links().cloned().collect();
        }
        if hints.hosts {
            self.sink.host_addresses(&self.view.host_addresses());
        }
        let (counters, view) = (&self.shared.counters, &self.view);
        let store = |counter: &AtomicU64, n: usize| counter.store(n as u64, Ordering::Relaxed);
        store(&counters.routes4, view.route_count(false));
        store(&counters.routes6, view.route_count(true));
        store(&counters.without_port, view.routes_without_port());
        store(&counters.neighbours, view.neighbour_count());
        counters
            .over_limit
            .store(view.over_limit(), Ordering::Relaxed);
    }

    async fn tell(&self, event: neigh::Event) {
        // The keeper stops with us; what it misses then does not matter.
        let _ = self.events.send(event).await;
    }

    /// Dumps the tables that need it.
    async fn sync(&mut self) -> Result<(), NetlinkError> {
        self.sync_at = None;
        let started = Instant::now();
        for kind in std::mem::take(&mut self.stale) {
            if let Err(source) = self.dump(kind).await {
                self.stale.extend(Kind::ALL);
                // The rest of the broken dump must not be taken for the next one.
                self.dumps = RouteSocket::requests()?;
                return Err(NetlinkError::Dump {
                    what: name(kind),
                    source,
                });
            }
        }
        let ended = Instant::now();
        let pause = ((ended - started) * PAUSE_FACTOR).min(PAUSE_MAX);
        self.pause_until = ended + pause;
        Ok(())
    }

    async fn dump(&mut self, kind: Kind) -> std::io::Result<()> {
        self.view.begin_dump(kind);
        if kind == Kind::Neighbours {
            self.shared.neighbours.begin_dump();
        }
        self.dumps.start_dump(kind).await?;
        let (mut deferred, mut complete, mut done) = (Vec::new(), true, false);
        while !done {
            let heard = tokio::select! {
                chunk = self.dumps.receive() => Heard::Dump(chunk?),
                news = self.notifications.receive() => Heard::News(news?),
            };
            match heard {
                Heard::Dump(messages) => {
                    for message in &messages {
                        match message {
                            Message::Done { interrupted } => {
                                done = true;
                                complete &= !interrupted;
                            }
                            Message::Route { flags, .. } => complete &= !interrupted(*flags),
                            Message::Answer(Err(error)) => return Err(copy(error)),
                            _ => {}
                        }
                    }
                    let changes = self.changes(messages);
                    self.apply(&changes).await;
                }
                Heard::News(messages) => {
                    let news = self.changes(messages);
                    let (wait, now): (Vec<_>, Vec<_>) = news
                        .into_iter()
                        .partition(|change| self::kind(change) == Some(kind));
                    deferred.extend(wait);
                    if deferred.len() > DEFERRED_MAX {
                        deferred.clear();
                        complete = false;
                    }
                    self.apply(&now).await;
                }
            }
        }
        self.shared.counters.dumps.fetch_add(1, Ordering::Relaxed);
        if complete {
            // Before the deferred changes: they are newer than the dump.
            for slice in self.view.unseen(kind).chunks(BATCH) {
                let view = &mut self.view;
                self.sink
                    .with_tables(&mut |tables| view.forget(slice, tables));
                for what in slice {
                    if let Unseen::Neighbour((addr, ifindex)) = what {
                        self.shared.neighbours.forget((*ifindex, *addr));
                        self.tell(Event::Lost((*ifindex, *addr))).await;
                    }
                }
                self.settle().await;
                tokio::task::yield_now().await;
            }
        } else {
            self.stale.insert(kind);
        }
        self.apply(&deferred).await;
        Ok(())
    }
}

/// Waits until the mirror is to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn interrupted(flags: u16) -> bool {
    flags & rtnetlink::packet_core::NLM_F_DUMP_INTR != 0
}

fn copy(error: &std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::from(error.kind()),
    }
}
