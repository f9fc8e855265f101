//! The connection and everything that only reads.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use sixferry_proto::dataplane::v1 as api;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use api::counter_service_client::CounterServiceClient;
use api::port_service_client::PortServiceClient;
use api::route_service_client::RouteServiceClient;
use api::system_service_client::SystemServiceClient;
use api::tunnel_service_client::TunnelServiceClient;

use crate::address::{ip_to_bytes, required_net6};
use crate::{
    Backoff, ElectionId, Error, EventKind, EventWatch, Options, RouteEntry, Session, Target,
    TunnelEntry, TunnelWatch,
};

/// How long a stream may live before the client opens the next one. The dataplane refuses TCP
/// calls without a deadline, and a stream that outlived its reader must end some day.
pub(crate) const STREAM_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The server's deadline is this much later than ours, so that ours gives the message.
const DEADLINE_SLACK: Duration = Duration::from_millis(500);

/// A connection to the dataplane. Cheap to clone; reconnects by itself.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    timeout: Duration,
    instance: Arc<watch::Sender<Option<Arc<str>>>>,
}

/// What is known of a packet whose tunnel is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKey {
    /// Outer addresses, as decapsulation looks them up.
    Outer {
        /// Address of the relay.
        local: Ipv4Addr,
        /// Address of the user.
        remote: Ipv4Addr,
    },
    /// Outer addresses and ports of a UDP tunnel. Those of the user matter only where tunnels
    /// share a port.
    Udp {
        /// Address and port of the relay.
        local: SocketAddrV4,
        /// Address and port of the user.
        remote: SocketAddrV4,
    },
    /// Inner address, as encapsulation looks it up.
    Inner(Ipv6Addr),
}

/// The tunnel a packet belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelMatch {
    /// The tunnel.
    pub entry: TunnelEntry,
    /// For an inner address: the prefix that matched.
    pub prefix: Option<Ipv6Net>,
}

impl Client {
    /// Connects; an unreachable dataplane is an error now, not at the first call.
    pub async fn connect(target: &Target, options: &Options) -> Result<Self, Error> {
        let channel = crate::connect::open(target, options).await?;
        Ok(Self {
            channel,
            timeout: options.timeout,
            instance: Arc::new(watch::Sender::new(None)),
        })
    }

    /// Deadline of every call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Follows `dataplane_instance_id` as the answers show it: a new value means that the
    /// dataplane restarted. `None` before the first answer.
    pub fn instances(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.instance.subscribe()
    }

    /// The instance of the latest answer.
    pub fn instance(&self) -> Option<Arc<str>> {
        self.instance.borrow().clone()
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn note_instance(&self, id: &str) {
        self.instance.send_if_modified(|known| {
            if known.as_deref() == Some(id) {
                return false;
            }
            *known = Some(Arc::from(id));
            true
        });
    }

    /// One call, tried again while the connection breaks and the deadline allows. Only for
    /// calls that may safely run twice.
    pub(crate) async fn call<T, R, F, Fut>(
        &self,
        name: &'static str,
        request: T,
        send: F,
    ) -> Result<R, Error>
    where
        T: Clone,
        R: Answer,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        // Long enough for a connection to come back, short enough for somebody who waits.
        let backoff = Backoff {
            longest: Duration::from_millis(500),
            attempts: 6,
            ..Backoff::default()
        };
        // Says more than that the time is over.
        let mut last = None;
        let attempts = async {
            let mut attempt = 0;
            loop {
                match self
                    .call_once(name, request.clone(), &send, self.timeout)
                    .await
                {
                    Err(error @ Error::Rpc(_)) if error.is_transient() => {
                        attempt += 1;
                        let Some(wait) = backoff.delay(attempt) else {
                            return Err(error);
                        };
                        last = Some(error);
                        tokio::time::sleep(wait).await;
                    }
                    result => return result,
                }
            }
        };
        match tokio::time::timeout(self.timeout, attempts).await {
            Ok(result) => result,
            Err(_) => Err(last.unwrap_or(Error::Deadline {
                call: name,
                after: self.timeout,
            })),
        }
    }

