//! Virtual cables between namespaces.

use std::fs;
use std::process::Command;

use crate::net::{Net, scratch};
use crate::process::succeed;

/// A veth pair to be made.
///
/// Transmit checksum offload is off on both ends unless asked for: a packet of the local stack
/// would otherwise cross with only the pseudo-header sum in its checksum field, and a relay that
/// takes the bytes off the wire forwards exactly those.
#[derive(Debug)]
pub struct Veth<'n> {
    ends: [(&'n Net, String); 2],
    macs: [Option<String>; 2],
    mtu: u32,
    queues: u32,
    tx_offload: bool,
}

impl<'n> Veth<'n> {
    /// A cable between interface `a_name` of `a` and interface `b_name` of `b`.
    #[must_use]
    pub fn between(a: &'n Net, a_name: &str, b: &'n Net, b_name: &str) -> Self {
        Self {
            ends: [(a, a_name.to_owned()), (b, b_name.to_owned())],
            macs: [None, None],
            mtu: 1500,
            queues: 1,
            tx_offload: false,
        }
    }

    /// Fixed MAC addresses instead of random ones.
    #[must_use]
    pub fn macs(mut self, a: &str, b: &str) -> Self {
        self.macs = [Some(a.to_owned()), Some(b.to_owned())];
        self
    }

    /// The MTU of both ends.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Receive and transmit queues of both ends.
    #[must_use]
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// Leaves the kernel's transmit offloads on, to show what they do to a relay.
    #[must_use]
    pub fn keep_tx_offload(mut self) -> Self {
        self.tx_offload = true;
        self
    }

    /// Makes it and sets both ends up.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn build(self) {
        let [(a, a_name), (b, b_name)] = &self.ends;
        let queues = self.queues;
        a.ip(&format!(
            "link add {a_name} numrxqueues {queues} numtxqueues {queues} type veth \
             peer name {b_name} numrxqueues {queues} numtxqueues {queues} netns {}",
            b.name()
        ));
        for ((net, name), mac) in self.ends.iter().zip(&self.macs) {
            if let Some(mac) = mac {
                net.ip(&format!("link set {name} address {mac}"));
            }
            net.ip(&format!("link set {name} mtu {}", self.mtu));
            if !self.tx_offload {
                no_offload(net, name);
            }
        }
        for (net, name) in &self.ends {
            net.ip(&format!("link set {name} up"));
        }
    }
}

/// Switches off whatever changes packets between the stack and the wire.
///
/// # Panics
/// When `ethtool` fails.
pub fn no_offload(net: &Net, interface: &str) {
    net.run(&format!(
        "ethtool -K {interface} tx off tso off gso off gro off txvlan off rxvlan off"
    ));
}

/// Somebody else's XDP program: passes everything, attached with `ip` the way other tools do.
const PASS: &str = r#"
__attribute__((section("xdp"), used)) int pass(void *ctx) { return 2; }
char terms[] __attribute__((section("license"), used)) = "GPL";
"#;

/// Attaches a program that is none of ours to an interface; it stays until the interface goes.
///
/// # Panics
/// When it cannot be compiled or attached.
pub fn attach_foreign_xdp(net: &Net, interface: &str) {
    let dir = scratch("xdp");
    let (source, object) = (dir.path().join("pass.c"), dir.path().join("pass.o"));
    fs::write(&source, PASS).expect("the source");
    let mut clang = Command::new("clang");
    succeed(
        clang
            .args(["-O2", "-g", "-target", "bpf", "-c"])
            .arg(&source)
            .arg("-o")
            .arg(&object),
    );
    net.ip(&format!(
        "link set dev {interface} xdp obj {} sec xdp",
        object.display()
    ));
}
