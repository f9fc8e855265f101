use sixferry_dtcp_wire::udp;

use super::*;

const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const GREETING: &str = "+OK 3D5F0C8A9E7B4126F0D1C2B3A4958677 KAME tunnel server";
const ALICE: &str = "tunnel alice A7EAC42C3A53955E885769A055E9AC17";
const HOST: &str = "+OK 192.0.2.10 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5";

/// A machine, its clock, and what it wants done.
struct Bench {
    machine: Machine,
    now: Instant,
}

fn settings(kind: &'static str) -> Settings {
    Settings {
        user: "alice".to_owned(),
        wish: Wish { kind, udp: None },
        nat_allowed: false,
        reconnect: false,
        retry_max: Duration::from_secs(30),
        hold: Duration::from_secs(300),
    }
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self {
            machine: Machine::new(settings),
            now: Instant::now(),
        }
    }

    fn give(&mut self, event: Event) -> Vec<Action> {
        let actions = self.machine.handle(event, self.now);
        // What is only said is looked at where it matters.
        let done = |action: &Action| !matches!(action, Action::Say(..));
        actions.into_iter().filter(done).collect()
    }

    fn line(&mut self, line: &str) -> Vec<Action> {
        self.give(Event::Line(line.to_owned()))
    }

    fn connected(&mut self) -> Vec<Action> {
        self.give(Event::Connected {
            local: LOCAL,
            password: Secret(b"s3cret".to_vec()),
        })
    }

    /// Lets time pass to the next deadline.
    fn wait(&mut self) -> (Duration, Vec<Action>) {
        let until = self.machine.deadline().expect("it waits for something");
        let waited = until.saturating_duration_since(self.now);
        self.now = until;
        (waited, self.give(Event::Tick))
    }

    /// Up with a host tunnel.
    fn up(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        assert_eq!(bench.give(Event::Start), [Action::Connect]);
        bench.log_in();
        bench
    }

    fn log_in(&mut self) {
        assert_eq!(self.connected(), []);
        assert_eq!(self.line(GREETING), [send(&format!("{ALICE} host"))]);
        assert_eq!(self.line(HOST), [set_up()]);
        assert_eq!(self.give(Event::TunnelUp), []);
        assert!(self.machine.is_up());
    }
}

fn send(line: &str) -> Action {
    Action::Send(line.to_owned())
}

fn set_up() -> Action {
    Action::SetUp {
        grant: Grant::parse(&HOST[4..]).expect("a grant"),
        local: LOCAL,
    }
}

fn torn_down(action: &Action) -> bool {
    matches!(action, Action::TearDown { .. })
}

fn closed() -> Event {
    Event::Closed { error: None }
}

fn again() -> Settings {
    Settings {
        reconnect: true,
        ..settings("host")
    }
}

#[test]
fn a_session_pings_each_minute_and_ends_with_quit() {
    let mut bench = Bench::up(settings("host"));
    for _ in 0..3 {
        let (waited, actions) = bench.wait();
        assert_eq!((waited, actions), (PING_INTERVAL, vec![send("ping")]));
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.line("+OK hi, happy to hear from you"), []);
    }
    // The next is due a minute after the answer, not after the question.
    assert_eq!(bench.machine.deadline(), Some(bench.now + PING_INTERVAL));
    assert_eq!(bench.give(Event::Stop), [send("quit")]);
    assert_eq!(bench.line("+OK see you soon."), []);
    let actions = bench.give(closed());
    assert!(torn_down(&actions[0]), "{actions:?}");
    assert_eq!(actions[1..], [Action::Exit(Outcome::Done)]);
    assert_eq!(bench.machine.deadline(), None);
    assert_eq!(bench.give(Event::Tick), []);
}

#[test]
fn a_server_that_does_not_close_after_quit_is_not_waited_for() {
    let mut bench = Bench::up(settings("host"));
    bench.give(Event::Stop);
    let (waited, actions) = bench.wait();
    assert_eq!(waited, QUIT_TIMEOUT);
    assert_eq!(actions[0], Action::Close);
    assert!(torn_down(&actions[1]));
    assert_eq!(actions[2], Action::Exit(Outcome::Done));
}

