//! The API over a real unix socket, against the real control state, without a port: no root.

mod counters;
mod domains;
mod learnt;
mod listing;
mod policy;
mod program;
mod routes;
mod scale;
mod sessions;
mod system;
mod tls;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use sixferry_fwd::{Settings, Tables};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::counter_service_client::CounterServiceClient;
use sixferry_proto::dataplane::v1::domain_service_client::DomainServiceClient;
use sixferry_proto::dataplane::v1::event_service_client::EventServiceClient;
use sixferry_proto::dataplane::v1::neighbour_service_client::NeighbourServiceClient;
use sixferry_proto::dataplane::v1::policy_service_client::PolicyServiceClient;
use sixferry_proto::dataplane::v1::route_service_client::RouteServiceClient;
use sixferry_proto::dataplane::v1::session_service_client::SessionServiceClient;
use sixferry_proto::dataplane::v1::system_service_client::SystemServiceClient;
use sixferry_proto::dataplane::v1::tunnel_service_client::TunnelServiceClient;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::{RpcStatusExt, StatusExt};

use super::{Api, serve};
use crate::config::{self, Host};
use crate::control::Control;
use crate::control::shared::{News, Publish, Shared};
use crate::live::Live;
use crate::reload::Manager;
use crate::runtime::Runtime;

/// A host with everything a configuration may ask for.
pub(super) struct AnyHost;

impl Host for AnyHost {
    fn has_interface(&self, _name: &str) -> bool {
        true
    }

    fn has_dir(&self, _path: &Path) -> bool {
        true
    }

    fn can_read(&self, _path: &Path) -> Result<(), String> {
        Ok(())
    }

    fn cpus(&self) -> u32 {
        8
    }
}

/// Counts publications.
#[derive(Default)]
struct Published(Mutex<u64>);

impl Publish for Published {
    fn publish(&self, _tables: Arc<Tables>, _news: News<'_>) {
        *self.0.lock() += 1;
    }
}

/// A daemon without ports, and a connection to it.
pub(super) struct Daemon {
    pub(super) dir: TempDir,
    pub(super) shared: Arc<Shared>,
    pub(super) api: Api,
    pub(super) channel: Channel,
    published: Arc<Published>,
    publisher: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shared.stop_publishing();
        if let Some(thread) = self.publisher.take() {
            thread.join().expect("the publishing thread is well");
        }
    }
}

impl Daemon {
    pub(super) async fn start() -> Self {
        Self::with_config("").await
    }

    pub(super) async fn with_config(text: &str) -> Self {
        Self::with(text, Arc::new(crate::live::Idle::default())).await
    }

    /// With something that learns.
    pub(super) async fn with(text: &str, live: Arc<dyn Live>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dataplane.toml");
        std::fs::write(&path, text).expect("writes");
        let (text, checked) = config::check_file(&path, &AnyHost);
        let config = checked.config.expect("a good configuration");
        let instance: Arc<str> = "00112233445566778899aabbccddeeff".into();
        let control = Control::new(Settings::default(), 1, Arc::clone(&instance));
        let shared = Arc::new(Shared::new(control, instance));
        let manager = Manager::new(path, Box::new(AnyHost), text, config, Box::new(|_| {}));
        manager.start(&shared).expect("static tunnels fit");
        let published = Arc::new(Published::default());
        let publisher = {
            let (shared, published) = (Arc::clone(&shared), Arc::clone(&published));
            std::thread::spawn(move || shared.publish_changes(&*published))
        };
        let api = Api::new(
            Arc::clone(&shared),
            Arc::new(Runtime::default()),
            Arc::new(manager),
            live,
        );
        let socket = dir.path().join("dataplane.sock");
        let listener = sixferry_service::bind_unix(serve::LISTENER, &socket)
            .await
            .expect("binds");
        let server = serve::serve_unix(api.clone(), listener, std::future::pending());
        tokio::spawn(server);
        let channel = connect(socket).await;
        let publisher = Some(publisher);
        Self {
            dir,
            shared,
            api,
            channel,
            published,
            publisher,
        }
    }

    pub(super) fn publications(&self) -> u64 {
        *self.published.0.lock()
    }

    pub(super) fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    pub(super) fn tunnels(&self) -> TunnelServiceClient<Channel> {
        TunnelServiceClient::new(self.channel.clone())
    }

