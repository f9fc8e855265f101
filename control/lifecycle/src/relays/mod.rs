//! The dataplanes: one task each, that opens the session, brings the dataplane in step with the mirror,
//! and then tells it of every committed change.
//!
//! A connection begins with a re-sync: everything is sent, changes as they happen before what is
//! merely repeated, and at its end whatever was not sent is removed. The same follows when the
//! dataplane restarts or the connection breaks: nobody then knows what became of the entries on their
//! way.

mod grpc;
mod program;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::shared::{Shared, count};
use crate::state::{Refusal, Verdict, Work};
use crate::{Cause, RevokeCause, Tunnel, TunnelId};

pub(crate) use grpc::GrpcDataplane;

/// Entries per message, as the dataplane takes them.
const BATCH: usize = 512;
/// Messages on their way.
pub(crate) const WINDOW: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A dataplane that can be connected to.
pub(crate) trait Dataplane: Send + 'static {
    type Link: Link;
    /// Opens the session and the stream.
    fn connect(&mut self) -> impl Future<Output = Result<Self::Link, String>> + Send;
}

/// An open session.
pub(crate) trait Link: Send + 'static {
    /// The instance of the dataplane.
    fn instance(&self) -> String;
    /// Starts a re-sync.
    fn begin(&mut self) -> impl Future<Output = Result<(), String>> + Send;
    /// Ends it; runs beside the stream.
    fn commit(&self) -> BoxFuture<'static, Result<(), String>>;
    /// Sends a message; at most [`WINDOW`] without an answer.
    fn send(&mut self, entries: &[(TunnelId, u64, Option<Arc<Tunnel>>)]) -> Result<(), String>;
    /// The answer to the oldest message without one: what was refused, by place. With none on its way
    /// it waits for the end of the connection. May be dropped and called again.
    fn answer(&mut self) -> impl Future<Output = Result<Vec<(usize, Refusal)>, String>> + Send;
}

/// Of the task that follows a dataplane.
pub(crate) fn task_name(dataplane: &str) -> String {
    format!("dataplane {dataplane}")
}

/// Follows one dataplane for ever.
pub(crate) async fn follow<D: Dataplane>(shared: Arc<Shared>, index: usize, dataplane: &mut D) {
    let name = shared.state.lock().relays[index].stats.name.clone();
    let mut wait = FIRST_RETRY;
    loop {
        let error = match dataplane.connect().await {
            Ok(link) => {
                let mut session = Session::new(&shared, index, link);
                let Err(error) = session.run().await;
                if session.synced {
                    wait = FIRST_RETRY;
                }
                error
            }
            Err(error) => error,
        };
        let was = {
            let mut state = shared.state.lock();
            let known = state.relays[index].stats.last_error == error;
            let connected = state.relays[index].stats.connected;
            state.relay_lost(index, &error);
            connected || !known
        };
        shared.work.notify_one();
        // Once per cause, not once per attempt.
        if was {
            tracing::warn!(dataplane = %name, %error, "not connected");
        }
        let jitter = wait.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        tokio::time::sleep(jitter).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

struct Session<'a, L> {
    shared: &'a Arc<Shared>,
    index: usize,
    link: L,
    in_flight: VecDeque<Work>,
    /// Messages sent and answered so far.
    sent: u64,
    answered: u64,
    /// The message that ends what the re-sync repeats.
    last_of_resync: Option<u64>,
    commit: Option<BoxFuture<'static, Result<(), String>>>,
    synced: bool,
}

/// There is no good end.
enum Never {}

impl<'a, L: Link> Session<'a, L> {
    fn new(shared: &'a Arc<Shared>, index: usize, link: L) -> Self {
        Self {
            shared,
            index,
            link,
            in_flight: VecDeque::new(),
            sent: 0,
            answered: 0,
            last_of_resync: None,
            commit: None,
            synced: false,
        }
    }

    async fn run(&mut self) -> Result<Never, String> {
        self.link.begin().await?;
        let instance = self.link.instance();
        let wake = {
            let mut state = self.shared.state.lock();
            state.relay_connected(self.index, &instance);
            state.relays[self.index].wake.clone()
        };
        self.shared.work.notify_one();
        loop {
            self.fill()?;
            self.end_resync();
            let room = self.in_flight.len() < WINDOW;
            let commit = async {
                match &mut self.commit {
                    Some(commit) => commit.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = self.link.answer() => {
                    let refusals = answer?;
                    self.answered(&refusals)?;
                }
                done = commit => {
                    done?;
                    self.commit = None;
                    self.synced();
                }
                () = wake.notified(), if room => {}
            }
        }
    }

    fn fill(&mut self) -> Result<(), String> {
        while self.in_flight.len() < WINDOW {
            let work = self.shared.state.lock().relay_work(self.index, BATCH);
            let resync_done = work.resync_left == 0 && self.last_of_resync.is_none();
            if !work.entries.is_empty() {
                self.link.send(&work.entries)?;
                self.sent += 1;
            }
            if resync_done {
                self.last_of_resync = Some(self.sent);
            }
            if work.entries.is_empty() {
                break;
            }
            self.in_flight.push_back(work);
        }
        Ok(())
    }

    /// Once all that was repeated is confirmed, the rest is to go.
    fn end_resync(&mut self) {
        let due = self
            .last_of_resync
            .is_some_and(|last| self.answered >= last);
        if due && !self.synced && self.commit.is_none() {
            self.commit = Some(self.link.commit().boxed());
        }
    }

    fn synced(&mut self) {
        self.synced = true;
        let mut state = self.shared.state.lock();
        let relay = &mut state.relays[self.index];
        relay.stats.synced = true;
        relay.stats.resyncs += 1;
        relay.stats.last_error.clear();
        let (name, instance) = (relay.stats.name.clone(), relay.stats.instance.clone());
        drop(state);
        self.shared.set_fault(&task_name(&name), None);
        tracing::info!(dataplane = %name, %instance, "in step");
    }

    fn answered(&mut self, refusals: &[(usize, Refusal)]) -> Result<(), String> {
        let Some(work) = self.in_flight.pop_front() else {
            return Err("an answer to nothing".to_owned());
        };
        self.answered += 1;
        let mut released = Vec::new();
        {
            let mut state = self.shared.state.lock();
            let mut refusals = refusals.iter().peekable();
            for (place, (id, change, _)) in work.entries.iter().enumerate() {
                match refusals.next_if(|(at, _)| *at == place) {
                    None => state.confirmed(self.index, *id, *change),
                    Some((_, refusal)) => {
                        let verdict = state.refused(self.index, *id, *change, refusal);
                        if verdict == Verdict::Release {
                            released.push((*id, refusal.text.clone()));
                        }
                    }
                }
            }
            if let Some(through) = work.through {
                let applied = &mut state.relays[self.index].stats.applied_seq;
                *applied = through.max(*applied);
            }
        }
        for (id, text) in released {
            count(&self.shared.counters.refused);
            if let Some(suppressed) = self.shared.refused_pace.allow() {
                tracing::warn!(tunnel = %id, error = text, suppressed, "refused by the dataplane");
            }
            let cause = RevokeCause::Refused;
            self.shared.release(id, None, Cause::Refused, Some(cause));
        }
        // The writer may have something to bury, or a wish that waited for room.
        self.shared.work.notify_one();
        Ok(())
    }
}
