//! Writing over a two-way stream: batches out, acknowledgements in, and a broken stream resumed.
//!
//! Up to `window` batches are on their way at once and stay here until they are acknowledged.
//! When the stream breaks, the session is joined again; if the dataplane is still the same
//! instance, what was not acknowledged is sent again on a new stream. Upserts and deletes by
//! natural key may be applied twice; entries that may not (create-only, must-exist) are never
//! sent twice: their outcome is reported as unknown.

use std::collections::VecDeque;
use std::time::Duration;

use sixferry_proto::MAX_UPDATES;
use sixferry_proto::dataplane::v1 as api;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::client::STREAM_LIFETIME;
use crate::table::{Ack, Header, Table};
use crate::{Backoff, Error, RpcError, Session};

/// How many failures of one run are kept in full; the others are only counted.
pub const MAX_FAILURES_KEPT: usize = 1000;

/// How the entries of one batch depend on each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atomicity {
    /// Every entry for itself.
    #[default]
    ContinueOnError,
    /// All or nothing.
    RollbackOnError,
    /// All or nothing, in one table snapshot: no packet sees a mix of old and new.
    DataplaneAtomic,
}

impl Atomicity {
    fn to_proto(self) -> api::Atomicity {
        match self {
            Self::ContinueOnError => api::Atomicity::ContinueOnError,
            Self::RollbackOnError => api::Atomicity::RollbackOnError,
            Self::DataplaneAtomic => api::Atomicity::DataplaneAtomic,
        }
    }
}

/// What an upsert may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// Create or update.
    #[default]
    Upsert,
    /// Create only.
    Create,
    /// Update only.
    Update,
}

impl WriteMode {
    pub(crate) fn to_proto(self) -> api::WriteMode {
        match self {
            Self::Upsert => api::WriteMode::Upsert,
            Self::Create => api::WriteMode::Create,
            Self::Update => api::WriteMode::Update,
        }
    }
}

/// How to write.
#[derive(Clone, Debug)]
pub struct ProgramOptions {
    /// How the entries of one batch depend on each other. Other than `ContinueOnError`, what
    /// must succeed together must fit in one batch, and the run ends at the first batch that
    /// was rolled back.
    pub atomicity: Atomicity,
    /// Check everything, change nothing.
    pub validate_only: bool,
    /// Entries per message, 1..=512.
    pub batch_len: usize,
    /// Messages on their way at once, 1..=64.
    pub window: usize,
    /// When to give up on a connection that keeps breaking.
    pub backoff: Backoff,
}

impl Default for ProgramOptions {
    fn default() -> Self {
        Self {
            atomicity: Atomicity::default(),
            validate_only: false,
            batch_len: MAX_UPDATES,
            window: 8,
            backoff: Backoff::default(),
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries acknowledged, failed ones included.
    pub acknowledged: u64,
    /// Entries that failed.
    pub failed: u64,
    /// Times the stream was resumed.
    pub resumed: u32,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramReport {
    /// How far it came.
    pub progress: Progress,
    /// Objects that did not exist before. After a resumed stream, entries that had been applied
    /// without the answer arriving count as unchanged.
    pub created: u64,
    /// Objects that changed.
    pub updated: u64,
    /// Entries that changed nothing.
    pub unchanged: u64,
    /// Objects removed.
    pub deleted: u64,
    /// The first [`MAX_FAILURES_KEPT`] failures, in order.
    pub failures: Vec<ItemFailure>,
    /// A batch was rolled back; nothing after it was sent.
    pub rolled_back: bool,
    /// Revision of the tunnel or domain table after the last batch; 0 for routes.
    pub revision: u64,
}

impl ProgramReport {
    /// The first failure as an error; for runs of which nothing may fail.
    pub fn all_applied(self) -> Result<Self, Error> {
        match self.failures.into_iter().next() {
            Some(failure) => Err(Error::Rpc(Box::new(failure.error))),
            None => Ok(Self {
                failures: Vec::new(),
                ..self
            }),
        }
    }
}

/// One entry that was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemFailure {
    /// Its position in what was given to the run, from 0.
    pub position: u64,
    /// Its natural key.
    pub key: String,
    /// Why.
    pub error: RpcError,
}

impl std::fmt::Display for ItemFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.error)
    }
}