#[test]
fn asked_to_stop_twice_it_stops_at_once() {
    let mut bench = Bench::up(settings("host"));
    bench.give(Event::Stop);
    let actions = bench.give(Event::Stop);
    assert_eq!(actions.first(), Some(&Action::Close));
    assert_eq!(actions.last(), Some(&Action::Exit(Outcome::Done)));
}

#[test]
fn a_refusal_quits_and_fails() {
    for answer in [
        "-ERR authentication failed.",
        "-ERR tunnel interface sold out",
        "-ERR unsupported tunnel type host",
        "-ERR",
        "250 ok",
        "+OK 192.0.2.10",
        "+OK 192.0.2.10 198.51.100.1 ::1 ::2",
        // a UDP tunnel nobody asked for
        "+OK 192.0.2.10 198.51.100.1 udp 4028",
    ] {
        let mut bench = Bench::new(settings("host"));
        bench.give(Event::Start);
        bench.connected();
        bench.line(GREETING);
        assert_eq!(bench.line(answer), [send("quit")], "{answer}");
        bench.line("+OK tunnel server quitting");
        let end = [Action::Exit(Outcome::Failed)];
        assert_eq!(bench.give(closed()), end, "{answer}");
    }
}

#[test]
fn what_is_no_dtcp_server_is_left_at_once() {
    for greeting in ["220 mail.example", "", "-ERR server busy", "+OK"] {
        let mut bench = Bench::new(settings("host"));
        bench.give(Event::Start);
        bench.connected();
        let end = [Action::Close, Action::Exit(Outcome::Failed)];
        assert_eq!(bench.line(greeting), end, "{greeting}");
    }
}

#[test]
fn behind_a_nat_it_quits_and_fails_unless_told_not_to_look() {
    let natted = "+OK 203.0.113.7 198.51.100.1";
    let mut bench = Bench::new(settings("tunnelonly"));
    bench.give(Event::Start);
    bench.connected();
    bench.line(GREETING);
    assert_eq!(bench.line(natted), [send("quit")]);
    assert_eq!(bench.give(closed()), [Action::Exit(Outcome::Failed)]);

    let mut bench = Bench::new(Settings {
        nat_allowed: true,
        ..settings("tunnelonly")
    });
    bench.give(Event::Start);
    bench.connected();
    bench.line(GREETING);
    let actions = bench.line(natted);
    assert!(
        matches!(&actions[..], [Action::SetUp { local: LOCAL, .. }]),
        "{actions:?}"
    );
}

#[test]
fn udp_looks_at_no_nat_but_wants_a_port() {
    let wish = Wish {
        kind: "tunnelonly",
        udp: Some(udp::Request { client_port: None }),
    };
    let udp = Settings {
        wish,
        ..settings("tunnelonly")
    };
    for (answer, good) in [
        ("+OK 203.0.113.7 198.51.100.1 udp 4028", true),
        ("+OK 203.0.113.7 198.51.100.1", false),
    ] {
        let mut bench = Bench::new(udp.clone());
        bench.give(Event::Start);
        bench.connected();
        assert_eq!(
            bench.line(GREETING),
            [send(&format!("{ALICE} tunnelonly udp"))]
        );
        let actions = bench.line(answer);
        assert_eq!(
            matches!(&actions[..], [Action::SetUp { .. }]),
            good,
            "{actions:?}"
        );
    }
}

#[test]
fn each_silence_has_its_limit() {
    let fail = [Action::Close, Action::Exit(Outcome::Failed)];
    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    assert_eq!(bench.wait(), (CONNECT_TIMEOUT, fail.to_vec()));

    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    bench.connected();
    assert_eq!(bench.wait(), (ANSWER_TIMEOUT, fail.to_vec()));

    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    bench.connected();
    bench.line(GREETING);
    assert_eq!(bench.wait(), (ANSWER_TIMEOUT, fail.to_vec()));

    let mut bench = Bench::up(settings("host"));
    bench.wait();
    let (waited, actions) = bench.wait();
    assert_eq!(waited, ANSWER_TIMEOUT);
    assert_eq!(actions[0], Action::Close);
    assert!(torn_down(&actions[1]));
    assert_eq!(actions[2], Action::Exit(Outcome::Failed));
}

