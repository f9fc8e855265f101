//! A dataplane with nothing behind it, which misbehaves on request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use sixferry_client::api;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use api::session_service_server::{SessionService, SessionServiceServer};
use api::tunnel_service_server::{TunnelService, TunnelServiceServer};

/// What the mock remembers and how it misbehaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) instance: String,
    pub(crate) tunnels: BTreeMap<String, api::Tunnel>,
    /// Lengths of the Program messages received, over all streams.
    pub(crate) batches: Vec<usize>,
    /// Program streams opened.
    pub(crate) streams: u32,
    /// After these many messages in all: apply, but break the stream instead of answering.
    pub(crate) break_after: Vec<usize>,
    /// Every stream breaks at its first message.
    pub(crate) always_break: bool,
    /// Never answer a Program message.
    pub(crate) silent: bool,
    /// `since_revision` of the watches opened.
    pub(crate) watches: Vec<Option<u64>>,
    /// Messages of the next watches; each list is one stream, which then breaks.
    pub(crate) watch_script: Vec<Vec<api::WatchTunnelsResponse>>,
    stale: Vec<String>,
    generation: u64,
}

/// A running mock. Dropping it cuts every connection, as `kill -9` would.
pub(crate) struct Server {
    runtime: Option<Runtime>,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start(path: &Path, instance: &str) -> Self {
        let state = State {
            instance: instance.to_owned(),
            ..State::default()
        };
        Self::resume(path, Arc::new(Mutex::new(state)))
    }

