//! Refusals as gRPC statuses and back.
//!
//! Every status has an ErrorInfo with a stable reason; what a plugin's answer to its user depends on
//! travels in its metadata, so that [`Error`] survives the way.

use std::collections::HashMap;

use sixferry_lifecycle::Error;
use sixferry_proto::control::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What a refusal has besides code and message.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    /// Particulars by name.
    pub metadata: Vec<(&'static str, String)>,
    /// The field that is wrong, by its path, and what is wrong with it.
    pub field: Option<(String, String)>,
    /// Type and name of the object that is missing or in the way.
    pub resource: Option<(&'static str, String)>,
}

impl Refusal {
    /// Makes the status.
    pub fn status(self, code: Code, reason: &'static str, message: impl Into<String>) -> Status {
        let message = message.into();
        let metadata: HashMap<_, _> = self
            .metadata
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, ERROR_DOMAIN, metadata);
        if let Some((field, problem)) = self.field {
            details.add_bad_request_violation(field, problem);
        }
        if let Some((kind, name)) = self.resource {
            let kind = format!("sixferry.control.v1.{kind}");
            details.set_resource_info(kind, name, "", message.clone());
        }
        Status::with_error_details(code, message, details)
    }
}

/// A refusal without particulars.
pub fn refuse(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::default().status(code, reason, message)
}

/// One bad field of a request.
pub fn bad_field(field: impl Into<String>, problem: impl Into<String>) -> Status {
    let (field, problem) = (field.into(), problem.into());
    let message = format!("{field}: {problem}");
    let refusal = Refusal {
        field: Some((field, problem)),
        ..Refusal::default()
    };
    refusal.status(Code::InvalidArgument, "INVALID_FIELD", message)
}

/// What a plugin's wish is refused with.
pub fn from_error(error: &Error) -> Status {
    let message = error.to_string();
    let with = |metadata, code, reason| {
        let refusal = Refusal {
            metadata,
            ..Refusal::default()
        };
        refusal.status(code, reason, message.clone())
    };
    match error {
        Error::SoldOut { what } => with(
            vec![("what", (*what).to_owned())],
            Code::ResourceExhausted,
            "SOLD_OUT",
        ),
        Error::EndpointInUse { local, remote } => with(
            vec![("local", local.to_string()), ("remote", remote.to_string())],
            Code::AlreadyExists,
            "ENDPOINT_IN_USE",
        ),
        Error::PrefixInUse { prefix } => with(
            vec![("prefix", prefix.to_string())],
            Code::AlreadyExists,
            "PREFIX_IN_USE",
        ),
        Error::NoPrefix => with(Vec::new(), Code::FailedPrecondition, "NO_PREFIX"),
        Error::NoAccount => with(Vec::new(), Code::NotFound, "NO_ACCOUNT"),
        Error::Invalid { field, problem } => bad_field(*field, problem.clone()),
        Error::Refused(text) => with(
            vec![("text", text.clone())],
            Code::FailedPrecondition,
            "REFUSED",
        ),
        Error::Unavailable(text) => with(
            vec![("text", text.clone())],
            Code::Unavailable,
            "UNAVAILABLE",
        ),
    }
}

/// Whether the lifecycle looked at a login and refused it. What merely stands in between, and will not
/// have this plugin, says nothing about the user.
pub fn is_denied(status: &Status) -> bool {
    let details = status.get_error_details();
    let ours = details.error_info();
    status.code() == Code::Unauthenticated
        && ours.is_some_and(|info| info.domain == ERROR_DOMAIN && info.reason == "DENIED")
}

/// The other way; what is not a refusal of the lifecycle is [`Error::Unavailable`].
pub fn to_error(status: &Status) -> Error {
    let unavailable = || Error::Unavailable(format!("the lifecycle: {}", status.message()));
    let details = status.get_error_details();
    let Some(info) = details
        .error_info()
        .filter(|info| info.domain == ERROR_DOMAIN)
    else {
        return unavailable();
    };
    let get = |name: &str| info.metadata.get(name).cloned().unwrap_or_default();
    match info.reason.as_str() {
        "SOLD_OUT" => Error::SoldOut {
            what: sold_out(&get("what")),
        },
        "ENDPOINT_IN_USE" => match (get("local").parse(), get("remote").parse()) {
            (Ok(local), Ok(remote)) => Error::EndpointInUse { local, remote },
            _ => unavailable(),
        },
        "PREFIX_IN_USE" => match get("prefix").parse() {
            Ok(prefix) => Error::PrefixInUse { prefix },
            Err(_) => unavailable(),
        },
        "NO_PREFIX" => Error::NoPrefix,
        "NO_ACCOUNT" => Error::NoAccount,
        "REFUSED" => Error::Refused(get("text")),
        "UNAVAILABLE" => Error::Unavailable(get("text")),
        "INVALID_FIELD" => {
            let violation = details
                .bad_request()
                .and_then(|b| b.field_violations.first());
            let violation = violation.map(|v| format!("{}: {}", v.field, v.description));
            Error::Invalid {
                field: "request",
                problem: violation.unwrap_or_else(|| status.message().to_owned()),
            }
        }
        _ => unavailable(),
    }
}

/// The words of [`Error::SoldOut`].
fn sold_out(what: &str) -> &'static str {
    match what {
        "interface" => "interface",
        "UDP port" => "UDP port",
        "prefix" => "prefix",
        _ => "number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_way() {
        for error in [
            Error::SoldOut { what: "UDP port" },
            Error::SoldOut { what: "interface" },
            Error::EndpointInUse {
                local: [192, 0, 2, 1].into(),
                remote: [192, 0, 2, 2].into(),
            },
            Error::PrefixInUse {
                prefix: "2001:db8:1::/48".parse().unwrap(),
            },
            Error::NoPrefix,
            Error::NoAccount,
            Error::Refused("table full".into()),
            Error::Unavailable("the store is away".into()),
        ] {
            assert_eq!(to_error(&from_error(&error)), error);
        }
        let invalid = Error::Invalid {
            field: "mtu",
            problem: "1279 is below 1280".into(),
        };
        let text = to_error(&from_error(&invalid)).to_string();
        assert_eq!(text, "request: mtu: 1279 is below 1280");
    }

    #[test]
    fn only_the_lifecycle_denies_a_login() {
        assert!(is_denied(&refuse(
            Code::Unauthenticated,
            "DENIED",
            "no such login"
        )));
        assert!(!is_denied(&Status::unauthenticated(
            "no client certificate"
        )));
        assert!(!is_denied(&refuse(Code::Unavailable, "DENIED", "")));
    }

    #[test]
    fn what_is_no_refusal_of_the_lifecycle_is_unavailable() {
        let broken = to_error(&Status::internal("h2 protocol error"));
        assert!(matches!(broken, Error::Unavailable(_)), "{broken}");
    }
}
