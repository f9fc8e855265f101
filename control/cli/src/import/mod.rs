//! `sixferry import`: what other systems' configuration would be here.

mod dtcps;
mod notes;
mod parse;
mod stf;
#[cfg(test)]
mod tests;
mod toml;

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::args::Global;
use crate::error::CliError;
use crate::output;

/// A configuration of a router is some hundred lines.
const MAX_LEN: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// A 6to4 interface of FreeBSD, NetBSD or KAME, stf(4).
    ///
    /// Takes ifconfig and route commands, rc.conf and sysctl.conf assignments and the lines of
    /// NetBSD's ifconfig.stf0. Prints the [[domain]] for dataplane.toml; the commands that do the
    /// same, and what will be different, stand in its comments. Nothing is sent anywhere.
    Stf(StfArgs),
    /// The command line of the original DTCP server, dtcps(8).
    ///
    /// Prints the [dtcp] section for control.toml and the commands that bring the users along.
    /// Nothing is sent anywhere.
    Dtcps(dtcps::DtcpsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct StfArgs {
    /// Lines, each as one argument, e.g. 'ifconfig stf0 inet6 2002:905:607::1 prefixlen 16';
    /// - reads standard input.
    #[arg(value_name = "LINE", required_unless_present = "file")]
    lines: Vec<String>,
    /// File with such lines; may be repeated.
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Name of the domain. [default: that of the interface]
    #[arg(long, value_name = "NAME", value_parser = crate::parse::tunnel_id)]
    id: Option<String>,
    /// Relay for others, or a site with a way out. [default: site if a default route into 6to4 is
    /// given, else relay]
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// The relay's own IPv4 address, where the lines give only the anycast address.
    #[arg(long, value_name = "ADDRESS")]
    local: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Between 6to4 sites and the native Internet.
    Relay,
    /// A site.
    Site,
}

/// One interface as it would be here.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Imported {
    id: String,
    /// The part of the configuration file.
    toml: String,
    /// The commands that do the same.
    commands: Vec<String>,
    /// What will be different, and what to look at.
    notes: Vec<String>,
}

/// The answer of the command.
#[derive(Serialize)]
struct Answer {
    domains: Vec<Imported>,
}

pub(crate) fn run(global: &Global, command: ImportCommand) -> Result<(), CliError> {
    let args = match command {
        ImportCommand::Stf(args) => args,
        ImportCommand::Dtcps(args) => return dtcps::run(global, &args),
    };
    let domains = stf::import(&sources(&args)?, &args)?;
    if global.json {
        return output::json(&Answer { domains });
    }
    let texts: Vec<String> = domains.iter().map(text).collect();
    output::line(&texts.join("\n"))
}

/// Where lines come from, and the lines.
fn sources(args: &StfArgs) -> Result<Vec<parse::Source>, CliError> {
    let mut sources = Vec::new();
    let mut typed = String::new();
    for line in &args.lines {
        if line == "-" {
            let text = read(Box::new(std::io::stdin()), "standard input")?;
            sources.push(parse::Source::file("standard input", text));
        } else {
            // The prompt of a manual page, not a comment: nobody types comments.
            let line = line.trim();
            typed.push_str(line.strip_prefix("# ").unwrap_or(line));
            typed.push('\n');
        }
    }
    if !typed.is_empty() {
        sources.push(parse::Source::typed(typed));
    }
    for path in &args.file {
        let name = path.display().to_string();
        let file = std::fs::File::open(path);
        let file = file.map_err(|e| CliError::Usage(format!("{name}: {e}")))?;
        sources.push(parse::Source::file(&name, read(Box::new(file), &name)?));
    }
    Ok(sources)
}

fn read(source: Box<dyn Read>, name: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let mut limited = source.take(MAX_LEN + 1);
    let outcome = limited.read_to_string(&mut text);
    outcome.map_err(|e| CliError::Usage(format!("{name}: {e}")))?;
    if text.len() as u64 > MAX_LEN {
        return Err(CliError::Usage(format!("{name}: larger than 1 MiB")));
    }
    Ok(text)
}

/// TOML throughout: what is not is a comment, so that all of it can be appended to the file.
fn text(imported: &Imported) -> String {
    let mut text = imported.toml.clone();
    text.push_str("\n# The same for a running daemon:\n");
    for command in &imported.commands {
        text.push_str(&format!("#   {command}\n"));
    }
    text.push_str("#\n# What to know:\n");
    for note in &imported.notes {
        for (index, line) in wrapped(note, 94).iter().enumerate() {
            let mark = if index == 0 { "- " } else { "  " };
            text.push_str(&format!("# {mark}{line}\n"));
        }
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
