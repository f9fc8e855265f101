use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::args::{Cli, Command};
use crate::domain::{DomainCommand, add_line};

fn command(line: &str) -> Result<DomainCommand, String> {
    let words = ["sixferry", "domain"].into_iter();
    let cli =
        Cli::try_parse_from(words.chain(line.split_whitespace())).map_err(|e| e.to_string())?;
    match cli.command {
        Command::Domain(command) => Ok(command),
        other => panic!("{other:?}"),
    }
}

fn add(line: &str) -> Result<(Domain, WriteMode), String> {
    let DomainCommand::Add(args) = command(line)? else {
        panic!("not an add");
    };
    match args.into_update().map_err(|e| e.to_string())? {
        DomainUpdate::Upsert { domain, mode, .. } => Ok((*domain, mode)),
        DomainUpdate::Delete { .. } => panic!("a delete"),
    }
}

fn set(now: Domain, line: &str) -> Result<(Domain, Vec<DomainField>), String> {
    let DomainCommand::Set(args) = command(line)? else {
        panic!("not a set");
    };
    args.apply(now).map_err(|e| e.to_string())
}

const CE: &str = "add ce --kind 6rd --role ce --local 10.100.0.1 --prefix 2001:db8::/32 \
                  --v4-common 10.0.0.0/8 --br 10.0.0.1";

#[test]
fn a_domain_of_every_role() {
    let (relay, mode) = add("add r --kind 6to4 --role relay --local 9.1.2.3 --anycast").unwrap();
    assert_eq!(mode, WriteMode::Create);
    let Mechanism::SixToFour(m) = relay.mechanism else {
        panic!("not 6to4");
    };
    assert_eq!(m.role, SixToFourRole::Relay { anycast: true });
    let (site, _) = add(
        "add s --kind 6to4 --role site --local 9.1.2.3 --peer-v4-length 16 \
                         --no-input --replace",
    )
    .unwrap();
    assert!(!site.input);
    let Mechanism::SixToFour(m) = site.mechanism else {
        panic!("not 6to4");
    };
    assert_eq!(
        (m.role, m.peer_v4_length),
        (SixToFourRole::Site { relay: None }, 16)
    );
    let (br, _) =
        add("add b --kind 6rd --role br --local 192.0.2.1 --prefix 2001:db8::/32").unwrap();
    let Mechanism::SixRd(m) = &br.mechanism else {
        panic!("not 6rd");
    };
    assert_eq!(m.v4_common.prefix_len(), 0);
    assert_eq!(br.dscp, Dscp::Copy);
    let (ce, _) = add(CE).unwrap();
    let Mechanism::SixRd(m) = ce.mechanism else {
        panic!("not 6rd");
    };
    let br = [10, 0, 0, 1].into();
    assert_eq!(m.role, SixRdRole::Ce { br });
}

