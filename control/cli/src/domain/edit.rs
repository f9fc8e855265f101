//! Arguments that describe a domain.

use std::net::Ipv4Addr;

use clap::{Args, ValueEnum};
use ipnet::{Ipv4Net, Ipv6Net};
use sixferry_client::{
    Domain, DomainField, DomainUpdate, Dscp, Mechanism, SixRd, SixRdRole, SixToFour, SixToFourRole,
    Ttl, WriteMode,
};

use crate::args::Writer;
use crate::error::CliError;
use crate::json::domain::Urpf;
use crate::json::outer::Ecn;
use crate::parse;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// RFC 3056: 2002::/16.
    #[value(name = "6to4")]
    SixToFour,
    /// RFC 5969: a prefix of the provider.
    #[value(name = "6rd")]
    SixRd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// 6to4: between sites and the native Internet.
    Relay,
    /// 6to4: a site.
    Site,
    /// 6rd: border relay.
    Br,
    /// 6rd: customer edge.
    Ce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MtuMode {
    /// DF clear.
    Static,
    /// DF set: for networks whose MTU is known.
    Managed,
}

/// What belongs to 6to4 or to 6rd alone.
#[derive(Args, Clone, Debug, Default)]
struct MechanismArgs {
    /// 6to4 site: IPv4 address of the way out. [default: 192.88.99.1]
    #[arg(long, value_name = "ADDRESS")]
    relay: Option<Ipv4Addr>,
    /// 6to4: only peers that share this many leading bits with --local; 0: all. stf(4)'s
    /// "prefixlen 16+N". [default: 0]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=32))]
    peer_v4_length: Option<u8>,
    /// 6rd: the prefix of the domain.
    #[arg(long, value_name = "PREFIX", value_parser = parse::prefix6)]
    prefix: Option<Ipv6Net>,
    /// 6rd: the leading bits all IPv4 addresses share. [default: 0.0.0.0/0, none]
    #[arg(long, value_name = "PREFIX", value_parser = parse::prefix4)]
    v4_common: Option<Ipv4Net>,
    /// 6rd customer edge: IPv4 address of the border relay.
    #[arg(long, value_name = "ADDRESS")]
    br: Option<Ipv4Addr>,
    /// Relays: also serve the anycast address (6to4: 192.88.99.1; 6rd: --local is shared).
    /// [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    anycast: Option<bool>,
}

impl MechanismArgs {
    /// The options given, in the order of `--help`.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.relay.is_some(), "--relay"),
            (self.peer_v4_length.is_some(), "--peer-v4-length"),
            (self.prefix.is_some(), "--prefix"),
            (self.v4_common.is_some(), "--v4-common"),
            (self.br.is_some(), "--br"),
            (self.anycast.is_some(), "--anycast"),
        ]
        .into_iter()
        .filter_map(|(given, name)| given.then_some(name))
    }

    /// Refuses what the role does not have.
    fn only(&self, role: Role, known: &[&str]) -> Result<(), CliError> {
        match self.given().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(name) => usage(format!("{name} is not for {}", what(role))),
        }
    }

    /// A mechanism of these options, the others taken from `now`.
    fn apply(self, role: Role, now: Option<Mechanism>) -> Result<Mechanism, CliError> {
        self.only(role, options(role))?;
        let need = |option: &str| CliError::Usage(format!("{} needs {option}", what(role)));
        let (now4, nowrd) = match now {
            Some(Mechanism::SixToFour(m)) => (Some(m), None),
            Some(Mechanism::SixRd(m)) => (None, Some(m)),
            None => (None, None),
        };
        let now_anycast = match (&now4, &nowrd) {
            (Some(m), _) => matches!(m.role, SixToFourRole::Relay { anycast: true }),
            (_, Some(m)) => matches!(m.role, SixRdRole::Br { anycast: true }),
            _ => false,
        };
        let anycast = self.anycast.unwrap_or(now_anycast);
        if matches!(role, Role::Relay | Role::Site) {
            let before = now4.as_ref().map(|m| m.role);
            let role = match (role, before) {
                (Role::Relay, _) => SixToFourRole::Relay { anycast },
                (_, Some(SixToFourRole::Site { relay })) => SixToFourRole::Site {
                    relay: self.relay.or(relay),
                },
                _ => SixToFourRole::Site { relay: self.relay },
            };
            let length = self.peer_v4_length.or(now4.map(|m| m.peer_v4_length));
            return Ok(Mechanism::SixToFour(SixToFour {
                role,
                peer_v4_length: length.unwrap_or(0),
            }));
        }
        let before = nowrd.as_ref().map(|m| m.role);
        let rd_role = match (role, before) {
            (Role::Ce, Some(SixRdRole::Ce { br })) => SixRdRole::Ce {
                br: self.br.unwrap_or(br),
            },
            (Role::Ce, _) => SixRdRole::Ce {
                br: self.br.ok_or_else(|| need("--br"))?,
            },
            _ => SixRdRole::Br { anycast },
        };
        let none = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        Ok(Mechanism::SixRd(SixRd {
            prefix: self
                .prefix
                .or(nowrd.as_ref().map(|m| m.prefix))
                .ok_or_else(|| need("--prefix"))?,
            v4_common: self
                .v4_common
                .or(nowrd.map(|m| m.v4_common))
                .unwrap_or(none),
            role: rd_role,
        }))
    }
}

