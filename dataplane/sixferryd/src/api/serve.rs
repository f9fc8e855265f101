//! Serving: the unix socket (the default) and TCP with mutual TLS.

use sixferry_proto::MAX_MESSAGE_LEN;
use sixferry_proto::dataplane::{ERROR_DOMAIN, FILE_DESCRIPTOR_SET, v1 as pb};
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
    program: "sixferryd",
    section: "api",
};

/// Serves the API on a unix socket until `stop` resolves.
pub(crate) async fn serve_unix(
    api: Api,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let router = router(server(), api, false).await;
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
    let router = router(server().tls_config(tls)?, api, true).await;
    let incoming = bounded(TcpListenerStream::new(listener), MAX_CONNECTIONS);
    router.serve_with_incoming_shutdown(incoming, stop).await
}

async fn router(mut builder: Server, api: Api, deadline: bool) -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    report_health(&reporter, !api.runtime.ports.is_empty()).await;
    let check = RequireDeadline {
        required: deadline,
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
    builder
        .add_service(health)
        .add_optional_service(reflected.v1)
        .add_optional_service(reflected.v1alpha)
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
