//! One million tunnels over gRPC: time, memory, and a re-sync that changes one of them.

use std::time::{Duration, Instant};

use sixferry_proto::dataplane::v1 as pb;

use super::{Daemon, collect, message, tunnel, upsert};

const TUNNELS: u32 = 1_000_000;
const BATCH: u32 = 512;

/// Every tunnel once; tunnel `odd` with another MTU.
fn messages(
    session: String,
    odd: u32,
) -> impl Iterator<Item = pb::ProgramTunnelsRequest> + Send + 'static {
    (0..TUNNELS.div_ceil(BATCH)).map(move |i| {
        let one = |n: u32| {
            let mtu = if n == odd { 1400 } else { 0 };
            upsert(pb::Tunnel {
                mtu,
                ..tunnel_of_many(n)
            })
        };
        let range = i * BATCH..TUNNELS.min((i + 1) * BATCH);
        message(u64::from(i) + 1, &session, range.map(one).collect())
    })
}

/// More than the 65,536 /48s below 2001:db8::/32: spread over 2001:d80::/28.
fn tunnel_of_many(n: u32) -> pb::Tunnel {
    let prefix = (0x2001_0d80_u128 << 96) + (u128::from(n) << 80);
    let prefixes = vec![pb::IpPrefix {
        address: prefix.to_be_bytes().to_vec(),
        length: 48,
    }];
    pb::Tunnel {
        prefixes,
        ..tunnel(n)
    }
}

async fn load(daemon: &Daemon, session: &str, odd: u32) -> (pb::ApplyCounts, Duration) {
    let begin = Instant::now();
    let requests = tokio_stream::iter(messages(session.to_owned(), odd));
    let stream = daemon
        .tunnels()
        .program_tunnels(requests)
        .await
        .expect("starts");
    let (answers, error) = collect(stream.into_inner()).await;
    let took = begin.elapsed();
    assert!(error.is_none(), "{error:?}");
    let mut sum = pb::ApplyCounts::default();
    for answer in answers {
        assert_eq!(answer.failures, []);
        let counts = answer.counts.expect("counts");
        sum.created += counts.created;
        sum.updated += counts.updated;
        sum.unchanged += counts.unchanged;
    }
    (sum, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: a million tunnels; meaningful in release builds only"]
async fn a_million_tunnels() {
    let daemon = Daemon::start().await;
    let session = daemon.open("test", 1).await.expect("opens");
    let (counts, took) = load(&daemon, &session, TUNNELS).await;
    assert_eq!(counts.created, TUNNELS);
    let resident = sixferry_service::resident_bytes().expect("/proc") >> 20;
    let tables = daemon.shared.with(|control| control.builder().memory()) >> 20;
    println!("loaded in {took:?}; {resident} MiB resident, tables {tables} MiB");

    let begin = pb::BeginSyncRequest {
        session: session.clone(),
    };
    let begun = daemon
        .sessions()
        .begin_sync(begin)
        .await
        .expect("begins")
        .into_inner();
    assert_eq!(begun.stale_count, u64::from(TUNNELS));
    let (counts, again) = load(&daemon, &session, 77).await;
    assert_eq!((counts.updated, counts.unchanged), (1, TUNNELS - 1));
    let begin = Instant::now();
    let commit = pb::CommitSyncRequest {
        session,
        generation: begun.generation,
    };
    let swept = daemon
        .sessions()
        .commit_sync(commit)
        .await
        .expect("commits")
        .into_inner();
    assert_eq!(swept.swept_tunnels, 0);
    let end = sixferry_service::resident_bytes().expect("/proc") >> 20;
    println!(
        "re-synced in {again:?}, committed in {:?}; {end} MiB resident",
        begin.elapsed()
    );
    assert!(end < 600, "{end} MiB");
}
