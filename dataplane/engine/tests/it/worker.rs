//! One worker, turned by hand.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use proptest::prelude::*;
use sixferry_engine::{
    BATCH_MAX, Engine, EngineConfig, Frame, FramePool, Port, PortQueueStats, RxPacket, Turn,
};
use sixferry_fwd::{DropReason, PacketsBytes, PortId, Ticks};

use crate::support::{
    FAR, GATEWAY_MAC, HOST, LOCAL, RELAY_MAC, REMOTE, Sizes, USER, V4_PORT, V6_PORT, World,
    control, frame, from_user, inner, ports, to_user, tunnelled, world,
};

fn assert_settled(world: &World) {
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.unaccounted(), 0);
    assert_eq!(world.worker.frames(), world.worker.frames_total());
}

#[test]
fn a_tunnel_carries_packets_both_ways() {
    let mut world = world(&Sizes::default());
    assert!(world.v4.push(&from_user(100)) && world.v6.push(&to_user(200)));
    let turn = world.worker.turn(Ticks(1));
    assert_eq!(
        turn,
        Turn {
            received: 2,
            sent: 2,
            ..Turn::default()
        }
    );

    let decapsulated = world.v6.pull().unwrap();
    assert_eq!(decapsulated[..6], GATEWAY_MAC[1]);
    assert_eq!(decapsulated[6..12], RELAY_MAC[1]);
    assert_eq!(decapsulated[14..], inner(USER, HOST, 63, 100));

    let encapsulated = world.v4.pull().unwrap();
    assert_eq!(encapsulated[..6], GATEWAY_MAC[0]);
    assert_eq!(encapsulated[12..15], [0x08, 0, 0x45]);
    assert_eq!(
        encapsulated[26..34],
        [LOCAL.octets(), REMOTE.octets()].concat()
    );
    assert_eq!(encapsulated[34..], inner(HOST, USER, 63, 200));

    let counters = world.engine.counters[0].snapshot();
    assert_eq!(
        (counters.received.packets, counters.forwarded.packets),
        (2, 2)
    );
    assert_settled(&world);
}

#[test]
fn packets_move_without_a_copy_and_frames_come_back() {
    let mut world = world(&Sizes {
        frames: 1,
        ..Sizes::default()
    });
    for _ in 0..300 {
        assert!(world.v6.push(&to_user(1000)));
        assert_eq!(world.worker.turn(Ticks(1)).sent, 1);
        assert_eq!(world.v4.discard(), 1);
    }
    assert_settled(&world);
}

#[test]
fn a_full_tx_ring_is_a_drop_and_not_a_forward() {
    let mut world = world(&Sizes {
        tx: 4,
        ..Sizes::default()
    });
    let packet = from_user(50);
    for _ in 0..10 {
        assert!(world.v4.push(&packet));
    }
    let turn = world.worker.turn(Ticks(1));
    assert_eq!(
        turn,
        Turn {
            received: 10,
            sent: 4,
            dropped: 6,
            ..Turn::default()
        }
    );
    let counters = world.engine.counters[0].snapshot();
    let sent_len = packet.len() as u64 - 20;
    assert_eq!(
        counters.forwarded,
        PacketsBytes {
            packets: 4,
            bytes: 4 * sent_len
        }
    );
    let refused = counters.drops_for(DropReason::TxRingFull);
    assert_eq!(
        refused,
        PacketsBytes {
            packets: 6,
            bytes: 6 * sent_len
        }
    );
    assert_eq!(world.v6.discard(), 4);
    assert_eq!(
        world
            .worker
            .ports()
            .get(V6_PORT)
            .unwrap()
            .stats()
            .tx_ring_full,
        6
    );
    assert_settled(&world);
}

#[test]
fn a_refused_answer_is_a_drop_too() {
    let mut world = world(&Sizes {
        tx: 1,
        ..Sizes::default()
    });
    let expired = frame(V6_PORT, &inner(HOST, USER, 1, 50));
    assert!(world.v6.push(&expired) && world.v6.push(&expired));
    let turn = world.worker.turn(Ticks(1));
    assert_eq!((turn.sent, turn.dropped), (1, 1));
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.answered.packets, 1);
    assert_eq!(counters.drops_for(DropReason::TxRingFull).packets, 1);
    assert_settled(&world);
}