fn options(role: Role) -> &'static [&'static str] {
    match role {
        Role::Relay => &["--peer-v4-length", "--anycast"],
        Role::Site => &["--relay", "--peer-v4-length"],
        Role::Br => &["--prefix", "--v4-common", "--anycast"],
        Role::Ce => &["--prefix", "--v4-common", "--br"],
    }
}

fn what(role: Role) -> &'static str {
    match role {
        Role::Relay => "a 6to4 relay",
        Role::Site => "a 6to4 site",
        Role::Br => "a 6rd border relay",
        Role::Ce => "a 6rd customer edge",
    }
}

fn role_of(mechanism: &Mechanism) -> Role {
    match mechanism {
        Mechanism::SixToFour(m) => match m.role {
            SixToFourRole::Relay { .. } => Role::Relay,
            SixToFourRole::Site { .. } => Role::Site,
        },
        Mechanism::SixRd(m) => match m.role {
            SixRdRole::Br { .. } => Role::Br,
            SixRdRole::Ce { .. } => Role::Ce,
        },
    }
}

fn usage<T>(text: String) -> Result<T, CliError> {
    Err(CliError::Usage(text))
}

/// Properties that have a default.
#[derive(Args, Clone, Debug, Default)]
struct Properties {
    /// Check outer sources against this host's IPv4 routes. [default: off]
    #[arg(long, value_enum, value_name = "MODE")]
    urpf: Option<Urpf>,
    /// 6to4: IPv4 prefixes that are no martians here, for laboratories; may be repeated.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = parse::prefix4)]
    allow_v4: Vec<Ipv4Net>,
    /// IPv4 prefixes never talked to, e.g. other relays; may be repeated.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = parse::prefix4)]
    deny_v4: Vec<Ipv4Net>,
    /// Largest inner packet in bytes, 1280..1480. [default: 1280]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=1480))]
    mtu: Option<u16>,
    /// How the outer Don't Fragment bit is set. [default: static]
    #[arg(long, value_enum, value_name = "MODE")]
    mtu_mode: Option<MtuMode>,
    /// Lower the MSS of TCP connections to what the domain carries. [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    mss_clamp: Option<bool>,
    /// Outer TTL: 1..255, or inherit. [default: 64]
    #[arg(long, value_name = "NUMBER|inherit", value_parser = parse::ttl)]
    ttl: Option<Ttl>,
    /// Outer DSCP: 0..63, or copy. [default: 0; for 6rd copy]
    #[arg(long, value_name = "NUMBER|copy", value_parser = parse::dscp)]
    dscp: Option<Dscp>,
    /// ECN at the tunnel entry. [default: normal]
    #[arg(long, value_enum, value_name = "MODE")]
    ecn: Option<Ecn>,
    /// Whether the outer DSCP overwrites the inner one at the exit. [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    dscp_decap_copy: Option<bool>,
}

