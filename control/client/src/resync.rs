//! Re-sync by mark and sweep: begin, upsert everything that is wanted (domains before the routes
//! into them), commit.

use std::time::Duration;

use sixferry_proto::dataplane::v1 as api;

use api::session_service_client::SessionServiceClient;

use crate::{
    Domain, DomainUpdate, Error, ProgramOptions, ProgramReport, Progress, Route, RouteUpdate,
    Session, Tunnel, TunnelUpdate,
};

/// A sweep of a million objects takes longer than other calls.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A running re-sync. Dropping it without [`Resync::commit`] removes nothing: the objects stay
/// marked stale until the owner's next sync.
#[derive(Debug)]
pub struct Resync<'s> {
    session: &'s mut Session,
    generation: u64,
    stale_count: u64,
    failed: u64,
    first_failure: Option<String>,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// Tunnels removed.
    pub swept_tunnels: u64,
    /// Routes removed.
    pub swept_routes: u64,
    /// Domains removed.
    pub swept_domains: u64,
    /// Revision of the tunnel table after the sweep.
    pub revision: u64,
}

impl<'s> Resync<'s> {
    /// Marks everything of the session's owner as stale.
    pub async fn begin(session: &'s mut Session) -> Result<Self, Error> {
        let answer = begin(session).await?;
        Ok(Self {
            session,
            generation: answer.generation,
            stale_count: answer.stale_count,
            failed: 0,
            first_failure: None,
        })
    }

    /// Names this sync.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Objects that became stale.
    pub fn stale_count(&self) -> u64 {
        self.stale_count
    }

    /// Writes wanted tunnels; may be called any number of times.
    pub async fn upsert_tunnels(
        &mut self,
        tunnels: impl IntoIterator<Item = Tunnel>,
        options: &ProgramOptions,
        on_progress: impl FnMut(&Progress),
    ) -> Result<ProgramReport, Error> {
        let updates = tunnels.into_iter().map(TunnelUpdate::upsert);
        let report = self
            .session
            .program_tunnels(updates, options, on_progress)
            .await?;
        self.note_failures(&report);
        Ok(report)
    }

    /// Writes wanted routes; may be called any number of times.
    pub async fn upsert_routes(
        &mut self,
        routes: impl IntoIterator<Item = Route>,
        options: &ProgramOptions,
        on_progress: impl FnMut(&Progress),
    ) -> Result<ProgramReport, Error> {
        let updates = routes.into_iter().map(RouteUpdate::upsert);
        let report = self
            .session
            .program_routes(updates, options, on_progress)
            .await?;
        self.note_failures(&report);
        Ok(report)
    }

    /// Writes wanted domains; may be called any number of times.
    pub async fn upsert_domains(
        &mut self,
        domains: impl IntoIterator<Item = Domain>,
        options: &ProgramOptions,
        on_progress: impl FnMut(&Progress),
    ) -> Result<ProgramReport, Error> {
        let updates = domains.into_iter().map(DomainUpdate::upsert);
        let report = self
            .session
            .program_domains(updates, options, on_progress)
            .await?;
        self.note_failures(&report);
        Ok(report)
    }

    fn note_failures(&mut self, report: &ProgramReport) {
        self.failed += report.progress.failed;
        if self.first_failure.is_none() {
            self.first_failure = report.failures.first().map(ToString::to_string);
        }
    }

    /// Removes what was not upserted. Refused if an upsert failed: the object it was meant to
    /// change would be removed instead. See [`Resync::commit_despite_failures`].
    pub async fn commit(self) -> Result<SyncReport, Error> {
        if self.failed > 0 {
            let failed = self.failed;
            let first = self.first_failure.clone().unwrap_or_default();
            self.abort().await?;
            return Err(Error::SyncIncomplete { failed, first });
        }
        self.commit_despite_failures().await
    }

    /// Removes what was not upserted, also objects whose upsert failed.
    ///
    /// A lost answer is not repeated: whether the sweep ran is then unknown, and a new sync finds
    /// out.
    pub async fn commit_despite_failures(self) -> Result<SyncReport, Error> {
        commit(self.session, self.generation).await
    }

    /// Ends the sync; nothing is removed, nothing stays stale.
    pub async fn abort(self) -> Result<(), Error> {
        let request = api::AbortSyncRequest {
            session: self.session.token().to_owned(),
            generation: self.generation,
        };
        let client = self.session.client();
        let send = async |channel, r| SessionServiceClient::new(channel).abort_sync(r).await;
        let timeout = client.timeout().max(COMMIT_TIMEOUT);
        let answer = client
            .call_once("AbortSync", request, send, timeout)
            .await?;
        self.session.check_instance(&answer.dataplane_instance_id)
    }
}

/// Marks everything of the session's owner as stale.
pub(crate) async fn begin(session: &Session) -> Result<api::BeginSyncResponse, Error> {
    let request = api::BeginSyncRequest {
        session: session.token().to_owned(),
    };
    let answer = session
        .client()
        .call("BeginSync", request, async |channel, r| {
            SessionServiceClient::new(channel).begin_sync(r).await
        })
        .await?;
    session.check_instance(&answer.dataplane_instance_id)?;
    Ok(answer)
}

/// Removes what is still stale.
pub(crate) async fn commit(session: &Session, generation: u64) -> Result<SyncReport, Error> {
    let request = api::CommitSyncRequest {
        session: session.token().to_owned(),
        generation,
    };
    let client = session.client();
    let send = async |channel, r| SessionServiceClient::new(channel).commit_sync(r).await;
    let timeout = client.timeout().max(COMMIT_TIMEOUT);
    let answer = client
        .call_once("CommitSync", request, send, timeout)
        .await?;
    session.check_instance(&answer.dataplane_instance_id)?;
    Ok(SyncReport {
        swept_tunnels: answer.swept_tunnels,
        swept_routes: answer.swept_routes,
        swept_domains: answer.swept_domains,
        revision: answer.revision,
    })
}
