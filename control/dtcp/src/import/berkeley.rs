//! What `db_dump` and `db_dump185` write.
//!
//! ```text
//! VERSION=3            only db_dump; its data lines then begin with a space
//! format=bytevalue     or print
//! type=hash
//! HEADER=END
//!  666f6f00            key
//!  9d9e8d00            value
//! DATA=END             only with VERSION; the dump of another database may follow
//! ```
//!
//! `print` shows printable bytes as they are, a backslash as two, all others as `\` and two hex
//! digits.

use zeroize::Zeroizing;

use super::{Dump, Error, Format, What, lines};

struct Header {
    print: bool,
    /// Data lines begin with a space, and `DATA=END` follows them.
    marked: bool,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Dump, Error> {
    let mut lines = lines(bytes).peekable();
    let mut dump = Dump::new(Format::Berkeley);
    // A file with several databases is dumped as several dumps, one after the other.
    loop {
        let header = parse_header(&mut lines)?;
        parse_data(&mut lines, &header, &mut dump)?;
        while lines.next_if(|(_, line)| line.is_empty()).is_some() {}
        if lines.peek().is_none() {
            return Ok(dump);
        }
    }
}

fn parse_data<'a>(
    lines: &mut impl Iterator<Item = (usize, &'a [u8])>,
    header: &Header,
    dump: &mut Dump,
) -> Result<(), Error> {
    let mut key = None;
    let mut ended = false;
    for (number, line) in lines {
        if line == b"DATA=END" {
            ended = true;
            break;
        }
        if line.is_empty() && !header.marked {
            // The end of the file, or an empty value, which says nothing either.
            continue;
        }
        let item = decode(line, header);
        match (key.take(), item) {
            (None, item) => key = Some((number, item)),
            (Some((number, Some(key))), Some(value)) => dump.add_stored(number, &key, &value),
            (Some((number, _)), _) => dump.problem(number, None, What::Encoding),
        }
    }
    if header.marked && !ended {
        return Err(Error::Truncated("no DATA=END"));
    }
    if key.is_some() {
        return Err(Error::Truncated("the last key has no value"));
    }
    Ok(())
}

fn parse_header<'a>(lines: &mut impl Iterator<Item = (usize, &'a [u8])>) -> Result<Header, Error> {
    let mut header = Header {
        print: false,
        marked: false,
    };
    for (number, line) in lines {
        let wrong = |what| Err(Error::Header { line: number, what });
        match line {
            b"HEADER=END" => return Ok(header),
            b"format=print" => header.print = true,
            b"format=bytevalue" => header.print = false,
            b"keys=0" => return wrong("the dump has no keys: dump again without that option"),
            line if line.starts_with(b"format=") => return wrong("unknown format"),
            line if line.starts_with(b"VERSION=") => header.marked = true,
            line if line.contains(&b'=') => {}
            _ => return wrong("not a line of a header"),
        }
    }
    Err(Error::Truncated("no HEADER=END"))
}

fn decode(line: &[u8], header: &Header) -> Option<Zeroizing<Vec<u8>>> {
    let line = match line.strip_prefix(b" ") {
        Some(rest) if header.marked || !header.print => rest,
        _ if header.marked => return None,
        _ => line,
    };
    if header.print {
        unescape(line)
    } else {
        unhex(line)
    }
}

fn unhex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for pair in pairs {
        bytes.push(byte(*pair)?);
    }
    Some(bytes)
}

fn unescape(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                rest
            }
            [b'\\', high, low, rest @ ..] => {
                bytes.push(byte([*high, *low])?);
                rest
            }
            [b'\\', ..] => return None,
            [plain, rest @ ..] => {
                bytes.push(*plain);
                rest
            }
        };
    }
}

fn byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some(digit(high)? << 4 | digit(low)?)
}
