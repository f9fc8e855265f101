//! Bodies of fuzz targets, shared with the test that replays their corpus.
//!
//! Each takes any bytes and panics when something that must always hold does not.

use crate::mixed::{self, Frame, Plan};
use crate::relay::{LOCAL, in_ipv4};
use crate::schema::{VectorFile, unhex};
use sixferry_fwd::Ticks;
use sixferry_fwd::reassembly::{Limits, MAX_PACKET, Outcome, Reassembler};
use sixferry_wire::{checksum, ether, ipv4};
use std::net::Ipv4Addr;

/// A fuzz target: its name, which is also its directory in the corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: [Target; 2] = [("reassembly", reassembly), ("mixed", mixed)];

/// Most bytes of a frame: what a receive buffer holds.
const FRAME_MAX: usize = 1792;

/// Sends a relay of every mechanism the packets in `data`: a plan, then per packet a byte for the side
/// and two for the length.
///
/// # Panics
/// When a packet is treated wrongly.
pub fn mixed(data: &[u8]) {
    let Some((plan, mut rest)) = data.split_first_chunk() else {
        return;
    };
    let mut frames = Vec::new();
    while let Some((&[side, l0, l1], tail)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([l0, l1])).min(FRAME_MAX);
        let (bytes, tail) = tail.split_at(len.min(tail.len()));
        frames.push(Frame {
            native: side & 1 != 0,
            bytes: bytes.to_vec(),
        });
        rest = tail;
    }
    mixed::run(&Plan::from_bytes(*plan), &frames);
}

/// Puts fragments together under narrow limits and checks what comes of them against all that was put
/// in. A fragment is written as 8 bytes and its payload: source, protocol and rights; ID; fragment
/// word; wait; TOS; length.
///
/// # Panics
/// When a limit is passed, a fragment is not counted once, or a packet has bytes nobody sent.
pub fn reassembly(mut data: &[u8]) {
    let limits = Limits {
        per_source: 3,
        contexts: 8,
        bytes: 8192,
        ..Limits::default()
    };
    let mut it = Reassembler::new(limits);
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let (mut now, mut ended) = (0, 0);
    while let Some((&[who, id, w0, w1, wait, tos, l0, l1], rest)) = data.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([l0, l1])).min(FRAME_MAX);
        let (payload, rest) = rest.split_at(len.min(rest.len()));
        data = rest;
        now += u64::from(wait) * (Ticks::PER_SECOND / 40);
        sent.push(fragment(
            who,
            id,
            u16::from_be_bytes([w0, w1]),
            tos,
            payload,
        ));
        let packet = sent.last().map_or(&[][..], Vec::as_slice);
        match it.push(packet, who & 0x40 == 0, Ticks(now)) {
            Outcome::Held => {}
            Outcome::Complete(whole) => {
                ended += whole.packets;
                made_of(&whole.packet, &sent);
            }
            Outcome::Drop(dropped) => ended += dropped.packets,
        }
        assert!(it.memory() <= limits.bytes && it.contexts() <= limits.contexts);
    }
    let held = it.held_packets();
    ended += it.expire(Ticks(now)).iter().map(|d| d.packets).sum::<u64>();
    assert_eq!(ended + held, sent.len() as u64, "each is counted once");
    let late = Ticks(now + limits.timeout_ticks);
    let timed_out: u64 = it.expire(late).iter().map(|d| d.packets).sum();
    assert_eq!((timed_out, it.memory(), it.contexts()), (held, 0, 0));
}

/// A packet of one of eight sources; with the highest bit of `who` set its header is wrong.
fn fragment(who: u8, id: u8, word: u16, tos: u8, payload: &[u8]) -> Vec<u8> {
    let protocol = if who & 0x20 == 0 { 41 } else { 17 };
    let src = Ipv4Addr::new(192, 0, 2, who & 7);
    let mut packet = in_ipv4(src, LOCAL, protocol, tos, payload);
    if let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>() {
        header[5] = id;
        [header[6], header[7]] = word.to_be_bytes();
        [header[10], header[11]] = [0, 0];
        let sum = checksum::finish(checksum::sum(header));
        [header[10], header[11]] = (sum ^ u16::from(who >> 7)).to_be_bytes();
    }
    packet
}

/// Asserts that every byte of a rebuilt packet was sent at its place under its name.
fn made_of(packet: &[u8], sent: &[Vec<u8>]) {
    assert!(packet.len() <= MAX_PACKET);
    let name = |p: &[u8]| {
        let header = p.first_chunk().map(ipv4::Header)?;
        let name = (header.src(), header.identification(), header.protocol());
        Some((name, usize::from(header.fragment_word() & 0x1fff) * 8))
    };
    let header = packet.first_chunk::<{ ipv4::HEADER_LEN }>();
    assert!(header.is_some_and(|h| checksum::fold(checksum::sum(h)) == 0xffff));
    let whole = name(packet);
    assert!(whole.is_some_and(|(_, offset)| offset == 0));
    for (at, byte) in packet.iter().enumerate().skip(ipv4::HEADER_LEN) {
        let told = sent.iter().any(|piece| {
            let Some((_, offset)) = name(piece).filter(|n| Some(n.0) == whole.map(|w| w.0)) else {
                return false;
            };
            at.checked_sub(offset)
                .filter(|at| *at >= ipv4::HEADER_LEN)
                .and_then(|at| piece.get(at))
                == Some(byte)
        });
        assert!(told, "byte {at} was never sent");
    }
}

