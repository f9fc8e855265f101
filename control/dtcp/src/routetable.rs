//! The routetable: who has which prefixes, and who is pinned to which interface.
//!
//! One user per line: `USER  PREFIXES|-  [INTERFACE]`. A bad line is ignored and named; the good
//! ones count. Prefixes of two users never overlap, and no two users are pinned to one interface,
//! so whatever a login finds here can be given without a further look.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hashbrown::HashMap;
use ipnet::Ipv6Net;
use rustix::fs::{Mode, OFlags, open};
use sixferry_lifecycle::Slot;

use crate::interfaces::parse_slot;
use crate::wire::is_user_name;

/// Most prefixes of one user; they all stand in one reply.
pub const PREFIXES_MAX: usize = 64;

/// Largest file that is read.
pub const FILE_MAX: u64 = 256 << 20;

/// Most problems that are kept; more are only counted.
pub const PROBLEMS_MAX: usize = 1000;

/// What a user has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Prefixes in the order of the file; empty for `-`.
    pub prefixes: Vec<Ipv6Net>,
    /// The interface the user's tunnel has, whatever its type.
    pub pin: Option<Slot>,
}

/// A routetable as read.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    users: HashMap<Box<str>, Entry>,
    pins: BTreeMap<Slot, Box<str>>,
}

/// Something wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: What,
}

/// What is wrong with a line. All but [`What::HostBits`] and [`What::Twice`] make it ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Fewer than two or more than three fields.
    Fields(usize),
    /// Not a name that a user may have.
    UserName,
    /// A user of an earlier line.
    SeenBefore(usize),
    /// Not a prefix of 1 to 128 bits.
    Prefix(String),
    /// Bits set after the length: they are cleared.
    HostBits(Ipv6Net),
    /// The user has it already, by a prefix that contains it or is the same: it stays.
    Twice(Ipv6Net),
    /// More than [`PREFIXES_MAX`] of them.
    TooMany(usize),
    /// A prefix that overlaps one of an earlier line.
    Overlap(Ipv6Net, usize),
    /// Not the name of an interface.
    Interface(String),
    /// An interface that an earlier line pins.
    Pinned(Slot, usize),
}

impl What {
    /// Whether the line counts all the same.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::HostBits(_) | Self::Twice(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Fields(count) => write!(
                f,
                "ignored: {count} field{}, expected USER PREFIXES|- [INTERFACE]",
                if *count == 1 { "" } else { "s" }
            ),
            What::UserName => {
                f.write_str("ignored: a user name is 1 to 64 bytes of printable ASCII")
            }
            What::SeenBefore(line) => write!(f, "ignored: the user has line {line} already"),
            What::Prefix(text) => write!(f, "ignored: {text:?} is not an IPv6 prefix"),
            What::HostBits(net) => write!(f, "bits after the length are ignored: {net} it is"),
            What::Twice(net) => write!(f, "{net} is listed twice or within another"),
            What::TooMany(count) => {
                write!(
                    f,
                    "ignored: {count} prefixes, at most {PREFIXES_MAX} per user"
                )
            }
            What::Overlap(net, line) => {
                write!(f, "ignored: {net} overlaps a prefix of line {line}")
            }
            What::Interface(text) => {
                write!(f, "ignored: {text:?} is not an interface such as gif7")
            }
            What::Pinned(slot, line) => write!(f, "ignored: {slot} is pinned by line {line}"),
        }
    }
}

/// The problems of a file: the first [`PROBLEMS_MAX`] and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    /// The first ones, in order.
    pub first: Vec<Problem>,
    /// All of them.
    pub total: usize,
}

impl Problems {
    fn add(&mut self, line: usize, what: What) {
        self.total += 1;
        if self.first.len() < PROBLEMS_MAX {
            self.first.push(Problem { line, what });
        }
    }
}

impl RouteTable {
    /// Reads the text of a routetable.
    #[must_use]
    pub fn parse(text: &[u8]) -> (Self, Problems) {
        let mut reader = Reader::default();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if let Err(what) = reader.line(index + 1, line) {
                reader.problems.add(index + 1, what);
            }
        }
        (reader.table, reader.problems)
    }

    /// What that user has.
    #[must_use]
    pub fn entry(&self, user: &str) -> Option<&Entry> {
        self.users.get(user)
    }

    /// Who is pinned to what.
    #[must_use]
    pub fn pins(&self) -> &BTreeMap<Slot, Box<str>> {
        &self.pins
    }

    /// Number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is nobody in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

#[derive(Default)]
struct Reader {
    table: RouteTable,
    problems: Problems,
    /// Line of each user.
    lines: HashMap<Box<str>, usize>,
    taken: Taken,
}

