//! Writing as one owner.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use sixferry_proto::dataplane::v1 as api;

use api::session_service_client::SessionServiceClient;

use crate::program::program;
use crate::table::{Domains, Routes, Tunnels};
use crate::{
    Client, Domain, DomainUpdate, Error, ProgramOptions, ProgramReport, Progress, Resync, Route,
    RouteUpdate, SyncReport, Tunnel, TunnelStream, TunnelUpdate,
};

/// Decides between several processes of one owner: the highest wins and fences the others, an
/// equal one joins the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElectionId(pub u128);

impl ElectionId {
    /// From the clock: a process started later wins.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.unwrap_or_default().as_nanos())
    }
}

impl fmt::Display for ElectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ElectionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// An owner's session.
#[derive(Clone, Debug)]
pub struct Session {
    client: Client,
    owner: String,
    election: ElectionId,
    token: String,
    instance: String,
    tunnel_count: u64,
    route_count: u64,
    domain_count: u64,
    fenced_other: bool,
}

impl Session {
    pub(crate) async fn open(
        client: Client,
        owner: String,
        election: ElectionId,
    ) -> Result<Self, Error> {
        let answer = call_open(&client, &owner, election).await?;
        Ok(Self {
            client,
            owner,
            election,
            token: answer.session,
            instance: answer.dataplane_instance_id,
            tunnel_count: answer.tunnel_count,
            route_count: answer.route_count,
            domain_count: answer.domain_count,
            fenced_other: answer.fenced_other,
        })
    }

    /// Opens the session again with the same election id, after a broken connection.
    pub(crate) async fn rejoin(&mut self) -> Result<(), Error> {
        let answer = call_open(&self.client, &self.owner, self.election).await?;
        self.check_instance(&answer.dataplane_instance_id)?;
        self.token = answer.session;
        Ok(())
    }

    pub(crate) fn check_instance(&self, now: &str) -> Result<(), Error> {
        self.client.note_instance(now);
        if self.instance == now {
            return Ok(());
        }
        Err(Error::InstanceChanged {
            before: self.instance.clone(),
            now: now.to_owned(),
        })
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whose session this is.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The instance it was opened with.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Tunnels the owner had when it was opened.
    pub fn tunnel_count(&self) -> u64 {
        self.tunnel_count
    }

    /// API routes the owner had when it was opened.
    pub fn route_count(&self) -> u64 {
        self.route_count
    }

    /// Domains the owner had when it was opened.
    pub fn domain_count(&self) -> u64 {
        self.domain_count
    }

    /// Whether opening it fenced an older session.
    pub fn fenced_other(&self) -> bool {
        self.fenced_other
    }

    /// Writes tunnels: any number, in batches. What failed is in the report; an error means that
    /// the run ended early.
    pub async fn program_tunnels(
        &mut self,
        updates: impl IntoIterator<Item = TunnelUpdate>,
        options: &ProgramOptions,
        on_progress: impl FnMut(&Progress),
    ) -> Result<ProgramReport, Error> {
        program::<Tunnels, _, _>(self, updates.into_iter(), options, on_progress).await
    }

    /// Writes API routes, as [`Session::program_tunnels`] does tunnels.
    pub async fn program_routes(
        &mut self,
        updates: impl IntoIterator<Item = RouteUpdate>,
        options: &ProgramOptions,
        on_progress: impl FnMut(&Progress),
    ) -> Result<ProgramReport, Error> {
        program::<Routes, _, _>(self, updates.into_iter(), options, on_progress).await
    }

    /// Writes domains, as [`Session::program_tunnels`] does tunnels.
    pub async fn program_domains(
        &mut self,
        updates: impl IntoIterator<Item = DomainUpdate>,
        options: &ProgramOptions,
        on_progress: impl FnMut(&Progress),
    ) -> Result<ProgramReport, Error> {
        program::<Domains, _, _>(self, updates.into_iter(), options, on_progress).await
    }

    /// Creates or changes one tunnel.
    pub async fn upsert_tunnel(&mut self, tunnel: Tunnel) -> Result<ProgramReport, Error> {
        let update = [TunnelUpdate::upsert(tunnel)];
        self.program_tunnels(update, &ProgramOptions::default(), |_| {})
            .await?
            .all_applied()
    }

    /// Removes one tunnel; a missing one is no error.
    pub async fn delete_tunnel(&mut self, id: &str) -> Result<ProgramReport, Error> {
        let update = [TunnelUpdate::delete(id)];
        self.program_tunnels(update, &ProgramOptions::default(), |_| {})
            .await?
            .all_applied()
    }

    /// Creates or changes one API route.
    pub async fn upsert_route(&mut self, route: Route) -> Result<ProgramReport, Error> {
        let update = [RouteUpdate::upsert(route)];
        self.program_routes(update, &ProgramOptions::default(), |_| {})
            .await?
            .all_applied()
    }

    /// Removes one API route; a missing one is no error.
    pub async fn delete_route(&mut self, destination: IpNet) -> Result<ProgramReport, Error> {
        let update = [RouteUpdate::delete(destination)];
        self.program_routes(update, &ProgramOptions::default(), |_| {})
            .await?
            .all_applied()
    }

    /// Creates or changes one domain.
    pub async fn upsert_domain(&mut self, domain: Domain) -> Result<ProgramReport, Error> {
        let update = [DomainUpdate::upsert(domain)];
        self.program_domains(update, &ProgramOptions::default(), |_| {})
            .await?
            .all_applied()
    }

    /// Removes one domain, and the routes into it; a missing one is no error.
    pub async fn delete_domain(&mut self, id: &str) -> Result<ProgramReport, Error> {
        let update = [DomainUpdate::delete(id)];
        self.program_domains(update, &ProgramOptions::default(), |_| {})
            .await?
            .all_applied()
    }

    /// Opens a stream for tunnels that stays open, with up to `window` batches on their way (1 to 64).
    pub async fn tunnel_stream(&self, window: usize) -> Result<TunnelStream, Error> {
        TunnelStream::open(self.clone(), window).await
    }

    /// Starts a re-sync and gives its generation, for a controller that writes over a
    /// [`TunnelStream`] meanwhile. [`Session::begin_resync`] is simpler where it does not.
    pub async fn begin_sync(&self) -> Result<u64, Error> {
        Ok(crate::resync::begin(self).await?.generation)
    }

    /// Ends the re-sync of this generation: everything that was not upserted since is removed.
    pub async fn commit_sync(&self, generation: u64) -> Result<SyncReport, Error> {
        crate::resync::commit(self, generation).await
    }

    /// Starts a re-sync: everything of this owner that is not upserted until the commit will be
    /// removed by it. Forwarding goes on undisturbed.
    pub async fn begin_resync(&mut self) -> Result<Resync<'_>, Error> {
        Resync::begin(self).await
    }
}

async fn call_open(
    client: &Client,
    owner: &str,
    election: ElectionId,
) -> Result<api::OpenSessionResponse, Error> {
    let request = api::OpenSessionRequest {
        owner: owner.to_owned(),
        election_id_high: (election.0 >> 64) as u64,
        election_id_low: election.0 as u64,
    };
    client
        .call("OpenSession", request, async |channel, r| {
            SessionServiceClient::new(channel).open_session(r).await
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_ids_order_and_print_as_numbers() {
        let early: ElectionId = "7".parse().unwrap();
        assert!(ElectionId::now() > early);
        assert_eq!(
            ElectionId(u128::MAX).to_string().parse(),
            Ok(ElectionId(u128::MAX))
        );
        assert!("x".parse::<ElectionId>().is_err());
    }
}
