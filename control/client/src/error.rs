//! What can go wrong, each in one line that names the object and the field.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

/// An error of this client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The dataplane cannot be reached.
    #[error("cannot connect to {target}: {cause}{hint}")]
    Connect {
        /// Where to.
        target: String,
        /// What the system said.
        cause: String,
        /// What to do about it, with a leading separator; may be empty.
        hint: &'static str,
    },
    /// The TLS files do not serve.
    #[error("TLS: {0}")]
    Tls(String),
    /// No answer in time.
    #[error("{call}: no answer within {}", seconds(*after))]
    Deadline {
        /// Which call.
        call: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The dataplane refused the call.
    #[error("{0}")]
    Rpc(#[from] Box<RpcError>),
    /// The dataplane restarted: the session and everything it wrote must be renewed.
    #[error("the dataplane restarted (instance {now}, was {before}): write everything again")]
    InstanceChanged {
        /// Instance the session was opened with.
        before: String,
        /// Instance that runs now.
        now: String,
    },
    /// The stream broke while entries that are not idempotent were on their way.
    #[error(
        "{call}: the connection broke before the answer, it is unknown whether {unknown} entries \
         were applied: {cause}"
    )]
    OutcomeUnknown {
        /// Which call.
        call: &'static str,
        /// Entries without an answer.
        unknown: usize,
        /// What broke.
        cause: String,
    },
    /// A commit would remove objects whose upsert failed.
    #[error(
        "the sync is incomplete, nothing was removed: {failed} entries failed, the first is \
         {first}"
    )]
    SyncIncomplete {
        /// How many.
        failed: u64,
        /// The first failure.
        first: String,
    },
    /// The dataplane sent something that makes no sense.
    #[error("malformed answer of the dataplane: {field} {problem}")]
    Malformed {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Error {
    pub(crate) fn malformed(field: &'static str, problem: &'static str) -> Self {
        Self::Malformed { field, problem }
    }

    pub(crate) fn rpc(call: &'static str, status: &Status) -> Self {
        Self::Rpc(Box::new(RpcError::from_status(call, status)))
    }

    /// The stable reason of a refused call, e.g. `TUNNEL_NOT_FOUND`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Rpc(rpc) => rpc.reason.as_deref(),
            _ => None,
        }
    }

    /// The canonical code of a refused call.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc(rpc) => Some(rpc.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed when tried again: the connection broke, or the
    /// dataplane is not there at the moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Deadline { .. } => true,
            Self::Rpc(rpc) => rpc.is_transient(),
            _ => false,
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// A refused call, or one refused entry of a Program message, with its `google.rpc` details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// Which call.
    pub call: &'static str,
    /// Canonical code.
    pub code: Code,
    /// Text for people.
    pub message: String,
    /// Stable name of the cause (ErrorInfo), e.g. `PREFIX_IN_USE`.
    pub reason: Option<String>,
    /// Particulars of the cause (ErrorInfo), by name.
    pub metadata: Vec<(String, String)>,
    /// Fields that are wrong (BadRequest).
    pub fields: Vec<FieldViolation>,
    /// The object that is missing or in the way (ResourceInfo).
    pub resource: Option<Resource>,
    /// What the state forbids (PreconditionFailure).
    pub preconditions: Vec<Precondition>,
    /// The connection broke, rather than the dataplane answered.
    pub broken: bool,
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path in the request.
    pub field: String,
    /// What is wrong.
    pub description: String,
}

/// An object an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its type, e.g. `sixferry.dataplane.v1.Tunnel`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its owner; may be empty.
    pub owner: String,
    /// More; may be empty.
    pub description: String,
}

/// One unmet condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// Its type.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// How to meet it.
    pub description: String,
}

impl RpcError {
    pub(crate) fn from_status(call: &'static str, status: &Status) -> Self {
        let details = status.get_error_details();
        let mut message = status.message().to_owned();
        let mut source = std::error::Error::source(status);
        let broken = source.is_some();
        let mut innermost = None;
        while let Some(cause) = source {
            innermost = Some(cause.to_string());
            source = cause.source();
        }
        // "transport error" alone tells nobody anything.
        if let Some(cause) = innermost.filter(|cause| !message.contains(cause)) {
            message = format!("{message}: {cause}");
        }
        Self::build(call, status.code(), &message, &details, broken)
    }

    pub(crate) fn from_failure(call: &'static str, status: &tonic_types::pb::Status) -> Self {
        let details = status.get_error_details();
        Self::build(
            call,
            Code::from_i32(status.code),
            &status.message,
            &details,
            false,
        )
    }

