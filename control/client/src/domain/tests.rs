use super::*;

fn six_to_four(role: SixToFourRole) -> Domain {
    let mechanism = Mechanism::SixToFour(SixToFour {
        role,
        peer_v4_length: 16,
    });
    Domain::new("d", [9, 1, 2, 3].into(), mechanism)
}

fn six_rd(role: SixRdRole) -> Domain {
    let mechanism = Mechanism::SixRd(SixRd {
        prefix: "2001:db8:8000::/37".parse().unwrap(),
        v4_common: "10.16.0.0/12".parse().unwrap(),
        role,
    });
    Domain::new("d", [10, 16, 0, 1].into(), mechanism)
}

#[test]
fn domains_convert_both_ways() {
    let relay = Some([192, 0, 2, 1].into());
    let full = Domain {
        input: false,
        urpf: Urpf::Strict,
        allow_v4: vec!["10.0.0.0/8".parse().unwrap()],
        deny_v4: vec!["192.88.99.0/24".parse().unwrap()],
        mtu: 1480,
        mtu_mode: MtuMode::Managed,
        ttl: Ttl::Inherit,
        dscp: Dscp::Fixed(46),
        dscp_decap_copy: true,
        ecn: Ecn::Compat,
        admin_up: false,
        mss_clamp: true,
        ..six_rd(SixRdRole::Br { anycast: true })
    };
    for domain in [
        six_to_four(SixToFourRole::Relay { anycast: true }),
        six_to_four(SixToFourRole::Site { relay: None }),
        six_to_four(SixToFourRole::Site { relay }),
        six_rd(SixRdRole::Br { anycast: false }),
        six_rd(SixRdRole::Ce {
            br: [10, 16, 0, 254].into(),
        }),
        full,
    ] {
        let entry = DomainEntry::try_from(domain.to_proto()).unwrap();
        assert_eq!(entry.domain, domain);
    }
}

#[test]
fn the_whole_ipv4_space_has_no_common_bits() {
    let mechanism = Mechanism::SixRd(SixRd {
        prefix: "2001:db8::/32".parse().unwrap(),
        v4_common: "0.0.0.0/0".parse().unwrap(),
        role: SixRdRole::Br { anycast: false },
    });
    let domain = Domain::new("d", [192, 0, 2, 1].into(), mechanism);
    let proto = domain.to_proto();
    let Some(ApiMechanism::SixRd(six_rd)) = &proto.mechanism else {
        panic!("not 6rd");
    };
    assert!(six_rd.v4_common.is_empty());
    assert_eq!(DomainEntry::try_from(proto).unwrap().domain, domain);
}

#[test]
fn absent_fields_take_the_defaults_of_the_api() {
    for expected in [
        six_to_four(SixToFourRole::Relay { anycast: false }),
        six_rd(SixRdRole::Br { anycast: false }),
    ] {
        let sparse = api::EmbeddedDomain {
            id: expected.id.clone(),
            mechanism: expected.to_proto().mechanism,
            local: expected.local.octets().to_vec(),
            ..Default::default()
        };
        assert_eq!(DomainEntry::try_from(sparse).unwrap().domain, expected);
    }
    assert_eq!(
        six_rd(SixRdRole::Br { anycast: false }).dscp,
        Dscp::Copy,
        "RFC 5969 section 9"
    );
}

#[test]
fn malformed_domains_name_the_field() {
    type Damage = fn(&mut api::EmbeddedDomain);
    let breakages: [(&str, Damage); 6] = [
        ("domain.mechanism", |d| d.mechanism = None),
        ("domain.local", |d| d.local = vec![0; 16]),
        ("domain.mtu", |d| d.mtu = 70_000),
        ("domain.deny_v4", |d| {
            d.deny_v4 = vec![net_to_proto("2001:db8::/32".parse().unwrap())];
        }),
        ("six_rd.br", |d| {
            if let Some(ApiMechanism::SixRd(m)) = &mut d.mechanism {
                m.br.clear();
            }
        }),
        ("six_rd.v4_mask_length", |d| {
            if let Some(ApiMechanism::SixRd(m)) = &mut d.mechanism {
                m.v4_mask_length = 33;
            }
        }),
    ];
    for (field, damage) in breakages {
        let mut proto = six_rd(SixRdRole::Ce {
            br: [10, 16, 0, 254].into(),
        })
        .to_proto();
        damage(&mut proto);
        let error = DomainEntry::try_from(proto).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
}

#[test]
fn the_update_mask_names_the_mechanism_by_its_kind() {
    let paths = |domain: Domain| {
        let update = DomainUpdate::Upsert {
            domain: Box::new(domain),
            fields: Some(vec![DomainField::Mechanism, DomainField::Dscp]),
            mode: WriteMode::Update,
        };
        match update.to_proto().update {
            Some(api::domain_update::Update::Upsert(upsert)) => upsert.update_mask.unwrap().paths,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        paths(six_rd(SixRdRole::Br { anycast: false })),
        ["six_rd", "dscp", "dscp_copy"]
    );
    assert_eq!(
        paths(six_to_four(SixToFourRole::Site { relay: None })),
        ["six_to_four", "dscp", "dscp_copy"]
    );
}
