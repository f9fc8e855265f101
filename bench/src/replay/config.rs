//! The replay's configuration: the relay's own words (`docs`: bench/README.md), one file.

use serde::Deserialize;
use sixferry_fwd::{
    Dscp, Ecn, IpId, Ipv4Prefix, Ipv6Prefix, MtuMode, NextHop, NextHopState, OuterOptions,
    PortConfig, PortId, PortKind, PuntReason, RateLimits, Route, RouteSource, Settings, TableError,
    TablesBuilder, Ttl, TunnelId, TunnelLink, TunnelSpec,
};
use sixferry_wire::ether::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no TOML, or has an unknown or a missing key, or a value of the wrong kind.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A value makes no sense.
    #[error("{place}: {cause}")]
    Value {
        /// Which object.
        place: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The tables refuse a tunnel.
    #[error("tunnel {id}: {source}")]
    Tunnel {
        /// Which one.
        id: String,
        /// Why.
        source: TableError,
    },
}

/// A replay's configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    settings: SettingsConfig,
    #[serde(rename = "port")]
    ports: Vec<PortEntry>,
    #[serde(default, rename = "route")]
    routes: Vec<RouteEntry>,
    #[serde(default, rename = "tunnel")]
    tunnels: Vec<TunnelEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsConfig {
    router_address: Ipv6Addr,
    skip_outer_options: bool,
    native_source_check: bool,
    rate_limits: bool,
    punts: Vec<String>,
    /// Absent: a counter.
    ip_id: Option<u16>,
    seed: u64,
}

