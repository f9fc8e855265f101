//! Puts the daemon together, runs it and takes it apart again.
//!
//! Order at start: sockets (a second daemon stops there), ports, tables from configuration and
//! kernel, workers, steering, API. Order at stop: steering first, so that the kernel has the
//! traffic back before a worker stops.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use rand::RngExt;
use sd_notify::NotifyState;
use sixferry_engine::{
    Engine, EngineConfig, IdlePolicy, PortSet, SpawnOptions, WorkerHandle, drop_capabilities,
};
use sixferry_fwd::{PortId, Settings};
use sixferry_xsk::{OpenOptions, OpenPort, XskPort, XskSet};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::api::{Api, serve};
use crate::config::{Config, Idle, LiveHost, PortMode};
use crate::control::Control;
use crate::control::shared::{Publish, Shared};
use crate::live::Live;
use crate::metrics::{self, Metrics};
use crate::netlink::{Mirror, MirrorConfig, PortSpec, VlanPolicy};
use crate::notify;
use crate::punt::{Punts, StopPunts};
use crate::reload::{Manager, SetLevel};
use crate::runtime::{LinkState, PortView, Runtime, WorkerView};
use crate::sink::{MirrorResolver, Nobody, Sink, Steerers, Target};

/// Why the daemon cannot run: one line with cause and fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
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

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', "; ")
}

/// What the daemon starts from.
pub(crate) struct Start {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) config: Config,
    pub(crate) set_level: SetLevel,
}

/// The unix socket's file goes when the daemon does, also when it fails to start.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _removed = std::fs::remove_file(&self.0);
    }
}

struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<(TcpListener, tonic::transport::ServerTlsConfig)>,
    metrics: Option<TcpListener>,
}

/// The packet threads and what belongs to them.
struct Dataplane {
    workers: Vec<WorkerHandle<XskPort>>,
    punts: Option<(StopPunts, JoinHandle<()>)>,
    mirror: Option<Arc<Mirror>>,
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

    let (mut dataplane, shared, runtime, target) = open(&config, &path, &text, set_level).await?;
    let manager = Arc::clone(&target.manager);
    let publisher = {
        let (shared, target) = (Arc::clone(&shared), target.publish);
        std::thread::Builder::new()
            .name("publish".to_owned())
            .spawn(move || shared.publish_changes(&*target))
            .map_err(system("start a thread"))?
    };

    let (stop, stopped) = watch::channel(false);
    let live: Arc<dyn Live> = Arc::new(crate::live::Idle::default());
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
    };
    let (servers, socket) = serve_all(listeners, &api, metrics, &stopped);
    let watchdog = tokio::spawn(notify::watchdog(Arc::clone(&runtime)));

    tracing::info!(
        instance = shared.instance(),
        ports = runtime.ports.len(),
        workers = runtime.workers.len(),
        "ready"
    );
    notify::tell(&[NotifyState::Ready]);
    until_stopped(
        &mut hangup,
        &mut terminate,
        &mut interrupt,
        &manager,
        &shared,
    )
    .await;

    tracing::info!("stopping");
    notify::tell(&[NotifyState::Stopping]);
    watchdog.abort();
    stop.send_replace(true);
    for server in servers {
        // Streams never end by themselves; clients learn by the closed connection.
        server.abort();
    }
    shared.stop_publishing();
    dataplane.close(&runtime).await;
    // The thread ends after at most one publication; a panic in it was already printed.
    let _ended = publisher.join();
    drop(socket);
    Ok(())
}

