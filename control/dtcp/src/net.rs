//! The server on sockets: one small task per session, one per listening address, three that follow
//! revocations, the routetable and traffic.
//!
//! A session's memory is what it needs while it waits: its future, its entry in the registry and
//! one timer; buffers exist only while there is something in them.

mod ask;
mod descriptors;
mod follow;
mod listen;
mod registry;
mod session;
mod shared;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use sixferry_lifecycle::{TunnelId, Tunnels};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use registry::{SessionInfo, SessionState};

use crate::Error;
use crate::config::Config;
use crate::plan::Settings;
use crate::routetable::{self, Problems, Stamp};
use crate::stats::Stats;
use follow::Followed;
use listen::Listener;
use shared::Shared;

/// How long [`Server::shutdown`] waits for sessions to end and tunnels to be given back.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(15);

/// Problems of a routetable that are logged one by one.
const PROBLEMS_LOGGED: usize = 100;

/// Where packets are counted, for `timeouts.traffic`.
pub trait TrafficSource: Send + Sync + 'static {
    /// How many packets have come out of each of these tunnels; `None` for one that is not known.
    fn packets<'a>(&'a self, tunnels: &'a [TunnelId]) -> BoxFuture<'a, Vec<Option<u64>>>;
}

/// A running server. Dropping it stops it without waiting; [`Server::shutdown`] waits.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Listener>>,
    followers: Vec<JoinHandle<()>>,
    /// One reload at a time, whether somebody asked for it or the routetable changed.
    reloading: Arc<tokio::sync::Mutex<Followed>>,
}

impl Server {
    /// Binds and serves. Call it within a tokio runtime.
    ///
    /// # Errors
    /// The configuration is wrong, an address cannot be listened on, or the routetable cannot be
    /// read.
    pub fn start(config: Config, tunnels: Arc<dyn Tunnels>) -> Result<Self, Error> {
        Self::start_with(config, tunnels, None)
    }

    /// The same, with a source of packet counts: needed for `timeouts.traffic`.
    ///
    /// # Errors
    /// As with [`Server::start`], and when `timeouts.traffic` is set and there is no source.
    pub fn start_with(
        config: Config,
        tunnels: Arc<dyn Tunnels>,
        traffic: Option<Arc<dyn TrafficSource>>,
    ) -> Result<Self, Error> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        check(&config, traffic.is_some())?;
        let (routes, stamp) = match &config.routetable {
            None => (None, None),
            Some(path) => {
                let (table, stamp) = read_routes(path)?;
                (Some(table), Some(stamp))
            }
        };
        let settings = settings(config, routes)?;
        let revocations = tunnels.revocations();
        let shared = Arc::new(Shared::new(settings, tunnels));
        let config = &shared.settings().config;
        let listeners = config
            .addresses()
            .into_iter()
            .map(|address| Listener::bind(address, config, &shared))
            .collect::<Result<Vec<_>, _>>()?;
        let reloading = Arc::new(tokio::sync::Mutex::new(Followed::new(stamp)));
        let mut followers = vec![
            tokio::spawn(follow::revocations(Arc::clone(&shared), revocations)),
            tokio::spawn(follow::routetable(
                Arc::clone(&shared),
                Arc::clone(&reloading),
            )),
        ];
        if let Some(source) = traffic {
            shared.set_counts_traffic();
            followers.push(tokio::spawn(follow::traffic(Arc::clone(&shared), source)));
        }
        shared.log_start();
        Ok(Self {
            shared,
            listeners: Mutex::new(listeners),
            followers,
            reloading,
        })
    }

    /// Takes another configuration and reads the routetable again. Sessions keep what they have;
    /// timeouts and texts count for them from now on. An unreadable routetable leaves the old one
    /// in force, and is logged.
    ///
    /// # Errors
    /// As with [`Server::start`]; nothing has changed then.
    pub async fn reload(&self, config: Config) -> Result<(), Error> {
        let mut followed = self.reloading.lock().await;
        check(&config, self.shared.counts_traffic())?;
        let old = self.shared.settings();
        let (routes, read) = match config.routetable.clone() {
            None => (None, Some(Followed::default())),
            Some(path) => match read_routes_apart(path.clone()).await {
                Ok((table, stamp)) => (Some(table), Some(Followed::new(Some(stamp)))),
                Err(error) if old.config.routetable.as_ref() == Some(&path) => {
                    followed.failed(None, &error, Instant::now());
                    // Somebody asked, so it is said again.
                    self.shared.routes_unreadable(&error, true);
                    (old.routes.clone(), None)
                }
                Err(error) => return Err(error),
            },
        };
        let settings = settings(config, routes)?;
        listen::change(&mut self.listeners.lock(), &settings.config, &self.shared)?;
        if let Some(read) = read {
            *followed = read;
        }
        self.shared.set_settings(settings);
        tracing::info!("configuration reloaded");
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .lock()
            .iter()
            .map(|listener| listener.bound)
            .collect()
    }

    /// The sessions there are, by number.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared.registry.list()
    }

    /// Ends a session; `false` when there is none of that number.
    pub fn disconnect(&self, id: u64) -> bool {
        self.shared.registry.disconnect(id)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Waits until a listener or a task that the server needs ends without [`Server::shutdown`], and
    /// says which. The server should be dropped then, and another one started.
    pub async fn failed(&self) -> String {
        self.shared.failed().await
    }

    /// Stops listening, ends every session with a word and gives every tunnel back. Returns when
    /// all of that is done, or after 15 s.
    pub async fn shutdown(&self) {
        self.stop();
        if tokio::time::timeout(SHUTDOWN_WAIT, self.shared.drained())
            .await
            .is_err()
        {
            tracing::warn!(
                "some sessions did not end in time; their tunnels end with the grace time"
            );
        }
        for follower in &self.followers {
            follower.abort();
        }
    }

    fn stop(&self) {
        self.listeners.lock().clear();
        self.shared.stop();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        for follower in &self.followers {
            follower.abort();
        }
    }
}

fn check(config: &Config, counts_traffic: bool) -> Result<(), Error> {
    let mut problems = config.check();
    if !config.timeouts.traffic.is_zero() && !counts_traffic {
        problems.push("timeouts.traffic: nothing here counts packets".to_owned());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Config(problems))
    }
}

fn settings(
    config: Config,
    routes: Option<Arc<routetable::RouteTable>>,
) -> Result<Settings, Error> {
    Settings::new(config, routes).map_err(|error| Error::Config(vec![error.to_string()]))
}

type Routes = (Arc<routetable::RouteTable>, Stamp);

fn read_routes(path: &Path) -> Result<Routes, Error> {
    let (table, problems, stamp) = routetable::load(path).map_err(|source| Error::RouteTable {
        path: path.to_owned(),
        source,
    })?;
    log_problems(path, &problems);
    tracing::info!(path = %path.display(), users = table.len(), "routetable read");
    Ok((Arc::new(table), stamp))
}

/// The same on a thread that may block.
async fn read_routes_apart(path: std::path::PathBuf) -> Result<Routes, Error> {
    let task = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || read_routes(&path))
    };
    task.await.unwrap_or_else(|error| {
        Err(Error::RouteTable {
            path,
            source: std::io::Error::other(error),
        })
    })
}

fn log_problems(path: &Path, problems: &Problems) {
    for problem in problems.first.iter().take(PROBLEMS_LOGGED) {
        tracing::warn!("{}:{}: {problem}", path.display(), problem.line);
    }
    let more = problems.total.saturating_sub(PROBLEMS_LOGGED);
    if more > 0 {
        tracing::warn!("{}: {more} more problems", path.display());
    }
}
