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
    AccountId, Acquire, Cause, Denied, Digest, Error, Lease, LeaseNumber, Reply, Revocation,
    TunnelId, Tunnels,
};
use tokio::runtime::Handle;
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

    /// Whether everything was given back.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.lock().leases.is_empty()
    }

    /// Forgets what was taken away, when much has come together.
    async fn sweep(&self) {
        {
            let mut held = self.held.lock();
            if held.leases.len() < held.sweep_at {
                return;
            }
            // Not again until it has grown, whatever becomes of this one.
            held.sweep_at = held.leases.len() * 2 + SWEEP;
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
            self.sweep().await;
            let lease = self.tunnels.acquire(wanted).await?;
            // Nothing is waited for from here on: a caller who gives up has nothing.
            self.held.lock().leases.insert(lease.tunnel, lease.number);
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

/// A wish of somebody who may give up at any moment: his call was cancelled, or its time is over. It
/// is finished all the same, for half a wish cannot be taken back, and a lease that does not reach him
/// is given back: nobody else knows of it.
pub(crate) async fn acquire_for(asking: Arc<dyn Tunnels>, wanted: Acquire) -> Result<Lease, Error> {
    let finished = tokio::spawn(async move {
        let lease = asking.acquire(wanted).await?;
        let lease = Some(lease);
        Ok(OnItsWay { asking, lease })
    });
    let failed = |_| Error::Unavailable("the wish failed".to_owned());
    let mut given: OnItsWay = finished.await.map_err(failed)??;
    let lost = || Error::Unavailable("the wish was lost".to_owned());
    given.lease.take().ok_or_else(lost)
}

/// A lease that has not reached the one who asked.
struct OnItsWay {
    asking: Arc<dyn Tunnels>,
    lease: Option<Lease>,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        // Without a runtime the process ends, and the grace time has to do.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let asking = Arc::clone(&self.asking);
        runtime.spawn(async move {
            let (tunnel, number) = (lease.tunnel, lease.number);
            let released = asking.release(tunnel, number, Cause::ConnectionLost).await;
            if let Err(error) = released {
                tracing::warn!(%tunnel, %error, "a tunnel nobody waited for is not given back");
            }
        });
    }
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
