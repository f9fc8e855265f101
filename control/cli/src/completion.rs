//! Completion: scripts that ask this program, and the names of live objects it answers with.
//!
//! A script only registers; the words come from `COMPLETE=SHELL sixferry -- …`, which knows the
//! command line and asks the running daemon for tunnels, domains and ports. No daemon, no names:
//! a prompt must not wait.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory};
use clap_complete::env::Shells;
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate, Shell};
use sixferry_client::control::{ControlClient, api as control};
use sixferry_client::{Client, DEFAULT_SOCKET, Options, Target};

use crate::args::Cli;
use crate::error::CliError;
use crate::output;

/// What somebody who waits at a prompt does not notice.
const PATIENCE: Duration = Duration::from_millis(500);
/// More names than this help nobody.
const MAX_NAMES: usize = 200;
/// Of a million tunnels only the beginning is searched, unless time allows more.
const PAGE: u32 = 1000;

#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs) -> Result<(), CliError> {
    output::write(&script(args.shell)?)
}

fn script(shell: Shell) -> Result<Vec<u8>, CliError> {
    let mut script = Vec::new();
    let name = shell.to_string();
    match Shells::builtins().completer(&name) {
        Some(known) => {
            known.write_registration(
                "COMPLETE",
                "sixferry",
                "sixferry",
                "sixferry",
                &mut script,
            )?;
        }
        // Without the names of live objects.
        None => clap_complete::generate(shell, &mut Cli::command(), "sixferry", &mut script),
    }
    Ok(script)
}

/// Answers a shell that asks for words, and ends; does nothing in an ordinary run.
pub(crate) fn answer() {
    CompleteEnv::with_factory(Cli::command).complete();
}

pub(crate) fn tunnels() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::Tunnel, current))
}

pub(crate) fn domains() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::Domain, current))
}

pub(crate) fn ports() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::Port, current))
}

pub(crate) fn users() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::User, current))
}

pub(crate) fn pools() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::Pool, current))
}

pub(crate) fn sessions() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::Session, current))
}

pub(crate) fn control_tunnels() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| names(Kind::ControlTunnel, current))
}

#[derive(Clone, Copy)]
enum Kind {
    Tunnel,
    Domain,
    Port,
    User,
    Pool,
    Session,
    ControlTunnel,
}

