//! The command line as a whole; each command's own arguments live with the command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::parse;

/// Operate a Sixferry relay.
///
/// Exit codes: 0 it worked, 1 it did not, 2 wrong usage or the daemon cannot be reached.
#[derive(Debug, Parser)]
#[command(name = "sixferry", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Unix socket of the dataplane.
    #[arg(
        long,
        global = true,
        env = "SIXFERRY_SOCKET",
        value_name = "PATH",
        default_value = sixferry_client::DEFAULT_SOCKET,
        help_heading = "Connection"
    )]
    pub(crate) socket: PathBuf,
    /// Where the control plane is: unix:PATH, or HOST:PORT with the three TLS files.
    #[arg(
        long,
        global = true,
        env = "SIXFERRY_CONTROL",
        value_name = "ADDRESS",
        default_value = concat!("unix:", "/run/sixferry/control.sock"),
        help_heading = "Connection"
    )]
    pub(crate) control: String,
    /// Connect over TCP with mutual TLS instead; needs the three files.
    #[arg(
        long,
        global = true,
        env = "SIXFERRY_TCP",
        value_name = "HOST:PORT",
        help_heading = "Connection"
    )]
    pub(crate) tcp: Option<String>,
    /// PEM file of the authority that signed the dataplane's certificate.
    #[arg(
        long,
        global = true,
        env = "SIXFERRY_TLS_CA",
        value_name = "FILE",
        help_heading = "Connection"
    )]
    pub(crate) tls_ca: Option<PathBuf>,
    /// PEM file of our certificate.
    #[arg(
        long,
        global = true,
        env = "SIXFERRY_TLS_CERT",
        value_name = "FILE",
        help_heading = "Connection"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file of our key.
    #[arg(
        long,
        global = true,
        env = "SIXFERRY_TLS_KEY",
        value_name = "FILE",
        help_heading = "Connection"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Deadline of every call: seconds, or with a unit (500ms, 2s, 1m).
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse::duration,
        help_heading = "Connection"
    )]
    pub(crate) timeout: Duration,
    /// Print JSON; one object, or one per line for what goes on.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Who writes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Writer {
    /// Owner of what is written. An owner can change only its own objects.
    #[arg(long, default_value = "cli", value_name = "NAME")]
    pub(crate) owner: String,
    /// Election id of the session. Needed only to take over from a controller of the same owner:
    /// the higher id wins.
    #[arg(
        long,
        default_value = "1",
        value_name = "NUMBER",
        hide_short_help = true
    )]
    pub(crate) election_id: sixferry_client::ElectionId,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how the relay is.
    Status,
    /// Add, change, list, watch and load tunnels.
    #[command(subcommand)]
    Tunnel(crate::tunnel::TunnelCommand),
    /// Add, change and list embedded domains: 6to4 and 6rd.
    #[command(subcommand)]
    Domain(crate::domain::DomainCommand),
    /// Add, list and look up routes.
    #[command(subcommand)]
    Route(crate::route::RouteCommand),
    /// Show the interfaces the dataplane is bound to.
    #[command(subcommand)]
    Port(crate::port::PortCommand),
    /// List the neighbours on the ports' links.
    #[command(subcommand, visible_alias = "neighbour")]
    Neighbor(crate::neighbor::NeighborCommand),
    /// Show and change the relay's own rules, and try what they do to a packet.
    #[command(subcommand)]
    Policy(crate::policy::PolicyCommand),
    /// Add, change, list, import and export users.
    #[command(subcommand)]
    User(crate::user::UserCommand),
    /// Add and list prefix pools, and assign their prefixes to users.
    #[command(subcommand)]
    Pool(crate::pool::PoolCommand),
    /// List and end DTCP sessions.
    #[command(subcommand)]
    Session(crate::session::SessionCommand),
    /// Print what the dataplane learns and notices and what becomes of users' tunnels, as it
    /// happens.
    Events(crate::events::EventsArgs),
    /// Show what was dropped, and why.
    Drops(crate::drops::DropsArgs),
    /// Show the busiest tunnels.
    Top(crate::top::TopArgs),
    /// Print what other systems' configuration would be here.
    #[command(subcommand)]
    Import(crate::import::ImportCommand),
    /// Have the running daemon check a configuration file against its host.
    ///
    /// Without a running daemon use `sixferryd --config FILE --check`.
    CheckConfig(crate::config::CheckArgs),
    /// Make the daemon read its configuration file again.
    Reload,
    /// Check this host: kernel, interfaces, limits, daemon.
    ///
    /// Works without the daemon. Exit code 1 if anything FAILs.
    Doctor(crate::doctor::DoctorArgs),
    /// Build, use and take down a lab in network namespaces.
    Lab(crate::lab::LabArgs),
    /// Print a completion script for a shell.
    Completion(crate::completion::CompletionArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::try_parse_from([
            "sixferry",
            "tunnel",
            "--json",
            "list",
            "--timeout",
            "500ms",
            "--socket",
            "/x",
        ])
        .unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.timeout, Duration::from_millis(500));
        assert_eq!(cli.global.socket, PathBuf::from("/x"));
    }

    #[test]
    fn usage_errors_are_exit_code_2_and_help_is_0() {
        for (args, code) in [
            (&["sixferry"][..], 2),
            (&["sixferry", "nonsense"], 2),
            (&["sixferry", "--help"], 0),
            (&["sixferry", "tunnel", "add", "--help"], 0),
            (&["sixferry", "--version"], 0),
        ] {
            let error = Cli::try_parse_from(args).unwrap_err();
            assert_eq!(error.exit_code(), code, "{args:?}");
        }
    }
}
