//! SystemService, health and reflection.

use sixferry_proto::dataplane::v1 as pb;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Daemon, said, tunnel};

const TWO: &str = r#"
[[tunnel]]
id = "one"
local = "198.51.100.1"
remote = "192.0.2.1"
prefixes = ["2001:db8:100::/48"]

[[tunnel]]
id = "two"
local = "198.51.100.1"
remote = "192.0.2.2"
prefixes = ["2001:db8:200::/48"]
"#;

fn write(daemon: &Daemon, text: &str) {
    std::fs::write(daemon.dir.path().join("dataplane.toml"), text).expect("writes");
}

async fn reload(daemon: &Daemon) -> pb::ReloadConfigResponse {
    let request = pb::ReloadConfigRequest {};
    daemon
        .system()
        .reload_config(request)
        .await
        .expect("answers")
        .into_inner()
}

#[tokio::test]
async fn info_tells_what_runs() {
    let daemon = Daemon::with_config(TWO).await;
    let info = daemon
        .system()
        .get_info(pb::GetInfoRequest {})
        .await
        .expect("answers");
    let info = info.into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((info.tunnel_count, info.port_count), (2, 0));
    assert_eq!(info.pid, std::process::id());
    assert!(info.resident_bytes > 1_000_000 && !info.kernel.is_empty());
    assert!(info.features.contains(&"six_in_four".to_owned()));
}

#[tokio::test]
async fn a_reload_is_one_resync_of_the_static_tunnels() {
    let daemon = Daemon::with_config(TWO).await;
    let session = daemon.open("dtcp", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1)]).await;
    let revision = daemon.shared.with(|control| control.revision());
    // Their prefixes change hands, one goes, one comes.
    let swapped = TWO
        .replace("2001:db8:100::", "2001:db8:tmp::")
        .replace("2001:db8:200::", "2001:db8:100::")
        .replace("2001:db8:tmp::", "2001:db8:200::");
    write(&daemon, &swapped);
    let report = reload(&daemon).await;
    assert!(report.applied, "{report:?}");
    assert_eq!(report.changes, ["change tunnel one", "change tunnel two"]);
    let one = pb::GetTunnelRequest {
        id: "one".into(),
        read_mask: None,
    };
    let one = daemon
        .tunnels()
        .get_tunnel(one)
        .await
        .expect("there")
        .into_inner();
    let address: std::net::Ipv6Addr = "2001:db8:200::".parse().expect("address");
    let one = one.tunnel.expect("tunnel");
    assert_eq!(one.prefixes[0].address, address.octets());
    assert_eq!(one.owner, "static");

    // The same again changes nothing.
    let revision_now = daemon.shared.with(|control| control.revision());
    assert!(revision_now > revision);
    let report = reload(&daemon).await;
    assert!(report.applied && report.changes.is_empty());
    assert_eq!(
        daemon.shared.with(|control| control.revision()),
        revision_now
    );
    assert_eq!(daemon.ids().await, ["one", "t1", "two"]);

    write(
        &daemon,
        "[log]\nlevel = \"debug\"\n[worker]\nframes = 2048\n",
    );
    let report = reload(&daemon).await;
    assert!(report.applied);
    let changes = [
        "log.level: info -> debug",
        "remove tunnel one",
        "remove tunnel two",
    ];
    assert_eq!(report.changes, changes);
    assert_eq!(report.restart_required, ["worker"]);
    assert_eq!(daemon.ids().await, ["t1"]);
    // It is told again until the daemon restarts.
    assert_eq!(reload(&daemon).await.restart_required, ["worker"]);
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_configuration() {
    let daemon = Daemon::with_config(TWO).await;
    let before = daemon
        .system()
        .get_config(pb::GetConfigRequest {})
        .await
        .expect("answers");
    for bad in [
        "[[tunnel]]\nid = \"x\"\n",
        "nonsense",
        "[api]\nsocket = \"/x\"\n",
    ] {
        write(&daemon, bad);
        let report = reload(&daemon).await;
        assert!(!report.applied);
        assert!(
            report
                .findings
                .iter()
                .any(|f| f.severity() == pb::Severity::Error)
        );
        assert_eq!(daemon.ids().await, ["one", "two"]);
    }
    std::fs::remove_file(daemon.dir.path().join("dataplane.toml")).expect("removes");
    let report = reload(&daemon).await;
    assert!(!report.applied);
    assert_eq!(
        report.findings[0].message,
        "no such file; create it or name another with --config"
    );
    let after = daemon
        .system()
        .get_config(pb::GetConfigRequest {})
        .await
        .expect("answers");
    let (before, after) = (before.into_inner(), after.into_inner());
    assert_eq!((before.text.as_str(), after), (TWO, before.clone()));
}

