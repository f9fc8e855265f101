//! PostgreSQL goes away, comes back, loses answers, and has other writers.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sixferry_lifecycle::store::{
    Batch, Conflict, Constraint, Store, StoreError, StoreOptions, Write,
};
use sixferry_postgres::Cluster;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::crash::{URL, child};
use crate::home::{account, commit_at_last, insert, put, tunnel};

async fn open(url: &str) -> Store {
    Store::open(url, &StoreOptions::default())
        .await
        .expect("open")
}

/// One of several.
async fn open_shared(url: &str) -> Store {
    let options = StoreOptions {
        exclusive: false,
        ..StoreOptions::default()
    };
    Store::open(url, &options).await.expect("open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_server_that_is_killed_or_stopped_comes_back() {
    let mut cluster = Cluster::start().expect("PostgreSQL");
    let store = open(&cluster.url("postgres")).await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    store.load(0).await.expect("load");
    for round in 0..4 {
        let batch = Batch::new(vec![vec![insert(&tunnel(round + 1, 1))]]);
        if round % 2 == 0 {
            cluster.kill().expect("kill");
        } else {
            cluster.stop().expect("stop");
        }
        let error = store.commit(&batch).await.expect_err("no server");
        assert!(error.is_unavailable(), "{error:?}");
        let error = store.load(0).await.expect_err("no server");
        assert!(error.is_unavailable(), "{error:?}");
        let error = Store::open(&cluster.url("postgres"), &StoreOptions::default()).await;
        assert!(error.expect_err("no server").is_unavailable());
        cluster.resume().expect("resume");
        assert!(commit_at_last(&store, &batch).await[0].is_ok());
        // The reader's connection was found to be dead above.
        let loaded = store.load(0).await.expect("load");
        assert_eq!(loaded.tunnels.len() as i64, round + 1);
        assert_eq!(loaded.last_seq, round + 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn commits_go_on_while_the_server_is_killed_again_and_again() {
    let mut cluster = Cluster::start().expect("PostgreSQL");
    let store = open(&cluster.url("postgres")).await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let done = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let mut id = 0;
            while done.load(Ordering::Relaxed) < 6 {
                let groups = (1..=4).map(|next| vec![insert(&tunnel(id + next, 1))]);
                let batch = Batch::new(groups.collect());
                for (answer, seq) in commit_at_last(&store, &batch).await.iter().zip(id + 2..) {
                    assert_eq!(answer.as_ref().expect("accepted").seqs, seq..seq + 1);
                }
                id += 4;
            }
            id
        }
    });
    for _ in 0..6 {
        let before = store.load(0).await.map_or(0, |loaded| loaded.last_seq);
        loop {
            // It commits again.
            let now = store.load(0).await.map_or(0, |loaded| loaded.last_seq);
            if now > before + 8 || writer.is_finished() {
                break;
            }
        }
        cluster.kill().expect("kill");
        cluster.resume().expect("resume");
        done.fetch_add(1, Ordering::Relaxed);
    }
    let id = writer.await.expect("writer");
    // The connection it read with may have died with the last server.
    let loaded = match store.load(0).await {
        Ok(loaded) => loaded,
        Err(_) => store.load(0).await.expect("load"),
    };
    assert_eq!(loaded.tunnels.len() as i64, id);
    assert_eq!(loaded.last_seq, id + 1);
    println!("{id} tunnels over 6 kills, none lost, none twice");
}

/// What the proxy does with the next COMMIT.
#[derive(Clone, Copy)]
enum Cut {
    /// The server never sees it.
    Before,
    /// The server commits, its answer is lost.
    After,
}

/// Stands between and cuts connections at COMMIT, as often as `cuts` says.
fn proxy(server: PathBuf, cut: Cut, cuts: Arc<AtomicUsize>) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("directory");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).expect("chmod");
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).expect("listen");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&server).await.expect("server");
            tokio::spawn(carry(client, server, cut, cuts.clone()));
        }
    });
    let path = dir.path().display();
    let url = format!("postgres:///postgres?host={path}&user=postgres&sslmode=disable");
    (dir, url)
}

