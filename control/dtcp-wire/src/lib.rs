//! The lines of DTCP, from both ends: bounded assembly of lines, commands, replies, the digest.
//!
//! Nothing here does I/O or knows the time. The server uses [`line::Assembler`], [`command`] and
//! [`reply`]; a client uses [`line::Assembler`] and [`client`]. What is ours alone, tunnels over UDP,
//! is in [`udp`].
//!
//! It is a crate of its own so that a client needs nothing of what a server stands on.

#![forbid(unsafe_code)]

pub mod client;
pub mod command;
pub mod line;
pub mod reply;
pub mod udp;

use std::fmt;

use md5::{Digest as _, Md5};

/// TCP port of the protocol.
pub const PORT: u16 = 20200;

/// Length of a challenge and of a digest as sent.
pub const HEX_LEN: usize = 32;

/// How a tunnel is addressed, as a client asks for it. Case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelType {
    /// `tunnelonly`: nothing but the link.
    TunnelOnly,
    /// `host`: one address pair.
    Host,
    /// `network` or `tunnelroute`: routed prefixes.
    Network,
}

impl TunnelType {
    /// The type of that name; `None` for every other word.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        match word {
            b"tunnelonly" => Some(Self::TunnelOnly),
            b"host" => Some(Self::Host),
            b"network" | b"tunnelroute" => Some(Self::Network),
            _ => None,
        }
    }

    /// The word a client sends.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TunnelOnly => "tunnelonly",
            Self::Host => "host",
            Self::Network => "network",
        }
    }
}

impl fmt::Display for TunnelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// MD5 of user, challenge and secret, joined without separators. The challenge is what was sent,
/// its 32 ASCII characters, not the 16 bytes they stand for.
#[must_use]
pub fn digest(user: &[u8], challenge: &[u8], secret: &[u8]) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(user);
    md5.update(challenge);
    md5.update(secret);
    md5.finalize().into()
}

/// 16 bytes as 32 upper-case hex digits, the form of challenges and digests.
#[must_use]
pub fn hex(bytes: [u8; 16]) -> [u8; HEX_LEN] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = [0; HEX_LEN];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
    text
}

/// 32 hex digits of either case. The original takes upper case only, but there are clients that
/// send lower case.
#[must_use]
pub fn parse_hex(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; HEX_LEN] = text.try_into().ok()?;
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether an account may have this name: 1 to 64 bytes of printable ASCII without space.
#[must_use]
pub fn is_user_name(name: &[u8]) -> bool {
    (1..=64).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// DTCP-03: (user, challenge, secret, digest).
    pub(crate) const VECTORS: [(&str, &str, &str, &str); 4] = [
        (
            "foo",
            "0B1517C87D516A5FA65BED722D51A04F",
            "bar",
            "DAC487C8DFBBF9EE5C7F8CDCC37B62A3",
        ),
        (
            "alice",
            "3D5F0C8A9E7B4126F0D1C2B3A4958677",
            "s3cret",
            "A7EAC42C3A53955E885769A055E9AC17",
        ),
        (
            "bob",
            "3D5F0C8A9E7B4126F0D1C2B3A4958677",
            "hunter2",
            "7E820669D4928077BBB2B1DA59874C74",
        ),
        (
            "carol",
            "7A00FF11EE22DD33CC44BB55AA669988",
            "open-sesame",
            "B604C6985DCBD5434CAC6D749B5E3467",
        ),
    ];

    #[test]
    fn dtcp_03_digest_vectors() {
        for (user, challenge, secret, expected) in VECTORS {
            let found = digest(user.as_bytes(), challenge.as_bytes(), secret.as_bytes());
            assert_eq!(
                std::str::from_utf8(&hex(found)).unwrap(),
                expected,
                "{user}"
            );
            assert_eq!(parse_hex(expected.as_bytes()), Some(found));
        }
    }

    #[test]
    fn dtcp_04_hex_of_either_case_is_read() {
        let upper = b"A7EAC42C3A53955E885769A055E9AC17";
        let lower = upper.to_ascii_lowercase();
        assert_eq!(parse_hex(upper), parse_hex(&lower));
        assert!(parse_hex(upper).is_some());
        assert_eq!(parse_hex(&upper[..31]), None);
        assert_eq!(parse_hex(b"A7EAC42C3A53955E885769A055E9AC1G"), None);
        assert_eq!(parse_hex(b"A7EAC42C3A53955E885769A055E9AC171"), None);
    }

    #[test]
    fn types_are_case_sensitive_and_network_has_two_names() {
        assert_eq!(TunnelType::parse(b"tunnelroute"), Some(TunnelType::Network));
        assert_eq!(TunnelType::parse(b"network"), Some(TunnelType::Network));
        assert_eq!(TunnelType::parse(b"HOST"), None);
        assert_eq!(TunnelType::parse(b""), None);
    }
}
