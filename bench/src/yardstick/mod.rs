//! What decapsulation and encapsulation cost at the least: the yardstick beside which `process` is measured.
//!
//! No relay, but what none can do without, written for nothing but speed: all header checks, the header
//! checksum, one cache line a bucket and one a tunnel with its counters, every pass prefetching for the
//! next. No ICMPv6 errors, no ports, VLANs, next hops, UDP, options, fragments or updates. With
//! [`Policy::Sources`] decapsulation also compares the inner source and looks the destination up, as any
//! relay that lets nobody forge must.

mod bucket;
mod poptrie;

use crate::frame::{INSIDE_MAC, OUTSIDE_MAC, RELAY_MAC};
use crate::population::{LOCAL, Population};
use bucket::Buckets;
use poptrie::{LANES, Poptrie};
use prefetch_index::prefetch_index;
use sixferry_fwd::BATCH_MAX;
use sixferry_wire::{checksum, ether, ipv4, ipv6};

const LINK: usize = ether::HEADER_LEN;
const OUTER: usize = LINK + ipv4::HEADER_LEN;
const TUNNELLED: usize = OUTER + ipv6::HEADER_LEN;
const NATIVE: usize = LINK + ipv6::HEADER_LEN;
/// Value of the default route: no tunnel.
const DEFAULT: u32 = 1;

/// What decapsulation checks besides headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    None,
    /// The inner source lies in the tunnel's prefix, the destination has a route.
    Sources,
}

/// A tunnel and its counters: one line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Tunnel {
    prefix: u64,
    mask: u64,
    outer: [u8; ipv4::HEADER_LEN],
    packets: u64,
    bytes: u64,
}

/// The tables of the yardstick.
#[derive(Debug)]
pub struct Yardstick {
    outer: Buckets,
    tunnels: Vec<Tunnel>,
    fib: Poptrie,
}

/// One frame and the packet in it, as a descriptor of a ring says it.
#[derive(Debug)]
pub struct Slot<'a, 'm> {
    /// The frame.
    pub frame: &'a mut &'m mut [u8],
    /// Where the packet begins.
    pub head: usize,
    /// Its length.
    pub len: usize,
}

impl Yardstick {
    /// The same tunnels and routes as those of `population`.
    #[must_use]
    pub fn new(population: &Population) -> Self {
        let destinations = population.destinations().list();
        let mut outer = Buckets::with_capacity(destinations.len());
        let mut tunnels: Vec<Tunnel> = Vec::new();
        let mut routes = vec![(0, 0, DEFAULT)];
        for destination in destinations {
            let index = outer.get(destination.peer).unwrap_or_else(|| {
                let index = tunnels.len() as u32;
                outer.insert(destination.peer, index);
                tunnels.push(Tunnel::new(destination.peer, destination.prefix.bits()));
                index
            });
            let prefix = destination.prefix;
            routes.push((prefix.bits(), u32::from(prefix.len()), index + DEFAULT + 1));
        }
        Self {
            outer,
            tunnels,
            fib: Poptrie::new(routes),
        }
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.outer.bytes() + self.tunnels.len() * size_of::<Tunnel>() + self.fib.bytes()
    }

