//! Namespaces and processes of a trial; both go when their guard does.

use super::{Context, Error};
use crate::frame::{INSIDE_MAC, OUTSIDE_MAC, RELAY_MAC};
use crate::pktgen;
use crate::pktgen::generator::Choice;
pub use crate::pktgen::remote::{Role, hold, weigh};
use crate::pktgen::role::{FIRST_IN_LINE, Seat};
use crate::pktgen::traffic::Traffic;
use crate::population::LOCAL;
use serde::Deserialize;
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// All namespaces begin with this, followed by the process id and the number of the lab.
const PREFIX: &str = "sfb";

/// Exit code after an interrupt, as shells have it.
const INTERRUPTED: i32 = 130;

/// An address that the device reaches where the tunnels are.
pub const ECHO: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 4, 0, 0, 0, 0, 2);

/// An IPv6 address of the device.
pub const RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// A namespace's part in the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The generator's end.
    Generator,
    /// The device under test.
    Device,
    /// The sink's end.
    Sink,
}

impl Place {
    const ALL: [Self; 3] = [Self::Generator, Self::Device, Self::Sink];

    const fn name(self) -> &'static str {
        match self {
            Self::Generator => "gen",
            Self::Device => "dut",
            Self::Sink => "sink",
        }
    }
}

/// The three namespaces, linked; removed on drop.
#[derive(Debug)]
pub struct Lab(u32);

/// The number of the next lab.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Makes the namespaces, removing those of a bench that was killed.
    ///
    /// # Errors
    /// Without root, or when `ip` fails.
    pub fn new() -> Result<Self, Error> {
        sweep();
        let lab = Self(NEXT.fetch_add(1, Ordering::Relaxed));
        for place in Place::ALL {
            let name = lab.namespace(place);
            run(Command::new("ip").args(["netns", "add", &name]))?;
            // nothing but the bench's packets, and addresses usable at once
            let mut script = "cd /proc/sys/net/ipv6/conf/default; \
                              echo 0 > accept_dad; echo 0 > router_solicitations"
                .to_owned();
            if place != Place::Device {
                // a multicast report that a timer sends on the worker's CPU would take the device's
                // receive work there, where it starves as long as there is more of it
                script.push_str("; echo 1 > disable_ipv6");
            }
            run(Command::new("ip").args(["netns", "exec", &name, "sh", "-ec", &script]))?;
        }
        lab.link()?;
        Ok(lab)
    }

    fn link(&self) -> Result<(), Error> {
        use Place::{Device, Generator, Sink};
        let device = self.namespace(Device);
        for (place, near, far) in [(Generator, "gen0", "dut0"), (Sink, "sink0", "dut1")] {
            let pair = format!("link add {near} type veth peer name {far} netns {device}");
            self.ip(place, &pair)?;
        }
        for (place, interface, mac) in [
            (Generator, "gen0", OUTSIDE_MAC),
            (Device, "dut0", RELAY_MAC),
            (Device, "dut1", RELAY_MAC),
            (Sink, "sink0", INSIDE_MAC),
        ] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            self.ip(place, &format!("link set {interface} address {mac} up"))?;
            // frames redirected into a veth need its peer to poll, which GRO switches on
            let namespace = self.namespace(place);
            let args = ["netns", "exec", &namespace, "ethtool", "-K", interface];
            run(Command::new("ip")
                .args(args)
                .args(["gro", "on", "tx", "off"]))?;
        }
        let [inside, outside] = [INSIDE_MAC, OUTSIDE_MAC].map(mac_text);
        for words in [
            format!("addr add {LOCAL}/24 dev dut0"),
            "addr add 198.18.1.1/24 dev dut1".to_owned(),
            format!("addr add {RELAY}/64 dev dut1 nodad"),
            // the sink answers no ARP and no neighbour discovery
            format!("neigh add 198.18.1.2 lladdr {inside} dev dut1 nud permanent"),
            format!("neigh add 2001:db8:2::2 lladdr {inside} dev dut1 nud permanent"),
            "route add 10.64.0.0/10 via 198.18.1.2".to_owned(),
            // the native side's /48 (RFC 5180): a host route would be a longer walk than a relay's
            "-6 route add 2001:2::/48 via 2001:db8:2::2".to_owned(),
            // and one that is reached where the tunnels are: an echo
            "addr add 2001:db8:1::1/64 dev dut0 nodad".to_owned(),
            format!("neigh add 2001:db8:1::2 lladdr {outside} dev dut0 nud permanent"),
            "-6 route add 2001:db8:4::/48 via 2001:db8:1::2".to_owned(),
        ] {
            self.ip(Device, &words)?;
        }
        Ok(())
    }

    fn namespace(&self, place: Place) -> String {
        format!(
            "{PREFIX}-{}-{}-{}",
            std::process::id(),
            self.0,
            place.name()
        )
    }

    fn ip(&self, place: Place, words: &str) -> Result<(), Error> {
        let mut command = Command::new("ip");
        command
            .args(["-n", &self.namespace(place)])
            .args(words.split(' '));
        run(&mut command)
    }

    /// A command that runs `program` in a namespace and dies with this process.
    #[must_use]
    pub fn command(&self, place: Place, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(place)])
            .args(["setsid", "setpriv", "--pdeathsig", "KILL"])
            .arg(program);
        command
    }

    /// Counters of the kernel for a link of a namespace.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn link_counters(&self, place: Place, interface: &str) -> Result<LinkCounters, Error> {
        let mut command = Command::new("ip");
        command
            .args([
                "-n",
                &self.namespace(place),
                "-s",
                "-j",
                "link",
                "show",
                interface,
            ])
            .stdin(Stdio::null());
        let output = command.output().during(interface)?;
        let links: Vec<Link> = serde_json::from_slice(&output.stdout).during(interface)?;
        let first = links.into_iter().next();
        Ok(first.ok_or("no such link").during(interface)?.stats64)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in Place::ALL {
            _ = run(Command::new("ip").args(["netns", "del", &self.namespace(place)]));
        }
    }
}

