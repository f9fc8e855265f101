//! The objects of the configuration file: tunnels, domains and the routes into these, all of the
//! owner "static".

use sixferry_proto::MAX_UPDATES;

use crate::config::{Config, StaticDomain, StaticTunnel};
use crate::control::domain_spec::DomainPatch;
use crate::control::domains::DomainOp;
use crate::control::error::Error;
use crate::control::patch::TunnelPatch;
use crate::control::routes::{RouteOp, WantedAction};
use crate::control::session::STATIC;
use crate::control::shared::Shared;
use crate::control::tunnels::TunnelOp;
use crate::control::{Atomicity, Control, Outcome, WriteMode};
use crate::netlink::Prefix;

/// What the file wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Objects<'a> {
    tunnels: &'a [StaticTunnel],
    domains: &'a [StaticDomain],
}

impl<'a> Objects<'a> {
    pub(super) const fn of(config: &'a Config) -> Self {
        Self {
            tunnels: config.tunnels.as_slice(),
            domains: config.domains.as_slice(),
        }
    }
}

/// An object by its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Domain(usize),
    Tunnel(usize),
    /// Of a domain.
    Route(usize, usize),
}

/// An object that could not be written.
#[derive(Debug)]
pub(super) struct Refused {
    place: Place,
    pub(super) error: Error,
}

impl Refused {
    /// Its key in the file.
    pub(super) fn key(&self) -> String {
        match self.place {
            Place::Domain(i) => format!("domain[{i}]"),
            Place::Tunnel(i) => format!("tunnel[{i}]"),
            Place::Route(i, j) => format!("domain[{i}].routes[{j}]"),
        }
    }
}

/// Objects of other owners cannot be moved away; our own can. Nothing changes here.
pub(super) fn refuse_conflicts(shared: &Shared, objects: Objects<'_>) -> Result<(), Vec<Refused>> {
    let foreign = |error: &Error| match error {
        Error::TunnelOwned { .. } | Error::DomainOwned { .. } | Error::RouteOwned { .. } => true,
        Error::OuterInUse { owner, .. }
        | Error::PortInUse { owner, .. }
        | Error::PrefixInUse { owner, .. }
        | Error::LocalInUse { owner, .. }
        | Error::IdInUse { owner, .. } => **owner != *"static",
        _ => false,
    };
    // Routes into a domain that is still to come cannot be tried.
    let places = all(objects).filter(|place| !matches!(place, Place::Route(..)));
    let mut refused = program(shared, objects, places, true);
    refused.retain(|refused| foreign(&refused.error));
    if refused.is_empty() {
        Ok(())
    } else {
        Err(refused)
    }
}

/// One re-sync of the owner "static". Gives the change to wait for.
pub(super) fn apply(shared: &Shared, objects: Objects<'_>) -> Result<u64, Vec<Refused>> {
    let (generation, _) = shared.with(|control| control.begin_sync(STATIC));
    let failed = program(shared, objects, all(objects), false);
    let mut from = 0;
    // The sweep takes what is not wanted any more, and what stands in the way of a wanted one.
    while let Ok(swept) =
        shared.with(|control| control.commit_sync(STATIC, generation.into(), from))
        && let Some(next) = swept.next
    {
        from = next;
    }
    let again = failed.into_iter().map(|refused| refused.place);
    let failed = program(shared, objects, again, false);
    if failed.is_empty() {
        Ok(shared.with(|control| control.change()))
    } else {
        Err(failed)
    }
}

/// Every object, domains before the routes into them.
fn all(objects: Objects<'_>) -> impl Iterator<Item = Place> {
    let routes = objects.domains.iter().enumerate();
    let routes = routes.flat_map(|(i, d)| (0..d.routes.len()).map(move |j| Place::Route(i, j)));
    (0..objects.domains.len())
        .map(Place::Domain)
        .chain((0..objects.tunnels.len()).map(Place::Tunnel))
        .chain(routes)
}

/// Writes these objects, a bounded number at a time; gives those that were refused.
fn program(
    shared: &Shared,
    objects: Objects<'_>,
    places: impl IntoIterator<Item = Place>,
    validate_only: bool,
) -> Vec<Refused> {
    let places: Vec<Place> = places.into_iter().collect();
    let mut failed = Vec::new();
    for kind in [0, 1, 2] {
        let of_kind: Vec<Place> = places
            .iter()
            .copied()
            .filter(|p| rank(*p) == kind)
            .collect();
        for chunk in of_kind.chunks(MAX_UPDATES) {
            let outcome = shared.with(|control| write(control, objects, chunk, validate_only));
            let refused = outcome.failures.into_iter();
            failed.extend(refused.filter_map(|(at, error)| {
                let place = *chunk.get(at)?;
                Some(Refused { place, error })
            }));
        }
    }
    failed
}

const fn rank(place: Place) -> u8 {
    match place {
        Place::Domain(_) => 0,
        Place::Tunnel(_) => 1,
        Place::Route(..) => 2,
    }
}

/// Writes objects of one kind.
fn write(
    control: &mut Control,
    objects: Objects<'_>,
    places: &[Place],
    validate_only: bool,
) -> Outcome {
    let each = Atomicity::EachForItself;
    match places.first() {
        None => Outcome::default(),
        Some(Place::Domain(_)) => {
            let ops = places.iter().map(|place| domain_op(objects, *place));
            control.program_domains(STATIC, ops.collect(), each, validate_only)
        }
        Some(Place::Tunnel(_)) => {
            let ops = places.iter().map(|place| tunnel_op(objects, *place));
            control.program_tunnels(STATIC, ops.collect(), each, validate_only)
        }
        Some(Place::Route(..)) => {
            let ops = places.iter().map(|place| route_op(objects, *place));
            control.program_routes(STATIC, ops.collect(), each, validate_only)
        }
    }
}

/// A place that is not in the file: cannot happen, and would be told.
fn nowhere() -> Error {
    Error::field("", "no such object")
}

fn tunnel_op(objects: Objects<'_>, place: Place) -> TunnelOp {
    let tunnel = match place {
        Place::Tunnel(i) => objects.tunnels.get(i),
        _ => None,
    };
    tunnel.map_or_else(
        || TunnelOp::Bad(nowhere()),
        |tunnel| TunnelOp::Upsert {
            id: tunnel.id.clone(),
            patch: Box::new(TunnelPatch::whole(&tunnel.spec, tunnel.liveness)),
            mode: WriteMode::Upsert,
        },
    )
}

fn domain_op(objects: Objects<'_>, place: Place) -> DomainOp {
    let domain = match place {
        Place::Domain(i) => objects.domains.get(i),
        _ => None,
    };
    domain.map_or_else(
        || DomainOp::Bad(nowhere()),
        |domain| DomainOp::Upsert {
            id: domain.id.clone(),
            patch: Box::new(DomainPatch::whole(&domain.spec)),
            mode: WriteMode::Upsert,
        },
    )
}

fn route_op(objects: Objects<'_>, place: Place) -> RouteOp {
    let found = match place {
        Place::Route(i, j) => objects.domains.get(i).and_then(|domain| {
            let route = domain.routes.get(j)?;
            Some((Prefix::of(route.address().into(), route.len())?, domain))
        }),
        _ => None,
    };
    found.map_or_else(
        || RouteOp::Bad(nowhere()),
        |(prefix, domain)| RouteOp::Upsert {
            prefix,
            action: WantedAction::Domain(domain.id.clone()),
            mode: WriteMode::Upsert,
        },
    )
}