    /// Decapsulates a batch; returns how many packets passed all checks.
    #[inline(never)]
    pub fn decap(&mut self, batch: &mut [Slot<'_, '_>], policy: Policy) -> usize {
        const NOBODY: u32 = u32::MAX;
        let mut found = [NOBODY; BATCH_MAX];
        let mut targets = [0; BATCH_MAX];
        for slot in batch.iter() {
            prefetch_index(&**slot.frame, slot.head);
        }
        let mut peers = [0u32; BATCH_MAX];
        let mut dsts = [0u128; BATCH_MAX];
        for ((slot, peer), dst) in batch.iter().zip(&mut peers).zip(&mut dsts) {
            let Some(headers) = slot.headers::<TUNNELLED>() else {
                continue;
            };
            if let Some(source) = sound_tunnel_packet(headers, slot.len) {
                *peer = source;
                *dst = number(&headers[OUTER + 24..]);
                self.outer.prefetch(source);
            }
        }
        for (found, peer) in found.iter_mut().zip(&peers).take(batch.len()) {
            *found = self.outer.get(*peer).unwrap_or(NOBODY);
            prefetch_index(&self.tunnels, *found as usize);
        }
        if policy == Policy::Sources {
            for (keys, targets) in dsts.chunks(LANES).zip(targets.chunks_mut(LANES)) {
                self.fib.lookup(keys, targets);
            }
        }
        let mut passed = 0;
        for ((slot, found), target) in batch.iter_mut().zip(found).zip(targets) {
            let Some(tunnel) = self.tunnels.get_mut(found as usize) else {
                continue;
            };
            let Some(headers) = slot.headers_mut::<TUNNELLED>(0) else {
                continue;
            };
            if policy == Policy::Sources {
                let src = number(&headers[OUTER + 8..]) >> 64;
                if src as u64 & tunnel.mask != tunnel.prefix || target != DEFAULT {
                    continue;
                }
            }
            headers[OUTER + 7] -= 1;
            if let Some(link) = headers[OUTER - LINK..].first_chunk_mut() {
                ether::emit(link, INSIDE_MAC, RELAY_MAC, ether::TYPE_IPV6);
            }
            slot.head += ipv4::HEADER_LEN;
            slot.len -= ipv4::HEADER_LEN;
            tunnel.packets += 1;
            tunnel.bytes += slot.len as u64;
            passed += 1;
        }
        passed
    }

    /// Encapsulates a batch; returns how many packets had a route into a tunnel.
    #[inline(never)]
    pub fn encap(&mut self, batch: &mut [Slot<'_, '_>]) -> usize {
        for slot in batch.iter() {
            prefetch_index(&**slot.frame, slot.head);
            prefetch_index(&**slot.frame, slot.head - ipv4::HEADER_LEN);
        }
        let mut passed = 0;
        for group in batch.chunks_mut(LANES) {
            let mut keys = [0; LANES];
            let mut found = [0; LANES];
            for (slot, key) in group.iter().zip(&mut keys) {
                if let Some(headers) = slot.headers::<NATIVE>()
                    && headers[LINK] >> 4 == 6
                    && headers[LINK + 7] > 1
                {
                    *key = number(&headers[LINK + 24..]);
                }
            }
            self.fib.lookup(&keys, &mut found);
            for target in &found {
                prefetch_index(&self.tunnels, target.wrapping_sub(DEFAULT + 1) as usize);
            }
            for (slot, target) in group.iter_mut().zip(found) {
                let index = target.wrapping_sub(DEFAULT + 1) as usize;
                if let Some(tunnel) = self.tunnels.get_mut(index) {
                    passed += usize::from(prepend(slot, tunnel).is_some());
                }
            }
        }
        passed
    }
}

impl Tunnel {
    fn new(peer: u32, prefix: u128) -> Self {
        let mut outer = [0; ipv4::HEADER_LEN];
        outer[0] = 0x45;
        outer[8..10].copy_from_slice(&[64, ipv4::PROTO_IPV6]);
        outer[12..16].copy_from_slice(&LOCAL.octets());
        outer[16..].copy_from_slice(&peer.to_be_bytes());
        Self {
            prefix: (prefix >> 64) as u64,
            // all prefixes of tunnels are /48s
            mask: u64::MAX << 16,
            outer,
            packets: 0,
            bytes: 0,
        }
    }
}

impl Slot<'_, '_> {
    #[inline]
    fn headers<const N: usize>(&self) -> Option<&[u8; N]> {
        self.frame.get(self.head..)?.first_chunk()
    }

    #[inline]
    fn headers_mut<const N: usize>(&mut self, before: usize) -> Option<&mut [u8; N]> {
        let from = self.head.checked_sub(before)?;
        self.frame.get_mut(from..)?.first_chunk_mut()
    }
}

