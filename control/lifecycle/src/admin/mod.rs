//! What the operator's side asks for: accounts, pools, tunnels, figures.

mod accounts;
mod import;
mod pools;
mod types;
mod views;

use tokio::sync::oneshot;

use crate::Lifecycle;
use crate::jobs::{Administering, Decision};
use crate::state::State;

pub use types::{
    AccountFilter, AdminError, ImportReport, ImportedAccount, NewAccount, NewPool, PoolView,
    RelayStats, Stats, Transition, TunnelFilter,
};

impl Lifecycle {
    /// Has something decided and stored.
    async fn administer<T: Send + 'static>(
        &self,
        decide: impl FnMut(&mut State, i64) -> Result<Decision<T>, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let stopped = || AdminError::Unavailable("the lifecycle has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Administering::new(decide, reply));
        let waiting = async {
            self.inner.jobs.send(job).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        let limit = self.inner.shared.config.acquire_timeout;
        match tokio::time::timeout(limit, waiting).await {
            Ok(answer) => answer,
            Err(_) => {
                let late = "not done in time; it may be done yet if it was begun";
                Err(AdminError::Unavailable(late.to_owned()))
            }
        }
    }
}
