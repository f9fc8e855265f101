//! The keeper, with a clock of the test's own.

use super::*;

const KEY: Key = (2, IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct Rig {
    keeper: Keeper,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        let config = KeeperConfig {
            capacity: 3,
            learnt: 2,
            pending: 4,
            rate: 2,
            burst: 8,
        };
        let now = Instant::now();
        Self {
            keeper: Keeper::new(config, now),
            now,
        }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.keeper.handle(event, self.now, &mut actions);
        actions
    }

    fn seen(&mut self, key: Key, state: NeighbourState, care: Care) -> Vec<Action> {
        self.tell(Event::Seen(Neighbour {
            ifindex: key.0,
            addr: key.1,
            state,
            nud: crate::live::NeighbourState::Incomplete,
            care,
        }))
    }

    fn answered(&mut self, key: Key) -> Vec<Action> {
        self.seen(key, NeighbourState::Learnt(MAC), Care::None)
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.tell(Event::Tick)
    }
}

fn key(last: u8) -> Key {
    (2, IpAddr::from([192, 0, 2, last]))
}

#[test]
fn a_gateway_is_managed_while_it_is_used() {
    let mut rig = Rig::new();
    assert_eq!(rig.tell(Event::Gateway(KEY, true)), [Action::Manage(KEY)]);
    assert_eq!(rig.tell(Event::Gateway(KEY, true)), []);
    assert_eq!(rig.tell(Event::Gateway(KEY, false)), [Action::Release(KEY)]);
    assert_eq!(rig.keeper.counts(), (0, 0));
}

#[test]
fn a_gateway_stays_while_routes_or_pins_need_it() {
    let mut rig = Rig::new();
    assert_eq!(rig.tell(Event::Pinned(vec![KEY])), [Action::Manage(KEY)]);
    assert_eq!(rig.tell(Event::Gateway(KEY, true)), []);
    assert_eq!(rig.tell(Event::Pinned(vec![])), []);
    assert_eq!(rig.tell(Event::Gateway(KEY, false)), [Action::Release(KEY)]);
}

#[test]
fn an_address_is_managed_only_once_it_answered() {
    let mut rig = Rig::new();
    assert_eq!(rig.tell(Event::Wanted(KEY)), [Action::Probe(KEY)]);
    assert_eq!(rig.tell(Event::Wanted(KEY)), [], "not twice a second");
    assert_eq!(rig.seen(KEY, NeighbourState::Unresolved, Care::None), []);
    assert_eq!(rig.answered(KEY), [Action::Manage(KEY)]);
    assert_eq!(rig.keeper.kept(), [KEY]);
}

#[test]
fn an_address_that_never_answers_is_forgotten() {
    let mut rig = Rig::new();
    rig.tell(Event::Wanted(KEY));
    assert_eq!(rig.keeper.counts(), (0, 1));
    assert_eq!(rig.pass(PENDING_FOR), []);
    assert_eq!(rig.keeper.counts(), (0, 0));
    assert_eq!(rig.answered(KEY), [], "too late: nobody waits");
}

#[test]
fn a_scan_is_limited_in_rate_and_number() {
    let mut rig = Rig::new();
    let asked: usize = (0..200)
        .map(|i| rig.tell(Event::Wanted(key(i))).len())
        .sum();
    assert_eq!(asked, 4, "as many as may be open");
    rig.pass(PENDING_FOR);
    let asked: usize = (0..200)
        .map(|i| rig.tell(Event::Wanted(key(i))).len())
        .sum();
    assert_eq!(asked, 4);
    rig.pass(Duration::from_secs(1));
    rig.keeper.config.pending = 100;
    let asked: usize = (10..200)
        .map(|i| rig.tell(Event::Wanted(key(i))).len())
        .sum();
    assert!(
        (2..=8).contains(&asked),
        "as many as the rate allows: {asked}"
    );
    assert!(rig.keeper.refused > 500);
}

#[test]
fn the_address_asked_for_longest_ago_gives_way() {
    let mut rig = Rig::new();
    rig.tell(Event::Gateway(key(100), true));
    for i in 1..=2 {
        rig.pass(Duration::from_secs(1));
        rig.tell(Event::Wanted(key(i)));
        rig.answered(key(i));
    }
    rig.pass(Duration::from_secs(1));
    rig.tell(Event::Wanted(key(3)));
    assert_eq!(
        rig.answered(key(3)),
        [Action::Release(key(1)), Action::Manage(key(3))]
    );
    // Gateways before asked addresses, and never more than there is room for.
    assert_eq!(
        rig.tell(Event::Gateway(key(101), true)),
        [Action::Release(key(2)), Action::Manage(key(101))]
    );
    rig.tell(Event::Gateway(key(102), true));
    assert_eq!(rig.tell(Event::Gateway(key(103), true)), []);
    assert_eq!(rig.keeper.counts(), (3, 0));
}

