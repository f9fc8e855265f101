//! Where the password comes from: a file with nothing else, a file of `server:user:password` lines, or
//! the terminal. Never the command line, which every user of the host can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use zeroize::Zeroizing;

use super::machine::Secret;
use crate::Error;

/// Where passwords are looked up when nothing else is said and this file exists.
pub const AUTH_FILE: &str = "/etc/sixferry/dtcp.auth";
/// Largest file taken.
const MAX_FILE: u64 = 1 << 20;
/// Longest password.
const MAX_PASSWORD: usize = 1024;

/// Where to look.
#[derive(Clone, Debug)]
pub enum Source {
    /// The first line of a file.
    PasswordFile(PathBuf),
    /// A line of a file.
    AuthFile(PathBuf),
    /// Typed at the start, kept in memory.
    Typed(Secret),
}

impl Source {
    /// Chooses, and asks for the password if it is to be typed: meanwhile the signals in `handled`
    /// end the program, afterwards they are the caller's.
    ///
    /// # Errors
    /// When there is none.
    pub fn choose(
        password_file: Option<PathBuf>,
        auth_file: Option<PathBuf>,
        server: &str,
        user: &str,
        handled: &[i32],
    ) -> Result<Self, Error> {
        if let Some(path) = password_file {
            return Ok(Self::PasswordFile(path));
        }
        if let Some(path) = auth_file {
            return Ok(Self::AuthFile(path));
        }
        let usual = Path::new(AUTH_FILE);
        if usual.exists() && find(usual, server, user)?.is_some() {
            return Ok(Self::AuthFile(usual.to_owned()));
        }
        ask(&format!("Password of {user} for {server}: "), handled).map(Self::Typed)
    }

    /// The password of this moment.
    ///
    /// # Errors
    /// When the file is gone, open to others, or has no such line.
    pub fn password(&self, server: &str, user: &str) -> Result<Secret, Error> {
        match self {
            Self::Typed(secret) => Ok(secret.clone()),
            Self::PasswordFile(path) => {
                let mut text = read(path)?;
                let end = text.iter().position(|b| *b == b'\n').unwrap_or(text.len());
                text.truncate(end);
                checked(&text).ok_or_else(|| {
                    let path = path.display();
                    Error::Config(format!("{path}: its first line is no password"))
                })
            }
            Self::AuthFile(path) => find(path, server, user)?.ok_or_else(|| {
                let path = path.display();
                Error::Config(format!("{path} has no line `{server}:{user}:password`"))
            }),
        }
    }
}

fn checked(line: &[u8]) -> Option<Secret> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.is_empty() && line.len() <= MAX_PASSWORD).then(|| Secret(line.to_vec()))
}

fn find(path: &Path, server: &str, user: &str) -> Result<Option<Secret>, Error> {
    let text = read(path)?;
    Ok(text
        .split(|b| *b == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .find_map(|line| {
            let mut parts = line.splitn(3, |b| *b == b':');
            let ours =
                parts.next() == Some(server.as_bytes()) && parts.next() == Some(user.as_bytes());
            parts.next().filter(|_| ours).and_then(checked)
        }))
}

/// A file that nobody else may read.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let cannot = |e: io::Error| Error::Config(format!("cannot read {}: {e}", path.display()));
    let file = File::open(path).map_err(cannot)?;
    // Of the open file, not of the name: nobody can change it in between.
    let stat = fstat(&file).map_err(|e| cannot(e.into()))?;
    if stat.st_mode & 0o077 != 0 {
        return Err(Error::Config(format!(
            "{} can be read by others: chmod 600 it, and choose a new password",
            path.display()
        )));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_FILE).read_to_end(&mut text).map_err(cannot)?;
    Ok(text)
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str, handled: &[i32]) -> Result<Secret, Error> {
    let typed = sixferry_prompt::ask(prompt, MAX_PASSWORD, handled);
    let typed = typed.map_err(|error| {
        Error::Config(match error {
            sixferry_prompt::Error::NoTerminal => {
                "no password: give --password-file or --auth-file, or start it on a terminal"
                    .to_owned()
            }
            error => format!("cannot ask for the password: {error}"),
        })
    })?;
    checked(&typed).ok_or_else(|| Error::Config("no password was typed".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("auth");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
        (directory, path)
    }

    #[test]
    fn a_line_is_found_by_server_and_user() {
        let (_directory, path) = file(
            "# alice\n\ntunnel.example:alice:s3:cr:et\r\ntunnel.example:bob:\n\
             other.example:alice:x\n#tunnel.example:carol:no\n",
            0o600,
        );
        let source = Source::AuthFile(path);
        let password = |server, user| source.password(server, user).map(|s| s.0.clone());
        assert_eq!(
            password("tunnel.example", "alice").expect("found"),
            b"s3:cr:et"
        );
        assert_eq!(password("other.example", "alice").expect("found"), b"x");
        for user in ["bob", "carol", "dave"] {
            let error = password("tunnel.example", user).expect_err(user);
            assert!(error.to_string().contains("has no line"), "{error}");
        }
    }

    #[test]
    fn a_password_file_is_its_first_line_and_read_each_time() {
        let (_directory, path) = file("first\nsecond\n", 0o400);
        let source = Source::PasswordFile(path.clone());
        assert_eq!(source.password("s", "u").expect("there").0, b"first");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode set");
        fs::write(&path, "other").expect("written");
        assert_eq!(source.password("s", "u").expect("there").0, b"other");
        fs::write(&path, "\n").expect("written");
        assert!(source.password("s", "u").is_err());
    }

    #[test]
    fn a_file_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let (_directory, path) = file("s:u:p\n", mode);
            for source in [
                Source::AuthFile(path.clone()),
                Source::PasswordFile(path.clone()),
            ] {
                let error = source.password("s", "u").expect_err("refused");
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let source = Source::Typed(Secret(b"hunter2".to_vec()));
        assert!(!format!("{source:?}").contains("hunter2"));
        assert!(!format!("{source:?}").contains("104"));
    }
}