async fn listen(config: &Config) -> Result<Listeners, StartError> {
    let unix = match &config.api.unix_socket {
        Some(path) => Some((serve::bind_unix(path).await?, SocketFile(path.clone()))),
        None => None,
    };
    let tcp = match &config.api.tcp {
        Some(tcp) => Some((serve::bind_tcp(tcp).await?, serve::tls(tcp)?)),
        None => None,
    };
    let metrics = match config.metrics {
        Some(listen) => Some(metrics::bind(listen).await?),
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
        tasks.push(tokio::spawn(metrics::serve(listener, registry)));
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

/// What comes out of opening besides the packet threads.
struct Opened {
    publish: Box<dyn Publish>,
    manager: Arc<Manager>,
}

async fn open(
    config: &Config,
    path: &Path,
    text: &str,
    set_level: SetLevel,
) -> Result<(Dataplane, Arc<Shared>, Arc<Runtime>, Opened), StartError> {
    let set = open_ports(config)?;
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
        let runtime = Arc::new(Runtime {
            idle: "none",
            ..Runtime::default()
        });
        let dataplane = Dataplane {
            workers: Vec::new(),
            punts: None,
            mirror: None,
        };
        return Ok((
            dataplane,
            shared,
            runtime,
            Opened {
                publish: Box::new(Nobody),
                manager,
            },
        ));
    };
    let (dataplane, runtime, publish) =
        start_workers(config, set, workers, random.random(), &shared).await?;
    Ok((dataplane, shared, runtime, Opened { publish, manager }))
}

fn open_ports(config: &Config) -> Result<Option<XskSet>, StartError> {
    if config.ports.is_empty() {
        return Ok(None);
    }
    let specs: Vec<sixferry_xsk::PortSpec> = config
        .ports
        .iter()
        .map(|port| sixferry_xsk::PortSpec {
            interface: port.name.clone(),
            mode: match port.mode {
                PortMode::Auto => sixferry_xsk::PortMode::Auto,
                PortMode::ZeroCopy => sixferry_xsk::PortMode::ZeroCopy,
                PortMode::Copy => sixferry_xsk::PortMode::Copy,
                PortMode::Generic => sixferry_xsk::PortMode::Generic,
            },
        })
        .collect();
    let options = OpenOptions {
        workers: config.worker.count,
        frames: config.worker.frames,
    };
    let set = sixferry_xsk::open::open(&specs, options)?;
    for port in &set.ports {
        describe(port, set.workers.len());
    }
    Ok(Some(set))
}

/// The log lines every "why is it slow" begins with.
fn describe(port: &OpenPort, workers: usize) {
    let name = &port.link.name;
    tracing::info!(
        port = name,
        queues = port.queues.usable(),
        workers,
        "{}",
        port.report
    );
    match &port.offloads {
        Ok(report) if !report.still_on.is_empty() => {
            let on = report.still_on.join(", ");
            tracing::warn!(port = name, "offloads that could not be switched off: {on}");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(port = name, "offloads unknown: {error}"),
    }
    if port.link.mtu > sixferry_xsk::MAX_MTU {
        let most = sixferry_xsk::MAX_MTU;
        tracing::warn!(
            port = name,
            "MTU {} is above {most}: longer frames are lost; ip link set {name} mtu {most}",
            port.link.mtu
        );
    }
}

async fn start_workers(
    config: &Config,
    set: XskSet,
    workers: usize,
    seed: u64,
    shared: &Arc<Shared>,
) -> Result<(Dataplane, Arc<Runtime>, Box<dyn Publish>), StartError> {
    let tables = shared.with(|control| control.builder_mut().snapshot());
    let engine = Engine::new(&EngineConfig::new(workers, seed), tables).map_err(|source| {
        StartError::System {
            what: "make the packet threads",
            source,
        }
    })?;
    let (idle, idle_name) = idle_policy(config.worker.idle, workers);
    let mut runtime = Runtime {
        idle: idle_name,
        ..Runtime::default()
    };
    let counters = engine
        .counters
        .into_iter()
        .zip(engine.punts.counters().to_vec());
    let seats = engine.seats.into_iter().zip(set.workers).zip(counters);
    let mut ready = Vec::new();
    for ((seat, parts), (counters, punts)) in seats {
        let mut ports = PortSet::new();
        for (id, port) in (0..).map(PortId).zip(parts.ports) {
            // There are as many places as ports: the check of the configuration saw to it.
            let _placed = ports.insert(id, port);
        }
        let worker = seat.worker(ports, parts.pool);
        runtime.workers.push(WorkerView {
            counters,
            stats: Arc::clone(worker.stats()),
            punts,
        });
        ready.push(worker);
    }
    runtime.ports = (0..)
        .map(PortId)
        .zip(set.ports)
        .map(|(id, p)| port_view(id, p))
        .collect();
    let runtime = Arc::new(runtime);

    let mut handles = Vec::new();
    for (i, worker) in ready.into_iter().enumerate() {
        let first = usize::try_from(config.worker.first_cpu).unwrap_or(usize::MAX);
        let cpu = config.worker.pin.then(|| first.saturating_add(i));
        handles.push(worker.spawn(SpawnOptions {
            name: format!("worker-{i}"),
            cpu,
            idle,
            drop_capabilities: true,
        })?);
    }

    let resolver = Arc::new(MirrorResolver::default());
    let (punts, stop) = Punts::new(
        engine.punts,
        engine.injector,
        Arc::clone(&resolver) as Arc<dyn crate::punt::Resolver>,
        Arc::clone(&runtime.slow_path),
    );
    let thread = std::thread::Builder::new()
        .name("punt".to_owned())
        .spawn(move || {
            // It parses what strangers send, and only rings and wake-ups are its means.
            if let Err(error) = drop_capabilities() {
                tracing::error!(%error, "the punt thread keeps its capabilities");
            }
            punts.run();
        })
        .map_err(|source| StartError::System {
            what: "start a thread",
            source,
        })?;

    let steerers = Arc::new(Steerers::new(Arc::clone(&runtime)));
    let mirror = start_mirror(config, shared, &runtime, &steerers).await?;
    // Set once, here: nobody can have been faster.
    let _set = resolver.shared.set(Arc::clone(shared));
    let _set = resolver.mirror.set(Arc::clone(&mirror));
    let target = Target {
        publisher: Mutex::new(engine.publisher),
        steerers,
        mirror: Arc::clone(&mirror),
    };
    shared.publish(&target);
    let dataplane = Dataplane {
        workers: handles,
        punts: Some((stop, thread)),
        mirror: Some(mirror),
    };
    Ok((dataplane, runtime, Box::new(target)))
}

fn port_view(id: PortId, port: OpenPort) -> PortView {
    let link = LinkState {
        mac: port.link.mac.unwrap_or_default(),
        mtu: port.link.mtu,
        up: port.link.up,
        ..LinkState::default()
    };
    PortView {
        id,
        driver: sixferry_xsk::driver(&port.link.name).unwrap_or_default(),
        name: port.link.name,
        ifindex: port.link.index,
        report: port.report,
        queue_count: port.queues.usable(),
        steering: Arc::new(Mutex::new(port.steering)),
        link: RwLock::new(link),
    }
}

fn idle_policy(idle: Idle, workers: usize) -> (IdlePolicy, &'static str) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match idle {
        Idle::Spin => (IdlePolicy::Spin, "spin"),
        Idle::Auto if workers < cores => (IdlePolicy::Spin, "spin"),
        Idle::Poll | Idle::Auto => (IdlePolicy::POLL, "poll"),
    }
}

async fn start_mirror(
    config: &Config,
    shared: &Arc<Shared>,
    runtime: &Arc<Runtime>,
    steerers: &Arc<Steerers>,
) -> Result<Arc<Mirror>, StartError> {
    let specs: Vec<PortSpec> = runtime
        .ports
        .iter()
        .zip(&config.ports)
        .map(|(port, section)| PortSpec {
            id: port.id,
            name: port.name.clone(),
            vlans: match &section.vlans {
                None => VlanPolicy::Auto,
                Some(vlans) => VlanPolicy::Only(vlans.clone()),
            },
        })
        .collect();
    shared.with(|control| {
        for port in &specs {
            control.name_port(port.id, &port.name);
        }
    });
    let sink = Sink {
        shared: Arc::clone(shared),
        runtime: Arc::clone(runtime),
        steerers: Arc::clone(steerers),
    };
    Ok(Arc::new(
        Mirror::start(MirrorConfig::new(specs), Arc::new(sink)).await?,
    ))
}

impl Dataplane {
    async fn close(&mut self, runtime: &Runtime) {
        if let Some(mirror) = self.mirror.take() {
            mirror.stop().await;
        }
        for port in &runtime.ports {
            if let Err(error) = port
                .steering
                .lock()
                .apply(&sixferry_xsk::SteerConfig::default())
            {
                tracing::warn!(port = port.name, "steering: {}", chain(&error));
            }
        }
        for worker in &self.workers {
            worker.stop();
        }
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a packet thread had panicked");
            }
        }
        if let Some((stop, thread)) = self.punts.take() {
            stop.stop();
            if thread.join().is_err() {
                tracing::error!("the punt thread had panicked");
            }
        }
        // The programs are detached when the last owner of `runtime` lets go of them.
    }
}
