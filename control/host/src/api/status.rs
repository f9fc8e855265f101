//! The one place where a refusal of the operator's wish becomes a gRPC status.

use sixferry_lifecycle::AdminError;
pub(super) use sixferry_remote::status::{Refusal, bad_field, from_error, refuse};
use tonic::{Code, Status};

/// There is none of this name.
pub(super) fn missing(reason: &'static str, kind: &'static str, name: &str) -> Status {
    let refusal = Refusal {
        resource: Some((kind, name.to_owned())),
        ..Refusal::default()
    };
    let message = format!("no {} {name:?}", kind.to_lowercase());
    refusal.status(Code::NotFound, reason, message)
}

pub(super) fn bad_page_token() -> Status {
    let refusal = Refusal {
        field: Some((
            "page_token".to_owned(),
            "not one of this listing".to_owned(),
        )),
        ..Refusal::default()
    };
    let message = "page_token: not a token of this listing; start again without one";
    refusal.status(Code::InvalidArgument, "BAD_PAGE_TOKEN", message)
}

pub(super) fn too_many(field: &str, given: usize, most: usize) -> Status {
    let problem = format!("{given} entries; at most {most} in one message");
    let message = format!("{field}: {problem}");
    let refusal = Refusal {
        field: Some((field.to_owned(), problem)),
        ..Refusal::default()
    };
    refusal.status(Code::InvalidArgument, "TOO_MANY_ENTRIES", message)
}

/// What an object is called in the API, and the reasons of its refusals.
fn words(what: &str) -> (&'static str, &'static str, &'static str) {
    match what {
        "account" => ("User", "USER_NOT_FOUND", "USER_EXISTS"),
        "pool" => ("Pool", "POOL_NOT_FOUND", "POOL_EXISTS"),
        "prefix" => ("Prefix", "PREFIX_NOT_FOUND", "PREFIX_IN_USE"),
        _ => ("Tunnel", "TUNNEL_NOT_FOUND", "TUNNEL_EXISTS"),
    }
}

/// The status; `field` is the path of the wish in the request, with a final dot, or empty.
pub(super) fn admin(error: AdminError, field: &str) -> Status {
    let message = error.to_string();
    let about = |kind, name: String, code, reason, message: String| {
        let refusal = Refusal {
            resource: Some((kind, name)),
            ..Refusal::default()
        };
        refusal.status(code, reason, message)
    };
    match error {
        AdminError::NotFound { what, name } => {
            let (kind, reason, _) = words(what);
            missing(reason, kind, &name)
        }
        AdminError::Exists { what, name } => {
            let (kind, _, reason) = words(what);
            let message = format!("the {} {name:?} exists already", kind.to_lowercase());
            about(kind, name, Code::AlreadyExists, reason, message)
        }
        AdminError::Invalid { field: of, problem } => bad_field(format!("{field}{of}"), problem),
        AdminError::PrefixInUse { other, .. } => about(
            "Prefix",
            other.to_string(),
            Code::AlreadyExists,
            "PREFIX_IN_USE",
            message,
        ),
        AdminError::InUse { what, .. } => about(
            "Pool",
            what,
            Code::FailedPrecondition,
            "POOL_IN_USE",
            message,
        ),
        AdminError::Limit { .. } => refuse(Code::ResourceExhausted, "LIMIT", message),
        AdminError::SoldOut(pool) => {
            about("Pool", pool, Code::ResourceExhausted, "SOLD_OUT", message)
        }
        AdminError::Unavailable(_) => refuse(Code::Unavailable, "UNAVAILABLE", message),
    }
}