    /// One call, one attempt.
    pub(crate) async fn call_once<T, R, F, Fut>(
        &self,
        name: &'static str,
        message: T,
        send: F,
        timeout: Duration,
    ) -> Result<R, Error>
    where
        R: Answer,
        F: Fn(Channel, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(timeout + DEADLINE_SLACK);
        match tokio::time::timeout(timeout, send(self.channel(), request)).await {
            Ok(Ok(response)) => {
                let answer = response.into_inner();
                self.note_instance(answer.instance());
                Ok(answer)
            }
            Ok(Err(status)) => Err(Error::rpc(name, &status)),
            Err(_) => Err(Error::Deadline {
                call: name,
                after: timeout,
            }),
        }
    }

    /// Opens the session of an owner, to write. Controllers take their start time as the
    /// election id; the highest one wins and fences the others.
    pub async fn open_session(
        &self,
        owner: impl Into<String>,
        election: ElectionId,
    ) -> Result<Session, Error> {
        Session::open(self.clone(), owner.into(), election).await
    }

    /// One tunnel.
    pub async fn tunnel(&self, id: &str) -> Result<TunnelEntry, Error> {
        let request = api::GetTunnelRequest {
            id: id.to_owned(),
            read_mask: None,
        };
        let answer = self
            .call("GetTunnel", request, async |channel, r| {
                TunnelServiceClient::new(channel).get_tunnel(r).await
            })
            .await?;
        let tunnel = answer.tunnel;
        tunnel
            .ok_or(Error::malformed("tunnel", "is missing"))?
            .try_into()
    }

    /// Whose packet is this?
    pub async fn lookup_tunnel(&self, key: TunnelKey) -> Result<TunnelMatch, Error> {
        let key = match key {
            TunnelKey::Outer { local, remote } => {
                api::lookup_tunnel_request::Key::Outer(api::OuterKey {
                    local: local.octets().to_vec(),
                    remote: remote.octets().to_vec(),
                    local_port: 0,
                    remote_port: 0,
                })
            }
            TunnelKey::Udp { local, remote } => {
                api::lookup_tunnel_request::Key::Outer(api::OuterKey {
                    local: local.ip().octets().to_vec(),
                    remote: remote.ip().octets().to_vec(),
                    local_port: local.port().into(),
                    remote_port: remote.port().into(),
                })
            }
            TunnelKey::Inner(address) => {
                api::lookup_tunnel_request::Key::InnerAddress(address.octets().to_vec())
            }
        };
        let request = api::LookupTunnelRequest { key: Some(key) };
        let answer = self
            .call("LookupTunnel", request, async |channel, r| {
                TunnelServiceClient::new(channel).lookup_tunnel(r).await
            })
            .await?;
        let tunnel = answer
            .tunnel
            .ok_or(Error::malformed("tunnel", "is missing"))?;
        let matched = answer.matched_prefix;
        let prefix = matched.map(|p| required_net6("matched_prefix", &p));
        Ok(TunnelMatch {
            entry: tunnel.try_into()?,
            prefix: prefix.transpose()?,
        })
    }

    /// Follows the tunnel table: a snapshot first, then changes.
    pub fn watch_tunnels(&self, owner: Option<&str>) -> TunnelWatch {
        TunnelWatch::new(self.clone(), owner.unwrap_or_default().to_owned())
    }

    /// Follows events: what the dataplane learns or notices from now on.
    pub fn watch_events(&self, kinds: &[EventKind], owner: Option<&str>) -> EventWatch {
        let kinds = kinds.to_vec();
        EventWatch::new(self.clone(), kinds, owner.unwrap_or_default().to_owned())
    }

    /// The route that wins for an address.
    pub async fn lookup_route(&self, address: std::net::IpAddr) -> Result<RouteEntry, Error> {
        let request = api::LookupRouteRequest {
            address: ip_to_bytes(address),
        };
        let answer = self
            .call("LookupRoute", request, async |channel, r| {
                RouteServiceClient::new(channel).lookup_route(r).await
            })
            .await?;
        let route = answer.route;
        route
            .ok_or(Error::malformed("route", "is missing"))?
            .try_into()
    }

    /// All ports.
    pub async fn ports(&self) -> Result<Vec<api::Port>, Error> {
        let answer = self
            .call("ListPorts", api::ListPortsRequest {}, async |channel, r| {
                PortServiceClient::new(channel).list_ports(r).await
            })
            .await?;
        Ok(answer.ports)
    }

    /// One port.
    pub async fn port(&self, name: &str) -> Result<api::Port, Error> {
        let request = api::GetPortRequest { name: name.into() };
        let answer = self
            .call("GetPort", request, async |channel, r| {
                PortServiceClient::new(channel).get_port(r).await
            })
            .await?;
        answer.port.ok_or(Error::malformed("port", "is missing"))
    }

