//! Secrets on their way in: a file, standard input, or a prompt that shows nothing.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;

/// What the store takes.
const MAX_LEN: usize = 255;

#[derive(Args, Debug)]
pub(crate) struct SecretArgs {
    /// File whose first line is the secret.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The first line of standard input is the secret.
    #[arg(long, conflicts_with = "secret_file")]
    secret_stdin: bool,
}

impl SecretArgs {
    pub(super) fn is_given(&self) -> bool {
        self.secret_file.is_some() || self.secret_stdin
    }

    /// The secret; asked for at the terminal where no other source is named.
    pub(super) fn read(&self, user: &str) -> Result<Vec<u8>, CliError> {
        if let Some(path) = &self.secret_file {
            let name = path.display().to_string();
            let file = std::fs::File::open(path);
            let file = file.map_err(|e| CliError::Usage(format!("{name}: {e}")))?;
            return first_line(file, &name);
        }
        if self.secret_stdin {
            return first_line(std::io::stdin(), "standard input");
        }
        let first = ask(&format!("Secret of {user}: "))?;
        if ask("The same again: ")? != first {
            return Err(CliError::Usage("the two are different".to_owned()));
        }
        checked(first, "the secret")
    }
}

fn first_line(source: impl Read, name: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = source.take(64 * 1024).read_to_end(&mut bytes);
    read.map_err(|e| CliError::Usage(format!("{name}: {e}")))?;
    let line = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    checked(line.to_vec(), name)
}

fn checked(secret: Vec<u8>, name: &str) -> Result<Vec<u8>, CliError> {
    match secret.len() {
        1..=MAX_LEN => Ok(secret),
        0 => Err(CliError::Usage(format!("{name}: the secret is empty"))),
        _ => {
            let text = format!("{name}: the secret is longer than {MAX_LEN} bytes");
            Err(CliError::Usage(text))
        }
    }
}

/// A line from the terminal that is not shown while it is typed.
fn ask(prompt: &str) -> Result<Vec<u8>, CliError> {
    use sixferry_prompt::Error;

    let typed = sixferry_prompt::ask(prompt, MAX_LEN, &[]);
    let typed = typed.map_err(|error| match error {
        Error::NoTerminal => CliError::Usage(
            "no terminal to ask for the secret: --secret-file, --secret-stdin or, for a new user, \
             --no-secret"
                .to_owned(),
        ),
        Error::Closed | Error::TooLong(_) => CliError::Usage(format!("the secret: {error}")),
        Error::Terminal(_) => CliError::Failed(error.to_string()),
    })?;
    Ok(typed.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_and_messages_never_show_it() {
        assert_eq!(
            first_line(&b"open sesame\r\nmore"[..], "f").unwrap(),
            b"open sesame"
        );
        assert_eq!(first_line(&b"x"[..], "f").unwrap(), b"x");
        let empty = first_line(&b"\nsecond"[..], "f").unwrap_err().to_string();
        assert_eq!(empty, "f: the secret is empty");
        let long = "s".repeat(256);
        let error = first_line(long.as_bytes(), "f").unwrap_err().to_string();
        assert!(
            error.contains("longer than 255") && !error.contains("sss"),
            "{error}"
        );
    }
}
