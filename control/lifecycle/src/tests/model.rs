//! A dataplane and a store that can be made to fail, and a service over them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::lifecycle::Parts;
use crate::pairs::link_of;
use crate::relays::{Dataplane, Link};
use crate::secret::{KeyRing, Secret};
use crate::state::Refusal;
use crate::store::{
    Batch, Committed, Conflict, Constraint, Store, StoreError, StoreOptions, Write,
};
use crate::writer::Journal;
use crate::*;

thread_local! {
    static BASE: Instant = Instant::now();
}

/// The runtime's time: it stands still and jumps with it.
pub(super) fn clock() -> Clock {
    Clock(|| {
        let since = BASE.with(|base| base.elapsed());
        1_700_000_000_000_000 + i64::try_from(since.as_micros()).unwrap()
    })
}

/// What no two tunnels of a dataplane may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Number {
    Ends(Ipv4Addr, Ipv4Addr),
    Port(Ipv4Addr, u16),
    Prefix(ipnet::Ipv6Net),
}

fn numbers(tunnel: &Tunnel) -> impl Iterator<Item = Number> {
    let outer = match tunnel.transport {
        Transport::SixInFour => Number::Ends(tunnel.local, tunnel.remote),
        Transport::Udp { local_port, .. } => Number::Port(tunnel.local, local_port),
    };
    let link = tunnel.pair.iter().map(link_of);
    let prefixes = tunnel.prefixes.iter().copied().chain(link);
    std::iter::once(outer).chain(prefixes.map(Number::Prefix))
}

/// What the dataplane forwards; outlives every connection.
#[derive(Debug, Default)]
pub(super) struct Table {
    tunnels: BTreeMap<TunnelId, Arc<Tunnel>>,
    /// Who has what.
    holders: HashMap<Number, TunnelId>,
    fresh: BTreeSet<TunnelId>,
    pub(super) instance: u64,
    /// Nobody can connect.
    pub(super) away: bool,
    /// How long an answer takes.
    pub(super) delay: Duration,
    /// Tunnels of this user are refused.
    pub(super) refuse: Option<Ipv4Addr>,
    /// Numbers that two tunnels wanted at once although the first was there by order.
    pub(super) clashes: u64,
    pub(super) messages: u64,
    /// The task that sends the next message panics.
    pub(super) panic: bool,
}

impl Table {
    pub(super) fn get(&self, id: TunnelId) -> Option<&Arc<Tunnel>> {
        self.tunnels.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.tunnels.len()
    }

    pub(super) fn remove(&mut self, id: TunnelId) {
        let Some(gone) = self.tunnels.remove(&id) else {
            return;
        };
        for number in numbers(&gone) {
            if self.holders.get(&number) == Some(&id) {
                self.holders.remove(&number);
            }
        }
    }

    pub(super) fn put(&mut self, tunnel: Arc<Tunnel>) {
        self.remove(tunnel.id);
        for number in numbers(&tunnel) {
            self.holders.insert(number, tunnel.id);
        }
        self.tunnels.insert(tunnel.id, tunnel);
    }

    /// Another tunnel that has something this one wants.
    fn in_the_way(&self, wanted: &Tunnel) -> Option<TunnelId> {
        let mut holders = numbers(wanted).filter_map(|number| self.holders.get(&number));
        holders.find(|holder| **holder != wanted.id).copied()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) table: Arc<Mutex<Table>>,
    /// Counts what ends connections.
    cut: Arc<watch::Sender<u64>>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            table: Arc::default(),
            cut: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Ends all connections.
    pub(super) fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// The dataplane restarts: its tunnels are gone.
    pub(super) fn restart(&self) {
        let mut table = self.table.lock();
        table.tunnels.clear();
        table.holders.clear();
        table.instance += 1;
        drop(table);
        self.cut();
    }

    pub(super) fn ids(&self) -> Vec<TunnelId> {
        self.table.lock().tunnels.keys().copied().collect()
    }
}

pub(super) struct ModelLink {
    model: Model,
    cut: watch::Receiver<u64>,
    instance: u64,
    answers: std::collections::VecDeque<(Instant, Vec<(usize, Refusal)>)>,
}

impl Dataplane for Model {
    type Link = ModelLink;

    async fn connect(&mut self) -> Result<ModelLink, String> {
        let table = self.table.lock();
        if table.away {
            return Err("away".to_owned());
        }
        Ok(ModelLink {
            cut: self.cut.subscribe(),
            instance: table.instance,
            answers: std::collections::VecDeque::new(),
            model: self.clone(),
        })
    }
}

impl ModelLink {
    fn alive(&self) -> Result<(), String> {
        let restarted = self.model.table.lock().instance != self.instance;
        match restarted || self.cut.has_changed().unwrap_or(true) {
            true => Err("the connection broke".to_owned()),
            false => Ok(()),
        }
    }
}