    /// The queues of one port, or of all.
    pub async fn queues(&self, port: Option<&str>) -> Result<Vec<api::Queue>, Error> {
        let request = api::ListQueuesRequest {
            port: port.unwrap_or_default().to_owned(),
        };
        let answer = self
            .call("ListQueues", request, async |channel, r| {
                PortServiceClient::new(channel).list_queues(r).await
            })
            .await?;
        Ok(answer.queues)
    }

    /// The counters now. With `top` in the selection this takes as long as its window.
    pub async fn counters(
        &self,
        selection: api::CounterSelection,
    ) -> Result<api::CounterReport, Error> {
        let request = api::ReadCountersRequest {
            selection: Some(selection),
        };
        let answer = self
            .call("ReadCounters", request, async |channel, r| {
                CounterServiceClient::new(channel).read_counters(r).await
            })
            .await?;
        answer
            .report
            .ok_or(Error::malformed("report", "is missing"))
    }

    /// The counters now and at every interval. Ends with an error when the connection breaks.
    pub async fn stream_counters(
        &self,
        selection: api::CounterSelection,
        interval: Duration,
    ) -> Result<Streaming<api::StreamCountersResponse>, Error> {
        let mut request = Request::new(api::StreamCountersRequest {
            selection: Some(selection),
            interval: prost_types::Duration::try_from(interval).ok(),
        });
        request.set_timeout(STREAM_LIFETIME);
        let mut service = CounterServiceClient::new(self.channel());
        let opening = service.stream_counters(request);
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::rpc("StreamCounters", &status)),
            Err(_) => Err(Error::Deadline {
                call: "StreamCounters",
                after: self.timeout,
            }),
        }
    }

    /// Every drop and punt reason with its explanation.
    pub async fn drop_reasons(&self) -> Result<api::ListDropReasonsResponse, Error> {
        let request = api::ListDropReasonsRequest {};
        self.call("ListDropReasons", request, async |channel, r| {
            CounterServiceClient::new(channel)
                .list_drop_reasons(r)
                .await
        })
        .await
    }

    /// Version, age, size.
    pub async fn info(&self) -> Result<api::GetInfoResponse, Error> {
        self.call("GetInfo", api::GetInfoRequest {}, async |channel, r| {
            SystemServiceClient::new(channel).get_info(r).await
        })
        .await
    }

    /// The configuration that runs.
    pub async fn config(&self) -> Result<api::GetConfigResponse, Error> {
        self.call("GetConfig", api::GetConfigRequest {}, async |channel, r| {
            SystemServiceClient::new(channel).get_config(r).await
        })
        .await
    }

    /// Checks a configuration text against the dataplane's host.
    pub async fn check_config(&self, text: String) -> Result<api::CheckConfigResponse, Error> {
        let request = api::CheckConfigRequest { text };
        self.call("CheckConfig", request, async |channel, r| {
            SystemServiceClient::new(channel).check_config(r).await
        })
        .await
    }

    /// Reads the configuration file again.
    pub async fn reload_config(&self) -> Result<api::ReloadConfigResponse, Error> {
        let request = api::ReloadConfigRequest {};
        self.call("ReloadConfig", request, async |channel, r| {
            SystemServiceClient::new(channel).reload_config(r).await
        })
        .await
    }
}

/// A response: it tells which start of the dataplane it comes from.
pub(crate) trait Answer {
    fn instance(&self) -> &str;
}

macro_rules! answers {
    ($($message:ident),* $(,)?) => {$(
        impl Answer for api::$message {
            fn instance(&self) -> &str {
                &self.dataplane_instance_id
            }
        }
    )*};
}

answers!(
    OpenSessionResponse,
    BeginSyncResponse,
    CommitSyncResponse,
    AbortSyncResponse,
    GetTunnelResponse,
    ListTunnelsResponse,
    LookupTunnelResponse,
    GetDomainResponse,
    ListDomainsResponse,
    LookupDomainResponse,
    ListRoutesResponse,
    LookupRouteResponse,
    ListNeighboursResponse,
    GetPolicyResponse,
    SetPolicyResponse,
    TestPacketResponse,
    ListPortsResponse,
    GetPortResponse,
    ListQueuesResponse,
    ReadCountersResponse,
    ListDropReasonsResponse,
    GetInfoResponse,
    GetConfigResponse,
    CheckConfigResponse,
    ReloadConfigResponse,
);
