//! DtcpAdminService.

use std::sync::Arc;

use sixferry_dtcp::net::SessionState;
use sixferry_dtcp::{Server, SessionInfo};
use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::dtcp_admin_service_server::DtcpAdminService;
use sixferry_remote::convert;
use tonic::{Code, Request, Response, Status};

use super::status::{bad_page_token, missing, refuse};
use super::{Api, page_size};

impl Api {
    fn dtcp(&self) -> Result<Arc<Server>, Status> {
        if let Some(server) = self.dtcp.get() {
            return Ok(server);
        }
        let part = self.board.read().remove("dtcp");
        Err(match part {
            None => {
                let text = "the DTCP plugin does not run here: the configuration has no [dtcp]";
                refuse(Code::FailedPrecondition, "PLUGIN_OFF", text)
            }
            Some(part) => {
                let text = format!("the DTCP plugin is being started; {}", part.message);
                let text = text.trim_end_matches("; ");
                refuse(Code::Unavailable, "PLUGIN_DOWN", text)
            }
        })
    }
}

fn message(session: &SessionInfo) -> pb::DtcpSession {
    let (user, tunnel_id, kind) = match &session.state {
        SessionState::Greeted => Default::default(),
        SessionState::Up {
            user, tunnel, kind, ..
        } => (user.to_string(), tunnel.to_string(), kind.to_string()),
    };
    pb::DtcpSession {
        id: session.id,
        client: session.client.ip().octets().to_vec(),
        client_port: session.client.port().into(),
        server: session.server.ip().octets().to_vec(),
        user,
        tunnel_id,
        r#type: kind,
        connect_time: Some(convert::time(session.since)),
        heard_time: Some(convert::time(session.last_line)),
    }
}

#[tonic::async_trait]
impl DtcpAdminService for Api {
    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse::<u64>().map_err(|_| bad_page_token())?),
        };
        let mut sessions = self.dtcp()?.sessions();
        let total_count = sessions.len() as u64;
        sessions.sort_by_key(|session| session.id);
        let of_user = |session: &SessionInfo| match &session.state {
            _ if request.user.is_empty() => true,
            SessionState::Up { user, .. } => **user == *request.user,
            SessionState::Greeted => false,
        };
        let mut wanted = sessions
            .iter()
            .filter(|session| after.is_none_or(|after| session.id > after) && of_user(session))
            .map(message);
        let size = page_size(request.page_size);
        let page: Vec<_> = wanted.by_ref().take(size).collect();
        let more = wanted.next().is_some();
        let last = page
            .last()
            .filter(|_| more)
            .map(|session| session.id.to_string());
        Ok(Response::new(pb::ListSessionsResponse {
            sessions: page,
            next_page_token: last.unwrap_or_default(),
            total_count,
        }))
    }

    async fn disconnect_session(
        &self,
        request: Request<pb::DisconnectSessionRequest>,
    ) -> Result<Response<pb::DisconnectSessionResponse>, Status> {
        let id = request.into_inner().id;
        if !self.dtcp()?.disconnect(id) {
            return Err(missing("SESSION_NOT_FOUND", "DtcpSession", &id.to_string()));
        }
        Ok(Response::new(pb::DisconnectSessionResponse {}))
    }
}
