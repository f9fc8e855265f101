//! RouteService over tables that a mirror filled.

use std::net::IpAddr;

use sixferry_fwd::{NextHop, NextHopState, PortConfig, PortId, PortKind, Route, RouteSource};
use sixferry_proto::dataplane::v1 as pb;
use tonic::{Code, Status};

use super::{Daemon, collect, entry_said, said, tunnel};
use crate::netlink::Prefix;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').expect("a prefix");
    Prefix::of(ip(address), len.parse().expect("a length")).expect("a prefix")
}

fn hop(state: NextHopState) -> NextHop {
    NextHop {
        port: PortId(0),
        vlan: None,
        vlan_service_tag: false,
        src_mac: MAC,
        mtu: 1500,
        state,
    }
}

/// A daemon with port "up0", a connected prefix and a default route.
async fn started() -> (Daemon, String) {
    let daemon = Daemon::start().await;
    daemon.shared.with(|control| {
        control.name_port(PortId(0), "up0");
        let kind = PortKind::Ethernet { mac: MAC };
        let config = PortConfig {
            kind,
            mtu: 1500,
            vlans: Vec::new(),
            up: true,
        };
        control.set_port(PortId(0), Some(config));
        let link = control
            .builder_mut()
            .add_next_hop(hop(NextHopState::OnLink));
        control.set_mirrored(
            prefix("2001:db8:f::/64"),
            RouteSource::Kernel,
            Route::NextHop(link),
        );
        let unreachable = Route::Unreachable;
        control.set_mirrored(prefix("0.0.0.0/0"), RouteSource::Kernel, unreachable);
    });
    let session = daemon.open("test", 1).await.expect("opens");
    (daemon, session)
}

fn message_prefix(text: &str) -> pb::IpPrefix {
    crate::convert::prefix_message(prefix(text))
}

fn via(destination: &str, gateway: &str) -> pb::Route {
    let gateway = crate::convert::ip_bytes(ip(gateway));
    pb::Route {
        destination: Some(message_prefix(destination)),
        next_hop: Some(pb::NextHop {
            port: "up0".into(),
            gateway,
            ..pb::NextHop::default()
        }),
        ..pb::Route::default()
    }
}

fn put(route: pb::Route) -> pb::RouteUpdate {
    let upsert = pb::RouteUpsert {
        route: Some(route),
        ..pb::RouteUpsert::default()
    };
    pb::RouteUpdate {
        update: Some(pb::route_update::Update::Upsert(upsert)),
    }
}

fn remove(destination: &str, must_exist: bool) -> pb::RouteUpdate {
    let destination = Some(message_prefix(destination));
    let delete = pb::RouteDelete {
        destination,
        must_exist,
    };
    pb::RouteUpdate {
        update: Some(pb::route_update::Update::Delete(delete)),
    }
}

async fn program(
    daemon: &Daemon,
    request: pb::ProgramRoutesRequest,
) -> (Vec<pb::ProgramRoutesResponse>, Option<Status>) {
    let stream = daemon
        .routes()
        .program_routes(tokio_stream::iter([request]))
        .await;
    collect(stream.expect("starts").into_inner()).await
}

fn message(session: &str, updates: Vec<pb::RouteUpdate>) -> pb::ProgramRoutesRequest {
    pb::ProgramRoutesRequest {
        seq: 1,
        session: session.to_owned(),
        updates,
        ..pb::ProgramRoutesRequest::default()
    }
}

async fn lookup(daemon: &Daemon, address: &str) -> Result<pb::Route, Status> {
    let request = pb::LookupRouteRequest {
        address: crate::convert::ip_bytes(ip(address)),
    };
    Ok(daemon
        .routes()
        .lookup_route(request)
        .await?
        .into_inner()
        .route
        .expect("a route"))
}

