//! The mirror against the kernel, in namespaces of its own.
//!
//! ```text
//!   relay namespace                    peer namespace
//!   eth0 192.0.2.1/24     ------------ peer0 192.0.2.2/24
//!        2001:db8::1/64                      2001:db8::2/64
//!   eth1 198.51.100.1/24  ------------ peer1 198.51.100.2/24
//! ```

mod follow;
mod keep;

use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sixferry_fwd::{
    NextHop, NextHopState, PortId, Route, RouteView, Settings, TablesBuilder, link_scoped,
};
use tokio::time::Instant;

use super::view::TableSink;
use super::{HostAddresses, Mirror, MirrorConfig, MirrorSink, PortSpec, VlanPolicy};

/// A change that the kernel announces is followed within this time. These tests have the machine to
/// themselves (`.config/nextest.toml`).
const FOLLOWED: Duration = Duration::from_secs(1);
/// What takes the kernel itself a while: resolution, and carriers, which it announces once a second.
const PATIENCE: Duration = Duration::from_secs(30);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Two namespaces joined by two veth pairs; removed with everything in them on drop.
struct Lab {
    relay: String,
    peer: String,
}

impl Lab {
    fn new() -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("sfn-{}-{serial}-{end}", std::process::id());
        let lab = Self {
            relay: name("r"),
            peer: name("p"),
        };
        for ns in [&lab.relay, &lab.peer] {
            run(&["ip", "netns", "add", ns]);
            run(&["ip", "-n", ns, "link", "set", "lo", "up"]);
            // Without a link-local address of its own the kernel asks for no neighbour.
            let no_detection = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad";
            run(&["ip", "netns", "exec", ns, "sh", "-c", no_detection]);
        }
        for i in ["0", "1"] {
            let (own, other) = (format!("eth{i}"), format!("peer{i}"));
            run(&[
                "ip", "-n", &lab.relay, "link", "add", &own, "type", "veth", "peer", "name",
                &other, "netns", &lab.peer,
            ]);
            lab.ip(&format!("link set {own} up"));
            lab.peer_ip(&format!("link set {other} up"));
        }
        lab.ip("addr add 192.0.2.1/24 brd + dev eth0");
        lab.ip("addr add 2001:db8::1/64 dev eth0 nodad");
        lab.ip("addr add 198.51.100.1/24 dev eth1");
        lab.peer_ip("addr add 192.0.2.2/24 dev peer0");
        lab.peer_ip("addr add 2001:db8::2/64 dev peer0 nodad");
        lab.peer_ip("addr add 198.51.100.2/24 dev peer1");
        lab.settled();
        lab
    }

    /// Waits until both ends ask for neighbours and answer: the kernel makes a new IPv6 address's route
    /// to itself a moment later.
    fn settled(&self) {
        let until = Instant::now() + PATIENCE;
        for (ns, own) in [(&self.relay, "2001:db8::1 "), (&self.peer, "2001:db8::2 ")] {
            while !ip(ns, "-6 route show table local").contains(own)
                || !ip(ns, "-6 addr show tentative").is_empty()
            {
                assert!(Instant::now() < until, "addresses of {ns} remain tentative");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn ip(&self, arguments: &str) -> String {
        ip(&self.relay, arguments)
    }

    fn peer_ip(&self, arguments: &str) -> String {
        ip(&self.peer, arguments)
    }

    /// Whether the kernel knows VLAN devices at all; any other refusal fails the test later.
    fn has_vlans(&self) -> bool {
        let add = "link add link eth0 name probe type vlan id 1";
        let mut command = Command::new("ip");
        let output = command
            .args(["-n", &self.relay])
            .args(add.split(' '))
            .output()
            .expect("runs");
        !String::from_utf8_lossy(&output.stderr).contains("Unknown device type")
    }

    fn mac(&self, ns: &str, device: &str) -> [u8; 6] {
        let shown = ip(ns, &format!("-o link show dev {device}"));
        let mut words = shown
            .split_whitespace()
            .skip_while(|word| *word != "link/ether");
        let text = words.nth(1).expect("a MAC address");
        let bytes: Vec<u8> = text
            .split(':')
            .map(|b| u8::from_str_radix(b, 16).expect("hex"))
            .collect();
        bytes.try_into().expect("six bytes")
    }

    fn peer_mac(&self) -> [u8; 6] {
        self.mac(&self.peer, "peer0")
    }

    /// Runs `body` in the relay's namespace, on a thread that ends with it.
    fn run<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                runtime().block_on(body());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn enter(&self) {
        let ns = std::fs::File::open(format!("/run/netns/{}", self.relay)).expect("namespace");
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&ns), Some(kind))
            .expect("enter the namespace");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [&self.relay, &self.peer] {
            // Half-made labs lack one; there is nobody to tell during a panic.
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ip(ns: &str, arguments: &str) -> String {
    let mut command = vec!["ip", "-n", ns];
    command.extend(arguments.split_whitespace());
    run(&command)
}

/// Real tables, and the host addresses as last told.
struct Recorder {
    tables: Mutex<TablesBuilder>,
    hosts: Mutex<HostAddresses>,
}

impl MirrorSink for Recorder {
    fn with_tables(&self, edit: &mut dyn FnMut(&mut dyn TableSink)) {
        edit(&mut *self.tables.lock());
    }

    fn host_addresses(&self, addresses: &HostAddresses) {
        self.hosts.lock().clone_from(addresses);
    }
}

struct Running {
    mirror: Mirror,
    sink: Arc<Recorder>,
}

impl Running {
    async fn start(adapt: impl FnOnce(&mut MirrorConfig)) -> Self {
        let port = |id, name: &str| PortSpec {
            id: PortId(id),
            name: name.into(),
            vlans: VlanPolicy::Auto,
        };
        let mut config = MirrorConfig::new(vec![port(0, "eth0"), port(1, "eth1")]);
        adapt(&mut config);
        let tables = Mutex::new(TablesBuilder::new(Settings::default(), 1));
        let sink = Arc::new(Recorder {
            tables,
            hosts: Mutex::default(),
        });
        let mirror = Mirror::start(config, sink.clone())
            .await
            .expect("the mirror starts");
        Self { mirror, sink }
    }

    /// The route to an address with the length of its prefix, 255 for none.
    fn lookup(&self, addr: &str) -> (u8, Option<Route>) {
        let tables = self.sink.tables.lock();
        let found = match addr.parse().expect("address") {
            IpAddr::V4(a) => tables.lookup4(a).map(|(prefix, view)| (prefix.len(), view)),
            IpAddr::V6(a) => tables.lookup6(a).map(|(prefix, view)| (prefix.len(), view)),
        };
        match found {
            Some((len, RouteView::Route(route))) => (len, Some(route)),
            Some((len, _)) => (len, None),
            None => (255, None),
        }
    }

    fn hop(&self, addr: &str) -> Option<NextHop> {
        match self.lookup(addr) {
            (_, Some(Route::NextHop(id))) => self.sink.tables.lock().next_hop(id).copied(),
            _ => None,
        }
    }

    fn state(&self, addr: &str) -> Option<NextHopState> {
        self.hop(addr).map(|hop| hop.state)
    }

    fn sent_by(&self, addr: &str, port: u8) -> bool {
        self.hop(addr).is_some_and(|hop| hop.port == PortId(port))
    }

    fn resolved(&self, addr: &str, mac: [u8; 6]) -> bool {
        self.state(addr) == Some(NextHopState::Resolved { dst_mac: mac })
    }

    async fn followed(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.within(FOLLOWED, what, condition).await;
    }

    async fn soon(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.within(PATIENCE, what, condition).await;
    }

    async fn within(&self, limit: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !condition(self) {
            assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
