//! What the server says. How a client reads it is in [`crate::client`].
//!
//! Clients test for a leading `+OK` or `-ERR` and no more, so every text after it could be another;
//! these are the original's where it has one.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use crate::udp;

/// The original's words after the challenge.
pub const DEFAULT_BANNER: &str = "KAME tunnel server";

/// A line of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The tunnel is up.
    Granted(Box<Granted>),
    /// To `ping`.
    Hi,
    /// To `help`.
    Help,
    /// To `quit`.
    Bye,
    /// To an empty line, where the operator wants it to be valid.
    Nothing,
    /// It did not work.
    Failed(Failure),
}

/// The tokens of a reply to `tunnel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The client as the server sees it.
    pub client: Ipv4Addr,
    /// The server's end.
    pub server: Ipv4Addr,
    /// With `host`: the client's address, then the server's.
    pub pair: Option<(Ipv6Addr, Ipv6Addr)>,
    /// With `network`: what is routed to the client.
    pub prefixes: Vec<Ipv6Net>,
    /// Over UDP: the server's port.
    pub udp_port: Option<u16>,
}

/// Why it did not work, or why the session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Wrong word count, unknown user, wrong digest.
    Authentication,
    /// That type is unknown or switched off. Holds the word as sent.
    UnsupportedType(Box<[u8]>),
    /// No free interface or UDP port.
    SoldOut,
    /// The configured interface name has no number.
    InterfaceName,
    /// Not a command.
    Invalid,
    /// No complete line in time.
    TimedOut,
    /// `network`, and nothing to route.
    NoRoute,
    /// A newer login took the tunnel.
    Replaced,
    /// Another user's tunnel has the same ends.
    InUse,
    /// Another user has the prefix.
    PrefixInUse,
    /// At a limit, or what the server stands on is away.
    Busy,
    /// The dataplane would not have it.
    Internal,
    /// The operator ended the session.
    Administrative,
    /// No dataplane carries the tunnel any more.
    Withdrawn,
    /// The server stops.
    ShuttingDown,
    /// Too many wrong logins from this address.
    TooManyFailures,
}

impl Failure {
    /// The text after `-ERR `.
    fn text(&self, line: &mut String) {
        line.push_str(match self {
            Self::Authentication => "authentication failed.",
            Self::UnsupportedType(word) => {
                line.push_str("unsupported tunnel type ");
                return line.push_str(printable(word));
            }
            Self::SoldOut => "tunnel interface sold out",
            Self::InterfaceName => "internal error: tunnel interface name format is wrong",
            Self::Invalid => "invalid command",
            Self::TimedOut => "connection timed out, disconnecting",
            Self::NoRoute => "no route for user",
            Self::Replaced => "replaced by a newer session",
            Self::InUse => "tunnel already in use",
            Self::PrefixInUse => "prefix already in use",
            Self::Busy => "server busy",
            Self::Internal => "internal error: tunnel could not be set up",
            Self::Administrative => "disconnected by the administrator",
            Self::Withdrawn => "tunnel withdrawn",
            Self::ShuttingDown => "server shutting down",
            Self::TooManyFailures => "too many failures, try again later",
        });
    }
}

/// A word that may be shown to others: 1 to 32 bytes of printable ASCII, else `?`.
fn printable(word: &[u8]) -> &str {
    if !(1..=32).contains(&word.len()) || !word.iter().all(u8::is_ascii_graphic) {
        return "?";
    }
    std::str::from_utf8(word).unwrap_or("?")
}

impl Reply {
    /// Whether it begins with `+OK`.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    /// The line without CR LF.
    #[must_use]
    pub fn text(&self) -> String {
        let mut line = String::from(if self.is_ok() { "+OK" } else { "-ERR " });
        match self {
            Self::Granted(granted) => granted.tokens(&mut line),
            Self::Hi => line.push_str(" hi, happy to hear from you"),
            Self::Help => line.push_str(" valid commands are: TUNNEL PING QUIT"),
            Self::Bye => line.push_str(" see you soon."),
            Self::Nothing => {}
            Self::Failed(failure) => failure.text(&mut line),
        }
        line
    }

