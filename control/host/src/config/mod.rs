//! The configuration file: TOML, checked as a whole before anything is done with it.
//!
//! `raw` is the text with places; `check` turns it into a [`Config`] or into findings that name the
//! key, the line and the fix; `host` looks at what the host has of what the file names. Nothing here
//! changes the host: `--check`, the RPC and a reload all run the same code.

mod check;
mod diff;
mod host;
mod place;
mod raw;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sixferry_client::Target;
use sixferry_lifecycle::LifecycleConfig;
use sixferry_service::{Finding, LogConfig, MAX_TEXT_LEN, Severity, TcpTls};

pub(crate) use diff::Plan;

/// Which part alone runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// Users, pools, tunnels, and the API other plugins use.
    Lifecycle,
    /// The DTCP server, with the lifecycle of another process.
    Dtcp,
}

impl Only {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Dtcp => "dtcp",
        }
    }
}

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) only: Option<Only>,
    pub(crate) state_dir: PathBuf,
    /// `None`: no unix socket.
    pub(crate) unix_socket: Option<PathBuf>,
    pub(crate) tcp: Option<TcpTls>,
    /// Where metrics are served; `None`: nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) log: LogConfig,
    pub(crate) store: StoreConfig,
    pub(crate) lifecycle: LifecycleConfig,
    /// Where the lifecycle is, when another process runs it.
    pub(crate) remote: Option<Target>,
    /// `None`: the plugin is off.
    pub(crate) dtcp: Option<sixferry_dtcp::Config>,
}

impl Config {
    /// Whether the lifecycle runs in this process.
    pub(crate) fn runs_lifecycle(&self) -> bool {
        self.only.is_none_or(|only| only == Only::Lifecycle)
    }

    /// The DTCP plugin's configuration, if it runs in this process.
    pub(crate) fn runs_dtcp(&self) -> Option<&sixferry_dtcp::Config> {
        let runs = self.only.is_none_or(|only| only == Only::Dtcp);
        self.dtcp.as_ref().filter(|_| runs)
    }
}

/// Where everything is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreConfig {
    /// `sqlite:PATH` or `postgres://…`, which may have a password.
    pub(crate) url: String,
    /// The key DTCP secrets are encrypted under.
    pub(crate) key_file: PathBuf,
    pub(crate) timeout: Duration,
}

impl StoreConfig {
    /// The SQLite file; `None` with PostgreSQL.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.url.strip_prefix("sqlite:").map(Path::new)
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the URL: it may have a password.
        f.debug_struct("StoreConfig")
            .field("file", &self.file())
            .finish_non_exhaustive()
    }
}

/// What reading a text gave.
#[derive(Debug)]
pub(crate) struct Checked {
    /// In the order of the file.
    pub(crate) findings: Vec<Finding>,
    /// Present when no finding is an error.
    pub(crate) config: Option<Config>,
}

impl Checked {
    /// The findings that stop the configuration from being used.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
    }
}

/// Checks a text as if it stood in `file`.
pub(crate) fn check_text(text: &str, file: &Path, only: Option<Only>) -> Checked {
    check::check(text, file, only)
}

/// Reads and checks a file.
pub(crate) fn check_file(file: &Path, only: Option<Only>) -> (String, Checked) {
    match read(file) {
        Ok(text) => {
            let checked = check_text(&text, file, only);
            (text, checked)
        }
        Err(message) => {
            let findings = vec![Finding::whole_file(file, message)];
            let config = None;
            (String::new(), Checked { findings, config })
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    let size = std::fs::metadata(file).map_err(|e| cannot_read(&e))?.len();
    if size > MAX_TEXT_LEN as u64 {
        let most = MAX_TEXT_LEN;
        return Err(format!(
            "the file has {size} bytes; at most {most} are read"
        ));
    }
    std::fs::read_to_string(file).map_err(|e| cannot_read(&e))
}

fn cannot_read(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "no such file; create it or name another with --config".to_owned()
        }
        _ => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests;
