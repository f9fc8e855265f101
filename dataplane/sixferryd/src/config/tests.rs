//! Every mistake with exactly the line an operator reads.

mod mechanisms;

use std::path::Path;

use sixferry_fwd::{Dscp, MtuMode, OuterOptions, Ttl};

use super::{Checked, Config, Host, Idle, Plan, PortMode, check_text};

/// Two interfaces, two processors, a few directories.
struct SmallHost;

impl Host for SmallHost {
    fn has_interface(&self, name: &str) -> bool {
        matches!(name, "eth0" | "eth1")
    }

    fn has_dir(&self, path: &Path) -> bool {
        matches!(path.to_str(), Some("/" | "/run" | "/etc"))
    }

    fn can_read(&self, path: &Path) -> Result<(), String> {
        if path.starts_with("/etc") {
            Ok(())
        } else {
            Err("no such file".to_owned())
        }
    }

    fn cpus(&self) -> u32 {
        2
    }
}

fn check(text: &str) -> Checked {
    check_text(text, Path::new("dp.toml"), &SmallHost)
}

fn good(text: &str) -> Config {
    let checked = check(text);
    let errors: Vec<_> = checked.errors().map(ToString::to_string).collect();
    checked.config.unwrap_or_else(|| panic!("{errors:?}"))
}

/// The errors as they are printed.
fn errors(text: &str) -> Vec<String> {
    let checked = check(text);
    assert!(checked.config.is_none());
    checked.errors().map(ToString::to_string).collect()
}

const ROUTER: &str = "[router]\naddress = \"2001:db8:ffff::1\"\n";

fn tunnel(lines: &str) -> String {
    format!("[[tunnel]]\nid = \"a\"\nlocal = \"198.51.100.1\"\nremote = \"192.0.2.1\"\n{lines}\n")
}

