//! The embedded domain, typed: 6to4 (RFC 3056) and 6rd (RFC 5969).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sixferry_proto::dataplane::v1 as api;

use api::domain_service_client::DomainServiceClient;
use api::embedded_domain::Mechanism as ApiMechanism;

use crate::address::{net_to_proto, required_net, required_net6, required_v4};
use crate::outer::{mtu, small};
use crate::{Client, Dscp, Ecn, Error, MtuMode, Ttl, WriteMode};

/// Where the IPv4 address is inside the IPv6 address. Its kind and role cannot change after
/// creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// 6to4.
    SixToFour(SixToFour),
    /// 6rd.
    SixRd(SixRd),
}

/// 6to4 (RFC 3056, RFC 3964).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SixToFour {
    /// What we are.
    pub role: SixToFourRole,
    /// Only peers whose address shares this many leading bits with ours; 0: all.
    pub peer_v4_length: u8,
}

/// The part of a 6to4 node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SixToFourRole {
    /// Between 6to4 sites and the native Internet.
    Relay {
        /// Also answers to, and sends from, 192.88.99.1.
        anycast: bool,
    },
    /// A site.
    Site {
        /// Its way out; `None`: 192.88.99.1.
        relay: Option<Ipv4Addr>,
    },
}

/// 6rd (RFC 5969).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SixRd {
    /// The 6rd prefix.
    pub prefix: Ipv6Net,
    /// The leading bits all IPv4 addresses of the domain share, as a prefix; /0: none.
    pub v4_common: Ipv4Net,
    /// What we are.
    pub role: SixRdRole,
}

/// The part of a 6rd node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SixRdRole {
    /// Border relay.
    Br {
        /// Its address is shared with other border relays.
        anycast: bool,
    },
    /// Customer edge.
    Ce {
        /// The border relay.
        br: Ipv4Addr,
    },
}

/// Reverse path check of outer sources against the host's IPv4 routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urpf {
    /// None.
    #[default]
    Off,
    /// Some route other than a default leads to the source.
    Loose,
    /// The route to the source leaves by the port the packet came in by.
    Strict,
}

/// What a controller writes: one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Natural key: 1 to 63 of `[A-Za-z0-9._-]`, shared with tunnels.
    pub id: String,
    /// 6to4 or 6rd.
    pub mechanism: Mechanism,
    /// Address of this relay.
    pub local: Ipv4Addr,
    /// Accept packets from the domain.
    pub input: bool,
    /// Check of outer sources.
    pub urpf: Urpf,
    /// 6to4: IPv4 prefixes exempt from the martian rules, for laboratories.
    pub allow_v4: Vec<Ipv4Net>,
    /// IPv4 prefixes never talked to.
    pub deny_v4: Vec<Ipv4Net>,
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// How DF is set; not dynamic.
    pub mtu_mode: MtuMode,
    /// Outer TTL.
    pub ttl: Ttl,
    /// Outer DSCP.
    pub dscp: Dscp,
    /// At the exit the outer DSCP overwrites the inner one.
    pub dscp_decap_copy: bool,
    /// ECN at the entry.
    pub ecn: Ecn,
    /// Administrative state.
    pub admin_up: bool,
    /// Lowers the MSS of TCP connections to what the domain carries.
    pub mss_clamp: bool,
}

impl Domain {
    /// A domain with the defaults of the API: those of 6rd copy the DSCP (RFC 5969 section 9).
    pub fn new(id: impl Into<String>, local: Ipv4Addr, mechanism: Mechanism) -> Self {
        Self {
            id: id.into(),
            dscp: default_dscp(&mechanism),
            mechanism,
            local,
            input: true,
            urpf: Urpf::Off,
            allow_v4: Vec::new(),
            deny_v4: Vec::new(),
            mtu: 1280,
            mtu_mode: MtuMode::Static,
            ttl: Ttl::default(),
            dscp_decap_copy: false,
            ecn: Ecn::default(),
            admin_up: true,
            mss_clamp: false,
        }
    }

