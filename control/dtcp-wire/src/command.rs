//! What a client says.

use crate::udp;

/// A line of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `tunnel U D T`, with the right number of words.
    Tunnel(Tunnel<'a>),
    /// `tunnel` with another number of words.
    TunnelMisspelt,
    /// `ping`.
    Ping,
    /// `help`.
    Help,
    /// `quit`.
    Quit,
    /// Nothing at all.
    Empty,
    /// Anything else.
    Invalid,
}

/// The words of a `tunnel` command, as they were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel<'a> {
    /// User name.
    pub user: &'a [u8],
    /// The answer to the challenge: 32 hex digits if it is any good.
    pub digest: &'a [u8],
    /// Tunnel type.
    pub kind: &'a [u8],
    /// Present when the tunnel shall run over UDP.
    pub udp: Option<udp::Request>,
}

/// Reads a line without its LF. `udp`: whether tunnels over UDP are offered; if not, words that
/// would ask for one are as wrong as they are to the original.
#[must_use]
pub fn parse(line: &[u8], udp: bool) -> Command<'_> {
    if line.is_empty() {
        return Command::Empty;
    }
    // The original compares bytes, so no command contains one of these.
    if line.iter().any(|byte| *byte == 0 || !byte.is_ascii()) {
        return Command::Invalid;
    }
    let words = words(line);
    let Some(first) = words.first() else {
        return Command::Invalid;
    };
    if first.eq_ignore_ascii_case(b"tunnel") {
        return parse_tunnel(&words, udp).map_or(Command::TunnelMisspelt, Command::Tunnel);
    }
    for (word, command) in [
        (b"ping", Command::Ping),
        (b"help", Command::Help),
        (b"quit", Command::Quit),
    ] {
        if first.eq_ignore_ascii_case(word) {
            return command;
        }
    }
    Command::Invalid
}

/// Splits at every single space; empty words at the end do not count.
fn words(line: &[u8]) -> Vec<&[u8]> {
    let mut words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    while words.last().is_some_and(|word| word.is_empty()) {
        words.pop();
    }
    words
}

fn parse_tunnel<'a>(words: &[&'a [u8]], udp: bool) -> Option<Tunnel<'a>> {
    let (&[_, user, digest, kind], more) = words.split_first_chunk::<4>()?;
    let udp = match more {
        [] => None,
        more if udp => Some(udp::Request::parse(more)?),
        _ => return None,
    };
    Some(Tunnel {
        user,
        digest,
        kind,
        udp,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::{Wish, answer, login};

    #[test]
    fn dtcp_17_any_case_and_extra_arguments() {
        assert_eq!(parse(b"PiNg", false), Command::Ping);
        assert_eq!(parse(b"ping one two", false), Command::Ping);
        assert_eq!(parse(b"HELP ", false), Command::Help);
        assert_eq!(parse(b"Quit  x", false), Command::Quit);
    }

    #[test]
    fn dtcp_18_odd_lines_are_invalid() {
        assert_eq!(parse(b"", false), Command::Empty);
        for line in [
            &b" "[..],
            b"    ",
            b" ping",
            b"ping\thelp",
            b"\tping",
            b"ping\0",
            b"\0",
            b"\xff\xfe",
            b"p\xc3\xafng",
            b"pong",
            b"tunnel\tu d t",
        ] {
            assert_eq!(parse(line, true), Command::Invalid, "{line:?}");
        }
    }

    #[test]
    fn dtcp_05_tunnel_needs_exactly_four_words() {
        let good = Tunnel {
            user: b"u",
            digest: b"d",
            kind: b"t",
            udp: None,
        };
        assert_eq!(parse(b"tunnel u d t", false), Command::Tunnel(good.clone()));
        assert_eq!(parse(b"TUNNEL u d t   ", false), Command::Tunnel(good));
        for line in [
            &b"tunnel"[..],
            b"tunnel u",
            b"tunnel u d",
            b"tunnel u d t x",
            b"tunnel  u d t",
        ] {
            assert_eq!(parse(line, false), Command::TunnelMisspelt, "{line:?}");
            assert_eq!(parse(line, true), Command::TunnelMisspelt, "{line:?}");
        }
    }

    #[test]
    fn dtcp_33_udp_words_are_wrong_while_udp_is_off() {
        for line in [&b"tunnel u d t udp"[..], b"tunnel u d t udp 4028"] {
            assert_eq!(parse(line, false), Command::TunnelMisspelt);
            assert!(matches!(
                parse(line, true),
                Command::Tunnel(Tunnel { udp: Some(_), .. })
            ));
        }
    }

    #[test]
    fn what_a_client_emits_is_what_the_server_reads() {
        let request = udp::Request {
            client_port: Some(4028),
        };
        let wish = Wish {
            kind: "host",
            udp: Some(request),
        };
        let line = login("alice", &"AB".repeat(16), &wish);
        assert_eq!(
            line,
            "tunnel alice ABABABABABABABABABABABABABABABAB host udp 4028"
        );
        let Command::Tunnel(read) = parse(line.as_bytes(), true) else {
            panic!("not a tunnel command: {line}");
        };
        assert_eq!((read.user, read.kind), (&b"alice"[..], &b"host"[..]));
        assert_eq!(crate::parse_hex(read.digest), Some([0xAB; 16]));
        assert_eq!(read.udp, Some(request));
        // Whatever the case a client answers in.
        for challenge in ["3D5F0C8A9E7B4126F0D1C2B3A4958677", "3d5f0c8a9e7b4126"] {
            let digest = crate::digest(b"alice", challenge.as_bytes(), b"s3cret");
            let line = login("alice", &answer("alice", challenge, b"s3cret"), &wish);
            let Command::Tunnel(read) = parse(line.as_bytes(), true) else {
                panic!("not a tunnel command: {line}");
            };
            assert_eq!(crate::parse_hex(read.digest), Some(digest));
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200), udp: bool) {
            let _ = parse(&line, udp);
        }

        #[test]
        fn no_tunnel_line_makes_it_panic(rest in "[ a-zA-Z0-9]{0,80}", udp: bool) {
            let line = format!("tunnel {rest}");
            let command = parse(line.as_bytes(), udp);
            let is_tunnel = matches!(command, Command::Tunnel(_) | Command::TunnelMisspelt);
            prop_assert!(is_tunnel);
        }
    }
}
