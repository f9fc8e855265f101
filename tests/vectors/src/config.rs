//! From a vector file's configuration to tables.

use crate::schema::{Config, DomainConfig, TunnelConfig};
use sixferry_fwd::{
    DomainKind, DomainSpec, Dscp, Ecn, EncapKind, Ipv4Prefix, Ipv6Prefix, MtuMode, NextHop,
    NextHopId, NextHopState, OuterOptions, PortConfig, PortId, PortKind, PuntReason, RateLimits,
    Rebind, Route, RouteSource, Settings, SixRdRole, SixToFourRole, TablesBuilder, Ttl, TunnelLink,
    TunnelSpec, UdpEncap, Urpf, link_scoped,
};
use sixferry_wire::{embed, ether};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Our hardware address.
pub const PORT_MAC: ether::Mac = [2, 0, 0, 0, 0, 1];
/// The neighbour that everything goes to.
pub const NEIGHBOUR_MAC: ether::Mac = [2, 0, 0, 0, 0, 2];
/// The port that packets come in by.
pub const PORT: PortId = PortId(0);

/// Mechanisms a configuration can be of.
pub const KINDS: [&str; 3] = ["6in4", "6to4", "6rd"];

/// The tables of a configuration.
///
/// # Errors
/// Says which field of the configuration cannot be used.
pub fn tables(config: &Config) -> Result<TablesBuilder, String> {
    let mut builder = TablesBuilder::new(settings(config)?, 1);
    let native = Route::NextHop(ports(&mut builder, config)?);
    let on_link = link_scoped(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), PORT, 0);
    let on_link = Ipv6Prefix::containing(on_link, 64);
    builder.set_route6(on_link, RouteSource::Kernel, native);
    builder.set_broadcasts(config.broadcasts.iter().copied());
    for tunnel in &config.tunnels {
        tunnel_spec(tunnel, &config.tunnels)
            .and_then(|spec| builder.insert_tunnel(&spec).map_err(|e| e.to_string()))
            .map_err(|e| format!("tunnel {}: {e}", tunnel.id))?;
    }
    let domain = match config.kind.as_str() {
        "6in4" => None,
        "6to4" => Some(six_to_four(&config.domain)?),
        "6rd" => Some(six_rd(&config.domain)?),
        other => return Err(format!("kind `{other}`")),
    };
    let mut default = config.native_default_route.then_some(native);
    if let Some(spec) = &domain {
        let id = builder.insert_domain(spec).map_err(|e| e.to_string())?;
        let has_site = matches!(
            spec.kind,
            DomainKind::SixToFour {
                role: SixToFourRole::Site { .. },
                ..
            } | DomainKind::SixRd {
                role: SixRdRole::Ce { .. },
                ..
            }
        );
        if has_site {
            // the site is native, the rest of the world lies behind the domain
            let own = spec
                .delegated(spec.local)
                .ok_or("local: not in the domain")?;
            builder.set_route6(own, RouteSource::Kernel, native);
            default = Some(Route::Domain(id));
        }
    }
    if let Some(route) = default {
        builder.set_route6(Ipv6Prefix::all(), RouteSource::Kernel, route);
    }
    Ok(builder)
}

fn settings(config: &Config) -> Result<Settings, String> {
    if config.role != "router" {
        return Err(format!("role `{}`", config.role));
    }
    if !config.icmp_rate_limit.is_null() {
        return Err(format!("icmp_rate_limit `{}`", config.icmp_rate_limit));
    }
    Ok(Settings {
        router_address: config.icmp_source,
        icmp_errors: RateLimits::UNLIMITED,
        answers: RateLimits::UNLIMITED,
        outer_options: match config.outer_options.as_str() {
            "drop" => OuterOptions::Drop,
            "skip" => OuterOptions::Skip,
            other => return Err(format!("outer_options `{other}`")),
        },
        punt_subscriptions: 1 << PuntReason::Fragment.index(),
        ..Settings::default()
    })
}

