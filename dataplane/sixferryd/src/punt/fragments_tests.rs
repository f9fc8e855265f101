//! Fragments through the punt path, with the workers' ends turned by hand.

use sixferry_engine::{Engine, EngineConfig};
use sixferry_fwd::{PuntInfo, PuntReason, Settings, TablesBuilder, TunnelId};
use sixferry_wire::{checksum, ipv4};

use super::*;

const PORT: PortId = PortId(1);
const LINK: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

struct Rig {
    engine: Engine,
    fragments: Fragments,
    counters: SlowPathCounters,
    stats: ReassemblyStats,
}

impl Rig {
    fn new(inject_buffers: usize) -> Self {
        let tables = TablesBuilder::new(Settings::default(), 1).snapshot();
        let config = EngineConfig {
            inject_buffers,
            ..EngineConfig::new(1, 1)
        };
        Self {
            engine: Engine::new(&config, tables).expect("engine"),
            fragments: Fragments::new(Limits::default()),
            counters: SlowPathCounters::default(),
            stats: ReassemblyStats::default(),
        }
    }

    fn receive(&mut self, tunnel: Option<TunnelId>, frame: &[u8], at: Ticks) {
        self.counters.count_taken();
        let (counters, stats) = (&self.counters, &self.stats);
        let injector = &self.engine.injector;
        self.fragments
            .receive(&meta(tunnel, at), frame, true, counters, stats, injector);
        self.fragments.show(stats);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.drops_for(reason).packets
    }

    /// Every packet taken is somewhere.
    fn assert_accounted(&self) {
        let c = &self.counters;
        let drops: u64 = DropReason::ALL.iter().map(|r| self.dropped(*r)).sum();
        let held = self.fragments.held();
        assert_eq!(c.taken(), c.reinjected() + c.merged() + drops + held);
    }
}

fn meta(tunnel: Option<TunnelId>, at: Ticks) -> PuntMeta {
    PuntMeta {
        reason: PuntReason::Fragment,
        rx_port: PORT,
        info: PuntInfo {
            tunnel,
            ..PuntInfo::default()
        },
        worker: 0,
        at,
    }
}

/// A 6in4 packet of that many payload bytes, behind `LINK`.
fn frame(payload: usize, id: u16) -> Vec<u8> {
    let mut packet = vec![0x60; ipv4::HEADER_LEN + payload];
    let len = packet.len() as u16;
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 41]);
    packet[12..20].copy_from_slice(&[192, 0, 2, 10, 198, 51, 100, 1]);
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    [&LINK[..], &packet].concat()
}

/// The same in pieces.
fn pieces(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut room = [0; 2048];
    fragment(&frame[14..], mtu, &mut room, |piece| {
        pieces.push([&LINK[..], piece].concat());
    })
    .expect("can be cut");
    pieces
}

#[test]
fn a_datagram_in_pieces_comes_back_as_one_packet() {
    let mut rig = Rig::new(8);
    let tunnel = Some(TunnelId(0));
    let mut pieces = pieces(&frame(1400, 7), 600);
    assert_eq!(pieces.len(), 3);
    pieces.swap(0, 2);
    for piece in &pieces[..2] {
        rig.receive(tunnel, piece, Ticks(1));
    }
    assert_eq!(
        (rig.fragments.held(), rig.engine.injector.accepted()),
        (2, 0)
    );
    rig.assert_accounted();
    rig.receive(tunnel, &pieces[2], Ticks(2));
    assert_eq!(rig.engine.injector.accepted(), 1);
    assert_eq!((rig.counters.merged(), rig.counters.reassembled()), (3, 1));
    rig.assert_accounted();
    let counts = rig.stats.counts(&rig.counters);
    assert_eq!(
        (counts.fragments, counts.reassembled, counts.open),
        (3, 1, 0)
    );
}

#[test]
fn what_never_becomes_whole_is_dropped_in_time() {
    let mut rig = Rig::new(8);
    let first = &pieces(&frame(1400, 7), 600)[0];
    rig.receive(Some(TunnelId(0)), first, Ticks(1));
    assert_eq!(rig.stats.counts(&rig.counters).open, 1);
    rig.fragments
        .expire(Ticks(6 * Ticks::PER_SECOND), &rig.counters);
    assert_eq!(rig.dropped(DropReason::ReasmTimeout), 1);
    rig.assert_accounted();
}

#[test]
fn strangers_open_nothing() {
    let mut rig = Rig::new(8);
    for id in 0..1000 {
        rig.receive(None, &pieces(&frame(1400, id), 600)[0], Ticks(1));
    }
    assert_eq!(rig.dropped(DropReason::NoTunnel), 1000);
    let counts = rig.stats.counts(&rig.counters);
    assert_eq!(
        (counts.refused, counts.open, counts.held_bytes),
        (1000, 0, 0)
    );
    rig.assert_accounted();
}

#[test]
fn a_datagram_that_finds_no_room_is_counted_by_its_fragments() {
    let mut rig = Rig::new(1);
    for id in 0..2 {
        for piece in pieces(&frame(1400, id), 600) {
            rig.receive(Some(TunnelId(0)), &piece, Ticks(1));
        }
    }
    assert_eq!(rig.engine.injector.accepted(), 1);
    assert_eq!(rig.dropped(DropReason::PuntLimit), 3);
    rig.assert_accounted();
}

#[test]
fn a_packet_too_big_leaves_in_pieces_or_not_at_all() {
    let egress = Egress {
        port: PORT,
        ethernet: true,
        mtu: 1400,
    };
    let send = |buffers, frame: &[u8]| {
        let mut rig = Rig::new(buffers);
        rig.counters.count_taken();
        let (counters, injector) = (&rig.counters, &rig.engine.injector);
        rig.fragments
            .send(&meta(None, Ticks(1)), frame, &egress, counters, injector);
        rig.assert_accounted();
        rig
    };
    let rig = send(8, &frame(1460, 1));
    assert_eq!(rig.engine.injector.accepted(), 2);
    assert_eq!(rig.counters.reinjected(), 1);

    let rig = send(1, &frame(1460, 1));
    assert_eq!(rig.dropped(DropReason::PuntLimit), 1);

    let mut fixed = frame(1460, 1);
    fixed[14 + 6] = 0x40;
    let rig = send(8, &fixed);
    assert_eq!(rig.dropped(DropReason::V4TooBig), 1);
}

#[test]
fn the_link_header_is_found() {
    let mut tagged = LINK.to_vec();
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(link_len(&LINK, true), 14);
    assert_eq!(link_len(&tagged, true), 18);
    assert_eq!(link_len(&tagged, false), 0);
    assert_eq!(link_len(&[], true), 14, "too short: no packet behind it");
}
