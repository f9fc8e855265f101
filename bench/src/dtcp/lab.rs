//! The two namespaces of the bench; removed when their guard goes, and by an interrupt.

use super::{RELAY, clients};
use crate::e2e::lab::{run, when_interrupted};
use crate::e2e::{Context, Error};
use parking_lot::Mutex;
use sixferry_postgres::Cluster;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// All namespaces and directories begin with this, followed by the process id.
const PREFIX: &str = "sfs";

/// A namespace's part in the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The daemons.
    Relay,
    /// The clients.
    Users,
}

impl Place {
    const ALL: [Self; 2] = [Self::Relay, Self::Users];

    fn namespace(self) -> String {
        let role = match self {
            Self::Relay => "relay",
            Self::Users => "users",
        };
        format!("{PREFIX}-{}-{role}", std::process::id())
    }
}

/// The namespaces, linked.
#[derive(Debug)]
pub struct Lab(());

impl Lab {
    /// Makes the namespaces, removing those of a bench that was killed. So many connections may wait
    /// for the daemon to accept them.
    ///
    /// # Errors
    /// Without root, or when `ip` fails.
    pub fn new(somaxconn: u32) -> Result<Self, Error> {
        sweep();
        let lab = Self(());
        for place in Place::ALL {
            let name = place.namespace();
            run(Command::new("ip").args(["netns", "add", &name]))?;
            shell(
                place,
                "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
                 ip link set lo up",
            )?;
        }
        // as the operator guide has it: everybody at once must fit in the listening queue
        shell(
            Place::Relay,
            &format!("echo {somaxconn} > /proc/sys/net/core/somaxconn"),
        )?;
        let relay = Place::Relay.namespace();
        for pair in ["u0 type veth peer name r0", "i0 type veth peer name r1"] {
            ip(Place::Users, &format!("link add {pair} netns {relay}"))?;
        }
        for (place, link) in [
            (Place::Users, "u0"),
            (Place::Users, "i0"),
            (Place::Relay, "r0"),
            (Place::Relay, "r1"),
        ] {
            // frames redirected into a veth need its peer to poll, which GRO switches on
            shell(place, &format!("ethtool -K {link} gro on tx off"))?;
            // that ring has 256 places: thousands of clients at once must queue before it, or a
            // lost SYN is sent again a second later, as if the daemon had been slow
            shell(
                place,
                &format!("tc qdisc replace dev {link} root pfifo limit 65536"),
            )?;
            ip(place, &format!("link set {link} up"))?;
        }
        let clients = clients();
        ip(Place::Users, "addr add 198.18.0.2/24 dev u0")?;
        ip(Place::Users, &format!("route add local {clients} dev lo"))?;
        ip(Place::Users, "addr add 198.18.1.2/24 dev i0")?;
        ip(Place::Relay, &format!("addr add {RELAY}/24 dev r0"))?;
        ip(
            Place::Relay,
            &format!("route add {clients} via 198.18.0.2 dev r0"),
        )?;
        ip(Place::Relay, "addr add 198.18.1.1/24 dev r1")?;
        ip(Place::Relay, "addr add 2001:db8:2::1/64 dev r1 nodad")?;
        Ok(lab)
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
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove();
    }
}

fn remove() {
    for place in Place::ALL {
        _ = run(Command::new("ip").args(["netns", "del", &place.namespace()]));
    }
}

/// A directory of this process, removed on drop or by an interrupt.
///
/// # Errors
/// When there is no place for one.
pub fn directory() -> Result<TempDir, Error> {
    let prefix = directory_prefix();
    let made = tempfile::Builder::new().prefix(&prefix).tempdir();
    made.during("a directory")
}

fn directory_prefix() -> String {
    format!("{PREFIX}-{}-", std::process::id())
}

/// A PostgreSQL that an interrupt stops as well.
pub type Postgres = Arc<Mutex<Option<Cluster>>>;

/// From now on an interrupt or a termination removes everything before it ends this process.
///
/// # Errors
/// When signals cannot be watched.
pub fn clean_up_when_interrupted(postgres: Postgres) -> Result<(), Error> {
    when_interrupted(move || {
        drop(postgres.lock().take());
        remove();
        let own = directory_prefix();
        let entries = std::fs::read_dir(std::env::temp_dir());
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&own) {
                _ = std::fs::remove_dir_all(entry.path());
            }
        }
    })
}

/// Removes namespaces whose bench is gone.
fn sweep() {
    let entries = std::fs::read_dir("/run/netns");
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if bench_of(&name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            _ = run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

/// The process id of the bench a namespace is of.
fn bench_of(namespace: &str) -> Option<&str> {
    let (prefix, rest) = namespace.split_once('-')?;
    let (pid, _) = rest.split_once('-')?;
    (prefix == PREFIX && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

fn ip(place: Place, words: &str) -> Result<(), Error> {
    let mut command = Command::new("ip");
    command
        .args(["-n", &place.namespace()])
        .args(words.split(' '));
    run(&mut command)
}

fn shell(place: Place, script: &str) -> Result<(), Error> {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &place.namespace(), "sh", "-ec"])
        .arg(script);
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_this_bench_are_swept() {
        assert_eq!(bench_of("sfs-4711-relay"), Some("4711"));
        for other in ["sfs-relay", "sfb-4711-relay", "sfs-x4711-relay", "sfs", ""] {
            assert_eq!(bench_of(other), None, "{other}");
        }
    }
}
