//! What is learnt beside the tables: events, neighbours, life of peers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sixferry_fwd::TunnelId;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::event::Event as Kind;
use tokio::sync::broadcast;
use tonic::Streaming;

use super::{Daemon, message, said, tunnel, upsert};
use crate::live::{
    EVENT_QUEUE, EventCounts, HostPortCounts, Life, LifeState, Live, LivenessCounts,
    NeighbourState, NeighbourView, Notice, ReassemblyCounts, What,
};

/// Knows what the test tells it.
#[derive(Debug)]
struct Told {
    events: broadcast::Sender<Arc<Notice>>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(EVENT_QUEUE),
        }
    }
}

impl Live for Told {
    fn events(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.events.subscribe()
    }

    fn event_counts(&self) -> EventCounts {
        EventCounts::default()
    }

    fn life(&self, _tunnel: TunnelId) -> Option<Life> {
        Some(Life {
            state: LifeState::Unreachable,
            last_seen: Some(Duration::from_secs(95)),
        })
    }

    fn liveness(&self) -> LivenessCounts {
        LivenessCounts {
            watched: 1,
            ..LivenessCounts::default()
        }
    }

    fn reassembly(&self) -> ReassemblyCounts {
        ReassemblyCounts {
            fragments: 4,
            ..ReassemblyCounts::default()
        }
    }

    fn host_port(&self) -> Option<HostPortCounts> {
        Some(HostPortCounts {
            dropped: 3,
            ..HostPortCounts::default()
        })
    }

    fn neighbours(&self) -> Vec<NeighbourView> {
        let one = |port: &str, last: u8| NeighbourView {
            address: [192, 0, 2, last].into(),
            mac: Some([2, 0, 0, 0, 0, last]),
            port: port.into(),
            vlan: 0,
            state: NeighbourState::Reachable,
            managed: last == 1,
            used_by_next_hop: false,
        };
        vec![
            one("eth1", 9),
            one("eth0", 2),
            one("eth0", 10),
            one("eth0", 1),
        ]
    }
}

impl Told {
    fn tell(&self, owner: Option<&str>, what: What) {
        let notice = Notice {
            at: SystemTime::now(),
            owner: owner.map(Arc::from),
            what,
        };
        self.events
            .send(Arc::new(notice))
            .expect("somebody listens");
    }
}

async fn started() -> (Daemon, Arc<Told>) {
    let told = Arc::new(Told::default());
    let daemon = Daemon::with("", Arc::clone(&told) as Arc<dyn Live>).await;
    (daemon, told)
}

/// A watch that has begun.
async fn watch(
    daemon: &Daemon,
    request: pb::WatchEventsRequest,
) -> Streaming<pb::WatchEventsResponse> {
    let stream = daemon.events().watch_events(request).await;
    let mut stream = stream.expect("starts").into_inner();
    let first = stream.message().await.expect("well").expect("begins");
    assert_eq!(first.events, []);
    stream
}

async fn next(stream: &mut Streaming<pb::WatchEventsResponse>) -> Vec<Kind> {
    let message = stream.message().await.expect("well").expect("a message");
    message
        .events
        .into_iter()
        .filter_map(|event| event.event)
        .collect()
}

fn moved(tunnel: &str) -> What {
    What::EndpointChanged {
        tunnel: tunnel.into(),
        from: None,
        to: ([192, 0, 2, 1].into(), 4028),
    }
}

fn port(up: bool) -> What {
    What::Port {
        port: "eth0".into(),
        up,
    }
}

#[tokio::test]
async fn events_come_in_order_to_those_who_want_them() {
    let (daemon, told) = started().await;
    let mut all = watch(&daemon, pb::WatchEventsRequest::default()).await;
    let mut mine = watch(
        &daemon,
        pb::WatchEventsRequest {
            kinds: vec![pb::EventKind::EndpointChanged.into()],
            owner: "dtcp".into(),
        },
    )
    .await;
    told.tell(Some("other"), moved("a"));
    told.tell(None, port(false));
    told.tell(Some("dtcp"), moved("b"));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut all).await);
    }
    assert!(matches!(&seen[0], Kind::EndpointChanged(e) if e.tunnel_id == "a"));
    assert!(matches!(&seen[1], Kind::PortChanged(e) if !e.up));
    let only = next(&mut mine).await;
    let expected = pb::EndpointChanged {
        tunnel_id: "b".into(),
        from: None,
        to: Some(pb::Endpoint {
            address: vec![192, 0, 2, 1],
            port: 4028,
        }),
    };
    assert_eq!(only, [Kind::EndpointChanged(expected)]);
}

#[tokio::test]
async fn a_slow_watcher_is_told_what_it_missed() {
    let (daemon, told) = started().await;
    let mut stream = watch(&daemon, pb::WatchEventsRequest::default()).await;
    // Far more than the queue and the messages under way hold.
    let sent = 200 * EVENT_QUEUE;
    for i in 0..sent {
        told.tell(None, port(i % 2 == 0));
    }
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < sent {
        for event in next(&mut stream).await {
            match event {
                Kind::Lagged(lagged) => lost += usize::try_from(lagged.lost).expect("fits"),
                _ => seen += 1,
            }
        }
    }
    assert_eq!(seen + lost, sent);
    assert!(lost > 0 && seen > 0, "{seen} seen, {lost} lost");
}

