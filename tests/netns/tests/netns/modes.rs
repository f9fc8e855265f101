//! How the relay meets its interfaces: native and generic XDP, VLAN tags.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use sixferry_netns_tests::daemon::{Daemon, DaemonConfig};
use sixferry_netns_tests::ledger::balance;
use sixferry_netns_tests::tcp::bulk;
use sixferry_netns_tests::topology::{GUEST_INNER, HOST_V6, LabPlan, RELAY_V4, USER_V6};
use sixferry_netns_tests::{Net, Ping, wait_until};
use sixferry_proto::dataplane::v1::BindMode;

use crate::started;

const VID: u16 = 100;

#[test]
#[ignore = "needs root"]
fn xdp_native_mode_on_veth() {
    mode("copy", BindMode::Copy);
}

#[test]
#[ignore = "needs root"]
fn xdp_generic_mode_on_veth() {
    mode("generic", BindMode::Generic);
}

#[test]
#[ignore = "needs root"]
fn xdp_auto_mode_on_veth_says_why_it_is_not_zero_copy() {
    let Some((daemon, _lab)) = started(&LabPlan::new(), "auto", 1280) else {
        return;
    };
    for port in daemon.api().ports() {
        assert_eq!(port.bind_mode(), BindMode::Copy, "{port:?}");
        assert!(!port.bind_reason.is_empty(), "{port:?}");
    }
}

fn mode(name: &str, expected: BindMode) {
    let Some((daemon, lab)) = started(&LabPlan::new(), name, 1280) else {
        return;
    };
    for port in daemon.api().ports() {
        assert_eq!(port.bind_mode(), expected, "{port:?}");
    }
    let out = Ping::to(HOST_V6).count(3).from_guest(lab.guest());
    assert!(out.complete(), "{}\n{}", out.text, daemon.log());
    bulk(&lab.user, &lab.host, HOST_V6, 1 << 20).expect("TCP from the user");
    bulk(&lab.host, &lab.user, USER_V6, 1 << 20).expect("TCP to the user");
}

/// One worker per queue; packets of a flow come in on the queue of the CPU that sent them.
#[test]
#[ignore = "needs root"]
fn two_queues_two_workers() {
    let plan = LabPlan::new().queues(2);
    let Some((daemon, lab)) = started(&plan, "auto", 1280) else {
        return;
    };
    assert_eq!(daemon.api().info().expect("an answer").worker_count, 2);
    let out = Ping::to(HOST_V6).count(3).from_guest(lab.guest());
    assert!(out.complete(), "{}\n{}", out.text, daemon.log());
    for _ in 0..3 {
        bulk(&lab.user, &lab.host, HOST_V6, 2 << 20).expect("TCP from the user");
        bulk(&lab.host, &lab.user, USER_V6, 2 << 20).expect("TCP to the user");
    }
    let report = daemon.api().counters();
    assert_eq!(report.workers.len(), 2);
    let total = balance(&report);
    assert!(total.forwarded > 5000, "{total:?}");
}

/// A worker sent full rate has no time for others: the daemon's other threads use the other CPUs.
#[test]
#[ignore = "needs root"]
fn a_pinned_worker_has_its_cpu_for_itself() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let worker = "[worker]\nidle = \"poll\"\nfirst_cpu = 1";
    let config = DaemonConfig::default().section(worker);
    let mut daemon = Daemon::start(
        &lab.relay,
        &config.port("wan", "").port("lan", "").tunnel("mtu = 1280"),
    );
    let placed = threads(daemon.process().pid());
    let workers: Vec<_> = placed
        .iter()
        .filter(|(name, _)| name == "worker-0")
        .collect();
    assert_eq!(workers.len(), 1, "{placed:?}");
    for (name, cpus) in &placed {
        let on_its_cpu = cpus.split(',').any(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u32>().expect("a CPU");
            (number(first)..=number(last)).contains(&1)
        });
        assert_eq!(on_its_cpu, name == "worker-0", "{name} in {placed:?}");
    }
    assert!(placed.len() > 3, "{placed:?}");

    // the thread that checks the configuration again may not use the worker's CPU: it is there all the same
    daemon.process().signal(Signal::HUP);
    wait_until("the reload is over", Duration::from_secs(30), || {
        daemon.log().contains("reload by SIGHUP")
    });
    let log = daemon.log();
    assert!(!log.contains("reload refused"), "{log}");
}

