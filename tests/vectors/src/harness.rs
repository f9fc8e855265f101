//! A relay in memory, set up as a vector file's configuration says.
//!
//! One Ethernet port, one next hop for everything, no limits on what the relay sends of its own.

use crate::schema::{Config, TunnelConfig};
use sixferry_fwd::{
    Batch, CounterSnapshot, Dscp, Ecn, FRAME_LEN, HEADROOM, IpId, Ipv4Prefix, Ipv6Prefix, Local,
    LocalConfig, MtuMode, NextHop, NextHopState, OuterOptions, Packet, PortConfig, PortId,
    PortKind, RateLimits, Route, RouteSource, Settings, Tables, TablesBuilder, Ticks, Ttl,
    TunnelLink, TunnelSpec, Verdict, WorkerCounters, link_scoped, process,
};
use sixferry_wire::ether;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Our hardware address.
pub const PORT_MAC: ether::Mac = [2, 0, 0, 0, 0, 1];
/// The neighbour that everything goes to.
pub const NEIGHBOUR_MAC: ether::Mac = [2, 0, 0, 0, 0, 2];
/// The only port.
pub const PORT: PortId = PortId(0);

/// A relay in memory.
#[derive(Debug)]
pub struct Harness {
    tables: Arc<Tables>,
    local: Local,
    builder: TablesBuilder,
    now: Ticks,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The IP packet that leaves, for [`Verdict::Tx`] and [`Verdict::Answer`].
    pub packet: Vec<u8>,
}

impl Harness {
    /// Sets a relay up. A UDP tunnel only claims its prefixes, a dynamic-MTU tunnel stays at the path
    /// MTU it starts with: the runner skips the vectors that need more of either.
    ///
    /// # Errors
    /// Says which field of the configuration cannot be used.
    pub fn new(config: &Config) -> Result<Self, String> {
        let settings = Settings {
            router_address: config.icmp_source,
            icmp_errors: RateLimits::UNLIMITED,
            answers: RateLimits::UNLIMITED,
            outer_options: match config.outer_options.as_str() {
                "drop" => OuterOptions::Drop,
                "skip" => OuterOptions::Skip,
                other => return Err(format!("outer_options `{other}`")),
            },
            ..Settings::default()
        };
        let mut builder = TablesBuilder::new(settings, 1);
        builder.set_port(
            PORT,
            PortConfig {
                kind: PortKind::Ethernet { mac: PORT_MAC },
                mtu: config.link_mtu_v4,
                vlans: vec![],
                up: true,
            },
        );
        let hop = Route::NextHop(builder.add_next_hop(NextHop {
            port: PORT,
            vlan: None,
            vlan_service_tag: false,
            src_mac: PORT_MAC,
            mtu: config.link_mtu_v4,
            state: NextHopState::Resolved {
                dst_mac: NEIGHBOUR_MAC,
            },
        }));
        builder.set_route4(Ipv4Prefix::all(), RouteSource::Kernel, hop);
        if config.native_default_route {
            builder.set_route6(Ipv6Prefix::all(), RouteSource::Kernel, hop);
        }
        let on_link = link_scoped(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), PORT, 0);
        builder.set_route6(
            Ipv6Prefix::containing(on_link, 64),
            RouteSource::Kernel,
            hop,
        );
        for tunnel in &config.tunnels {
            let spec = spec(tunnel).map_err(|e| format!("tunnel {}: {e}", tunnel.id))?;
            builder
                .insert_tunnel(&spec)
                .map_err(|e| format!("tunnel {}: {e}", tunnel.id))?;
        }
        let tables = builder.snapshot();
        let local = Local::new(LocalConfig {
            worker: 0,
            workers: 1,
            seed: 0,
            ip_id: IpId::Fixed(config.ipv4_id),
            shared: Arc::new(WorkerCounters::new()),
            dry_run: false,
        });
        Ok(Self {
            tables,
            local,
            builder,
            now: Ticks(1),
        })
    }

    /// Sends an IP packet in by its EtherType.
    ///
    /// # Errors
    /// The packet does not fit a frame.
    pub fn send(&mut self, packet: &[u8], ether_type: u16) -> Result<Outcome, String> {
        let mut header = [0; ether::HEADER_LEN];
        ether::emit(&mut header, PORT_MAC, NEIGHBOUR_MAC, ether_type);
        let mut outcome = self.send_frame(&[&header, packet].concat())?;
        if matches!(outcome.verdict, Verdict::Tx(_) | Verdict::Answer(_)) {
            outcome.packet = strip(&outcome.packet)?;
        }
        Ok(outcome)
    }

    /// Sends an Ethernet frame in; the outcome holds the frame that leaves.
    ///
    /// # Errors
    /// The frame is too long.
    pub fn send_frame(&mut self, bytes: &[u8]) -> Result<Outcome, String> {
        let mut frame = [0u8; FRAME_LEN];
        frame
            .get_mut(HEADROOM..HEADROOM + bytes.len())
            .ok_or_else(|| format!("{} bytes do not fit a frame", bytes.len()))?
            .copy_from_slice(bytes);
        let mut batch = Batch::new();
        let packet = Packet::new(&mut frame, HEADROOM, bytes.len(), PORT).ok_or("frame")?;
        batch.push(packet).map_err(|_| "batch")?;
        process(&mut batch, &self.tables, &mut self.local, self.now);
        let verdict = *batch.verdicts().first().ok_or("no verdict")?;
        let packet = batch
            .packets()
            .first()
            .map(|p| p.bytes().to_vec())
            .unwrap_or_default();
        Ok(Outcome { verdict, packet })
    }

    /// The counters so far.
    #[must_use]
    pub const fn counters(&self) -> &CounterSnapshot {
        self.local.counters()
    }

    /// The tables' builder, to change the relay; [`Harness::publish`] makes it count.
    pub const fn builder(&mut self) -> &mut TablesBuilder {
        &mut self.builder
    }

    /// Publishes what the builder has.
    pub fn publish(&mut self) {
        self.tables = self.builder.snapshot();
    }
}

