use super::*;

fn full() -> Tunnel {
    Tunnel {
        prefixes: vec!["2001:db8:100::/48".parse().unwrap()],
        link: Some(TunnelLink {
            prefix: "2001:db8:ffff:1::/64".parse().unwrap(),
            address: "2001:db8:ffff:1::1".parse().unwrap(),
        }),
        link_local: Some("fe80::1".parse().unwrap()),
        mtu: 1480,
        mtu_mode: MtuMode::Managed,
        ttl: Ttl::Inherit,
        dscp: Dscp::Copy,
        dscp_decap_copy: true,
        ecn: Ecn::Compat,
        strict_source: false,
        admin_up: false,
        ..Tunnel::new("t1", [198, 51, 100, 1].into(), [192, 0, 2, 10].into())
    }
}

#[test]
fn tunnels_convert_both_ways() {
    let plain = Tunnel::new("t0", [198, 51, 100, 1].into(), [192, 0, 2, 9].into());
    let fixed = Tunnel {
        ttl: Ttl::Fixed(255),
        dscp: Dscp::Fixed(46),
        ..plain.clone()
    };
    let udp = Tunnel {
        remote: [192, 0, 2, 9].into(),
        encap: Encap::Udp(UdpEncap {
            remote_port: Some(40_000),
            shared: true,
            rebind: Rebind::InnerSource,
            ..UdpEncap::new(4028)
        }),
        mtu: 0,
        mtu_mode: MtuMode::Dynamic,
        path_mtu: Some(1400),
        min_path_mtu: 1000,
        mss_clamp: true,
        liveness: Liveness {
            mode: LivenessMode::Nud,
            interval: 60,
        },
        ..Tunnel::udp("u1", [198, 51, 100, 1].into(), 4028)
    };
    let unknown = Tunnel::udp("u2", [198, 51, 100, 1].into(), 4029);
    for tunnel in [plain, fixed, full(), udp, unknown] {
        let entry = TunnelEntry::try_from(tunnel.to_proto()).unwrap();
        assert_eq!(entry.tunnel, tunnel);
    }
}

#[test]
fn absent_fields_take_the_defaults_of_the_api() {
    let sparse = api::Tunnel {
        id: "t".into(),
        local: vec![198, 51, 100, 1],
        remote: vec![192, 0, 2, 1],
        ..Default::default()
    };
    let expected = Tunnel::new("t", [198, 51, 100, 1].into(), [192, 0, 2, 1].into());
    assert_eq!(TunnelEntry::try_from(sparse).unwrap().tunnel, expected);
}

#[test]
fn a_udp_user_may_be_unknown_and_a_6in4_user_may_not() {
    let mut proto = Tunnel::udp("u", [198, 51, 100, 1].into(), 4028).to_proto();
    proto.remote.clear();
    let entry = TunnelEntry::try_from(proto.clone()).unwrap();
    assert_eq!(entry.tunnel.remote, Ipv4Addr::UNSPECIFIED);
    assert_eq!(entry.endpoint, None);
    proto.encapsulation = api::Encapsulation::SixInFour.into();
    let error = TunnelEntry::try_from(proto).unwrap_err();
    assert!(error.to_string().contains("tunnel.remote"), "{error}");
}

#[test]
fn what_the_dataplane_learnt_is_kept_apart_from_what_was_written() {
    let proto = api::Tunnel {
        endpoint: Some(api::Endpoint {
            address: vec![203, 0, 113, 7],
            port: 61_000,
        }),
        learnt_path_mtu: 1400,
        current_mtu: 1372,
        state: TunnelState::Unreachable.into(),
        last_seen: Some(prost_types::Duration {
            seconds: 95,
            nanos: 0,
        }),
        outer_errors: 3,
        ..full().to_proto()
    };
    let entry = TunnelEntry::try_from(proto).unwrap();
    assert_eq!(entry.endpoint.unwrap().to_string(), "203.0.113.7:61000");
    assert_eq!(
        (entry.learnt_path_mtu, entry.current_mtu),
        (Some(1400), Some(1372))
    );
    assert_eq!(entry.state, TunnelState::Unreachable);
    assert_eq!(entry.last_seen, Some(Duration::from_secs(95)));
    assert_eq!(entry.tunnel, full());
}

#[test]
fn malformed_tunnels_name_the_field() {
    type Damage = fn(&mut api::Tunnel);
    let breakages: [(&str, Damage); 6] = [
        ("tunnel.local", |t| t.local = vec![1, 2, 3]),
        ("tunnel.remote", |t| t.remote = vec![0; 16]),
        ("tunnel.prefixes", |t| t.prefixes[0].length = 129),
        ("tunnel.link_address", |t| t.link_address.clear()),
        ("tunnel.mtu", |t| t.mtu = 70_000),
        ("tunnel.link_local_address", |t| {
            t.link_local_address = vec![1]
        }),
    ];
    for (field, damage) in breakages {
        let mut proto = full().to_proto();
        damage(&mut proto);
        let error = TunnelEntry::try_from(proto).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
}

#[test]
fn the_update_mask_covers_both_halves_of_a_field() {
    let update = TunnelUpdate::Upsert {
        tunnel: full(),
        fields: Some(vec![TunnelField::Ttl, TunnelField::Link]),
        mode: WriteMode::Update,
    };
    let Some(api::tunnel_update::Update::Upsert(upsert)) = update.to_proto().update else {
        panic!("not an upsert");
    };
    assert_eq!(
        upsert.update_mask.unwrap().paths,
        ["ttl", "ttl_inherit", "link_prefix", "link_address"]
    );
    assert_eq!(upsert.mode, i32::from(api::WriteMode::Update));
}

#[test]
fn create_and_strict_delete_are_not_idempotent() {
    assert!(TunnelUpdate::upsert(full()).is_idempotent());
    assert!(TunnelUpdate::delete("t1").is_idempotent());
    let create = TunnelUpdate::Upsert {
        tunnel: full(),
        fields: None,
        mode: WriteMode::Create,
    };
    assert!(!create.is_idempotent());
    let strict = TunnelUpdate::Delete {
        id: "t1".into(),
        must_exist: true,
    };
    assert!(!strict.is_idempotent());
}
