//! Fragments: what the packet path hands to reassembly, and what comes of it.

use sixferry_fwd::fragment::fragment;
use sixferry_fwd::reassembly::{Limits, Outcome, Reassembler};
use sixferry_fwd::{DropReason, PuntReason, Settings, Ticks, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, Sent, USER_A, ethernet, in_ipv4,
    outer, udp,
};
use sixferry_wire::{checksum, ether, ipv4};
use std::net::Ipv4Addr;

/// A relay and its slow path, as far as fragments go.
struct Both {
    relay: Relay,
    slow: Reassembler,
}

impl Both {
    fn new() -> Self {
        let mut relay = Relay::new();
        let settings = relay.builder.settings().clone();
        relay.builder.set_settings(Settings {
            punt_subscriptions: 1 << PuntReason::Fragment.index(),
            ..settings
        });
        relay.publish();
        Self {
            relay,
            slow: Reassembler::new(Limits::default()),
        }
    }

    /// Sends an IPv4 packet; its verdict, or that of the datagram it completed.
    fn send(&mut self, packet: &[u8]) -> Result<Sent, Outcome> {
        let sent = self
            .relay
            .frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, packet));
        if sent.verdict != Verdict::Punt(PuntReason::Fragment) {
            return Ok(sent);
        }
        let may_open = sent.punt.tunnel.is_some();
        match self.slow.push(sent.ip(), may_open, self.relay.now) {
            Outcome::Complete(whole) => Ok(self
                .relay
                .frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, &whole.packet))),
            other => Err(other),
        }
    }
}

fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut buffer = [0; 2048];
    fragment(packet, mtu, &mut buffer, |piece| {
        pieces.push(piece.to_vec())
    })
    .expect("DF is clear");
    pieces
}

#[test]
fn inner_packet_of_1500_bytes_arrives_in_three_fragments_of_any_order() {
    let inner = udp(USER_A, HOST, 64, 1500 - 48);
    let pieces = cut(&outer(REMOTE_A, 0, &inner), 576);
    assert_eq!(pieces.len(), 3);
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut both = Both::new();
        for at in &order[..2] {
            assert_eq!(
                both.send(&pieces[*at]).expect_err("incomplete"),
                Outcome::Held
            );
        }
        let sent = both.send(&pieces[order[2]]).expect("complete");
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
        assert_eq!(sent.ip().len(), inner.len());
        assert_eq!(sent.ip()[8..], inner[8..]);
    }
}

#[test]
fn stranger_opens_nothing() {
    let mut both = Both::new();
    let stranger = Ipv4Addr::new(203, 0, 113, 77);
    for piece in cut(&outer(stranger, 0, &udp(USER_A, HOST, 64, 1000)), 576) {
        let sent = both.send(&piece).expect("a verdict at once");
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoTunnel));
    }
    // neither does a protocol that no tunnel speaks there
    for protocol in [1, 6, 17, 47] {
        let packet = in_ipv4(REMOTE_A, LOCAL, protocol, 0, &[7; 1000]);
        for piece in cut(&packet, 576) {
            let sent = both.send(&piece).expect("a verdict at once");
            assert!(
                matches!(sent.verdict, Verdict::Drop(_)),
                "{protocol}: {sent:?}"
            );
        }
    }
    assert_eq!(both.slow.contexts(), 0);
}

#[test]
fn fragments_of_two_tunnels_with_one_id_stay_apart() {
    let mut both = Both::new();
    let a = cut(&outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 700)), 576);
    let b = cut(&outer(REMOTE_B, 0, &udp(USER_A, HOST, 64, 700)), 576);
    both.send(&a[0]).expect_err("held");
    both.send(&b[1]).expect_err("held");
    assert_eq!(
        both.send(&a[1]).expect("whole").verdict,
        Verdict::Tx(INSIDE)
    );
    // A's source in B's tunnel: the checks come after reassembly
    let spoofed = both.send(&b[0]).expect("whole");
    assert_eq!(spoofed.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
}

#[test]
fn bad_headers_never_reach_reassembly() {
    let mut both = Both::new();
    let mut piece = cut(&outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 700)), 576).remove(0);
    piece[10] ^= 1;
    let sent = both.send(&piece).expect("a verdict");
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Checksum));
    piece[10] ^= 1;
    let sent = both.send(&piece[..100]).expect("a verdict");
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Length));
    // without anybody to reassemble
    let mut plain = Relay::new();
    let sent = plain.frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, &piece));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Fragment));
    let sent = plain.decapsulated(REMOTE_A, LOCAL, &udp(USER_A, HOST, 64, 700));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

/// A first fragment of some datagram, of 576 bytes.
fn first(src: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut packet = outer(src, 0, &[0x60; 552]);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] = 0x20;
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(ipv4::Header(packet.first_chunk().expect("header")).is_fragment());
    packet
}

#[test]
fn flood_of_first_fragments_keeps_memory_flat() {
    const FLOOD: u32 = 100_000;
    let limits = Limits::default();
    let mut slow = Reassembler::new(limits);
    let mut dropped = 0;
    let info = allocation_counter::measure(|| {
        for i in 0..FLOOD {
            // ten sources in turn are noisy, the others send once
            let host = if i % 2 == 0 { i % 10 } else { i };
            let [.., b, c, d] = host.to_be_bytes();
            let id = u16::try_from(i >> 1 & 0xffff).expect("masked");
            let packet = first(Ipv4Addr::new(20, b, c, d), id);
            let now = Ticks(u64::from(i) * 10_000);
            assert_eq!(slow.push(&packet, true, now), Outcome::Held);
            assert!(slow.memory() <= limits.bytes && slow.contexts() <= limits.contexts);
            if i % 1000 == 0 {
                dropped += slow.expire(now).iter().map(|d| d.packets).sum::<u64>();
            }
        }
    });
    let end = Ticks(u64::from(FLOOD) * 10_000);
    dropped += slow.expire(end).iter().map(|d| d.packets).sum::<u64>();
    assert_eq!(dropped + slow.held_packets(), u64::from(FLOOD));
    assert!(slow.held_packets() > 500, "the flood fills it");
    // what the limit counts is what the process really takes
    assert!(info.bytes_max < limits.bytes as u64 * 5 / 4, "{info:?}");
    let later = Ticks(end.0 + limits.timeout_ticks);
    assert_eq!(
        slow.expire(later)
            .iter()
            .map(|d| d.reason)
            .collect::<Vec<_>>(),
        [DropReason::ReasmTimeout]
    );
    assert_eq!((slow.contexts(), slow.memory()), (0, 0));
}

#[test]
fn one_source_cannot_starve_another() {
    let mut slow = Reassembler::new(Limits::default());
    let victim = cut(&outer(REMOTE_B, 0, &udp(USER_A, HOST, 64, 1400)), 576);
    slow.push(&victim[0], true, Ticks(0));
    for id in 0..10_000 {
        slow.push(&first(REMOTE_A, id), true, Ticks(1));
    }
    assert_eq!(slow.contexts(), 5);
    slow.push(&victim[2], true, Ticks(2));
    let outcome = slow.push(&victim[1], true, Ticks(2));
    assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
}
