//! `sixferry user import` and `export`.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sixferry_client::control::{MAX_ENTRIES, api, entry_error, stream_error};
use sixferry_dtcp::import::{DUMP_MAX, parse_dump};

use crate::args::Global;
use crate::error::CliError;
use crate::json::control::{User, prefix_message};
use crate::output;

/// Failures that are printed one by one.
const SHOWN: usize = 100;

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// A dump of pop.auth (db_dump, db_dump185, gdbm_dump), `user:secret` lines, or JSON lines of
    /// `user export`; - reads standard input.
    file: PathBuf,
    /// Leave users that exist alone, and say so.
    #[arg(long)]
    create_only: bool,
    /// Only say what is in the file.
    #[arg(long)]
    validate_only: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// With their secrets: for a backup, or another relay. Whoever reads it can log in as anybody.
    #[arg(long)]
    secrets: bool,
}

/// What an import did.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Imported {
    created: u64,
    updated: u64,
    failed: u64,
    failures: Vec<Failed>,
}

/// A user that was not imported.
#[derive(Debug, PartialEq, Serialize)]
struct Failed {
    /// Line of the file.
    line: usize,
    name: String,
    message: String,
}

/// A user of the file, and where he stands.
struct Line {
    number: usize,
    entry: api::UserEntry,
}

pub(super) async fn import(global: &Global, args: &ImportArgs) -> Result<(), CliError> {
    let name = args.file.display().to_string();
    let bytes = read(&args.file, &name)?;
    let lines = lines(&bytes, &name)?;
    drop(bytes);
    if args.validate_only {
        let count = lines.len();
        return match global.json {
            true => output::json(&serde_json::json!({ "users": count })),
            false => output::line(&format!("{name}: {count} users")),
        };
    }
    let request = |entries: &[Line]| api::ImportUsersRequest {
        entries: entries.iter().map(|line| line.entry.clone()).collect(),
        create_only: args.create_only,
    };
    let requests: Vec<_> = lines.chunks(MAX_ENTRIES).map(request).collect();
    let client = global.control().await?;
    let mut answers = client.import_users(requests).await?;
    let mut done = Imported::default();
    for sent in lines.chunks(MAX_ENTRIES) {
        let answer = answers.message().await;
        let answer = answer.map_err(|status| stream_error("ImportUsers", &status))?;
        let cut = || CliError::Failed("ImportUsers: the answers ended too early".to_owned());
        let answer = answer.ok_or_else(cut)?;
        done.created += u64::from(answer.created);
        done.updated += u64::from(answer.updated);
        done.failed += answer.failures.len() as u64;
        for failure in answer.failures {
            let line = usize::try_from(failure.index)
                .ok()
                .and_then(|i| sent.get(i));
            let status = failure.status.unwrap_or_default();
            if done.failures.len() < SHOWN {
                let user = line.and_then(|line| line.entry.user.as_ref());
                done.failures.push(Failed {
                    line: line.map_or(0, |line| line.number),
                    name: user.map_or_else(String::new, |user| user.name.clone()),
                    message: entry_error("ImportUsers", &status).to_string(),
                });
            }
        }
    }
    finish(global, &name, &done)
}

fn finish(global: &Global, name: &str, done: &Imported) -> Result<(), CliError> {
    if global.json {
        output::json(done)?;
    } else {
        output::line(&format!(
            "{} created, {} changed",
            done.created, done.updated
        ))?;
        for failed in &done.failures {
            let Failed {
                line,
                name: user,
                message,
            } = failed;
            output::note(&format!("{name}: line {line}: {user}: {message}"));
        }
    }
    match done.failed {
        0 => Ok(()),
        failed => Err(CliError::Failed(format!(
            "{failed} users were not imported"
        ))),
    }
}

