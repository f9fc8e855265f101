//! Domains and the routes into them, written, rolled back and swept.

use std::net::IpAddr;

use sixferry_fwd::{
    DomainSpec, PortConfig, PortId, PortKind, Route, RouteView, SixRdRole, SixToFourRole,
};

use super::*;
use crate::control::domain_spec::DomainPatch;
use crate::control::domains::DomainOp;
use crate::control::liveness::LivenessMode;
use crate::control::routes::{RouteOp, WantedAction};
use crate::netlink::Prefix;

const EACH: Atomicity = Atomicity::EachForItself;
const WHOLE: Atomicity = Atomicity::AllOrNothing;

fn relay(local: [u8; 4]) -> DomainSpec {
    DomainSpec::six_to_four(local.into(), SixToFourRole::Relay)
}

fn ce(local: [u8; 4], prefix: &str) -> DomainSpec {
    let br = [10, 0, 0, 1].into();
    let prefix = prefix.parse().expect("a prefix");
    DomainSpec::six_rd(
        local.into(),
        prefix,
        [10, 0, 0, 0].into(),
        8,
        SixRdRole::Ce { br },
    )
}

fn put(id: &str, spec: &DomainSpec) -> DomainOp {
    DomainOp::Upsert {
        id: id.to_owned(),
        patch: Box::new(DomainPatch::whole(spec)),
        mode: WriteMode::Upsert,
    }
}

fn drop_domain(id: &str) -> DomainOp {
    DomainOp::Delete {
        id: id.to_owned(),
        must_exist: true,
    }
}

fn default_route(domain: &str) -> RouteOp {
    RouteOp::Upsert {
        prefix: everything(),
        action: WantedAction::Domain(domain.to_owned()),
        mode: WriteMode::Upsert,
    }
}

fn everything() -> Prefix {
    Prefix::of(Ipv6Addr::UNSPECIFIED.into(), 0).expect("a prefix")
}

fn domains(control: &mut Control, owner: OwnerId, ops: Vec<DomainOp>, how: Atomicity) -> Outcome {
    control.program_domains(owner, ops, how, false)
}

use super::super::Outcome;

fn seen_domains(control: &Control) -> Vec<(String, DomainSpec, u64, bool)> {
    let (views, more) = control.list_domains(None, None, 100);
    assert!(!more);
    views
        .into_iter()
        .map(|view| (view.id, view.spec, view.revision, view.stale))
        .collect()
}

fn way_to(control: &Control, address: &str) -> Option<RouteView> {
    let address: IpAddr = address.parse().expect("an address");
    control.lookup(address).map(|(_, view)| view)
}

fn open(control: &mut Control, name: &str) -> OwnerId {
    control.open_session(name, 1).expect("opens").0.owner
}

#[test]
fn a_domain_forwards_and_its_routes_go_with_it() {
    let mut control = control();
    let (one, two) = (open(&mut control, "one"), open(&mut control, "two"));
    let spec = ce([10, 9, 9, 9], "2001:db8::/32");
    let outcome = domains(&mut control, one, vec![put("6rd", &spec)], EACH);
    assert_eq!(outcome.failures, []);
    assert_eq!((outcome.counts.created, outcome.revision), (1, 1));
    assert!(matches!(
        way_to(&control, "2001:db8:a09::1"),
        Some(RouteView::Domain(_))
    ));
    assert_eq!(way_to(&control, "2001:4860::1"), None);

    let routes = control.program_routes(two, vec![default_route("6rd")], EACH, false);
    assert_eq!(routes.failures, []);
    assert!(matches!(
        way_to(&control, "2001:4860::1"),
        Some(RouteView::Domain(_) | RouteView::Route(Route::Domain(_)))
    ));
    let (listed, _) = control.list_routes(None, None, Some(two), 10);
    assert!(matches!(listed[0].route, Route::Domain(_)));

    let outcome = domains(&mut control, one, vec![drop_domain("6rd")], EACH);
    assert_eq!(outcome.counts.deleted, 1);
    assert_eq!(way_to(&control, "2001:4860::1"), None);
    assert_eq!((control.route_count(), control.domain_count()), (0, 0));
}

#[test]
fn what_is_rolled_back_was_never_there() {
    let mut control = control();
    let owner = open(&mut control, "one");
    let first = ce([10, 9, 9, 9], "2001:db8::/32");
    domains(&mut control, owner, vec![put("a", &first)], EACH);
    control.program_routes(owner, vec![default_route("a")], EACH, false);
    let before = seen_domains(&control);
    let bigger = DomainSpec {
        mtu: 1480,
        ..first.clone()
    };
    // "b" stands where "a" was, and then something impossible follows.
    let ops = vec![
        put("a", &bigger),
        drop_domain("a"),
        put("b", &first),
        put("c", &relay([10, 9, 9, 9])),
    ];
    let outcome = domains(&mut control, owner, ops, WHOLE);
    assert!(outcome.rolled_back);
    let in_use = Error::LocalInUse {
        local: [10, 9, 9, 9].into(),
        id: "b".to_owned(),
        owner: "one".into(),
    };
    assert_eq!(outcome.failures, [(3, in_use)]);
    assert_eq!(seen_domains(&control), before);
    assert_eq!((control.route_count(), outcome.revision), (1, 1));
    assert!(way_to(&control, "2001:4860::1").is_some());
    let (_, has) = control.open_session("one", 1).expect("joins");
    assert_eq!((has.domains, has.routes), (1, 1));
}

