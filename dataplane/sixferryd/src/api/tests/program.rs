//! ProgramTunnels: acknowledgements, failures, atomicity.

use sixferry_proto::dataplane::v1 as pb;
use tonic::Code;
use tonic_types::RpcStatusExt;

use super::{Daemon, delete, entry_said, message, said, tunnel, upsert};

async fn started() -> (Daemon, String) {
    let daemon = Daemon::start().await;
    let session = daemon.open("test", 1).await.expect("opens");
    (daemon, session)
}

#[tokio::test]
async fn every_message_is_acknowledged_in_order() {
    let (daemon, session) = started().await;
    let messages = (0..50).map(|i| {
        let tunnels = (i * 20..(i + 1) * 20).map(|n| upsert(tunnel(n))).collect();
        message(u64::from(i) * 3 + 1, &session, tunnels)
    });
    let (answers, error) = daemon.program(messages.collect()).await;
    assert!(error.is_none());
    let acks: Vec<_> = answers.iter().map(|a| a.applied_through_seq).collect();
    assert_eq!(acks, (0..50).map(|i| i * 3 + 1).collect::<Vec<_>>());
    assert!(answers.iter().all(|a| a.failures.is_empty()));
    assert_eq!(answers.last().expect("answers").revision, 1000);
    assert!(
        answers
            .iter()
            .all(|a| a.dataplane_instance_id == daemon.shared.instance())
    );
    assert_eq!(daemon.ids().await.len(), 1000);
}

/// Each bad entry with exactly what it is told.
#[tokio::test]
async fn failures_are_precise_and_leave_the_others_alone() {
    let (daemon, session) = started().await;
    let other = daemon.open("other", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1)]).await;
    daemon.put(&other, vec![tunnel(2)]).await;
    let with = |n: u32, edit: &dyn Fn(&mut pb::Tunnel)| {
        let mut tunnel = tunnel(n);
        edit(&mut tunnel);
        upsert(tunnel)
    };
    let create = |n: u32| {
        let upsert = pb::TunnelUpsert {
            tunnel: Some(tunnel(n)),
            mode: pb::WriteMode::Create.into(),
            ..pb::TunnelUpsert::default()
        };
        pb::TunnelUpdate {
            update: Some(pb::tunnel_update::Update::Upsert(upsert)),
        }
    };
    use Code::{AlreadyExists, InvalidArgument, NotFound};
    let cases: Vec<(pb::TunnelUpdate, Code, &str, &str)> = vec![
        (
            with(10, &|t| t.mtu = 9000),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[0].upsert.tunnel.mtu: 9000 is outside 1280..1480",
        ),
        (
            with(11, &|t| t.local = vec![1, 2, 3]),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[1].upsert.tunnel.local: 3 bytes; an IPv4 address has 4",
        ),
        (
            with(12, &|t| t.remote.clear()),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[2].upsert.tunnel.remote: missing; an IPv4 address of 4 bytes",
        ),
        (
            with(13, &|t| t.prefixes[0].length = 40),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[3].upsert.tunnel.prefixes: [0]: 2001:db8:d::/40 has bits set after the \
             prefix; did you mean 2001:db8::/40?",
        ),
        (
            with(14, &|t| t.id = "no spaces".into()),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[4].upsert.tunnel.id: \"no spaces\" is no id: 1 to 63 of A-Z a-z 0-9 \
             . _ -",
        ),
        (
            with(15, &|t| t.remote = tunnel(1).remote),
            AlreadyExists,
            "OUTER_IN_USE",
            "local 198.51.100.1 and remote 10.0.0.1 are those of tunnel \"t1\" of owner \"test\"",
        ),
        (
            with(16, &|t| t.prefixes = tunnel(2).prefixes),
            AlreadyExists,
            "PREFIX_IN_USE",
            "prefix 2001:db8:2::/48 is tunnel \"t2\"'s of owner \"other\"",
        ),
        (
            create(1),
            AlreadyExists,
            "TUNNEL_EXISTS",
            "tunnel \"t1\" exists already",
        ),
        (
            delete("none", true),
            NotFound,
            "TUNNEL_NOT_FOUND",
            "no tunnel \"none\"",
        ),
        (
            pb::TunnelUpdate { update: None },
            InvalidArgument,
            "INVALID_FIELD",
            "updates[9]: neither upsert nor delete",
        ),
        (
            with(17, &|t| {
                t.ttl = Some(3);
                t.ttl_inherit = true;
            }),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[10].upsert.tunnel.ttl: not together with ttl_inherit",
        ),
        (
            with(18, &|t| t.link_address = vec![0; 16]),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[11].upsert.tunnel.link_prefix: missing: link_address is given",
        ),
        (
            with(19, &|t| t.remote = t.local.clone()),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[12].upsert.tunnel.remote: 198.51.100.1 is the local address too: a tunnel to \
             itself",
        ),
        (
            with(20, &|t| t.mtu_mode = 77),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[13].upsert.tunnel.mtu_mode: unknown to this version",
        ),
    ];
    let mut updates: Vec<_> = cases.iter().map(|(update, ..)| update.clone()).collect();
    updates.push(upsert(tunnel(99)));
    let (answers, error) = daemon.program(vec![message(1, &session, updates)]).await;
    assert!(error.is_none());
    let answer = &answers[0];
    assert_eq!(answer.failures.len(), cases.len());
    for (index, (failure, (_, code, reason, text))) in
        answer.failures.iter().zip(&cases).enumerate()
    {
        let said = entry_said(failure);
        let index = u32::try_from(index).expect("few");
        assert_eq!(
            said,
            (index, *code, (*reason).to_owned(), (*text).to_owned())
        );
    }
    let counts = answer.counts.expect("counts");
    assert_eq!((counts.created, counts.updated, counts.deleted), (1, 0, 0));
    assert_eq!(daemon.ids().await, ["t1", "t2", "t99"]);

    let details = answer.failures[0]
        .status
        .as_ref()
        .expect("status")
        .get_error_details();
    let violation = &details.bad_request().expect("fields").field_violations[0];
    assert_eq!(violation.field, "updates[0].upsert.tunnel.mtu");
    let details = answer.failures[6]
        .status
        .as_ref()
        .expect("status")
        .get_error_details();
    let resource = details.resource_info().expect("resource");
    assert_eq!(
        (resource.resource_name.as_str(), resource.owner.as_str()),
        ("t2", "other")
    );
    assert_eq!(resource.resource_type, "sixferry.dataplane.v1.Tunnel");
}

