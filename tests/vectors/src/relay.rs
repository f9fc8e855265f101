//! A small relay for tests of single rules: two tunnels, two ports, and packets to send through it.

use crate::harness::{NEIGHBOUR_MAC, PORT_MAC};
use etherparse::PacketBuilder;
use sixferry_fwd::{
    Batch, FRAME_LEN, HEADROOM, IpId, Ipv4Prefix, Ipv6Prefix, Local, LocalConfig, NextHop,
    NextHopId, NextHopState, Packet, PortConfig, PortId, PortKind, PuntInfo, RateLimits, Route,
    RouteSource, Settings, Tables, TablesBuilder, Ticks, TunnelId, TunnelLink, TunnelSpec, Verdict,
    WorkerCounters, process,
};
use sixferry_wire::{ether, ipv4, udp as wire_udp};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The relay's tunnel address.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Far end of the first tunnel.
pub const REMOTE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Far end of the second.
pub const REMOTE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// The relay's router address.
pub const ROUTER: &str = "2001:db8:ffff::1";
/// A native host.
pub const HOST: &str = "2001:db8:77::1";
/// A user of the first tunnel, 2001:db8:100::/48.
pub const USER_A: &str = "2001:db8:100::5";
/// A user of the second, 2001:db8:200::/48.
pub const USER_B: &str = "2001:db8:200::5";
/// The relay's address on the first tunnel's link, 2001:db8:f:1::/64.
pub const LINK_A: &str = "2001:db8:f:1::1";
/// The IPv4 side's port.
pub const OUTSIDE: PortId = PortId(0);
/// The native side's port.
pub const INSIDE: PortId = PortId(1);

/// What became of a packet: the frame that leaves behind its link header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The verdict.
    pub verdict: Verdict,
    /// The whole frame as `process` left it.
    pub frame: Vec<u8>,
    /// What the slow path is told.
    pub punt: PuntInfo,
}

impl Sent {
    /// The IP packet, its Ethernet header cut.
    #[must_use]
    pub fn ip(&self) -> &[u8] {
        let len = ether::parse(&self.frame).map_or(0, |header| header.len);
        self.frame.get(len..).unwrap_or(&[])
    }
}

/// The relay.
#[derive(Debug)]
pub struct Relay {
    /// Tables to change; [`Relay::publish`] makes it count.
    pub builder: TablesBuilder,
    /// Worker state.
    pub local: Local,
    /// The tunnel to [`REMOTE_A`].
    pub a: TunnelId,
    /// The tunnel to [`REMOTE_B`].
    pub b: TunnelId,
    /// Next hop on [`OUTSIDE`].
    pub hop4: NextHopId,
    /// Next hop on [`INSIDE`].
    pub hop6: NextHopId,
    /// The clock.
    pub now: Ticks,
    tables: Arc<Tables>,
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

/// Parses an IPv6 address of a test.
///
/// # Panics
/// On a text that is none.
#[must_use]
#[expect(clippy::expect_used, reason = "a test's own literal")]
pub fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("IPv6 address")
}

/// Parses a prefix of a test.
///
/// # Panics
/// On a text that is none.
#[must_use]
#[expect(clippy::expect_used, reason = "a test's own literal")]
pub fn prefix(text: &str) -> Ipv6Prefix {
    text.parse().expect("IPv6 prefix")
}

