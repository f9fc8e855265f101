//! Next hops.

use super::super::spec::{NextHop, NextHopState};
use super::super::{HopState, NextHopRecord};
use super::TablesBuilder;
use crate::id::{NextHopId, PortId};
use sixferry_wire::ether;

impl TablesBuilder {
    /// Adds a next hop. Ids are used again after [`TablesBuilder::remove_next_hop`].
    pub fn add_next_hop(&mut self, hop: NextHop) -> NextHopId {
        let index = self.free_hops.pop().unwrap_or_else(|| {
            self.hops.push(None);
            u32::try_from(self.hops.len() - 1).unwrap_or(u32::MAX)
        });
        let id = NextHopId(index);
        self.set_next_hop(id, hop);
        id
    }

    /// Changes a next hop in place: every route to it follows at once.
    pub fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) {
        let record = NextHopRecord::new(&hop);
        let Some(slot) = self.hops.get_mut(id.index()) else {
            return;
        };
        *slot = Some(hop);
        self.next_hops.reserve(id.index(), NextHopRecord::GONE);
        self.next_hops.set(id.index(), record);
    }

    /// Takes a next hop out. Remove the routes that name it first: its id is used again.
    pub fn remove_next_hop(&mut self, id: NextHopId) {
        if let Some(slot) = self.hops.get_mut(id.index())
            && slot.take().is_some()
        {
            self.next_hops.set(id.index(), NextHopRecord::GONE);
            self.free_hops.push(id.0);
        }
    }

    /// A next hop as it was set.
    #[must_use]
    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.hops.get(id.index())?.as_ref()
    }
}

impl NextHopRecord {
    const GONE: Self = Self {
        state: HopState::Down,
        port: PortId(0),
        mtu: 0,
        tag: None,
        src_mac: [0; 6],
        dst_mac: [0; 6],
    };

    fn new(hop: &NextHop) -> Self {
        let (state, dst_mac) = match hop.state {
            NextHopState::Resolved { dst_mac } => (HopState::Resolved, dst_mac),
            NextHopState::Unresolved { .. } => (HopState::Gateway, [0; 6]),
            NextHopState::OnLink => (HopState::OnLink, [0; 6]),
            NextHopState::Down => (HopState::Down, [0; 6]),
        };
        let tpid = if hop.vlan_service_tag {
            ether::TYPE_8021AD
        } else {
            ether::TYPE_8021Q
        };
        Self {
            state,
            port: hop.port,
            mtu: hop.mtu,
            tag: hop.vlan.map(|vlan| (vlan, tpid)),
            src_mac: hop.src_mac,
            dst_mac,
        }
    }
}
