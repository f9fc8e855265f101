//! From statements about stf(4) to domains.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use sixferry_client::{Domain, Dscp, Mechanism, SixToFour, SixToFourRole, Ttl, Urpf};

use super::parse::{self, RcConf, Source, Statement, What, Word};
use super::{Imported, Role, StfArgs, notes, toml};
use crate::domain::add_line;
use crate::error::CliError;

/// RFC 3068.
const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 1);
/// What stf puts into the outer header.
const STF_TTL: u8 = 40;

/// One interface, as the lines have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    /// Own address, with the place that gave it.
    own: Option<(Ipv6Addr, String)>,
    prefix_len: Option<u8>,
    anycast: bool,
    link: [bool; 3],
    mtu: Option<u32>,
    down: bool,
}

/// What the lines say beside the interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    pub(super) permit_private: bool,
    gateway: Option<Ipv6Addr>,
    pub(super) not_needed: Vec<String>,
    pub(super) foreign: usize,
}

/// A domain and what of it needs a word.
pub(super) struct Made {
    pub(super) domain: Domain,
    pub(super) own: Option<Ipv6Addr>,
    pub(super) link1: bool,
    pub(super) mtu_cut: Option<u32>,
    pub(super) role_guessed: bool,
}

pub(super) fn import(sources: &[Source], args: &StfArgs) -> Result<Vec<Imported>, CliError> {
    let wrong = |problems: Vec<String>| CliError::Usage(problems.join("\n  "));
    let statements = parse::parse(sources).map_err(wrong)?;
    let (interfaces, around) = gather(&statements).map_err(|p| wrong(vec![p]))?;
    if interfaces.is_empty() {
        return Err(CliError::Usage(
            "nothing in it is about an stf interface".to_owned(),
        ));
    }
    if interfaces.len() > 1 && (args.id.is_some() || args.local.is_some()) {
        return Err(CliError::Usage(
            "--id and --local are for one interface; there are several".to_owned(),
        ));
    }
    let made = interfaces.into_iter().map(|(name, interface)| {
        let made = make(&name, &interface, &around, args)
            .map_err(|problem| CliError::Usage(format!("{name}: {problem}")))?;
        Ok(Imported {
            id: made.domain.id.clone(),
            toml: toml::render(&made.domain),
            commands: commands(&made.domain),
            notes: notes::notes(&made, &around),
        })
    });
    made.collect()
}

fn gather(statements: &[Statement]) -> Result<(BTreeMap<String, Interface>, Around), String> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    let mut around = Around::default();
    let mut rc = RcVariables::default();
    let names: Vec<&String> = statements
        .iter()
        .filter_map(|s| match &s.what {
            What::Interface(name, _) if !name.is_empty() => Some(name),
            _ => None,
        })
        .collect();
    let only = names.first().map_or("stf0", |name| name.as_str());
    for Statement { place, what } in statements {
        match what {
            What::Interface(name, words) => {
                let name = if name.is_empty() { only } else { name };
                let interface = interfaces.entry(name.to_owned()).or_default();
                for word in words {
                    interface.take(word, place)?;
                }
            }
            What::RcConf(variable) => rc.take(variable, place),
            What::PermitPrivate(permit) => around.permit_private = *permit,
            What::DefaultRoute(gateway) => around.gateway = Some(*gateway),
            What::NotNeeded(what) => around.not_needed.push(what.clone()),
            What::Foreign => around.foreign += 1,
        }
    }
    if let Some((address, place)) = rc.address {
        let interface = interfaces.entry("stf0".to_owned()).or_default();
        let own = rc_address(address, &rc.slaid, &rc.ifid).map_err(|p| format!("{place}: {p}"))?;
        interface.take(&Word::Inet6(own, Some(16 + rc.length)), &place)?;
    }
    Ok((interfaces, around))
}

/// FreeBSD's rc.d/stf puts the address together from these.
#[derive(Default)]
struct RcVariables {
    address: Option<(Ipv4Addr, String)>,
    length: u8,
    ifid: String,
    slaid: String,
}

impl RcVariables {
    fn take(&mut self, variable: &RcConf, place: &str) {
        match variable {
            RcConf::Ipv4Addr(address) => self.address = address.map(|a| (a, place.to_owned())),
            RcConf::Ipv4Plen(length) => self.length = *length,
            RcConf::Ifid(ifid) => self.ifid.clone_from(ifid),
            RcConf::Slaid(slaid) => self.slaid.clone_from(slaid),
        }
    }
}

fn rc_address(v4: Ipv4Addr, slaid: &str, ifid: &str) -> Result<Ipv6Addr, String> {
    let slaid = match slaid {
        "" => 0,
        text => u16::from_str_radix(text, 16)
            .map_err(|_| format!("stf_interface_ipv6_slaid: \"{text}\" is not 1 to 4 digits"))?,
    };
    // AUTO takes the identifier of another interface; which one is of no consequence here.
    let ifid = match ifid {
        "" => "0:0:0:1",
        text if text.eq_ignore_ascii_case("auto") => "0:0:0:1",
        text => text,
    };
    let [a, b, c, d] = v4.octets();
    let text = format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}:{slaid:x}:{ifid}");
    text.parse()
        .map_err(|_| format!("stf_interface_ipv6_ifid: \"{ifid}\" is not four groups"))
}

