//! One lab from the first namespace to the last: built, used, and always taken down.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;

use super::api::Api;
use super::daemon::{self, XdpMode};
use super::error::Error;
use super::process::{self, ProcessId, Program};
use super::report::UserCounters;
use super::state::{RunDir, RunState};
use super::stop::Stop;
use super::topology::{
    Arms, Kind, Role, SIX_RD_COMMON, SIX_RD_PREFIX, Topology, UDP_PORT, USER_LINK_V6, namespace,
};

/// Name of the user's tunnel device.
const TUNNEL_DEVICE: &str = "tunnel";
const CPE_READY_LIMIT: Duration = Duration::from_secs(10);

/// What kind of lab is wanted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Options {
    pub(super) name: String,
    pub(super) arms: Arms,
    pub(super) kind: Kind,
    pub(super) mode: XdpMode,
    pub(super) mtu: u16,
}

/// The `--name` that selects a lab, as it is typed.
pub(super) fn name_flag(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!(" --name {name}")
    }
}

/// A running lab. Dropping it takes everything down, unless it was left running.
pub(super) struct Lab {
    pub(super) options: Options,
    pub(super) topology: Topology,
    dir: RunDir,
    daemon: Option<Program>,
    cpe: Option<Program>,
    state: RunState,
    keep: bool,
}

