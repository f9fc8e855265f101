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

/// A relay's configuration. Fields of mechanisms this version lacks are not read.
#[derive(Debug, Deserialize)]
pub struct Config {
    /// `6in4`, `6to4` or `6rd`.
    pub kind: String,
    /// Source of ICMPv6 errors.
    pub icmp_source: Ipv6Addr,
    /// Whether the native side has a default route.
    pub native_default_route: bool,
    /// ID of outer packets without DF.
    pub ipv4_id: u16,
    /// MTU of the IPv4 link.
    pub link_mtu_v4: u16,
    /// `drop` or `skip`.
    pub outer_options: String,
    /// Configured tunnels.
    #[serde(default)]
    pub tunnels: Vec<TunnelConfig>,
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
