//! The bidirectional stream all Program calls share.
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
use crate::control::session::OwnerId;
use crate::control::shared::Shared;
use crate::control::{Atomicity, Control, Outcome};
use crate::convert::atomicity;

/// Messages applied but not yet acknowledged, per stream.
const IN_FLIGHT: usize = 16;

/// What is common to the requests of all Program calls.
#[derive(Debug)]
pub(super) struct Message<U> {
    pub(super) seq: u64,
    pub(super) session: String,
    pub(super) atomicity: i32,
    pub(super) validate_only: bool,
    pub(super) updates: Vec<U>,
}

/// One of the Program calls: how its entries are read, applied and answered.
pub(super) trait Program: 'static {
    type Request: Send + 'static;
    type Update;
    type Op: Send;
    type Response: Send + 'static;

    fn message(request: Self::Request) -> Message<Self::Update>;
    /// Reads an entry, without the lock. What cannot be read becomes an entry that fails.
    fn op(update: Self::Update) -> Self::Op;
    fn apply(
        control: &mut Control,
        owner: OwnerId,
        ops: Vec<Self::Op>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome;
    fn answer(instance: &str, applied: Applied) -> Self::Response;
}

/// What one message came to.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) seq: u64,
    pub(super) outcome: Outcome,
}

/// Runs the stream.
pub(super) fn run<P: Program>(
    shared: Arc<Shared>,
    mut requests: Streaming<P::Request>,
) -> ReceiverStream<Result<P::Response, Status>> {
    let (applied_tx, mut applied_rx) = mpsc::channel::<Result<Applied, Status>>(IN_FLIGHT);
    let (answer_tx, answer_rx) = mpsc::channel(1);
    let writer = Arc::clone(&shared);
    tokio::spawn(async move {
        let mut last = 0;
        while let Some(request) = requests.next().await {
            let done = match request {
                Ok(request) => apply::<P>(&writer, request, &mut last).map_err(Status::from),
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
                    Ok(P::answer(shared.instance(), applied))
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

fn apply<P: Program>(
    shared: &Shared,
    request: P::Request,
    last: &mut u64,
) -> Result<Applied, Error> {
    let message = P::message(request);
    let seq = message.seq;
    if seq <= *last {
        return Err(Error::BadSeq {
            given: seq,
            last: *last,
        });
    }
    *last = seq;
    if message.updates.len() > MAX_UPDATES {
        return Err(Error::TooManyEntries {
            field: "updates",
            given: message.updates.len(),
            most: MAX_UPDATES,
        });
    }
    // Refused early: the conversion of what a fenced writer sends is wasted.
    shared.with(|control| control.authorize(&message.session))?;
    let (atomicity, validate_only) = (atomicity(message.atomicity)?, message.validate_only);
    let ops = message.updates.into_iter().map(P::op).collect();
    let outcome = shared.with(|control| {
        let owner = control.authorize(&message.session)?;
        Ok::<_, Error>(P::apply(control, owner, ops, atomicity, validate_only))
    })?;
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

/// The fields that every Program request has under the same name.
macro_rules! message {
    ($request:expr) => {{
        let request = $request;
        $crate::api::program::Message {
            seq: request.seq,
            session: request.session,
            atomicity: request.atomicity,
            validate_only: request.validate_only,
            updates: request.updates,
        }
    }};
}
pub(super) use message;
