//! Puts the daemon together, runs it and takes it apart again.
//!
//! Order at start: sockets (a second daemon stops there), the lifecycle, the plugins, the API. Order
//! at stop: plugins first, so that their users are told and their tunnels given back while the
//! lifecycle still works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sixferry_client::Options;
use sixferry_lifecycle::Tunnels;
use sixferry_remote::RemoteLifecycle;
use sixferry_service::{
    NotifyState, ServeError, SetLevel, SocketFile, bind_tcp, bind_unix, chain, http, tell, tls,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::serve::{self, LISTENER};
use crate::api::{Api, DtcpPlace, LifecyclePlace};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::parts::{Board, Place};
use crate::plugins::{DtcpPart, LifecyclePart, Source};
use crate::reload::Manager;

/// Why the daemon cannot run: one line with cause and fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Remote(#[from] sixferry_client::Error),
    #[error("{0}")]
    Lifecycle(String),
    #[error("cannot {what}: {source}")]
    System {
        what: &'static str,
        source: std::io::Error,
    },
}

/// What the daemon starts from.
pub(crate) struct Start {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    pub(crate) set_level: SetLevel,
}

struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<(TcpListener, tonic::transport::ServerTlsConfig)>,
    metrics: Option<TcpListener>,
}

/// The signals that are listened to from the first moment on.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, StartError> {
        let watch = |kind, what| signal(kind).map_err(|source| StartError::System { what, source });
        Ok(Self {
            hangup: watch(SignalKind::hangup(), "watch for SIGHUP")?,
            terminate: watch(SignalKind::terminate(), "watch for SIGTERM")?,
            interrupt: watch(SignalKind::interrupt(), "watch for SIGINT")?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The parts that run, each with what stops it.
struct Running {
    api: Api,
    plugins: JoinHandle<()>,
    stop_plugins: watch::Sender<bool>,
    lifecycle: Option<JoinHandle<()>>,
    stop_lifecycle: watch::Sender<bool>,
    fatal: mpsc::Receiver<String>,
}

/// Runs the daemon until it is told to stop.
pub(crate) async fn run(start: Start) -> Result<(), StartError> {
    let listeners = listen(&start.config).await?;
    let mut signals = Signals::install()?;
    let mut running = start_parts(start)?;
    let (servers, socket) = serve_all(listeners, &running.api);
    let watchdog = tokio::spawn(watchdog());
    tell(&[NotifyState::Ready]);

    let failed = until_stopped(&mut signals, &running.api.manager, &mut running.fatal).await;

    tracing::info!("stopping");
    tell(&[NotifyState::Stopping]);
    watchdog.abort();
    tokio::select! {
        () = stop(running) => {}
        () = signals.stop() => tracing::warn!("told twice: stopped without waiting"),
    }
    for server in servers {
        // Streams never end by themselves; clients learn by the closed connection.
        server.abort();
    }
    drop(socket);
    match failed {
        Some(error) => Err(StartError::Lifecycle(error)),
        None => Ok(()),
    }
}

fn start_parts(start: Start) -> Result<Running, StartError> {
    let Start {
        path,
        config,
        set_level,
    } = start;
    let board = Arc::new(Board::new());
    let dtcp: DtcpPlace = Arc::new(Place::empty());
    let manager = Manager::new(path, config.clone(), Arc::clone(&dtcp), set_level);
    let manager = Arc::new(manager);
    let (stop_lifecycle, lifecycle_stopped) = watch::channel(false);
    let (stop_plugins, plugins_stopped) = watch::channel(false);
    let (fatal_out, fatal) = mpsc::channel(1);
    let grace = config.lifecycle.grace;

    let place: Option<LifecyclePlace> = config.runs_lifecycle().then(|| Arc::new(Place::empty()));
    let lifecycle = place.as_ref().map(|place| {
        let part = LifecyclePart {
            board: Arc::clone(&board),
            place: Arc::clone(place),
            config: config.clone(),
            stopped: lifecycle_stopped,
            fatal: fatal_out,
        };
        tokio::spawn(part.run())
    });
    let source = match (&place, &config.remote) {
        (Some(place), _) => Source::Here(Arc::clone(place)),
        (None, Some(target)) => {
            let options = Options {
                timeout: config.lifecycle.acquire_timeout + Duration::from_secs(5),
            };
            let remote = RemoteLifecycle::start(target, &options)?;
            Source::Elsewhere(Arc::new(remote) as Arc<dyn Tunnels>)
        }
        (None, None) => {
            let text = "control.lifecycle is missing: where the lifecycle runs".to_owned();
            return Err(StartError::Lifecycle(text));
        }
    };
    let part = DtcpPart {
        board: Arc::clone(&board),
        place: Arc::clone(&dtcp),
        source,
        grace,
        config: manager.dtcp(),
        stopped: plugins_stopped,
    };
    let plugins = tokio::spawn(part.run());
    Ok(Running {
        api: Api::new(board, place, dtcp, manager, grace),
        plugins,
        stop_plugins,
        lifecycle,
        stop_lifecycle,
        fatal,
    })
}

/// Plugins first. A task that panicked was told about already.
async fn stop(running: Running) {
    running.stop_plugins.send_replace(true);
    let _ended = running.plugins.await;
    running.stop_lifecycle.send_replace(true);
    if let Some(lifecycle) = running.lifecycle {
        let _ended = lifecycle.await;
    }
}

async fn listen(config: &Config) -> Result<Listeners, StartError> {
    let unix = match &config.unix_socket {
        Some(path) => {
            let listener = bind_unix(LISTENER, path).await?;
            Some((listener, SocketFile(path.clone())))
        }
        None => None,
    };
    let tcp = match &config.tcp {
        Some(tcp) => Some((bind_tcp(LISTENER, tcp).await?, tls(LISTENER, tcp)?)),
        None => None,
    };
    let metrics = match config.metrics {
        Some(listen) => Some(http::bind(listen).await?),
        None => None,
    };
    Ok(Listeners { unix, tcp, metrics })
}

fn serve_all(listeners: Listeners, api: &Api) -> (Vec<JoinHandle<()>>, Option<SocketFile>) {
    let mut tasks = Vec::new();
    let report = |what: &'static str, result: Result<(), tonic::transport::Error>| {
        if let Err(error) = result {
            tracing::error!("{what}: {}", chain(&error));
        }
    };
    let mut socket = None;
    if let Some((listener, file)) = listeners.unix {
        tracing::info!(socket = %file.0.display(), "API");
        socket = Some(file);
        let api = api.clone();
        tasks.push(tokio::spawn(async move {
            let served = serve::serve_unix(api, listener, std::future::pending()).await;
            report("control", served);
        }));
    }
    if let Some((listener, tls)) = listeners.tcp {
        let api = api.clone();
        tasks.push(tokio::spawn(async move {
            let served = serve::serve_tcp(api, listener, tls, std::future::pending()).await;
            report("control.tcp", served);
        }));
    }
    if let Some(listener) = listeners.metrics {
        let registry = Arc::new(Metrics(api.clone()).registry());
        tasks.push(tokio::spawn(http::serve(listener, registry)));
    }
    (tasks, socket)
}

/// Gives why, if it was not the operator's wish.
async fn until_stopped(
    signals: &mut Signals,
    manager: &Manager,
    fatal: &mut mpsc::Receiver<String>,
) -> Option<String> {
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                let report = manager.reload().await;
                tracing::info!(applied = report.applied, "reload by SIGHUP");
            }
            _ = signals.terminate.recv() => return None,
            _ = signals.interrupt.recv() => return None,
            Some(error) = fatal.recv() => return Some(error),
        }
    }
}

/// Feeds the service manager's watchdog for ever, if there is one: what it finds is a runtime that
/// makes no progress.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Twice per period, as sd_watchdog_enabled(3) recommends.
    let pause = (limit / 2).max(Duration::from_millis(50));
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(pause).await;
    }
}