/// Sets the ports and IPv4 routes up; the next hop of the input port, where the native side is too.
fn ports(builder: &mut TablesBuilder, config: &Config) -> Result<NextHopId, String> {
    let input = config.input_if.as_deref().unwrap_or("");
    let mut hops = BTreeMap::from([(input, add_port(builder, PORT, config.link_mtu_v4))]);
    if config.routes_v4.is_empty() {
        let route = Route::NextHop(*hops.get(input).ok_or("input_if")?);
        builder.set_route4(Ipv4Prefix::all(), RouteSource::Kernel, route);
    }
    for (prefix, name) in &config.routes_v4 {
        let prefix = prefix
            .parse()
            .map_err(|e| format!("routes_v4 `{prefix}`: {e}"))?;
        if !hops.contains_key(name.as_str()) {
            let port = u8::try_from(hops.len()).map_err(|_| "routes_v4: too many interfaces")?;
            let hop = add_port(builder, PortId(port), config.link_mtu_v4);
            hops.insert(name, hop);
        }
        let route = Route::NextHop(*hops.get(name.as_str()).ok_or("routes_v4")?);
        builder.set_route4(prefix, RouteSource::Kernel, route);
    }
    hops.get(input)
        .copied()
        .ok_or_else(|| "input_if".to_owned())
}

fn add_port(builder: &mut TablesBuilder, port: PortId, mtu: u16) -> NextHopId {
    builder.set_port(
        port,
        PortConfig {
            kind: PortKind::Ethernet { mac: PORT_MAC },
            mtu,
            vlans: vec![],
            up: true,
        },
    );
    builder.add_next_hop(NextHop {
        port,
        vlan: None,
        vlan_service_tag: false,
        src_mac: PORT_MAC,
        mtu,
        state: NextHopState::Resolved {
            dst_mac: NEIGHBOUR_MAC,
        },
    })
}

fn tunnel_spec(tunnel: &TunnelConfig, all: &[TunnelConfig]) -> Result<TunnelSpec, String> {
    let link = match (&tunnel.link_prefix, tunnel.link_addr) {
        (Some(text), Some(address)) => Some(TunnelLink {
            prefix: prefix(text)?,
            address,
        }),
        _ => None,
    };
    let encap = match tunnel.encap.as_str() {
        "6in4" => EncapKind::SixInFour,
        "udp" => EncapKind::Udp(udp(tunnel, all)?),
        other => return Err(format!("encap `{other}`")),
    };
    Ok(TunnelSpec {
        encap,
        prefixes: tunnel
            .prefixes
            .iter()
            .map(|text| prefix(text))
            .collect::<Result<_, _>>()?,
        link,
        link_local: tunnel.link_local_addr,
        mtu: tunnel.mtu,
        mtu_mode: mtu_mode(&tunnel.mtu_mode)?,
        path_mtu: tunnel.path_mtu,
        ttl: ttl(&tunnel.ttl)?,
        dscp: dscp(&tunnel.dscp)?,
        ecn: ecn(&tunnel.ecn)?,
        strict_source: tunnel.strict_inner_source,
        up: tunnel.up,
        ..TunnelSpec::new(tunnel.local, tunnel.remote)
    })
}

fn udp(tunnel: &TunnelConfig, all: &[TunnelConfig]) -> Result<UdpEncap, String> {
    let same_port = |other: &&TunnelConfig| {
        (other.local, other.local_port) == (tunnel.local, tunnel.local_port)
    };
    Ok(UdpEncap {
        local_port: tunnel.local_port.ok_or("no local_port")?,
        remote_port: tunnel.remote_port.unwrap_or(0),
        shared: all.iter().filter(same_port).count() > 1,
        rebind: match tunnel.rebind.as_deref() {
            Some("deny") => Rebind::Deny,
            Some("control") | None => Rebind::Control,
            Some("inner-source") => Rebind::InnerSource,
            Some("inner-source-port") => Rebind::InnerSourcePort,
            Some(other) => return Err(format!("rebind `{other}`")),
        },
    })
}

