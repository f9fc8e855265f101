//! Checks of the interfaces that are, or could be, ports of the relay.

use std::collections::BTreeMap;

use crate::json::port::Port;

use super::Check;
use super::daemon::Daemon;
use super::drivers::{Best, best};
use super::link::{Feature, Link, Unknown};
use super::settings::Settings;
use super::system::System;

/// IPv4 header of the outer packet.
const OVERHEAD: u64 = 20;

/// Smallest inner MTU (RFC 8200 section 5).
const SMALLEST_TUNNEL: u64 = 1280;

/// What fits a frame of 2048 bytes behind 256 of headroom, an Ethernet header and a VLAN tag.
const LARGEST_MTU: u64 = 2048 - 256 - 18;

/// Offloads the daemon switches off, by their names in `ethtool -k` and for `ethtool -K`.
const HARMFUL: [(&str, &str, &str); 4] = [
    (
        "rx-vlan-offload",
        "rxvlan",
        "strips VLAN tags before XDP sees them",
    ),
    (
        "tx-vlan-offload",
        "txvlan",
        "expects VLAN tags outside the frame",
    ),
    (
        "large-receive-offload",
        "lro",
        "glues packets together beyond the size of a frame",
    ),
    (
        "rx-gro-hw",
        "rx-gro-hw",
        "glues packets together beyond the size of a frame",
    ),
];

pub(super) fn checks(
    system: &System,
    names: &[String],
    settings: &Settings,
    daemon: &Daemon,
) -> Vec<Check> {
    let links: Vec<_> = names
        .iter()
        .map(|name| (name, Link::read(system, name)))
        .collect();
    let usable = links.iter().filter_map(|(_, link)| link.as_ref());
    let least = usable.map(Link::usable_queues).min().unwrap_or(0);
    let workers = match usize::try_from(settings.workers) {
        Ok(configured @ 1..) => configured.min(least),
        _ => least,
    };
    let mut checks = Vec::new();
    for (name, link) in &links {
        let found = match link {
            None => vec![Check::fail(
                "interface",
                "does not exist",
                "correct its name; `ip link` lists what there is",
            )],
            Some(link) if !link.ethernet => vec![Check::fail(
                "interface",
                "carries no Ethernet frames: it cannot be a port",
                "choose a network card, a veth or a virtual one with Ethernet",
            )],
            Some(link) => of_link(link, workers, settings, daemon.port(name), daemon),
        };
        checks.extend(found.into_iter().map(|check| check.of(name)));
    }
    checks
}

fn of_link(
    link: &Link,
    workers: usize,
    settings: &Settings,
    bound: Option<&Port>,
    daemon: &Daemon,
) -> Vec<Check> {
    let mut checks = vec![
        state(link),
        driver(link, bound),
        queues(link, workers),
        mtu(link, settings),
        program(link, bound, daemon),
        offloads(link, settings, bound),
    ];
    checks.extend(checksums(link));
    checks
}

fn state(link: &Link) -> Check {
    let name = &link.name;
    match (link.up, link.carrier) {
        (true, true) => Check::ok("link", "up, with carrier"),
        (true, false) => Check::warn(
            "link",
            "up, but without carrier",
            "plug the cable in, or set the other end up",
        ),
        (false, _) => Check::warn("link", "down", format!("ip link set dev {name} up")),
    }
}

fn driver(link: &Link, bound: Option<&Port>) -> Check {
    if let Some(port) = bound {
        let detail = format!("{}, bound as {}", port.driver, port.bind_mode);
        return match port.bind_mode {
            "generic" => Check::warn(
                "xdp mode",
                format!("{detail}: {}", port.bind_reason),
                "generic mode works but is slow: use a driver with native XDP",
            ),
            _ if port.bind_reason.is_empty() => Check::ok("xdp mode", detail),
            _ => Check::ok("xdp mode", format!("{detail}: {}", port.bind_reason)),
        };
    }
    let Some(driver) = &link.driver else {
        return Check::warn(
            "xdp mode",
            "the driver cannot be found out",
            "install ethtool or iproute2; `sixferry port list` shows the mode in use",
        );
    };
    match best(driver) {
        Best::ZeroCopy => Check::ok("xdp mode", format!("{driver} is known for zero-copy")),
        Best::Native => Check::ok(
            "xdp mode",
            format!("{driver} is known for native XDP; packets are copied once"),
        ),
        Best::Generic => Check::warn(
            "xdp mode",
            format!("{driver} is not known for native XDP: generic mode, which is slow"),
            "use a driver with native XDP for speed; the relay works all the same",
        ),
    }
}

