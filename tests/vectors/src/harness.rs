//! A relay in memory, set up as a vector file's configuration says.
//!
//! Ethernet ports, one next hop for everything on each, no limits on what the relay sends of its own,
//! and the slow path's reassembly between two passes.

use crate::config::tables;
pub use crate::config::{NEIGHBOUR_MAC, PORT, PORT_MAC};
use crate::schema::Config;
use sixferry_fwd::reassembly::{self, Dropped, Reassembler};
use sixferry_fwd::{
    Batch, CounterSnapshot, FRAME_LEN, HEADROOM, IpId, Local, LocalConfig, Packet, PuntInfo,
    PuntReason, Tables, TablesBuilder, Ticks, Verdict, WorkerCounters, process,
};
use sixferry_wire::ether;
use std::sync::Arc;

/// A relay in memory.
#[derive(Debug)]
pub struct Harness {
    tables: Arc<Tables>,
    local: Local,
    builder: TablesBuilder,
    now: Ticks,
    reassembler: Reassembler,
    consumed: u64,
    dropped: Vec<Dropped>,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict; of a fragment that waits for others the punt, of one that completed a datagram
    /// the datagram's.
    pub verdict: Verdict,
    /// The IP packet that leaves, for [`Verdict::Tx`] and [`Verdict::Answer`].
    pub packet: Vec<u8>,
}

impl Harness {
    /// Sets a relay up.
    ///
    /// # Errors
    /// Says which field of the configuration cannot be used.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut builder = tables(config)?;
        let tables = builder.snapshot();
        let local = Local::new(LocalConfig {
            worker: 0,
            workers: 1,
            seed: 0,
            ip_id: IpId::Fixed(config.ipv4_id),
            shared: Arc::new(WorkerCounters::new()),
            dry_run: false,
        });
        Ok(Self {
            tables,
            local,
            builder,
            now: Ticks(1),
            reassembler: Reassembler::new(reassembly::Limits::default()),
            consumed: 0,
            dropped: Vec::new(),
        })
    }

    /// Sends an IP packet in by its EtherType.
    ///
    /// # Errors
    /// The packet does not fit a frame.
    pub fn send(&mut self, packet: &[u8], ether_type: u16) -> Result<Outcome, String> {
        let mut header = [0; ether::HEADER_LEN];
        ether::emit(&mut header, PORT_MAC, NEIGHBOUR_MAC, ether_type);
        let mut outcome = self.send_frame(&[&header, packet].concat())?;
        if matches!(outcome.verdict, Verdict::Tx(_) | Verdict::Answer(_)) {
            outcome.packet = strip(&outcome.packet)?;
        }
        Ok(outcome)
    }

    /// Sends an Ethernet frame in; the outcome holds the frame that leaves.
    ///
    /// # Errors
    /// The frame is too long.
    pub fn send_frame(&mut self, bytes: &[u8]) -> Result<Outcome, String> {
        let (outcome, info) = self.process(bytes, false)?;
        if outcome.verdict != Verdict::Punt(PuntReason::Fragment) {
            return Ok(outcome);
        }
        let (link, fragment) = ether::parse(&outcome.packet)
            .and_then(|header| outcome.packet.split_at_checked(header.len))
            .ok_or("a punted frame without link header")?;
        let may_open = info.tunnel.is_some();
        match self.reassembler.push(fragment, may_open, self.now) {
            reassembly::Outcome::Held => Ok(outcome),
            reassembly::Outcome::Complete(rebuilt) => {
                self.consumed += rebuilt.packets;
                let frame = [link, &rebuilt.packet].concat();
                self.process(&frame, true).map(|(outcome, _)| outcome)
            }
            reassembly::Outcome::Drop(dropped) => Ok(self.slow_drop(dropped)),
        }
    }

    /// Lets the time pass after which nobody waits for fragments; the outcome of one that did.
    pub fn wait_for_fragments(&mut self) -> Option<Outcome> {
        self.now = Ticks(self.now.0 + reassembly::Limits::default().timeout_ticks);
        let dropped = self.reassembler.expire(self.now);
        dropped
            .into_iter()
            .map(|dropped| self.slow_drop(dropped))
            .last()
    }

    fn slow_drop(&mut self, dropped: Dropped) -> Outcome {
        self.dropped.push(dropped);
        Outcome {
            verdict: Verdict::Drop(dropped.reason),
            packet: vec![],
        }
    }

    fn process(&mut self, bytes: &[u8], injected: bool) -> Result<(Outcome, PuntInfo), String> {
        let mut frame = [0u8; FRAME_LEN];
        frame
            .get_mut(HEADROOM..HEADROOM + bytes.len())
            .ok_or_else(|| format!("{} bytes do not fit a frame", bytes.len()))?
            .copy_from_slice(bytes);
        let mut batch = if injected {
            Batch::injected()
        } else {
            Batch::new()
        };
        let packet = Packet::new(&mut frame, HEADROOM, bytes.len(), PORT).ok_or("frame")?;
        batch.push(packet).map_err(|_| "batch")?;
        process(&mut batch, &self.tables, &mut self.local, self.now);
        let verdict = *batch.verdicts().first().ok_or("no verdict")?;
        let packet = batch
            .packets()
            .first()
            .map(|p| p.bytes().to_vec())
            .unwrap_or_default();
        Ok((Outcome { verdict, packet }, batch.punt_info(0)))
    }

    /// The counters so far.
    #[must_use]
    pub const fn counters(&self) -> &CounterSnapshot {
        self.local.counters()
    }

    /// What the slow path discarded.
    #[must_use]
    pub fn slow_drops(&self) -> &[Dropped] {
        &self.dropped
    }

    /// Whether every fragment punted is held, part of a completed datagram, or dropped.
    #[must_use]
    pub fn fragments_add_up(&self) -> bool {
        let punted = self
            .local
            .counters()
            .punts
            .get(PuntReason::Fragment.index());
        let dropped: u64 = self.dropped.iter().map(|d| d.packets).sum();
        punted == Some(&(self.reassembler.held_packets() + self.consumed + dropped))
    }

    /// The tables' builder, to change the relay; [`Harness::publish`] makes it count.
    pub const fn builder(&mut self) -> &mut TablesBuilder {
        &mut self.builder
    }

    /// Publishes what the builder has.
    pub fn publish(&mut self) {
        self.tables = self.builder.snapshot();
    }
}

/// The IP packet of a frame that leaves, its link header checked.
fn strip(frame: &[u8]) -> Result<Vec<u8>, String> {
    let header = ether::parse(frame).ok_or("a frame without Ethernet header leaves")?;
    let (addresses, packet) = frame
        .split_at_checked(ether::HEADER_LEN)
        .ok_or("short frame")?;
    let want_type = match packet.first().map(|byte| byte >> 4) {
        Some(4) => ether::TYPE_IPV4,
        _ => ether::TYPE_IPV6,
    };
    let macs = [NEIGHBOUR_MAC, PORT_MAC].concat();
    if header.ether_type != want_type || addresses.get(..12) != Some(macs.as_slice()) {
        return Err(format!("wrong Ethernet header leaves: {addresses:02x?}"));
    }
    Ok(packet.to_vec())
}
