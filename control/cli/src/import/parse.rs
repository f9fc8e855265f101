//! Lines about stf(4), as they are written in practice, made into statements.
//!
//! ```text
//! ifconfig stf0 create
//! ifconfig stf0 inet6 2002:8504:506::1 prefixlen 16 alias link0        (any BSD)
//! inet6 2002:8504:506::1 prefixlen 16                                  (NetBSD's ifconfig.stf0)
//! stf_interface_ipv4addr="133.4.5.6"                                   (FreeBSD's rc.conf)
//! ifconfig_stf0_ipv6="inet6 2002:8504:506::1 prefixlen 16"             (the same)
//! net.link.stf.permit_rfc1918=1                                        (FreeBSD's sysctl.conf)
//! route add -inet6 default 2002:c058:6301::                            (any BSD)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

/// Lines and where they come from.
pub(super) struct Source {
    name: Option<String>,
    text: String,
}

impl Source {
    pub(super) fn file(name: &str, text: String) -> Self {
        Self {
            name: Some(name.to_owned()),
            text,
        }
    }

    /// Typed on the command line: every line is meant.
    pub(super) fn typed(text: String) -> Self {
        Self { name: None, text }
    }
}

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// For messages: `line 3`, `rc.conf:3`.
    pub(super) place: String,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Words of ifconfig about an interface. An empty name: the only one there is.
    Interface(String, Vec<Word>),
    /// A variable of FreeBSD's rc.conf about its one 6to4 interface.
    RcConf(RcConf),
    /// FreeBSD's sysctl: private addresses are no martians.
    PermitPrivate(bool),
    /// A default route.
    DefaultRoute(Ipv6Addr),
    /// Something that has no counterpart because none is needed; why.
    NotNeeded(String),
    /// About something else than stf.
    Foreign,
}

/// A word of ifconfig, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Inet6(Ipv6Addr, Option<u8>),
    Link(u8, bool),
    Mtu(u32),
    Up(bool),
    /// No counterpart and none needed.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RcConf {
    /// `None`: "NO", the interface is off.
    Ipv4Addr(Option<Ipv4Addr>),
    Ipv4Plen(u8),
    Ifid(String),
    Slaid(String),
}

type Problem = String;

/// All statements, or every problem, each with its place.
pub(super) fn parse(sources: &[Source]) -> Result<Vec<Statement>, Vec<Problem>> {
    let mut statements = Vec::new();
    let mut problems = Vec::new();
    for source in sources {
        for (number, line) in logical_lines(&source.text) {
            let place = match &source.name {
                Some(name) => format!("{name}:{number}"),
                None => format!("line {number}"),
            };
            match line_to_statements(&line, source.name.is_none()) {
                Ok(whats) => statements.extend(whats.into_iter().map(|what| Statement {
                    place: place.clone(),
                    what,
                })),
                Err(problem) => problems.push(format!("{place}: {problem}")),
            }
        }
    }
    if problems.is_empty() {
        Ok(statements)
    } else {
        Err(problems)
    }
}

/// Lines without comments, those that end in a backslash joined with the next.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, raw) in text.lines().enumerate() {
        let line = without_comment(raw).trim_end().to_owned();
        let (line, continues) = match line.strip_suffix('\\') {
            Some(line) => (line.trim_end_matches('\\').to_owned(), true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, before)) if open => {
                before.push(' ');
                before.push_str(&line);
            }
            _ => lines.push((index + 1, line)),
        }
        open = continues;
    }
    lines.retain(|(_, line)| !line.trim().is_empty());
    lines
}

/// A `#` begins a comment at the start of a word, outside quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match quote {
            Some(q) if q == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' && before.is_whitespace() => return &line[..at],
            _ => {}
        }
        before = c;
    }
    line
}

