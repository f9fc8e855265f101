//! RouteService.

use std::net::IpAddr;

use sixferry_fwd::{Route, RouteView, TunnelId};
use sixferry_proto::MAX_PAGE_SIZE;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::route_service_server::RouteService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::program::{self, Applied, Message, Program};
use super::{Api, page_size};
use crate::control::error::Error;
use crate::control::routes::{Origin, RouteOp};
use crate::control::session::OwnerId;
use crate::control::{Atomicity, Control, Outcome};
use crate::convert::route::{route_message, route_op};
use crate::convert::{counts_message, ip_from, prefix_message};
use crate::netlink::Prefix;

#[tonic::async_trait]
impl RouteService for Api {
    async fn list_routes(
        &self,
        request: Request<pb::ListRoutesRequest>,
    ) -> Result<Response<pb::ListRoutesResponse>, Status> {
        let request = request.into_inner();
        let only = match pb::RouteOrigin::try_from(request.origin) {
            Ok(pb::RouteOrigin::Unspecified) => None,
            Ok(pb::RouteOrigin::Api) => Some(Origin::Api),
            Ok(pb::RouteOrigin::Neighbour) => Some(Origin::Neighbour),
            Ok(pb::RouteOrigin::Kernel) => Some(Origin::Kernel),
            Ok(pb::RouteOrigin::Tunnel) | Err(_) => {
                let text = "give API, NEIGHBOUR or KERNEL; ListTunnels has the tunnels' prefixes";
                return Err(Error::field("origin", text).into());
            }
        };
        let most = page_size(request.page_size, MAX_PAGE_SIZE);
        let after = self.route_cursor(&request.page_token)?;
        let (routes, last) = self.shared.with(|control| {
            let owner = match request.owner.as_str() {
                "" => None,
                name => match control.find_owner(name) {
                    Some(owner) => Some(owner),
                    None => return (Vec::new(), None),
                },
            };
            let (entries, more) = control.list_routes(after, only, owner, most);
            let last = entries
                .last()
                .filter(|_| more)
                .map(|e| (e.origin, e.prefix));
            (
                entries.iter().map(|e| route_message(e, control)).collect(),
                last,
            )
        });
        Ok(Response::new(pb::ListRoutesResponse {
            dataplane_instance_id: self.instance(),
            routes,
            next_page_token: last.map_or_else(String::new, |last| self.route_token(last)),
        }))
    }

    type ProgramRoutesStream = ReceiverStream<Result<pb::ProgramRoutesResponse, Status>>;

    async fn program_routes(
        &self,
        request: Request<Streaming<pb::ProgramRoutesRequest>>,
    ) -> Result<Response<Self::ProgramRoutesStream>, Status> {
        let stream = program::run::<Routes>(self.shared.clone(), request.into_inner());
        Ok(Response::new(stream))
    }

    async fn lookup_route(
        &self,
        request: Request<pb::LookupRouteRequest>,
    ) -> Result<Response<pb::LookupRouteResponse>, Status> {
        let address =
            ip_from(&request.into_inner().address).map_err(|text| Error::field("address", text))?;
        let route = self.shared.with(|control| found(control, address));
        Ok(Response::new(pb::LookupRouteResponse {
            dataplane_instance_id: self.instance(),
            route: Some(route.ok_or(Error::NoRoute(address))?),
        }))
    }
}

fn found(control: &Control, address: IpAddr) -> Option<pb::Route> {
    let (prefix, view) = control.lookup(address)?;
    let id = match view {
        RouteView::Route(route) => {
            return Some(route_message(&control.entry_of(prefix, route), control));
        }
        RouteView::Domain(id) => return Some(domain_route(control, prefix, id)),
        RouteView::Tunnel(id) | RouteView::TunnelLink(id) | RouteView::TunnelAddress(id) => {
            control.tunnel_name(id).unwrap_or_default()
        }
    };
    Some(pb::Route {
        destination: Some(prefix_message(prefix)),
        origin: pb::RouteOrigin::Tunnel.into(),
        action: pb::RouteAction::Tunnel.into(),
        tunnel_id: id.to_owned(),
        ..pb::Route::default()
    })
}

/// A domain's own prefix, or a route written into it.
fn domain_route(control: &Control, prefix: Prefix, id: TunnelId) -> pb::Route {
    let written = control.entry_of(prefix, Route::Domain(id));
    if written.origin == Origin::Api {
        return route_message(&written, control);
    }
    pb::Route {
        destination: Some(prefix_message(prefix)),
        origin: pb::RouteOrigin::Tunnel.into(),
        action: pb::RouteAction::Domain.into(),
        domain_id: control.domain_name(id).unwrap_or_default().to_owned(),
        ..pb::Route::default()
    }
}

impl Api {
    fn route_token(&self, (origin, prefix): (Origin, Prefix)) -> String {
        let origin = match origin {
            Origin::Api => 'a',
            Origin::Neighbour => 'n',
            Origin::Kernel => 'k',
        };
        format!(
            "{}/{origin}/{}/{}",
            self.shared.instance(),
            prefix.addr(),
            prefix.len()
        )
    }

    fn route_cursor(&self, token: &str) -> Result<Option<(Origin, Prefix)>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let parsed = || {
            let mut parts = token.split('/');
            let (instance, origin) = (parts.next()?, parts.next()?);
            let (address, len) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let origin = match origin {
                "a" => Origin::Api,
                "n" => Origin::Neighbour,
                "k" => Origin::Kernel,
                _ => return None,
            };
            let prefix = Prefix::of(address, len)?;
            (instance == self.shared.instance()).then_some((origin, prefix))
        };
        parsed().map(Some).ok_or(Error::BadPageToken)
    }
}

/// ProgramRoutes.
struct Routes;

impl Program for Routes {
    type Request = pb::ProgramRoutesRequest;
    type Update = pb::RouteUpdate;
    type Op = RouteOp;
    type Response = pb::ProgramRoutesResponse;

    fn message(request: Self::Request) -> Message<Self::Update> {
        program::message!(request)
    }

    fn op(update: Self::Update) -> RouteOp {
        route_op(update)
    }

    fn apply(
        control: &mut Control,
        owner: OwnerId,
        ops: Vec<RouteOp>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome {
        control.program_routes(owner, ops, atomicity, validate_only)
    }

    fn answer(instance: &str, applied: Applied) -> Self::Response {
        pb::ProgramRoutesResponse {
            dataplane_instance_id: instance.to_owned(),
            applied_through_seq: applied.seq,
            failures: program::failures(applied.outcome.failures),
            counts: Some(counts_message(applied.outcome.counts)),
            rolled_back: applied.outcome.rolled_back,
        }
    }
}
