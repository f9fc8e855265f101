//! Reading tunnels: pages, masks, lookups.

use std::collections::BTreeSet;

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::lookup_tunnel_request::Key;
use tonic::Code;

use super::{Daemon, said, tunnel};

#[tokio::test]
async fn pages_show_every_tunnel_once() {
    let daemon = Daemon::start().await;
    let a = daemon.open("a", 1).await.expect("opens");
    let b = daemon.open("b", 1).await.expect("opens");
    daemon.put(&a, (0..250).map(tunnel).collect()).await;
    daemon.put(&b, (250..300).map(tunnel).collect()).await;
    for (owner, expected) in [("", 300), ("a", 250), ("b", 50), ("nobody", 0)] {
        for page_size in [0, 1, 7, 1000, 5000] {
            let mut seen = BTreeSet::new();
            let mut request = pb::ListTunnelsRequest {
                page_size,
                owner: owner.into(),
                read_mask: Some(prost_types::FieldMask {
                    paths: vec!["owner".into()],
                }),
                ..pb::ListTunnelsRequest::default()
            };
            loop {
                let page = daemon
                    .tunnels()
                    .list_tunnels(request.clone())
                    .await
                    .expect("lists");
                let page = page.into_inner();
                let most = if page_size == 0 {
                    100
                } else {
                    page_size.min(1000)
                };
                assert!(page.tunnels.len() <= usize::try_from(most).expect("small"));
                assert_eq!(page.total_count, 300);
                for tunnel in page.tunnels {
                    assert!(tunnel.local.is_empty(), "masked");
                    assert!(owner.is_empty() || tunnel.owner == owner);
                    assert!(seen.insert(tunnel.id));
                }
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(
                seen.len(),
                expected,
                "owner {owner:?}, pages of {page_size}"
            );
        }
    }
}

#[tokio::test]
async fn tokens_and_masks_of_nobody_are_refused() {
    let daemon = Daemon::start().await;
    for token in ["x", "0/0", "00112233445566778899aabbccddeeff/", "ffff/3"] {
        let request = pb::ListTunnelsRequest {
            page_token: token.into(),
            ..Default::default()
        };
        let status = daemon
            .tunnels()
            .list_tunnels(request)
            .await
            .expect_err(token);
        let (code, reason, text) = said(&status);
        assert_eq!(
            (code, reason.as_str()),
            (Code::InvalidArgument, "BAD_PAGE_TOKEN")
        );
        assert_eq!(
            text,
            "page_token: not a token of this listing; start again without one"
        );
    }
    let mask = prost_types::FieldMask {
        paths: vec!["mtu".into(), "colour".into()],
    };
    let request = pb::ListTunnelsRequest {
        read_mask: Some(mask),
        ..Default::default()
    };
    let status = daemon
        .tunnels()
        .list_tunnels(request)
        .await
        .expect_err("mask");
    assert_eq!(said(&status).2, "read_mask: no field \"colour\"");
}

#[tokio::test]
async fn a_tunnel_reads_as_it_was_written_with_its_defaults() {
    let daemon = Daemon::start().await;
    let session = daemon.open("a", 1).await.expect("opens");
    let link: std::net::Ipv6Addr = "2001:db8:ffff:1::".parse().expect("address");
    let us: std::net::Ipv6Addr = "2001:db8:ffff:1::1".parse().expect("address");
    let mut full = tunnel(1);
    full.link_prefix = Some(pb::IpPrefix {
        address: link.octets().to_vec(),
        length: 64,
    });
    full.link_address = us.octets().to_vec();
    full.mtu = 1480;
    full.mtu_mode = pb::MtuMode::Managed.into();
    full.ttl_inherit = true;
    full.dscp_copy = true;
    full.dscp_decap_copy = true;
    full.ecn = pb::EcnMode::Compat.into();
    full.strict_source = Some(false);
    full.admin_up = Some(false);
    daemon.put(&session, vec![full.clone(), tunnel(2)]).await;
    let get = |id: &str| {
        let request = pb::GetTunnelRequest {
            id: id.into(),
            read_mask: None,
        };
        let mut client = daemon.tunnels();
        async move {
            client
                .get_tunnel(request)
                .await
                .expect("there")
                .into_inner()
                .tunnel
        }
    };
    let read = get("t1").await.expect("tunnel");
    let local: std::net::Ipv6Addr = "fe80::c633:6401".parse().expect("address");
    let expected = pb::Tunnel {
        owner: "a".into(),
        encapsulation: pb::Encapsulation::SixInFour.into(),
        link_local_address: local.octets().to_vec(),
        counters: read.counters.clone(),
        revision: 1,
        liveness: pb::LivenessMode::Off.into(),
        liveness_interval_seconds: 30,
        endpoint: Some(pb::Endpoint {
            address: full.remote.clone(),
            port: 0,
        }),
        current_mtu: 1480,
        state: pb::TunnelState::Down.into(),
        ..full
    };
    assert_eq!(read, expected);
    let plain = get("t2").await.expect("tunnel");
    assert_eq!(
        (plain.mtu, plain.ttl, plain.dscp),
        (1280, Some(64), Some(0))
    );
    assert_eq!(
        (plain.strict_source, plain.admin_up),
        (Some(true), Some(true))
    );
    assert_eq!(plain.mtu_mode(), pb::MtuMode::Static);
    // What was read can be written back and changes nothing.
    let counts = daemon.put(&session, vec![read, plain]).await;
    assert_eq!(counts.unchanged, 2);
}

#[tokio::test]
async fn whose_packet_is_this() {
    let daemon = Daemon::start().await;
    let session = daemon.open("a", 1).await.expect("opens");
    daemon.put(&session, (0..3).map(tunnel).collect()).await;
    let lookup = |key: Key| {
        let request = pb::LookupTunnelRequest { key: Some(key) };
        let mut client = daemon.tunnels();
        async move {
            client
                .lookup_tunnel(request)
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let outer = |remote: [u8; 4]| {
        Key::Outer(pb::OuterKey {
            local: vec![198, 51, 100, 1],
            remote: remote.to_vec(),
            ..pb::OuterKey::default()
        })
    };
    let found = lookup(outer([10, 0, 0, 2])).await.expect("found");
    assert_eq!(found.tunnel.expect("tunnel").id, "t2");
    let none = lookup(outer([10, 0, 0, 9])).await.expect_err("none");
    let text = "no tunnel for local 198.51.100.1 and remote 10.0.0.9";
    assert_eq!(
        said(&none),
        (Code::NotFound, "NO_TUNNEL".into(), text.into())
    );

    let inner: std::net::Ipv6Addr = "2001:db8:1:2::3".parse().expect("address");
    let found = lookup(Key::InnerAddress(inner.octets().to_vec()))
        .await
        .expect("found");
    assert_eq!(found.tunnel.expect("tunnel").id, "t1");
    assert_eq!(found.matched_prefix, tunnel(1).prefixes.into_iter().next());
    let short = lookup(Key::InnerAddress(vec![1])).await.expect_err("short");
    assert_eq!(
        said(&short).2,
        "inner_address: 1 bytes; an IPv6 address has 16"
    );
}