fn line_to_statements(line: &str, typed: bool) -> Result<Vec<What>, Problem> {
    let line = line.trim();
    let line = line
        .strip_prefix("sudo ")
        .or_else(|| line.strip_prefix("doas "))
        .unwrap_or(line)
        .trim();
    let line = line.strip_prefix("sysctl ").map_or(line, str::trim);
    if let Some((name, value)) = assignment(line) {
        return variable(name, &unquoted(value)?);
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((first, rest)) = words.split_first() else {
        return Ok(Vec::new());
    };
    match first.rsplit('/').next().unwrap_or(first) {
        "ifconfig" => match rest.split_first() {
            Some((name, rest)) if is_stf(name) => interface(name, rest).map(|what| vec![what]),
            Some(_) => Ok(vec![What::Foreign]),
            None => Err("ifconfig without an interface".to_owned()),
        },
        "route" => route(rest).map(|what| vec![what]),
        // NetBSD's ifconfig.stf0 has the words of ifconfig alone, and `!` before commands.
        "create" | "inet6" | "up" | "down" | "mtu" | "link0" | "link1" | "link2" | "-link0"
        | "-link1" | "-link2" => interface("", &words).map(|what| vec![what]),
        command if command.starts_with('!') => line_to_statements(&line[1..], typed),
        _ if typed => Err(format!(
            "\"{first}\" is not understood: ifconfig, route, inet6 or an assignment of rc.conf \
             is"
        )),
        _ if line.contains("stf") => Err(format!("\"{line}\" is about stf and not understood")),
        _ => Ok(vec![What::Foreign]),
    }
}

fn is_stf(name: &str) -> bool {
    name.strip_prefix("stf")
        .is_some_and(|unit| !unit.is_empty() && unit.bytes().all(|b| b.is_ascii_digit()))
}

/// `name=value` of a shell or of sysctl.conf.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end();
    let fits = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
    (fits && !name.is_empty()).then_some((name, value.trim()))
}

fn unquoted(value: &str) -> Result<String, Problem> {
    let value = value.trim().trim_end_matches(';').trim();
    let inner = ['"', '\''].iter().find_map(|&quote| {
        let inner = value.strip_prefix(quote)?;
        Some(inner.strip_suffix(quote).ok_or("the quotes are not closed"))
    });
    let inner = inner.transpose()?.unwrap_or(value);
    if inner.contains(['$', '`']) {
        return Err(format!(
            "{inner}: write the value out, variables are unknown here"
        ));
    }
    Ok(inner.trim().to_owned())
}

fn variable(name: &str, value: &str) -> Result<Vec<What>, Problem> {
    let wrong = |expected: &str| Err(format!("{name}: \"{value}\" is not {expected}"));
    let rc = |what| Ok(vec![What::RcConf(what)]);
    match name {
        "stf_interface_ipv4addr" => {
            if value.is_empty() || value.eq_ignore_ascii_case("no") {
                return rc(RcConf::Ipv4Addr(None));
            }
            match value.parse() {
                Ok(address) => rc(RcConf::Ipv4Addr(Some(address))),
                Err(_) => wrong("an IPv4 address"),
            }
        }
        "stf_interface_ipv4plen" => match value.parse() {
            Ok(length @ 0..=31) => rc(RcConf::Ipv4Plen(length)),
            _ => wrong("0 to 31"),
        },
        "stf_interface_ipv6_ifid" => rc(RcConf::Ifid(value.to_owned())),
        "stf_interface_ipv6_slaid" => rc(RcConf::Slaid(value.to_owned())),
        "net.link.stf.permit_rfc1918" => match value {
            "0" => Ok(vec![What::PermitPrivate(false)]),
            "1" => Ok(vec![What::PermitPrivate(true)]),
            _ => wrong("0 or 1"),
        },
        "ipv6_defaultrouter" | "defaultroute6" => match value.split('%').next() {
            Some(address) if !address.eq_ignore_ascii_case("no") => match address.parse() {
                Ok(gateway) => Ok(vec![What::DefaultRoute(gateway)]),
                Err(_) => wrong("an IPv6 address"),
            },
            _ => Ok(vec![What::Foreign]),
        },
        _ => interface_variable(name, value),
    }
}

/// `ifconfig_stf0`, `ifconfig_stf0_ipv6`, `ifconfig_stf0_alias0`, `ipv6_ifconfig_stf0`: words of
/// ifconfig.
fn interface_variable(name: &str, value: &str) -> Result<Vec<What>, Problem> {
    let old = name.strip_prefix("ipv6_ifconfig_");
    let Some(rest) = old.or_else(|| name.strip_prefix("ifconfig_")) else {
        return if name.contains("stf") {
            Err(format!("{name} is about stf and not understood"))
        } else {
            Ok(vec![What::Foreign])
        };
    };
    let (interface_name, suffix) = rest.split_once('_').unwrap_or((rest, ""));
    if !is_stf(interface_name) {
        return Ok(vec![What::Foreign]);
    }
    let alias = suffix
        .strip_prefix("alias")
        .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    if !(suffix.is_empty() || suffix == "ipv6" || alias) {
        return Err(format!("{name} is about stf and not understood"));
    }
    // NetBSD separates several commands by semicolons.
    value
        .split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let mut words: Vec<&str> = part.split_whitespace().collect();
            if old.is_some() && words.first() != Some(&"inet6") {
                words.insert(0, "inet6");
            }
            interface(interface_name, &words)
        })
        .collect()
}

