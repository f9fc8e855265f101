//! LifecycleService: plugins in other processes, and transitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sixferry_lifecycle::{Digest, Lifecycle, Revocation, Transition, Tunnels};
use sixferry_proto::control::v1 as pb;
use sixferry_proto::control::v1::lifecycle_service_server::LifecycleService;
use sixferry_remote::convert;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::status::{Refusal, bad_field, from_error, refuse, too_many};
use super::tunnel::user_name;
use super::watch::{Batch, forward};
use super::{Api, MAX_WATCHERS};
use crate::holder::{Holder, acquire_for};

/// Bytes of a user name or a challenge.
const MAX_WORD: usize = 255;
const MAX_LEASES: usize = 10_000;
const MAX_HOLDER: usize = 64;
/// Starts of plugins that are known at a time.
const MAX_HOLDERS: usize = 256;

/// The starts of plugins that hold something or watch, by their names.
pub(super) struct Holders {
    grace: Duration,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    holder: Arc<Holder>,
    /// Streams that are its sign of life.
    watching: usize,
    /// Counts the times it was left alone: a timer of before must not end it.
    left: u64,
}

impl Holders {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            known: Mutex::default(),
        }
    }

    /// The holder of this name; `watching`: with one more stream. Alone, it has the grace time to
    /// open one.
    fn find(
        self: &Arc<Self>,
        name: &str,
        tunnels: Arc<dyn Tunnels>,
        watching: bool,
    ) -> Result<Arc<Holder>, Status> {
        let mut known = self.known.lock();
        if known.len() >= MAX_HOLDERS && !known.contains_key(name) {
            let text = format!("{MAX_HOLDERS} plugins are known already, the most there can be");
            return Err(refuse(Code::ResourceExhausted, "TOO_MANY_HOLDERS", text));
        }
        let new = !known.contains_key(name);
        let entry = known.entry(name.to_owned()).or_insert_with(|| Known {
            holder: Arc::new(Holder::new(tunnels)),
            watching: 0,
            left: 0,
        });
        if watching {
            entry.watching += 1;
        }
        let holder = Arc::clone(&entry.holder);
        drop(known);
        if new && !watching {
            self.alone(name);
        }
        Ok(holder)
    }

    /// A stream ended.
    fn leave(self: &Arc<Self>, name: &str) {
        {
            let mut known = self.known.lock();
            let Some(entry) = known.get_mut(name) else {
                return;
            };
            entry.watching -= 1;
            if entry.watching > 0 {
                return;
            }
            entry.left += 1;
        }
        self.alone(name);
    }

    /// Nobody is there: if that stays so, everything is given back.
    fn alone(self: &Arc<Self>, name: &str) {
        let (this, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move {
            let left = this.known.lock().get(&name).map(|entry| entry.left);
            tokio::time::sleep(this.grace).await;
            let gone = {
                let mut known = this.known.lock();
                match known.get(&name) {
                    Some(entry) if entry.watching == 0 && Some(entry.left) == left => {
                        known.remove(&name)
                    }
                    _ => None,
                }
            };
            if let Some(gone) = gone {
                tracing::warn!(holder = name, "a plugin is gone");
                gone.holder.let_go(Duration::ZERO).await;
            }
        });
    }
}

/// A stream that counts as a sign of life while it is kept.
struct Watching {
    holders: Arc<Holders>,
    name: String,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.holders.leave(&self.name);
    }
}

impl Api {
    fn too_many_watchers() -> Status {
        let refusal = Refusal {
            metadata: vec![("limit", MAX_WATCHERS.to_string())],
            ..Refusal::default()
        };
        let text = format!("{MAX_WATCHERS} watch already, the most there can be");
        refusal.status(Code::ResourceExhausted, "TOO_MANY_WATCHERS", text)
    }

    /// Who asks: one start of a plugin, or nobody in particular.
    fn asking(&self, holder: &str) -> Result<Arc<dyn Tunnels>, Status> {
        let tunnels = self.tunnels()?;
        if holder.is_empty() {
            return Ok(tunnels);
        }
        convert::word("holder", holder, MAX_HOLDER)?;
        let holder = self.holders.find(holder, tunnels, false)?;
        Ok(holder)
    }
}

fn revocations(batch: Batch<Revocation>) -> Option<pb::WatchRevocationsResponse> {
    let message = |revocation: Revocation| pb::Revocation {
        lease: Some(convert::lease_key_message(
            revocation.tunnel,
            revocation.number,
        )),
        cause: convert::revoke_message(revocation.cause).into(),
    };
    Some(pb::WatchRevocationsResponse {
        revocations: batch.events.into_iter().map(message).collect(),
        lost: batch.lost,
    })
}

