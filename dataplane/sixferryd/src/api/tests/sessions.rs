//! Owners, fencing, re-sync.

use sixferry_proto::dataplane::v1 as pb;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Daemon, message, said, tunnel, upsert};

#[tokio::test]
async fn a_newer_session_fences_the_older_one_in_the_middle_of_a_stream() {
    let daemon = Daemon::start().await;
    let old = daemon.open("dtcp", 7).await.expect("opens");
    assert_eq!(daemon.put(&old, vec![tunnel(1)]).await.created, 1);
    let new = daemon.open("dtcp", 8).await.expect("opens");

    let (answers, error) = daemon
        .program(vec![message(1, &old, vec![upsert(tunnel(2))])])
        .await;
    assert!(answers.is_empty());
    let error = error.expect("refused");
    let text = "another session of owner \"dtcp\" took over with election id 8";
    assert_eq!(
        said(&error),
        (Code::Aborted, "SESSION_FENCED".into(), text.into())
    );
    let info = error
        .get_error_details()
        .error_info()
        .cloned()
        .expect("info");
    assert_eq!(info.metadata["election_id_low"], "8");

    assert_eq!(daemon.put(&new, vec![tunnel(2)]).await.created, 1);
    let lost = daemon.open("dtcp", 7).await.expect_err("too late");
    assert_eq!(said(&lost).1, "ELECTION_LOST");
    assert_eq!(
        daemon.ids().await,
        ["t1", "t2"],
        "what the old one wrote goes on"
    );
}

#[tokio::test]
async fn reserved_and_bad_owners_are_refused() {
    let daemon = Daemon::start().await;
    let (code, reason, text) = said(&daemon.open("static", 1).await.expect_err("reserved"));
    assert_eq!(
        (code, reason.as_str()),
        (Code::PermissionDenied, "OWNER_RESERVED")
    );
    assert_eq!(
        text,
        "owner \"static\" is the daemon's own; choose another name"
    );
    let (code, _, text) = said(&daemon.open("No Good", 1).await.expect_err("bad"));
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(
        text,
        "owner: \"No Good\" is no owner: 1 to 32 of a-z 0-9 _ -"
    );
}

#[tokio::test]
async fn an_owner_may_not_touch_what_another_wrote() {
    let daemon = Daemon::start().await;
    let dtcp = daemon.open("dtcp", 1).await.expect("opens");
    let broker = daemon.open("broker", 1).await.expect("opens");
    daemon.put(&dtcp, vec![tunnel(1)]).await;
    let updates = vec![upsert(tunnel(1)), super::delete("t1", false)];
    let (answers, _) = daemon.program(vec![message(1, &broker, updates)]).await;
    let said: Vec<_> = answers[0].failures.iter().map(super::entry_said).collect();
    let text = "tunnel \"t1\" belongs to owner \"dtcp\"".to_owned();
    let entry = |i| {
        (
            i,
            Code::AlreadyExists,
            "OWNED_BY_OTHER".to_owned(),
            text.clone(),
        )
    };
    assert_eq!(said, [entry(0), entry(1)]);
}

async fn sync(daemon: &Daemon, session: &str) -> pb::BeginSyncResponse {
    let request = pb::BeginSyncRequest {
        session: session.to_owned(),
    };
    daemon
        .sessions()
        .begin_sync(request)
        .await
        .expect("begins")
        .into_inner()
}

async fn commit(
    daemon: &Daemon,
    session: &str,
    generation: u64,
) -> Result<pb::CommitSyncResponse, tonic::Status> {
    let request = pb::CommitSyncRequest {
        session: session.to_owned(),
        generation,
    };
    Ok(daemon.sessions().commit_sync(request).await?.into_inner())
}

#[tokio::test]
async fn a_sync_sweeps_what_was_not_mentioned_and_touches_nothing_else() {
    let daemon = Daemon::start().await;
    let session = daemon.open("dtcp", 1).await.expect("opens");
    let other = daemon.open("broker", 1).await.expect("opens");
    daemon
        .put(&session, (0..600).take(500).map(tunnel).collect())
        .await;
    daemon
        .put(&session, (500..1000).map(tunnel).collect())
        .await;
    daemon.put(&other, vec![tunnel(5000)]).await;

    let begun = sync(&daemon, &session).await;
    assert_eq!(begun.stale_count, 1000);
    let request = pb::GetTunnelRequest {
        id: "t7".into(),
        read_mask: None,
    };
    let stale = daemon
        .tunnels()
        .get_tunnel(request.clone())
        .await
        .expect("there")
        .into_inner();
    assert!(stale.tunnel.expect("tunnel").stale);

    let before = daemon.publications();
    let changed = daemon.shared.with(|control| control.change());
    let counts = daemon.put(&session, (0..400).map(tunnel).collect()).await;
    assert_eq!(
        (counts.unchanged, counts.updated, counts.created),
        (400, 0, 0)
    );
    assert_eq!(
        daemon.shared.with(|control| control.change()),
        changed,
        "no table was touched"
    );
    assert_eq!(daemon.publications(), before, "nothing to publish");

    let swept = commit(&daemon, &session, begun.generation)
        .await
        .expect("commits");
    assert_eq!((swept.swept_tunnels, swept.swept_routes), (600, 0));
    assert_eq!(daemon.ids().await.len(), 401);
    let fresh = daemon
        .tunnels()
        .get_tunnel(request)
        .await
        .expect("there")
        .into_inner();
    let fresh = fresh.tunnel.expect("tunnel");
    assert!(!fresh.stale);
    assert_eq!(fresh.generation, begun.generation);
    let again = commit(&daemon, &session, begun.generation)
        .await
        .expect_err("over");
    assert_eq!(said(&again).1, "NO_SYNC");
}

#[tokio::test]
async fn an_aborted_sync_removes_nothing() {
    let daemon = Daemon::start().await;
    let session = daemon.open("dtcp", 1).await.expect("opens");
    daemon.put(&session, (0..10).map(tunnel).collect()).await;
    let generation = sync(&daemon, &session).await.generation;
    daemon.put(&session, vec![tunnel(0)]).await;
    let request = pb::AbortSyncRequest {
        session: session.clone(),
        generation,
    };
    daemon.sessions().abort_sync(request).await.expect("aborts");
    assert_eq!(daemon.ids().await.len(), 10);
    let gone = commit(&daemon, &session, generation)
        .await
        .expect_err("aborted");
    let (code, reason, text) = said(&gone);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "NO_SYNC")
    );
    assert_eq!(
        text,
        "owner \"dtcp\" runs no sync of that generation; BeginSync first"
    );
    // The next one makes all of them stale again, confirmed before or not.
    assert_eq!(sync(&daemon, &session).await.stale_count, 10);
}

#[tokio::test]
async fn a_session_of_another_start_is_unknown() {
    let daemon = Daemon::start().await;
    let mine = daemon.open("dtcp", 1).await.expect("opens");
    let stranger = mine.replace("0011", "ffff");
    let request = pb::BeginSyncRequest { session: stranger };
    let status = daemon
        .sessions()
        .begin_sync(request)
        .await
        .expect_err("unknown");
    let (code, reason, _) = said(&status);
    assert_eq!((code, reason.as_str()), (Code::Aborted, "SESSION_UNKNOWN"));
}
