//! Opening ports on veth pairs: which mode, what is in the way, what is left behind.

#[path = "support/lab.rs"]
mod lab;
#[path = "support/netns.rs"]
mod netns;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{FRAMES, Lab, PATIENCE, assert_no_frame_lost, open_one, spec, steer_udp};
use sixferry_engine::{FramePool, Port};
use sixferry_xsk::open::open;
use sixferry_xsk::{
    AttachedPass, Covering, LinkInfo, OpenOptions, PortMode, QueueCounts, Rung, SetupError, Umem,
    XdpMode, XskPort, driver, queue_counts, switch_offloads_off,
};

#[test]
#[ignore = "needs root"]
fn each_worker_gets_its_queue_of_every_port() {
    let lab = Lab::new(2);
    lab.relay.run(|| {
        assert_eq!(queue_counts("r0"), QueueCounts { rx: 2, tx: 2 });
        assert_eq!(driver("r0").unwrap(), "veth");
        let options = OpenOptions {
            workers: 0,
            frames: FRAMES,
        };
        let set = open(&[spec("r0", PortMode::Auto)], options).unwrap();
        let queues: Vec<u32> = set.workers.iter().map(|w| w.ports[0].queue()).collect();
        assert_eq!(queues, [0, 1]);
        let options = OpenOptions {
            workers: 3,
            frames: FRAMES,
        };
        let error = open(&[spec("r0", PortMode::Auto)], options).err().unwrap();
        assert!(error.to_string().contains("ethtool -L r0 combined 3"));
    });
}

