//! SessionService.

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::session_service_server::SessionService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl SessionService for Api {
    async fn open_session(
        &self,
        request: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let election =
            u128::from(request.election_id_high) << 64 | u128::from(request.election_id_low);
        let (opened, holdings) = self
            .shared
            .with(|control| control.open_session(&request.owner, election))?;
        if opened.fenced_other {
            tracing::info!(
                owner = request.owner,
                election,
                "a newer session takes over"
            );
        }
        Ok(Response::new(pb::OpenSessionResponse {
            dataplane_instance_id: self.instance(),
            session: opened.token,
            tunnel_count: holdings.tunnels,
            route_count: holdings.routes,
            fenced_other: opened.fenced_other,
            domain_count: holdings.domains,
        }))
    }

    async fn begin_sync(
        &self,
        request: Request<pb::BeginSyncRequest>,
    ) -> Result<Response<pb::BeginSyncResponse>, Status> {
        let request = request.into_inner();
        let (generation, stale_count) = self.shared.with(|control| {
            let owner = control.authorize(&request.session)?;
            Ok::<_, Status>(control.begin_sync(owner))
        })?;
        Ok(Response::new(pb::BeginSyncResponse {
            dataplane_instance_id: self.instance(),
            generation: generation.into(),
            stale_count,
        }))
    }

    async fn commit_sync(
        &self,
        request: Request<pb::CommitSyncRequest>,
    ) -> Result<Response<pb::CommitSyncResponse>, Status> {
        let request = request.into_inner();
        let mut response = pb::CommitSyncResponse {
            dataplane_instance_id: self.instance(),
            ..pb::CommitSyncResponse::default()
        };
        let mut from = 0;
        loop {
            // Authorized again for every slice: a newer session may take over in between.
            let swept = self.shared.with(|control| {
                let owner = control.authorize(&request.session)?;
                Ok::<_, Status>(control.commit_sync(owner, request.generation, from)?)
            })?;
            response.swept_tunnels += swept.tunnels;
            response.swept_domains += swept.domains;
            response.swept_routes += swept.routes;
            response.revision = swept.revision;
            match swept.next {
                Some(next) => from = next,
                None => {
                    self.shared.visible(swept.change).await;
                    return Ok(Response::new(response));
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn abort_sync(
        &self,
        request: Request<pb::AbortSyncRequest>,
    ) -> Result<Response<pb::AbortSyncResponse>, Status> {
        let request = request.into_inner();
        self.shared.with(|control| {
            let owner = control.authorize(&request.session)?;
            Ok::<_, Status>(control.abort_sync(owner, request.generation)?)
        })?;
        Ok(Response::new(pb::AbortSyncResponse {
            dataplane_instance_id: self.instance(),
        }))
    }
}
