//! The daemon under test, from its configuration text to its exit code.

use std::fmt::Write;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::api::Api;
use crate::net::{Net, scratch};
use crate::process::{Guarded, exit_code};
use crate::site::SIX_IN_FOUR;
use crate::topology::{Lab, RELAY_V6};
use crate::wait::wait_for;

/// Loading the XDP program and binding queues that were just freed takes a while on a busy
/// machine.
const READY: Duration = Duration::from_secs(30);
/// Refusing to start must be quick.
const REFUSAL: Duration = Duration::from_secs(20);

/// The tunnel of the lab's guest, or its domain.
pub const LAB_TUNNEL: &str = "lab";

/// Where the programs under test are: `SIXFERRY_BIN_DIR`, else beside the test executable.
///
/// # Panics
/// When `name` is not there: then it has not been built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let dir = std::env::var_os("SIXFERRY_BIN_DIR").map_or_else(
        || {
            let here = std::env::current_exe().expect("the test executable");
            let deps = here.parent().expect("its directory");
            deps.parent()
                .expect("the directory of the profile")
                .to_owned()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not there: cargo build --workspace --bins",
        path.display()
    );
    path
}

/// A configuration file in the making.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    router: Ipv6Addr,
    ports: String,
    sections: String,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            router: RELAY_V6,
            ports: String::new(),
            sections: String::new(),
        }
    }
}

impl DaemonConfig {
    /// The lab's ports and its guest's tunnel with an MTU, or the domain the guest is in.
    #[must_use]
    pub fn of_lab(lab: &Lab, mode: &str, mtu: u16) -> Self {
        Self::ports_of_lab(lab, mode).section(&lab.site.daemon_section(LAB_TUNNEL, mtu))
    }

    /// The lab's ports and no tunnel.
    #[must_use]
    pub fn ports_of_lab(lab: &Lab, mode: &str) -> Self {
        let config = lab.ports().iter().fold(Self::default(), |config, port| {
            config.port(port, &format!("mode = \"{mode}\""))
        });
        config.section("[worker]\nidle = \"poll\"\npin = false")
    }

    /// The source of its ICMPv6 errors, where that is not [`RELAY_V6`].
    #[must_use]
    pub fn router(mut self, address: Ipv6Addr) -> Self {
        self.router = address;
        self
    }

    /// Adds a port; `keys` are further lines of its table.
    #[must_use]
    pub fn port(mut self, name: &str, keys: &str) -> Self {
        let _ = writeln!(self.ports, "[[port]]\nname = \"{name}\"\n{keys}");
        self
    }

    /// Adds the guest's configured tunnel; `keys` are further lines of its table.
    #[must_use]
    pub fn tunnel(self, keys: &str) -> Self {
        self.section(&SIX_IN_FOUR.tunnel_section(LAB_TUNNEL, keys))
    }

    /// Adds any section.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        let _ = writeln!(self.sections, "{text}");
        self
    }

    fn text(&self, dir: &Path) -> String {
        let (dir, router) = (dir.display(), self.router);
        format!(
            "state_dir = \"{dir}/state\"\n[api]\nunix_socket = \"{dir}/api.sock\"\n\
             [metrics]\nlisten = \"\"\n[router]\naddress = \"{router}\"\n{}{}",
            self.ports, self.sections
        )
    }
}

/// A directory for a daemon's configuration, state, socket and log.
///
/// # Panics
/// When none can be made.
#[must_use]
pub fn home() -> TempDir {
    let home = scratch("daemon");
    fs::create_dir(home.path().join("state")).expect("the state directory");
    home
}

/// A running `sixferryd`; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    process: Guarded,
    home: TempDir,
    api: Api,
    config: DaemonConfig,
}

/// How a daemon that did not start ended.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub text: String,
}

impl Refusal {
    /// Fails unless it is what a set-up error must be: exit code 2 and one line that contains
    /// every one of `words`.
    ///
    /// # Panics
    /// When it is not.
    pub fn expect(&self, words: &[&str]) {
        assert_eq!(self.code, 2, "exit code; it said:\n{}", self.text);
        let line = self.text.lines().find(|line| {
            let line = line.to_lowercase();
            words.iter().all(|word| line.contains(&word.to_lowercase()))
        });
        assert!(
            line.is_some(),
            "no line names all of {words:?}; it said:\n{}",
            self.text
        );
    }
}

impl Daemon {
    /// Starts a daemon in `net` and waits until its API answers.
    ///
    /// # Panics
    /// When it ends or does not become ready in time; with its log.
    #[must_use]
    pub fn start(net: &Net, config: &DaemonConfig) -> Self {
        let home = home();
        let mut process = launch(net, config, home.path(), &[]);
        let api = ready(&mut process, home.path());
        Self {
            process,
            home,
            api,
            config: config.clone(),
        }
    }

    /// SIGKILL, then a new process with the same configuration and state.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn kill_and_start_again(&mut self, net: &Net) {
        self.process.kill();
        self.process = launch(net, &self.config, self.home.path(), &[]);
        self.api = ready(&mut self.process, self.home.path());
    }

    /// Starts a daemon that must refuse to run.
    ///
    /// # Panics
    /// When it keeps running.
    #[must_use]
    pub fn refused(net: &Net, config: &DaemonConfig) -> Refusal {
        Self::refused_in(net, config, home().path(), &[])
    }

    /// The same with a home of the caller's, and started by the words of `wrapper`.
    ///
    /// # Panics
    /// When it keeps running.
    #[must_use]
    pub fn refused_in(net: &Net, config: &DaemonConfig, home: &Path, wrapper: &[&str]) -> Refusal {
        let mut process = launch(net, config, home, wrapper);
        match process.wait(REFUSAL) {
            Some(status) => Refusal {
                code: exit_code(status),
                text: process.log(),
            },
            None => panic!(
                "sixferryd runs although it must not\n{}",
                process.log_tail()
            ),
        }
    }

    /// Its API.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("api.sock")
    }

    /// Its directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Guarded {
        &mut self.process
    }

    /// Everything it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Daemon {
    /// A failing test shows what the daemon counted.
    fn drop(&mut self) {
        if std::thread::panicking() && self.process.ended().is_none() {
            eprintln!("{}", self.api.describe());
        }
    }
}

/// Waits until the API answers.
fn ready(process: &mut Guarded, home: &Path) -> Api {
    let socket = home.join("api.sock");
    let mut ended = None;
    let ready = wait_for(READY, || {
        ended = process.ended();
        let api = Api::connect(&socket).filter(|api| api.info().is_ok());
        (ended.is_some() || api.is_some()).then_some(api)
    });
    let Some((Some(api), _)) = ready else {
        panic!(
            "sixferryd is not ready (ended: {ended:?})\n{}",
            process.log_tail()
        )
    };
    api
}

fn launch(net: &Net, config: &DaemonConfig, home: &Path, wrapper: &[&str]) -> Guarded {
    let file = home.join("dataplane.toml");
    fs::write(&file, config.text(home)).expect("the configuration file");
    let program = program("sixferryd");
    let program = program.to_str().expect("a plain path");
    let file = file.to_str().expect("a plain path");
    let mut words = wrapper.to_vec();
    words.extend_from_slice(&[program, "--config", file]);
    Guarded::spawn("sixferryd", &net.wrapper(), &words, &home.join("log"))
}
