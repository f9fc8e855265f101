//! A relay in memory whose every packet is checked against what must hold for any packet.
//!
//! Fuzz targets and the mutation runner send through it. It is set up from a few bytes, so that a
//! fuzzer can vary the tables as well as the packets; all bytes zero is a plain relay.

use crate::egress;
use crate::frame::{INSIDE_MAC, OUTSIDE_MAC, RELAY_MAC};
use crate::population::{INSIDE, OUTSIDE};
use sixferry_fwd::{
    BATCH_MAX, Batch, CounterSnapshot, Dscp, Ecn, FRAME_LEN, HEADROOM, IpId, Ipv4Prefix,
    Ipv6Prefix, Local, LocalConfig, MtuMode, NextHop, NextHopState, OuterOptions, Packet,
    PortConfig, PortId, PortKind, PuntReason, RateLimits, Route, RouteSource, Settings, Tables,
    TablesBuilder, Ticks, Ttl, TunnelId, TunnelLink, TunnelSpec, Verdict, WorkerCounters,
    link_scoped, process,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A TUN device, if the plan has it.
pub const TUN: PortId = PortId(2);
/// Ends of the tunnels on our side.
pub const LOCALS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
];
/// The relay's own address.
pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
/// The VLAN that ports accept.
pub const VLAN: u16 = 100;
/// Longest packet a frame takes.
pub const PACKET_MAX: usize = FRAME_LEN - HEADROOM;
/// Bytes of a plan.
pub const PLAN_LEN: usize = 3 + 2 * Plan::TUNNELS_MAX;

/// The peer of tunnel `k`.
#[must_use]
pub const fn remote(k: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + k)
}

/// The /48 of tunnel `k`, as a number.
#[must_use]
pub fn prefix(k: u8) -> u128 {
    0x2001_0db8 << 96 | u128::from(k + 1) << 88
}

/// How a relay is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    relay: u8,
    routes: u8,
    tunnels: u8,
    each: [[u8; 2]; Self::TUNNELS_MAX],
}

const fn bit(byte: u8, at: u32) -> bool {
    byte >> at & 1 == 1
}

impl Plan {
    /// Most tunnels of a plan.
    pub const TUNNELS_MAX: usize = 7;

    /// A plain relay with all tunnels.
    pub const PLAIN: Self = Self {
        relay: 0,
        routes: 0,
        tunnels: 7,
        each: [[0; 2]; Self::TUNNELS_MAX],
    };

    /// Takes a plan from the start of `data`; what is missing counts as zero. Returns the rest.
    #[must_use]
    pub fn split(data: &[u8]) -> (Self, &[u8]) {
        let (head, rest) = data.split_at(data.len().min(PLAN_LEN));
        let at = |i: usize| head.get(i).copied().unwrap_or(0);
        let plan = Self {
            relay: at(0),
            routes: at(1),
            tunnels: at(2) & 7,
            each: std::array::from_fn(|k| [at(3 + 2 * k), at(4 + 2 * k)]),
        };
        (plan, rest)
    }

    /// The bytes that [`Plan::split`] reads this plan from.
    #[must_use]
    pub fn bytes(&self) -> [u8; PLAN_LEN] {
        let mut out = [0; PLAN_LEN];
        out[..3].copy_from_slice(&[self.relay, self.routes, self.tunnels]);
        out[3..].copy_from_slice(self.each.as_flattened());
        out
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings {
            native_source_check: !bit(self.relay, 2),
            ..Settings::default()
        };
        if !bit(self.relay, 0) {
            settings.router_address = ROUTER;
        }
        if bit(self.relay, 1) {
            settings.outer_options = OuterOptions::Skip;
        }
        if bit(self.relay, 3) {
            settings.icmp_errors = RateLimits::UNLIMITED;
            settings.answers = RateLimits::UNLIMITED;
        }
        if bit(self.relay, 4) {
            settings.punt_subscriptions = u32::MAX;
        }
        settings
    }

