//! The one task that writes: it takes what waits, decides it against the mirror, and commits up to
//! [`Batch::MAX_GROUPS`] decisions in one durable transaction. Only then are the dataplanes and whoever
//! asked told. While the store is away the same transaction is tried again; the store recognises it if
//! the first answer was all that got lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::jobs::Releasing;
use crate::shared::{Shared, count};
use crate::state::State;
use crate::state::edit::{Edit, Logged};
use crate::store::{Batch, Committed, Conflict, Constraint, Group, Store, StoreError};

/// What the writer needs of a store.
pub(crate) trait Journal: Send + Sync + 'static {
    /// See [`Store::commit`].
    fn commit<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<Vec<Result<Committed, Conflict>>, StoreError>>;
}

impl Journal for Store {
    fn commit<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<Vec<Result<Committed, Conflict>>, StoreError>> {
        Box::pin(Store::commit(self, batch))
    }
}

/// What a wish comes to.
pub(crate) enum Plan {
    /// Make these changes.
    Edits(Vec<Edit>),
    /// Make these first, and ask again when what they free is free.
    First(Vec<Edit>),
    /// It touches what is on its way to the store: ask again after this transaction.
    Defer,
    /// Something must come free, or a dataplane come back: ask again then.
    Wait,
    /// It is answered.
    Done,
}

/// Something that is decided against the mirror and written.
pub(crate) trait Job: Send {
    /// Decides; may run any number of times.
    fn plan(&mut self, state: &mut State, now: i64) -> Plan;
    /// What was decided is durable.
    fn committed(&mut self, shared: &Shared, state: &mut State, edits: &[Edit]);
    /// The store will not take it.
    fn failed(&mut self, shared: &Shared, problem: &str);
    /// Nobody waits for it any more.
    fn abandoned(&self) -> bool;
    /// Whether somebody is told who can ask again.
    fn may_fail(&self) -> bool {
        true
    }
}

/// Another writer on the same store took what was chosen: this often another choice is made.
const MAX_CONFLICTS: u8 = 16;
/// Ids are skipped so far when another writer uses them too.
const ID_SKIP: i64 = 1000;
/// Nobody waits for a late write: it may wait for company.
const LINGER: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// So often a transaction that the store does not take is divided, to find the decision it is about.
const DIVISIONS: usize = 32;
/// Late writes per transaction, so that logins find room beside them.
const LATE_PER_BATCH: usize = 256;

struct Queued {
    job: Box<dyn Job>,
    conflicts: u8,
}

struct Planned {
    /// `None`: late writes.
    queued: Option<Queued>,
    edits: Vec<Edit>,
    /// Whether the job is asked again.
    first: bool,
    logged: Vec<Logged>,
}

impl Planned {
    /// Those of its writes that were made earlier than its edits.
    fn late(&self) -> &[Logged] {
        let late = self.logged.len().saturating_sub(self.edits.len());
        &self.logged[..late]
    }
}

/// Why the store did not take something.
enum Refused {
    Conflict(Conflict),
    Failed(String),
}

/// The writer.
pub(crate) struct Writer<J> {
    shared: Arc<Shared>,
    journal: J,
    jobs: mpsc::Receiver<Box<dyn Job>>,
    ready: VecDeque<Queued>,
    parked: VecDeque<Queued>,
}

impl<J: Journal> Writer<J> {
    pub(crate) fn new(shared: Arc<Shared>, journal: J, jobs: mpsc::Receiver<Box<dyn Job>>) -> Self {
        Self {
            shared,
            journal,
            jobs,
            ready: VecDeque::new(),
            parked: VecDeque::new(),
        }
    }

    /// Runs until the lifecycle stops and nothing is left to write.
    pub(crate) async fn run(&mut self) {
        while !self.shared.end.is_over() {
            self.gather();
            let planned = self.plan();
            if planned.is_empty() {
                if self.shared.is_stopping() && self.ready.is_empty() {
                    let late = self.shared.state.lock().late_order.is_empty();
                    if late && self.shared.releases.lock().is_empty() {
                        return;
                    }
                }
                self.wait().await;
                continue;
            }
            self.commit(planned).await;
        }
    }

