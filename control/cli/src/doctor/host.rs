//! Checks of the host: kernel, capabilities, memory locks, tools.

use super::Check;
use super::daemon::Daemon;
use super::settings::Settings;
use super::system::{AfXdp, Answer, System};

/// One umem shared by several interfaces, and XDP programs attached by a bpf link.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Bytes of one frame.
const FRAME_LEN: u64 = 2048;

/// Bits in the capability masks of the kernel, with what each is for.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "attach the XDP program, follow routes"),
    (13, "CAP_NET_RAW", "open AF_XDP sockets"),
    (39, "CAP_BPF", "load the XDP program"),
];
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

pub(super) fn checks(system: &System, settings: &Settings, daemon: &Daemon) -> Vec<Check> {
    let mut checks = vec![
        kernel(system),
        af_xdp(system),
        jit(system),
        capabilities(system, daemon),
        memlock(system, settings, daemon),
        tools(system),
        tun(system),
    ];
    checks.extend(host_port(system, settings, daemon));
    checks
}

fn kernel(system: &System) -> Check {
    let Some(release) = system.read("/proc/sys/kernel/osrelease") else {
        return Check::warn("kernel", "its version cannot be read", "mount /proc");
    };
    match version(&release) {
        Some(version) if version < OLDEST_KERNEL => Check::fail(
            "kernel",
            format!("Linux {release} is too old"),
            "use Linux 5.10 or later",
        ),
        Some(_) => Check::ok("kernel", format!("Linux {release}")),
        None => Check::warn(
            "kernel",
            format!("Linux {release}: no version number found"),
            "use Linux 5.10 or later",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn af_xdp(system: &System) -> Check {
    match system.af_xdp {
        AfXdp::Works => Check::ok("af_xdp", "an AF_XDP socket can be opened"),
        AfXdp::NotPermitted => Check::warn(
            "af_xdp",
            "may not be tried as this user",
            "run `sixferry doctor` as root to be sure",
        ),
        AfXdp::Unsupported => Check::fail(
            "af_xdp",
            "the kernel has no AF_XDP",
            "use a kernel with CONFIG_XDP_SOCKETS=y (those of the distributions have it)",
        ),
    }
}

fn jit(system: &System) -> Check {
    match system.number("/proc/sys/net/core/bpf_jit_enable") {
        Some(0) => Check::warn(
            "bpf jit",
            "off: the XDP program is interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1 (and in /etc/sysctl.d to keep it)",
        ),
        // Kernels without the knob were built with the compiler always on, or with none.
        _ => Check::ok("bpf jit", "on"),
    }
}

fn capabilities(system: &System, daemon: &Daemon) -> Check {
    let Some(mask) = capability_mask(system) else {
        return Check::warn("capabilities", "cannot be read", "mount /proc");
    };
    let has = |bit: u32| mask & (1_u64 << bit) != 0;
    // Before Linux 5.8 the one for everything did what CAP_BPF does.
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| !(has(*bit) || (*bit == 39 && has(CAP_SYS_ADMIN))))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Check::ok("capabilities", "this user could start sixferryd");
    }
    if daemon.info.is_some() {
        return Check::ok("capabilities", "not this user's, but sixferryd runs");
    }
    Check::warn(
        "capabilities",
        format!("this user lacks {}", missing.join(", ")),
        "start sixferryd by its systemd unit, or as root",
    )
}

fn capability_mask(system: &System) -> Option<u64> {
    let status = system.read("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn memlock(system: &System, settings: &Settings, daemon: &Daemon) -> Check {
    let workers = match (settings.workers, &daemon.info) {
        (0, Some(info)) => u64::from(info.worker_count).max(1),
        (0, None) => 1,
        (workers, _) => workers,
    };
    let needed = settings
        .frames
        .saturating_mul(FRAME_LEN)
        .saturating_mul(workers);
    let needed_text = crate::units::memory(needed);
    let limits = system.read("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max locked memory"));
    let hard = line.and_then(|l| l.split_whitespace().nth(1));
    let locks_anything =
        capability_mask(system).is_some_and(|mask| mask & (1 << CAP_IPC_LOCK) != 0);
    match hard {
        _ if locks_anything => Check::ok("memlock", "CAP_IPC_LOCK: no limit"),
        Some("unlimited") => Check::ok("memlock", "unlimited"),
        Some(limit) => match limit.parse::<u64>() {
            Ok(limit) if limit >= needed => Check::ok(
                "memlock",
                format!(
                    "{} for frames of {needed_text}",
                    crate::units::memory(limit)
                ),
            ),
            Ok(limit) => Check::warn(
                "memlock",
                format!(
                    "{} for this user, packet frames need {needed_text} ({workers} workers)",
                    crate::units::memory(limit)
                ),
                "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited, or CAP_IPC_LOCK",
            ),
            Err(_) => Check::warn("memlock", "cannot be read", "mount /proc"),
        },
        None => Check::warn("memlock", "cannot be read", "mount /proc"),
    }
}

fn tools(system: &System) -> Check {
    let missing: Vec<_> = [("ip", "iproute2"), ("ethtool", "ethtool")]
        .into_iter()
        .filter(|(program, _)| {
            let version = if *program == "ip" { "-V" } else { "--version" };
            system.ask(program, &[version]) == Answer::Missing
        })
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Check::ok("tools", "ip and ethtool are installed");
    }
    Check::warn(
        "tools",
        "missing, so some checks below are left out; the daemon does not need them",
        format!("apt-get install {}", missing.join(" ")),
    )
}

