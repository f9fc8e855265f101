//! The dataplane's API as a test wants it: blocking, and without the product's own client, whose
//! retries would hide what a test looks for.

use std::fmt::Write;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sixferry_proto::dataplane::v1::counter_service_client::CounterServiceClient;
use sixferry_proto::dataplane::v1::port_service_client::PortServiceClient;
use sixferry_proto::dataplane::v1::session_service_client::SessionServiceClient;
use sixferry_proto::dataplane::v1::system_service_client::SystemServiceClient;
use sixferry_proto::dataplane::v1::tunnel_service_client::TunnelServiceClient;
use sixferry_proto::dataplane::v1::tunnel_update::Update;
use sixferry_proto::dataplane::v1::{
    Atomicity, BeginSyncRequest, CommitSyncRequest, CommitSyncResponse, CounterReport,
    CounterSelection, Encapsulation, GetInfoRequest, GetInfoResponse, GetTunnelRequest, IpPrefix,
    ListPortsRequest, OpenSessionRequest, Port, ProgramTunnelsRequest, ProgramTunnelsResponse,
    ReadCountersRequest, Tunnel, TunnelDelete, TunnelUpdate, TunnelUpsert, WriteMode,
};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// No call of a test takes longer.
const CALL: Duration = Duration::from_secs(20);

/// A connection to a dataplane.
#[derive(Debug)]
pub struct Api {
    runtime: Runtime,
    channel: Channel,
}

/// An answer, or why not; boxed because a status is large.
pub type Answer<T> = Result<T, Box<Status>>;

impl Api {
    /// Connects to the socket at `path`; `None` while nobody listens there.
    ///
    /// # Panics
    /// When no runtime can be made.
    #[must_use]
    pub fn connect(path: &Path) -> Option<Self> {
        // with a thread of its own: it must answer the daemon's pings also while a test does other things
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let path: PathBuf = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(CALL);
        let channel = runtime
            .block_on(endpoint.connect_with_connector(connector))
            .ok()?;
        Some(Self { runtime, channel })
    }

    /// What the daemon says about itself.
    ///
    /// # Errors
    /// As the daemon answers.
    pub fn info(&self) -> Answer<GetInfoResponse> {
        let mut client = SystemServiceClient::new(self.channel.clone());
        self.call(async move { client.get_info(GetInfoRequest {}).await })
    }

    /// All counters, with one row per worker.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[must_use]
    pub fn counters(&self) -> CounterReport {
        let mut client = CounterServiceClient::new(self.channel.clone());
        let selection = CounterSelection {
            per_worker: true,
            ..Default::default()
        };
        let request = ReadCountersRequest {
            selection: Some(selection),
        };
        let answer = self.call(async move { client.read_counters(request).await });
        answer.expect("the counters").report.expect("a report")
    }

    /// All ports.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[must_use]
    pub fn ports(&self) -> Vec<Port> {
        let mut client = PortServiceClient::new(self.channel.clone());
        let answer = self.call(async move { client.list_ports(ListPortsRequest {}).await });
        answer.expect("the ports").ports
    }

    /// One tunnel.
    ///
    /// # Errors
    /// As the daemon answers.
    pub fn tunnel(&self, id: &str) -> Answer<Tunnel> {
        let mut client = TunnelServiceClient::new(self.channel.clone());
        let request = GetTunnelRequest {
            id: id.to_owned(),
            read_mask: None,
        };
        let answer = self.call(async move { client.get_tunnel(request).await })?;
        answer
            .tunnel
            .ok_or_else(|| Box::new(Status::internal("an answer without a tunnel")))
    }