    async fn wait(&mut self) {
        let late = !self.shared.state.lock().late_order.is_empty();
        let linger = async {
            match late {
                true => tokio::time::sleep(LINGER).await,
                false => std::future::pending().await,
            }
        };
        let full = self.parked.len() >= self.shared.config.queue;
        tokio::select! {
            biased;
            job = self.jobs.recv(), if !full && !self.jobs.is_closed() => {
                self.ready.extend(job.map(|job| Queued { job, conflicts: 0 }));
            }
            () = self.shared.work.notified() => {}
            () = linger => self.flush_late(),
        }
    }

    /// Takes in what waits, releases first: they make room.
    fn gather(&mut self) {
        let room = Batch::MAX_GROUPS.saturating_sub(self.ready.len());
        let mut releases = self.shared.releases.lock();
        for _ in 0..room {
            let Some((id, release)) = releases.pop() else {
                break;
            };
            let job = Box::new(Releasing::new(id, release));
            self.ready.push_back(Queued { job, conflicts: 0 });
        }
        drop(releases);
        // First those that nobody waits for: they may keep something from the others.
        self.parked.retain(|queued| !queued.job.abandoned());
        self.ready.retain(|queued| !queued.job.abandoned());
        if std::mem::take(&mut self.shared.state.lock().came_free) {
            self.ready.append(&mut self.parked);
        }
        while self.ready.len() < Batch::MAX_GROUPS && self.parked.len() < self.shared.config.queue {
            match self.jobs.try_recv() {
                Ok(job) => self.ready.push_back(Queued { job, conflicts: 0 }),
                Err(_) => break,
            }
        }
        let waiting = self.ready.len() + self.parked.len() + self.jobs.len();
        let counters = &self.shared.counters;
        counters.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    /// Moves late writes of nobody's wish into the next transaction.
    fn flush_late(&self) {
        self.shared.state.lock().late_due = true;
    }

    /// Decides as much as fits into one transaction.
    fn plan(&mut self) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut deferred = VecDeque::new();
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let now = state.clock.now();
        while planned.len() < Batch::MAX_GROUPS {
            let Some(mut queued) = self.ready.pop_front() else {
                break;
            };
            if queued.job.abandoned() {
                continue;
            }
            let (edits, first) = match queued.job.plan(&mut state, now) {
                Plan::Edits(edits) => (edits, false),
                Plan::First(edits) => (edits, true),
                Plan::Defer => {
                    deferred.push_back(queued);
                    continue;
                }
                Plan::Wait => {
                    self.parked.push_back(queued);
                    continue;
                }
                Plan::Done => continue,
            };
            // What frees numbers must be written before what takes them. What only gives some up need not
            // wait: when ten thousand go at once, dataplanes forward for those still unwritten.
            if !edits.iter().all(Edit::releases) {
                take_burials(&mut state, &mut planned, usize::MAX);
            }
            let (mut logged, mut own) = (Vec::new(), Vec::with_capacity(edits.len()));
            for edit in &edits {
                let late = edit.tunnel_id().and_then(|id| state.late.remove(&id));
                logged.extend(late.into_iter().flatten());
                own.extend(edit.log(&state));
                edit.apply(&mut state);
            }
            // What was to be written earlier precedes all of them: by that it is told from them.
            logged.append(&mut own);
            planned.push(Planned {
                queued: Some(queued),
                edits,
                first,
                logged,
            });
        }
        let room = Batch::MAX_GROUPS.saturating_sub(planned.len());
        take_burials(&mut state, &mut planned, room);
        if !planned.is_empty() || state.late_due || shared.is_stopping() {
            take_late(&mut state, &mut planned);
        }
        drop(state);
        deferred.append(&mut self.ready);
        self.ready = deferred;
        planned
    }

