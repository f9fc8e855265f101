//! CounterService without workers: selection, limits, the list of reasons.

use std::collections::BTreeSet;

use sixferry_proto::dataplane::v1 as pb;
use tonic::Code;

use super::{Daemon, said, tunnel};

#[tokio::test]
async fn every_drop_reason_has_a_name_a_number_and_a_text() {
    let daemon = Daemon::start().await;
    let request = pb::ListDropReasonsRequest {};
    let list = daemon
        .counters()
        .list_drop_reasons(request)
        .await
        .expect("lists")
        .into_inner();
    assert_eq!(list.reasons.len(), sixferry_fwd::DropReason::COUNT);
    assert_eq!(list.punt_reasons.len(), sixferry_fwd::PuntReason::COUNT);
    let names: BTreeSet<_> = list.reasons.iter().map(|r| &r.name).collect();
    let numbers: BTreeSet<_> = list.reasons.iter().map(|r| r.number).collect();
    assert_eq!(
        (names.len(), numbers.len()),
        (list.reasons.len(), list.reasons.len())
    );
    for reason in &list.reasons {
        assert_eq!(reason.label, reason.name.to_lowercase());
        assert!(reason.text.len() > 10, "{reason:?}");
    }
    assert!(names.contains(&"INNER_SRC_SPOOF".to_owned()));
}

#[tokio::test]
async fn selections_are_checked() {
    let daemon = Daemon::start().await;
    let session = daemon.open("a", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1), tunnel(2)]).await;
    let read = |selection: pb::CounterSelection| {
        let request = pb::ReadCountersRequest {
            selection: Some(selection),
        };
        let mut client = daemon.counters();
        async move {
            client
                .read_counters(request)
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let ids = |ids: &[&str]| pb::CounterSelection {
        tunnel_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..pb::CounterSelection::default()
    };
    let report = read(ids(&["t2", "t1"]))
        .await
        .expect("reads")
        .report
        .expect("report");
    let named: Vec<_> = report
        .tunnels
        .iter()
        .map(|t| t.tunnel_id.as_str())
        .collect();
    assert_eq!(named, ["t2", "t1"]);
    assert!(report.total.is_some() && report.workers.is_empty());

    let none = read(ids(&["t1", "ghost"])).await.expect_err("unknown");
    let text = "no tunnel \"ghost\"";
    assert_eq!(
        said(&none),
        (Code::NotFound, "TUNNEL_NOT_FOUND".into(), text.into())
    );
    let many = vec!["t1"; 1001];
    let many = read(ids(&many)).await.expect_err("too many");
    assert_eq!(
        said(&many).2,
        "selection.tunnel_ids: 1001 ids; at most 1000"
    );
    let top = |limit, window| pb::CounterSelection {
        top: Some(pb::TopTunnels {
            limit,
            window,
            ..pb::TopTunnels::default()
        }),
        ..pb::CounterSelection::default()
    };
    let big = read(top(101, None)).await.expect_err("limit");
    assert_eq!(said(&big).2, "selection.top.limit: 101 is outside 1..100");
    let window = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let long = read(top(5, window)).await.expect_err("window");
    assert_eq!(said(&long).2, "selection.top.window: outside 100ms..10s");
    let window = Some(prost_types::Duration {
        seconds: 0,
        nanos: 100_000_000,
    });
    let idle = read(top(5, window))
        .await
        .expect("reads")
        .report
        .expect("report");
    assert!(idle.top_tunnels.is_empty(), "idle tunnels are left out");
}

#[tokio::test]
async fn the_stream_goes_on_and_leaves_out_what_is_gone() {
    let daemon = Daemon::start().await;
    let session = daemon.open("a", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1)]).await;
    let selection = pb::CounterSelection {
        tunnel_ids: vec!["t1".into()],
        ..pb::CounterSelection::default()
    };
    let request = pb::StreamCountersRequest {
        selection: Some(selection),
        interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
    };
    let mut stream = daemon
        .counters()
        .stream_counters(request)
        .await
        .expect("starts")
        .into_inner();
    let first = stream
        .message()
        .await
        .expect("well")
        .expect("open")
        .report
        .expect("report");
    assert_eq!(first.tunnels.len(), 1);
    daemon
        .program(vec![super::message(
            1,
            &session,
            vec![super::delete("t1", true)],
        )])
        .await;
    loop {
        let next = stream
            .message()
            .await
            .expect("well")
            .expect("open")
            .report
            .expect("report");
        if next.tunnels.is_empty() {
            break;
        }
    }
}