#[tokio::test]
async fn rollback_leaves_no_trace() {
    let (daemon, session) = started().await;
    daemon.put(&session, (0..5).map(tunnel).collect()).await;
    let all = || async {
        let request = pb::ListTunnelsRequest::default();
        let mut page = daemon
            .tunnels()
            .list_tunnels(request)
            .await
            .expect("lists")
            .into_inner();
        page.tunnels.sort_by(|a, b| a.id.cmp(&b.id));
        page.tunnels
    };
    let before = all().await;
    let mut changed = tunnel(1);
    changed.mtu = 1400;
    let updates = vec![
        upsert(changed),
        delete("t2", true),
        upsert(tunnel(50)),
        // Free only because t2 went: it must come back.
        upsert(pb::Tunnel {
            id: "thief".into(),
            ..tunnel(2)
        }),
        delete("none", true),
        upsert(tunnel(60)),
    ];
    for atomicity in [
        pb::Atomicity::RollbackOnError,
        pb::Atomicity::DataplaneAtomic,
    ] {
        let request = pb::ProgramTunnelsRequest {
            atomicity: atomicity.into(),
            ..message(1, &session, updates.clone())
        };
        let (answers, _) = daemon.program(vec![request]).await;
        assert!(answers[0].rolled_back);
        assert_eq!(answers[0].counts, Some(pb::ApplyCounts::default()));
        let failed: Vec<_> = answers[0].failures.iter().map(|f| f.index).collect();
        assert_eq!(failed, [4], "only the first failure");
        assert_eq!(answers[0].revision, 5);
        assert_eq!(all().await, before);
    }
    let dry = pb::ProgramTunnelsRequest {
        validate_only: true,
        ..message(1, &session, updates.clone())
    };
    let (answers, _) = daemon.program(vec![dry]).await;
    let counts = answers[0].counts.expect("counts");
    assert_eq!((counts.created, counts.updated, counts.deleted), (3, 1, 1));
    assert_eq!(answers[0].failures.len(), 1);
    assert_eq!(all().await, before);
    // And without the bad entry it is done.
    let good = pb::ProgramTunnelsRequest {
        atomicity: pb::Atomicity::DataplaneAtomic.into(),
        ..message(1, &session, updates.into_iter().take(4).collect())
    };
    let (answers, _) = daemon.program(vec![good]).await;
    assert!(!answers[0].rolled_back && answers[0].failures.is_empty());
    assert_eq!(daemon.ids().await, ["t0", "t1", "t3", "t4", "t50", "thief"]);
}

