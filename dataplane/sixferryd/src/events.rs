//! What the dataplane noticed, to whoever watches and, sparingly, to the log.
//!
//! Everything that can lag is bounded: the ring from the workers, each watcher's queue (a slow one
//! is told how many it missed) and the log, which gets at most one line a second per kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use sixferry_engine::Noted;
use sixferry_fwd::{EncapKind, Event, TunnelId, TunnelSpec};
use tokio::sync::broadcast;

use crate::control::Control;
use crate::live::{EVENT_QUEUE, Endpoint, EventCounts, LifeState, Notice, What};

/// Least time between two log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Kinds of notices, as [`kind`] numbers them.
const KINDS: usize = 7;

/// Lets one line through per interval and counts the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogPace {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogPace {
    /// Whether to log now, and then how many lines were left out since the last one.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < LOG_INTERVAL)
        {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Where notices go.
#[derive(Debug)]
pub(crate) struct EventBus {
    watchers: broadcast::Sender<Arc<Notice>>,
    counts: [AtomicU64; KINDS],
    lost: AtomicU64,
    log: Mutex<[LogPace; KINDS]>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            watchers: broadcast::Sender::new(EVENT_QUEUE),
            counts: std::array::from_fn(|_| AtomicU64::default()),
            lost: AtomicU64::default(),
            log: Mutex::default(),
        }
    }
}