#[test]
fn a_gateway_that_was_flushed_is_restored_after_a_while() {
    let mut rig = Rig::new();
    rig.tell(Event::Gateway(KEY, true));
    assert_eq!(
        rig.tell(Event::Lost(KEY)),
        [],
        "not at once, for fear of a loop"
    );
    assert_eq!(rig.pass(AGAIN_AFTER), [Action::Manage(KEY)]);
    assert_eq!(rig.seen(KEY, NeighbourState::Learnt(MAC), Care::Ours), []);
    rig.pass(AGAIN_AFTER);
    // `ip neigh replace` clears the flag.
    assert_eq!(rig.answered(KEY), [Action::Manage(KEY)]);
}

#[test]
fn an_address_that_was_flushed_is_not() {
    let mut rig = Rig::new();
    rig.tell(Event::Wanted(KEY));
    rig.answered(KEY);
    rig.pass(AGAIN_AFTER);
    assert_eq!(rig.tell(Event::Lost(KEY)), []);
    assert_eq!(rig.keeper.counts(), (0, 0));
}

#[test]
fn entries_of_others_are_left_alone() {
    let mut rig = Rig::new();
    rig.tell(Event::Gateway(KEY, true));
    rig.seen(KEY, NeighbourState::Fixed(MAC), Care::None);
    assert_eq!(rig.keeper.kept(), []);
    assert_eq!(rig.tell(Event::Gateway(KEY, false)), []);

    rig.tell(Event::Gateway(KEY, true));
    rig.seen(KEY, NeighbourState::Learnt(MAC), Care::Others);
    assert_eq!(rig.keeper.kept(), []);
    // Nobody's any more: ours.
    rig.pass(AGAIN_AFTER);
    assert_eq!(rig.answered(KEY), [Action::Manage(KEY)]);
}

#[test]
fn what_a_killed_daemon_left_is_taken_over() {
    let mut rig = Rig::new();
    assert_eq!(rig.seen(KEY, NeighbourState::Learnt(MAC), Care::Ours), []);
    assert_eq!(rig.keeper.kept(), [KEY]);
    assert_eq!(
        rig.seen(key(9), NeighbourState::Learnt(MAC), Care::None),
        []
    );
    assert_eq!(rig.keeper.kept(), [KEY]);
}

#[test]
fn what_the_kernel_learnt_itself_is_managed_while_it_answers() {
    let mut rig = Rig::new();
    assert_eq!(rig.tell(Event::Used(KEY)), [Action::Manage(KEY)]);
    assert_eq!(rig.tell(Event::Used(KEY)), [], "once is enough");
    assert_eq!(
        rig.seen(KEY, NeighbourState::Learnt(MAC), Care::Ours),
        [],
        "the news of our own request"
    );
    assert_eq!(
        rig.seen(KEY, NeighbourState::Unresolved, Care::Ours),
        [Action::Release(KEY)],
        "nobody answers any more"
    );
    assert_eq!(rig.keeper.counts(), (0, 0));
    assert_eq!(rig.tell(Event::Used(KEY)), [Action::Manage(KEY)], "back");
}

#[test]
fn a_gateway_that_the_kernel_had_learnt_stays_though_silent() {
    let mut rig = Rig::new();
    rig.tell(Event::Used(KEY));
    assert_eq!(rig.tell(Event::Gateway(KEY, true)), []);
    assert_eq!(rig.seen(KEY, NeighbourState::Unresolved, Care::Ours), []);
    assert_eq!(rig.keeper.kept(), [KEY]);
}

#[test]
fn learnt_neighbours_are_limited_and_give_way() {
    let mut rig = Rig::new();
    for i in 0..200 {
        rig.tell(Event::Used(key(i)));
    }
    assert_eq!(rig.keeper.counts(), (2, 0), "the limit of learnt ones");
    for i in 200..203 {
        rig.now += Duration::from_millis(1);
        rig.tell(Event::Gateway(key(i), true));
    }
    let mut kept = rig.keeper.kept();
    kept.sort();
    assert_eq!(kept, [key(200), key(201), key(202)], "gateways come first");
    assert_eq!(rig.tell(Event::Used(key(9))), [], "no room at all");
}

#[test]
fn old_kernels_are_asked_again_and_again() {
    let mut rig = Rig::new();
    rig.keeper.refresh_by_use = true;
    rig.tell(Event::Gateway(KEY, true));
    assert_eq!(rig.answered(KEY), [], "no flag to miss");
    assert_eq!(rig.pass(USE_EVERY), [Action::Probe(KEY)]);
    assert_eq!(rig.pass(Duration::from_secs(1)), []);
    assert_eq!(rig.pass(USE_EVERY), [Action::Probe(KEY)]);
}
