//! Serving: the unix socket (the default) and TCP with mutual TLS.

use std::future::Future;

use sixferry_proto::MAX_MESSAGE_LEN;
use sixferry_proto::control::{ERROR_DOMAIN, FILE_DESCRIPTOR_SET, v1 as pb};
use sixferry_service::{Listener, MAX_CONNECTIONS, RequireDeadline, bounded, reflection, server};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Router;
use tonic::transport::{Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Api;

/// For messages about the listeners.
pub(crate) const LISTENER: Listener = Listener {
    program: "sixferry-control",
    section: "control",
};

/// The services that need each part.
const NEEDS: [(&str, &[&str]); 2] = [
    (
        "lifecycle",
        &[
            "UserService",
            "PrefixPoolService",
            "TunnelAdminService",
            "LifecycleService",
        ],
    ),
    ("dtcp", &["DtcpAdminService"]),
];

/// Serves the API on a unix socket until `stop` resolves.
pub(crate) async fn serve_unix(
    api: Api,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (router, _health) = router(server(), api.local(), false).await;
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
    let (router, _health) = router(server().tls_config(tls)?, api, true).await;
    let incoming = bounded(TcpListenerStream::new(listener), MAX_CONNECTIONS);
    router.serve_with_incoming_shutdown(incoming, stop).await
}

/// Ends with what it belongs to.
struct Reporting(tokio::task::JoinHandle<()>);

impl Drop for Reporting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn router(mut builder: Server, api: Api, required: bool) -> (Router, Reporting) {
    let (reporter, health) = tonic_health::server::health_reporter();
    report_health(&reporter, &api).await;
    let reporting = {
        let api = api.clone();
        tokio::spawn(async move {
            let mut changes = api.board.watch();
            while changes.changed().await.is_ok() {
                report_health(&reporter, &api).await;
            }
        })
    };
    let check = RequireDeadline {
        required,
        domain: ERROR_DOMAIN,
    };
    macro_rules! service {
        ($server:path) => {{
            type S = $server;
            let server = S::new(api.clone())
                .max_decoding_message_size(MAX_MESSAGE_LEN)
                .max_encoding_message_size(MAX_MESSAGE_LEN);
            InterceptedService::new(server, check)
        }};
    }
    let reflected = reflection(FILE_DESCRIPTOR_SET);
    let router = builder
        .add_service(health)
        .add_optional_service(reflected.v1)
        .add_optional_service(reflected.v1alpha)
        .add_service(service!(pb::user_service_server::UserServiceServer<Api>))
        .add_service(service!(
            pb::prefix_pool_service_server::PrefixPoolServiceServer<Api>
        ))
        .add_service(service!(
            pb::tunnel_admin_service_server::TunnelAdminServiceServer<Api>
        ))
        .add_service(service!(
            pb::dtcp_admin_service_server::DtcpAdminServiceServer<Api>
        ))
        .add_service(service!(
            pb::lifecycle_service_server::LifecycleServiceServer<Api>
        ))
        .add_service(service!(
            pb::system_service_server::SystemServiceServer<Api>
        ));
    (router, Reporting(reporting))
}

/// A service is there when its part runs; the daemon as a whole when all of its parts do.
async fn report_health(reporter: &HealthReporter, api: &Api) {
    let parts = api.board.read();
    let status = |serving: bool| match serving {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    let package = "sixferry.control.v1";
    for (part, services) in NEEDS {
        let up = parts.get(part).is_some_and(|part| part.up);
        for service in services {
            let name = format!("{package}.{service}");
            reporter.set_service_status(name, status(up)).await;
        }
    }
    let name = format!("{package}.SystemService");
    reporter
        .set_service_status(name, ServingStatus::Serving)
        .await;
    let all = parts.values().all(|part| part.up);
    reporter.set_service_status("", status(all)).await;
}
