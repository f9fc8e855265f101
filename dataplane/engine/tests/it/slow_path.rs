//! Punt, hold, inject: one worker and a slow path turned by hand.

use sixferry_engine::{
    EngineConfig, Held, Hold, HoldLimits, HoldQueue, InjectError, InjectKind, PuntConfig, Rate,
    Turn,
};
use sixferry_fwd::{DropReason, PuntReason, Ticks};

use crate::support::{
    FAR, GATEWAY_MAC, NEIGHBOUR, REMOTE, Sizes, USER, V4_PORT, V6_PORT, World, from_user, inner,
    tunnelled, world, world_with,
};

/// A packet whose next hop is not resolved.
fn to_far(payload: usize) -> Vec<u8> {
    tunnelled(REMOTE, &inner(USER, FAR, 64, payload))
}

fn hold_all(world: &mut World, queue: &mut HoldQueue) -> Vec<Hold> {
    let mut outcomes = Vec::new();
    while let Some(punt) = world.engine.punts.pop() {
        assert_eq!(punt.meta.reason, PuntReason::NextHopUnresolved);
        let held = Held {
            bytes: punt.bytes().to_vec(),
            rx_port: punt.meta.rx_port,
            worker: punt.meta.worker,
            since: punt.meta.at,
        };
        outcomes.push(queue.hold(&punt.meta.info, held));
    }
    outcomes
}

#[test]
fn a_packet_waits_for_its_next_hop_and_goes_on() {
    let mut world = world(&Sizes::default());
    let mut queue = HoldQueue::new(HoldLimits::default());
    assert!(world.v4.push(&to_far(77)));
    let turn = world.worker.turn(Ticks(5));
    assert_eq!(
        turn,
        Turn {
            received: 1,
            punted: 1,
            ..Turn::default()
        }
    );
    assert_eq!(hold_all(&mut world, &mut queue), [Hold::First]);

    world.control.resolve_far();
    world
        .engine
        .publisher
        .store(world.control.tables.snapshot());
    for held in queue.release_next_hop(world.control.far_hop) {
        assert_eq!(held.bytes, to_far(77), "as it was received");
        let kind = InjectKind::Process {
            rx_port: held.rx_port,
        };
        world
            .engine
            .injector
            .inject(held.worker, &held.bytes, kind)
            .unwrap();
    }
    let turn = world.worker.turn(Ticks(6));
    assert_eq!(
        turn,
        Turn {
            injected: 1,
            sent: 1,
            ..Turn::default()
        }
    );
    let sent = world.v6.pull().unwrap();
    assert_eq!(sent[..6], GATEWAY_MAC[1]);
    assert_eq!(sent[14..], inner(USER, FAR, 63, 77));

    let counters = world.engine.counters[0].snapshot();
    assert_eq!(
        (counters.received.packets, counters.injected.packets),
        (1, 1)
    );
    assert_eq!(
        (counters.punted.packets, counters.forwarded.packets),
        (1, 1)
    );
    assert_eq!(counters.unaccounted(), 0);
}

#[test]
fn packets_for_a_neighbour_wait_for_that_neighbour() {
    let mut world = world(&Sizes::default());
    let mut queue = HoldQueue::new(HoldLimits::default());
    let packet = tunnelled(REMOTE, &inner(USER, NEIGHBOUR, 64, 9));
    assert!(world.v4.push(&packet) && world.v4.push(&to_far(10)));
    world.worker.turn(Ticks(5));
    assert_eq!(hold_all(&mut world, &mut queue), [Hold::First, Hold::First]);
    assert_eq!(queue.addresses().collect::<Vec<_>>(), [NEIGHBOUR]);
    world.control.resolve_neighbour();
    world
        .engine
        .publisher
        .store(world.control.tables.snapshot());
    let released = queue.release(NEIGHBOUR.into());
    assert_eq!((released.len(), queue.len()), (1, 1));
    let kind = InjectKind::Process {
        rx_port: released[0].rx_port,
    };
    world
        .engine
        .injector
        .inject(0, &released[0].bytes, kind)
        .unwrap();
    assert_eq!(world.worker.turn(Ticks(6)).sent, 1);
    assert_eq!(
        world.v6.pull().unwrap()[14..],
        inner(USER, NEIGHBOUR, 63, 9)
    );
}

