//! The guest as a process: user-mode-linux, whose root is a directory of ours (hostfs). That
//! doubles as the way to hand it commands and files.

use std::fs;
use std::path::{Path, PathBuf};

use super::rootfs::{BUSYBOX, Plan, furnish};
use super::{Card, Mailbox};
use crate::net::Net;
use crate::process::Guarded;

const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
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

/// A command is a file; its output appears under another name when it has ended.
const SERVE: &str = r#"
while :; do
  for c in /mail/*.cmd; do
    [ -f "$c" ] || continue
    b=${c%.cmd}
    mv $c $b.run
    ( ( . $b.run ) > $b.tmp 2>&1; code=$?; echo >> $b.tmp; echo $code >> $b.tmp; mv $b.tmp $b.out ) &
  done
  sleep 0.05
done"#;

pub(super) fn missing() -> Option<String> {
    let absent = [KERNEL, MODULES, BUSYBOX, "/dev/net/tun"]
        .into_iter()
        .find(|path| !Path::new(path).exists())?;
    Some(format!(
        "{absent} is not there (Debian packages user-mode-linux, busybox-static)"
    ))
}

pub(super) fn start(
    root: &Path,
    net: &Net,
    cards: &[Card],
    setup: &str,
) -> (Guarded, Box<dyn Mailbox>) {
    let waits: String = (0..cards.len())
        .map(|n| format!("need /sys/class/net/vec{n}\n"))
        .collect();
    let plan = Plan {
        modules: Path::new(MODULES),
        wanted: &WANTED,
        cards: &waits,
        serve: SERVE,
    };
    furnish(root, &plan, setup);
    let mut words = vec![
        KERNEL.to_owned(),
        "mem=128M".to_owned(),
        "root=/dev/root".to_owned(),
        "rootfstype=hostfs".to_owned(),
        format!("rootflags={}", root.display()),
        "rw".to_owned(),
        "init=/init".to_owned(),
        "con=null".to_owned(),
        "con0=fd:0,fd:1".to_owned(),
        "quiet".to_owned(),
    ];
    for (index, Card { tap, mac }) in cards.iter().enumerate() {
        words.push(format!(
            "vec{index}:transport=tap,ifname={tap},mac={mac},depth=128"
        ));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let log = root.join("console");
    let process = Guarded::spawn_with("guest", &net.wrapper(), &words, &log, |command| {
        // It maps its memory from a file in TMPDIR: that must be a memory file system.
        if Path::new("/dev/shm").is_dir() {
            command.env("TMPDIR", "/dev/shm");
        }
    });
    (process, Box::new(Directory(root.join("mail"))))
}

/// The mailbox as files both sides see.
#[derive(Debug)]
struct Directory(PathBuf);

impl Mailbox for Directory {
    fn post(&self, serial: u32, command: &str) {
        let stem = self.0.join(serial.to_string());
        let draft = stem.with_extension("draft");
        fs::write(&draft, format!("{command}\n")).expect("the mailbox");
        fs::rename(&draft, stem.with_extension("cmd")).expect("the mailbox");
    }

    fn answer(&self, serial: u32) -> Option<String> {
        fs::read_to_string(self.0.join(format!("{serial}.out"))).ok()
    }
}
