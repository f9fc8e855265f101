//! The parts this daemon knows: how each starts, what it needs, how it stops.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sixferry_dtcp::Server;
use sixferry_lifecycle::secret::KeyRing;
use sixferry_lifecycle::store::{Store, StoreError, StoreOptions};
use sixferry_lifecycle::{AccountId, Lifecycle, Tunnels};
use sixferry_service::chain;
use tokio::sync::{mpsc, watch};

use crate::api::{DtcpPlace, LifecyclePlace, Running};
use crate::config::Config;
use crate::holder::Holder;
use crate::parts::{Board, Ended, Up, supervise};

/// How often the lifecycle is asked how it is.
const HEALTH: Duration = Duration::from_secs(1);

/// Users, pools, tunnels: everything else needs it.
pub(crate) struct LifecyclePart {
    pub(crate) board: Arc<Board>,
    pub(crate) place: LifecyclePlace,
    pub(crate) config: Config,
    pub(crate) stopped: watch::Receiver<bool>,
    /// Told when it cannot start and trying again would not help.
    pub(crate) fatal: mpsc::Sender<String>,
}

/// Why the lifecycle did not start.
#[derive(Debug)]
enum Refused {
    /// It may work later.
    Later(String),
    Never(String),
}

impl LifecyclePart {
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        supervise(Arc::clone(&this.board), "lifecycle", |up| {
            let this = Arc::clone(&this);
            async move { this.once(up).await }.boxed()
        })
        .await;
    }

    async fn once(&self, up: Up) -> Ended {
        let mut stopped = self.stopped.clone();
        // A thread of its own: migrations of a large store take their time, and the compiler cannot
        // see that the library's futures may change threads.
        let starting = tokio::task::spawn_blocking({
            let config = self.config.clone();
            move || tokio::runtime::Handle::current().block_on(start(&config))
        });
        let started = match starting.await {
            Ok(started) => started,
            Err(error) => return Ended::Failed(chain(&error)),
        };
        let running = match started {
            Ok(running) => running,
            Err(Refused::Later(why)) => return Ended::Failed(why),
            Err(Refused::Never(why)) => {
                // The channel is full when this was said already.
                let _told = self.fatal.try_send(why);
                return Ended::Stopped;
            }
        };
        self.place.set(Some(running.clone()));
        up.now();
        let mut tick = tokio::time::interval(HEALTH);
        loop {
            tokio::select! {
                _ = tick.tick() => up.is(running.lifecycle.health()),
                why = running.lifecycle.ended() => {
                    // Plugins hold on to this one: the service manager starts all anew.
                    let _told = self.fatal.try_send(format!("the lifecycle ended: {why}"));
                    break;
                }
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        self.place.set(None);
        running.lifecycle.shutdown().await;
        running.store.close().await;
        Ended::Stopped
    }
}

async fn start(config: &Config) -> Result<Running, Refused> {
    let never = |error: &dyn std::error::Error| Refused::Never(chain(error));
    make_state_dir(config).map_err(|error| {
        let dir = config.state_dir.display();
        Refused::Never(format!("cannot make {dir}: {error}"))
    })?;
    let key_file = &config.store.key_file;
    if config.store.file().is_some() {
        // A file without its key was refused by the check. The key of a new one comes first: a
        // start that is broken off must not leave the one without the other.
        KeyRing::open(key_file, true).map_err(|error| never(&error))?;
    }
    let options = StoreOptions {
        timeout: config.store.timeout,
        ..StoreOptions::default()
    };
    let opened = Store::open(&config.store.url, &options).await;
    let store = opened.map_err(|error| match error {
        StoreError::Unavailable { .. } => Refused::Later(chain(&error)),
        other => never(&other),
    })?;
    let keys = keys_of(&store, key_file).await?;
    let same = KeyRing::open(key_file, false).map_err(|error| never(&error))?;
    let started = Lifecycle::start(config.lifecycle.clone(), store.clone(), keys).await;
    let lifecycle = started.map_err(|error| Refused::Later(chain(&error)))?;
    Ok(Running {
        lifecycle,
        store,
        keys: Arc::new(same),
    })
}

/// The key of a store: made for one without secrets, and for another the one its secrets need. With a
/// wrong one every login would be refused and new secrets sealed so that the right one opens only
/// the old.
async fn keys_of(store: &Store, key_file: &Path) -> Result<KeyRing, Refused> {
    let first = store.secrets(AccountId(0), 1).await;
    let first = first.map_err(|error| Refused::Later(chain(&error)))?;
    let keys = KeyRing::open(key_file, first.is_empty());
    let keys = keys.map_err(|error| Refused::Never(chain(&error)))?;
    for (account, sealed) in &first {
        keys.unseal(*account, sealed).map_err(|error| {
            let file = key_file.display();
            let why = format!(
                "store.key_file: {file} does not open the store's secrets: {error}; put back the \
                 key that belongs to this store"
            );
            Refused::Never(why)
        })?;
    }
    Ok(keys)
}

/// One level, for this user alone.
fn make_state_dir(config: &Config) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&config.state_dir)
    {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Where a plugin's lifecycle is.
pub(crate) enum Source {
    /// In this process, once it runs.
    Here(LifecyclePlace),
    /// In another one.
    Elsewhere(Arc<dyn Tunnels>),
}

/// The DTCP server.
pub(crate) struct DtcpPart {
    pub(crate) board: Arc<Board>,
    pub(crate) place: DtcpPlace,
    pub(crate) source: Source,
    pub(crate) grace: Duration,
    /// `None`: it is off.
    pub(crate) config: watch::Receiver<Option<sixferry_dtcp::Config>>,
    pub(crate) stopped: watch::Receiver<bool>,
}

/// Ends the view of a server that is gone. What it did not give back, because it did not say goodbye
/// or could not in time, it leaves to the grace time.
struct Serving<'a> {
    place: &'a DtcpPlace,
    holder: Arc<Holder>,
    grace: Duration,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.place.set(None);
        if !self.holder.is_empty() {
            tokio::spawn(Arc::clone(&self.holder).let_go(self.grace));
        }
    }
}