/// The TUN device of the host's own traffic; nothing to say if there is to be none.
fn host_port(system: &System, settings: &Settings, daemon: &Daemon) -> Option<Check> {
    let name = settings.host_port.as_ref()?;
    let class = format!("/sys/class/net/{name}");
    if !system.path("/dev/net/tun").exists() {
        return Some(Check::fail(
            "host port",
            format!("{name} is configured, and there is no /dev/net/tun"),
            "modprobe tun, or set enabled = false in [host_port]",
        ));
    }
    // Ours goes with the daemon, so without it any interface of that name is somebody else's.
    let exists = system.path(&class).exists();
    let is_tun = system.path(format!("{class}/tun_flags")).exists();
    if exists && !(is_tun && daemon.info.is_some()) {
        return Some(Check::fail(
            "host port",
            format!("{name} is configured, and another interface has that name"),
            "give it another name in [host_port]",
        ));
    }
    let state = if exists { "exists" } else { "can be created" };
    Some(Check::ok("host port", format!("{name} {state}")))
}

fn tun(system: &System) -> Check {
    if system.path("/dev/net/tun").exists() {
        return Check::ok("tun", "/dev/net/tun exists");
    }
    Check::warn(
        "tun",
        "no /dev/net/tun: `sixferry lab` and `sixferry-cpe` cannot run here; the relay can",
        "modprobe tun",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::daemon::tests::{absent, present};
    use super::*;
    use std::path::Path;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn host(release: &str, cap_eff: &str, memlock: &str) -> (tempfile::TempDir, System) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "proc/sys/kernel/osrelease", release);
        write(dir.path(), "proc/sys/net/core/bpf_jit_enable", "1\n");
        write(
            dir.path(),
            "proc/self/status",
            &format!("Name:\tx\nCapEff:\t{cap_eff}\n"),
        );
        write(
            dir.path(),
            "proc/self/limits",
            &format!("Limit  Soft  Hard  Units\nMax locked memory  65536  {memlock}  bytes\n"),
        );
        write(dir.path(), "dev/net/tun", "");
        let system = System::fake(dir.path(), &[("ip -V", "x"), ("ethtool --version", "x")]);
        (dir, system)
    }

    fn statuses(system: &System) -> Vec<(&'static str, Status)> {
        let checks = checks(system, &Settings::default(), &absent());
        checks.into_iter().map(|c| (c.name, c.status)).collect()
    }

    #[test]
    fn the_host_port_needs_tun_and_its_name() {
        let (dir, system) = host("6.18.1\n", "0", "unlimited");
        let settings = Settings {
            host_port: Some("sixferry0".into()),
            ..Settings::default()
        };
        let of = |daemon: &Daemon| host_port(&system, &settings, daemon).map(|c| c.status);
        assert!(host_port(&system, &Settings::default(), &absent()).is_none());
        assert_eq!(of(&absent()), Some(Status::Ok));
        write(dir.path(), "sys/class/net/sixferry0/tun_flags", "0x1001\n");
        assert_eq!(
            of(&present(Vec::new())),
            Some(Status::Ok),
            "the daemon's own"
        );
        assert_eq!(of(&absent()), Some(Status::Fail), "left by somebody else");
        std::fs::remove_file(dir.path().join("dev/net/tun")).unwrap();
        assert_eq!(of(&present(Vec::new())), Some(Status::Fail));
    }

    #[test]
    fn a_good_host_has_nothing_to_complain_about() {
        let (_dir, system) = host("6.18.1-amd64\n", "000001ffffffffff", "unlimited");
        for (name, status) in statuses(&system) {
            assert_eq!(status, Status::Ok, "{name}");
        }
    }

    #[test]
    fn old_kernels_fail() {
        for (release, status) in [
            ("5.9.16", Status::Fail),
            ("5.10.0-28-amd64", Status::Ok),
            ("6.1", Status::Ok),
            ("strange", Status::Warn),
        ] {
            let (_dir, system) = host(release, "0", "unlimited");
            assert_eq!(kernel(&system).status, status, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named_unless_the_daemon_runs() {
        // NET_ADMIN alone.
        let (_dir, system) = host("6.1.0", "0000000000001000", "unlimited");
        let check = capabilities(&system, &absent());
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains("CAP_NET_RAW") && check.detail.contains("CAP_BPF"));
        assert!(!check.detail.contains("CAP_NET_ADMIN"));
        assert_eq!(
            capabilities(&system, &present(Vec::new())).status,
            Status::Ok
        );
    }

    #[test]
    fn memlock_is_compared_with_the_frames() {
        let (_dir, system) = host("6.1.0", "0", "8388608");
        let check = memlock(&system, &Settings::default(), &absent());
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains("need 32.0 MiB"), "{}", check.detail);
        let small = Settings {
            frames: 2048,
            ..Settings::default()
        };
        assert_eq!(memlock(&system, &small, &absent()).status, Status::Ok);
        let (_dir, system) = host("6.1.0", "0000000000004000", "0");
        assert_eq!(memlock(&system, &small, &absent()).status, Status::Ok);
    }

    #[test]
    fn missing_tools_name_their_packages() {
        let (dir, _) = host("6.1.0", "0", "unlimited");
        let check = tools(&System::fake(dir.path(), &[("ip -V", "x")]));
        assert_eq!(check.fix.as_deref(), Some("apt-get install ethtool"));
    }

    #[test]
    fn a_kernel_without_af_xdp_fails() {
        let (_dir, mut system) = host("6.1.0", "0", "unlimited");
        system.af_xdp = AfXdp::Unsupported;
        assert_eq!(af_xdp(&system).status, Status::Fail);
        system.af_xdp = AfXdp::NotPermitted;
        assert_eq!(af_xdp(&system).status, Status::Warn);
    }
}
