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

#[derive(Clone, Copy)]
enum Kind {
    Tunnel,
    Domain,
    Port,
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
    let target = Target::Unix(socket(std::env::args()));
    let asking = ask(kind, start, target, &mut found);
    // What was found until then is as good.
    runtime.block_on(async {
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

/// The socket of the line that is being completed. Over TCP nothing is asked: a key pressed by
/// mistake should not open a connection to another machine.
fn socket(args: impl Iterator<Item = String>) -> PathBuf {
    let mut words = args.skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        if let Some(path) = word.strip_prefix("--socket=") {
            return path.into();
        }
        if word == "--socket"
            && let Some(path) = words.next()
        {
            return path.into();
        }
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
