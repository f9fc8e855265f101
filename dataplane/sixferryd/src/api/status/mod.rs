//! The one place where an [`Error`] becomes a gRPC status: canonical code, one line for people,
//! and `google.rpc` details for programs.

mod objects;

use sixferry_proto::dataplane::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt, pb as rpc};

use crate::control::error::Error;

/// What details an error has besides its reason.
enum Detail {
    None,
    Fields(Vec<(String, String)>),
    Resource {
        kind: &'static str,
        name: String,
        owner: String,
    },
    Precondition {
        kind: &'static str,
        subject: String,
    },
}

struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(&'static str, String)>,
    detail: Detail,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let parts = parts(error);
        let mut details = ErrorDetails::new();
        let metadata: std::collections::HashMap<String, String> = parts
            .metadata
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect();
        details.set_error_info(parts.reason, ERROR_DOMAIN, metadata);
        match parts.detail {
            Detail::None => {}
            Detail::Fields(fields) => {
                let violations: Vec<_> = fields
                    .into_iter()
                    .map(|(path, text)| FieldViolation::new(path, text))
                    .collect();
                details.set_bad_request(violations);
            }
            Detail::Resource { kind, name, owner } => {
                details.set_resource_info(kind, name, owner, parts.message.clone());
            }
            Detail::Precondition { kind, subject } => {
                details.add_precondition_failure_violation(kind, subject, parts.message.clone());
            }
        }
        Self::with_error_details(parts.code, parts.message, details)
    }
}

/// The same for one entry of a bulk call.
pub(super) fn failure_status(error: Error) -> rpc::Status {
    let status = Status::from(error);
    // The details of a status made above are an encoded `google.rpc.Status` of the same content.
    prost::Message::decode(status.details()).unwrap_or_else(|_| rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

fn parts(error: Error) -> Parts {
    match error {
        Error::Invalid(fields) => invalid(fields),
        Error::BadOwner(name) => {
            let text = format!("{name:?} is no owner: 1 to 32 of a-z 0-9 _ -");
            invalid(vec![("owner".to_owned(), text)])
        }
        Error::BadPageToken => field_reason(
            "BAD_PAGE_TOKEN",
            "page_token",
            "not a token of this listing; start again without one",
        ),
        Error::TooManyEntries { field, given, most } => {
            let text = format!("{given} entries; at most {most} in one message");
            field_reason("TOO_MANY_ENTRIES", field, &text)
        }
        Error::BadSeq { given, last } => {
            let text = format!("{given} does not follow {last}: seq must increase");
            field_reason("BAD_SEQ", "seq", &text)
        }
        Error::TooManyWatchers(most) => Parts {
            code: Code::ResourceExhausted,
            reason: "TOO_MANY_WATCHERS",
            message: format!("{most} watch already, the most there can be"),
            metadata: vec![("limit", most.to_string())],
            detail: Detail::None,
        },
        Error::Busy(what) => Parts {
            code: Code::ResourceExhausted,
            reason: "BUSY",
            message: format!("{what}; try again later"),
            metadata: Vec::new(),
            detail: Detail::None,
        },
        session @ (Error::OwnerReserved(_)
        | Error::TooManyOwners
        | Error::ElectionLost { .. }
        | Error::SessionUnknown
        | Error::SessionFenced { .. }
        | Error::NoSync { .. }) => session_parts(session),
        other => objects::parts(other),
    }
}

fn invalid(fields: Vec<(String, String)>) -> Parts {
    let shown: Vec<_> = fields
        .iter()
        .map(|(path, text)| {
            if path.is_empty() {
                text.clone()
            } else {
                format!("{path}: {text}")
            }
        })
        .collect();
    Parts {
        code: Code::InvalidArgument,
        reason: "INVALID_FIELD",
        message: shown.join("; "),
        metadata: Vec::new(),
        detail: Detail::Fields(fields),
    }
}

fn field_reason(reason: &'static str, field: &str, text: &str) -> Parts {
    Parts {
        reason,
        ..invalid(vec![(field.to_owned(), text.to_owned())])
    }
}

/// An election id as the API carries it.
fn election(id: u128) -> Vec<(&'static str, String)> {
    let low = id & u128::from(u64::MAX);
    vec![
        ("election_id_high", (id >> 64).to_string()),
        ("election_id_low", low.to_string()),
    ]
}

fn session_parts(error: Error) -> Parts {
    let plain = |code, reason, message| Parts {
        code,
        reason,
        message,
        metadata: Vec::new(),
        detail: Detail::None,
    };
    match error {
        Error::OwnerReserved(name) => plain(
            Code::PermissionDenied,
            "OWNER_RESERVED",
            format!("owner {name:?} is the daemon's own; choose another name"),
        ),
        Error::TooManyOwners => {
            let most = crate::control::session::MAX_OWNERS;
            plain(
                Code::ResourceExhausted,
                "TOO_MANY_OWNERS",
                format!("already {most} owners"),
            )
        }
        Error::ElectionLost { owner, current } => Parts {
            metadata: election(current),
            ..plain(
                Code::Aborted,
                "ELECTION_LOST",
                format!("owner {owner:?} has a session with the higher election id {current}"),
            )
        },
        Error::SessionFenced { owner, current } => Parts {
            metadata: election(current),
            ..plain(
                Code::Aborted,
                "SESSION_FENCED",
                format!("another session of owner {owner:?} took over with election id {current}"),
            )
        },
        Error::NoSync { owner } => Parts {
            detail: Detail::Precondition {
                kind: "SYNC",
                subject: owner.to_string(),
            },
            ..plain(
                Code::FailedPrecondition,
                "NO_SYNC",
                format!("owner {owner:?} runs no sync of that generation; BeginSync first"),
            )
        },
        _ => plain(
            Code::Aborted,
            "SESSION_UNKNOWN",
            "no such session (the dataplane may have restarted); OpenSession again".to_owned(),
        ),
    }
}
