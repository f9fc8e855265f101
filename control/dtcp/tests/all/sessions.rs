//! Tunnels that come and go with their sessions.

use std::time::Duration;

use sixferry_dtcp::net::SessionState;
use sixferry_lifecycle::{Cause, Error, RevokeCause, TunnelId};

use crate::bed::{Bed, config, from};
use crate::client::Client;

const SOLD_OUT: &str = "-ERR tunnel interface sold out";

#[tokio::test]
async fn dtcp_23_quit_answers_removes_and_closes_in_this_order() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    assert_eq!(bed.fake.count(), 1);
    assert_eq!(client.ask("quit").await, "+OK see you soon.");
    client.ends().await;
    // FIN comes after the tunnel is gone.
    assert_eq!(bed.fake.count(), 0);
    assert_eq!(bed.fake.released(), [Cause::Quit]);
}

#[tokio::test]
async fn dtcp_24_eof_and_reset_tear_down() {
    let bed = Bed::new(config());
    let mut eof = bed.logged_in(1, "alice", "host").await;
    eof.half_close().await;
    eof.ends().await;
    assert_eq!(bed.fake.count(), 0);
    let reset = bed.logged_in(2, "alice", "host").await;
    reset.reset();
    bed.until("the tunnel is gone after a reset", |bed| {
        bed.fake.count() == 0
    })
    .await;
    assert_eq!(
        bed.fake.released(),
        [Cause::ConnectionLost, Cause::ConnectionLost]
    );
    bed.until("both sessions are gone", |bed| {
        bed.server.stats().sessions == 0
    })
    .await;
    let stats = bed.server.stats();
    assert_eq!(
        (stats.ended_eof, stats.ended_broken, stats.greeted),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn dtcp_24_peer_that_leaves_while_its_tunnel_is_set_up() {
    let bed = Bed::new(config());
    let permits = bed.fake.gate.forget_permits(usize::MAX);
    let mut client = bed.client(1).await;
    let digest = client.digest("alice", "s3cret");
    client
        .send(format!("tunnel alice {digest} host\r\n").as_bytes())
        .await;
    bed.until("it is authenticated", |bed| bed.fake.checks() == 1)
        .await;
    client.reset();
    bed.fake.gate.add_permits(permits);
    bed.until("the session is gone", |bed| {
        bed.server.stats().sessions == 0
    })
    .await;
    bed.until("the tunnel is gone", |bed| bed.fake.released().len() == 1)
        .await;
    assert_eq!(bed.fake.count(), 0);
}

#[tokio::test]
async fn dtcp_25_second_tunnel_replaces_the_first() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    for kind in ["tunnelonly", "host", "host"] {
        let reply = client.login("bob", "hunter2", kind).await;
        assert!(reply.starts_with("+OK "), "{reply}");
        assert_eq!(bed.fake.count(), 1);
    }
    assert_eq!(bed.fake.released(), [Cause::Replaced; 3]);
    client.ask("quit").await;
    client.ends().await;
    assert_eq!(bed.fake.count(), 0);
}

#[tokio::test]
async fn dtcp_25_failed_second_tunnel_leaves_a_clean_session() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    // A login that fails leaves the first one alone.
    client.login("bob", "wrong", "host").await;
    assert_eq!(bed.fake.count(), 1);
    bed.fake.fail(Some(Error::SoldOut { what: "interface" }));
    assert_eq!(client.login("bob", "hunter2", "host").await, SOLD_OUT);
    assert_eq!(bed.fake.count(), 0);
    assert_eq!(bed.server.stats().greeted, 1);
    bed.fake.fail(None);
    assert!(
        client
            .login("bob", "hunter2", "host")
            .await
            .starts_with("+OK ")
    );
}

#[tokio::test]
async fn dtcp_26_failed_tunnel_then_quit_is_a_clean_close() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    client.login("alice", "s3cret", "bogus").await;
    assert_eq!(client.ask("quit").await, "+OK see you soon.");
    client.ends().await;
    assert_eq!(bed.fake.released(), []);
}

