//! `sixferryd` as the device under test.

use super::generator::{FIRST_PEER, prefix};
use super::lab::{Lab, Place, RELAY};
use super::reference::FRAMES;
use super::{Context, Error};
use crate::population::LOCAL;
use ipnet::Ipv6Net;
use sixferry_client::{Client, ElectionId, Options, ProgramOptions, Target, Tunnel, TunnelUpdate};
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Opening queues whose last owner has just gone takes a while.
const START: Duration = Duration::from_secs(30);

/// A running daemon with its tunnels; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    home: TempDir,
}

impl Daemon {
    /// Starts the daemon with one port on either side and `tunnels` tunnels.
    ///
    /// # Errors
    /// When it does not start; the error has the end of its log.
    pub fn start(lab: &Lab, program: &Path, tunnels: u32, cpu: usize) -> Result<Self, Error> {
        let home = tempfile::tempdir().during("a directory for the daemon")?;
        fs::create_dir(home.path().join("state")).during("the state directory")?;
        let config = home.path().join("dataplane.toml");
        fs::write(&config, text(home.path(), cpu)).during("the daemon's configuration")?;
        let log = File::create(home.path().join("log")).during("the daemon's log")?;
        let copy = log.try_clone().during("the daemon's log")?;
        let child = lab
            .command(Place::Device, Path::new("nice"))
            .args(["-n", "-15"])
            .arg(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .during("starting the daemon")?;
        let mut daemon = Self { child, home };
        daemon.wait()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .during("a runtime")?;
        runtime
            .block_on(program_tunnels(daemon.socket(), tunnels))
            .during("programming the tunnels")?;
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("api.sock")
    }

    fn wait(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.child.try_wait().during("the daemon")?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                let action = ended.map_or("is not ready".to_owned(), |status| status.to_string());
                return Err(last.join(" | ")).during(format!("the daemon: {action}"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn text(home: &Path, cpu: usize) -> String {
    let home = home.display();
    format!(
        "state_dir = \"{home}/state\"\n\
         [api]\nunix_socket = \"{home}/api.sock\"\n\
         [metrics]\nlisten = \"\"\n\
         [router]\naddress = \"{RELAY}\"\n\
         [worker]\ncount = 1\nidle = \"spin\"\npin = true\nfirst_cpu = {cpu}\nframes = {FRAMES}\n\
         [steering]\nprefixes = [\"2a00::/16\"]\n\
         [[port]]\nname = \"dut0\"\n\
         [[port]]\nname = \"dut1\"\n"
    )
}

fn tunnel(flow: u32) -> TunnelUpdate {
    let mut tunnel = Tunnel::new(
        format!("flow-{flow}"),
        LOCAL,
        Ipv4Addr::from(FIRST_PEER + flow),
    );
    let address = Ipv6Addr::from(prefix(flow));
    tunnel.prefixes = Ipv6Net::new(address, 48).into_iter().collect();
    TunnelUpdate::upsert(tunnel)
}

async fn program_tunnels(
    socket: PathBuf,
    tunnels: u32,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = Client::connect(&Target::Unix(socket), &Options::default()).await?;
    let mut session = client.open_session("bench", ElectionId::now()).await?;
    let updates = (0..tunnels).map(tunnel);
    let options = ProgramOptions::default();
    session
        .program_tunnels(updates, &options, |_| {})
        .await?
        .all_applied()?;
    Ok(())
}
