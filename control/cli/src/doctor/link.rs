//! What can be known of one interface: sysfs first, `ip` and `ethtool` for the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::system::{Answer, System};

const ETHERNET: u64 = 1;
const IFF_UP: u64 = 1;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    /// It carries Ethernet frames.
    pub(super) ethernet: bool,
    /// Administratively up.
    pub(super) up: bool,
    /// A cable, or the other end of the pair, is there.
    pub(super) carrier: bool,
    pub(super) mtu: u64,
    /// Kernel driver; `None`: not to be found out.
    pub(super) driver: Option<String>,
    pub(super) rx_queues: usize,
    pub(super) tx_queues: usize,
    /// The other end of a veth pair, if it is in this namespace.
    pub(super) veth_peer: Option<String>,
    /// VLAN interfaces on top.
    pub(super) vlan_uppers: Vec<String>,
    /// The XDP program attached; `Err` if it cannot be found out.
    pub(super) xdp: Result<Option<Xdp>, Unknown>,
    /// Offloads by name; `Err` if they cannot be found out.
    pub(super) features: Result<BTreeMap<String, Feature>, Unknown>,
    /// Queues that the RSS table uses; empty if there is no table.
    pub(super) rss_queues: BTreeSet<usize>,
}

/// Why something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// The command is not installed.
    Missing,
    /// The command did not say.
    Failed,
}

/// An attached XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Xdp {
    pub(super) id: u64,
    pub(super) mode: &'static str,
}

/// One offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) on: bool,
    /// It cannot be changed.
    pub(super) fixed: bool,
}

/// Interfaces that could be ports: Ethernet, and not made of others.
pub(super) fn candidates(system: &System) -> Vec<String> {
    let names = system.list("/sys/class/net");
    let fits = |name: &String| {
        let made_up = system
            .read(format!("/sys/class/net/{name}/uevent"))
            .is_some_and(|text| text.contains("DEVTYPE="));
        let hardware = system
            .path(format!("/sys/class/net/{name}/device"))
            .exists();
        is_ethernet(system, name) && (hardware || !made_up) && !name.starts_with("ifb")
    };
    names.into_iter().filter(fits).collect()
}

fn is_ethernet(system: &System, name: &str) -> bool {
    system.number(format!("/sys/class/net/{name}/type")) == Some(ETHERNET)
}

impl Link {
    /// Looks at an interface; `None` if there is none of that name.
    pub(super) fn read(system: &System, name: &str) -> Option<Self> {
        let dir = format!("/sys/class/net/{name}");
        if name.contains('/') || !system.path(&dir).exists() {
            return None;
        }
        let details = ip_details(system, name);
        let flags = system.read(format!("{dir}/flags")).unwrap_or_default();
        let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        let queues = system.list(format!("{dir}/queues"));
        let count = |prefix: &str| queues.iter().filter(|q| q.starts_with(prefix)).count();
        Some(Self {
            name: name.to_owned(),
            ethernet: is_ethernet(system, name),
            up: flags & IFF_UP != 0,
            carrier: system.number(format!("{dir}/carrier")) == Some(1),
            mtu: system.number(format!("{dir}/mtu")).unwrap_or(0),
            driver: driver(system, name, details.as_ref().ok()),
            rx_queues: count("rx-"),
            tx_queues: count("tx-"),
            veth_peer: veth_peer(system, name),
            vlan_uppers: vlan_uppers(system, name),
            xdp: details.map(|d| attached(&d)),
            features: features(system, name),
            rss_queues: rss_queues(system, name),
        })
    }

    /// Queues that can carry a worker: those that exist in both directions.
    pub(super) fn usable_queues(&self) -> usize {
        self.rx_queues.min(self.tx_queues)
    }
}

fn ip_details(system: &System, name: &str) -> Result<Value, Unknown> {
    match system.ask("ip", &["-j", "-d", "link", "show", "dev", name]) {
        Answer::Text(text) => {
            let all: Value = serde_json::from_str(&text).map_err(|_| Unknown::Failed)?;
            all.get(0).cloned().ok_or(Unknown::Failed)
        }
        Answer::Missing => Err(Unknown::Missing),
        Answer::Failed => Err(Unknown::Failed),
    }
}

