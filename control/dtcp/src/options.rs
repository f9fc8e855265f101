//! The command line of the original: `dtcps [-cdDoU] [-b udp-port] [-g address] [-i interfaces]
//! [-I udp-interface] [-p port] [-F fib] [prefix]`, turned into a [`Config`].

use std::fmt::Write as _;

use crate::config::{Config, parse_host_prefix};
use crate::wire;

/// Where the original looks for its routetable.
pub const ROUTETABLE: &str = "/usr/local/etc/routetable";

/// A command line as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// What it says in our terms.
    pub config: Config,
    /// What has another meaning here, or none.
    pub notes: Vec<String>,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such option.
    #[error("dtcps has no option -{0}")]
    Unknown(char),
    /// The option wants a value.
    #[error("-{0} needs a value")]
    Value(char),
    /// The value is wrong.
    #[error("-{option} {value:?}: {problem}")]
    Bad {
        /// Which option.
        option: char,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The prefix is wrong.
    #[error("prefix: {0}")]
    Prefix(String),
    /// More than one argument.
    #[error("dtcps takes one prefix, not {0} arguments")]
    Arguments(usize),
}

/// Reads the arguments of dtcps, without the name of the program. Options may be joined (`-Do`), a
/// value may follow its option directly (`-p20200`).
///
/// # Errors
/// The original would have refused it too, or the value cannot be used here.
pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Import, Error> {
    let mut import = Import {
        config: Config::default(),
        notes: Vec::new(),
    };
    let mut arguments = arguments.iter().map(AsRef::as_ref);
    let mut rest: Vec<&str> = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            rest.extend(arguments.by_ref());
            break;
        }
        let Some(letters) = argument
            .strip_prefix('-')
            .filter(|letters| !letters.is_empty())
        else {
            rest.push(argument);
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            if !"bgiIpF".contains(letter) {
                import.flag(letter)?;
                continue;
            }
            let joined = letters.as_str();
            let value = if joined.is_empty() {
                arguments.next()
            } else {
                Some(joined)
            };
            import.value(letter, value.ok_or(Error::Value(letter))?)?;
            break;
        }
    }
    match rest[..] {
        [] => {}
        [prefix] => {
            import.config.host_prefix = Some(parse_host_prefix(prefix).map_err(Error::Prefix)?);
        }
        _ => return Err(Error::Arguments(rest.len())),
    }
    import.afterwards();
    Ok(import)
}

impl Import {
    fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    fn flag(&mut self, letter: char) -> Result<(), Error> {
        match letter {
            'c' => self.config.cloning = false,
            'o' => self.config.keep = true,
            'U' => self.config.udp.enabled = true,
            'd' => self.note("-d: debug output is a matter of [control] log here"),
            'D' => {
                self.note("-D: whether to run in the foreground is for the service manager to say")
            }
            _ => return Err(Error::Unknown(letter)),
        }
        Ok(())
    }

    fn value(&mut self, option: char, value: &str) -> Result<(), Error> {
        let bad = |problem| Error::Bad {
            option,
            value: value.to_owned(),
            problem,
        };
        let port = || value.parse::<u16>().ok().filter(|port| *port != 0);
        match option {
            'p' => self.config.port = port().ok_or_else(|| bad("not a port"))?,
            'b' => {
                let first = port().ok_or_else(|| bad("not a port"))?;
                self.config.udp.first_port = first;
                if first > self.config.udp.last_port {
                    self.config.udp.last_port = u16::MAX;
                }
            }
            'g' => {
                let address = value.parse().map_err(|_| bad("not an IPv4 address"))?;
                self.config.announce = Some(address);
            }
            'i' => self.config.interfaces = Some(value.to_owned()),
            'I' => self.note(
                "-I: tunnels over UDP take their interface names from `interfaces` like all others",
            ),
            'F' => self.note(
                "-F: there are no kernel interfaces and so no routing table number; routes to \
                 tunnels are in the dataplane",
            ),
            _ => return Err(Error::Unknown(option)),
        }
        Ok(())
    }

    /// What only the whole tells.
    fn afterwards(&mut self) {
        if self.config.keep {
            self.note(
                "-o: logical interfaces cost nothing, so none is destroyed or kept; the lowest \
                 free unit is given either way",
            );
        }
        if self.config.interfaces.is_none() || !self.config.cloning {
            self.note(
                "existing: the original took the gif interfaces that the kernel had; here \
                 `existing` says which there are",
            );
        }
        self.config.routetable = Some(ROUTETABLE.into());
        self.note(
            "routetable: the original read this file; leave the line out where there is none",
        );
    }

    /// The section `[dtcp]` that says the same, and the notes as comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "# {note}");
        }
        text.push_str("[dtcp]\n");
        let config = &self.config;
        let mut line = |key: &str, value: String| {
            let _ = writeln!(text, "{key} = {value}");
        };
        if config.port != wire::PORT {
            line("port", config.port.to_string());
        }
        if let Some(interfaces) = &config.interfaces {
            line("interfaces", quoted(interfaces));
        }
        if !config.cloning {
            line("cloning", "false".to_owned());
        }
        if config.keep {
            line("keep", "true".to_owned());
        }
        if let Some(prefix) = config.host_prefix {
            line("host_prefix", quoted(&prefix.to_string()));
        }
        if let Some(address) = config.announce {
            line("announce", quoted(&address.to_string()));
        }
        if let Some(path) = &config.routetable {
            line("routetable", quoted(&path.to_string_lossy()));
        }
        let default = Config::default().udp;
        if config.udp != default {
            text.push_str("\n[dtcp.udp]\n");
            let udp = &config.udp;
            let _ = writeln!(text, "enabled = {}", udp.enabled);
            for (key, value, default) in [
                ("first_port", udp.first_port, default.first_port),
                ("last_port", udp.last_port, default.last_port),
            ] {
                if value != default {
                    let _ = writeln!(text, "{key} = {value}");
                }
            }
        }
        text
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
