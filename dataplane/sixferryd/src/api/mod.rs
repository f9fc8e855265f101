//! The gRPC services: thin adapters between messages and the control state.

mod counter;
mod domain;
mod event;
mod neighbour;
mod policy;
mod port;
mod program;
mod route;
pub(crate) mod serve;
mod session;
mod status;
mod system;
mod test_packet;
mod tunnel;
mod watch;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::Semaphore;

use crate::control::error::Error;
use crate::control::shared::Shared;
use crate::live::Live;
use crate::reload::Manager;
use crate::runtime::Runtime;

/// Listings give this many when nothing is asked for.
const DEFAULT_PAGE: u32 = 100;
/// Rankings of all tunnels at a time: each holds tens of megabytes at a million tunnels.
const RANKINGS: usize = 2;

/// What the services work on.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) manager: Arc<Manager>,
    pub(crate) live: Arc<dyn Live>,
    started: Instant,
    start_time: SystemTime,
    rankings: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(
        shared: Arc<Shared>,
        runtime: Arc<Runtime>,
        manager: Arc<Manager>,
        live: Arc<dyn Live>,
    ) -> Self {
        Self {
            shared,
            runtime,
            manager,
            live,
            started: Instant::now(),
            start_time: SystemTime::now(),
            rankings: Arc::new(Semaphore::new(RANKINGS)),
            watchers: Arc::new(Semaphore::new(event::MAX_WATCHERS)),
        }
    }

    fn instance(&self) -> String {
        self.shared.instance().to_owned()
    }

    /// Where the page after this token starts in the slots of the tunnel table.
    fn page_start(&self, token: &str) -> Result<u32, Error> {
        if token.is_empty() {
            return Ok(0);
        }
        token
            .split_once('/')
            .filter(|(instance, _)| *instance == self.shared.instance())
            .and_then(|(_, slot)| slot.parse().ok())
            .ok_or(Error::BadPageToken)
    }

    fn page_token(&self, slot: u32) -> String {
        format!("{}/{slot}", self.shared.instance())
    }
}

fn page_size(asked: u32, most: u32) -> usize {
    let size = if asked == 0 {
        DEFAULT_PAGE
    } else {
        asked.min(most)
    };
    usize::try_from(size).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
