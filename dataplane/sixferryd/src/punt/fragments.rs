//! Fragments of tunnel packets in the slow path: received ones are put together,
//! outgoing packets larger than their link are cut (1.1).

use std::sync::atomic::{AtomicU64, Ordering};

use sixferry_engine::{InjectKind, Injector, PuntMeta, SlowPathCounters};
use sixferry_fwd::fragment::fragment;
use sixferry_fwd::reassembly::{Dropped, Limits, Outcome, Reassembler};
use sixferry_fwd::{DropReason, FRAME_LEN, PortId, Ticks};
use sixferry_wire::ether;

use crate::live::ReassemblyCounts;

/// What reassembly is doing.
#[derive(Debug, Default)]
pub(crate) struct ReassemblyStats {
    fragments: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
    held_bytes: AtomicU64,
}

impl ReassemblyStats {
    pub(crate) fn counts(&self, slow_path: &SlowPathCounters) -> ReassemblyCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReassemblyCounts {
            fragments: load(&self.fragments),
            reassembled: slow_path.reassembled(),
            refused: load(&self.refused),
            open: load(&self.open),
            held_bytes: load(&self.held_bytes),
        }
    }
}

/// Both directions.
pub(super) struct Fragments {
    reassembler: Reassembler,
    piece: Box<[u8; FRAME_LEN]>,
}

impl Fragments {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            reassembler: Reassembler::new(limits),
            piece: Box::new([0; FRAME_LEN]),
        }
    }

    /// Takes a fragment as it was received. A datagram that it completes goes back to the worker as
    /// if it had been received whole, behind the link header of this last fragment.
    pub(super) fn receive(
        &mut self,
        meta: &PuntMeta,
        frame: &[u8],
        ethernet: bool,
        counters: &SlowPathCounters,
        stats: &ReassemblyStats,
        injector: &Injector,
    ) {
        stats.fragments.fetch_add(1, Ordering::Relaxed);
        let (link, packet) = frame
            .split_at_checked(link_len(frame, ethernet))
            .unwrap_or((&[], frame));
        let may_open = meta.info.tunnel.is_some();
        match self.reassembler.push(packet, may_open, meta.at) {
            Outcome::Held => {}
            Outcome::Drop(dropped) => {
                if dropped.reason == DropReason::NoTunnel {
                    stats.refused.fetch_add(dropped.packets, Ordering::Relaxed);
                }
                count(counters, &[dropped]);
            }
            Outcome::Complete(whole) => {
                let kind = InjectKind::Process {
                    rx_port: meta.rx_port,
                };
                let bytes = [link, &whole.packet].concat();
                match injector.inject(meta.worker, &bytes, kind) {
                    Ok(()) => counters.count_reassembled(whole.packets),
                    Err(_) => {
                        counters.count_drops(DropReason::PuntLimit, whole.packets, whole.bytes);
                    }
                }
            }
        }
    }

    /// Cuts a finished frame to the MTU of the link it leaves by, and sends the pieces.
    pub(super) fn send(
        &mut self,
        meta: &PuntMeta,
        frame: &[u8],
        egress: &Egress,
        counters: &SlowPathCounters,
        injector: &Injector,
    ) {
        let link_len = link_len(frame, egress.ethernet);
        let (link, packet) = frame.split_at_checked(link_len).unwrap_or((&[], frame));
        let kind = InjectKind::Transmit { port: egress.port };
        let mut refused = 0;
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let cut = fragment(packet, egress.mtu.into(), &mut *self.piece, |piece| {
            pieces.push([link, piece].concat());
        });
        for piece in &pieces {
            refused += usize::from(injector.inject(meta.worker, piece, kind).is_err());
        }
        match (cut, refused) {
            (Ok(_), 0) => counters.count_reinjected(),
            // A datagram that lacks a piece is lost as a whole.
            (Ok(_), _) => counters.count_drop(DropReason::PuntLimit, frame.len()),
            (Err(_), _) => counters.count_drop(DropReason::V4TooBig, frame.len()),
        }
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self, now: Ticks, counters: &SlowPathCounters) {
        let dropped = self.reassembler.expire(now);
        count(counters, &dropped);
    }

    /// Publishes the gauges.
    pub(super) fn show(&self, stats: &ReassemblyStats) {
        let open = self.reassembler.contexts() as u64;
        stats.open.store(open, Ordering::Relaxed);
        let bytes = self.reassembler.held_bytes();
        stats.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Fragments that wait for the rest of their datagram.
    pub(super) fn held(&self) -> u64 {
        self.reassembler.held_packets()
    }
}

/// The port a packet leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Egress {
    pub(crate) port: PortId,
    pub(crate) ethernet: bool,
    pub(crate) mtu: u16,
}

fn count(counters: &SlowPathCounters, dropped: &[Dropped]) {
    for dropped in dropped {
        counters.count_drops(dropped.reason, dropped.packets, dropped.bytes);
    }
}

/// Length of the header in front of the IPv4 packet: none, Ethernet, or Ethernet and one tag.
fn link_len(frame: &[u8], ethernet: bool) -> usize {
    const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
    if !ethernet {
        return 0;
    }
    let tagged = frame
        .get(12..14)
        .is_some_and(|kind| TAGS.iter().any(|tag| tag == kind));
    ether::HEADER_LEN + if tagged { ether::TAG_LEN } else { 0 }
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod tests;
