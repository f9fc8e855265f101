//! Reassembly of IPv4 fragments that carry tunnel packets (RFC 791, RFC 815, RFC 4213 section 3.6).
//!
//! A tunnel endpoint must reassemble, and reassembly is where an endpoint is attacked: with first
//! fragments that never get company, with overlaps that rewrite a header already checked (RFC 1858,
//! RFC 3128, RFC 5722), with sizes that no buffer holds. So everything here is bounded, and what does
//! not fit is counted:
//!
//! | case | what happens | reason |
//! |---|---|---|
//! | a fifth datagram of one source, a 1025th of all, more than 2 MiB | the oldest goes: of that source, of all | `REASM_LIMIT` |
//! | a datagram larger than [`MAX_PACKET`] (or [`Limits::packet_len`]) | all of it | `REASM_LIMIT` |
//! | fragments overlap, or disagree about where the datagram ends | all of it | `REASM_OVERLAP` |
//! | first fragment without the whole inner IPv6 header | all of it | `REASM_TINY` |
//! | not whole in time | all of it | `REASM_TIMEOUT` |
//! | some fragments CE, others Not-ECT (RFC 3168 section 5.3) | all of it | `ECN_CE_ON_NOT_ECT` |
//! | no datagram open and the source may not open one | that fragment | `NO_TUNNEL` |
//! | empty, not final and no multiple of 8 long, or beyond 65,535 | that fragment | `V4_LENGTH` |
//!
//! A datagram discarded as a whole for what a sender did stays known until its time is over, without
//! its bytes: its later fragments go the same way instead of opening it anew. A fragment that repeats
//! one already here byte for byte changes nothing (RFC 8200 section 4.5 allows to tell it from an
//! overlap; networks do duplicate): it is held like the first and shares the datagram's end. DF on a
//! fragment is legal (RFC 6864 section 4.1 lets a source set it) and is kept.
//!
//! # Accounting
//!
//! Each fragment is counted exactly once. The worker counts it as punted; the slow path then keeps
//!
//! ```text
//! punted fragments = held_packets() + consumed + Σ dropped
//! ```
//!
//! where *consumed* are the fragments of [`Outcome::Complete`] and *dropped* are those of
//! [`Outcome::Drop`] and [`Reassembler::expire`]. A completed datagram goes back to a worker as one
//! packet, counted there as injected; so n fragments are n punted packets and one injected, and
//! nothing is missing from the sum over both threads. `expire` must be called now and then (once a
//! second will do), also because it reports what [`Reassembler::push`] evicted.

mod datagram;
#[cfg(test)]
mod tests;

use crate::drop_reason::DropReason;
use crate::id::Ticks;
use crate::packet::{FRAME_LEN, HEADROOM};
use datagram::{Datagram, Insert};
use hashbrown::HashMap;
use sixferry_wire::{checksum, ether, ipv4, ipv6};
use std::collections::{BTreeMap, BTreeSet};

/// The longest IPv4 packet that can go back into a frame behind a tagged Ethernet header. RFC 4213
/// section 3.6 asks for 1500 bytes of inner packet.
pub const MAX_PACKET: usize = FRAME_LEN - HEADROOM - ether::HEADER_LEN - ether::TAG_LEN;

/// What an entry costs beside its bytes: its own fields and its places in three half-full indexes.
const CONTEXT_COST: usize = 384;

/// Bounds of a [`Reassembler`]. Values outside their range are brought into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams one source may have open, 1 to 64; default 4.
    pub per_source: usize,
    /// Datagrams open together, 1 to 65,536; default 1024.
    pub contexts: usize,
    /// Memory of all of them, at least 4 KiB; default 2 MiB.
    pub bytes: usize,
    /// Ticks from the first fragment to the last, 1 to 60 s; default 5 s.
    pub timeout_ticks: u64,
    /// Longest packet to rebuild, 576 to [`MAX_PACKET`], which is the default.
    pub packet_len: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_source: 4,
            contexts: 1024,
            bytes: 2 << 20,
            timeout_ticks: 5 * Ticks::PER_SECOND,
            packet_len: MAX_PACKET,
        }
    }
}