#[test]
fn a_server_that_ends_a_session_ends_the_client_well_and_an_error_does_not() {
    for (error, outcome) in [
        (None, Outcome::Done),
        (Some("reset".to_owned()), Outcome::Failed),
    ] {
        let mut bench = Bench::up(settings("host"));
        let actions = bench.give(Event::Closed { error });
        assert!(torn_down(&actions[0]));
        assert_eq!(actions[1], Action::Exit(outcome));
    }
    // Before the tunnel is up it is a failure.
    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    bench.connected();
    assert_eq!(bench.give(closed()), [Action::Exit(Outcome::Failed)]);
}

#[test]
fn the_last_complaint_of_a_server_is_told_when_it_closes() {
    let mut bench = Bench::up(again());
    assert_eq!(bench.line("-ERR replaced by a newer session"), []);
    let actions = bench.machine.handle(closed(), bench.now);
    let told = actions.iter().any(|action| {
        matches!(action, Action::Say(_, text) if text.contains("replaced by a newer session"))
    });
    assert!(told, "{actions:?}");
}

#[test]
fn a_server_that_talks_without_end_is_left() {
    let mut bench = Bench::up(settings("host"));
    let mut actions = Vec::new();
    for n in 0..=64 {
        assert_eq!(actions, [], "after {n}");
        actions = bench.line("+OK and another thing");
    }
    assert_eq!(actions[0], Action::Close);
    assert_eq!(actions[2], Action::Exit(Outcome::Failed));
}

#[test]
fn garbage_is_no_answer_to_a_ping() {
    let mut bench = Bench::up(settings("host"));
    bench.wait();
    bench.line("hello?");
    let (_, actions) = bench.wait();
    assert_eq!(actions[0], Action::Close);
}

#[test]
fn a_lost_session_comes_back_within_a_second_and_the_tunnel_stays() {
    let mut bench = Bench::up(again());
    bench.wait();
    bench.line("+OK pong");
    assert_eq!(bench.give(closed()), []);
    let (waited, actions) = bench.wait();
    assert!(waited <= Duration::from_secs(1), "{waited:?}");
    assert_eq!(actions, [Action::Connect]);
    bench.log_in();
    // Nothing was torn down on the way, and nothing will be.
    assert_eq!(bench.machine.deadline(), Some(bench.now + PING_INTERVAL));
}

