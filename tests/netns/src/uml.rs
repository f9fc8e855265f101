//! A real Linux `sit` router: Debian's user-mode-linux as an ordinary process.
//!
//! The guest kernel runs inside one of our namespaces and owns two TAP devices there. Its root
//! file system is a directory of ours (hostfs), which doubles as the way to hand it commands and
//! files. It boots in a few seconds and needs no virtualisation support.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::link::no_offload;
use crate::net::{Net, scratch};
use crate::process::{Guarded, succeed};
use crate::wait::wait_for;

const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
const BUSYBOX: &str = "/bin/busybox";
const READY: &str = "GUEST-READY";
/// Booting takes 2 to 4 seconds on an idle machine; a cold, busy one may need ten times that.
const BOOT: Duration = Duration::from_secs(90);
/// The longest a command in the guest may take.
const COMMAND: Duration = Duration::from_secs(60);
/// Tried in this order until all are in: no module index is needed.
const WANTED: [&str; 10] = [
    "crc-ccitt",
    "ipv6",
    "tunnel4",
    "ip_tunnel",
    "sit",
    "llc",
    "stp",
    "garp",
    "mrp",
    "8021q",
];
const APPLETS: [&str; 12] = [
    "sh", "mount", "insmod", "cat", "echo", "ls", "sleep", "mv", "rm", "nc", "sync", "dmesg",
];

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

/// A running guest; killed on drop.
#[derive(Debug)]
pub struct UmlGuest {
    process: Guarded,
    root: TempDir,
    serial: AtomicU32,
}

impl UmlGuest {
    /// Why no guest can be had on this machine, if so.
    #[must_use]
    pub fn missing() -> Option<String> {
        let absent = [KERNEL, MODULES, BUSYBOX, "/dev/net/tun"]
            .into_iter()
            .find(|path| !Path::new(path).exists())?;
        Some(format!(
            "{absent} is not there (Debian packages user-mode-linux, busybox-static)"
        ))
    }

    /// Boots a guest in `net` with the given cards, which it calls `vec0`, `vec1` and so on, and
    /// runs `setup` there. Returns when `setup` is done.
    ///
    /// # Panics
    /// When it does not come up; with its console.
    #[must_use]
    pub fn boot(net: &Net, cards: &[Card], setup: &str) -> Self {
        let root = scratch("guest");
        furnish(root.path(), cards.len(), setup);
        let mut words = vec![
            KERNEL.to_owned(),
            "mem=128M".to_owned(),
            "root=/dev/root".to_owned(),
            "rootfstype=hostfs".to_owned(),
            format!("rootflags={}", root.path().display()),
            "rw".to_owned(),
            "init=/init".to_owned(),
            "con=null".to_owned(),
            "con0=fd:0,fd:1".to_owned(),
            "quiet".to_owned(),
        ];
        for (index, Card { tap, mac }) in cards.iter().enumerate() {
            net.ip(&format!("tuntap add dev {tap} mode tap"));
            net.ip(&format!("link set {tap} up"));
            words.push(format!(
                "vec{index}:transport=tap,ifname={tap},mac={mac},depth=128"
            ));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let log = root.path().join("console");
        let mut process = Guarded::spawn_with("guest", &net.wrapper(), &words, &log, |command| {
            // It maps its memory from a file in TMPDIR: that must be a memory file system.
            if Path::new("/dev/shm").is_dir() {
                command.env("TMPDIR", "/dev/shm");
            }
        });
        process.wait_for_log(READY, BOOT);
        // Only now: opening a TAP the guest asks for large and unfinished packets, which its
        // driver then cannot take.
        for Card { tap, .. } in cards {
            no_offload(net, tap);
        }
        Self {
            process,
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
        let stem = self.root.path().join("mail").join(serial.to_string());
        let draft = stem.with_extension("draft");
        fs::write(&draft, format!("{command}\n")).expect("the mailbox");
        fs::rename(&draft, stem.with_extension("cmd")).expect("the mailbox");
        Running {
            guest: self,
            command: command.to_owned(),
            out: stem.with_extension("out"),
        }
    }

    /// Where a file of the guest is on this machine.
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
    guest: &'g UmlGuest,
    command: String,
    out: PathBuf,
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
            out,
        } = self;
        let text = wait_for(timeout, || fs::read_to_string(&out).ok());
        let Some((text, _)) = text else {
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

/// Fills the guest's root directory: busybox, the real `ip` and `ping` with their libraries,
/// kernel modules and an init that sets up and then serves the mailbox.
fn furnish(root: &Path, cards: usize, setup: &str) {
    for dir in ["bin", "sbin", "proc", "sys", "dev", "tmp", "mods", "mail"] {
        fs::create_dir_all(root.join(dir)).expect("the guest's directories");
    }
    copy(Path::new(BUSYBOX), &root.join("bin/busybox"));
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("an applet");
    }
    for tool in ["ip", "ping"] {
        let found = succeed(Command::new("sh").args(["-c", &format!("command -v {tool}")]));
        let found = PathBuf::from(found.trim());
        copy(&found, &root.join("sbin").join(tool));
        for library in libraries(&found) {
            let target = root.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(target.parent().unwrap_or(root)).expect("the library directory");
            copy(&library, &target);
        }
    }
    for module in modules() {
        let name = module.file_name().expect("a module has a name");
        copy(&module, &root.join("mods").join(name));
    }
    let waits: String = (0..cards).map(|n| format!("need vec{n}\n")).collect();
    let init = INIT
        .replace("@WAITS@", &waits)
        .replace("@SETUP@", setup)
        .replace("@READY@", READY);
    let path = root.join("init");
    fs::write(&path, init).expect("the guest's init");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable init");
}

const INIT: &str = r#"#!/bin/sh
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for pass in 1 2 3; do for m in /mods/*.ko; do insmod $m 2>/dev/null; done; done
need() { n=0; while [ ! -d /sys/class/net/$1 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done; }
# By path: a busybox shell would prefer its own applet.
ip() { /sbin/ip "$@"; }
@WAITS@
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up
set -e
@SETUP@
set +e
echo "@READY@ $(cat /proc/uptime)"
while :; do
  for c in /mail/*.cmd; do
    [ -f "$c" ] || continue
    b=${c%.cmd}
    mv $c $b.run
    ( ( . $b.run ) > $b.tmp 2>&1; code=$?; echo >> $b.tmp; echo $code >> $b.tmp; mv $b.tmp $b.out ) &
  done
  sleep 0.05
done
"#;

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to)
        .unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

/// The shared libraries a program needs, and its loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listing = succeed(Command::new("ldd").arg(program));
    listing
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn modules() -> Vec<PathBuf> {
    let listing = succeed(Command::new("find").args([MODULES, "-name", "*.ko"]));
    let all: Vec<PathBuf> = listing.lines().map(PathBuf::from).collect();
    WANTED
        .iter()
        .filter_map(|name| {
            all.iter()
                .find(|path| path.file_stem().is_some_and(|stem| stem == *name))
                .cloned()
        })
        .collect()
}