    /// The message for the API; output-only fields stay empty.
    pub fn to_proto(&self) -> api::EmbeddedDomain {
        let nets = |nets: &[Ipv4Net]| nets.iter().map(|&n| net_to_proto(IpNet::V4(n))).collect();
        let urpf = match self.urpf {
            Urpf::Off => api::UrpfMode::Off,
            Urpf::Loose => api::UrpfMode::Loose,
            Urpf::Strict => api::UrpfMode::Strict,
        };
        let (ttl, ttl_inherit) = self.ttl.to_proto();
        let (dscp, dscp_copy) = self.dscp.to_proto();
        api::EmbeddedDomain {
            id: self.id.clone(),
            mechanism: Some(self.mechanism.to_proto()),
            local: self.local.octets().to_vec(),
            input: Some(self.input),
            urpf: urpf.into(),
            allow_v4: nets(&self.allow_v4),
            deny_v4: nets(&self.deny_v4),
            mtu: self.mtu.into(),
            mtu_mode: self.mtu_mode.to_proto().into(),
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy: Some(dscp_copy),
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: self.ecn.to_proto().into(),
            admin_up: Some(self.admin_up),
            mss_clamp: self.mss_clamp,
            ..Default::default()
        }
    }
}

fn default_dscp(mechanism: &Mechanism) -> Dscp {
    match mechanism {
        Mechanism::SixToFour(_) => Dscp::default(),
        Mechanism::SixRd(_) => Dscp::Copy,
    }
}

impl Mechanism {
    fn to_proto(&self) -> ApiMechanism {
        match self {
            Self::SixToFour(m) => {
                let (role, relay, anycast) = match m.role {
                    SixToFourRole::Relay { anycast } => (api::SixToFourRole::Relay, None, anycast),
                    SixToFourRole::Site { relay } => (api::SixToFourRole::Site, relay, false),
                };
                ApiMechanism::SixToFour(api::SixToFour {
                    role: role.into(),
                    relay: relay.map_or_else(Vec::new, |r| r.octets().to_vec()),
                    peer_v4_length: m.peer_v4_length.into(),
                    anycast,
                })
            }
            Self::SixRd(m) => {
                let (role, br, anycast) = match m.role {
                    SixRdRole::Br { anycast } => (api::SixRdRole::Br, None, anycast),
                    SixRdRole::Ce { br } => (api::SixRdRole::Ce, Some(br), false),
                };
                let common = m.v4_common;
                ApiMechanism::SixRd(api::SixRd {
                    prefix: Some(net_to_proto(IpNet::V6(m.prefix))),
                    v4_common: match common.prefix_len() {
                        0 => Vec::new(),
                        _ => common.network().octets().to_vec(),
                    },
                    v4_mask_length: common.prefix_len().into(),
                    role: role.into(),
                    br: br.map_or_else(Vec::new, |br| br.octets().to_vec()),
                    anycast,
                })
            }
        }
    }
}

fn six_to_four(proto: &api::SixToFour) -> Result<SixToFour, Error> {
    let role = match proto.role() {
        api::SixToFourRole::Relay => SixToFourRole::Relay {
            anycast: proto.anycast,
        },
        api::SixToFourRole::Site => SixToFourRole::Site {
            relay: match proto.relay.as_slice() {
                [] => None,
                relay => Some(required_v4("six_to_four.relay", relay)?),
            },
        },
        api::SixToFourRole::Unspecified => {
            return Err(Error::malformed("six_to_four.role", "is missing"));
        }
    };
    Ok(SixToFour {
        role,
        peer_v4_length: small("six_to_four.peer_v4_length", proto.peer_v4_length)?,
    })
}

fn six_rd(proto: &api::SixRd) -> Result<SixRd, Error> {
    let prefix = proto
        .prefix
        .as_ref()
        .ok_or(Error::malformed("six_rd.prefix", "is missing"))?;
    let common = match proto.v4_common.as_slice() {
        [] => Ipv4Addr::UNSPECIFIED,
        common => required_v4("six_rd.v4_common", common)?,
    };
    let length = small("six_rd.v4_mask_length", proto.v4_mask_length)?;
    Ok(SixRd {
        prefix: required_net6("six_rd.prefix", prefix)?,
        v4_common: Ipv4Net::new(common, length)
            .map_err(|_| Error::malformed("six_rd.v4_mask_length", "is too large"))?,
        role: match proto.role() {
            api::SixRdRole::Br => SixRdRole::Br {
                anycast: proto.anycast,
            },
            api::SixRdRole::Ce => SixRdRole::Ce {
                br: required_v4("six_rd.br", &proto.br)?,
            },
            api::SixRdRole::Unspecified => {
                return Err(Error::malformed("six_rd.role", "is missing"));
            }
        },
    })
}

