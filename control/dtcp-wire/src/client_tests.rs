use proptest::prelude::*;

use super::*;
use crate::tests::VECTORS;

fn net(text: &str) -> Ipv6Net {
    text.parse().expect("prefix")
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("address")
}

#[test]
fn digests_of_the_protocol_description() {
    for (user, challenge, secret, wanted) in VECTORS {
        assert_eq!(answer(user, challenge, secret.as_bytes()), wanted);
    }
    let lower = answer("foo", "0b1517c87d516a5fa65bed722d51a04f", b"bar");
    assert_eq!(lower, lower.to_ascii_lowercase());
    let digits = answer("foo", "01234567890123456789012345678901", b"bar");
    assert_eq!(digits, digits.to_ascii_uppercase());
}

#[test]
fn greetings_of_all_generations_give_their_challenge_verbatim() {
    for (line, wanted) in [
        (
            "+OK 3D5F0C8A9E7B4126F0D1C2B3A4958677 KAME tunnel server",
            "3D5F0C8A9E7B4126F0D1C2B3A4958677",
        ),
        (
            "+OK 7a00ff11ee22dd33cc44bb55aa669988 Feel6 DTCP server 1.4",
            "7a00ff11ee22dd33cc44bb55aa669988",
        ),
        ("+OK <12.34@host.example>", "<12.34@host.example>"),
    ] {
        let Ok(Reply::Ok(text)) = reply(line) else {
            panic!("{line}");
        };
        assert_eq!(challenge(text), Ok(wanted));
    }
    assert_eq!(reply("-ERR server busy"), Ok(Reply::Err("server busy")));
    assert_eq!(reply("+OK"), Ok(Reply::Ok("")));
    assert_eq!(challenge(""), Err(Malformed::Challenge));
    assert_eq!(challenge(&"A".repeat(257)), Err(Malformed::Challenge));
    for line in [
        "",
        "220 mail.example ESMTP",
        "+ok hi",
        "+OKAY",
        "HTTP/1.1 400",
    ] {
        assert!(matches!(reply(line), Err(Malformed::Status(_))), "{line}");
    }
}

#[test]
fn login_lines() {
    let line = |kind, udp| login("alice", "D", &Wish { kind, udp });
    assert_eq!(line("host", None), "tunnel alice D host");
    let learnt = Some(udp::Request { client_port: None });
    assert_eq!(line("tunnelonly", learnt), "tunnel alice D tunnelonly udp");
    let told = Some(udp::Request {
        client_port: Some(4028),
    });
    assert_eq!(line("network", told), "tunnel alice D network udp 4028");
}

#[test]
fn grants_of_the_types() {
    let bare = Grant {
        client4: "192.0.2.10".to_owned(),
        server4: Ipv4Addr::new(198, 51, 100, 1),
        pair: None,
        prefixes: Vec::new(),
        udp_port: None,
    };
    assert_eq!(Grant::parse("192.0.2.10 198.51.100.1"), Ok(bare.clone()));
    // The original glues a prefix and four digits.
    for pair in [
        "2001:db8:ffff::6 2001:db8:ffff::5",
        "2001:db8:ffff::0006 2001:db8:ffff::0005",
    ] {
        let grant = Grant::parse(&format!("192.0.2.10 198.51.100.1 {pair}"));
        let wanted = Some((address("2001:db8:ffff::6"), address("2001:db8:ffff::5")));
        assert_eq!(grant.expect("a grant").pair, wanted);
    }
    let grant = Grant::parse("192.0.2.10 198.51.100.1 2001:db8:200::/56,2001:db8:201::/64");
    assert_eq!(
        grant.expect("a grant").prefixes,
        [net("2001:db8:200::/56"), net("2001:db8:201::/64")]
    );
    let grant = Grant::parse("203.0.113.7 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5 udp 4028");
    assert_eq!(grant.expect("a grant").udp_port, Some(4028));
    let both = "192.0.2.10 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5 2001:db8:100::/48";
    let grant = Grant::parse(both).expect("a grant");
    assert!(grant.pair.is_some() && grant.prefixes == [net("2001:db8:100::/48")]);
    assert_eq!(Grant::parse(" 192.0.2.10  198.51.100.1 "), Ok(bare));
}