    /// Counters and ports as text, for failure messages; never fails itself.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut counters = CounterServiceClient::new(self.channel.clone());
        let mut ports = PortServiceClient::new(self.channel.clone());
        let request = ReadCountersRequest::default();
        let counters = self.call(async move { counters.read_counters(request).await });
        let ports = self.call(async move { ports.list_ports(ListPortsRequest {}).await });
        let mut text = String::new();
        let total = counters
            .ok()
            .and_then(|answer| answer.report)
            .and_then(|r| r.total);
        if let Some(total) = total {
            let _ = writeln!(
                text,
                "counters: received {:?} injected {:?} forwarded {:?} answered {:?} punted {:?}",
                total.received, total.injected, total.forwarded, total.answered, total.punted
            );
            for drop in total
                .drops
                .iter()
                .filter(|drop| drop.count.is_some_and(|c| c.packets > 0))
            {
                let _ = writeln!(text, "  dropped {} {:?}", drop.reason, drop.count);
            }
            for punt in total.punts.iter().filter(|punt| punt.packets > 0) {
                let _ = writeln!(text, "  punted {} {}", punt.reason, punt.packets);
            }
        }
        for port in ports.map_or_else(|_| Vec::new(), |answer| answer.ports) {
            let _ = writeln!(text, "port {}: {:?}", port.name, port.counters);
            for steering in port.steering.iter().filter(|steering| steering.packets > 0) {
                let _ = writeln!(text, "  {} {}", steering.outcome, steering.packets);
            }
        }
        text
    }

    /// Opens a session that fences every earlier one of the same owner.
    ///
    /// # Errors
    /// As the daemon answers.
    pub fn open_session(&self, owner: &str, election_id: u64) -> Answer<String> {
        let mut client = SessionServiceClient::new(self.channel.clone());
        let request = OpenSessionRequest {
            owner: owner.to_owned(),
            election_id_high: 0,
            election_id_low: election_id,
        };
        Ok(self
            .call(async move { client.open_session(request).await })?
            .session)
    }

    /// Begins a re-sync; the generation to commit.
    ///
    /// # Errors
    /// As the daemon answers.
    pub fn begin_sync(&self, session: &str) -> Answer<u64> {
        let mut client = SessionServiceClient::new(self.channel.clone());
        let request = BeginSyncRequest {
            session: session.to_owned(),
        };
        Ok(self
            .call(async move { client.begin_sync(request).await })?
            .generation)
    }

    /// Ends a re-sync: what was not mentioned since goes.
    ///
    /// # Errors
    /// As the daemon answers.
    pub fn commit_sync(&self, session: &str, generation: u64) -> Answer<CommitSyncResponse> {
        let mut client = SessionServiceClient::new(self.channel.clone());
        let request = CommitSyncRequest {
            session: session.to_owned(),
            generation,
        };
        self.call(async move { client.commit_sync(request).await })
    }

    /// Sends batches on one stream and gives every answer.
    ///
    /// # Errors
    /// As the daemon answers.
    pub fn program(
        &self,
        session: &str,
        batches: Vec<Vec<TunnelUpdate>>,
    ) -> Answer<Vec<ProgramTunnelsResponse>> {
        let mut client = TunnelServiceClient::new(self.channel.clone());
        let requests: Vec<ProgramTunnelsRequest> = (1..)
            .zip(batches)
            .map(|(seq, updates)| ProgramTunnelsRequest {
                seq,
                session: session.to_owned(),
                atomicity: Atomicity::RollbackOnError.into(),
                validate_only: false,
                updates,
            })
            .collect();
        self.runtime.block_on(async move {
            let stream = client.program_tunnels(tokio_stream::iter(requests)).await;
            let mut stream = stream.map_err(Box::new)?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await.map_err(Box::new)? {
                answers.push(answer);
            }
            Ok(answers)
        })
    }

    fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Answer<T> {
        self.runtime
            .block_on(call)
            .map(tonic::Response::into_inner)
            .map_err(Box::new)
    }
}

/// A 6in4 tunnel with one prefix and defaults for the rest.
///
/// # Panics
/// When `prefix` is none.
#[must_use]
pub fn tunnel(id: &str, local: Ipv4Addr, remote: Ipv4Addr, prefix: &str) -> Tunnel {
    Tunnel {
        id: id.to_owned(),
        encapsulation: Encapsulation::SixInFour.into(),
        local: local.octets().to_vec(),
        remote: remote.octets().to_vec(),
        prefixes: vec![ip_prefix(prefix)],
        ..Default::default()
    }
}

/// A prefix as the API writes it.
///
/// # Panics
/// When the text is none.
#[must_use]
pub fn ip_prefix(text: &str) -> IpPrefix {
    let (address, length) = text.split_once('/').expect("address/length");
    let address: Ipv6Addr = address.parse().expect("an IPv6 address");
    IpPrefix {
        address: address.octets().to_vec(),
        length: length.parse().expect("a prefix length"),
    }
}

/// Writes a tunnel, whether or not it is there.
#[must_use]
pub fn upsert(tunnel: Tunnel) -> TunnelUpdate {
    let upsert = TunnelUpsert {
        tunnel: Some(tunnel),
        update_mask: None,
        mode: WriteMode::Upsert.into(),
    };
    TunnelUpdate {
        update: Some(Update::Upsert(upsert)),
    }
}

/// Removes a tunnel.
#[must_use]
pub fn delete(id: &str) -> TunnelUpdate {
    let delete = TunnelDelete {
        id: id.to_owned(),
        must_exist: true,
    };
    TunnelUpdate {
        update: Some(Update::Delete(delete)),
    }
}