/// A file of the corpus: target, name and contents.
pub type Seed = (&'static str, String, Vec<u8>);

/// The seeds of the corpus.
///
/// # Errors
/// Says what is wrong with the vector file.
pub fn seeds(file: &VectorFile) -> Result<Vec<Seed>, String> {
    let mut seeds = Vec::new();
    for (name, script) in FRAGMENTS {
        let mut data = Vec::new();
        for &(who, id, word, wait, tos, len) in *script {
            let [w0, w1] = word.to_be_bytes();
            let [l0, l1] = u16::to_be_bytes(len);
            data.extend([who, id, w0, w1, wait, tos, l0, l1]);
            data.extend((0..len).map(|i| i.to_le_bytes()[0]));
        }
        seeds.push(("reassembly", (*name).to_owned(), data));
    }
    for (name, plan) in PLANS {
        // every packet of every vector below 200 bytes, and a longer one of each kind would only be weight
        let mut data = plan.to_vec();
        for vector in &file.vectors {
            for text in vector.in_hex.as_slice() {
                let packet = unhex(text)?;
                if packet.len() > 200 {
                    continue;
                }
                let native = packet.first().is_some_and(|byte| byte >> 4 == 6);
                let ether_type = if native {
                    ether::TYPE_IPV6
                } else {
                    ether::TYPE_IPV4
                };
                let frame = crate::relay::ethernet(ether_type, &packet);
                let len = u16::try_from(frame.len()).map_err(|e| e.to_string())?;
                data.push(u8::from(native));
                data.extend(len.to_be_bytes());
                data.extend(frame);
            }
        }
        seeds.push(("mixed", (*name).to_owned(), data));
    }
    Ok(seeds)
}

const PLANS: &[(&str, [u8; Plan::LEN])] = &[
    ("relay", [0, 0b1010, 0, 5, 220]),
    ("relay-strict", [0x80, 0, 0, 0, 0]),
    ("relay-anycast", [0x84, 0b0010_1001, 8, 0, 0]),
    ("site", [0x01, 0b0010, 0, 0, 0]),
    ("customer", [0x02, 0b0010, 0, 0, 0]),
    ("customer-shared", [0xf3, 0b1010_0110, 0, 4, 100]),
    ("output-only", [0x08, 0b0001_0010, 0, 0, 0]),
];

/// Source and rights, ID, fragment word, wait, TOS, length.
type Piece = (u8, u8, u16, u8, u8, u16);

const MF: u16 = ipv4::MF;

const FRAGMENTS: &[(&str, &[Piece])] = &[
    (
        "in-order",
        &[(1, 1, MF, 0, 0, 1280), (1, 1, 160, 0, 0, 168)],
    ),
    (
        "reversed",
        &[(1, 1, 160, 0, 0, 168), (1, 1, MF, 0, 0, 1280)],
    ),
    (
        "three",
        &[
            (1, 1, MF | 63, 0, 0, 504),
            (1, 1, 126, 0, 0, 300),
            (1, 1, MF, 0, 0, 504),
        ],
    ),
    (
        "overlap",
        &[
            (1, 1, MF, 0, 0, 1280),
            (1, 1, 152, 0, 0, 168),
            (1, 1, 160, 0, 0, 168),
        ],
    ),
    (
        "repeated",
        &[
            (1, 1, MF, 0, 0, 64),
            (1, 1, MF, 0, 0, 64),
            (1, 1, 8, 0, 0, 8),
        ],
    ),
    ("tiny", &[(1, 1, MF, 0, 0, 16), (1, 1, 2, 0, 0, 56)]),
    (
        "tiny-udp",
        &[(0x21, 1, MF, 0, 0, 40), (0x21, 1, 5, 0, 0, 56)],
    ),
    ("late", &[(1, 1, MF, 0, 0, 64), (1, 1, 8, 201, 0, 8)]),
    ("stranger", &[(0x41, 1, MF, 0, 0, 64), (1, 1, 8, 0, 0, 8)]),
    (
        "too-large",
        &[(1, 1, MF, 0, 0, 1280), (1, 1, MF | 160, 0, 0, 1280)],
    ),
    (
        "beyond",
        &[
            (1, 1, 0x1fff, 0, 0, 64),
            (1, 1, MF | 1, 0, 0, 63),
            (1, 1, 9, 0, 0, 0),
        ],
    ),
    (
        "marked",
        &[
            (1, 1, MF, 0, 3, 64),
            (1, 1, 8, 0, 2, 8),
            (2, 1, MF, 0, 3, 64),
            (2, 1, 8, 0, 0, 8),
        ],
    ),
    (
        "five-of-one",
        &[
            (1, 1, MF, 0, 0, 64),
            (1, 2, MF, 0, 0, 64),
            (1, 3, MF, 0, 0, 64),
            (1, 4, MF, 0, 0, 64),
            (1, 1, 8, 0, 0, 8),
        ],
    ),
    (
        "memory",
        &[
            (1, 1, MF, 0, 0, 1600),
            (2, 1, MF, 0, 0, 1600),
            (3, 1, MF, 0, 0, 1600),
            (4, 1, MF, 0, 0, 1600),
            (5, 1, MF, 0, 0, 1600),
            (1, 1, 200, 0, 0, 8),
        ],
    ),
    (
        "damaged",
        &[
            (0x81, 1, MF, 0, 0, 64),
            (1, 1, 0, 0, 0, 64),
            (1, 1, ipv4::DF | MF, 0, 0, 64),
        ],
    ),
];
