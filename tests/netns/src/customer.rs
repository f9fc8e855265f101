//! Users of the access service: namespaces on the underlay, or behind a NAT, and the client in them.
//!
//! ```text
//!  user namespace of the lab                         customer namespace
//!  br4 198.51.100.3 --+---------------------------- wire 198.51.100.N
//!                     |              NAT namespace            customer namespace
//!                     +--- wire 198.51.100.N  in 192.168.1.1 ---- wire 192.168.1.2
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::program;
use crate::link::Veth;
use crate::net::{Net, scratch};
use crate::process::Guarded;
use crate::topology::{Lab, RELAY_V4};
use crate::wait::wait_for;

/// Logging in, on a busy machine.
const READY: Duration = Duration::from_secs(30);
/// The device of every client.
pub const DEVICE: &str = "dtcp0";
const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// A customer's host on the underlay.
#[derive(Debug)]
pub struct Customer {
    /// Where the client runs.
    pub net: Net,
    /// The address the relay sees.
    pub outer: Ipv4Addr,
    nat: Option<Net>,
    files: TempDir,
    user: String,
}

/// A running client; killed on drop.
#[derive(Debug)]
pub struct Client {
    process: Guarded,
    ready: PathBuf,
}

impl Customer {
    /// A host with the address 198.51.100.`number`.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn direct(lab: &Lab, user: &str, number: u8) -> Self {
        let net = Net::new(user);
        let outer = attach(lab, &net, user, number);
        Self::with(net, outer, None, user)
    }

    /// A host with a private address behind a NAT that has 198.51.100.`number`, and uses the UDP ports
    /// from `ports` on.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn natted(lab: &Lab, user: &str, number: u8, ports: u16) -> Self {
        let (net, nat) = (Net::new(user), Net::new("nat"));
        let outer = attach(lab, &nat, user, number);
        Veth::between(&nat, "in", &net, "wire").build();
        nat.ip(&format!("addr add {GATEWAY}/24 dev in"));
        net.ip(&format!("addr add {INSIDE}/24 dev wire"));
        net.ip(&format!("route add default via {GATEWAY}"));
        nat.sysctl("net/ipv4/ip_forward", "1");
        let customer = Self::with(net, outer, Some(nat), user);
        customer.masquerade(ports);
        customer
    }

    fn with(net: Net, outer: Ipv4Addr, nat: Option<Net>, user: &str) -> Self {
        let files = scratch("customer");
        let password = files.path().join("password");
        fs::write(&password, format!("{}\n", secret(user))).expect("written");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("mode set");
        Self {
            net,
            outer,
            nat,
            files,
            user: user.to_owned(),
        }
    }

    /// The NAT forgets every mapping, and maps UDP to ports from `ports` on from now.
    ///
    /// # Panics
    /// When there is none, or the kernel refuses.
    pub fn rebind(&self, ports: u16) {
        let nat = self.nat.as_ref().expect("there is a NAT");
        self.masquerade(ports);
        // The mappings of a masquerading interface go when it goes down.
        nat.ip("link set wire down");
        nat.ip("link set wire up");
    }

    /// What belongs to no mapping is dropped without a word, as home routers do: a reset would end the
    /// session whose mapping has just gone.
    fn masquerade(&self, ports: u16) {
        let nat = self.nat.as_ref().expect("there is a NAT");
        let last = ports + 99;
        let rules = format!(
            "flush ruleset\n\
             table ip nat {{\n chain out {{\n\
             type nat hook postrouting priority 100;\n\
             oifname \"wire\" udp dport 1-65535 masquerade to :{ports}-{last}\n\
             oifname \"wire\" masquerade\n }}\n}}\n\
             table ip filter {{\n chain in {{\n\
             type filter hook input priority 0;\n\
             iifname \"wire\" ct state new,invalid drop\n }}\n}}\n"
        );
        let file = self.files.path().join("nat");
        fs::write(&file, rules).expect("written");
        nat.run(&format!("nft -f {}", file.display()));
    }

    /// Starts the client; `options` are those of `sixferry-cpe dtcp`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn launch(&self, options: &str) -> Client {
        self.launch_as(&self.user, options)
    }

    /// The same with another user's name and this one's secret.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn launch_as(&self, user: &str, options: &str) -> Client {
        let path = |name: &str| self.files.path().join(name);
        let (password, ready) = (path("password"), path("ready"));
        let program = program("sixferry-cpe");
        let words = format!(
            "{} dtcp -u {} --password-file {} --ready-file {} -i {DEVICE} --json {options} {RELAY_V4}",
            program.display(),
            user,
            password.display(),
            ready.display()
        );
        let words: Vec<&str> = words.split_whitespace().collect();
        let name = format!("client of {user}");
        Client {
            process: Guarded::spawn(&name, &self.net.wrapper(), &words, &path("log")),
            ready,
        }
    }

    /// The same, and waits until the tunnel is up.
    ///
    /// # Panics
    /// When it is not; with the client's log.
    #[must_use]
    pub fn log_in(&self, options: &str) -> Client {
        let mut client = self.launch(options);
        client.wait_up();
        client
    }
}

/// The secret of a test's user.
#[must_use]
pub fn secret(user: &str) -> String {
    format!("{user}-has-a-secret")
}

impl Client {
    /// Waits until the tunnel is up.
    ///
    /// # Panics
    /// When it is not; with the client's log.
    pub fn wait_up(&mut self) {
        let up = wait_for(READY, || {
            let ended = self.process.ended();
            (ended.is_some() || self.is_up()).then_some(ended)
        });
        if !matches!(up, Some((None, _))) {
            panic!("no tunnel: {up:?}\n{}", self.process.log_tail());
        }
    }

    /// Whether the tunnel is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        fs::read_to_string(&self.ready).is_ok_and(|name| name.ends_with('\n'))
    }

    /// The process.
    pub fn process(&mut self) -> &mut Guarded {
        &mut self.process
    }

    /// Logs out and waits for its end.
    ///
    /// # Panics
    /// When it does not end well, or not in time.
    pub fn log_out(mut self) {
        let status = self.process.stop(READY);
        assert!(status.success(), "{status}\n{}", self.process.log_tail());
    }
}

fn attach(lab: &Lab, net: &Net, user: &str, number: u8) -> Ipv4Addr {
    let outer = Ipv4Addr::new(198, 51, 100, number);
    let port = format!("to-{user}");
    Veth::between(&lab.user, &port, net, "wire").build();
    lab.user.ip(&format!("link set {port} master br4"));
    net.ip(&format!("addr add {outer}/24 dev wire"));
    outer
}
