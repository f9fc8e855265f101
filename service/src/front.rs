//! How a daemon speaks on its terminal before it serves: one line about what is wrong, and the answer
//! of `--check`.

use std::io::Write;
use std::process::ExitCode;

use crate::{Finding, Severity};

/// Exit code of every set-up error.
const SETUP_ERROR: u8 = 2;

/// Says why the program `name` does not start.
#[must_use]
pub fn refuse(name: &str, line: &str) -> ExitCode {
    // Nobody reads a closed stderr; the exit code says enough.
    let _written = writeln!(std::io::stderr(), "{name}: {line}");
    ExitCode::from(SETUP_ERROR)
}

/// The first error of a configuration, and how to see the others.
#[must_use]
pub fn first_error<'a>(name: &str, errors: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut errors = errors.into_iter();
    let first = errors.next().map_or_else(String::new, ToString::to_string);
    match errors.count() {
        0 => first,
        more => format!("{first} (and {more} more; {name} --check lists them)"),
    }
}

/// The answer of `--check`: all findings, then `summary`, which there is when none is an error.
#[must_use]
pub fn answer_check(findings: &[Finding], summary: Option<String>) -> ExitCode {
    let mut err = std::io::stderr().lock();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let _written = writeln!(err, "{severity}: {finding}");
    }
    match summary {
        Some(summary) => {
            let _written = writeln!(std::io::stdout(), "{summary}");
            ExitCode::SUCCESS
        }
        None => ExitCode::from(SETUP_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_first_error_tells_of_the_others() {
        let error = |text: &str| Finding::whole_file(Path::new("c.toml"), text.to_owned());
        assert_eq!(first_error("daemon", &[error("a")]), "c.toml: a");
        let three = [error("a"), error("b"), error("c")];
        assert_eq!(
            first_error("daemon", &three),
            "c.toml: a (and 2 more; daemon --check lists them)"
        );
    }
}