impl Relay {
    /// Two tunnels, one of them with a numbered link; limits off; ID 0x1234.
    ///
    /// # Panics
    /// Never: its own tunnels are valid.
    #[must_use]
    #[expect(clippy::expect_used, reason = "its own tunnels are valid")]
    pub fn new() -> Self {
        let settings = Settings {
            router_address: v6(ROUTER),
            icmp_errors: RateLimits::UNLIMITED,
            answers: RateLimits::UNLIMITED,
            ..Settings::default()
        };
        let mut builder = TablesBuilder::new(settings, 1);
        for port in [OUTSIDE, INSIDE] {
            builder.set_port(
                port,
                PortConfig {
                    kind: PortKind::Ethernet { mac: PORT_MAC },
                    mtu: 1500,
                    vlans: vec![],
                    up: true,
                },
            );
        }
        let hop = |port| NextHop {
            port,
            vlan: None,
            vlan_service_tag: false,
            src_mac: PORT_MAC,
            mtu: 1500,
            state: NextHopState::Resolved {
                dst_mac: NEIGHBOUR_MAC,
            },
        };
        let hop4 = builder.add_next_hop(hop(OUTSIDE));
        let hop6 = builder.add_next_hop(hop(INSIDE));
        builder.set_route4(Ipv4Prefix::all(), RouteSource::Kernel, Route::NextHop(hop4));
        builder.set_route6(Ipv6Prefix::all(), RouteSource::Kernel, Route::NextHop(hop6));
        let spec_a = TunnelSpec {
            prefixes: vec![prefix("2001:db8:100::/48")],
            link: Some(TunnelLink {
                prefix: prefix("2001:db8:f:1::/64"),
                address: v6(LINK_A),
            }),
            mtu: 1480,
            ..TunnelSpec::new(LOCAL, REMOTE_A)
        };
        let spec_b = TunnelSpec {
            prefixes: vec![prefix("2001:db8:200::/48")],
            mtu: 1480,
            ..TunnelSpec::new(LOCAL, REMOTE_B)
        };
        let a = builder.insert_tunnel(&spec_a).expect("tunnel a");
        let b = builder.insert_tunnel(&spec_b).expect("tunnel b");
        let tables = builder.snapshot();
        let local = Local::new(LocalConfig {
            worker: 0,
            workers: 1,
            seed: 0,
            ip_id: IpId::Fixed(0x1234),
            shared: Arc::new(WorkerCounters::new()),
            dry_run: false,
        });
        Self {
            builder,
            local,
            a,
            b,
            hop4,
            hop6,
            now: Ticks(1),
            tables,
        }
    }

    /// Publishes what the builder has.
    pub fn publish(&mut self) {
        self.tables = self.builder.snapshot();
    }

    /// Changes a tunnel and publishes.
    ///
    /// # Panics
    /// When the builder refuses.
    #[expect(clippy::expect_used, reason = "a test's own change")]
    pub fn change(&mut self, id: TunnelId, edit: impl FnOnce(&mut TunnelSpec)) {
        let mut spec = self.builder.tunnel(id).expect("tunnel");
        edit(&mut spec);
        self.builder.update_tunnel(id, &spec).expect("valid change");
        self.publish();
    }

    /// Sends one Ethernet frame.
    ///
    /// # Panics
    /// When it does not fit.
    #[expect(clippy::expect_used, reason = "a test's own frame")]
    pub fn frame(&mut self, port: PortId, bytes: &[u8]) -> Sent {
        self.frames(port, &[bytes.to_vec()])
            .pop()
            .expect("one verdict")
    }

    /// Sends several frames as one batch.
    ///
    /// # Panics
    /// When they do not fit.
    #[expect(clippy::expect_used, reason = "a test's own frames")]
    pub fn frames(&mut self, port: PortId, frames: &[Vec<u8>]) -> Vec<Sent> {
        let mut buffers = vec![[0u8; FRAME_LEN]; frames.len()];
        let mut batch = Batch::new();
        for (buffer, bytes) in buffers.iter_mut().zip(frames) {
            buffer
                .get_mut(HEADROOM..HEADROOM + bytes.len())
                .expect("fits")
                .copy_from_slice(bytes);
            let packet = Packet::new(buffer, HEADROOM, bytes.len(), port).expect("fits");
            batch.push(packet).expect("room");
        }
        process(&mut batch, &self.tables, &mut self.local, self.now);
        let verdicts = batch.verdicts().iter().zip(batch.packets()).enumerate();
        verdicts
            .map(|(i, (verdict, packet))| Sent {
                verdict: *verdict,
                frame: packet.bytes().to_vec(),
                punt: batch.punt_info(i),
            })
            .collect()
    }

