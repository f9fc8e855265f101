//! What to send: encapsulation, addresses, flows, sizes, time tags; and the frames themselves, from which
//! the XDP program has its template and which the other sender sends.

use super::sizes::Sizes;
use crate::frame;
use crate::population::{self, LOCAL, NATIVE};
use serde::{Deserialize, Serialize};
use sixferry_wire::{checksum, ether, ipv4, ipv6, udp};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Address of the first tunnel's peer.
pub const FIRST_PEER: u32 = 0x0a40_0000;
/// `TAG_LEN` of `bpf/tag.h`.
pub const TAG_LEN: usize = 12;
/// `TAG_MAGIC` of `bpf/tag.h`.
const TAG_MAGIC: u32 = 0x7466_7873;
/// What the inner UDP header needs at least.
const UDP_LEN: usize = udp::HEADER_LEN;
/// The longest frame that the kernel takes for a live one is a page less its own needs.
pub const FRAME_MAX: usize = 3300;
/// The port of RFC 4380.
pub const TEREDO_PORT: u16 = 3544;
/// More flows than anybody has tunnels, few enough for a table of them.
const FLOWS_MAX: u32 = 1 << 24;

/// What is around the IPv6 packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// Nothing: to the tunnels.
    Native,
    /// IPv4, protocol 41 (RFC 4213); each flow is a tunnel.
    #[value(name = "6in4")]
    SixInFour,
    /// The same with the inner source of RFC 3056.
    #[value(name = "6to4")]
    SixToFour,
    /// UDP over IPv4; each flow is a tunnel.
    Udp,
    /// UDP over IPv4, with the inner source of RFC 4380 behind a cone NAT that keeps ports.
    Teredo,
}

impl Encapsulation {
    /// Bytes of the outer headers.
    #[must_use]
    pub const fn outer_len(self) -> usize {
        match self {
            Self::Native => 0,
            Self::SixInFour | Self::SixToFour => ipv4::HEADER_LEN,
            Self::Udp | Self::Teredo => ipv4::HEADER_LEN + UDP_LEN,
        }
    }

    /// The shortest frame: inner UDP without payload.
    #[must_use]
    pub const fn frame_min(self) -> usize {
        ether::HEADER_LEN + self.outer_len() + ipv6::HEADER_LEN + UDP_LEN
    }
}

/// Who sends to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Hardware address of the sender.
    pub source_mac: [u8; 6],
    /// Hardware address of the device under test.
    pub destination_mac: [u8; 6],
    /// The relay's end of the tunnels.
    pub relay: Ipv4Addr,
    /// The relay's UDP port, where the encapsulation has one.
    pub relay_port: u16,
    /// The first flow's end; the next flow has the next address.
    pub first_peer: Ipv4Addr,
    /// The UDP port of all peers.
    pub peer_port: u16,
    /// The first flow's /48; the next flow has the next one. With 6to4 and Teredo the addresses of the
    /// peers tell flows apart, and this is the /16 or /32 they are in.
    pub first_prefix: Ipv6Addr,
    /// The native side's address.
    pub native: Ipv6Addr,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            source_mac: frame::OUTSIDE_MAC,
            destination_mac: frame::RELAY_MAC,
            relay: LOCAL,
            relay_port: TEREDO_PORT,
            first_peer: Ipv4Addr::from(FIRST_PEER),
            peer_port: 40_000,
            first_prefix: Ipv6Addr::from(prefix(0)),
            native: NATIVE,
        }
    }
}

/// The /48 of a flow, with the default addresses.
#[must_use]
pub fn prefix(flow: u32) -> u128 {
    0x2a00 << 112 | u128::from(flow) << 80
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Out of tunnels, or native.
    pub encapsulation: Encapsulation,
    /// Tunnels they belong to.
    pub flows: u32,
    /// Lengths of the frames, without FCS.
    pub sizes: Sizes,
    /// Every so many frames one has a time tag; 0: none.
    pub tag_every: u32,
    /// Frames that a sender which lost its CPU may be late with, sent at once when it is back.
    pub catch_up: u32,
    /// Frames of one go; fewer leave earlier.
    pub batch: u32,
    /// Who sends to whom.
    pub addresses: Addresses,
    /// Native packets go to so many prefixes of all usual lengths instead, a flow each.
    #[serde(default)]
    pub routes: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            encapsulation: Encapsulation::SixInFour,
            flows: 1,
            sizes: Sizes::one(Encapsulation::SixInFour.frame_min()),
            tag_every: 0,
            catch_up: 2048,
            batch: 64,
            addresses: Addresses::default(),
            routes: false,
        }
    }
}

/// The 32 bits of the inner address that tell flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowBits {
    /// Where they are in the frame.
    pub(super) at: usize,
    /// Those of the first flow.
    pub(super) base: u32,
    /// All ones where they are written inverted.
    pub(super) mask: u32,
}

