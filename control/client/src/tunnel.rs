//! The configured tunnel, typed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use sixferry_proto::dataplane::v1 as api;

use crate::address::{net_to_proto, optional_ip, required_net6, required_v4, required_v6};
use crate::outer::{mtu, small};
use crate::{Dscp, Ecn, Endpoint, Error, MtuMode, Ttl, WriteMode};

pub use api::TunnelState;

/// What carries the inner packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encap {
    /// IPv4 protocol 41 (RFC 4213).
    #[default]
    SixInFour,
    /// UDP: passes NAT.
    Udp(UdpEncap),
}

/// The ports of a UDP tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpEncap {
    /// Our port.
    pub local_port: u16,
    /// The user's port; `None`: not known yet, like the user's address.
    pub remote_port: Option<u16>,
    /// Several tunnels share `local_port`; they are told apart by the user's endpoint.
    pub shared: bool,
    /// What to do when the user appears elsewhere.
    pub rebind: Rebind,
}

impl UdpEncap {
    /// A port of the tunnel's own, its user not known yet.
    pub fn new(local_port: u16) -> Self {
        Self {
            local_port,
            remote_port: None,
            shared: false,
            rebind: Rebind::default(),
        }
    }
}

/// What a UDP tunnel does with a packet from another endpoint than its user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rebind {
    /// Drops it.
    Deny,
    /// Drops it and tells of it as an event; the controller decides.
    #[default]
    Control,
    /// Follows it if its inner source is one of the tunnel's, at most once in 10 s.
    InnerSource,
    /// Follows it if its inner source is one of the tunnel's and only the port is another one, at most
    /// once in 1 s. The user's port may then be unknown.
    InnerSourcePort,
}

/// How the dataplane finds out whether the user is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LivenessMode {
    /// Not at all.
    #[default]
    Off,
    /// By any valid packet out of the tunnel.
    Passive,
    /// By neighbour solicitations to the user's link-local address.
    Nud,
    /// By echo requests to the user's address on the numbered link.
    Echo,
}

/// Liveness of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// How.
    pub mode: LivenessMode,
    /// Seconds between probes, 5..=3600.
    pub interval: u16,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            mode: LivenessMode::Off,
            interval: 30,
        }
    }
}

/// What forged "fragmentation needed" cannot push a path MTU below, if nothing else is said.
pub const DEFAULT_MIN_PATH_MTU: u16 = 576;

/// The numbered link between relay and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelLink {
    /// Its prefix.
    pub prefix: Ipv6Net,
    /// Our address in it.
    pub address: Ipv6Addr,
}

/// What a controller writes: one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Natural key: 1 to 63 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Address of this relay.
    pub local: Ipv4Addr,
    /// Address of the user; 0.0.0.0 with UDP: not known yet.
    pub remote: Ipv4Addr,
    /// What carries the packets; its kind cannot change after creation.
    pub encap: Encap,
    /// Prefixes routed into the tunnel.
    pub prefixes: Vec<Ipv6Net>,
    /// The numbered link, if any.
    pub link: Option<TunnelLink>,
    /// Our link-local address; `None`: made from `local`.
    pub link_local: Option<Ipv6Addr>,
    /// Largest inner packet in bytes. With [`MtuMode::Dynamic`] the most it can be; 0 then means
    /// what the encapsulation leaves of 1500.
    pub mtu: u16,
    /// How DF is set.
    pub mtu_mode: MtuMode,
    /// [`MtuMode::Dynamic`]: first estimate, in bytes of the outer packet; `None`: the MTU of the
    /// egress link.
    pub path_mtu: Option<u16>,
    /// [`MtuMode::Dynamic`]: the estimate is not pushed below this.
    pub min_path_mtu: u16,
    /// Lowers the MSS of TCP connections to what the tunnel carries.
    pub mss_clamp: bool,
    /// Outer TTL.
    pub ttl: Ttl,
    /// Outer DSCP.
    pub dscp: Dscp,
    /// At the exit the outer DSCP overwrites the inner one.
    pub dscp_decap_copy: bool,
    /// ECN at the entry.
    pub ecn: Ecn,
    /// Refuse inner sources outside `prefixes` and the link.
    pub strict_source: bool,
    /// Administrative state.
    pub admin_up: bool,
    /// Whether and how the user's life is watched.
    pub liveness: Liveness,
}

impl Tunnel {
    /// A 6in4 tunnel with the defaults of the API and no prefixes.
    pub fn new(id: impl Into<String>, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        Self {
            id: id.into(),
            local,
            remote,
            encap: Encap::SixInFour,
            prefixes: Vec::new(),
            link: None,
            link_local: None,
            mtu: 1280,
            mtu_mode: MtuMode::default(),
            path_mtu: None,
            min_path_mtu: DEFAULT_MIN_PATH_MTU,
            mss_clamp: false,
            ttl: Ttl::default(),
            dscp: Dscp::default(),
            dscp_decap_copy: false,
            ecn: Ecn::default(),
            strict_source: true,
            admin_up: true,
            liveness: Liveness::default(),
        }
    }

