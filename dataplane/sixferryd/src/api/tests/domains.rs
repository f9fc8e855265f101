//! DomainService, and routes into domains.

use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::embedded_domain::Mechanism;
use tonic::{Code, Status};

use super::{Daemon, collect, entry_said, said};
use crate::netlink::Prefix;

fn six_rd(id: &str, local: [u8; 4], prefix: [u8; 4]) -> pb::EmbeddedDomain {
    let mut address = prefix.to_vec();
    address.resize(16, 0);
    pb::EmbeddedDomain {
        id: id.to_owned(),
        mechanism: Some(Mechanism::SixRd(pb::SixRd {
            prefix: Some(pb::IpPrefix {
                address,
                length: 32,
            }),
            v4_common: vec![10, 0, 0, 0],
            v4_mask_length: 8,
            role: pb::SixRdRole::Ce.into(),
            br: vec![10, 0, 0, 1],
            anycast: false,
        })),
        local: local.to_vec(),
        ..pb::EmbeddedDomain::default()
    }
}

fn put(domain: pb::EmbeddedDomain) -> pb::DomainUpdate {
    let upsert = pb::DomainUpsert {
        domain: Some(domain),
        ..pb::DomainUpsert::default()
    };
    pb::DomainUpdate {
        update: Some(pb::domain_update::Update::Upsert(upsert)),
    }
}

fn remove(id: &str) -> pb::DomainUpdate {
    let delete = pb::DomainDelete {
        id: id.to_owned(),
        must_exist: true,
    };
    pb::DomainUpdate {
        update: Some(pb::domain_update::Update::Delete(delete)),
    }
}

async fn program(
    daemon: &Daemon,
    session: &str,
    updates: Vec<pb::DomainUpdate>,
) -> (Vec<pb::ProgramDomainsResponse>, Option<Status>) {
    let request = pb::ProgramDomainsRequest {
        seq: 1,
        session: session.to_owned(),
        updates,
        ..pb::ProgramDomainsRequest::default()
    };
    let stream = daemon
        .domains()
        .program_domains(tokio_stream::iter([request]))
        .await;
    collect(stream.expect("starts").into_inner()).await
}

/// One message that must succeed as a whole.
async fn write(daemon: &Daemon, session: &str, updates: Vec<pb::DomainUpdate>) -> pb::ApplyCounts {
    let (answers, error) = program(daemon, session, updates).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(answers[0].failures, []);
    answers[0].counts.expect("counts")
}

async fn get(daemon: &Daemon, id: &str) -> Result<pb::EmbeddedDomain, Status> {
    let request = pb::GetDomainRequest {
        id: id.to_owned(),
        read_mask: None,
    };
    let answer = daemon.domains().get_domain(request).await?;
    Ok(answer.into_inner().domain.expect("a domain"))
}

async fn started() -> (Daemon, String) {
    let daemon = Daemon::start().await;
    let session = daemon.open("test", 1).await.expect("opens");
    (daemon, session)
}

const A: [u8; 4] = [0x20, 0x01, 0x0d, 0xb8];
const B: [u8; 4] = [0x20, 0x01, 0x0d, 0xb9];

