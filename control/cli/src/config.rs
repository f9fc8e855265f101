//! `sixferry check-config` and `sixferry reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::args::Global;
use crate::error::CliError;
use crate::json::system::{Finding, Verdict};
use crate::output;

/// What the API accepts.
const MAX_LEN: u64 = 1 << 20;

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The file, e.g. /etc/sixferry/dataplane.toml; - reads standard input.
    file: PathBuf,
}

pub(crate) async fn check(global: &Global, args: CheckArgs) -> Result<ExitCode, CliError> {
    let text = read(&args.file)?;
    let client = global.connect().await?;
    let verdict = Verdict::from(client.check_config(text).await?);
    let good = verdict.valid == Some(true);
    show(global, &verdict, &args.file.display().to_string()).map(|()| {
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })
}

pub(crate) async fn reload(global: &Global) -> Result<ExitCode, CliError> {
    let client = global.connect().await?;
    let path = client.info().await?.config_path;
    let verdict = Verdict::from(client.reload_config().await?);
    let good = verdict.applied == Some(true);
    show(global, &verdict, &path).map(|()| {
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })
}

fn read(path: &std::path::Path) -> Result<String, CliError> {
    let name = path.display();
    let outcome = if name.to_string() == "-" {
        std::io::read_to_string(std::io::Read::take(std::io::stdin(), MAX_LEN + 1))
    } else {
        std::fs::read_to_string(path)
    };
    let text = outcome.map_err(|e| CliError::Usage(format!("{name}: {e}")))?;
    if text.len() as u64 > MAX_LEN {
        return Err(CliError::Usage(format!("{name}: larger than 1 MiB")));
    }
    Ok(text)
}

fn show(global: &Global, verdict: &Verdict, file: &str) -> Result<(), CliError> {
    if global.json {
        output::json(verdict)
    } else {
        output::line(&text(verdict, file))
    }
}

fn text(verdict: &Verdict, file: &str) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        text.push_str(&line(finding, file));
        text.push('\n');
    }
    let outcome = match (verdict.valid, verdict.applied) {
        (Some(true), _) => format!("{file}: valid"),
        (Some(false), _) => format!("{file}: refused"),
        (None, Some(true)) => format!("{file}: applied"),
        (None, _) => format!("{file}: refused; the old configuration stays in force"),
    };
    text.push_str(&outcome);
    text.push('\n');
    let heading = if verdict.applied == Some(true) {
        "changed:"
    } else {
        "a reload would change:"
    };
    for (heading, lines) in [
        (heading, &verdict.changes),
        ("takes effect after a restart:", &verdict.restart_required),
    ] {
        if lines.is_empty() {
            continue;
        }
        text.push_str(heading);
        text.push('\n');
        for line in lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

/// `file:line:column: severity: key: message`, which editors understand.
fn line(finding: &Finding, file: &str) -> String {
    let mut text = file.to_owned();
    if finding.line > 0 {
        text.push_str(&format!(":{}", finding.line));
        if finding.column > 0 {
            text.push_str(&format!(":{}", finding.column));
        }
    }
    text.push_str(&format!(": {}: ", finding.severity));
    if !finding.key.is_empty() {
        text.push_str(&format!("{}: ", finding.key));
    }
    text.push_str(&finding.message);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_name_file_line_and_key() {
        let verdict = Verdict {
            valid: Some(false),
            findings: vec![
                Finding {
                    severity: "error",
                    key: "tunnel[2].mtu".into(),
                    line: 12,
                    column: 7,
                    message: "1279 is below 1280".into(),
                },
                Finding {
                    severity: "warning",
                    key: String::new(),
                    line: 0,
                    column: 0,
                    message: "no port is configured".into(),
                },
            ],
            ..Verdict::default()
        };
        assert_eq!(
            text(&verdict, "d.toml"),
            "\
d.toml:12:7: error: tunnel[2].mtu: 1279 is below 1280
d.toml: warning: no port is configured
d.toml: refused
"
        );
    }

    #[test]
    fn changes_are_listed() {
        let mut verdict = Verdict {
            valid: Some(true),
            changes: vec!["tunnel \"a\" is added".into()],
            restart_required: vec!["worker.count".into()],
            ..Verdict::default()
        };
        assert_eq!(
            text(&verdict, "d.toml"),
            "\
d.toml: valid
a reload would change:
  tunnel \"a\" is added
takes effect after a restart:
  worker.count
"
        );
        (verdict.valid, verdict.applied) = (None, Some(true));
        assert!(text(&verdict, "d.toml").starts_with("d.toml: applied\nchanged:\n"));
    }
}