#[test]
fn each_mistake_is_one_line_with_place_cause_and_fix() {
    let cases: &[(String, &str)] = &[
        // Syntax and unknown keys.
        (
            "[[port]]\nnmae = \"eth0\"\n".into(),
            "dp.toml:2:1: [[port]]: unknown key `nmae`; known here: `name`, `mode`, `vlans`",
        ),
        (
            "[apii]\n".into(),
            "dp.toml:1:2: [apii]: unknown key `apii`; known here: `state_dir`, `api`, `metrics`, \
             `log`, `worker`, `router`, `steering`, `host_port`, `reassembly`, `liveness`, `state`, \
             `port`, `tunnel`, `domain`",
        ),
        (
            "[worker]\ncount = \"two\"\n".into(),
            "dp.toml:2:9: [worker]: invalid type: string \"two\", expected u32",
        ),
        // Sockets.
        (
            "[api]\nunix_socket = \"here.sock\"\n".into(),
            "dp.toml:2:15: api.unix_socket: \"here.sock\" is not an absolute path",
        ),
        (
            "[api]\nunix_socket = \"/no/such/dp.sock\"\n".into(),
            "dp.toml:2:15: api.unix_socket: no directory /no/such; create it",
        ),
        (
            "[metrics]\nlisten = \"localhost\"\n".into(),
            "dp.toml:2:10: metrics.listen: \"localhost\" is not address:port, e.g. \
             \"127.0.0.1:9464\"",
        ),
        (
            "[api]\ntcp = { listen = \"127.0.0.1:1\", cert = \"/etc/c\", key = \"/etc/k\" }\n".into(),
            "dp.toml:2:7: api.tcp.client_ca: missing: TCP is served with mutual TLS only",
        ),
        (
            "[api]\ntcp = { listen = \"127.0.0.1:1\", cert = \"/c\", key = \"/etc/k\", client_ca = \
             \"/etc/a\" }\n"
                .into(),
            "dp.toml:2:40: api.tcp.cert: \"/c\" cannot be read: no such file",
        ),
        // Log and workers.
        (
            "[log]\nformat = \"xml\"\n".into(),
            "dp.toml:2:10: log.format: \"xml\" is not one of \"text\", \"json\"",
        ),
        (
            "[worker]\nfirst_cpu = 1\ncount = 2\n".into(),
            "dp.toml:2:13: worker.first_cpu: 2 worker(s) from cpu 1 on, but the host has 2; lower \
             worker.count or worker.first_cpu, or set worker.pin = false",
        ),
        (
            "[worker]\nframes = 7\n".into(),
            "dp.toml:2:10: worker.frames: 7 is outside 1024..1048576",
        ),
        // Ports.
        (
            format!("[[port]]\nname = \"eth7\"\n{ROUTER}"),
            "dp.toml:2:8: port[0].name: no interface \"eth7\" on this host; `ip link` lists them",
        ),
        (
            format!("[[port]]\nname = \"eth0\"\n[[port]]\nname = \"eth0\"\n{ROUTER}"),
            "dp.toml:4:8: port[1].name: \"eth0\" is listed twice; remove one",
        ),
        (
            format!("[[port]]\nname = \"eth0\"\nmode = \"fast\"\n{ROUTER}"),
            "dp.toml:3:8: port[0].mode: \"fast\" is not one of \"auto\", \"zero-copy\", \"copy\", \
             \"generic\"",
        ),
        (
            format!("[[port]]\nname = \"eth0\"\nvlans = [100, 5000]\n{ROUTER}"),
            "dp.toml:3:9: port[0].vlans: VLAN 5000 is outside 1..4094",
        ),
        (
            "[[port]]\nname = \"eth0\"\n".into(),
            "dp.toml: router.address: missing: the source of ICMPv6 errors, an IPv6 address of \
             this host; e.g. address = \"2001:db8::1\" under [router]",
        ),
        (
            "[router]\naddress = \"fe80::1\"\n".into(),
            "dp.toml:2:11: router.address: fe80::1 cannot be a source: give a global unicast one",
        ),
        (
            "[steering]\nprefixes = [\"2001:db8::1/32\"]\n".into(),
            "dp.toml:2:13: steering.prefixes[0]: \"2001:db8::1/32\": bits are set after the \
             prefix; did you mean \"2001:db8::/32\"?",
        ),
        // Tunnels by themselves.
        (
            tunnel("mtu = 1500"),
            "dp.toml:5:7: tunnel[0].mtu: 1500 is outside 1280..1480",
        ),
        (
            tunnel("prefixes = [\"2001:db8:1::1/48\"]"),
            "dp.toml:5:13: tunnel[0].prefixes[0]: \"2001:db8:1::1/48\": bits are set after the \
             prefix; did you mean \"2001:db8:1::/48\"?",
        ),
        (
            tunnel("prefixes = [\"2001:db8:1::/48\", \"2001:db8:1::/48\"]"),
            "dp.toml:5:13: tunnel[0].prefixes: 2001:db8:1::/48 is listed twice",
        ),
        (
            tunnel("prefixes = [\"::/0\"]"),
            "dp.toml:5:13: tunnel[0].prefixes: ::/0 is shorter than /8",
        ),
        (
            tunnel("link_prefix = \"2001:db8::/64\""),
            "dp.toml:5:15: tunnel[0].link_address: missing: our address on the link of link_prefix",
        ),
        (
            tunnel("link_prefix = \"2001:db8::/64\"\nlink_address = \"2001:db9::1\""),
            "dp.toml:6:16: tunnel[0].link_address: 2001:db9::1 lies outside link_prefix \
             2001:db8::/64",
        ),
        (
            tunnel("link_local_address = \"2001:db8::1\""),
            "dp.toml:5:22: tunnel[0].link_local_address: 2001:db8::1 is not in fe80::/10",
        ),
        (
            tunnel("ttl = \"copy\""),
            "dp.toml:5:7: tunnel[0].ttl: neither 1..255 nor \"inherit\"",
        ),
        (tunnel("dscp = 64"), "dp.toml:5:8: tunnel[0].dscp: neither 0..63 nor \"copy\""),
        (
            tunnel("mtu_mode = \"magic\""),
            "dp.toml:5:12: tunnel[0].mtu_mode: \"magic\" is not one of \"static\", \"managed\", \
             \"dynamic\"",
        ),
        (
            "[[tunnel]]\nid = \"a b\"\nlocal = \"198.51.100.1\"\nremote = \"192.0.2.1\"\n".into(),
            "dp.toml:2:6: tunnel[0].id: \"a b\" is no id: 1 to 63 of A-Z a-z 0-9 . _ -",
        ),
        (
            "[[tunnel]]\nid = \"a\"\nlocal = \"127.0.0.1\"\nremote = \"192.0.2.1\"\n".into(),
            "dp.toml:3:9: tunnel[0].local: 127.0.0.1 is a loopback address",
        ),
        (
            "[[tunnel]]\nid = \"a\"\nlocal = \"198.51.100.1\"\n".into(),
            "dp.toml:1:1: tunnel[0].remote: missing; e.g. \"192.0.2.10\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(text), [*expected], "{text}");
    }
}

fn two(first: &str, second: &str) -> String {
    let one = |id: &str, remote: u8, lines: &str| {
        format!(
            "[[tunnel]]\nid = \"{id}\"\nlocal = \"198.51.100.1\"\nremote = \"192.0.2.{remote}\"\n\
             {lines}\n"
        )
    };
    one("a", 1, first) + &one("b", 2, second)
}

#[test]
fn tunnels_must_fit_together() {
    let text = two(
        "prefixes = [\"2001:db8:1::/48\"]",
        "prefixes = [\"2001:db8:1::/48\"]",
    );
    assert_eq!(
        errors(&text),
        [
            "dp.toml:10:13: tunnel[1].prefixes: 2001:db8:1::/48 is already 2001:db8:1::/48 of tunnel \
          \"a\", line 1; two tunnels cannot share a prefix"
        ]
    );
    // Nested, whichever comes first in the file.
    let (wide, narrow) = (
        "prefixes = [\"2001:db8::/32\"]",
        "prefixes = [\"2001:db8:1::/48\"]",
    );
    assert_eq!(
        errors(&two(wide, narrow)),
        [
            "dp.toml:10:13: tunnel[1].prefixes: 2001:db8:1::/48 lies inside 2001:db8::/32 of tunnel \
          \"a\", line 1; set nested = true here if that is meant"
        ]
    );
    assert_eq!(
        errors(&two(narrow, wide)),
        [
            "dp.toml:5:13: tunnel[0].prefixes: 2001:db8:1::/48 lies inside 2001:db8::/32 of tunnel \
          \"b\", line 6; set nested = true here if that is meant"
        ]
    );
    let meant = two(wide, &format!("{narrow}\nnested = true"));
    assert_eq!(good(&meant).tunnels.len(), 2);

    let link = "link_prefix = \"2001:db8:1::/64\"\nlink_address = \"2001:db8:1::1\"";
    assert_eq!(
        errors(&two(narrow, link)),
        [
            "dp.toml:10:15: tunnel[1].link_prefix: 2001:db8:1::/64 lies inside 2001:db8:1::/48 of \
          tunnel \"a\", line 1; set nested = true here if that is meant"
        ]
    );
    let same_id = two("", "").replace("\"b\"", "\"a\"");
    assert_eq!(
        errors(&same_id),
        ["dp.toml:7:6: tunnel[1].id: \"a\" is already the id of line 2"]
    );
    let same_outer = two("", "").replace("192.0.2.2", "192.0.2.1");
    assert_eq!(
        errors(&same_outer),
        [
            "dp.toml:9:10: tunnel[1].remote: 192.0.2.1 from 198.51.100.1 is already tunnel \"a\" of \
          line 4"
        ]
    );
}

#[test]
fn all_mistakes_are_found_at_once_in_the_order_of_the_file() {
    let text = format!(
        "[worker]\nframes = 1\n[[port]]\nname = \"eth9\"\n{}{ROUTER}",
        tunnel("mtu = 1\nttl = 0")
    );
    let lines: Vec<_> = check(&text)
        .errors()
        .map(|f| (f.line, f.key.clone()))
        .collect();
    let expected = [
        (2, "worker.frames"),
        (4, "port[0].name"),
        (9, "tunnel[0].mtu"),
        (10, "tunnel[0].ttl"),
    ];
    assert_eq!(lines, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn defaults_and_everything_set() {
    let config = good("");
    assert_eq!(config.state_dir, Path::new("/var/lib/sixferry"));
    assert_eq!(
        config.api.unix_socket.as_deref(),
        Some(Path::new("/run/sixferry/dataplane.sock"))
    );
    assert_eq!(
        config.metrics.map(|a| a.to_string()).as_deref(),
        Some("127.0.0.1:9464")
    );
    assert_eq!(
        (config.worker.idle, config.worker.frames),
        (Idle::Auto, 16_384)
    );
    let warnings: Vec<_> = check("").findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["dp.toml: port: no [[port]]: the API is served but no packet is forwarded"]
    );

    let text = r#"
state_dir = "/srv/sixferry"
[api]
unix_socket = ""
tcp = { listen = "[::]:5841", cert = "/etc/c", key = "/etc/k", client_ca = "/etc/a" }
[metrics]
listen = ""
[log]
format = "json"
level = "info,sixferryd=debug"
[worker]
count = 1
idle = "spin"
pin = true
first_cpu = 1
frames = 4096
[router]
address = "2001:db8:ffff::1"
icmp_errors_per_second = 5
answers_per_tunnel_burst = 6
outer_options = "skip"
native_source_check = false
[[port]]
name = "eth0"
mode = "copy"
vlans = [100]
[[port]]
name = "eth1"
vlans = "auto"
[steering]
prefixes = ["2001:db8::/32"]
[[tunnel]]
id = "x"
local = "198.51.100.1"
remote = "10.0.0.1"
prefixes = ["2001:db8:1::/48"]
link_prefix = "2001:db8:2::/64"
link_address = "2001:db8:2::1"
mtu = 1480
mtu_mode = "managed"
ttl = "inherit"
dscp = "copy"
dscp_decap_copy = true
ecn = "compat"
strict_source = false
up = false
"#;
    let config = good(text);
    assert_eq!((config.api.unix_socket, config.metrics), (None, None));
    assert_eq!(config.api.tcp.map(|t| t.listen.port()), Some(5841));
    assert!(config.log.json);
    assert_eq!(config.settings.icmp_errors.global_per_second, 5);
    assert_eq!(config.settings.answers.tunnel_burst, 6);
    assert_eq!(config.settings.outer_options, OuterOptions::Skip);
    assert!(!config.settings.native_source_check);
    assert_eq!(config.ports[0].mode, PortMode::Copy);
    assert_eq!(config.ports[0].vlans.as_deref(), Some(&[100][..]));
    assert_eq!(config.ports[1].vlans, None);
    let spec = &config.tunnels[0].spec;
    assert_eq!((spec.mtu, spec.mtu_mode), (1480, MtuMode::Managed));
    assert_eq!((spec.ttl, spec.dscp), (Ttl::Inherit, Dscp::Copy));
    assert!(spec.dscp_decap_copy && !spec.strict_source && !spec.up);
}

#[test]
fn a_plan_names_what_changes_and_what_must_wait() {
    let old = good(&two("", "mtu = 1300"));
    let text = two("", "mtu = 1400").replace("\"a\"", "\"c\"")
        + "[log]\nlevel = \"warn\"\nformat = \"json\"\n[router]\nanswers_burst = 1\n";
    let plan = Plan::between(&old, &good(&text));
    assert_eq!(
        plan.changes,
        [
            "log.level: info -> warn",
            "router: settings change",
            "add tunnel c",
            "change tunnel b",
            "remove tunnel a"
        ]
    );
    assert_eq!(plan.restart_required, ["log.format"]);
    assert_eq!(Plan::between(&old, &old), Plan::default());
}

#[test]
fn the_example_passes_and_shows_every_default() {
    let text = include_str!("../../dataplane.example.toml");
    let example = good(&text.replace("# address =", "address ="));
    assert_eq!(example.tunnels.len(), 1);
    // Without the sections of the site it is what an empty file means.
    let site = text.find("# --- your site").expect("the marker");
    let rest = good(&text[..site]);
    assert_eq!(rest, good(""));
}
