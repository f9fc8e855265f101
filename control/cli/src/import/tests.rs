use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::args::{Cli, Command};

/// The command line after `sixferry import stf`, one word per item.
fn import(words: &[&str]) -> Result<Vec<Imported>, String> {
    let line = ["sixferry", "import", "stf"].iter().chain(words);
    let cli = Cli::try_parse_from(line).map_err(|e| e.to_string())?;
    let Command::Import(ImportCommand::Stf(args)) = cli.command else {
        panic!("not an import");
    };
    let sources = sources(&args).map_err(|e| e.to_string())?;
    stf::import(&sources, &args).map_err(|e| e.to_string())
}

fn one(words: &[&str]) -> Imported {
    let mut imported = import(words).unwrap();
    assert_eq!(imported.len(), 1);
    imported.remove(0)
}

fn file(text: &str, more: &[&str]) -> Result<Vec<Imported>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rc.conf");
    std::fs::write(&path, text).unwrap();
    let words = [&["--file", path.to_str().unwrap()], more].concat();
    import(&words).map_err(|e| e.replace(dir.path().to_str().unwrap(), ""))
}

/// The section without its heading, and the first command without its beginning.
fn essence(imported: &Imported) -> (Vec<&str>, &str) {
    let lines = imported.toml.lines().filter(|l| !l.starts_with('['));
    let command = imported.commands[0].strip_prefix("sixferry domain add stf0 ");
    (lines.collect(), command.unwrap_or(&imported.commands[0]))
}

#[test]
fn the_whole_text_can_be_appended_to_the_file() {
    let imported =
        one(&["# ifconfig stf0 inet6 2002:8504:506:0:a00:5aff:fe38:6f86 prefixlen 16 alias link0"]);
    let expected = "\
[[domain]]
id = \"stf0\"
kind = \"6to4\"
role = \"relay\"
local = \"133.4.5.6\"
input = false
urpf = \"strict\"
ttl = 40
dscp = \"copy\"

# The same for a running daemon:
#   sixferry domain add stf0 --kind 6to4 --role relay --local 133.4.5.6 --urpf strict --ttl 40 --dscp copy --no-input
#
# What to know:
# - Stricter than stf: the IPv4 address inside a 6to4 source must be the one the packet came from,
#   and inside a 6to4 destination this relay's (RFC 3964); one of the two addresses must be 6to4.
# - Stricter than stf: 169.254.0.0/16, 240.0.0.0/4, 100.64.0.0/10 and the blocks for documentation
#   and benchmarks are no peers either; `allow_v4` exempts what a laboratory needs.
# - urpf = \"strict\" is stf's ingress filter: the route to the source must lead out of the port the
#   packet came in by. \"loose\" is for asymmetric routes; link2 would be \"off\".
# - ttl = 40 and dscp = \"copy\" are what stf does; without the two lines it is 64 and 0.
# - link1 was not set: stf copies the ECN field at the entry and ignores it at the exit. Sixferry
#   always follows RFC 6040: it copies the field, CE included, and merges it; `ecn = \"compat\"` is
#   for peers that would lose the marks.
# - The MTU is 1280, and DF is clear, as with stf.
# - No default route into 6to4 was given, so this is a relay; --role site would make it a site. A
#   relay has native IPv6 behind it, and advertises 2002::/16 there and nothing longer (RFC 3056
#   section 5.2).
# - input = false is link0: nothing comes in. Do not use or advertise this 6to4 prefix as a
#   source: answers to it are lost.
# - There is no interface, so 2002:8504:506:0:a00:5aff:fe38:6f86 is nobody's address any more:
#   give it to another interface of the host if something uses it.
";
    assert_eq!(text(&imported), expected);
    let parsed: ::toml::Table = text(&imported).parse().unwrap();
    assert_eq!(parsed["domain"].as_array().unwrap().len(), 1);
}

#[test]
fn every_flag_has_its_counterpart() {
    let plain = "ifconfig stf0 inet6 2002:901:203::1 prefixlen";
    for (line, section, command) in [
        (
            format!("{plain} 32"),
            "peer_v4_length = 16",
            "--kind 6to4 --role relay --local 9.1.2.3 --peer-v4-length 16 --urpf strict --ttl 40 \
             --dscp copy",
        ),
        (
            format!("{plain} 16 link2"),
            "ttl = 40",
            "--kind 6to4 --role relay --local 9.1.2.3 --ttl 40 --dscp copy",
        ),
        (
            format!("{plain} 16 link0 -link0 mtu 1400 down"),
            "mtu = 1400",
            "--kind 6to4 --role relay --local 9.1.2.3 --urpf strict --mtu 1400 --ttl 40 \
             --dscp copy --down",
        ),
    ] {
        let imported = one(&[&line]);
        let (lines, typed) = essence(&imported);
        assert!(lines.contains(&section), "{line}: {lines:?}");
        assert_eq!(typed, command, "{line}");
    }
    let linked = one(&["ifconfig stf0 inet6 2002:901:203::1/16 link1 link2"]);
    let notes = linked.notes.join("\n");
    assert!(notes.contains("link1 was set") && notes.contains("link2 was set"));
    assert!(!linked.toml.contains("urpf"));
    let large = one(&["ifconfig stf0 inet6 2002:901:203::1/16 mtu 9000"]);
    assert!(large.toml.contains("mtu = 1480"));
    assert!(large.notes.join("\n").contains("mtu 9000 was more"));
}

