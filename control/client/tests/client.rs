//! The client against a mock dataplane on a unix socket: batches, failures, broken streams,
//! restarts, re-sync, paging, watching.

mod mock;

use std::path::Path;
use std::time::Duration;

use mock::Server;
use sixferry_client::{
    Atomicity, Backoff, Client, ElectionId, Error, Options, ProgramOptions, Session, Target,
    Tunnel, TunnelKey, TunnelUpdate, WatchEvent, WriteMode, api,
};

async fn connect(path: &Path) -> Client {
    let options = Options {
        timeout: Duration::from_secs(5),
    };
    Client::connect(&Target::Unix(path.to_owned()), &options)
        .await
        .unwrap()
}

async fn session(path: &Path) -> Session {
    let client = connect(path).await;
    client.open_session("test", ElectionId(1)).await.unwrap()
}

fn tunnel(number: u32) -> Tunnel {
    let remote = (0x0a00_0000 + number).into();
    Tunnel::new(format!("t{number:06}"), [198, 51, 100, 1].into(), remote)
}

fn upserts(count: u32) -> impl Iterator<Item = TunnelUpdate> {
    (0..count).map(|n| TunnelUpdate::upsert(tunnel(n)))
}

fn quick() -> ProgramOptions {
    ProgramOptions {
        batch_len: 10,
        backoff: Backoff {
            first: Duration::from_millis(5),
            longest: Duration::from_millis(20),
            attempts: 4,
        },
        ..ProgramOptions::default()
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    server: Server,
}

fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dataplane.sock");
    let server = Server::start(&path, "one");
    Fixture {
        _dir: dir,
        path,
        server,
    }
}

#[tokio::test]
async fn updates_are_cut_into_batches_of_at_most_512() {
    let f = start();
    let mut session = session(&f.path).await;
    let options = ProgramOptions::default();
    let mut steps = Vec::new();
    let report = session
        .program_tunnels(upserts(1100), &options, |p| steps.push(p.acknowledged))
        .await
        .unwrap();
    assert_eq!(report.created, 1100);
    assert_eq!(steps, [512, 1024, 1100]);
    assert_eq!(f.server.state.lock().batches, [512, 512, 76]);
}

#[tokio::test]
async fn nothing_to_write_opens_no_stream() {
    let f = start();
    let mut session = session(&f.path).await;
    let report = session.program_tunnels([], &quick(), |_| {}).await.unwrap();
    assert_eq!(report, Default::default());
    assert_eq!(f.server.state.lock().streams, 0);
}

#[tokio::test]
async fn failures_name_position_key_and_field() {
    let f = start();
    let mut session = session(&f.path).await;
    let mut updates: Vec<_> = upserts(30).collect();
    let mut bad = tunnel(99);
    bad.id = "bad-one".into();
    updates.insert(25, TunnelUpdate::upsert(bad));
    let report = session
        .program_tunnels(updates, &quick(), |_| {})
        .await
        .unwrap();
    assert_eq!((report.created, report.progress.failed), (30, 1));
    assert_eq!(report.failures[0].position, 25);
    assert_eq!(
        report.failures[0].to_string(),
        "bad-one: ProgramTunnels: INVALID_FIELD: refused \
         [field updates[5].upsert.tunnel.id: starts with bad]"
    );
    assert_eq!(
        report.all_applied().unwrap_err().reason(),
        Some("INVALID_FIELD")
    );
}

#[tokio::test]
async fn a_rolled_back_batch_ends_the_run() {
    let f = start();
    let mut session = session(&f.path).await;
    let mut updates: Vec<_> = upserts(30).collect();
    if let TunnelUpdate::Upsert { tunnel, .. } = &mut updates[12] {
        tunnel.id = "bad".into();
    }
    let options = ProgramOptions {
        atomicity: Atomicity::RollbackOnError,
        ..quick()
    };
    let report = session
        .program_tunnels(updates, &options, |_| {})
        .await
        .unwrap();
    assert!(report.rolled_back);
    assert_eq!(f.server.state.lock().batches, [10, 10]);
}

