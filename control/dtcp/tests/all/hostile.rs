//! Input of people who mean no good.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::sleep;

use crate::bed::{Bed, config};
use crate::client::Client;

const INVALID: &str = "-ERR invalid command";
const BUSY: &str = "-ERR server busy";

#[tokio::test]
async fn dtcp_20_long_line_with_lf_is_skipped() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for len in [1025, 4096, 8191] {
        let mut line = vec![b'x'; len];
        line.push(b'\n');
        client.send(&line).await;
        assert_eq!(client.line().await.as_deref(), Some(INVALID), "{len}");
        client.pings().await;
    }
    assert_eq!(bed.server.stats().long_lines, 3);
    // The longest that is read.
    client
        .send(&[&b"ping "[..], &[b'x'; 1019], b"\r\n"].concat())
        .await;
    assert_eq!(
        client.line().await.as_deref(),
        Some("+OK hi, happy to hear from you")
    );
}

#[tokio::test]
async fn dtcp_20_megabyte_with_or_without_lf_ends_the_session_only() {
    let bed = Bed::new(config());
    let mut other = bed.logged_in(2, "alice", "host").await;
    for end in [&b"\r\n"[..], b""] {
        let mut client = bed.client(1).await;
        let line = [&vec![b'x'; 1 << 20][..], end].concat();
        let sent = client.try_send(&line).await;
        assert_eq!(
            client.line().await.as_deref(),
            Some(INVALID),
            "sent: {sent}"
        );
        client.ends().await;
        other.pings().await;
    }
    assert_eq!(bed.server.stats().floods, 2);
}

#[tokio::test]
async fn dtcp_20_megabytes_of_lines_leave_nothing_behind() {
    let mut config = config();
    config.limits.lines_per_second = 1_000_000;
    let bed = Bed::new(config);
    let mut client = bed.client(1).await;
    // Each line as long as it may be; answers are read, so nobody is held up.
    let line = [&vec![b'x'; 1022][..], b"\r\n"].concat();
    for _ in 0..50 {
        client.send(&line.repeat(20)).await;
        for _ in 0..20 {
            assert_eq!(client.line().await.as_deref(), Some(INVALID));
        }
    }
    client.pings().await;
}

#[tokio::test]
async fn peer_that_never_reads_is_held_back() {
    let mut config = config();
    config.limits.lines_per_second = 10_000_000;
    let bed = Bed::new(config);
    let mut other = bed.logged_in(2, "alice", "host").await;
    let mut client = bed.client(1).await;
    let lines = b"help\n".repeat(10_000);
    // Sooner or later nothing more is taken: the answers are not read.
    while tokio::time::timeout(Duration::from_millis(500), client.try_send(&lines))
        .await
        .is_ok()
    {
        let info = bed.server.sessions();
        assert!(info[1].bytes_out < 1 << 26, "it is never held back");
    }
    other.pings().await;
}

