//! What a plugin has taken, so that nothing is left when it is gone without a word.
//!
//! A plugin that crashes forgets its leases; the lifecycle believes in them. Whoever runs the plugin
//! (the supervisor here, a stream over the API for one in another process) lets its [`Holder`] go:
//! then the users have the grace time to log in again, which gives their tunnels a new number, and
//! what still has the old one is given back.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use sixferry_lifecycle::{
    AccountId, Acquire, Cause, Denied, Digest, Lease, LeaseNumber, Reply, Revocation, TunnelId,
    Tunnels,
};
use tokio::sync::broadcast;

/// Releases under way at a time when a holder is gone.
const AT_ONCE: usize = 256;
/// Revoked leases are forgotten when this many were given since the last time.
const SWEEP: usize = 1024;

#[derive(Default)]
struct Held {
    leases: std::collections::HashMap<TunnelId, LeaseNumber>,
    /// Size at which leases that were taken away are looked for.
    sweep_at: usize,
}

/// The lifecycle as one start of a plugin sees it.
pub(crate) struct Holder {
    tunnels: Arc<dyn Tunnels>,
    held: Mutex<Held>,
}

impl Holder {
    pub(crate) fn new(tunnels: Arc<dyn Tunnels>) -> Self {
        let held = Held {
            sweep_at: SWEEP,
            ..Held::default()
        };
        Self {
            tunnels,
            held: Mutex::new(held),
        }
    }

    fn all(&self) -> Vec<(TunnelId, LeaseNumber)> {
        let held = self.held.lock();
        held.leases.iter().map(|(t, n)| (*t, *n)).collect()
    }

    /// Forgets what was taken away, when much has come together.
    async fn sweep(&self) {
        {
            let mut held = self.held.lock();
            if held.leases.len() < held.sweep_at {
                return;
            }
            // One at a time, and not again until it has grown.
            held.sweep_at = usize::MAX;
        }
        let leases = self.all();
        let holds = self.tunnels.holds(&leases).await.unwrap_or_default();
        let mut held = self.held.lock();
        for ((tunnel, number), _) in leases.into_iter().zip(holds).filter(|(_, holds)| !holds) {
            if held.leases.get(&tunnel) == Some(&number) {
                held.leases.remove(&tunnel);
            }
        }
        held.sweep_at = held.leases.len() * 2 + SWEEP;
    }

    /// The plugin is gone: gives back what is still its after the grace time.
    pub(crate) async fn let_go(self: Arc<Self>, grace: Duration) {
        tokio::time::sleep(grace).await;
        let leases = self.all();
        if leases.is_empty() {
            return;
        }
        tracing::info!(
            leases = leases.len(),
            "a plugin did not come back for its tunnels"
        );
        for some in leases.chunks(AT_ONCE) {
            let releases = some
                .iter()
                .map(|&(tunnel, number)| self.release(tunnel, number, Cause::GraceEnded));
            for outcome in futures::future::join_all(releases).await {
                if let Err(error) = outcome {
                    tracing::warn!(%error, "cannot give back a tunnel");
                }
            }
        }
    }
}

impl Tunnels for Holder {
    fn authenticate<'a>(&'a self, attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>> {
        self.tunnels.authenticate(attempt)
    }

    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease> {
        async move {
            let lease = self.tunnels.acquire(wanted).await?;
            self.held.lock().leases.insert(lease.tunnel, lease.number);
            self.sweep().await;
            Ok(lease)
        }
        .boxed()
    }

    fn release<'a>(&'a self, tunnel: TunnelId, number: LeaseNumber, cause: Cause) -> Reply<'a, ()> {
        async move {
            let done = self.tunnels.release(tunnel, number, cause).await;
            let mut held = self.held.lock();
            if done.is_ok() && held.leases.get(&tunnel) == Some(&number) {
                held.leases.remove(&tunnel);
            }
            done
        }
        .boxed()
    }

    fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.tunnels.revocations()
    }

    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>> {
        self.tunnels.holds(leases)
    }
}
