//! A tunnel as the packet path reads it: one cache line, and one line of counters a worker.

use super::cow::CHUNK;
use super::spec::{Dscp, Ecn, MtuMode, Ttl, TunnelSpec};
use crate::drop_reason::DropReason;
use sixferry_wire::ipv4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// In use and administratively up.
pub(crate) const UP: u16 = 1;
/// Inner sources must lie in the tunnel's prefixes.
pub(crate) const STRICT: u16 = 1 << 1;
/// Some route lies inside the record's prefix: only the FIB knows whose a source is.
pub(crate) const NESTED: u16 = 1 << 2;
/// DF is set (managed MTU).
pub(crate) const DF: u16 = 1 << 3;
/// Outer ECN is Not-ECT.
pub(crate) const ECN_COMPAT: u16 = 1 << 4;
/// Outer DSCP copies the inner.
pub(crate) const DSCP_COPY: u16 = 1 << 5;
/// Outer TTL copies the inner hop limit.
pub(crate) const TTL_INHERIT: u16 = 1 << 6;
/// The outer DSCP replaces the inner one at the exit.
pub(crate) const DSCP_DECAP_COPY: u16 = 1 << 7;
/// The slot holds a tunnel.
pub(crate) const IN_USE: u16 = 1 << 8;
/// The tunnel has more prefixes than the record's: the FIB knows them.
pub(crate) const MORE: u16 = 1 << 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub(crate) struct TunnelRecord {
    /// First prefix, for the source check.
    pub(crate) prefix: u128,
    pub(crate) prefix_mask: u128,
    /// Sum of the outer header's constant words.
    pub(crate) template_sum: u32,
    pub(crate) local: [u8; 4],
    pub(crate) remote: [u8; 4],
    pub(crate) mtu: u16,
    pub(crate) flags: u16,
    /// Fixed TTL.
    pub(crate) ttl: u8,
    /// Fixed DSCP, shifted into place.
    pub(crate) tos: u8,
}

impl TunnelRecord {
    pub(crate) const FREE: Self = Self {
        prefix: 0,
        prefix_mask: 0,
        template_sum: 0,
        local: [0; 4],
        remote: [0; 4],
        mtu: 0,
        flags: 0,
        ttl: 0,
        tos: 0,
    };

    /// The record of a tunnel; `nested` when a route lies inside its first prefix.
    pub(crate) fn new(spec: &TunnelSpec, nested: bool) -> Self {
        let (local, remote) = (spec.local.octets(), spec.remote.octets());
        let mut flags = IN_USE;
        let mut set = |bit, on: bool| flags |= if on { bit } else { 0 };
        set(UP, spec.up);
        set(STRICT, spec.strict_source);
        set(NESTED, nested);
        set(MORE, spec.prefixes.len() > 1 || spec.link.is_some());
        set(DF, spec.mtu_mode == MtuMode::Managed);
        set(ECN_COMPAT, spec.ecn == Ecn::Compat);
        set(DSCP_COPY, spec.dscp == Dscp::Copy);
        set(TTL_INHERIT, spec.ttl == Ttl::Inherit);
        set(DSCP_DECAP_COPY, spec.dscp_decap_copy);
        let (prefix, prefix_mask) = match spec.prefixes.first() {
            Some(p) => (p.bits(), mask_of(p.len())),
            // no prefix: nothing matches, the FIB (link prefix) decides
            None => (1, 0),
        };
        let sum = ipv4::Repr::template_sum(ipv4::PROTO_IPV6, local, remote);
        Self {
            prefix,
            prefix_mask,
            template_sum: u32::try_from(sum).unwrap_or(u32::MAX),
            local,
            remote,
            mtu: spec.mtu,
            flags,
            ttl: match spec.ttl {
                Ttl::Fixed(ttl) => ttl,
                Ttl::Inherit => 0,
            },
            tos: match spec.dscp {
                Dscp::Fixed(dscp) => dscp << 2,
                Dscp::Copy => 0,
            },
        }
    }