impl Limits {
    fn in_range(self) -> Self {
        Self {
            per_source: self.per_source.clamp(1, 64),
            contexts: self.contexts.clamp(1, 1 << 16),
            bytes: self.bytes.max(4096),
            timeout_ticks: self
                .timeout_ticks
                .clamp(Ticks::PER_SECOND, 60 * Ticks::PER_SECOND),
            packet_len: self.packet_len.clamp(576, MAX_PACKET),
        }
    }
}

/// Fragments discarded for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub packets: u64,
    /// Their IPv4 total lengths together.
    pub bytes: u64,
}

/// What became of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for others.
    Held,
    /// It was the last one missing.
    Complete(Rebuilt),
    /// It is discarded, and with it what the same datagram had held.
    Drop(Dropped),
}

/// A whole packet again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The IPv4 packet: header of the first fragment, with the datagram's length and checksum.
    pub packet: Vec<u8>,
    /// Fragments it consumed, repeated ones included.
    pub packets: u64,
    /// Their IPv4 total lengths together.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    src: [u8; 4],
    dst: [u8; 4],
    identification: u16,
    protocol: u8,
}

/// What is known of one datagram.
#[derive(Debug)]
struct Context {
    key: Key,
    opened: Ticks,
    packets: u64,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(Datagram),
    /// Discarded; later fragments follow it.
    Dead(DropReason),
}

impl Context {
    fn cost(&self) -> usize {
        CONTEXT_COST
            + match &self.state {
                State::Open(datagram) => datagram.memory(),
                State::Dead(_) => 0,
            }
    }

    const fn dropped(&self, reason: DropReason) -> Dropped {
        Dropped {
            reason,
            packets: self.packets,
            bytes: self.bytes,
        }
    }
}

/// One fragment, its header checked.
struct Fragment<'a> {
    key: Key,
    header: &'a [u8],
    payload: &'a [u8],
    offset: usize,
    more: bool,
}

/// Fragments waiting for the rest of their datagrams.
#[derive(Debug)]
pub struct Reassembler {
    limits: Limits,
    /// By age: the key is a serial number.
    contexts: BTreeMap<u64, Context>,
    by_key: HashMap<Key, u64>,
    /// Also by age, source by source.
    by_source: BTreeSet<([u8; 4], u64)>,
    serial: u64,
    memory: usize,
    held_packets: u64,
    held_bytes: u64,
    /// Dropped by `push` beside the fragment it was called with; at most one entry a reason.
    evicted: Vec<Dropped>,
}