#[tokio::test]
async fn a_domain_is_written_read_and_written_back_unchanged() {
    let (daemon, session) = started().await;
    let counts = write(&daemon, &session, vec![put(six_rd("a", [10, 9, 9, 9], A))]).await;
    assert_eq!(counts.created, 1);
    let read = get(&daemon, "a").await.expect("there");
    assert_eq!((&*read.owner, read.revision, read.mtu), ("test", 1, 1280));
    assert_eq!((read.dscp, read.dscp_copy), (None, Some(true)));
    assert_eq!((read.input, read.admin_up), (Some(true), Some(true)));
    let delegated = read.delegated_prefix.clone().expect("delegated");
    assert_eq!(delegated.length, 56);
    assert_eq!(delegated.address[..8], [0x20, 1, 0x0d, 0xb8, 9, 9, 9, 0]);
    let counts = write(&daemon, &session, vec![put(read.clone())]).await;
    assert_eq!((counts.unchanged, counts.updated), (1, 0));

    let upsert = pb::DomainUpsert {
        domain: Some(pb::EmbeddedDomain {
            id: "a".into(),
            mtu: 1480,
            ..pb::EmbeddedDomain::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["mtu".into()],
        }),
        ..pb::DomainUpsert::default()
    };
    let update = pb::DomainUpdate {
        update: Some(pb::domain_update::Update::Upsert(upsert)),
    };
    assert_eq!(write(&daemon, &session, vec![update]).await.updated, 1);
    let changed = get(&daemon, "a").await.expect("there");
    let expected = pb::EmbeddedDomain {
        mtu: 1480,
        revision: 2,
        ..read
    };
    assert_eq!(changed, expected);
    assert_eq!(write(&daemon, &session, vec![remove("a")]).await.deleted, 1);
    let gone = get(&daemon, "a").await.expect_err("gone");
    let text = "no domain \"a\"";
    assert_eq!(
        said(&gone),
        (Code::NotFound, "DOMAIN_NOT_FOUND".into(), text.into())
    );
}

#[tokio::test]
async fn mistakes_are_told_by_path() {
    let (daemon, session) = started().await;
    write(&daemon, &session, vec![put(six_rd("a", [10, 9, 9, 9], A))]).await;
    let edit = |change: &dyn Fn(&mut pb::SixRd)| {
        let mut domain = six_rd("b", [10, 9, 9, 8], B);
        if let Some(Mechanism::SixRd(six_rd)) = &mut domain.mechanism {
            change(six_rd);
        }
        put(domain)
    };
    let site_with_anycast = pb::EmbeddedDomain {
        id: "c".into(),
        mechanism: Some(Mechanism::SixToFour(pb::SixToFour {
            role: pb::SixToFourRole::Site.into(),
            anycast: true,
            ..pb::SixToFour::default()
        })),
        local: vec![8, 0, 0, 1],
        ..pb::EmbeddedDomain::default()
    };
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument};
    let cases: Vec<(pb::DomainUpdate, Code, &str, &str)> = vec![
        (
            put(pb::EmbeddedDomain {
                mechanism: None,
                ..six_rd("b", [10, 9, 9, 8], B)
            }),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[0].upsert.domain.mechanism: missing: give six_to_four or six_rd",
        ),
        (
            edit(&|d| {
                if let Some(prefix) = &mut d.prefix {
                    prefix.length = 41;
                }
            }),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[1].upsert.domain.six_rd.prefix: the delegated prefixes would be /65",
        ),
        (
            edit(&|d| d.br.clear()),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[2].upsert.domain.six_rd.br: missing; an IPv4 address of 4 bytes",
        ),
        (
            edit(&|d| d.role = 0),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[3].upsert.domain.six_rd.role: give BR or CE",
        ),
        (
            put(site_with_anycast),
            InvalidArgument,
            "INVALID_FIELD",
            "updates[4].upsert.domain.six_to_four.anycast: only with role RELAY (RFC 3068)",
        ),
        (
            put(six_rd("b", [10, 9, 9, 9], B)),
            AlreadyExists,
            "LOCAL_IN_USE",
            "domain \"a\" of owner \"test\" works at 10.9.9.9; each automatic mechanism needs an \
             address of its own (RFC 3964 section 6.1)",
        ),
        (
            put(six_rd("b", [10, 9, 9, 8], A)),
            AlreadyExists,
            "PREFIX_IN_USE",
            "prefix 2001:db8::/32 is domain \"a\"'s of owner \"test\"",
        ),
        (
            {
                let mut br = six_rd("a", [10, 9, 9, 9], A);
                if let Some(Mechanism::SixRd(six_rd)) = &mut br.mechanism {
                    six_rd.role = pb::SixRdRole::Br.into();
                    six_rd.br.clear();
                }
                put(br)
            },
            FailedPrecondition,
            "IMMUTABLE_FIELD",
            "six_rd.role cannot change; delete the object and create it anew",
        ),
    ];
    let updates = cases.iter().map(|case| case.0.clone()).collect();
    let (answers, _) = program(&daemon, &session, updates).await;
    let failures = &answers[0].failures;
    assert_eq!(failures.len(), cases.len());
    for (failure, (index, (_, code, reason, text))) in failures.iter().zip(cases.iter().enumerate())
    {
        let (at, said_code, said_reason, said_text) = entry_said(failure);
        assert_eq!(
            (at as usize, said_code, &*said_reason),
            (index, *code, *reason)
        );
        assert!(said_text.starts_with(text), "{said_text}");
    }
}