#[test]
fn what_no_tunnel_can_have_is_refused() {
    for text in [
        "",
        "192.0.2.10",
        "192.0.2.010 198.51.100.1",
        "0.0.0.0 198.51.100.1",
        "192.0.2.10 224.0.0.1",
        "192.0.2.10 example.org",
        "192.0.2.10 198.51.100.1 2001:db8::6",
        "192.0.2.10 198.51.100.1 2001:db8::6 2001:db8::6",
        "192.0.2.10 198.51.100.1 ::1 2001:db8::5",
        "192.0.2.10 198.51.100.1 fe80::6 fe80::5",
        "192.0.2.10 198.51.100.1 ff02::1 2001:db8::5",
        "192.0.2.10 198.51.100.1 ::ffff:192.0.2.1 2001:db8::5",
        "192.0.2.10 198.51.100.1 ::/0",
        "192.0.2.10 198.51.100.1 2000::/3",
        "192.0.2.10 198.51.100.1 2001:db8::/129",
        "192.0.2.10 198.51.100.1 2001:db8::/48,",
        "192.0.2.10 198.51.100.1 udp",
        "192.0.2.10 198.51.100.1 udp 0",
        "192.0.2.10 198.51.100.1 udp 65536",
        "192.0.2.10 198.51.100.1 udp 4028 more",
    ] {
        assert!(Grant::parse(text).is_err(), "{text}");
    }
    let many: Vec<String> = (0..65).map(|n| format!("2001:db8:{n:x}::/48")).collect();
    let text = format!("192.0.2.10 198.51.100.1 {}", many.join(","));
    assert_eq!(
        Grant::parse(&text),
        Err(Malformed::Shape("more than 64 prefixes"))
    );
}

#[test]
fn nothing_a_terminal_obeys_is_shown() {
    assert_eq!(shown("a\x1b[2Jb\r\n"), "a?[2Jb??");
    assert_eq!(shown(&"x".repeat(500)).chars().count(), MAX_SHOWN + 1);
}

proptest! {
    #[test]
    fn no_line_can_hurt(line in "(\\PC|[ \t/,:.0-9a-f]){0,300}") {
        if let Ok(Reply::Ok(text)) = reply(&line) {
            let _ = challenge(text);
            let _ = Grant::parse(text);
        }
        let _ = Grant::parse(&line);
        prop_assert!(shown(&line).chars().all(|c| !c.is_control()));
    }

    #[test]
    fn a_grant_reads_back_as_it_was_written(
        client in any::<[u8; 4]>(),
        unit in 0_u32..20_000,
        subnets in prop::collection::hash_set(any::<u16>(), 0..8),
        port in prop::option::of(1_u16..),
        with_pair in any::<bool>(),
    ) {
        let client = Ipv4Addr::from(client);
        prop_assume!(!client.is_unspecified() && !client.is_multicast() && !client.is_broadcast());
        let base = u128::from(address("2001:db8:ffff::"));
        let own = Ipv6Addr::from(base + u128::from(4 * (unit + 1) + 2));
        let peer = Ipv6Addr::from(base + u128::from(4 * (unit + 1) + 1));
        let prefixes: Vec<Ipv6Net> = subnets
            .iter()
            .map(|n| net(&format!("2001:db8:{n:x}::/48")))
            .collect();
        let mut text = format!("{client} 198.51.100.1");
        if with_pair {
            text += &format!(" {own} {peer}");
        }
        if !prefixes.is_empty() {
            let list: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            text += &format!(" {}", list.join(","));
        }
        if let Some(port) = port {
            text += &format!(" udp {port}");
        }
        let wanted = Grant {
            client4: client.to_string(),
            server4: Ipv4Addr::new(198, 51, 100, 1),
            pair: with_pair.then_some((own, peer)),
            prefixes,
            udp_port: port,
        };
        prop_assert_eq!(Grant::parse(&text), Ok(wanted));
    }
}
