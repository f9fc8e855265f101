//! The configured tunnel, typed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use sixferry_proto::dataplane::v1 as api;

use crate::address::{net_to_proto, optional_ip, required_net6, required_v4, required_v6};
use crate::{Error, WriteMode};

/// How the tunnel's MTU relates to the outer Don't Fragment bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuMode {
    /// Fixed MTU, DF clear (RFC 4213 section 3.2.1).
    #[default]
    Static,
    /// Fixed MTU, DF set: for networks whose MTU is known.
    Managed,
}

/// The outer TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Always this, 1..=255.
    Fixed(u8),
    /// The inner hop limit.
    Inherit,
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(64)
    }
}

/// The outer DSCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// Always this, 0..=63 (the pipe model of RFC 2983).
    Fixed(u8),
    /// The inner one (the uniform model).
    Copy,
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// ECN at the tunnel entry (RFC 6040 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The outer header carries the inner field.
    #[default]
    Normal,
    /// The outer header is Not-ECT.
    Compat,
}

/// The numbered link between relay and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelLink {
    /// Its prefix.
    pub prefix: Ipv6Net,
    /// Our address in it.
    pub address: Ipv6Addr,
}

/// What a controller writes: one 6in4 tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Natural key: 1 to 63 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Address of this relay.
    pub local: Ipv4Addr,
    /// Address of the user.
    pub remote: Ipv4Addr,
    /// Prefixes routed into the tunnel.
    pub prefixes: Vec<Ipv6Net>,
    /// The numbered link, if any.
    pub link: Option<TunnelLink>,
    /// Our link-local address; `None`: made from `local`.
    pub link_local: Option<Ipv6Addr>,
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// How DF is set.
    pub mtu_mode: MtuMode,
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
}

impl Tunnel {
    /// A tunnel with the defaults of the API and no prefixes.
    pub fn new(id: impl Into<String>, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        Self {
            id: id.into(),
            local,
            remote,
            prefixes: Vec::new(),
            link: None,
            link_local: None,
            mtu: 1280,
            mtu_mode: MtuMode::default(),
            ttl: Ttl::default(),
            dscp: Dscp::default(),
            dscp_decap_copy: false,
            ecn: Ecn::default(),
            strict_source: true,
            admin_up: true,
        }
    }

