//! `sixferry`, the operator's command line.
//!
//! Every command works the same way: it asks the dataplane or the control plane over `sixferry-client`, turns the
//! answer into one of the shapes of [`json`], and prints that as JSON or as a table. Nothing here
//! decides anything about packets, and no command ever asks back.
#![forbid(unsafe_code)]

mod args;
mod completion;
mod config;
mod connect;
mod describe;
mod doctor;
mod domain;
mod drops;
mod error;
mod events;
mod import;
mod json;
mod lab;
mod neighbor;
mod output;
mod parse;
mod policy;
mod pool;
mod port;
mod route;
mod session;
mod status;
mod top;
mod tunnel;
mod units;
mod user;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::error::CliError;

fn main() -> ExitCode {
    completion::answer();
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(CliError::Failed(format!("cannot start: {error}"))),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => error.report(json),
    }
}

async fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let global = &cli.global;
    let done = match cli.command {
        Command::Status => status::run(global).await,
        Command::Tunnel(command) => tunnel::run(global, command).await,
        Command::Domain(command) => domain::run(global, command).await,
        Command::Route(command) => route::run(global, command).await,
        Command::Port(command) => port::run(global, command).await,
        Command::Neighbor(command) => neighbor::run(global, command).await,
        Command::Policy(command) => policy::run(global, command).await,
        Command::User(command) => user::run(global, command).await,
        Command::Pool(command) => pool::run(global, command).await,
        Command::Session(command) => session::run(global, command).await,
        Command::Events(args) => events::run(global, args).await,
        Command::Drops(args) => drops::run(global, args).await,
        Command::Top(args) => top::run(global, args).await,
        Command::Import(command) => import::run(global, command),
        Command::CheckConfig(args) => return config::check(global, args).await,
        Command::Reload => return config::reload(global).await,
        Command::Doctor(args) => return doctor::run(global, args).await,
        Command::Lab(args) => return lab::run(args, global.json).await,
        Command::Completion(args) => completion::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}
