//! Damaged packets: no panic, each one has a verdict and is counted.

use sixferry_bench::mutate;
use sixferry_bench::seeds::fix_ipv4_checksum;
use sixferry_vectors::harness::Harness;
use sixferry_vectors::schema::{VectorFile, unhex};
use sixferry_wire::ether;
use std::fs;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/proto41.json");

/// The systematic part (every seed cut at every length, every header bit flipped) and as many
/// random ones again.
#[test]
fn three_hundred_thousand_mutated_packets_are_accounted_for() {
    assert!(mutate::systematic_len() < 150_000, "room for random ones");
    let run = mutate::run(300_000, 0x51f7);
    assert_eq!(run.sent, 300_000);
    assert_eq!(run.counters.received.packets, 300_000);
}

fn vectors() -> VectorFile {
    let text = fs::read_to_string(VECTORS).expect("the project's vectors");
    serde_json::from_str(&text).expect("the vectors' schema")
}

/// Sends every input packet of the vectors, changed by `change`, to its own configuration.
fn each_vector(change: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> u64 {
    let file = vectors();
    let mut sent = 0;
    for vector in &file.vectors {
        // configurations of mechanisms that this version lacks are not for this harness
        let Ok(mut harness) = Harness::new(&file.configs[&vector.config]) else {
            continue;
        };
        let mut own = 0;
        for text in vector.in_hex.as_slice() {
            let packet = unhex(text).expect("hexadecimal");
            let ether_type = match packet.first().map(|byte| byte >> 4) {
                Some(6) => ether::TYPE_IPV6,
                _ => ether::TYPE_IPV4,
            };
            for bytes in change(&packet) {
                let mut frame = vec![0; ether::HEADER_LEN];
                let header = frame.first_chunk_mut().expect("as long as the header");
                ether::emit(header, [2; 6], [4; 6], ether_type);
                frame.extend(bytes);
                harness.send_frame(&frame).expect("a verdict");
                own += 1;
            }
        }
        let counters = harness.counters();
        assert_eq!(counters.received.packets, own, "{}", vector.name);
        assert_eq!(counters.unaccounted(), 0, "{}", vector.name);
        sent += own;
    }
    sent
}

#[test]
fn vectors_cut_at_every_length_are_counted() {
    let sent = each_vector(|packet| (0..=packet.len()).map(|len| packet[..len].into()).collect());
    assert!(sent > 10_000, "{sent}");
}

#[test]
fn vectors_with_any_header_bit_flipped_are_counted() {
    let sent = each_vector(|packet| {
        (0..packet.len().min(100) * 8)
            .map(|bit| {
                let mut bytes = packet.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                if bytes[0] >> 4 == 4 && !(10..12).contains(&(bit / 8)) {
                    fix_ipv4_checksum(&mut bytes);
                }
                bytes
            })
            .collect()
    });
    assert!(sent > 30_000, "{sent}");
}
