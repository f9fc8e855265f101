use super::*;

fn wish(transport: WantedTransport, slot: SlotChoice) -> Acquire {
    Acquire {
        service: "dtcp".into(),
        account: AccountId(7),
        profile: Profile::Network,
        local: [198, 51, 100, 1].into(),
        remote: [192, 0, 2, 10].into(),
        transport,
        slot,
        host_prefix: Some("2001:db8:0:1::/64".parse().unwrap()),
        prefixes: vec!["2001:db8:100::/48".parse().unwrap()],
        prefixless: false,
        mtu: 1280,
        exclusive: true,
    }
}

fn range() -> SlotChoice {
    SlotChoice::Range {
        stem: "gif".into(),
        units: 0..=255,
        except: [3, 9].into(),
    }
}

#[test]
fn a_wish_survives_the_way() {
    let slot = |unit| Slot {
        stem: "tun".into(),
        unit,
    };
    let udp = WantedTransport::Udp {
        ports: 4028..=4999,
        remote_port: Some(4028),
        any_source: true,
    };
    for (transport, slot) in [
        (WantedTransport::SixInFour, range()),
        (udp.clone(), SlotChoice::OneOf([slot(1), slot(4)].into())),
        (udp, SlotChoice::Exactly(slot(2))),
    ] {
        let wanted = wish(transport, slot);
        let back = acquire(acquire_message(&wanted, "h")).unwrap();
        assert_eq!(format!("{back:?}"), format!("{wanted:?}"));
    }
}

#[test]
fn what_is_wrong_is_named() {
    type Change = fn(&mut pb::AcquireRequest);
    let exactly = |stem: &str| {
        let slot = pb::Slot {
            stem: stem.to_owned(),
            unit: 0,
        };
        Some(pb::SlotChoice {
            choice: Some(pb::slot_choice::Choice::Exactly(slot)),
        })
    };
    for stem in ["", "gif1", "a b", "sixteen-letters-", "gïf"] {
        let mut message = acquire_message(&wish(WantedTransport::SixInFour, range()), "h");
        message.slot = exactly(stem);
        let error = acquire(message).unwrap_err();
        let expected = "slot.exactly.stem: 1 to 15 of";
        assert!(error.message().starts_with(expected), "{}", error.message());
    }
    let changes: [(Change, &str); 8] = [
        (|w| w.service = "DTCP".into(), "service: 1 to 32"),
        (|w| w.local = vec![1, 2, 3], "local: 3 bytes"),
        (|w| w.transport = None, "transport: is missing"),
        (|w| w.slot = None, "slot: is missing"),
        (|w| w.profile = 0, "profile: is missing"),
        (|w| w.mtu = 70_000, "mtu: 70000 is no MTU"),
        (
            |w| w.prefixes[0].length = 8,
            "prefixes[0]: 2001:db8:100::/8",
        ),
        (
            |w| w.prefixes = vec![pb::Prefix::default(); 65],
            "prefixes: 65 entries",
        ),
    ];
    for (change, expected) in changes {
        let mut message = acquire_message(&wish(WantedTransport::SixInFour, range()), "h");
        change(&mut message);
        let error = acquire(message).unwrap_err();
        assert!(error.message().starts_with(expected), "{}", error.message());
    }
}

#[test]
fn a_lease_survives_the_way() {
    let given = Lease {
        tunnel: TunnelId(12),
        number: LeaseNumber(3),
        slot: Slot {
            stem: "gif".into(),
            unit: 5,
        },
        local: [198, 51, 100, 1].into(),
        remote: [192, 0, 2, 10].into(),
        transport: Transport::Udp {
            local_port: 4028,
            remote_port: None,
            any_source: false,
        },
        pair: Some(AddressPair {
            client: "2001:db8::1a".parse().unwrap(),
            server: "2001:db8::19".parse().unwrap(),
        }),
        prefixes: vec!["2001:db8:100::/48".parse().unwrap()],
        mtu: 1280,
        resumed: true,
    };
    assert_eq!(lease(lease_message(&given)).unwrap(), given);
}

#[test]
fn times_before_1970_are_times_too() {
    let stamp = time(-1);
    assert_eq!((stamp.seconds, stamp.nanos), (-1, 999_999_000));
    assert_eq!(time(1_500_000).nanos, 500_000_000);
}

#[test]
fn a_status_of_a_newer_client_lets_nobody_in() {
    assert_eq!(user_status("s", 0).unwrap(), AccountStatus::Active);
    assert_eq!(user_status("s", 2).unwrap(), AccountStatus::Suspended);
    let error = user_status("user.status", 7).unwrap_err();
    assert_eq!(error.message(), "user.status: unknown to this version");
}