    /// Starts with the state of another one.
    pub(crate) fn resume(path: &Path, state: Arc<Mutex<State>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = Mock(state.clone());
        let path: PathBuf = path.to_owned();
        let _ = std::fs::remove_file(&path);
        let listener = {
            let _guard = runtime.enter();
            tokio::net::UnixListener::bind(&path).unwrap()
        };
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(SessionServiceServer::new(service.clone()))
                .add_service(TunnelServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
        });
        Self {
            runtime: Some(runtime),
            state,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Mock(Arc<Mutex<State>>);

impl Mock {
    fn instance(&self) -> String {
        self.0.lock().instance.clone()
    }

    /// Applies one message; `Err` breaks the stream.
    fn apply(
        &self,
        message: api::ProgramTunnelsRequest,
    ) -> Result<Option<api::ProgramTunnelsResponse>, Status> {
        let mut state = self.0.lock();
        if message.session != format!("session of {}", state.instance) {
            return Err(Status::aborted("SESSION_UNKNOWN"));
        }
        if state.always_break {
            return Err(Status::unavailable("told to break"));
        }
        state.batches.push(message.updates.len());
        let mut answer = api::ProgramTunnelsResponse {
            dataplane_instance_id: state.instance.clone(),
            applied_through_seq: message.seq,
            ..Default::default()
        };
        let mut counts = api::ApplyCounts::default();
        for (index, update) in message.updates.into_iter().enumerate() {
            match update.update.unwrap() {
                api::tunnel_update::Update::Upsert(upsert) => {
                    let tunnel = upsert.tunnel.unwrap();
                    if tunnel.id.starts_with("bad") {
                        answer.failures.push(refused(index));
                        continue;
                    }
                    state.stale.retain(|id| *id != tunnel.id);
                    match state.tunnels.insert(tunnel.id.clone(), tunnel.clone()) {
                        None => counts.created += 1,
                        Some(old) if old == tunnel => counts.unchanged += 1,
                        Some(_) => counts.updated += 1,
                    }
                }
                api::tunnel_update::Update::Delete(delete) => {
                    match state.tunnels.remove(&delete.id) {
                        Some(_) => counts.deleted += 1,
                        None => counts.unchanged += 1,
                    }
                }
            }
        }
        answer.counts = Some(counts);
        let atomicity = api::Atomicity::try_from(message.atomicity).unwrap();
        answer.rolled_back =
            atomicity == api::Atomicity::RollbackOnError && !answer.failures.is_empty();
        if state.silent {
            return Ok(None);
        }
        if state.break_after.contains(&state.batches.len()) {
            return Err(Status::unavailable("told to break"));
        }
        Ok(Some(answer))
    }
}

fn refused(index: usize) -> api::Failure {
    let mut details = ErrorDetails::new();
    details.set_error_info("INVALID_FIELD", "sixferry.dataplane", []);
    details.add_bad_request_violation(
        format!("updates[{index}].upsert.tunnel.id"),
        "starts with bad",
    );
    let status = Status::with_error_details(tonic::Code::InvalidArgument, "refused", details);
    api::Failure {
        index: index as u32,
        status: Some(tonic_types::pb::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: prost_details(&status),
        }),
    }
}

fn prost_details(status: &Status) -> Vec<prost_types::Any> {
    use tonic_types::pb;
    let decoded = <pb::Status as prost::Message>::decode(status.details()).unwrap();
    decoded.details
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Mock {
    async fn open_session(
        &self,
        _request: Request<api::OpenSessionRequest>,
    ) -> Result<Response<api::OpenSessionResponse>, Status> {
        let instance = self.instance();
        Ok(Response::new(api::OpenSessionResponse {
            session: format!("session of {instance}"),
            dataplane_instance_id: instance,
            ..Default::default()
        }))
    }

    async fn begin_sync(
        &self,
        _request: Request<api::BeginSyncRequest>,
    ) -> Result<Response<api::BeginSyncResponse>, Status> {
        let mut state = self.0.lock();
        state.generation += 1;
        state.stale = state.tunnels.keys().cloned().collect();
        Ok(Response::new(api::BeginSyncResponse {
            dataplane_instance_id: state.instance.clone(),
            generation: state.generation,
            stale_count: state.stale.len() as u64,
        }))
    }

    async fn commit_sync(
        &self,
        request: Request<api::CommitSyncRequest>,
    ) -> Result<Response<api::CommitSyncResponse>, Status> {
        let mut state = self.0.lock();
        assert_eq!(request.get_ref().generation, state.generation);
        let stale = std::mem::take(&mut state.stale);
        for id in &stale {
            state.tunnels.remove(id);
        }
        Ok(Response::new(api::CommitSyncResponse {
            dataplane_instance_id: state.instance.clone(),
            swept_tunnels: stale.len() as u64,
            ..Default::default()
        }))
    }

    async fn abort_sync(
        &self,
        _request: Request<api::AbortSyncRequest>,
    ) -> Result<Response<api::AbortSyncResponse>, Status> {
        let mut state = self.0.lock();
        state.stale.clear();
        Ok(Response::new(api::AbortSyncResponse {
            dataplane_instance_id: state.instance.clone(),
        }))
    }
}

#[tonic::async_trait]
impl TunnelService for Mock {
    type ProgramTunnelsStream = Answers<api::ProgramTunnelsResponse>;
    type WatchTunnelsStream = Answers<api::WatchTunnelsResponse>;

    async fn get_tunnel(
        &self,
        request: Request<api::GetTunnelRequest>,
    ) -> Result<Response<api::GetTunnelResponse>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"));
        let state = self.0.lock();
        match state.tunnels.get(&request.get_ref().id) {
            Some(tunnel) => Ok(Response::new(api::GetTunnelResponse {
                dataplane_instance_id: state.instance.clone(),
                tunnel: Some(tunnel.clone()),
            })),
            None => Err(Status::not_found("no such tunnel")),
        }
    }

    async fn list_tunnels(
        &self,
        request: Request<api::ListTunnelsRequest>,
    ) -> Result<Response<api::ListTunnelsResponse>, Status> {
        let state = self.0.lock();
        let request = request.get_ref();
        let size = request.page_size as usize;
        let later = state.tunnels.values().filter(|t| t.id > request.page_token);
        let tunnels: Vec<_> = later.take(size).cloned().collect();
        let next = tunnels.last().filter(|_| tunnels.len() == size);
        Ok(Response::new(api::ListTunnelsResponse {
            dataplane_instance_id: state.instance.clone(),
            next_page_token: next.map(|t| t.id.clone()).unwrap_or_default(),
            total_count: state.tunnels.len() as u64,
            tunnels,
        }))
    }

    async fn program_tunnels(
        &self,
        request: Request<Streaming<api::ProgramTunnelsRequest>>,
    ) -> Result<Response<Self::ProgramTunnelsStream>, Status> {
        self.0.lock().streams += 1;
        let mock = self.clone();
        let mut requests = request.into_inner();
        let (answers, receiver) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let mut last = 0;
            while let Some(Ok(message)) = requests.next().await {
                assert!(message.seq > last, "seq must increase");
                assert!(last > 0 || message.seq == 1, "seq must start at 1");
                last = message.seq;
                let result = mock.apply(message);
                let broken = result.is_err();
                if let Some(answer) = result.transpose() {
                    let _ = answers.send(answer).await;
                }
                if broken {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn watch_tunnels(
        &self,
        request: Request<api::WatchTunnelsRequest>,
    ) -> Result<Response<Self::WatchTunnelsStream>, Status> {
        let mut state = self.0.lock();
        state.watches.push(request.get_ref().since_revision);
        if state.watch_script.is_empty() {
            return Ok(Response::new(Box::pin(futures::stream::pending())));
        }
        let messages = state.watch_script.remove(0);
        let broken = futures::stream::iter([Err(Status::unavailable("told to break"))]);
        let script = futures::stream::iter(messages.into_iter().map(Ok)).chain(broken);
        Ok(Response::new(Box::pin(script)))
    }

    async fn lookup_tunnel(
        &self,
        _request: Request<api::LookupTunnelRequest>,
    ) -> Result<Response<api::LookupTunnelResponse>, Status> {
        // Slower than any test waits.
        std::future::pending().await
    }
}