/// One message on its way.
struct Batch<U> {
    seq: u64,
    /// Position of its first entry in the run.
    start: u64,
    updates: Vec<U>,
}

/// One run over any number of streams.
struct Run<'a, T: Table, I, P> {
    options: &'a ProgramOptions,
    updates: I,
    /// Entries taken from `updates` so far.
    taken: u64,
    in_flight: VecDeque<Batch<T::Update>>,
    report: ProgramReport,
    on_progress: P,
}

pub(crate) async fn program<T, I, P>(
    session: &mut Session,
    updates: I,
    options: &ProgramOptions,
    on_progress: P,
) -> Result<ProgramReport, Error>
where
    T: Table,
    I: Iterator<Item = T::Update>,
    P: FnMut(&Progress),
{
    let mut run: Run<'_, T, I, P> = Run {
        options,
        updates,
        taken: 0,
        in_flight: VecDeque::new(),
        report: ProgramReport::default(),
        on_progress,
    };
    let mut attempt = 0;
    loop {
        let before = run.report.progress.acknowledged;
        let error = match run.one_stream(session).await {
            Ok(()) => return Ok(run.report),
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        run.refuse_unknown_outcome(&error)?;
        if run.report.progress.acknowledged > before {
            attempt = 0;
        }
        tracing::debug!(call = T::CALL, %error, attempt, "stream broke");
        run.rejoin(session, &mut attempt, error).await?;
    }
}

