//! A control process: programs tunnels into the daemon, or asserts all of them again.

use super::lab::{self, Lab, Place};
use super::role::{self, READY};
use super::{Context, Error};
use crate::pktgen;
use crate::pktgen::role::Seat;
use crate::pktgen::traffic::{Addresses, FIRST_PEER, prefix};
use crate::population::{LOCAL, route_prefixes};
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use sixferry_client::{
    Client, ElectionId, Encap, Options, ProgramOptions, ProgramReport, Progress, Rebind, Target,
    Tunnel, UdpEncap,
};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// It tells how far it is after every so many tunnels.
const STEP: u64 = 1 << 14;
/// The MTU of the tunnel that a re-sync changes.
const OTHER_MTU: u16 = 1400;
pub(super) const OWNER: &str = "bench";

/// Which tunnels a daemon has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// So many 6in4 tunnels, a /48 each.
    SixInFour(u32),
    /// The same in UDP.
    Udp(u32),
    /// 6in4 tunnels with so many prefixes of all usual lengths in all.
    Routes(u32),
}

/// Tunnels that share the prefixes of [`Load::Routes`]: none gets more than a tunnel may have.
const ROUTED_TUNNELS: usize = 4096;

impl Load {
    /// How many tunnels it makes.
    #[must_use]
    pub fn tunnels(self) -> u32 {
        match self {
            Self::SixInFour(count) | Self::Udp(count) => count,
            Self::Routes(count) => count.min(ROUTED_TUNNELS as u32),
        }
    }

    fn words(self) -> [String; 2] {
        let (kind, count) = match self {
            Self::SixInFour(count) => ("6in4", count),
            Self::Udp(count) => ("udp", count),
            Self::Routes(count) => ("routes", count),
        };
        [kind.to_owned(), count.to_string()]
    }

    /// From the words of a control process's command line.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(kind: &str, count: u32) -> Result<Self, Error> {
        match kind {
            "6in4" => Ok(Self::SixInFour(count)),
            "udp" => Ok(Self::Udp(count)),
            "routes" => Ok(Self::Routes(count)),
            other => Err("6in4, udp or routes").during(other),
        }
    }

    fn list(self, changed: Changed) -> Vec<Tunnel> {
        if let Self::Routes(count) = self {
            return routed(count as usize);
        }
        let is_udp = matches!(self, Self::Udp(_));
        let mut tunnels: Vec<Tunnel> = (0..self.tunnels())
            .map(|flow| tunnel(flow, changed))
            .collect();
        for tunnel in tunnels.iter_mut().filter(|_| is_udp) {
            let addresses = Addresses::default();
            tunnel.encap = Encap::Udp(UdpEncap {
                remote_port: Some(addresses.peer_port),
                shared: true,
                rebind: Rebind::Deny,
                ..UdpEncap::new(addresses.relay_port)
            });
        }
        tunnels
    }
}

fn routed(count: usize) -> Vec<Tunnel> {
    let mut tunnels: Vec<Tunnel> = (0..ROUTED_TUNNELS.min(count) as u32)
        .map(|flow| Tunnel {
            prefixes: Vec::new(),
            ..tunnel(flow, Changed::Nothing)
        })
        .collect();
    let places = tunnels.len();
    for (at, prefix) in route_prefixes(count).enumerate() {
        let net = Ipv6Net::new(Ipv6Addr::from(prefix.bits()), prefix.len());
        tunnels[at % places].prefixes.extend(net);
    }
    tunnels
}

/// Tunnels that a control process wants otherwise than they were loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// None.
    Nothing,
    /// That of this flow.
    One(u32),
    /// Each.
    All,
}

impl Changed {
    const fn has(self, flow: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::One(one) => one == flow,
            Self::All => true,
        }
    }
}

/// As on a control process's command line.
impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::One(flow) => flow.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Changed {
    type Err = std::num::ParseIntError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "nothing" => Ok(Self::Nothing),
            "all" => Ok(Self::All),
            number => Ok(Self::One(number.parse()?)),
        }
    }
}

/// What a control process is to do: a re-sync of all tunnels, which loads them the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which tunnels there are.
    pub load: Load,
    /// Which of them are to be different.
    pub changed: Changed,
    /// The CPU to stay on, and its weight there; absent: any, before others.
    pub seat: Option<Seat>,
}

/// What it says while and after it works, a line of JSON each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Tunnels that the daemon has acknowledged.
    pub acknowledged: u64,
    /// Whether all is done; the rest is known then.
    pub finished: bool,
    /// Tunnels that did not exist.
    pub created: u64,
    /// Tunnels that were different.
    pub updated: u64,
    /// Tunnels that were the same.
    pub unchanged: u64,
    /// Tunnels that the commit removed.
    pub swept: u64,
}

