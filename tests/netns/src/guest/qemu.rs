//! The guest as a machine: Debian's cloud kernel in qemu with emulated instructions (no KVM is
//! asked for). Its root is an initramfs; commands go through a virtio serial port.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::rootfs::{BUSYBOX, Plan, furnish};
use super::{BOOT, Card, Mailbox};
use crate::net::Net;
use crate::process::{Guarded, succeed};
use crate::wait::wait_for;

const PROGRAM: &str = "qemu-system-x86_64";
/// The directory the kernel package was unpacked into; `scripts/setup.sh` does that.
const KERNEL_DIR: &str = "SIXFERRY_GUEST_KERNEL";
const WANTED: [&str; 15] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
    "tunnel4",
    "ip_tunnel",
    "sit",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "fou",
];

/// `no_timer_check`: on a busy machine so few emulated ticks arrive in the kernel's test of its
/// timer that it would give up.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off";

/// A message is a line with the command's number and the count of its lines, then those. The
/// port can be opened only once, so all share one descriptor, and one answer goes at a time.
const SERVE: &str = r#"
exec 3<>$port
while read -r number lines <&3; do
  b=/mail/$number
  : > $b.run
  while [ $lines -gt 0 ]; do
    IFS= read -r line <&3
    printf '%s\n' "$line" >> $b.run
    lines=$((lines-1))
  done
  ( ( . $b.run ) > $b.tmp 2>&1 3<&-; code=$?; echo >> $b.tmp; echo $code >> $b.tmp
    { echo "$number $(wc -l < $b.tmp)"; cat $b.tmp; } > $b.out
    until mkdir /mail/lock 2>/dev/null; do sleep 0.01; done
    cat $b.out >&3; rmdir /mail/lock; rm $b.run $b.tmp $b.out ) &
done"#;

pub(super) fn missing() -> Option<String> {
    for path in [BUSYBOX, "/dev/net/tun"] {
        if !Path::new(path).exists() {
            return Some(format!("{path} is not there"));
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).exists()) {
        return Some(format!(
            "{PROGRAM} is not there (Debian package qemu-system-x86)"
        ));
    }
    match kernel() {
        Some(_) => None,
        None => Some(format!(
            "no kernel for it in {} (scripts/setup.sh test)",
            kernel_dir().display()
        )),
    }
}

/// `SIXFERRY_GUEST_KERNEL`, else where `make` puts it: beside the directory of this profile.
fn kernel_dir() -> PathBuf {
    std::env::var_os(KERNEL_DIR).map_or_else(
        || {
            let here = std::env::current_exe().expect("the test executable");
            let target = here.ancestors().nth(3).unwrap_or(&here);
            target.join("tools/guest-kernel")
        },
        PathBuf::from,
    )
}

fn kernel() -> Option<PathBuf> {
    let entries = fs::read_dir(kernel_dir().join("boot")).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"))
    })
}

pub(super) fn start(
    root: &Path,
    net: &Net,
    cards: &[Card],
    setup: &str,
) -> (Guarded, Box<dyn Mailbox>) {
    let named: String = (0..cards.len())
        .map(|n| format!("need /sys/class/net/eth{n}; ip link set eth{n} name vec{n}\n"))
        .collect();
    let files = root.join("root");
    let plan = Plan {
        modules: &kernel_dir().join("lib/modules"),
        wanted: &WANTED,
        cards: &format!("{named}need /dev/vport*p1; port=$(echo /dev/vport*p1)"),
        serve: SERVE,
    };
    furnish(&files, &plan, setup);
    let (image, socket) = (root.join("initramfs"), root.join("mailbox"));
    archive(&files, &image);
    let kernel = kernel().expect("missing() was asked before");
    let mut words: Vec<String> = format!(
        "{PROGRAM} -accel tcg -cpu max -m 192M -nodefaults -display none -monitor none \
         -no-reboot -serial stdio -device virtio-serial-pci -device virtserialport,chardev=mail"
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("-kernel", kernel.display().to_string());
    option("-initrd", image.display().to_string());
    option("-append", PARAMETERS.to_owned());
    option(
        "-chardev",
        format!(
            "socket,id=mail,path={},server=on,wait=off",
            socket.display()
        ),
    );
    for (index, Card { tap, mac }) in cards.iter().enumerate() {
        // Without the extra header neither side leaves checksums or segmentation to the other.
        let tap = format!("tap,id=n{index},ifname={tap},script=no,downscript=no,vnet_hdr=off");
        option("-netdev", tap);
        option(
            "-device",
            format!("virtio-net-pci,netdev=n{index},mac={mac},romfile="),
        );
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let process = Guarded::spawn("guest", &net.wrapper(), &words, &root.join("console"));
    let stream = wait_for(BOOT, || UnixStream::connect(&socket).ok());
    let Some((stream, _)) = stream else {
        panic!("no mailbox\n{}", process.log_tail())
    };
    (process, Box::new(Port::new(stream)))
}

/// Packs a directory as an initramfs; not compressed, since the guest would be slow to undo it.
fn archive(files: &Path, image: &Path) {
    let pack = "cd \"$0\" && find . | \"$2\" cpio -o -H newc > \"$1\" 2>/dev/null";
    succeed(
        Command::new("sh")
            .args(["-c", pack])
            .arg(files)
            .arg(image)
            .arg(BUSYBOX),
    );
}

/// The mailbox as a byte stream; a thread sorts the answers. It ends when the guest does.
#[derive(Debug)]
struct Port {
    stream: Mutex<UnixStream>,
    answers: Arc<Mutex<HashMap<u32, String>>>,
}

impl Port {
    fn new(stream: UnixStream) -> Self {
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let sorted = Arc::clone(&answers);
        thread::spawn(move || {
            let mut reader = reader;
            while let Ok((number, text)) = message(&mut reader) {
                sorted.lock().insert(number, text);
            }
        });
        Self {
            stream: Mutex::new(stream),
            answers,
        }
    }
}

impl Mailbox for Port {
    fn post(&self, serial: u32, command: &str) {
        let text = format!("{serial} {}\n{command}\n", command.split('\n').count());
        let mut stream = self.stream.lock();
        stream.write_all(text.as_bytes()).expect("the mailbox");
    }

    fn answer(&self, serial: u32) -> Option<String> {
        self.answers.lock().remove(&serial)
    }
}

/// The next answer: a line with its number and length in lines, then those.
fn message(reader: &mut impl BufRead) -> io::Result<(u32, String)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an answer");
    let mut head = String::new();
    if reader.read_line(&mut head)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (number, lines) = head.trim().split_once(' ').ok_or_else(bad)?;
    let number = number.parse().map_err(|_| bad())?;
    let mut text = Vec::new();
    for _ in 0..lines.parse::<u32>().map_err(|_| bad())? {
        reader.read_until(b'\n', &mut text)?;
    }
    Ok((number, String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn answers_are_told_apart() {
        let mut stream = &b"7 3\nsaid\n\n0\n8 2\n\n1\n9"[..];
        assert_eq!(message(&mut stream).unwrap(), (7, "said\n\n0\n".to_owned()));
        assert_eq!(message(&mut stream).unwrap(), (8, "\n1\n".to_owned()));
        assert!(message(&mut stream).is_err());
    }
}
