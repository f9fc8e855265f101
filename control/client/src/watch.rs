//! Following the tunnel table across broken connections and restarts of the dataplane.

use std::collections::VecDeque;

use sixferry_proto::dataplane::v1 as api;
use tonic::{Request, Streaming};

use api::tunnel_event::Event;
use api::tunnel_service_client::TunnelServiceClient;

use crate::client::STREAM_LIFETIME;
use crate::retry::Reconnect;
use crate::{Client, Error, TunnelEntry};

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// Created or changed, or part of the snapshot.
    Upserted(Box<TunnelEntry>),
    /// Removed.
    Removed {
        /// Natural key.
        id: String,
        /// Who owned it.
        owner: String,
    },
    /// The snapshot is complete; changes follow.
    SnapshotDone {
        /// Tunnels in it.
        count: u64,
    },
    /// Forget everything: a snapshot follows.
    Reset {
        /// Why.
        cause: String,
    },
    /// The connection broke; the watch goes on when it is back, without loss.
    Disconnected {
        /// Why.
        cause: String,
    },
}

/// A watch on the tunnel table.
#[derive(Debug)]
pub struct TunnelWatch {
    client: Client,
    owner: String,
    stream: Option<Streaming<api::WatchTunnelsResponse>>,
    queue: VecDeque<WatchEvent>,
    /// Where to resume; valid once the snapshot was complete.
    revision: Option<u64>,
    instance: String,
    /// The reader has seen a part of a snapshot that was never completed.
    partial: bool,
    reconnect: Reconnect,
}

impl TunnelWatch {
    pub(crate) fn new(client: Client, owner: String) -> Self {
        Self {
            client,
            owner,
            stream: None,
            queue: VecDeque::new(),
            revision: None,
            instance: String::new(),
            partial: false,
            reconnect: Reconnect::default(),
        }
    }

    /// The next event. Waits as long as it takes; an error ends the watch.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            let broken = match &mut self.stream {
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
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
                        Error::rpc("WatchTunnels", &ended)
                    }
                    Err(status) => Error::rpc("WatchTunnels", &status),
                },
            };
            self.broken(broken).await?;
        }
    }

    async fn open(&mut self) -> Result<Streaming<api::WatchTunnelsResponse>, Error> {
        let mut request = Request::new(api::WatchTunnelsRequest {
            since_revision: self.revision,
            owner: self.owner.clone(),
            dataplane_instance_id: self.instance.clone(),
        });
        request.set_timeout(STREAM_LIFETIME);
        let mut service = TunnelServiceClient::new(self.client.channel());
        let timeout = self.client.timeout();
        let stream = match tokio::time::timeout(timeout, service.watch_tunnels(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Error::rpc("WatchTunnels", &status)),
            Err(_) => {
                return Err(Error::Deadline {
                    call: "WatchTunnels",
                    after: timeout,
                });
            }
        };
        if self.revision.is_none() && self.partial {
            self.partial = false;
            self.queue.push_back(WatchEvent::Reset {
                cause: "the connection broke during the snapshot".to_owned(),
            });
        }
        Ok(stream)
    }

    fn take(&mut self, message: api::WatchTunnelsResponse) -> Result<(), Error> {
        self.reconnect.progressed();
        self.client.note_instance(&message.dataplane_instance_id);
        self.instance = message.dataplane_instance_id;
        let mut complete = self.revision.is_some();
        for event in message.events {
            let event = match event.event {
                Some(Event::Upserted(tunnel)) => {
                    self.partial |= !complete;
                    WatchEvent::Upserted(Box::new(tunnel.try_into()?))
                }
                Some(Event::Removed(removed)) => WatchEvent::Removed {
                    id: removed.id,
                    owner: removed.owner,
                },
                Some(Event::SnapshotDone(done)) => {
                    complete = true;
                    self.partial = false;
                    WatchEvent::SnapshotDone { count: done.count }
                }
                Some(Event::Reset(reset)) => {
                    complete = false;
                    self.partial = false;
                    WatchEvent::Reset { cause: reset.cause }
                }
                // A newer dataplane may know more kinds of events.
                None => continue,
            };
            self.queue.push_back(event);
        }
        self.revision = complete.then_some(message.revision);
        Ok(())
    }

    async fn broken(&mut self, error: Error) -> Result<(), Error> {
        let cause = error.to_string();
        let was_open = self.stream.take().is_some();
        if self.reconnect.broken(was_open, error).await? {
            self.queue.push_back(WatchEvent::Disconnected { cause });
        }
        Ok(())
    }
}
