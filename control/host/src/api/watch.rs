//! From a broadcast to a stream of messages: batches under load, and a word about what was lost.

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;
use tonic::Status;

use super::MAX_ENTRIES;

/// Events of one message, and how many were lost before them.
pub(super) struct Batch<E> {
    pub(super) events: Vec<E>,
    pub(super) lost: u64,
}

/// Sends until the watcher leaves or the source ends. The first batch comes at once and is empty;
/// `message` gives `None` where nothing of a later one is wanted.
pub(super) async fn forward<E: Clone, M>(
    mut source: Receiver<E>,
    out: mpsc::Sender<Result<M, Status>>,
    mut message: impl FnMut(Batch<E>) -> Option<M>,
) {
    let mut batch = Batch {
        events: Vec::new(),
        lost: 0,
    };
    loop {
        if let Some(ready) = message(batch)
            && out.send(Ok(ready)).await.is_err()
        {
            return;
        }
        batch = Batch {
            events: Vec::new(),
            lost: 0,
        };
        let event = tokio::select! {
            event = source.recv() => event,
            () = out.closed() => return,
        };
        match event {
            Ok(event) => batch.events.push(event),
            Err(RecvError::Lagged(lost)) => batch.lost += lost,
            Err(RecvError::Closed) => return,
        }
        // What else is there already goes along.
        while batch.events.len() < MAX_ENTRIES {
            match source.try_recv() {
                Ok(event) => batch.events.push(event),
                Err(TryRecvError::Lagged(lost)) => batch.lost += lost,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }
}