#[test]
fn the_same_interface_in_the_ways_it_is_written() {
    let expected = one(&["ifconfig stf0 inet6 2002:905:607::1 prefixlen 16"]);
    let (lines, _) = essence(&expected);
    for text in [
        "ifconfig stf0 create\nifconfig stf0 inet6 2002:905:607::1 \\\n\tprefixlen 16 alias\n",
        "create\ninet6 2002:905:607::1 prefixlen 16 alias\nup\n",
        "cloned_interfaces=\"stf0\"\nifconfig_stf0_ipv6=\"inet6 2002:905:607::1 prefixlen 16\"\n",
        "ipv6_ifconfig_stf0='2002:905:607::1 prefixlen 16'   # as it was once\n",
        "ifconfig_stf0=\"create; inet6 2002:905:607::1/16; up\"\n",
        "hostname=\"relay\"\nstf_interface_ipv4addr=\"9.5.6.7\"\nstf_interface_ipv4plen=0\n",
        "stf_interface_ipv4addr=9.5.6.7\nstf_interface_ipv6_ifid=\"AUTO\"\n\
         stf_interface_ipv6_slaid=\"0000\"\n",
        "#comment\nsudo /sbin/ifconfig stf0 inet6 2002:0905:0607::1 prefixlen 16 up\n",
    ] {
        let imported = file(text, &[]).unwrap_or_else(|e| panic!("{text}: {e}"));
        let (seen, _) = essence(&imported[0]);
        // Somebody may have another name for it; what counts is the same.
        assert_eq!(seen, lines, "{text}");
    }
}

#[test]
fn rc_conf_restricts_peers_and_names_the_subnet() {
    let text = "stf_interface_ipv4addr=\"9.1.2.3\"\nstf_interface_ipv4plen=\"16\"\n\
                stf_interface_ipv6_ifid=\"0:0:0:5\"\nstf_interface_ipv6_slaid=\"00ab\"\n";
    let imported = file(text, &[]).unwrap();
    assert!(imported[0].toml.contains("peer_v4_length = 16"));
    let notes = imported[0].notes.join("\n");
    assert!(notes.contains("restricts peers to 9.1.0.0/16"), "{notes}");
    assert!(notes.contains("2002:901:203:ab::5 is nobody's"), "{notes}");
}

#[test]
fn a_default_route_into_6to4_makes_a_site() {
    let text = "ifconfig stf0 inet6 2002:905:607::1 prefixlen 16\n\
                route add -inet6 default 2002:c058:6301::\nroute add -inet6 2002:: -prefixlen 16 ::1\n";
    let imported = file(text, &[]).unwrap();
    assert!(imported[0].toml.contains("role = \"site\"\n"));
    assert!(imported[0].toml.contains("routes = [\"::/0\"]\n"));
    assert!(!imported[0].toml.contains("relay ="), "the default way out");
    assert_eq!(
        imported[0].commands[1],
        "sixferry route add ::/0 --domain stf0"
    );
    let notes = imported[0].notes.join("\n");
    assert!(notes.contains("Left out: the route to 2002::"), "{notes}");
    let text = text.replace("2002:c058:6301::\n", "2002:909:101::1%stf0\n");
    let imported = file(&text, &[]).unwrap();
    assert!(imported[0].toml.contains("relay = \"9.9.1.1\"\n"));
    let relay = file(&text, &["--role", "relay"]).unwrap();
    assert!(relay[0].toml.contains("role = \"relay\"\n"));
}

#[test]
fn the_anycast_address_needs_an_own_one() {
    let line = "ifconfig stf0 inet6 2002:c058:6301::1 prefixlen 16 alias";
    let error = import(&[line]).unwrap_err();
    assert!(error.contains("--local"), "{error}");
    for words in [
        &[line, "--local", "9.5.6.7"][..],
        &[line, "ifconfig stf0 inet6 2002:905:607::1 prefixlen 16"],
    ] {
        let imported = one(words);
        assert!(
            imported
                .toml
                .contains("local = \"9.5.6.7\"\nanycast = true\n")
        );
        assert!(imported.commands[0].contains(" --anycast"));
    }
}

#[test]
fn laboratories_are_exempted_on_request() {
    let line = "ifconfig stf0 inet6 2002:a00:1::1/16";
    let error = import(&[line]).unwrap_err();
    assert_eq!(
        error,
        "stf0: 6to4 needs a global IPv4 address; 10.0.0.1 is private (a laboratory says \
         net.link.stf.permit_rfc1918=1)"
    );
    let imported = one(&[line, "sysctl net.link.stf.permit_rfc1918=1"]);
    assert!(imported.toml.contains("allow_v4 = ["), "{}", imported.toml);
    assert!(imported.commands[0].contains("--allow-v4 172.16.0.0/12"));
}