impl Reader {
    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), What> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first() == Some(&b'#') {
            return Ok(());
        }
        let fields: Vec<&[u8]> = line
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|field| !field.is_empty())
            .take(5)
            .collect();
        let (user, prefixes, interface) = match fields[..] {
            [] => return Ok(()),
            [user, prefixes] => (user, prefixes, None),
            [user, prefixes, interface] => (user, prefixes, Some(interface)),
            _ => return Err(What::Fields(fields.len())),
        };
        if !is_user_name(user) {
            return Err(What::UserName);
        }
        let user = String::from_utf8_lossy(user).into_owned().into_boxed_str();
        if let Some(line) = self.lines.get(&user) {
            return Err(What::SeenBefore(*line));
        }
        let mut warnings = Vec::new();
        let prefixes = parse_prefixes(prefixes, &mut warnings)?;
        let pin = interface.map(|name| self.pin(name)).transpose()?;
        for prefix in &prefixes {
            if let Some(line) = self.taken.other(*prefix, number) {
                return Err(What::Overlap(*prefix, line));
            }
        }
        // From here on the line counts.
        for warning in warnings {
            self.problems.add(number, warning);
        }
        for prefix in &prefixes {
            if !self.taken.insert(*prefix, number) {
                self.problems.add(number, What::Twice(*prefix));
            }
        }
        if let Some(slot) = &pin {
            self.table.pins.insert(slot.clone(), user.clone());
        }
        self.lines.insert(user.clone(), number);
        self.table.users.insert(user, Entry { prefixes, pin });
        Ok(())
    }

    fn pin(&self, name: &[u8]) -> Result<Slot, What> {
        let slot = std::str::from_utf8(name)
            .ok()
            .and_then(parse_slot)
            .ok_or_else(|| What::Interface(shown(name)))?;
        match self.table.pins.get(&slot) {
            Some(user) => {
                let line = self.lines.get(user).copied().unwrap_or_default();
                Err(What::Pinned(slot, line))
            }
            None => Ok(slot),
        }
    }
}

fn parse_prefixes(text: &[u8], warnings: &mut Vec<What>) -> Result<Vec<Ipv6Net>, What> {
    if text == b"-" {
        return Ok(Vec::new());
    }
    let count = text.split(|byte| *byte == b',').count();
    if count > PREFIXES_MAX {
        return Err(What::TooMany(count));
    }
    let mut prefixes = Vec::with_capacity(count);
    for text in text.split(|byte| *byte == b',') {
        let net = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<Ipv6Net>().ok())
            .filter(|net| net.prefix_len() > 0)
            .ok_or_else(|| What::Prefix(shown(text)))?;
        if net.trunc() != net {
            warnings.push(What::HostBits(net.trunc()));
        }
        if prefixes.contains(&net.trunc()) {
            warnings.push(What::Twice(net.trunc()));
        } else {
            prefixes.push(net.trunc());
        }
    }
    Ok(prefixes)
}

/// A field as it may stand in a log: short, and nothing that moves a cursor.
fn shown(field: &[u8]) -> String {
    String::from_utf8_lossy(&field[..field.len().min(64)]).into_owned()
}

/// Which line has which addresses. The ranges kept never overlap: of nested prefixes of one line
/// only the largest is there.
#[derive(Default)]
struct Taken(BTreeMap<Ipv6Addr, (Ipv6Addr, usize)>);

impl Taken {
    /// Another line that has addresses of this prefix.
    fn other(&self, net: Ipv6Net, line: usize) -> Option<usize> {
        let before = self.0.range(..=net.network()).next_back();
        let before = before.filter(|(_, (last, _))| *last >= net.network());
        let within = self.0.range(net.network()..=net.broadcast());
        before
            .into_iter()
            .chain(within)
            .map(|(_, (_, owner))| *owner)
            .find(|owner| *owner != line)
    }

    /// Takes it for this line; `false` when the line has all of it already.
    fn insert(&mut self, net: Ipv6Net, line: usize) -> bool {
        let before = self.0.range(..=net.network()).next_back();
        if before.is_some_and(|(_, (last, _))| *last >= net.broadcast()) {
            return false;
        }
        let inner: Vec<Ipv6Addr> = self
            .0
            .range(net.network()..=net.broadcast())
            .map(|(first, _)| *first)
            .collect();
        for first in inner {
            self.0.remove(&first);
        }
        self.0.insert(net.network(), (net.broadcast(), line));
        true
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
    len: u64,
}

impl Stamp {
    /// That of the file now.
    ///
    /// # Errors
    /// What the system says about the path.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    fn from(meta: &std::fs::Metadata) -> Self {
        Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            len: meta.len(),
        }
    }
}

/// Reads a file. The stamp is the one it had before its first byte was read, so a change meanwhile
/// is noticed afterwards.
///
/// # Errors
/// It cannot be read, or is larger than [`FILE_MAX`].
pub fn load(path: &Path) -> io::Result<(RouteTable, Problems, Stamp)> {
    // Opening a named pipe would wait for somebody who writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.len() > FILE_MAX {
        return Err(too_large());
    }
    let mut text = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(too_large());
    }
    let (table, problems) = RouteTable::parse(&text);
    Ok((table, problems, Stamp::from(&meta)))
}

fn too_large() -> io::Error {
    io::Error::other(format!("larger than {FILE_MAX} bytes"))
}