#[test]
fn released_too_early_it_is_punted_again() {
    let mut world = world(&Sizes::default());
    let mut queue = HoldQueue::new(HoldLimits::default());
    assert!(world.v4.push(&to_far(10)));
    world.worker.turn(Ticks(5));
    hold_all(&mut world, &mut queue);
    for held in queue.release_next_hop(world.control.far_hop) {
        let kind = InjectKind::Process {
            rx_port: held.rx_port,
        };
        world
            .engine
            .injector
            .inject(held.worker, &held.bytes, kind)
            .unwrap();
    }
    let turn = world.worker.turn(Ticks(6));
    assert_eq!(
        turn,
        Turn {
            injected: 1,
            punted: 1,
            ..Turn::default()
        }
    );
    assert_eq!(hold_all(&mut world, &mut queue), [Hold::First]);
    assert_eq!(world.engine.counters[0].snapshot().unaccounted(), 0);
}

#[test]
fn punts_over_the_limit_are_drops() {
    let mut config = EngineConfig::new(1, 7);
    config.punts = PuntConfig {
        buffers: 5,
        rates: [Rate::UNLIMITED; PuntReason::COUNT],
        ..PuntConfig::default()
    };
    let mut world = world_with(&Sizes::default(), &config);
    for _ in 0..20 {
        assert!(world.v4.push(&to_far(10)));
    }
    let turn = world.worker.turn(Ticks(1));
    assert_eq!(
        turn,
        Turn {
            received: 20,
            punted: 5,
            dropped: 15,
            ..Turn::default()
        }
    );
    let counters = world.engine.counters[0].snapshot();
    let at = PuntReason::NextHopUnresolved.index();
    assert_eq!((counters.punted.packets, counters.punts[at]), (5, 5));
    assert_eq!(counters.drops_for(DropReason::PuntLimit).packets, 15);
    assert_eq!(counters.unaccounted(), 0);
    assert_eq!(world.engine.punts.counters()[0].totals().no_buffer[at], 15);
    assert_eq!(world.worker.frames(), world.worker.frames_total());
}

#[test]
fn the_punt_rate_holds_over_time() {
    let mut config = EngineConfig::new(1, 7);
    let at = PuntReason::NextHopUnresolved.index();
    config.punts.rates[at] = Rate {
        per_second: 100,
        burst: 10,
    };
    let mut world = world_with(&Sizes::default(), &config);
    let mut punted = 0;
    for ms in 0..1000 {
        assert!(world.v4.push(&to_far(10)) && world.v4.push(&to_far(10)));
        world.worker.turn(Ticks(Ticks::PER_SECOND + ms * 1_000_000));
        while world.engine.punts.pop().is_some() {
            punted += 1;
        }
    }
    assert!((105..=110).contains(&punted), "{punted}");
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.punted.packets, punted);
    assert_eq!(
        counters.drops_for(DropReason::PuntLimit).packets,
        2000 - punted
    );
}

#[test]
fn a_transmitted_packet_leaves_as_it_is() {
    let mut world = world(&Sizes {
        tx: 1,
        ..Sizes::default()
    });
    let kind = InjectKind::Transmit { port: V6_PORT };
    world
        .engine
        .injector
        .inject(0, b"a frame of the slow path", kind)
        .unwrap();
    world
        .engine
        .injector
        .inject(0, b"one too many", kind)
        .unwrap();
    let turn = world.worker.turn(Ticks(1));
    assert_eq!(
        turn,
        Turn {
            injected: 2,
            sent: 1,
            dropped: 1,
            ..Turn::default()
        }
    );
    assert_eq!(world.v6.pull().unwrap(), b"a frame of the slow path");
    let report = world.worker.stats().report();
    assert_eq!((report.transmitted, report.transmit_refused), (1, 1));
    assert_eq!(world.worker.frames(), world.worker.frames_total());
    assert_eq!(world.engine.counters[0].snapshot().unaccounted(), 0);
}

#[test]
fn injected_packets_wait_for_a_frame() {
    let mut world = world(&Sizes {
        frames: 2,
        ..Sizes::default()
    });
    let kind = InjectKind::Process { rx_port: V4_PORT };
    for _ in 0..5 {
        world
            .engine
            .injector
            .inject(0, &from_user(10), kind)
            .unwrap();
    }
    let injected: Vec<usize> = (0..4)
        .map(|n| world.worker.turn(Ticks(n)).injected)
        .collect();
    assert_eq!(injected, [2, 2, 1, 0]);
    assert_eq!(world.v6.discard(), 5);
}

#[test]
fn the_inject_ring_is_bounded() {
    let mut config = EngineConfig::new(1, 7);
    config.inject_buffers = 3;
    let mut world = world_with(&Sizes::default(), &config);
    let inject = |world: &World| {
        let kind = InjectKind::Process { rx_port: V4_PORT };
        world.engine.injector.inject(0, &from_user(10), kind)
    };
    assert!((0..3).all(|_| inject(&world).is_ok()));
    assert_eq!(inject(&world), Err(InjectError::Full(0)));
    assert_eq!(world.worker.turn(Ticks(1)).injected, 3);
    assert_eq!(inject(&world), Ok(()));
}
