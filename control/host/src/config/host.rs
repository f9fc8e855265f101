//! What the host has of what the file names: the store, the key, who may read them.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sixferry_lifecycle::secret::KeyRing;
use sixferry_service::Findings;

use super::{Config, place};

/// What begins every SQLite file.
const SQLITE: &[u8] = b"SQLite format 3\0";

pub(super) fn check_store(config: &Config, file: &Path, text: &str, findings: &mut Findings<'_>) {
    let at = |key: &str| place::of(text, key);
    let url_at = at("store.url");
    let mut there = false;
    match config.store.file() {
        Some(database) => match database_file(database) {
            Ok(exists) => there = exists,
            Err(problem) => findings.error("store.url", url_at, problem),
        },
        None => password(&config.store.url, file, text, findings),
    }
    let key = &config.store.key_file;
    match std::fs::metadata(key) {
        Err(error) if error.kind() == ErrorKind::NotFound && there => {
            let message = format!(
                "{} is missing, but the store is there: put the key back, without it no secret \
                 can be read",
                key.display()
            );
            findings.error("store.key_file", at("store.key_file"), message);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Err(problem) = writable_parent(key) {
                findings.error("store.key_file", at("store.key_file"), problem);
            }
        }
        _ => {
            if let Err(error) = KeyRing::open(key, false) {
                findings.error("store.key_file", at("store.key_file"), error.to_string());
            }
        }
    }
}

/// Whether it is there; if not, it can be made.
fn database_file(path: &Path) -> Result<bool, String> {
    use std::io::Read;
    let shown = path.display();
    match std::fs::File::open(path) {
        Ok(mut file) => {
            let mut head = Vec::new();
            let read = file
                .by_ref()
                .take(SQLITE.len() as u64)
                .read_to_end(&mut head);
            read.map_err(|error| format!("{shown} cannot be read: {error}"))?;
            if head.is_empty() || head == SQLITE {
                Ok(true)
            } else {
                Err(format!("{shown} is no SQLite file"))
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => writable_parent(path).map(|()| false),
        Err(error) => Err(format!("{shown} cannot be read: {error}")),
    }
}

/// Where a file is to be made its directory must be there, or be made itself, and be ours.
fn writable_parent(path: &Path) -> Result<(), String> {
    let Some(dir) = path.parent() else {
        return Err(format!("{} is no file", path.display()));
    };
    let existing = if dir.exists() {
        dir
    } else {
        // The daemon makes one level: the state directory.
        dir.parent().unwrap_or(dir)
    };
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(existing, access).map_err(|error| {
        let error = std::io::Error::from(error);
        format!(
            "{} cannot be written: {error}; make it and give it to this user",
            existing.display()
        )
    })
}

/// A password belongs into a file nobody else reads.
fn password(url: &str, file: &Path, text: &str, findings: &mut Findings<'_>) {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    if !user.contains(':') {
        return;
    }
    let open = std::fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o007 != 0);
    if open {
        let message = "has a password, and everybody may read this file; chmod 640 it, or use a \
                       socket with peer authentication"
            .to_owned();
        findings.warning("store.url", place::of(text, "store.url"), message);
    }
}