#[test]
fn an_egress_port_the_worker_lacks_loses_no_frame() {
    let mut world = world(&Sizes::default());
    drop(world.worker.ports_mut().remove(V6_PORT).unwrap());
    assert!(world.v4.push(&from_user(50)));
    assert_eq!(world.worker.turn(Ticks(1)).dropped, 1);
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.forwarded.packets, 0);
    assert_eq!(counters.drops_for(DropReason::PortDown).packets, 1);
    assert_eq!(counters.drops_for(DropReason::TxRingFull).packets, 0);
    assert_settled(&world);
}

/// A port with a defect: says that its packets lie outside their frames.
#[derive(Debug)]
struct Liar(Option<(u16, u16)>);

impl Port for Liar {
    fn rx(&mut self, pool: &mut FramePool, out: &mut ArrayVec<RxPacket, BATCH_MAX>) {
        if let Some((head, len)) = self.0.take() {
            out.push(RxPacket {
                frame: pool.pop().unwrap(),
                head,
                len,
            });
        }
    }

    fn tx(
        &mut self,
        frame: Frame,
        _head: u16,
        _len: u16,
        _pool: &mut FramePool,
    ) -> Result<(), Frame> {
        Err(frame)
    }

    fn flush(&mut self, _pool: &mut FramePool) {}

    fn held(&self) -> usize {
        0
    }

    fn stats(&self) -> PortQueueStats {
        PortQueueStats::default()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self, _pool: &mut FramePool) {}
}

#[test]
fn a_packet_outside_its_frame_is_dropped_and_counted() {
    for range in [(2048, 1), (0, 2049), (u16::MAX, u16::MAX), (1, 2048)] {
        let mut control = control(1);
        let config = EngineConfig::new(1, 7);
        let mut engine = Engine::new(&config, control.tables.snapshot()).unwrap();
        let ports = ports([Liar(Some(range)), Liar(None)]);
        let mut worker = engine.seats.remove(0).worker(ports, FramePool::heap(2));
        let turn = worker.turn(Ticks(1));
        assert_eq!(
            turn,
            Turn {
                received: 1,
                dropped: 1,
                ..Turn::default()
            }
        );
        let counters = engine.counters[0].snapshot();
        assert_eq!(counters.drops_for(DropReason::EthTruncated).packets, 1);
        assert_eq!((counters.unaccounted(), worker.frames()), (0, 2));
    }
}

#[test]
fn a_turn_takes_a_batch_of_every_port() {
    let mut world = world(&Sizes::default());
    for _ in 0..BATCH_MAX + 10 {
        assert!(world.v4.push(&from_user(50)) && world.v6.push(&to_user(50)));
    }
    assert_eq!(world.worker.turn(Ticks(1)).received, 2 * BATCH_MAX);
    assert_eq!(world.worker.turn(Ticks(2)).received, 20);
    assert!(world.worker.turn(Ticks(3)).is_empty());
    let report = world.worker.stats().report();
    assert_eq!((report.turns, report.empty_turns), (3, 1));
    assert_eq!(report.batches, [0, 0, 0, 0, 2, 0, 0, 2]);
    assert_settled(&world);
}

#[test]
fn port_figures_follow_within_a_tenth_of_a_second() {
    const MS: u64 = Ticks::PER_SECOND / 1000;
    let mut world = world(&Sizes::default());
    let stats = Arc::clone(world.worker.stats());
    let published = || stats.port(V4_PORT).map(|port| port.rx_packets);
    let start = 1_000 * MS;
    let mut busy = |now: u64| {
        assert!(world.v4.push(&from_user(50)));
        world.worker.turn(Ticks(now));
        published()
    };
    assert_eq!(busy(start), Some(1), "at once");
    assert_eq!(busy(start + MS), Some(1), "not every turn");
    assert_eq!(busy(start + 99 * MS), Some(1));
    assert_eq!(busy(start + 100 * MS), Some(4), "also without a pause");
    assert_eq!(busy(start + 101 * MS), Some(4));
    world.worker.turn(Ticks(start + 102 * MS));
    assert_eq!(published(), Some(5), "idle: nothing more will come");
}

