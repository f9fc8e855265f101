//! Traffic of the relay host's own stack.

use std::net::Ipv6Addr;

use sixferry_engine::{EngineConfig, HostConfig, HostEnd, InjectKind, PuntConfig, Turn};
use sixferry_fwd::{
    DropReason, Ipv6Prefix, PortConfig, PortId, PortKind, PuntReason, Route, RouteSource, Settings,
    Ticks,
};

use crate::support::{
    FAR, REMOTE, Sizes, USER, World, from_user, inner, to_user, tunnelled, world_with,
};

const HOST_PORT: PortId = PortId(2);
/// Of the relay host.
const SELF: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);

fn world(buffers: usize, punts: PuntConfig) -> World {
    let config = EngineConfig {
        host: Some(HostConfig {
            port: HOST_PORT,
            buffers,
        }),
        punts,
        ..EngineConfig::new(1, 7)
    };
    let mut world = world_with(&Sizes::default(), &config);
    let tables = &mut world.control.tables;
    let settings = Settings {
        host_port: Some(HOST_PORT),
        punt_subscriptions: 1 << PuntReason::HostDelivery.index(),
        ..tables.settings().clone()
    };
    tables.set_settings(settings);
    tables.set_port(
        HOST_PORT,
        PortConfig {
            kind: PortKind::RawIp,
            mtu: 1500,
            vlans: vec![],
            up: true,
        },
    );
    let host = Ipv6Prefix::new(SELF, 128).unwrap();
    tables.set_route6(host, RouteSource::Kernel, Route::Local);
    world
        .engine
        .publisher
        .store(world.control.tables.snapshot());
    world
}

fn host(world: &mut World) -> &mut HostEnd {
    world.engine.host.as_mut().unwrap()
}

fn to_host(payload: usize) -> Vec<u8> {
    tunnelled(REMOTE, &inner(USER, SELF, 64, payload))
}

fn send(world: &mut World, packet: &[u8]) {
    let kind = InjectKind::Process { rx_port: HOST_PORT };
    let injector = host(world).injector();
    injector.inject(0, packet, kind).unwrap();
}

#[test]
fn packets_reach_the_host_bare_and_come_back_encapsulated() {
    let mut world = world(8, PuntConfig::default());
    assert!(world.v4.push(&to_host(33)));
    let turn = world.worker.turn(Ticks(1));
    assert_eq!((turn.received, turn.punted), (1, 1));
    assert_eq!(
        host(&mut world).pop().unwrap().bytes(),
        inner(USER, SELF, 64, 33),
        "delivered, not forwarded: the hop limit stays"
    );
    assert!(host(&mut world).pop().is_none());
    assert!(world.engine.punts.pop().is_none());

    send(&mut world, &inner(SELF, USER, 64, 20));
    let turn = world.worker.turn(Ticks(2));
    assert_eq!((turn.injected, turn.sent), (1, 1));
    assert_eq!(world.v4.pull().unwrap()[34..], inner(SELF, USER, 63, 20));

    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.unaccounted(), 0);
    assert_eq!((counters.punted.packets, counters.injected.packets), (1, 1));
    assert_eq!(world.worker.frames(), world.worker.frames_total());
}

#[test]
fn the_host_is_told_of_errors_about_its_packets() {
    let mut world = world(8, PuntConfig::default());
    send(&mut world, &inner(SELF, USER, 64, 1400));
    let turn = world.worker.turn(Ticks(1));
    assert_eq!((turn.injected, turn.sent), (1, 1));
    let error = host(&mut world).pop().unwrap().bytes().to_vec();
    assert_eq!(error[24..40], SELF.octets(), "to the host");
    assert_eq!(error[40], 2, "Packet Too Big");
    let counters = world.engine.counters[0].snapshot();
    assert_eq!((counters.answered.packets, counters.unaccounted()), (1, 0));
}

#[test]
fn the_host_hears_who_answers_its_ping() {
    let mut world = world(8, PuntConfig::default());
    let router = world.control.tables.settings().router_address;
    let reply = {
        let mut packet = inner(USER, router, 64, 16);
        packet[6] = 58;
        packet[40..42].copy_from_slice(&[129, 0]);
        packet
    };
    assert!(world.v4.push(&tunnelled(REMOTE, &reply)));
    world.worker.turn(Ticks(1));
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.drops_for(DropReason::ProbeReply).packets, 1);

    // As soon as the address is the host's too, the reply is for it.
    let prefix = Ipv6Prefix::new(router, 128).unwrap();
    let tables = &mut world.control.tables;
    tables.set_route6(prefix, RouteSource::Kernel, Route::Local);
    let snapshot = tables.snapshot();
    world.engine.publisher.store(snapshot);
    assert!(world.v4.push(&tunnelled(REMOTE, &reply)));
    world.worker.turn(Ticks(2));
    assert_eq!(host(&mut world).pop().unwrap().bytes(), reply);
}

#[test]
fn neither_the_host_nor_punts_starve_the_other() {
    let punts = PuntConfig {
        buffers: 4,
        ..PuntConfig::default()
    };
    let mut world = world(6, punts);
    for _ in 0..20 {
        assert!(world.v4.push(&to_host(9)));
        assert!(world.v4.push(&tunnelled(REMOTE, &inner(USER, FAR, 64, 9))));
        assert!(world.v4.push(&from_user(9)) && world.v6.push(&to_user(9)));
    }
    let turns = [world.worker.turn(Ticks(1)), world.worker.turn(Ticks(2))];
    let sum = |f: fn(&Turn) -> usize| turns.iter().map(f).sum::<usize>();
    assert_eq!(
        (sum(|t| t.received), sum(|t| t.sent), sum(|t| t.punted)),
        (80, 40, 10)
    );
    assert_eq!(world.engine.punts.backlog(), 4);
    assert_eq!(host(&mut world).totals(), (6, 14));
    let counters = world.engine.counters[0].snapshot();
    assert_eq!(counters.drops_for(DropReason::PuntLimit).packets, 14 + 16);
    assert_eq!(counters.unaccounted(), 0);
}