    pub(super) fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel.clone())
    }

    pub(super) fn domains(&self) -> DomainServiceClient<Channel> {
        DomainServiceClient::new(self.channel.clone())
    }

    pub(super) fn policy(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    pub(super) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub(super) fn neighbours(&self) -> NeighbourServiceClient<Channel> {
        NeighbourServiceClient::new(self.channel.clone())
    }

    pub(super) fn counters(&self) -> CounterServiceClient<Channel> {
        CounterServiceClient::new(self.channel.clone())
    }

    pub(super) fn system(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.channel.clone())
    }

    pub(super) async fn open(&self, owner: &str, low: u64) -> Result<String, Status> {
        let request = pb::OpenSessionRequest {
            owner: owner.to_owned(),
            election_id_high: 0,
            election_id_low: low,
        };
        Ok(self
            .sessions()
            .open_session(request)
            .await?
            .into_inner()
            .session)
    }

    /// Sends messages and collects the answers until the stream ends.
    pub(super) async fn program(
        &self,
        messages: Vec<pb::ProgramTunnelsRequest>,
    ) -> (Vec<pb::ProgramTunnelsResponse>, Option<Status>) {
        let stream = self
            .tunnels()
            .program_tunnels(tokio_stream::iter(messages))
            .await;
        collect(stream.expect("starts").into_inner()).await
    }

    /// Upserts tunnels in one message that must succeed as a whole.
    pub(super) async fn put(&self, session: &str, tunnels: Vec<pb::Tunnel>) -> pb::ApplyCounts {
        let updates = tunnels.into_iter().map(upsert).collect();
        let (answers, error) = self.program(vec![message(1, session, updates)]).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].failures, []);
        answers[0].counts.expect("counts")
    }

    pub(super) async fn ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListTunnelsRequest {
                page_size: 1000,
                page_token,
                ..pb::ListTunnelsRequest::default()
            };
            let page = self
                .tunnels()
                .list_tunnels(request)
                .await
                .expect("lists")
                .into_inner();
            ids.extend(page.tunnels.into_iter().map(|t| t.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                ids.sort();
                return ids;
            }
        }
    }
}

pub(super) async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint
        .connect_with_connector(connector)
        .await
        .expect("connects")
}

pub(super) async fn collect<T>(mut stream: Streaming<T>) -> (Vec<T>, Option<Status>) {
    let mut all = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => all.push(message),
            Ok(None) => return (all, None),
            Err(status) => return (all, Some(status)),
        }
    }
}

/// Tunnel `n` of many: its own remote address and /48.
pub(super) fn tunnel(n: u32) -> pb::Tunnel {
    let prefix = (0x2001_0db8_u128 << 96 | u128::from(n) << 80).to_be_bytes();
    pb::Tunnel {
        id: format!("t{n}"),
        local: vec![198, 51, 100, 1],
        remote: (0x0a00_0000 + n).to_be_bytes().to_vec(),
        prefixes: vec![pb::IpPrefix {
            address: prefix.to_vec(),
            length: 48,
        }],
        ..pb::Tunnel::default()
    }
}

pub(super) fn upsert(tunnel: pb::Tunnel) -> pb::TunnelUpdate {
    let upsert = pb::TunnelUpsert {
        tunnel: Some(tunnel),
        ..pb::TunnelUpsert::default()
    };
    pb::TunnelUpdate {
        update: Some(pb::tunnel_update::Update::Upsert(upsert)),
    }
}

pub(super) fn delete(id: &str, must_exist: bool) -> pb::TunnelUpdate {
    let delete = pb::TunnelDelete {
        id: id.to_owned(),
        must_exist,
    };
    pb::TunnelUpdate {
        update: Some(pb::tunnel_update::Update::Delete(delete)),
    }
}

pub(super) fn message(
    seq: u64,
    session: &str,
    updates: Vec<pb::TunnelUpdate>,
) -> pb::ProgramTunnelsRequest {
    pb::ProgramTunnelsRequest {
        seq,
        session: session.to_owned(),
        updates,
        ..pb::ProgramTunnelsRequest::default()
    }
}

/// Code, reason and text of a failed call.
pub(super) fn said(status: &Status) -> (Code, String, String) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has its reason");
    assert_eq!(info.domain, "sixferry.dataplane");
    (
        status.code(),
        info.reason.clone(),
        status.message().to_owned(),
    )
}

/// Index, code, reason and text of a failed entry.
pub(super) fn entry_said(failure: &pb::Failure) -> (u32, Code, String, String) {
    let status = failure.status.as_ref().expect("a status");
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .expect("every error has its reason")
        .reason
        .clone();
    (
        failure.index,
        Code::from_i32(status.code),
        reason,
        status.message.clone(),
    )
}
