//! The vector file.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A vector file, schema `proto41-vectors-1`.
#[derive(Debug, Deserialize)]
pub struct VectorFile {
    /// Name and version of the schema.
    pub schema: String,
    /// Configurations by name.
    pub configs: BTreeMap<String, Config>,
    /// Packets and what becomes of them.
    #[serde(default)]
    pub vectors: Vec<Vector>,
    /// Frames and what the steering program says.
    #[serde(default)]
    pub steering: Vec<SteeringFrame>,
}

/// A relay's configuration. Everything but the common part is there for one `kind` only.
#[derive(Debug, Deserialize)]
pub struct Config {
    /// `6in4`, `6to4` or `6rd`.
    pub kind: String,
    /// Always `router`.
    pub role: String,
    /// Source of ICMPv6 errors.
    pub icmp_source: Ipv6Addr,
    /// Always null: no limit.
    #[serde(default)]
    pub icmp_rate_limit: serde_json::Value,
    /// Whether the native side has a default route.
    pub native_default_route: bool,
    /// ID of outer packets without DF.
    pub ipv4_id: u16,
    /// MTU of the IPv4 link.
    pub link_mtu_v4: u16,
    /// `drop` or `skip`.
    pub outer_options: String,
    /// Name of the interface that packets come in by.
    #[serde(default)]
    pub input_if: Option<String>,
    /// Directed broadcast addresses of connected subnets.
    #[serde(default)]
    pub broadcasts: Vec<Ipv4Addr>,
    /// IPv4 prefixes and the interfaces they lead to; without any, all leads to `input_if`.
    #[serde(default)]
    pub routes_v4: BTreeMap<String, String>,
    /// Configured tunnels.
    #[serde(default)]
    pub tunnels: Vec<TunnelConfig>,
    /// The domain, if the configuration is one of 6to4 or 6rd.
    #[serde(flatten)]
    pub domain: DomainConfig,
}

/// The fields of a 6to4 or 6rd domain, beside the configuration's others.
#[derive(Debug, Default, Deserialize)]
pub struct DomainConfig {
    /// Our address.
    pub local: Option<Ipv4Addr>,
    /// 6to4: whether we are a relay, or a site's router.
    pub relay: Option<bool>,
    /// 6to4: 16, and the bits that a peer's IPv4 address shares with ours.
    pub prefixlen: Option<u8>,
    /// 6to4: whether 192.88.99.1 is ours too.
    pub anycast: Option<bool>,
    /// 6to4: `on` or `off`.
    pub input: Option<String>,
    /// 6to4: `off`, `loose` or `strict`.
    pub urpf: Option<String>,
    /// 6rd: the domain's prefix.
    pub rd_prefix: Option<String>,
    /// 6rd: how many leading bits all IPv4 addresses share.
    pub v4_mask_len: Option<u8>,
    /// 6rd: these bits.
    pub v4_common: Option<Ipv4Addr>,
    /// 6rd: the border relay's address.
    pub br: Option<Ipv4Addr>,
    /// 6rd: `br` or `ce`.
    pub rd_role: Option<String>,
    /// 6rd: whether several border relays share the address.
    pub br_anycast: Option<bool>,
    /// `static` or `managed`.
    pub mtu_mode: Option<String>,
    /// Inner MTU.
    pub mtu: Option<u16>,
    /// A number or `inherit`.
    #[serde(default)]
    pub ttl: serde_json::Value,
    /// `fixed:n` or `copy`.
    pub dscp: Option<String>,
    /// `normal` or `compat`.
    pub ecn: Option<String>,
}

/// A configured tunnel.
#[derive(Debug, Deserialize)]
pub struct TunnelConfig {
    /// Number, for people.
    pub id: u32,
    /// `6in4` or `udp`.
    pub encap: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's.
    pub remote: Ipv4Addr,
    /// What lies behind it.
    pub prefixes: Vec<String>,
    /// `static`, `dynamic` or `managed`.
    pub mtu_mode: String,
    /// Inner MTU.
    pub mtu: u16,
    /// Path MTU a dynamic tunnel starts with.
    #[serde(default)]
    pub path_mtu: Option<u16>,
    /// A number or `inherit`.
    pub ttl: serde_json::Value,
    /// `fixed:n` or `copy`.
    pub dscp: String,
    /// `normal` or `compat`.
    pub ecn: String,
    /// Whether inner sources are checked.
    pub strict_inner_source: bool,
    /// Administrative state.
    pub up: bool,
    /// Numbered link.
    #[serde(default)]
    pub link_prefix: Option<String>,
    /// Our address on it.
    #[serde(default)]
    pub link_addr: Option<Ipv6Addr>,
    /// Our link-local address.
    #[serde(default)]
    pub link_local_addr: Option<Ipv6Addr>,
    /// Our port, of a UDP tunnel.
    #[serde(default)]
    pub local_port: Option<u16>,
    /// The peer's, of a UDP tunnel.
    #[serde(default)]
    pub remote_port: Option<u16>,
    /// `deny`, `control`, `inner-source` or `inner-source-port`, of a UDP tunnel.
    #[serde(default)]
    pub rebind: Option<String>,
}

/// One packet, or several in order, and the expected verdict.
#[derive(Debug, Deserialize)]
pub struct Vector {
    /// Says the rule.
    pub name: String,
    /// Which configuration.
    pub config: String,
    /// From the IP header on.
    pub in_hex: OneOrMore,
    /// `forward`, `icmp` or `drop`.
    pub expect: String,
    /// The packet that leaves.
    #[serde(default)]
    pub out_hex: Option<String>,
    /// Why it is dropped.
    #[serde(default)]
    pub drop_reason: Option<String>,
}

/// A text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several, in order.
    More(Vec<String>),
}

impl OneOrMore {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

/// An Ethernet frame and the steering program's decision.
#[derive(Debug, Deserialize)]
pub struct SteeringFrame {
    /// Says the rule.
    pub name: String,
    /// From the Ethernet header on.
    pub in_hex: String,
    /// `xsk` or `kernel`.
    pub expect: String,
    /// The reason, for people.
    #[serde(default)]
    pub why: String,
}

/// Bytes of a hexadecimal text.
///
/// # Errors
/// Says which byte is not hexadecimal.
pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    if !text.len().is_multiple_of(2) {
        return Err(format!("odd number of digits ({})", text.len()));
    }
    (0..text.len() / 2)
        .map(|i| {
            let digits = text.get(2 * i..2 * i + 2).unwrap_or("");
            u8::from_str_radix(digits, 16).map_err(|_| format!("byte {i}: `{digits}` is not hex"))
        })
        .collect()
}

/// Hexadecimal text of bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            _ = write!(text, "{byte:02x}");
            text
        })
}
