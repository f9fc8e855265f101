//! The packet threads and what belongs to them: started in order, stopped in reverse.
//!
//! Ports and workers first, so that packets have somewhere to go; then the slow path, the host port
//! and the mirror, which fills the tables; the steering programs last, with the first publication.

mod live_view;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use sixferry_engine::{
    Engine, EngineConfig, HostConfig, HostEnd, IdlePolicy, Injector, PortSet, PuntConsumer, Seat,
    SpawnOptions, Worker, WorkerHandle, drop_capabilities,
};
use sixferry_fwd::reassembly::Limits;
use sixferry_fwd::{Ipv6Prefix, PortId, PuntReason, Settings, Ticks};
use sixferry_service::chain;
use sixferry_xsk::{OpenOptions, OpenPort, WorkerPorts, XskPort, XskSet};
use tokio::sync::watch;

use crate::affinity;
use crate::config::{Config, Idle, PortMode, ReassemblyConfig, WorkerConfig};
use crate::control::shared::{Publish, Shared};
use crate::daemon::StartError;
use crate::events::EventBus;
use crate::host_port::{HostPort, HostPortCounters, Tun, keep_routes};
use crate::live::Live;
use crate::liveness::driver::Liveness;
use crate::netlink::device::DeviceRoutes;
use crate::netlink::{Mirror, MirrorConfig, PortSpec, VlanPolicy};
use crate::prober::Prober;
use crate::punt::{PuntStats, Punts, StopPunts};
use crate::runtime::{LinkState, PortView, Runtime, WorkerView};
use crate::sink::{Sink, Steerers, Target};
use crate::surroundings::Neighbourhood;
use live_view::LiveView;

/// The packet threads and what belongs to them.
pub(crate) struct Dataplane {
    workers: Vec<WorkerHandle<XskPort>>,
    punts: Option<(StopPunts, JoinHandle<()>)>,
    host: Option<HostPort>,
    liveness: Option<Arc<Liveness>>,
    pub(crate) mirror: Option<Arc<Mirror>>,
}

/// A running dataplane, and what others need of it.
pub(crate) struct Started {
    pub(crate) dataplane: Dataplane,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) publish: Box<dyn Publish>,
    pub(crate) live: Arc<dyn Live>,
}

