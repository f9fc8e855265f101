//! What a session asks the lifecycle, as futures that own what they need.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sixferry_lifecycle::{Acquire, Digest, Lease};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::shared::Shared;
use crate::machine::{Authentication, Wish};
use crate::plan::refusal;
use crate::wire::reply::Failure;
use crate::wire::{HEX_LEN, is_user_name};

/// How long a second `tunnel` waits for the first to be gone.
const REPLACE_WAIT: Duration = Duration::from_secs(10);

/// The answer.
pub(super) enum Done {
    Authenticated(Authentication),
    Replaced,
    /// With how often revocations had been missed before it was asked for.
    Acquired(Box<Wish>, Result<Box<Lease>, Failure>, u64),
    /// The tunnel is there, but revocations were missed meanwhile: does it hold?
    Checked(Box<(Wish, Lease)>, bool),
}

/// An answer that is waited for.
pub(super) type Waiting = Option<BoxFuture<'static, Done>>;

pub(super) async fn wait(waiting: &mut Waiting) -> Done {
    match waiting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

pub(super) async fn authenticate(
    shared: Arc<Shared>,
    client: SocketAddrV4,
    challenge: [u8; HEX_LEN],
    user: Box<[u8]>,
    digest: [u8; 16],
) -> Done {
    let name = shown(&user);
    if shared.limited(*client.ip()) {
        shared.counters.denied_limited.one();
        shared.log(|| {
            tracing::warn!(%client, user = name, "login not looked at: too many failures");
        });
        return Done::Authenticated(Authentication::Limited);
    }
    let attempt = Digest {
        user: &user,
        challenge: &challenge,
        digest,
    };
    let result = match shared.tunnels.authenticate(attempt).await {
        Ok(Ok(account)) => {
            shared.log(|| tracing::info!(%client, user = name, "authenticated"));
            Authentication::Accepted(account)
        }
        Ok(Err(_)) => {
            shared.counters.denied_digest.one();
            shared.count_failure(*client.ip());
            shared.log(|| tracing::info!(%client, user = name, "login refused"));
            Authentication::Denied
        }
        Err(error) => {
            shared.counters.denied_unavailable.one();
            shared.log(|| tracing::error!(%client, user = name, %error, "login not checked"));
            Authentication::Unavailable
        }
    };
    Done::Authenticated(result)
}

/// Waits for a tunnel that is on its way back. If it takes longer, the new one is asked for all the
/// same.
pub(super) async fn replace(returning: Option<JoinHandle<()>>) -> Done {
    if let Some(returning) = returning {
        let _ = timeout(REPLACE_WAIT, returning).await;
    }
    Done::Replaced
}

pub(super) async fn acquire(
    shared: Arc<Shared>,
    wish: Wish,
    plan: Result<Acquire, Failure>,
) -> Done {
    let missed = shared.registry.missed();
    let result = match plan {
        Err(failure) => Err(failure),
        Ok(plan) => shared
            .tunnels
            .acquire(plan)
            .await
            .map(Box::new)
            .map_err(|error| {
                shared.log(|| {
                    let user = shown(&wish.user);
                    tracing::warn!(user, kind = %wish.kind, %error, "tunnel failed");
                });
                refusal(&error)
            }),
    };
    Done::Acquired(Box::new(wish), result, missed)
}

/// Whether a lease that is just there is among those whose revocation was missed.
pub(super) async fn check(shared: Arc<Shared>, wish: Wish, lease: Lease) -> Done {
    let answer = shared.tunnels.holds(&[(lease.tunnel, lease.number)]).await;
    // Without an answer it is taken to hold; the next check asks again.
    let holds = answer.map_or(true, |holds| holds.first().copied().unwrap_or(false));
    Done::Checked(Box::new((wish, lease)), holds)
}

/// A user's name as it may stand in a log.
pub(super) fn shown(user: &[u8]) -> &str {
    std::str::from_utf8(user)
        .ok()
        .filter(|name| is_user_name(name.as_bytes()))
        .unwrap_or("(not a name)")
}
