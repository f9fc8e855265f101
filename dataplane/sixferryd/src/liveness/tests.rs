//! The machine, with a clock and peers of the test's own.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = Ticks::PER_SECOND;
const INTERVAL: u64 = 30 * SECOND;
const STEP: u64 = SECOND / 10;

fn watch(mode: Mode) -> Watch {
    Watch {
        mode,
        interval: INTERVAL,
    }
}

/// Tunnels, and what has come out of each.
struct World {
    machine: Machine,
    heard: Vec<u64>,
    /// Whether each peer answers probes.
    answers: Vec<bool>,
    now: u64,
    probes: Vec<(u64, u32)>,
    changes: Vec<(u64, u32, LifeState)>,
}

impl World {
    fn new(tunnels: usize, mode: Mode, rate: u32) -> Self {
        let mut world = Self {
            machine: Machine::new(rate, 42),
            heard: vec![0; tunnels],
            answers: vec![false; tunnels],
            now: 1000 * SECOND,
            probes: Vec::new(),
            changes: Vec::new(),
        };
        for tunnel in world.ids() {
            let now = Ticks(world.now);
            world.machine.watch(tunnel, Some(watch(mode)), 0, now);
        }
        world
    }

    fn ids(&self) -> impl Iterator<Item = TunnelId> + use<> {
        (0..self.heard.len() as u32).map(TunnelId)
    }

    fn step(&mut self) {
        self.now += STEP;
        loop {
            let due = self.machine.due(Ticks(self.now), 512);
            let mut actions = Vec::new();
            for tunnel in &due {
                let heard = self.heard.get(tunnel.index()).copied();
                self.machine
                    .look(*tunnel, heard, Ticks(self.now), &mut actions);
            }
            for action in actions {
                match action {
                    Action::Probe { tunnel, .. } => {
                        self.probes.push((self.now, tunnel.0));
                        self.heard[tunnel.index()] += u64::from(self.answers[tunnel.index()]);
                    }
                    Action::Changed { tunnel, to, .. } => {
                        self.changes.push((self.now, tunnel.0, to));
                    }
                }
            }
            if due.len() < 512 {
                return;
            }
        }
    }

    fn pass(&mut self, ticks: u64) {
        let end = self.now + ticks;
        while self.now < end {
            self.step();
        }
    }

    fn state(&self, tunnel: u32) -> LifeState {
        let life = self.machine.life(TunnelId(tunnel), Ticks(self.now));
        life.expect("watched").state
    }
}

/// Time until a peer that was alive and is silent from now on is found unreachable.
fn detection(world: &mut World) -> u64 {
    world.heard[0] += 1;
    while world.state(0) != LifeState::Up || world.changes.is_empty() {
        world.step();
    }
    // Up to the next look the old life counts; measure from there.
    let alive = world.machine.life(TunnelId(0), Ticks(world.now));
    let since = alive.and_then(|life| life.last_seen).expect("seen");
    let silent_from = world.now - since.as_nanos() as u64;
    world.answers[0] = false;
    while world.state(0) == LifeState::Up {
        world.step();
    }
    world.now - silent_from
}

#[test]
fn a_silent_peer_is_unreachable_in_three_intervals() {
    for mode in [Mode::Passive, Mode::Nud, Mode::Echo] {
        let mut world = World::new(1, mode, 1000);
        let took = detection(&mut world);
        let jitter = 3 * INTERVAL / 5;
        assert!(took >= 3 * INTERVAL - jitter, "{mode:?}: {took}");
        assert!(
            took <= 3 * INTERVAL + jitter + 2 * REPLY_WAIT,
            "{mode:?}: {took}"
        );
        let probes = if mode == Mode::Passive { 0 } else { 3 };
        assert_eq!(world.probes.len(), probes, "{mode:?}");
    }
}

#[test]
fn one_that_never_answered_is_unreachable_too_and_recovers() {
    let mut world = World::new(1, Mode::Nud, 1000);
    world.pass(4 * INTERVAL);
    assert_eq!(world.state(0), LifeState::Unreachable);
    world.answers[0] = true;
    world.pass(INTERVAL * 6 / 5 + REPLY_WAIT + STEP);
    assert_eq!(world.state(0), LifeState::Up);
    let states: Vec<LifeState> = world.changes.iter().map(|(.., state)| *state).collect();
    assert_eq!(states, [LifeState::Unreachable, LifeState::Up]);
}

#[test]
fn two_losses_are_no_verdict() {
    let mut world = World::new(1, Mode::Echo, 1000);
    world.answers[0] = true;
    world.pass(2 * INTERVAL);
    assert_eq!(world.state(0), LifeState::Up);
    world.answers[0] = false;
    let before = world.probes.len();
    while world.probes.len() < before + 2 {
        world.step();
    }
    world.pass(REPLY_WAIT + STEP);
    world.answers[0] = true;
    world.pass(3 * INTERVAL);
    assert_eq!(world.changes.len(), 1, "{:?}", world.changes);
}

