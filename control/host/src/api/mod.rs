//! The gRPC services: thin adapters between messages and the parts of the daemon.

mod dtcp;
mod lifecycle;
mod pool;
pub(crate) mod serve;
mod status;
mod system;
mod tunnel;
mod user;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sixferry_lifecycle::secret::KeyRing;
use sixferry_lifecycle::store::Store;
use sixferry_lifecycle::{Account, Lifecycle, Tunnels};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::parts::{Board, Place};
use crate::reload::Manager;
use lifecycle::Holders;

/// Objects of a page when nothing is asked for, and the most of one.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Entries of one message.
const MAX_ENTRIES: usize = 512;
/// Watchers at a time, of each kind.
const MAX_WATCHERS: usize = 64;

/// The lifecycle while it runs here, and what an export of secrets needs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) store: Store,
    pub(crate) keys: Arc<KeyRing>,
}

/// A place of the lifecycle.
pub(crate) type LifecyclePlace = Arc<Place<Running>>;
/// A place of the DTCP plugin.
pub(crate) type DtcpPlace = Arc<Place<Arc<sixferry_dtcp::Server>>>;

/// What the services work on.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) board: Arc<Board>,
    /// `None`: it does not run here.
    pub(crate) lifecycle: Option<LifecyclePlace>,
    pub(crate) dtcp: DtcpPlace,
    pub(crate) manager: Arc<Manager>,
    holders: Arc<Holders>,
    revocation_watchers: Arc<Semaphore>,
    transition_watchers: Arc<Semaphore>,
    instance: Arc<str>,
    started: Instant,
    start_time: SystemTime,
    /// Over the unix socket: whoever reaches it may read the key file too.
    local: bool,
}

impl Api {
    pub(crate) fn new(
        board: Arc<Board>,
        lifecycle: Option<LifecyclePlace>,
        dtcp: DtcpPlace,
        manager: Arc<Manager>,
        grace: Duration,
    ) -> Self {
        Self {
            board,
            lifecycle,
            dtcp,
            manager,
            holders: Arc::new(Holders::new(grace)),
            revocation_watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            transition_watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            instance: format!("{:032x}", rand::random::<u128>()).into(),
            started: Instant::now(),
            start_time: SystemTime::now(),
            local: false,
        }
    }

    /// The same for calls over the unix socket.
    fn local(&self) -> Self {
        Self {
            local: true,
            ..self.clone()
        }
    }

    fn running(&self) -> Result<Running, Status> {
        let place = self.lifecycle.as_ref().ok_or_else(|| {
            let text = "the lifecycle runs in another process; ask that one";
            status::refuse(Code::FailedPrecondition, "PLUGIN_OFF", text)
        })?;
        place.get().ok_or_else(|| {
            let parts = self.board.read();
            let why = parts.get("lifecycle").map_or("", |part| &part.message);
            let text = format!("the lifecycle is being started; {why}");
            let text = text.trim_end_matches("; ");
            status::refuse(Code::Unavailable, "UNAVAILABLE", text)
        })
    }

    fn lifecycle(&self) -> Result<Lifecycle, Status> {
        self.running().map(|running| running.lifecycle)
    }

    fn tunnels(&self) -> Result<Arc<dyn Tunnels>, Status> {
        self.lifecycle()
            .map(|lifecycle| Arc::new(lifecycle) as Arc<dyn Tunnels>)
    }

    fn account(&self, name: &str) -> Result<Account, Status> {
        let account = self.lifecycle()?.account_named(name);
        account.ok_or_else(|| status::missing("USER_NOT_FOUND", "User", name))
    }
}

/// How many objects a page has.
fn page_size(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => MAX_PAGE,
    }
}

#[cfg(test)]
mod tests;
