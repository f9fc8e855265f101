//! Password stores of the original: qpopper's APOP database `pop.auth`, as text that the old host's
//! own tools make of it.
//!
//! * `user:secret`, one per line; the first colon splits
//! * `db_dump` and `db_dump185`, in their `bytevalue` and `print` formats
//! * `gdbm_dump`
//!
//! A record's key is the user name and one NUL; its value the secret with every byte XOR 0xFF, then
//! one NUL (qpopper 2) or two (qpopper 4). What looks wrong is counted and named, never its secret.

mod base64;
mod berkeley;
mod gdbm;

use std::fmt;

use zeroize::Zeroizing;

use crate::wire::is_user_name;

/// Largest dump that is read.
pub const DUMP_MAX: usize = 256 << 20;

/// Longest secret: a line of the protocol does not carry it, but a store must hold it.
pub const SECRET_MAX: usize = 255;

/// Problems that are kept; more are only counted.
pub const PROBLEMS_MAX: usize = 1000;

/// Bytes that only the user and the server know. Wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps them.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How a dump was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `user:secret` lines.
    Text,
    /// `db_dump` or `db_dump185`.
    Berkeley,
    /// `gdbm_dump`.
    Gdbm,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "user:secret lines",
            Self::Berkeley => "db_dump",
            Self::Gdbm => "gdbm_dump",
        })
    }
}

/// A user and his secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Line of the dump, from 1.
    pub line: usize,
    /// User name.
    pub user: String,
    /// Secret.
    pub secret: Secret,
}

/// A record that looks wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the dump, from 1.
    pub line: usize,
    /// Whose, if that much can be said.
    pub user: Option<String>,
    /// What is wrong.
    pub what: What,
}

/// What looks wrong about a record. After the last three it is taken all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// No colon in a line of text.
    NoColon,
    /// The name is not one that a user may have.
    UserName,
    /// Nothing is left of the secret.
    NoSecret,
    /// The secret is longer than [`SECRET_MAX`].
    LongSecret,
    /// The same user was there before: the first record stays.
    SeenBefore,
    /// The key or the value is not encoded as the format says.
    Encoding,
    /// The secret has bytes that nobody types: perhaps it was never XORed.
    Unprintable,
    /// No NUL ends the value.
    NoNul,
    /// There is more after the NULs: data of another kind of login, left out.
    Trailing,
}

impl What {
    /// Whether the record is taken all the same.
    #[must_use]
    pub fn is_taken(self) -> bool {
        matches!(self, Self::Unprintable | Self::NoNul | Self::Trailing)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(user) = &self.user {
            write!(f, ", user {user}")?;
        }
        f.write_str(match self.what {
            What::NoColon => ": left out: no colon",
            What::UserName => ": left out: not a user name",
            What::NoSecret => ": left out: the secret is empty",
            What::LongSecret => ": left out: the secret is too long",
            What::SeenBefore => ": left out: the user was there before",
            What::Encoding => ": left out: not in the format of the dump",
            What::Unprintable => ": taken, but the secret has unprintable bytes",
            What::NoNul => ": taken, but no NUL ends the secret",
            What::Trailing => ": taken; what follows the secret is left out",
        })
    }
}

/// A dump as read.
#[derive(Clone, Debug)]
pub struct Dump {
    /// How it was written.
    pub format: Format,
    /// The users, in order.
    pub records: Vec<Record>,
    /// What looks wrong: the first [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How much looks wrong in all.
    pub problems_total: usize,
    users: hashbrown::HashSet<String>,
}

/// Why a dump cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Larger than [`DUMP_MAX`].
    #[error("the dump is larger than {DUMP_MAX} bytes")]
    TooLarge,
    /// A database file, not a dump of it.
    #[error("this is a database, not its dump: run db_dump, db_dump185 or gdbm_dump on it first")]
    Binary,
    /// `gdbm_dump --format=binary`, which says less than the other.
    #[error("a binary dump: run gdbm_dump without --format=binary")]
    BinaryDump,
    /// Something in the header.
    #[error("line {line}: {what}")]
    Header {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It ends too early.
    #[error("the dump is cut off: {0}")]
    Truncated(&'static str),
}

/// Reads a dump, whatever its format.
///
/// # Errors
/// It is none, or cut off: then nothing should be imported.
pub fn parse_dump(bytes: &[u8]) -> Result<Dump, Error> {
    if bytes.len() > DUMP_MAX {
        return Err(Error::TooLarge);
    }
    let first = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    if first.starts_with(b"# GDBM dump file") {
        return gdbm::parse(bytes);
    }
    if first.starts_with(b"VERSION=") || first.starts_with(b"format=") {
        return berkeley::parse(bytes);
    }
    if first.starts_with(b"!\r") {
        return Err(Error::BinaryDump);
    }
    if bytes.contains(&0) {
        return Err(Error::Binary);
    }
    Ok(parse_text(bytes))
}

/// The lines of a text, numbered from 1, without CR.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

fn parse_text(bytes: &[u8]) -> Dump {
    let mut dump = Dump::new(Format::Text);
    for (number, line) in lines(bytes) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match line.iter().position(|byte| *byte == b':') {
            None => dump.problem(number, None, What::NoColon),
            Some(colon) => dump.add(number, &line[..colon], line[colon + 1..].to_vec()),
        }
    }
    dump
}

impl Dump {
    fn new(format: Format) -> Self {
        Self {
            format,
            records: Vec::new(),
            problems: Vec::new(),
            problems_total: 0,
            users: hashbrown::HashSet::new(),
        }
    }

    fn problem(&mut self, line: usize, user: Option<&str>, what: What) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                line,
                user: user.map(str::to_owned),
                what,
            });
        }
    }

    /// A record of the database: key and value as stored.
    fn add_stored(&mut self, line: usize, key: &[u8], value: &[u8]) {
        let user = &key[..end(key)];
        let stored = &value[..end(value)];
        let secret = stored.iter().map(|byte| byte ^ 0xFF).collect();
        let before = self.records.len();
        self.add(line, user, secret);
        if self.records.len() == before {
            return;
        }
        let name = String::from_utf8_lossy(user).into_owned();
        let after = &value[stored.len()..];
        if after.is_empty() {
            self.problem(line, Some(&name), What::NoNul);
        } else if after.iter().any(|byte| *byte != 0) {
            self.problem(line, Some(&name), What::Trailing);
        }
    }

    fn add(&mut self, line: usize, user: &[u8], secret: Vec<u8>) {
        let secret = Secret::new(secret);
        let Some(user) = std::str::from_utf8(user)
            .ok()
            .filter(|user| is_user_name(user.as_bytes()))
        else {
            return self.problem(line, None, What::UserName);
        };
        let what = match secret.expose().len() {
            0 => Some(What::NoSecret),
            len if len > SECRET_MAX => Some(What::LongSecret),
            _ if self.users.contains(user) => Some(What::SeenBefore),
            _ => None,
        };
        if let Some(what) = what {
            return self.problem(line, Some(user), what);
        }
        if !secret
            .expose()
            .iter()
            .all(|byte| (0x20..0x7f).contains(byte))
        {
            self.problem(line, Some(user), What::Unprintable);
        }
        self.users.insert(user.to_owned());
        self.records.push(Record {
            line,
            user: user.to_owned(),
            secret,
        });
    }
}

/// Where the first NUL is, or the end.
fn end(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len())
}
