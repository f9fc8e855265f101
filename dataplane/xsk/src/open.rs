//! Opening ports for workers: worker *i* gets queue *i* of every interface, so that no ring is
//! shared between threads.

use std::sync::Arc;

use sixferry_engine::{FramePool, Port};

use crate::RING_ENTRIES;
use crate::attach::Steering;
use crate::bind::{BindReport, PortMode, Rung};
use crate::error::{Operation, SetupError, chain_text};
use crate::ethtool::{OffloadReport, QueueCounts, queue_counts, switch_offloads_off};
use crate::link::LinkInfo;
use crate::port::XskPort;
use crate::socket::QueueId;
use crate::umem::Umem;

/// Fewer frames per worker and port than this cannot keep a queue going.
const MIN_RX_FRAMES: u32 = 64;

/// One interface to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name.
    pub interface: String,
    /// The AF_XDP mode asked for.
    pub mode: PortMode,
}

/// How many workers, and how much memory for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Number of workers; 0 means the smallest queue count among the ports.
    pub workers: u32,
    /// Frames of packet memory per worker.
    pub frames: u32,
}

/// Open ports, and what each worker gets of them.
pub struct XskSet {
    // Dropped first: the programs are detached before the sockets close, so that the kernel has
    // the traffic back before anything is lost.
    /// The ports, in the order asked for.
    pub ports: Vec<OpenPort>,
    /// One entry per worker.
    pub workers: Vec<WorkerPorts>,
}

/// One interface as it was opened.
pub struct OpenPort {
    /// What the kernel says about it.
    pub link: LinkInfo,
    /// Its queues. Those beyond the workers' number have no socket: their frames go to the kernel.
    pub queues: QueueCounts,
    /// The XDP program on it. Nothing is steered to the relay until it is told what.
    pub steering: Steering,
    /// Which mode and why.
    pub report: BindReport,
    /// What became of the offloads that must be off, or why that is unknown.
    pub offloads: Result<OffloadReport, String>,
}

/// What one worker owns.
pub struct WorkerPorts {
    /// The memory.
    pub umem: Arc<Umem>,
    /// The free frames.
    pub pool: FramePool,
    /// Its queue of each port, in the order of [`XskSet::ports`].
    pub ports: Vec<XskPort>,
}

/// Opens every port for every worker.
///
/// Each port takes the best mode of its own that holds for all its queues; one with zero-copy and
/// one without can stand side by side.
///
/// # Errors
/// The first reason why not. Everything opened until then is closed again.
pub fn open(specs: &[PortSpec], options: OpenOptions) -> Result<XskSet, SetupError> {
    let links = specs
        .iter()
        .map(|spec| LinkInfo::query(&spec.interface))
        .collect::<Result<Vec<_>, _>>()?;
    let queues: Vec<QueueCounts> = specs
        .iter()
        .map(|spec| queue_counts(&spec.interface))
        .collect();
    let count = worker_count(specs, &queues, options.workers)?;
    let ports = u32::try_from(specs.len()).unwrap_or(u32::MAX).max(1);
    // Half for reception, half for what is on its way out.
    let rx_target = (options.frames / ports / 2).clamp(MIN_RX_FRAMES, RING_ENTRIES);
    let mut workers = (0..count)
        .map(|_| new_worker(specs, options.frames))
        .collect::<Result<Vec<_>, _>>()?;
    let mut open_ports = Vec::with_capacity(specs.len());
    for ((spec, link), queues) in specs.iter().zip(links).zip(queues) {
        open_ports.push(open_port(spec, link, queues, &mut workers, rx_target)?);
    }
    Ok(XskSet {
        ports: open_ports,
        workers,
    })
}

fn new_worker(specs: &[PortSpec], frames: u32) -> Result<WorkerPorts, SetupError> {
    let interface = specs.first().map_or("", |spec| spec.interface.as_str());
    let (umem, frames) = Umem::new(frames)
        .map_err(|error| SetupError::new(interface, Operation::RegisterUmem, error))?;
    Ok(WorkerPorts {
        umem,
        pool: FramePool::from_frames(frames),
        ports: Vec::with_capacity(specs.len()),
    })
}

fn worker_count(specs: &[PortSpec], queues: &[QueueCounts], asked: u32) -> Result<u32, SetupError> {
    let smallest = queues.iter().map(|queues| queues.usable()).min();
    if asked == 0 {
        return Ok(smallest.unwrap_or(1));
    }
    let short = specs
        .iter()
        .zip(queues)
        .find(|(_, queues)| queues.usable() < asked);
    match short {
        None => Ok(asked),
        Some((spec, queues)) => Err(SetupError::TooFewQueues {
            interface: spec.interface.clone(),
            queues: queues.usable(),
            workers: asked,
        }),
    }
}