    /// Sends an IPv6 packet in from the native side.
    pub fn native(&mut self, packet: &[u8]) -> Sent {
        self.frame(INSIDE, &ethernet(ether::TYPE_IPV6, packet))
    }

    /// Sends an IPv6 packet in as protocol 41.
    pub fn decapsulated(&mut self, src: Ipv4Addr, dst: Ipv4Addr, inner: &[u8]) -> Sent {
        let packet = in_ipv4(src, dst, ipv4::PROTO_IPV6, 0, inner);
        self.frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, &packet))
    }

    /// Sends an IPv6 packet in through the tunnel of `remote`.
    pub fn tunnelled(&mut self, remote: Ipv4Addr, packet: &[u8]) -> Sent {
        self.frame(
            OUTSIDE,
            &ethernet(ether::TYPE_IPV4, &outer(remote, 0, packet)),
        )
    }
}

/// An Ethernet frame to the relay.
#[must_use]
pub fn ethernet(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut header = [0; ether::HEADER_LEN];
    ether::emit(&mut header, PORT_MAC, NEIGHBOUR_MAC, ether_type);
    [&header, packet].concat()
}

/// A protocol-41 packet from `remote` to the relay, TOS as given.
#[must_use]
pub fn outer(remote: Ipv4Addr, tos: u8, inner: &[u8]) -> Vec<u8> {
    in_ipv4(remote, LOCAL, ipv4::PROTO_IPV6, tos, inner)
}

/// An IPv4 packet, ID 7, DF clear, TTL 61.
#[must_use]
pub fn in_ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ipv4::HEADER_LEN];
    ipv4::Repr {
        tos,
        total_len: u16::try_from(20 + payload.len()).unwrap_or(u16::MAX),
        identification: 7,
        df: false,
        ttl: 61,
        protocol,
        src: src.octets(),
        dst: dst.octets(),
    }
    .emit(&mut header);
    [&header, payload].concat()
}

/// A UDP datagram in IPv4, with a checksum.
#[must_use]
pub fn in_udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut header = [0; wire_udp::HEADER_LEN];
    let len = u16::try_from(header.len() + payload.len()).unwrap_or(u16::MAX);
    wire_udp::emit(&mut header, src.1, dst.1, len);
    let mut datagram = [&header, payload].concat();
    let sum = wire_udp::compute_checksum(src.0.octets(), dst.0.octets(), &datagram);
    if let Some(field) = datagram.get_mut(6..8) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    in_ipv4(src.0, dst.0, ipv4::PROTO_UDP, 0, &datagram)
}

/// A UDP packet of `payload` bytes.
///
/// # Panics
/// When it exceeds what IPv6 can carry.
#[must_use]
#[expect(clippy::expect_used, reason = "writing to a Vec")]
pub fn udp(src: &str, dst: &str, hop_limit: u8, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(v6(src).octets(), v6(dst).octets(), hop_limit).udp(1000, 9);
    let mut out = Vec::new();
    builder
        .write(&mut out, &vec![0xa5; payload])
        .expect("packet");
    out
}

/// An ICMPv6 message with a right checksum.
#[must_use]
pub fn icmp(src: &str, dst: &str, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    use sixferry_wire::{icmpv6, ipv6};
    let (src, dst) = (u128::from(v6(src)), u128::from(v6(dst)));
    let mut message = message.to_vec();
    let sum = icmpv6::compute_checksum(src, dst, &message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let mut header = [0; ipv6::HEADER_LEN];
    let payload_len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    ipv6::Repr {
        payload_len,
        next_header: ipv6::NH_ICMPV6,
        hop_limit,
        src,
        dst,
    }
    .emit(&mut header);
    [&header[..], &message].concat()
}

/// An echo request.
#[must_use]
pub fn echo(src: &str, dst: &str) -> Vec<u8> {
    icmp(src, dst, 64, &[128, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
}