#[tokio::test]
async fn a_broken_stream_is_resumed_from_the_last_acknowledged_batch() {
    let f = start();
    f.server.state.lock().break_after = vec![3, 7];
    let mut session = session(&f.path).await;
    // One batch at a time: the break then overtakes no acknowledgement.
    let options = ProgramOptions {
        window: 1,
        ..quick()
    };
    let report = session
        .program_tunnels(upserts(100), &options, |_| {})
        .await
        .unwrap();
    assert_eq!(report.progress.acknowledged, 100);
    assert_eq!(report.progress.resumed, 2);
    // Two batches were applied without the answer arriving, and sent again.
    assert_eq!((report.created, report.unchanged), (80, 20));
    let state = f.server.state.lock();
    assert_eq!(state.tunnels.len(), 100);
    assert_eq!(state.streams, 3);
    assert_eq!(state.batches.len(), 12);
}

#[tokio::test]
async fn acknowledgements_lost_in_a_full_window_are_made_up_for() {
    let f = start();
    f.server.state.lock().break_after = vec![3, 17];
    let mut session = session(&f.path).await;
    let report = session
        .program_tunnels(upserts(200), &quick(), |_| {})
        .await
        .unwrap();
    assert_eq!(report.progress.acknowledged, 200);
    assert_eq!(report.created + report.unchanged, 200);
    let state = f.server.state.lock();
    assert_eq!(state.tunnels.len(), 200);
    assert_eq!(state.streams, 3);
}

#[tokio::test]
async fn a_killed_and_resumed_dataplane_of_the_same_instance_is_caught_up() {
    let f = start();
    let mut session = session(&f.path).await;
    let (mut server, path) = (Some(f.server), f.path.clone());
    let report = session
        .program_tunnels(upserts(200), &quick(), |progress| {
            if progress.acknowledged == 50 {
                let state = server.take().unwrap().state.clone();
                server = Some(Server::resume(&path, state));
            }
        })
        .await
        .unwrap();
    assert_eq!(report.progress.acknowledged, 200);
    assert!(report.progress.resumed >= 1);
    assert_eq!(server.unwrap().state.lock().tunnels.len(), 200);
}

#[tokio::test]
async fn a_restarted_dataplane_is_told_from_a_broken_connection() {
    let f = start();
    let mut session = session(&f.path).await;
    let (mut server, path) = (Some(f.server), f.path.clone());
    let mut instances = session.client().instances();
    instances.mark_unchanged();
    let error = session
        .program_tunnels(upserts(200), &quick(), |progress| {
            if progress.acknowledged == 50 {
                server = None;
                server = Some(Server::start(&path, "two"));
            }
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::InstanceChanged { before, now }
        if before == "one" && now == "two"),
        "{error}"
    );
    assert!(instances.has_changed().unwrap());
    // Nothing was replayed into an instance that may need much more than the rest.
    assert_eq!(server.unwrap().state.lock().batches.len(), 0);
}

#[tokio::test]
async fn a_stream_that_keeps_breaking_is_given_up() {
    let f = start();
    f.server.state.lock().always_break = true;
    let mut session = session(&f.path).await;
    let error = session
        .program_tunnels(upserts(5), &quick(), |_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("told to break"), "{error}");
    assert_eq!(f.server.state.lock().streams, 4);
}

#[tokio::test]
async fn entries_that_may_not_be_applied_twice_are_not_sent_twice() {
    let f = start();
    f.server.state.lock().break_after = vec![1];
    let mut session = session(&f.path).await;
    let create = TunnelUpdate::Upsert {
        tunnel: tunnel(1),
        fields: None,
        mode: WriteMode::Create,
    };
    let error = session
        .program_tunnels([create], &quick(), |_| {})
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::OutcomeUnknown { unknown: 1, .. }),
        "{error}"
    );
    assert_eq!(f.server.state.lock().streams, 1);
}

