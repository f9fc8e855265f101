//! Limits in time. The clock is paused: it jumps to the next timer when nobody has anything to do.

use std::time::{Duration, Instant as RealInstant};

use sixferry_dtcp::net::SessionState;
use sixferry_lifecycle::Cause;
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, config};

const TIMED_OUT: &str = "-ERR connection timed out, disconnecting";

/// What the clock may be off by: the timer counts whole milliseconds, and other tests use the CPU.
fn about(elapsed: Duration, seconds: u64) -> bool {
    let expected = Duration::from_secs(seconds);
    elapsed >= expected && elapsed < expected + Duration::from_secs(1)
}

#[tokio::test(start_paused = true)]
async fn dtcp_21_idle_60_s_without_a_tunnel() {
    let bed = Bed::new(config());
    let start = Instant::now();
    let mut client = bed.client(1).await;
    assert_eq!(client.line().await.as_deref(), Some(TIMED_OUT));
    assert!(about(start.elapsed(), 60), "{:?}", start.elapsed());
    client.ends().await;
}

#[tokio::test(start_paused = true)]
async fn dtcp_21_idle_300_s_with_one() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    let start = Instant::now();
    assert_eq!(client.line().await.as_deref(), Some(TIMED_OUT));
    assert!(about(start.elapsed(), 300), "{:?}", start.elapsed());
    client.ends().await;
    assert_eq!(bed.fake.count(), 0);
    assert_eq!(bed.server.stats().ended_idle, 1);
}

