//! The dataplane behind its API.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sixferry_client::{Client, ElectionId, RpcError, TunnelStream, TunnelUpdate};

use super::program::update;
use super::{Dataplane, Link, WINDOW};
use crate::state::Refusal;
use crate::{DataplaneConfig, Tunnel, TunnelId};

/// Whose the tunnels are at the dataplane.
const OWNER: &str = "lifecycle";

/// A dataplane of the configuration.
pub(crate) struct GrpcDataplane {
    config: DataplaneConfig,
    /// From the start of this process: a process started later wins, and this one then stays out.
    election: ElectionId,
}

impl GrpcDataplane {
    pub(crate) fn new(config: DataplaneConfig, election: ElectionId) -> Self {
        Self { config, election }
    }
}

pub(crate) struct GrpcLink {
    stream: TunnelStream,
    generation: u64,
}

impl Dataplane for GrpcDataplane {
    type Link = GrpcLink;

    async fn connect(&mut self) -> Result<GrpcLink, String> {
        let client = Client::connect(&self.config.target, &self.config.options);
        let client = client.await.map_err(|e| e.to_string())?;
        let session = client.open_session(OWNER, self.election);
        let session = session.await.map_err(|e| e.to_string())?;
        let stream = session.tunnel_stream(WINDOW);
        Ok(GrpcLink {
            stream: stream.await.map_err(|e| e.to_string())?,
            generation: 0,
        })
    }
}

impl Link for GrpcLink {
    fn instance(&self) -> String {
        self.stream.session().instance().to_owned()
    }

    async fn begin(&mut self) -> Result<(), String> {
        let generation = self.stream.session().begin_sync().await;
        self.generation = generation.map_err(|e| e.to_string())?;
        Ok(())
    }

    fn commit(&self) -> BoxFuture<'static, Result<(), String>> {
        let session = self.stream.session().clone();
        let generation = self.generation;
        async move {
            let report = session.commit_sync(generation).await;
            let report = report.map_err(|e| e.to_string())?;
            tracing::debug!(swept = report.swept_tunnels, "left-overs removed");
            Ok(())
        }
        .boxed()
    }

    fn send(&mut self, entries: &[(TunnelId, u64, Option<Arc<Tunnel>>)]) -> Result<(), String> {
        let updates = entries
            .iter()
            .map(|(id, _, tunnel)| update(*id, tunnel.as_deref()));
        let updates: Vec<TunnelUpdate> = updates.collect();
        self.stream.send(&updates).map_err(|e| e.to_string())
    }

    async fn answer(&mut self) -> Result<Vec<(usize, Refusal)>, String> {
        let ack = self.stream.next().await.map_err(|e| e.to_string())?;
        let refused = ack.failures.into_iter().map(|failure| {
            let place = usize::try_from(failure.position).unwrap_or(usize::MAX);
            (place, refusal(&failure.error))
        });
        Ok(refused.collect())
    }
}

fn refusal(error: &RpcError) -> Refusal {
    let reason = error.reason.as_deref().unwrap_or_default();
    let ours = error.resource.as_ref().filter(|r| r.owner == OWNER);
    let number = ours.and_then(|r| r.name.strip_prefix('t')?.parse().ok());
    let taken = matches!(reason, "OUTER_IN_USE" | "PREFIX_IN_USE" | "PORT_IN_USE");
    Refusal {
        text: error.to_string(),
        blocker: number.filter(|_| taken).map(TunnelId),
        replace: reason == "IMMUTABLE_FIELD",
    }
}
