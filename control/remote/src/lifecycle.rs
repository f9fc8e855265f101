//! [`Tunnels`] over gRPC.
//!
//! One connection, which reconnects by itself. Calls have a deadline. What is safe to repeat is
//! repeated while the deadline allows: not a login, for a digest counts as an attempt, and not a
//! wish, whose answer may have been lost after the tunnel was given (it comes back as *resumed* when
//! the user logs in again, or goes with the grace time).
//!
//! Revocations are followed for as long as this exists. After a gap nobody knows what was missed, so
//! the leases given here are checked, and those that do not hold any more are told as revoked.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use sixferry_client::{Backoff, Options, Target};
use sixferry_lifecycle::{
    AccountId, Acquire, Cause, Denied, Digest, Error, Lease, LeaseNumber, Reply, Revocation,
    RevokeCause, TunnelId, Tunnels,
};
use sixferry_proto::MAX_MESSAGE_LEN;
use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::lifecycle_service_client::LifecycleServiceClient;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::{convert, status};

/// Revocations a holder may lag behind before it has to check its leases.
const BACKLOG: usize = 16_384;
/// Leases in one check.
const MAX_CHECKED: usize = 10_000;
/// A stream that outlived its reader must end some day; TCP refuses calls without a deadline.
const STREAM_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The server's deadline is this much later than ours, so that ours gives the message.
const SLACK: Duration = Duration::from_millis(500);

/// The lifecycle in another process.
#[derive(Debug)]
pub struct RemoteLifecycle {
    shared: Arc<Shared>,
    following: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    service: LifecycleServiceClient<Channel>,
    /// Names this start of the plugin.
    holder: String,
    timeout: Duration,
    revoked: broadcast::Sender<Revocation>,
    /// Leases given here that nobody gave back: what has to be checked after a gap.
    held: Mutex<HashMap<TunnelId, LeaseNumber>>,
}

impl Drop for RemoteLifecycle {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl RemoteLifecycle {
    /// Starts to follow the lifecycle that is served at `target`, which need not be there yet:
    /// until it is, wishes end with [`Error::Unavailable`].
    pub fn start(target: &Target, options: &Options) -> Result<Self, sixferry_client::Error> {
        let channel = sixferry_client::open_lazy(target, options)?;
        let service = LifecycleServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_LEN)
            .max_encoding_message_size(MAX_MESSAGE_LEN);
        let shared = Arc::new(Shared {
            service,
            holder: format!("{:032x}", rand::random::<u128>()),
            timeout: options.timeout,
            revoked: broadcast::Sender::new(BACKLOG),
            held: Mutex::new(HashMap::new()),
        });
        let following = tokio::spawn(Arc::clone(&shared).follow()).abort_handle();
        Ok(Self { shared, following })
    }
}

