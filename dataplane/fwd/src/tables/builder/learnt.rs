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
        let slot = self.free_live.take().unwrap_or_else(|| {
            self.generations.push(0);
            u32::try_from(self.generations.len() - 1).unwrap_or(NO_SIDE)
        });
        self.live.reserve(slot);
        (slot, self.renew(slot, None, spec.path_mtu))
    }

    /// Begins a slot anew, with what is still true.
    fn renew(&mut self, slot: u32, endpoint: Option<Endpoint>, path_mtu: Option<u16>) -> u16 {
        let Some(generation) = self.generations.get_mut(slot as usize) else {
            return 0;
        };
        *generation = generation.wrapping_add(1);
        if let Some(live) = self.live.get(slot) {
            live.reset(*generation, endpoint, path_mtu);
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
        let (endpoint_stays, path_stays) = (same_endpoint(old, new), same_path(old, new));
        if endpoint_stays && path_stays {
            return (side, generation);
        }
        let live = self.live.get(side);
        let endpoint = live.and_then(|l| l.endpoint(generation));
        let path_mtu = live.and_then(|l| l.estimate(generation));
        let path_mtu = if path_stays { path_mtu } else { new.path_mtu };
        let endpoint = endpoint.filter(|_| endpoint_stays);
        (side, self.renew(side, endpoint, path_mtu))
    }

    pub(super) fn free_side(&mut self, id: TunnelId) {
        if let Some(record) = self.records.get(id.index())
            && record.side != NO_SIDE
        {
            self.free_live.give(record.side);
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

/// Whether what was learnt of the peer still holds. A change of the policy takes it back, so that an
/// operator can undo a move.
fn same_endpoint(old: &TunnelSpec, new: &TunnelSpec) -> bool {
    let udp = |spec: &TunnelSpec| match spec.encap {
        EncapKind::SixInFour => None,
        EncapKind::Udp(udp) => Some((udp.local_port, udp.remote_port, udp.rebind)),
    };
    (old.local, old.remote) == (new.local, new.remote) && udp(old) == udp(new)
}

/// Whether what was learnt of the path still holds.
fn same_path(old: &TunnelSpec, new: &TunnelSpec) -> bool {
    (old.local, old.remote, old.mtu_mode, old.path_mtu)
        == (new.local, new.remote, new.mtu_mode, new.path_mtu)
}
