//! EventService.
//!
//! All watchers read one ring; one that falls behind is told how much it missed.

use std::sync::Arc;
use std::time::SystemTime;

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::event::Event as Kind;
use sixferry_proto::dataplane::v1::event_service_server::EventService;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Api;
use crate::control::error::Error;
use crate::convert::tunnel::{endpoint_message, life_state};
use crate::live::{Notice, What};

/// Watchers at a time.
pub(super) const MAX_WATCHERS: usize = 64;
/// Events in one message.
const BATCH: usize = 512;

#[tonic::async_trait]
impl EventService for Api {
    type WatchEventsStream = ReceiverStream<Result<pb::WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let filter = Filter::new(request.into_inner())?;
        let permit = self.watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooManyWatchers(MAX_WATCHERS))?;
        // Subscribed before the first message says so.
        let events = self.live.events();
        let (out, stream) = mpsc::channel(2);
        let instance = self.instance();
        tokio::spawn(async move {
            let _permit = permit;
            serve(instance, filter, events, out).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What a watcher wants.
struct Filter {
    /// Empty: everything.
    kinds: Vec<pb::EventKind>,
    owner: String,
}

impl Filter {
    fn new(request: pb::WatchEventsRequest) -> Result<Self, Error> {
        let mut kinds = Vec::new();
        for (i, kind) in request.kinds.iter().enumerate() {
            match pb::EventKind::try_from(*kind) {
                Ok(pb::EventKind::Unspecified) | Err(_) => {
                    let text = "unknown to this version";
                    return Err(Error::field(format!("kinds[{i}]"), text));
                }
                Ok(kind) if kinds.contains(&kind) => {}
                Ok(kind) => kinds.push(kind),
            }
        }
        let owner = request.owner;
        Ok(Self { kinds, owner })
    }

    fn wants(&self, notice: &Notice) -> bool {
        let kind = match notice.what {
            What::EndpointMismatch { .. } => pb::EventKind::EndpointMismatch,
            What::EndpointChanged { .. } => pb::EventKind::EndpointChanged,
            What::Liveness { .. } => pb::EventKind::Liveness,
            What::PathMtu { .. } => pb::EventKind::PathMtu,
            What::OuterError { .. } => pb::EventKind::OuterError,
            What::Port { .. } => pb::EventKind::Port,
            What::Lost(_) => return true,
        };
        let mine = |owner: &Arc<str>| self.owner.is_empty() || **owner == *self.owner;
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && notice.owner.as_ref().is_none_or(mine)
    }
}

async fn serve(
    instance: String,
    filter: Filter,
    mut events: Receiver<Arc<Notice>>,
    out: mpsc::Sender<Result<pb::WatchEventsResponse, Status>>,
) {
    let mut batch = Vec::new();
    loop {
        let message = pb::WatchEventsResponse {
            dataplane_instance_id: instance.clone(),
            events: std::mem::take(&mut batch),
        };
        if out.send(Ok(message)).await.is_err() {
            return;
        }
        while batch.is_empty() {
            let first = tokio::select! {
                first = events.recv() => first,
                () = out.closed() => return,
            };
            match first {
                Ok(notice) => batch.extend(filtered(&filter, &notice)),
                Err(RecvError::Lagged(lost)) => batch.push(lagged(SystemTime::now(), lost)),
                // The daemon stops.
                Err(RecvError::Closed) => return,
            }
        }
        // What else is there already goes along.
        while batch.len() < BATCH {
            match events.try_recv() {
                Ok(notice) => batch.extend(filtered(&filter, &notice)),
                Err(TryRecvError::Lagged(lost)) => batch.push(lagged(SystemTime::now(), lost)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }
}

fn filtered(filter: &Filter, notice: &Notice) -> Option<pb::Event> {
    filter.wants(notice).then(|| event(notice))
}

fn lagged(at: SystemTime, lost: u64) -> pb::Event {
    pb::Event {
        time: Some(at.into()),
        owner: String::new(),
        event: Some(Kind::Lagged(pb::Lagged { lost })),
    }
}

fn event(notice: &Notice) -> pb::Event {
    let kind = match &notice.what {
        What::EndpointMismatch {
            tunnel,
            local,
            seen,
            current,
        } => Kind::EndpointMismatch(pb::EndpointMismatch {
            tunnel_id: tunnel.to_string(),
            local: Some(endpoint_message(*local)),
            seen: Some(endpoint_message(*seen)),
            current: current.map(endpoint_message),
        }),
        What::EndpointChanged { tunnel, from, to } => Kind::EndpointChanged(pb::EndpointChanged {
            tunnel_id: tunnel.to_string(),
            from: from.map(endpoint_message),
            to: Some(endpoint_message(*to)),
        }),
        What::Liveness { tunnel, from, to } => Kind::LivenessChanged(pb::LivenessChanged {
            tunnel_id: tunnel.to_string(),
            from: life_state(*from).into(),
            to: life_state(*to).into(),
        }),
        What::PathMtu {
            tunnel,
            path_mtu,
            mtu,
        } => Kind::PathMtuChanged(pb::PathMtuChanged {
            tunnel_id: tunnel.to_string(),
            path_mtu: (*path_mtu).into(),
            mtu: (*mtu).into(),
        }),
        What::OuterError {
            tunnel,
            icmp_type,
            icmp_code,
        } => Kind::OuterError(pb::OuterError {
            tunnel_id: tunnel.to_string(),
            icmp_type: (*icmp_type).into(),
            icmp_code: (*icmp_code).into(),
        }),
        What::Port { port, up } => Kind::PortChanged(pb::PortChanged {
            port: port.to_string(),
            up: *up,
        }),
        What::Lost(lost) => return lagged(notice.at, *lost),
    };
    let owner = notice.owner.as_ref().map(ToString::to_string);
    pb::Event {
        time: Some(notice.at.into()),
        owner: owner.unwrap_or_default(),
        event: Some(kind),
    }
}
