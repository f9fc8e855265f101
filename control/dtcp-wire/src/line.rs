//! Bytes to lines, within bounds.
//!
//! A line ends at LF; every CR in it is dropped, wherever it stands. What is longer than the limit
//! is not kept, only skipped to its LF. A peer that sends 8192 bytes without any LF is not
//! speaking this protocol.

/// Longest line of a client, without CR and LF.
pub const LINE_MAX: usize = 1024;

/// Longest line a client takes. Ours and the original's stay below 200 bytes; one with many prefixes
/// is longer.
pub const REPLY_MAX: usize = 4096;

/// So many bytes without LF end the session.
pub const FLOOD: usize = 8192;

/// What [`Assembler::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A line: [`Assembler::line`] has it until the next call.
    Line,
    /// The end of a line that was longer than the limit.
    TooLong,
    /// [`FLOOD`] bytes without LF: nothing more can come of this stream.
    Flood,
    /// The input is used up, no line is complete.
    More,
}

/// Puts lines together. Holds no memory between lines.
#[derive(Debug)]
pub struct Assembler {
    line: Vec<u8>,
    /// Bytes since the last LF, also those that were not kept.
    run: u32,
    /// The line in `line` has been handed out: the next byte starts a new one.
    handed_out: bool,
    limit: u16,
}

impl Assembler {
    /// For lines of at most `limit` bytes; at most [`FLOOD`] - 1 make sense.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            line: Vec::new(),
            run: 0,
            handed_out: false,
            limit: u16::try_from(limit).unwrap_or(u16::MAX),
        }
    }

    /// Takes bytes from the front of `input` up to the end of a line, or all of them.
    pub fn feed(&mut self, input: &mut &[u8]) -> Found {
        self.forget_handed_out();
        let end = input.iter().position(|byte| *byte == b'\n');
        let (part, rest) = input.split_at(end.unwrap_or(input.len()));
        *input = if end.is_some() { &rest[1..] } else { rest };
        self.run = self
            .run
            .saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
        self.keep(part);
        if self.run as usize >= FLOOD {
            return Found::Flood;
        }
        match end {
            None => Found::More,
            Some(_) => self.hand_out(),
        }
    }

    /// The stream ended: what stands without LF is a line too. `None` when nothing stands.
    pub fn finish(&mut self) -> Option<Found> {
        self.forget_handed_out();
        (self.run > 0).then(|| self.hand_out())
    }

    /// The line that was found last.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        if self.handed_out { &self.line } else { &[] }
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.line.capacity()
    }

    fn forget_handed_out(&mut self) {
        if self.handed_out {
            self.line = Vec::new();
            self.handed_out = false;
        }
    }

    fn hand_out(&mut self) -> Found {
        self.run = 0;
        self.handed_out = true;
        if self.line.len() > usize::from(self.limit) {
            self.line = Vec::new();
            return Found::TooLong;
        }
        Found::Line
    }

    fn keep(&mut self, part: &[u8]) {
        // One byte above the limit tells a long line from one that just fits.
        let room = usize::from(self.limit) + 1 - self.line.len();
        self.line
            .extend(part.iter().filter(|byte| **byte != b'\r').take(room));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes out of a stream cut into pieces of `step` bytes.
    fn lines(stream: &[u8], step: usize) -> Vec<Result<Vec<u8>, Found>> {
        let mut assembler = Assembler::new(LINE_MAX);
        let mut found = Vec::new();
        for mut piece in stream.chunks(step) {
            while !piece.is_empty() {
                match assembler.feed(&mut piece) {
                    Found::Line => found.push(Ok(assembler.line().to_vec())),
                    Found::More => {}
                    Found::Flood => {
                        found.push(Err(Found::Flood));
                        return found;
                    }
                    other => found.push(Err(other)),
                }
                assert!(assembler.capacity() <= 4 * LINE_MAX);
            }
        }
        match assembler.finish() {
            Some(Found::Line) => found.push(Ok(assembler.line().to_vec())),
            Some(other) => found.push(Err(other)),
            None => {}
        }
        found
    }

    #[test]
    fn dtcp_19_bare_lf_lone_cr_and_last_line_without_lf() {
        let found = lines(b"ping\r\nhelp\nping\rhelp\n\r\nquit", 3);
        let expected: [&[u8]; 5] = [b"ping", b"help", b"pinghelp", b"", b"quit"];
        assert_eq!(found, expected.map(|line| Ok(line.to_vec())));
    }

    #[test]
    fn dtcp_20_long_lines_are_skipped_and_floods_end_it() {
        for (len, expected) in [
            (LINE_MAX, Ok(vec![b'x'; LINE_MAX])),
            (LINE_MAX + 1, Err(Found::TooLong)),
            (FLOOD - 1, Err(Found::TooLong)),
            (FLOOD, Err(Found::Flood)),
        ] {
            let mut stream = vec![b'x'; len];
            stream.push(b'\n');
            assert_eq!(lines(&stream, 1000), [expected], "{len}");
        }
        // CR is dropped, but counts against the flood.
        assert_eq!(lines(&[b'\r'; FLOOD], 100), [Err(Found::Flood)]);
        assert_eq!(lines(&[b'\r'; FLOOD - 1], 100), [Ok(vec![])]);
    }

    proptest! {
        #[test]
        fn cutting_the_stream_elsewhere_changes_nothing(
            stream in proptest::collection::vec(
                prop_oneof![4 => Just(b'a'), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => any::<u8>()],
                0..3000,
            ),
            step in 1..500_usize,
        ) {
            prop_assert_eq!(lines(&stream, step), lines(&stream, stream.len().max(1)));
        }
    }
}
