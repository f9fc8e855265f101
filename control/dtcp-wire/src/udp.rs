//! How a tunnel over UDP is asked for and granted.
//!
//! The original's form is not known, so this one is ours, and kept apart from the rest until the
//! original's is found:
//!
//! ```text
//! tunnel U D T udp [client-port]   ->   +OK <tokens of T> udp <server-port>
//! ```

use std::fmt::Write as _;
use std::str::FromStr;

/// The word that asks for it and that precedes the port in the reply.
pub(crate) const WORD: &str = "udp";

/// First port of the relay, and the usual port of a client.
pub const FIRST_PORT: u16 = 4028;

/// The end of a `tunnel` command that asks for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's port, with direct mode. `None`: NAT mode, the relay answers to where the last
    /// packet came from.
    pub client_port: Option<u16>,
}

impl Request {
    /// Reads the words after the tunnel type.
    #[must_use]
    pub fn parse(words: &[&[u8]]) -> Option<Self> {
        match words {
            [word] if *word == WORD.as_bytes() => Some(Self { client_port: None }),
            [word, port] if *word == WORD.as_bytes() => Some(Self {
                client_port: Some(parse_port(port)?),
            }),
            _ => None,
        }
    }

    /// Appends the words to a `tunnel` command.
    pub fn emit(self, line: &mut String) {
        line.push(' ');
        line.push_str(WORD);
        if let Some(port) = self.client_port {
            // Writing to a String cannot fail.
            let _ = write!(line, " {port}");
        }
    }
}

/// Appends the relay's port to the tokens of a reply.
pub fn emit_granted(port: u16, line: &mut String) {
    let _ = write!(line, " {WORD} {port}");
}

/// 1 to 65535 in plain decimal digits.
pub(crate) fn parse_port(text: &[u8]) -> Option<u16> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = u16::from_str(std::str::from_utf8(text).ok()?).ok()?;
    (port != 0).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_both_ways() {
        for request in [
            Request { client_port: None },
            Request {
                client_port: Some(1),
            },
            Request {
                client_port: Some(65535),
            },
        ] {
            let mut line = String::new();
            request.emit(&mut line);
            let words: Vec<&[u8]> = line[1..].split(' ').map(str::as_bytes).collect();
            assert_eq!(Request::parse(&words), Some(request));
        }
    }

    #[test]
    fn bad_ports_and_words_are_refused() {
        for words in [
            &[&b"tcp"[..]][..],
            &[b"UDP"],
            &[b"udp", b"0"],
            &[b"udp", b"65536"],
            &[b"udp", b"+4028"],
            &[b"udp", b""],
            &[b"udp", b"4028", b"1"],
            &[],
        ] {
            assert_eq!(Request::parse(words), None, "{words:?}");
        }
    }

    #[test]
    fn granted_port_both_ways() {
        let ends = "192.0.2.1 198.51.100.1";
        let mut line = String::from(ends);
        emit_granted(4028, &mut line);
        let port = |line: &str| crate::client::Grant::parse(line).unwrap().udp_port;
        assert_eq!((port(&line), port(ends)), (Some(4028), None));
    }
}