impl Shared {
    /// One call, one attempt.
    async fn once<T, R, F, Fut>(&self, message: T, send: &F) -> Result<R, Status>
    where
        F: Fn(LifecycleServiceClient<Channel>, Request<T>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout + SLACK);
        match tokio::time::timeout(self.timeout, send(self.service.clone(), request)).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "no answer within {} s",
                self.timeout.as_secs_f64()
            ))),
        }
    }

    /// The same again and again while the connection is broken and the time is not over.
    async fn repeat<T, R, F, Fut>(&self, message: T, send: F) -> Result<R, Status>
    where
        T: Clone,
        F: Fn(LifecycleServiceClient<Channel>, Request<T>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let backoff = Backoff::default();
        let end = tokio::time::Instant::now() + self.timeout;
        let mut attempt = 0;
        loop {
            let failed = match self.once(message.clone(), &send).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            attempt += 1;
            match backoff.delay(attempt) {
                Some(wait) if is_broken(&failed) && tokio::time::Instant::now() + wait < end => {
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(failed),
            }
        }
    }

    fn forget(&self, tunnel: TunnelId, number: LeaseNumber) {
        let mut held = self.held.lock();
        if held.get(&tunnel) == Some(&number) {
            held.remove(&tunnel);
        }
    }

    fn revoke(&self, revocation: Revocation) {
        self.forget(revocation.tunnel, revocation.number);
        // Nobody listens: then nobody holds anything.
        let _listeners = self.revoked.send(revocation);
    }

    /// Follows revocations for ever.
    async fn follow(self: Arc<Self>) {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            attempts: u32::MAX,
            ..Backoff::default()
        };
        let mut attempt = 0;
        loop {
            let ended = self.follow_once(&mut attempt).await;
            attempt += 1;
            if attempt == 1 {
                tracing::warn!("revocations: {}; connecting again", ended.message());
            }
            let wait = backoff.delay(attempt).unwrap_or(backoff.longest);
            tokio::time::sleep(wait).await;
        }
    }

    async fn follow_once(&self, attempt: &mut u32) -> Status {
        let mut request = Request::new(pb::WatchRevocationsRequest {
            holder: self.holder.clone(),
        });
        request.set_timeout(STREAM_LIFETIME);
        let mut service = self.service.clone();
        let opening = tokio::time::timeout(self.timeout, service.watch_revocations(request));
        let mut stream = match opening.await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(failed)) => return failed,
            Err(_) => return Status::deadline_exceeded("no answer"),
        };
        let mut fresh = true;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Status::unavailable("the stream ended"),
                Err(failed) => return failed,
            };
            // From the first message on nothing is missed: what was before is found by asking.
            if (std::mem::take(&mut fresh) || message.lost > 0)
                && let Err(failed) = self.check_held().await
            {
                return failed;
            }
            *attempt = 0;
            for revocation in message.revocations {
                let cause = convert::revoke(revocation.cause());
                match convert::lease_key("revocations.lease", revocation.lease.as_ref()) {
                    Ok((tunnel, number)) => self.revoke(Revocation {
                        tunnel,
                        number,
                        cause,
                    }),
                    Err(malformed) => return malformed,
                }
            }
        }
    }

    /// Tells about every lease given here that does not hold any more.
    async fn check_held(&self) -> Result<(), Status> {
        let held: Vec<_> = self.held.lock().iter().map(|(t, n)| (*t, *n)).collect();
        for leases in held.chunks(MAX_CHECKED) {
            let holds = self.check(leases).await?;
            for (&(tunnel, number), _) in leases.iter().zip(holds).filter(|(_, holds)| !holds) {
                self.revoke(Revocation {
                    tunnel,
                    number,
                    // The truth went with the gap; this is what needs no answer of the holder.
                    cause: RevokeCause::Administrative,
                });
            }
        }
        Ok(())
    }

    async fn check(&self, leases: &[(TunnelId, LeaseNumber)]) -> Result<Vec<bool>, Status> {
        let request = pb::CheckLeasesRequest {
            leases: leases
                .iter()
                .map(|&(tunnel, number)| convert::lease_key_message(tunnel, number))
                .collect(),
        };
        let answer = self
            .repeat(request, async |mut service, request| {
                service.check_leases(request).await
            })
            .await?;
        if answer.holds.len() != leases.len() {
            return Err(Status::internal("malformed answer: holds"));
        }
        Ok(answer.holds)
    }
}

/// The connection broke, or nobody was there; the server's own refusals carry a reason.
fn is_broken(status: &Status) -> bool {
    let broken = std::error::Error::source(status).is_some();
    status.code() == Code::Unavailable || (broken && status.details().is_empty())
}

impl Tunnels for RemoteLifecycle {
    fn authenticate<'a>(&'a self, attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>> {
        async move {
            let request = pb::AuthenticateRequest {
                user: attempt.user.to_vec(),
                challenge: attempt.challenge.to_vec(),
                digest: attempt.digest.to_vec(),
            };
            let send = async |mut service: LifecycleServiceClient<_>, request| {
                service.authenticate(request).await
            };
            match self.shared.once(request, &send).await {
                Ok(answer) => Ok(Ok(AccountId(answer.account))),
                Err(refused) if status::is_denied(&refused) => Ok(Err(Denied)),
                Err(failed) => Err(status::to_error(&failed)),
            }
        }
        .boxed()
    }

    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease> {
        async move {
            let send = async |mut service: LifecycleServiceClient<_>, request| {
                service.acquire(request).await
            };
            let answer = self
                .shared
                .once(
                    convert::acquire_message(&wanted, &self.shared.holder),
                    &send,
                )
                .await
                .map_err(|failed| status::to_error(&failed))?;
            let missing = || Error::Unavailable("malformed answer: no lease".to_owned());
            let lease = convert::lease(answer.lease.ok_or_else(missing)?)
                .map_err(|malformed| status::to_error(&malformed))?;
            self.shared.held.lock().insert(lease.tunnel, lease.number);
            Ok(lease)
        }
        .boxed()
    }

    fn release<'a>(&'a self, tunnel: TunnelId, number: LeaseNumber, cause: Cause) -> Reply<'a, ()> {
        async move {
            let request = pb::ReleaseRequest {
                lease: Some(convert::lease_key_message(tunnel, number)),
                cause: convert::cause_message(cause).into(),
            };
            let answer = self
                .shared
                .repeat(request, async |mut service, request| {
                    service.release(request).await
                })
                .await;
            // Whether or not it arrived: the plugin is done with it, and the grace time ends it.
            self.shared.forget(tunnel, number);
            answer.map(drop).map_err(|failed| status::to_error(&failed))
        }
        .boxed()
    }

    fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.shared.revoked.subscribe()
    }

    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>> {
        async move {
            let mut holds = Vec::with_capacity(leases.len());
            for leases in leases.chunks(MAX_CHECKED) {
                let checked = self.shared.check(leases).await;
                holds.extend(checked.map_err(|failed| status::to_error(&failed))?);
            }
            Ok(holds)
        }
        .boxed()
    }
}