impl Properties {
    /// Puts what is given into the domain and tells which fields that were.
    fn apply(self, domain: &mut Domain) -> Vec<DomainField> {
        let mut fields = Vec::new();
        let mut put = |given: bool, field| {
            if given {
                fields.push(field);
            }
            given
        };
        if put(!self.allow_v4.is_empty(), DomainField::AllowV4) {
            domain.allow_v4 = self.allow_v4;
        }
        if put(!self.deny_v4.is_empty(), DomainField::DenyV4) {
            domain.deny_v4 = self.deny_v4;
        }
        if let Some(urpf) = self.urpf {
            put(true, DomainField::Urpf);
            domain.urpf = urpf.into();
        }
        if let Some(mtu) = self.mtu {
            put(true, DomainField::Mtu);
            domain.mtu = mtu;
        }
        if let Some(mode) = self.mtu_mode {
            put(true, DomainField::MtuMode);
            domain.mtu_mode = match mode {
                MtuMode::Static => sixferry_client::MtuMode::Static,
                MtuMode::Managed => sixferry_client::MtuMode::Managed,
            };
        }
        if let Some(clamp) = self.mss_clamp {
            put(true, DomainField::MssClamp);
            domain.mss_clamp = clamp;
        }
        if let Some(ttl) = self.ttl {
            put(true, DomainField::Ttl);
            domain.ttl = ttl;
        }
        if let Some(dscp) = self.dscp {
            put(true, DomainField::Dscp);
            domain.dscp = dscp;
        }
        if let Some(ecn) = self.ecn {
            put(true, DomainField::Ecn);
            domain.ecn = ecn.into();
        }
        if let Some(copy) = self.dscp_decap_copy {
            put(true, DomainField::DscpDecapCopy);
            domain.dscp_decap_copy = copy;
        }
        fields
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// Name of the domain: 1 to 63 of A-Z a-z 0-9 . _ - , and not that of a tunnel.
    #[arg(value_parser = parse::tunnel_id)]
    id: String,
    /// 6to4 or 6rd.
    #[arg(long, value_enum)]
    kind: Kind,
    /// What this relay is in it.
    #[arg(long, value_enum)]
    role: Role,
    /// IPv4 address of this relay.
    #[arg(long, value_name = "ADDRESS")]
    local: Ipv4Addr,
    #[command(flatten)]
    mechanism: MechanismArgs,
    #[command(flatten)]
    properties: Properties,
    /// Accept nothing from the domain, only send into it (stf(4)'s LINK0).
    #[arg(long)]
    no_input: bool,
    /// Create it administratively down.
    #[arg(long)]
    down: bool,
    /// Replace the domain if it exists.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub(super) writer: Writer,
}

impl AddArgs {
    pub(super) fn into_update(self) -> Result<DomainUpdate, CliError> {
        let fits = match self.kind {
            Kind::SixToFour => matches!(self.role, Role::Relay | Role::Site),
            Kind::SixRd => matches!(self.role, Role::Br | Role::Ce),
        };
        if !fits {
            return usage(match self.kind {
                Kind::SixToFour => "--kind 6to4 has --role relay or site".to_owned(),
                Kind::SixRd => "--kind 6rd has --role br or ce".to_owned(),
            });
        }
        let mechanism = self.mechanism.apply(self.role, None)?;
        let mut domain = Domain::new(self.id, self.local, mechanism);
        domain.input = !self.no_input;
        domain.admin_up = !self.down;
        self.properties.apply(&mut domain);
        Ok(DomainUpdate::Upsert {
            domain: Box::new(domain),
            fields: None,
            mode: if self.replace {
                WriteMode::Upsert
            } else {
                WriteMode::Create
            },
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The domain.
    #[arg(value_parser = parse::tunnel_id, add = crate::completion::domains())]
    id: String,
    /// IPv4 address of this relay.
    #[arg(long, value_name = "ADDRESS")]
    local: Option<Ipv4Addr>,
    #[command(flatten)]
    mechanism: MechanismArgs,
    #[command(flatten)]
    properties: Properties,
    /// No exceptions from the martian rules.
    #[arg(long, conflicts_with = "allow_v4")]
    no_allow_v4: bool,
    /// Talk to every peer.
    #[arg(long, conflicts_with = "deny_v4")]
    no_deny_v4: bool,
    /// Accept packets from the domain.
    #[arg(long, conflicts_with = "no_input")]
    input: bool,
    /// Accept nothing from the domain, only send into it.
    #[arg(long)]
    no_input: bool,
    /// Switch it on.
    #[arg(long, conflicts_with = "down")]
    up: bool,
    /// Switch it off: its packets are dropped.
    #[arg(long)]
    down: bool,
    #[command(flatten)]
    pub(super) writer: Writer,
}

impl SetArgs {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Puts what is given into the domain as it is now.
    pub(super) fn apply(self, now: Domain) -> Result<(Domain, Vec<DomainField>), CliError> {
        let mut domain = now;
        let mut fields = self.properties.apply(&mut domain);
        if self.mechanism.given().next().is_some() {
            let role = role_of(&domain.mechanism);
            domain.mechanism = self.mechanism.apply(role, Some(domain.mechanism))?;
            fields.push(DomainField::Mechanism);
        }
        if let Some(local) = self.local {
            domain.local = local;
            fields.push(DomainField::Local);
        }
        if self.no_allow_v4 {
            domain.allow_v4.clear();
            fields.push(DomainField::AllowV4);
        }
        if self.no_deny_v4 {
            domain.deny_v4.clear();
            fields.push(DomainField::DenyV4);
        }
        if self.input || self.no_input {
            domain.input = self.input;
            fields.push(DomainField::Input);
        }
        if self.up || self.down {
            domain.admin_up = self.up;
            fields.push(DomainField::AdminUp);
        }
        if fields.is_empty() {
            return usage(
                "nothing to set: name a property, e.g. --mtu 1480 (see domain set --help)"
                    .to_owned(),
            );
        }
        Ok((domain, fields))
    }
}

#[cfg(test)]
mod tests;