impl Lab {
    /// Builds a lab. On any failure what was built is gone again.
    pub(super) async fn up(
        options: Options,
        keep: bool,
        stop: &Stop,
        say: impl Fn(&str),
    ) -> Result<(Self, Api), Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let sixferryd = process::find("sixferryd", "sixferryd")?;
        let cpe = process::find("sixferry-cpe", "sixferry-cpe")?;
        if clear_stale(&options.name)? {
            say("cleaned up after an earlier run");
        }
        let topology = Topology::new(&options.name, options.arms, options.kind);
        let dir = RunDir::of(&options.name);
        dir.create()?;
        let state = RunState {
            arms: options.arms,
            kind: options.kind,
            keeper: ProcessId::of_self(),
            processes: Vec::new(),
        };
        let mut lab = Self {
            options,
            topology,
            dir,
            daemon: None,
            cpe: None,
            state,
            keep: false,
        };
        lab.dir.save(&lab.state)?;
        let api = lab.start(&sixferryd, &cpe, stop, say).await?;
        if keep {
            lab.state.keeper = None;
            lab.dir.save(&lab.state)?;
            lab.keep = true;
        }
        Ok((lab, api))
    }

    async fn start(
        &mut self,
        sixferryd: &Path,
        cpe: &Path,
        stop: &Stop,
        say: impl Fn(&str),
    ) -> Result<Api, Error> {
        say("building namespaces and wires");
        self.topology.build()?;
        stop.check()?;
        say("starting sixferryd");
        let daemon = daemon::start(sixferryd, &self.topology, self.options.mode, &self.dir)?;
        let daemon = self.daemon.insert(daemon);
        self.state.processes.push(daemon.id().clone());
        self.dir.save(&self.state)?;
        let api = daemon::wait_ready(daemon, &self.dir, stop).await?;
        say("programming the tunnel over gRPC");
        api.add_user(&self.topology, self.options.mtu).await?;
        say("starting sixferry-cpe at the user's");
        let cpe = self
            .cpe
            .insert(start_cpe(cpe, &self.topology, self.options.mtu, &self.dir)?);
        self.state.processes.push(cpe.id().clone());
        self.dir.save(&self.state)?;
        let ready = self.dir.join("cpe.ready");
        let found = stop.wait_for(CPE_READY_LIMIT, || {
            cpe.check()?;
            Ok(fs::read_to_string(&ready)
                .ok()
                .filter(|text| text.ends_with('\n')))
        })?;
        if found.is_none() {
            return Err(Error::Timeout {
                what: "sixferry-cpe becoming ready".to_owned(),
                waited: CPE_READY_LIMIT,
                detail: format!("; its log ends with\n{}", cpe.log_tail()),
            });
        }
        Ok(api)
    }

    /// Fails if one of the programs has ended.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        [&mut self.daemon, &mut self.cpe]
            .into_iter()
            .flatten()
            .try_for_each(Program::check)
    }

    /// The daemon's last words, for a demo that failed.
    pub(super) fn daemon_log(&self) -> String {
        self.daemon
            .as_ref()
            .map(Program::log_tail)
            .unwrap_or_default()
    }

    /// The counters of the user's end.
    pub(super) fn cpe_counters(&self, stop: &Stop) -> Result<Option<UserCounters>, Error> {
        let Some(cpe) = &self.cpe else {
            return Ok(None);
        };
        let count = || {
            let log = fs::read_to_string(cpe.log()).unwrap_or_default();
            let lines: Vec<UserCounters> = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            lines
        };
        let before = count().len();
        cpe.id().signal(Signal::USR1);
        stop.wait_for(Duration::from_secs(2), || Ok(count().get(before).cloned()))
    }

    pub(super) fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Takes the lab down and says so if something would not go.
    pub(super) fn down(mut self) -> Result<(), Error> {
        self.keep = true;
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<(), Error> {
        // The daemon first would cut the user's last packets; nobody minds, but the log would.
        for program in [&mut self.cpe, &mut self.daemon].into_iter().flatten() {
            program.stop();
        }
        remove(&self.options.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.tear_down()
        {
            crate::output::note(&format!("sixferry: while taking the lab down: {error}"));
        }
    }
}

fn start_cpe(
    program: &Path,
    topology: &Topology,
    mtu: u16,
    dir: &RunDir,
) -> Result<Program, Error> {
    let ready = dir.join("cpe.ready");
    process::remove_file(&ready).map_err(Error::io(ready.display().to_string()))?;
    let mut args = cpe_args(topology);
    args.extend([
        "--route".to_owned(),
        "default".to_owned(),
        "--mtu".to_owned(),
        mtu.to_string(),
        "--dev".to_owned(),
        TUNNEL_DEVICE.to_owned(),
        "--ready-file".to_owned(),
        ready.to_string_lossy().into_owned(),
        "--json".to_owned(),
    ]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Program::start(
        &topology.netns(Role::User),
        "sixferry-cpe",
        program,
        &args,
        &dir.join("sixferry-cpe.log"),
    )
}

/// What the user's end must know of the tunnel.
fn cpe_args(topology: &Topology) -> Vec<String> {
    let kind = topology.kind();
    let mut args = vec![kind.name().to_owned()];
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("--local", topology.user_v4().to_string());
    let relay = topology.relay_v4();
    add(
        "--remote",
        match kind {
            Kind::Udp => format!("{relay}:{UDP_PORT}"),
            _ => relay.to_string(),
        },
    );
    if kind.has_link() {
        add("--address", format!("{}/64", topology.user_v6()));
        add("--address", format!("{USER_LINK_V6}/64"));
        add("--delegated", topology.delegated().to_string());
    }
    if kind == Kind::SixRd {
        add("--prefix", SIX_RD_PREFIX.to_string());
        add("--v4-common", SIX_RD_COMMON.to_string());
    }
    args
}

/// Makes room for a new lab: removes what a dead one left, refuses to touch a living one.
fn clear_stale(name: &str) -> Result<bool, Error> {
    let dir = RunDir::of(name);
    let left = || {
        Role::ALL
            .iter()
            .any(|role| super::netns::Netns::new(namespace(name, *role)).exists())
    };
    if !dir.exists()? && !left() {
        return Ok(false);
    }
    if dir.load().is_some_and(|state| state.is_alive()) {
        return Err(Error::Running {
            name: name.to_owned(),
            flag: name_flag(name),
        });
    }
    take_down(name)?;
    Ok(true)
}

/// Takes down a lab of another process, alive or dead. Says whether there was anything.
pub(super) fn take_down(name: &str) -> Result<bool, Error> {
    let dir = RunDir::of(name);
    let mut found = dir.exists()?;
    if let Some(state) = dir.load() {
        if let Some(keeper) = state.keeper.as_ref().filter(|keeper| keeper.is_alive()) {
            // A demo cleans up after itself; it only has to be told.
            keeper.stop();
        }
        state.processes.iter().rev().for_each(ProcessId::stop);
    }
    found |= Role::ALL
        .iter()
        .any(|role| super::netns::Netns::new(namespace(name, *role)).exists());
    remove(name)?;
    Ok(found)
}

/// Removes namespaces (wires and devices go with them) and the directory.
fn remove(name: &str) -> Result<(), Error> {
    let mut first = Ok(());
    for role in Role::ALL {
        let netns = super::netns::Netns::new(namespace(name, role));
        if netns.exists() {
            first = first.and(netns.delete());
        }
    }
    first.and(RunDir::of(name).remove())
}
