//! WatchTunnels: snapshot, marker, changes.
//!
//! A watcher is a cursor into the log; it holds no queue of its own beyond two messages. While it
//! is slow the log moves on, and when the cursor falls out of it the watcher starts over.

use std::sync::Arc;

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::tunnel_event::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::control::read::{TunnelView, WatchItem};
use crate::control::shared::Shared;
use crate::convert::tunnel::tunnel_message;

/// Events in one message.
const BATCH: usize = 512;

/// The watcher has left.
struct Gone;

struct Watcher {
    shared: Arc<Shared>,
    out: mpsc::Sender<Result<pb::WatchTunnelsResponse, Status>>,
    owner: Option<String>,
}

/// Starts a watch.
pub(super) fn run(
    shared: Arc<Shared>,
    request: pb::WatchTunnelsRequest,
) -> ReceiverStream<Result<pb::WatchTunnelsResponse, Status>> {
    let (out, events) = mpsc::channel(2);
    let owner = (!request.owner.is_empty()).then_some(request.owner);
    let watcher = Watcher { shared, out, owner };
    tokio::spawn(async move {
        let _gone = watcher
            .serve(request.since_revision, &request.dataplane_instance_id)
            .await;
    });
    ReceiverStream::new(events)
}

impl Watcher {
    async fn serve(&self, since: Option<u64>, instance: &str) -> Result<(), Gone> {
        // Subscribed before the first look: no change can slip between.
        let mut revisions = self.shared.revisions();
        let mut cursor = match since {
            None => self.snapshot().await?,
            Some(_) if !instance.is_empty() && instance != self.shared.instance() => {
                self.reset("instance changed").await?
            }
            Some(since) => since,
        };
        let mut cause = "revision compacted";
        loop {
            let owner = self.owner.as_deref();
            let changes = self.shared.with(|c| c.changes_since(cursor, BATCH, owner));
            let Some((items, reached)) = changes else {
                cursor = self.reset(cause).await?;
                continue;
            };
            cause = "watcher too slow";
            let caught_up = reached == cursor;
            cursor = reached;
            if !items.is_empty() {
                self.send(items.into_iter().map(event).collect(), cursor)
                    .await?;
            }
            if caught_up {
                tokio::select! {
                    changed = revisions.wait_for(|revision| *revision > cursor) => {
                        changed.map_err(|_| Gone)?;
                    }
                    () = self.out.closed() => return Err(Gone),
                }
            }
        }
    }

    /// Tells the watcher to start over and sends the snapshot.
    async fn reset(&self, cause: &str) -> Result<u64, Gone> {
        let reset = Event::Reset(pb::WatchReset {
            cause: cause.to_owned(),
        });
        self.send(
            vec![pb::TunnelEvent {
                revision: 0,
                event: Some(reset),
            }],
            0,
        )
        .await?;
        self.snapshot().await
    }

    /// Sends all tunnels and the marker; gives the revision from which changes follow. A tunnel
    /// that changes meanwhile is told twice, which does no harm.
    async fn snapshot(&self) -> Result<u64, Gone> {
        let (revision, owner) = self.shared.with(|control| {
            let owner = self.owner.as_deref().map(|name| control.find_owner(name));
            (control.revision(), owner)
        });
        let mut count = 0;
        // An owner never seen has no tunnels yet.
        let mut next = if owner == Some(None) { None } else { Some(0) };
        while let Some(from) = next {
            let (views, more) = self
                .shared
                .with(|c| c.list_tunnels(from, BATCH, owner.flatten(), false));
            next = more;
            count += views.len() as u64;
            if !views.is_empty() {
                let events = views.iter().map(|v| upserted(v.revision, v)).collect();
                self.send(events, 0).await?;
            }
        }
        let done = Event::SnapshotDone(pb::SnapshotDone { count });
        self.send(
            vec![pb::TunnelEvent {
                revision,
                event: Some(done),
            }],
            revision,
        )
        .await?;
        Ok(revision)
    }

    async fn send(&self, events: Vec<pb::TunnelEvent>, revision: u64) -> Result<(), Gone> {
        let dataplane_instance_id = self.shared.instance().to_owned();
        let message = pb::WatchTunnelsResponse {
            dataplane_instance_id,
            events,
            revision,
        };
        self.out.send(Ok(message)).await.map_err(|_| Gone)
    }
}

fn upserted(revision: u64, view: &TunnelView) -> pb::TunnelEvent {
    // Life comes and goes without a revision: EventService tells it.
    let tunnel = pb::Tunnel {
        state: pb::TunnelState::Unspecified.into(),
        ..tunnel_message(view, None)
    };
    pb::TunnelEvent {
        revision,
        event: Some(Event::Upserted(tunnel)),
    }
}

fn event(item: WatchItem) -> pb::TunnelEvent {
    match item {
        WatchItem::Upserted { revision, tunnel } => upserted(revision, &tunnel),
        WatchItem::Removed {
            revision,
            id,
            owner,
        } => {
            let removed = pb::TunnelRemoved {
                id,
                owner: owner.to_string(),
            };
            pb::TunnelEvent {
                revision,
                event: Some(Event::Removed(removed)),
            }
        }
    }
}
