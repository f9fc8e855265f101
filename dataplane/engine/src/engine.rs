//! Puts the parts together: for a number of workers, the publisher, the punt and inject paths, the
//! counters, and a seat for each worker, to which its ports and frames are added.

use std::io;
use std::sync::Arc;

use sixferry_fwd::{IpId, Local, LocalConfig, Tables, WorkerCounters};

use crate::frame::FramePool;
use crate::host::{HostConfig, HostEnd, HostProducer, host_path};
use crate::inject::{InjectReceiver, Injector, inject_path};
use crate::publisher::{Publisher, TablesReader};
use crate::punt::{PuntConfig, PuntConsumer, PuntProducer, punt_path};
use crate::wake::Waker;
use crate::worker::{PortSet, Worker, WorkerParts};

/// How to make an [`Engine`].
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// How many workers, at least one.
    pub workers: usize,
    /// Random number of this start.
    pub seed: u64,
    /// Where the ID of outer packets without DF comes from.
    pub ip_id: IpId,
    /// Bounds of the punt path, per worker.
    pub punts: PuntConfig,
    /// Packet buffers of the inject path, per worker, 2 KiB each.
    pub inject_buffers: usize,
    /// The rings to and from the host's own stack; `None`: the relay has none.
    pub host: Option<HostConfig>,
}

impl EngineConfig {
    /// The defaults for that many workers.
    pub fn new(workers: usize, seed: u64) -> Self {
        Self {
            workers,
            seed,
            ip_id: IpId::Counter,
            punts: PuntConfig::default(),
            inject_buffers: 256,
            host: None,
        }
    }
}

/// The parts of a dataplane other than ports, to be handed to their threads.
#[derive(Debug)]
pub struct Engine {
    /// For the control thread.
    pub publisher: Publisher,
    /// For the punt thread.
    pub punts: PuntConsumer,
    /// For whoever sends packets in.
    pub injector: Injector,
    /// For the thread between the workers and the host's own stack.
    pub host: Option<HostEnd>,
    /// For whoever reads counters; one per worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// For the workers' threads.
    pub seats: Vec<Seat>,
}

impl Engine {
    /// The parts, with `tables` as the first snapshot.
    ///
    /// # Errors
    /// When the process has no file descriptors left for the wake-ups.
    pub fn new(config: &EngineConfig, tables: Arc<Tables>) -> io::Result<Self> {
        let workers = config.workers.max(1);
        let wakers: Vec<Waker> = (0..workers)
            .map(|_| Waker::new())
            .collect::<io::Result<_>>()?;
        let (producers, punts) = punt_path(workers, &config.punts)?;
        let (receivers, injector) = inject_path(&wakers, config.inject_buffers);
        let (mut hosts, host) = match &config.host {
            Some(host) => {
                let (producers, end) = host_path(&wakers, host)?;
                (producers.into_iter().map(Some).collect(), Some(end))
            }
            None => (Vec::new(), None),
        };
        hosts.resize_with(workers, || None);
        let mut publisher = Publisher::new(tables);
        let counters: Vec<Arc<WorkerCounters>> = (0..workers).map(|_| Arc::default()).collect();
        let seats = wakers
            .into_iter()
            .zip(producers)
            .zip(receivers)
            .zip(hosts)
            .zip(&counters)
            .enumerate()
            .map(|(worker, ((((waker, punt), inject), host), shared))| Seat {
                tables: publisher.reader(waker.clone()),
                local: Local::new(LocalConfig {
                    worker,
                    workers,
                    seed: config.seed,
                    ip_id: config.ip_id,
                    shared: Arc::clone(shared),
                    dry_run: false,
                }),
                punt,
                inject,
                host,
                waker,
            })
            .collect();
        Ok(Self {
            publisher,
            punts,
            injector,
            host,
            counters,
            seats,
        })
    }
}

/// A worker but for its ports and frames.
#[derive(Debug)]
pub struct Seat {
    tables: TablesReader,
    local: Local,
    punt: PuntProducer,
    inject: InjectReceiver,
    host: Option<(HostProducer, InjectReceiver)>,
    waker: Waker,
}

impl Seat {
    /// The worker with these queues and frames.
    pub fn worker<P: crate::Port>(self, ports: PortSet<P>, pool: FramePool) -> Worker<P> {
        let Self {
            tables,
            local,
            punt,
            inject,
            host,
            waker,
        } = self;
        Worker::new(WorkerParts {
            ports,
            pool,
            tables,
            local,
            punt,
            inject,
            host,
            waker,
        })
    }
}