async fn carry(client: UnixStream, server: UnixStream, cut: Cut, cuts: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut request = vec![0; 1 << 20];
    let mut answer = vec![0; 1 << 20];
    loop {
        tokio::select! {
            read = from_client.read(&mut request) => {
                let Ok(len @ 1..) = read else { return };
                let is_commit = request[..len].windows(7).any(|bytes| bytes == b"COMMIT\0");
                let left = |left: usize| left.checked_sub(1);
                let order = Ordering::Relaxed;
                if is_commit && cuts.fetch_update(order, order, left).is_ok() {
                    if matches!(cut, Cut::After) {
                        to_server.write_all(&request[..len]).await.expect("write");
                        let len = from_server.read(&mut answer).await.expect("answer");
                        assert!(answer[..len].windows(6).any(|bytes| bytes == b"COMMIT"));
                    }
                    return;
                }
                to_server.write_all(&request[..len]).await.expect("write");
            }
            read = from_server.read(&mut answer) => {
                let Ok(len @ 1..) = read else { return };
                if to_client.write_all(&answer[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn lost_at_commit(cut: Cut) {
    let cluster = Cluster::start().expect("PostgreSQL");
    let direct = cluster.url("postgres");
    let socket = direct.split_once("host=").expect("host").1;
    let socket = socket.split_once('&').expect("end").0;
    let cuts = Arc::new(AtomicUsize::new(0));
    let server = Path::new(socket).join(".s.PGSQL.5432");
    let (_dir, url) = proxy(server, cut, cuts.clone());
    let store = open(&url).await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;

    let writes = |id| vec![insert(&tunnel(id, 1))];
    let batch = Batch::new(vec![writes(1), writes(1), writes(2)]);
    cuts.store(1, Ordering::Relaxed);
    let error = store.commit(&batch).await.expect_err("cut");
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(cuts.load(Ordering::Relaxed), 0, "nothing was cut");
    let there = open_shared(&direct)
        .await
        .load(0)
        .await
        .expect("load")
        .tunnels;
    assert_eq!(there.len(), if matches!(cut, Cut::After) { 2 } else { 0 });

    // And once more, at the repetition.
    cuts.store(1, Ordering::Relaxed);
    let answers = commit_at_last(&store, &batch).await;
    assert_eq!(answers[0].as_ref().expect("accepted").seqs, 2..3);
    let constraint = Constraint::TunnelId;
    assert_eq!(answers[1], Err(Conflict { constraint }));
    assert_eq!(answers[2].as_ref().expect("accepted").seqs, 3..4);
    // What was committed needed no second COMMIT.
    let left = cuts.swap(0, Ordering::Relaxed);
    assert_eq!(left, usize::from(matches!(cut, Cut::After)));
    let loaded = store.load(0).await.expect("load");
    assert_eq!((loaded.tunnels.len(), loaded.last_seq), (2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_lost_answer_to_commit_is_found_again() {
    lost_at_commit(Cut::After).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_lost_commit_is_done_again() {
    lost_at_commit(Cut::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_server_that_says_nothing_is_unavailable() {
    let cluster = Cluster::start().expect("PostgreSQL");
    let url = cluster.url("postgres");
    let options = StoreOptions {
        timeout: Duration::from_millis(300),
        ..StoreOptions::default()
    };
    drop(open_shared(&url).await);
    // On a busy machine even opening it and the first write may take longer than that.
    let store = loop {
        match Store::open(&url, &options).await {
            Err(StoreError::Unavailable { .. }) => {}
            opened => break opened.expect("open"),
        }
    };
    let first = Batch::new(vec![vec![Write::InsertAccount(account(1))]]);
    assert!(commit_at_last(&store, &first).await[0].is_ok());
    let other = open_shared(&url).await;
    // Somebody holds the lock that orders the writers.
    let holder = tokio::task::spawn_blocking(move || {
        cluster
            .psql(
                "postgres",
                "SELECT seq FROM counter FOR UPDATE; SELECT pg_sleep(1)",
            )
            .expect("psql");
        cluster
    });
    let batch = Batch::new(vec![vec![insert(&tunnel(1, 1))]]);
    let mut refused = 0;
    let answers = loop {
        match store.commit(&batch).await {
            Ok(answers) => break answers,
            Err(StoreError::Unavailable { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(refused < 1000, "never free");
    };
    assert!(answers[0].is_ok());
    drop(holder.await.expect("holder"));
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs root"]
async fn two_writers_get_what_is_there_once() {
    const EACH: i64 = 60;
    let cluster = Cluster::start().expect("PostgreSQL");
    let url = cluster.url("postgres");
    put(
        &open_shared(&url).await,
        vec![Write::InsertAccount(account(1))],
    )
    .await;
    let mut writers = Vec::new();
    for first in [1, 2] {
        let url = url.clone();
        writers.push(tokio::spawn(async move {
            let store = open_shared(&url).await;
            let mut won = Vec::new();
            for number in 1..=EACH {
                // Everything but the id is wanted by both.
                let mut wanted = tunnel(number, 1);
                wanted.id.0 = number * 2 + first;
                let batch = Batch::new(vec![vec![insert(&wanted)]]);
                match &store.commit(&batch).await.expect("commit")[0] {
                    Ok(committed) => won.push(committed.seqs.start),
                    Err(conflict) => assert!(
                        matches!(
                            conflict.constraint,
                            Constraint::Slot
                                | Constraint::Pair41
                                | Constraint::ClientAddress
                                | Constraint::ServerAddress
                                | Constraint::TunnelId
                        ),
                        "{conflict}"
                    ),
                }
            }
            won
        }));
    }
    let mut seqs = Vec::new();
    for writer in writers {
        seqs.extend(writer.await.expect("writer"));
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (2..seqs.len() as i64 + 2).collect::<Vec<_>>());
    let loaded = open_shared(&url).await.load(0).await.expect("load");
    assert_eq!(loaded.tunnels.len(), seqs.len());
    assert!(seqs.len() as i64 >= EACH / 2);
}

/// Does nothing but hold the store.
#[tokio::test]
#[ignore = "does nothing but as a child of the other tests"]
async fn holding_child() {
    let Ok(url) = std::env::var(URL) else { return };
    let _store = open(&url).await;
    println!("open");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_second_process_is_refused_and_takes_over_after_a_kill() {
    let cluster = Cluster::start().expect("PostgreSQL");
    let url = cluster.url("postgres");
    let mut child = child("postgres_away::holding_child", &url);
    let output = BufReader::new(child.stdout.take().expect("output"));
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("open")), "the child ended");
    let error = Store::open(&url, &StoreOptions::default())
        .await
        .expect_err("refused");
    assert!(matches!(error, StoreError::InUseBy(_)), "{error:?}");
    let holder = format!("sixferry-control {} on ", child.id());
    assert!(error.to_string().contains(&holder), "{error}");
    // A store in another schema is another store.
    let elsewhere = cluster.create_schema("elsewhere").expect("schema");
    open(&elsewhere).await.close().await;

    child.kill().expect("kill");
    child.wait().expect("wait");
    let store = open(&url).await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    store.close().await;
    open(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn who_lost_the_connection_writes_only_if_nobody_else_had_the_store() {
    let cluster = Cluster::start().expect("PostgreSQL");
    let url = cluster.url("postgres");
    let disconnect = || {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'";
        cluster.psql("postgres", sql).expect("psql");
    };
    let first = open(&url).await;
    disconnect();
    let batch = Batch::new(vec![vec![Write::InsertAccount(account(1))]]);
    assert!(commit_at_last(&first, &batch).await[0].is_ok());
    // It has the lock again.
    let error = Store::open(&url, &StoreOptions::default()).await;
    assert!(matches!(error, Err(StoreError::InUseBy(_))), "{error:?}");

    disconnect();
    let second = open(&url).await;
    put(&second, vec![insert(&tunnel(1, 1))]).await;
    let batch = Batch::new(vec![vec![insert(&tunnel(2, 1))]]);
    let overtaken = |answer| matches!(answer, Err(StoreError::Overtaken));
    // The first attempt may only find out that the connection is gone.
    let answer = first.commit(&batch).await;
    let again = first.commit(&batch).await;
    assert!(answer.is_err() && overtaken(again));
    // Nor when the other one has left.
    second.close().await;
    assert!(overtaken(first.commit(&batch).await));
    let third = open(&url).await;
    assert_eq!(third.load(0).await.expect("load").tunnels.len(), 1);
}