fn queues(link: &Link, workers: usize) -> Check {
    let (name, rx, tx) = (&link.name, link.rx_queues, link.tx_queues);
    // A table that was narrowed by hand keeps packets away from the queues without a worker.
    let filled = link
        .rss_queues
        .iter()
        .max()
        .map_or(rx, |last| last + 1)
        .min(rx);
    let fix = format!(
        "ethtool -L {name} combined {workers} (or rx {workers} tx {workers}); for more workers \
         give every port more queues"
    );
    if workers == 0 || filled <= workers {
        let uses = if filled < rx {
            format!(", RSS uses {filled}")
        } else {
            String::new()
        };
        return Check::ok(
            "queues",
            format!("{rx} rx{uses}, {tx} tx, {workers} workers"),
        );
    }
    Check::warn(
        "queues",
        format!(
            "{filled} rx queues get packets but only {workers} have a worker (as many as every \
             port has in both directions): the kernel gets the packets of the others"
        ),
        fix,
    )
}

fn mtu(link: &Link, settings: &Settings) -> Check {
    let (name, mtu) = (&link.name, link.mtu);
    let wanted = settings.tunnel_mtu + OVERHEAD;
    if mtu < SMALLEST_TUNNEL + OVERHEAD {
        return Check::fail(
            "mtu",
            format!("{mtu}: no tunnel fits, the smallest needs 1280 + 20"),
            format!("ip link set dev {name} mtu 1500"),
        );
    }
    if mtu < wanted {
        return Check::fail(
            "mtu",
            format!(
                "{mtu}: a configured tunnel of {} needs {wanted}",
                wanted - OVERHEAD
            ),
            format!("ip link set dev {name} mtu {wanted}, or lower the tunnel's mtu"),
        );
    }
    if mtu > LARGEST_MTU {
        return Check::warn(
            "mtu",
            format!("{mtu}: packets above {LARGEST_MTU} bytes do not fit a frame"),
            format!("ip link set dev {name} mtu 1500"),
        );
    }
    Check::ok(
        "mtu",
        format!("{mtu}: tunnels of up to {}", (mtu - OVERHEAD).min(1480)),
    )
}

fn program(link: &Link, bound: Option<&Port>, daemon: &Daemon) -> Check {
    let name = &link.name;
    match &link.xdp {
        Ok(None) => Check::ok("xdp program", "none attached"),
        Ok(Some(xdp)) if bound.is_some() => {
            Check::ok("xdp program", format!("id {}, sixferryd's own", xdp.id))
        }
        Ok(Some(xdp)) => {
            let whose = if daemon.info.is_some() {
                "of somebody else"
            } else {
                "of somebody else, or of a sixferryd that does not answer here"
            };
            Check::fail(
                "xdp program",
                format!(
                    "program {} is attached ({} mode), {whose}",
                    xdp.id, xdp.mode
                ),
                format!(
                    "find its holder with `bpftool prog show id {}` and `bpftool link`; stop \
                     that, or `ip link set dev {name} xdp off`",
                    xdp.id
                ),
            )
        }
        Err(unknown) => not_known("xdp program", *unknown, "ip", "iproute2"),
    }
}

fn not_known(name: &'static str, why: Unknown, program: &str, package: &str) -> Check {
    match why {
        Unknown::Missing => Check::warn(
            name,
            format!("not checked: `{program}` is not installed"),
            format!("apt-get install {package}"),
        ),
        Unknown::Failed => Check::warn(
            name,
            format!("not checked: `{program}` did not tell"),
            "run `sixferry doctor` as root",
        ),
    }
}

