//! What `gdbm_dump` writes.
//!
//! ```text
//! # GDBM dump file created by GDBM version 1.23. 04/02/2022 on …
//! #:version=1.1
//! # End of header
//! #:len=4
//! Zm9vAA==             key, base64, in lines of at most 76
//! #:len=4
//! nZ6NAA==             value
//! #:count=1
//! # End of data
//! ```

use zeroize::Zeroizing;

use super::{Dump, Error, Format, What, base64, lines};

/// A key or a value that is being read.
struct Item {
    line: usize,
    len: Option<usize>,
    text: Zeroizing<Vec<u8>>,
}

impl Item {
    fn decode(&self) -> Option<Zeroizing<Vec<u8>>> {
        base64::decode(&self.text).filter(|bytes| Some(bytes.len()) == self.len)
    }
}

struct Reader {
    dump: Dump,
    key: Option<Item>,
    item: Option<Item>,
    pairs: usize,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Dump, Error> {
    let mut lines = lines(bytes);
    for (number, line) in &mut lines {
        if line == b"# End of header" {
            break;
        }
        if !line.starts_with(b"#") {
            return Err(Error::Header {
                line: number,
                what: "not a line of a header",
            });
        }
    }
    let mut reader = Reader {
        dump: Dump::new(Format::Gdbm),
        key: None,
        item: None,
        pairs: 0,
    };
    let mut count = None;
    for (number, line) in lines {
        if line == b"# End of data" {
            return reader.finish(count);
        }
        if let Some(len) = line.strip_prefix(b"#:len=") {
            reader.next();
            reader.item = Some(Item {
                line: number,
                len: decimal(len),
                text: Zeroizing::default(),
            });
        } else if let Some(text) = line.strip_prefix(b"#:count=") {
            reader.next();
            count = decimal(text);
        } else if let Some(item) = &mut reader.item
            && !line.starts_with(b"#")
        {
            item.text.extend_from_slice(line);
        }
    }
    Err(Error::Truncated("no \"# End of data\""))
}

impl Reader {
    /// The present item is complete.
    fn next(&mut self) {
        let Some(item) = self.item.take() else {
            return;
        };
        let Some(key) = self.key.take() else {
            self.key = Some(item);
            return;
        };
        self.pairs += 1;
        match (key.decode(), item.decode()) {
            (Some(user), Some(value)) => self.dump.add_stored(key.line, &user, &value),
            _ => self.dump.problem(key.line, None, What::Encoding),
        }
    }

    fn finish(mut self, count: Option<usize>) -> Result<Dump, Error> {
        self.next();
        if self.key.is_some() {
            return Err(Error::Truncated("the last key has no value"));
        }
        if count.is_some_and(|count| count != self.pairs) {
            return Err(Error::Truncated("fewer or more records than it says"));
        }
        Ok(self.dump)
    }
}

fn decimal(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