fn driver(system: &System, name: &str, details: Option<&Value>) -> Option<String> {
    let hardware = system.link_name(format!("/sys/class/net/{name}/device/driver"));
    let kind = details
        .and_then(|d| d.pointer("/linkinfo/info_kind")?.as_str())
        .map(ToOwned::to_owned);
    // Drivers on a bus of their own, e.g. virtio, have the name there as well.
    hardware.or(kind).or_else(|| {
        let Answer::Text(text) = system.ask("ethtool", &["-i", name]) else {
            return None;
        };
        let line = text.lines().find_map(|l| l.strip_prefix("driver:"))?;
        Some(line.trim().to_owned())
    })
}

fn veth_peer(system: &System, name: &str) -> Option<String> {
    let number = |of: &str, file: &str| system.number(format!("/sys/class/net/{of}/{file}"));
    let (own, peer) = (number(name, "ifindex")?, number(name, "iflink")?);
    if own == peer {
        return None;
    }
    // Indices are per namespace: only a peer that points back is ours.
    let points_back =
        |n: &String| number(n, "ifindex") == Some(peer) && number(n, "iflink") == Some(own);
    let names = system.list("/sys/class/net");
    names.into_iter().find(points_back)
}

fn vlan_uppers(system: &System, name: &str) -> Vec<String> {
    let entries = system.list(format!("/sys/class/net/{name}"));
    let uppers = entries.iter().filter_map(|e| e.strip_prefix("upper_"));
    let is_vlan = |upper: &&str| {
        let uevent = system.read(format!("/sys/class/net/{upper}/uevent"));
        uevent.is_some_and(|text| text.contains("DEVTYPE=vlan"))
    };
    uppers.filter(is_vlan).map(ToOwned::to_owned).collect()
}

fn attached(details: &Value) -> Option<Xdp> {
    let xdp = details.get("xdp")?;
    let mode = |value: &Value| match value.get("mode").and_then(Value::as_u64) {
        Some(1) => "native",
        Some(2) => "generic",
        Some(3) => "offloaded",
        _ => "unknown",
    };
    let id = |value: &Value| value.pointer("/prog/id").and_then(Value::as_u64);
    if let Some(found) = id(xdp) {
        return Some(Xdp {
            id: found,
            mode: mode(xdp),
        });
    }
    // Several at once stand in a list.
    let first = xdp.get("attached")?.get(0)?;
    Some(Xdp {
        id: id(first)?,
        mode: mode(first),
    })
}

fn features(system: &System, name: &str) -> Result<BTreeMap<String, Feature>, Unknown> {
    match system.ask("ethtool", &["-k", name]) {
        Answer::Text(text) => Ok(parse_features(&text)),
        Answer::Missing => Err(Unknown::Missing),
        Answer::Failed => Err(Unknown::Failed),
    }
}

fn parse_features(text: &str) -> BTreeMap<String, Feature> {
    let line = |line: &str| {
        let (name, value) = line.trim().split_once(':')?;
        let feature = Feature {
            on: value.trim_start().starts_with("on"),
            fixed: value.contains("[fixed]"),
        };
        (!value.trim().is_empty()).then(|| (name.to_owned(), feature))
    };
    text.lines().filter_map(line).collect()
}

fn rss_queues(system: &System, name: &str) -> BTreeSet<usize> {
    match system.ask("ethtool", &["-x", name]) {
        Answer::Text(text) => parse_rss(&text),
        Answer::Missing | Answer::Failed => BTreeSet::new(),
    }
}

