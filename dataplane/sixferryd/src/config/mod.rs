//! The configuration file: TOML, checked as a whole before anything is done with it.
//!
//! Reading has two steps. `raw` is the text with places; `check` turns it into a [`Config`] or into
//! [`Finding`]s that name the key, the line and the fix. Nothing here changes the host: `--check`,
//! the RPC and a reload all run the same code.

mod check;
mod diff;
mod domain;
mod host;
mod raw;
mod service;
mod tunnel;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sixferry_fwd::{DomainSpec, Ipv6Prefix, Settings, TunnelSpec};

pub(crate) use sixferry_service::{Finding, LogConfig, MAX_TEXT_LEN, Severity, TcpTls};

use crate::control::liveness::Liveness;

pub(crate) use check::is_router_address;
pub(crate) use diff::Plan;
pub(crate) use host::{Host, LiveHost};

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) state_dir: PathBuf,
    pub(crate) api: ApiConfig,
    /// Where metrics are served; `None`: nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) log: LogConfig,
    pub(crate) worker: WorkerConfig,
    pub(crate) settings: Settings,
    pub(crate) ports: Vec<PortSection>,
    /// Covering prefixes of the tunnel pools, for steering.
    pub(crate) steering: Vec<Ipv6Prefix>,
    /// `None`: the host's own stack is not reached through tunnels.
    pub(crate) host_port: Option<HostPortConfig>,
    pub(crate) reassembly: ReassemblyConfig,
    pub(crate) liveness: LivenessConfig,
    pub(crate) state: StateConfig,
    pub(crate) tunnels: Vec<StaticTunnel>,
    pub(crate) domains: Vec<StaticDomain>,
}

/// The TUN device that leads to the host's own stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPortConfig {
    /// Name of the device.
    pub(crate) name: String,
    /// Its IP MTU.
    pub(crate) mtu: u16,
    /// Whether the kernel gets routes to it for the tunnels' prefixes.
    pub(crate) routes: bool,
}

/// Limits of reassembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReassemblyConfig {
    /// Datagrams of one source being collected.
    pub(crate) per_source: u32,
    /// Datagrams being collected.
    pub(crate) contexts: u32,
    /// Bytes held for them.
    pub(crate) bytes: u32,
    /// Time for a datagram to become whole.
    pub(crate) timeout: Duration,
}

/// How tunnels that ask for it are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LivenessConfig {
    /// Probes of all tunnels together.
    pub(crate) probes_per_second: u32,
}

/// The file the tables are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateConfig {
    /// Whether it is written.
    pub(crate) save: bool,
    /// Whether the daemon starts from it.
    pub(crate) restore: bool,
    /// Least time between two writes.
    pub(crate) interval: Duration,
}

/// Where the API is served.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiConfig {
    /// `None`: no unix socket.
    pub(crate) unix_socket: Option<PathBuf>,
    pub(crate) tcp: Option<TcpTls>,
}

/// The packet threads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkerConfig {
    /// 0: the smallest queue count among the ports.
    pub(crate) count: u32,
    pub(crate) idle: Idle,
    pub(crate) pin: bool,
    pub(crate) first_cpu: u32,
    /// Umem frames per worker.
    pub(crate) frames: u32,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Spin,
    Poll,
    /// Poll when there are as many workers as cores, so that the host keeps some time.
    Auto,
}

/// One `[[port]]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortSection {
    pub(crate) name: String,
    pub(crate) mode: PortMode,
    /// `None`: those of the VLAN interfaces the host has on this one.
    pub(crate) vlans: Option<Vec<u16>>,
}

/// The bind mode asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortMode {
    /// The fastest that works.
    Auto,
    ZeroCopy,
    Copy,
    Generic,
}

/// One `[[tunnel]]`: belongs to the owner "static".
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StaticTunnel {
    pub(crate) id: String,
    pub(crate) spec: TunnelSpec,
    pub(crate) liveness: Liveness,
}

/// One `[[domain]]`: belongs to the owner "static", and so do the routes into it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StaticDomain {
    pub(crate) id: String,
    pub(crate) spec: DomainSpec,
    pub(crate) routes: Vec<Ipv6Prefix>,
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
pub(crate) fn check_text(text: &str, file: &Path, host: &dyn Host) -> Checked {
    check::check(text, file, host)
}

/// Reads and checks a file.
pub(crate) fn check_file(file: &Path, host: &dyn Host) -> (String, Checked) {
    match read(file) {
        Ok(text) => {
            let checked = check_text(&text, file, host);
            (text, checked)
        }
        Err(message) => {
            let findings = vec![Finding::whole_file(file, message)];
            (
                String::new(),
                Checked {
                    findings,
                    config: None,
                },
            )
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    let size = std::fs::metadata(file).map_err(|e| cannot_read(&e))?.len();
    if size > MAX_TEXT_LEN as u64 {
        return Err(format!(
            "the file has {size} bytes; at most {MAX_TEXT_LEN} are read"
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