#[tokio::test]
async fn too_many_lines_per_second_are_slowed_down() {
    let mut config = config();
    config.limits.lines_per_second = 50;
    let bed = Bed::new(config);
    let mut client = bed.client(1).await;
    client.send(&b"ping\n".repeat(1010)).await;
    let start = std::time::Instant::now();
    for _ in 0..1010 {
        client.line().await.unwrap();
    }
    assert!(
        start.elapsed() > Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert!(bed.server.stats().throttled >= 5);
}

#[tokio::test(start_paused = true)]
async fn slow_drip_costs_a_session_its_time_and_nobody_else_anything() {
    let bed = Bed::new(config());
    let mut drips = Vec::new();
    for n in 0..100 {
        drips.push(bed.client(n).await);
    }
    for _ in 0..6 {
        sleep(Duration::from_secs(9)).await;
        for drip in &mut drips {
            drip.try_send(b"x").await;
        }
        bed.logged_in(200, "alice", "host").await.pings().await;
    }
    sleep(Duration::from_secs(15)).await;
    for drip in &mut drips {
        assert_eq!(
            drip.line().await.as_deref(),
            Some("-ERR connection timed out, disconnecting")
        );
    }
    drop(drips);
    bed.until("all are gone", |bed| bed.server.stats().sessions == 0)
        .await;
}

#[tokio::test]
async fn ten_thousand_half_open_from_one_address_keep_out_that_address_only() {
    let mut config = config();
    config.limits.greeted_per_address = 100;
    let bed = Bed::new(config);
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..10_000 {
        let mut client = Client::raw(bed.at, Ipv4Addr::new(127, 9, 9, 9)).await;
        let line = client.line().await.unwrap();
        if line.starts_with("+OK ") {
            client.greeted(&line);
            held.push(client);
        } else {
            assert_eq!(line, BUSY);
            refused += 1;
        }
    }
    assert_eq!((held.len(), refused), (100, 9_900));
    let stats = bed.server.stats();
    assert_eq!(
        (stats.sessions, stats.greeted, stats.refused_address),
        (100, 100, 9_900)
    );
    bed.logged_in(1, "alice", "host").await.pings().await;
    // Whoever has a tunnel does not count.
    let mut first = held.pop().unwrap();
    assert!(
        first
            .login("alice", "s3cret", "host")
            .await
            .starts_with("+OK ")
    );
    Client::connect(bed.at, Ipv4Addr::new(127, 9, 9, 9))
        .await
        .pings()
        .await;
}

#[tokio::test]
async fn at_the_limit_of_sessions_one_is_told_and_a_place_comes_free() {
    let mut config = config();
    config.limits.sessions = 4;
    config.limits.greeted_percent = 50;
    let bed = Bed::new(config);
    let mut up = Vec::new();
    for n in 0..3 {
        up.push(bed.logged_in(n, "alice", "host").await);
    }
    let _greeted = bed.client(4).await;
    let mut refused = Client::raw(bed.at, Ipv4Addr::new(127, 0, 0, 9)).await;
    assert_eq!(refused.line().await.as_deref(), Some(BUSY));
    refused.ends().await;
    assert_eq!(bed.server.stats().refused_sessions, 1);
    let mut leaving = up.pop().unwrap();
    leaving.ask("quit").await;
    leaving.ends().await;
    drop(leaving);
    bed.until("there is a place", |bed| bed.server.stats().sessions == 3)
        .await;
    bed.client(5).await.pings().await;
}

#[tokio::test]
async fn replayed_digest_is_refused() {
    let bed = Bed::new(config());
    let mut victim = bed.client(1).await;
    let digest = victim.digest("alice", "s3cret");
    let line = format!("tunnel alice {digest} host");
    assert!(victim.ask(&line).await.starts_with("+OK "));
    for n in 2..50 {
        let mut thief = bed.client(n).await;
        assert_eq!(thief.ask(&line).await, "-ERR authentication failed.");
    }
    assert_eq!(bed.fake.count(), 1);
}

#[tokio::test]
async fn guessing_from_one_address_is_limited_and_others_are_not() {
    let mut config = config();
    config.limits.failures_per_address = 20;
    config.limits.failures_per_session = 5;
    let bed = Bed::new(config);
    let mut up = bed.logged_in(1, "alice", "host").await;
    for _ in 0..4 {
        let mut guesser = bed.client(1).await;
        for _ in 0..5 {
            let reply = guesser.login("bob", "guess", "host").await;
            assert_eq!(reply, "-ERR authentication failed.");
        }
        guesser.ends().await;
    }
    let checks = bed.fake.checks();
    let mut guesser = bed.client(1).await;
    let reply = guesser.login("bob", "guess", "host").await;
    assert_eq!(reply, "-ERR too many failures, try again later");
    guesser.ends().await;
    assert_eq!(bed.fake.checks(), checks, "it is not even looked at");
    assert_eq!(bed.server.stats().denied_limited, 1);
    // Sessions of that address that are up stay, and other addresses log in.
    up.pings().await;
    bed.logged_in(2, "bob", "host").await.pings().await;
}

#[tokio::test]
async fn resets_at_any_moment_leave_nothing() {
    let bed = Bed::new(config());
    for n in 0..200 {
        let mut client = bed.client(n).await;
        let digest = client.digest("alice", "s3cret");
        let line = format!("tunnel alice {digest} host\r\nping\r\n");
        let len = n as usize % line.len();
        client.send(&line.as_bytes()[..len]).await;
        client.reset();
    }
    for n in 0..50 {
        let mut client = bed.client(n).await;
        let digest = client.digest("alice", "s3cret");
        client
            .send(format!("tunnel alice {digest} host\r\nping\r\n").as_bytes())
            .await;
        client.reset();
    }
    bed.until("all are gone", |bed| bed.server.stats().sessions == 0)
        .await;
    bed.until("no tunnel is left", |bed| bed.fake.count() == 0)
        .await;
}