#[test]
fn a_tunnel_without_a_session_goes_after_a_while() {
    let mut bench = Bench::up(again());
    bench.now += Duration::from_secs(100);
    let lost = bench.now;
    bench.give(closed());
    let mut attempts = 0;
    let gone = loop {
        let (_, actions) = bench.wait();
        match &actions[..] {
            [Action::Connect] => {
                attempts += 1;
                let refused = Event::Closed {
                    error: Some("connection refused".to_owned()),
                };
                assert_eq!(bench.give(refused), []);
            }
            [action, ..] if torn_down(action) => break bench.now,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gone - lost, Duration::from_secs(300));
    assert!((10..40).contains(&attempts), "{attempts} attempts");
}

#[test]
fn refused_with_reconnect_the_tunnel_goes_at_once_and_it_asks_again() {
    let mut bench = Bench::up(again());
    bench.give(closed());
    bench.wait();
    bench.connected();
    bench.line(GREETING);
    let actions = bench.line("-ERR authentication failed.");
    assert!(torn_down(&actions[0]));
    assert_eq!(actions[1..], [send("quit"), Action::Close]);
    let (waited, actions) = bench.wait();
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
    assert_eq!(actions, [Action::Connect]);
    bench.log_in();
}

#[test]
fn sighup_logs_in_again_and_the_tunnel_stays() {
    let mut bench = Bench::up(again());
    assert_eq!(bench.give(Event::Restart), [send("quit")]);
    assert_eq!(bench.line("+OK see you soon."), []);
    assert_eq!(bench.give(closed()), [Action::Connect]);
    bench.log_in();
    // Also without -l, and while it waits.
    let mut bench = Bench::up(settings("host"));
    bench.give(Event::Restart);
    assert_eq!(bench.give(closed()), [Action::Connect]);
    let mut bench = Bench::up(again());
    bench.give(closed());
    assert_eq!(bench.give(Event::Restart), [Action::Connect]);
}

#[test]
fn a_tunnel_this_host_cannot_have_ends_it_the_first_time() {
    let mut bench = Bench::new(again());
    bench.give(Event::Start);
    bench.connected();
    bench.line(GREETING);
    bench.line(HOST);
    let actions = bench.give(Event::TunnelFailed("no permission".to_owned()));
    assert!(torn_down(&actions[0]));
    assert_eq!(actions[1], send("quit"));
    assert_eq!(bench.give(closed()), [Action::Exit(Outcome::Setup)]);

    // Later it may be for a moment only.
    let mut bench = Bench::up(again());
    let actions = bench.give(Event::TunnelBroken("device is gone".to_owned()));
    assert!(torn_down(&actions[0]));
    assert_eq!(actions[1..], [send("quit"), Action::Close]);
    assert_eq!(bench.wait().1, [Action::Connect]);
    bench.log_in();
    let mut bench = Bench::up(settings("host"));
    bench.give(Event::TunnelBroken("device is gone".to_owned()));
    assert_eq!(bench.give(closed()), [Action::Exit(Outcome::Setup)]);
}

#[test]
fn a_tunnel_that_breaks_between_sessions_is_made_afresh() {
    let mut bench = Bench::up(again());
    bench.give(closed());
    let actions = bench.give(Event::TunnelBroken("device is gone".to_owned()));
    assert!(matches!(&actions[..], [action] if torn_down(action)));
    bench.wait();
    bench.log_in();
}

#[test]
fn stop_works_in_every_state() {
    let stop = |mut bench: Bench| {
        let mut actions = bench.give(Event::Stop);
        if actions == [send("quit")] {
            actions = bench.give(closed());
        }
        actions.last().cloned()
    };
    let done = Some(Action::Exit(Outcome::Done));
    assert_eq!(stop(Bench::new(settings("host"))), done);
    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    assert_eq!(stop(bench), done);
    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    bench.connected();
    assert_eq!(stop(bench), done);
    let mut bench = Bench::new(settings("host"));
    bench.give(Event::Start);
    bench.connected();
    bench.line(GREETING);
    assert_eq!(stop(bench), done);
    let mut bench = Bench::up(again());
    bench.give(closed());
    let actions = bench.give(Event::Stop);
    assert!(torn_down(&actions[0]), "{actions:?}");
    assert_eq!(actions.last().cloned(), done);
}

mod property {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let line = prop_oneof![
            Just(GREETING.to_owned()),
            Just(HOST.to_owned()),
            Just("+OK 192.0.2.10 198.51.100.1 2001:db8::/48".to_owned()),
            Just("-ERR authentication failed.".to_owned()),
            "\\PC{0,80}",
        ];
        prop_oneof![
            8 => line.prop_map(Event::Line),
            4 => Just(Event::Tick),
            2 => Just(Event::Connected { local: LOCAL, password: Secret::default() }),
            1 => Just(closed()),
            1 => Just(Event::TunnelFailed("x".to_owned())),
            1 => Just(Event::TunnelBroken("x".to_owned())),
            1 => Just(Event::Restart),
            1 => Just(Event::Stop),
        ]
    }

    proptest! {
        /// Whatever happens: set-up and removal alternate as they must, nothing follows the end, and a
        /// machine that goes on always has something to wait for.
        #[test]
        fn no_sequence_leaves_a_tunnel_or_a_dead_machine(
            events in prop::collection::vec((event(), 0_u64..100), 1..60),
            reconnect in any::<bool>(),
        ) {
            let mut machine = Machine::new(Settings { reconnect, ..settings("host") });
            let mut now = Instant::now();
            let mut queue = vec![Event::Start];
            let mut standing = false;
            let mut ended = false;
            for (event, seconds) in events {
                queue.push(event);
                while !queue.is_empty() {
                    for action in machine.handle(queue.remove(0), now) {
                        prop_assert!(!ended, "{action:?} after the end");
                        match action {
                            Action::SetUp { .. } => {
                                standing = true;
                                queue.insert(0, Event::TunnelUp);
                            }
                            Action::TearDown { .. } => {
                                prop_assert!(standing, "nothing to tear down");
                                standing = false;
                            }
                            Action::Exit(_) => {
                                prop_assert!(!standing, "a tunnel is left behind");
                                ended = true;
                            }
                            _ => {}
                        }
                    }
                }
                prop_assert_eq!(machine.deadline().is_none(), ended);
                now += Duration::from_secs(seconds);
            }
        }
    }
}