    /// A UDP tunnel with the defaults of the API, no prefixes, and a user who is not known yet.
    pub fn udp(id: impl Into<String>, local: Ipv4Addr, local_port: u16) -> Self {
        Self {
            encap: Encap::Udp(UdpEncap::new(local_port)),
            ..Self::new(id, local, Ipv4Addr::UNSPECIFIED)
        }
    }

    /// The message for the API; output-only fields stay empty.
    pub fn to_proto(&self) -> api::Tunnel {
        let (ttl, ttl_inherit) = self.ttl.to_proto();
        let (dscp, dscp_copy) = self.dscp.to_proto();
        let (encapsulation, udp) = match self.encap {
            Encap::SixInFour => (api::Encapsulation::SixInFour, None),
            Encap::Udp(udp) => (api::Encapsulation::Udp, Some(udp)),
        };
        let rebind = match udp.map(|u| u.rebind) {
            None => api::RebindPolicy::Unspecified,
            Some(Rebind::Deny) => api::RebindPolicy::Deny,
            Some(Rebind::Control) => api::RebindPolicy::Control,
            Some(Rebind::InnerSource) => api::RebindPolicy::InnerSource,
            Some(Rebind::InnerSourcePort) => api::RebindPolicy::InnerSourcePort,
        };
        let liveness = match self.liveness.mode {
            LivenessMode::Off => api::LivenessMode::Off,
            LivenessMode::Passive => api::LivenessMode::Passive,
            LivenessMode::Nud => api::LivenessMode::Nud,
            LivenessMode::Echo => api::LivenessMode::Echo,
        };
        let prefixes = self.prefixes.iter().map(|p| net_to_proto(IpNet::V6(*p)));
        api::Tunnel {
            id: self.id.clone(),
            encapsulation: encapsulation.into(),
            local: self.local.octets().to_vec(),
            remote: self.remote.octets().to_vec(),
            prefixes: prefixes.collect(),
            link_prefix: self.link.map(|l| net_to_proto(IpNet::V6(l.prefix))),
            link_address: self
                .link
                .map_or_else(Vec::new, |l| l.address.octets().to_vec()),
            link_local_address: self
                .link_local
                .map_or_else(Vec::new, |a| a.octets().to_vec()),
            mtu: u32::from(self.mtu),
            mtu_mode: self.mtu_mode.to_proto().into(),
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy,
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: self.ecn.to_proto().into(),
            strict_source: Some(self.strict_source),
            admin_up: Some(self.admin_up),
            local_port: udp.map_or(0, |u| u.local_port.into()),
            remote_port: udp.and_then(|u| u.remote_port).map_or(0, u32::from),
            shared_port: udp.is_some_and(|u| u.shared),
            rebind: rebind.into(),
            path_mtu: self.path_mtu.map_or(0, u32::from),
            min_path_mtu: self.min_path_mtu.into(),
            mss_clamp: self.mss_clamp,
            liveness: liveness.into(),
            liveness_interval_seconds: self.liveness.interval.into(),
            ..Default::default()
        }
    }
}

/// A tunnel as the dataplane has it.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelEntry {
    /// What was written.
    pub tunnel: Tunnel,
    /// Who wrote it.
    pub owner: String,
    /// Traffic since creation; `None` where the call leaves it out.
    pub counters: Option<api::TunnelCounters>,
    /// Generation of the sync that last confirmed it, 0 if none did.
    pub generation: u64,
    /// A sync of its owner runs and has not mentioned it yet.
    pub stale: bool,
    /// Revision of the table that last changed it.
    pub revision: u64,
    /// Where the user is now; `None`: not known yet.
    pub endpoint: Option<Endpoint>,
    /// [`MtuMode::Dynamic`]: what the path MTU is believed to be, in bytes of the outer packet.
    pub learnt_path_mtu: Option<u32>,
    /// Largest inner packet that is sent into the tunnel now; `None` where it is not told.
    pub current_mtu: Option<u32>,
    /// Whether it carries traffic.
    pub state: TunnelState,
    /// Time since the last sign of life; `None`: none seen, or nobody watches.
    pub last_seen: Option<Duration>,
    /// ICMPv4 errors about its packets.
    pub outer_errors: u64,
}

impl TunnelEntry {
    /// A tunnel of which nothing else is known.
    pub fn new(tunnel: Tunnel) -> Self {
        Self {
            tunnel,
            owner: String::new(),
            counters: None,
            generation: 0,
            stale: false,
            revision: 0,
            endpoint: None,
            learnt_path_mtu: None,
            current_mtu: None,
            state: TunnelState::Unspecified,
            last_seen: None,
            outer_errors: 0,
        }
    }
}