/// Removes this process's namespaces.
fn remove() {
    let own = std::process::id().to_string();
    remove_namespaces(|process| process == Some(&own));
}

/// A directory of this process, removed on drop or by an interrupt.
///
/// # Errors
/// When there is no place for one.
pub fn directory() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&directory_prefix())
        .tempdir()
}

fn directory_prefix() -> String {
    format!("{PREFIX}-{}-", std::process::id())
}

fn remove_directories() {
    let prefix = directory_prefix();
    let entries = std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten();
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// From now on an interrupt or a termination removes namespaces and directories before it ends this
/// process; the other processes end with it.
///
/// # Errors
/// When signals cannot be watched.
pub fn clean_up_when_interrupted() -> Result<(), Error> {
    when_interrupted(|| {
        remove();
        remove_directories();
    })
}

/// From now on an interrupt or a termination runs `clean_up` before it ends this process.
///
/// # Errors
/// When signals cannot be watched.
pub fn when_interrupted(clean_up: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("a runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let watch = |kind| signal(kind).during("watching for signals");
        (
            watch(SignalKind::interrupt())?,
            watch(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        clean_up();
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// What `ip -s -j link` says.
#[derive(Deserialize)]
struct Link {
    stats64: LinkCounters,
}

/// A link's counters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct LinkCounters {
    /// Into the namespace.
    pub rx: LinkDirection,
    /// Out of it.
    pub tx: LinkDirection,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct LinkDirection {
    /// Frames.
    pub packets: u64,
    /// Frames lost in the kernel.
    pub dropped: u64,
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Removes namespaces whose bench is gone.
fn sweep() {
    remove_namespaces(|process| {
        let alive = |process| Path::new("/proc").join(process).exists();
        process.is_some_and(|process| !alive(process))
    });
}

/// Removes the namespaces of benches whose process is such a one.
fn remove_namespaces(whose: impl Fn(Option<&str>) -> bool) {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        if parts.next() == Some(PREFIX) && whose(parts.next()) {
            _ = run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails; the error has what it said.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let action = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().during(&action)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(text).during(action)
}

impl Lab {
    /// Starts a generator at `gen0` that waits for orders.
    ///
    /// # Errors
    /// What does not start.
    pub fn generator(&self, traffic: &Traffic, cpu: usize) -> Result<Role, Error> {
        let nice = FIRST_IN_LINE;
        self.sender(traffic, Seat { cpu, nice }, Choice::Xdp)
    }

    /// The same for a few frames a second: it leaves most of its CPU to others.
    ///
    /// # Errors
    /// What does not start.
    pub fn slow_generator(&self, traffic: &Traffic, cpu: usize) -> Result<Role, Error> {
        self.sender(traffic, Seat { cpu, nice: 0 }, Choice::Packet)
    }

    fn sender(&self, traffic: &Traffic, seat: Seat, choice: Choice) -> Result<Role, Error> {
        let mut command = self.command(Place::Generator, &pktgen::program()?);
        pktgen::spawn_generator(&mut command, "gen0", traffic, seat, choice)
    }

    /// Starts a sink.
    ///
    /// # Errors
    /// What does not start.
    pub fn sink(&self, place: Place, interface: &str) -> Result<Role, Error> {
        let mut command = self.command(place, &pktgen::program()?);
        pktgen::spawn_sink(&mut command, interface, FIRST_IN_LINE)
    }
}

impl Role {
    /// Starts this program with `args` and waits until it is at work; `nice` is its weight against
    /// whatever else the host does.
    ///
    /// # Errors
    /// When it ends instead; it has said why on standard error.
    pub fn start(lab: &Lab, place: Place, nice: i32, args: &[&str]) -> Result<Self, Error> {
        let program = std::env::current_exe().during("this program's path")?;
        let mut command = lab.command(place, &program);
        Self::spawn(args.join(" "), command.args(args), nice)
    }
}