fn transition(lifecycle: &Lifecycle, transition: &Transition) -> pb::Transition {
    pb::Transition {
        tunnel_id: transition.tunnel.to_string(),
        user: user_name(lifecycle, transition.account),
        from: transition
            .from
            .map_or(pb::TunnelState::Unspecified, convert::state_message)
            .into(),
        to: convert::state_message(transition.to).into(),
        cause: convert::cause_message(transition.cause).into(),
        time: Some(convert::time(transition.at)),
        revision: transition.seq,
    }
}

#[tonic::async_trait]
impl LifecycleService for Api {
    type WatchRevocationsStream = ReceiverStream<Result<pb::WatchRevocationsResponse, Status>>;
    type WatchTransitionsStream = ReceiverStream<Result<pb::WatchTransitionsResponse, Status>>;

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let request = request.into_inner();
        for (field, word) in [("user", &request.user), ("challenge", &request.challenge)] {
            if word.len() > MAX_WORD {
                let problem = format!("{} bytes; at most {MAX_WORD}", word.len());
                return Err(bad_field(field, problem));
            }
        }
        let digest = request.digest.try_into();
        let digest = digest.map_err(|_| bad_field("digest", "has 16 bytes"))?;
        let attempt = Digest {
            user: &request.user,
            challenge: &request.challenge,
            digest,
        };
        match self.tunnels()?.authenticate(attempt).await {
            Ok(Ok(account)) => Ok(Response::new(pb::AuthenticateResponse {
                account: account.0,
            })),
            Ok(Err(_)) => Err(refuse(Code::Unauthenticated, "DENIED", "no such login")),
            Err(error) => Err(from_error(&error)),
        }
    }

    async fn acquire(
        &self,
        request: Request<pb::AcquireRequest>,
    ) -> Result<Response<pb::AcquireResponse>, Status> {
        let request = request.into_inner();
        let asking = self.asking(&request.holder)?;
        let wanted = convert::acquire(request)?;
        let given = acquire_for(asking, wanted).await;
        let lease = given.map_err(|error| from_error(&error))?;
        Ok(Response::new(pb::AcquireResponse {
            lease: Some(convert::lease_message(&lease)),
        }))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        let request = request.into_inner();
        let cause = convert::cause("cause", request.cause())?;
        let (tunnel, number) = convert::lease_key("lease", request.lease.as_ref())?;
        let released = self.tunnels()?.release(tunnel, number, cause).await;
        released.map_err(|error| from_error(&error))?;
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn check_leases(
        &self,
        request: Request<pb::CheckLeasesRequest>,
    ) -> Result<Response<pb::CheckLeasesResponse>, Status> {
        let request = request.into_inner();
        if request.leases.len() > MAX_LEASES {
            return Err(too_many("leases", request.leases.len(), MAX_LEASES));
        }
        let leases = request.leases.iter();
        let leases: Vec<_> = leases
            .map(|key| convert::lease_key("leases", Some(key)))
            .collect::<Result<_, _>>()?;
        let holds = self.tunnels()?.holds(&leases).await;
        let holds = holds.map_err(|error| from_error(&error))?;
        Ok(Response::new(pb::CheckLeasesResponse { holds }))
    }

    async fn watch_revocations(
        &self,
        request: Request<pb::WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let name = request.into_inner().holder;
        convert::word("holder", &name, MAX_HOLDER)?;
        let permit = self.revocation_watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Self::too_many_watchers())?;
        let tunnels = self.tunnels()?;
        // Subscribed before the first message says so.
        let source = tunnels.revocations();
        self.holders.find(&name, tunnels, true)?;
        let watching = Watching {
            holders: Arc::clone(&self.holders),
            name,
        };
        let (out, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            let _held = (permit, watching);
            forward(source, out, revocations).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn watch_transitions(
        &self,
        request: Request<pb::WatchTransitionsRequest>,
    ) -> Result<Response<Self::WatchTransitionsStream>, Status> {
        let user = request.into_inner().user;
        let permit = self.transition_watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Self::too_many_watchers())?;
        let lifecycle = self.lifecycle()?;
        let source = lifecycle.transitions();
        let (out, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            let _permit = permit;
            let mut first = true;
            let message = move |batch: Batch<Transition>| {
                let transitions = batch.events.iter();
                let transitions: Vec<_> = transitions
                    .map(|one| transition(&lifecycle, one))
                    .filter(|one| user.is_empty() || one.user == user)
                    .collect();
                let wanted =
                    std::mem::take(&mut first) || batch.lost > 0 || !transitions.is_empty();
                wanted.then_some(pb::WatchTransitionsResponse {
                    transitions,
                    lost: batch.lost,
                })
            };
            forward(source, out, message).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