#[test]
#[ignore = "needs root"]
fn report_tells_why_not_a_better_mode() {
    let lab = Lab::new(1);
    lab.relay.run(|| {
        let set = open_one(PortMode::Auto).unwrap();
        let report = &set.ports[0].report;
        assert_eq!(report.rung, Rung::Copy);
        let [(Rung::ZeroCopy, why)] = report.tried.as_slice() else {
            panic!("{report}");
        };
        assert!(why.contains("not supported"), "{why}");
        drop(set);
        let error = open_one(PortMode::ZeroCopy).err().unwrap();
        assert!(
            error.to_string().contains("mode `zero-copy` cannot be had"),
            "{error}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn too_large_mtu_for_native_mode_falls_to_generic() {
    let lab = Lab::new(1);
    lab.relay.sh("ip link set r0 mtu 9000");
    lab.peer.sh("ip link set p0 mtu 9000");
    lab.relay.run(|| {
        let set = open_one(PortMode::Auto).unwrap();
        let report = &set.ports[0].report;
        assert_eq!(report.xdp_mode, XdpMode::Generic, "{report}");
        let tried: Vec<Rung> = report.tried.iter().map(|(rung, _)| *rung).collect();
        assert_eq!(tried, [Rung::ZeroCopy, Rung::Copy], "{report}");
    });
}

#[test]
#[ignore = "needs root"]
fn foreign_program_and_second_daemon_are_named() {
    let lab = Lab::new(1);
    lab.relay.run(|| {
        let foreign = AttachedPass::attach("r0", XdpMode::Native).unwrap();
        let error = open_one(PortMode::Auto).err().unwrap();
        let SetupError::ProgramPresent { program, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(program.name.as_deref(), Some("sixferry_pass"));
        assert!(!program.is_sixferry() && program.id.is_some());
        drop(foreign);
        let first = open_one(PortMode::Auto).unwrap();
        let link = LinkInfo::query("r0").unwrap();
        let xdp = link.xdp.unwrap();
        assert_eq!(xdp.mode, Some(XdpMode::Native));
        let error = open_one(PortMode::Auto).err().unwrap();
        assert!(
            error.to_string().contains("another Sixferry daemon"),
            "{error}"
        );
        // A program in the other mode is in the way too.
        let error = open_one(PortMode::Generic).err().unwrap();
        assert!(matches!(error, SetupError::ProgramPresent { .. }));
        drop(first);
        assert_eq!(LinkInfo::query("r0").unwrap().xdp, None);
    });
}

#[test]
#[ignore = "needs root"]
fn busy_queue_is_waited_for_and_then_named() {
    let lab = Lab::new(1);
    lab.relay.run(|| {
        let first = open_one(PortMode::Copy).unwrap();
        let link = LinkInfo::query("r0").unwrap();
        let (umem, frames) = Umem::new(64).unwrap();
        let begin = Instant::now();
        let error = XskPort::reopen(&link, 0, &umem, Rung::Copy, 16)
            .err()
            .unwrap();
        assert!(
            matches!(error, SetupError::QueueBusy { queue: 0, .. }),
            "{error}"
        );
        assert!(begin.elapsed() >= Duration::from_secs(4), "it waited");
        drop(first);
        // The kernel lets go of the queue some milliseconds later.
        for _ in 0..3 {
            drop(open_one(PortMode::Copy).unwrap());
        }
        drop(FramePool::from_frames(frames));
    });
}

#[test]
#[ignore = "needs root"]
fn frames_of_a_closed_port_return_with_the_next() {
    let lab = Lab::new(1);
    lab.relay.run(|| {
        let mut set = open_one(PortMode::Copy).unwrap();
        let mut worker = set.workers.remove(0);
        let mut port = worker.ports.remove(0);
        let pool = &mut worker.pool;
        assert_eq!(port.held(), FRAMES as usize / 2);
        port.close(pool);
        assert_eq!(port.held(), 0);
        assert!(port.poll_fd().is_none());
        assert_eq!(pool.available(), FRAMES as usize / 2);
        let frame = pool.pop().unwrap();
        let frame = port.tx(frame, 256, 60, pool).unwrap_err();
        pool.push(frame);
        let link = set.ports[0].link.clone();
        let mut again = XskPort::reopen(&link, 0, &worker.umem, Rung::Copy, 100).unwrap();
        again.serve(&mut set.ports[0].steering).unwrap();
        assert_eq!(again.held(), FRAMES as usize / 2);
        again.flush(pool);
        assert_eq!(again.held(), 100);
        assert_no_frame_lost(pool, std::slice::from_ref(&again));
    });
}

#[test]
#[ignore = "needs root"]
fn offloads_that_hide_tags_are_switched_off() {
    let lab = Lab::new(1);
    lab.relay.sh("ethtool -K r0 rxvlan on txvlan on");
    lab.relay.run(|| {
        let report = switch_offloads_off("r0").unwrap();
        assert!(
            report.switched_off.contains(&"rx-vlan-hw-parse"),
            "{report}"
        );
        assert!(
            report.switched_off.contains(&"tx-vlan-hw-insert"),
            "{report}"
        );
        assert_eq!(report.still_on, Vec::<&str>::new());
        assert_eq!(switch_offloads_off("r0").unwrap().switched_off.len(), 0);
    });
    let state = lab.relay.sh("ethtool -k r0");
    assert!(state.contains("rx-vlan-offload: off"), "{state}");
}

#[test]
#[ignore = "needs root"]
fn down_interface_is_refused_with_the_fix() {
    let lab = Lab::new(1);
    lab.relay.sh("ip link set r0 down");
    lab.relay.run(|| {
        let error = open_one(PortMode::Auto).err().unwrap();
        assert_eq!(
            error.to_string(),
            "r0: the interface is down; fix: ip link set r0 up"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn missing_capabilities_are_named() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let lab = Lab::new(1);
    let keep_only = |kept: CapabilitySet| {
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
    };
    lab.relay.run(|| {
        keep_only(CapabilitySet::empty());
        let error = open_one(PortMode::Auto).err().unwrap();
        let text = error.to_string();
        assert!(
            matches!(error, SetupError::NotPermitted { .. }),
            "{error:?}"
        );
        assert!(text.contains("CAP_BPF and CAP_NET_ADMIN"), "{text}");
    });
    lab.relay.run(|| {
        keep_only(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
        let error = open_one(PortMode::Auto).err().unwrap();
        let text = format!("{error} {error:?}");
        assert!(text.contains("grant CAP_NET_RAW"), "{text}");
    });
    // Nothing was left behind, and the documented set is enough.
    lab.relay.run(|| {
        assert_eq!(LinkInfo::query("r0").unwrap().xdp, None);
        keep_only(
            CapabilitySet::BPF
                | CapabilitySet::NET_ADMIN
                | CapabilitySet::NET_RAW
                | CapabilitySet::IPC_LOCK,
        );
        drop(open_one(PortMode::Auto).unwrap());
    });
}

/// The other half of `killed_process_leaves_the_interface_to_the_kernel`: opens the port and
/// waits to be killed.
#[test]
#[ignore = "needs root; run by another test"]
fn child_that_holds_a_port() {
    let Ok(name) = std::env::var("SIXFERRY_TEST_NETNS") else {
        return;
    };
    netns::enter(&name);
    let mut set = open_one(PortMode::Auto).unwrap();
    steer_udp(&mut set);
    // Even the whole host: as bad as a steering table can be.
    let all = Covering::new("::".parse().unwrap(), 0).unwrap();
    let tables = set.ports[0].steering.tables_mut();
    tables.set_covering(&[all].into()).unwrap();
    println!("\nport is open");
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "needs root"]
fn killed_process_leaves_the_interface_to_the_kernel() {
    use std::io::{BufRead, BufReader};
    let lab = Lab::new(1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_holds_a_port"])
        .args(["--ignored", "--nocapture"])
        .env("SIXFERRY_TEST_NETNS", &lab.relay.name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.any(|line| line.unwrap().contains("port is open"));
    assert!(opened, "the child failed");
    lab.ping();
    let is_attached = || {
        lab.relay
            .run(|| LinkInfo::query("r0").unwrap().xdp.is_some())
    };
    assert!(is_attached());
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while is_attached() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(!is_attached(), "the program went with its process");
    lab.ping();
    lab.peer.sh("ping -6 -q -c 1 -W 5 2001:db8:1::1");
    // And the next daemon can have the port.
    lab.relay.run(|| drop(open_one(PortMode::Auto).unwrap()));
}
