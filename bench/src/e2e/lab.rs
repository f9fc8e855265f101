//! Namespaces and processes of a trial; both go when their guard does.

use super::role::{READY, Reading};
use super::{Context, Error};
use crate::frame::{INSIDE_MAC, OUTSIDE_MAC, RELAY_MAC};
use crate::population::LOCAL;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// All namespaces begin with this, followed by the process id.
const PREFIX: &str = "sfb";

/// Exit code after an interrupt, as shells have it.
const INTERRUPTED: i32 = 130;

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

    fn namespace(self) -> String {
        let role = match self {
            Self::Generator => "gen",
            Self::Device => "dut",
            Self::Sink => "sink",
        };
        format!("{PREFIX}-{}-{role}", std::process::id())
    }
}

/// The three namespaces, linked; removed on drop.
#[derive(Debug)]
pub struct Lab(());

impl Lab {
    /// Makes the namespaces, removing those of a bench that was killed.
    ///
    /// # Errors
    /// Without root, or when `ip` fails.
    pub fn new() -> Result<Self, Error> {
        sweep();
        let lab = Self(());
        for place in Place::ALL {
            let name = place.namespace();
            run(Command::new("ip").args(["netns", "add", &name]))?;
            // nothing but the bench's packets, and addresses usable at once
            for key in ["default/accept_dad", "default/router_solicitations"] {
                let path = format!("/proc/sys/net/ipv6/conf/{key}");
                let write = format!("echo 0 > {path}");
                run(Command::new("ip").args(["netns", "exec", &name, "sh", "-c", &write]))?;
            }
        }
        lab.link()?;
        Ok(lab)
    }

    fn link(&self) -> Result<(), Error> {
        use Place::{Device, Generator, Sink};
        let device = Device.namespace();
        for (place, near, far) in [(Generator, "gen0", "dut0"), (Sink, "sink0", "dut1")] {
            let pair = format!("link add {near} type veth peer name {far} netns {device}");
            ip(place, &pair)?;
        }
        for (place, interface, mac) in [
            (Generator, "gen0", OUTSIDE_MAC),
            (Device, "dut0", RELAY_MAC),
            (Device, "dut1", RELAY_MAC),
            (Sink, "sink0", INSIDE_MAC),
        ] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            ip(place, &format!("link set {interface} address {mac} up"))?;
            // frames redirected into a veth need its peer to poll, which GRO switches on
            let args = [
                "netns",
                "exec",
                &place.namespace(),
                "ethtool",
                "-K",
                interface,
            ];
            run(Command::new("ip")
                .args(args)
                .args(["gro", "on", "tx", "off"]))?;
        }
        let inside = mac_text(INSIDE_MAC);
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
        ] {
            ip(Device, &words)?;
        }
        Ok(())
    }

    /// A command that runs `program` in a namespace and dies with this process.
    #[must_use]
    pub fn command(&self, place: Place, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &place.namespace()])
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
                &place.namespace(),
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
        remove();
    }
}

/// Removes this process's namespaces.
fn remove() {
    for place in Place::ALL {
        _ = run(Command::new("ip").args(["netns", "del", &place.namespace()]));
    }
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

/// Weighs a process and its threads against all other sessions of the host: where the kernel groups
/// tasks by session, a nice value counts only inside of one.
pub fn weigh(process: u32, nice: i32) {
    // without such groups there is no file, and the nice value itself counts
    _ = std::fs::write(format!("/proc/{process}/autogroup"), nice.to_string());
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
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let (prefix, pid) = (parts.next(), parts.next());
        let alive = pid.is_none_or(|pid| Path::new("/proc").join(pid).exists());
        if prefix == Some(PREFIX) && !alive {
            _ = run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

fn ip(place: Place, words: &str) -> Result<(), Error> {
    let mut command = Command::new("ip");
    command
        .args(["-n", &place.namespace()])
        .args(words.split(' '));
    run(&mut command)
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

/// A process of this program in another role; killed on drop.
#[derive(Debug)]
pub struct Role {
    name: String,
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
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

    /// The same with a command that another lab made.
    ///
    /// # Errors
    /// As [`Role::start`].
    pub fn spawn(name: String, command: &mut Command, nice: i32) -> Result<Self, Error> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .during(&name)?;
        let ask = child.stdin.take().ok_or("no pipe").during(&name)?;
        let answers = child.stdout.take().ok_or("no pipe").during(&name)?;
        let mut role = Self {
            name,
            child,
            ask,
            answers: BufReader::new(answers),
        };
        match role.line()?.as_str() {
            READY => {
                weigh(role.child.id(), nice);
                Ok(role)
            }
            other => Err(format!("said `{other}`")).during(&role.name),
        }
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).during(&self.name)?;
        if read == 0 {
            return Err("ended early").during(&self.name);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Asks for its counters.
    ///
    /// # Errors
    /// When it has ended.
    pub fn read(&mut self) -> Result<Reading, Error> {
        self.tell("")
    }

    /// Gives it a command, and asks for its counters.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, command: &str) -> Result<Reading, Error> {
        self.order(command)?;
        self.answer()
    }

    /// Gives it a command without waiting for the answer.
    ///
    /// # Errors
    /// When it has ended.
    pub fn order(&mut self, command: &str) -> Result<(), Error> {
        let line = format!("{command}\n");
        self.ask.write_all(line.as_bytes()).during(&self.name)
    }

    /// Its answer to the oldest command without one.
    ///
    /// # Errors
    /// When it has ended, or says something else.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let line = self.line()?;
        serde_json::from_str(&line).during(&self.name)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
