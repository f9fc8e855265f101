//! Refusals that are about an object: missing, in the way, or another owner's.

use tonic::Code;

use super::{Detail, Parts};
use crate::control::error::Error;

const TUNNEL: &str = "sixferry.dataplane.v1.Tunnel";
const DOMAIN: &str = "sixferry.dataplane.v1.EmbeddedDomain";
const ROUTE: &str = "sixferry.dataplane.v1.Route";
const PORT: &str = "sixferry.dataplane.v1.Port";

pub(super) fn parts(error: Error) -> Parts {
    match error {
        Error::TunnelNotFound(id) => {
            let message = format!("no tunnel {id:?}");
            missing("TUNNEL_NOT_FOUND", message, TUNNEL, id)
        }
        Error::NoTunnel(what) => {
            let message = format!("no tunnel for {what}");
            missing("NO_TUNNEL", message, TUNNEL, what)
        }
        Error::DomainNotFound(id) => {
            let message = format!("no domain {id:?}");
            missing("DOMAIN_NOT_FOUND", message, DOMAIN, id)
        }
        Error::NoDomain(what) => {
            let message = format!("no domain for {what}");
            missing("NO_DOMAIN", message, DOMAIN, what)
        }
        Error::RouteNotFound(prefix) => {
            let message = format!("no API route {prefix}");
            missing("ROUTE_NOT_FOUND", message, ROUTE, prefix)
        }
        Error::NoRoute(address) => {
            let message = format!("no route to {address}");
            missing("NO_ROUTE", message, ROUTE, address.to_string())
        }
        Error::PortNotFound(name) => {
            let message = format!("no port {name:?}");
            missing("PORT_NOT_FOUND", message, PORT, name)
        }
        Error::NoSuchPort(_)
        | Error::NoSuchDomain(_)
        | Error::NoWayOut(_)
        | Error::Immutable { .. } => precondition(error),
        Error::TableFull { what, limit } => Parts {
            code: Code::ResourceExhausted,
            reason: "TABLE_FULL",
            message: format!("there are {limit} {what} already, the most there can be"),
            metadata: vec![("limit", limit.to_string())],
            detail: Detail::None,
        },
        other => in_the_way(other),
    }
}

fn missing(reason: &'static str, message: String, kind: &'static str, name: String) -> Parts {
    Parts {
        code: Code::NotFound,
        reason,
        message,
        metadata: Vec::new(),
        detail: Detail::Resource {
            kind,
            name,
            owner: String::new(),
        },
    }
}

/// What the state of the dataplane forbids.
fn precondition(error: Error) -> Parts {
    let (reason, message, kind, subject) = match error {
        Error::NoSuchPort(name) => (
            "NO_SUCH_PORT",
            format!("{name:?} is no port of this dataplane; ListPorts names them"),
            "PORT",
            name,
        ),
        Error::NoSuchDomain(id) => (
            "NO_SUCH_DOMAIN",
            format!("{id:?} is no domain; ListDomains names them"),
            "DOMAIN",
            id,
        ),
        Error::NoWayOut(id) => (
            "NO_WAY_OUT",
            format!(
                "domain {id:?} has no way out: only a 6to4 site and a 6rd customer edge send what is \
                 outside the domain through it"
            ),
            "DOMAIN",
            id,
        ),
        Error::Immutable { field } => (
            "IMMUTABLE_FIELD",
            format!("{field} cannot change; delete the object and create it anew"),
            "IMMUTABLE",
            field.to_owned(),
        ),
        other => return internal(&other),
    };
    Parts {
        code: Code::FailedPrecondition,
        reason,
        message,
        metadata: Vec::new(),
        detail: Detail::Precondition { kind, subject },
    }
}

/// Another object, perhaps of another owner.
fn in_the_way(error: Error) -> Parts {
    let taken = |reason, message, kind, name, owner: &str| Parts {
        code: Code::AlreadyExists,
        reason,
        message,
        metadata: Vec::new(),
        detail: Detail::Resource {
            kind,
            name,
            owner: owner.to_owned(),
        },
    };
    match error {
        Error::TunnelExists { id, owner } => {
            let message = format!("tunnel {id:?} exists already");
            taken("TUNNEL_EXISTS", message, TUNNEL, id, &owner)
        }
        Error::TunnelOwned { id, owner } => {
            let message = format!("tunnel {id:?} belongs to owner {owner:?}");
            taken("OWNED_BY_OTHER", message, TUNNEL, id, &owner)
        }
        Error::DomainExists { id, owner } => {
            let message = format!("domain {id:?} exists already");
            taken("DOMAIN_EXISTS", message, DOMAIN, id, &owner)
        }
        Error::DomainOwned { id, owner } => {
            let message = format!("domain {id:?} belongs to owner {owner:?}");
            taken("OWNED_BY_OTHER", message, DOMAIN, id, &owner)
        }
        Error::RouteExists { prefix, owner } => {
            let message = format!("route {prefix} exists already");
            taken("ROUTE_EXISTS", message, ROUTE, prefix, &owner)
        }
        Error::RouteOwned { prefix, owner } => {
            let message = format!("route {prefix} belongs to owner {owner:?}");
            taken("OWNED_BY_OTHER", message, ROUTE, prefix, &owner)
        }
        Error::IdInUse { what, id, owner } => {
            let message = format!("{id:?} is a {what} of owner {owner:?}; both share their ids");
            let kind = if what == "tunnel" { TUNNEL } else { DOMAIN };
            taken("ID_IN_USE", message, kind, id, &owner)
        }
        Error::OuterInUse {
            local,
            remote,
            id,
            owner,
        } => {
            let message = format!(
                "local {local} and remote {remote} are those of tunnel {id:?} of owner {owner:?}"
            );
            taken("OUTER_IN_USE", message, TUNNEL, id, &owner)
        }
        Error::PortInUse {
            local,
            port,
            id,
            owner,
        } => {
            let whose = if id.is_empty() {
                "shared by other tunnels".to_owned()
            } else {
                format!("that of tunnel {id:?} of owner {owner:?}")
            };
            let message = format!("UDP port {port} of {local} is {whose}");
            taken("OUTER_IN_USE", message, TUNNEL, id, &owner)
        }
        Error::LocalInUse { local, id, owner } => {
            let message = format!(
                "domain {id:?} of owner {owner:?} works at {local}; each automatic mechanism needs \
                 an address of its own (RFC 3964 section 6.1)"
            );
            taken("LOCAL_IN_USE", message, DOMAIN, id, &owner)
        }
        Error::PrefixInUse {
            prefix,
            what,
            id,
            owner,
        } => {
            let message = format!("prefix {prefix} is {what} {id:?}'s of owner {owner:?}");
            let kind = if what == "tunnel" { TUNNEL } else { DOMAIN };
            Parts {
                metadata: vec![("prefix", prefix.to_string())],
                ..taken("PREFIX_IN_USE", message, kind, id, &owner)
            }
        }
        other => internal(&other),
    }
}

fn internal(error: &Error) -> Parts {
    Parts {
        code: Code::Internal,
        reason: "INTERNAL",
        message: format!("{error:?}"),
        metadata: Vec::new(),
        detail: Detail::None,
    }
}