fn names(kind: Kind, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(start) = current.to_str() else {
        return Vec::new();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    let mut found = Vec::new();
    // What was found until then is as good.
    runtime.block_on(async {
        let asking = async {
            match kind {
                Kind::Tunnel | Kind::Domain | Kind::Port => {
                    let target = Target::Unix(socket(std::env::args()));
                    ask(kind, start, target, &mut found).await
                }
                Kind::User | Kind::Pool | Kind::Session | Kind::ControlTunnel => {
                    let Some(target) = control_socket(std::env::args()) else {
                        return Ok(());
                    };
                    ask_control(kind, start, target, &mut found).await
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, asking).await;
    });
    found.into_iter().map(CompletionCandidate::new).collect()
}

async fn ask(
    kind: Kind,
    start: &str,
    target: Target,
    found: &mut Vec<String>,
) -> Result<(), sixferry_client::Error> {
    let options = Options { timeout: PATIENCE };
    let client = Client::connect(&target, &options).await?;
    let mut take = |name: String| {
        if name.starts_with(start) {
            found.push(name);
        }
        found.len() < MAX_NAMES
    };
    match kind {
        Kind::User | Kind::Pool | Kind::Session | Kind::ControlTunnel => {}
        Kind::Port => {
            let ports = client.ports().await?;
            ports.into_iter().all(|port| take(port.name));
        }
        Kind::Domain => {
            let mut pages = client.domains(None, PAGE);
            while let Some(page) = pages.next().await? {
                page.items.into_iter().all(|entry| take(entry.domain.id));
            }
        }
        Kind::Tunnel => {
            let mut pages = client.tunnels(None, PAGE);
            while let Some(page) = pages.next().await? {
                if !page.items.into_iter().all(|entry| take(entry.tunnel.id)) {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The first page is enough: what was typed narrows it.
async fn ask_control(
    kind: Kind,
    start: &str,
    target: Target,
    found: &mut Vec<String>,
) -> Result<(), sixferry_client::Error> {
    let options = Options { timeout: PATIENCE };
    let client = ControlClient::connect(&target, &options).await?;
    let names: Vec<String> = match kind {
        Kind::User => {
            let request = control::ListUsersRequest {
                page_size: PAGE,
                name_prefix: start.to_owned(),
                ..control::ListUsersRequest::default()
            };
            let users = client.list_users(request).await?.users;
            users.into_iter().map(|user| user.name).collect()
        }
        Kind::Pool => {
            let pools = client.list_pools(control::ListPoolsRequest {}).await?.pools;
            let pools = pools.into_iter().filter_map(|entry| entry.pool);
            pools.map(|pool| pool.name).collect()
        }
        Kind::Session => {
            let request = control::ListSessionsRequest {
                page_size: PAGE,
                ..control::ListSessionsRequest::default()
            };
            let sessions = client.list_sessions(request).await?.sessions;
            sessions
                .into_iter()
                .map(|session| session.id.to_string())
                .collect()
        }
        Kind::Tunnel | Kind::Domain | Kind::Port | Kind::ControlTunnel => {
            let request = control::ListTunnelsRequest {
                page_size: PAGE,
                ..control::ListTunnelsRequest::default()
            };
            let tunnels = client.list_tunnels(request).await?.tunnels;
            tunnels.into_iter().map(|tunnel| tunnel.id).collect()
        }
    };
    let wanted = names.into_iter().filter(|name| name.starts_with(start));
    found.extend(wanted.take(MAX_NAMES));
    Ok(())
}

/// The value of an option on the line that is being completed.
fn option(args: impl Iterator<Item = String>, name: &str) -> Option<String> {
    let mut words = args.skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        if let Some(value) = word.strip_prefix(name) {
            match value.strip_prefix('=') {
                Some(value) => return Some(value.to_owned()),
                None if value.is_empty() => return words.next(),
                None => {}
            }
        }
    }
    None
}

/// The control socket of the line; nothing is asked over TCP here either.
fn control_socket(args: impl Iterator<Item = String>) -> Option<Target> {
    let set = option(args, "--control").or_else(|| std::env::var("SIXFERRY_CONTROL").ok());
    let Some(address) = set else {
        return Some(Target::Unix(
            sixferry_client::control::DEFAULT_SOCKET.into(),
        ));
    };
    match address.strip_prefix("unix:") {
        Some(path) => Some(Target::Unix(path.into())),
        None if address.contains('/') => Some(Target::Unix(address.into())),
        None => None,
    }
}

/// The socket of the line that is being completed. Over TCP nothing is asked: a key pressed by
/// mistake should not open a connection to another machine.
fn socket(args: impl Iterator<Item = String>) -> PathBuf {
    if let Some(path) = option(args, "--socket") {
        return path.into();
    }
    let set = std::env::var_os("SIXFERRY_SOCKET");
    set.map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_asks_this_program() {
        for shell in [
            Shell::Bash,
            Shell::Zsh,
            Shell::Fish,
            Shell::Elvish,
            Shell::PowerShell,
        ] {
            let script = String::from_utf8(script(shell).unwrap()).unwrap();
            assert!(script.contains("COMPLETE"), "{shell}");
            assert!(script.contains("sixferry"), "{shell}");
        }
    }

    #[test]
    fn the_line_being_completed_says_which_daemon() {
        let of = |line: &str| {
            let words = format!("sixferry -- {line}");
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            socket(words.into_iter())
        };
        assert_eq!(of("sixferry --socket /a tunnel show"), PathBuf::from("/a"));
        assert_eq!(of("sixferry tunnel show --socket=/b"), PathBuf::from("/b"));
        let control = |line: &str| {
            let words = format!("sixferry -- {line}");
            control_socket(words.split(' ').map(str::to_owned))
        };
        let there = Some(Target::Unix("/c".into()));
        assert_eq!(control("sixferry --control unix:/c user show"), there);
        assert_eq!(control("sixferry user show --control=/c"), there);
        assert_eq!(control("sixferry user show --control relay:1"), None);
    }

    #[test]
    fn without_a_daemon_there_are_no_names_and_no_error() {
        let target = Target::Unix("/nonexistent/x.sock".into());
        let mut found = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let outcome = runtime.block_on(ask(Kind::Tunnel, "", target, &mut found));
        assert!(outcome.is_err() && found.is_empty());
    }
}