#[test]
fn a_sync_sweeps_domains_and_leaves_other_owners_alone() {
    let mut control = control();
    let (one, two) = (open(&mut control, "one"), open(&mut control, "two"));
    let (a, b) = (
        ce([10, 9, 9, 9], "2001:db8::/32"),
        ce([10, 9, 9, 8], "2001:db9::/32"),
    );
    let c = ce([10, 9, 9, 7], "2001:dba::/32");
    domains(&mut control, one, vec![put("a", &a), put("b", &b)], EACH);
    domains(&mut control, two, vec![put("c", &c)], EACH);
    let owned = Error::DomainOwned {
        id: "c".to_owned(),
        owner: "two".into(),
    };
    let outcome = domains(&mut control, one, vec![put("c", &c)], EACH);
    assert_eq!(outcome.failures, [(0, owned)]);

    let (generation, stale) = control.begin_sync(one);
    assert_eq!(stale, 2);
    let outcome = domains(&mut control, one, vec![put("b", &b)], EACH);
    assert_eq!((outcome.counts.unchanged, outcome.revision), (1, 3));
    let stale: Vec<_> = seen_domains(&control).into_iter().map(|d| d.3).collect();
    assert_eq!(stale, [true, false, false]);
    let swept = control
        .commit_sync(one, generation.into(), 0)
        .expect("commits");
    assert_eq!((swept.domains, swept.tunnels, swept.routes), (1, 0, 0));
    let left: Vec<_> = seen_domains(&control).into_iter().map(|d| d.0).collect();
    assert_eq!(left, ["b", "c"]);
}

#[test]
fn tunnels_and_domains_share_their_ids() {
    let mut control = control();
    let owner = open(&mut control, "one");
    let domain = ce([10, 9, 9, 9], "2001:db8:8000::/33");
    domains(&mut control, owner, vec![put("x", &domain)], EACH);
    let outcome = control.program_tunnels(owner, vec![upsert("x", spec(1, 1, 1280))], EACH, false);
    let what = Error::IdInUse {
        what: "domain",
        id: "x".to_owned(),
        owner: "one".into(),
    };
    assert_eq!(outcome.failures, [(0, what)]);
    control.program_tunnels(owner, vec![upsert("y", spec(1, 1, 1280))], EACH, false);
    let outcome = domains(
        &mut control,
        owner,
        vec![put("y", &relay([8, 0, 0, 1]))],
        EACH,
    );
    assert!(matches!(
        outcome.failures[..],
        [(0, Error::IdInUse { what: "tunnel", .. })]
    ));
}

#[test]
fn routes_need_a_domain_with_a_way_out() {
    let mut control = control();
    let owner = open(&mut control, "one");
    domains(
        &mut control,
        owner,
        vec![put("6to4", &relay([8, 0, 0, 1]))],
        EACH,
    );
    let try_route = |control: &mut Control, domain| {
        let outcome = control.program_routes(owner, vec![default_route(domain)], EACH, false);
        outcome.failures
    };
    let none = Error::NoSuchDomain("nope".to_owned());
    assert_eq!(try_route(&mut control, "nope"), [(0, none)]);
    let closed = Error::NoWayOut("6to4".to_owned());
    assert_eq!(try_route(&mut control, "6to4"), [(0, closed)]);
}

#[test]
fn there_are_at_most_64_domains() {
    let mut control = control();
    let owner = open(&mut control, "one");
    let many = (0..=64_u8).map(|n| {
        let prefix = format!("2001:{:x}::/32", 0x1000 + u32::from(n));
        put(&format!("d{n}"), &ce([10, 9, 9, n], &prefix))
    });
    let outcome = domains(&mut control, owner, many.collect(), EACH);
    let full = Error::TableFull {
        what: "domains",
        limit: 64,
    };
    assert_eq!(outcome.failures, [(64, full)]);
    assert_eq!(control.domain_count(), 64);
}

#[test]
fn who_is_watched_is_told_once_per_change() {
    let mut control = control();
    let owner = open(&mut control, "one");
    let write = |control: &mut Control, mode: LivenessMode, mtu: u16| {
        let liveness = Liveness::new(mode, 10);
        let op = TunnelOp::Upsert {
            id: "t".to_owned(),
            patch: Box::new(TunnelPatch::whole(&spec(1, 1, mtu), liveness)),
            mode: WriteMode::Upsert,
        };
        let outcome = control.program_tunnels(owner, vec![op], EACH, false);
        assert_eq!(outcome.failures, []);
    };
    write(&mut control, LivenessMode::Off, 1280);
    assert_eq!(control.take_rewatched(10), []);
    write(&mut control, LivenessMode::Nud, 1280);
    let told = control.take_rewatched(10);
    assert_eq!(told.len(), 1);
    let how = told[0].1.expect("watched");
    assert_eq!(
        (how.mode(), how.interval_seconds()),
        (LivenessMode::Nud, 10)
    );
    write(&mut control, LivenessMode::Nud, 1400);
    assert_eq!(
        control.take_rewatched(10),
        [],
        "the MTU is no matter of liveness"
    );
    control.program_tunnels(owner, vec![delete("t")], EACH, false);
    assert_eq!(control.take_rewatched(10), [(told[0].0, None)]);
}

#[test]
fn ports_are_found_by_name_once_known() {
    let mut control = control();
    control.name_port(PortId(0), "eth0");
    assert_eq!(control.known_port("eth0"), None);
    let config = PortConfig {
        kind: PortKind::Ethernet { mac: [2; 6] },
        mtu: 1500,
        vlans: Vec::new(),
        up: true,
    };
    control.set_port(PortId(0), Some(config.clone()));
    assert_eq!(control.known_port(""), Some((PortId(0), config)));
    assert_eq!(control.known_port("eth1"), None);
}