#[tokio::test]
async fn a_silent_dataplane_runs_into_the_deadline() {
    let f = start();
    f.server.state.lock().silent = true;
    // Short enough to wait for, long enough for what is answered on a machine that is busy.
    let options = Options {
        timeout: Duration::from_secs(2),
    };
    let client = Client::connect(&Target::Unix(f.path.clone()), &options)
        .await
        .unwrap();
    let mut session = client.open_session("test", ElectionId(1)).await.unwrap();
    let once = ProgramOptions {
        backoff: Backoff {
            attempts: 1,
            ..Backoff::default()
        },
        ..quick()
    };
    let error = session
        .program_tunnels(upserts(1), &once, |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "ProgramTunnels: no answer within 2 s");
    let key = TunnelKey::Inner(std::net::Ipv6Addr::LOCALHOST);
    let error = client.lookup_tunnel(key).await.unwrap_err();
    assert_eq!(error.to_string(), "LookupTunnel: no answer within 2 s");
}

#[tokio::test]
async fn a_resync_sweeps_what_was_not_mentioned() {
    let f = start();
    let mut session = session(&f.path).await;
    session
        .program_tunnels(upserts(30), &quick(), |_| {})
        .await
        .unwrap();
    let mut sync = session.begin_resync().await.unwrap();
    assert_eq!(sync.stale_count(), 30);
    sync.upsert_tunnels((0..20).map(tunnel), &quick(), |_| {})
        .await
        .unwrap();
    let report = sync.commit().await.unwrap();
    assert_eq!(report.swept_tunnels, 10);
    assert_eq!(f.server.state.lock().tunnels.len(), 20);
}

#[tokio::test]
async fn a_resync_with_failures_removes_nothing() {
    let f = start();
    let mut session = session(&f.path).await;
    session
        .program_tunnels(upserts(3), &quick(), |_| {})
        .await
        .unwrap();
    let mut sync = session.begin_resync().await.unwrap();
    let mut bad = tunnel(1);
    bad.id = "bad".into();
    sync.upsert_tunnels([bad], &quick(), |_| {}).await.unwrap();
    let error = sync.commit().await.unwrap_err();
    assert!(
        matches!(error, Error::SyncIncomplete { failed: 1, .. }),
        "{error}"
    );
    assert_eq!(f.server.state.lock().tunnels.len(), 3);
}

#[tokio::test]
async fn pages_cover_the_table_exactly_once() {
    use futures::TryStreamExt;
    let f = start();
    let mut session = session(&f.path).await;
    session
        .program_tunnels(upserts(25), &quick(), |_| {})
        .await
        .unwrap();
    let pages = session.client().tunnels(None, 10);
    let entries: Vec<_> = pages.into_stream().try_collect().await.unwrap();
    let ids: Vec<_> = entries.into_iter().map(|e| e.tunnel.id).collect();
    let expected: Vec<_> = (0..25).map(|n| tunnel(n).id).collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn one_listing_never_mixes_two_instances() {
    let f = start();
    let mut session = session(&f.path).await;
    session
        .program_tunnels(upserts(25), &quick(), |_| {})
        .await
        .unwrap();
    let mut pages = session.client().tunnels(None, 10);
    assert_eq!(pages.next().await.unwrap().unwrap().total, Some(25));
    f.server.state.lock().instance = "two".into();
    let error = pages.next().await.unwrap_err();
    assert!(matches!(error, Error::InstanceChanged { .. }), "{error}");
}

fn upserted(number: u32, revision: u64) -> api::TunnelEvent {
    api::TunnelEvent {
        revision,
        event: Some(api::tunnel_event::Event::Upserted(
            tunnel(number).to_proto(),
        )),
    }
}

fn snapshot_done(count: u64) -> api::TunnelEvent {
    let done = api::SnapshotDone { count };
    api::TunnelEvent {
        revision: 0,
        event: Some(api::tunnel_event::Event::SnapshotDone(done)),
    }
}

fn message(revision: u64, events: Vec<api::TunnelEvent>) -> api::WatchTunnelsResponse {
    api::WatchTunnelsResponse {
        dataplane_instance_id: "one".into(),
        events,
        revision,
    }
}

/// Events in short: `+id`, `-id`, `done`, `reset`, `broken`.
async fn events(watch: &mut sixferry_client::TunnelWatch, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(match watch.next().await.unwrap() {
            WatchEvent::Upserted(entry) => format!("+{}", entry.tunnel.id),
            WatchEvent::Removed { id, .. } => format!("-{id}"),
            WatchEvent::SnapshotDone { .. } => "done".into(),
            WatchEvent::Reset { .. } => "reset".into(),
            WatchEvent::Disconnected { .. } => "broken".into(),
        });
    }
    seen
}