/// A domain as the dataplane has it.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainEntry {
    /// What was written.
    pub domain: Domain,
    /// Who wrote it.
    pub owner: String,
    /// The prefix routed into it.
    pub prefix: Option<Ipv6Net>,
    /// The delegated prefix of our own address.
    pub delegated: Option<Ipv6Net>,
    /// Traffic since creation; `None` where the call leaves it out.
    pub counters: Option<api::TunnelCounters>,
    /// Generation of the sync that last confirmed it, 0 if none did.
    pub generation: u64,
    /// A sync of its owner runs and has not mentioned it yet.
    pub stale: bool,
    /// Revision of the table that last changed it.
    pub revision: u64,
}

impl TryFrom<api::EmbeddedDomain> for DomainEntry {
    type Error = Error;

    fn try_from(proto: api::EmbeddedDomain) -> Result<Self, Error> {
        let mechanism = match &proto.mechanism {
            Some(ApiMechanism::SixToFour(m)) => Mechanism::SixToFour(six_to_four(m)?),
            Some(ApiMechanism::SixRd(m)) => Mechanism::SixRd(six_rd(m)?),
            None => return Err(Error::malformed("domain.mechanism", "is missing")),
        };
        let dscp = match (proto.dscp, proto.dscp_copy) {
            (None, None) => default_dscp(&mechanism),
            (dscp, copy) => Dscp::from_proto("domain.dscp", dscp, copy.unwrap_or(false))?,
        };
        let net6 = |field, net: &Option<api::IpPrefix>| {
            net.as_ref().map(|n| required_net6(field, n)).transpose()
        };
        let domain = Domain {
            mechanism,
            local: required_v4("domain.local", &proto.local)?,
            input: proto.input.unwrap_or(true),
            urpf: match proto.urpf() {
                api::UrpfMode::Off | api::UrpfMode::Unspecified => Urpf::Off,
                api::UrpfMode::Loose => Urpf::Loose,
                api::UrpfMode::Strict => Urpf::Strict,
            },
            allow_v4: nets4("domain.allow_v4", &proto.allow_v4)?,
            deny_v4: nets4("domain.deny_v4", &proto.deny_v4)?,
            mtu: mtu("domain.mtu", proto.mtu)?,
            mtu_mode: MtuMode::from_proto(proto.mtu_mode()),
            ttl: Ttl::from_proto("domain.ttl", proto.ttl, proto.ttl_inherit)?,
            dscp,
            dscp_decap_copy: proto.dscp_decap_copy,
            ecn: Ecn::from_proto(proto.ecn()),
            admin_up: proto.admin_up.unwrap_or(true),
            mss_clamp: proto.mss_clamp,
            id: proto.id,
        };
        Ok(Self {
            domain,
            owner: proto.owner,
            prefix: net6("domain.domain_prefix", &proto.domain_prefix)?,
            delegated: net6("domain.delegated_prefix", &proto.delegated_prefix)?,
            counters: proto.counters,
            generation: proto.generation,
            stale: proto.stale,
            revision: proto.revision,
        })
    }
}

fn nets4(field: &'static str, nets: &[api::IpPrefix]) -> Result<Vec<Ipv4Net>, Error> {
    let net = |n| match required_net(field, n)? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(Error::malformed(field, "is not an IPv4 prefix")),
    };
    nets.iter().map(net).collect()
}

/// A field of a domain that can be changed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainField {
    /// `mechanism`, as a whole
    Mechanism,
    /// `local`
    Local,
    /// `input`
    Input,
    /// `urpf`
    Urpf,
    /// `allow_v4`, all of them
    AllowV4,
    /// `deny_v4`, all of them
    DenyV4,
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
    /// `admin_up`
    AdminUp,
    /// `mss_clamp`
    MssClamp,
}

impl DomainField {
    /// Names of the message fields behind it.
    fn paths(self, mechanism: &Mechanism) -> &'static [&'static str] {
        match self {
            Self::Mechanism => match mechanism {
                Mechanism::SixToFour(_) => &["six_to_four"],
                Mechanism::SixRd(_) => &["six_rd"],
            },
            Self::Local => &["local"],
            Self::Input => &["input"],
            Self::Urpf => &["urpf"],
            Self::AllowV4 => &["allow_v4"],
            Self::DenyV4 => &["deny_v4"],
            Self::Mtu => &["mtu"],
            Self::MtuMode => &["mtu_mode"],
            Self::Ttl => &["ttl", "ttl_inherit"],
            Self::Dscp => &["dscp", "dscp_copy"],
            Self::DscpDecapCopy => &["dscp_decap_copy"],
            Self::Ecn => &["ecn"],
            Self::AdminUp => &["admin_up"],
            Self::MssClamp => &["mss_clamp"],
        }
    }
}