#[tokio::test]
async fn a_route_follows_its_gateway() {
    let (daemon, session) = started().await;
    let route = via("2001:db8:aaaa::/48", "2001:db8:f::1");
    let (answers, _) = program(&daemon, message(&session, vec![put(route)])).await;
    assert_eq!(answers[0].failures, []);
    let found = lookup(&daemon, "2001:db8:aaaa::5").await.expect("found");
    assert_eq!(
        (found.origin(), found.action()),
        (pb::RouteOrigin::Api, pb::RouteAction::Forward)
    );
    assert_eq!(found.owner, "test");
    let next_hop = found.next_hop.expect("next hop");
    assert_eq!(
        (next_hop.state(), next_hop.mtu),
        (pb::NextHopState::Unresolved, 1500)
    );

    daemon.shared.with(|control| {
        let state = NextHopState::Resolved { dst_mac: GATEWAY };
        let id = control.builder_mut().add_next_hop(hop(state));
        let host = prefix("2001:db8:f::1/128");
        control.set_mirrored(host, RouteSource::Neighbour, Route::NextHop(id));
        control.refresh_hops();
    });
    let next_hop = lookup(&daemon, "2001:db8:aaaa::5")
        .await
        .expect("found")
        .next_hop;
    let next_hop = next_hop.expect("next hop");
    assert_eq!(next_hop.state(), pb::NextHopState::Resolved);
    assert_eq!(
        (next_hop.mac, next_hop.port.as_str()),
        (GATEWAY.to_vec(), "up0")
    );
    assert_eq!(
        next_hop.gateway,
        crate::convert::ip_bytes(ip("2001:db8:f::1"))
    );

    daemon.shared.with(|control| {
        control.remove_mirrored(prefix("2001:db8:f::1/128"), RouteSource::Neighbour);
        control.refresh_hops();
    });
    let next_hop = lookup(&daemon, "2001:db8:aaaa::5")
        .await
        .expect("found")
        .next_hop;
    assert_eq!(
        next_hop.expect("next hop").state(),
        pb::NextHopState::Unresolved
    );

    let gone = message(&session, vec![remove("2001:db8:aaaa::/48", true)]);
    assert_eq!(program(&daemon, gone).await.0[0].failures, []);
    let none = lookup(&daemon, "2001:db8:aaaa::5").await.expect_err("none");
    let text = "no route to 2001:db8:aaaa::5";
    assert_eq!(
        said(&none),
        (Code::NotFound, "NO_ROUTE".into(), text.into())
    );
}

#[tokio::test]
async fn failures_are_precise_and_rollback_is_whole() {
    let (daemon, session) = started().await;
    let other = daemon.open("other", 1).await.expect("opens");
    let black = |destination: &str| {
        put(pb::Route {
            destination: Some(message_prefix(destination)),
            action: pb::RouteAction::Blackhole.into(),
            ..pb::Route::default()
        })
    };
    program(&daemon, message(&other, vec![black("10.0.0.0/8")])).await;
    let mut no_port = via("10.1.0.0/16", "192.0.2.1");
    no_port.next_hop.as_mut().expect("hop").port = "nope".into();
    let mut no_hop = via("10.1.0.0/16", "192.0.2.1");
    no_hop.next_hop = None;
    let mut local = via("10.1.0.0/16", "192.0.2.1");
    local.action = pb::RouteAction::Local.into();
    let mut vlan = via("10.1.0.0/16", "192.0.2.1");
    vlan.next_hop.as_mut().expect("hop").vlan_id = 4095;
    let updates = vec![
        black("203.0.113.0/24"),
        black("10.0.0.0/8"),
        put(no_port),
        put(no_hop),
        put(local),
        put(vlan),
        put(via("10.1.0.0/16", "2001:db8::1")),
        remove("10.9.0.0/16", true),
        remove("10.9.0.0/16", false),
        put(pb::Route::default()),
    ];
    let (answers, _) = program(&daemon, message(&session, updates.clone())).await;
    let said: Vec<_> = answers[0]
        .failures
        .iter()
        .map(|f| entry_said(f).3)
        .collect();
    assert_eq!(
        said,
        [
            "route 10.0.0.0/8 belongs to owner \"other\"",
            "\"nope\" is no port of this dataplane; ListPorts names them",
            "updates[3].upsert.route.next_hop: missing: the action is FORWARD",
            "updates[4].upsert.route.action: output only; it cannot be set",
            "updates[5].upsert.route.next_hop.vlan_id: outside 1..4094",
            "updates[6].upsert.route.next_hop.gateway: of another family than destination",
            "no API route 10.9.0.0/16",
            "updates[9].upsert.route.destination: missing",
        ]
    );
    let counts = answers[0].counts.expect("counts");
    assert_eq!((counts.created, counts.unchanged), (1, 1));

    let rollback = pb::ProgramRoutesRequest {
        atomicity: pb::Atomicity::RollbackOnError.into(),
        ..message(
            &session,
            vec![
                remove("203.0.113.0/24", true),
                put(via("2001:db8:bbbb::/48", "2001:db8:f::1")),
                black("10.0.0.0/8"),
            ],
        )
    };
    let (answers, _) = program(&daemon, rollback).await;
    assert!(answers[0].rolled_back);
    let back = lookup(&daemon, "203.0.113.7").await.expect("back");
    assert_eq!(back.action(), pb::RouteAction::Blackhole);
    lookup(&daemon, "2001:db8:bbbb::1")
        .await
        .expect_err("never there");
}

