//! What a client gets for what it says.

use std::collections::HashSet;
use std::time::Duration;

use sixferry_dtcp::wire::{client::Grant, hex};

use crate::bed::{Bed, config, from};
use crate::client::Client;

const FAILED: &str = "-ERR authentication failed.";
const INVALID: &str = "-ERR invalid command";

#[tokio::test]
async fn dtcp_01_greeting() {
    let bed = Bed::new(config());
    let greeting = Client::raw(bed.at, from(1)).await.line().await.unwrap();
    let challenge = greeting.strip_prefix("+OK ").unwrap();
    let challenge = challenge.strip_suffix(" KAME tunnel server").unwrap();
    assert_eq!(challenge.len(), 32);
    assert!(
        challenge
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    );
}

#[tokio::test]
async fn dtcp_01_banner_is_configurable() {
    let bed = Bed::new(sixferry_dtcp::Config {
        banner: String::new(),
        ..config()
    });
    let greeting = Client::raw(bed.at, from(1)).await.line().await.unwrap();
    assert_eq!(greeting.len(), "+OK ".len() + 32);
}

#[tokio::test]
async fn dtcp_02_challenges_never_repeat() {
    let bed = Bed::new(config());
    let mut seen = HashSet::new();
    for n in 0..10_000 {
        let client = bed.client(n % 200).await;
        assert!(
            seen.insert(client.challenge.clone()),
            "{}",
            client.challenge
        );
        client.reset();
    }
}

#[tokio::test]
async fn dtcp_04_lower_case_digest_is_accepted() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    let digest = client.digest("alice", "s3cret").to_lowercase();
    let reply = client
        .ask(&format!("tunnel alice {digest} tunnelonly"))
        .await;
    assert_eq!(reply, "+OK 127.1.0.1 127.0.0.1");
}

#[tokio::test]
async fn dtcp_05_all_wrong_logins_look_alike_and_the_session_stays() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    let digest = client.digest("alice", "s3cret");
    assert_eq!(client.login("alice", "wrong", "tunnelonly").await, FAILED);
    assert_eq!(client.login("nobody", "s3cret", "tunnelonly").await, FAILED);
    for line in [
        format!("tunnel alice {digest}"),
        format!("tunnel alice {digest} tunnelonly x"),
        format!("tunnel alice {digest}0 tunnelonly"),
        format!("tunnel ALICE {digest} tunnelonly"),
        "tunnel alice not-a-digest tunnelonly".to_owned(),
        "tunnel".to_owned(),
    ] {
        assert_eq!(client.ask(&line).await, FAILED, "{line}");
    }
    client.pings().await;
    assert_eq!(bed.fake.count(), 0);
    let stats = bed.server.stats();
    assert_eq!((stats.denied_digest, stats.denied), (3, 8));
}

#[tokio::test]
async fn dtcp_07_retry_with_the_same_challenge() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    assert_eq!(client.login("alice", "wrong", "host").await, FAILED);
    let reply = client.login("alice", "s3cret", "tunnelonly").await;
    assert_eq!(reply, "+OK 127.1.0.1 127.0.0.1");
}

#[tokio::test]
async fn dtcp_08_09_tunnelonly_has_exactly_the_two_ends() {
    let bed = Bed::new(config());
    let mut client = Client::connect(bed.at, "127.0.0.2".parse().unwrap()).await;
    assert_eq!(
        client.login("alice", "s3cret", "tunnelonly").await,
        "+OK 127.0.0.2 127.0.0.1"
    );
}

#[tokio::test]
async fn dtcp_10_host_pairs_follow_the_unit() {
    let bed = Bed::new(config());
    let mut clients = Vec::new();
    for (n, expected) in [
        (
            0,
            "+OK 127.1.0.0 127.0.0.1 2001:db8:ffff::6 2001:db8:ffff::5",
        ),
        (
            1,
            "+OK 127.1.0.1 127.0.0.1 2001:db8:ffff::a 2001:db8:ffff::9",
        ),
        (
            2,
            "+OK 127.1.0.2 127.0.0.1 2001:db8:ffff::e 2001:db8:ffff::d",
        ),
    ] {
        let mut client = bed.client(n).await;
        assert_eq!(client.login("alice", "s3cret", "host").await, expected);
        clients.push(client);
    }
}