impl TryFrom<api::Tunnel> for TunnelEntry {
    type Error = Error;

    fn try_from(proto: api::Tunnel) -> Result<Self, Error> {
        let prefix = |p: &api::IpPrefix| required_net6("tunnel.prefixes", p);
        let encap = encap_from_proto(&proto)?;
        let mtu_mode = MtuMode::from_proto(proto.mtu_mode());
        let tunnel = Tunnel {
            local: required_v4("tunnel.local", &proto.local)?,
            remote: match encap {
                Encap::Udp(_) if proto.remote.is_empty() => Ipv4Addr::UNSPECIFIED,
                _ => required_v4("tunnel.remote", &proto.remote)?,
            },
            encap,
            prefixes: proto
                .prefixes
                .iter()
                .map(prefix)
                .collect::<Result<_, _>>()?,
            link: link_from_proto(&proto)?,
            link_local: link_local_from_proto(&proto)?,
            mtu: match mtu_mode {
                MtuMode::Dynamic => small("tunnel.mtu", proto.mtu)?,
                MtuMode::Static | MtuMode::Managed => mtu("tunnel.mtu", proto.mtu)?,
            },
            mtu_mode,
            path_mtu: match proto.path_mtu {
                0 => None,
                path_mtu => Some(small("tunnel.path_mtu", path_mtu)?),
            },
            min_path_mtu: match proto.min_path_mtu {
                0 => DEFAULT_MIN_PATH_MTU,
                least => small("tunnel.min_path_mtu", least)?,
            },
            mss_clamp: proto.mss_clamp,
            ttl: Ttl::from_proto("tunnel.ttl", proto.ttl, proto.ttl_inherit)?,
            dscp: Dscp::from_proto("tunnel.dscp", proto.dscp, proto.dscp_copy)?,
            dscp_decap_copy: proto.dscp_decap_copy,
            ecn: Ecn::from_proto(proto.ecn()),
            strict_source: proto.strict_source.unwrap_or(true),
            admin_up: proto.admin_up.unwrap_or(true),
            liveness: liveness_from_proto(&proto)?,
            id: proto.id.clone(),
        };
        let endpoint = proto.endpoint.as_ref();
        Ok(Self {
            tunnel,
            state: proto.state(),
            endpoint: endpoint
                .map(|e| Endpoint::from_proto("tunnel.endpoint", e))
                .transpose()?,
            learnt_path_mtu: (proto.learnt_path_mtu != 0).then_some(proto.learnt_path_mtu),
            current_mtu: (proto.current_mtu != 0).then_some(proto.current_mtu),
            last_seen: proto.last_seen.and_then(|d| Duration::try_from(d).ok()),
            outer_errors: proto.outer_errors,
            owner: proto.owner,
            counters: proto.counters,
            generation: proto.generation,
            stale: proto.stale,
            revision: proto.revision,
        })
    }
}

fn encap_from_proto(proto: &api::Tunnel) -> Result<Encap, Error> {
    Ok(match proto.encapsulation() {
        api::Encapsulation::SixInFour | api::Encapsulation::Unspecified => Encap::SixInFour,
        api::Encapsulation::Udp => Encap::Udp(UdpEncap {
            local_port: small("tunnel.local_port", proto.local_port)?,
            remote_port: match proto.remote_port {
                0 => None,
                port => Some(small("tunnel.remote_port", port)?),
            },
            shared: proto.shared_port,
            rebind: match proto.rebind() {
                api::RebindPolicy::Deny => Rebind::Deny,
                api::RebindPolicy::Control | api::RebindPolicy::Unspecified => Rebind::Control,
                api::RebindPolicy::InnerSource => Rebind::InnerSource,
                api::RebindPolicy::InnerSourcePort => Rebind::InnerSourcePort,
            },
        }),
    })
}

fn liveness_from_proto(proto: &api::Tunnel) -> Result<Liveness, Error> {
    Ok(Liveness {
        mode: match proto.liveness() {
            api::LivenessMode::Off | api::LivenessMode::Unspecified => LivenessMode::Off,
            api::LivenessMode::Passive => LivenessMode::Passive,
            api::LivenessMode::Nud => LivenessMode::Nud,
            api::LivenessMode::Echo => LivenessMode::Echo,
        },
        interval: match proto.liveness_interval_seconds {
            0 => Liveness::default().interval,
            seconds => small("tunnel.liveness_interval_seconds", seconds)?,
        },
    })
}

fn link_from_proto(proto: &api::Tunnel) -> Result<Option<TunnelLink>, Error> {
    let Some(prefix) = &proto.link_prefix else {
        return Ok(None);
    };
    Ok(Some(TunnelLink {
        prefix: required_net6("tunnel.link_prefix", prefix)?,
        address: required_v6("tunnel.link_address", &proto.link_address)?,
    }))
}

