//! The service: its tasks, and what plugins ask of it.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use hashbrown::HashMap;
use parking_lot::Mutex;
use sixferry_client::ElectionId;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::jobs::{Acquiring, Held};
use crate::machine::forwards;
use crate::relays::{self, Dataplane, GrpcDataplane};
use crate::secret::KeyRing;
use crate::shared::{Shared, count};
use crate::state::State;
use crate::store::{Loaded, Store, StoreError};
use crate::timer;
use crate::writer::{Job, Journal, Writer};
use crate::{
    AccountId, Acquire, Cause, Denied, Digest, Error, Lease, LeaseNumber, LifecycleConfig, Reply,
    Revocation, TunnelId, Tunnels,
};

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is no good.
    #[error("{0}")]
    Config(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Accounts, pools and tunnels. Clones are the same service.
#[derive(Clone)]
pub struct Lifecycle {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) jobs: mpsc::Sender<Box<dyn Job>>,
    /// For the past; `None` in tests without one.
    pub(crate) store: Option<Store>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    /// Ends everything at once, as if the process had been killed.
    pub(crate) fn kill(&self) {
        let writer = self.writer.lock().take();
        for task in self.tasks.lock().drain(..).chain(writer) {
            task.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.kill();
    }
}

impl std::fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lifecycle").finish_non_exhaustive()
    }
}

/// Accounts per page when their secrets are read.
const SECRETS_PER_PAGE: usize = 10_000;
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// A task that has run for so long is well again.
const RECOVERED: Duration = Duration::from_secs(60);
/// How long an orderly stop waits for the store.
const LAST_COMMIT: Duration = Duration::from_secs(5);

impl Lifecycle {
    /// Reads the store and starts to follow the dataplanes. Nothing is asked of them before it
    /// returns; wishes wait until they are there.
    pub async fn start(
        config: LifecycleConfig,
        store: Store,
        keys: KeyRing,
    ) -> Result<Self, StartError> {
        let election = ElectionId::now();
        let dataplanes = config.dataplanes.iter().cloned();
        let dataplanes = dataplanes
            .map(|d| GrpcDataplane::new(d, election))
            .collect();
        let clock = Clock::default();
        let loaded = store.load(clock.now()).await?;
        let mut secrets = HashMap::new();
        let mut after = AccountId(0);
        loop {
            let page = store.secrets(after, SECRETS_PER_PAGE).await?;
            let Some((last, _)) = page.last() else {
                break;
            };
            after = *last;
            secrets.extend(page);
        }
        let parts = Parts {
            config,
            loaded,
            secrets,
            keys,
            clock,
        };
        Self::assemble(parts, store.clone(), Some(store), dataplanes)
    }

    pub(crate) fn assemble<J: Journal, D: Dataplane>(
        parts: Parts,
        journal: J,
        store: Option<Store>,
        dataplanes: Vec<D>,
    ) -> Result<Self, StartError> {
        parts.config.check().map_err(StartError::Config)?;
        let state = State::load(parts.loaded, parts.secrets, &parts.config, parts.clock);
        let shared = Shared::new(parts.config, state);
        let (jobs, receiver) = mpsc::channel(shared.config.queue);
        let mut writer = Writer::new(shared.clone(), journal, receiver);
        let inner = Arc::new(Inner {
            auth: Arc::new(Authenticator::new(parts.keys)),
            jobs,
            tasks: Mutex::default(),
            writer: Mutex::default(),
            store: store.clone(),
            shared: shared.clone(),
        });
        let watched = shared.clone();
        *inner.writer.lock() = Some(tokio::spawn(async move {
            // What it had decided is half done: only a new start, from the store, is safe.
            if AssertUnwindSafe(writer.run()).catch_unwind().await.is_err() {
                watched.end.now("the writer failed");
            }
        }));
        let timed = shared.clone();
        let mut tasks = vec![supervise("timer", &shared, move || {
            timer::run(timed.clone())
        })];
        if let Some(store) = store {
            let pruned = shared.clone();
            let prune = move || timer::prune(pruned.clone(), store.clone());
            tasks.push(supervise("prune", &shared, prune));
        }
        for (index, dataplane) in dataplanes.into_iter().enumerate() {
            tasks.push(follow(&shared, index, dataplane));
        }
        tasks.push(tokio::spawn(end(shared.clone(), Arc::downgrade(&inner))));
        *inner.tasks.lock() = tasks;
        Ok(Self { inner })
    }