/// Lines like `    8:      0     1     2     3`.
fn parse_rss(text: &str) -> BTreeSet<usize> {
    let mut queues = BTreeSet::new();
    for line in text.lines() {
        let Some((index, entries)) = line.split_once(':') else {
            continue;
        };
        if index.trim().parse::<usize>().is_err() {
            continue;
        }
        queues.extend(
            entries
                .split_whitespace()
                .filter_map(|e| e.parse::<usize>().ok()),
        );
    }
    queues
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::Path;

    /// Writes what sysfs shows of an interface.
    pub(crate) fn sysfs(root: &Path, name: &str, ifindex: u32, iflink: u32, queues: (u32, u32)) {
        let dir = root.join("sys/class/net").join(name);
        for (prefix, count) in [("rx", queues.0), ("tx", queues.1)] {
            for queue in 0..count {
                std::fs::create_dir_all(dir.join(format!("queues/{prefix}-{queue}"))).unwrap();
            }
        }
        for (file, text) in [
            ("type", "1".to_owned()),
            ("flags", "0x1003".to_owned()),
            ("carrier", "1".to_owned()),
            ("mtu", "1500".to_owned()),
            ("ifindex", ifindex.to_string()),
            ("iflink", iflink.to_string()),
            ("uevent", String::new()),
        ] {
            std::fs::write(dir.join(file), text + "\n").unwrap();
        }
    }

    #[test]
    fn sysfs_alone_says_much() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "v0", 3, 4, (2, 1));
        sysfs(dir.path(), "v1", 4, 3, (1, 1));
        let link = Link::read(&System::fake(dir.path(), &[]), "v0").unwrap();
        assert!(link.ethernet && link.up && link.carrier);
        assert_eq!(
            (link.mtu, link.rx_queues, link.usable_queues()),
            (1500, 2, 1)
        );
        assert_eq!(link.veth_peer.as_deref(), Some("v1"));
        assert_eq!(link.xdp, Err(Unknown::Missing));
        assert_eq!(link.features, Err(Unknown::Missing));
    }

    #[test]
    fn a_peer_in_another_namespace_is_not_taken_for_one_here() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "v0", 3, 4, (1, 1));
        sysfs(dir.path(), "other", 4, 4, (1, 1));
        let link = Link::read(&System::fake(dir.path(), &[]), "v0").unwrap();
        assert_eq!(link.veth_peer, None);
    }

    #[test]
    fn ip_tells_kind_and_program() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "v0", 3, 3, (1, 1));
        let text = r#"[{"ifname":"v0","xdp":{"mode":1,"prog":{"id":42,"tag":"x"}},
                        "linkinfo":{"info_kind":"veth"}}]"#;
        let command = "ip -j -d link show dev v0";
        let link = Link::read(&System::fake(dir.path(), &[(command, text)]), "v0").unwrap();
        assert_eq!(link.driver.as_deref(), Some("veth"));
        let expected = Xdp {
            id: 42,
            mode: "native",
        };
        assert_eq!(link.xdp, Ok(Some(expected)));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "v0", 3, 3, (1, 1));
        let system = System::fake(dir.path(), &[]);
        assert_eq!(Link::read(&system, "v1"), None);
        assert_eq!(Link::read(&system, "../net/v0"), None);
    }

    #[test]
    fn ethtool_output_is_understood() {
        let features = parse_features(
            "Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: off\n\
             \ttx-checksum-ipv4: off [fixed]\nrx-vlan-offload: on\n",
        );
        assert_eq!(features.len(), 4);
        assert!(features["rx-checksumming"].fixed);
        let on = Feature {
            on: true,
            fixed: false,
        };
        assert_eq!(features["rx-vlan-offload"], on);
        let queues = parse_rss(
            "RX flow hash indirection table for eth0 with 4 RX ring(s):\n\
             \x20   0:      0     1     2     3\n    8:      0     1     2     3\n\
             RSS hash key:\nab:cd:01\nRSS hash function:\n    toeplitz: on\n",
        );
        assert_eq!(queues.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn interfaces_made_of_others_are_no_candidates() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "eth0", 2, 2, (1, 1));
        sysfs(dir.path(), "eth0.7", 5, 2, (1, 1));
        sysfs(dir.path(), "ifb0", 6, 6, (1, 1));
        sysfs(dir.path(), "lo", 1, 1, (1, 1));
        let net = dir.path().join("sys/class/net");
        std::fs::write(net.join("eth0.7/uevent"), "DEVTYPE=vlan\n").unwrap();
        std::fs::write(net.join("lo/type"), "772\n").unwrap();
        std::fs::write(net.join("eth0/upper_eth0.7"), "").unwrap();
        let system = System::fake(dir.path(), &[]);
        assert_eq!(candidates(&system), ["eth0"]);
        assert_eq!(Link::read(&system, "eth0").unwrap().vlan_uppers, ["eth0.7"]);
    }
}
