//! `sixferry tunnel load` and `sixferry tunnel sync`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use sixferry_client::{ProgramOptions, ProgramReport, Progress, TunnelUpdate};

use super::file::{Format, TunnelFile};
use crate::args::{Global, Writer};
use crate::error::CliError;
use crate::json::written::Written;
use crate::{output, units};

/// How many failures are printed; JSON has more.
const MAX_SHOWN: usize = 20;

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// JSON lines or CSV; - reads standard input.
    file: PathBuf,
    /// Format of the file. [default: by its name]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Check everything, change nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    writer: Writer,
}

#[derive(Args, Debug)]
pub(crate) struct SyncArgs {
    /// JSON lines or CSV; - reads standard input.
    file: PathBuf,
    /// Format of the file. [default: by its name]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Whose tunnels; those that are not in the file are removed, and API routes with them.
    #[arg(long, value_name = "NAME")]
    owner: String,
    /// Election id of the session; the higher one wins.
    #[arg(
        long,
        default_value = "1",
        value_name = "NUMBER",
        hide_short_help = true
    )]
    election_id: sixferry_client::ElectionId,
}

pub(super) async fn load(global: &Global, args: &LoadArgs) -> Result<(), CliError> {
    let file = TunnelFile::open(&args.file, args.format)?;
    let mut session = global.session(&args.writer).await?;
    let options = ProgramOptions {
        validate_only: args.validate_only,
        ..ProgramOptions::default()
    };
    let started = Instant::now();
    let mut meter = Meter::new(file.count(), global.json);
    let updates = file.tunnels().map(TunnelUpdate::upsert);
    let outcome = session
        .program_tunnels(updates, &options, |progress| meter.show(progress))
        .await;
    meter.clear();
    let report = outcome?;
    finish(global, &file, &report, None, started.elapsed())
}

pub(super) async fn sync(global: &Global, args: &SyncArgs) -> Result<(), CliError> {
    let file = TunnelFile::open(&args.file, args.format)?;
    let writer = Writer {
        owner: args.owner.clone(),
        election_id: args.election_id,
    };
    let mut session = global.session(&writer).await?;
    let started = Instant::now();
    let mut sync = session.begin_resync().await?;
    let mut meter = Meter::new(file.count(), global.json);
    let options = ProgramOptions::default();
    let outcome = sync
        .upsert_tunnels(file.tunnels(), &options, |progress| meter.show(progress))
        .await;
    meter.clear();
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            // Nothing is removed either way; the marks should not stay if it can be helped.
            let _ = sync.abort().await;
            return Err(error.into());
        }
    };
    if report.progress.failed > 0 {
        sync.abort().await?;
        finish(global, &file, &report, None, started.elapsed())?;
        return Ok(());
    }
    let swept = sync.commit().await?;
    let swept = Some(swept.swept_tunnels);
    finish(global, &file, &report, swept, started.elapsed())
}

fn finish(
    global: &Global,
    file: &TunnelFile,
    report: &ProgramReport,
    swept: Option<u64>,
    took: Duration,
) -> Result<(), CliError> {
    let mut written = Written::from(report);
    written.swept_tunnels = swept;
    written.seconds = Some((took.as_secs_f64() * 1000.0).round() / 1000.0);
    if global.json {
        output::json(&written)?;
    } else {
        output::line(&summary(&written))?;
    }
    if report.progress.failed == 0 {
        return Ok(());
    }
    let mut lines = vec![format!("{} tunnels were refused:", report.progress.failed)];
    for failure in report.failures.iter().take(MAX_SHOWN) {
        let line = file.line_of(failure.position);
        let line = line.map_or_else(String::new, |l| format!("line {l}: "));
        lines.push(format!("{line}{failure}"));
    }
    let more = report.progress.failed.saturating_sub(MAX_SHOWN as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Err(CliError::Failed(lines.join("\n  ")))
}

fn summary(written: &Written) -> String {
    let mut text = format!(
        "{} created, {} changed, {} unchanged",
        written.created, written.updated, written.unchanged
    );
    if let Some(swept) = written.swept_tunnels {
        text.push_str(&format!(", {swept} removed"));
    }
    if written.failed > 0 {
        text.push_str(&format!(", {} failed", written.failed));
    }
    if let Some(seconds) = written.seconds {
        text.push_str(&format!(" in {seconds:.1} s"));
        let total = written.created + written.updated + written.unchanged + written.failed;
        if seconds >= 0.1 {
            let rate = units::rate(total as f64 / seconds);
            text.push_str(&format!(" ({rate}/s)"));
        }
    }
    text
}

/// Progress on standard error, if that is a terminal.
struct Meter {
    total: u64,
    active: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Meter {
    fn new(total: u64, json: bool) -> Self {
        Self {
            total,
            active: !json && std::io::stderr().is_terminal(),
            started: Instant::now(),
            shown: None,
        }
    }

    fn show(&mut self, progress: &Progress) {
        let due = self
            .shown
            .is_none_or(|shown| shown.elapsed() >= Duration::from_millis(100));
        if !self.active || !due {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = units::rate(progress.acknowledged as f64 / seconds);
        let text = format!(
            "\r\x1b[K{} of {} tunnels, {rate}/s, {} failed",
            progress.acknowledged, self.total, progress.failed
        );
        // A meter that cannot be drawn is no reason to stop.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn clear(&mut self) {
        if self.shown.is_some() {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let written = Written {
            created: 900,
            updated: 50,
            unchanged: 50,
            seconds: Some(2.0),
            ..Written::default()
        };
        assert_eq!(
            summary(&written),
            "900 created, 50 changed, 50 unchanged in 2.0 s (500/s)"
        );
        let synced = Written {
            unchanged: 5,
            swept_tunnels: Some(2),
            failed: 1,
            ..Written::default()
        };
        assert_eq!(
            summary(&synced),
            "0 created, 0 changed, 5 unchanged, 2 removed, 1 failed"
        );
    }
}