#[tokio::test]
async fn a_file_that_takes_what_another_owner_has_is_refused_whole() {
    let daemon = Daemon::with_config(TWO).await;
    let session = daemon.open("dtcp", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1)]).await;
    let revision = daemon.shared.with(|control| control.revision());
    write(
        &daemon,
        &TWO.replace("2001:db8:200::/48", "2001:db8:1::/48")
            .replace("\"one\"", "\"1\""),
    );
    let report = reload(&daemon).await;
    assert!(!report.applied && report.changes.is_empty());
    let messages: Vec<_> = report
        .findings
        .iter()
        .map(|f| (&*f.key, &*f.message))
        .collect();
    let message = "prefix 2001:db8:1::/48 is tunnel \"t1\"'s of owner \"dtcp\"";
    assert!(messages.contains(&("tunnel[1]", message)), "{messages:?}");
    assert_eq!(daemon.ids().await, ["one", "t1", "two"]);
    assert_eq!(daemon.shared.with(|control| control.revision()), revision);
}

#[tokio::test]
async fn a_text_is_checked_without_being_applied() {
    let daemon = Daemon::with_config(TWO).await;
    let check = |text: String| {
        let mut client = daemon.system();
        let request = pb::CheckConfigRequest { text };
        async move {
            client
                .check_config(request)
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let more =
        format!("{TWO}[[tunnel]]\nid = \"three\"\nlocal = \"1.2.3.4\"\nremote = \"4.3.2.1\"\n");
    let good = check(more).await.expect("answers");
    assert!(good.valid);
    assert_eq!(good.changes, ["add tunnel three"]);
    let bad = check("[[tunnel]]\nid = \"a\"\nmtu = 9\n".into())
        .await
        .expect("answers");
    assert!(!bad.valid && bad.changes.is_empty());
    let errors: Vec<_> = bad
        .findings
        .iter()
        .filter(|f| f.severity() == pb::Severity::Error)
        .map(|f| (f.key.as_str(), f.line))
        .collect();
    assert_eq!(errors, [("tunnel[0].local", 1), ("tunnel[0].remote", 1)]);
    let huge = check(" ".repeat((1 << 20) + 1))
        .await
        .expect_err("too long");
    assert_eq!(said(&huge).2, "text: 1048577 bytes; at most 1048576");
    assert_eq!(daemon.ids().await, ["one", "two"]);
}

#[tokio::test]
async fn nothing_is_served_while_no_queue_is_bound() {
    let daemon = Daemon::start().await;
    let mut health = HealthClient::new(daemon.channel.clone());
    for (service, expected) in [
        ("", ServingStatus::NotServing),
        (
            "sixferry.dataplane.v1.TunnelService",
            ServingStatus::NotServing,
        ),
        (
            "sixferry.dataplane.v1.SystemService",
            ServingStatus::Serving,
        ),
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let status = health
            .check(request)
            .await
            .expect("answers")
            .into_inner()
            .status();
        assert_eq!(status, expected, "{service}");
    }
}

#[tokio::test]
async fn both_reflections_list_every_service() {
    use tonic_reflection::pb::{v1, v1alpha};
    let daemon = Daemon::start().await;
    let names = [
        "Counter",
        "Domain",
        "Event",
        "Neighbour",
        "Policy",
        "Port",
        "Route",
        "Session",
        "System",
        "Tunnel",
    ];
    let mut expected: Vec<String> = names
        .iter()
        .map(|name| format!("sixferry.dataplane.v1.{name}Service"))
        .collect();
    expected.insert(0, "grpc.health.v1.Health".to_owned());
    macro_rules! services {
        ($version:ident) => {{
            use $version::server_reflection_client::ServerReflectionClient;
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let request = $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = ServerReflectionClient::new(daemon.channel.clone());
            let stream = client
                .server_reflection_info(tokio_stream::iter([request]))
                .await;
            let mut stream = stream.expect("starts").into_inner();
            let answer = stream.message().await.expect("well").expect("answers");
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("no list: {answer:?}");
            };
            let mut names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
            names.retain(|name| !name.contains("reflection"));
            names.sort();
            names
        }};
    }
    assert_eq!(services!(v1), expected);
    assert_eq!(services!(v1alpha), expected);
}

#[tokio::test]
async fn a_second_daemon_does_not_take_the_socket() {
    use super::serve::LISTENER;
    use sixferry_service::{ServeError, bind_unix};
    let daemon = Daemon::start().await;
    let path = daemon.dir.path().join("dataplane.sock");
    let refused = bind_unix(LISTENER, &path).await.expect_err("in use");
    let expected = format!(
        "another sixferryd serves {}; stop it, or set another api.unix_socket",
        path.display()
    );
    assert_eq!(refused.to_string(), expected);
    // A file that a dead daemon left is replaced.
    let stale = daemon.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("binds"));
    let listener = bind_unix(LISTENER, &stale).await.expect("replaces");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&stale)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(listener);
    // Anything else is left alone.
    let file = daemon.dir.path().join("dataplane.toml");
    let refused = bind_unix(LISTENER, &file).await.expect_err("a file");
    assert!(
        matches!(refused, ServeError::NotASocket { .. }),
        "{refused}"
    );
}
