//! Reading: pages, lookups, watches and samples, each a bounded piece of work.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sixferry_fwd::{EncapKind, Ipv6Prefix, RouteView, TunnelId, TunnelSpec, TunnelTotals};

use super::Control;
use super::liveness::Liveness;
use super::session::{Holdings, OwnerId};
use super::store::Record;
use super::watch::Change;

/// Slots looked at while a reader holds the lock once.
pub(crate) const SCAN_SLOTS: u32 = 8192;

/// A tunnel as a message shows it.
#[derive(Clone, Debug)]
pub(crate) struct TunnelView {
    pub(crate) tunnel: TunnelId,
    pub(crate) id: String,
    pub(crate) owner: Arc<str>,
    pub(crate) spec: TunnelSpec,
    pub(crate) liveness: Liveness,
    /// Where the peer is now; `None` while that is not known.
    pub(crate) endpoint: Option<(Ipv4Addr, u16)>,
    /// What is known of the path of a tunnel with dynamic MTU.
    pub(crate) path_mtu: Option<u16>,
    /// Errors from the IPv4 network, where they are counted.
    pub(crate) outer_errors: Option<u64>,
    /// Only when asked for.
    pub(crate) totals: Option<TunnelTotals>,
    pub(crate) generation: u32,
    pub(crate) stale: bool,
    pub(crate) revision: u64,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub(crate) enum WatchItem {
    Upserted {
        revision: u64,
        tunnel: Box<TunnelView>,
    },
    Removed {
        revision: u64,
        id: String,
        owner: Arc<str>,
    },
}

/// One tunnel's traffic, for ranking. 40 bytes, so that a million fit in 40 MB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) in_packets: u64,
    pub(crate) in_bytes: u64,
    pub(crate) out_packets: u64,
    pub(crate) out_bytes: u64,
    pub(crate) drops: u64,
}

impl From<&TunnelTotals> for Sample {
    fn from(totals: &TunnelTotals) -> Self {
        Self {
            in_packets: totals.in_packets,
            in_bytes: totals.in_bytes,
            out_packets: totals.out_packets,
            out_bytes: totals.out_bytes,
            drops: totals.drops.iter().map(|(_, count)| count).sum(),
        }
    }
}

impl Control {
    /// Tunnels in the table.
    pub(crate) fn tunnel_count(&self) -> usize {
        self.store.len()
    }

    /// The owner of that name, if it was ever seen.
    pub(crate) fn find_owner(&self, name: &str) -> Option<OwnerId> {
        self.owners.find(name)
    }

    /// What every owner has.
    pub(crate) fn owner_counts(&self) -> Vec<(Arc<str>, Holdings)> {
        (0..)
            .map_while(|i| self.owners.get(OwnerId(i)))
            .map(|o| (Arc::clone(&o.name), o.holdings()))
            .collect()
    }

    /// The tunnel of that id.
    pub(crate) fn tunnel(&self, id: &str, with_totals: bool) -> Option<TunnelView> {
        self.view(self.store.find(id)?, with_totals)
    }

    fn view(&self, tunnel: TunnelId, with_totals: bool) -> Option<TunnelView> {
        self.view_of(tunnel, self.store.get(tunnel)?, with_totals)
    }

    fn view_of(&self, tunnel: TunnelId, record: &Record, totals: bool) -> Option<TunnelView> {
        let owner = self.owners.get(record.owner)?;
        let spec = self.builder.tunnel(tunnel)?;
        let endpoint = match spec.encap {
            EncapKind::SixInFour => Some((spec.remote, 0)),
            EncapKind::Udp(_) => self.builder.endpoint(tunnel),
        };
        Some(TunnelView {
            tunnel,
            id: record.id.to_string(),
            owner: Arc::clone(&owner.name),
            spec,
            liveness: record.liveness,
            endpoint,
            path_mtu: self.builder.path_mtu(tunnel),
            outer_errors: self.builder.outer_errors(tunnel),
            totals: if totals { self.totals(tunnel) } else { None },
            generation: record.generation,
            stale: owner.is_stale(record.generation),
            revision: record.revision,
        })
    }

    /// A tunnel's traffic since it was created.
    pub(crate) fn totals(&self, tunnel: TunnelId) -> Option<TunnelTotals> {
        let mut totals = self.builder.tunnel_counters(tunnel)?;
        if let Some(before) = self.carried.get(&tunnel.0) {
            totals.in_packets += before.in_packets;
            totals.in_bytes += before.in_bytes;
            totals.out_packets += before.out_packets;
            totals.out_bytes += before.out_bytes;
            totals.ecn_unusual += before.ecn_unusual;
            for (reason, count) in &before.drops {
                match totals.drops.iter_mut().find(|(r, _)| r == reason) {
                    Some((_, sum)) => *sum += count,
                    None => totals.drops.push((*reason, *count)),
                }
            }
        }
        Some(totals)
    }

