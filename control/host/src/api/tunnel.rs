//! TunnelAdminService.

use sixferry_lifecycle::store::HistoryEntry;
use sixferry_lifecycle::{AccountId, AdminError, Lifecycle, Tunnel, TunnelFilter, TunnelId};
use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::tunnel_admin_service_server::TunnelAdminService;
use sixferry_remote::convert;
use tonic::{Request, Response, Status};

use super::status::{admin, bad_field, bad_page_token, missing, too_many};
use super::{Api, MAX_ENTRIES, page_size};

/// Transitions of a tunnel that are shown.
const MAX_HISTORY: u32 = 1000;

/// Empty for an account that is gone.
pub(super) fn user_name(lifecycle: &Lifecycle, account: AccountId) -> String {
    let account = lifecycle.account(account);
    account.map_or_else(String::new, |account| account.name)
}

fn message(lifecycle: &Lifecycle, tunnel: &Tunnel) -> pb::Tunnel {
    convert::tunnel_message(tunnel, user_name(lifecycle, tunnel.account))
}

fn transition(lifecycle: &Lifecycle, entry: &HistoryEntry) -> pb::Transition {
    pb::Transition {
        tunnel_id: entry.tunnel.to_string(),
        user: user_name(lifecycle, entry.account),
        from: entry
            .from
            .map_or(pb::TunnelState::Unspecified, convert::state_message)
            .into(),
        to: convert::state_message(entry.to).into(),
        cause: convert::cause_message(entry.cause).into(),
        time: Some(convert::time(entry.at)),
        revision: entry.seq,
    }
}

#[tonic::async_trait]
impl TunnelAdminService for Api {
    async fn get_tunnel(
        &self,
        request: Request<pb::GetTunnelRequest>,
    ) -> Result<Response<pb::GetTunnelResponse>, Status> {
        let name = request.into_inner().id;
        let id = convert::tunnel_id("id", &name)?;
        let lifecycle = self.lifecycle()?;
        let tunnel = lifecycle.tunnel(id);
        let tunnel = tunnel.ok_or_else(|| missing("TUNNEL_NOT_FOUND", "Tunnel", &name))?;
        Ok(Response::new(pb::GetTunnelResponse {
            tunnel: Some(message(&lifecycle, &tunnel)),
        }))
    }

    async fn list_tunnels(
        &self,
        request: Request<pb::ListTunnelsRequest>,
    ) -> Result<Response<pb::ListTunnelsResponse>, Status> {
        let request = request.into_inner();
        let lifecycle = self.lifecycle()?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(convert::tunnel_id("", token).map_err(|_| bad_page_token())?),
        };
        let account = match request.user.as_str() {
            "" => None,
            name => Some(self.account(name)?.id),
        };
        let mut states = Vec::new();
        for state in request.states() {
            let state = convert::state("states", state)?;
            // Once each: every tunnel of the page is compared with all of them.
            if !states.contains(&state) {
                states.push(state);
            }
        }
        let filter = TunnelFilter {
            account,
            service: (!request.service.is_empty()).then(|| request.service.as_str().into()),
            state: match states[..] {
                [only] => Some(only),
                _ => None,
            },
        };
        let size = page_size(request.page_size);
        let page = lifecycle.tunnels(&filter, after, size);
        let last = page.last().filter(|_| page.len() == size);
        let next_page_token = last.map(|tunnel| tunnel.id.to_string()).unwrap_or_default();
        let wanted = |tunnel: &&Tunnel| states.is_empty() || states.contains(&tunnel.state);
        let stats = lifecycle.stats();
        Ok(Response::new(pb::ListTunnelsResponse {
            tunnels: page
                .iter()
                .filter(wanted)
                .map(|tunnel| message(&lifecycle, tunnel))
                .collect(),
            next_page_token,
            total_count: stats.pending + stats.active + stats.orphaned + stats.releasing,
        }))
    }

    async fn list_tunnel_history(
        &self,
        request: Request<pb::ListTunnelHistoryRequest>,
    ) -> Result<Response<pb::ListTunnelHistoryResponse>, Status> {
        let name = request.into_inner().id;
        let id = convert::tunnel_id("id", &name)?;
        let lifecycle = self.lifecycle()?;
        let history = lifecycle.history(id, MAX_HISTORY).await;
        let mut history = history.map_err(|error| admin(error, ""))?;
        if history.is_empty() && lifecycle.tunnel(id).is_none() {
            return Err(missing("TUNNEL_NOT_FOUND", "Tunnel", &name));
        }
        history.sort_by_key(|entry| entry.seq);
        let transitions = history.iter().map(|entry| transition(&lifecycle, entry));
        Ok(Response::new(pb::ListTunnelHistoryResponse {
            transitions: transitions.collect(),
        }))
    }

    async fn disconnect_tunnels(
        &self,
        request: Request<pb::DisconnectTunnelsRequest>,
    ) -> Result<Response<pb::DisconnectTunnelsResponse>, Status> {
        let request = request.into_inner();
        let lifecycle = self.lifecycle()?;
        let refused = |error: AdminError| admin(error, "");
        let disconnected = match (request.ids.len(), request.user.as_str()) {
            (0, "") => return Err(bad_field("ids", "neither ids nor a user is given")),
            (0, user) => {
                let account = self.account(user)?;
                lifecycle
                    .disconnect_account(account.id)
                    .await
                    .map_err(refused)?
            }
            (1..=MAX_ENTRIES, "") => {
                let ids: Vec<TunnelId> = request
                    .ids
                    .iter()
                    .map(|id| convert::tunnel_id("ids", id))
                    .collect::<Result<_, _>>()?;
                for id in &ids {
                    lifecycle.disconnect(*id).await.map_err(refused)?;
                }
                ids.len() as u64
            }
            (given, "") => return Err(too_many("ids", given, MAX_ENTRIES)),
            (_, _) => return Err(bad_field("user", "either ids or a user, not both")),
        };
        Ok(Response::new(pb::DisconnectTunnelsResponse {
            disconnected: u32::try_from(disconnected).unwrap_or(u32::MAX),
        }))
    }
}