/// The source of a tunnel packet that is in order; `len` is the frame's.
#[inline]
fn sound_tunnel_packet(headers: &[u8; TUNNELLED], len: usize) -> Option<u32> {
    let (link, ip) = headers.split_first_chunk::<LINK>()?;
    let (outer, inner) = ip.split_first_chunk()?;
    let header = ipv4::Header(outer);
    let inner = ipv6::Header(inner.first_chunk()?);
    let sound = link[12..] == ether::TYPE_IPV4.to_be_bytes()
        && outer[0] == 0x45
        && header.protocol() == ipv4::PROTO_IPV6
        && checksum::is_sound(outer)
        && header.total_len() + LINK <= len
        && inner.version() == 6
        && inner.hop_limit() > 1
        && inner.src() >> 120 != 0xff
        && inner.payload_len() + TUNNELLED <= len;
    sound.then(|| u32::from_be_bytes(header.src()))
}

/// Puts the outer and the link header in front.
#[inline]
fn prepend(slot: &mut Slot<'_, '_>, tunnel: &mut Tunnel) -> Option<()> {
    const BEFORE: usize = ipv4::HEADER_LEN;
    slot.len += BEFORE;
    let total_len = (slot.len - LINK) as u16;
    let headers = slot.headers_mut::<{ BEFORE + NATIVE }>(BEFORE)?;
    headers[OUTER + 7] -= 1;
    ether::emit(
        headers.first_chunk_mut()?,
        OUTSIDE_MAC,
        RELAY_MAC,
        ether::TYPE_IPV4,
    );
    let outer: &mut [u8; BEFORE] = headers[LINK..].first_chunk_mut()?;
    *outer = tunnel.outer;
    outer[2..4].copy_from_slice(&total_len.to_be_bytes());
    let sum = checksum::finish(checksum::sum(outer));
    outer[10..12].copy_from_slice(&sum.to_be_bytes());
    slot.head -= BEFORE;
    tunnel.packets += 1;
    tunnel.bytes += slot.len as u64;
    Some(())
}

#[inline]
fn number(bytes: &[u8]) -> u128 {
    bytes.first_chunk().map_or(0, |b| u128::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::population::Layout;
    use crate::rng::Rng;
    use sixferry_fwd::HEADROOM as HEAD;

    /// Sends one packet; what came of it, if anything: where it begins and how long it is.
    fn one(
        memory: &mut [u8],
        len: usize,
        mut work: impl FnMut(&mut [Slot<'_, '_>]) -> usize,
    ) -> Option<(usize, usize)> {
        let mut frame = memory;
        let mut batch = [Slot {
            frame: &mut frame,
            head: HEAD,
            len,
        }];
        (work(&mut batch) == 1).then_some((batch[0].head, batch[0].len))
    }

    #[test]
    fn strips_and_prepends_and_refuses_what_is_wrong() {
        let population = Population::tunnels(1000, Layout::Scattered).expect("tables");
        let mut yardstick = Yardstick::new(&population);
        let mut rng = Rng::new(1);
        let mut memory = vec![0; 2048];
        for _ in 0..1000 {
            let flow = population.destinations().encap(&mut rng, 100);
            let len = frame::write(&mut memory[HEAD..], &flow);
            let native = memory[HEAD + LINK..HEAD + len].to_vec();
            let sent = one(&mut memory, len, |batch| yardstick.encap(batch));
            assert_eq!(sent, Some((HEAD - 20, len + 20)));
            let outer = memory[HEAD - 20 + LINK..][..20].to_vec();
            assert_eq!(checksum::fold(checksum::sum(&outer)), 0xffff);
            assert_eq!(memory[HEAD + LINK + 8..HEAD + len], native[8..]);
            let flow = population.destinations().decap(&mut rng, 100);
            let len = frame::write(&mut memory[HEAD..], &flow);
            let mut decap = |memory: &mut [u8]| {
                let work = |batch: &mut [Slot<'_, '_>]| yardstick.decap(batch, Policy::Sources);
                one(memory, len, work)
            };
            // version, checksum, destination (by the checksum), inner version, inner source
            let wrong = [(14, 1), (24, 1), (30, 1), (OUTER, 0x10), (OUTER + 8 + 4, 1)];
            for (at, bit) in wrong {
                memory[HEAD + at] ^= bit;
                assert_eq!(decap(&mut memory), None, "{at}");
                memory[HEAD + at] ^= bit;
            }
            assert_eq!(decap(&mut memory), Some((HEAD + 20, len - 20)));
        }
    }
}
