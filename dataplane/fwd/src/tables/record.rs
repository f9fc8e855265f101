//! A tunnel as the packet path reads it: one cache line, and one line of counters a worker.

use super::cow::{CHUNK, Chunk, Chunks};
use super::domain::DomainSpec;
use super::live::Endpoint;
use super::spec::{Dscp, Ecn, EncapKind, MtuMode, Rebind, Ttl, TunnelSpec};
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
/// IPv6 in UDP.
pub(crate) const UDP: u16 = 1 << 10;
/// The path MTU is learnt.
pub(crate) const DYNAMIC: u16 = 1 << 11;
/// A 6to4 or 6rd domain: `side` is its place in the list of domains.
pub(crate) const DOMAIN: u16 = 1 << 12;
/// TCP SYNs get a smaller MSS.
pub(crate) const MSS_CLAMP: u16 = 1 << 13;
/// A packet from elsewhere with the right inner source is announced.
pub(crate) const REBIND_CONTROL: u16 = 1 << 14;
/// A packet from elsewhere with the right inner source moves the peer; with both bits, only if it
/// comes from the configured address.
pub(crate) const REBIND_INNER: u16 = 1 << 15;

/// Prefix and mask of a tunnel without one: nothing matches.
const NO_PREFIX: (u128, u128) = (1, 0);

/// No learnt state.
pub(crate) const NO_SIDE: u32 = u32::MAX;

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
    /// Place of the learnt state, or of the domain.
    pub(crate) side: u32,
    /// Which of the tunnels that had this `side` one after the other.
    pub(crate) generation: u16,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) min_path_mtu: u16,
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
        side: NO_SIDE,
        generation: 0,
        local_port: 0,
        remote_port: 0,
        min_path_mtu: 0,
    };

    /// The record of a tunnel; `nested` when a route lies inside its first prefix.
    pub(crate) fn new(spec: &TunnelSpec, nested: bool, side: u32, generation: u16) -> Self {
        let (local, remote) = (spec.local.octets(), spec.remote.octets());
        let mut flags = IN_USE;
        let mut set = |bit, on: bool| flags |= if on { bit } else { 0 };
        set(UP, spec.up);
        set(STRICT, spec.strict_source);
        set(NESTED, nested);
        set(MORE, spec.prefixes.len() > 1 || spec.link.is_some());
        set(DF, spec.mtu_mode == MtuMode::Managed);
        set(DYNAMIC, spec.mtu_mode == MtuMode::Dynamic);
        set(MSS_CLAMP, spec.mss_clamp);
        let (protocol, local_port, remote_port) = match spec.encap {
            EncapKind::SixInFour => (ipv4::PROTO_IPV6, 0, 0),
            EncapKind::Udp(udp) => {
                set(UDP, true);
                let (control, inner) = match udp.rebind {
                    Rebind::Deny => (false, false),
                    Rebind::Control => (true, false),
                    Rebind::InnerSource => (false, true),
                    Rebind::InnerSourcePort => (true, true),
                };
                set(REBIND_CONTROL, control);
                set(REBIND_INNER, inner);
                (ipv4::PROTO_UDP, udp.local_port, udp.remote_port)
            }
        };
        let (prefix, prefix_mask) = match spec.prefixes.first() {
            Some(p) => (p.bits(), mask_of(p.len())),
            // the FIB (link prefix) decides
            None => NO_PREFIX,
        };
        let outer = OuterFields::new(spec.ttl, spec.dscp, spec.dscp_decap_copy, spec.ecn);
        Self {
            prefix,
            prefix_mask,
            template_sum: template(protocol, local, remote),
            local,
            remote,
            mtu: spec.mtu,
            flags: flags | outer.flags,
            ttl: outer.ttl,
            tos: outer.tos,
            side,
            generation,
            local_port,
            remote_port,
            min_path_mtu: spec.min_path_mtu,
        }
    }

    /// The record of the domain at `side` of the list; its outer destination is each packet's.
    pub(crate) fn domain(spec: &DomainSpec, source: [u8; 4], side: u32) -> Self {
        let mut flags = IN_USE | DOMAIN;
        let mut set = |bit, on: bool| flags |= if on { bit } else { 0 };
        set(UP, spec.up);
        // RFC 5969 section 9.1: fragments of an anycast source could meet another relay's
        let anycast_6rd = spec.anycast() && matches!(spec.kind, super::DomainKind::SixRd { .. });
        set(DF, spec.mtu_mode == MtuMode::Managed || anycast_6rd);
        set(MSS_CLAMP, spec.mss_clamp);
        let outer = OuterFields::new(spec.ttl, spec.dscp, spec.dscp_decap_copy, spec.ecn);
        Self {
            prefix: NO_PREFIX.0,
            prefix_mask: NO_PREFIX.1,
            template_sum: template(ipv4::PROTO_IPV6, source, [0; 4]),
            local: source,
            remote: [0; 4],
            mtu: spec.mtu,
            flags: flags | outer.flags,
            ttl: outer.ttl,
            tos: outer.tos,
            side,
            ..Self::FREE
        }
    }

    /// Where a UDP tunnel's peer is by configuration.
    #[inline]
    pub(crate) const fn configured(&self) -> Endpoint {
        Endpoint {
            address: self.remote,
            port: self.remote_port,
        }
    }

    #[inline]
    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether the peer may change its port, and nothing else.
    #[inline]
    pub(crate) const fn moves_port_only(&self) -> bool {
        let both = REBIND_CONTROL | REBIND_INNER;
        self.flags & both == both
    }

    /// Whether any global source is the tunnel's.
    pub(crate) const fn has_prefixes(&self) -> bool {
        self.has(MORE) || self.prefix != NO_PREFIX.0 || self.prefix_mask != NO_PREFIX.1
    }

    /// Whether `source` lies in the record's prefix.
    #[inline]
    pub(crate) const fn owns(&self, source: u128) -> bool {
        source & self.prefix_mask == self.prefix
    }
}

