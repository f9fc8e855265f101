//! One lab from the first namespace to the last: built, used, and always taken down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use super::api::Api;
use super::control::{self, ControlApi, USER};
use super::daemon::{self, XdpMode};
use super::error::Error;
use super::process::{self, ProcessId, Program};
use super::report::UserCounters;
use super::state::{RunDir, RunState};
use super::stop::Stop;
use super::story::{self, Step};
use super::topology::{
    Arms, Kind, Role, SIX_RD_COMMON, SIX_RD_PREFIX, Topology, UDP_PORT, USER_LINK_V6, namespace,
};

/// Name of the user's tunnel device.
pub(super) const TUNNEL_DEVICE: &str = "tunnel";
const CPE_READY_LIMIT: Duration = Duration::from_secs(10);

/// How the user gets his tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Access {
    /// He has an account and logs in.
    Login,
    /// It is programmed over gRPC, and his end is set up by hand.
    Configured,
}

/// What kind of lab is wanted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Options {
    pub(super) name: String,
    pub(super) arms: Arms,
    pub(super) kind: Kind,
    pub(super) access: Access,
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
    control: Option<Program>,
    control_api: Option<ControlApi>,
    cpe: Option<Program>,
    state: RunState,
    story: Vec<Step>,
    /// Of a tunnel that came by login.
    tunnel_id: Option<String>,
    keep: bool,
}

