//! The tables that are written over a Program stream: what differs between their messages.

use sixferry_proto::dataplane::v1 as api;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use api::domain_service_client::DomainServiceClient;
use api::route_service_client::RouteServiceClient;
use api::tunnel_service_client::TunnelServiceClient;

use crate::{DomainUpdate, RouteUpdate, TunnelUpdate};

/// What precedes the updates of every message.
pub(crate) struct Header {
    pub(crate) seq: u64,
    pub(crate) session: String,
    pub(crate) atomicity: api::Atomicity,
    pub(crate) validate_only: bool,
}

/// The answer to one message.
pub(crate) struct Ack {
    pub(crate) instance: String,
    pub(crate) through: u64,
    pub(crate) failures: Vec<api::Failure>,
    pub(crate) counts: api::ApplyCounts,
    pub(crate) revision: u64,
    pub(crate) rolled_back: bool,
}

/// A table that is written over a Program stream.
pub(crate) trait Table {
    const CALL: &'static str;
    type Update: Send;
    type Request: Send + 'static;
    type Response: Send;

    fn request(header: Header, updates: &[Self::Update]) -> Self::Request;
    fn open(
        channel: Channel,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;
    fn ack(response: Self::Response) -> Ack;
    fn key(update: &Self::Update) -> String;
    fn is_idempotent(update: &Self::Update) -> bool;
}

/// The messages of all tables have the same fields, but not the same type.
macro_rules! table {
    ($table:ident, $update:ident, $request:ident, $response:ident,
     $call:literal = $service:ident.$method:ident, revision: $revision:expr) => {
        pub(crate) struct $table;

        impl Table for $table {
            const CALL: &'static str = $call;
            type Update = $update;
            type Request = api::$request;
            type Response = api::$response;

            fn request(header: Header, updates: &[$update]) -> api::$request {
                api::$request {
                    seq: header.seq,
                    session: header.session,
                    atomicity: header.atomicity.into(),
                    validate_only: header.validate_only,
                    updates: updates.iter().map($update::to_proto).collect(),
                }
            }

            async fn open(
                channel: Channel,
                requests: Request<ReceiverStream<api::$request>>,
            ) -> Result<Response<Streaming<api::$response>>, Status> {
                $service::new(channel).$method(requests).await
            }

            fn ack(response: api::$response) -> Ack {
                let revision: fn(&api::$response) -> u64 = $revision;
                Ack {
                    revision: revision(&response),
                    instance: response.dataplane_instance_id,
                    through: response.applied_through_seq,
                    failures: response.failures,
                    counts: response.counts.unwrap_or_default(),
                    rolled_back: response.rolled_back,
                }
            }

            fn key(update: &$update) -> String {
                update.key().to_string()
            }

            fn is_idempotent(update: &$update) -> bool {
                update.is_idempotent()
            }
        }
    };
}

table!(
    Tunnels, TunnelUpdate, ProgramTunnelsRequest, ProgramTunnelsResponse,
    "ProgramTunnels" = TunnelServiceClient.program_tunnels, revision: |answer| answer.revision
);
table!(
    Routes, RouteUpdate, ProgramRoutesRequest, ProgramRoutesResponse,
    "ProgramRoutes" = RouteServiceClient.program_routes, revision: |_| 0
);
table!(
    Domains, DomainUpdate, ProgramDomainsRequest, ProgramDomainsResponse,
    "ProgramDomains" = DomainServiceClient.program_domains, revision: |answer| answer.revision
);