impl Reassembler {
    /// Empty.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: limits.in_range(),
            contexts: BTreeMap::new(),
            by_key: HashMap::new(),
            by_source: BTreeSet::new(),
            serial: 0,
            memory: 0,
            held_packets: 0,
            held_bytes: 0,
            evicted: Vec::new(),
        }
    }

    /// Takes a fragment: an IPv4 packet without link header, perhaps with link padding behind it.
    ///
    /// `may_open` says whether its source belongs to a tunnel; a stranger's fragments open nothing.
    /// A packet that is no fragment comes back as it is, unless it is too long.
    pub fn push(&mut self, packet: &[u8], may_open: bool, now: Ticks) -> Outcome {
        self.time_out(now);
        let fragment = match parse(packet) {
            Ok(fragment) => fragment,
            Err(reason) => return Outcome::Drop(one(reason, packet.len())),
        };
        let len = fragment.header.len() + fragment.payload.len();
        if fragment.offset == 0 && !fragment.more {
            if len > self.limits.packet_len {
                return Outcome::Drop(one(DropReason::ReasmLimit, len));
            }
            return Outcome::Complete(Rebuilt {
                packet: [fragment.header, fragment.payload].concat(),
                packets: 1,
                bytes: len as u64,
            });
        }
        if let Err(reason) = well_formed(&fragment) {
            return Outcome::Drop(one(reason, len));
        }
        let serial = match self.by_key.get(&fragment.key) {
            Some(serial) => *serial,
            None if may_open => self.open(fragment.key, now),
            None => return Outcome::Drop(one(DropReason::NoTunnel, len)),
        };
        self.insert(serial, &fragment)
    }

    /// What waited too long, and what [`Reassembler::push`] threw out since the last call.
    pub fn expire(&mut self, now: Ticks) -> Vec<Dropped> {
        self.time_out(now);
        std::mem::take(&mut self.evicted)
    }

    /// Fragments held.
    #[must_use]
    pub const fn held_packets(&self) -> u64 {
        self.held_packets
    }

    /// IPv4 total lengths of the fragments held.
    #[must_use]
    pub const fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Datagrams known, those remembered only to refuse their later fragments included.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.contexts.len()
    }

    /// Memory they take, which [`Limits::bytes`] bounds.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.memory
    }

    fn open(&mut self, key: Key, now: Ticks) -> u64 {
        let mine = (key.src, 0)..=(key.src, u64::MAX);
        if self.by_source.range(mine.clone()).count() >= self.limits.per_source
            && let Some((_, oldest)) = self.by_source.range(mine).next().copied()
        {
            self.evict(oldest, DropReason::ReasmLimit);
        }
        if self.contexts.len() >= self.limits.contexts {
            self.evict_oldest();
        }
        while self.memory + CONTEXT_COST > self.limits.bytes && self.evict_oldest() {}
        let serial = self.serial;
        self.serial += 1;
        let context = Context {
            key,
            opened: now,
            packets: 0,
            bytes: 0,
            state: State::Open(Datagram::default()),
        };
        self.memory += context.cost();
        self.contexts.insert(serial, context);
        self.by_key.insert(key, serial);
        self.by_source.insert((key.src, serial));
        serial
    }

    fn insert(&mut self, serial: u64, fragment: &Fragment<'_>) -> Outcome {
        let len = fragment.header.len() + fragment.payload.len();
        let end = fragment.offset + fragment.payload.len();
        let Some(context) = self.contexts.get_mut(&serial) else {
            return Outcome::Drop(one(DropReason::ReasmLimit, len));
        };
        let datagram = match &mut context.state {
            State::Open(datagram) => datagram,
            State::Dead(reason) => return Outcome::Drop(one(*reason, len)),
        };
        context.packets += 1;
        context.bytes += len as u64;
        self.held_packets += 1;
        self.held_bytes += len as u64;
        if fragment.header.len() + end > self.limits.packet_len {
            return self.kill(serial, DropReason::ReasmLimit);
        }
        if fragment.offset == 0 && fragment.payload.len() < least_first(fragment.key.protocol) {
            return self.kill(serial, DropReason::ReasmTiny);
        }
        let before = datagram.memory();
        let inserted = datagram.insert(
            fragment.header,
            fragment.payload,
            fragment.offset,
            fragment.more,
        );
        self.memory += datagram.memory() - before;
        match inserted {
            Insert::Overlap => return self.kill(serial, DropReason::ReasmOverlap),
            Insert::Incomplete => {}
            Insert::Complete => return self.complete(serial),
        }
        while self.memory > self.limits.bytes {
            // the oldest may be this very one
            if self.contexts.first_key_value().map(|(oldest, _)| *oldest) == Some(serial) {
                let context = self.remove(serial);
                return context.map_or(Outcome::Held, |context| {
                    Outcome::Drop(context.dropped(DropReason::ReasmLimit))
                });
            }
            self.evict_oldest();
        }
        Outcome::Held
    }

    fn complete(&mut self, serial: u64) -> Outcome {
        let Some(context) = self.remove(serial) else {
            return Outcome::Held;
        };
        let State::Open(datagram) = &context.state else {
            return Outcome::Held;
        };
        let rebuilt = datagram.rebuild(self.limits.packet_len);
        match rebuilt {
            Ok(packet) => Outcome::Complete(Rebuilt {
                packet,
                packets: context.packets,
                bytes: context.bytes,
            }),
            Err(reason) => Outcome::Drop(context.dropped(reason)),
        }
    }

    /// Discards a datagram but keeps its name, so that the rest of it goes the same way.
    fn kill(&mut self, serial: u64, reason: DropReason) -> Outcome {
        let Some(context) = self.contexts.get_mut(&serial) else {
            return Outcome::Held;
        };
        let dropped = context.dropped(reason);
        self.memory -= context.cost();
        self.held_packets -= context.packets;
        self.held_bytes -= context.bytes;
        context.packets = 0;
        context.bytes = 0;
        context.state = State::Dead(reason);
        self.memory += context.cost();
        Outcome::Drop(dropped)
    }

    fn remove(&mut self, serial: u64) -> Option<Context> {
        let context = self.contexts.remove(&serial)?;
        self.by_key.remove(&context.key);
        self.by_source.remove(&(context.key.src, serial));
        self.memory -= context.cost();
        self.held_packets -= context.packets;
        self.held_bytes -= context.bytes;
        Some(context)
    }

    fn evict_oldest(&mut self) -> bool {
        let oldest = self.contexts.first_key_value().map(|(serial, _)| *serial);
        oldest.is_some_and(|serial| {
            self.evict(serial, DropReason::ReasmLimit);
            true
        })
    }

    fn evict(&mut self, serial: u64, reason: DropReason) {
        let Some(context) = self.remove(serial).filter(|context| context.packets > 0) else {
            return;
        };
        let dropped = context.dropped(reason);
        match self.evicted.iter_mut().find(|old| old.reason == reason) {
            Some(old) => {
                old.packets += dropped.packets;
                old.bytes += dropped.bytes;
            }
            None => self.evicted.push(dropped),
        }
    }

    fn time_out(&mut self, now: Ticks) {
        while let Some((serial, context)) = self.contexts.first_key_value()
            && now.0.saturating_sub(context.opened.0) >= self.limits.timeout_ticks
        {
            let serial = *serial;
            self.evict(serial, DropReason::ReasmTimeout);
        }
    }
}

