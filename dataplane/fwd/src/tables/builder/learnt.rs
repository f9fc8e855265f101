//! Learnt state: its slots, and reading it.

use super::super::live::Endpoint;
use super::super::record::{self, NO_SIDE, TunnelRecord};
use super::super::spec::{EncapKind, MtuMode, TunnelSpec};
use super::TablesBuilder;
use crate::id::TunnelId;
use std::net::Ipv4Addr;

impl TablesBuilder {
    /// A slot for a tunnel that learns, with its generation.
    pub(super) fn new_side(&mut self, spec: &TunnelSpec) -> (u32, u16) {
        if !learns(spec) {
            return (NO_SIDE, 0);
        }
        let slot = self.free_live.pop().unwrap_or_else(|| {
            self.generations.push(0);
            u32::try_from(self.generations.len() - 1).unwrap_or(NO_SIDE)
        });
        self.live.reserve(slot);
        (slot, self.renew(slot, spec))
    }

    /// Begins a slot anew.
    fn renew(&mut self, slot: u32, spec: &TunnelSpec) -> u16 {
        let Some(generation) = self.generations.get_mut(slot as usize) else {
            return 0;
        };
        *generation = generation.wrapping_add(1);
        if let Some(live) = self.live.get(slot) {
            live.reset(*generation, spec.path_mtu);
        }
        *generation
    }

    /// The slot of a tunnel that changes: what is learnt about a far end stays with that far end.
    pub(super) fn changed_side(
        &mut self,
        id: TunnelId,
        old: &TunnelSpec,
        new: &TunnelSpec,
    ) -> (u32, u16) {
        let Some((side, generation)) = self.records.get(id.index()).map(|r| (r.side, r.generation))
        else {
            return (NO_SIDE, 0);
        };
        if side == NO_SIDE || !learns(new) {
            self.free_side(id);
            return self.new_side(new);
        }
        if same_far_end(old, new) {
            (side, generation)
        } else {
            (side, self.renew(side, new))
        }
    }

    pub(super) fn free_side(&mut self, id: TunnelId) {
        if let Some(record) = self.records.get(id.index())
            && record.side != NO_SIDE
        {
            self.free_live.push(record.side);
        }
    }

    fn learning(&self, id: TunnelId, flag: u16) -> Option<&TunnelRecord> {
        self.records
            .get(id.index())
            .filter(|r| r.has(record::IN_USE) && r.has(flag))
    }

    /// Where the peer of a UDP tunnel is now, learnt or configured; `None` while it is unknown.
    #[must_use]
    pub fn endpoint(&self, id: TunnelId) -> Option<(Ipv4Addr, u16)> {
        let record = self.learning(id, record::UDP)?;
        let learnt = self
            .live
            .get(record.side)
            .and_then(|live| live.endpoint(record.generation));
        let Endpoint { address, port } = learnt.unwrap_or_else(|| record.configured());
        (port != 0).then(|| (Ipv4Addr::from(address), port))
    }

    /// The path MTU of a [`MtuMode::Dynamic`] tunnel, if a router has reported one or it was told.
    #[must_use]
    pub fn path_mtu(&self, id: TunnelId) -> Option<u16> {
        let record = self.learning(id, record::DYNAMIC)?;
        self.live.get(record.side)?.estimate(record.generation)
    }

    /// Accepted ICMPv4 errors about the packets of a tunnel that learns.
    #[must_use]
    pub fn outer_errors(&self, id: TunnelId) -> Option<u64> {
        let record = self.learning(id, record::UDP | record::DYNAMIC)?;
        Some(self.live.get(record.side)?.errors())
    }
}

const fn learns(spec: &TunnelSpec) -> bool {
    matches!(spec.encap, EncapKind::Udp(_)) || matches!(spec.mtu_mode, MtuMode::Dynamic)
}

fn same_far_end(old: &TunnelSpec, new: &TunnelSpec) -> bool {
    let ports = |spec: &TunnelSpec| match spec.encap {
        EncapKind::SixInFour => None,
        EncapKind::Udp(udp) => Some((udp.local_port, udp.remote_port)),
    };
    (old.local, old.remote, old.mtu_mode, old.path_mtu)
        == (new.local, new.remote, new.mtu_mode, new.path_mtu)
        && ports(old) == ports(new)
}
