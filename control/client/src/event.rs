//! Events: what the dataplane learnt or noticed, followed across broken connections.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sixferry_proto::dataplane::v1 as api;
use tonic::{Request, Streaming};

use api::event_service_client::EventServiceClient;

use crate::client::STREAM_LIFETIME;
use crate::retry::Reconnect;
use crate::{Client, Endpoint, Error, TunnelState};

pub use api::EventKind;

/// Something the dataplane learnt or noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When; `None` for an event without a time.
    pub time: Option<SystemTime>,
    /// Owner of the tunnel it is about; empty for ports.
    pub owner: String,
    /// What.
    pub happening: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A UDP tunnel's packet passed the inner source check but came from another endpoint than
    /// the user's; it was dropped. A controller that believes it updates the tunnel.
    EndpointMismatch {
        /// The tunnel.
        tunnel: String,
        /// Our end.
        local: Option<Endpoint>,
        /// Where the packet came from.
        seen: Endpoint,
        /// Where the user is believed to be.
        current: Option<Endpoint>,
    },
    /// A UDP tunnel's user moved by itself.
    EndpointChanged {
        /// The tunnel.
        tunnel: String,
        /// Where it was.
        from: Option<Endpoint>,
        /// Where it is.
        to: Endpoint,
    },
    /// A user was found alive or went silent.
    Liveness {
        /// The tunnel.
        tunnel: String,
        /// Before.
        from: TunnelState,
        /// Now.
        to: TunnelState,
    },
    /// A path MTU was lowered, or raised after ageing.
    PathMtu {
        /// The tunnel.
        tunnel: String,
        /// Bytes of the outer packet.
        path_mtu: u32,
        /// Largest inner packet now.
        mtu: u32,
    },
    /// An ICMPv4 error came back about a packet.
    OuterError {
        /// The tunnel or domain.
        tunnel: String,
        /// ICMPv4 type.
        icmp_type: u32,
        /// ICMPv4 code.
        icmp_code: u32,
    },
    /// A port went up or down.
    Port {
        /// Its name.
        port: String,
        /// Now.
        up: bool,
    },
}

/// What a watcher of events sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// The watch is in force: nothing is missed from here on. What happened before stands in the
    /// tables. Comes again after every [`Noticed::Disconnected`].
    Ready,
    /// An event.
    Event(Event),
    /// Events were lost here: the reader, or the dataplane, did not keep up.
    Lagged {
        /// How many.
        lost: u64,
    },
    /// The connection broke; what happens until the next [`Noticed::Ready`] is missed.
    Disconnected {
        /// Why.
        cause: String,
    },
}

/// A watch on events.
#[derive(Debug)]
pub struct EventWatch {
    client: Client,
    kinds: Vec<EventKind>,
    owner: String,
    stream: Option<Streaming<api::WatchEventsResponse>>,
    /// No message of this stream was read yet.
    fresh: bool,
    queue: VecDeque<Noticed>,
    reconnect: Reconnect,
}

impl EventWatch {
    pub(crate) fn new(client: Client, kinds: Vec<EventKind>, owner: String) -> Self {
        Self {
            client,
            kinds,
            owner,
            stream: None,
            fresh: true,
            queue: VecDeque::new(),
            reconnect: Reconnect::default(),
        }
    }

    /// The next one. Waits as long as it takes; an error ends the watch.
    pub async fn next(&mut self) -> Result<Noticed, Error> {
        loop {
            if let Some(noticed) = self.queue.pop_front() {
                return Ok(noticed);
            }
            let broken = match &mut self.stream {
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        self.fresh = true;
                        continue;
                    }
                    Err(error) => error,
                },
                Some(stream) => match stream.message().await {
                    Ok(Some(message)) => {
                        self.take(message)?;
                        continue;
                    }
                    Ok(None) => {
                        let ended = tonic::Status::unavailable("the dataplane ended the stream");
                        Error::rpc("WatchEvents", &ended)
                    }
                    Err(status) => Error::rpc("WatchEvents", &status),
                },
            };
            let cause = broken.to_string();
            let was_open = self.stream.take().is_some();
            if self.reconnect.broken(was_open, broken).await? {
                self.queue.push_back(Noticed::Disconnected { cause });
            }
        }
    }

    async fn open(&self) -> Result<Streaming<api::WatchEventsResponse>, Error> {
        let mut request = Request::new(api::WatchEventsRequest {
            kinds: self.kinds.iter().map(|&kind| kind.into()).collect(),
            owner: self.owner.clone(),
        });
        request.set_timeout(STREAM_LIFETIME);
        let mut service = EventServiceClient::new(self.client.channel());
        let timeout = self.client.timeout();
        match tokio::time::timeout(timeout, service.watch_events(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::rpc("WatchEvents", &status)),
            Err(_) => Err(Error::Deadline {
                call: "WatchEvents",
                after: timeout,
            }),
        }
    }

    fn take(&mut self, message: api::WatchEventsResponse) -> Result<(), Error> {
        self.reconnect.progressed();
        self.client.note_instance(&message.dataplane_instance_id);
        if std::mem::take(&mut self.fresh) {
            self.queue.push_back(Noticed::Ready);
        }
        for event in message.events {
            self.queue.extend(noticed(event)?);
        }
        Ok(())
    }
}