#[tokio::test]
async fn dtcp_27_newest_login_wins_and_the_old_one_is_told() {
    let bed = Bed::new(config());
    // One pair of ends, one user: protocol 41 cannot tell them apart.
    let mut old = bed.logged_in(1, "alice", "host").await;
    let mut new = bed.logged_in(1, "alice", "host").await;
    assert_eq!(
        old.line().await.as_deref(),
        Some("-ERR replaced by a newer session")
    );
    old.ends().await;
    new.pings().await;
    assert_eq!(bed.fake.count(), 1);
    // The old session's end does not take the new one's tunnel.
    bed.until("only the new one is left", |bed| {
        bed.server.stats().sessions == 1
    })
    .await;
    assert_eq!((bed.fake.count(), bed.fake.released()), (1, vec![]));
    // Another user with the same ends is refused.
    let mut other = bed.client(1).await;
    assert_eq!(
        other.login("bob", "hunter2", "host").await,
        "-ERR tunnel already in use"
    );
    new.pings().await;
}

#[tokio::test]
async fn dtcp_27_same_user_may_log_in_from_many_places() {
    let bed = Bed::new(config());
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(bed.logged_in(n, "alice", "host").await);
    }
    assert_eq!(bed.fake.count(), 20);
}

#[tokio::test]
async fn dtcp_28_sold_out_then_free_again() {
    let interfaces = Some("gif0".to_owned());
    let bed = Bed::new(sixferry_dtcp::Config {
        interfaces,
        cloning: false,
        ..config()
    });
    let mut first = bed.logged_in(1, "alice", "host").await;
    let mut second = bed.client(2).await;
    assert_eq!(second.login("bob", "hunter2", "host").await, SOLD_OUT);
    second.pings().await;
    first.ask("quit").await;
    first.ends().await;
    assert!(
        second
            .login("bob", "hunter2", "host")
            .await
            .starts_with("+OK ")
    );
}

fn interfaces(bed: &Bed) -> Vec<String> {
    let mut names: Vec<_> = bed
        .fake
        .tunnels()
        .iter()
        .map(|t| t.slot.to_string())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn dtcp_29_lowest_free_unit_from_the_base() {
    for keep in [false, true] {
        let interfaces_from = Some("gif10".to_owned());
        let bed = Bed::new(sixferry_dtcp::Config {
            interfaces: interfaces_from,
            keep,
            ..config()
        });
        let first = bed.logged_in(1, "alice", "host").await;
        let _second = bed.logged_in(2, "alice", "host").await;
        assert_eq!(interfaces(&bed), ["gif10", "gif11"]);
        first.reset();
        bed.until("gif10 is free", |bed| bed.fake.count() == 1)
            .await;
        let _third = bed.logged_in(3, "bob", "tunnelonly").await;
        let _fourth = bed.logged_in(4, "bob", "tunnelonly").await;
        assert_eq!(interfaces(&bed), ["gif10", "gif11", "gif12"]);
    }
}

#[tokio::test]
async fn name_without_a_number_is_the_originals_error() {
    let interfaces = Some("gif".to_owned());
    let bed = Bed::new(sixferry_dtcp::Config {
        interfaces,
        ..config()
    });
    let mut client = bed.client(1).await;
    assert_eq!(
        client.login("alice", "s3cret", "host").await,
        "-ERR internal error: tunnel interface name format is wrong"
    );
    client.pings().await;
}

#[tokio::test]
async fn dtcp_38_accounts_count_from_the_next_login() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    assert!(
        client
            .login("erin", "new", "host")
            .await
            .starts_with("-ERR ")
    );
    bed.fake.set_account("erin", "new");
    assert!(
        client
            .login("erin", "new", "host")
            .await
            .starts_with("+OK ")
    );
    bed.fake.set_account("erin", "newer");
    assert!(
        client
            .login("erin", "new", "host")
            .await
            .starts_with("-ERR ")
    );
    assert!(
        client
            .login("erin", "newer", "host")
            .await
            .starts_with("+OK ")
    );
    bed.fake.remove_account("erin");
    assert!(
        client
            .login("erin", "newer", "host")
            .await
            .starts_with("-ERR ")
    );
}