#[tokio::test]
#[ignore = "takes a minute of real time"]
async fn dtcp_21_idle_60_s_by_the_clock_on_the_wall() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    let start = RealInstant::now();
    assert_eq!(client.line().await.as_deref(), Some(TIMED_OUT));
    assert!(about(start.elapsed(), 60), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dtcp_22_lines_restart_the_limit_also_invalid_ones() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for line in ["ping", "pong", "", "tunnel"] {
        sleep(Duration::from_secs(55)).await;
        client.ask(line).await;
    }
    let start = Instant::now();
    assert_eq!(client.line().await.as_deref(), Some(TIMED_OUT));
    assert!(about(start.elapsed(), 60), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dtcp_22_partial_lines_do_not() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for _ in 0..5 {
        sleep(Duration::from_secs(10)).await;
        client.send(b"p").await;
    }
    sleep(Duration::from_millis(9_500)).await;
    let start = Instant::now();
    assert_eq!(client.line().await.as_deref(), Some(TIMED_OUT));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn dtcp_22_nobody_stays_without_a_tunnel_for_ever() {
    let bed = Bed::new(config());
    let start = Instant::now();
    let mut client = bed.client(1).await;
    for _ in 0..11 {
        sleep(Duration::from_secs(50)).await;
        client.pings().await;
    }
    assert_eq!(client.line().await.as_deref(), Some(TIMED_OUT));
    assert!(about(start.elapsed(), 600), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn wrong_logins_are_answered_later_each_time_and_end_the_session() {
    let mut config = config();
    config.timeouts.failure_delay = Duration::from_secs(1);
    let bed = Bed::new(config);
    let mut client = bed.client(1).await;
    for failure in 1..=10 {
        let start = Instant::now();
        client.login("alice", "guess", "host").await;
        assert!(
            about(start.elapsed(), failure),
            "{failure}: {:?}",
            start.elapsed()
        );
    }
    client.ends().await;
    assert_eq!(bed.server.stats().ended_failures, 1);
}

#[tokio::test(start_paused = true)]
async fn penalty_of_one_session_does_not_hold_up_another() {
    let mut config = config();
    config.timeouts.failure_delay = Duration::from_secs(1);
    let bed = Bed::new(config);
    let mut guesser = bed.client(1).await;
    let digest = guesser.digest("alice", "guess");
    guesser
        .send(format!("tunnel alice {digest} host\r\nping\r\n").as_bytes())
        .await;
    bed.until("it is looked at", |bed| bed.fake.checks() == 1)
        .await;
    let start = Instant::now();
    // From the same address, even.
    bed.logged_in(1, "alice", "host").await.pings().await;
    assert!(
        start.elapsed() < Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    // Its own next command waits for its turn.
    assert_eq!(
        guesser.line().await.as_deref(),
        Some("-ERR authentication failed.")
    );
    assert_eq!(
        guesser.line().await.as_deref(),
        Some("+OK hi, happy to hear from you")
    );
}

/// How a peer goes away.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Fin,
    Reset,
}

/// A peer with a tunnel guesses wrong, sends more, and leaves before it is answered.
async fn leaves_during_a_penalty(how: Leaving, more: &[u8]) {
    let mut config = config();
    config.timeouts.failure_delay = Duration::from_secs(8);
    let bed = Bed::new(config);
    let mut client = bed.logged_in(1, "alice", "host").await;
    let wrong = client.digest("alice", "guess");
    let line = format!("tunnel alice {wrong} host\r\n");
    let start = Instant::now();
    client.send(&[line.as_bytes(), more].concat()).await;
    bed.until("it is looked at", |bed| bed.fake.checks() == 2)
        .await;
    let half = match how {
        Leaving::Fin => {
            client.half_close().await;
            Some(client)
        }
        Leaving::Reset => {
            client.reset();
            None
        }
    };
    bed.until("the tunnel is gone", |bed| bed.fake.count() == 0)
        .await;
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(1), "{how:?}: {elapsed:?}");
    assert_eq!(bed.fake.released(), [Cause::ConnectionLost]);
    let session = bed
        .server
        .sessions()
        .pop()
        .expect("it sits the penalty out");
    assert_eq!(session.state, SessionState::Greeted);
    // Nobody is answered sooner, or has his place back sooner, for leaving.
    if let Some(mut client) = half {
        let line = client.line().await;
        assert_eq!(line.as_deref(), Some("-ERR authentication failed."));
    } else {
        bed.until("the session is gone", |bed| {
            bed.server.stats().sessions == 0
        })
        .await;
    }
    assert!(about(start.elapsed(), 8), "{how:?}: {:?}", start.elapsed());
    assert_eq!((bed.fake.count(), bed.fake.released().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn dtcp_24_end_of_a_peer_is_noticed_during_a_penalty() {
    for how in [Leaving::Fin, Leaving::Reset] {
        leaves_during_a_penalty(how, b"").await;
        // The end of the connection stands behind bytes that nobody may read yet.
        leaves_during_a_penalty(how, b"ping\r\n").await;
        leaves_during_a_penalty(how, &b"ping\r\n".repeat(2000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dtcp_24_end_of_a_peer_is_noticed_while_its_lines_are_throttled() {
    let mut config = config();
    config.limits.lines_per_second = 1;
    let bed = Bed::new(config);
    let mut client = bed.logged_in(1, "alice", "host").await;
    client.send(&b"ping\r\n".repeat(60)).await;
    client.half_close().await;
    let start = Instant::now();
    bed.until("the tunnel is gone", |bed| bed.fake.count() == 0)
        .await;
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    // It is answered all the same, at the pace of everybody.
    for _ in 0..60 {
        let line = client.line().await;
        assert_eq!(line.as_deref(), Some("+OK hi, happy to hear from you"));
    }
    client.ends().await;
    assert_eq!(bed.fake.released(), [Cause::ConnectionLost]);
}

#[tokio::test(start_paused = true)]
async fn fin_of_a_peer_that_does_not_close_is_waited_for_5_s() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    let start = Instant::now();
    client.ask("quit").await;
    client.ends().await;
    bed.until("it is gone", |bed| bed.server.stats().sessions == 0)
        .await;
    assert!(about(start.elapsed(), 5), "{:?}", start.elapsed());
}

/// Medians of how long it takes to be refused, for two kinds of wrong login that take turns.
async fn refusals(bed: &Bed, logins: [(&str, &str); 2]) -> [f64; 2] {
    let mut client = bed.client(1).await;
    let mut times = [const { Vec::new() }; 2];
    for round in 0..2000 {
        // Who goes first changes too: the first of a pair may find colder caches.
        let kind = (round + round / 2) % 2;
        let (user, secret) = logins[kind];
        let digest = client.digest(user, secret);
        let line = format!("tunnel {user} {digest} host");
        let start = RealInstant::now();
        assert_eq!(client.ask(&line).await, "-ERR authentication failed.");
        times[kind].push(start.elapsed());
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    })
}

#[tokio::test]
async fn dtcp_06_unknown_user_and_wrong_secret_take_the_same_time() {
    let mut config = config();
    config.limits.failures_per_session = u32::MAX;
    config.limits.failures_per_address = u32::MAX;
    config.limits.lines_per_second = 1_000_000;
    let bed = Bed::new(config);
    // Names of one length: the line itself should not make the difference.
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let [unknown, wrong] = refusals(&bed, [("nobod", "s3cret"), ("alice", "wrong!")]).await;
        best = best.min((unknown / wrong).max(wrong / unknown));
        if best < 1.1 {
            return;
        }
    }
    panic!("medians differ by a factor of {best}");
}
