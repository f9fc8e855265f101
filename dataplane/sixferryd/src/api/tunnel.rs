//! TunnelService.

use sixferry_proto::MAX_PAGE_SIZE;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::tunnel_service_server::TunnelService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::program::{self, Prepared, ProgramRequest};
use super::{Api, page_size, watch};
use crate::control::error::Error;
use crate::control::read::TunnelView;
use crate::control::tunnels::TunnelOp;
use crate::convert::{
    TUNNEL_FIELDS, atomicity, counts_message, ip4_from, ip6_from, mask_tunnel, prefix6_message,
    tunnel_message, tunnel_op,
};

/// How often a listing takes the lock for one page at most; a sparse page then comes short.
const SCANS_PER_PAGE: usize = 32;

/// A read mask: which fields, and whether counters are among them.
struct ReadMask(Option<Vec<String>>);

impl ReadMask {
    fn new(mask: Option<prost_types::FieldMask>) -> Result<Self, Error> {
        let Some(mask) = mask else {
            return Ok(Self(None));
        };
        match mask
            .paths
            .iter()
            .find(|path| !TUNNEL_FIELDS.contains(&path.as_str()))
        {
            Some(path) => Err(Error::field("read_mask", format!("no field {path:?}"))),
            None => Ok(Self(Some(mask.paths))),
        }
    }

    fn with_totals(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|names| names.iter().any(|n| n == "counters"))
    }

    fn message(&self, view: &TunnelView) -> pb::Tunnel {
        let mut tunnel = tunnel_message(view);
        if let Some(names) = &self.0 {
            mask_tunnel(&mut tunnel, names);
        }
        tunnel
    }
}

#[tonic::async_trait]
impl TunnelService for Api {
    async fn get_tunnel(
        &self,
        request: Request<pb::GetTunnelRequest>,
    ) -> Result<Response<pb::GetTunnelResponse>, Status> {
        let request = request.into_inner();
        let mask = ReadMask::new(request.read_mask)?;
        let view = self
            .shared
            .with(|c| c.tunnel(&request.id, mask.with_totals()));
        let view = view.ok_or(Error::TunnelNotFound(request.id))?;
        Ok(Response::new(pb::GetTunnelResponse {
            dataplane_instance_id: self.instance(),
            tunnel: Some(mask.message(&view)),
        }))
    }

    async fn list_tunnels(
        &self,
        request: Request<pb::ListTunnelsRequest>,
    ) -> Result<Response<pb::ListTunnelsResponse>, Status> {
        let request = request.into_inner();
        let mask = ReadMask::new(request.read_mask)?;
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
                control.list_tunnels(from, room, owner, mask.with_totals())
            });
            tunnels.extend(views.iter().map(|view| mask.message(view)));
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
        let instance = self.instance();
        let answer = move |applied: program::Applied| pb::ProgramTunnelsResponse {
            dataplane_instance_id: instance.clone(),
            applied_through_seq: applied.seq,
            failures: program::failures(applied.outcome.failures),
            counts: Some(counts_message(applied.outcome.counts)),
            revision: applied.outcome.revision,
            rolled_back: applied.outcome.rolled_back,
        };
        let stream = program::run(self.shared.clone(), request.into_inner(), answer);
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
                let view = self.shared.with(|c| c.tunnel_by_outer(local, remote));
                let what = || Error::NoTunnel(format!("local {local} and remote {remote}"));
                (view.ok_or_else(what)?, None)
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
            tunnel: Some(tunnel_message(&view)),
            matched_prefix,
        }))
    }
}

impl ProgramRequest for pb::ProgramTunnelsRequest {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn len(&self) -> usize {
        self.updates.len()
    }

    fn session(&self) -> &str {
        &self.session
    }

    fn prepare(self) -> Result<Prepared, Error> {
        let atomicity = atomicity(self.atomicity)?;
        let ops: Vec<TunnelOp> = self.updates.into_iter().map(tunnel_op).collect();
        Ok(Box::new(move |control| {
            let owner = control.authorize(&self.session)?;
            Ok(control.program_tunnels(owner, ops, atomicity, self.validate_only))
        }))
    }
}
