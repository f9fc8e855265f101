//! The control plane of a lab: its configuration, its start, and the account of the lab's user.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use sixferry_client::control::{ControlClient, api};
use sixferry_client::{Options, Target};

use super::error::Error;
use super::process::Program;
use super::state::RunDir;
use super::stop::Stop;
use super::topology::{Role, Topology};

/// The first start makes a key and a store.
const READY_LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);
/// The account.
pub(super) const USER: &str = "demo";
/// Bytes of the account's secret, before they are written as hex.
const SECRET_LEN: usize = 12;

/// The daemon's configuration: an access service with DTCP, over UDP as well.
fn config(topology: &Topology, mtu: u16, dir: &RunDir) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Config<'a> {
        control: Control<'a>,
        metrics: Metrics,
        dataplane: [Dataplane<'a>; 1],
        dtcp: Dtcp,
    }
    #[derive(Serialize)]
    struct Control<'a> {
        state_dir: &'a Path,
        unix_socket: &'a Path,
    }
    #[derive(Serialize)]
    struct Metrics {
        listen: &'static str,
    }
    #[derive(Serialize)]
    struct Dataplane<'a> {
        name: &'a str,
        address: String,
    }
    #[derive(Serialize)]
    struct Dtcp {
        listen: [String; 1],
        interfaces: &'static str,
        network: bool,
        mtu: u16,
        udp: Udp,
    }
    #[derive(Serialize)]
    struct Udp {
        enabled: bool,
    }
    let config = Config {
        control: Control {
            state_dir: &dir.join("control"),
            unix_socket: &dir.control_socket(),
        },
        metrics: Metrics { listen: "" },
        dataplane: [Dataplane {
            name: "relay",
            address: format!("unix:{}", dir.socket().display()),
        }],
        dtcp: Dtcp {
            listen: [topology.relay_v4().to_string()],
            interfaces: "gif0",
            network: true,
            mtu,
            udp: Udp { enabled: true },
        },
    };
    toml::to_string(&config).map_err(|e| Error::Io {
        what: "cannot write the control plane's configuration".to_owned(),
        source: std::io::Error::other(e),
    })
}

/// Starts the daemon in the relay's namespace.
pub(super) fn start(
    program: &Path,
    topology: &Topology,
    mtu: u16,
    dir: &RunDir,
) -> Result<Program, Error> {
    let path = dir.join("control.toml");
    let cannot = |path: &Path| Error::io(format!("cannot write {}", path.display()));
    fs::create_dir_all(dir.join("control")).map_err(cannot(&dir.join("control")))?;
    fs::write(&path, config(topology, mtu, dir)?).map_err(cannot(&path))?;
    let path = path.to_string_lossy();
    Program::start(
        &topology.netns(Role::Relay),
        "sixferry-control",
        program,
        &["--config", &path],
        &dir.join("sixferry-control.log"),
    )
}

/// What the lab asks of the control plane.
pub(super) struct ControlApi {
    client: ControlClient,
}

impl ControlApi {
    /// Connects once the daemon has its store open.
    pub(super) async fn wait_ready(
        daemon: &mut Program,
        dir: &RunDir,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let target = Target::Unix(dir.control_socket());
        let mut last = String::new();
        while started.elapsed() < READY_LIMIT {
            stop.check()?;
            daemon.check()?;
            match ControlClient::connect(&target, &Options::default()).await {
                Ok(client) => {
                    let api = Self { client };
                    match api.tunnels().await {
                        Ok(_) => return Ok(api),
                        Err(error) => last = error.to_string(),
                    }
                }
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(STEP).await;
        }
        Err(Error::Timeout {
            what: "sixferry-control becoming ready".to_owned(),
            waited: READY_LIMIT,
            detail: format!(": {last}; its log ends with\n{}", daemon.log_tail()),
        })
    }

    /// Live tunnels.
    pub(super) async fn tunnels(&self) -> Result<Vec<api::Tunnel>, Error> {
        let request = api::ListTunnelsRequest::default();
        Ok(self.client.list_tunnels(request).await?.tunnels)
    }

    /// DTCP sessions.
    pub(super) async fn sessions(&self) -> Result<usize, Error> {
        let request = api::ListSessionsRequest::default();
        Ok(self.client.list_sessions(request).await?.sessions.len())
    }
}

/// Creates the account with the user's prefix, as an operator does: with this program. The password is in
/// a file that only we can read.
pub(super) fn add_user(topology: &Topology, dir: &RunDir) -> Result<PathBuf, Error> {
    let password = dir.join("password");
    new_secret(&password).map_err(Error::io("cannot make a password"))?;
    let program = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
    let control = format!("unix:{}", dir.control_socket().display());
    let prefix = topology.delegated().to_string();
    let mut command = Command::new(program);
    command
        .args([
            "--control",
            &control,
            "user",
            "add",
            USER,
            "--prefix",
            &prefix,
        ])
        .arg("--secret-file")
        .arg(&password)
        .stdin(Stdio::null());
    let output = command.output();
    let output = output.map_err(Error::io("cannot run `sixferry user add`"))?;
    if output.status.success() {
        return Ok(password);
    }
    Err(Error::Command {
        command: format!("sixferry user add {USER} --prefix {prefix}"),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// A random secret in a new file.
fn new_secret(path: &Path) -> std::io::Result<()> {
    let mut bytes = [0; SECRET_LEN];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{secret}")
}