    /// Up to `most` tunnels from slot `from` on, and where to go on.
    pub(crate) fn list_tunnels(
        &self,
        from: u32,
        most: usize,
        owner: Option<OwnerId>,
        with_totals: bool,
    ) -> (Vec<TunnelView>, Option<u32>) {
        let mut views = Vec::new();
        let mut next = from.saturating_add(SCAN_SLOTS);
        for (tunnel, record) in self.store.range(from, SCAN_SLOTS) {
            if owner.is_some_and(|owner| owner != record.owner) {
                continue;
            }
            if views.len() == most {
                next = tunnel.0;
                break;
            }
            views.extend(self.view_of(tunnel, record, with_totals));
        }
        (views, (next < self.store.slots()).then_some(next))
    }

    /// The tunnel that decapsulates packets of these outer addresses.
    pub(crate) fn tunnel_by_outer(&self, local: Ipv4Addr, remote: Ipv4Addr) -> Option<TunnelView> {
        self.view(self.builder.tunnel_by_outer(local, remote)?, true)
    }

    /// The UDP tunnel that decapsulates packets of these endpoints.
    pub(crate) fn tunnel_by_port(
        &self,
        local: (Ipv4Addr, u16),
        remote: (Ipv4Addr, u16),
    ) -> Option<TunnelView> {
        self.view(self.builder.tunnel_by_port(local, Some(remote))?, true)
    }

    /// The tunnel that packets to this address go into, and by which prefix.
    pub(crate) fn tunnel_by_inner(&self, address: Ipv6Addr) -> Option<(TunnelView, Ipv6Prefix)> {
        let (prefix, view) = self.builder.lookup6(address)?;
        match view {
            RouteView::Tunnel(id) | RouteView::TunnelLink(id) | RouteView::TunnelAddress(id) => {
                Some((self.view(id, true)?, prefix))
            }
            RouteView::Route(_) | RouteView::Domain(_) => None,
        }
    }

    /// Id and owner of a tunnel or domain.
    pub(crate) fn named(&self, tunnel: TunnelId) -> Option<(Arc<str>, Arc<str>)> {
        let Some(record) = self.store.get(tunnel) else {
            return self.domain_named(tunnel);
        };
        Some(((&*record.id).into(), self.owners.name(record.owner)))
    }

    /// Id of a tunnel.
    pub(crate) fn tunnel_name(&self, tunnel: TunnelId) -> Option<&str> {
        self.store.get(tunnel).map(|record| &*record.id)
    }

    /// Up to `most` changes after `revision`, and the revision they lead to; `None` when the log
    /// does not reach back that far.
    pub(crate) fn changes_since(
        &self,
        revision: u64,
        most: usize,
        owner: Option<&str>,
    ) -> Option<(Vec<WatchItem>, u64)> {
        let mut items = Vec::new();
        let mut reached = revision;
        for (revision, change) in self.log.since(revision)?.take(most) {
            reached = revision;
            match change {
                Change::Upserted(tunnel) => {
                    // A newer record (or none) means that a later entry tells the story.
                    let record = self.store.get(*tunnel).filter(|r| r.revision == revision);
                    let view = record.and_then(|r| self.view_of(*tunnel, r, false));
                    let wanted = |v: &TunnelView| owner.is_none_or(|owner| *v.owner == *owner);
                    if let Some(view) = view.filter(wanted) {
                        items.push(WatchItem::Upserted {
                            revision,
                            tunnel: Box::new(view),
                        });
                    }
                }
                Change::Removed { id, owner: whose } => {
                    if owner.is_none_or(|owner| **whose == *owner) {
                        let (id, owner) = (id.to_string(), Arc::clone(whose));
                        items.push(WatchItem::Removed {
                            revision,
                            id,
                            owner,
                        });
                    }
                }
            }
        }
        Some((items, reached))
    }

    /// Slots of the tunnel table, in use or not.
    pub(crate) fn slots(&self) -> u32 {
        self.store.slots()
    }

    /// Traffic of the tunnels in some slots.
    pub(crate) fn sample(&self, from: u32, count: u32) -> Vec<(TunnelId, Sample)> {
        self.store
            .range(from, count)
            .filter_map(|(tunnel, _)| Some((tunnel, Sample::from(&self.totals(tunnel)?))))
            .collect()
    }

    /// A tunnel's view by slot, with traffic.
    pub(crate) fn tunnel_at(&self, tunnel: TunnelId) -> Option<TunnelView> {
        self.view(tunnel, true)
    }
}