impl Interface {
    fn take(&mut self, word: &Word, place: &str) -> Result<(), String> {
        match *word {
            Word::Inet6(address, length) => return self.address(address, length, place),
            Word::Link(flag, on) => {
                if let Some(link) = self.link.get_mut(usize::from(flag)) {
                    *link = on;
                }
            }
            Word::Mtu(mtu) => self.mtu = Some(mtu),
            Word::Up(up) => self.down = !up,
            Word::Nothing => {}
        }
        Ok(())
    }

    fn address(
        &mut self,
        address: Ipv6Addr,
        length: Option<u8>,
        place: &str,
    ) -> Result<(), String> {
        if embedded(address) == ANYCAST {
            self.anycast = true;
            // Of an alias the length says nothing more.
            self.prefix_len = self.prefix_len.or(length);
            return Ok(());
        }
        if let Some((before, first)) = &self.own
            && *before != address
        {
            return Err(format!(
                "{place}: a second address, {address}; stf has one, and {first} gave {before}"
            ));
        }
        if length.is_none() && self.own.is_none() {
            return Err(format!("{place}: inet6 {address} without prefixlen"));
        }
        self.own = Some((address, place.to_owned()));
        self.prefix_len = length.or(self.prefix_len);
        Ok(())
    }
}

/// The IPv4 address in a 6to4 address (RFC 3056 section 2).
fn embedded(address: Ipv6Addr) -> Ipv4Addr {
    let [_, _, a, b, c, d, ..] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

fn make(
    name: &str,
    interface: &Interface,
    around: &Around,
    args: &StfArgs,
) -> Result<Made, String> {
    let own = interface.own.as_ref().map(|(address, _)| *address);
    let local = match (args.local, own) {
        (Some(local), Some(own)) if embedded(own) != local => {
            return Err(format!("--local {local}, but its address is {own}"));
        }
        (Some(local), _) => local,
        (None, Some(own)) => embedded(own),
        (None, None) if interface.anycast => {
            return Err(
                "only the anycast address 192.88.99.1 is given: add the relay's own IPv4 address \
                 with --local"
                    .to_owned(),
            );
        }
        (None, None) => return Err("it has no inet6 address".to_owned()),
    };
    check_local(local, around.permit_private)?;
    let (role, role_guessed) = role(interface, around, args)?;
    let prefix_len = interface.prefix_len.unwrap_or(16);
    let mechanism = Mechanism::SixToFour(SixToFour {
        role,
        peer_v4_length: prefix_len - 16,
    });
    let mut domain = Domain::new(args.id.as_deref().unwrap_or(name), local, mechanism);
    let [link0, link1, link2] = interface.link;
    domain.input = !link0;
    domain.urpf = if link2 { Urpf::Off } else { Urpf::Strict };
    domain.ttl = Ttl::Fixed(STF_TTL);
    domain.dscp = Dscp::Copy;
    domain.admin_up = !interface.down;
    if around.permit_private {
        domain.allow_v4 = notes::PRIVATE.to_vec();
    }
    let mut mtu_cut = None;
    match interface.mtu {
        None => {}
        Some(mtu @ ..=1279) => return Err(format!("mtu {mtu}: IPv6 needs 1280")),
        Some(mtu) => {
            domain.mtu = u16::try_from(mtu.min(1480)).unwrap_or(1480);
            mtu_cut = (mtu > 1480).then_some(mtu);
        }
    }
    Ok(Made {
        domain,
        own,
        link1,
        mtu_cut,
        role_guessed,
    })
}

fn role(
    interface: &Interface,
    around: &Around,
    args: &StfArgs,
) -> Result<(SixToFourRole, bool), String> {
    let way_out = around.gateway.filter(|g| g.segments()[0] == 0x2002);
    let site = match args.role {
        Some(role) => role == Role::Site,
        None => way_out.is_some(),
    };
    if site && interface.anycast {
        return Err("a site does not have the anycast address of a relay".to_owned());
    }
    let role = if site {
        let relay = way_out.map(embedded).filter(|&relay| relay != ANYCAST);
        SixToFourRole::Site { relay }
    } else {
        SixToFourRole::Relay {
            anycast: interface.anycast,
        }
    };
    Ok((role, args.role.is_none()))
}

/// 6to4 needs an address the whole Internet can reach (RFC 3056 section 2, RFC 3964 section
/// 5.3.1).
fn check_local(local: Ipv4Addr, permit_private: bool) -> Result<(), String> {
    let [first, ..] = local.octets();
    let what = if local.is_private() && permit_private {
        return Ok(());
    } else if local.is_private() {
        "private (a laboratory says net.link.stf.permit_rfc1918=1)"
    } else if local.is_loopback() {
        "a loopback address"
    } else if local.is_link_local() {
        "link-local"
    } else if local.is_multicast() {
        "multicast"
    } else if first == 0 || first >= 240 {
        "no unicast address"
    } else {
        return Ok(());
    };
    Err(format!(
        "6to4 needs a global IPv4 address; {local} is {what}"
    ))
}

fn commands(domain: &Domain) -> Vec<String> {
    let mut commands = vec![add_line(domain)];
    if let Mechanism::SixToFour(SixToFour {
        role: SixToFourRole::Site { .. },
        ..
    }) = domain.mechanism
    {
        commands.push(format!("sixferry route add ::/0 --domain {}", domain.id));
    }
    commands
}