fn open_port(
    spec: &PortSpec,
    link: LinkInfo,
    queues: QueueCounts,
    workers: &mut [WorkerPorts],
    rx_target: u32,
) -> Result<OpenPort, SetupError> {
    if !link.up {
        return Err(SetupError::InterfaceDown {
            interface: link.name,
        });
    }
    let mut attached: Option<Steering> = None;
    let mut tried = Vec::new();
    for rung in spec.mode.ladder().iter().copied() {
        let result = try_rung(rung, &link, queues, workers, rx_target, &mut attached);
        match (result, attached.take()) {
            (Ok(ports), Some(mut steering)) => {
                let report = serve(spec.mode, rung, tried, ports, workers, &mut steering)?;
                return Ok(OpenPort {
                    // Only after the program is on: attaching may reset what the driver offers.
                    offloads: switch_offloads_off(&link.name).map_err(|error| error.to_string()),
                    link,
                    queues,
                    steering,
                    report,
                });
            }
            (Err(error), _) if !leads_down(&error) => return Err(error),
            (Err(error), kept) => {
                tried.push((rung, reason(&error)));
                attached = kept;
            }
            (Ok(_), None) => break,
        }
    }
    Err(SetupError::NoMode {
        interface: link.name,
        mode: spec.mode,
        tried,
    })
}

/// Attaches the program as the rung wants it and opens one socket per worker.
fn try_rung(
    rung: Rung,
    link: &LinkInfo,
    queues: QueueCounts,
    workers: &[WorkerPorts],
    rx_target: u32,
    attached: &mut Option<Steering>,
) -> Result<Vec<XskPort>, SetupError> {
    if attached.as_ref().map(Steering::mode) != Some(rung.xdp_mode()) {
        // The old one must be gone before the new one fits.
        *attached = None;
        *attached = Some(Steering::attach(&link.name, rung.xdp_mode(), queues.rx)?);
    }
    let open = |(queue, worker): (u32, &WorkerPorts)| {
        let queue = QueueId {
            interface: link.name.clone(),
            ifindex: link.index,
            queue,
        };
        XskPort::open(queue, &worker.umem, rung.bind_mode(), rx_target)
    };
    (0..).zip(workers).map(open).collect()
}

/// Fills the ports, makes them the receivers of their queues and gives them to the workers.
fn serve(
    asked: PortMode,
    rung: Rung,
    tried: Vec<(Rung, String)>,
    ports: Vec<XskPort>,
    workers: &mut [WorkerPorts],
    steering: &mut Steering,
) -> Result<BindReport, SetupError> {
    let mut mode = rung.bind_mode();
    for (mut port, worker) in ports.into_iter().zip(workers) {
        mode = port.bind_mode();
        port.flush(&mut worker.pool);
        if let Some(socket) = port.socket_fd() {
            steering.tables_mut().set_socket(port.queue(), socket)?;
        }
        worker.ports.push(port);
    }
    Ok(BindReport {
        asked,
        rung,
        mode,
        xdp_mode: steering.mode(),
        tried,
    })
}

/// Whether a lower rung may succeed where this error came from.
fn leads_down(error: &SetupError) -> bool {
    matches!(
        error,
        SetupError::Failed {
            operation: Operation::Attach | Operation::Bind | Operation::MakeRings,
            ..
        }
    )
}

/// The kernel's answer alone: the ladder's report says the rest.
fn reason(error: &SetupError) -> String {
    match error {
        SetupError::Failed { source, .. } => chain_text(source.as_ref()),
        other => other.to_string(),
    }
}

impl XskPort {
    /// Opens queue `queue` of an interface again, for the worker whose memory `umem` is: after
    /// the interface came back, or when a port is added. Its program must be told of the socket
    /// by [`XskPort::serve`].
    ///
    /// # Errors
    /// As [`open`], without a ladder: `rung` is what the port's program is attached for.
    pub fn reopen(
        link: &LinkInfo,
        queue: u32,
        umem: &Arc<Umem>,
        rung: Rung,
        rx_target: u32,
    ) -> Result<Self, SetupError> {
        let queue = QueueId {
            interface: link.name.clone(),
            ifindex: link.index,
            queue,
        };
        Self::open(queue, umem, rung.bind_mode(), rx_target)
    }

    /// Makes this port's socket the receiver of what `steering` redirects on its queue.
    ///
    /// # Errors
    /// The kernel's.
    pub fn serve(&self, steering: &mut Steering) -> Result<(), SetupError> {
        match self.socket_fd() {
            Some(socket) => steering.tables_mut().set_socket(self.queue(), socket),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(interface: &str) -> PortSpec {
        PortSpec {
            interface: interface.to_owned(),
            mode: PortMode::Auto,
        }
    }

    fn queues(rx: u32, tx: u32) -> QueueCounts {
        QueueCounts { rx, tx }
    }

    #[test]
    fn workers_follow_the_smallest_port() {
        let specs = [spec("a"), spec("b")];
        let counts = [queues(8, 8), queues(4, 6)];
        assert_eq!(worker_count(&specs, &counts, 0).unwrap(), 4);
        assert_eq!(worker_count(&specs, &counts, 2).unwrap(), 2);
        let error = worker_count(&specs, &counts, 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "b: 4 queue(s) for 5 workers; fix: ethtool -L b combined 5, or fewer workers"
        );
    }

    #[test]
    fn missing_interface_fails_before_anything_is_opened() {
        let options = OpenOptions {
            workers: 1,
            frames: 64,
        };
        let error = open(&[spec("sfx-none")], options).err().unwrap();
        assert!(matches!(error, SetupError::NoSuchInterface { .. }));
    }
}
