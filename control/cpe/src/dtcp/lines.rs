//! Lines out of the byte stream from a server: bounded, and ended by LF alone.

use sixferry_dtcp_wire::line::REPLY_MAX;

/// Bytes that have come and make no line yet.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no LF.
    searched: usize,
}

/// A line grew beyond [`REPLY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Lines {
    /// Takes what came from the server.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, without its end. Bytes that are no UTF-8 are replaced: they can only
    /// be in text nobody reads.
    ///
    /// # Errors
    /// When what has come is longer than a line may be.
    pub fn pop(&mut self) -> Result<Option<String>, TooLong> {
        let fresh = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > REPLY_MAX {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        let end = self.searched + at;
        if end > REPLY_MAX {
            return Err(TooLong);
        }
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        self.searched = 0;
        let text = String::from_utf8_lossy(&line);
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(chunks: &[&[u8]]) -> Result<Vec<String>, TooLong> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(chunk);
            while let Some(line) = lines.pop()? {
                found.push(line);
            }
        }
        Ok(found)
    }

    #[test]
    fn lines_end_at_lf_wherever_the_stream_was_cut() {
        let found = all(&[b"+OK hi\r", b"\n-ERR", b" no\n\n+OK\r\nrest"]);
        assert_eq!(
            found.expect("short lines"),
            ["+OK hi", "-ERR no", "", "+OK"]
        );
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let long = vec![b'a'; REPLY_MAX];
        assert_eq!(all(&[&long]), Ok(Vec::new()));
        assert_eq!(all(&[&long, b"a"]), Err(TooLong));
        assert_eq!(all(&[&long, b"aa\n"]), Err(TooLong));
        assert_eq!(all(&[&long, b"\n"]).expect("fits").len(), 1);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..400),
            cut in 1_usize..50,
        ) {
            let whole = all(&[&bytes]);
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(whole, all(&pieces));
        }
    }
}
