//! kill -9 of a process that commits: what it was told is there, and every group is whole.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sixferry_lifecycle::store::{Batch, Store, StoreOptions, Write};
use sixferry_lifecycle::{Tunnel, TunnelId};

use crate::home::{Home, account, bury, insert, put, udp_tunnel};

pub(crate) const URL: &str = "SIXFERRY_TEST_STORE_URL";
/// Groups per batch of the child.
const GROUPS: i64 = 5;

pub(crate) fn child(test: &str, url: &str) -> Child {
    Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(URL, url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("child")
}

/// Two tunnels that only exist together; ids and all else follow from the group's number.
fn couple(group: i64) -> [Tunnel; 2] {
    let first = group * 2;
    [udp_tunnel(first, 1), udp_tunnel(first + 1, 1)]
}

#[tokio::test]
#[ignore = "does nothing but as a child of the other tests"]
async fn committing_child() {
    let Ok(url) = std::env::var(URL) else { return };
    let store = open_when_free(&url).await;
    let next = store.load(0).await.expect("load").next;
    let mut group = (next.tunnel + 1) / 2;
    loop {
        let batch: Vec<_> = (group..group + GROUPS)
            .map(|group| {
                // The couple three groups before goes, so that rows change as well as come.
                let mut writes: Vec<_> = couple(group).iter().map(insert).collect();
                if group > 4 {
                    writes.extend(couple(group - 4).iter().map(|t| bury(t, 99, 0)));
                }
                writes
            })
            .collect();
        let answers = store.commit(&Batch::new(batch)).await.expect("commit");
        for (answer, group) in answers.iter().zip(group..) {
            answer.as_ref().expect("accepted");
            println!("group {group}");
        }
        group += GROUPS;
    }
}

#[tokio::test]
#[ignore = "does nothing but as a child of the other tests"]
async fn opening_child() {
    let Ok(url) = std::env::var(URL) else { return };
    let _store = open_when_free(&url).await;
    println!("open");
}

/// The lock of a process that was killed is free when the process is gone, which may be after the
/// kill.
async fn open_when_free(url: &str) -> Store {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match Store::open(url, &StoreOptions::default()).await {
            Ok(store) => return store,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Kills the child after it reported this many groups; says which was the last it reported.
fn kill_after(mut child: Child, groups: usize) -> i64 {
    let lines = BufReader::new(child.stdout.take().expect("output")).lines();
    let mut reported = lines.map_while(Result::ok).filter_map(|line| {
        // The test runner's own words may stand before it on the line.
        let (_, number) = line.split_once("group ")?;
        number.parse().ok()
    });
    let last = reported.by_ref().nth(groups);
    child.kill().expect("kill");
    let later = reported.last();
    child.wait().expect("wait");
    later.or(last).expect("the child ended by itself")
}

async fn groups_are_whole(home: &Home, rounds: usize) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    store.close().await;
    let mut total = 0;
    for round in 0..rounds {
        let killed = child("crash::committing_child", &home.url());
        let reported = kill_after(killed, 11 + round * 7);
        let store = open_when_free(&home.url()).await;
        let loaded = store.load(0).await.expect("load");
        let last = (loaded.next.tunnel - 2) / 2;
        assert_eq!(loaded.next.tunnel % 2, 0, "half a group");
        assert!(
            last >= reported,
            "group {reported} was reported, {last} is the last there is"
        );
        assert_eq!(last % GROUPS, 0, "half a batch");
        let live: Vec<_> = loaded.tunnels.iter().map(|tunnel| tunnel.id).collect();
        let expected = (last - 3) * 2..=last * 2 + 1;
        assert_eq!(live, expected.map(TunnelId).collect::<Vec<_>>());
        for tunnel in &loaded.tunnels {
            let whole = Tunnel {
                revision: tunnel.revision,
                ..udp_tunnel(tunnel.id.0, 1)
            };
            assert_eq!(tunnel, &whole);
        }
        let gone = store.tombstones(None, 10_000).await.expect("tombstones");
        assert_eq!(gone.len() as i64, (last - 4) * 2);
        // One for the account, two per new couple, two per couple that went.
        assert_eq!(loaded.last_seq, 1 + last * 2 + (last - 4) * 2);
        store.close().await;
        total = last;
    }
    println!("{rounds} kills over {total} groups");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_sqlite() {
    groups_are_whole(&Home::sqlite(), 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn killed_on_postgresql() {
    groups_are_whole(&Home::postgresql(), 8).await;
}

/// Killed at some moment of the first start.
async fn first_start_is_safe(home: &Home) {
    let mut opened = 0;
    for attempt in 0..24 {
        let mut child = child("crash::opening_child", &home.url());
        let deadline = Instant::now() + Duration::from_millis(attempt * 2);
        while Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        child.kill().expect("kill");
        let output = child.wait_with_output().expect("wait");
        opened += usize::from(String::from_utf8_lossy(&output.stdout).contains("open\n"));
    }
    println!("{opened} of 24 had opened it before they were killed");
    let store = open_when_free(&home.url()).await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_first_start_on_sqlite() {
    first_start_is_safe(&Home::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn killed_at_first_start_on_postgresql() {
    first_start_is_safe(&Home::postgresql()).await;
}