#[tokio::test]
async fn lists_page_by_id_and_filter_by_owner() {
    let (daemon, session) = started().await;
    let other = daemon.open("other", 1).await.expect("opens");
    let many = (0..5_u8).map(|n| put(six_rd(&format!("d{n}"), [10, 9, 9, n], [0x20, 1, 0x10, n])));
    write(&daemon, &session, many.collect()).await;
    write(&daemon, &other, vec![put(six_rd("e", [10, 9, 8, 1], A))]).await;
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListDomainsRequest {
            page_size: 2,
            page_token,
            owner: "test".into(),
            read_mask: Some(prost_types::FieldMask {
                paths: vec!["six_rd".into()],
            }),
        };
        let page = daemon.domains().list_domains(request).await;
        let page = page.expect("lists").into_inner();
        assert_eq!(page.total_count, 6);
        assert!(page.domains.len() <= 2);
        for domain in page.domains {
            assert!(domain.mechanism.is_some() && domain.local.is_empty());
            ids.push(domain.id);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["d0", "d1", "d2", "d3", "d4"]);
    let request = pb::ListDomainsRequest {
        page_token: "elsewhere/d1".into(),
        ..pb::ListDomainsRequest::default()
    };
    let bad = daemon.domains().list_domains(request).await;
    assert_eq!(said(&bad.expect_err("refused")).1, "BAD_PAGE_TOKEN");
}