    /// Appends the line with CR LF.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

impl Granted {
    fn tokens(&self, line: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(line, " {} {}", self.client, self.server);
        if let Some((client, server)) = self.pair {
            let _ = write!(line, " {client} {server}");
        }
        for (index, prefix) in self.prefixes.iter().enumerate() {
            let _ = write!(line, "{}{prefix}", if index == 0 { ' ' } else { ',' });
        }
        if let Some(port) = self.udp_port {
            udp::emit_granted(port, line);
        }
    }
}

/// Appends the greeting with CR LF.
pub fn emit_greeting(challenge: [u8; 16], banner: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    out.extend_from_slice(&crate::hex(challenge));
    if !banner.is_empty() {
        out.push(b' ');
        out.extend_from_slice(banner.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Grant};

    fn granted() -> Granted {
        Granted {
            client: Ipv4Addr::new(192, 0, 2, 10),
            server: Ipv4Addr::new(198, 51, 100, 1),
            pair: None,
            prefixes: Vec::new(),
            udp_port: None,
        }
    }

    #[test]
    fn texts_are_the_originals() {
        let failed = |failure| Reply::Failed(failure).text();
        assert_eq!(Reply::Hi.text(), "+OK hi, happy to hear from you");
        assert_eq!(
            Reply::Help.text(),
            "+OK valid commands are: TUNNEL PING QUIT"
        );
        assert_eq!(Reply::Bye.text(), "+OK see you soon.");
        assert_eq!(
            failed(Failure::Authentication),
            "-ERR authentication failed."
        );
        assert_eq!(failed(Failure::SoldOut), "-ERR tunnel interface sold out");
        assert_eq!(failed(Failure::Invalid), "-ERR invalid command");
        assert_eq!(
            failed(Failure::InterfaceName),
            "-ERR internal error: tunnel interface name format is wrong"
        );
        assert_eq!(
            failed(Failure::TimedOut),
            "-ERR connection timed out, disconnecting"
        );
    }

    #[test]
    fn dtcp_16_only_printable_types_are_echoed() {
        let echo = |word: &[u8]| Reply::Failed(Failure::UnsupportedType(word.into())).text();
        assert_eq!(echo(b"bogus"), "-ERR unsupported tunnel type bogus");
        assert_eq!(
            echo(&[b'x'; 32]),
            format!("-ERR unsupported tunnel type {}", "x".repeat(32))
        );
        for word in [&[b'x'; 33][..], b"", b"a\tb", b"\x1b[2J", b"\xff"] {
            assert_eq!(echo(word), "-ERR unsupported tunnel type ?", "{word:?}");
        }
    }

    #[test]
    fn granted_both_ways() {
        let pair = Granted {
            pair: Some((
                "2001:db8::6".parse().unwrap(),
                "2001:db8::5".parse().unwrap(),
            )),
            ..granted()
        };
        let prefixes = Granted {
            prefixes: vec![
                "2001:db8:200::/56".parse().unwrap(),
                "2001:db8:201::/64".parse().unwrap(),
            ],
            udp_port: Some(4029),
            ..granted()
        };
        let udp = Granted {
            udp_port: Some(4028),
            ..granted()
        };
        for (granted, text) in [
            (granted(), "+OK 192.0.2.10 198.51.100.1"),
            (pair, "+OK 192.0.2.10 198.51.100.1 2001:db8::6 2001:db8::5"),
            (
                prefixes,
                "+OK 192.0.2.10 198.51.100.1 2001:db8:200::/56,2001:db8:201::/64 udp 4029",
            ),
            (udp, "+OK 192.0.2.10 198.51.100.1 udp 4028"),
        ] {
            assert_eq!(Reply::Granted(Box::new(granted.clone())).text(), text);
            let Ok(client::Reply::Ok(rest)) = client::reply(text) else {
                panic!("{text}");
            };
            let read = Grant::parse(rest).unwrap();
            assert_eq!(read.client4, granted.client.to_string());
            assert_eq!((read.server4, read.pair), (granted.server, granted.pair));
            assert_eq!(
                (read.prefixes, read.udp_port),
                (granted.prefixes, granted.udp_port)
            );
        }
    }

    #[test]
    fn greetings_of_other_servers_are_read() {
        let mut line = Vec::new();
        emit_greeting([0xA5; 16], DEFAULT_BANNER, &mut line);
        assert_eq!(
            line,
            b"+OK A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5 KAME tunnel server\r\n"
        );
        let read = |line| client::greeting(line).ok();
        let lower = "+OK 0b1517c87d516a5fa65bed722d51a04f Some Product (v1.0)";
        assert_eq!(read(lower), Some("0b1517c87d516a5fa65bed722d51a04f"));
        assert_eq!(read("-ERR server busy"), None);
        assert_eq!(read("+OK"), None);
        assert_eq!(client::reply("+OK pong"), Ok(client::Reply::Ok("pong")));
        assert_eq!(
            client::reply("-ERR server busy"),
            Ok(client::Reply::Err("server busy"))
        );
        assert!(client::reply("hello").is_err());
    }
}