#[test]
fn several_interfaces_are_several_domains() {
    let words = [
        "ifconfig stf0 inet6 2002:901:203::1/16",
        "ifconfig stf1 inet6 2002:905:607::1/16",
    ];
    let imported = import(&words).unwrap();
    assert_eq!(
        (imported[0].id.as_str(), imported[1].id.as_str()),
        ("stf0", "stf1")
    );
    let error = import(&[words[0], words[1], "--id", "x"]).unwrap_err();
    assert!(error.contains("there are several"), "{error}");
    assert_eq!(one(&[words[0], "--id", "old-relay"]).id, "old-relay");
}

#[test]
fn what_is_not_understood_is_named() {
    for (line, expected) in [
        (
            "ifconfig stf0 inet6 2002:901:203::1 prefixlen 15",
            "line 1: prefixlen 15: of a 6to4 address it is 16",
        ),
        (
            "ifconfig stf0 inet6 2002:901:203::1 prefixlen x",
            "prefixlen x is not a length",
        ),
        (
            "ifconfig stf0 prefixlen 16",
            "prefixlen 16 does not follow an address",
        ),
        ("ifconfig stf0 inet6 2002:901:203::1", "without prefixlen"),
        ("ifconfig stf0 inet6", "inet6 without an address"),
        (
            "ifconfig stf0 inet6 2001:db8::1/16",
            "2001:db8::1 is not a 6to4 address",
        ),
        (
            "ifconfig stf0 inet6 2002:901:203::1/16 polling",
            "\"polling\" is not understood",
        ),
        ("ifconfig stf0 -alias", "-alias removes"),
        (
            "ifconfig stf0 stfv4net 192.0.2.1/24",
            "--kind 6rd --role ce",
        ),
        ("ifconfig stf0 inet 9.1.2.3", "no IPv4 address of its own"),
        (
            "ifconfig stf0 inet6 2002:901:203::1/16 mtu 1000",
            "IPv6 needs 1280",
        ),
        ("ifconfig stf0 create", "it has no inet6 address"),
        (
            "ifconfig em0 inet 9.1.2.3",
            "nothing in it is about an stf interface",
        ),
        ("ping6 2002:901:203::1", "\"ping6\" is not understood"),
        ("stf_interface_ipv4plen=32", "\"32\" is not 0 to 31"),
        (
            "stf_interface_ipv4addr=NO",
            "nothing in it is about an stf interface",
        ),
        (
            "stf_interface_colour=red",
            "stf_interface_colour is about stf",
        ),
        ("ifconfig_stf0_descr=x", "ifconfig_stf0_descr is about stf"),
        ("ifconfig_stf0=\"inet6 $addr\"", "write the value out"),
        ("ifconfig_stf0=\"inet6", "the quotes are not closed"),
        (
            "ifconfig stf0 inet6 2002:7f00:1::1/16",
            "127.0.0.1 is a loopback address",
        ),
        (
            "ifconfig stf0 inet6 2002:e000:1::1/16",
            "224.0.0.1 is multicast",
        ),
    ] {
        let error = import(&[line]).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
    let two = import(&[
        "ifconfig stf0 inet6 2002:901:203::1/16",
        "ifconfig stf0 inet6 2002:901:204::1/16",
    ])
    .unwrap_err();
    assert!(
        two.contains("line 2: a second address, 2002:901:204::1"),
        "{two}"
    );
    let error = file(
        "hostname=x\n\nifconfig stf0 nonsense\nifconfig stf0 foo\n",
        &[],
    )
    .unwrap_err();
    assert_eq!(
        error,
        "/rc.conf:3: \"nonsense\" is not understood\n  /rc.conf:4: \"foo\" is not understood"
    );
}

proptest! {
    #[test]
    fn any_global_address_comes_back_from_either_notation(
        octets in (1_u8..=9, any::<u8>(), any::<u8>(), any::<u8>()),
        length in 0_u8..=31,
    ) {
        let local = Ipv4Addr::new(octets.0, octets.1, octets.2, octets.3);
        let [a, b, c, d] = local.octets();
        let address = format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1");
        let line = format!("ifconfig stf0 inet6 {address} prefixlen {}", 16 + length);
        let typed = import(&[&line]).map_err(TestCaseError::fail)?;
        let variables = [
            format!("stf_interface_ipv4addr=\"{local}\""),
            format!("stf_interface_ipv4plen=\"{length}\""),
        ];
        let configured = import(&[&variables[0], &variables[1]]).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&typed, &configured);
        let expected = format!("local = \"{local}\"\n");
        prop_assert!(typed[0].toml.contains(&expected));
    }

    #[test]
    fn no_line_makes_it_panic(line in "[ -~\\\\\"'#]{0,60}") {
        let source = parse::Source::file("f", line.clone());
        let _ = parse::parse(&[source]);
        let words = format!("ifconfig stf0 {line}");
        let _ = parse::parse(&[parse::Source::typed(words)]);
    }
}
