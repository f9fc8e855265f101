//! The API over a unix socket, with the real lifecycle on SQLite and no dataplane.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sixferry_client::control::{ControlClient, api as pb};
use sixferry_client::{Options, Target};
use sixferry_lifecycle::{Cause, Digest, Tunnels};
use sixferry_remote::RemoteLifecycle;
use sixferry_service::bind_unix;
use tokio::sync::{mpsc, watch};

use super::serve::{LISTENER, serve_unix};
use super::{Api, LifecyclePlace};
use crate::config::check_file;
use crate::parts::{Board, Place};
use crate::plugins::LifecyclePart;
use crate::reload::Manager;

struct Daemon {
    dir: tempfile::TempDir,
    board: Arc<Board>,
    target: Target,
    stop: watch::Sender<bool>,
    part: tokio::task::JoinHandle<()>,
}

impl Daemon {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = format!(
            "[control]\nstate_dir = {:?}\nunix_socket = {:?}\n[lifecycle]\nwait_seconds = 1\n\
             [[dataplane]]\naddress = {:?}\n",
            at("state"),
            at("c.sock"),
            format!("unix:{}", at("nobody.sock").display()),
        );
        std::fs::write(at("c.toml"), text).unwrap();
        let (_, checked) = check_file(&at("c.toml"), None);
        let config = checked.config.expect("a good file");
        let board = Arc::new(Board::new());
        let place: LifecyclePlace = Arc::new(Place::empty());
        let dtcp = Arc::new(Place::empty());
        let (stop, stopped) = watch::channel(false);
        let (fatal, mut failed) = mpsc::channel(1);
        let part = LifecyclePart {
            board: Arc::clone(&board),
            place: Arc::clone(&place),
            config: config.clone(),
            stopped,
            fatal,
        };
        let part = tokio::spawn(part.run());
        let mut changes = board.watch();
        while place.get().is_none() {
            tokio::select! {
                changed = changes.changed() => changed.unwrap(),
                Some(why) = failed.recv() => panic!("{why}"),
            }
        }
        let grace = config.lifecycle.grace;
        let manager = Manager::new(at("c.toml"), config, Arc::clone(&dtcp), Box::new(|_| {}));
        let manager = Arc::new(manager);
        let api = Api::new(Arc::clone(&board), Some(place), dtcp, manager, grace);
        let listener = bind_unix(LISTENER, &at("c.sock")).await.unwrap();
        tokio::spawn(serve_unix(api, listener, std::future::pending()));
        Self {
            target: Target::Unix(at("c.sock")),
            dir,
            board,
            stop,
            part,
        }
    }

    async fn client(&self) -> ControlClient {
        ControlClient::connect(&self.target, &options())
            .await
            .unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("c.toml")
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.part.await.unwrap();
    }
}

fn options() -> Options {
    Options {
        timeout: Duration::from_secs(20),
    }
}

fn prefix(text: &str) -> pb::Prefix {
    sixferry_remote::convert::prefix_message(text.parse().unwrap())
}