/// Opens the configured ports; `None`: there are none.
pub(crate) fn open_ports(config: &Config) -> Result<Option<XskSet>, StartError> {
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

/// Starts the packet threads; pinned ones have their CPUs for themselves, as far as this process goes.
fn spawn(
    config: &WorkerConfig,
    idle: IdlePolicy,
    ready: Vec<Worker<XskPort>>,
) -> Result<Vec<WorkerHandle<XskPort>>, StartError> {
    let first = usize::try_from(config.first_cpu).unwrap_or(usize::MAX);
    if config.pin {
        let cpus = (first..).take(ready.len()).collect();
        match affinity::keep_off(&cpus) {
            Ok(Some(rest)) => tracing::debug!(cpus = rest, "control threads kept off the workers"),
            Ok(None) => tracing::info!(
                workers = ready.len(),
                "every CPU has a worker: control threads take time from them; fewer workers \
                 (worker.count) leave them a CPU"
            ),
            Err(error) => tracing::warn!("control threads stay on the workers' CPUs: {error}"),
        }
    }
    let spawned = (0..).zip(ready).map(|(i, worker)| {
        worker.spawn(SpawnOptions {
            name: format!("worker-{i}"),
            cpu: config.pin.then(|| first.saturating_add(i)),
            idle,
            drop_capabilities: true,
        })
    });
    Ok(spawned.collect::<Result<_, _>>()?)
}

/// Starts everything over the ports of `set`.
pub(crate) async fn start(
    config: &Config,
    set: XskSet,
    seed: u64,
    shared: &Arc<Shared>,
) -> Result<Started, StartError> {
    let count = set.workers.len().max(1);
    let host_id = (0..).map(PortId).nth(set.ports.len()).unwrap_or(PortId(0));
    let tun = match &config.host_port {
        Some(host) => {
            let tun = Tun::open(&host.name, host.mtu).await;
            Some(tun.map_err(StartError::Config)?)
        }
        None => None,
    };
    subscribe(shared, tun.is_some().then_some(host_id));
    let tables = shared.with(|control| control.builder_mut().snapshot());
    let engine_config = EngineConfig {
        host: tun.as_ref().map(|_| HostConfig::new(host_id)),
        ..EngineConfig::new(count, seed)
    };
    let engine = Engine::new(&engine_config, tables).map_err(|source| StartError::System {
        what: "make the packet threads",
        source,
    })?;
    let (idle, idle_name) = idle_policy(config.worker.idle, count);
    let mut runtime = Runtime {
        idle: idle_name,
        ..Runtime::default()
    };
    let punts = engine.punts.counters().to_vec();
    let counters = engine.counters.into_iter().zip(punts);
    let seats = engine.seats.into_iter().zip(set.workers);
    let mut ready = Vec::new();
    for ((seat, parts), (counters, punts)) in seats.zip(counters) {
        let worker = worker(seat, parts);
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
    let workers = spawn(&config.worker, idle, ready)?;

    let bus = Arc::new(EventBus::default());
    let around = Arc::new(Neighbourhood::new(
        Arc::clone(shared),
        Arc::clone(&runtime),
        Arc::clone(&bus),
    ));
    let stats = PuntStats {
        slow_path: Arc::clone(&runtime.slow_path),
        ..PuntStats::default()
    };
    let limits = limits(&config.reassembly);
    let injector = engine.injector.clone();
    let punts = start_punts(engine.punts, injector, &around, limits, &stats)?;
    let host = tun.zip(engine.host).zip(config.host_port.as_ref());
    let (host, host_counters, prefixes) = match host {
        Some(((tun, end), section)) => {
            let routed = section.routes;
            let (host, counters, prefixes) = start_host_port(tun, end, host_id, routed)?;
            (Some(host), Some(counters), prefixes)
        }
        None => (None, None, None),
    };

    let steerers = Arc::new(Steerers::new(Arc::clone(&runtime)));
    let device = config.host_port.as_ref();
    let device = device.map(|section| (host_id, section.name.clone()));
    let mirror = start_mirror(config, device, shared, &runtime, &steerers, &bus).await?;
    around.set_mirror(&mirror);
    let publisher = Arc::new(Mutex::new(engine.publisher));
    let prober = Prober::new(around, Arc::clone(&publisher), engine.injector, seed);
    let pace = config.liveness.probes_per_second;
    let liveness = Liveness::start(pace, seed, Arc::new(prober));
    let liveness = Arc::new(liveness.map_err(|source| StartError::System {
        what: "start a thread",
        source,
    })?);
    let target = Target {
        publisher,
        steerers,
        mirror: Arc::clone(&mirror),
        prefixes,
    };
    shared.publish(&target);
    let live = LiveView {
        bus,
        stats,
        host: host_counters,
        liveness: Arc::clone(&liveness),
        mirror: Arc::clone(&mirror),
    };
    Ok(Started {
        dataplane: Dataplane {
            workers,
            punts: Some(punts),
            host,
            liveness: Some(liveness),
            mirror: Some(mirror),
        },
        runtime,
        publish: Box::new(target),
        live: Arc::new(live),
    })
}

fn limits(config: &ReassemblyConfig) -> Limits {
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Limits {
        per_source: size(config.per_source),
        contexts: size(config.contexts),
        bytes: size(config.bytes),
        timeout_ticks: config.timeout.as_secs().saturating_mul(Ticks::PER_SECOND),
        ..Limits::default()
    }
}

/// Has the workers punt what the slow path handles itself.
fn subscribe(shared: &Shared, host_port: Option<PortId>) {
    let mut reasons = vec![PuntReason::Fragment, PuntReason::OuterTooBig];
    if host_port.is_some() {
        reasons.push(PuntReason::HostDelivery);
    }
    let bits = reasons.iter().fold(0, |bits, r| bits | 1_u32 << r.index());
    shared.with(|control| {
        let tables = control.builder_mut();
        let settings = Settings {
            host_port,
            punt_subscriptions: tables.settings().punt_subscriptions | bits,
            ..tables.settings().clone()
        };
        tables.set_settings(settings);
    });
}

fn worker(seat: Seat, parts: WorkerPorts) -> sixferry_engine::Worker<XskPort> {
    let mut ports = PortSet::new();
    for (id, port) in (0..).map(PortId).zip(parts.ports) {
        // There are as many places as ports: the check of the configuration saw to it.
        let _placed = ports.insert(id, port);
    }
    seat.worker(ports, parts.pool)
}

fn start_punts(
    consumer: PuntConsumer,
    injector: Injector,
    around: &Arc<Neighbourhood>,
    limits: Limits,
    stats: &PuntStats,
) -> Result<(StopPunts, JoinHandle<()>), StartError> {
    let around = Arc::clone(around);
    let (punts, stop) = Punts::new(consumer, injector, around, limits, stats.clone());
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
    Ok((stop, thread))
}

type Prefixes = watch::Sender<BTreeSet<Ipv6Prefix>>;

fn start_host_port(
    tun: Tun,
    end: HostEnd,
    port: PortId,
    routed: bool,
) -> Result<(HostPort, Arc<HostPortCounters>, Option<Prefixes>), StartError> {
    let prefixes = if routed {
        let (sender, wanted) = watch::channel(BTreeSet::new());
        tokio::spawn(keep_routes(DeviceRoutes::new(tun.index())?, wanted));
        Some(sender)
    } else {
        None
    };
    let counters: Arc<HostPortCounters> = Arc::default();
    let host = HostPort::start(tun, end, port, Arc::clone(&counters)).map_err(|source| {
        StartError::System {
            what: "start a thread",
            source,
        }
    })?;
    Ok((host, counters, prefixes))
}

fn port_view(id: PortId, port: OpenPort) -> PortView {
    let link = LinkState {
        mac: port.link.mac.unwrap_or_default(),
        mtu: port.link.mtu,
        up: port.link.up,
        ethernet: port.link.mac.is_some(),
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
    host: Option<(PortId, String)>,
    shared: &Arc<Shared>,
    runtime: &Arc<Runtime>,
    steerers: &Arc<Steerers>,
    bus: &Arc<EventBus>,
) -> Result<Arc<Mirror>, StartError> {
    let mut specs: Vec<PortSpec> = runtime
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
    let device = host.as_ref().map(|(_, name)| name.clone());
    specs.extend(host.map(|(id, name)| PortSpec {
        id,
        name,
        vlans: VlanPolicy::Only(Vec::new()),
    }));
    shared.with(|control| {
        for port in &specs {
            control.name_port(port.id, &port.name);
        }
    });
    let sink = Sink {
        shared: Arc::clone(shared),
        runtime: Arc::clone(runtime),
        steerers: Arc::clone(steerers),
        bus: Arc::clone(bus),
    };
    let config = MirrorConfig {
        host: device,
        ..MirrorConfig::new(specs)
    };
    Ok(Arc::new(Mirror::start(config, Arc::new(sink)).await?))
}

impl Dataplane {
    /// Without ports.
    pub(crate) fn none() -> Self {
        Self {
            workers: Vec::new(),
            punts: None,
            host: None,
            liveness: None,
            mirror: None,
        }
    }

    /// Gives the kernel its traffic back, then stops the threads.
    pub(crate) async fn close(&mut self, runtime: &Runtime) {
        if let Some(liveness) = self.liveness.take() {
            liveness.stop();
        }
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
        if let Some(host) = self.host.take() {
            host.stop();
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