#[tokio::test]
async fn addresses_are_translated_both_ways() {
    use pb::lookup_domain_request::Key;
    let (daemon, session) = started().await;
    write(&daemon, &session, vec![put(six_rd("a", [10, 9, 9, 9], A))]).await;
    let lookup = async |key: Key| {
        let request = pb::LookupDomainRequest {
            id: String::new(),
            key: Some(key),
        };
        let answer = daemon.domains().lookup_domain(request).await;
        answer.map(tonic::Response::into_inner)
    };
    let inner = [0x20, 1, 0x0d, 0xb8, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let found = lookup(Key::InnerAddress(inner.to_vec()))
        .await
        .expect("found");
    assert_eq!(found.outer_address, [10, 1, 2, 3]);
    assert!(!found.own && found.refused_reason.is_empty());
    let back = lookup(Key::OuterAddress(vec![10, 1, 2, 3]))
        .await
        .expect("found");
    assert_eq!(back.delegated_prefix, found.delegated_prefix);
    let own = lookup(Key::OuterAddress(vec![10, 9, 9, 9]))
        .await
        .expect("found");
    assert!(own.own);
    let outside = lookup(Key::OuterAddress(vec![11, 0, 0, 1]))
        .await
        .expect_err("outside");
    assert_eq!(said(&outside).1, "NO_DOMAIN");
    let denied = pb::EmbeddedDomain {
        deny_v4: vec![pb::IpPrefix {
            address: vec![10, 1, 0, 0],
            length: 16,
        }],
        ..six_rd("a", [10, 9, 9, 9], A)
    };
    write(&daemon, &session, vec![put(denied)]).await;
    let refused = lookup(Key::OuterAddress(vec![10, 1, 2, 3]))
        .await
        .expect("found");
    assert_eq!(refused.refused_reason, "V4_DENIED");
}

#[tokio::test]
async fn a_route_leads_out_through_a_domain() {
    let (daemon, session) = started().await;
    write(&daemon, &session, vec![put(six_rd("a", [10, 9, 9, 9], A))]).await;
    let default = Prefix::of(std::net::Ipv6Addr::UNSPECIFIED.into(), 0).expect("a prefix");
    let route = pb::Route {
        destination: Some(crate::convert::prefix_message(default)),
        action: pb::RouteAction::Domain.into(),
        domain_id: "a".into(),
        ..pb::Route::default()
    };
    let upsert = pb::RouteUpsert {
        route: Some(route),
        ..pb::RouteUpsert::default()
    };
    let request = pb::ProgramRoutesRequest {
        seq: 1,
        session: session.clone(),
        updates: vec![pb::RouteUpdate {
            update: Some(pb::route_update::Update::Upsert(upsert)),
        }],
        ..pb::ProgramRoutesRequest::default()
    };
    let stream = daemon
        .routes()
        .program_routes(tokio_stream::iter([request]))
        .await;
    let (answers, _) = collect(stream.expect("starts").into_inner()).await;
    assert_eq!(answers[0].failures, []);
    let lookup = async |address: &str| {
        let address: std::net::Ipv6Addr = address.parse().expect("an address");
        let request = pb::LookupRouteRequest {
            address: address.octets().to_vec(),
        };
        let found = daemon.routes().lookup_route(request).await;
        let route = found.expect("found").into_inner().route.expect("a route");
        (route.origin(), route.action(), route.domain_id)
    };
    let (api, tunnel) = (pb::RouteOrigin::Api, pb::RouteOrigin::Tunnel);
    let domain = pb::RouteAction::Domain;
    assert_eq!(lookup("2001:4860::1").await, (api, domain, "a".into()));
    assert_eq!(
        lookup("2001:db8:102::1").await,
        (tunnel, domain, "a".into())
    );
    let (_, has) = daemon
        .shared
        .with(|c| c.open_session("test", 1))
        .expect("joins");
    assert_eq!((has.domains, has.routes), (1, 1));
    write(&daemon, &session, vec![remove("a")]).await;
    let listed = daemon
        .routes()
        .list_routes(pb::ListRoutesRequest::default())
        .await;
    assert_eq!(listed.expect("lists").into_inner().routes, []);
}

#[tokio::test]
async fn the_file_sets_domains_with_their_routes() {
    let text = "[[domain]]\nid = \"ce\"\nkind = \"6rd\"\nrole = \"ce\"\nlocal = \"10.9.9.9\"\nbr = \
                \"10.0.0.1\"\nprefix = \"2001:db8::/32\"\nv4_common = \"10.0.0.0/8\"\nroutes = \
                [\"::/0\"]\n";
    let daemon = Daemon::with_config(text).await;
    assert_eq!(&*get(&daemon, "ce").await.expect("there").owner, "static");
    assert_eq!(daemon.shared.with(|c| c.route_count()), 1);
    let path = daemon.dir.path().join("dataplane.toml");
    std::fs::write(&path, text.replace("\"ce\"\nkind", "\"edge\"\nkind")).expect("writes");
    let report = daemon.api.manager.reload(&daemon.shared).await;
    assert_eq!(report.plan.changes, ["add domain edge", "remove domain ce"]);
    assert!(report.applied, "{:?}", report.findings);
    assert!(get(&daemon, "ce").await.is_err());
    assert!(get(&daemon, "edge").await.is_ok());
    assert_eq!(daemon.shared.with(|c| c.route_count()), 1);
    std::fs::write(&path, "").expect("writes");
    assert!(daemon.api.manager.reload(&daemon.shared).await.applied);
    let left = daemon.shared.with(|c| (c.route_count(), c.domain_count()));
    assert_eq!(left, (0, 0));
}
