//! The fuzz target of DTCP's lines: what any client may send to the server, and any server to a client.

use sixferry_dtcp_wire::client::{self, Grant, Wish};
use sixferry_dtcp_wire::command::{self, Command, Tunnel};
use sixferry_dtcp_wire::line::{Assembler, Found, LINE_MAX, REPLY_MAX};
use sixferry_dtcp_wire::reply::{Failure, Granted, Reply};
use sixferry_dtcp_wire::{TunnelType, digest, hex, is_user_name, parse_hex};

/// Everything that comes out of a stream.
type Lines = Vec<Result<Vec<u8>, Found>>;

/// The first byte says whether UDP is offered and how the rest, a stream, is cut into pieces.
///
/// # Panics
/// When a line depends on where the stream was cut, when more is kept than may be, when what one end
/// writes is not what the other reads, or when what a client takes could hurt its host.
pub fn dtcp(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else {
        return;
    };
    let (udp, step) = (first & 1 != 0, usize::from(first >> 1) + 1);
    for limit in [LINE_MAX, REPLY_MAX] {
        let found = lines(stream, step, limit);
        assert_eq!(found, lines(stream, stream.len().max(1), limit));
        for line in found.iter().flatten() {
            assert!(line.len() <= limit && !line.contains(&b'\n') && !line.contains(&b'\r'));
            server(line, udp);
            client(&String::from_utf8_lossy(line));
        }
    }
}

fn lines(stream: &[u8], step: usize, limit: usize) -> Lines {
    let mut assembler = Assembler::new(limit);
    let mut found = Vec::new();
    for mut piece in stream.chunks(step) {
        while !piece.is_empty() {
            match assembler.feed(&mut piece) {
                Found::Line => found.push(Ok(assembler.line().to_vec())),
                Found::More => {}
                Found::TooLong => found.push(Err(Found::TooLong)),
                Found::Flood => {
                    found.push(Err(Found::Flood));
                    return found;
                }
            }
            assert!(assembler.capacity() <= 4 * limit, "memory for one line");
        }
    }
    found.extend(assembler.finish().map(|last| match last {
        Found::Line => Ok(assembler.line().to_vec()),
        other => Err(other),
    }));
    found
}

fn server(line: &[u8], udp: bool) {
    let Command::Tunnel(tunnel) = command::parse(line, udp) else {
        return;
    };
    assert!(udp || tunnel.udp.is_none());
    for word in [tunnel.user, tunnel.digest, tunnel.kind] {
        assert!(!word.contains(&b' ') && word.is_ascii());
    }
    refused(tunnel.kind);
    let kind = TunnelType::parse(tunnel.kind).map(TunnelType::as_str);
    if let (true, Some(answer), Some(kind)) =
        (is_user_name(tunnel.user), parse_hex(tunnel.digest), kind)
    {
        again(&tunnel, answer, kind);
    }
}

/// Whatever a client names, it gets one line of plain text back.
fn refused(kind: &[u8]) {
    let mut out = Vec::new();
    Reply::Failed(Failure::UnsupportedType(kind.into())).emit(&mut out);
    let text = out.strip_suffix(b"\r\n").expect("a line");
    assert!(text.iter().all(|byte| (0x20..0x7f).contains(byte)));
    assert!(text.len() < 100);
}

/// A login that could be good is one that our client could have sent.
fn again(tunnel: &Tunnel<'_>, answer: [u8; 16], kind: &'static str) {
    let user = String::from_utf8_lossy(tunnel.user);
    let digits = hex(answer);
    let wish = Wish {
        kind,
        udp: tunnel.udp,
    };
    let line = client::login(&user, &String::from_utf8_lossy(&digits), &wish);
    let Command::Tunnel(read) = command::parse(line.as_bytes(), true) else {
        panic!("own login not understood: {line}");
    };
    assert_eq!((read.user, read.udp), (tunnel.user, tunnel.udp));
    assert_eq!(parse_hex(read.digest), Some(answer));
    assert_eq!(read.kind, kind.as_bytes());
}

