//! People who mean no good, while somebody else has a tunnel and uses it.

use std::net::Ipv4Addr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sixferry_netns_tests::login::Login;

use super::*;

/// Connections that only stand there, and from how many addresses.
const HALF_OPEN: usize = 10_000;
const ADDRESSES: u8 = 10;
/// What one address may have, without a tunnel: the default of `[dtcp.limits]`.
const PER_ADDRESS: usize = 1024;
const BUSY: &str = "-ERR server busy";
const INVALID: &str = "-ERR invalid command";
const DENIED: &str = "-ERR authentication failed.";
const TIMED_OUT: &str = "-ERR connection timed out, disconnecting";
/// Idle limit of a session without a tunnel, in seconds.
const GREETED: u64 = 3;

/// The attacker's host has many addresses.
fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 100 + n)
}

fn attacker(lab: &Lab) -> Customer {
    let mallory = Customer::direct(lab, "mallory", 90);
    for n in 0..ADDRESSES {
        mallory
            .net
            .ip(&format!("addr add {}/24 dev wire", address(n)));
    }
    mallory
}

#[test]
#[ignore = "needs root"]
fn hostile_lines_and_guesses_disturb_nobody_and_are_counted() {
    let more = format!(
        "[dtcp.timeouts]\ngreeted = {GREETED}\nfailure_delay = 0.01\n\
         [dtcp.limits]\nfailures_per_address = 15"
    );
    let config = ControlConfig::default().dtcp(&dtcp_keys(&more));
    let service = Service::start_with(&[ALICE, BOB], &config);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let mallory = attacker(&service.lab);
    let client = alice.log_in("-t network -P lo/1/1");
    let flows = Flows::start(&service, &alice, inner(&alice, ALICE));
    let from = |n| Login::connect(&mallory.net, address(n));
    let counted = |name: &str| {
        let name = format!("sixferry_dtcp_{name}_total");
        let value = service.control.metric(&service.lab.relay, &name);
        value.unwrap_or_else(|| panic!("no {name}"))
    };

    // A byte now and then is no line: it does not keep a session.
    let mut drips = [from(0), from(0)];
    let started = Instant::now();
    // A line of a megabyte, NUL bytes, and what is no text.
    let mut long = from(1);
    let _sent = long.send(&[b'x'; 1 << 20]);
    assert_eq!(long.try_line().expect("an answer"), INVALID);
    assert!(long.try_line().is_err(), "it is closed");
    let mut odd = from(1);
    for line in ["\0", "ping\0", "tunnel \0 \0 \0", "\u{ff}\u{fe}", " ", "\t"] {
        assert_eq!(odd.ask(line).split(' ').next(), Some("-ERR"), "{line:?}");
    }
    assert!(odd.ask("ping").starts_with("+OK "));

    // A digest that was overheard.
    let mut victim = Login::connect(&mallory.net, address(2));
    let digest = victim.digest(BOB.0, &secret(BOB.0));
    let line = format!("tunnel {} {digest} host", BOB.0);
    assert!(victim.ask(&line).starts_with("+OK "));
    for _ in 0..5 {
        assert_eq!(from(3).ask(&line), DENIED);
    }
    drop(victim);

    // Guesses end a session at the tenth, and keep out an address that goes on.
    let mut guesser = from(4);
    for n in 0..10 {
        assert_eq!(guesser.tunnel(ALICE.0, "guess", "host"), DENIED, "{n}");
    }
    assert!(guesser.try_line().is_err(), "it is closed");
    let limited = "-ERR too many failures, try again later";
    let mut again = from(4);
    let replies = (0..6).map(|_| again.tunnel(ALICE.0, "guess", "host"));
    let mut replies = replies.take_while(|reply| reply == DENIED);
    assert!(replies.by_ref().count() <= 5);
    let mut innocent = from(5);
    assert!(
        innocent
            .tunnel(BOB.0, &secret(BOB.0), "host")
            .starts_with("+OK ")
    );
    drop(innocent);
    let mut locked = from(4);
    assert_eq!(locked.tunnel(ALICE.0, &secret(ALICE.0), "host"), limited);

    while started.elapsed() < Duration::from_secs(GREETED) {
        for drip in &mut drips {
            let _closed = drip.send(b"x");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    for mut drip in drips {
        assert_eq!(drip.try_line().expect("a word"), TIMED_OUT);
    }
    wait_until("the attackers are gone", SOON, || {
        service.control.sessions().len() == 1
    });
    for (name, least) in [
        ("floods", 1.0),
        ("invalid_lines", 4.0),
        ("denied_digest", 15.0),
        ("denied_limited", 1.0),
        ("ended_failures", 1.0),
        ("ended_idle", 2.0),
    ] {
        assert!(counted(name) >= least, "{name}: {}", counted(name));
    }
    flows.expect_no_loss(ALICE.0);
    client.log_out();
    service.nothing_is_left();
}

/// Room for the connections in this process; the daemon gets the same, as its child.
fn room_for_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = HALF_OPEN as u64 + 5_000;
    assert!(limit.maximum.is_none_or(|most| most >= wanted), "{limit:?}");
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as much as may be");
    let Rlimit { current, .. } = getrlimit(Resource::Nofile);
    assert!(current.is_none_or(|now| now >= wanted));
}

#[test]
#[ignore = "needs root"]
fn hostile_half_open_connections_disturb_nobody_and_are_counted() {
    room_for_connections();
    let service = Service::start(&[ALICE, BOB]);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let mallory = attacker(&service.lab);
    let client = alice.log_in("-t network -P lo/1/1");
    let flows = Flows::start(&service, &alice, inner(&alice, ALICE));
    let each = HALF_OPEN / usize::from(ADDRESSES);
    let mut held: Vec<Login> = mallory.net.enter(|| {
        let addresses = (0..ADDRESSES).flat_map(|n| std::iter::repeat_n(address(n), each));
        addresses
            .map(|from| Login::raw(from).expect("a connection"))
            .collect()
    });
    let counted = |name: &str| {
        let value = service.control.metric(&service.lab.relay, name);
        value.unwrap_or_else(|| panic!("no {name}"))
    };
    wait_until("all of them are counted", PATIENCE, || {
        counted("sixferry_dtcp_sessions_greeted") >= HALF_OPEN as f64
    });
    // One address may have so many and no more.
    let more = PER_ADDRESS - each + 10;
    let mut others: Vec<Login> = mallory.net.enter(|| {
        let more = (0..more).map(|_| Login::raw(address(0)).expect("a connection"));
        more.collect()
    });
    let refused = |login: &mut Login| login.try_line().is_ok_and(|line| line == BUSY);
    let refused = others.iter_mut().map(refused).filter(|refused| *refused);
    assert_eq!(refused.count(), 10);
    assert!(counted("sixferry_dtcp_refused_address_total") >= 10.0);
    // Who comes from elsewhere is served.
    let other = bob.log_in("-t host");
    both_ways(&service, &bob, inner(&bob, BOB));
    // What was not read would make the kernel send a reset, and the loss of one nobody notices.
    for login in &mut held {
        login.greeted().expect("a greeting");
    }
    drop((held, others));
    wait_until("the attackers are gone", PATIENCE, || {
        counted("sixferry_dtcp_sessions") < 3.0
    });
    flows.expect_no_loss(ALICE.0);
    other.log_out();
    client.log_out();
    service.nothing_is_left();
}