/// The tables' chunks come and go: given back to the kernel in pieces, they would break up its huge pages.
#[test]
#[ignore = "needs root"]
fn freed_memory_stays_with_the_daemon() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let config = DaemonConfig::default().port("wan", "").port("lan", "");
    let mut daemon = Daemon::start(&lab.relay, &config);
    let pid = daemon.process().pid();
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    let kept = environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == b"MIMALLOC_PURGE_DELAY=-1");
    assert!(kept, "{}", String::from_utf8_lossy(&environment));
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("its name");
    assert_eq!(name.trim(), "sixferryd");
    assert!(
        !daemon.log().contains("cannot start again"),
        "{}",
        daemon.log()
    );
}

/// The threads of a process: name, and the CPUs they may use, as in `0,2-3`.
fn threads(pid: u32) -> Vec<(String, String)> {
    let listed = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    listed
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok())
        .map(|status| {
            let field = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.expect("a field").trim().to_owned()
            };
            (field("Name:"), field("Cpus_allowed_list:"))
        })
        .collect()
}

/// Tagged both ways where the kernel has VLAN interfaces; else what needs none: a tagged packet
/// is decapsulated (P41-65).
#[test]
#[ignore = "needs root"]
fn vlan_tagged_port() {
    let Some(lab) = LabPlan::new().guest_vlan(VID).build() else {
        return;
    };
    let relay = &lab.relay;
    let interfaces = relay.try_ip(&format!(
        "link add link wan name wan.{VID} type vlan id {VID}"
    ));
    let config = DaemonConfig::default().section("[worker]\nidle = \"poll\"\npin = false");
    let config = if interfaces {
        relay.ip("addr flush dev wan");
        relay.ip(&format!("addr add {RELAY_V4}/24 dev wan.{VID}"));
        relay.ip(&format!("link set wan.{VID} up"));
        config.port("wan", "vlans = \"auto\"")
    } else {
        config.port("wan", &format!("vlans = [{VID}]"))
    };
    let config = config.port("lan", "").tunnel("mtu = 1280");
    let daemon = Daemon::start(relay, &config);
    if interfaces {
        let out = Ping::to(HOST_V6).count(3).from_guest(lab.guest());
        assert!(out.complete(), "{}\n{}", out.text, daemon.log());
        let back = Ping::to(GUEST_INNER).count(3).from(&lab.host);
        assert!(back.complete(), "{}", back.text);
    } else {
        // Nobody answers ARP for the relay on that VLAN.
        let mac = relay.mac("wan");
        lab.guest().run(&format!(
            "ip neigh replace {RELAY_V4} lladdr {mac} dev vec0.{VID} nud permanent"
        ));
        let before = echo_requests(&lab.host);
        let out = Ping::to(HOST_V6).count(3).from_guest(lab.guest());
        assert_eq!(out.sent, 3, "{}", out.text);
        wait_until(
            "tagged packets are decapsulated",
            Duration::from_secs(30),
            || echo_requests(&lab.host) >= before + 3,
        );
    }
}

/// ICMPv6 echo requests a namespace has received.
fn echo_requests(net: &Net) -> u64 {
    let table = net
        .enter(|| fs::read_to_string("/proc/thread-self/net/snmp6"))
        .expect("snmp6");
    let line = table
        .lines()
        .find(|line| line.starts_with("Icmp6InEchos"))
        .expect("the counter");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}
