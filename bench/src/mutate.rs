//! Valid packets, damaged in every way a network or an attacker might, through a checked relay.
//!
//! First every seed cut at every length and with every bit flipped, then as many random changes as
//! asked for. Everything follows from the seed of the random numbers.

use crate::relay::{CheckedRelay, PACKET_MAX, Received, TUN};
use crate::rng::Rng;
use crate::seeds::{Seed, fix_ipv4_checksum, plans, seeds};
use sixferry_fwd::{BATCH_MAX, CounterSnapshot, PortId, Verdict};
use sixferry_wire::ether;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Values that parsers get wrong.
const ODD: [u16; 12] = [0, 1, 7, 8, 19, 20, 39, 40, 0x7fff, 0x8000, 0xfffe, 0xffff];

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Packets sent.
    pub sent: u64,
    /// What became of them.
    pub counters: CounterSnapshot,
    /// Digest of every verdict and every byte that left: two builds that agree on it for the same
    /// seed treat these packets alike.
    pub digest: u64,
}

/// Sends `count` mutated packets, spread over relays of different plans.
///
/// # Panics
/// When a packet is treated wrongly, see [`CheckedRelay::send`], or not counted.
#[must_use]
pub fn run(count: u64, seed: u64) -> Run {
    let mut rng = Rng::new(seed);
    let seeds = seeds();
    let mut relays: Vec<CheckedRelay> = plans().iter().map(CheckedRelay::new).collect();
    let mut run = Run::default();
    let mut systematic = systematic(&seeds);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut digest = DefaultHasher::new();
    while run.sent < count {
        let room = usize::try_from(count - run.sent).unwrap_or(usize::MAX);
        let len = (1 + rng.below(BATCH_MAX)).min(room);
        batch.clear();
        batch.extend(systematic.by_ref().take(len));
        while batch.len() < len {
            batch.push(mutated(&seeds, &mut rng));
        }
        let at = rng.below(relays.len());
        // limiters refill, slowly enough that some packets find them empty
        relays[at].wait(rng.bits() % 10_000_000);
        relays[at].send(&batch, |verdict, bytes| {
            std::mem::discriminant(&verdict).hash(&mut digest);
            match verdict {
                Verdict::Tx(port) | Verdict::Answer(port) => {
                    digest.write_u8(port.0);
                    digest.write(bytes);
                }
                Verdict::Punt(reason) => digest.write_usize(reason.index()),
                Verdict::Drop(reason) => digest.write_usize(reason.index()),
            }
        });
        run.sent += batch.len() as u64;
    }
    run.digest = digest.finish();
    run.counters = relays
        .iter()
        .fold(CounterSnapshot::default(), |sum, relay| {
            sum.sum(relay.counters())
        });
    assert_eq!(run.counters.received.packets, run.sent, "each one counted");
    assert_eq!(run.counters.unaccounted(), 0);
    run
}

/// How many packets the systematic part has.
#[must_use]
pub fn systematic_len() -> usize {
    systematic(&seeds()).count()
}

/// Every seed cut at every length, then every bit of its headers flipped, with and without a right
/// IPv4 checksum.
fn systematic(seeds: &[Seed]) -> impl Iterator<Item = Received> + '_ {
    const HEADERS: usize = 14 + 60 + 40 + 24;
    let cut = seeds.iter().flat_map(|seed| {
        (0..=seed.packet.bytes.len()).map(|len| Received {
            port: seed.packet.port,
            bytes: seed.packet.bytes[..len].to_vec(),
        })
    });
    let flipped = seeds.iter().flat_map(|seed| {
        let bits = seed.packet.bytes.len().min(HEADERS) * 8;
        (0..2 * bits).map(move |at| {
            let mut packet = seed.packet.clone();
            packet.bytes[at / 16] ^= 1 << (at / 2 % 8);
            if at % 2 == 1 {
                fix_checksum(&mut packet);
            }
            packet
        })
    });
    cut.chain(flipped)
}

/// A seed with one to four changes.
fn mutated(seeds: &[Seed], rng: &mut Rng) -> Received {
    let mut packet = seeds[rng.below(seeds.len())].packet.clone();
    for _ in 0..1 + rng.below(4) {
        change(&mut packet, seeds, rng);
    }
    packet.bytes.truncate(PACKET_MAX);
    // without this nearly every change of an outer header would end at its checksum
    if rng.below(4) != 0 {
        fix_checksum(&mut packet);
    }
    packet
}

