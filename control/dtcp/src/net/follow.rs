//! Tasks that follow what changes outside of sessions.

use std::sync::Arc;
use std::time::Duration;

use sixferry_lifecycle::{LeaseNumber, Revocation, TunnelId};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, MissedTickBehavior};

use super::shared::{Alarm, Shared};
use super::{TrafficSource, read_routes_apart, settings};
use crate::Error;
use crate::routetable::Stamp;

/// How often the routetable is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Longest pause before a routetable that cannot be read, and does not change, is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Tunnels asked about at once.
const CHUNK: usize = 1024;

/// Pause before it is asked again which leases hold.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells sessions that their tunnel was taken away.
pub(super) async fn revocations(shared: Arc<Shared>, mut receiver: Receiver<Revocation>) {
    let _alarm = Alarm::new(&shared, "the task that follows revocations");
    loop {
        match receiver.recv().await {
            Ok(revocation) => shared.registry.revoke(&revocation),
            Err(RecvError::Lagged(_)) => {
                shared.counters.revocations_missed.one();
                check(&shared, shared.registry.note_missed()).await;
            }
            Err(RecvError::Closed) => {
                return shared.fail("the lifecycle tells no revocations any more".to_owned());
            }
        }
    }
}

/// Asks which of these still hold, and tells the sessions of the others. Goes on until it is known.
pub(super) async fn check(shared: &Shared, mut keys: Vec<(TunnelId, LeaseNumber)>) {
    while !keys.is_empty() && !shared.stopping() {
        let chunk = keys.split_off(keys.len().saturating_sub(CHUNK));
        match shared.tunnels.holds(&chunk).await {
            Ok(holds) => {
                for (key, _) in chunk.into_iter().zip(holds).filter(|(_, holds)| !holds) {
                    shared.registry.lost(key);
                }
            }
            Err(error) => {
                shared.log(|| tracing::warn!(%error, "cannot ask which tunnels are still held"));
                keys.extend(chunk);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What is known of the file behind the routetable in force.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// What was read; `None` without a routetable.
    stamp: Option<Stamp>,
    trouble: Option<Trouble>,
}

/// Why the file cannot be read at present.
#[derive(Debug)]
struct Trouble {
    cause: String,
    /// What the file looked like.
    found: Option<Stamp>,
    retry: Instant,
    pause: Duration,
}

impl Followed {
    pub(super) fn new(stamp: Option<Stamp>) -> Self {
        Self {
            stamp,
            trouble: None,
        }
    }

    /// Whether it is time to read what was found.
    fn wants(&self, found: Option<Stamp>, now: Instant) -> bool {
        match &self.trouble {
            None => found.is_none() || found != self.stamp,
            Some(trouble) => found != trouble.found || now >= trouble.retry,
        }
    }

    /// It could not be read; whether that is news.
    pub(super) fn failed(&mut self, found: Option<Stamp>, error: &Error, now: Instant) -> bool {
        let cause = error.to_string();
        let before = self.trouble.take().filter(|before| before.cause == cause);
        let pause = before
            .as_ref()
            .map_or(LOOK, |before| (before.pause * 2).min(RETRY_MAX));
        self.trouble = Some(Trouble {
            cause,
            found,
            retry: now + pause,
            pause,
        });
        before.is_none()
    }
}

/// Reads the routetable again when it has changed.
pub(super) async fn routetable(shared: Arc<Shared>, reloading: Arc<tokio::sync::Mutex<Followed>>) {
    let _alarm = Alarm::new(&shared, "the task that follows the routetable");
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut followed = reloading.lock().await;
        let old = shared.settings();
        let Some(path) = old.config.routetable.clone() else {
            continue;
        };
        let look = path.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || Stamp::of(&look)).await else {
            continue;
        };
        let stamp = found.as_ref().ok().copied();
        if !followed.wants(stamp, Instant::now()) {
            continue;
        }
        let read = match found {
            Ok(_) => read_routes_apart(path).await,
            Err(source) => Err(Error::RouteTable { path, source }),
        };
        match read {
            Ok((routes, new)) => {
                shared.counters.routetable_reloads.one();
                *followed = Followed::new(Some(new));
                match settings(old.config.clone(), Some(routes)) {
                    Ok(settings) => shared.set_settings(settings),
                    Err(error) => tracing::error!(%error, "routetable not taken"),
                }
            }
            Err(error) => {
                let news = followed.failed(stamp, &error, Instant::now());
                shared.routes_unreadable(&error, news);
            }
        }
    }
}

/// Tells sessions how many packets came out of their tunnels, while somebody wants to know.
pub(super) async fn traffic(shared: Arc<Shared>, source: Arc<dyn TrafficSource>) {
    let _alarm = Alarm::new(&shared, "the task that follows traffic");
    loop {
        let limit = shared.settings().rules.traffic;
        tokio::time::sleep(limit.map_or(LOOK, |limit| (limit / 4).min(LOOK))).await;
        if limit.is_none() {
            continue;
        }
        let keys = shared.registry.held();
        for chunk in keys.chunks(CHUNK) {
            let tunnels: Vec<TunnelId> = chunk.iter().map(|(tunnel, _)| *tunnel).collect();
            for (key, packets) in chunk.iter().zip(source.packets(&tunnels).await) {
                if let Some(packets) = packets {
                    shared.registry.traffic(*key, packets);
                }
            }
        }
    }
}
