//! `sixferryd` as the device under test.

use super::controller::{Changed, Controller, Job, Load, Said, tunnel_name};
use super::lab::{self, Lab, Place, RELAY};
use super::reference::FRAMES;
use super::role;
use super::{Context, Error, LOOK, last_lines};
use serde::Serialize;
use sixferry_client::{Client, Options, Target, api};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Opening queues whose last owner has just gone takes a while.
const START: Duration = Duration::from_secs(30);

/// Its configuration, in its directory.
const CONFIG: &str = "dataplane.toml";

/// A running daemon; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    home: TempDir,
}

/// What the daemon has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Packets that its XDP program gave it.
    pub steered: u64,
    /// Of those, packets for which a socket had no room.
    pub ring_full: u64,
    /// Packets that the worker took.
    pub received: u64,
    /// Packets that it decided to send, answers included.
    pub forwarded: u64,
    /// Packets dropped for a named reason or punted.
    pub dropped: u64,
    /// Packets that the kernel refused to transmit.
    pub refused: u64,
}

impl Daemon {
    /// Starts the daemon with one port on either side and its worker on `cpu`.
    ///
    /// # Errors
    /// When it does not start; the error has the end of its log.
    pub fn start(lab: &Lab, program: &Path, cpu: usize) -> Result<Self, Error> {
        let home = lab::directory().during("a directory for the daemon")?;
        fs::create_dir(home.path().join("state")).during("the state directory")?;
        let config = home.path().join(CONFIG);
        fs::write(&config, text(home.path(), cpu)).during("the daemon's configuration")?;
        let child = spawn(lab, program, home.path())?;
        let mut daemon = Self { child, home };
        daemon.at_work()?;
        Ok(daemon)
    }

    fn at_work(&mut self) -> Result<(), Error> {
        self.wait()?;
        lab::weigh(self.process(), role::FIRST_IN_LINE);
        Ok(())
    }

    /// Kills it, and starts it again with the tables it has saved.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self, lab: &Lab, program: &Path) -> Result<(), Error> {
        self.child.kill().during("killing the daemon")?;
        self.child.wait().during("killing the daemon")?;
        self.child = spawn(lab, program, self.home.path())?;
        self.at_work()
    }

    /// Waits until its first tunnel is in its state file.
    ///
    /// # Errors
    /// When it is not after a while.
    pub fn await_saved(&self) -> Result<(), Error> {
        let path = self.home.path().join("state/tables");
        let name = tunnel_name(0);
        let deadline = Instant::now() + START;
        loop {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes())
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("no tunnels in it").during(path.display().to_string());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Loads tunnels from a process of its own; what that did, and how long it took.
    ///
    /// # Errors
    /// When the daemon refuses one.
    pub fn load(&self, lab: &Lab, load: Load) -> Result<(Said, Duration), Error> {
        let job = Job {
            load,
            changed: Changed::Nothing,
            seat: None,
        };
        Controller::start(lab, &self.socket(), job)?.finish()
    }

    /// Where its API listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("api.sock")
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes: now, and the most there has been.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> Result<(u64, u64), Error> {
        let path = format!("/proc/{}/status", self.process());
        let text = fs::read_to_string(&path).during(&path)?;
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let kilobytes = line?.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
            Some(kilobytes * 1024)
        };
        value("VmRSS:")
            .zip(value("VmHWM:"))
            .ok_or("no memory size")
            .during(path)
    }

    /// Nanoseconds that its worker has been on a CPU.
    ///
    /// # Errors
    /// When it has ended.
    pub fn worker_on_cpu(&self) -> Result<u64, Error> {
        role::schedstat(&self.worker()?)
    }

    /// Its worker's directory in /proc.
    ///
    /// # Errors
    /// When it has none.
    pub fn worker(&self) -> Result<PathBuf, Error> {
        role::thread_of(self.process(), "worker-0")
    }

    /// What it has counted, and how many tunnels it has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn counted(&self) -> Result<(Counted, u64), Error> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .during("a runtime")?
            .block_on(counted(self.socket()))
            .during("the daemon's counters")
    }

    fn wait(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.child.try_wait().during("the daemon")?;
            if ended.is_some() || Instant::now() > deadline {
                let last = last_lines(&self.home.path().join("log"));
                let action = ended.map_or("is not ready".to_owned(), |status| status.to_string());
                return Err(last).during(format!("the daemon: {action}"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn spawn(lab: &Lab, program: &Path, home: &Path) -> Result<Child, Error> {
    let log = File::create(home.join("log")).during("the daemon's log")?;
    let copy = log.try_clone().during("the daemon's log")?;
    lab.command(Place::Device, program)
        .arg("--config")
        .arg(home.join(CONFIG))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .spawn()
        .during("starting the daemon")
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
         [state]\nrestore = true\n\
         [api]\nunix_socket = \"{home}/api.sock\"\n\
         [metrics]\nlisten = \"\"\n\
         [router]\naddress = \"{RELAY}\"\n\
         [worker]\ncount = 1\nidle = \"spin\"\npin = true\nfirst_cpu = {cpu}\nframes = {FRAMES}\n\
         [steering]\nprefixes = [\"2000::/3\"]\n\
         [[port]]\nname = \"dut0\"\n\
         [[port]]\nname = \"dut1\"\n"
    )
}

async fn counted(
    socket: PathBuf,
) -> Result<(Counted, u64), Box<dyn std::error::Error + Send + Sync>> {
    let client = Client::connect(&Target::Unix(socket), &Options::default()).await?;
    let tunnels = client.info().await?.tunnel_count;
    let selection = api::CounterSelection::default();
    let total = client.counters(selection).await?.total.unwrap_or_default();
    let mut counted = Counted {
        received: packets(total.received),
        forwarded: packets(total.forwarded) + packets(total.answered),
        dropped: packets(total.punted)
            + total
                .drops
                .iter()
                .map(|drop| packets(drop.count))
                .sum::<u64>(),
        ..Counted::default()
    };
    for port in client.ports().await? {
        let outcomes = port.steering.iter();
        counted.steered += outcomes
            .filter(|counter| counter.outcome.starts_with("xsk_"))
            .map(|counter| counter.packets)
            .sum::<u64>();
        let queue = port.counters.unwrap_or_default();
        counted.ring_full += queue.rx_dropped + queue.rx_ring_full;
        counted.refused += queue.tx_invalid + queue.tx_errors;
    }
    Ok((counted, tunnels))
}

fn packets(count: Option<api::PacketsBytes>) -> u64 {
    count.map_or(0, |count| count.packets)
}
