//! Listening: the unix socket (mode 0660, the default) and TCP with mutual TLS.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_LEN};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Api;
use super::accept::bounded;
use super::deadline::RequireDeadline;
use crate::config::TcpConfig;
use crate::daemon::chain;

/// Longest a unary call may take; streams last as long as both sides like.
const MAX_CALL: Duration = Duration::from_secs(120);
/// Connections per listener.
const MAX_CONNECTIONS: usize = 256;
/// Calls in flight per connection.
const MAX_STREAMS: u32 = 128;
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the API cannot be served: cause and fix in one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("another sixferryd serves {0}; stop it, or set another api.unix_socket")]
    SocketInUse(PathBuf),
    #[error("{0} exists and is no socket; remove it, or set another api.unix_socket")]
    NotASocket(PathBuf),
    #[error("cannot listen on {path}: {source}; check the directory and its permissions")]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot listen on {listen}: {source}; stop what uses it, or set another {key}")]
    Tcp {
        key: &'static str,
        listen: std::net::SocketAddr,
        source: io::Error,
    },
    #[error("api.tcp: {0}; check cert, key and client_ca")]
    Tls(String),
}

/// Binds the unix socket. A file left by a daemon that is gone is replaced; one that answers is not.
pub(crate) async fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Unix {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        std::fs::create_dir(dir).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ServeError::NotASocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(ServeError::SocketInUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // By umask, not chmod: at no moment may others connect.
    let before = rustix::process::umask(Mode::from_raw_mode(0o117));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound.map_err(failed)
}

/// Binds the TCP socket of the API.
pub(crate) async fn bind_tcp(config: &TcpConfig) -> Result<TcpListener, ServeError> {
    let listen = config.listen;
    TcpListener::bind(listen)
        .await
        .map_err(|source| ServeError::Tcp {
            key: "api.tcp.listen",
            listen,
            source,
        })
}

/// The server's half of mutual TLS.
pub(crate) fn tls(config: &TcpConfig) -> Result<ServerTlsConfig, ServeError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|e| ServeError::Tls(format!("{}: {e}", path.display())))
    };
    let identity = Identity::from_pem(read(&config.cert)?, read(&config.key)?);
    let clients = Certificate::from_pem(read(&config.client_ca)?);
    let tls = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(clients);
    // Tried here, where a mistake still stops the start.
    builder()
        .tls_config(tls.clone())
        .map_err(|error| ServeError::Tls(chain(&error)))?;
    Ok(tls)
}

/// Serves the API on a unix socket until `stop` resolves.
pub(crate) async fn serve_unix(
    api: Api,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let router = router(builder(), api, false).await;
    let incoming = bounded(UnixListenerStream::new(listener), MAX_CONNECTIONS);
    router.serve_with_incoming_shutdown(incoming, stop).await
}

/// Serves the API over TCP with mutual TLS until `stop` resolves.
pub(crate) async fn serve_tcp(
    api: Api,
    listener: TcpListener,
    tls: ServerTlsConfig,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let router = router(builder().tls_config(tls)?, api, true).await;
    let incoming = bounded(TcpListenerStream::new(listener), MAX_CONNECTIONS);
    router.serve_with_incoming_shutdown(incoming, stop).await
}

fn builder() -> Server {
    Server::builder()
        .timeout(MAX_CALL)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

async fn router(mut builder: Server, api: Api, deadline: bool) -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    report_health(&reporter, !api.runtime.ports.is_empty()).await;
    let check = RequireDeadline(deadline);
    macro_rules! service {
        ($server:path) => {{
            type S = $server;
            let server = S::new(api.clone())
                .max_decoding_message_size(MAX_MESSAGE_LEN)
                .max_encoding_message_size(MAX_MESSAGE_LEN);
            InterceptedService::new(server, check)
        }};
    }
    // The descriptors are compiled in: a test proves that they can be read.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    builder
        .add_service(health)
        .add_optional_service(reflection().build_v1().ok())
        .add_optional_service(reflection().build_v1alpha().ok())
        .add_service(service!(
            pb::session_service_server::SessionServiceServer<Api>
        ))
        .add_service(service!(
            pb::tunnel_service_server::TunnelServiceServer<Api>
        ))
        .add_service(service!(pb::route_service_server::RouteServiceServer<Api>))
        .add_service(service!(
            pb::domain_service_server::DomainServiceServer<Api>
        ))
        .add_service(service!(
            pb::neighbour_service_server::NeighbourServiceServer<Api>
        ))
        .add_service(service!(
            pb::policy_service_server::PolicyServiceServer<Api>
        ))
        .add_service(service!(pb::event_service_server::EventServiceServer<Api>))
        .add_service(service!(pb::port_service_server::PortServiceServer<Api>))
        .add_service(service!(
            pb::counter_service_server::CounterServiceServer<Api>
        ))
        .add_service(service!(
            pb::system_service_server::SystemServiceServer<Api>
        ))
}

/// Without a queue no packet is forwarded, whatever the API says: a balancer must not choose us.
/// The daemon itself can still be asked and told to reload.
async fn report_health(reporter: &HealthReporter, bound: bool) {
    let status = if bound {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    let package = "sixferry.dataplane.v1";
    for service in [
        "SessionService",
        "TunnelService",
        "RouteService",
        "DomainService",
        "NeighbourService",
        "EventService",
        "PortService",
        "CounterService",
    ] {
        reporter
            .set_service_status(format!("{package}.{service}"), status)
            .await;
    }
    for service in ["SystemService", "PolicyService"] {
        reporter
            .set_service_status(format!("{package}.{service}"), ServingStatus::Serving)
            .await;
    }
    reporter.set_service_status("", status).await;
}