impl Link for ModelLink {
    fn instance(&self) -> String {
        self.instance.to_string()
    }

    async fn begin(&mut self) -> Result<(), String> {
        self.alive()?;
        self.model.table.lock().fresh.clear();
        Ok(())
    }

    fn commit(&self) -> BoxFuture<'static, Result<(), String>> {
        let alive = self.alive();
        let table = self.model.table.clone();
        async move {
            alive?;
            let mut table = table.lock();
            let fresh = std::mem::take(&mut table.fresh);
            let stale = table.tunnels.keys().filter(|id| !fresh.contains(id));
            for id in stale.copied().collect::<Vec<_>>() {
                table.remove(id);
            }
            Ok(())
        }
        .boxed()
    }

    fn send(&mut self, entries: &[(TunnelId, u64, Option<Arc<Tunnel>>)]) -> Result<(), String> {
        self.alive()?;
        let mut table = self.model.table.lock();
        assert!(!std::mem::take(&mut table.panic), "on purpose");
        table.messages += 1;
        let mut refusals = Vec::new();
        for (place, (id, _, tunnel)) in entries.iter().enumerate() {
            let Some(tunnel) = tunnel else {
                table.remove(*id);
                continue;
            };
            if table.refuse == Some(tunnel.remote) {
                let text = "PREFIX_IN_USE: it is static's".to_owned();
                let (blocker, replace) = (None, false);
                refusals.push((
                    place,
                    Refusal {
                        text,
                        blocker,
                        replace,
                    },
                ));
                continue;
            }
            let blocker = table.in_the_way(tunnel);
            if blocker.is_some() {
                table.clashes += 1;
                let text = "OUTER_IN_USE".to_owned();
                refusals.push((
                    place,
                    Refusal {
                        text,
                        blocker,
                        replace: false,
                    },
                ));
                continue;
            }
            table.fresh.insert(*id);
            table.put(tunnel.clone());
        }
        self.answers
            .push_back((Instant::now() + table.delay, refusals));
        Ok(())
    }

    async fn answer(&mut self) -> Result<Vec<(usize, Refusal)>, String> {
        self.alive()?;
        let due = self.answers.front().map(|(at, _)| *at);
        let due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.cut.changed() => Err("the connection broke".to_owned()),
            () = due => {
                self.alive()?;
                Ok(self.answers.pop_front().map(|(_, refusals)| refusals).unwrap_or_default())
            }
        }
    }
}

/// How a store misbehaves.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// It answers nothing.
    pub(super) away: bool,
    /// So many commits are done, but their answer is lost.
    pub(super) lost_answers: u32,
    /// It takes nothing.
    pub(super) broken: bool,
    /// It takes everything but the release of this tunnel.
    pub(super) keeps: Option<TunnelId>,
    /// It takes everything but the removal of accounts.
    pub(super) keeps_accounts: bool,
    /// Whoever commits panics.
    pub(super) panic: bool,
    /// Another process has it.
    pub(super) overtaken: bool,
    /// Of a hundred decisions so many are refused, as if another writer were there.
    pub(super) refuses: u64,
    /// Of a hundred transactions so many are not taken.
    pub(super) fails: u64,
    /// What these are decided by.
    pub(super) dice: u64,
    /// The last answer was lost: what is tried again is done already.
    lost: bool,
}

/// Whether a write is somebody's wish, and not what a dataplane's answer or a start brings.
fn is_wish(write: &Write) -> bool {
    match write {
        Write::UpdateTunnel { cause, .. } => !matches!(cause, Cause::Confirmed | Cause::Restart),
        Write::BuryTunnel { .. } | Write::Quarantine { .. } | Write::RelayAt { .. } => false,
        _ => true,
    }
}

impl Trouble {
    fn happens(&mut self, of_a_hundred: u64) -> bool {
        let next = self.dice.wrapping_mul(6_364_136_223_846_793_005);
        self.dice = next.wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % 100 < of_a_hundred
    }

    /// Which groups of a batch are refused.
    fn refused(&mut self, batch: &Batch) -> Vec<bool> {
        let groups = batch.groups().iter();
        let refused = groups.map(|group| {
            let refuses = self.refuses;
            !self.lost && group.iter().any(is_wish) && self.happens(refuses)
        });
        refused.collect()
    }

    fn fails(&mut self, batch: &Batch) -> Option<StoreError> {
        assert!(!self.panic, "on purpose");
        let (operation, problem) = ("commit", "told to".to_owned());
        if self.away {
            return Some(StoreError::Unavailable { operation, problem });
        }
        if self.overtaken {
            return Some(StoreError::Overtaken);
        }
        let mut writes = batch.groups().iter().flatten();
        let kept = writes.any(|write| match write {
            Write::UpdateTunnel { tunnel, .. } => {
                tunnel.state == TunnelState::Releasing && self.keeps == Some(tunnel.id)
            }
            Write::RemoveAccount { .. } => self.keeps_accounts,
            _ => false,
        });
        let fails = match self.lost {
            true => 0,
            false => self.fails,
        };
        (self.broken || kept || self.happens(fails))
            .then_some(StoreError::Fatal { operation, problem })
    }
}

