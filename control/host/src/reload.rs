//! The configuration in force, and how another one takes its place: whole, or not at all.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use sixferry_service::{Finding, SetLevel, Severity};
use tokio::sync::watch;

use crate::api::DtcpPlace;
use crate::config::{self, Checked, Config, Only, Plan};

/// What a reload did.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) applied: bool,
    pub(crate) findings: Vec<Finding>,
    pub(crate) plan: Plan,
}

/// Holds the configuration in force.
pub(crate) struct Manager {
    path: PathBuf,
    only: Option<Only>,
    config: Mutex<Config>,
    /// The DTCP plugin's part of it: the supervisor starts and stops the plugin by this.
    dtcp: watch::Sender<Option<sixferry_dtcp::Config>>,
    running: DtcpPlace,
    set_level: SetLevel,
    /// One reload at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Manager {
    pub(crate) fn new(
        path: PathBuf,
        config: Config,
        running: DtcpPlace,
        set_level: SetLevel,
    ) -> Self {
        Self {
            path,
            only: config.only,
            dtcp: watch::Sender::new(config.runs_dtcp().cloned()),
            config: Mutex::new(config),
            running,
            set_level,
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// The configuration file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The DTCP plugin's configuration, now and when it changes; `None`: it is off.
    pub(crate) fn dtcp(&self) -> watch::Receiver<Option<sixferry_dtcp::Config>> {
        self.dtcp.subscribe()
    }

    /// Checks a text and says what a reload with it would do.
    pub(crate) fn check(&self, text: &str) -> (Checked, Plan) {
        let checked = config::check_text(text, &self.path, self.only);
        let plan = match &checked.config {
            Some(new) => Plan::between(&self.config.lock(), new),
            None => Plan::default(),
        };
        (checked, plan)
    }

    /// Reads the file again and applies it, or keeps the configuration in force.
    pub(crate) async fn reload(&self) -> Report {
        let _turn = self.turn.lock().await;
        let (_, checked) = config::check_file(&self.path, self.only);
        let findings = checked.findings;
        let Some(new) = checked.config else {
            return refused(findings);
        };
        let old = self.config.lock().clone();
        let plan = Plan::between(&old, &new);
        // What can still go wrong comes first, and by itself keeps the old state.
        if let Some(server) = self.running.get()
            && let Some(dtcp) = new.runs_dtcp()
            && let Err(error) = server.reload(dtcp.clone()).await
        {
            let mut findings = findings;
            findings.push(Finding {
                severity: Severity::Error,
                file: self.path.clone(),
                key: "dtcp".to_owned(),
                line: 0,
                column: 0,
                message: sixferry_service::chain(&error),
            });
            return refused(findings);
        }
        if old.log.level != new.log.level {
            (self.set_level)(&new.log.level);
        }
        self.dtcp.send_replace(new.runs_dtcp().cloned());
        for change in &plan.changes {
            tracing::info!("reload: {change}");
        }
        for key in &plan.restart_required {
            tracing::warn!("reload: {key} changed; restart the daemon to use it");
        }
        *self.config.lock() = keep_restart_keys(new, &old);
        Report {
            applied: true,
            findings,
            plan,
        }
    }
}

fn refused(findings: Vec<Finding>) -> Report {
    for finding in &findings {
        tracing::error!("{finding}");
    }
    tracing::error!("reload refused; the configuration in force stays");
    Report {
        applied: false,
        findings,
        plan: Plan::default(),
    }
}

/// What is read only at start stays as it runs, so that the next plan names it again.
fn keep_restart_keys(new: Config, old: &Config) -> Config {
    let mut log = new.log.clone();
    log.json = old.log.json;
    Config {
        dtcp: new.dtcp,
        log,
        ..old.clone()
    }
}