impl EventBus {
    /// Notices from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.watchers.subscribe()
    }

    /// Tells everybody. Never waits.
    pub(crate) fn publish(&self, owner: Option<Arc<str>>, what: What) {
        let kind = kind(&what);
        if let Some(count) = self.counts.get(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let allowed = self
            .log
            .lock()
            .get_mut(kind)
            .and_then(|pace| pace.allow(Instant::now()));
        if let Some(suppressed) = allowed {
            log(&what, suppressed);
        }
        let notice = Notice {
            at: SystemTime::now(),
            owner,
            what,
        };
        // An error means that nobody watches.
        let _watchers = self.watchers.send(Arc::new(notice));
    }

    /// The workers' ring has lost this many in all.
    pub(crate) fn set_lost(&self, lost: u64) {
        let before = self.lost.swap(lost, Ordering::Relaxed);
        if lost > before {
            self.publish(None, What::Lost(lost - before));
        }
    }

    /// How many there were of each kind.
    pub(crate) fn counts(&self) -> EventCounts {
        let [mismatches, changes, _, path_mtu, errors, _, _] =
            std::array::from_fn(|i| self.counts[i].load(Ordering::Relaxed));
        EventCounts {
            endpoint_mismatches: mismatches,
            endpoint_changes: changes,
            path_mtu_changes: path_mtu,
            outer_errors: errors,
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

const fn kind(what: &What) -> usize {
    match what {
        What::EndpointMismatch { .. } => 0,
        What::EndpointChanged { .. } => 1,
        What::Liveness { .. } => 2,
        What::PathMtu { .. } => 3,
        What::OuterError { .. } => 4,
        What::Port { .. } => 5,
        What::Lost(_) => 6,
    }
}

fn log(what: &What, suppressed: u64) {
    match what {
        What::EndpointMismatch { tunnel, seen, .. } => {
            let (address, port) = seen;
            tracing::info!(%tunnel, %address, port, suppressed, "peer seen at another endpoint");
        }
        What::EndpointChanged { tunnel, to, .. } => {
            let (address, port) = to;
            tracing::info!(%tunnel, %address, port, suppressed, "peer moved");
        }
        What::Liveness { tunnel, to, .. } => {
            tracing::info!(%tunnel, state = ?to, suppressed, "peer's liveness changed");
        }
        What::PathMtu {
            tunnel, path_mtu, ..
        } => {
            tracing::info!(%tunnel, path_mtu, suppressed, "path MTU changed");
        }
        What::OuterError {
            tunnel,
            icmp_type,
            icmp_code,
        } => {
            tracing::info!(%tunnel, icmp_type, icmp_code, suppressed, "ICMPv4 error about a tunnel");
        }
        What::Port { port, up } => tracing::info!(%port, up, suppressed, "port changed"),
        What::Lost(lost) => tracing::warn!(lost, suppressed, "events were lost"),
    }
}

/// An event of the packet path in words: with names instead of numbers, and what else is known
/// about the tunnel. `None` when the tunnel is gone.
pub(crate) fn notice(control: &Control, noted: &Noted) -> Option<(Arc<str>, What)> {
    let id = noted.event.tunnel();
    let (tunnel, owner) = control.named(id)?;
    let spec = control.builder().tunnel(id);
    let what = match noted.event {
        Event::EndpointMismatch { seen, .. } => What::EndpointMismatch {
            tunnel,
            local: local(spec.as_ref()?),
            seen,
            current: control.builder().endpoint(id),
        },
        Event::EndpointChanged { from, to, .. } => What::EndpointChanged {
            tunnel,
            from: (from.1 != 0).then_some(from),
            to,
        },
        Event::PathMtu { mtu, .. } => What::PathMtu {
            tunnel,
            path_mtu: mtu,
            mtu: inner_mtu(spec.as_ref()?, mtu),
        },
        Event::OuterError { kind, code, .. } => What::OuterError {
            tunnel,
            icmp_type: kind,
            icmp_code: code,
        },
    };
    Some((owner, what))
}

fn local(spec: &TunnelSpec) -> Endpoint {
    match spec.encap {
        EncapKind::SixInFour => (spec.local, 0),
        EncapKind::Udp(udp) => (spec.local, udp.local_port),
    }
}

/// What a path of that MTU leaves for the inner packet, never less than IPv6's minimum
/// (RFC 4213 section 3.2.2).
fn inner_mtu(spec: &TunnelSpec, path_mtu: u16) -> u16 {
    let header = match spec.encap {
        EncapKind::SixInFour => 20,
        EncapKind::Udp(_) => 28,
    };
    path_mtu.saturating_sub(header).max(1280).min(spec.mtu)
}

/// A tunnel's new state in words. `None` when the tunnel is gone.
pub(crate) fn life(
    control: &Control,
    tunnel: TunnelId,
    from: LifeState,
    to: LifeState,
) -> Option<(Arc<str>, What)> {
    let (tunnel, owner) = control.named(tunnel)?;
    Some((owner, What::Liveness { tunnel, from, to }))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    #[test]
    fn one_line_a_second_per_kind() {
        let (mut pace, start) = (LogPace::default(), Instant::now());
        let lines: Vec<u64> = (0..5000)
            .filter_map(|ms| pace.allow(start + Duration::from_millis(ms)))
            .collect();
        assert_eq!(lines, [0, 999, 999, 999, 999]);
    }

    #[test]
    fn a_slow_watcher_learns_how_many_it_missed() {
        let bus = EventBus::default();
        let mut watcher = bus.subscribe();
        let total = EVENT_QUEUE + 7;
        for _ in 0..total {
            let what = What::Port {
                port: "eth0".into(),
                up: true,
            };
            bus.publish(None, what);
        }
        assert!(matches!(watcher.try_recv(), Err(TryRecvError::Lagged(7))));
        let mut left = 0;
        while watcher.try_recv().is_ok() {
            left += 1;
        }
        assert_eq!(left, EVENT_QUEUE);
    }

    #[test]
    fn losses_are_told_once() {
        let bus = EventBus::default();
        let mut watcher = bus.subscribe();
        for lost in [0, 3, 3, 5] {
            bus.set_lost(lost);
        }
        let mut told = Vec::new();
        while let Ok(notice) = watcher.try_recv() {
            told.extend(match notice.what {
                What::Lost(n) => Some(n),
                _ => None,
            });
        }
        assert_eq!((told, bus.counts().lost), (vec![3, 2], 5));
    }

    #[test]
    fn the_inner_mtu_follows_the_path_within_its_bounds() {
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let mut spec = TunnelSpec::new(address, address);
        spec.mtu = 1480;
        let of = |mtu| inner_mtu(&spec, mtu);
        assert_eq!(
            [of(1400), of(1290), of(68), of(9000)],
            [1380, 1280, 1280, 1480]
        );
    }
}
