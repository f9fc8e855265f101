//! What a guest finds on its root file system, whichever engine runs it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::READY;
use crate::process::{output, succeed};

pub(super) const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 16] = [
    "sh", "mount", "insmod", "cat", "echo", "ls", "sleep", "mv", "rm", "nc", "sync", "dmesg", "wc",
    "mkdir", "rmdir", "wget",
];

/// What differs between the engines.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// Where the kernel's modules are.
    pub(super) modules: &'a Path,
    /// Those it needs, each after what it builds on: no module index is needed. One that the
    /// kernel has built in is left out.
    pub(super) wanted: &'a [&'a str],
    /// Shell code that names the cards `vec0`, `vec1` and so on.
    pub(super) cards: &'a str,
    /// Shell code that serves the mailbox and never ends.
    pub(super) serve: &'a str,
}

/// Fills a guest's root directory: busybox, the real `ip` and `ping` with their libraries, kernel
/// modules and an init that runs `setup` and then serves the mailbox.
pub(super) fn furnish(root: &Path, plan: &Plan<'_>, setup: &str) {
    for dir in ["bin", "sbin", "proc", "sys", "dev", "tmp", "mods", "mail"] {
        fs::create_dir_all(root.join(dir)).expect("the guest's directories");
    }
    install(root, Path::new(BUSYBOX), "bin/busybox");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("an applet");
    }
    for tool in ["ip", "ping"] {
        let found = succeed(Command::new("sh").args(["-c", &format!("command -v {tool}")]));
        let found = PathBuf::from(found.trim());
        install(root, &found, &format!("sbin/{tool}"));
    }
    for (place, module) in modules(plan).iter().enumerate() {
        copy(module, &root.join(format!("mods/{place:02}.ko")));
    }
    let init = INIT
        .replace("@CARDS@", plan.cards)
        .replace("@SETUP@", setup)
        .replace("@READY@", READY)
        .replace("@SERVE@", plan.serve);
    let path = root.join("init");
    fs::write(&path, init).expect("the guest's init");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable init");
}

const INIT: &str = r#"#!/bin/sh
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for m in /mods/*.ko; do insmod $m; done
need() { n=0; while [ ! -e $1 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done; }
# By path: a busybox shell would prefer its own applet.
ip() { /sbin/ip "$@"; }
@CARDS@
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up
set -e
@SETUP@
set +e
echo "@READY@ $(cat /proc/uptime)"
@SERVE@
"#;

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to)
        .unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

/// Copies a program with the shared libraries it needs and its loader, if it has any.
fn install(root: &Path, program: &Path, place: &str) {
    copy(program, &root.join(place));
    // It fails for a static program, which needs none.
    let listing = output(Command::new("ldd").arg(program)).stdout;
    let listing = String::from_utf8_lossy(&listing);
    for library in listing.split_whitespace().filter(|w| w.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap_or(root)).expect("the library directory");
        copy(Path::new(library), &target);
    }
}

fn modules(plan: &Plan<'_>) -> Vec<PathBuf> {
    let mut find = Command::new("find");
    let listing = succeed(find.arg(plan.modules).args(["-name", "*.ko"]));
    let all: Vec<PathBuf> = listing.lines().map(PathBuf::from).collect();
    let module = |name: &&str| {
        all.iter()
            .find(|path| path.file_stem().is_some_and(|stem| stem == *name))
            .cloned()
    };
    plan.wanted.iter().filter_map(module).collect()
}
