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
const WORD: &str = "udp";

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

/// Takes the relay's port off the end of a reply's tokens, if it is there.
#[must_use]
pub fn split_granted<'a, 'b>(tokens: &'b [&'a str]) -> (&'b [&'a str], Option<u16>) {
    if let [before @ .., word, port] = tokens
        && *word == WORD
        && let Some(port) = parse_port(port.as_bytes())
    {
        return (before, Some(port));
    }
    (tokens, None)
}

/// 1 to 65535 in plain decimal digits.
fn parse_port(text: &[u8]) -> Option<u16> {
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
        let mut line = String::from("192.0.2.1 198.51.100.1");
        emit_granted(4028, &mut line);
        let tokens: Vec<&str> = line.split(' ').collect();
        assert_eq!(split_granted(&tokens), (&tokens[..2], Some(4028)));
        assert_eq!(split_granted(&tokens[..2]), (&tokens[..2], None));
    }
}
