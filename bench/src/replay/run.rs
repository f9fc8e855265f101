//! The replay itself: takes captured packets in order of time and sends what `process` decides.

use crate::replay::config::{Config, ConfigError, NamedPort, Relay};
use crate::replay::report::Report;
use sixferry_engine::{
    BATCH_MAX, FramePool, LinkLayer, PcapPort, Port, ReplayClock, ReplayError, RxPacket,
};
use sixferry_fwd::{
    Batch, Local, LocalConfig, Packet, PortId, Tables, TablesBuilder, Ticks, TunnelId, Verdict,
    WorkerCounters, process,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// A file is given for a port that the configuration does not have.
    #[error("there is no port {0} in the configuration")]
    NoSuchPort(String),
    /// A capture file.
    #[error("port {port}: {source}")]
    Capture {
        /// Whose.
        port: String,
        /// Why.
        source: ReplayError,
    },
}

/// Capture files by port name.
pub type Files = BTreeMap<String, PathBuf>;

/// Where time comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// The capture's timestamps.
    #[default]
    Captured,
    /// So many nanoseconds from one packet to the next, from 0.
    Step(u64),
}

/// One packet's fate, for whoever wants to watch.
#[derive(Debug)]
pub struct Decided<'a> {
    /// Number of the packet, from 1.
    pub number: u64,
    /// When.
    pub now: Ticks,
    /// Port it came by.
    pub port: &'a str,
    /// What became of it.
    pub verdict: Verdict,
    /// The packet as it is now.
    pub bytes: &'a [u8],
}

struct ReplayPort {
    named: NamedPort,
    pcap: PcapPort,
}

/// A relay between capture files.
pub struct Replay {
    builder: TablesBuilder,
    tables: Arc<Tables>,
    tunnels: Vec<(String, TunnelId)>,
    local: Local,
    ports: Vec<ReplayPort>,
    pool: FramePool,
    clock: ReplayClock,
    time: Time,
    now: Ticks,
    taken: u64,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Replay {
    /// Opens the files. Ports without an input receive nothing; what goes to one without an output
    /// is counted and discarded.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(
        config: &Config,
        mut inputs: Files,
        mut outputs: Files,
        time: Time,
    ) -> Result<Self, Error> {
        let Relay {
            mut builder,
            ports,
            tunnels,
            ip_id,
            seed,
        } = config.build()?;
        let clock = ReplayClock::default();
        let mut opened = Vec::new();
        for named in ports {
            let pcap = open_port(&named, &clock, &mut inputs, &mut outputs).map_err(|source| {
                Error::Capture {
                    port: named.name.clone(),
                    source,
                }
            })?;
            // a packet a turn: each has its own time
            let pcap = if time == Time::Captured {
                pcap
            } else {
                pcap.batches_of(1)
            };
            opened.push(ReplayPort { named, pcap });
        }
        if let Some((name, _)) = inputs.into_iter().chain(outputs).next() {
            return Err(Error::NoSuchPort(name));
        }
        let local = Local::new(LocalConfig {
            worker: 0,
            workers: 1,
            seed,
            ip_id,
            shared: Arc::new(WorkerCounters::new()),
            dry_run: false,
        });
        Ok(Self {
            tables: builder.snapshot(),
            builder,
            tunnels,
            local,
            ports: opened,
            pool: FramePool::heap(BATCH_MAX),
            clock,
            time,
            now: Ticks(0),
            taken: 0,
        })
    }

    /// Runs to the end of all files, calling `see` for every packet.
    ///
    /// # Errors
    /// [`Error::Capture`].
    pub fn run(mut self, mut see: impl FnMut(&Decided<'_>)) -> Result<Report, Error> {
        while let Some((first, time)) = self.earliest() {
            match self.time {
                Time::Captured => {
                    // a capture's time may step back; a clock does not
                    self.now = self.now.max(time);
                    self.clock.set(self.now);
                    for at in 0..self.ports.len() {
                        self.turn(at, &mut see);
                    }
                }
                Time::Step(step) => {
                    self.clock.set(Ticks(u64::MAX));
                    self.turn(first, &mut see);
                    self.now = Ticks(self.now.0.saturating_add(step));
                }
            }
        }
        self.finish()
    }

    /// The port whose next packet is the oldest; the first such port in the configuration.
    fn earliest(&self) -> Option<(usize, Ticks)> {
        self.ports
            .iter()
            .enumerate()
            .filter_map(|(at, port)| Some((at, port.pcap.next_time()?)))
            .min_by_key(|(at, time)| (*time, *at))
    }

    /// One batch of one port.
    fn turn(&mut self, at: usize, see: &mut impl FnMut(&Decided<'_>)) {
        let mut received = arrayvec::ArrayVec::<RxPacket, BATCH_MAX>::new();
        self.ports[at].pcap.rx(&mut self.pool, &mut received);
        let port = PortId(u8::try_from(at).unwrap_or(u8::MAX));
        let mut decided = Vec::with_capacity(received.len());
        {
            let mut batch = Batch::new();
            for RxPacket { frame, head, len } in &mut received {
                let bytes = frame.bytes_mut();
                let packet = Packet::new(bytes, usize::from(*head), usize::from(*len), port);
                // rx gives at most a batch of packets inside their frames
                _ = packet.map(|packet| batch.push(packet));
            }
            process(&mut batch, &self.tables, &mut self.local, self.now);
            for (packet, verdict) in batch.packets().iter().zip(batch.verdicts()) {
                self.taken += 1;
                see(&Decided {
                    number: self.taken,
                    now: self.now,
                    port: &self.ports[at].named.name,
                    verdict: *verdict,
                    bytes: packet.bytes(),
                });
                decided.push((*verdict, packet.head(), packet.len()));
            }
        }
        self.clock.set(self.now);
        for (RxPacket { frame, .. }, (verdict, head, len)) in received.into_iter().zip(decided) {
            let egress = match verdict {
                Verdict::Tx(port) | Verdict::Answer(port) => self.ports.get_mut(port.index()),
                Verdict::Punt(_) | Verdict::Drop(_) => None,
            };
            let (head, len) = (u16::try_from(head), u16::try_from(len));
            match (egress, head, len) {
                (Some(port), Ok(head), Ok(len)) => {
                    if let Err(frame) = port.pcap.tx(frame, head, len, &mut self.pool) {
                        self.pool.push(frame);
                    }
                }
                _ => self.pool.push(frame),
            }
        }
    }

    fn finish(self) -> Result<Report, Error> {
        let mut report = Report::of(self.local.counters());
        for ReplayPort { named, pcap } in self.ports {
            let stats = pcap.finish().map_err(|source| Error::Capture {
                port: named.name.clone(),
                source,
            })?;
            report.ports.insert(named.name, stats.into());
        }
        for (name, id) in self.tunnels {
            let totals = self.builder.tunnel_counters(id).unwrap_or_default();
            report.tunnels.insert(name, totals.into());
        }
        Ok(report)
    }
}

fn open_port(
    named: &NamedPort,
    clock: &ReplayClock,
    inputs: &mut Files,
    outputs: &mut Files,
) -> Result<PcapPort, ReplayError> {
    let link = if named.ethernet {
        LinkLayer::Ethernet
    } else {
        LinkLayer::RawIp
    };
    let mut port = PcapPort::new(link, clock.clone());
    if let Some(path) = inputs.remove(&named.name) {
        port = port.read_file(&path)?;
    }
    if let Some(path) = outputs.remove(&named.name) {
        port = port.write_file(&path)?;
    }
    Ok(port)
}
