//! UDP tunnels, domains, and what runs beside the packet threads.

use sixferry_fwd::{DomainKind, Dscp, EncapKind, MtuMode, Rebind, SixToFourRole, Urpf};

use super::{check, errors, good};

#[test]
fn mistakes_of_udp_tunnels_and_domains_are_told_alike() {
    let udp = |more: &str| {
        "[[tunnel]]\nid = \"u\"\nencap = \"udp\"\nlocal = \"198.51.100.1\"\n".to_owned() + more
    };
    let domain = |kind: &str, role: &str, more: &str| {
        format!(
            "[[domain]]\nid = \"d\"\nkind = \"{kind}\"\nrole = \"{role}\"\nlocal = \
             \"10.1.0.1\"\n{more}"
        )
    };
    let rd = "prefix = \"2001:db8::/32\"\nv4_common = \"10.0.0.0/8\"\n";
    let cases: &[(String, &str)] = &[
        (
            udp(""),
            "dp.toml:1:1: tunnel[0].local_port: missing: a UDP tunnel needs a port of its own, \
             1..65535",
        ),
        (
            udp("local_port = 4028\nremote_port = 70000\n"),
            "dp.toml:6:15: tunnel[0].remote_port: 70000 is outside 1..65535",
        ),
        (
            udp("local_port = 4028\nshared_port = true\n"),
            "dp.toml:6:15: tunnel[0].shared_port: a shared port needs remote and remote_port: they \
             tell its tunnels apart",
        ),
        (
            udp("local_port = 4028\nrebind = \"inner-source\"\nstrict_source = false\n"),
            "dp.toml:6:10: tunnel[0].rebind: INNER_SOURCE needs strict_source: the inner source is \
             all the proof there is",
        ),
        (
            udp("local_port = 4028\nmtu = 1480\n"),
            "dp.toml:6:7: tunnel[0].mtu: 1480 is outside 1280..1472",
        ),
        (
            udp("local_port = 4028\nliveness = \"nud\"\n"),
            "dp.toml:6:12: tunnel[0].liveness: NUD probes need protocol 41; use ECHO or PASSIVE \
             with UDP",
        ),
        (
            udp("local_port = 4028\n") + &udp("local_port = 4028\n").replace("\"u\"", "\"v\""),
            "dp.toml:10:14: tunnel[1].local_port: UDP port 4028 of 198.51.100.1 is already tunnel \
             \"u\" of line 5",
        ),
        (
            "[reassembly]\ntimeout_seconds = 61\n".to_owned(),
            "dp.toml:2:19: reassembly.timeout_seconds: 61 is outside 1..60",
        ),
        (
            "[state]\nsave = false\nrestore = true\n".to_owned(),
            "dp.toml:3:11: state.restore: would start from a file nobody writes; set state.save = \
             true",
        ),
        (
            "[host_port]\nname = \"a/b\"\n".to_owned(),
            "dp.toml:2:8: host_port.name: \"a/b\" is no name for a device (1 to 15 bytes, no / or \
             space)",
        ),
        (
            domain("7to4", "relay", ""),
            "dp.toml:3:8: domain[0].kind: give \"6to4\" or \"6rd\"",
        ),
        (
            domain("6rd", "relay", rd),
            "dp.toml:4:8: domain[0].role: give \"br\" or \"ce\"",
        ),
        (
            domain("6rd", "ce", rd),
            "dp.toml:1:1: domain[0].br: missing; e.g. \"10.0.0.1\"",
        ),
        (
            domain("6rd", "br", "prefix = \"2001:db8::/40\"\n"),
            "dp.toml:6:10: domain[0].prefix: the delegated prefixes would be /72 (40 + 32 - 0); at \
             most /64: a shorter prefix or a longer v4_mask_length",
        ),
        (
            domain("6rd", "br", &format!("{rd}allow_v4 = [\"10.0.0.0/8\"]\n")),
            "dp.toml:8:13: domain[0].allow_v4: only for 6to4; a 6rd domain knows no martians",
        ),
        (
            domain("6rd", "br", &format!("{rd}routes = [\"::/0\"]\n")),
            "dp.toml:8:11: domain[0].routes: only for a 6to4 site or a 6rd customer edge: the \
             others have no way out through the domain",
        ),
        (
            domain(
                "6rd",
                "br",
                &format!("{rd}anycast = true\nmtu_mode = \"static\"\n"),
            ),
            "dp.toml:9:12: domain[0].mtu_mode: an anycast border relay must set DF: MANAGED (RFC \
             5969 section 9.1)",
        ),
        (
            domain("6rd", "br", rd) + &domain("6to4", "relay", "").replace("\"d\"", "\"e\""),
            "dp.toml:12:9: domain[1].local: domain \"d\" of line 1 works at 10.1.0.1 already; each \
             automatic mechanism needs an address of its own (RFC 3964 section 6.1)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(text), [*expected], "{text}");
    }
}

#[test]
fn domains_and_udp_tunnels_reach_the_configuration() {
    let text = r#"
[host_port]
enabled = true
mtu = 1400
[reassembly]
per_source = 8
contexts = 16
bytes = 100000
timeout_seconds = 7
[liveness]
probes_per_second = 50
[state]
restore = true
interval_seconds = 9
[[tunnel]]
id = "behind-nat"
encap = "udp"
local = "198.51.100.1"
local_port = 4028
rebind = "inner-source"
prefixes = ["2001:db8:1::/48"]
mtu_mode = "dynamic"
path_mtu = 1400
min_path_mtu = 600
mss_clamp = true
liveness = "passive"
liveness_interval_seconds = 60
[[domain]]
id = "site"
kind = "6to4"
role = "site"
local = "8.1.2.3"
peer_v4_length = 8
urpf = "strict"
allow_v4 = ["192.0.2.0/24"]
deny_v4 = ["192.88.99.0/24"]
routes = ["2000::/3"]
input = false
[[domain]]
id = "br"
kind = "6rd"
role = "br"
local = "10.1.0.1"
prefix = "2001:db8::/32"
v4_common = "10.0.0.0/8"
anycast = true
"#;
    let config = good(text);
    let host_port = config.host_port.expect("enabled");
    assert_eq!((&*host_port.name, host_port.mtu), ("sixferry0", 1400));
    assert_eq!(config.reassembly.contexts, 16);
    assert_eq!(config.reassembly.timeout.as_secs(), 7);
    assert_eq!(config.liveness.probes_per_second, 50);
    assert!(config.state.restore && config.state.interval.as_secs() == 9);
    let tunnel = &config.tunnels[0];
    let EncapKind::Udp(udp) = tunnel.spec.encap else {
        panic!("UDP");
    };
    assert_eq!((udp.local_port, udp.remote_port), (4028, 0));
    assert_eq!(udp.rebind, Rebind::InnerSource);
    assert_eq!((tunnel.spec.mtu, tunnel.spec.path_mtu), (1472, Some(1400)));
    assert_eq!(tunnel.liveness.interval_seconds(), 60);
    let [site, br] = &config.domains[..] else {
        panic!("two domains");
    };
    assert_eq!(site.routes, ["2000::/3".parse().expect("a prefix")]);
    assert_eq!((site.spec.urpf, site.spec.input), (Urpf::Strict, false));
    let relay = crate::control::domain_spec::SIX_TO_FOUR_ANYCAST;
    let kind = DomainKind::SixToFour {
        role: SixToFourRole::Site { relay },
        peer_v4_len: 8,
        anycast: false,
    };
    assert_eq!(site.spec.kind, kind);
    assert_eq!(
        (br.spec.dscp, br.spec.mtu_mode),
        (Dscp::Copy, MtuMode::Managed)
    );
}

#[test]
fn a_peer_that_nobody_can_name_is_a_warning() {
    let text =
        "[[tunnel]]\nid = \"u\"\nencap = \"udp\"\nlocal = \"198.51.100.1\"\nlocal_port = 4028\n";
    let warned = |text: &str| {
        let checked = check(text);
        assert!(checked.config.is_some());
        checked.findings.iter().any(|f| f.key == "tunnel[0].remote")
    };
    assert!(warned(text));
    assert!(!warned(&format!("{text}rebind = \"inner-source\"\n")));
    assert!(!warned(&format!(
        "{text}remote = \"192.0.2.1\"\nremote_port = 9\n"
    )));
}

/// What the example keeps behind `#` must be right too.
#[test]
fn the_example_of_a_domain_passes() {
    let text = include_str!("../../../dataplane.example.toml");
    let start = text.find("# [[domain]]").expect("a domain");
    let keys = text[start..]
        .lines()
        .map(|line| line.trim_start_matches("# "));
    let not_for_br = ["br =", "relay =", "peer_v4_length", "routes", "allow_v4"];
    let keys: Vec<_> = keys
        .filter(|line| !not_for_br.iter().any(|key| line.starts_with(key)))
        .collect();
    assert_eq!(good(&keys.join("\n")).domains.len(), 1);
}