#[test]
fn a_tunnel_in_use_is_never_probed() {
    let mut world = World::new(10, Mode::Nud, 1000);
    for _ in 0..200 {
        world.heard.iter_mut().for_each(|heard| *heard += 3);
        world.pass(SECOND);
    }
    assert_eq!(world.probes, []);
    assert!((0..10).all(|tunnel| world.state(tunnel) == LifeState::Up));
}

#[test]
fn the_pace_holds_with_a_hundred_thousand_tunnels() {
    const TUNNELS: usize = 100_000;
    const RATE: usize = 1000;
    let mut world = World::new(TUNNELS, Mode::Nud, RATE as u32);
    world.pass(150 * SECOND);
    let per_step = |world: &World| {
        let mut counts = std::collections::BTreeMap::new();
        for (at, _) in &world.probes {
            *counts.entry(*at / STEP).or_insert(0_usize) += 1;
        }
        counts
    };
    let counts: Vec<usize> = per_step(&world).into_values().collect();
    for second in counts.windows(10) {
        let sent: usize = second.iter().sum();
        assert!(sent <= RATE + RATE / 10, "{sent} in a second");
    }
    assert!(
        world.probes.len() >= 145 * RATE,
        "the pace is used: {}",
        world.probes.len()
    );
    // Nobody is left behind, and what the pace put off is no loss.
    let mut asked = vec![0_u32; TUNNELS];
    for (_, tunnel) in &world.probes {
        asked[*tunnel as usize] += 1;
    }
    assert!(asked.iter().all(|times| (1..=2).contains(times)));
    assert_eq!(world.changes.len(), 0);
    let counts = world.machine.counts();
    assert_eq!((counts.watched, counts.unknown), (100_000, 100_000));
    assert!(counts.deferred > 0);
}

#[test]
fn probes_are_spread_over_the_interval() {
    let mut world = World::new(3000, Mode::Nud, 100_000);
    world.answers = vec![true; 3000];
    world.pass(20 * INTERVAL);
    let last: Vec<u64> = world
        .probes
        .iter()
        .filter(|(at, _)| *at > world.now - INTERVAL)
        .map(|(at, _)| *at)
        .collect();
    let thirds = [0, 1, 2].map(|third| {
        let from = world.now - INTERVAL + third * INTERVAL / 3;
        let within = |at: &&u64| (from..from + INTERVAL / 3).contains(*at);
        last.iter().filter(within).count()
    });
    assert!(
        thirds.iter().all(|count| *count > last.len() / 6),
        "{thirds:?}"
    );
}

#[test]
fn the_others_learn_of_a_tunnel_that_went() {
    let mut world = World::new(2, Mode::Nud, 1000);
    world.heard.truncate(1);
    world.pass(INTERVAL);
    let gone = world.machine.life(TunnelId(1), Ticks(world.now));
    assert_eq!(gone, None);
    world.machine.watch(TunnelId(0), None, 0, Ticks(world.now));
    assert!(world.machine.is_empty());
    let counts = world.machine.counts();
    assert_eq!((counts.watched, counts.up, counts.unknown), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes and goes: the gauges add up, each tunnel is in one queue at most, and the
    /// pace is never exceeded.
    #[test]
    fn whatever_happens_the_books_balance(
        steps in proptest::collection::vec((0..8_u32, 0..5_u8, 0..25_u64), 1..60),
        rate in 1..50_u32,
    ) {
        let mut world = World::new(8, Mode::Nud, rate);
        for (tunnel, what, wait) in steps {
            let id = TunnelId(tunnel);
            let now = Ticks(world.now);
            let heard = world.heard[id.index()];
            match what {
                0 => world.machine.watch(id, None, heard, now),
                1 => world.machine.watch(id, Some(watch(Mode::Passive)), heard, now),
                2 => world.machine.watch(id, Some(watch(Mode::Echo)), heard, now),
                3 => world.heard[id.index()] += 1,
                _ => world.answers[id.index()] ^= true,
            }
            world.pass(wait * SECOND);
            let counts = world.machine.counts();
            prop_assert_eq!(counts.watched, counts.up + counts.unknown + counts.unreachable);
            prop_assert_eq!(counts.watched, world.machine.entries.len() as u64);
            let queued = world.machine.due.len()
                + world.machine.entries.values().filter(|e| matches!(e.phase, Phase::Deferred(_))).count();
            prop_assert_eq!(queued, world.machine.entries.len());
        }
        for (at, _) in &world.probes {
            let within = world.probes.iter().filter(|(t, _)| (*at..at + SECOND).contains(t));
            prop_assert!(within.count() as u32 <= rate + (rate / 10).max(1));
        }
    }
}