/// What a flow's tunnel is called.
pub(super) fn tunnel_name(flow: u32) -> String {
    format!("flow-{flow}")
}

/// The tunnel of a flow.
pub(super) fn tunnel(flow: u32, changed: Changed) -> Tunnel {
    let remote = Ipv4Addr::from(FIRST_PEER + flow);
    let mut tunnel = Tunnel::new(tunnel_name(flow), LOCAL, remote);
    let address = Ipv6Addr::from(prefix(flow));
    tunnel.prefixes = Ipv6Net::new(address, 48).into_iter().collect();
    if changed.has(flow) {
        tunnel.mtu = OTHER_MTU;
    }
    tunnel
}

/// Does the job. Called in a process of its own.
///
/// # Errors
/// What the daemon refuses.
pub fn run(socket: &Path, job: Job) -> Result<(), Error> {
    if let Some(seat) = job.seat {
        role::settle(seat.cpu, seat.nice)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("a runtime")?;
    role::say(READY)?;
    let said = runtime
        .block_on(work(socket, job))
        .during("programming the tunnels")?;
    tell(&said)
}

async fn work(socket: &Path, job: Job) -> Result<Said, Box<dyn std::error::Error + Send + Sync>> {
    let client = Client::connect(&Target::Unix(socket.to_owned()), &Options::default()).await?;
    let mut session = client.open_session(OWNER, ElectionId::now()).await?;
    let tunnels = job.load.list(job.changed);
    let options = ProgramOptions::default();
    let mut next = STEP;
    let progress = |progress: &Progress| {
        if progress.acknowledged >= next {
            next += STEP;
            // a bench that is gone ends this process too
            _ = tell(&Said {
                acknowledged: progress.acknowledged,
                ..Said::default()
            });
        }
    };
    let mut resync = session.begin_resync().await?;
    let report = resync.upsert_tunnels(tunnels, &options, progress).await?;
    let swept = resync.commit().await?.swept_tunnels;
    let ProgramReport {
        progress,
        created,
        updated,
        unchanged,
        ..
    } = report.all_applied()?;
    Ok(Said {
        acknowledged: progress.acknowledged,
        finished: true,
        created,
        updated,
        unchanged,
        swept,
    })
}

fn tell(said: &Said) -> Result<(), Error> {
    role::say(&serde_json::to_string(said).during("a line")?)
}

/// A running control process; killed on drop.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    lines: BufReader<ChildStdout>,
    began: Instant,
}

impl Controller {
    /// Starts one beside the daemon that listens at `socket`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(lab: &Lab, socket: &Path, job: Job) -> Result<Self, Error> {
        let program = pktgen::beside("sixferry-bench-e2e")?;
        let mut command = lab.command(Place::Device, &program);
        command.arg("controller").arg(socket);
        command.args(job.load.words());
        command.args(["--changed", &job.changed.to_string()]);
        let nice = job.seat.map_or(role::FIRST_IN_LINE, |seat| seat.nice);
        if let Some(seat) = job.seat {
            command.args(["--cpu", &seat.cpu.to_string(), "--nice", &nice.to_string()]);
        }
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .during("starting a control process")?;
        let out = child.stdout.take().ok_or("no pipe").during("its output")?;
        let mut controller = Self {
            child,
            lines: BufReader::new(out),
            began,
        };
        match controller.line()?.as_str() {
            READY => {
                lab::weigh(controller.child.id(), nice);
                Ok(controller)
            }
            other => Err(format!("said `{other}`")).during("the control process"),
        }
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).during("its output")?;
        if read == 0 {
            return Err("ended early").during("the control process");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Waits for what it says next.
    ///
    /// # Errors
    /// When it ends instead; it has said why on standard error.
    pub fn listen(&mut self) -> Result<Said, Error> {
        let line = self.line()?;
        serde_json::from_str(&line).during("the control process")
    }

    /// Waits until it is done; what it did, and how long it took from its start.
    ///
    /// # Errors
    /// When it fails.
    pub fn finish(mut self) -> Result<(Said, Duration), Error> {
        loop {
            let said = self.listen()?;
            if said.finished {
                return Ok((said, self.began.elapsed()));
            }
        }
    }

    /// Kills it without warning once the daemon has acknowledged `count` tunnels; says how many it
    /// had acknowledged when that was known.
    ///
    /// # Errors
    /// When it fails before.
    pub fn kill_after(mut self, count: u64) -> Result<u64, Error> {
        loop {
            let said = self.listen()?;
            if said.finished {
                return Err("was done before it could be killed").during("the control process");
            }
            if said.acknowledged >= count {
                self.child.kill().during("killing the control process")?;
                return Ok(said.acknowledged);
            }
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