    fn outside(&self) -> (PortConfig, NextHop) {
        // with 1290 a full packet of a tunnel has to be fragmented
        let mtu = if bit(self.routes, 2) { 1290 } else { 1500 };
        let gateway = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254));
        let state = if bit(self.relay, 5) {
            NextHopState::Unresolved { gateway }
        } else {
            NextHopState::Resolved {
                dst_mac: OUTSIDE_MAC,
            }
        };
        let (mut port, hop) = ethernet(OUTSIDE, mtu, None, state);
        port.up = !bit(self.routes, 1);
        (port, hop)
    }

    fn inside(&self) -> (PortConfig, NextHop) {
        let state = if bit(self.relay, 6) {
            NextHopState::OnLink
        } else {
            NextHopState::Resolved {
                dst_mac: INSIDE_MAC,
            }
        };
        ethernet(INSIDE, 1500, bit(self.relay, 7).then_some(VLAN), state)
    }

    fn spec(&self, k: u8) -> TunnelSpec {
        let [flags, shape] = self.each[usize::from(k)];
        let mut spec = TunnelSpec::new(LOCALS[usize::from(flags >> 7)], remote(k));
        let own = Ipv6Prefix::containing(prefix(k).into(), 48);
        spec.prefixes = match shape & 3 {
            0 => vec![own],
            1 => vec![],
            // inside the first tunnel's prefix
            2 => vec![Ipv6Prefix::containing(
                (prefix(0) | u128::from(k) << 64).into(),
                64,
            )],
            _ => {
                let more = 0x2001_0db8_0a00 << 80 | u128::from(k) << 72;
                vec![own, Ipv6Prefix::containing(more.into(), 56)]
            }
        };
        if bit(shape, 2) {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0xf, k.into(), 0, 0, 0, 1);
            spec.link = Some(TunnelLink {
                prefix: Ipv6Prefix::containing(address, 64),
                address,
            });
        }
        if bit(shape, 3) {
            spec.link_local = Some(Ipv6Addr::new(
                0xfe80,
                0,
                0,
                0,
                0,
                0,
                0,
                0x100 | u16::from(k),
            ));
        }
        spec.mtu = 1280 + u16::from(shape >> 4) * 28;
        spec.up = !bit(flags, 0);
        spec.strict_source = !bit(flags, 1);
        if bit(flags, 2) {
            spec.mtu_mode = MtuMode::Managed;
        }
        if bit(flags, 3) {
            spec.ecn = Ecn::Compat;
        }
        if bit(flags, 4) {
            spec.dscp = Dscp::Copy;
        }
        if bit(flags, 5) {
            spec.ttl = Ttl::Inherit;
        }
        spec.dscp_decap_copy = bit(flags, 6);
        spec
    }

    fn builder(&self) -> TablesBuilder {
        let mut b = TablesBuilder::new(self.settings(), 1);
        let mut install = |id, (port, hop): (PortConfig, NextHop)| {
            b.set_port(id, port);
            Route::NextHop(b.add_next_hop(hop))
        };
        let outside = install(OUTSIDE, self.outside());
        let inside = install(INSIDE, self.inside());
        if !bit(self.routes, 4) {
            // not ::/0: every fuzzer run makes new tables, and a short prefix takes a millisecond
            for block in [0x2001, 0x2002] {
                let block = Ipv6Addr::new(block, 0, 0, 0, 0, 0, 0, 0);
                let prefix = Ipv6Prefix::containing(block, 16);
                b.set_route6(prefix, RouteSource::Kernel, inside);
            }
        }
        if !bit(self.routes, 5) {
            b.set_route4(Ipv4Prefix::all(), RouteSource::Kernel, outside);
        }
        let scoped = link_scoped(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), INSIDE, 0);
        b.set_route6(
            Ipv6Prefix::containing(scoped, 64),
            RouteSource::Kernel,
            inside,
        );
        let host6 = |address| Ipv6Prefix::containing(address, 128);
        b.set_route6(host6(ROUTER), RouteSource::Kernel, Route::Local);
        for local in LOCALS {
            let host = Ipv4Prefix::containing(local, 32);
            b.set_route4(host, RouteSource::Kernel, Route::Local);
        }
        for k in 0..self.tunnels {
            // nested prefixes of two tunnels never collide, so nothing here is refused
            _ = b.insert_tunnel(&self.spec(k));
        }
        self.odd_routes(&mut b);
        b
    }

    fn odd_routes(&self, b: &mut TablesBuilder) {
        let net = |third: u16, fourth: u16, len| {
            Ipv6Prefix::containing(Ipv6Addr::new(0x2001, 0xdb8, third, fourth, 0, 0, 0, 0), len)
        };
        if bit(self.routes, 0) {
            b.set_port(
                TUN,
                PortConfig {
                    kind: PortKind::RawIp,
                    mtu: 1500,
                    vlans: vec![],
                    up: true,
                },
            );
            let state = NextHopState::Resolved { dst_mac: [0; 6] };
            let (_, hop) = ethernet(TUN, 1500, None, state);
            let to_host = Route::NextHop(b.add_next_hop(hop));
            b.set_route6(net(0x300, 0x99, 64), RouteSource::Kernel, to_host);
            b.set_route6(net(0x77, 0, 48), RouteSource::Kernel, to_host);
        }
        if bit(self.routes, 3) {
            b.set_route6(net(0xb1, 0, 48), RouteSource::Api, Route::Blackhole);
            b.set_route6(net(0xb2, 0, 48), RouteSource::Api, Route::Unreachable);
            b.set_route6(net(0xb3, 0, 48), RouteSource::Api, Route::Prohibit);
            b.set_route6(net(0x100, 0xb1, 64), RouteSource::Api, Route::Blackhole);
        }
        if bit(self.routes, 6) {
            let route = Route::Tunnel(TunnelId(0));
            b.set_route6(net(0xc0, 0, 44), RouteSource::Api, route);
        }
        if bit(self.routes, 7) {
            let host = |k| Ipv4Prefix::containing(remote(k), 32);
            b.set_route4(host(1), RouteSource::Api, Route::Local);
            b.set_route4(host(2), RouteSource::Api, Route::Blackhole);
            b.set_route4(host(3), RouteSource::Api, Route::Unreachable);
        }
    }
}