impl Traffic {
    /// Checks what cannot be generated.
    ///
    /// # Errors
    /// Says why.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=FLOWS_MAX).contains(&self.flows) {
            return Err(format!("{} flows: 1 to {FLOWS_MAX}", self.flows));
        }
        let tag = if self.tag_every > 0 { TAG_LEN } else { 0 };
        let least = self.encapsulation.frame_min() + tag;
        let (shortest, longest) = (self.sizes.shortest(), self.sizes.longest());
        if shortest < least {
            let why = if tag > 0 { " with a time tag" } else { "" };
            return Err(format!("frames of {shortest} bytes: need {least}{why}"));
        }
        if longest > FRAME_MAX {
            return Err(format!("frames of {longest} bytes: at most {FRAME_MAX}"));
        }
        if !(1..=256).contains(&self.batch) {
            return Err(format!("batches of {}: 1 to 256", self.batch));
        }
        Ok(())
    }

    /// The flow of the n-th frame, as the XDP program has it.
    #[must_use]
    pub fn flow(&self, number: u32) -> u32 {
        let place = u64::from(number.wrapping_mul(2_654_435_761)) * u64::from(self.flows);
        u32::try_from(place >> 32).unwrap_or(0)
    }

    /// Upper halves of the inner address of each flow, if there is no rule for them.
    pub(super) fn destinations(&self) -> Vec<u64> {
        if !self.routes {
            return Vec::new();
        }
        let top = |prefix: u128| u64::try_from(prefix >> 64).unwrap_or(0);
        let prefixes = population::route_prefixes(self.flows as usize);
        prefixes.map(|prefix| top(prefix.bits())).collect()
    }

    pub(super) fn flow_bits(&self) -> FlowBits {
        const SOURCE: usize = 8;
        const DESTINATION: usize = 24;
        let inner = ether::HEADER_LEN + self.encapsulation.outer_len();
        let peer = u32::from(self.addresses.first_peer);
        let prefix = u128::from(self.addresses.first_prefix);
        let word = u32::try_from(prefix >> 80 & u128::from(u32::MAX)).unwrap_or(0);
        let bits = |field: usize, within: usize, base: u32, mask: u32| FlowBits {
            at: inner + field + within,
            base,
            mask,
        };
        match self.encapsulation {
            Encapsulation::Native => bits(DESTINATION, 2, word, 0),
            Encapsulation::SixInFour | Encapsulation::Udp => bits(SOURCE, 2, word, 0),
            Encapsulation::SixToFour => bits(SOURCE, 2, peer, 0),
            Encapsulation::Teredo => bits(SOURCE, 12, peer, u32::MAX),
        }
    }

    /// The inner address on the tunnels' side; what tells flows apart is added later.
    fn tunnel_side(&self) -> u128 {
        const HOST: u128 = 0x1_0000_0000_0001;
        let prefix = u128::from(self.addresses.first_prefix);
        match self.encapsulation {
            Encapsulation::SixToFour => 0x2002 << 112 | HOST,
            Encapsulation::Teredo => {
                let server = u128::from(u32::from(self.addresses.relay));
                let port = u128::from(!self.addresses.peer_port);
                0x2001 << 112 | server << 64 | 0x8000 << 48 | port << 32
            }
            _ => prefix >> 64 << 64 | HOST,
        }
    }

    /// Writes a frame of a flow into `out` and returns its length.
    ///
    /// # Panics
    /// When `out` cannot hold it.
    pub(super) fn write(&self, out: &mut [u8], len: usize, flow: u32) {
        let outer_len = self.encapsulation.outer_len();
        let at = ether::HEADER_LEN + outer_len;
        let ether_type = if outer_len > 0 {
            ether::TYPE_IPV4
        } else {
            ether::TYPE_IPV6
        };
        let to = &self.addresses;
        let link = frame::chunk(out, 0);
        ether::emit(link, to.destination_mac, to.source_mac, ether_type);
        if outer_len > 0 {
            self.write_outer(out, len, flow);
        }
        let (mut src, mut dst) = (self.tunnel_side(), u128::from(to.native));
        if outer_len == 0 {
            (src, dst) = (dst, src);
        }
        frame::write_inner(&mut out[at..len], src, dst);
        let bits = self.flow_bits();
        *frame::chunk(out, bits.at) = (bits.base.wrapping_add(flow) ^ bits.mask).to_be_bytes();
    }

    fn write_outer(&self, out: &mut [u8], len: usize, flow: u32) {
        let total = u16::try_from(len - ether::HEADER_LEN).unwrap_or(u16::MAX);
        let is_udp = self.encapsulation.outer_len() > ipv4::HEADER_LEN;
        let repr = ipv4::Repr {
            tos: 0,
            total_len: total,
            identification: 0,
            df: false,
            ttl: 64,
            protocol: if is_udp {
                ipv4::PROTO_UDP
            } else {
                ipv4::PROTO_IPV6
            },
            src: u32::from(self.addresses.first_peer)
                .wrapping_add(flow)
                .to_be_bytes(),
            dst: self.addresses.relay.octets(),
        };
        repr.emit(frame::chunk(out, ether::HEADER_LEN));
        if is_udp {
            let to = &self.addresses;
            let header = frame::chunk(out, ether::HEADER_LEN + ipv4::HEADER_LEN);
            let len = total - ipv4::HEADER_LEN as u16;
            udp::emit(header, to.peer_port, to.relay_port, len);
        }
    }

    /// The longest frame of the first flow.
    pub(super) fn template(&self) -> Vec<u8> {
        let len = self.sizes.longest();
        let mut bytes = vec![0; len];
        self.write(&mut bytes, len, 0);
        bytes
    }

    /// Sum of the IPv4 header without source, length and checksum.
    pub(super) fn checksum_base(&self) -> u32 {
        let template = self.template();
        let header = &template[ether::HEADER_LEN..ether::HEADER_LEN + ipv4::HEADER_LEN];
        let mut bytes = header.to_vec();
        for field in [2..4, 10..12, 12..16] {
            bytes[field].fill(0);
        }
        u32::from(checksum::fold(checksum::sum(&bytes)))
    }
}

