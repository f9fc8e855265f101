//! The lines of DTCP as a client sees them.
//!
//! ```text
//!  S: +OK <challenge> any text
//!  C: tunnel <user> <digest> <type> [udp [<port>]]
//!  S: +OK <C4> <S4> [<C6> <S6>] [<prefix>/<len>,...] [udp <port>]     or     -ERR any text
//!  C: ping | quit
//!  S: +OK any text
//! ```
//!
//! Servers of three generations answer with different words, so nothing but `+OK`, `-ERR` and the
//! tokens that mean something is looked at. What a tunnel gets is told by the form of the tokens, not
//! by the type that was asked for: original servers gave some types more than others did.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use crate::{digest, hex, udp};

/// Longest challenge; servers send 32 hex digits.
const MAX_CHALLENGE: usize = 256;
/// Most prefixes of one reply.
const MAX_PREFIXES: usize = 64;
/// Longest piece of a server's text that is shown.
const MAX_SHOWN: usize = 200;
/// Shortest prefix a server may delegate. What it delegates becomes unreachable here where it is not
/// in use: half of the Internet is not for a server to take away.
const MIN_PREFIX_LEN: u8 = 16;

/// A reply, by its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'l> {
    /// `+OK` and what follows.
    Ok(&'l str),
    /// `-ERR` and what follows.
    Err(&'l str),
}

/// What a server sent and no DTCP server sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither `+OK` nor `-ERR`.
    #[error("neither +OK nor -ERR: `{0}`")]
    Status(String),
    /// No challenge in the greeting.
    #[error("no challenge in the greeting")]
    Challenge,
    /// An address that cannot be what its place says.
    #[error("{what} `{text}`")]
    Token {
        /// What it should be.
        what: &'static str,
        /// What came.
        text: String,
    },
    /// Too few tokens, or more than there is a meaning for.
    #[error("{0}")]
    Shape(&'static str),
}

/// Reads the status of a line.
///
/// # Errors
/// When it is neither.
pub fn reply(line: &str) -> Result<Reply<'_>, Malformed> {
    let line = line.trim_start_matches(' ');
    let (status, rest) = line.split_once(' ').unwrap_or((line, ""));
    match status {
        "+OK" => Ok(Reply::Ok(rest)),
        "-ERR" => Ok(Reply::Err(rest)),
        _ => Err(Malformed::Status(shown(line))),
    }
}

/// The challenge of a greeting.
///
/// # Errors
/// When the server takes nobody, or is none.
pub fn greeting(line: &str) -> Result<&str, Malformed> {
    match reply(line)? {
        Reply::Ok(text) => challenge(text),
        Reply::Err(_) => Err(Malformed::Challenge),
    }
}

/// The challenge of a greeting's text: its first token, whatever it is made of.
///
/// # Errors
/// When there is none.
pub fn challenge(text: &str) -> Result<&str, Malformed> {
    let token = text.split_ascii_whitespace().next();
    token
        .filter(|token| token.len() <= MAX_CHALLENGE)
        .ok_or(Malformed::Challenge)
}

/// The answer to a challenge: the [`digest`] in hex.
///
/// In upper case, for the original compares digits as text; in lower case where the challenge itself
/// is, for such servers print both alike.
#[must_use]
pub fn answer(user: &str, challenge: &str, password: &[u8]) -> String {
    let digest = hex(digest(user.as_bytes(), challenge.as_bytes(), password));
    let upper = String::from_utf8_lossy(&digest);
    let lower = challenge.bytes().any(|b| b.is_ascii_lowercase())
        && !challenge.bytes().any(|b| b.is_ascii_uppercase());
    if lower {
        upper.to_ascii_lowercase()
    } else {
        upper.into_owned()
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// `tunnelonly`, `host`, `network` or `tunnelroute`.
    pub kind: &'static str,
    /// In UDP instead of protocol 41.
    pub udp: Option<udp::Request>,
}

/// The login line.
#[must_use]
pub fn login(user: &str, digest: &str, wish: &Wish) -> String {
    let mut line = format!("tunnel {user} {digest} {}", wish.kind);
    if let Some(request) = wish.udp {
        request.emit(&mut line);
    }
    line
}

/// What a server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Our address as the server sees it, as text: it is compared as text.
    pub client4: String,
    /// The other end of the tunnel.
    pub server4: Ipv4Addr,
    /// Our IPv6 address and that of the other end.
    pub pair: Option<(Ipv6Addr, Ipv6Addr)>,
    /// What is routed to us.
    pub prefixes: Vec<Ipv6Net>,
    /// UDP: the server's port.
    pub udp_port: Option<u16>,
}

