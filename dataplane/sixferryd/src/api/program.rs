//! The bidirectional stream both Program calls share.
//!
//! Requests are applied as they come; each answer waits until the workers see its effect. The two
//! run apart, so that a client which sends ahead is not slowed down by the pace of publishing, and
//! a bounded queue between them makes one that never reads wait.

use std::sync::Arc;

use futures::StreamExt;
use sixferry_proto::MAX_UPDATES;
use sixferry_proto::dataplane::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::status::failure_status;
use crate::control::error::Error;
use crate::control::shared::Shared;
use crate::control::{Control, Outcome};

/// Messages applied but not yet acknowledged, per stream.
const IN_FLIGHT: usize = 16;

/// A request of one of the two calls.
pub(super) trait ProgramRequest: Send + 'static {
    fn seq(&self) -> u64;
    fn len(&self) -> usize;
    fn session(&self) -> &str;
    /// Converts the entries, without the lock.
    fn prepare(self) -> Result<Prepared, Error>;
}

/// The part of a message that needs the lock; an error ends the stream.
pub(super) type Prepared = Box<dyn FnOnce(&mut Control) -> Result<Outcome, Error> + Send>;

/// What one message came to.
pub(super) struct Applied {
    pub(super) seq: u64,
    pub(super) outcome: Outcome,
}

/// Runs the stream; `answer` makes the response of a message.
pub(super) fn run<Q, R>(
    shared: Arc<Shared>,
    mut requests: Streaming<Q>,
    answer: impl Fn(Applied) -> R + Send + 'static,
) -> ReceiverStream<Result<R, Status>>
where
    Q: ProgramRequest,
    R: Send + 'static,
{
    let (applied_tx, mut applied_rx) = mpsc::channel::<Result<Applied, Status>>(IN_FLIGHT);
    let (answer_tx, answer_rx) = mpsc::channel(1);
    let writer = Arc::clone(&shared);
    tokio::spawn(async move {
        let mut last = 0;
        while let Some(request) = requests.next().await {
            let done = match request {
                Ok(request) => apply(&writer, request, &mut last).map_err(Status::from),
                Err(status) => Err(status),
            };
            let over = done.is_err();
            if applied_tx.send(done).await.is_err() || over {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(applied) = applied_rx.recv().await {
            let response = match applied {
                Ok(applied) => {
                    shared.visible(applied.outcome.change).await;
                    Ok(answer(applied))
                }
                Err(status) => Err(status),
            };
            if answer_tx.send(response).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(answer_rx)
}

fn apply<Q: ProgramRequest>(shared: &Shared, request: Q, last: &mut u64) -> Result<Applied, Error> {
    let seq = request.seq();
    if seq <= *last {
        return Err(Error::BadSeq {
            given: seq,
            last: *last,
        });
    }
    *last = seq;
    if request.len() > MAX_UPDATES {
        return Err(Error::TooManyEntries(request.len()));
    }
    let session = request.session().to_owned();
    // Refused early: the conversion of what a fenced writer sends is wasted.
    shared.with(|control| control.authorize(&session))?;
    let work = request.prepare()?;
    let outcome = shared.with(work)?;
    Ok(Applied { seq, outcome })
}

/// Failures as messages, field paths starting at the entry.
pub(super) fn failures(failures: Vec<(usize, Error)>) -> Vec<pb::Failure> {
    failures
        .into_iter()
        .map(|(index, error)| {
            let error = error.below(&format!("updates[{index}]."));
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            pb::Failure {
                index,
                status: Some(failure_status(error)),
            }
        })
        .collect()
}