#[test]
fn few_frames_only_slow_a_worker_down() {
    let mut world = world(&Sizes {
        frames: 3,
        ..Sizes::default()
    });
    for _ in 0..20 {
        assert!(world.v4.push(&from_user(50)));
    }
    let mut turns = 0;
    while !world.worker.turn(Ticks(turns)).is_empty() {
        turns += 1;
        assert!(world.worker.frames() == 3 && turns < 20);
    }
    assert_eq!((turns, world.v6.discard()), (7, 20));
    assert_settled(&world);
}

#[test]
fn a_new_snapshot_counts_from_the_next_turn() {
    let mut world = world(&Sizes::default());
    let (tunnel, publisher) = (world.control.tunnel, &mut world.engine.publisher);
    world.control.tables.remove_tunnel(tunnel).unwrap();
    let generation = publisher.store(world.control.tables.snapshot());
    let readers = publisher.readers();
    assert!(!readers.have_adopted(generation));
    assert!(world.v4.push(&from_user(50)));
    assert_eq!(world.worker.turn(Ticks(1)).dropped, 1);
    assert!(readers.have_adopted(generation));
    assert_eq!(
        (world.worker.generation(), publisher.collect()),
        (generation, 0)
    );
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.drops_for(DropReason::NoTunnel).packets, 1);
}

#[test]
fn shutting_down_closes_the_ports_and_keeps_the_frames() {
    let mut world = world(&Sizes::default());
    assert!(world.v4.push(&from_user(50)));
    world.worker.shut_down();
    assert!(
        world.worker.turn(Ticks(1)).is_empty(),
        "a closed port receives nothing"
    );
    let stats = world.worker.stats();
    assert_eq!(
        (stats.report().frames_free, stats.report().frames_total),
        (256, 256)
    );
    assert_eq!(stats.port(V4_PORT).unwrap().rx_packets, 0);
    assert_eq!(stats.port(PortId(2)), None);
    assert_settled(&world);
}

/// Packets of every kind the relay knows, some damaged.
fn packets() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let good = (0_usize..1500, prop::bool::ANY).prop_map(|(payload, v4)| {
        (
            v4,
            if v4 {
                from_user(payload)
            } else {
                to_user(payload)
            },
        )
    });
    let other = (0_u8..3, 0_usize..200).prop_map(|(hop_limit, payload)| {
        (
            true,
            tunnelled(REMOTE, &inner(USER, FAR, hop_limit, payload)),
        )
    });
    let damaged = (
        good.clone(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        any::<prop::sample::Index>(),
        prop::bool::ANY,
    )
        .prop_map(|((v4, mut packet), flips, cut, truncate)| {
            for (at, byte) in flips {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            if truncate {
                packet.truncate(cut.index(packet.len()));
            }
            (v4, packet)
        });
    let noise = (prop::bool::ANY, prop::collection::vec(any::<u8>(), 0..200));
    prop_oneof![3 => good, 1 => other, 3 => damaged, 1 => noise]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_frame_and_no_packet_is_ever_lost(
        packets in prop::collection::vec(packets(), 1..120),
        tx in 1_usize..64,
        frames in 1_usize..96,
        drain in 1_usize..8,
    ) {
        let mut world = world(&Sizes { frames, rx: 128, tx });
        let mut pushed = 0;
        let mut now = 0;
        for chunk in packets.chunks(7) {
            for (v4, packet) in chunk {
                pushed += usize::from(if *v4 { &world.v4 } else { &world.v6 }.push(packet));
            }
            now += 1_000_000;
            world.worker.turn(Ticks(now));
            prop_assert_eq!(world.worker.frames(), frames);
            prop_assert_eq!(world.engine.counters[0].snapshot().unaccounted(), 0);
            for _ in 0..drain {
                let _ = (world.v4.pull(), world.v6.pull());
            }
            while world.engine.punts.pop().is_some() {}
        }
        while !world.worker.turn(Ticks(now)).is_empty() {}
        let counters = world.engine.counters[0].snapshot();
        prop_assert_eq!(counters.received.packets as usize, pushed);
        prop_assert_eq!(counters.unaccounted(), 0);
        prop_assert_eq!(world.worker.frames(), frames);
    }
}
