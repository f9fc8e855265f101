//! What all sessions share: settings, counters, limits, and the way tunnels are given back.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sixferry_lifecycle::{Cause, Error as LifecycleError, LeaseNumber, TunnelId, Tunnels};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::descriptors;
use super::registry::{Entry, Registry};
use crate::Error;
use crate::limit::{Admission, Ceilings, Failures, Full, LogBudget};
use crate::plan::Settings;
use crate::stats::{Counters, Stats};

/// First pause before a tunnel's return is tried again; doubled each time.
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause. There is no last try: the lifecycle takes what nobody gives back for held, for
/// as long as this server lives. What waits like this is bounded by the tunnels there were.
const RELEASE_PAUSE_MAX: Duration = Duration::from_secs(10);

pub(super) struct Shared {
    settings: RwLock<Arc<Settings>>,
    pub(super) tunnels: Arc<dyn Tunnels>,
    pub(super) registry: Registry,
    pub(super) counters: Counters,
    admission: Mutex<Admission>,
    failures: Mutex<Failures>,
    log_budget: Mutex<LogBudget>,
    descriptors: u64,
    counts_traffic: AtomicBool,
    stopping: AtomicBool,
    /// Tunnels on their way back.
    releasing: AtomicUsize,
    /// A session has ended or a tunnel is back.
    ended: Notify,
    /// What ended that should not have.
    failure: Mutex<Option<String>>,
    failed: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(settings: Settings, tunnels: Arc<dyn Tunnels>) -> Self {
        let limits = &settings.config.limits;
        let failures = Failures::new(
            limits.failures_per_address,
            limits.failures_forgotten_per_minute,
        );
        Self {
            settings: RwLock::new(Arc::new(settings)),
            tunnels,
            registry: Registry::default(),
            counters: Counters::default(),
            admission: Mutex::default(),
            failures: Mutex::new(failures),
            log_budget: Mutex::new(LogBudget::new(Instant::now().into_std())),
            descriptors: descriptors::raise(),
            counts_traffic: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            releasing: AtomicUsize::new(0),
            ended: Notify::new(),
            failure: Mutex::new(None),
            failed: Notify::new(),
        }
    }

    /// A task without which the server is none has ended.
    pub(super) fn fail(&self, what: String) {
        tracing::error!("{what}");
        self.failure.lock().get_or_insert(what);
        self.failed.notify_one();
    }

