//! TunnelService.

use sixferry_proto::MAX_PAGE_SIZE;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::tunnel_service_server::TunnelService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::program::{self, Applied, Message, Program};
use super::{Api, page_size, watch};
use crate::control::error::Error;
use crate::control::read::TunnelView;
use crate::control::session::OwnerId;
use crate::control::tunnels::TunnelOp;
use crate::control::{Atomicity, Control, Outcome};
use crate::convert::mask::ReadMask;
use crate::convert::tunnel::{tunnel_message, tunnel_op};
use crate::convert::{counts_message, ip4_from, ip6_from, prefix6_message};

/// How often a listing takes the lock for one page at most; a sparse page then comes short.
const SCANS_PER_PAGE: usize = 32;

#[tonic::async_trait]
impl TunnelService for Api {
    async fn get_tunnel(
        &self,
        request: Request<pb::GetTunnelRequest>,
    ) -> Result<Response<pb::GetTunnelResponse>, Status> {
        let request = request.into_inner();
        let mask = ReadMask::of::<pb::Tunnel>(request.read_mask)?;
        let view = self
            .shared
            .with(|c| c.tunnel(&request.id, mask.wants("counters")));
        let view = view.ok_or(Error::TunnelNotFound(request.id))?;
        let message = self.tunnel_message(&view);
        Ok(Response::new(pb::GetTunnelResponse {
            dataplane_instance_id: self.instance(),
            tunnel: Some(mask.apply(message)),
        }))
    }

    async fn list_tunnels(
        &self,
        request: Request<pb::ListTunnelsRequest>,
    ) -> Result<Response<pb::ListTunnelsResponse>, Status> {
        let request = request.into_inner();
        let mask = ReadMask::of::<pb::Tunnel>(request.read_mask)?;
        let most = page_size(request.page_size, MAX_PAGE_SIZE);
        let mut next = Some(self.page_start(&request.page_token)?);
        let mut tunnels = Vec::new();
        let mut scans = 0;
        while let Some(from) = next
            && tunnels.len() < most
            && scans < SCANS_PER_PAGE
        {
            scans += 1;
            let room = most - tunnels.len();
            let (views, more) = self.shared.with(|control| {
                let owner = match request.owner.as_str() {
                    "" => None,
                    name => match control.find_owner(name) {
                        Some(owner) => Some(owner),
                        // An owner never seen has no tunnels.
                        None => return (Vec::new(), None),
                    },
                };
                control.list_tunnels(from, room, owner, mask.wants("counters"))
            });
            tunnels.extend(
                views
                    .iter()
                    .map(|view| mask.apply(self.tunnel_message(view))),
            );
            next = more;
        }
        let total = self.shared.with(|control| control.tunnel_count());
        Ok(Response::new(pb::ListTunnelsResponse {
            dataplane_instance_id: self.instance(),
            tunnels,
            next_page_token: next.map_or_else(String::new, |slot| self.page_token(slot)),
            total_count: total as u64,
        }))
    }

    type ProgramTunnelsStream = ReceiverStream<Result<pb::ProgramTunnelsResponse, Status>>;

    async fn program_tunnels(
        &self,
        request: Request<Streaming<pb::ProgramTunnelsRequest>>,
    ) -> Result<Response<Self::ProgramTunnelsStream>, Status> {
        let stream = program::run::<Tunnels>(self.shared.clone(), request.into_inner());
        Ok(Response::new(stream))
    }

    type WatchTunnelsStream = ReceiverStream<Result<pb::WatchTunnelsResponse, Status>>;

    async fn watch_tunnels(
        &self,
        request: Request<pb::WatchTunnelsRequest>,
    ) -> Result<Response<Self::WatchTunnelsStream>, Status> {
        Ok(Response::new(watch::run(
            self.shared.clone(),
            request.into_inner(),
        )))
    }

    async fn lookup_tunnel(
        &self,
        request: Request<pb::LookupTunnelRequest>,
    ) -> Result<Response<pb::LookupTunnelResponse>, Status> {
        use pb::lookup_tunnel_request::Key;
        let (view, matched_prefix) = match request.into_inner().key {
            None => return Err(Error::field("key", "give outer or inner_address").into()),
            Some(Key::Outer(outer)) => {
                let local =
                    ip4_from(&outer.local).map_err(|text| Error::field("outer.local", text))?;
                let remote =
                    ip4_from(&outer.remote).map_err(|text| Error::field("outer.remote", text))?;
                let port = |field: &str, port: u32| {
                    u16::try_from(port).map_err(|_| Error::field(field, "outside 0..65535"))
                };
                let local_port = port("outer.local_port", outer.local_port)?;
                let remote_port = port("outer.remote_port", outer.remote_port)?;
                let view = self.shared.with(|control| match local_port {
                    0 => control.tunnel_by_outer(local, remote),
                    _ => control.tunnel_by_port((local, local_port), (remote, remote_port)),
                });
                let what = || match local_port {
                    0 => format!("local {local} and remote {remote}"),
                    _ => format!("local {local}:{local_port} and remote {remote}:{remote_port}"),
                };
                (view.ok_or_else(|| Error::NoTunnel(what()))?, None)
            }
            Some(Key::InnerAddress(address)) => {
                let address =
                    ip6_from(&address).map_err(|text| Error::field("inner_address", text))?;
                let found = self.shared.with(|c| c.tunnel_by_inner(address));
                let (view, prefix) =
                    found.ok_or_else(|| Error::NoTunnel(format!("address {address}")))?;
                (view, Some(prefix6_message(prefix)))
            }
        };
        Ok(Response::new(pb::LookupTunnelResponse {
            dataplane_instance_id: self.instance(),
            tunnel: Some(self.tunnel_message(&view)),
            matched_prefix,
        }))
    }
}

impl Api {
    /// A tunnel as a message, with what is known of its peer.
    fn tunnel_message(&self, view: &TunnelView) -> pb::Tunnel {
        tunnel_message(view, self.live.life(view.tunnel))
    }
}

/// ProgramTunnels.
struct Tunnels;

impl Program for Tunnels {
    type Request = pb::ProgramTunnelsRequest;
    type Update = pb::TunnelUpdate;
    type Op = TunnelOp;
    type Response = pb::ProgramTunnelsResponse;

    fn message(request: Self::Request) -> Message<Self::Update> {
        program::message!(request)
    }

    fn op(update: Self::Update) -> TunnelOp {
        tunnel_op(update)
    }

    fn apply(
        control: &mut Control,
        owner: OwnerId,
        ops: Vec<TunnelOp>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome {
        control.program_tunnels(owner, ops, atomicity, validate_only)
    }

    fn answer(instance: &str, applied: Applied) -> Self::Response {
        pb::ProgramTunnelsResponse {
            dataplane_instance_id: instance.to_owned(),
            applied_through_seq: applied.seq,
            failures: program::failures(applied.outcome.failures),
            counts: Some(counts_message(applied.outcome.counts)),
            revision: applied.outcome.revision,
            rolled_back: applied.outcome.rolled_back,
        }
    }
}
