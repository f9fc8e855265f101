//! The thread that watches: asks the tables what was heard, sends the probes, tells the changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use sixferry_engine::monotonic;
use sixferry_fwd::TunnelId;

use super::{Action, Machine, Mode, Watch};
use crate::live::{Life, LifeState, LivenessCounts};

/// Tunnels looked at while the tables are held once.
const SLICE: usize = 512;
/// How often the thread turns while tunnels are watched: a tenth of a second's probes at a time.
const TURN: Duration = Duration::from_millis(100);
/// The same while none is.
const IDLE: Duration = Duration::from_millis(500);

/// What the thread needs of the rest of the daemon.
pub(crate) trait Peers: Send + Sync {
    /// Up to `most` tunnels whose watching began, changed or ended, and how they are to be watched.
    fn rewatched(&self, most: usize) -> Vec<(TunnelId, Option<Watch>)>;
    /// How many packets came out of each tunnel; `None`: it is gone.
    fn heard(&self, tunnels: &[TunnelId]) -> Vec<Option<u64>>;
    /// Sends a probe.
    fn probe(&self, tunnel: TunnelId, mode: Mode, sequence: u16);
    /// A tunnel's state has changed.
    fn changed(&self, tunnel: TunnelId, from: LifeState, to: LifeState);
}

/// The thread's handle, and what it knows.
#[derive(Debug)]
pub(crate) struct Liveness {
    machine: Arc<Mutex<Machine>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Liveness {
    /// Starts the thread.
    pub(crate) fn start(
        probes_per_second: u32,
        seed: u64,
        peers: Arc<dyn Peers>,
    ) -> std::io::Result<Self> {
        let machine = Arc::new(Mutex::new(Machine::new(probes_per_second, seed)));
        let stop = Arc::new(AtomicBool::new(false));
        let (its_machine, its_stop) = (Arc::clone(&machine), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("liveness".to_owned())
            .spawn(move || {
                while !its_stop.load(Ordering::Acquire) {
                    turn(&its_machine, &*peers);
                    let idle = its_machine.lock().is_empty();
                    std::thread::park_timeout(if idle { IDLE } else { TURN });
                }
            })?;
        Ok(Self {
            machine,
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What is known of a tunnel; `None`: it is not watched.
    pub(crate) fn life(&self, tunnel: TunnelId) -> Option<Life> {
        self.machine.lock().life(tunnel, monotonic())
    }

    pub(crate) fn counts(&self) -> LivenessCounts {
        self.machine.lock().counts()
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the liveness thread had panicked");
            }
        }
    }
}

/// One turn: what is to be watched, what was heard, what follows. The tables are never asked while
/// the machine is held: the API holds them when it asks the machine.
pub(super) fn turn(machine: &Mutex<Machine>, peers: &dyn Peers) {
    loop {
        let rewatched = peers.rewatched(SLICE);
        let tunnels: Vec<TunnelId> = rewatched.iter().map(|(tunnel, _)| *tunnel).collect();
        let heard = peers.heard(&tunnels);
        {
            let mut machine = machine.lock();
            for ((tunnel, watch), heard) in rewatched.iter().zip(heard) {
                machine.watch(*tunnel, *watch, heard.unwrap_or_default(), monotonic());
            }
        }
        if rewatched.len() < SLICE {
            break;
        }
    }
    loop {
        let tunnels = machine.lock().due(monotonic(), SLICE);
        let heard = peers.heard(&tunnels);
        let mut actions = Vec::new();
        {
            let mut machine = machine.lock();
            for (tunnel, heard) in tunnels.iter().zip(heard) {
                machine.look(*tunnel, heard, monotonic(), &mut actions);
            }
        }
        for action in actions {
            match action {
                Action::Probe {
                    tunnel,
                    mode,
                    sequence,
                } => peers.probe(tunnel, mode, sequence),
                Action::Changed { tunnel, from, to } => peers.changed(tunnel, from, to),
            }
        }
        if tunnels.len() < SLICE {
            return;
        }
    }
}
