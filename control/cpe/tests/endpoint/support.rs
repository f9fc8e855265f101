//! Two namespaces on a wire, and the program in them.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const LEFT: &str = "192.0.2.1";
pub(crate) const RIGHT: &str = "192.0.2.2";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn ip(args: &str) -> Output {
    Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("iproute2 is installed")
}

pub(crate) fn ip_ok(args: &str) -> String {
    let output = ip(args);
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Two namespaces on one wire, gone at the end.
pub(crate) struct Wire {
    pub(crate) left: String,
    pub(crate) right: String,
    files: tempfile::TempDir,
}

impl Wire {
    pub(crate) fn new(name: &str) -> Self {
        let process = std::process::id();
        let namespace = |side: &str| format!("sixcpe-{process}-{name}-{side}");
        let wire = Self {
            left: namespace("l"),
            right: namespace("r"),
            files: tempfile::tempdir().expect("a temporary directory"),
        };
        let (left, right) = (&wire.left, &wire.right);
        ip_ok(&format!("netns add {left}"));
        ip_ok(&format!("netns add {right}"));
        ip_ok(&format!(
            "link add wire netns {left} type veth peer name wire netns {right}"
        ));
        for (namespace, address) in [(left, LEFT), (right, RIGHT)] {
            ip_ok(&format!("-n {namespace} addr add {address}/24 dev wire"));
            ip_ok(&format!("-n {namespace} link set wire up"));
            ip_ok(&format!("-n {namespace} link set lo up"));
        }
        wire
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.left, &self.right] {
            ip(&format!("netns del {namespace}"));
        }
    }
}

pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(Path::new("/run/netns").join(namespace)).expect("the namespace");
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), kind).expect("root");
                work()
            })
            .join()
            .expect("no panic inside")
    })
}

pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A socket at an IPv6 address that its namespace has. One can be bound a moment before packets to it
/// are taken: the kernel makes the route to itself later.
pub(crate) fn udp(namespace: &str, address: &str) -> UdpSocket {
    let socket = within(namespace, || UdpSocket::bind((address, 9000))).expect("bound");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    until("packets to the address are taken", || {
        let routes = ip_ok(&format!("-n {namespace} -6 route show table local"));
        routes.contains(&format!("local {address} ")).then_some(())
    });
    socket
}

/// A running `sixferry-cpe`.
pub(crate) struct Cpe {
    child: Child,
    log: PathBuf,
}

impl Cpe {
    pub(crate) fn start(wire: &Wire, namespace: &str, args: &str) -> Self {
        let ready = wire.file(&format!("{namespace}.ready"));
        let log = wire.file(&format!("{namespace}.log"));
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                namespace,
                env!("CARGO_BIN_EXE_sixferry-cpe"),
            ])
            .args(args.split_whitespace())
            .arg("--ready-file")
            .arg(&ready)
            .stdout(File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        let mut cpe = Self { child, log };
        until("the endpoint being ready", || {
            assert_eq!(cpe.child.try_wait().expect("our child"), None, "it stopped");
            fs::read_to_string(&ready)
                .ok()
                .filter(|name| name.ends_with('\n'))
        });
        cpe
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// Asks for the counters and waits until they satisfy `fits`.
    pub(crate) fn counters(&self, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        until("counters as expected", || {
            self.signal(Signal::USR1);
            let text = fs::read_to_string(&self.log).expect("the log");
            let last = text.lines().last()?;
            serde_json::from_str(last).ok().filter(&fits)
        })
    }

    /// Waits for its own end.
    pub(crate) fn code(mut self) -> Option<i32> {
        self.child.wait().expect("our child").code()
    }

    pub(crate) fn stop(mut self, signal: Signal) {
        self.signal(signal);
        assert!(
            self.child.wait().expect("our child").success(),
            "a stop is no failure"
        );
    }
}

impl Drop for Cpe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