    #[inline]
    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether `source` lies in the record's prefix.
    #[inline]
    pub(crate) const fn owns(&self, source: u128) -> bool {
        source & self.prefix_mask == self.prefix
    }
}

const fn mask_of(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - len)
    }
}

/// Drop reasons counted per tunnel, in the order of [`TunnelCounters::drops`].
pub(crate) const TUNNEL_DROPS: [DropReason; 7] = [
    DropReason::TunnelDown,
    DropReason::Rh0,
    DropReason::InnerSrcSpoof,
    DropReason::LoopSameTunnel,
    DropReason::EcnCeOnNotEct,
    DropReason::NdInvalid,
    DropReason::UdpRemoteMismatch,
];

/// One worker's counters of one tunnel. A line of its own: no two workers write the same one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct TunnelCounters {
    pub(crate) in_packets: AtomicU64,
    pub(crate) in_bytes: AtomicU64,
    pub(crate) out_packets: AtomicU64,
    pub(crate) out_bytes: AtomicU64,
    pub(crate) drops: [AtomicU32; 7],
    pub(crate) ecn_unusual: AtomicU32,
}

/// Adds without a locked instruction: there is one writer.
#[inline]
pub(crate) fn add64(counter: &AtomicU64, n: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(n),
        Ordering::Relaxed,
    );
}

/// As [`add64`]; stays at the top rather than begin again.
#[inline]
pub(crate) fn add32(counter: &AtomicU32) {
    counter.store(
        counter.load(Ordering::Relaxed).saturating_add(1),
        Ordering::Relaxed,
    );
}

impl TunnelCounters {
    #[inline]
    pub(crate) fn decapsulated(&self, len: usize) {
        add64(&self.in_packets, 1);
        add64(&self.in_bytes, len as u64);
    }

    #[inline]
    pub(crate) fn encapsulated(&self, len: usize) {
        add64(&self.out_packets, 1);
        add64(&self.out_bytes, len as u64);
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        let at = TUNNEL_DROPS.iter().position(|r| *r == reason);
        if let Some(counter) = at.and_then(|i| self.drops.get(i)) {
            add32(counter);
        }
    }
}

/// One worker's counters of all tunnels. Grows by chunks that stay where they are.
#[derive(Clone, Debug)]
pub(crate) struct CounterTable {
    chunks: Arc<Vec<Arc<[TunnelCounters]>>>,
}

impl CounterTable {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn get(&self, tunnel: usize) -> Option<&TunnelCounters> {
        self.chunks.get(tunnel / CHUNK)?.get(tunnel % CHUNK)
    }

    #[inline]
    pub(crate) fn prefetch(&self, tunnel: usize) {
        if let Some(chunk) = self.chunks.get(tunnel / CHUNK) {
            prefetch_index::prefetch_index(chunk, tunnel % CHUNK);
        }
    }

    pub(crate) fn reserve(&mut self, tunnel: usize) {
        while self.chunks.len() * CHUNK <= tunnel {
            let chunk = (0..CHUNK).map(|_| TunnelCounters::default()).collect();
            Arc::make_mut(&mut self.chunks).push(chunk);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<TunnelCounters>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn lines() {
        assert_eq!(size_of::<TunnelRecord>(), 64);
        assert_eq!(size_of::<TunnelCounters>(), 64);
        assert!(TUNNEL_DROPS.iter().all(|r| r.per_tunnel()));
        assert_eq!(
            DropReason::ALL.iter().filter(|r| r.per_tunnel()).count(),
            TUNNEL_DROPS.len()
        );
    }

    #[test]
    fn a_tunnel_without_prefix_owns_nothing() {
        let spec = TunnelSpec::new(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let record = TunnelRecord::new(&spec, true);
        assert!(!record.owns(0) && !record.owns(1) && !record.owns(u128::MAX));
    }
}
