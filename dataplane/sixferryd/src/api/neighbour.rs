//! NeighbourService.

use std::net::IpAddr;

use sixferry_proto::MAX_PAGE_SIZE;
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::neighbour_service_server::NeighbourService;
use tonic::{Request, Response, Status};

use super::{Api, page_size};
use crate::control::error::Error;
use crate::convert::ip_bytes;
use crate::live::{NeighbourState, NeighbourView};

/// Order of the listing; also what a page token names.
type Key = (String, u16, IpAddr);

#[tonic::async_trait]
impl NeighbourService for Api {
    async fn list_neighbours(
        &self,
        request: Request<pb::ListNeighboursRequest>,
    ) -> Result<Response<pb::ListNeighboursResponse>, Status> {
        let request = request.into_inner();
        let after = self.cursor(&request.page_token)?;
        let after = after.map(key_of).transpose()?;
        let most = page_size(request.page_size, MAX_PAGE_SIZE);
        let mut all = self.live.neighbours();
        all.retain(|n| request.port.is_empty() || *n.port == *request.port);
        all.retain(|n| after.as_ref().is_none_or(|after| key(n) > *after));
        all.sort_by_cached_key(key);
        let more = all.len() > most;
        all.truncate(most);
        let last = all.last().filter(|_| more).map(|n| {
            let (port, vlan, address) = key(n);
            self.token_after(&format!("{vlan}/{address}/{port}"))
        });
        Ok(Response::new(pb::ListNeighboursResponse {
            dataplane_instance_id: self.instance(),
            neighbours: all.iter().map(message).collect(),
            next_page_token: last.unwrap_or_default(),
        }))
    }
}

fn key(neighbour: &NeighbourView) -> Key {
    (
        neighbour.port.to_string(),
        neighbour.vlan,
        neighbour.address,
    )
}

fn key_of(token: &str) -> Result<Key, Error> {
    let read = || {
        let mut parts = token.splitn(3, '/');
        let (vlan, address) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((parts.next()?.to_owned(), vlan, address))
    };
    read().ok_or(Error::BadPageToken)
}

fn message(neighbour: &NeighbourView) -> pb::Neighbour {
    let state = match neighbour.state {
        NeighbourState::Incomplete => pb::NeighbourState::Incomplete,
        NeighbourState::Reachable => pb::NeighbourState::Reachable,
        NeighbourState::Stale => pb::NeighbourState::Stale,
        NeighbourState::Delay => pb::NeighbourState::Delay,
        NeighbourState::Probe => pb::NeighbourState::Probe,
        NeighbourState::Failed => pb::NeighbourState::Failed,
        NeighbourState::Permanent => pb::NeighbourState::Permanent,
        NeighbourState::NoArp => pb::NeighbourState::Noarp,
    };
    pb::Neighbour {
        address: ip_bytes(neighbour.address),
        mac: neighbour.mac.map_or_else(Vec::new, |mac| mac.to_vec()),
        port: neighbour.port.to_string(),
        vlan_id: neighbour.vlan.into(),
        state: state.into(),
        managed: neighbour.managed,
        used_by_next_hop: neighbour.used_by_next_hop,
    }
}