fn client(line: &str) {
    let shown = client::shown(line);
    assert!(!shown.chars().any(char::is_control) && shown.chars().count() <= 201);
    if let Ok(challenge) = client::greeting(line) {
        assert!(!challenge.is_empty() && challenge.len() <= 256);
        let answer = client::answer("alice", challenge, b"s3cret");
        let expected = digest(b"alice", challenge.as_bytes(), b"s3cret");
        assert_eq!(parse_hex(answer.as_bytes()), Some(expected));
    }
    for text in [line, line.strip_prefix("+OK ").unwrap_or_default()] {
        if let Ok(grant) = Grant::parse(text) {
            granted(&grant);
        }
    }
}

/// What a client takes is no route to half of the Internet, and reads the same once more.
fn granted(grant: &Grant) {
    assert!(grant.prefixes.len() <= 64);
    for prefix in &grant.prefixes {
        assert!(prefix.prefix_len() >= 16 && prefix.trunc() == *prefix);
        assert!(!prefix.network().is_multicast());
    }
    assert!(grant.pair.is_none_or(|(own, peer)| own != peer));
    let reply = Reply::Granted(Box::new(Granted {
        client: grant.client4.parse().expect("an address"),
        server: grant.server4,
        pair: grant.pair,
        prefixes: grant.prefixes.clone(),
        udp_port: grant.udp_port,
    }));
    let text = reply.text();
    let Ok(client::Reply::Ok(tokens)) = client::reply(&text) else {
        panic!("own reply not understood: {text}");
    };
    assert_eq!(Grant::parse(tokens).as_ref(), Ok(grant));
}

/// Conversations of the protocol's description, and what breaks parsers.
#[must_use]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let lines = |text: &str| [b"\x0f", text.replace('\n', "\r\n").as_bytes()].concat();
    let digest = "A7EAC42C3A53955E885769A055E9AC17";
    vec![
        (
            "greeting",
            lines("+OK 3D5F0C8A9E7B4126F0D1C2B3A4958677 KAME tunnel server\n"),
        ),
        (
            "greeting-lower",
            lines("+OK 7a00ff11ee22dd33cc44bb55aa669988 Feel6 DTCP server 1.4\n"),
        ),
        ("greeting-busy", lines("-ERR server busy\n")),
        (
            "login-host",
            lines(&format!("tunnel alice {digest} host\nping\nquit\n")),
        ),
        (
            "login-udp",
            lines(&format!("TUNNEL alice {digest} tunnelonly udp\n")),
        ),
        (
            "login-udp-port",
            lines(&format!("tunnel alice {digest} network udp 4028\n")),
        ),
        (
            "login-lower",
            lines(&format!(
                "tunnel alice {} tunnelroute\n",
                digest.to_lowercase()
            )),
        ),
        (
            "login-odd-type",
            lines(&format!("tunnel alice {digest} \x1b[2J\n")),
        ),
        (
            "odd-input",
            lines("HELP\n\n   \ntunnel  alice x host\n ping\nping\thelp\nPiNg one two\n"),
        ),
        ("granted-bare", lines("+OK 192.0.2.10 198.51.100.1\n")),
        (
            "granted-host",
            lines("+OK 192.0.2.10 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5\n"),
        ),
        (
            "granted-glued",
            lines("+OK 192.0.2.10 198.51.100.1 2001:db8::0006 2001:db8::0005\n"),
        ),
        (
            "granted-network",
            lines("+OK 192.0.2.10 198.51.100.1 2001:db8:200::/56,2001:db8:201::1/64\n"),
        ),
        (
            "granted-udp",
            lines("+OK 203.0.113.7 198.51.100.1 udp 4028\n"),
        ),
        (
            "granted-everything",
            lines("192.0.2.10 198.51.100.1 2001:db8::6 2001:db8::5 2001::/16 udp 1\n"),
        ),
        ("bare-lf", b"\x02ping\nhelp\nping\rhelp\n\r\nquit".to_vec()),
        ("bytes", b"\x01p\xc3\xafng\r\nping\0\r\n\xff\xfe\n".to_vec()),
        ("long", [b"\xff", &[b'x'; 1025][..], b"\nping\n"].concat()),
        ("longer", [b"\xfe", &[b'+'; 4097][..], b"\nping\n"].concat()),
        ("flood", [b"\xff", &[b'\r'; 8192][..], b"\nping\n"].concat()),
    ]
}