#[tokio::test]
async fn dtcp_42_burst_of_a_thousand() {
    let bed = Bed::new(config());
    let at = bed.at;
    let clients = futures::future::join_all((0..1000).map(|n| async move {
        let mut client = Client::connect(at, from(n)).await;
        let reply = client.login("alice", "s3cret", "host").await;
        (client, reply)
    }))
    .await;
    let challenges: std::collections::HashSet<_> = clients
        .iter()
        .map(|(client, _)| client.challenge.clone())
        .collect();
    let replies: std::collections::HashSet<_> =
        clients.iter().map(|(_, reply)| reply.clone()).collect();
    assert!(
        replies.iter().all(|reply| reply.starts_with("+OK ")),
        "{replies:?}"
    );
    assert_eq!(
        (challenges.len(), replies.len(), bed.fake.count()),
        (1000, 1000, 1000)
    );
    for (mut client, _) in clients {
        client.pings().await;
    }
}

#[tokio::test]
async fn dtcp_43_shutdown_tells_closes_removes_and_the_port_is_free() {
    let bed = Bed::new(config());
    let mut up = bed.logged_in(1, "alice", "host").await;
    let mut greeted = bed.client(2).await;
    bed.server.shutdown().await;
    assert_eq!(bed.fake.count(), 0);
    assert_eq!(bed.fake.released(), [Cause::Shutdown]);
    assert_eq!(bed.server.stats().sessions, 0);
    for client in [&mut up, &mut greeted] {
        assert_eq!(
            client.line().await.as_deref(),
            Some("-ERR server shutting down")
        );
        client.ends().await;
    }
    // The connections of the server before are in TIME_WAIT now.
    let again = Bed::new(sixferry_dtcp::Config {
        port: bed.at.port(),
        ..config()
    });
    again.logged_in(1, "alice", "host").await.pings().await;
}

#[tokio::test]
async fn dtcp_43_shutdown_waits_for_a_tunnel_that_is_being_set_up() {
    let bed = Bed::new(config());
    let permits = bed.fake.gate.forget_permits(usize::MAX);
    let mut client = bed.client(1).await;
    let digest = client.digest("alice", "s3cret");
    client
        .send(format!("tunnel alice {digest} host\r\n").as_bytes())
        .await;
    bed.until("it is authenticated", |bed| bed.fake.checks() == 1)
        .await;
    let (_, line) = tokio::join!(bed.server.shutdown(), async {
        bed.fake.gate.add_permits(permits);
        client.line().await
    });
    assert_eq!(line.as_deref(), Some("-ERR server shutting down"));
    assert_eq!(
        (bed.fake.count(), bed.fake.released()),
        (0, vec![Cause::Shutdown])
    );
}

#[tokio::test]
async fn operator_sees_and_disconnects_sessions() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    let _greeted = bed.client(2).await;
    let sessions = bed.server.sessions();
    assert_eq!(sessions.len(), 2);
    let SessionState::Up {
        user, interface, ..
    } = &sessions[0].state
    else {
        panic!("{sessions:?}");
    };
    assert_eq!(
        (&**user, interface.to_string()),
        ("alice", "gif0".to_owned())
    );
    assert_eq!(sessions[0].client.ip(), &from(1));
    assert!(sessions[0].bytes_in > 40 && sessions[0].bytes_out > 40);
    assert_eq!(sessions[1].state, SessionState::Greeted);
    assert!(bed.server.disconnect(sessions[0].id));
    assert!(!bed.server.disconnect(999));
    assert_eq!(
        client.line().await.as_deref(),
        Some("-ERR disconnected by the administrator")
    );
    client.ends().await;
    assert_eq!(bed.fake.released(), [Cause::Administrative]);
    assert_eq!(bed.server.sessions().len(), 1);
}

