//! The lab against a relay that is not ours: the kernel forwards, a second `sixferry-cpe`
//! is the relay's end of the tunnel. What passes here passes without the dataplane, so a demo
//! that fails points at the dataplane.

use std::thread;
use std::time::Duration;

use sixferry_cpe::netlink::{Netlink, Plan};
use sixferry_cpe::tunnel::peers::Peers;
use sixferry_cpe::tunnel::{Config, Encap, Tunnel};
use tokio::sync::oneshot;

use super::flow;
use super::instance::Access;
use super::netns::Netns;
use super::process::ProcessId;
use super::stop::Stop;
use super::topology::{
    Arms, DELEGATED, Kind, RELAY_LINK_V6, RELAY_V4, Role, Topology, USER_LINK_V6,
};

const PATH: flow::Path = flow::Path {
    mtu: 1280,
    linked: true,
};

/// A topology that is gone at the end of the test, however that comes.
struct Built(Topology);

impl Built {
    fn new(name: &str, arms: Arms) -> Self {
        let built = Self(Topology::new(name, arms, Kind::SixInFour));
        built.0.build().expect("the topology");
        built
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        for role in self.0.roles() {
            let netns = self.0.netns(*role);
            if netns.exists() {
                netns.delete().expect("deleting a namespace of ours");
            }
        }
    }
}

/// A tunnel end on a thread of its own; stops when dropped.
struct TunnelEnd {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TunnelEnd {
    fn start(netns: Netns, config: Config, plan: Plan) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let run = async move {
            let local = config.local;
            let tunnel = Tunnel::open(config).expect("a tunnel");
            let netlink = Netlink::connect().expect("netlink");
            netlink
                .apply(tunnel.device_index(), local, &plan)
                .await
                .expect("addresses");
            ready.send(()).expect("the test waits");
            tokio::select! {
                broken = tunnel.run() => panic!("{:?}", broken.err()),
                _ = stopped => {}
            }
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            netns
                .enter(move || runtime.block_on(run))
                .expect("the namespace");
        });
        is_ready.recv().expect("the tunnel is up");
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for TunnelEnd {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || thread::panicking(),
                "a tunnel end panicked"
            );
        }
    }
}

fn all_flows_pass(name: &str, arms: Arms) {
    let name = format!("{name}{}", ProcessId::of_self().expect("a process").pid);
    let built = Built::new(&name, arms);
    let topology = &built.0;
    let config = |local, remote, own| Config {
        encap: Encap::Proto41(Peers::Relay(remote)),
        local,
        mtu: 1280,
        dont_fragment: false,
        device: None,
        own,
    };
    let net = |text: &str| text.parse::<ipnet::Ipv6Net>().expect("a prefix");
    let relay = topology.netns(Role::Relay);
    relay
        .sysctl("ipv6/conf/all/forwarding", "1")
        .expect("forwarding");
    let _relay = TunnelEnd::start(
        relay,
        config(RELAY_V4, topology.user_v4(), vec![]),
        Plan {
            addresses: vec![net(&format!("{RELAY_LINK_V6}/64"))],
            routes: vec![DELEGATED],
            ..Plan::default()
        },
    );
    let _user = TunnelEnd::start(
        topology.netns(Role::User),
        config(topology.user_v4(), RELAY_V4, vec![topology.user_v6()]),
        Plan {
            addresses: vec![
                net(&format!("{}/64", topology.user_v6())),
                net(&format!("{USER_LINK_V6}/64")),
            ],
            routes: vec![net("::/0")],
            delegated: vec![DELEGATED],
            ..Plan::default()
        },
    );
    let stop = Stop::default();
    let flows = flow::run_all(topology, PATH, Duration::from_secs(1), &stop, |flow| {
        eprintln!("{flow}");
    });
    for flow in flows.expect("flows") {
        assert!(flow.passed, "{flow}");
    }
}

#[test]
#[ignore = "needs root"]
fn flows_pass_through_the_kernel_two_armed() {
    all_flows_pass("t2-", Arms::Two);
}

#[test]
#[ignore = "needs root"]
fn flows_pass_through_the_kernel_one_armed() {
    all_flows_pass("t1-", Arms::One);
}

#[test]
#[ignore = "needs root"]
fn without_a_tunnel_no_flow_passes() {
    let name = format!("t0-{}", ProcessId::of_self().expect("a process").pid);
    let built = Built::new(&name, Arms::Two);
    let stop = Stop::default();
    // Nothing has the user's address, so the first flow that needs it cannot even start.
    let flows = flow::run_all(&built.0, PATH, Duration::from_secs(1), &stop, |_| {});
    assert!(flows.is_err(), "{flows:?}");
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    lab: super::LabArgs,
}

fn parse(line: &str) -> Result<super::LabCommand, clap::Error> {
    use clap::Parser;
    let words = std::iter::once("lab").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.lab.command)
}

#[test]
fn the_command_line_selects_the_lab() {
    let line = "demo --one-armed --xdp-mode generic --seconds 2 --name a-1 --mtu 1480";
    let Ok(super::LabCommand::Demo(demo)) = parse(line) else {
        panic!("not a demo")
    };
    let options = demo.build.options().expect("they fit");
    assert_eq!(
        (options.arms, options.mtu, demo.seconds),
        (Arms::One, 1480, 2)
    );
    assert_eq!(
        (options.mode, options.name.as_str()),
        (super::XdpMode::Generic, "a-1")
    );
    for (line, access) in [
        ("up", Access::Login),
        ("up --kind udp", Access::Login),
        ("up --configured", Access::Configured),
        ("up --kind 6to4", Access::Configured),
    ] {
        let Ok(super::LabCommand::Up(build)) = parse(line) else {
            panic!("not an up");
        };
        assert_eq!(build.options().expect("it fits").access, access, "{line}");
    }
    for (line, fits) in [
        ("up --kind udp --mtu 1472", true),
        ("up --kind udp --mtu 1473", false),
        ("up --kind 6rd --one-armed", false),
        ("up --kind 6to4", true),
    ] {
        let Ok(super::LabCommand::Up(build)) = parse(line) else {
            panic!("not an up");
        };
        assert_eq!(build.options().is_ok(), fits, "{line}");
    }
    let Ok(super::LabCommand::Shell(shell)) = parse("shell host -- ip -6 route") else {
        panic!("not a shell");
    };
    assert_eq!((shell.role, shell.command.len()), (Role::Host, 3));
}

#[test]
fn names_that_would_leave_their_directory_are_refused() {
    for name in ["../etc", "a/b", "UPPER", "with space", "0123456789abcdefg"] {
        assert!(
            parse(&format!("down --name={}", name.replace(' ', "_"))).is_err(),
            "{name}"
        );
    }
    assert!(parse("up --mtu 1279").is_err() && parse("up --mtu 1481").is_err());
}
