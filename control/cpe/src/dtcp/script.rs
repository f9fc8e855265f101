//! The user's program that is told when the tunnel comes, changes and goes.
//!
//! It is executed directly, with one argument (`up`, `change` or `down`) and what it needs in its
//! environment: nothing a server says ever passes through a shell.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a script may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Calls that wait for their turn; more than that, and the oldest news is stale anyway.
const QUEUE: usize = 16;

/// What a script is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `up`, `change` or `down`.
    pub event: &'static str,
    /// Environment.
    pub variables: Vec<(&'static str, String)>,
}

/// Runs the calls one after the other, away from the session, which must not wait for them.
#[derive(Debug)]
pub struct Scripts {
    calls: Option<mpsc::Sender<Call>>,
    task: Option<JoinHandle<()>>,
}

impl Scripts {
    /// Starts the queue; without a script, calls go nowhere.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        let Some(path) = path else {
            return Self {
                calls: None,
                task: None,
            };
        };
        let (calls, mut queue) = mpsc::channel::<Call>(QUEUE);
        let task = tokio::spawn(async move {
            while let Some(call) = queue.recv().await {
                run(&path, &call).await;
            }
        });
        Self {
            calls: Some(calls),
            task: Some(task),
        }
    }

    /// Queues a call.
    pub fn call(&self, call: Call) {
        if let Some(calls) = &self.calls
            && let Err(error) = calls.try_send(call)
        {
            tracing::warn!(%error, "script is not called: earlier calls have not ended");
        }
    }

    /// Waits for the calls to end.
    pub async fn finish(mut self) {
        self.calls = None;
        if let Some(task) = self.task.take()
            && tokio::time::timeout(TIMEOUT * 2, task).await.is_err()
        {
            tracing::warn!("scripts have not ended");
        }
    }
}

async fn run(path: &Path, call: &Call) {
    let mut command = Command::new(path);
    command.arg(call.event).env_clear().stdin(Stdio::null());
    let inherited =
        std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.env("PATH", inherited).kill_on_drop(true);
    for (name, value) in &call.variables {
        command.env(name, value);
    }
    let (script, event) = (path.display(), call.event);
    let ended = async { command.spawn()?.wait().await };
    match tokio::time::timeout(TIMEOUT, ended).await {
        Ok(Ok(status)) if status.success() => tracing::debug!(%script, event, "script has run"),
        Ok(Ok(status)) => tracing::warn!(%script, event, %status, "script failed"),
        Ok(Err(error)) => tracing::warn!(%script, event, %error, "script cannot be run"),
        Err(_) => tracing::warn!(%script, event, "script took too long and was killed"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn calls_come_in_order_with_nothing_but_their_variables() {
        let directory = tempfile::tempdir().expect("a directory");
        let (script, log) = (directory.path().join("s"), directory.path().join("log"));
        // The value is written as it is: no shell ever reads it.
        let text = format!(
            "#!/bin/sh\nprintf '%s %s %s\\n' \"$1\" \"$SIXFERRY_REASON\" \"${{HOME-unset}}\" >>{}\n",
            log.display()
        );
        fs::write(&script, text).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode set");
        let scripts = Scripts::new(Some(script));
        for (event, reason) in [("up", "$(id)"), ("change", "`id`"), ("down", "; id")] {
            scripts.call(Call {
                event,
                variables: vec![("SIXFERRY_REASON", reason.to_owned())],
            });
        }
        scripts.finish().await;
        assert_eq!(
            fs::read_to_string(log).expect("the log"),
            "up $(id) unset\nchange `id` unset\ndown ; id unset\n"
        );
    }

    #[tokio::test]
    async fn a_script_that_cannot_run_harms_nothing() {
        let scripts = Scripts::new(Some("/nonexistent/script".into()));
        scripts.call(Call {
            event: "up",
            variables: Vec::new(),
        });
        scripts.finish().await;
        Scripts::new(None).finish().await;
    }
}