const fn one(reason: DropReason, len: usize) -> Dropped {
    Dropped {
        reason,
        packets: 1,
        bytes: len as u64,
    }
}

/// What a first fragment must bring: RFC 1858 and RFC 3128 want the headers that are looked at in one
/// piece, which are the inner IPv6 header and, in front of it, UDP's.
const fn least_first(protocol: u8) -> usize {
    match protocol {
        ipv4::PROTO_UDP => 8 + ipv6::HEADER_LEN,
        _ => ipv6::HEADER_LEN,
    }
}

/// The same checks as every received packet passes; padding behind the packet is cut.
fn parse(packet: &[u8]) -> Result<Fragment<'_>, DropReason> {
    let fixed = packet.first_chunk().ok_or(DropReason::V4Truncated)?;
    let header = ipv4::Header(fixed);
    if header.version() != 4 {
        return Err(DropReason::V4Version);
    }
    if header.header_len() < ipv4::HEADER_LEN {
        return Err(DropReason::V4Ihl);
    }
    let (header_bytes, payload) = packet
        .get(..header.total_len())
        .and_then(|packet| packet.split_at_checked(header.header_len()))
        .ok_or(DropReason::V4Length)?;
    if checksum::fold(checksum::sum(header_bytes)) != 0xffff {
        return Err(DropReason::V4Checksum);
    }
    Ok(Fragment {
        key: Key {
            src: header.src(),
            dst: header.dst(),
            identification: header.identification(),
            protocol: header.protocol(),
        },
        header: header_bytes,
        payload,
        offset: usize::from(header.fragment_word() & 0x1fff) * 8,
        more: header.fragment_word() & ipv4::MF != 0,
    })
}

/// Whether RFC 791 can produce this fragment.
fn well_formed(fragment: &Fragment<'_>) -> Result<(), DropReason> {
    let len = fragment.payload.len();
    let beyond = fragment.header.len() + fragment.offset + len > usize::from(u16::MAX);
    if len == 0 || (fragment.more && !len.is_multiple_of(8)) || beyond {
        return Err(DropReason::V4Length);
    }
    Ok(())
}