fn ethernet(
    port: PortId,
    mtu: u16,
    vlan: Option<u16>,
    state: NextHopState,
) -> (PortConfig, NextHop) {
    let config = PortConfig {
        kind: PortKind::Ethernet { mac: RELAY_MAC },
        mtu,
        vlans: vec![VLAN],
        up: true,
    };
    let hop = NextHop {
        port,
        vlan,
        vlan_service_tag: false,
        src_mac: RELAY_MAC,
        mtu,
        state,
    };
    (config, hop)
}

/// A packet about to be received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// By which port.
    pub port: PortId,
    /// Its bytes, at most [`PACKET_MAX`].
    pub bytes: Vec<u8>,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The packet as it leaves; empty when it is dropped.
    pub bytes: Vec<u8>,
}

/// A relay that panics when anything is wrong with what it did.
#[derive(Debug)]
pub struct CheckedRelay {
    tables: Arc<Tables>,
    local: Local,
    now: Ticks,
    frames: Vec<[u8; FRAME_LEN]>,
}

impl CheckedRelay {
    /// A relay after this plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self {
            tables: plan.builder().snapshot(),
            local: Local::new(LocalConfig {
                worker: 0,
                workers: 1,
                seed: 0,
                ip_id: IpId::Counter,
                shared: Arc::new(WorkerCounters::new()),
                dry_run: false,
            }),
            now: Ticks(1),
            frames: vec![[0; FRAME_LEN]; BATCH_MAX],
        }
    }

    /// Lets time pass.
    pub const fn wait(&mut self, nanoseconds: u64) {
        self.now = Ticks(self.now.0 + nanoseconds);
    }

    /// The counters.
    #[must_use]
    pub const fn counters(&self) -> &CounterSnapshot {
        self.local.counters()
    }

    /// Processes one batch and calls `see` with each packet's verdict and final bytes.
    ///
    /// # Panics
    /// When a packet has no verdict, is not counted or counted wrongly, leaves malformed, leaves by
    /// a port that is not there, or is changed before being punted.
    pub fn send(&mut self, received: &[Received], mut see: impl FnMut(Verdict, &[u8])) {
        assert!(
            received.len() <= BATCH_MAX,
            "more packets than a batch holds"
        );
        let before = self.local.counters().clone();
        let mut batch = Batch::new();
        for (frame, packet) in self.frames.iter_mut().zip(received) {
            let len = packet.bytes.len();
            frame[HEADROOM..HEADROOM + len].copy_from_slice(&packet.bytes);
            let packet = Packet::new(frame, HEADROOM, len, packet.port).expect("it fits");
            batch.push(packet).expect("there is room");
        }
        process(&mut batch, &self.tables, &mut self.local, self.now);
        assert_eq!(batch.packets().len(), received.len(), "packets vanished");
        assert_eq!(batch.verdicts().len(), received.len(), "one verdict each");
        let mut expected = before;
        for ((input, packet), verdict) in received.iter().zip(batch.packets()).zip(batch.verdicts())
        {
            count(&mut expected, input.bytes.len(), *verdict, packet.len());
            match *verdict {
                Verdict::Tx(port) => egress::check(port, packet.bytes(), false),
                Verdict::Answer(port) => egress::check(port, packet.bytes(), true),
                Verdict::Punt(PuntReason::HostDelivery) => egress::check_delivered(packet.bytes()),

                Verdict::Punt(PuntReason::OuterTooBig) => {
                    egress::check(OUTSIDE, packet.bytes(), false);
                }
                Verdict::Punt(_) => {
                    assert_eq!(packet.bytes(), input.bytes, "changed, then punted");
                }
                Verdict::Drop(_) => {}
            }
            see(*verdict, packet.bytes());
        }
        let after = self.local.counters();
        expected.ecn_unusual = after.ecn_unusual;
        assert_eq!(*after, expected, "counters do not add up");
        assert_eq!(after.unaccounted(), 0);
    }

    /// [`CheckedRelay::send`], collecting what leaves.
    pub fn outcomes(&mut self, received: &[Received]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(received.len());
        self.send(received, |verdict, bytes| {
            let bytes = match verdict {
                Verdict::Drop(_) => Vec::new(),
                _ => bytes.to_vec(),
            };
            outcomes.push(Outcome { verdict, bytes });
        });
        outcomes
    }
}

/// Counts one packet a second time, from its verdict alone.
fn count(expected: &mut CounterSnapshot, received: usize, verdict: Verdict, len: usize) {
    let add = |pair: &mut sixferry_fwd::PacketsBytes, len: usize| {
        pair.packets += 1;
        pair.bytes += len as u64;
    };
    add(&mut expected.received, received);
    match verdict {
        Verdict::Tx(_) => add(&mut expected.forwarded, len),
        Verdict::Answer(_) => add(&mut expected.answered, len),
        Verdict::Punt(reason) => {
            add(&mut expected.punted, len);
            expected.punts[reason.index()] += 1;
        }
        Verdict::Drop(reason) => add(&mut expected.drops[reason.index()], len),
    }
}