fn change(packet: &mut Received, seeds: &[Seed], rng: &mut Rng) {
    let bytes = &mut packet.bytes;
    let len = bytes.len();
    match rng.below(9) {
        0 if len > 0 => bytes[rng.below(len)] ^= 1 << rng.below(8),
        1 if len > 0 => bytes[rng.below(len)] = rng.byte(),
        2 => bytes.truncate(rng.below(len + 1)),
        3 => {
            let more = rng.below(PACKET_MAX.saturating_sub(len) + 1);
            bytes.extend(std::iter::repeat_with(|| rng.byte()).take(more));
        }
        4 if len > 1 => word(bytes, rng),
        5 if len > 14 => {
            // a field of some header, rather than payload
            let at = rng.below(len.min(100));
            bytes[at] = [0, 1, 0x45, 0x60, 41, 58, 64, 255][rng.below(8)];
        }
        6 => splice(bytes, &seeds[rng.below(seeds.len())].packet.bytes, rng),
        7 => packet.port = PortId(rng.below(4) as u8),
        _ => insert_or_remove(bytes, rng),
    }
}

fn word(bytes: &mut [u8], rng: &mut Rng) {
    let at = rng.below(bytes.len() - 1);
    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let new = match rng.below(3) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        _ => ODD[rng.below(ODD.len())],
    };
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

/// The start of one packet and the end of another.
fn splice(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let keep = rng.below(bytes.len() + 1);
    let from = rng.below(other.len() + 1);
    bytes.truncate(keep);
    bytes.extend(&other[from..]);
}

fn insert_or_remove(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len() + 1);
    let count = 1 + rng.below(8);
    if rng.below(2) == 0 {
        let new: Vec<u8> = std::iter::repeat_with(|| rng.byte()).take(count).collect();
        bytes.splice(at..at, new);
    } else {
        let end = (at + count).min(bytes.len());
        bytes.drain(at..end);
    }
}

/// Makes the outer checksum right again, where there is one.
fn fix_checksum(packet: &mut Received) {
    let l3 = match (packet.port, ether::parse(&packet.bytes)) {
        (TUN, _) => Some(0),
        (_, Some(header)) if header.ether_type == ether::TYPE_IPV4 => Some(header.len),
        _ => None,
    };
    if let Some(packet) = l3.and_then(|l3| packet.bytes.get_mut(l3..))
        && packet.first().is_some_and(|byte| byte >> 4 == 4)
    {
        fix_ipv4_checksum(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::OUTSIDE;
    use sixferry_fwd::DropReason;

    #[test]
    fn every_seed_is_treated_as_its_name_says() {
        let mut relay = CheckedRelay::new(&crate::relay::Plan::PLAIN);
        for seed in seeds() {
            let outcome = relay.outcomes(std::slice::from_ref(&seed.packet));
            let got = outcome[0].verdict;
            let sound = match seed.name {
                "decap" | "decap-large" | "decap-hairpin" | "encap" | "encap-exact"
                | "encap-tagged" | "encap-one-armed" | "outer-padded" | "outer-tagged" => {
                    matches!(got, Verdict::Tx(_))
                }
                "decap-spoofed" => got == Verdict::Drop(DropReason::InnerSrcSpoof),
                "decap-loop" => got == Verdict::Drop(DropReason::LoopSameTunnel),
                "nud" | "resolve" | "duplicate-probe" | "echo-link-local" | "encap-too-big"
                | "encap-hop-limit" | "native-echo-router" => matches!(got, Verdict::Answer(_)),
                "unknown-peer" => got == Verdict::Drop(DropReason::NoTunnel),
                "outer-fragment" => got == Verdict::Drop(DropReason::V4Fragment),
                "icmp4-too-big" => got == Verdict::Drop(DropReason::Icmp4StaticMtu),
                "raw-ipv4" | "raw-ipv6" => got == Verdict::Drop(DropReason::PortDown),
                _ => true,
            };
            assert!(sound, "{}: {got:?}", seed.name);
        }
    }

    #[test]
    fn mutations_reach_nearly_every_drop_reason_of_the_path() {
        // what a fragment of the path never drops for: other mechanisms, rings, reassembly
        let run = run(200_000, 1);
        let reached = run.counters.drops.iter().filter(|d| d.packets > 0).count();
        assert!(reached > 35, "{reached} of {}", DropReason::COUNT);
        assert!(run.counters.forwarded.packets > 1000 && run.counters.answered.packets > 1000);
        assert!(run.counters.punts.iter().all(|count| *count > 0));
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let (one, again, other) = (run(20_000, 5), run(20_000, 5), run(20_000, 6));
        assert_eq!((one.counters, one.digest), (again.counters, again.digest));
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn ports_of_seeds_exist() {
        assert!(seeds().iter().all(|seed| seed.packet.port <= TUN));
        assert!(seeds().iter().any(|seed| seed.packet.port == OUTSIDE));
    }
}