fn offloads(link: &Link, settings: &Settings, bound: Option<&Port>) -> Check {
    let features: &BTreeMap<String, Feature> = match &link.features {
        Ok(features) => features,
        Err(unknown) => return not_known("offloads", *unknown, "ethtool", "ethtool"),
    };
    let on: Vec<_> = HARMFUL
        .iter()
        .filter(|(name, ..)| features.get(*name).is_some_and(|f| f.on))
        .collect();
    if on.is_empty() {
        return Check::ok("offloads", "nothing that hides bytes from XDP");
    }
    let names: Vec<_> = on.iter().map(|(name, ..)| *name).collect();
    let fixed = on
        .iter()
        .find(|(name, ..)| features.get(*name).is_some_and(|f| f.fixed));
    let uses_vlans = settings.vlans || !link.vlan_uppers.is_empty();
    match fixed {
        Some((name, _, harm)) if name.contains("vlan") && !uses_vlans => Check::warn(
            "offloads",
            format!("{name} is on and cannot be switched off: it {harm}"),
            "use no VLANs on this interface",
        ),
        Some((name @ "rx-gro-hw", _, harm)) => Check::warn(
            "offloads",
            format!("{name} is on and cannot be switched off by hand: it {harm}"),
            "some drivers (virtio_net) do it themselves when XDP is attached: look again then",
        ),
        Some((name, _, harm)) => Check::fail(
            "offloads",
            format!("{name} is on and cannot be switched off: it {harm}"),
            "use another interface, or another driver",
        ),
        None if bound.is_some() => {
            let options: Vec<_> = on.iter().map(|(_, o, _)| format!("{o} off")).collect();
            Check::warn(
                "offloads",
                format!("{} came back on after sixferryd started", names.join(", ")),
                format!("ethtool -K {} {}", link.name, options.join(" ")),
            )
        }
        None => Check::ok(
            "offloads",
            format!("{} on; sixferryd switches that off", names.join(", ")),
        ),
    }
}

