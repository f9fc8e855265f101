//! What a check has to say: one line that names the place, the cause and the fix.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Warning,
    Error,
}

/// Something noticed in a configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) file: PathBuf,
    /// E.g. `tunnel[2].mtu`; empty for the file as a whole.
    pub(crate) key: String,
    /// From 1; 0: unknown.
    pub(crate) line: u32,
    /// From 1, in characters; 0: unknown.
    pub(crate) column: u32,
    pub(crate) message: String,
}

impl Finding {
    /// An error about the file as a whole.
    pub(super) fn whole_file(file: &Path, message: String) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            key: String::new(),
            line: 0,
            column: 0,
            message,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Collects findings about one text.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    text: &'a str,
    file: &'a Path,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(text: &'a str, file: &'a Path) -> Self {
        Self {
            text,
            file,
            found: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, key: &str, place: Option<Range<usize>>, message: String) {
        self.add(Severity::Error, key, place, message);
    }

    pub(super) fn warning(&mut self, key: &str, place: Option<Range<usize>>, message: String) {
        self.add(Severity::Warning, key, place, message);
    }

    fn add(&mut self, severity: Severity, key: &str, place: Option<Range<usize>>, message: String) {
        let (line, column) = place.map_or((0, 0), |place| self.position(place.start));
        let file = self.file.to_owned();
        self.found.push(Finding {
            severity,
            file,
            key: key.to_owned(),
            line,
            column,
            message,
        });
    }

    /// Line of a place, for messages that point at a second one.
    pub(super) fn line_of(&self, place: &Range<usize>) -> u32 {
        self.position(place.start).0
    }

    fn position(&self, offset: usize) -> (u32, u32) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (
            u32::try_from(line).unwrap_or(u32::MAX),
            u32::try_from(column).unwrap_or(u32::MAX),
        )
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|f| f.severity == Severity::Error)
    }

    pub(super) fn into_sorted(mut self) -> Vec<Finding> {
        self.found.sort_by_key(|f| (f.line, f.column));
        self.found
    }
}