#[tokio::test]
async fn an_update_mask_changes_what_it_names_only() {
    let (daemon, session) = started().await;
    let mut first = tunnel(1);
    first.mtu = 1400;
    first.ttl = Some(10);
    daemon.put(&session, vec![first]).await;
    let masked = |paths: &[&str], tunnel: pb::Tunnel| {
        let paths = paths.iter().map(|p| (*p).to_owned()).collect();
        let upsert = pb::TunnelUpsert {
            tunnel: Some(tunnel),
            update_mask: Some(prost_types::FieldMask { paths }),
            mode: pb::WriteMode::Update.into(),
        };
        pb::TunnelUpdate {
            update: Some(pb::tunnel_update::Update::Upsert(upsert)),
        }
    };
    let down = pb::Tunnel {
        id: "t1".into(),
        admin_up: Some(false),
        ..pb::Tunnel::default()
    };
    let updates = vec![
        masked(&["admin_up"], down.clone()),
        masked(&["nonsense"], down.clone()),
        masked(&["remote"], down),
        masked(&["mtu"], tunnel(7)),
    ];
    let (answers, _) = daemon.program(vec![message(1, &session, updates)]).await;
    let said: Vec<_> = answers[0]
        .failures
        .iter()
        .map(|f| entry_said(f).3)
        .collect();
    assert_eq!(
        said,
        [
            "updates[1].upsert.update_mask: no field \"nonsense\" to set",
            "updates[2].upsert.tunnel.remote: missing; an IPv4 address of 4 bytes",
            "no tunnel \"t7\"",
        ]
    );
    let request = pb::GetTunnelRequest {
        id: "t1".into(),
        read_mask: None,
    };
    let now = daemon
        .tunnels()
        .get_tunnel(request)
        .await
        .expect("there")
        .into_inner();
    let now = now.tunnel.expect("tunnel");
    assert_eq!(
        (now.admin_up, now.mtu, now.ttl),
        (Some(false), 1400, Some(10))
    );
    assert_eq!(now.prefixes, tunnel(1).prefixes);
    // Without a mask, what is not given is the default again.
    daemon.put(&session, vec![tunnel(1)]).await;
    let request = pb::GetTunnelRequest {
        id: "t1".into(),
        read_mask: None,
    };
    let now = daemon
        .tunnels()
        .get_tunnel(request)
        .await
        .expect("there")
        .into_inner();
    let now = now.tunnel.expect("tunnel");
    assert_eq!(
        (now.admin_up, now.mtu, now.ttl),
        (Some(true), 1280, Some(64))
    );
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends() {
    let (daemon, session) = started().await;
    let too_many = (0..513).map(|n| upsert(tunnel(n))).collect();
    let (answers, error) = daemon.program(vec![message(1, &session, too_many)]).await;
    assert!(answers.is_empty());
    let (code, reason, text) = said(&error.expect("refused"));
    assert_eq!(
        (code, reason.as_str()),
        (Code::InvalidArgument, "TOO_MANY_ENTRIES")
    );
    assert_eq!(text, "updates: 513 entries; at most 512 in one message");

    let messages = vec![
        message(4, &session, vec![upsert(tunnel(1))]),
        message(4, &session, Vec::new()),
    ];
    let (answers, error) = daemon.program(messages).await;
    assert_eq!(answers.len(), 1);
    let (_, reason, text) = said(&error.expect("refused"));
    assert_eq!(reason, "BAD_SEQ");
    assert_eq!(text, "seq: 4 does not follow 4: seq must increase");
}

#[tokio::test]
async fn replaying_a_message_changes_nothing() {
    let (daemon, session) = started().await;
    let updates: Vec<_> = (0..10)
        .map(|n| upsert(tunnel(n)))
        .chain([delete("t3", false)])
        .collect();
    daemon
        .program(vec![message(1, &session, updates.clone())])
        .await;
    let (answers, _) = daemon.program(vec![message(1, &session, updates)]).await;
    let counts = answers[0].counts.expect("counts");
    // t3 comes and goes again; the others are what they were.
    assert_eq!(
        (counts.created, counts.unchanged, counts.deleted),
        (1, 9, 1)
    );
    assert_eq!(daemon.ids().await.len(), 9);
}