impl Grant {
    /// Reads the text of a positive reply to a login.
    ///
    /// # Errors
    /// The first token that cannot be what its place says.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut tokens: Vec<&str> = text.split_ascii_whitespace().collect();
        let udp_port = udp_port(&mut tokens)?;
        let [client4, server4, rest @ ..] = tokens.as_slice() else {
            return Err(Malformed::Shape("a tunnel has two IPv4 addresses"));
        };
        let client: Ipv4Addr = parse("the client's IPv4 address", client4)?;
        let server4 = parse("the server's IPv4 address", server4)?;
        for address in [client, server4] {
            if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
                return Err(wrong("an IPv4 unicast address", &address.to_string()));
            }
        }
        let (lists, addresses): (Vec<&str>, Vec<&str>) =
            rest.iter().partition(|token| token.contains('/'));
        let pair = match addresses.as_slice() {
            [] => None,
            [own, peer] => Some((unicast(own)?, unicast(peer)?)),
            _ => return Err(Malformed::Shape("IPv6 addresses come in pairs")),
        };
        if pair.is_some_and(|(own, peer)| own == peer) {
            return Err(Malformed::Shape("both ends have the same IPv6 address"));
        }
        let mut prefixes = Vec::new();
        for text in lists.iter().flat_map(|list| list.split(',')) {
            if prefixes.len() == MAX_PREFIXES {
                return Err(Malformed::Shape("more than 64 prefixes"));
            }
            let prefix = prefix(text)?;
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        Ok(Self {
            client4: (*client4).to_owned(),
            server4,
            pair,
            prefixes,
            udp_port,
        })
    }
}

/// Takes `udp PORT` off the end.
fn udp_port(tokens: &mut Vec<&str>) -> Result<Option<u16>, Malformed> {
    let Some(at) = tokens.iter().position(|token| *token == udp::WORD) else {
        return Ok(None);
    };
    match tokens.split_off(at).as_slice() {
        [_, port] => udp::parse_port(port.as_bytes())
            .map(Some)
            .ok_or_else(|| wrong("the server's UDP port", port)),
        _ => Err(Malformed::Shape("`udp` and a port end the reply")),
    }
}

fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, Malformed> {
    text.parse().map_err(|_| wrong(what, text))
}

fn unicast(text: &str) -> Result<Ipv6Addr, Malformed> {
    let what = "an IPv6 address for an end of the tunnel";
    let address: Ipv6Addr = parse(what, text)?;
    if !is_assignable(address) {
        return Err(wrong(what, text));
    }
    Ok(address)
}

fn prefix(text: &str) -> Result<Ipv6Net, Malformed> {
    let what = "a prefix for this site";
    let prefix: Ipv6Net = parse(what, text)?;
    if prefix.prefix_len() < MIN_PREFIX_LEN || !is_assignable(prefix.network()) {
        return Err(wrong(what, text));
    }
    Ok(prefix.trunc())
}

/// An address a tunnel end may have: no loopback, nothing mapped or compatible, no multicast, and none
/// of a link's own.
fn is_assignable(address: Ipv6Addr) -> bool {
    let bits = u128::from(address);
    let invalid = sixferry_wire::ipv6::is_invalid_source(bits);
    !invalid && !sixferry_wire::ipv6::is_link_local(bits)
}

fn wrong(what: &'static str, text: &str) -> Malformed {
    Malformed::Token {
        what,
        text: shown(text),
    }
}

/// A server's text, fit to be shown: bounded, and nothing that a terminal would obey.
#[must_use]
pub fn shown(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let mut shown: String = text.chars().take(MAX_SHOWN).map(printable).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
