//! A stream for a controller that lives long: small batches as they come up, many on their way at
//! once. [`Session::program_tunnels`] opens a stream per run, which a controller that writes all day
//! would do all day.

use std::collections::VecDeque;

use sixferry_proto::MAX_UPDATES;
use sixferry_proto::dataplane::v1 as api;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::client::STREAM_LIFETIME;
use crate::table::{Header, Table, Tunnels};
use crate::{Error, ItemFailure, RpcError, Session, TunnelUpdate};

const CALL: &str = Tunnels::CALL;

/// Tunnels are written to it batch by batch, every entry for itself; each batch is answered in order.
/// It does not outlive its connection: when it ends with an error, nobody knows what became of the
/// batches without an answer.
#[derive(Debug)]
pub struct TunnelStream {
    session: Session,
    requests: mpsc::Sender<api::ProgramTunnelsRequest>,
    responses: Streaming<api::ProgramTunnelsResponse>,
    in_flight: VecDeque<InFlight>,
    window: usize,
    seq: u64,
}

#[derive(Debug)]
struct InFlight {
    seq: u64,
    keys: Vec<String>,
    deadline: Instant,
}

/// The answer to one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelAck {
    /// Entries of the batch.
    pub entries: usize,
    /// Those that were not applied; `position` counts from the start of the batch.
    pub failures: Vec<ItemFailure>,
    /// Revision of the table after it.
    pub revision: u64,
}

impl TunnelStream {
    pub(crate) async fn open(session: Session, window: usize) -> Result<Self, Error> {
        let window = window.clamp(1, 64);
        let (requests, receiver) = mpsc::channel(window);
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.set_timeout(STREAM_LIFETIME);
        let timeout = session.client().timeout();
        let opening = Tunnels::open(session.client().channel(), request);
        let responses = match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Error::rpc(CALL, &status)),
            Err(_) => {
                return Err(Error::Deadline {
                    call: CALL,
                    after: timeout,
                });
            }
        };
        Ok(Self {
            session,
            requests,
            responses,
            in_flight: VecDeque::new(),
            window,
            seq: 0,
        })
    }

    /// The session it writes for.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether another batch may be sent now.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < self.window
    }

    /// Batches without an answer.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a batch of at most 512 updates. An error ends the stream; so does a batch for which
    /// there is no room.
    pub fn send(&mut self, updates: &[TunnelUpdate]) -> Result<(), Error> {
        if !self.has_room() || updates.len() > MAX_UPDATES {
            let full = Status::resource_exhausted("more than the stream's window, or 512 updates");
            return Err(Error::rpc(CALL, &full));
        }
        self.seq += 1;
        let header = Header {
            seq: self.seq,
            session: self.session.token().to_owned(),
            atomicity: api::Atomicity::ContinueOnError,
            validate_only: false,
        };
        let gone = |_| Error::rpc(CALL, &Status::unavailable("the stream broke"));
        self.requests
            .try_send(Tunnels::request(header, updates))
            .map_err(gone)?;
        self.in_flight.push_back(InFlight {
            seq: self.seq,
            keys: updates.iter().map(Tunnels::key).collect(),
            deadline: Instant::now() + self.session.client().timeout(),
        });
        Ok(())
    }

    /// The answer to the oldest batch without one. With nothing on its way it waits for the end of
    /// the stream. May be dropped and called again.
    pub async fn next(&mut self) -> Result<TunnelAck, Error> {
        let deadline = self.in_flight.front().map(|batch| batch.deadline);
        let message = self.responses.message();
        let message = match deadline {
            None => message.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, message).await {
                Ok(message) => message,
                Err(_) => {
                    return Err(Error::Deadline {
                        call: CALL,
                        after: self.session.client().timeout(),
                    });
                }
            },
        };
        match message {
            Ok(Some(message)) => self.acknowledge(message),
            Ok(None) => {
                let ended = Status::unavailable("the dataplane ended the stream");
                Err(Error::rpc(CALL, &ended))
            }
            Err(status) => Err(Error::rpc(CALL, &status)),
        }
    }

    fn acknowledge(&mut self, message: api::ProgramTunnelsResponse) -> Result<TunnelAck, Error> {
        let ack = Tunnels::ack(message);
        self.session.check_instance(&ack.instance)?;
        let batch = self.in_flight.pop_front();
        let Some(batch) = batch.filter(|batch| batch.seq == ack.through) else {
            return Err(Error::malformed(
                "applied_through_seq",
                "does not follow the one before",
            ));
        };
        let mut failures = Vec::with_capacity(ack.failures.len());
        for failure in ack.failures {
            let Some(key) = batch.keys.get(failure.index as usize) else {
                return Err(Error::malformed("failures.index", "is beyond the batch"));
            };
            let status = failure.status.unwrap_or_default();
            failures.push(ItemFailure {
                position: failure.index.into(),
                key: key.clone(),
                error: RpcError::from_failure(CALL, &status),
            });
        }
        Ok(TunnelAck {
            entries: batch.keys.len(),
            failures,
            revision: ack.revision,
        })
    }
}