fn link_local_from_proto(proto: &api::Tunnel) -> Result<Option<Ipv6Addr>, Error> {
    match optional_ip("tunnel.link_local_address", &proto.link_local_address)? {
        None => Ok(None),
        Some(IpAddr::V6(address)) => Ok(Some(address)),
        Some(IpAddr::V4(_)) => Err(Error::malformed(
            "tunnel.link_local_address",
            "is not an IPv6 address",
        )),
    }
}

/// A field of a tunnel that can be changed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelField {
    /// `local`
    Local,
    /// `remote`
    Remote,
    /// `prefixes`, all of them
    Prefixes,
    /// `link`
    Link,
    /// `link_local`
    LinkLocal,
    /// `mtu`
    Mtu,
    /// `mtu_mode`
    MtuMode,
    /// `ttl`
    Ttl,
    /// `dscp`
    Dscp,
    /// `dscp_decap_copy`
    DscpDecapCopy,
    /// `ecn`
    Ecn,
    /// `strict_source`
    StrictSource,
    /// `admin_up`
    AdminUp,
    /// `remote_port`
    RemotePort,
    /// `rebind`
    Rebind,
    /// `path_mtu`
    PathMtu,
    /// `min_path_mtu`
    MinPathMtu,
    /// `mss_clamp`
    MssClamp,
    /// `liveness`
    LivenessMode,
    /// `liveness.interval`
    LivenessInterval,
    /// `local_port`
    LocalPort,
}

impl TunnelField {
    /// Names of the message fields behind it.
    fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Local => &["local"],
            Self::Remote => &["remote"],
            Self::Prefixes => &["prefixes"],
            Self::Link => &["link_prefix", "link_address"],
            Self::LinkLocal => &["link_local_address"],
            Self::Mtu => &["mtu"],
            Self::MtuMode => &["mtu_mode"],
            Self::Ttl => &["ttl", "ttl_inherit"],
            Self::Dscp => &["dscp", "dscp_copy"],
            Self::DscpDecapCopy => &["dscp_decap_copy"],
            Self::Ecn => &["ecn"],
            Self::StrictSource => &["strict_source"],
            Self::AdminUp => &["admin_up"],
            Self::RemotePort => &["remote_port"],
            Self::Rebind => &["rebind"],
            Self::PathMtu => &["path_mtu"],
            Self::MinPathMtu => &["min_path_mtu"],
            Self::MssClamp => &["mss_clamp"],
            Self::LivenessMode => &["liveness"],
            Self::LivenessInterval => &["liveness_interval_seconds"],
            Self::LocalPort => &["local_port"],
        }
    }
}

/// One change to the tunnel table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelUpdate {
    /// Creates or changes.
    Upsert {
        /// The tunnel.
        tunnel: Tunnel,
        /// Fields to change; `None`: all of them.
        fields: Option<Vec<TunnelField>>,
        /// Whether it must or must not exist.
        mode: WriteMode,
    },
    /// Removes.
    Delete {
        /// Natural key.
        id: String,
        /// Whether a missing tunnel is an error.
        must_exist: bool,
    },
}

impl TunnelUpdate {
    /// An idempotent upsert of all fields.
    pub fn upsert(tunnel: Tunnel) -> Self {
        Self::Upsert {
            tunnel,
            fields: None,
            mode: WriteMode::Upsert,
        }
    }

    /// An idempotent removal.
    pub fn delete(id: impl Into<String>) -> Self {
        Self::Delete {
            id: id.into(),
            must_exist: false,
        }
    }

    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Upsert { tunnel, .. } => &tunnel.id,
            Self::Delete { id, .. } => id,
        }
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::Upsert { mode, .. } => *mode != WriteMode::Create,
            Self::Delete { must_exist, .. } => !must_exist,
        }
    }

    pub(crate) fn to_proto(&self) -> api::TunnelUpdate {
        let update = match self {
            Self::Upsert {
                tunnel,
                fields,
                mode,
            } => {
                let update_mask = fields.as_ref().map(|fields| {
                    let paths = fields.iter().flat_map(|f| f.paths());
                    prost_types::FieldMask {
                        paths: paths.map(|&p| p.to_owned()).collect(),
                    }
                });
                api::tunnel_update::Update::Upsert(api::TunnelUpsert {
                    tunnel: Some(tunnel.to_proto()),
                    update_mask,
                    mode: mode.to_proto().into(),
                })
            }
            Self::Delete { id, must_exist } => {
                api::tunnel_update::Update::Delete(api::TunnelDelete {
                    id: id.clone(),
                    must_exist: *must_exist,
                })
            }
        };
        api::TunnelUpdate {
            update: Some(update),
        }
    }
}

#[cfg(test)]
mod tests;
