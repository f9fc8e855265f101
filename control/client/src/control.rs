//! Typed client of the control API (`sixferry.control.v1`), for those who administer it: users,
//! pools, tunnels, sessions, the daemon itself. Plugins have `sixferry-remote`.
//!
//! What comes back are the messages of [`api`]; what is worth a type of its own is checked where it is
//! used. Every call has a deadline; those that only read are tried again while it allows.

use std::future::Future;
use std::time::Duration;

use sixferry_proto::MAX_MESSAGE_LEN;
pub use sixferry_proto::control::v1 as api;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use api::dtcp_admin_service_client::DtcpAdminServiceClient;
use api::lifecycle_service_client::LifecycleServiceClient;
use api::prefix_pool_service_client::PrefixPoolServiceClient;
use api::system_service_client::SystemServiceClient;
use api::tunnel_admin_service_client::TunnelAdminServiceClient;
use api::user_service_client::UserServiceClient;

use crate::client::STREAM_LIFETIME;
use crate::{Backoff, Error, Options, Target};

/// Where `sixferry-control` listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sixferry/control.sock";

/// Entries of one message of an import.
pub const MAX_ENTRIES: usize = 512;

/// The server's deadline is this much later than ours, so that ours gives the message.
const SLACK: Duration = Duration::from_millis(500);

/// A connection to the control plane. Cheap to clone; reconnects by itself.
#[derive(Clone, Debug)]
pub struct ControlClient {
    channel: Channel,
    timeout: Duration,
}

/// Whether a call may run twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    Writes,
}