impl<T, I, P> Run<'_, T, I, P>
where
    T: Table,
    I: Iterator<Item = T::Update>,
    P: FnMut(&Progress),
{
    /// Sends what is in flight and then the rest, until everything is acknowledged.
    async fn one_stream(&mut self, session: &Session) -> Result<(), Error> {
        let window = self.window();
        let (sender, receiver) = mpsc::channel(window);
        let mut seq = 0;
        for batch in &mut self.in_flight {
            seq += 1;
            batch.seq = seq;
            push::<T>(&sender, self.options, session, batch)?;
        }
        self.fill(&sender, session, window, &mut seq)?;
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let timeout = session.client().timeout();
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.set_timeout(STREAM_LIFETIME);
        let opening = T::open(session.client().channel(), request);
        let mut responses = within::<T, _>(timeout, opening).await?.into_inner();
        while !self.in_flight.is_empty() {
            let Some(response) = within::<T, _>(timeout, responses.message()).await? else {
                let ended = Status::unavailable("the dataplane ended the stream");
                return Err(Error::rpc(T::CALL, &ended));
            };
            self.acknowledge(session, T::ack(response))?;
            if self.report.rolled_back {
                self.in_flight.clear();
                return Ok(());
            }
            self.fill(&sender, session, window, &mut seq)?;
        }
        Ok(())
    }

    fn window(&self) -> usize {
        // After a rollback nothing may follow, so nothing may be on its way behind it.
        match self.options.atomicity {
            Atomicity::ContinueOnError => self.options.window.clamp(1, 64),
            Atomicity::RollbackOnError | Atomicity::DataplaneAtomic => 1,
        }
    }

    fn fill(
        &mut self,
        sender: &mpsc::Sender<T::Request>,
        session: &Session,
        window: usize,
        seq: &mut u64,
    ) -> Result<(), Error> {
        while self.in_flight.len() < window {
            let limit = self.options.batch_len.clamp(1, MAX_UPDATES);
            let updates: Vec<_> = self.updates.by_ref().take(limit).collect();
            if updates.is_empty() {
                break;
            }
            *seq += 1;
            let batch = Batch {
                seq: *seq,
                start: self.taken,
                updates,
            };
            self.taken += batch.updates.len() as u64;
            let sent = push::<T>(sender, self.options, session, &batch);
            // Also when the stream broke: it is sent again on the next one.
            self.in_flight.push_back(batch);
            sent?;
        }
        Ok(())
    }

    fn acknowledge(&mut self, session: &Session, ack: Ack) -> Result<(), Error> {
        session.check_instance(&ack.instance)?;
        let expected = self.in_flight.front().map(|b| b.seq);
        if expected != Some(ack.through) {
            return Err(Error::malformed(
                "applied_through_seq",
                "does not follow the one before",
            ));
        }
        let Some(batch) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let report = &mut self.report;
        report.created += u64::from(ack.counts.created);
        report.updated += u64::from(ack.counts.updated);
        report.unchanged += u64::from(ack.counts.unchanged);
        report.deleted += u64::from(ack.counts.deleted);
        report.revision = report.revision.max(ack.revision);
        report.rolled_back |= ack.rolled_back;
        report.progress.acknowledged += batch.updates.len() as u64;
        report.progress.failed += ack.failures.len() as u64;
        for failure in ack.failures {
            let Some(update) = batch.updates.get(failure.index as usize) else {
                return Err(Error::malformed("failures.index", "is beyond the batch"));
            };
            if report.failures.len() < MAX_FAILURES_KEPT {
                let status = failure.status.unwrap_or_default();
                report.failures.push(ItemFailure {
                    position: batch.start + u64::from(failure.index),
                    key: T::key(update),
                    error: RpcError::from_failure(T::CALL, &status),
                });
            }
        }
        (self.on_progress)(&report.progress);
        Ok(())
    }

    /// Nothing that may be applied only once is sent a second time.
    fn refuse_unknown_outcome(&self, cause: &Error) -> Result<(), Error> {
        let sent = self.in_flight.iter().flat_map(|b| &b.updates);
        if sent.clone().all(T::is_idempotent) {
            return Ok(());
        }
        Err(Error::OutcomeUnknown {
            call: T::CALL,
            unknown: sent.count(),
            cause: cause.to_string(),
        })
    }

    /// Joins the session again after a broken stream, with waits, until `attempts` is used up.
    async fn rejoin(
        &mut self,
        session: &mut Session,
        attempt: &mut u32,
        mut error: Error,
    ) -> Result<(), Error> {
        loop {
            *attempt += 1;
            let Some(wait) = self.options.backoff.delay(*attempt) else {
                return Err(error);
            };
            tokio::time::sleep(wait).await;
            match session.rejoin().await {
                Ok(()) => {
                    self.report.progress.resumed += 1;
                    return Ok(());
                }
                Err(again) if again.is_transient() => error = again,
                Err(fatal) => return Err(fatal),
            }
        }
    }
}

fn push<T: Table>(
    sender: &mpsc::Sender<T::Request>,
    options: &ProgramOptions,
    session: &Session,
    batch: &Batch<T::Update>,
) -> Result<(), Error> {
    let header = Header {
        seq: batch.seq,
        session: session.token().to_owned(),
        atomicity: options.atomicity.to_proto(),
        validate_only: options.validate_only,
    };
    // The channel holds the whole window, so it is full only if the stream is gone.
    let gone = |_| Error::rpc(T::CALL, &Status::unavailable("the stream broke"));
    sender
        .try_send(T::request(header, &batch.updates))
        .map_err(gone)
}

async fn within<T: Table, R>(
    timeout: Duration,
    waiting: impl Future<Output = Result<R, Status>>,
) -> Result<R, Error> {
    match tokio::time::timeout(timeout, waiting).await {
        Ok(result) => result.map_err(|status| Error::rpc(T::CALL, &status)),
        Err(_) => Err(Error::Deadline {
            call: T::CALL,
            after: timeout,
        }),
    }
}
