//! `sixferry import dtcps`.

use clap::Args;
use serde::Serialize;
use sixferry_dtcp::options::parse;

use crate::args::Global;
use crate::error::CliError;
use crate::output;

/// How the users come along: the secrets cannot be read from here.
const COMMANDS: [&str; 3] = [
    "# on the old host: db_dump /usr/local/etc/popper/pop.auth > pop.auth.dump",
    "sixferry user import pop.auth.dump",
    "sixferry-control --check",
];

#[derive(Args, Debug)]
pub(crate) struct DtcpsArgs {
    /// The arguments of dtcps as they are, e.g. -DU -i gif10 2001:db8:0:1::.
    #[arg(
        value_name = "OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<String>,
}

/// The answer of the command.
#[derive(Debug, Serialize)]
struct Imported {
    /// The part of the configuration file.
    toml: String,
    /// The commands that bring the users along.
    commands: Vec<&'static str>,
    /// What will be different, and what to look at.
    notes: Vec<String>,
}

pub(super) fn run(global: &Global, args: &DtcpsArgs) -> Result<(), CliError> {
    // The name of the program may be pasted along.
    let options = match args.options.first() {
        Some(first) if first.rsplit('/').next() == Some("dtcps") => &args.options[1..],
        _ => &args.options,
    };
    let import = parse(options).map_err(|error| CliError::Usage(error.to_string()))?;
    let imported = Imported {
        toml: import.to_toml(),
        commands: COMMANDS.to_vec(),
        notes: import.notes,
    };
    if global.json {
        return output::json(&imported);
    }
    output::line(&text(&imported))
}

/// TOML throughout, so that all of it can be appended to the file.
fn text(imported: &Imported) -> String {
    let mut text = imported.toml.clone();
    text.push_str("\n# The users:\n");
    for command in &imported.commands {
        text.push_str(&format!("#   {}\n", command.trim_start_matches("# ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_becomes_a_section_that_can_be_read() {
        let import = parse(&["-U", "-i", "gif10", "2001:db8:0:1::"]).unwrap();
        let imported = Imported {
            toml: import.to_toml(),
            commands: COMMANDS.to_vec(),
            notes: import.notes,
        };
        let text = text(&imported);
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(read["dtcp"]["udp"]["enabled"], toml::Value::Boolean(true));
        assert_eq!(read["dtcp"]["interfaces"].as_str(), Some("gif10"));
        assert!(
            text.contains("#   sixferry user import pop.auth.dump"),
            "{text}"
        );
    }
}
