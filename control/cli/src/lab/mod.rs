//! `sixferry lab`: a user, a relay and a host in network namespaces of this machine, with a
//! real dataplane between them, and a control plane at which the user logs in. For trying things out,
//! and for `make demo`.

mod api;
mod control;
mod daemon;
mod error;
mod flow;
mod instance;
mod netns;
mod process;
mod report;
mod state;
mod stop;
mod story;
#[cfg(test)]
mod tests;
mod topology;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Subcommand};

use self::daemon::XdpMode;
pub(crate) use self::error::Error;
use self::flow::FlowResult;
use self::instance::{Access, Lab, Options, name_flag};
use self::report::Report;
use self::state::RunDir;
use self::stop::Stop;
use self::topology::{Arms, Kind, Role, Topology};
use crate::error::CliError;
use crate::output;

/// What shells say of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Arguments of `sixferry lab`.
#[derive(Args, Debug)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Subcommand, Debug)]
enum LabCommand {
    /// Build the lab, log its user in, send real traffic both ways, log out, print what happened.
    Demo(DemoArgs),
    /// Build the lab and leave it running.
    Up(BuildArgs),
    /// Take the lab down, also one that a crash left behind.
    Down(NameArgs),
    /// Open a shell in one of the lab's namespaces.
    Shell(ShellArgs),
}

#[derive(Args, Debug)]
struct NameArgs {
    /// Tells labs apart that run at the same time.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = parse_name)]
    name: String,
}

#[derive(Args, Debug)]
struct BuildArgs {
    #[command(flatten)]
    name: NameArgs,
    /// How the user gets his IPv6. UDP goes through a NAT.
    #[arg(long, value_enum, default_value = "6in4")]
    kind: Kind,
    /// Program the tunnel over gRPC, without an account and a login; 6to4 and 6rd know no other way.
    #[arg(long)]
    configured: bool,
    /// XDP mode of the relay's ports.
    #[arg(long, value_enum, default_value = "auto")]
    xdp_mode: XdpMode,
    /// One interface for both sides, as on a host with a single NIC; with --kind 6in4 only.
    #[arg(long)]
    one_armed: bool,
    /// Inner MTU of the tunnel.
    #[arg(long, default_value_t = 1280, value_parser = clap::value_parser!(u16).range(1280..=1480))]
    mtu: u16,
}

#[derive(Args, Debug)]
struct DemoArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// Length of the UDP exchange and of each TCP transfer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[derive(Args, Debug)]
struct ShellArgs {
    /// Where to go.
    #[arg(value_enum)]
    role: Role,
    #[command(flatten)]
    name: NameArgs,
    /// A command to run instead of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

impl BuildArgs {
    fn options(self) -> Result<Options, CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        if self.one_armed && self.kind != Kind::SixInFour {
            return usage("--one-armed is for --kind 6in4");
        }
        if self.kind == Kind::Udp && self.mtu > 1472 {
            return usage("--mtu with --kind udp is at most 1472");
        }
        Ok(Options {
            name: self.name.name,
            arms: if self.one_armed { Arms::One } else { Arms::Two },
            kind: self.kind,
            access: if self.configured || !self.kind.has_link() {
                Access::Configured
            } else {
                Access::Login
            },
            mode: self.xdp_mode,
            mtu: self.mtu,
        })
    }
}

/// Names end up in names of namespaces and directories.
fn parse_name(text: &str) -> Result<String, String> {
    let fits = text.len() <= 16
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("at most 16 of a-z, 0-9 and -".to_owned())
    }
}

/// Runs `sixferry lab`.
///
/// # Errors
/// When the lab cannot be built or taken down; a demo whose flows fail is exit code 1 instead.
pub(crate) async fn run(args: LabArgs, json: bool) -> Result<ExitCode, CliError> {
    let outcome = match args.command {
        LabCommand::Demo(args) => demo(args, json).await,
        LabCommand::Up(args) => up(args, json).await,
        LabCommand::Down(args) => down(&args, json),
        LabCommand::Shell(args) => Err(shell(&args).into()),
    };
    match outcome {
        Err(CliError::Lab(Error::Interrupted)) => {
            say("interrupted; everything is taken down");
            Ok(ExitCode::from(INTERRUPTED))
        }
        outcome => outcome,
    }
}

/// Progress goes to standard error: standard output is for the result.
fn say(text: &str) {
    output::note(&format!("lab: {text}"));
}