#[tokio::test]
async fn listing_pages_through_all_origins() {
    let (daemon, session) = started().await;
    let routes = (0..10).map(|n| put(via(&format!("2001:db8:{n:x}000::/36"), "2001:db8:f::1")));
    program(&daemon, message(&session, routes.collect())).await;
    for (origin, owner, expected) in [
        (pb::RouteOrigin::Unspecified, "", 12),
        (pb::RouteOrigin::Api, "", 10),
        (pb::RouteOrigin::Kernel, "", 2),
        (pb::RouteOrigin::Neighbour, "", 0),
        (pb::RouteOrigin::Unspecified, "test", 10),
        (pb::RouteOrigin::Unspecified, "nobody", 0),
    ] {
        for page_size in [1, 3, 10, 100] {
            let mut request = pb::ListRoutesRequest {
                page_size,
                owner: owner.into(),
                origin: origin.into(),
                page_token: String::new(),
            };
            let mut seen = std::collections::BTreeSet::new();
            loop {
                let page = daemon
                    .routes()
                    .list_routes(request.clone())
                    .await
                    .expect("lists");
                let page = page.into_inner();
                assert!(page.routes.len() <= usize::try_from(page_size).expect("small"));
                for route in page.routes {
                    let prefix = route.destination.expect("a destination");
                    assert!(seen.insert((prefix.address, prefix.length)));
                }
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(
                seen.len(),
                expected,
                "{origin:?} {owner:?} pages of {page_size}"
            );
        }
    }
    let request = pb::ListRoutesRequest {
        page_token: "x/y".into(),
        ..Default::default()
    };
    let status = daemon
        .routes()
        .list_routes(request)
        .await
        .expect_err("token");
    assert_eq!(said(&status).1, "BAD_PAGE_TOKEN");
}

#[tokio::test]
async fn tunnel_prefixes_win_and_syncs_sweep_routes() {
    let (daemon, session) = started().await;
    let route = via("2001:db8:1::/48", "2001:db8:f::1");
    program(&daemon, message(&session, vec![put(route.clone())])).await;
    daemon.put(&session, vec![tunnel(1)]).await;
    let found = lookup(&daemon, "2001:db8:1::1").await.expect("found");
    assert_eq!(
        (found.origin(), found.tunnel_id.as_str()),
        (pb::RouteOrigin::Tunnel, "t1")
    );

    let begin = pb::BeginSyncRequest {
        session: session.clone(),
    };
    let begun = daemon
        .sessions()
        .begin_sync(begin)
        .await
        .expect("begins")
        .into_inner();
    assert_eq!(begun.stale_count, 2);
    let commit = pb::CommitSyncRequest {
        session,
        generation: begun.generation,
    };
    let swept = daemon
        .sessions()
        .commit_sync(commit)
        .await
        .expect("commits")
        .into_inner();
    assert_eq!((swept.swept_tunnels, swept.swept_routes), (1, 1));
    lookup(&daemon, "2001:db8:1::1")
        .await
        .expect_err("both are gone");
}

#[tokio::test]
async fn an_address_belongs_to_the_port_of_its_connected_prefix() {
    let (daemon, _) = started().await;
    let connected = |text: &str| daemon.shared.with(|control| control.connected(ip(text)));
    assert_eq!(connected("2001:db8:f::9"), Some((PortId(0), 0, 64)));
    assert_eq!(connected("2001:db8:e::9"), None);
    assert_eq!(
        connected("192.0.2.1"),
        None,
        "a default route connects nothing"
    );
}
