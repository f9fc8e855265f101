//! DomainService.

use std::net::{IpAddr, Ipv4Addr};

use sixferry_fwd::{DomainKind, DomainSpec, DropReason};
use sixferry_proto::MAX_PAGE_SIZE;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::domain_service_server::DomainService;
use sixferry_wire::embed;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::program::{self, Applied, Message, Program};
use super::{Api, page_size};
use crate::control::domains::{DomainOp, DomainView};
use crate::control::error::Error;
use crate::control::session::OwnerId;
use crate::control::{Atomicity, Control, Outcome};
use crate::convert::domain::{domain_message, domain_op};
use crate::convert::mask::ReadMask;
use crate::convert::{counts_message, ip4_from, ip6_from, prefix6_message};

#[tonic::async_trait]
impl DomainService for Api {
    async fn get_domain(
        &self,
        request: Request<pb::GetDomainRequest>,
    ) -> Result<Response<pb::GetDomainResponse>, Status> {
        let request = request.into_inner();
        let mask = ReadMask::of::<pb::EmbeddedDomain>(request.read_mask)?;
        let view = self.shared.with(|control| control.domain(&request.id));
        let view = view.ok_or(Error::DomainNotFound(request.id))?;
        Ok(Response::new(pb::GetDomainResponse {
            dataplane_instance_id: self.instance(),
            domain: Some(mask.apply(domain_message(&view))),
        }))
    }

    async fn list_domains(
        &self,
        request: Request<pb::ListDomainsRequest>,
    ) -> Result<Response<pb::ListDomainsResponse>, Status> {
        let request = request.into_inner();
        let mask = ReadMask::of::<pb::EmbeddedDomain>(request.read_mask)?;
        let most = page_size(request.page_size, MAX_PAGE_SIZE);
        let after = self.cursor(&request.page_token)?;
        let (views, more, total) = self.shared.with(|control| {
            let total = control.domain_count();
            let owner = match request.owner.as_str() {
                "" => None,
                name => match control.find_owner(name) {
                    Some(owner) => Some(owner),
                    None => return (Vec::new(), false, total),
                },
            };
            let (views, more) = control.list_domains(after, owner, most);
            (views, more, total)
        });
        let last = views.last().filter(|_| more);
        Ok(Response::new(pb::ListDomainsResponse {
            dataplane_instance_id: self.instance(),
            next_page_token: last.map_or_else(String::new, |view| self.token_after(&view.id)),
            domains: views
                .iter()
                .map(|view| mask.apply(domain_message(view)))
                .collect(),
            total_count: total as u64,
        }))
    }

    type ProgramDomainsStream = ReceiverStream<Result<pb::ProgramDomainsResponse, Status>>;

    async fn program_domains(
        &self,
        request: Request<Streaming<pb::ProgramDomainsRequest>>,
    ) -> Result<Response<Self::ProgramDomainsStream>, Status> {
        let stream = program::run::<Domains>(self.shared.clone(), request.into_inner());
        Ok(Response::new(stream))
    }

    async fn lookup_domain(
        &self,
        request: Request<pb::LookupDomainRequest>,
    ) -> Result<Response<pb::LookupDomainResponse>, Status> {
        let request = request.into_inner();
        let named = (!request.id.is_empty()).then_some(request.id);
        let (view, outer) = match request.key {
            None => return Err(Error::field("key", "give inner_address or outer_address").into()),
            Some(pb::lookup_domain_request::Key::InnerAddress(bytes)) => {
                let inner = ip6_from(&bytes).map_err(|text| Error::field("inner_address", text))?;
                let view = match named {
                    Some(id) => self.domain_named(id)?,
                    None => self
                        .shared
                        .with(|control| control.domain_of_inner(inner))
                        .ok_or_else(|| Error::NoDomain(format!("address {inner}")))?,
                };
                let outer = view.spec.embedded(inner);
                let outer = outer.ok_or_else(|| Error::NoDomain(format!("address {inner}")))?;
                (view, outer)
            }
            Some(pb::lookup_domain_request::Key::OuterAddress(bytes)) => {
                let outer = ip4_from(&bytes).map_err(|text| Error::field("outer_address", text))?;
                let view = match named {
                    Some(id) => self.domain_named(id)?,
                    None => self.only_domain(outer)?,
                };
                (view, outer)
            }
        };
        let delegated = view.spec.delegated(outer);
        let delegated = delegated.ok_or_else(|| Error::NoDomain(format!("address {outer}")))?;
        let broadcast = self.is_broadcast(outer);
        Ok(Response::new(pb::LookupDomainResponse {
            dataplane_instance_id: self.instance(),
            outer_address: outer.octets().to_vec(),
            delegated_prefix: Some(prefix6_message(delegated)),
            own: outer == view.spec.local,
            refused_reason: refusal(&view.spec, outer, broadcast)
                .map_or_else(String::new, |reason| reason.name().to_owned()),
            domain: Some(domain_message(&view)),
        }))
    }
}