/// One change to the domain table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainUpdate {
    /// Creates or changes.
    Upsert {
        /// The domain.
        domain: Box<Domain>,
        /// Fields to change; `None`: all of them.
        fields: Option<Vec<DomainField>>,
        /// Whether it must or must not exist.
        mode: WriteMode,
    },
    /// Removes, and the routes into it.
    Delete {
        /// Natural key.
        id: String,
        /// Whether a missing domain is an error.
        must_exist: bool,
    },
}

impl DomainUpdate {
    /// An idempotent upsert of all fields.
    pub fn upsert(domain: Domain) -> Self {
        Self::Upsert {
            domain: Box::new(domain),
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
            Self::Upsert { domain, .. } => &domain.id,
            Self::Delete { id, .. } => id,
        }
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::Upsert { mode, .. } => *mode != WriteMode::Create,
            Self::Delete { must_exist, .. } => !must_exist,
        }
    }

    pub(crate) fn to_proto(&self) -> api::DomainUpdate {
        let update = match self {
            Self::Upsert {
                domain,
                fields,
                mode,
            } => {
                let update_mask = fields.as_ref().map(|fields| {
                    let paths = fields.iter().flat_map(|f| f.paths(&domain.mechanism));
                    prost_types::FieldMask {
                        paths: paths.map(|&p| p.to_owned()).collect(),
                    }
                });
                api::domain_update::Update::Upsert(api::DomainUpsert {
                    domain: Some(domain.to_proto()),
                    update_mask,
                    mode: mode.to_proto().into(),
                })
            }
            Self::Delete { id, must_exist } => {
                api::domain_update::Update::Delete(api::DomainDelete {
                    id: id.clone(),
                    must_exist: *must_exist,
                })
            }
        };
        api::DomainUpdate {
            update: Some(update),
        }
    }
}

/// What is to be translated by a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainKey {
    /// Which IPv4 end does this address embed?
    Inner(Ipv6Addr),
    /// Which prefix is delegated to this address?
    Outer(Ipv4Addr),
}

/// Both ends of the translation.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainMatch {
    /// The domain.
    pub entry: DomainEntry,
    /// The IPv4 address.
    pub outer: Ipv4Addr,
    /// The prefix delegated to it.
    pub delegated: Option<Ipv6Net>,
    /// It is the relay's own.
    pub own: bool,
    /// Packets of this peer are refused: the drop reason.
    pub refused: Option<String>,
}

impl Client {
    /// One domain.
    pub async fn domain(&self, id: &str) -> Result<DomainEntry, Error> {
        let request = api::GetDomainRequest {
            id: id.to_owned(),
            read_mask: None,
        };
        let answer = self
            .call("GetDomain", request, async |channel, r| {
                DomainServiceClient::new(channel).get_domain(r).await
            })
            .await?;
        let domain = answer.domain;
        domain
            .ok_or(Error::malformed("domain", "is missing"))?
            .try_into()
    }

    /// Whose packet would this be? Without a domain's id the dataplane chooses the one that fits.
    pub async fn lookup_domain(
        &self,
        id: Option<&str>,
        key: DomainKey,
    ) -> Result<DomainMatch, Error> {
        use api::lookup_domain_request::Key;
        let request = api::LookupDomainRequest {
            id: id.unwrap_or_default().to_owned(),
            key: Some(match key {
                DomainKey::Inner(address) => Key::InnerAddress(address.octets().to_vec()),
                DomainKey::Outer(address) => Key::OuterAddress(address.octets().to_vec()),
            }),
        };
        let answer = self
            .call("LookupDomain", request, async |channel, r| {
                DomainServiceClient::new(channel).lookup_domain(r).await
            })
            .await?;
        let domain = answer.domain;
        let delegated = answer.delegated_prefix;
        Ok(DomainMatch {
            entry: domain
                .ok_or(Error::malformed("domain", "is missing"))?
                .try_into()?,
            outer: required_v4("outer_address", &answer.outer_address)?,
            delegated: delegated
                .map(|p| required_net6("delegated_prefix", &p))
                .transpose()?,
            own: answer.own,
            refused: (!answer.refused_reason.is_empty()).then_some(answer.refused_reason),
        })
    }
}

#[cfg(test)]
mod tests;