/// The lab's programs.
struct Programs {
    sixferryd: PathBuf,
    /// Only where somebody logs in.
    control: Option<PathBuf>,
    cpe: PathBuf,
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
        let control = || process::find("sixferry-control", "sixferry-control");
        let programs = Programs {
            sixferryd: process::find("sixferryd", "sixferryd")?,
            control: (options.access == Access::Login)
                .then(control)
                .transpose()?,
            cpe: process::find("sixferry-cpe", "sixferry-cpe")?,
        };
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
            control: None,
            control_api: None,
            cpe: None,
            state,
            story: Vec::new(),
            tunnel_id: None,
            keep: false,
        };
        lab.dir.save(&lab.state)?;
        let api = lab.start(&programs, stop, say).await?;
        if keep {
            lab.state.keeper = None;
            lab.dir.save(&lab.state)?;
            lab.keep = true;
        }
        Ok((lab, api))
    }

    async fn start(
        &mut self,
        programs: &Programs,
        stop: &Stop,
        say: impl Fn(&str),
    ) -> Result<Api, Error> {
        say("building namespaces and wires");
        self.topology.build()?;
        stop.check()?;
        say("starting sixferryd");
        let daemon = daemon::start(
            &programs.sixferryd,
            &self.topology,
            self.options.mode,
            &self.dir,
        )?;
        self.remember(&daemon)?;
        let daemon = self.daemon.insert(daemon);
        let api = daemon::wait_ready(daemon, &self.dir, stop).await?;
        match &programs.control {
            None => {
                say("programming the tunnel over gRPC");
                api.add_user(&self.topology, self.options.mtu).await?;
                say("starting sixferry-cpe at the user's");
                let args = configured_args(&self.topology);
                self.start_cpe(&programs.cpe, args, stop)?;
            }
            Some(control) => self.log_in(control, &programs.cpe, &api, stop, say).await?,
        }
        Ok(api)
    }

    /// An account, and a tunnel by logging in.
    async fn log_in(
        &mut self,
        control: &Path,
        cpe: &Path,
        api: &Api,
        stop: &Stop,
        say: impl Fn(&str),
    ) -> Result<(), Error> {
        say("starting sixferry-control");
        let control = control::start(control, &self.topology, self.options.mtu, &self.dir)?;
        self.remember(&control)?;
        let control = self.control.insert(control);
        let control_api = ControlApi::wait_ready(control, &self.dir, stop).await?;
        say("creating an account");
        let password = control::add_user(&self.topology, &self.dir)?;
        self.story.push(story::account(&self.topology));
        let before = story::nothing_passes("before the login", &self.topology)?;
        self.story.push(before);
        say("logging in: sixferry-cpe dtcp at the user's");
        let started = Instant::now();
        self.start_cpe(cpe, login_args(&self.topology, &password), stop)?;
        let took = started.elapsed();
        let (step, id) = story::login(&self.topology, api, &control_api, took).await?;
        let passed = step.passed;
        self.story.push(step);
        self.tunnel_id = passed.then_some(id);
        self.control_api = Some(control_api);
        Ok(())
    }

    /// Starts the user's end and waits for its tunnel.
    fn start_cpe(&mut self, cpe: &Path, args: Vec<String>, stop: &Stop) -> Result<(), Error> {
        let cpe = start_cpe(cpe, &self.topology, args, self.options.mtu, &self.dir)?;
        self.remember(&cpe)?;
        let cpe = self.cpe.insert(cpe);
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
        Ok(())
    }

    /// Writes a program down, so that a later command finds it.
    fn remember(&mut self, program: &Program) -> Result<(), Error> {
        self.state.processes.push(program.id().clone());
        self.dir.save(&self.state)
    }

    /// Logs the user out, and looks that nothing of him is left.
    pub(super) async fn tell_end(&mut self, api: &Api, stop: &Stop) -> Result<(), Error> {
        let steps = story::logout(self, api, stop).await?;
        self.story.extend(steps);
        Ok(())
    }

    /// Stops the user's end.
    pub(super) fn log_out(&mut self) -> Result<ExitStatus, Error> {
        let cpe = self.cpe.as_mut().map(Program::stop);
        let ended = cpe.unwrap_or_else(|| Err(std::io::Error::other("it does not run")));
        self.cpe = None;
        ended.map_err(Error::io("cannot stop sixferry-cpe"))
    }

    pub(super) fn control_api(&self) -> Option<&ControlApi> {
        self.control_api.as_ref()
    }

    pub(super) fn take_story(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.story)
    }

    /// The tunnel's name in the dataplane, if it came by login.
    pub(super) fn tunnel_id(&self) -> Option<&str> {
        self.tunnel_id.as_deref()
    }

    /// Fails if one of the programs has ended.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        [&mut self.daemon, &mut self.control, &mut self.cpe]
            .into_iter()
            .flatten()
            .try_for_each(Program::check)
    }

    /// The daemons' last words, for a demo that failed.
    pub(super) fn daemon_log(&self) -> String {
        let daemons = [&self.daemon, &self.control].into_iter().flatten();
        daemons
            .map(Program::log_tail)
            .collect::<Vec<_>>()
            .join("\n")
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
        let programs = [&mut self.cpe, &mut self.control, &mut self.daemon];
        for program in programs.into_iter().flatten() {
            // That it has ended is what counts.
            let _ = program.stop();
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
    mut args: Vec<String>,
    mtu: u16,
    dir: &RunDir,
) -> Result<Program, Error> {
    let ready = dir.join("cpe.ready");
    process::remove_file(&ready).map_err(Error::io(ready.display().to_string()))?;
    args.extend([
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

/// What a user must know who has an account.
fn login_args(topology: &Topology, password: &Path) -> Vec<String> {
    let password = password.to_string_lossy();
    let words = ["dtcp", "-t", "network", "-u", USER, "-P", "lo//1"];
    let mut args: Vec<String> = words.map(str::to_owned).to_vec();
    args.extend(["--password-file".to_owned(), password.into_owned()]);
    if topology.kind() == Kind::Udp {
        args.push("--udp".to_owned());
    }
    args.push(topology.relay_v4().to_string());
    args
}

/// What the user's end must know of a configured tunnel.
fn configured_args(topology: &Topology) -> Vec<String> {
    let kind = topology.kind();
    let mut args: Vec<String> = [kind.name(), "--route", "default"]
        .map(str::to_owned)
        .to_vec();
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
