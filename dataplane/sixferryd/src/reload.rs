//! The configuration in force, and how another one takes its place: whole, or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use sixferry_fwd::Settings;
use sixferry_service::SetLevel;

use crate::config::{self, Checked, Config, Finding, Host, Plan, Severity};
use crate::control::shared::Shared;

mod objects;

use objects::{Objects, Refused};

/// What a reload did.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) applied: bool,
    pub(crate) findings: Vec<Finding>,
    pub(crate) plan: Plan,
}

struct State {
    config: Config,
    text: String,
    applied: SystemTime,
}

/// Holds the configuration in force.
pub(crate) struct Manager {
    path: PathBuf,
    host: Box<dyn Host + Send + Sync>,
    state: Mutex<State>,
    set_level: SetLevel,
    /// One reload at a time.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Manager {
    pub(crate) fn new(
        path: PathBuf,
        host: Box<dyn Host + Send + Sync>,
        text: String,
        config: Config,
        set_level: SetLevel,
    ) -> Self {
        let state = Mutex::new(State {
            config,
            text,
            applied: SystemTime::now(),
        });
        Self {
            path,
            host,
            state,
            set_level,
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// The configuration file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The text in force and when it was applied.
    pub(crate) fn text(&self) -> (String, SystemTime) {
        let state = self.state.lock();
        (state.text.clone(), state.applied)
    }

    /// The rules the file sets.
    pub(crate) fn settings(&self) -> Settings {
        self.state.lock().config.settings.clone()
    }

    /// Checks a text and says what a reload with it would do.
    pub(crate) fn check(&self, text: &str) -> (Checked, Plan) {
        let checked = config::check_text(text, &self.path, &*self.host);
        let plan = match &checked.config {
            Some(new) => Plan::between(&self.state.lock().config, new),
            None => Plan::default(),
        };
        (checked, plan)
    }

    /// Brings the tables in step with the configuration at start.
    pub(crate) fn start(&self, shared: &Shared) -> Result<(), Vec<Finding>> {
        let config = self.state.lock().config.clone();
        shared.with(|control| {
            control.set_settings(&config.settings);
            control
                .builder_mut()
                .set_steering_pools(config.steering.clone());
        });
        objects::apply(shared, Objects::of(&config))
            .map(drop)
            .map_err(|refused| self.findings(refused))
    }

    /// Reads the file again and applies it, or keeps the configuration in force.
    pub(crate) async fn reload(&self, shared: &Arc<Shared>) -> Report {
        let _turn = self.turn.lock().await;
        let (text, checked) = config::check_file(&self.path, &*self.host);
        let mut findings = checked.findings;
        let Some(new) = checked.config else {
            for finding in &findings {
                tracing::error!("{finding}");
            }
            tracing::error!("reload refused; the configuration in force stays");
            return Report {
                applied: false,
                findings,
                plan: Plan::default(),
            };
        };
        let old = self.state.lock().config.clone();
        let mut plan = Plan::between(&old, &new);
        match apply(shared, &old, &new) {
            Ok(change) => {
                shared.visible(change).await;
                if old.log.level != new.log.level {
                    (self.set_level)(&new.log.level);
                }
                for change in &plan.changes {
                    tracing::info!("reload: {change}");
                }
                for key in &plan.restart_required {
                    tracing::warn!("reload: {key} changed; restart the daemon to use it");
                }
                let config = keep_restart_keys(new, &old);
                *self.state.lock() = State {
                    config,
                    text,
                    applied: SystemTime::now(),
                };
                Report {
                    applied: true,
                    findings,
                    plan,
                }
            }
            Err(refused) => {
                findings.extend(self.findings(refused));
                for finding in &findings {
                    tracing::error!("{finding}");
                }
                tracing::error!("reload refused; the configuration in force stays");
                plan.changes.clear();
                Report {
                    applied: false,
                    findings,
                    plan,
                }
            }
        }
    }

    fn findings(&self, refused: Vec<Refused>) -> Vec<Finding> {
        let finding = |refused: Refused| Finding {
            severity: Severity::Error,
            file: self.path.clone(),
            key: refused.key(),
            line: 0,
            column: 0,
            message: tonic::Status::from(refused.error).message().to_owned(),
        };
        refused.into_iter().map(finding).collect()
    }
}

/// What is read only at start stays as it runs, so that the next plan names it again.
fn keep_restart_keys(new: Config, old: &Config) -> Config {
    let mut log = new.log.clone();
    log.json = old.log.json;
    Config {
        state_dir: old.state_dir.clone(),
        api: old.api.clone(),
        metrics: old.metrics,
        worker: old.worker.clone(),
        ports: old.ports.clone(),
        host_port: old.host_port.clone(),
        reassembly: old.reassembly,
        liveness: old.liveness,
        state: old.state,
        log,
        ..new
    }
}

fn apply(shared: &Shared, old: &Config, new: &Config) -> Result<u64, Vec<Refused>> {
    objects::refuse_conflicts(shared, Objects::of(new))?;
    if let Err(refused) = objects::apply(shared, Objects::of(new)) {
        // Another owner was faster between the check and now.
        if let Err(lost) = objects::apply(shared, Objects::of(old)) {
            tracing::error!(count = lost.len(), "static objects lost to other owners");
        }
        return Err(refused);
    }
    Ok(shared.with(|control| {
        control.set_settings(&new.settings);
        if old.steering != new.steering {
            control
                .builder_mut()
                .set_steering_pools(new.steering.clone());
        }
        control.change()
    }))
}