#[tokio::test]
async fn revoked_tunnel_ends_the_session_and_is_not_given_back() {
    let bed = Bed::new(config());
    for (n, cause, text) in [
        (
            1,
            RevokeCause::Administrative,
            "-ERR disconnected by the administrator",
        ),
        (2, RevokeCause::Refused, "-ERR tunnel withdrawn"),
    ] {
        let mut client = bed.logged_in(n, "alice", "host").await;
        bed.fake.revoke(bed.fake.tunnels()[0].tunnel, cause);
        assert_eq!(client.line().await.as_deref(), Some(text));
        client.ends().await;
    }
    assert_eq!(bed.fake.released(), []);
}

#[tokio::test]
async fn revocation_that_was_missed_is_found_by_asking() {
    let bed = Bed::new(config());
    let mut lost = bed.logged_in(1, "alice", "host").await;
    let mut kept = bed.logged_in(2, "alice", "host").await;
    bed.fake.revoke_in_a_flood(bed.fake.tunnels()[0].tunnel);
    assert_eq!(lost.line().await.as_deref(), Some("-ERR tunnel withdrawn"));
    lost.ends().await;
    kept.pings().await;
    assert_eq!(bed.server.stats().revocations_missed, 1);
}

#[tokio::test(start_paused = true)]
async fn tunnel_that_is_taken_away_while_it_is_asked_about_is_told() {
    let bed = Bed::new(config());
    bed.fake.gate.forget_permits(usize::MAX);
    let mut client = bed.client(1).await;
    let digest = client.digest("alice", "s3cret");
    let login = format!("tunnel alice {digest} host\r\n");
    client.send(login.as_bytes()).await;
    bed.until("the login is checked", |bed| bed.fake.checks() == 1)
        .await;
    // Whoever gets a tunnel now has to ask whether it still holds.
    bed.fake.revoke_in_a_flood(TunnelId(0));
    bed.until("revocations were missed", |bed| {
        bed.server.stats().revocations_missed == 1
    })
    .await;
    bed.fake.revoke_what_is_asked_about();
    bed.fake.gate.add_permits(1);
    assert!(client.line().await.unwrap().starts_with("+OK "));
    assert_eq!(
        client.line().await.as_deref(),
        Some("-ERR tunnel withdrawn")
    );
    client.ends().await;
}

#[tokio::test(start_paused = true)]
async fn tunnel_goes_back_however_long_the_lifecycle_was_away() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    bed.fake.set_away(true);
    assert_eq!(client.ask("quit").await, "+OK see you soon.");
    client.ends().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bed.fake.count(), 1);
    // The pauses grow, but not for ever.
    assert!(bed.server.stats().release_retries > 50);
    bed.fake.set_away(false);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bed.fake.count(), 0);
    assert_eq!(bed.fake.released(), [Cause::Quit]);
}

#[tokio::test]
async fn what_the_lifecycle_says_is_told() {
    let bed = Bed::new(config());
    let mut client = bed.client(1).await;
    for (error, text) in [
        (
            Error::Unavailable("the store is away".into()),
            "-ERR server busy",
        ),
        (Error::NoAccount, "-ERR authentication failed."),
        (Error::NoPrefix, "-ERR no route for user"),
        (
            Error::Refused("no such port".into()),
            "-ERR internal error: tunnel could not be set up",
        ),
    ] {
        bed.fake.fail(Some(error));
        assert_eq!(client.login("alice", "s3cret", "host").await, text);
        client.pings().await;
    }
}

#[tokio::test]
async fn server_that_cannot_go_on_says_so() {
    let bed = Bed::new(config());
    let mut client = bed.logged_in(1, "alice", "host").await;
    bed.fake.stop_telling();
    assert!(bed.server.failed().await.contains("revocations"));
    // Whoever runs it drops it then, and everything goes back.
    drop(bed.server);
    assert_eq!(
        client.line().await.as_deref(),
        Some("-ERR server shutting down")
    );
    client.ends().await;
    assert_eq!(bed.fake.count(), 0);
}