    /// The message for the API; output-only fields stay empty.
    pub fn to_proto(&self) -> api::Tunnel {
        let mtu_mode = match self.mtu_mode {
            MtuMode::Static => api::MtuMode::Static,
            MtuMode::Managed => api::MtuMode::Managed,
        };
        let ecn = match self.ecn {
            Ecn::Normal => api::EcnMode::Normal,
            Ecn::Compat => api::EcnMode::Compat,
        };
        let (ttl, ttl_inherit) = match self.ttl {
            Ttl::Fixed(ttl) => (Some(u32::from(ttl)), false),
            Ttl::Inherit => (None, true),
        };
        let (dscp, dscp_copy) = match self.dscp {
            Dscp::Fixed(dscp) => (Some(u32::from(dscp)), false),
            Dscp::Copy => (None, true),
        };
        let prefixes = self.prefixes.iter().map(|p| net_to_proto(IpNet::V6(*p)));
        api::Tunnel {
            id: self.id.clone(),
            encapsulation: api::Encapsulation::SixInFour.into(),
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
            mtu_mode: mtu_mode.into(),
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy,
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: ecn.into(),
            strict_source: Some(self.strict_source),
            admin_up: Some(self.admin_up),
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
}

impl TryFrom<api::Tunnel> for TunnelEntry {
    type Error = Error;

    fn try_from(proto: api::Tunnel) -> Result<Self, Error> {
        let prefix = |p: &api::IpPrefix| required_net6("tunnel.prefixes", p);
        let tunnel = Tunnel {
            local: required_v4("tunnel.local", &proto.local)?,
            remote: required_v4("tunnel.remote", &proto.remote)?,
            prefixes: proto
                .prefixes
                .iter()
                .map(prefix)
                .collect::<Result<_, _>>()?,
            link: link_from_proto(&proto)?,
            link_local: link_local_from_proto(&proto)?,
            mtu: u16::try_from(if proto.mtu == 0 { 1280 } else { proto.mtu })
                .map_err(|_| Error::malformed("tunnel.mtu", "is too large"))?,
            mtu_mode: match proto.mtu_mode() {
                api::MtuMode::Managed => MtuMode::Managed,
                api::MtuMode::Static | api::MtuMode::Unspecified => MtuMode::Static,
            },
            ttl: match proto.ttl {
                _ if proto.ttl_inherit => Ttl::Inherit,
                None => Ttl::default(),
                Some(ttl) => Ttl::Fixed(
                    u8::try_from(ttl)
                        .map_err(|_| Error::malformed("tunnel.ttl", "is too large"))?,
                ),
            },
            dscp: match proto.dscp {
                _ if proto.dscp_copy => Dscp::Copy,
                None => Dscp::default(),
                Some(dscp) => Dscp::Fixed(
                    u8::try_from(dscp)
                        .map_err(|_| Error::malformed("tunnel.dscp", "is too large"))?,
                ),
            },
            dscp_decap_copy: proto.dscp_decap_copy,
            ecn: match proto.ecn() {
                api::EcnMode::Compat => Ecn::Compat,
                api::EcnMode::Normal | api::EcnMode::Unspecified => Ecn::Normal,
            },
            strict_source: proto.strict_source.unwrap_or(true),
            admin_up: proto.admin_up.unwrap_or(true),
            id: proto.id,
        };
        Ok(Self {
            tunnel,
            owner: proto.owner,
            counters: proto.counters,
            generation: proto.generation,
            stale: proto.stale,
            revision: proto.revision,
        })
    }
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
mod tests {
    use super::*;

    fn full() -> Tunnel {
        Tunnel {
            prefixes: vec!["2001:db8:100::/48".parse().unwrap()],
            link: Some(TunnelLink {
                prefix: "2001:db8:ffff:1::/64".parse().unwrap(),
                address: "2001:db8:ffff:1::1".parse().unwrap(),
            }),
            link_local: Some("fe80::1".parse().unwrap()),
            mtu: 1480,
            mtu_mode: MtuMode::Managed,
            ttl: Ttl::Inherit,
            dscp: Dscp::Copy,
            dscp_decap_copy: true,
            ecn: Ecn::Compat,
            strict_source: false,
            admin_up: false,
            ..Tunnel::new("t1", [198, 51, 100, 1].into(), [192, 0, 2, 10].into())
        }
    }

    #[test]
    fn tunnels_convert_both_ways() {
        let plain = Tunnel::new("t0", [198, 51, 100, 1].into(), [192, 0, 2, 9].into());
        let fixed = Tunnel {
            ttl: Ttl::Fixed(255),
            dscp: Dscp::Fixed(46),
            ..plain.clone()
        };
        for tunnel in [plain, fixed, full()] {
            let entry = TunnelEntry::try_from(tunnel.to_proto()).unwrap();
            assert_eq!(entry.tunnel, tunnel);
        }
    }

    #[test]
    fn absent_fields_take_the_defaults_of_the_api() {
        let sparse = api::Tunnel {
            id: "t".into(),
            local: vec![198, 51, 100, 1],
            remote: vec![192, 0, 2, 1],
            ..Default::default()
        };
        let expected = Tunnel::new("t", [198, 51, 100, 1].into(), [192, 0, 2, 1].into());
        assert_eq!(TunnelEntry::try_from(sparse).unwrap().tunnel, expected);
    }

    #[test]
    fn malformed_tunnels_name_the_field() {
        type Damage = fn(&mut api::Tunnel);
        let breakages: [(&str, Damage); 6] = [
            ("tunnel.local", |t| t.local = vec![1, 2, 3]),
            ("tunnel.remote", |t| t.remote = vec![0; 16]),
            ("tunnel.prefixes", |t| t.prefixes[0].length = 129),
            ("tunnel.link_address", |t| t.link_address.clear()),
            ("tunnel.mtu", |t| t.mtu = 70_000),
            ("tunnel.link_local_address", |t| {
                t.link_local_address = vec![1]
            }),
        ];
        for (field, damage) in breakages {
            let mut proto = full().to_proto();
            damage(&mut proto);
            let error = TunnelEntry::try_from(proto).unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn the_update_mask_covers_both_halves_of_a_field() {
        let update = TunnelUpdate::Upsert {
            tunnel: full(),
            fields: Some(vec![TunnelField::Ttl, TunnelField::Link]),
            mode: WriteMode::Update,
        };
        let Some(api::tunnel_update::Update::Upsert(upsert)) = update.to_proto().update else {
            panic!("not an upsert");
        };
        assert_eq!(
            upsert.update_mask.unwrap().paths,
            ["ttl", "ttl_inherit", "link_prefix", "link_address"]
        );
        assert_eq!(upsert.mode, i32::from(api::WriteMode::Update));
    }

    #[test]
    fn create_and_strict_delete_are_not_idempotent() {
        assert!(TunnelUpdate::upsert(full()).is_idempotent());
        assert!(TunnelUpdate::delete("t1").is_idempotent());
        let create = TunnelUpdate::Upsert {
            tunnel: full(),
            fields: None,
            mode: WriteMode::Create,
        };
        assert!(!create.is_idempotent());
        let strict = TunnelUpdate::Delete {
            id: "t1".into(),
            must_exist: true,
        };
        assert!(!strict.is_idempotent());
    }
}