impl Default for SettingsConfig {
    fn default() -> Self {
        Self {
            router_address: Ipv6Addr::UNSPECIFIED,
            skip_outer_options: false,
            native_source_check: true,
            rate_limits: true,
            punts: Vec::new(),
            ip_id: None,
            seed: 0,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortEntry {
    name: String,
    /// Absent: bare IP packets.
    mac: Option<String>,
    #[serde(default = "link_mtu")]
    mtu: u16,
    #[serde(default)]
    vlans: Vec<u16>,
}

const fn link_mtu() -> u16 {
    1500
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    prefix: String,
    /// The egress port; absent for an `action`.
    port: Option<String>,
    /// The neighbour's hardware address; absent: not resolved, the packet is punted.
    mac: Option<String>,
    vlan: Option<u16>,
    action: Option<Action>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Local,
    Blackhole,
    Unreachable,
    Prohibit,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelEntry {
    id: String,
    local: Ipv4Addr,
    remote: Ipv4Addr,
    #[serde(default)]
    prefixes: Vec<String>,
    link_prefix: Option<String>,
    link_address: Option<Ipv6Addr>,
    link_local_address: Option<Ipv6Addr>,
    #[serde(default = "tunnel_mtu")]
    mtu: u16,
    #[serde(default)]
    managed_mtu: bool,
    /// Absent: inherited from the inner hop limit.
    #[serde(default = "outer_ttl")]
    ttl: TtlEntry,
    #[serde(default)]
    dscp: DscpEntry,
    #[serde(default)]
    dscp_decap_copy: bool,
    #[serde(default)]
    ecn_compat: bool,
    #[serde(default = "yes")]
    strict_source: bool,
    #[serde(default = "yes")]
    up: bool,
}

const fn tunnel_mtu() -> u16 {
    1280
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TtlEntry {
    Fixed(u8),
    Word(InheritWord),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum InheritWord {
    Inherit,
}

const fn outer_ttl() -> TtlEntry {
    TtlEntry::Fixed(64)
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum DscpEntry {
    Fixed(u8),
    Word(CopyWord),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CopyWord {
    Copy,
}

impl Default for DscpEntry {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// A port by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) ethernet: bool,
}

/// What a configuration makes.
pub(crate) struct Relay {
    pub(crate) builder: TablesBuilder,
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) tunnels: Vec<(String, TunnelId)>,
    pub(crate) ip_id: IpId,
    pub(crate) seed: u64,
}

fn bad(place: impl Into<String>, cause: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        place: place.into(),
        cause: cause.into(),
    }
}

impl Config {
    /// Reads a configuration from TOML.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], which names line and key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(toml::from_str(text)?)
    }

    pub(crate) fn build(&self) -> Result<Relay, ConfigError> {
        let mut builder = TablesBuilder::new(self.settings.settings()?, 1);
        if self.ports.is_empty() || self.ports.len() > PortId::MAX {
            return Err(bad("port", format!("1 to {} are possible", PortId::MAX)));
        }
        let mut ports: Vec<NamedPort> = Vec::new();
        for (id, entry) in (0..).map(PortId).zip(&self.ports) {
            if ports.iter().any(|port| port.name == entry.name) {
                return Err(bad(format!("port {}", entry.name), "given twice"));
            }
            builder.set_port(id, entry.config()?);
            ports.push(NamedPort {
                name: entry.name.clone(),
                ethernet: entry.mac.is_some(),
            });
        }
        for route in &self.routes {
            self.route(&mut builder, route)?;
        }
        let mut tunnels = Vec::new();
        for entry in &self.tunnels {
            let id =
                builder
                    .insert_tunnel(&entry.spec()?)
                    .map_err(|source| ConfigError::Tunnel {
                        id: entry.id.clone(),
                        source,
                    })?;
            tunnels.push((entry.id.clone(), id));
        }
        Ok(Relay {
            builder,
            ports,
            tunnels,
            ip_id: self.settings.ip_id.map_or(IpId::Counter, IpId::Fixed),
            seed: self.settings.seed,
        })
    }

    fn route(&self, builder: &mut TablesBuilder, entry: &RouteEntry) -> Result<(), ConfigError> {
        let place = || format!("route {}", entry.prefix);
        let (prefix4, prefix6) = (
            entry.prefix.parse::<Ipv4Prefix>(),
            entry.prefix.parse::<Ipv6Prefix>(),
        );
        let route = match (&entry.port, entry.action) {
            (Some(name), None) => {
                let gateway = match prefix4 {
                    Ok(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    Err(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                Route::NextHop(builder.add_next_hop(self.next_hop(entry, name, gateway)?))
            }
            (None, Some(action)) => match action {
                Action::Local => Route::Local,
                Action::Blackhole => Route::Blackhole,
                Action::Unreachable => Route::Unreachable,
                Action::Prohibit => Route::Prohibit,
            },
            _ => return Err(bad(place(), "needs either `port` or `action`")),
        };
        match (prefix4, prefix6) {
            (Ok(prefix), _) => builder.set_route4(prefix, RouteSource::Kernel, route),
            (_, Ok(prefix)) => builder.set_route6(prefix, RouteSource::Kernel, route),
            (Err(_), Err(error)) => return Err(bad(place(), error.to_string())),
        }
        Ok(())
    }

    fn next_hop(
        &self,
        entry: &RouteEntry,
        name: &str,
        gateway: IpAddr,
    ) -> Result<NextHop, ConfigError> {
        let place = format!("route {}", entry.prefix);
        let (id, port) = (0..)
            .map(PortId)
            .zip(&self.ports)
            .find(|(_, port)| port.name == name)
            .ok_or_else(|| bad(&place, format!("there is no port {name}")))?;
        let raw_ip = port.mac.is_none();
        let state = match &entry.mac {
            Some(text) => NextHopState::Resolved {
                dst_mac: mac(text).ok_or_else(|| bad(&place, format!("mac `{text}`")))?,
            },
            None if raw_ip => NextHopState::Resolved { dst_mac: [0; 6] },
            None => NextHopState::Unresolved { gateway },
        };
        Ok(NextHop {
            port: id,
            vlan: entry.vlan,
            vlan_service_tag: false,
            src_mac: port.address()?,
            mtu: port.mtu,
            state,
        })
    }
}

impl SettingsConfig {
    fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings {
            router_address: self.router_address,
            native_source_check: self.native_source_check,
            ..Settings::default()
        };
        if self.skip_outer_options {
            settings.outer_options = OuterOptions::Skip;
        }
        if !self.rate_limits {
            settings.icmp_errors = RateLimits::UNLIMITED;
            settings.answers = RateLimits::UNLIMITED;
        }
        for name in &self.punts {
            let reason = PuntReason::ALL
                .iter()
                .find(|reason| reason.name() == name)
                .ok_or_else(|| bad("settings.punts", format!("`{name}` is no punt reason")))?;
            settings.punt_subscriptions |= 1 << reason.index();
        }
        Ok(settings)
    }
}

impl PortEntry {
    fn address(&self) -> Result<Mac, ConfigError> {
        match &self.mac {
            None => Ok([0; 6]),
            Some(text) => {
                mac(text).ok_or_else(|| bad(format!("port {}", self.name), format!("mac `{text}`")))
            }
        }
    }

    fn config(&self) -> Result<PortConfig, ConfigError> {
        let mac = self.address()?;
        Ok(PortConfig {
            kind: if self.mac.is_some() {
                PortKind::Ethernet { mac }
            } else {
                PortKind::RawIp
            },
            mtu: self.mtu,
            vlans: self.vlans.clone(),
            up: true,
        })
    }
}

impl TunnelEntry {
    fn spec(&self) -> Result<TunnelSpec, ConfigError> {
        let place = || format!("tunnel {}", self.id);
        let prefix = |text: &String| {
            text.parse::<Ipv6Prefix>()
                .map_err(|error| bad(place(), format!("prefix `{text}`: {error}")))
        };
        let link = match (&self.link_prefix, self.link_address) {
            (Some(text), Some(address)) => Some(TunnelLink {
                prefix: prefix(text)?,
                address,
            }),
            (None, None) => None,
            _ => return Err(bad(place(), "link_prefix and link_address go together")),
        };
        Ok(TunnelSpec {
            prefixes: self.prefixes.iter().map(prefix).collect::<Result<_, _>>()?,
            link,
            link_local: self.link_local_address,
            mtu: self.mtu,
            mtu_mode: if self.managed_mtu {
                MtuMode::Managed
            } else {
                MtuMode::Static
            },
            ttl: match &self.ttl {
                TtlEntry::Fixed(ttl) => Ttl::Fixed(*ttl),
                TtlEntry::Word(InheritWord::Inherit) => Ttl::Inherit,
            },
            dscp: match &self.dscp {
                DscpEntry::Fixed(dscp) => Dscp::Fixed(*dscp),
                DscpEntry::Word(CopyWord::Copy) => Dscp::Copy,
            },
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: if self.ecn_compat {
                Ecn::Compat
            } else {
                Ecn::Normal
            },
            strict_source: self.strict_source,
            up: self.up,
            ..TunnelSpec::new(self.local, self.remote)
        })
    }
}

fn mac(text: &str) -> Option<Mac> {
    let mut out = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut out {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: &str = "[[port]]\nname = \"a\"\nmac = \"02:00:00:00:00:01\"\n";

    fn error(text: &str) -> String {
        match Config::parse(text).and_then(|config| config.build()) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let text = error(&format!("{PORT}colour = 3\n"));
        assert!(text.contains("colour") && text.contains("line 4"), "{text}");
    }

    #[test]
    fn wrong_values_are_named_with_their_object() {
        let text = error("[[port]]\nname = \"a\"\nmac = \"02:00\"\n");
        assert_eq!(text, "port a: mac `02:00`");
        let text = error(&format!(
            "{PORT}[[route]]\nprefix = \"::/0\"\nport = \"b\"\n"
        ));
        assert_eq!(text, "route ::/0: there is no port b");
        let text = error(&format!("{PORT}[[route]]\nprefix = \"::/0\"\n"));
        assert_eq!(text, "route ::/0: needs either `port` or `action`");
        let tunnel = "[[tunnel]]\nid = \"t\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.1\"\n";
        assert!(error(&format!("{PORT}{tunnel}")).starts_with("tunnel t: "));
    }

    #[test]
    fn words_and_numbers_of_ttl_and_dscp() {
        let tunnel = "[[tunnel]]\nid = \"t\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\n";
        let spec = |more: &str| {
            let config = Config::parse(&format!("{PORT}{tunnel}{more}")).expect("sound");
            let relay = config.build().expect("usable");
            relay.builder.tunnel(relay.tunnels[0].1).expect("there")
        };
        let plain = spec("");
        assert_eq!((plain.ttl, plain.dscp), (Ttl::Fixed(64), Dscp::Fixed(0)));
        let words = spec("ttl = \"inherit\"\ndscp = \"copy\"\n");
        assert_eq!((words.ttl, words.dscp), (Ttl::Inherit, Dscp::Copy));
        let numbers = spec("ttl = 3\ndscp = 46\n");
        assert_eq!(
            (numbers.ttl, numbers.dscp),
            (Ttl::Fixed(3), Dscp::Fixed(46))
        );
    }
}
