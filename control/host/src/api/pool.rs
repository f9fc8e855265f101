//! PrefixPoolService.

use sixferry_lifecycle::{NewPool, Pool, PoolKind, PoolView};
use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::prefix_pool_service_server::PrefixPoolService;
use sixferry_remote::convert;
use tonic::{Request, Response, Status};

use super::Api;
use super::status::{admin, bad_field, missing};

fn pool_message(pool: &Pool) -> pb::Pool {
    pb::Pool {
        name: pool.name.clone(),
        prefix: Some(convert::prefix_message(pool.prefix)),
        delegated_length: match pool.kind {
            PoolKind::HostPair => 0,
            PoolKind::Delegation { len } => len.into(),
        },
        quarantine_seconds: pool.quarantine_seconds,
    }
}

fn new_pool(message: Option<pb::Pool>) -> Result<NewPool, Status> {
    let message = message.ok_or_else(|| bad_field("pool", "is missing"))?;
    let prefix = message.prefix.as_ref();
    let prefix = prefix.ok_or_else(|| bad_field("pool.prefix", "is missing"))?;
    let kind = match message.delegated_length {
        0 => PoolKind::HostPair,
        length => PoolKind::Delegation {
            len: u8::try_from(length)
                .map_err(|_| bad_field("pool.delegated_length", "is no prefix length"))?,
        },
    };
    Ok(NewPool {
        prefix: convert::prefix("pool.prefix", prefix)?,
        name: message.name,
        kind,
        quarantine_seconds: message.quarantine_seconds,
    })
}

impl Api {
    fn pool(&self, name: &str) -> Result<Pool, Status> {
        let pools = self.lifecycle()?.pools();
        let found = pools.into_iter().find(|view| view.pool.name == name);
        found
            .map(|view| view.pool)
            .ok_or_else(|| missing("POOL_NOT_FOUND", "Pool", name))
    }
}

#[tonic::async_trait]
impl PrefixPoolService for Api {
    async fn create_pool(
        &self,
        request: Request<pb::CreatePoolRequest>,
    ) -> Result<Response<pb::CreatePoolResponse>, Status> {
        let pool = new_pool(request.into_inner().pool)?;
        let added = self.lifecycle()?.add_pool(pool).await;
        let pool = added.map_err(|error| admin(error, "pool."))?;
        Ok(Response::new(pb::CreatePoolResponse {
            pool: Some(pool_message(&pool)),
        }))
    }

    async fn delete_pool(
        &self,
        request: Request<pb::DeletePoolRequest>,
    ) -> Result<Response<pb::DeletePoolResponse>, Status> {
        let pool = self.pool(&request.into_inner().name)?;
        let deleted = self.lifecycle()?.delete_pool(pool.id).await;
        deleted.map_err(|error| admin(error, ""))?;
        Ok(Response::new(pb::DeletePoolResponse {}))
    }

    async fn list_pools(
        &self,
        _request: Request<pb::ListPoolsRequest>,
    ) -> Result<Response<pb::ListPoolsResponse>, Status> {
        let mut pools = self.lifecycle()?.pools();
        pools.sort_by(|a, b| a.pool.name.cmp(&b.pool.name));
        let entry = |view: &PoolView| pb::PoolEntry {
            pool: Some(pool_message(&view.pool)),
            capacity: view.total.min(i64::MAX.unsigned_abs()),
            used: view.used,
            quarantined: view.quarantined,
        };
        Ok(Response::new(pb::ListPoolsResponse {
            pools: pools.iter().map(entry).collect(),
        }))
    }

    async fn assign_prefix(
        &self,
        request: Request<pb::AssignPrefixRequest>,
    ) -> Result<Response<pb::AssignPrefixResponse>, Status> {
        let request = request.into_inner();
        let account = self.account(&request.user)?;
        let pool = self.pool(&request.pool)?;
        let lifecycle = self.lifecycle()?;
        let refused = |error| admin(error, "");
        let given = match &request.prefix {
            None => {
                let given = lifecycle.delegate(account.id, pool.id).await;
                given.map_err(refused)?
            }
            Some(wanted) => {
                let wanted = convert::prefix("prefix", wanted)?;
                let assigned = lifecycle.assign(account.id, pool.id, wanted).await;
                assigned.map_err(refused)?;
                wanted
            }
        };
        let user = self.account(&request.user)?;
        Ok(Response::new(pb::AssignPrefixResponse {
            prefix: Some(convert::prefix_message(given)),
            user: Some(convert::user_message(&user)),
        }))
    }

    async fn release_prefix(
        &self,
        request: Request<pb::ReleasePrefixRequest>,
    ) -> Result<Response<pb::ReleasePrefixResponse>, Status> {
        let request = request.into_inner();
        let account = self.account(&request.user)?;
        let prefix = request.prefix.as_ref();
        let prefix = prefix.ok_or_else(|| bad_field("prefix", "is missing"))?;
        let prefix = convert::prefix("prefix", prefix)?;
        let taken = self.lifecycle()?.take_back(account.id, prefix).await;
        taken.map_err(|error| admin(error, ""))?;
        let user = self.account(&request.user)?;
        Ok(Response::new(pb::ReleasePrefixResponse {
            user: Some(convert::user_message(&user)),
        }))
    }
}