/// The IP packet of a frame that leaves, its link header checked.
fn strip(frame: &[u8]) -> Result<Vec<u8>, String> {
    let header = ether::parse(frame).ok_or("a frame without Ethernet header leaves")?;
    let (addresses, packet) = frame
        .split_at_checked(ether::HEADER_LEN)
        .ok_or("short frame")?;
    let want_type = match packet.first().map(|byte| byte >> 4) {
        Some(4) => ether::TYPE_IPV4,
        _ => ether::TYPE_IPV6,
    };
    let macs = [NEIGHBOUR_MAC, PORT_MAC].concat();
    if header.ether_type != want_type || addresses.get(..12) != Some(macs.as_slice()) {
        return Err(format!("wrong Ethernet header leaves: {addresses:02x?}"));
    }
    Ok(packet.to_vec())
}

fn spec(tunnel: &TunnelConfig) -> Result<TunnelSpec, String> {
    let prefix = |text: &String| {
        text.parse::<Ipv6Prefix>()
            .map_err(|error| format!("prefix `{text}`: {error}"))
    };
    let link = match (&tunnel.link_prefix, tunnel.link_addr) {
        (Some(text), Some(address)) => Some(TunnelLink {
            prefix: prefix(text)?,
            address,
        }),
        _ => None,
    };
    let udp = tunnel.encap == "udp";
    // RFC 4213 section 3.2.2: below 1300 the tunnel falls back to 1280 without DF
    let (mtu, mtu_mode) = match (tunnel.mtu_mode.as_str(), tunnel.path_mtu) {
        ("dynamic", Some(path)) if path >= 1300 => (path - 20, MtuMode::Managed),
        ("dynamic", Some(_)) => (1280, MtuMode::Static),
        ("static" | "dynamic", _) => (tunnel.mtu, MtuMode::Static),
        ("managed", _) => (tunnel.mtu, MtuMode::Managed),
        (other, _) => return Err(format!("mtu_mode `{other}`")),
    };
    Ok(TunnelSpec {
        prefixes: tunnel
            .prefixes
            .iter()
            .map(prefix)
            .collect::<Result<_, _>>()?,
        link,
        link_local: tunnel.link_local_addr,
        mtu,
        mtu_mode,
        ttl: match &tunnel.ttl {
            serde_json::Value::String(text) if text == "inherit" => Ttl::Inherit,
            value => Ttl::Fixed(
                value
                    .as_u64()
                    .and_then(|ttl| u8::try_from(ttl).ok())
                    .ok_or_else(|| format!("ttl `{value}`"))?,
            ),
        },
        dscp: match tunnel.dscp.split_once(':') {
            None if tunnel.dscp == "copy" => Dscp::Copy,
            Some(("fixed", value)) => Dscp::Fixed(
                value
                    .parse()
                    .map_err(|_| format!("dscp `{}`", tunnel.dscp))?,
            ),
            _ => return Err(format!("dscp `{}`", tunnel.dscp)),
        },
        ecn: match tunnel.ecn.as_str() {
            "normal" => Ecn::Normal,
            "compat" => Ecn::Compat,
            other => return Err(format!("ecn `{other}`")),
        },
        strict_source: tunnel.strict_inner_source,
        up: tunnel.up && !udp,
        // protocol 41 from a UDP tunnel's peer must find no tunnel
        ..TunnelSpec::new(
            tunnel.local,
            if udp { claim(tunnel.id) } else { tunnel.remote },
        )
    })
}

/// A remote address nobody sends from, for a tunnel that only claims its prefixes.
fn claim(id: u32) -> Ipv4Addr {
    let [.., high, low] = id.to_be_bytes();
    Ipv4Addr::new(100, 127, high, low)
}
