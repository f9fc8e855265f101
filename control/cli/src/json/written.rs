//! What a write did, as JSON and as one line.

use serde::Serialize;
use sixferry_client::{self as client, ProgramReport};

use crate::args::Global;
use crate::error::CliError;
use crate::output;

/// What a write did.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) unchanged: u64,
    pub(crate) deleted: u64,
    pub(crate) failed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swept_tunnels: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
}

/// One entry that was not written.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failed {
    pub(crate) position: u64,
    pub(crate) key: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
}

impl From<&client::ProgramReport> for Written {
    fn from(report: &client::ProgramReport) -> Self {
        let failed = |f: &client::ItemFailure| Failed {
            position: f.position,
            key: f.key.clone(),
            reason: f.error.reason.clone(),
            message: f.error.to_string(),
        };
        Self {
            created: report.created,
            updated: report.updated,
            unchanged: report.unchanged,
            deleted: report.deleted,
            failed: report.progress.failed,
            failures: report.failures.iter().map(failed).collect(),
            swept_tunnels: None,
            seconds: None,
        }
    }
}

/// One line about a write; `None` if nothing of it succeeded.
fn done(report: &ProgramReport) -> Option<String> {
    let what = match (report.created, report.updated, report.deleted) {
        (1.., _, _) => "created",
        (_, 1.., _) => "changed",
        (_, _, 1..) => "deleted",
        _ => "unchanged",
    };
    let total = report.progress.acknowledged;
    match total.saturating_sub(report.progress.failed) {
        0 => None,
        _ if total == 1 => Some(what.to_owned()),
        applied => Some(format!("{applied} of {total} {what}")),
    }
}

/// Says what a handful of updates did; the first failure is the error of the command, after the
/// others were tried.
pub(crate) fn finish(global: &Global, report: ProgramReport) -> Result<(), CliError> {
    if global.json {
        output::json(&Written::from(&report))?;
    } else if let Some(done) = done(&report) {
        output::line(&done)?;
    }
    report.all_applied()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_one_line() {
        let mut report = ProgramReport {
            deleted: 1,
            ..ProgramReport::default()
        };
        report.progress.acknowledged = 1;
        assert_eq!(done(&report).as_deref(), Some("deleted"));
        report.progress.acknowledged = 2;
        report.progress.failed = 1;
        assert_eq!(done(&report).as_deref(), Some("1 of 2 deleted"));
        report.progress.failed = 2;
        assert_eq!(done(&report), None);
    }
}