    async fn commit(&mut self, planned: Vec<Planned>) {
        let mut parts = vec![planned];
        let mut divisions = DIVISIONS;
        let mut problem = None;
        let mut refused = Vec::new();
        while let Some(mut part) = parts.pop() {
            // Burials may push it over the limit: the rest goes with the next one.
            if part.len() > Batch::MAX_GROUPS {
                parts.push(part.split_off(Batch::MAX_GROUPS));
            }
            let groups = part.iter().map(|planned| -> Group {
                let logged = planned.logged.iter();
                let writes = logged.flat_map(|l| std::iter::once(&l.write).chain(&l.with));
                writes.cloned().collect()
            });
            let batch = Batch::new(groups.collect());
            match attempt(&self.shared, &self.journal, &batch).await {
                Ok(answers) => refused.extend(self.settle(part, answers)),
                // It may be about one of them only: the others must not suffer.
                Err(StoreError::Fatal { .. }) if part.len() > 1 && divisions > 0 => {
                    divisions -= 1;
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) => {
                    if matches!(error, StoreError::Overtaken) {
                        self.shared.end.now(&error.to_string());
                    }
                    tracing::error!(%error, "the store does not take a transaction");
                    let why = error.to_string();
                    refused.extend(part.into_iter().map(|p| (p, Refused::Failed(why.clone()))));
                    problem = Some(why);
                }
            }
        }
        self.take_back(refused);
        let failed = problem.is_some();
        self.shared.set_fault("store", problem);
        if failed {
            tokio::time::sleep(LAST_RETRY).await;
        }
    }

    /// What was taken is done; what was refused is handed back, in the order in which it was decided.
    fn settle(
        &mut self,
        planned: Vec<Planned>,
        answers: Vec<Result<Committed, Conflict>>,
    ) -> Vec<(Planned, Refused)> {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let mut refused = Vec::new();
        for (planned, answer) in planned.into_iter().zip(answers) {
            count(&shared.counters.groups);
            match answer {
                Ok(committed) => self.settled(&shared, &mut state, planned, &committed),
                Err(conflict) => {
                    count(&shared.counters.conflicts);
                    refused.push((planned, Refused::Conflict(conflict)));
                }
            }
        }
        refused
    }

    /// Takes back what was refused, the last first: a later decision may have what an earlier one gave
    /// up.
    fn take_back(&mut self, refused: Vec<(Planned, Refused)>) {
        if refused.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        for (planned, why) in refused.iter().rev() {
            for edit in planned.edits.iter().rev() {
                edit.revert(&mut state);
            }
            let alone = planned.queued.is_none();
            if alone && matches!(why, Refused::Conflict(_)) {
                continue;
            }
            // Nothing that nobody waits for is lost, and it precedes what follows it.
            for logged in planned.late().iter().rev() {
                state.write_again(logged.clone());
            }
        }
        for (planned, why) in refused {
            match why {
                Refused::Conflict(conflict) => {
                    self.conflicted(&shared, &mut state, planned, conflict);
                }
                Refused::Failed(problem) => {
                    if let Some(mut queued) = planned.queued {
                        queued.job.failed(&shared, &problem);
                    }
                }
            }
        }
    }

    fn settled(
        &mut self,
        shared: &Shared,
        state: &mut State,
        planned: Planned,
        committed: &Committed,
    ) {
        let mut seqs = committed.seqs.clone();
        let mut own = Vec::with_capacity(planned.edits.len());
        for logged in &planned.logged {
            if !logged.write.is_logged() {
                continue;
            }
            let seq = seqs.next().unwrap_or(0);
            own.push(seq);
            if let Some(mut transition) = logged.transition.clone() {
                transition.seq = seq;
                // Nobody need be watching.
                let _ = shared.transitions.send(transition);
            }
        }
        if let Some(last) = own.last() {
            state.told_seq = state.told_seq.max(*last);
        }
        // The edits' own writes are the last ones, those before were late.
        let skip = own.len().saturating_sub(planned.edits.len());
        if planned.edits.is_empty() {
            for (logged, seq) in planned.logged.iter().zip(&own) {
                if let Some(transition) = &logged.transition {
                    state.set_revision(transition.tunnel, *seq);
                }
            }
        }
        for (edit, seq) in planned.edits.iter().zip(&own[skip..]) {
            edit.committed(state, *seq);
        }
        if let Some(mut queued) = planned.queued {
            if planned.first {
                queued.job.committed(shared, state, &planned.edits);
                self.parked.push_back(queued);
                state.came_free = true;
            } else {
                queued.job.committed(shared, state, &planned.edits);
            }
        }
    }