/// A sender on the other end of a veth leaves checksums to hardware that is not there.
fn checksums(link: &Link) -> Option<Check> {
    if link.driver.as_deref() != Some("veth") {
        return None;
    }
    let harm = "packets sent by the kernel of the other end carry unfinished checksums, which \
                a tunnel would pass on";
    Some(match &link.veth_peer {
        Some(peer) => Check::warn(
            "checksums",
            format!("a veth: unless its tx offload is off, {harm}"),
            format!("ethtool -K {peer} tx off"),
        ),
        None => Check::warn(
            "checksums",
            format!("a veth whose other end is in another namespace: {harm}"),
            "there: ethtool -K NAME tx off",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::daemon::tests::{absent, present};
    use super::super::link::tests::sysfs;
    use super::*;

    fn link() -> Link {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "eth0", 2, 2, (2, 2));
        let mut link = Link::read(&System::fake(dir.path(), &[]), "eth0").unwrap();
        link.driver = Some("i40e".into());
        link.xdp = Ok(None);
        link.features = Ok(BTreeMap::new());
        link
    }

    fn on(fixed: bool) -> Feature {
        Feature { on: true, fixed }
    }

    #[test]
    fn a_good_interface_is_all_ok() {
        for check in of_link(&link(), 2, &Settings::default(), None, &absent()) {
            assert_eq!(check.status, Status::Ok, "{check:?}");
        }
    }

    #[test]
    fn the_mtu_must_hold_the_tunnel_and_its_header() {
        let tunnel = Settings {
            tunnel_mtu: 1480,
            ..Settings::default()
        };
        for (value, settings, status) in [
            (1299, Settings::default(), Status::Fail),
            (1300, Settings::default(), Status::Ok),
            (1499, tunnel.clone(), Status::Fail),
            (1500, tunnel, Status::Ok),
            (1774, Settings::default(), Status::Ok),
            (1775, Settings::default(), Status::Warn),
            (9000, Settings::default(), Status::Warn),
        ] {
            let link = Link {
                mtu: value,
                ..link()
            };
            assert_eq!(mtu(&link, &settings).status, status, "{value}");
        }
    }

    #[test]
    fn queues_without_a_worker_are_told() {
        let check = queues(&link(), 1);
        assert_eq!(check.status, Status::Warn);
        assert!(check.fix.unwrap().contains("ethtool -L eth0 combined 1"));
        let narrowed = Link {
            rss_queues: [0].into(),
            ..link()
        };
        assert_eq!(queues(&narrowed, 1).status, Status::Ok);
    }

    #[test]
    fn workers_are_as_many_as_the_smallest_port_has_queues() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "a", 2, 2, (4, 4));
        sysfs(dir.path(), "b", 3, 3, (2, 2));
        let system = System::fake(dir.path(), &[]);
        let names = ["a".to_owned(), "b".to_owned()];
        let checks = checks(&system, &names, &Settings::default(), &absent());
        let queues: Vec<_> = checks.iter().filter(|c| c.name == "queues").collect();
        assert_eq!(queues[0].status, Status::Warn);
        assert!(queues[0].detail.contains("only 2"), "{}", queues[0].detail);
        assert_eq!(queues[1].status, Status::Ok);
    }

    #[test]
    fn a_program_that_is_not_the_daemons_is_a_failure() {
        let foreign = Link {
            xdp: Ok(Some(super::super::link::Xdp {
                id: 7,
                mode: "native",
            })),
            ..link()
        };
        assert_eq!(program(&foreign, None, &absent()).status, Status::Fail);
        assert_eq!(
            program(&foreign, None, &present(Vec::new())).status,
            Status::Fail
        );
        let port = crate::port::tests::port();
        let ours = program(&foreign, Some(&port), &present(Vec::new()));
        assert_eq!(ours.status, Status::Ok);
    }

    #[test]
    fn offloads_matter_when_they_cannot_be_switched_off() {
        let with = |name: &str, feature| Link {
            features: Ok([(name.to_owned(), feature)].into()),
            ..link()
        };
        let vlans = Settings {
            vlans: true,
            ..Settings::default()
        };
        let none = Settings::default();
        let port = crate::port::tests::port();
        for (link, settings, bound, status) in [
            (with("rx-vlan-offload", on(false)), &none, None, Status::Ok),
            (
                with("rx-vlan-offload", on(false)),
                &none,
                Some(&port),
                Status::Warn,
            ),
            (with("rx-vlan-offload", on(true)), &none, None, Status::Warn),
            (
                with("rx-vlan-offload", on(true)),
                &vlans,
                None,
                Status::Fail,
            ),
            (
                with("large-receive-offload", on(true)),
                &none,
                None,
                Status::Fail,
            ),
        ] {
            assert_eq!(offloads(&link, settings, bound).status, status, "{link:?}");
        }
    }

    #[test]
    fn veth_peers_are_told_to_finish_their_checksums() {
        let mut veth = link();
        assert_eq!(checksums(&veth), None);
        veth.driver = Some("veth".into());
        veth.veth_peer = Some("v1".into());
        let check = checksums(&veth).unwrap();
        assert_eq!(check.fix.as_deref(), Some("ethtool -K v1 tx off"));
    }

    #[test]
    fn missing_interfaces_and_missing_tools_are_named() {
        let dir = tempfile::tempdir().unwrap();
        sysfs(dir.path(), "eth0", 2, 2, (1, 1));
        let system = System::fake(dir.path(), &[]);
        let names = ["eth9".to_owned(), "eth0".to_owned()];
        let checks = checks(&system, &names, &Settings::default(), &absent());
        assert_eq!(checks[0].status, Status::Fail);
        assert_eq!(checks[0].interface.as_deref(), Some("eth9"));
        let unchecked = checks.iter().filter(|c| c.detail.contains("not installed"));
        assert_eq!(unchecked.count(), 2);
    }

    #[test]
    fn the_mode_in_use_beats_what_is_known_of_the_driver() {
        let port = crate::port::tests::port();
        let check = driver(&link(), Some(&port));
        assert_eq!(check.detail, "veth, bound as copy: veth has no zero-copy");
        let strange = Link {
            driver: Some("e1000e".into()),
            ..link()
        };
        assert_eq!(driver(&strange, None).status, Status::Warn);
    }
}