impl DtcpPart {
    /// Runs while it is switched on, until it is told to stop.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut config = this.config.clone();
        let mut stopped = this.stopped.clone();
        loop {
            tokio::select! {
                on = config.wait_for(Option::is_some) => if on.is_err() { return },
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            supervise(Arc::clone(&this.board), "dtcp", |up| {
                let this = Arc::clone(&this);
                async move { this.once(up).await }.boxed()
            })
            .await;
            this.board.remove("dtcp");
            if *stopped.borrow() {
                return;
            }
        }
    }

    /// Resolves when it is to end.
    async fn told_to_end(&self) {
        let mut config = self.config.clone();
        let mut stopped = self.stopped.clone();
        tokio::select! {
            _ = config.wait_for(Option::is_none) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }

    async fn once(&self, up: Up) -> Ended {
        let tunnels = tokio::select! {
            tunnels = self.tunnels() => tunnels,
            () = self.told_to_end() => return Ended::Stopped,
        };
        let Some(config) = self.config.borrow().clone() else {
            return Ended::Stopped;
        };
        let holder = Arc::new(Holder::new(tunnels));
        let server = match Server::start(config, Arc::clone(&holder) as Arc<dyn Tunnels>) {
            Ok(server) => Arc::new(server),
            Err(error) => return Ended::Failed(chain(&error)),
        };
        let _serving = Serving {
            place: &self.place,
            holder,
            grace: self.grace,
        };
        self.place.set(Some(Arc::clone(&server)));
        up.now();
        tokio::select! {
            why = server.failed() => Ended::Failed(why),
            () = self.told_to_end() => {
                server.shutdown().await;
                Ended::Stopped
            }
        }
    }

    /// The lifecycle, as soon as there is one.
    async fn tunnels(&self) -> Arc<dyn Tunnels> {
        let place = match &self.source {
            Source::Elsewhere(tunnels) => return Arc::clone(tunnels),
            Source::Here(place) => place,
        };
        let mut changes = self.board.watch();
        loop {
            if let Some(running) = place.get() {
                return Arc::new(running.lifecycle);
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sixferry_lifecycle::secret::Secret;
    use sixferry_lifecycle::store::{Batch, Write};
    use sixferry_lifecycle::{Account, AccountStatus};

    use super::*;

    #[tokio::test]
    async fn a_store_with_secrets_is_not_opened_with_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let url = format!("sqlite:{}", at("control.db").display());
        let store = Store::open(&url, &StoreOptions::default()).await.unwrap();
        let key = at("control.key");
        // No secret yet: the key is made.
        let keys = keys_of(&store, &key).await.unwrap();
        let id = AccountId(1);
        let account = Account {
            id,
            name: "alice".to_owned(),
            status: AccountStatus::Active,
            has_secret: false,
            prefixes: Vec::new(),
            created_at: 1,
            changed_at: 1,
        };
        let secret = Secret::new(b"s3cret".to_vec()).unwrap();
        let secret = Some(keys.seal(id, &secret));
        let writes = vec![
            Write::InsertAccount(account),
            Write::SetSecret {
                account: id,
                secret,
                at: 1,
            },
        ];
        let written = store.commit(&Batch::new(vec![writes])).await.unwrap();
        assert!(written[0].is_ok());
        keys_of(&store, &key).await.unwrap();

        let refused = |outcome: Result<KeyRing, Refused>| match outcome {
            Err(Refused::Never(why)) => why,
            other => panic!("{other:?}"),
        };
        std::fs::rename(&key, at("away")).unwrap();
        let why = refused(keys_of(&store, &key).await);
        assert!(why.contains("no such key file"), "{why}");
        assert!(
            !key.exists(),
            "no new key hides that the old one is missing"
        );
        KeyRing::open(&key, true).unwrap();
        let why = refused(keys_of(&store, &key).await);
        assert!(why.contains("put back the key"), "{why}");
        store.close().await;
    }
}
