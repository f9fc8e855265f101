//! Puts the daemon together, runs it and takes it apart again.
//!
//! Order at start: sockets (a second daemon stops there), ports, tables from configuration and
//! kernel, workers, steering, API. Order at stop: steering first, so that the kernel has the
//! traffic back before a worker stops.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt;
use sixferry_fwd::Settings;
use sixferry_service::{
    NotifyState, ServeError, SetLevel, SocketFile, bind_tcp, bind_unix, chain, http, tell, tls,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::api::Api;
use crate::api::serve::{self, LISTENER};
use crate::config::{Config, LiveHost};
use crate::control::Control;
use crate::control::shared::{Publish, Shared};
use crate::dataplane::{self, Dataplane};
use crate::live::{Idle, Live};
use crate::metrics::Metrics;
use crate::notify;
use crate::reload::Manager;
use crate::runtime::Runtime;
use crate::sink::Nobody;
use crate::state_file::{self, SaveCounts, Saver};

/// Why the daemon cannot run: one line with cause and fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Ports(#[from] sixferry_xsk::SetupError),
    #[error(transparent)]
    Netlink(#[from] crate::netlink::NetlinkError),
    #[error(transparent)]
    Spawn(#[from] sixferry_engine::SpawnError),
    #[error("{0}")]
    Config(String),
    #[error("cannot {what}: {source}")]
    System {
        what: &'static str,
        source: std::io::Error,
    },
}

/// What the daemon starts from.
pub(crate) struct Start {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) config: Config,
    pub(crate) set_level: SetLevel,
}

struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<(TcpListener, tonic::transport::ServerTlsConfig)>,
    metrics: Option<TcpListener>,
}

/// Runs the daemon until it is told to stop.
pub(crate) async fn run(start: Start) -> Result<(), StartError> {
    let Start {
        path,
        text,
        config,
        set_level,
    } = start;
    let listeners = listen(&config).await?;
    let system = |what| move |source| StartError::System { what, source };
    let mut hangup = signal(SignalKind::hangup()).map_err(system("watch for SIGHUP"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("watch for SIGINT"))?;

    let Opened {
        mut dataplane,
        shared,
        runtime,
        publish,
        manager,
        live,
    } = open(&config, &path, &text, set_level).await?;
    let publisher = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("publish".to_owned())
            .spawn(move || shared.publish_changes(&*publish))
            .map_err(system("start a thread"))?
    };

    let (stop, stopped) = watch::channel(false);
    restore(&config, &shared).await;
    let (saving, saved) = save(&config, &shared, &stopped);
    let api = Api::new(
        Arc::clone(&shared),
        Arc::clone(&runtime),
        Arc::clone(&manager),
        Arc::clone(&live),
    );
    let metrics = Metrics {
        shared: Arc::clone(&shared),
        runtime: Arc::clone(&runtime),
        mirror: dataplane.mirror.clone(),
        live,
        saved,
    };
    let (servers, socket) = serve_all(listeners, &api, metrics, &stopped);
    let watchdog = tokio::spawn(notify::watchdog(Arc::clone(&runtime)));

    tracing::info!(
        instance = shared.instance(),
        ports = runtime.ports.len(),
        workers = runtime.workers.len(),
        "ready"
    );
    tell(&[NotifyState::Ready]);
    until_stopped(
        &mut hangup,
        &mut terminate,
        &mut interrupt,
        &manager,
        &shared,
    )
    .await;

    tracing::info!("stopping");
    tell(&[NotifyState::Stopping]);
    watchdog.abort();
    stop.send_replace(true);
    for server in servers {
        // Streams never end by themselves; clients learn by the closed connection.
        server.abort();
    }
    // After the last write over the API: the file is what the next start finds.
    if let Some(saving) = saving {
        let _ended = saving.await;
    }
    shared.stop_publishing();
    dataplane.close(&runtime).await;
    // The thread ends after at most one publication; a panic in it was already printed.
    let _ended = publisher.join();
    drop(socket);
    Ok(())
}

/// Puts back what controllers had programmed, before any of them can connect.
async fn restore(config: &Config, shared: &Arc<Shared>) {
    if config.state.restore {
        let (shared, dir) = (Arc::clone(shared), config.state_dir.clone());
        // A panic in it was already printed; the daemon is better off without the file then.
        let _ended = tokio::task::spawn_blocking(move || state_file::restore(&shared, &dir)).await;
    }
}

type Saving = (Option<tokio::task::JoinHandle<()>>, Option<Arc<SaveCounts>>);