/// The words after `ifconfig stf0`.
fn interface(name: &str, words: &[&str]) -> Result<What, Problem> {
    let mut parsed = Vec::new();
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = |what: &str| rest.next().ok_or(format!("{word} without {what}"));
        let on = !word.starts_with('-');
        parsed.push(match word.trim_start_matches('-') {
            "inet6" if on => inet6(value("an address")?)?,
            "prefixlen" if on => {
                let text = value("a length")?;
                let length = prefix_len(text)?;
                match parsed.last_mut() {
                    Some(Word::Inet6(_, before @ None)) => *before = Some(length),
                    _ => return Err(format!("prefixlen {text} does not follow an address")),
                }
                continue;
            }
            "link0" => Word::Link(0, on),
            "link1" => Word::Link(1, on),
            "link2" => Word::Link(2, on),
            "mtu" if on => {
                let text = value("a number")?;
                let mtu = text.parse();
                Word::Mtu(mtu.map_err(|_| format!("mtu {text} is not a number"))?)
            }
            "up" if on => Word::Up(true),
            "down" if on => Word::Up(false),
            "create" | "plumb" | "alias" | "add" | "deprecated" if on => Word::Nothing,
            "deprecated" | "debug" => Word::Nothing,
            "alias" | "delete" | "remove" | "destroy" | "unplumb" => {
                return Err(format!("{word} removes: give what is to be there"));
            }
            "stfv4net" | "stfv4br" => {
                return Err(format!(
                    "{word}: 6rd on stf is not imported; see sixferry domain add --kind 6rd \
                     --role ce"
                ));
            }
            "inet" | "tunnel" => {
                return Err(format!(
                    "{word}: an stf interface has no IPv4 address of its own"
                ));
            }
            _ => return Err(format!("\"{word}\" is not understood")),
        });
    }
    Ok(What::Interface(name.to_owned(), parsed))
}

fn prefix_len(text: &str) -> Result<u8, Problem> {
    match text.parse() {
        Ok(length @ 16..=48) => Ok(length),
        Ok(length @ 0..=128_u8) => Err(format!(
            "prefixlen {length}: of a 6to4 address it is 16, or 16 and the length of the IPv4 \
             prefix peers are in, to 48"
        )),
        _ => Err(format!("prefixlen {text} is not a length")),
    }
}

fn inet6(text: &str) -> Result<Word, Problem> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(prefix_len(length)?)),
        None => (text, None),
    };
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| format!("inet6 {text} is not an address"))?;
    if address.segments()[0] != 0x2002 {
        return Err(format!(
            "inet6 {address} is not a 6to4 address: it begins with 2002: and the IPv4 address"
        ));
    }
    Ok(Word::Inet6(address, length))
}

/// The words after `route`: only a default route says something about 6to4.
fn route(words: &[&str]) -> Result<What, Problem> {
    let plain: Vec<&str> = words
        .iter()
        .copied()
        .filter(|w| {
            !matches!(
                *w,
                "-n" | "-q" | "-inet6" | "-6" | "-net" | "add" | "change"
            )
        })
        .collect();
    let is_v6 = words.iter().any(|w| matches!(*w, "-inet6" | "-6"));
    match plain.as_slice() {
        [] => Err("route without a destination".to_owned()),
        ["default" | "::/0", gateway, ..] if is_v6 => {
            let address = gateway.split('%').next().unwrap_or(gateway);
            let address = address.parse();
            address
                .map(What::DefaultRoute)
                .map_err(|_| format!("route: \"{gateway}\" is not an IPv6 address"))
        }
        [destination, ..] if is_v6 && destination.starts_with("2002:") => {
            Ok(What::NotNeeded(format!("the route to {destination}")))
        }
        _ => Ok(What::Foreign),
    }
}
