//! A real Linux router in a kernel of its own: the peer the relay is tested against.
//!
//! The guest owns TAP devices in one of our namespaces. Two engines run it, chosen by what the
//! test needs from the kernel:
//!
//! * [`Engine::UserMode`]: Debian's user-mode-linux, an ordinary process. Its `sit` speaks 6in4
//!   and 6to4.
//! * [`Engine::Machine`]: Debian's cloud kernel in qemu, without virtualisation support from the
//!   processor. It adds 6rd and IPv6-in-UDP (fou), which the former was built without.
//!
//! Both boot in a few seconds from the same root directory and take commands through a mailbox.

mod qemu;
mod rootfs;
mod uml;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::link::no_offload;
use crate::net::{Net, scratch};
use crate::process::Guarded;
use crate::wait::wait_for;

const READY: &str = "GUEST-READY";
/// Booting takes 2 to 4 seconds on an idle machine; a cold, busy one may need ten times that.
const BOOT: Duration = Duration::from_secs(90);
/// The longest a command in the guest may take.
const COMMAND: Duration = Duration::from_secs(60);

/// What runs a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// User-mode-linux.
    UserMode,
    /// qemu.
    Machine,
}

impl Engine {
    /// The name under which `SIXFERRY_REQUIRE` demands it.
    #[must_use]
    pub fn feature(self) -> &'static str {
        match self {
            Self::UserMode => "sit",
            Self::Machine => "qemu",
        }
    }

    /// Why no such guest can be had on this machine, if so.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::UserMode => uml::missing(),
            Self::Machine => qemu::missing(),
        }
    }
}

/// One network card of the guest.
#[derive(Clone, Debug)]
pub struct Card {
    /// The TAP device in the namespace.
    pub tap: String,
    /// The guest's MAC address.
    pub mac: String,
}

/// What a command in the guest said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output and error.
    pub text: String,
}

/// How commands reach a guest.
trait Mailbox: Debug + Send + Sync {
    /// Hands over a shell command.
    fn post(&self, serial: u32, command: &str);
    /// What the command printed and, on the last line, its exit code; `None` while it runs.
    fn answer(&self, serial: u32) -> Option<String>;
}

/// A running guest; killed on drop.
#[derive(Debug)]
pub struct Guest {
    process: Guarded,
    mailbox: Box<dyn Mailbox>,
    root: TempDir,
    serial: AtomicU32,
}

impl Guest {
    /// Boots a guest in `net` with the given cards, which it calls `vec0`, `vec1` and so on, and
    /// runs `setup` there. Returns when `setup` is done.
    ///
    /// # Panics
    /// When it does not come up; with its console.
    #[must_use]
    pub fn boot(engine: Engine, net: &Net, cards: &[Card], setup: &str) -> Self {
        let root = scratch("guest");
        for Card { tap, .. } in cards {
            net.ip(&format!("tuntap add dev {tap} mode tap"));
            net.ip(&format!("link set {tap} up"));
        }
        let (mut process, mailbox) = match engine {
            Engine::UserMode => uml::start(root.path(), net, cards, setup),
            Engine::Machine => qemu::start(root.path(), net, cards, setup),
        };
        process.wait_for_log(READY, BOOT);
        // Only now: opening a TAP the guest asks for large and unfinished packets, which its
        // driver then cannot take.
        for Card { tap, .. } in cards {
            no_offload(net, tap);
        }
        Self {
            process,
            mailbox,
            root,
            serial: AtomicU32::new(0),
        }
    }

    /// Runs a shell command in the guest, beside any that still run.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn shell(&self, command: &str) -> Said {
        self.start(command).wait(COMMAND)
    }

    /// Runs a shell command in the guest that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn run(&self, command: &str) -> String {
        let said = self.shell(command);
        assert_eq!(said.code, 0, "in the guest: {command}\n{}", said.text);
        said.text
    }

    /// Starts a shell command in the guest.
    ///
    /// # Panics
    /// When the mailbox cannot be written.
    #[must_use]
    pub fn start(&self, command: &str) -> Running<'_> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.mailbox.post(serial, command);
        Running {
            guest: self,
            command: command.to_owned(),
            serial,
        }
    }

    /// Where a file of a user-mode guest is on this machine; a machine has files of its own.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside.trim_start_matches('/'))
    }

    /// The end of its console, for failure messages.
    #[must_use]
    pub fn console(&self) -> String {
        self.process.log_tail()
    }
}

/// A command that runs in the guest.
#[derive(Debug)]
pub struct Running<'g> {
    guest: &'g Guest,
    command: String,
    serial: u32,
}

impl Running<'_> {
    /// Waits for its end.
    ///
    /// # Panics
    /// When that does not come within `timeout`.
    #[must_use]
    pub fn wait(self, timeout: Duration) -> Said {
        let Self {
            guest,
            command,
            serial,
        } = self;
        let Some((text, _)) = wait_for(timeout, || guest.mailbox.answer(serial)) else {
            panic!(
                "in the guest, after {timeout:?}: {command}\n{}",
                guest.console()
            )
        };
        let text = text.trim_end();
        let (text, code) = text.rsplit_once('\n').unwrap_or(("", text));
        Said {
            code: code.parse().unwrap_or(-1),
            text: text.trim_end().to_owned(),
        }
    }
}
