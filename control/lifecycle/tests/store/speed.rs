//! How fast it is; prints, and holds only what must be true on any machine.

use std::time::Instant;

use sixferry_lifecycle::store::{Batch, Group, Write};
use sixferry_lifecycle::{Cause, Tunnel, TunnelState};

use crate::home::{Home, account, bury, commit, insert, put, tunnel};

/// A login: a tunnel comes, and one that came before is confirmed (as the writer does it, lazily).
fn login(id: i64) -> Group {
    let mut writes = vec![insert(&tunnel(id, 1))];
    if id > 1 {
        writes.push(Write::UpdateTunnel {
            tunnel: Tunnel {
                state: TunnelState::Active,
                ..tunnel(id - 1, 1)
            },
            from: TunnelState::Pending,
            cause: Cause::Confirmed,
            new_prefixes: false,
        });
    }
    writes
}

async fn measure(home: &Home) {
    let store = home.open().await;
    let engine = store.engine();
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let mut id = 0;
    for (size, batches) in [(1, 300), (16, 100), (256, 40)] {
        let start = Instant::now();
        for _ in 0..batches {
            let groups = (0..size).map(|_| {
                id += 1;
                login(id)
            });
            let groups = groups.collect();
            let answers = store.commit(&Batch::new(groups)).await.expect("commit");
            assert!(answers.iter().all(Result::is_ok));
        }
        let seconds = start.elapsed().as_secs_f64();
        let commits = f64::from(batches) / seconds;
        let groups = commits * size as f64;
        println!("{engine}: {commits:.0} commits/s of {size} logins: {groups:.0} logins/s");
    }
    let start = Instant::now();
    let mut gone = 0;
    while gone < 10_000 {
        let groups = (0..256.min(10_000 - gone)).map(|_| {
            gone += 1;
            vec![bury(&tunnel(gone, 1), 9_999, 0)]
        });
        let answers = commit(&store, groups.collect()).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{engine}: 10 000 logouts in {seconds:.2} s");

    let mut live = id - gone;
    while live < 100_000 {
        let groups = (0..256.min(100_000 - live)).map(|_| {
            live += 1;
            vec![insert(&tunnel(gone + live, 1))]
        });
        commit(&store, groups.collect()).await;
    }
    let start = Instant::now();
    let loaded = store.load(0).await.expect("load");
    assert_eq!(loaded.tunnels.len(), 100_000);
    let seconds = start.elapsed().as_secs_f64();
    println!("{engine}: 100 000 tunnels loaded in {seconds:.2} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: some seconds"]
async fn of_sqlite() {
    measure(&Home::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: some seconds, needs root"]
async fn of_postgresql() {
    measure(&Home::postgresql()).await;
}