#[test]
fn what_does_not_fit_is_named() {
    for (line, expected) in [
        (
            "add d --kind 6to4 --role br --local 9.1.2.3",
            "--kind 6to4 has --role relay or site",
        ),
        (
            "add d --kind 6rd --role relay --local 9.1.2.3",
            "--kind 6rd has --role br or ce",
        ),
        (
            "add d --kind 6rd --role br --local 9.1.2.3",
            "a 6rd border relay needs --prefix",
        ),
        (
            "add d --kind 6rd --role ce --local 9.1.2.3 --prefix 2001:db8::/32",
            "a 6rd customer edge needs --br",
        ),
        (
            "add d --kind 6to4 --role relay --local 9.1.2.3 --prefix 2001:db8::/32",
            "--prefix is not for a 6to4 relay",
        ),
        (
            "add d --kind 6to4 --role site --local 9.1.2.3 --anycast",
            "--anycast is not for a 6to4 site",
        ),
        ("add d --kind 6to4 --role relay", "--local"),
        (
            "add d --kind 6to4 --role relay --local 9.1.2.3 --mtu-mode dynamic",
            "dynamic",
        ),
        (
            "add d --kind 6to4 --role relay --local 9.1.2.3 --allow-v4 10.0.0.1/8",
            "the prefix is 10.0.0.0/8",
        ),
    ] {
        let error = add(line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn set_keeps_the_rest_of_the_mechanism() {
    let (ce, _) = add(CE).unwrap();
    let (changed, fields) = set(ce.clone(), "set ce --br 10.0.0.2 --urpf strict").unwrap();
    assert_eq!(fields, [DomainField::Urpf, DomainField::Mechanism]);
    let (Mechanism::SixRd(before), Mechanism::SixRd(after)) = (&ce.mechanism, &changed.mechanism)
    else {
        panic!("not 6rd");
    };
    assert_eq!(
        (before.prefix, before.v4_common),
        (after.prefix, after.v4_common)
    );
    let br = [10, 0, 0, 2].into();
    assert_eq!(after.role, SixRdRole::Ce { br });

    let (_, fields) = set(ce.clone(), "set ce --no-input --up --no-deny-v4").unwrap();
    let expected = [
        DomainField::DenyV4,
        DomainField::Input,
        DomainField::AdminUp,
    ];
    assert_eq!(fields, expected);
    for (line, expected) in [
        ("set ce", "nothing to set"),
        (
            "set ce --anycast",
            "--anycast is not for a 6rd customer edge",
        ),
        ("set ce --up --down", "cannot be used with"),
        ("set ce --input --no-input", "cannot be used with"),
    ] {
        let error = set(ce.clone(), line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
    let (relay, _) = add("add r --kind 6to4 --role relay --local 9.1.2.3 --anycast").unwrap();
    let (changed, _) = set(relay, "set r --peer-v4-length 8").unwrap();
    let Mechanism::SixToFour(m) = changed.mechanism else {
        panic!("not 6to4");
    };
    assert_eq!(m.role, SixToFourRole::Relay { anycast: true });
}

fn net4() -> impl Strategy<Value = Ipv4Net> {
    (any::<u32>(), 0_u8..=32)
        .prop_map(|(address, len)| Ipv4Net::new_assert(address.into(), len).trunc())
}

fn mechanisms() -> impl Strategy<Value = Mechanism> {
    let v4 = || any::<u32>().prop_map(Ipv4Addr::from);
    let six_to_four = prop_oneof![
        any::<bool>().prop_map(|anycast| SixToFourRole::Relay { anycast }),
        proptest::option::of(v4()).prop_map(|relay| SixToFourRole::Site { relay }),
    ];
    let six_rd = prop_oneof![
        any::<bool>().prop_map(|anycast| SixRdRole::Br { anycast }),
        v4().prop_map(|br| SixRdRole::Ce { br }),
    ];
    let net6 = (any::<u128>(), 16_u8..=64)
        .prop_map(|(address, len)| Ipv6Net::new_assert(address.into(), len).trunc());
    prop_oneof![
        (six_to_four, 0_u8..=32).prop_map(|(role, peer_v4_length)| {
            Mechanism::SixToFour(SixToFour {
                role,
                peer_v4_length,
            })
        }),
        (net6, net4(), six_rd).prop_map(|(prefix, common, role)| {
            Mechanism::SixRd(SixRd {
                prefix,
                // Without common bits there is no address to name.
                v4_common: common,
                role,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn the_printed_command_creates_the_same_domain(
        mechanism in mechanisms(),
        local in any::<u32>(),
        (input, admin_up, clamp, copy) in any::<(bool, bool, bool, bool)>(),
        allow_v4 in proptest::collection::vec(net4(), 0..3),
        deny_v4 in proptest::collection::vec(net4(), 0..3),
        urpf in prop_oneof![
            Just(sixferry_client::Urpf::Off),
            Just(sixferry_client::Urpf::Loose),
            Just(sixferry_client::Urpf::Strict),
        ],
        mtu in 1280_u16..=1480,
        managed in any::<bool>(),
        ttl in proptest::option::of(1_u8..),
        dscp in proptest::option::of(0_u8..64),
        compat in any::<bool>(),
    ) {
        let domain = Domain {
            input,
            admin_up,
            mss_clamp: clamp,
            dscp_decap_copy: copy,
            allow_v4,
            deny_v4,
            urpf,
            mtu,
            mtu_mode: if managed {
                sixferry_client::MtuMode::Managed
            } else {
                sixferry_client::MtuMode::Static
            },
            ttl: ttl.map_or(Ttl::Inherit, Ttl::Fixed),
            dscp: dscp.map_or(Dscp::Copy, Dscp::Fixed),
            ecn: if compat { sixferry_client::Ecn::Compat } else { sixferry_client::Ecn::Normal },
            ..Domain::new("d-1", local.into(), mechanism)
        };
        let line = add_line(&domain);
        let line = line.strip_prefix("sixferry domain ").unwrap();
        let (parsed, _) = add(line).map_err(TestCaseError::fail)?;
        prop_assert_eq!(parsed, domain);
    }
}
