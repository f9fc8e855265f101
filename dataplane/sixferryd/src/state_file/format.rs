//! The file's form: a magic number, then blocks, each with its length and a checksum.
//!
//! ```text
//!  +----------------+   +--------+--------+-----------------+   +-- ...
//!  | magic, 8 bytes |   | length | CRC-32 | block (protobuf)|   | the next block
//!  +----------------+   +--------+--------+-----------------+   +-- ...
//! ```
//!
//! Numbers are big-endian. The first block has the head, the last one the end: a file cut short is
//! told from a whole one. Blocks are small, so neither side holds the table twice.

use std::io::{self, Read, Write};

use prost::Message;
use sixferry_proto::dataplane::v1 as pb;

/// What the file begins with.
const MAGIC: [u8; 8] = *b"SXFTABLE";
/// Version this build writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;
/// Largest block read: far more than one with [`ENTRIES`] of the largest tunnels has.
const MAX_BLOCK: usize = 8 * 1024 * 1024;
/// Objects in a block.
pub(super) const ENTRIES: usize = 512;

/// What a file says of itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Head {
    /// Version of the form.
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    /// Version of the daemon that wrote it, for people.
    #[prost(string, tag = "2")]
    pub(super) daemon: String,
}

/// Some objects; those of the API's messages, output-only fields left out except the owner.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Block {
    /// In the first block.
    #[prost(message, optional, tag = "1")]
    pub(super) head: Option<Head>,
    #[prost(message, repeated, tag = "2")]
    pub(super) domains: Vec<pb::EmbeddedDomain>,
    #[prost(message, repeated, tag = "3")]
    pub(super) tunnels: Vec<pb::Tunnel>,
    #[prost(message, repeated, tag = "4")]
    pub(super) routes: Vec<pb::Route>,
    /// In the last block: objects in the whole file.
    #[prost(uint64, optional, tag = "5")]
    pub(super) end: Option<u64>,
}

impl Block {
    pub(super) fn len(&self) -> u64 {
        (self.domains.len() + self.tunnels.len() + self.routes.len()) as u64
    }
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is no file of tables")]
    Magic,
    #[error("has version {0}; this daemon reads up to {VERSION}")]
    Version(u32),
    #[error("is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes blocks and counts what is in them.
pub(super) struct Writer<W> {
    out: W,
    written: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        let mut writer = Self {
            out,
            written: 0,
            buffer: Vec::new(),
        };
        let head = Head {
            version: VERSION,
            daemon: env!("CARGO_PKG_VERSION").to_owned(),
        };
        writer.block(&Block {
            head: Some(head),
            ..Block::default()
        })?;
        Ok(writer)
    }

    pub(super) fn block(&mut self, block: &Block) -> io::Result<()> {
        self.buffer.clear();
        // A vector grows: this cannot fail.
        block.encode(&mut self.buffer).map_err(io::Error::other)?;
        let len = u32::try_from(self.buffer.len()).map_err(io::Error::other)?;
        self.out.write_all(&len.to_be_bytes())?;
        self.out.write_all(&crc32(&self.buffer).to_be_bytes())?;
        self.out.write_all(&self.buffer)?;
        self.written += block.len();
        Ok(())
    }

    /// Ends the file; gives what it is written to and how many objects it has.
    pub(super) fn finish(mut self) -> io::Result<(W, u64)> {
        let written = self.written;
        self.block(&Block {
            end: Some(written),
            ..Block::default()
        })?;
        self.out.flush()?;
        Ok((self.out, written))
    }
}

/// Reads a whole file and hands out its blocks; gives how many objects there were. An error may come
/// after good blocks: who must not use half a file reads it twice.
pub(super) fn read(mut input: impl Read, mut visit: impl FnMut(Block)) -> Result<u64, Refused> {
    let mut magic = [0; MAGIC.len()];
    match input.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) => return Err(Refused::Magic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Refused::Magic),
        Err(error) => return Err(error.into()),
    }
    let mut first = true;
    let mut count = 0;
    loop {
        let block = next(&mut input)?;
        if first {
            let head = block.head.as_ref().ok_or(Refused::Damaged("no head"))?;
            if head.version == 0 || head.version > VERSION {
                return Err(Refused::Version(head.version));
            }
            first = false;
        }
        count += block.len();
        let end = block.end;
        visit(block);
        if let Some(end) = end {
            if end != count {
                return Err(Refused::Damaged("a block is missing"));
            }
            return match input.read(&mut [0])? {
                0 => Ok(count),
                _ => Err(Refused::Damaged("something follows its end")),
            };
        }
    }
}

fn next(input: &mut impl Read) -> Result<Block, Refused> {
    let short = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Refused::Damaged("it ends too early"),
        _ => Refused::Io(error),
    };
    let mut number = [0; 4];
    input.read_exact(&mut number).map_err(short)?;
    let len = usize::try_from(u32::from_be_bytes(number)).unwrap_or(usize::MAX);
    input.read_exact(&mut number).map_err(short)?;
    if len > MAX_BLOCK {
        return Err(Refused::Damaged("a block is too long"));
    }
    // Read as it comes: a length that lies must not claim memory.
    let mut bytes = Vec::new();
    let read = input.take(len as u64).read_to_end(&mut bytes)?;
    if read < len {
        return Err(Refused::Damaged("it ends too early"));
    }
    if crc32(&bytes) != u32::from_be_bytes(number) {
        return Err(Refused::Damaged("a checksum is wrong"));
    }
    Block::decode(&*bytes).map_err(|_| Refused::Damaged("a block cannot be decoded"))
}

/// CRC-32 of IEEE 802.3, bit-reversed.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let at = (crc ^ u32::from(*byte)) & 0xff;
        // The index has eight bits.
        TABLE[at as usize] ^ crc >> 8
    })
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                0xedb8_8320 ^ crc >> 1
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