/// `None` for a kind that only a newer dataplane knows.
fn noticed(proto: api::Event) -> Result<Option<Noticed>, Error> {
    use api::event::Event as Kind;
    let optional = |e: Option<api::Endpoint>| {
        e.map(|e| Endpoint::from_proto("event.endpoint", &e))
            .transpose()
    };
    let required = |field: &'static str, e: Option<api::Endpoint>| {
        Endpoint::from_proto(field, &e.ok_or(Error::malformed(field, "is missing"))?)
    };
    let happening = match proto.event {
        None => return Ok(None),
        Some(Kind::Lagged(lagged)) => return Ok(Some(Noticed::Lagged { lost: lagged.lost })),
        Some(Kind::EndpointMismatch(e)) => Happening::EndpointMismatch {
            local: optional(e.local)?,
            seen: required("endpoint_mismatch.seen", e.seen)?,
            current: optional(e.current)?,
            tunnel: e.tunnel_id,
        },
        Some(Kind::EndpointChanged(e)) => Happening::EndpointChanged {
            from: optional(e.from)?,
            to: required("endpoint_changed.to", e.to)?,
            tunnel: e.tunnel_id,
        },
        Some(Kind::LivenessChanged(e)) => Happening::Liveness {
            from: e.from(),
            to: e.to(),
            tunnel: e.tunnel_id,
        },
        Some(Kind::PathMtuChanged(e)) => Happening::PathMtu {
            path_mtu: e.path_mtu,
            mtu: e.mtu,
            tunnel: e.tunnel_id,
        },
        Some(Kind::OuterError(e)) => Happening::OuterError {
            icmp_type: e.icmp_type,
            icmp_code: e.icmp_code,
            tunnel: e.tunnel_id,
        },
        Some(Kind::PortChanged(e)) => Happening::Port {
            up: e.up,
            port: e.port,
        },
    };
    Ok(Some(Noticed::Event(Event {
        time: proto.time.and_then(time),
        owner: proto.owner,
        happening,
    })))
}

fn time(stamp: prost_types::Timestamp) -> Option<SystemTime> {
    let since = Duration::new(
        u64::try_from(stamp.seconds).ok()?,
        u32::try_from(stamp.nanos).ok()?,
    );
    UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u32) -> Option<api::Endpoint> {
        Some(api::Endpoint {
            address: vec![192, 0, 2, 10],
            port,
        })
    }

    #[test]
    fn a_mismatch_names_both_endpoints() {
        let proto = api::Event {
            time: Some(prost_types::Timestamp {
                seconds: 10,
                nanos: 500_000_000,
            }),
            owner: "dtcp".into(),
            event: Some(api::event::Event::EndpointMismatch(api::EndpointMismatch {
                tunnel_id: "u1".into(),
                local: None,
                seen: endpoint(61_000),
                current: endpoint(4028),
            })),
        };
        let Some(Noticed::Event(event)) = noticed(proto).unwrap() else {
            panic!("no event");
        };
        assert_eq!(event.time, Some(UNIX_EPOCH + Duration::from_millis(10_500)));
        let Happening::EndpointMismatch { seen, current, .. } = event.happening else {
            panic!("another event");
        };
        assert_eq!(seen.to_string(), "192.0.2.10:61000");
        assert_eq!(current.unwrap().to_string(), "192.0.2.10:4028");
    }

    #[test]
    fn unknown_kinds_are_left_out_and_lost_events_are_not() {
        assert_eq!(noticed(api::Event::default()).unwrap(), None);
        let lagged = api::Event {
            event: Some(api::event::Event::Lagged(api::Lagged { lost: 7 })),
            ..Default::default()
        };
        assert_eq!(noticed(lagged).unwrap(), Some(Noticed::Lagged { lost: 7 }));
    }

    #[test]
    fn an_endpoint_that_must_be_there_is_named() {
        let event = api::event::Event::EndpointChanged(api::EndpointChanged::default());
        let proto = api::Event {
            event: Some(event),
            ..Default::default()
        };
        let error = noticed(proto).unwrap_err();
        assert!(error.to_string().contains("endpoint_changed.to is missing"));
    }
}