fn save(config: &Config, shared: &Arc<Shared>, stopped: &watch::Receiver<bool>) -> Saving {
    if !config.state.save {
        return (None, None);
    }
    let dir = config.state_dir.clone();
    let saver = Saver::new(Arc::clone(shared), dir, config.state.interval);
    let counts = saver.counts();
    (Some(tokio::spawn(saver.run(stopped.clone()))), Some(counts))
}

async fn listen(config: &Config) -> Result<Listeners, StartError> {
    let unix = match &config.api.unix_socket {
        Some(path) => Some((bind_unix(LISTENER, path).await?, SocketFile(path.clone()))),
        None => None,
    };
    let tcp = match &config.api.tcp {
        Some(tcp) => Some((bind_tcp(LISTENER, tcp).await?, tls(LISTENER, tcp)?)),
        None => None,
    };
    let metrics = match config.metrics {
        Some(listen) => Some(http::bind(listen).await?),
        None => None,
    };
    Ok(Listeners { unix, tcp, metrics })
}

fn serve_all(
    listeners: Listeners,
    api: &Api,
    metrics: Metrics,
    stopped: &watch::Receiver<bool>,
) -> (Vec<tokio::task::JoinHandle<()>>, Option<SocketFile>) {
    let mut tasks = Vec::new();
    let stop = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone: stopped as well.
            let _stop = stopped.wait_for(|stop| *stop).await;
        }
    };
    let report = |what: &'static str, result: Result<(), tonic::transport::Error>| {
        if let Err(error) = result {
            tracing::error!("{what}: {}", chain(&error));
        }
    };
    let mut socket = None;
    if let Some((listener, file)) = listeners.unix {
        tracing::info!(socket = %file.0.display(), "API");
        socket = Some(file);
        let (api, stop) = (api.clone(), stop());
        tasks.push(tokio::spawn(async move {
            report("api", serve::serve_unix(api, listener, stop).await);
        }));
    }
    if let Some((listener, tls)) = listeners.tcp {
        let (api, stop) = (api.clone(), stop());
        tasks.push(tokio::spawn(async move {
            report("api.tcp", serve::serve_tcp(api, listener, tls, stop).await);
        }));
    }
    if let Some(listener) = listeners.metrics {
        let registry = Arc::new(metrics.registry());
        tasks.push(tokio::spawn(http::serve(listener, registry)));
    }
    (tasks, socket)
}

async fn until_stopped(
    hangup: &mut Signal,
    terminate: &mut Signal,
    interrupt: &mut Signal,
    manager: &Manager,
    shared: &Arc<Shared>,
) {
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                let report = manager.reload(shared).await;
                tracing::info!(applied = report.applied, "reload by SIGHUP");
            }
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
        }
    }
}

/// What is open and runs.
struct Opened {
    dataplane: Dataplane,
    shared: Arc<Shared>,
    runtime: Arc<Runtime>,
    publish: Box<dyn Publish>,
    manager: Arc<Manager>,
    live: Arc<dyn Live>,
}

async fn open(
    config: &Config,
    path: &Path,
    text: &str,
    set_level: SetLevel,
) -> Result<Opened, StartError> {
    let set = dataplane::open_ports(config)?;
    let workers = set.as_ref().map_or(1, |set| set.workers.len().max(1));
    let mut random = rand::rng();
    let instance: Arc<str> = format!("{:032x}", random.random::<u128>()).into();
    let settings = Settings {
        hash_seed: random.random(),
        ..config.settings.clone()
    };
    let control = Control::new(settings, workers, Arc::clone(&instance));
    let shared = Arc::new(Shared::new(control, instance));
    let host = Box::new(LiveHost);
    let manager = Manager::new(
        path.to_owned(),
        host,
        text.to_owned(),
        config.clone(),
        set_level,
    );
    manager.start(&shared).map_err(|findings| {
        let first = findings
            .first()
            .map_or_else(String::new, ToString::to_string);
        StartError::Config(first)
    })?;
    let manager = Arc::new(manager);
    let Some(set) = set else {
        shared.publish(&Nobody);
        let runtime = Runtime {
            idle: "none",
            ..Runtime::default()
        };
        return Ok(Opened {
            dataplane: Dataplane::none(),
            shared,
            runtime: Arc::new(runtime),
            publish: Box::new(Nobody),
            manager,
            live: Arc::new(Idle::default()),
        });
    };
    let started = dataplane::start(config, set, random.random(), &shared).await?;
    Ok(Opened {
        dataplane: started.dataplane,
        shared,
        runtime: started.runtime,
        publish: started.publish,
        manager,
        live: started.live,
    })
}
