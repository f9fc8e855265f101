//! What the threads of the slow path ask of the rest of the daemon.

use std::sync::{Arc, OnceLock};

use sixferry_engine::Noted;
use sixferry_fwd::{NextHopId, NextHopState, PortId, PuntInfo, Route, RouteView, TunnelId};

use crate::control::Control;
use crate::control::shared::Shared;
use crate::events::{self, EventBus};
use crate::live::LifeState;
use crate::netlink::Mirror;
use crate::punt::{Egress, Surroundings};
use crate::runtime::Runtime;

/// Tables, kernel and watchers. The mirror comes later than the threads.
pub(crate) struct Neighbourhood {
    shared: Arc<Shared>,
    runtime: Arc<Runtime>,
    bus: Arc<EventBus>,
    mirror: OnceLock<Arc<Mirror>>,
}

impl Neighbourhood {
    pub(crate) fn new(shared: Arc<Shared>, runtime: Arc<Runtime>, bus: Arc<EventBus>) -> Self {
        Self {
            shared,
            runtime,
            bus,
            mirror: OnceLock::new(),
        }
    }

    /// From now on neighbours can be asked for.
    pub(crate) fn set_mirror(&self, mirror: &Arc<Mirror>) {
        // Set once, by who made both: nobody can have been faster.
        let _set = self.mirror.set(Arc::clone(mirror));
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Tells who watches that a tunnel's peer appeared or went silent.
    pub(crate) fn tell_life(&self, tunnel: TunnelId, from: LifeState, to: LifeState) {
        let told = self
            .shared
            .with(|control| events::life(control, tunnel, from, to));
        if let Some((owner, what)) = told {
            self.bus.publish(Some(owner), what);
        }
    }

    /// Has the kernel resolve a neighbour.
    pub(crate) fn resolve(&self, info: &PuntInfo) {
        let (Some(mirror), Some(id), Some(address)) =
            (self.mirror.get(), info.next_hop, info.resolve)
        else {
            return;
        };
        let hop = self
            .shared
            .with(|control| control.builder().next_hop(id).copied());
        if let Some(hop) = hop {
            mirror.resolve_on(hop.port, hop.vlan, address);
        }
    }
}

impl Surroundings for Neighbourhood {
    fn ask(&self, info: &PuntInfo) {
        self.resolve(info);
    }

    fn settled(&self, waiting: &[PuntInfo]) -> (Vec<PuntInfo>, u64) {
        if waiting.is_empty() {
            return (Vec::new(), 0);
        }
        self.shared.with(|control| {
            let settled = waiting.iter().filter(|info| is_settled(control, info));
            (settled.copied().collect(), control.change())
        })
    }

    fn visible(&self) -> u64 {
        self.shared.last_visible()
    }

    fn is_ethernet(&self, port: PortId) -> bool {
        let port = self.runtime.ports.iter().find(|view| view.id == port);
        port.is_none_or(|view| view.link.read().ethernet)
    }

    fn egress(&self, info: &PuntInfo) -> Option<Egress> {
        let port = info.egress?;
        let view = self.runtime.ports.iter().find(|view| view.id == port)?;
        let link = view.link.read();
        let hop = info.next_hop.and_then(|id| {
            self.shared
                .with(|control| control.builder().next_hop(id).map(|hop| hop.mtu))
        });
        let link_mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        Some(Egress {
            port,
            ethernet: link.ethernet,
            mtu: hop.map_or(link_mtu, |mtu| mtu.min(link_mtu)),
        })
    }

    fn noted(&self, noted: &[Noted], lost: u64) {
        // Told after the tables are let go: watchers may ask them.
        let told: Vec<_> = self.shared.with(|control| {
            noted
                .iter()
                .filter_map(|one| events::notice(control, one))
                .collect()
        });
        for (owner, what) in told {
            self.bus.publish(Some(owner), what);
        }
        self.bus.set_lost(lost);
    }
}

fn is_settled(control: &Control, info: &PuntInfo) -> bool {
    let resolved = |id: NextHopId| {
        let hop = control.builder().next_hop(id);
        hop.is_some_and(|hop| matches!(hop.state, NextHopState::Resolved { .. }))
    };
    let through = info.resolve.and_then(|address| control.lookup(address));
    let direct = match through {
        Some((prefix, RouteView::Route(Route::NextHop(id)))) => prefix.is_host() && resolved(id),
        _ => false,
    };
    direct || info.next_hop.is_some_and(resolved)
}
