//! The control state between threads: one lock, never held while waiting, and coalesced publishing.
//!
//! A change becomes visible to packets when the tables are published. Many changes within a few
//! milliseconds make one publication; who must not answer before it happened waits with
//! [`Shared::visible`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use sixferry_engine::PUBLISH_INTERVAL;
use sixferry_fwd::{Ipv6Prefix, PortId, Tables, TablesBuilder};
use tokio::sync::watch;

use super::Control;

/// What the steering programs must know of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steered {
    /// Covers every tunnel's prefixes.
    pub(crate) covering: Vec<Ipv6Prefix>,
    /// Local addresses of 6in4 tunnels and of domains.
    pub(crate) proto41: BTreeSet<Ipv4Addr>,
    /// Local addresses and ports of UDP tunnels.
    pub(crate) udp: BTreeSet<(Ipv4Addr, u16)>,
}

/// A neighbour that API routes need: port, VLAN, address.
pub(crate) type Gateway = (PortId, Option<u16>, IpAddr);

/// What changed besides the tables themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News<'a> {
    pub(crate) steered: Option<&'a Steered>,
    /// Every gateway of the API's routes.
    pub(crate) gateways: Option<&'a [Gateway]>,
}

/// Where finished tables go.
pub(crate) trait Publish: Send + Sync {
    /// Hands the tables to the workers and the news to whom they concern. Returns when all of
    /// them use it.
    fn publish(&self, tables: Arc<Tables>, news: News<'_>);
}

/// Why the publishing thread is awake.
#[derive(Debug, Default)]
struct Wake {
    changed: bool,
    stop: bool,
}

/// See the module.
pub(crate) struct Shared {
    control: Mutex<Control>,
    instance: Arc<str>,
    wake: Mutex<Wake>,
    woken: Condvar,
    /// Number of the last change the workers see.
    published: watch::Sender<u64>,
    /// Revision of the tunnel table the workers see.
    revision: watch::Sender<u64>,
    steered: Mutex<Announced>,
}

/// What the steering programs know.
#[derive(Debug, Default)]
struct Announced {
    steered: Steered,
    /// Of the UDP endpoints: there may be tens of thousands, and publications every few
    /// milliseconds, of which hardly one changes them.
    udp: u64,
}

impl Announced {
    /// Takes note of what the tables need; whether that is something new.
    fn follow(&mut self, builder: &mut TablesBuilder) -> bool {
        let covering = builder.take_covering_changed();
        if covering {
            self.steered.covering = builder.covering();
        }
        let udp = fingerprint(builder.udp_endpoints());
        let moved = std::mem::replace(&mut self.udp, udp) != udp;
        if moved {
            self.steered.udp = builder.udp_endpoints().collect();
        }
        let proto41: BTreeSet<Ipv4Addr> = builder.proto41_v4().collect();
        let other = self.steered.proto41 != proto41;
        self.steered.proto41 = proto41;
        covering || moved || other
    }
}

/// Tells two sets of endpoints apart, whatever order they come in.
fn fingerprint(endpoints: impl Iterator<Item = (Ipv4Addr, u16)>) -> u64 {
    let mix = |(address, port): (Ipv4Addr, u16)| {
        let key = u64::from(u32::from(address)) << 16 | u64::from(port);
        let mixed = (key ^ key >> 23).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1
    };
    endpoints.map(mix).fold(0, u64::wrapping_add)
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(control: Control, instance: Arc<str>) -> Self {
        Self {
            control: Mutex::new(control),
            instance,
            wake: Mutex::default(),
            woken: Condvar::new(),
            published: watch::Sender::new(0),
            revision: watch::Sender::new(0),
            steered: Mutex::default(),
        }
    }

    /// Random per start of the daemon.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// A bounded piece of work under the lock. Changes are published soon after.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Control) -> R) -> R {
        let (result, changed) = {
            let mut control = self.control.lock();
            let before = control.change();
            let result = work(&mut control);
            (result, control.change() != before)
        };
        if changed {
            self.wake.lock().changed = true;
            self.woken.notify_one();
        }
        result
    }

    /// Waits until the workers see change number `change`.
    pub(crate) async fn visible(&self, change: u64) {
        let mut published = self.published.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        let _seen = published.wait_for(|done| *done >= change).await;
    }

    /// Number of the last change that the workers see.
    pub(crate) fn last_visible(&self) -> u64 {
        *self.published.borrow()
    }

    /// Revisions as they become visible.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Publishes the tables as they are now.
    pub(crate) fn publish(&self, target: &dyn Publish) {
        let mut announced = self.steered.lock();
        let (tables, change, revision, gateways, changed) = {
            let mut control = self.control.lock();
            let changed = announced.follow(&mut control.builder);
            let tables = control.builder.snapshot();
            let gateways = control.take_gateways();
            let (change, revision) = (control.change(), control.revision());
            (tables, change, revision, gateways, changed)
        };
        let news = News {
            steered: changed.then_some(&announced.steered),
            gateways: gateways.as_deref(),
        };
        target.publish(tables, news);
        drop(announced);
        self.published.send_replace(change);
        self.revision.send_replace(revision);
    }

    /// The publishing thread: publishes whenever there is something new, until stopped.
    pub(crate) fn publish_changes(&self, target: &dyn Publish) {
        loop {
            {
                let mut wake = self.wake.lock();
                self.woken
                    .wait_while(&mut wake, |wake| !wake.changed && !wake.stop);
                if wake.stop {
                    return;
                }
                wake.changed = false;
            }
            self.publish(target);
            std::thread::sleep(PUBLISH_INTERVAL);
        }
    }

    /// Ends [`Shared::publish_changes`].
    pub(crate) fn stop_publishing(&self) {
        self.wake.lock().stop = true;
        self.woken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_told_apart_in_any_order() {
        let at = |last: u8, port| (Ipv4Addr::new(192, 0, 2, last), port);
        let print = |list: &[_]| fingerprint(list.iter().copied());
        let all: Vec<_> = (1..=4)
            .flat_map(|last| (4000..4100).map(move |port| at(last, port)))
            .collect();
        let mut shuffled = all.clone();
        shuffled.reverse();
        assert_eq!(print(&all), print(&shuffled));
        let mut seen = std::collections::HashSet::from([print(&all), print(&[])]);
        for i in 0..all.len() {
            let mut moved = all.clone();
            moved[i].1 += 1000;
            assert!(seen.insert(print(&moved)));
            moved.swap_remove(i);
            assert!(seen.insert(print(&moved)));
        }
    }
}