    fn conflicted(
        &mut self,
        shared: &Shared,
        state: &mut State,
        planned: Planned,
        conflict: Conflict,
    ) {
        let Some(mut queued) = planned.queued else {
            let writes = planned.logged.iter().filter_map(|l| l.transition.as_ref());
            let mut tunnels = writes.map(|transition| transition.tunnel);
            if tunnels.any(|id| state.tunnel(id).is_some()) {
                differs(shared, conflict);
            }
            return;
        };
        avoid(state, &planned.edits, conflict.constraint);
        queued.conflicts += 1;
        if queued.conflicts < MAX_CONFLICTS {
            self.ready.push_back(queued);
        } else {
            if !queued.job.may_fail() {
                differs(shared, conflict);
            }
            queued.job.failed(shared, &conflict.to_string());
        }
    }
}

/// What was decided before does not fit what is in the store: somebody else changed it.
fn differs(shared: &Shared, conflict: Conflict) {
    let why = format!("the store is not what this process made of it: {conflict}");
    shared.end.now(&why);
}

/// Commits one transaction, however long the store is away.
async fn attempt(
    shared: &Shared,
    journal: &impl Journal,
    batch: &Batch,
) -> Result<Vec<Result<Committed, Conflict>>, StoreError> {
    let mut wait = FIRST_RETRY;
    loop {
        match journal.commit(batch).await {
            Ok(answers) => {
                if shared.store_away.lock().take().is_some() {
                    tracing::info!("the store is back");
                }
                count(&shared.counters.commits);
                return Ok(answers);
            }
            Err(error) if error.is_unavailable() => note_away(shared, &error),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

fn note_away(shared: &Shared, error: &StoreError) {
    let mut away = shared.store_away.lock();
    if away.is_none() {
        *away = Some(Instant::now());
        tracing::warn!(%error, "the store is away; trying again");
    }
}

/// One group each: one that is refused must not take the others with it.
fn take_burials(state: &mut State, planned: &mut Vec<Planned>, most: usize) {
    let taken = state.burials.len().min(most);
    planned.extend(state.burials.drain(..taken).map(|logged| Planned {
        queued: None,
        edits: Vec::new(),
        first: false,
        logged: vec![logged],
    }));
}

fn take_late(state: &mut State, planned: &mut Vec<Planned>) {
    let mut taken = 0;
    while taken < LATE_PER_BATCH
        && planned.len() < Batch::MAX_GROUPS
        && let Some(id) = state.late_order.pop_front()
    {
        if let Some(logged) = state.late.remove(&id) {
            taken += 1;
            planned.push(Planned {
                queued: None,
                edits: Vec::new(),
                first: false,
                logged,
            });
        }
    }
    state.late_due = !state.late_order.is_empty() && taken == LATE_PER_BATCH;
}

/// Another writer has what was chosen: it is not chosen again.
fn avoid(state: &mut State, edits: &[Edit], constraint: Constraint) {
    match constraint {
        Constraint::TunnelId => state.next.tunnel += ID_SKIP,
        Constraint::AccountId => state.next.account += ID_SKIP,
        Constraint::PoolId => state.next.pool += ID_SKIP,
        _ => {}
    }
    for edit in edits {
        if let Edit::Tunnel {
            before: None,
            after,
            ..
        } = edit
        {
            state.avoid(after, constraint);
        }
    }
}