fn read(path: &std::path::Path, name: &str) -> Result<Vec<u8>, CliError> {
    let failed = |e: std::io::Error| CliError::Usage(format!("{name}: {e}"));
    let source: Box<dyn Read> = if name == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    let mut limited = source.take(DUMP_MAX as u64 + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The users of a file, whatever its format. What looks wrong is said on standard error.
fn lines(bytes: &[u8], name: &str) -> Result<Vec<Line>, CliError> {
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        return json_lines(bytes, name);
    }
    let dump = parse_dump(bytes).map_err(|e| CliError::Usage(format!("{name}: {e}")))?;
    for problem in dump.problems.iter().take(SHOWN) {
        output::note(&format!("{name}: {problem}"));
    }
    let more = dump.problems_total.saturating_sub(SHOWN);
    if more > 0 {
        output::note(&format!("{name}: {more} more problems"));
    }
    let line = |record: sixferry_dtcp::import::Record| Line {
        number: record.line,
        entry: api::UserEntry {
            secret: record.secret.expose().to_vec(),
            user: Some(api::User {
                name: record.user,
                ..api::User::default()
            }),
        },
    };
    Ok(dump.records.into_iter().map(line).collect())
}

fn json_lines(bytes: &[u8], name: &str) -> Result<Vec<Line>, CliError> {
    let mut lines = Vec::new();
    let numbered = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    for (number, line) in numbered.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        // The parser's message could quote the line, and with it a secret.
        let wrong = |what: &str| CliError::Usage(format!("{name}: line {number}: {what}"));
        let user: User = serde_json::from_slice(line)
            .map_err(|e| wrong(&format!("no user, at column {}", e.column())))?;
        let secret = user
            .secret_hex
            .as_deref()
            .map_or(Some(Vec::new()), from_hex);
        let status = match user.status.as_str() {
            "" | "active" => api::UserStatus::Active,
            "suspended" => api::UserStatus::Suspended,
            _ => return Err(wrong("status is neither active nor suspended")),
        };
        lines.push(Line {
            number,
            entry: api::UserEntry {
                secret: secret.ok_or_else(|| wrong("secretHex is not hexadecimal"))?,
                user: Some(api::User {
                    prefixes: user.prefixes.iter().copied().map(prefix_message).collect(),
                    name: user.name,
                    status: status.into(),
                    ..api::User::default()
                }),
            },
        });
    }
    Ok(lines)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).ok();
    digits.chunks(2).map(byte).collect()
}

pub(super) async fn export(global: &Global, args: &ExportArgs) -> Result<(), CliError> {
    let client = global.control().await?;
    let mut pages = client.export_users(args.secrets).await?;
    loop {
        let page = pages.message().await;
        let page = page.map_err(|status| stream_error("ExportUsers", &status))?;
        let Some(page) = page else { return Ok(()) };
        for entry in page.entries {
            let mut user = User::from(entry.user.unwrap_or_default());
            user.secret_hex = (!entry.secret.is_empty()).then(|| to_hex(&entry.secret));
            output::json_line(&user)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_can_be_read_again() {
        let user = User {
            name: "alice".to_owned(),
            status: "suspended".to_owned(),
            prefixes: vec!["2001:db8:1::/48".parse().unwrap()],
            secret_hex: Some(to_hex(b"\xffopen")),
            ..User::default()
        };
        let text = serde_json::to_string(&user).unwrap() + "\n\n";
        let lines = lines(text.as_bytes(), "f").unwrap();
        assert_eq!(lines.len(), 1);
        let entry = &lines[0].entry;
        assert_eq!(entry.secret, b"\xffopen");
        let read = entry.user.as_ref().unwrap();
        assert_eq!(read.status(), api::UserStatus::Suspended);
        assert_eq!(User::from(read.clone()).prefixes, user.prefixes);
    }

    #[test]
    fn text_lines_are_users_and_a_bad_line_of_json_never_shows_its_secret() {
        let read = lines(b"# old host\nalice:open sesame\nbob:x:y\n", "f").unwrap();
        let secrets: Vec<_> = read.iter().map(|line| line.entry.secret.clone()).collect();
        assert_eq!(secrets, [b"open sesame".to_vec(), b"x:y".to_vec()]);
        assert_eq!(read[1].number, 3);
        let Err(error) = lines(b"{\"name\":\"a\"}\n{\"secretHex\":7f7f}", "f") else {
            panic!("taken");
        };
        let text = error.to_string();
        assert!(
            text.starts_with("f: line 2: no user") && !text.contains("7f7f"),
            "{text}"
        );
    }
}
