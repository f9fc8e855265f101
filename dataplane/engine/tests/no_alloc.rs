//! A turn neither allocates nor frees. A program of its own without the test harness: the count is
//! the whole process's, and the harness's threads allocate.
#![forbid(unsafe_code)]

use std::alloc::System;

use sixferry_engine::InjectKind;
use sixferry_fwd::Ticks;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "it/support.rs"]
#[expect(dead_code, reason = "shared with the other tests, which use all of it")]
mod support;

use support::{FAR, REMOTE, Sizes, USER, V4_PORT, V6_PORT, from_user, inner, to_user, tunnelled};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NAME: &str = "a_turn_neither_allocates_nor_frees";

fn main() {
    let asked = |option: &str| std::env::args().any(|argument| argument == option);
    if asked("--list") {
        // what test runners ask for first; nothing here is ignored
        if !asked("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    a_turn_neither_allocates_nor_frees();
    println!("test {NAME} ... ok");
}

fn a_turn_neither_allocates_nor_frees() {
    let mut world = support::world(&Sizes::default());
    let good = [from_user(100), to_user(100)];
    let expired = support::frame(V6_PORT, &inner(support::HOST, USER, 1, 64));
    let unresolved = tunnelled(REMOTE, &inner(USER, FAR, 64, 64));
    let noise = vec![0xff; 60];
    let injected = InjectKind::Process { rx_port: V4_PORT };
    let transmitted = InjectKind::Transmit { port: V6_PORT };

    let mut sums = [0; 3];
    let region = Region::new(ALLOCATOR);
    for n in 0..2000_u64 {
        assert!(world.v4.push(&good[0]) && world.v6.push(&good[1]));
        assert!(world.v6.push(&expired) && world.v4.push(&unresolved) && world.v6.push(&noise));
        assert!(world.engine.injector.inject(0, &good[0], injected).is_ok());
        assert!(world.engine.injector.inject(0, &noise, transmitted).is_ok());
        let turn = world.worker.turn(Ticks(n * 10_000_000));
        sums[0] += turn.sent;
        sums[1] += turn.punted;
        sums[2] += turn.dropped;
        world.v4.discard();
        world.v6.discard();
        while world.engine.punts.pop().is_some() {}
    }
    let change = region.change();
    assert_eq!(
        (
            change.allocations,
            change.reallocations,
            change.deallocations
        ),
        (0, 0, 0)
    );
    assert!(
        sums.iter().all(|sum| *sum >= 2000),
        "every kind of verdict was there: {sums:?}"
    );
}