#[tokio::test]
async fn dtcp_11_units_beyond_four_digits_give_addresses() {
    for (first, client6, server6) in [
        ("gif16382", "::fffe", "::fffd"),
        ("gif16383", "::1:2", "::1:1"),
    ] {
        let interfaces = Some(first.to_owned());
        let bed = Bed::new(sixferry_dtcp::Config {
            interfaces,
            ..config()
        });
        let reply = bed.client(1).await.login("alice", "s3cret", "host").await;
        let granted = Grant::parse(reply.strip_prefix("+OK ").unwrap()).unwrap();
        let address = |end: &str| format!("2001:db8:ffff{end}").parse().unwrap();
        assert_eq!(granted.pair, Some((address(client6), address(server6))));
    }
}

#[tokio::test]
async fn dtcp_12_host_without_a_prefix_is_unsupported() {
    let bed = Bed::new(sixferry_dtcp::Config {
        host_prefix: None,
        ..config()
    });
    let mut client = bed.client(1).await;
    assert_eq!(
        client.login("alice", "s3cret", "host").await,
        "-ERR unsupported tunnel type host"
    );
}

#[tokio::test]
async fn dtcp_16_other_types_are_echoed() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for kind in ["bogus", "HOST", "TunnelOnly", "network", "tunnelroute"] {
        assert_eq!(
            client.login("alice", "s3cret", kind).await,
            format!("-ERR unsupported tunnel type {kind}")
        );
    }
    // Without a good login nothing is said about types.
    assert_eq!(client.login("alice", "wrong", "bogus").await, FAILED);
}

#[tokio::test]
async fn dtcp_17_texts_byte_for_byte_before_login_too() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for _ in 0..2 {
        assert_eq!(client.ask("ping").await, "+OK hi, happy to hear from you");
        assert_eq!(
            client.ask("HeLp me").await,
            "+OK valid commands are: TUNNEL PING QUIT"
        );
        assert_eq!(client.ask("PING").await, "+OK hi, happy to hear from you");
        client.login("alice", "s3cret", "tunnelonly").await;
    }
    assert_eq!(client.ask("QUIT now").await, "+OK see you soon.");
    client.ends().await;
}

#[tokio::test]
async fn dtcp_18_odd_lines_are_answered_and_survived() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for line in [
        &b"\r\n"[..],
        b"\n",
        b"    \r\n",
        b" ping\r\n",
        b"\tping\r\n",
        b"ping\thelp\r\n",
        b"\0\r\n",
        b"ping\0\r\n",
        b"\xff\xfe\xfd\r\n",
        b"\xd0\xbf\xd0\xb8\r\n",
        b"pong\r\n",
        b"ping\rhelp\r\n",
    ] {
        client.send(line).await;
        assert_eq!(client.line().await.as_deref(), Some(INVALID), "{line:?}");
    }
    client.pings().await;
    assert_eq!(bed.server.stats().invalid_lines, 12);
}

#[tokio::test]
async fn dtcp_18_empty_line_may_be_valid() {
    let bed = Bed::new(sixferry_dtcp::Config {
        empty_line_ok: true,
        ..config()
    });
    let mut client = bed.client(1).await;
    assert_eq!(client.ask("").await, "+OK");
    assert_eq!(client.ask("  ").await, INVALID);
}