    /// Waits for that.
    pub(super) async fn failed(&self) -> String {
        loop {
            if let Some(what) = self.failure.lock().take() {
                return what;
            }
            self.failed.notified().await;
        }
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    pub(super) fn set_settings(&self, settings: Settings) {
        let limits = &settings.config.limits;
        self.failures.lock().set(
            limits.failures_per_address,
            limits.failures_forgotten_per_minute,
        );
        *self.settings.write() = Arc::new(settings);
    }

    pub(super) fn counts_traffic(&self) -> bool {
        self.counts_traffic.load(Ordering::Relaxed)
    }

    pub(super) fn set_counts_traffic(&self) {
        self.counts_traffic.store(true, Ordering::Relaxed);
    }

    fn ceilings(&self) -> Ceilings {
        let limits = &self.settings.read().config.limits;
        let sessions = descriptors::sessions(
            limits.sessions,
            limits.reserved_descriptors,
            self.descriptors,
        );
        Ceilings {
            sessions,
            greeted: (sessions * usize::from(limits.greeted_percent) / 100).max(1),
            greeted_per_address: limits.greeted_per_address,
        }
    }

    pub(super) fn log_start(&self) {
        let ceilings = self.ceilings();
        let settings = self.settings();
        tracing::info!(
            sessions = ceilings.sessions,
            without_tunnel = ceilings.greeted,
            without_tunnel_per_address = ceilings.greeted_per_address,
            descriptors = self.descriptors,
            addresses = ?settings.config.addresses(),
            "DTCP server started; these are its limits"
        );
        if ceilings.sessions < settings.config.limits.sessions {
            tracing::warn!(
                wanted = settings.config.limits.sessions,
                "fewer sessions than configured: the limit of descriptors is in the way"
            );
        }
        if settings.nameless() {
            tracing::warn!(
                "interfaces: a name without a number: every login without a pin will fail"
            );
        }
    }

    pub(super) fn routes_unreadable(&self, error: &Error, news: bool) {
        self.counters.routetable_failures.one();
        if news {
            tracing::warn!("{error}; the one before stays in force");
        }
    }

    /// Writes a log line about a session, unless there were too many.
    pub(super) fn log(&self, line: impl FnOnce()) {
        if self.log_budget.lock().take(Instant::now().into_std()) {
            line();
        } else {
            self.counters.log_suppressed.one();
        }
    }

    /// A place for a new session, if there is one.
    pub(super) fn enrol(
        self: &Arc<Self>,
        client: SocketAddrV4,
        server: SocketAddrV4,
    ) -> Option<Place> {
        if self.stopping() {
            return None;
        }
        if let Err(full) = self.admission.lock().admit(*client.ip(), self.ceilings()) {
            let counter = match full {
                Full::Sessions => &self.counters.refused_sessions,
                Full::Greeted => &self.counters.refused_greeted,
                Full::Address => &self.counters.refused_address,
            };
            counter.one();
            self.log(|| tracing::warn!(%client, limit = ?full, "connection refused"));
            return None;
        }
        let entry = self.registry.add(client, server);
        if self.stopping() {
            // It may have been added after the others were told.
            self.registry.shutdown();
        }
        Some(Place {
            shared: Arc::clone(self),
            entry,
            greeted: true,
        })
    }

    pub(super) fn stats(&self) -> Stats {
        let (sessions, greeted) = {
            let admission = self.admission.lock();
            (admission.sessions() as u64, admission.greeted() as u64)
        };
        let session_limit = self.ceilings().sessions as u64;
        Stats {
            sessions,
            greeted,
            session_limit,
            ..self.counters.read()
        }
    }

    pub(super) fn limited(&self, address: Ipv4Addr) -> bool {
        self.failures
            .lock()
            .limited(address, Instant::now().into_std())
    }

    pub(super) fn count_failure(&self, address: Ipv4Addr) {
        self.failures.lock().add(address, Instant::now().into_std());
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.registry.shutdown();
    }

    /// Waits until there is no session and no tunnel on its way back.
    pub(super) async fn drained(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let sessions = self.admission.lock().sessions();
            if sessions == 0 && self.releasing.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Gives a tunnel back, again and again if need be, whatever becomes of the session.
    fn release(
        self: &Arc<Self>,
        (tunnel, number): (TunnelId, LeaseNumber),
        cause: Cause,
        runtime: &Handle,
    ) -> JoinHandle<()> {
        let shared = Arc::clone(self);
        shared.releasing.fetch_add(1, Ordering::SeqCst);
        runtime.spawn(async move {
            let mut pause = RELEASE_PAUSE;
            loop {
                match shared.tunnels.release(tunnel, number, cause).await {
                    Err(LifecycleError::Unavailable(_)) => {
                        shared.counters.release_retries.one();
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RELEASE_PAUSE_MAX);
                    }
                    Err(error) => {
                        shared.log(|| tracing::error!(%tunnel, %error, "tunnel not given back"));
                        break;
                    }
                    Ok(()) => break,
                }
            }
            shared.releasing.fetch_sub(1, Ordering::SeqCst);
            shared.ended.notify_waiters();
        })
    }
}

/// A session's place among the others; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Arc<Entry>,
    /// Counted as a session without a tunnel.
    greeted: bool,
}

impl Place {
    /// It has a tunnel now, or not any more.
    pub(super) fn set_up(&mut self, up: bool) {
        let address = *self.entry.client.ip();
        if up == self.greeted {
            let mut admission = self.shared.admission.lock();
            if up {
                admission.up(address);
            } else {
                admission.down(address);
            }
            self.greeted = !up;
        }
    }

    /// It has ended but for its last words.
    pub(super) fn close(&mut self) {
        self.set_up(true);
        self.shared.registry.remove(self.entry.id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.close();
        self.shared.admission.lock().leave();
        self.shared.ended.notify_waiters();
    }
}

/// A tunnel that is held. However the session ends, it goes back.
#[derive(Debug)]
pub(super) struct Held {
    shared: Arc<Shared>,
    pub(super) key: (TunnelId, LeaseNumber),
    returned: bool,
}

impl Held {
    pub(super) fn new(shared: &Arc<Shared>, key: (TunnelId, LeaseNumber)) -> Self {
        Self {
            shared: Arc::clone(shared),
            key,
            returned: false,
        }
    }

    /// Gives it back.
    pub(super) fn release(mut self, cause: Cause) -> JoinHandle<()> {
        self.returned = true;
        self.shared.release(self.key, cause, &Handle::current())
    }

    /// It was taken away: there is nothing to give back.
    pub(super) fn forget(mut self) {
        self.returned = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.registry.let_go(self.key);
        // Without a runtime the process is ending, and the lifecycle's grace time has to do.
        if !self.returned
            && let Ok(runtime) = Handle::try_current()
        {
            drop(
                self.shared
                    .release(self.key, Cause::ConnectionLost, &runtime),
            );
        }
    }
}

/// Says so when its task panics.
pub(super) struct Alarm {
    shared: Arc<Shared>,
    task: &'static str,
}

impl Alarm {
    pub(super) fn new(shared: &Arc<Shared>, task: &'static str) -> Self {
        Self {
            shared: Arc::clone(shared),
            task,
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail(format!("{} panicked", self.task));
        }
    }
}