async fn demo(args: DemoArgs, json: bool) -> Result<ExitCode, CliError> {
    let stop = Stop::install()?;
    let seconds = Duration::from_secs(args.seconds);
    let (mut lab, api) = Lab::up(args.build.options()?, false, &stop, say).await?;
    say("sending traffic");
    let flows = traffic(&lab, seconds, json, &stop).await?;
    flow::spoof::send(&lab.topology)?;
    lab.check()?;
    let mut report = Report::collect(&lab, &api, flows, &stop).await?;
    if lab.options.access == Access::Login {
        say("logging out");
        lab.tell_end(&api, &stop).await?;
        report.tell(lab.take_story());
    }
    let log = if report.passed {
        String::new()
    } else {
        lab.daemon_log()
    };
    drop(api);
    lab.down()?;
    let shown = if json {
        output::json(&report)
    } else {
        output::write(report.to_string().as_bytes())
    };
    if report.passed {
        return shown.map(|()| ExitCode::SUCCESS);
    }
    // A failed demo is a failure also for who did not read to the end.
    say(&format!("the daemon's log ends with\n{log}"));
    Ok(ExitCode::FAILURE)
}

/// Runs the flows on a thread of their own: they block, the connection to the daemon must not.
async fn traffic(
    lab: &Lab,
    seconds: Duration,
    json: bool,
    stop: &Stop,
) -> Result<Vec<FlowResult>, Error> {
    let (topology, stop) = (lab.topology.clone(), stop.clone());
    let path = flow::Path {
        mtu: lab.options.mtu,
        linked: lab.options.kind.has_link() && lab.options.access == Access::Configured,
    };
    let run = move || {
        flow::run_all(&topology, path, seconds, &stop, |flow| {
            if !json {
                say(&flow.to_string());
            }
        })
    };
    match tokio::task::spawn_blocking(run).await {
        Ok(flows) => flows,
        Err(failed) => Err(Error::Io {
            what: "sending traffic".to_owned(),
            source: std::io::Error::other(failed),
        }),
    }
}

async fn up(args: BuildArgs, json: bool) -> Result<ExitCode, CliError> {
    let stop = Stop::install()?;
    let (lab, _) = Lab::up(args.options()?, true, &stop, say).await?;
    let socket = lab.dir().socket();
    let login = lab.options.access == Access::Login;
    let control = login.then(|| lab.dir().control_socket());
    if json {
        let namespaces: serde_json::Map<_, _> = lab
            .topology
            .roles()
            .iter()
            .map(|role| {
                (
                    role.name().to_owned(),
                    lab.topology.netns(*role).name().into(),
                )
            })
            .collect();
        output::json(&serde_json::json!({
            "name": lab.options.name,
            "directory": lab.dir().path(),
            "socket": socket,
            "controlSocket": control,
            "namespaces": namespaces,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let flag = name_flag(&lab.options.name);
    let (host, user) = (topology::HOST_V6, lab.topology.user_v6());
    let sessions = control.map_or_else(String::new, |control| {
        format!(
            "\n  sixferry --control unix:{} session list",
            control.display()
        )
    });
    output::line(&format!(
        "The lab is up.\n\n{}\n\n  \
         sixferry lab shell user{flag}     then: ping {host}\n  \
         sixferry lab shell host{flag}     then: ping {user}\n  \
         sixferry lab shell relay{flag}    then: sixferry status\n  \
         sixferry --socket {} tunnel list{sessions}\n  \
         sixferry lab down{flag}\n\n\
         Logs are in {}.",
        lab.topology,
        socket.display(),
        lab.dir().path().display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn down(name: &NameArgs, json: bool) -> Result<ExitCode, CliError> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot.into());
    }
    let found = instance::take_down(&name.name)?;
    if json {
        output::json_line(&serde_json::json!({ "name": name.name, "found": found }))?;
    } else if found {
        output::line("The lab is down.")?;
    } else {
        let flag = name_flag(&name.name);
        output::line(&format!("There was no lab{flag} to take down."))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes a shell (or another command) inside the namespace; returns only if it cannot.
fn shell(args: &ShellArgs) -> Error {
    let mut command = match shell_command(args) {
        Ok(command) => command,
        Err(error) => return error,
    };
    let source = command.exec();
    Error::Io {
        what: "cannot run a shell".to_owned(),
        source,
    }
}

fn shell_command(args: &ShellArgs) -> Result<Command, Error> {
    let name = &args.name.name;
    let dir = RunDir::of(name);
    let not_running = || Error::NotRunning {
        name: name.clone(),
        flag: name_flag(name),
    };
    let state = if dir.exists()? { dir.load() } else { None }.ok_or_else(not_running)?;
    let topology = Topology::new(name, state.arms, state.kind);
    if !topology.roles().contains(&args.role) {
        return Err(Error::NoSuchRole {
            name: name.clone(),
            role: args.role.name(),
        });
    }
    let netns = topology.netns(args.role);
    let (program, rest) = match args.command.split_first() {
        Some((program, rest)) => (program.clone(), rest),
        None => (
            std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned()),
            [].as_slice(),
        ),
    };
    let mut command: Command = netns.command(program);
    command
        .args(rest)
        // So that `sixferry status` inside talks to the lab's daemon.
        .env("SIXFERRY_SOCKET", dir.socket())
        .env(
            "SIXFERRY_CONTROL",
            format!("unix:{}", dir.control_socket().display()),
        )
        .env("PS1", format!("{}# ", args.role.name()));
    Ok(command)
}