/// Why packets of a peer with this IPv4 address are dropped as they come, whatever is in them.
fn refusal(spec: &DomainSpec, outer: Ipv4Addr, broadcast: bool) -> Option<DropReason> {
    let bits = u32::from(outer);
    let (martian, peer) = match spec.kind {
        DomainKind::SixToFour { peer_v4_len, .. } => {
            let allowed = spec.allow_v4.iter().any(|p| p.contains(outer));
            let site = sixferry_fwd::Ipv4Prefix::containing(spec.local, peer_v4_len);
            (embed::is_martian(bits) && !allowed, site.contains(outer))
        }
        DomainKind::SixRd { .. } => (embed::is_impossible(bits), true),
    };
    if martian {
        Some(DropReason::V4SrcMartian)
    } else if broadcast {
        Some(DropReason::V4SrcBroadcast)
    } else if spec.deny_v4.iter().any(|p| p.contains(outer)) {
        Some(DropReason::V4Denied)
    } else if !peer {
        Some(DropReason::S6to4PeerRestricted)
    } else {
        None
    }
}

impl Api {
    fn domain_named(&self, id: String) -> Result<DomainView, Error> {
        let view = self.shared.with(|control| control.domain(&id));
        view.ok_or(Error::DomainNotFound(id))
    }

    fn only_domain(&self, outer: Ipv4Addr) -> Result<DomainView, Error> {
        let (count, only) = self
            .shared
            .with(|control| (control.domain_count(), control.only_domain()));
        match (count, only) {
            (_, Some(view)) => Ok(view),
            (0, None) => Err(Error::NoDomain(format!("address {outer}"))),
            _ => Err(Error::field("id", "missing: there are several domains")),
        }
    }

    /// Whether it is a directed broadcast address of a prefix this host is connected to.
    fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let hosts = self.runtime.hosts.read().clone();
        self.shared.with(|control| {
            hosts.iter().any(|host| {
                let IpAddr::V4(host) = host else { return false };
                let connected = control.connected((*host).into());
                connected.is_some_and(|(_, _, len)| {
                    let mask = u32::MAX.checked_shr(len.into()).unwrap_or(0);
                    len < 31 && u32::from(*host) | mask == u32::from(address)
                })
            })
        })
    }

    /// The name behind a page token that ends a page of names.
    pub(super) fn cursor<'t>(&self, token: &'t str) -> Result<Option<&'t str>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        token
            .split_once('/')
            .filter(|(instance, _)| *instance == self.shared.instance())
            .map(|(_, name)| Some(name))
            .ok_or(Error::BadPageToken)
    }

    pub(super) fn token_after(&self, name: &str) -> String {
        format!("{}/{name}", self.shared.instance())
    }
}

/// ProgramDomains.
struct Domains;

impl Program for Domains {
    type Request = pb::ProgramDomainsRequest;
    type Update = pb::DomainUpdate;
    type Op = DomainOp;
    type Response = pb::ProgramDomainsResponse;

    fn message(request: Self::Request) -> Message<Self::Update> {
        program::message!(request)
    }

    fn op(update: Self::Update) -> DomainOp {
        domain_op(update)
    }

    fn apply(
        control: &mut Control,
        owner: OwnerId,
        ops: Vec<DomainOp>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome {
        control.program_domains(owner, ops, atomicity, validate_only)
    }

    fn answer(instance: &str, applied: Applied) -> Self::Response {
        pb::ProgramDomainsResponse {
            dataplane_instance_id: instance.to_owned(),
            applied_through_seq: applied.seq,
            failures: program::failures(applied.outcome.failures),
            counts: Some(counts_message(applied.outcome.counts)),
            revision: applied.outcome.revision,
            rolled_back: applied.outcome.rolled_back,
        }
    }
}