/// Sum of the constant words of the outer header.
fn template(protocol: u8, local: [u8; 4], remote: [u8; 4]) -> u32 {
    let sum = ipv4::Repr::template_sum(protocol, local, remote);
    u32::try_from(sum).unwrap_or(u32::MAX)
}

/// How TTL, DSCP and ECN are stored.
struct OuterFields {
    flags: u16,
    ttl: u8,
    tos: u8,
}

impl OuterFields {
    fn new(ttl: Ttl, dscp: Dscp, dscp_decap_copy: bool, ecn: Ecn) -> Self {
        let mut flags = 0;
        let mut set = |bit, on: bool| flags |= if on { bit } else { 0 };
        set(ECN_COMPAT, ecn == Ecn::Compat);
        set(DSCP_COPY, dscp == Dscp::Copy);
        set(TTL_INHERIT, ttl == Ttl::Inherit);
        set(DSCP_DECAP_COPY, dscp_decap_copy);
        Self {
            flags,
            ttl: match ttl {
                Ttl::Fixed(ttl) => ttl,
                Ttl::Inherit => 0,
            },
            tos: match dscp {
                Dscp::Fixed(dscp) => dscp << 2,
                Dscp::Copy => 0,
            },
        }
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
    chunks: Arc<Vec<Arc<Chunk<TunnelCounters>>>>,
}

impl CounterTable {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn chunks(&self) -> Chunks<'_, TunnelCounters> {
        Chunks::new(&self.chunks)
    }

    #[inline]
    pub(crate) fn get(&self, tunnel: usize) -> Option<&TunnelCounters> {
        self.chunks().get(tunnel)
    }

    pub(crate) fn reserve(&mut self, tunnel: usize) {
        while self.chunks.len() * CHUNK <= tunnel {
            let chunk: Arc<[TunnelCounters]> =
                (0..CHUNK).map(|_| TunnelCounters::default()).collect();
            let Ok(chunk) = chunk.try_into() else {
                return; // it has that many
            };
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
        let record = TunnelRecord::new(&spec, true, NO_SIDE, 0);
        assert!(!record.owns(0) && !record.owns(1) && !record.owns(u128::MAX));
    }
}
