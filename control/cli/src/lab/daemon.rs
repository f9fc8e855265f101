//! The dataplane daemon of a lab: its configuration, its start, the moment it is ready.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::api::Api;
use super::error::Error;
use super::process::Program;
use super::state::RunDir;
use super::stop::Stop;
use super::topology::{Role, Topology};

/// Binding queues takes up to some 30 ms each after another daemon; the rest is quick.
const READY_LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);

/// The `mode` of the daemon's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum XdpMode {
    /// The fastest that works.
    Auto,
    /// Native XDP, one copy.
    Copy,
    /// Generic XDP.
    Generic,
}

impl XdpMode {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Copy => "copy",
            Self::Generic => "generic",
        }
    }
}

/// The daemon's configuration. Tunnels come over the API, as they do in real life.
fn config(topology: &Topology, mode: XdpMode, dir: &RunDir) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Config<'a> {
        state_dir: &'a Path,
        api: ApiSection<'a>,
        worker: Worker,
        router: Router,
        port: Vec<Port<'a>>,
    }
    #[derive(Serialize)]
    struct ApiSection<'a> {
        unix_socket: &'a Path,
    }
    #[derive(Serialize)]
    struct Worker {
        idle: &'static str,
        pin: bool,
    }
    #[derive(Serialize)]
    struct Router {
        address: String,
    }
    #[derive(Serialize)]
    struct Port<'a> {
        name: &'a str,
        mode: &'a str,
    }
    let config = Config {
        state_dir: &dir.join("state"),
        api: ApiSection {
            unix_socket: &dir.socket(),
        },
        // A lab is a guest on its machine: it neither spins nor claims a core.
        worker: Worker {
            idle: "poll",
            pin: false,
        },
        router: Router {
            address: topology.relay_v6().to_string(),
        },
        port: topology
            .relay_ports()
            .iter()
            .map(|name| Port {
                name,
                mode: mode.name(),
            })
            .collect(),
    };
    toml::to_string(&config).map_err(|e| Error::Io {
        what: "cannot write the daemon's configuration".to_owned(),
        source: std::io::Error::other(e),
    })
}

/// Starts the daemon in the relay's namespace.
pub(super) fn start(
    program: &Path,
    topology: &Topology,
    mode: XdpMode,
    dir: &RunDir,
) -> Result<Program, Error> {
    let path = dir.join("dataplane.toml");
    let cannot = |path: &Path| Error::io(format!("cannot write {}", path.display()));
    fs::create_dir_all(dir.join("state")).map_err(cannot(&dir.join("state")))?;
    fs::write(&path, config(topology, mode, dir)?).map_err(cannot(&path))?;
    let path = path.to_string_lossy();
    Program::start(
        &topology.netns(Role::Relay),
        "sixferryd",
        program,
        &["--config", &path],
        &dir.join("sixferryd.log"),
    )
}

/// Waits until the daemon serves: queues bound, API open.
pub(super) async fn wait_ready(
    daemon: &mut Program,
    dir: &RunDir,
    stop: &Stop,
) -> Result<Api, Error> {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < READY_LIMIT {
        stop.check()?;
        daemon.check()?;
        match Api::connect(&dir.socket()).await {
            Ok(api) => return Ok(api),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(STEP).await;
    }
    Err(Error::Timeout {
        what: "sixferryd becoming ready".to_owned(),
        waited: READY_LIMIT,
        detail: format!(": {last}; its log ends with\n{}", daemon.log_tail()),
    })
}