#[tokio::test]
async fn dtcp_19_bare_lf_pipelining_and_last_line_without_lf() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    let digest = client.digest("alice", "s3cret");
    let wrong = hex([0; 16]);
    let wrong = std::str::from_utf8(&wrong).unwrap();
    client
        .send(
            format!(
                "ping\nhelp\r\ntunnel alice {wrong} host\ntunnel alice {digest} host\npong\nhelp"
            )
            .as_bytes(),
        )
        .await;
    client.half_close().await;
    for expected in [
        "+OK hi, happy to hear from you",
        "+OK valid commands are: TUNNEL PING QUIT",
        FAILED,
        "+OK 127.1.0.1 127.0.0.1 2001:db8:ffff::6 2001:db8:ffff::5",
        INVALID,
        "+OK valid commands are: TUNNEL PING QUIT",
    ] {
        assert_eq!(client.line().await.as_deref(), Some(expected));
    }
    client.ends().await;
    bed.until("the tunnel is gone", |bed| bed.fake.count() == 0)
        .await;
}

#[tokio::test]
async fn dtcp_19_thousands_of_pipelined_lines_are_all_answered() {
    let mut config = config();
    config.limits.lines_per_second = 100_000;
    let bed = Bed::new(config);
    let mut client = bed.client(1).await;
    for _ in 0..5 {
        client.send(&b"ping\n".repeat(2000)).await;
        for _ in 0..2000 {
            assert_eq!(
                client.line().await.as_deref(),
                Some("+OK hi, happy to hear from you")
            );
        }
    }
    assert_eq!(bed.server.stats().pings, 10_000);
}

#[tokio::test]
async fn dtcp_30_announced_address_changes_the_reply_only() {
    let announce = Some("203.0.113.1".parse().unwrap());
    let bed = Bed::new(sixferry_dtcp::Config {
        announce,
        ..config()
    });
    let mut client = bed.client(1).await;
    assert_eq!(
        client.login("alice", "s3cret", "tunnelonly").await,
        "+OK 127.1.0.1 203.0.113.1"
    );
    assert_eq!(bed.fake.tunnels()[0].local, std::net::Ipv4Addr::LOCALHOST);
}

#[tokio::test]
async fn dtcp_33_udp_off_is_the_originals_error() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    assert_eq!(
        client.login("alice", "s3cret", "tunnelonly udp").await,
        FAILED
    );
    assert_eq!(
        client.login("alice", "s3cret", "tunnelonly udp 4028").await,
        FAILED
    );
    assert_eq!(bed.fake.count(), 0);
}

#[tokio::test]
async fn dtcp_34_udp_has_one_port_per_tunnel() {
    let mut config = config();
    config.udp.enabled = true;
    config.udp.last_port = 4030;
    let bed = Bed::new(config);
    let mut clients = Vec::new();
    for (kind, expected) in [
        ("tunnelonly udp", "+OK 127.1.0.1 127.0.0.1 udp 4028"),
        (
            "host udp 5000",
            "+OK 127.1.0.1 127.0.0.1 2001:db8:ffff::a 2001:db8:ffff::9 udp 4029",
        ),
        ("tunnelonly udp", "+OK 127.1.0.1 127.0.0.1 udp 4030"),
        ("tunnelonly udp", "-ERR tunnel interface sold out"),
        ("tunnelonly udp 0", FAILED),
        ("tunnelonly tcp", FAILED),
    ] {
        let mut client = bed.client(1).await;
        assert_eq!(
            client.login("alice", "s3cret", kind).await,
            expected,
            "{kind}"
        );
        clients.push(client);
    }
}

#[tokio::test(start_paused = true)]
async fn dtcp_40_client_of_the_original_stays_up_over_two_pings() {
    let bed = Bed::new(config());
    for kind in ["tunnelonly", "host"] {
        let mut client = bed.logged_in(1, "alice", kind).await;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            client.pings().await;
            assert_eq!(bed.fake.count(), 1);
        }
        assert_eq!(client.ask("quit").await, "+OK see you soon.");
        client.ends().await;
        assert_eq!(bed.fake.count(), 0);
    }
}
