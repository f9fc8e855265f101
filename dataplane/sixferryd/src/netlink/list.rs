//! The neighbours as the API lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;

use super::types::{Care, Change, Link, PortSpec, Via};
use crate::live::{NeighbourState, NeighbourView};

/// One entry, as last heard of.
#[derive(Clone, Copy, Debug)]
struct Listed {
    mac: Option<[u8; 6]>,
    nud: NeighbourState,
    managed: bool,
}

/// The kernel's entries and the gateways in use, by interface and address.
#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<(u32, IpAddr), Listed>,
    used: BTreeSet<(u32, IpAddr)>,
}

/// A copy beside the view, so that a listing keeps nobody from forwarding.
#[derive(Debug)]
pub(super) struct NeighbourList {
    state: RwLock<State>,
    most: usize,
}

impl NeighbourList {
    pub(super) fn new(most: usize) -> Self {
        Self {
            state: RwLock::default(),
            most,
        }
    }

    pub(super) fn apply(&self, changes: &[Change]) {
        let mut state = self.state.write();
        for change in changes {
            match change {
                Change::Neighbour(n) => {
                    let key = (n.ifindex, n.addr);
                    if state.entries.len() >= self.most && !state.entries.contains_key(&key) {
                        continue;
                    }
                    let listed = Listed {
                        mac: n.state.mac(),
                        nud: n.nud,
                        managed: n.care == Care::Ours,
                    };
                    state.entries.insert(key, listed);
                }
                Change::NeighbourGone { ifindex, addr } => {
                    state.entries.remove(&(*ifindex, *addr));
                }
                // The kernel flushes its entries; whether it says so depends on its version.
                Change::LinkGone(ifindex) => {
                    state.entries.retain(|(of, _), _| of != ifindex);
                }
                _ => {}
            }
        }
    }

    /// A dump of all entries begins. The view forgets at its end what it did not mention, but has
    /// only those that resolved.
    pub(super) fn begin_dump(&self) {
        let mut state = self.state.write();
        state.entries.retain(|_, listed| listed.mac.is_some());
    }

    pub(super) fn forget(&self, key: (u32, IpAddr)) {
        self.state.write().entries.remove(&key);
    }

    pub(super) fn gateways(&self, changed: &[(Via, bool)]) {
        if changed.is_empty() {
            return;
        }
        let mut state = self.state.write();
        for (via, used) in changed {
            let Some(gateway) = via.gateway else { continue };
            if *used {
                state.used.insert((via.ifindex, gateway));
            } else {
                state.used.remove(&(via.ifindex, gateway));
            }
        }
    }

    /// Those on the links of `ports`, by interface and address.
    pub(super) fn view(&self, ports: &[PortSpec], links: &[Link]) -> Vec<NeighbourView> {
        let port = |name: &str| ports.iter().find(|port| port.name == name);
        let mut on: BTreeMap<u32, (Arc<str>, u16)> = BTreeMap::new();
        for link in links {
            let below = link.vlan.map(|vlan| (vlan.parent, vlan.vid));
            let (below, vid) = match below {
                None => (Some(link), 0),
                Some((parent, vid)) => (links.iter().find(|l| l.ifindex == parent), vid),
            };
            if let Some(port) = below.and_then(|link| port(&link.name)) {
                on.insert(link.ifindex, (port.name.as_str().into(), vid));
            }
        }
        let state = self.state.read();
        let entries = state.entries.iter().filter_map(|(key, listed)| {
            let (port, vlan) = on.get(&key.0)?;
            Some(NeighbourView {
                address: key.1,
                mac: listed.mac,
                port: Arc::clone(port),
                vlan: *vlan,
                state: listed.nud,
                managed: listed.managed,
                used_by_next_hop: state.used.contains(key),
            })
        });
        entries.collect()
    }
}