fn user(name: &str) -> pb::CreateUserRequest {
    pb::CreateUserRequest {
        user: Some(pb::User {
            name: name.to_owned(),
            ..pb::User::default()
        }),
        secret: b"open sesame".to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_change_and_go() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let created = client
        .create_user(user("alice"))
        .await
        .unwrap()
        .user
        .unwrap();
    assert!(created.has_secret && created.id > 0);
    let again = client.create_user(user("alice")).await.unwrap_err();
    assert_eq!(again.reason(), Some("USER_EXISTS"), "{again}");
    let bad = client.create_user(user("a b")).await.unwrap_err();
    assert_eq!(bad.reason(), Some("INVALID_FIELD"), "{bad}");

    let set = pb::SetUserRequest {
        user: Some(pb::User {
            name: "alice".into(),
            prefixes: vec![prefix("2001:db8:100::/48")],
            status: pb::UserStatus::Suspended.into(),
            ..pb::User::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["prefixes".into(), "status".into()],
        }),
        clear_secret: true,
        ..pb::SetUserRequest::default()
    };
    let changed = client.set_user(set.clone()).await.unwrap().user.unwrap();
    assert_eq!(changed.prefixes, [prefix("2001:db8:100::/48")]);
    assert_eq!(changed.status(), pb::UserStatus::Suspended);
    assert!(!changed.has_secret);
    let mut unknown = set;
    unknown.update_mask.as_mut().unwrap().paths = vec!["name".into()];
    let error = client.set_user(unknown).await.unwrap_err();
    assert!(
        error.to_string().contains("status and prefixes can"),
        "{error}"
    );

    for name in ["bob", "carol"] {
        client.create_user(user(name)).await.unwrap();
    }
    let mut request = pb::ListUsersRequest {
        page_size: 2,
        ..pb::ListUsersRequest::default()
    };
    let mut names = Vec::new();
    loop {
        let page = client.list_users(request.clone()).await.unwrap();
        assert_eq!(page.total_count, 3);
        names.extend(page.users.into_iter().map(|user| user.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["alice", "bob", "carol"]);
    let delete = pb::DeleteUserRequest { name: "bob".into() };
    client.delete_user(delete.clone()).await.unwrap();
    let gone = client.delete_user(delete).await.unwrap_err();
    assert_eq!(gone.reason(), Some("USER_NOT_FOUND"), "{gone}");
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_with_secrets_is_local_and_comes_back() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create_user(user("alice")).await.unwrap();
    let mut pages = client.export_users(true).await.unwrap();
    let page = pages.message().await.unwrap().unwrap();
    assert_eq!(page.entries[0].secret, b"open sesame");
    let mut pages = client.export_users(false).await.unwrap();
    let bare = pages.message().await.unwrap().unwrap();
    assert_eq!(bare.entries[0].secret, b"");

    let mut entries = page.entries;
    let bob = entries[0].user.as_mut().unwrap();
    bob.name = "bob".into();
    bob.status = pb::UserStatus::Suspended.into();
    entries.push(pb::UserEntry {
        user: Some(pb::User {
            name: "no good".into(),
            ..pb::User::default()
        }),
        secret: Vec::new(),
    });
    let import = pb::ImportUsersRequest {
        entries,
        create_only: true,
    };
    let mut answers = client.import_users(vec![import]).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(
        (answer.created, answer.failures.len()),
        (1, 1),
        "{answer:?}"
    );
    assert_eq!(answer.failures[0].index, 1);
    let get = pb::GetUserRequest { name: "bob".into() };
    let bob = client.get_user(get).await.unwrap().user.unwrap();
    assert_eq!(bob.status(), pb::UserStatus::Suspended);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_give_and_take_prefixes() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create_user(user("alice")).await.unwrap();
    let pool = pb::Pool {
        name: "sites".into(),
        prefix: Some(prefix("2001:db8:1000::/36")),
        delegated_length: 48,
        quarantine_seconds: 3600,
    };
    let create = pb::CreatePoolRequest { pool: Some(pool) };
    client.create_pool(create.clone()).await.unwrap();
    let again = client.create_pool(create).await.unwrap_err();
    assert_eq!(again.reason(), Some("POOL_EXISTS"), "{again}");
    let assign = pb::AssignPrefixRequest {
        user: "alice".into(),
        pool: "sites".into(),
        prefix: None,
    };
    let given = client.assign_prefix(assign.clone()).await.unwrap();
    assert_eq!(
        given.user.unwrap().prefixes,
        [given.prefix.clone().unwrap()]
    );
    let pools = client
        .list_pools(pb::ListPoolsRequest {})
        .await
        .unwrap()
        .pools;
    assert_eq!((pools[0].used, pools[0].capacity), (1, 4096));
    let foreign = pb::AssignPrefixRequest {
        prefix: Some(prefix("2001:db8:9999::/48")),
        ..assign
    };
    let error = client.assign_prefix(foreign).await.unwrap_err();
    assert_eq!(error.reason(), Some("INVALID_FIELD"), "{error}");
    let release = pb::ReleasePrefixRequest {
        user: "alice".into(),
        prefix: given.prefix,
    };
    let left = client.release_prefix(release).await.unwrap().user.unwrap();
    assert_eq!(left.prefixes, []);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_named_at_once_are_given_once_and_none_is_lost() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for name in ["alice", "bob"] {
        client.create_user(user(name)).await.unwrap();
    }
    let pool = pb::Pool {
        name: "sites".into(),
        prefix: Some(prefix("2001:db8:1000::/44")),
        delegated_length: 48,
        quarantine_seconds: 3600,
    };
    let create = pb::CreatePoolRequest { pool: Some(pool) };
    client.create_pool(create).await.unwrap();
    let assign = |user: &str, number: u32| {
        let request = pb::AssignPrefixRequest {
            user: user.into(),
            pool: "sites".into(),
            prefix: Some(prefix(&format!("2001:db8:100{number:x}::/48"))),
        };
        let client = client.clone();
        tokio::spawn(async move { client.assign_prefix(request).await })
    };
    let asked: Vec<_> = (0..16)
        .flat_map(|number| [assign("alice", number), assign("bob", number)])
        .collect();
    let (mut given, mut refused) = (0, 0);
    for asked in asked {
        match asked.await.unwrap() {
            Ok(_) => given += 1,
            Err(error) => {
                assert_eq!(error.reason(), Some("PREFIX_IN_USE"), "{error}");
                assert!(error.to_string().contains("belongs to"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((given, refused), (16, 16));
    let list = pb::ListUsersRequest::default();
    let users = client.list_users(list).await.unwrap().users;
    let all = users.iter().flat_map(|user| &user.prefixes);
    let mut all: Vec<_> = all.map(|prefix| prefix.address.clone()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 16, "each is somebody's: {users:?}");
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_off_says_so() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let off = client
        .list_sessions(pb::ListSessionsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(off.reason(), Some("PLUGIN_OFF"), "{off}");
    let tunnel = pb::GetTunnelRequest { id: "t7".into() };
    let error = client.get_tunnel(tunnel).await.unwrap_err();
    assert_eq!(error.reason(), Some("TUNNEL_NOT_FOUND"), "{error}");
    let list = pb::ListTunnelsRequest {
        page_token: "junk".into(),
        ..pb::ListTunnelsRequest::default()
    };
    let error = client.list_tunnels(list).await.unwrap_err();
    assert_eq!(error.reason(), Some("BAD_PAGE_TOKEN"), "{error}");
    let error = client
        .disconnect_tunnels(pb::DisconnectTunnelsRequest::default())
        .await;
    assert_eq!(error.unwrap_err().reason(), Some("INVALID_FIELD"));
    let status = client.get_status(pb::GetStatusRequest {}).await.unwrap();
    let names: Vec<_> = status.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["dataplane local", "lifecycle", "store"]);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_keeps_the_old_configuration() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let text = std::fs::read_to_string(daemon.file()).unwrap();
    std::fs::write(daemon.file(), format!("{text}nonsense = 1\n")).unwrap();
    let report = client
        .reload_config(pb::ReloadConfigRequest {})
        .await
        .unwrap();
    assert!(!report.applied && report.findings[0].line > 0, "{report:?}");
    std::fs::write(daemon.file(), format!("{text}[log]\nlevel = \"debug\"\n")).unwrap();
    let report = client
        .reload_config(pb::ReloadConfigRequest {})
        .await
        .unwrap();
    assert_eq!(report.changes, ["log.level: info -> debug"], "{report:?}");
    let text = format!("{text}[lifecycle]\ngrace_seconds = 1\n");
    let checked = client
        .check_config(pb::CheckConfigRequest { text })
        .await
        .unwrap();
    assert!(!checked.valid, "the section is there twice");
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_elsewhere_logs_users_in_and_is_told_what_it_cannot_have() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create_user(user("alice")).await.unwrap();
    let remote = RemoteLifecycle::start(&daemon.target, &options()).unwrap();
    let attempt = |digest| Digest {
        user: b"alice",
        challenge: b"<1.2@relay>",
        digest,
    };
    let denied = remote.authenticate(attempt([0; 16])).await.unwrap();
    assert!(denied.is_err());
    let lease = (
        sixferry_lifecycle::TunnelId(99),
        sixferry_lifecycle::LeaseNumber(1),
    );
    assert_eq!(remote.holds(&[lease]).await.unwrap(), [false]);
    // Not his: nothing happens, and that is no error.
    remote.release(lease.0, lease.1, Cause::Quit).await.unwrap();
    assert!(daemon.board.read().contains_key("lifecycle"));
    daemon.end().await;
}
