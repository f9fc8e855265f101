use super::*;
use proptest::prelude::*;

const A: [u8; 4] = [192, 0, 2, 10];
const B: [u8; 4] = [192, 0, 2, 20];
const SECOND: u64 = Ticks::PER_SECOND;
// RFC 4213 section 3.6, over UDP too
const _: () = assert!(MAX_PACKET >= 1500 + 28);

/// A fragment of a protocol-41 packet; offset in bytes.
fn piece(src: [u8; 4], id: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    let flag = if more { ipv4::MF } else { 0 };
    let word = flag | u16::try_from(offset / 8).expect("13 bits");
    raw(src, id, word, 41, 0, payload)
}

fn raw(src: [u8; 4], id: u16, word: u16, protocol: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, tos];
    header.extend(
        u16::try_from(20 + payload.len())
            .expect("short")
            .to_be_bytes(),
    );
    header.extend(id.to_be_bytes());
    header.extend(word.to_be_bytes());
    header.extend([61, protocol, 0, 0]);
    header.extend(src);
    header.extend([198, 51, 100, 1]);
    let sum = checksum::finish(checksum::sum(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, payload.to_vec()].concat()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn reassembler() -> Reassembler {
    Reassembler::new(Limits::default())
}

fn dropped(outcome: Outcome) -> (DropReason, u64) {
    match outcome {
        Outcome::Drop(dropped) => (dropped.reason, dropped.packets),
        other => panic!("{other:?}"),
    }
}

fn complete(outcome: Outcome) -> Rebuilt {
    match outcome {
        Outcome::Complete(rebuilt) => rebuilt,
        other => panic!("{other:?}"),
    }
}

fn empty(reassembler: &Reassembler) -> bool {
    (reassembler.held_packets(), reassembler.held_bytes()) == (0, 0)
        && reassembler.contexts() == 0
        && reassembler.memory() == 0
        && reassembler.by_key.is_empty()
        && reassembler.by_source.is_empty()
}

#[test]
fn two_fragments_in_either_order() {
    let data = bytes(1500);
    let (first, last) = (
        piece(A, 1, 0, true, &data[..1280]),
        piece(A, 1, 1280, false, &data[1280..]),
    );
    for order in [[&first, &last], [&last, &first]] {
        let mut it = reassembler();
        assert_eq!(it.push(order[0], true, Ticks(0)), Outcome::Held);
        assert_eq!(it.held_packets(), 1);
        assert_eq!(it.held_bytes(), order[0].len() as u64);
        // padding of the link is no part of it
        let padded = [order[1].as_slice(), &[0xff; 6]].concat();
        let rebuilt = complete(it.push(&padded, false, Ticks(1)));
        assert_eq!(rebuilt.packet, piece(A, 1, 0, false, &data));
        assert_eq!((rebuilt.packets, rebuilt.bytes), (2, 1540));
        assert!(empty(&it));
    }
}

#[test]
fn inner_packet_of_1500_bytes_in_three_fragments() {
    let data = bytes(1500);
    let mut it = reassembler();
    assert_eq!(
        it.push(&piece(A, 1, 1000, false, &data[1000..]), true, Ticks(0)),
        Outcome::Held
    );
    assert_eq!(
        it.push(&piece(A, 1, 0, true, &data[..504]), true, Ticks(0)),
        Outcome::Held
    );
    let rebuilt = complete(it.push(&piece(A, 1, 504, true, &data[504..1000]), true, Ticks(0)));
    assert_eq!(rebuilt.packet[20..], data);
}

#[test]
fn fragments_of_different_datagrams_do_not_mix() {
    let data = bytes(96);
    let mut it = reassembler();
    it.push(&piece(A, 1, 0, true, &data[..48]), true, Ticks(0));
    for other in [
        piece(B, 1, 48, false, &data[48..]),
        piece(A, 2, 48, false, &data[48..]),
        raw(A, 1, 6, 17, 0, &data[48..]),
    ] {
        assert_eq!(it.push(&other, true, Ticks(0)), Outcome::Held);
    }
    assert_eq!(it.contexts(), 4);
}

#[test]
fn what_is_no_fragment_comes_back() {
    let mut it = reassembler();
    let whole = piece(A, 1, 0, false, &bytes(60));
    assert_eq!(complete(it.push(&whole, false, Ticks(0))).packet, whole);
    let long = piece(A, 1, 0, false, &bytes(MAX_PACKET - 19));
    assert_eq!(
        dropped(it.push(&long, false, Ticks(0))),
        (DropReason::ReasmLimit, 1)
    );
    assert!(empty(&it));
}

#[test]
fn overlap_discards_the_datagram_and_what_comes_later() {
    let data = bytes(400);
    let overlaps = [
        (40, true, 80usize), // into the end of the first
        (48, true, 120),     // over the start of the third
        (96, true, 16),      // inside the third
        (0, true, 200),      // over all
        (80, false, 8),      // an end before the end
    ];
    for (offset, more, len) in overlaps {
        let mut it = reassembler();
        it.push(&piece(A, 1, 0, true, &data[..48]), true, Ticks(0));
        it.push(&piece(A, 1, 96, true, &data[96..144]), true, Ticks(0));
        let bad = piece(A, 1, offset, more, &data[offset..offset + len]);
        assert_eq!(
            dropped(it.push(&bad, true, Ticks(0))),
            (DropReason::ReasmOverlap, 3)
        );
        assert_eq!(
            (it.held_packets(), it.held_bytes(), it.contexts()),
            (0, 0, 1)
        );
        // a fresh set of the same name finds it dead, until its time is over
        for (at, more) in [(0, true), (48, false)] {
            let again = piece(A, 1, at, more, &data[at..at + 48]);
            let outcome = it.push(&again, true, Ticks(5 * SECOND - 1));
            assert_eq!(dropped(outcome), (DropReason::ReasmOverlap, 1));
        }
        assert!(it.expire(Ticks(5 * SECOND)).is_empty(), "counted already");
        assert!(empty(&it));
        it.push(&piece(A, 1, 0, true, &data[..48]), true, Ticks(5 * SECOND));
        let rest = piece(A, 1, 48, false, &data[48..96]);
        assert_eq!(complete(it.push(&rest, true, Ticks(5 * SECOND))).packets, 2);
    }
}

#[test]
fn second_end_and_bytes_behind_the_end_are_overlaps() {
    let data = bytes(400);
    for (offset, more) in [(96, false), (96, true), (40, true)] {
        let mut it = reassembler();
        it.push(&piece(A, 1, 40, false, &data[40..96]), true, Ticks(0));
        let bad = piece(A, 1, offset, more, &data[offset..offset + 56]);
        assert_eq!(
            dropped(it.push(&bad, true, Ticks(0))),
            (DropReason::ReasmOverlap, 2)
        );
    }
}

#[test]
fn repeated_fragment_is_ignored_and_a_changed_one_is_not() {
    let data = bytes(96);
    let first = piece(A, 1, 0, true, &data[..48]);
    let mut it = reassembler();
    for _ in 0..3 {
        assert_eq!(it.push(&first, true, Ticks(0)), Outcome::Held);
    }
    let memory = it.memory();
    it.push(&first, true, Ticks(0));
    assert_eq!((it.held_packets(), it.memory()), (4, memory));
    let rebuilt = complete(it.push(&piece(A, 1, 48, false, &data[48..]), true, Ticks(0)));
    assert_eq!((rebuilt.packets, &rebuilt.packet[20..]), (5, &data[..]));
    it.push(&first, true, Ticks(0));
    let mut changed = first;
    changed[67] ^= 1;
    assert_eq!(
        dropped(it.push(&changed, true, Ticks(0))),
        (DropReason::ReasmOverlap, 2)
    );
}

#[test]
fn first_fragment_brings_the_inner_header() {
    let data = bytes(96);
    let cases = [
        (41, 32, false),
        (41, 40, true),
        (17, 40, false),
        (17, 48, true),
    ];
    for (protocol, len, fine) in cases {
        let mut it = reassembler();
        let first = raw(A, 1, ipv4::MF, protocol, 0, &data[..len]);
        let outcome = it.push(&first, true, Ticks(0));
        if fine {
            assert_eq!(outcome, Outcome::Held);
            continue;
        }
        assert_eq!(dropped(outcome), (DropReason::ReasmTiny, 1));
        let word = u16::try_from(len / 8).expect("small");
        let rest = raw(A, 1, word, protocol, 0, &data[len..]);
        assert_eq!(
            dropped(it.push(&rest, true, Ticks(0))),
            (DropReason::ReasmTiny, 1)
        );
    }
    // the rest came first: it goes too
    let mut it = reassembler();
    it.push(&piece(A, 1, 16, false, &data[16..]), true, Ticks(0));
    let tiny = piece(A, 1, 0, true, &data[..16]);
    assert_eq!(
        dropped(it.push(&tiny, true, Ticks(0))),
        (DropReason::ReasmTiny, 2)
    );
}

#[test]
fn malformed_fragments_fall_alone() {
    let data = bytes(96);
    let mut it = reassembler();
    it.push(&piece(A, 1, 0, true, &data[..48]), true, Ticks(0));
    let mut wrong_sum = piece(A, 1, 48, false, &data[48..]);
    wrong_sum[8] ^= 1;
    let cases = [
        (piece(A, 1, 48, true, &data[48..95]), DropReason::V4Length),
        (piece(A, 1, 48, false, &[]), DropReason::V4Length),
        (piece(A, 1, 65_528, false, &data), DropReason::V4Length),
        (
            piece(A, 1, 48, false, &data)[..60].to_vec(),
            DropReason::V4Length,
        ),
        (wrong_sum, DropReason::V4Checksum),
        (vec![0x45; 19], DropReason::V4Truncated),
        (vec![0x65; 40], DropReason::V4Version),
        (vec![0x44; 40], DropReason::V4Ihl),
    ];
    for (packet, reason) in cases {
        assert_eq!(dropped(it.push(&packet, true, Ticks(0))), (reason, 1));
    }
    let rest = piece(A, 1, 48, false, &data[48..]);
    assert_eq!(complete(it.push(&rest, true, Ticks(0))).packets, 2);
}

#[test]
fn stranger_opens_nothing_but_may_join() {
    let data = bytes(96);
    let (first, last) = (
        piece(A, 1, 0, true, &data[..48]),
        piece(A, 1, 48, false, &data[48..]),
    );
    let mut it = reassembler();
    assert_eq!(
        dropped(it.push(&first, false, Ticks(0))),
        (DropReason::NoTunnel, 1)
    );
    assert!(empty(&it));
    it.push(&first, true, Ticks(0));
    complete(it.push(&last, false, Ticks(0)));
}

#[test]
fn timeout_is_counted_from_the_first_arrival() {
    let data = bytes(144);
    let mut it = reassembler();
    it.push(&piece(A, 1, 0, true, &data[..48]), true, Ticks(SECOND));
    it.push(
        &piece(A, 1, 48, true, &data[48..96]),
        true,
        Ticks(5 * SECOND),
    );
    assert!(it.expire(Ticks(6 * SECOND - 1)).is_empty());
    let gone = it.expire(Ticks(6 * SECOND));
    let want = Dropped {
        reason: DropReason::ReasmTimeout,
        packets: 2,
        bytes: 136,
    };
    assert_eq!(gone, [want]);
    assert!(empty(&it));
    // a push that comes later than that does not join the old ones
    it.push(&piece(A, 2, 0, true, &data[..48]), true, Ticks(10 * SECOND));
    let late = piece(A, 2, 48, false, &data[48..]);
    assert_eq!(it.push(&late, true, Ticks(15 * SECOND)), Outcome::Held);
    assert_eq!(it.expire(Ticks(15 * SECOND)).len(), 1);
    assert_eq!(it.held_packets(), 1);
}

#[test]
fn too_large_is_refused_whichever_fragment_shows_it() {
    let data = bytes(48);
    let mut it = reassembler();
    it.push(&piece(A, 1, 0, true, &data), true, Ticks(0));
    let far = piece(A, 1, 1760, false, &data);
    assert_eq!(
        dropped(it.push(&far, true, Ticks(0))),
        (DropReason::ReasmLimit, 2)
    );
    let rest = piece(A, 1, 48, true, &data);
    assert_eq!(
        dropped(it.push(&rest, true, Ticks(0))),
        (DropReason::ReasmLimit, 1)
    );
    // the longest there is passes
    let data = bytes(MAX_PACKET - 20);
    it.push(&piece(A, 2, 0, true, &data[..1000]), true, Ticks(0));
    let whole = complete(it.push(&piece(A, 2, 1000, false, &data[1000..]), true, Ticks(0)));
    assert_eq!(whole.packet.len(), MAX_PACKET);
    // only the first fragment's options make it too long
    it.push(&piece(A, 3, 1000, false, &data[1000..]), true, Ticks(0));
    let mut options = piece(A, 3, 0, true, &data[..1000]);
    options.splice(20..20, [1; 8]);
    options[0] = 0x47;
    options[2..4].copy_from_slice(&1028u16.to_be_bytes());
    options[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&options[..28]));
    options[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(
        dropped(it.push(&options, true, Ticks(0))),
        (DropReason::ReasmLimit, 2)
    );
}

#[test]
fn source_evicts_its_own_oldest_and_nobody_elses() {
    let data = bytes(48);
    let mut it = reassembler();
    it.push(&piece(B, 1, 0, true, &data), true, Ticks(0));
    for id in 1..=6 {
        it.push(&piece(A, id, 0, true, &data), true, Ticks(0));
    }
    let limit = Dropped {
        reason: DropReason::ReasmLimit,
        packets: 2,
        bytes: 136,
    };
    assert_eq!(it.expire(Ticks(0)), [limit]);
    assert_eq!(it.contexts(), 5);
    for (src, id) in [(B, 1), (A, 3), (A, 4), (A, 5), (A, 6)] {
        complete(it.push(&piece(src, id, 48, false, &data), true, Ticks(0)));
    }
    assert!(empty(&it));
}

#[test]
fn all_sources_together_evict_the_oldest() {
    let data = bytes(48);
    let mut it = Reassembler::new(Limits {
        contexts: 3,
        ..Limits::default()
    });
    for source in 1..=5 {
        it.push(
            &piece([10, 0, 0, source], 1, 0, true, &data),
            true,
            Ticks(0),
        );
    }
    assert_eq!((it.contexts(), it.expire(Ticks(0))[0].packets), (3, 2));
    complete(it.push(&piece([10, 0, 0, 3], 1, 48, false, &data), true, Ticks(0)));
}

#[test]
fn memory_limit_evicts_the_oldest_even_if_that_is_the_one_growing() {
    let data = bytes(1600);
    let mut it = Reassembler::new(Limits {
        bytes: 4096,
        ..Limits::default()
    });
    it.push(&piece(A, 1, 0, true, &data[..800]), true, Ticks(0));
    it.push(&piece(A, 2, 0, true, &data[..1600]), true, Ticks(0));
    it.push(&piece(B, 4, 0, true, &data[..48]), true, Ticks(0));
    let grows = piece(A, 1, 800, true, &data[800..1600]);
    assert_eq!(
        dropped(it.push(&grows, true, Ticks(0))),
        (DropReason::ReasmLimit, 2)
    );
    it.push(&piece(B, 3, 0, true, &data[..1600]), true, Ticks(0));
    assert_eq!(it.expire(Ticks(0))[0].packets, 1, "datagram 2");
    assert!(it.memory() <= 4096);
    complete(it.push(&piece(B, 4, 48, false, &data[..8]), true, Ticks(0)));
    complete(it.push(&piece(B, 3, 1600, false, &data[..8]), true, Ticks(0)));
    assert!(empty(&it));
}

#[test]
fn congestion_marks_survive_and_contradictions_do_not() {
    let data = bytes(96);
    let cases = [
        (0, 0, Some(0)),
        (2, 2, Some(2)),
        (2, 3, Some(3)),
        (3, 1, Some(3)),
        (1, 2, Some(1)),
        (0, 3, None),
        (3, 0, None),
    ];
    for (first, second, want) in cases {
        let mut it = reassembler();
        it.push(
            &raw(A, 1, ipv4::MF, 41, 0xb8 | first, &data[..48]),
            true,
            Ticks(0),
        );
        let outcome = it.push(&raw(A, 1, 6, 41, second, &data[48..]), true, Ticks(0));
        match want {
            Some(ecn) => {
                let packet = complete(outcome).packet;
                assert_eq!(packet[1], 0xb8 | ecn);
                assert_eq!(checksum::fold(checksum::sum(&packet[..20])), 0xffff);
            }
            None => assert_eq!(dropped(outcome), (DropReason::EcnCeOnNotEct, 2)),
        }
    }
}

#[test]
fn dont_fragment_is_kept() {
    let data = bytes(96);
    let mut it = reassembler();
    it.push(
        &raw(A, 1, ipv4::DF | ipv4::MF, 41, 0, &data[..48]),
        true,
        Ticks(0),
    );
    let packet = complete(it.push(&raw(A, 1, ipv4::DF | 6, 41, 0, &data[48..]), true, Ticks(0)));
    assert_eq!(packet.packet, raw(A, 1, ipv4::DF, 41, 0, &data));
}

#[test]
fn limits_are_brought_into_range() {
    let none = Limits {
        per_source: 0,
        contexts: 0,
        bytes: 0,
        timeout_ticks: 0,
        packet_len: 0,
    };
    let it = Reassembler::new(none);
    assert_eq!(it.limits.packet_len, 576);
    assert_eq!(it.limits.timeout_ticks, SECOND);
    let all = Limits {
        per_source: usize::MAX,
        contexts: usize::MAX,
        bytes: 1 << 20,
        timeout_ticks: u64::MAX,
        packet_len: usize::MAX,
    };
    let it = Reassembler::new(all);
    assert_eq!(
        (it.limits.per_source, it.limits.packet_len),
        (64, MAX_PACKET)
    );
    assert_eq!(it.limits.timeout_ticks, 60 * SECOND);
}

/// Where to cut a datagram of `len` bytes, then in what order.
fn split(len: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    let cuts = prop::collection::btree_set(5..len.div_ceil(8), 0..len.div_ceil(8).min(40));
    cuts.prop_map(move |cuts| {
        let ends: Vec<_> = cuts.iter().map(|c| c * 8).chain([len]).collect();
        let starts = [0].into_iter().chain(ends.clone());
        starts.zip(ends.clone()).collect()
    })
    .prop_shuffle()
}

fn datagram() -> impl Strategy<Value = (Vec<u8>, Vec<(usize, usize)>)> {
    (57usize..MAX_PACKET - 20)
        .prop_flat_map(|len| (prop::collection::vec(any::<u8>(), len), split(len)))
}

/// Anything that might confuse: few sources, few names, few offsets.
fn strange() -> impl Strategy<Value = (Vec<u8>, bool, u64)> {
    let source = (0u8..6).prop_map(|n| [10, 0, 0, n]);
    let word = prop_oneof![
        (0u16..230, any::<bool>()).prop_map(|(o, m)| o | u16::from(m) << 13),
        any::<u16>()
    ];
    let payload = prop::collection::vec(0u8..2, 0..200);
    let fragment = (
        source,
        0u16..8,
        word,
        prop::sample::select(vec![41, 17]),
        0u8..4,
        payload,
    )
        .prop_map(|(src, id, word, protocol, tos, payload)| {
            raw(src, id, word, protocol, tos, &payload)
        });
    let garbage = prop::collection::vec(any::<u8>(), 0..100);
    (
        prop_oneof![9 => fragment, 1 => garbage],
        prop::bool::weighted(0.9),
        0..SECOND,
    )
}

proptest! {
    #[test]
    fn any_order_of_any_split_gives_the_packet((data, pieces) in datagram(), id in any::<u16>()) {
        let mut it = reassembler();
        let mut outcome = Outcome::Held;
        for (i, (start, end)) in pieces.iter().enumerate() {
            prop_assert_eq!(&outcome, &Outcome::Held, "before {}", i);
            let fragment = piece(A, id, *start, *end != data.len(), &data[*start..*end]);
            outcome = it.push(&fragment, true, Ticks(i as u64));
        }
        let rebuilt = complete(outcome);
        prop_assert_eq!(rebuilt.packet, piece(A, id, 0, false, &data));
        prop_assert_eq!(rebuilt.packets, pieces.len() as u64);
        prop_assert!(empty(&it));
    }

    #[test]
    fn every_fragment_is_counted_once_and_limits_hold(packets in prop::collection::vec(strange(), 1..150)) {
        let limits = Limits { per_source: 3, contexts: 8, bytes: 8192, ..Limits::default() };
        let mut it = Reassembler::new(limits);
        let (mut now, mut ended) = (0, 0);
        for (i, (packet, may_open, wait)) in packets.iter().enumerate() {
            now += wait;
            match it.push(packet, *may_open, Ticks(now)) {
                Outcome::Held => {}
                Outcome::Complete(rebuilt) => {
                    ended += rebuilt.packets;
                    prop_assert!(rebuilt.packet.len() <= MAX_PACKET);
                    prop_assert!(parse(&rebuilt.packet).is_ok_and(|f| f.offset == 0 && !f.more));
                }
                Outcome::Drop(dropped) => ended += dropped.packets,
            }
            if i % 3 == 0 {
                ended += it.expire(Ticks(now)).iter().map(|d| d.packets).sum::<u64>();
                prop_assert_eq!(ended + it.held_packets(), i as u64 + 1);
            }
            prop_assert!(it.memory() <= limits.bytes && it.contexts() <= limits.contexts);
            prop_assert!(it.by_key.len() == it.contexts() && it.by_source.len() == it.contexts());
        }
        ended += it.expire(Ticks(now + 5 * SECOND)).iter().map(|d| d.packets).sum::<u64>();
        prop_assert_eq!(ended, packets.len() as u64);
        prop_assert!(empty(&it));
    }
}