#[tokio::test]
async fn a_watch_resumes_after_the_last_revision() {
    let f = start();
    f.server.state.lock().watch_script = vec![
        vec![
            message(0, vec![upserted(1, 5)]),
            message(7, vec![snapshot_done(1)]),
            message(8, vec![upserted(2, 8)]),
        ],
        vec![message(9, vec![upserted(3, 9)])],
    ];
    let mut watch = connect(&f.path).await.watch_tunnels(None);
    let seen = events(&mut watch, 6).await;
    assert_eq!(
        seen,
        [
            "+t000001", "done", "+t000002", "broken", "+t000003", "broken"
        ]
    );
    let next = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    assert!(next.is_err(), "nothing more happened: {next:?}");
    assert_eq!(f.server.state.lock().watches, [None, Some(8), Some(9)]);
}

#[tokio::test]
async fn a_snapshot_cut_short_is_reset_and_sent_again() {
    let f = start();
    f.server.state.lock().watch_script = vec![
        vec![message(0, vec![upserted(1, 5)])],
        vec![
            message(0, vec![upserted(1, 5)]),
            message(5, vec![snapshot_done(1)]),
        ],
    ];
    let mut watch = connect(&f.path).await.watch_tunnels(None);
    let seen = events(&mut watch, 5).await;
    assert_eq!(seen, ["+t000001", "broken", "reset", "+t000001", "done"]);
    assert_eq!(f.server.state.lock().watches, [None, None]);
}

#[tokio::test]
async fn futures_of_the_client_can_be_spawned() {
    let f = start();
    let path = f.path.clone();
    let task = tokio::spawn(async move {
        let mut session = session(&path).await;
        session
            .program_tunnels(upserts(3), &quick(), |_| {})
            .await
            .unwrap();
        let mut sync = session.begin_resync().await.unwrap();
        sync.upsert_tunnels((0..1).map(tunnel), &quick(), |_| {})
            .await
            .unwrap();
        sync.commit().await.unwrap().swept_tunnels
    });
    assert_eq!(task.await.unwrap(), 2);
}

#[tokio::test]
async fn a_stream_that_stays_open_is_answered_batch_by_batch() {
    let fixture = start();
    let session = session(&fixture.path).await;
    let mut stream = session.tunnel_stream(2).await.unwrap();
    let generation = session.begin_sync().await.unwrap();
    let bad = TunnelUpdate::upsert(Tunnel {
        id: "bad".to_owned(),
        ..tunnel(1)
    });
    let first: Vec<_> = upserts(3).chain([bad]).collect();
    stream.send(&first).unwrap();
    stream.send(&[TunnelUpdate::delete("t000002")]).unwrap();
    assert!(!stream.has_room());
    assert!(stream.send(&first).is_err(), "the window is full");
    let ack = stream.next().await.unwrap();
    assert_eq!((ack.entries, ack.failures.len()), (4, 1));
    assert_eq!(
        (ack.failures[0].position, &*ack.failures[0].key),
        (3, "bad")
    );
    let ack = stream.next().await.unwrap();
    assert_eq!((ack.entries, ack.failures.len()), (1, 0));
    assert_eq!(stream.in_flight(), 0);
    session.commit_sync(generation).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(20), stream.next());
    assert!(waiting.await.is_err(), "nothing to answer");
    drop(fixture);
    assert!(stream.next().await.unwrap_err().is_transient());
}
