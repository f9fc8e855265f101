//! What a check has to say: one line that names the place, the cause and the fix.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is used anyway.
    Warning,
    /// The configuration is refused.
    Error,
}

/// Something noticed in a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Of which file.
    pub file: PathBuf,
    /// E.g. `tunnel[2].mtu`; empty for the file as a whole.
    pub key: String,
    /// From 1; 0: unknown.
    pub line: u32,
    /// From 1, in characters; 0: unknown.
    pub column: u32,
    /// What is wrong and how to put it right.
    pub message: String,
}

impl Finding {
    /// An error about the file as a whole.
    pub fn whole_file(file: &Path, message: String) -> Self {
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
pub struct Findings<'a> {
    text: &'a str,
    file: &'a Path,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    /// About this text, as if it stood in `file`.
    pub fn new(text: &'a str, file: &'a Path) -> Self {
        Self {
            text,
            file,
            found: Vec::new(),
        }
    }

    /// Adds an error.
    pub fn error(&mut self, key: &str, place: Option<Range<usize>>, message: String) {
        self.add(Severity::Error, key, place, message);
    }

    /// Adds a warning.
    pub fn warning(&mut self, key: &str, place: Option<Range<usize>>, message: String) {
        self.add(Severity::Warning, key, place, message);
    }

    /// The parser knows the place; the section's header makes the message stand for itself.
    pub fn syntax_error(&mut self, error: &toml::de::Error) {
        let place = error.span();
        let message = error.message();
        let section = place.as_ref().and_then(|p| section_at(self.text, p.start));
        let message = match message.strip_prefix("unknown field ") {
            Some(rest) => format!(
                "unknown key {}",
                rest.replace(", expected", "; known here:")
            ),
            None => message.replace('\n', "; "),
        };
        let message = message.replace("known here: one of ", "known here: ");
        self.error(section.unwrap_or(""), place, message);
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
    pub fn line_of(&self, place: &Range<usize>) -> u32 {
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

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|f| f.severity == Severity::Error)
    }

    /// In the order of the file.
    pub fn into_sorted(mut self) -> Vec<Finding> {
        self.found.sort_by_key(|f| (f.line, f.column));
        self.found
    }
}

/// The header of the section a place is in, as written.
fn section_at(text: &str, offset: usize) -> Option<&str> {
    let line_end = text
        .get(offset..)?
        .find('\n')
        .map_or(text.len(), |end| offset + end);
    let mut lines = text.get(..line_end)?.lines().rev().map(str::trim);
    let header = lines.find(|line| line.starts_with('['))?;
    header.get(..=header.rfind(']')?)
}
