//! WatchTunnels: snapshot, changes, resuming, starting over.

use std::time::Duration;

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::tunnel_event::Event;
use tonic::Streaming;

use super::{Daemon, delete, message, tunnel, upsert};
use crate::control::watch::LOG_LEN;

/// Reads events one by one.
struct Watch {
    stream: Streaming<pb::WatchTunnelsResponse>,
    ready: std::collections::VecDeque<pb::TunnelEvent>,
    revision: u64,
}

impl Watch {
    async fn start(daemon: &Daemon, request: pb::WatchTunnelsRequest) -> Self {
        let stream = daemon
            .tunnels()
            .watch_tunnels(request)
            .await
            .expect("starts")
            .into_inner();
        Self {
            stream,
            ready: std::collections::VecDeque::new(),
            revision: 0,
        }
    }

    async fn next(&mut self) -> String {
        while self.ready.is_empty() {
            let wait = tokio::time::timeout(Duration::from_secs(20), self.stream.message());
            let message = wait.await.expect("in time").expect("well").expect("open");
            self.revision = message.revision;
            self.ready.extend(message.events);
        }
        let event = self.ready.pop_front().expect("not empty");
        match event.event.expect("an event") {
            Event::Upserted(t) => format!("+{} mtu {} r{}", t.id, t.mtu, event.revision),
            Event::Removed(r) => format!("-{} of {} r{}", r.id, r.owner, event.revision),
            Event::SnapshotDone(done) => format!("done {} r{}", done.count, event.revision),
            Event::Reset(reset) => format!("reset: {}", reset.cause),
        }
    }
}

async fn started() -> (Daemon, String) {
    let daemon = Daemon::start().await;
    let session = daemon.open("a", 1).await.expect("opens");
    (daemon, session)
}

#[tokio::test]
async fn snapshot_then_changes() {
    let (daemon, session) = started().await;
    daemon.put(&session, vec![tunnel(1), tunnel(2)]).await;
    let mut watch = Watch::start(&daemon, pb::WatchTunnelsRequest::default()).await;
    assert_eq!(watch.next().await, "+t1 mtu 1280 r1");
    assert_eq!(watch.next().await, "+t2 mtu 1280 r2");
    assert_eq!(watch.next().await, "done 2 r2");
    assert_eq!(watch.revision, 2);
    let mut changed = tunnel(1);
    changed.mtu = 1400;
    daemon.put(&session, vec![changed]).await;
    assert_eq!(watch.next().await, "+t1 mtu 1400 r3");
    daemon
        .program(vec![message(1, &session, vec![delete("t2", true)])])
        .await;
    assert_eq!(watch.next().await, "-t2 of a r4");
    // The same again is no news.
    daemon.put(&session, vec![tunnel(1)]).await;
    daemon.put(&session, vec![tunnel(1)]).await;
    daemon.put(&session, vec![tunnel(9)]).await;
    assert_eq!(watch.next().await, "+t1 mtu 1280 r5");
    assert_eq!(watch.next().await, "+t9 mtu 1280 r6");
}

#[tokio::test]
async fn resumes_where_it_left_off() {
    let (daemon, session) = started().await;
    daemon.put(&session, (1..=5).map(tunnel).collect()).await;
    let mut other = tunnel(4);
    other.mtu = 1300;
    daemon.put(&session, vec![other]).await;
    let request = pb::WatchTunnelsRequest {
        since_revision: Some(3),
        dataplane_instance_id: daemon.shared.instance().to_owned(),
        ..pb::WatchTunnelsRequest::default()
    };
    let mut watch = Watch::start(&daemon, request).await;
    // t4 changed twice: it is told once, as it is now.
    assert_eq!(watch.next().await, "+t5 mtu 1280 r5");
    assert_eq!(watch.next().await, "+t4 mtu 1300 r6");
    assert_eq!(watch.revision, 6);
}

#[tokio::test]
async fn starts_over_when_it_cannot_resume() {
    let (daemon, session) = started().await;
    daemon.put(&session, vec![tunnel(1)]).await;
    let since = |revision, instance: &str| pb::WatchTunnelsRequest {
        since_revision: Some(revision),
        dataplane_instance_id: instance.to_owned(),
        ..pb::WatchTunnelsRequest::default()
    };
    let mut watch = Watch::start(&daemon, since(1, "another")).await;
    assert_eq!(watch.next().await, "reset: instance changed");
    assert_eq!(watch.next().await, "+t1 mtu 1280 r1");
    assert_eq!(watch.next().await, "done 1 r1");
    let mut watch = Watch::start(&daemon, since(77, "")).await;
    assert_eq!(watch.next().await, "reset: revision compacted");

    // More changes than the log keeps.
    let batch = |mtu: u32| {
        let one = |n: u32| upsert(pb::Tunnel { mtu, ..tunnel(n) });
        (0..512).map(one).collect::<Vec<_>>()
    };
    let rounds = u32::try_from(LOG_LEN / 512 + 2).expect("small");
    let messages = (0..rounds).map(|i| message(u64::from(i) + 1, &session, batch(1280 + i % 2)));
    let (answers, error) = daemon.program(messages.collect()).await;
    assert!(error.is_none() && answers.iter().all(|a| a.failures.is_empty()));
    let mut watch = Watch::start(&daemon, since(1, daemon.shared.instance())).await;
    assert_eq!(watch.next().await, "reset: revision compacted");
    let mut events = 0;
    while !watch.next().await.starts_with("done 512") {
        events += 1;
    }
    assert_eq!(events, 512);
}

#[tokio::test]
async fn an_owner_watches_its_own() {
    let (daemon, session) = started().await;
    let other = daemon.open("b", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1)]).await;
    let request = pb::WatchTunnelsRequest {
        owner: "b".into(),
        ..pb::WatchTunnelsRequest::default()
    };
    let mut watch = Watch::start(&daemon, request).await;
    assert_eq!(watch.next().await, "done 0 r1");
    daemon.put(&session, vec![tunnel(2)]).await;
    daemon.put(&other, vec![tunnel(3)]).await;
    assert_eq!(watch.next().await, "+t3 mtu 1280 r3");
}