#[tokio::test]
async fn watchers_are_bounded_and_unknown_kinds_refused() {
    let (daemon, _told) = started().await;
    let bad = pb::WatchEventsRequest {
        kinds: vec![99],
        ..pb::WatchEventsRequest::default()
    };
    let error = daemon.events().watch_events(bad).await.expect_err("bad");
    assert_eq!(said(&error).1, "INVALID_FIELD");
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(watch(&daemon, pb::WatchEventsRequest::default()).await);
    }
    let request = pb::WatchEventsRequest::default();
    let error = daemon.events().watch_events(request).await;
    assert_eq!(said(&error.expect_err("full")).1, "TOO_MANY_WATCHERS");
}

#[tokio::test]
async fn neighbours_page_in_order() {
    let (daemon, _told) = started().await;
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListNeighboursRequest {
            page_size: 1,
            page_token,
            port: "eth0".into(),
        };
        let page = daemon.neighbours().list_neighbours(request).await;
        let page = page.expect("lists").into_inner();
        found.extend(page.neighbours);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let last: Vec<_> = found.iter().map(|n| (n.address[3], n.managed)).collect();
    assert_eq!(last, [(1, true), (2, false), (10, false)]);
    assert_eq!(found[0].state(), pb::NeighbourState::Reachable);
    let request = pb::ListNeighboursRequest {
        page_token: "x/y".into(),
        ..pb::ListNeighboursRequest::default()
    };
    let error = daemon.neighbours().list_neighbours(request).await;
    assert_eq!(said(&error.expect_err("bad")).1, "BAD_PAGE_TOKEN");
}

#[tokio::test]
async fn a_tunnel_shows_the_life_of_its_peer() {
    let (daemon, _told) = started().await;
    let session = daemon.open("test", 1).await.expect("opens");
    let watched = pb::Tunnel {
        liveness: pb::LivenessMode::Passive.into(),
        ..tunnel(1)
    };
    daemon.put(&session, vec![watched, tunnel(2)]).await;
    let get = async |id: &str| {
        let request = pb::GetTunnelRequest {
            id: id.to_owned(),
            read_mask: None,
        };
        let answer = daemon.tunnels().get_tunnel(request).await.expect("there");
        answer.into_inner().tunnel.expect("a tunnel")
    };
    let one = get("t1").await;
    assert_eq!(one.state(), pb::TunnelState::Unreachable);
    assert_eq!(one.last_seen.map(|d| d.seconds), Some(95));
    assert_eq!(one.liveness_interval_seconds, 30);
    let two = get("t2").await;
    assert_eq!(two.state(), pb::TunnelState::Up, "nobody watches it");
    let endpoint = two.endpoint.expect("configured");
    assert_eq!((endpoint.address, endpoint.port), (vec![10, 0, 0, 2], 0));

    let report = daemon
        .counters()
        .read_counters(pb::ReadCountersRequest::default())
        .await;
    let report = report.expect("read").into_inner().report.expect("a report");
    assert_eq!(report.reassembly.expect("there").fragments, 4);
    assert_eq!(report.host_port.expect("there").dropped, 3);
    assert_eq!(report.liveness.expect("there").watched, 1);
}

#[tokio::test]
async fn a_udp_tunnel_is_written_found_and_moved() {
    let (daemon, _told) = started().await;
    let session = daemon.open("test", 1).await.expect("opens");
    let udp = pb::Tunnel {
        encapsulation: pb::Encapsulation::Udp.into(),
        remote: Vec::new(),
        local_port: 4028,
        mtu_mode: pb::MtuMode::Dynamic.into(),
        ..tunnel(1)
    };
    let clash = pb::Tunnel {
        id: "other".into(),
        prefixes: tunnel(2).prefixes,
        ..udp.clone()
    };
    let updates = vec![upsert(udp.clone()), upsert(clash)];
    let (answers, _) = daemon.program(vec![message(1, &session, updates)]).await;
    let failure = super::entry_said(&answers[0].failures[0]);
    assert_eq!((failure.0, &*failure.2), (1, "OUTER_IN_USE"));
    assert_eq!(
        failure.3,
        "UDP port 4028 of 198.51.100.1 is that of tunnel \"t1\" of owner \"test\""
    );
    let lookup = async || {
        let key = pb::lookup_tunnel_request::Key::Outer(pb::OuterKey {
            local: vec![198, 51, 100, 1],
            remote: vec![192, 0, 2, 77],
            local_port: 4028,
            remote_port: 999,
        });
        let request = pb::LookupTunnelRequest { key: Some(key) };
        let answer = daemon.tunnels().lookup_tunnel(request).await;
        answer
            .expect("found")
            .into_inner()
            .tunnel
            .expect("a tunnel")
    };
    let before = lookup().await;
    assert_eq!((before.endpoint.clone(), before.mtu), (None, 1472));
    assert_eq!(before.state(), pb::TunnelState::Unknown);
    let counts = daemon.put(&session, vec![before]).await;
    assert_eq!(counts.unchanged, 1, "written back as read");

    let moved = pb::Tunnel {
        id: "t1".into(),
        remote: vec![192, 0, 2, 77],
        remote_port: 999,
        ..pb::Tunnel::default()
    };
    let update = pb::TunnelUpdate {
        update: Some(pb::tunnel_update::Update::Upsert(pb::TunnelUpsert {
            tunnel: Some(moved),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["remote".into(), "remote_port".into()],
            }),
            mode: pb::WriteMode::Update.into(),
        })),
    };
    let (answers, _) = daemon
        .program(vec![message(1, &session, vec![update])])
        .await;
    assert_eq!(answers[0].failures, []);
    let after = lookup().await;
    let endpoint = after.endpoint.expect("known now");
    assert_eq!(
        (endpoint.address, endpoint.port),
        (vec![192, 0, 2, 77], 999)
    );
}