#[derive(Clone)]
pub(super) struct FlakyStore {
    pub(super) store: Store,
    pub(super) trouble: Arc<Mutex<Trouble>>,
}

impl Journal for FlakyStore {
    fn commit<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<Vec<Result<Committed, Conflict>>, StoreError>> {
        Box::pin(async move {
            let failed = self.trouble.lock().fails(batch);
            if let Some(error) = failed {
                return Err(error);
            }
            let refused = self.trouble.lock().refused(batch);
            let refuses = refused.contains(&true);
            let taken = match refuses {
                // The same, so that it is recognised if its answer is lost.
                false => batch.clone(),
                true => {
                    let groups = batch.groups().iter().zip(&refused);
                    let taken = groups.filter(|(_, refused)| !**refused);
                    Batch::new(taken.map(|(group, _)| group.clone()).collect())
                }
            };
            let store = self.store.clone();
            let answer = stand_still(async move { store.commit(&taken).await }).await?;
            let mut answer = answer.into_iter();
            let constraint = Constraint::Missing;
            let answers = refused.into_iter().map(|refused| match refused {
                true => Some(Err(Conflict { constraint })),
                false => answer.next(),
            });
            let answer = answers.map(|answer| answer.expect("one each")).collect();
            let mut trouble = self.trouble.lock();
            trouble.lost = trouble.lost_answers > 0 && !refuses;
            if trouble.lost {
                trouble.lost_answers -= 1;
                return Err(StoreError::Unavailable {
                    operation: "commit",
                    problem: "told to".to_owned(),
                });
            }
            Ok(answer)
        })
    }
}

/// Waits for something of the real world; virtual time would run away meanwhile.
pub(super) async fn stand_still<T: Send + 'static>(
    real: impl Future<Output = T> + Send + 'static,
) -> T {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(real))
        .await
        .unwrap()
}

/// Everything of one test; the store and the dataplanes survive a crash of the service.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) dataplanes: Vec<Model>,
    pub(super) config: LifecycleConfig,
    pub(super) trouble: Arc<Mutex<Trouble>>,
    pub(super) store: Store,
}

pub(super) const RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl World {
    pub(super) async fn new(dataplanes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = LifecycleConfig {
            dataplanes: (0..dataplanes)
                .map(|n| DataplaneConfig {
                    name: format!("d{n}").into(),
                    target: sixferry_client::Target::default(),
                    options: sixferry_client::Options::default(),
                })
                .collect(),
            ..LifecycleConfig::default()
        };
        let store = open(&dir).await;
        Self {
            dataplanes: (0..dataplanes).map(|_| Model::new()).collect(),
            trouble: Arc::default(),
            dir,
            config,
            store,
        }
    }

    pub(super) async fn start(&self) -> Lifecycle {
        let keys = KeyRing::open(&self.dir.path().join("key"), true).unwrap();
        let clock = clock();
        let loaded = self.store.load(clock.now()).await.unwrap();
        let secrets = self.store.secrets(AccountId(0), 10_000).await.unwrap();
        let parts = Parts {
            config: self.config.clone(),
            loaded,
            secrets: secrets.into_iter().collect::<HashMap<_, _>>(),
            keys,
            clock,
        };
        let journal = FlakyStore {
            store: self.store.clone(),
            trouble: self.trouble.clone(),
        };
        let store = Some(self.store.clone());
        Lifecycle::assemble(parts, journal, store, self.dataplanes.clone()).unwrap()
    }
}

async fn open(dir: &tempfile::TempDir) -> Store {
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    Store::open(&url, &StoreOptions::default()).await.unwrap()
}

pub(super) async fn account(lifecycle: &Lifecycle, name: &str, prefixes: &[&str]) -> AccountId {
    let new = NewAccount {
        name: name.to_owned(),
        secret: Some(Secret::new(b"bar".to_vec()).unwrap()),
        status: AccountStatus::Active,
        prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
    };
    lifecycle.add_account(new).await.unwrap().id
}

/// A bare tunnel of gif, from 198.51.100.`host`.
pub(super) fn link(account: AccountId, host: u8) -> Acquire {
    Acquire {
        service: "dtcp".into(),
        account,
        profile: Profile::Link,
        local: RELAY,
        remote: Ipv4Addr::new(198, 51, 100, host),
        transport: WantedTransport::SixInFour,
        slot: SlotChoice::Range {
            stem: "gif".into(),
            units: 0..=u32::MAX,
            except: [].into(),
        },
        host_prefix: None,
        prefixes: Vec::new(),
        prefixless: false,
        mtu: 1280,
        exclusive: false,
    }
}

/// Waits until something is so; in virtual time a minute passes quickly.
pub(super) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}