    /// Stops in order: what is decided is written; tunnels that are still held stay, and go on
    /// forwarding. Plugins stop before, and give back what is theirs.
    pub async fn shutdown(&self) {
        let shared = &self.inner.shared;
        shared.stopping.store(true, Ordering::Relaxed);
        shared.work.notify_one();
        let writer = self.inner.writer.lock().take();
        if let Some(mut writer) = writer
            && tokio::time::timeout(LAST_COMMIT, &mut writer)
                .await
                .is_err()
        {
            tracing::warn!("stopped without the store: what was not written is found out again");
            writer.abort();
        }
        for task in self.inner.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Resolves with the reason when the service cannot go on: another process has the store, or a
    /// task failed with its work half done. The dataplanes go on forwarding, every call ends with
    /// [`Error::Unavailable`], and a new start finds everything in the store: end the process.
    pub async fn ended(&self) -> String {
        self.inner.shared.end.wait().await
    }

    fn why_late(&self) -> String {
        let shared = &self.inner.shared;
        if shared.store_away.lock().is_some() {
            return "the store is away".to_owned();
        }
        match shared.state.lock().connected() {
            0 => "no dataplane is connected".to_owned(),
            _ => "not done in time".to_owned(),
        }
    }

    async fn acquire_now(self, wanted: Acquire) -> Result<Lease, Error> {
        let shared = self.inner.shared.clone();
        // Dropped last: when nobody listens any more it gives back what has come.
        let mut guard = Guard {
            shared: shared.clone(),
            held: Held::default(),
            armed: true,
        };
        let (reply, answer) = oneshot::channel();
        let job = Acquiring::new(wanted, shared.clone(), guard.held.clone(), reply);
        let waiting = async {
            let sent = self.inner.jobs.send(Box::new(job)).await;
            sent.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        let outcome = tokio::time::timeout(shared.config.acquire_timeout, waiting).await;
        let Ok(outcome) = outcome else {
            count(&shared.counters.timed_out);
            return Err(Error::Unavailable(self.why_late()));
        };
        let lease = outcome?;
        guard.armed = false;
        count(&shared.counters.acquired);
        if lease.resumed {
            count(&shared.counters.resumed);
        }
        Ok(lease)
    }
}

fn stopped() -> Error {
    Error::Unavailable("the lifecycle has stopped".to_owned())
}

/// What it starts from.
pub(crate) struct Parts {
    pub(crate) config: LifecycleConfig,
    pub(crate) loaded: Loaded,
    pub(crate) secrets: HashMap<AccountId, crate::secret::Sealed>,
    pub(crate) keys: KeyRing,
    pub(crate) clock: Clock,
}

struct Guard {
    shared: Arc<Shared>,
    held: Held,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let held = *self.held.lock();
        if let (true, Some((id, number))) = (self.armed, held) {
            self.shared
                .release(id, Some(number), Cause::ConnectionLost, None);
        }
    }
}

/// A task that is started again when it fails.
fn supervise<F>(
    name: &'static str,
    shared: &Arc<Shared>,
    start: impl Fn() -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let shared = shared.clone();
    tokio::spawn(async move {
        loop {
            let mut running = Box::pin(AssertUnwindSafe(start()).catch_unwind());
            let ended = tokio::select! {
                ended = &mut running => ended,
                () = tokio::time::sleep(RECOVERED) => {
                    shared.set_fault(name, None);
                    running.await
                }
            };
            if ended.is_ok() {
                return;
            }
            failed(&shared, name).await;
        }
    })
}

/// A panic is over when the dataplane is in step again.
fn follow<D: Dataplane>(shared: &Arc<Shared>, index: usize, mut dataplane: D) -> JoinHandle<()> {
    let shared = shared.clone();
    tokio::spawn(async move {
        loop {
            let following = relays::follow(shared.clone(), index, &mut dataplane);
            if AssertUnwindSafe(following).catch_unwind().await.is_ok() {
                return;
            }
            let name = {
                let mut state = shared.state.lock();
                state.relay_lost(index, "the task failed");
                state.relays[index].stats.name.clone()
            };
            shared.work.notify_one();
            failed(&shared, &relays::task_name(&name)).await;
        }
    })
}

async fn failed(shared: &Shared, task: &str) {
    count(&shared.counters.restarts);
    tracing::error!(task, "failed; started again");
    shared.set_fault(task, Some(format!("{task} failed and was started again")));
    tokio::time::sleep(RESTART_AFTER).await;
}

/// Ends the tasks when the service has come to its end, and whoever waits for them learns it.
async fn end(shared: Arc<Shared>, inner: Weak<Inner>) {
    let why = shared.end.wait().await;
    tracing::error!(why, "the lifecycle ended; the process must be restarted");
    shared.set_fault("lifecycle", Some(format!("{why}; restart the process")));
    if let Some(inner) = inner.upgrade() {
        // This task too, which does not wait any more.
        inner.kill();
    }
    shared.let_go();
}

impl Tunnels for Lifecycle {
    fn authenticate<'a>(&'a self, attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>> {
        Box::pin(async move {
            let shared = &self.inner.shared;
            if shared.end.is_over() {
                return Err(stopped());
            }
            let candidate = {
                let state = shared.state.lock();
                self.inner.auth.candidate(&state, attempt.user)
            };
            let result = self.inner.auth.check(&attempt, candidate);
            count(match result {
                Ok(_) => &shared.counters.logins_ok,
                Err(Denied) => &shared.counters.logins_denied,
            });
            Ok(result)
        })
    }

    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease> {
        Box::pin(self.clone().acquire_now(wanted))
    }

    fn release<'a>(&'a self, tunnel: TunnelId, number: LeaseNumber, cause: Cause) -> Reply<'a, ()> {
        if self.inner.shared.end.is_over() {
            return Box::pin(std::future::ready(Err(stopped())));
        }
        // Now, not when the answer is first asked for: the caller need not wait.
        let done = self.inner.shared.release(tunnel, Some(number), cause, None);
        Box::pin(async move {
            match done {
                None => Ok(()),
                Some(done) => done
                    .await
                    .map_err(|_| Error::Unavailable("the release was not stored".to_owned())),
            }
        })
    }

    fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.inner.shared.revocations.subscribe()
    }

    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>> {
        let state = self.inner.shared.state.lock();
        let holds = leases.iter().map(|(id, number)| {
            let entry = state.tunnel(*id);
            entry.is_some_and(|e| e.tunnel.lease == *number && forwards(e.tunnel.state))
        });
        let holds = holds.collect();
        Box::pin(std::future::ready(Ok(holds)))
    }
}