macro_rules! calls {
    ($($(#[$text:meta])* $kind:ident $service:ident . $method:ident($request:ident) -> $response:ident
        as $name:literal;)*) => {
        impl ControlClient {
            $(
                $(#[$text])*
                pub async fn $method(&self, request: api::$request) -> Result<api::$response, Error> {
                    self.call($name, Kind::$kind, request, async |channel, request| {
                        $service::new(channel)
                            .max_decoding_message_size(MAX_MESSAGE_LEN)
                            .$method(request)
                            .await
                    })
                    .await
                }
            )*
        }
    };
}

calls! {
    /// Creates a user.
    Writes UserServiceClient.create_user(CreateUserRequest) -> CreateUserResponse as "CreateUser";
    /// Changes a user.
    Writes UserServiceClient.set_user(SetUserRequest) -> SetUserResponse as "SetUser";
    /// Removes a user.
    Writes UserServiceClient.delete_user(DeleteUserRequest) -> DeleteUserResponse as "DeleteUser";
    /// One user.
    Reads UserServiceClient.get_user(GetUserRequest) -> GetUserResponse as "GetUser";
    /// One page of the users.
    Reads UserServiceClient.list_users(ListUsersRequest) -> ListUsersResponse as "ListUsers";
    /// Creates a pool.
    Writes PrefixPoolServiceClient.create_pool(CreatePoolRequest) -> CreatePoolResponse
        as "CreatePool";
    /// Removes a pool.
    Writes PrefixPoolServiceClient.delete_pool(DeletePoolRequest) -> DeletePoolResponse
        as "DeletePool";
    /// All pools.
    Reads PrefixPoolServiceClient.list_pools(ListPoolsRequest) -> ListPoolsResponse as "ListPools";
    /// Gives a user a prefix.
    Writes PrefixPoolServiceClient.assign_prefix(AssignPrefixRequest) -> AssignPrefixResponse
        as "AssignPrefix";
    /// Takes a prefix from a user.
    Writes PrefixPoolServiceClient.release_prefix(ReleasePrefixRequest) -> ReleasePrefixResponse
        as "ReleasePrefix";
    /// One tunnel.
    Reads TunnelAdminServiceClient.get_tunnel(GetTunnelRequest) -> GetTunnelResponse as "GetTunnel";
    /// One page of the tunnels.
    Reads TunnelAdminServiceClient.list_tunnels(ListTunnelsRequest) -> ListTunnelsResponse
        as "ListTunnels";
    /// What happened to a tunnel.
    Reads TunnelAdminServiceClient.list_tunnel_history(ListTunnelHistoryRequest)
        -> ListTunnelHistoryResponse as "ListTunnelHistory";
    /// Takes tunnels away.
    Writes TunnelAdminServiceClient.disconnect_tunnels(DisconnectTunnelsRequest)
        -> DisconnectTunnelsResponse as "DisconnectTunnels";
    /// One page of the DTCP sessions.
    Reads DtcpAdminServiceClient.list_sessions(ListSessionsRequest) -> ListSessionsResponse
        as "ListSessions";
    /// Ends a DTCP session.
    Writes DtcpAdminServiceClient.disconnect_session(DisconnectSessionRequest)
        -> DisconnectSessionResponse as "DisconnectSession";
    /// Version, age, size.
    Reads SystemServiceClient.get_info(GetInfoRequest) -> GetInfoResponse as "GetInfo";
    /// How the parts are.
    Reads SystemServiceClient.get_status(GetStatusRequest) -> GetStatusResponse as "GetStatus";
    /// Checks a configuration text.
    Reads SystemServiceClient.check_config(CheckConfigRequest) -> CheckConfigResponse
        as "CheckConfig";
    /// Reads the configuration file again.
    Reads SystemServiceClient.reload_config(ReloadConfigRequest) -> ReloadConfigResponse
        as "ReloadConfig";
}

impl ControlClient {
    /// Connects; an unreachable control plane is an error now, not at the first call.
    pub async fn connect(target: &Target, options: &Options) -> Result<Self, Error> {
        let channel = crate::connect::open(target, options).await?;
        Ok(Self {
            channel,
            timeout: options.timeout,
        })
    }

    async fn call<T, R, F, Fut>(
        &self,
        name: &'static str,
        kind: Kind,
        message: T,
        send: F,
    ) -> Result<R, Error>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let backoff = Backoff {
            longest: Duration::from_millis(500),
            attempts: 6,
            ..Backoff::default()
        };
        let end = tokio::time::Instant::now() + self.timeout;
        let mut attempt = 0;
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(self.timeout + SLACK);
            let answer = tokio::time::timeout_at(end, send(self.channel.clone(), request)).await;
            let error = match answer {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => Error::rpc(name, &status),
                Err(_) => {
                    return Err(Error::Deadline {
                        call: name,
                        after: self.timeout,
                    });
                }
            };
            attempt += 1;
            // An answer with a reason is the server's word: its own waiting is over already.
            let broken = error.is_transient() && error.reason().is_none();
            match backoff.delay(attempt) {
                Some(wait)
                    if broken
                        && kind == Kind::Reads
                        && tokio::time::Instant::now() + wait < end =>
                {
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn open<T, R, F, Fut>(
        &self,
        name: &'static str,
        message: T,
        send: F,
    ) -> Result<Streaming<R>, Error>
    where
        F: FnOnce(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<R>>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(STREAM_LIFETIME);
        let opening = send(self.channel.clone(), request);
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::rpc(name, &status)),
            Err(_) => Err(Error::Deadline {
                call: name,
                after: self.timeout,
            }),
        }
    }

    /// Sends entries of an import; each message is answered by one, in order.
    pub async fn import_users(
        &self,
        messages: Vec<api::ImportUsersRequest>,
    ) -> Result<Streaming<api::ImportUsersResponse>, Error> {
        let messages = tokio_stream::iter(messages);
        self.open("ImportUsers", messages, async |channel, request| {
            UserServiceClient::new(channel).import_users(request).await
        })
        .await
    }

    /// All users; with their secrets over the unix socket alone.
    pub async fn export_users(
        &self,
        secrets: bool,
    ) -> Result<Streaming<api::ExportUsersResponse>, Error> {
        let request = api::ExportUsersRequest { secrets };
        self.open("ExportUsers", request, async |channel, request| {
            UserServiceClient::new(channel).export_users(request).await
        })
        .await
    }

    /// State changes of tunnels from now on. Ends with an error when the connection breaks.
    pub async fn watch_transitions(
        &self,
        user: &str,
    ) -> Result<Streaming<api::WatchTransitionsResponse>, Error> {
        let request = api::WatchTransitionsRequest {
            user: user.to_owned(),
        };
        self.open("WatchTransitions", request, async |channel, request| {
            LifecycleServiceClient::new(channel)
                .watch_transitions(request)
                .await
        })
        .await
    }
}

/// The error a stream of this client ended with.
pub fn stream_error(call: &'static str, status: &Status) -> Error {
    Error::rpc(call, status)
}

/// The refusal of one entry of an import.
pub fn entry_error(call: &'static str, status: &tonic_types::pb::Status) -> crate::RpcError {
    crate::RpcError::from_failure(call, status)
}