/// Ends a frame with a time tag.
pub(super) fn tag(bytes: &mut [u8], clock: u64) {
    if let Some(place) = bytes.last_chunk_mut::<TAG_LEN>() {
        place[..4].copy_from_slice(&TAG_MAGIC.to_ne_bytes());
        place[4..].copy_from_slice(&clock.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(encapsulation: Encapsulation) -> Traffic {
        Traffic {
            encapsulation,
            flows: 1000,
            sizes: Sizes::one(200),
            ..Traffic::default()
        }
    }

    #[test]
    fn every_encapsulation_is_read_by_another_parser() {
        for encapsulation in [
            Encapsulation::Native,
            Encapsulation::SixInFour,
            Encapsulation::SixToFour,
            Encapsulation::Udp,
            Encapsulation::Teredo,
        ] {
            let mut bytes = vec![0; 200];
            traffic(encapsulation).write(&mut bytes, 200, 7);
            let outer = etherparse::SlicedPacket::from_ethernet(&bytes).expect("a frame");
            let inner = match encapsulation {
                Encapsulation::Native => bytes[14..].to_vec(),
                other => bytes[14 + other.outer_len()..].to_vec(),
            };
            let (ip, _) = etherparse::Ipv6Header::from_slice(&inner).expect("an IPv6 header");
            assert_eq!(usize::from(ip.payload_length) + 40, inner.len());
            let peer = Ipv4Addr::from(FIRST_PEER + 7);
            if let Some(etherparse::NetSlice::Ipv4(ipv4)) = outer.net {
                assert_eq!(ipv4.header().source_addr(), peer);
                let header = ipv4.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
            let source = Ipv6Addr::from(ip.source);
            let expected: Ipv6Addr = match encapsulation {
                Encapsulation::Native => NATIVE,
                Encapsulation::SixToFour => "2002:a40:7:0:1::1".parse().expect("an address"),
                Encapsulation::Teredo => "2001:0:c612:1:8000:63bf:f5bf:fff8".parse().expect("one"),
                _ => "2a00:0:7:0:1::1".parse().expect("an address"),
            };
            assert_eq!(source, expected, "{encapsulation:?}");
        }
    }

    #[test]
    fn all_flows_come_and_in_no_order() {
        let traffic = traffic(Encapsulation::SixInFour);
        let flows: Vec<u32> = (0..10_000).map(|number| traffic.flow(number)).collect();
        let mut seen = flows.clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert!(flows.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1));
    }

    #[test]
    fn what_cannot_be_generated_is_refused() {
        let good = traffic(Encapsulation::Udp);
        assert_eq!(good.check(), Ok(()));
        let with = |change: fn(&mut Traffic)| {
            let mut traffic = good.clone();
            change(&mut traffic);
            traffic.check().is_err()
        };
        assert!(with(|traffic| traffic.flows = 0));
        assert!(with(|traffic| traffic.sizes = Sizes::one(89)));
        assert!(with(|traffic| {
            traffic.sizes = Sizes::one(101);
            traffic.tag_every = 16;
        }));
        assert!(with(|traffic| traffic.sizes = Sizes::one(FRAME_MAX + 1)));
        assert!(with(|traffic| traffic.batch = 0));
    }

    #[test]
    fn the_tag_is_the_one_the_sink_looks_for() {
        let source = include_str!("../../bpf/tag.h");
        assert!(source.contains(&format!("#define TAG_LEN {TAG_LEN} ")));
        assert!(source.contains(&format!("#define TAG_MAGIC {TAG_MAGIC:#x}u ")));
    }
}