    fn build(
        call: &'static str,
        code: Code,
        message: &str,
        details: &ErrorDetails,
        broken: bool,
    ) -> Self {
        let info = details.error_info();
        let mut metadata: Vec<_> = info
            .map(|i| i.metadata.clone().into_iter().collect())
            .unwrap_or_default();
        metadata.sort();
        Self {
            call,
            code,
            message: message.to_owned(),
            reason: info.map(|i| i.reason.clone()).filter(|r| !r.is_empty()),
            metadata,
            fields: details.bad_request().map_or_else(Vec::new, |b| {
                let violation = |v: &tonic_types::FieldViolation| FieldViolation {
                    field: v.field.clone(),
                    description: v.description.clone(),
                };
                b.field_violations.iter().map(violation).collect()
            }),
            resource: details.resource_info().map(|r| Resource {
                kind: r.resource_type.clone(),
                name: r.resource_name.clone(),
                owner: r.owner.clone(),
                description: r.description.clone(),
            }),
            preconditions: details.precondition_failure().map_or_else(Vec::new, |p| {
                let violation = |v: &tonic_types::PreconditionViolation| Precondition {
                    kind: v.r#type.clone(),
                    subject: v.subject.clone(),
                    description: v.description.clone(),
                };
                p.violations.iter().map(violation).collect()
            }),
            broken,
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        // A transport that breaks in mid-call surfaces as UNAVAILABLE, or as UNKNOWN, INTERNAL or
        // CANCELLED with the cause attached; the dataplane's own errors carry a reason.
        self.code == Code::Unavailable
            || (self.broken
                && self.reason.is_none()
                && matches!(self.code, Code::Unknown | Code::Internal | Code::Cancelled))
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.reason {
            Some(reason) => reason.as_str(),
            None => code_name(self.code),
        };
        write!(f, "{}: {name}", self.call)?;
        if !self.message.is_empty() {
            write!(f, ": {}", one_line(&self.message))?;
        }
        for field in &self.fields {
            // The message often is the description of the only field already.
            if self.message.contains(&field.description) {
                write!(f, " [field {}]", field.field)?;
            } else {
                write!(
                    f,
                    " [field {}: {}]",
                    field.field,
                    one_line(&field.description)
                )?;
            }
        }
        // Most messages name the object already.
        let named = |r: &&Resource| !self.message.contains(&format!("\"{}\"", r.name));
        if let Some(resource) = self.resource.as_ref().filter(named) {
            let kind = resource.kind.rsplit('.').next().unwrap_or_default();
            write!(f, " [{} {}", kind.to_lowercase(), resource.name)?;
            if !resource.owner.is_empty() {
                write!(f, ", owner {}", resource.owner)?;
            }
            write!(f, "]")?;
        }
        let new = |p: &&Precondition| !self.message.contains(&p.description);
        for unmet in self.preconditions.iter().filter(new) {
            write!(f, " [{}: {}]", unmet.subject, one_line(&unmet.description))?;
        }
        Ok(())
    }
}

impl std::error::Error for RpcError {}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The canonical name of a code, e.g. `NOT_FOUND`.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn details_render_in_one_line() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("PREFIX_IN_USE", "sixferry.dataplane", HashMap::new())
            .add_bad_request_violation("updates[3].upsert.tunnel.prefixes[0]", "is taken")
            .set_resource_info("sixferry.dataplane.v1.Tunnel", "b", "dtcp", "");
        let status = Status::with_error_details(
            Code::AlreadyExists,
            "prefix 2001:db8::/48 belongs to\nanother tunnel",
            details,
        );
        let error = Error::rpc("ProgramTunnels", &status);
        assert_eq!(
            error.to_string(),
            "ProgramTunnels: PREFIX_IN_USE: prefix 2001:db8::/48 belongs to another tunnel \
             [field updates[3].upsert.tunnel.prefixes[0]: is taken] [tunnel b, owner dtcp]"
        );
        assert_eq!(error.reason(), Some("PREFIX_IN_USE"));
        assert!(!error.is_transient());
    }

    #[test]
    fn what_the_message_says_is_not_said_twice() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("NO_SUCH_PORT", "sixferry.dataplane", HashMap::new())
            .set_resource_info("sixferry.dataplane.v1.Port", "eth9", "", "no such port")
            .add_precondition_failure_violation("PORT", "eth9", "\"eth9\" is no port");
        let status =
            Status::with_error_details(Code::FailedPrecondition, "\"eth9\" is no port", details);
        assert_eq!(
            Error::rpc("ProgramRoutes", &status).to_string(),
            "ProgramRoutes: NO_SUCH_PORT: \"eth9\" is no port"
        );
    }

    #[test]
    fn a_status_without_details_shows_its_code() {
        let error = Error::rpc("GetInfo", &Status::permission_denied("not you"));
        assert_eq!(error.to_string(), "GetInfo: PERMISSION_DENIED: not you");
        assert_eq!(error.code(), Some(Code::PermissionDenied));
    }

    #[test]
    fn only_broken_connections_are_transient() {
        assert!(Error::rpc("X", &Status::unavailable("")).is_transient());
        assert!(!Error::rpc("X", &Status::internal("bug")).is_transient());
        assert!(!Error::rpc("X", &Status::aborted("")).is_transient());
        let mut broken = Status::unknown("transport error");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        let error = Error::rpc("X", &broken);
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "X: UNKNOWN: transport error: reset");
    }
}