fn six_to_four(domain: &DomainConfig) -> Result<DomainSpec, String> {
    let local = domain.local.ok_or("no local")?;
    let role = if domain.relay.ok_or("no relay")? {
        SixToFourRole::Relay
    } else {
        SixToFourRole::Site {
            relay: Ipv4Addr::from(embed::SIX_TO_FOUR_ANYCAST),
        }
    };
    let prefixlen = domain.prefixlen.unwrap_or(16);
    let kind = DomainKind::SixToFour {
        role,
        peer_v4_len: prefixlen
            .checked_sub(16)
            .ok_or_else(|| format!("prefixlen `{prefixlen}`"))?,
        anycast: domain.anycast.unwrap_or(false),
    };
    let spec = DomainSpec {
        kind,
        input: match domain.input.as_deref() {
            Some("on") | None => true,
            Some("off") => false,
            Some(other) => return Err(format!("input `{other}`")),
        },
        urpf: match domain.urpf.as_deref() {
            Some("off") | None => Urpf::Off,
            Some("loose") => Urpf::Loose,
            Some("strict") => Urpf::Strict,
            Some(other) => return Err(format!("urpf `{other}`")),
        },
        ..DomainSpec::six_to_four(local, role)
    };
    outer_fields(spec, domain)
}

fn six_rd(domain: &DomainConfig) -> Result<DomainSpec, String> {
    let role = match domain.rd_role.as_deref() {
        Some("br") => SixRdRole::Br {
            anycast: domain.br_anycast.unwrap_or(false),
        },
        Some("ce") => SixRdRole::Ce {
            br: domain.br.ok_or("no br")?,
        },
        other => return Err(format!("rd_role `{other:?}`")),
    };
    let spec = DomainSpec::six_rd(
        domain.local.ok_or("no local")?,
        prefix(domain.rd_prefix.as_deref().ok_or("no rd_prefix")?)?,
        domain.v4_common.ok_or("no v4_common")?,
        domain.v4_mask_len.ok_or("no v4_mask_len")?,
        role,
    );
    outer_fields(spec, domain)
}

/// What a domain has in common with a tunnel; what is not said keeps the mechanism's default.
fn outer_fields(mut spec: DomainSpec, domain: &DomainConfig) -> Result<DomainSpec, String> {
    spec.mtu = domain.mtu.unwrap_or(spec.mtu);
    if let Some(text) = &domain.mtu_mode {
        spec.mtu_mode = mtu_mode(text)?;
    }
    if !domain.ttl.is_null() {
        spec.ttl = ttl(&domain.ttl)?;
    }
    if let Some(text) = &domain.dscp {
        spec.dscp = dscp(text)?;
    }
    if let Some(text) = &domain.ecn {
        spec.ecn = ecn(text)?;
    }
    Ok(spec)
}

fn prefix(text: &str) -> Result<Ipv6Prefix, String> {
    text.parse()
        .map_err(|error| format!("prefix `{text}`: {error}"))
}

fn mtu_mode(text: &str) -> Result<MtuMode, String> {
    match text {
        "static" => Ok(MtuMode::Static),
        "managed" => Ok(MtuMode::Managed),
        "dynamic" => Ok(MtuMode::Dynamic),
        other => Err(format!("mtu_mode `{other}`")),
    }
}

fn ttl(value: &serde_json::Value) -> Result<Ttl, String> {
    if value.as_str() == Some("inherit") {
        return Ok(Ttl::Inherit);
    }
    let ttl = value.as_u64().and_then(|ttl| u8::try_from(ttl).ok());
    ttl.map(Ttl::Fixed).ok_or_else(|| format!("ttl `{value}`"))
}

fn dscp(text: &str) -> Result<Dscp, String> {
    let wrong = || format!("dscp `{text}`");
    match text.split_once(':') {
        None if text == "copy" => Ok(Dscp::Copy),
        Some(("fixed", value)) => Ok(Dscp::Fixed(value.parse().map_err(|_| wrong())?)),
        _ => Err(wrong()),
    }
}

fn ecn(text: &str) -> Result<Ecn, String> {
    match text {
        "normal" => Ok(Ecn::Normal),
        "compat" => Ok(Ecn::Compat),
        other => Err(format!("ecn `{other}`")),
    }
}
