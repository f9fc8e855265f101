//! How a command ends when it does not work.

use std::io;
use std::process::ExitCode;

use serde_json::json;

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Arguments that contradict each other, or a file that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The operation failed.
    #[error("{0}")]
    Failed(String),
    /// The dataplane cannot be reached, or refused.
    #[error("{0}")]
    Client(#[from] sixferry_client::Error),
    /// The lab.
    #[error("{0}")]
    Lab(#[from] crate::lab::Error),
    /// Standard output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// 1: the operation failed; 2: wrong usage, or no connection.
    fn exit_code(&self) -> u8 {
        match self {
            // `sixferry … | head` has all it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Usage(_)
            | Self::Client(
                sixferry_client::Error::Connect { .. } | sixferry_client::Error::Tls(_),
            ) => 2,
            Self::Failed(_) | Self::Client(_) | Self::Lab(_) | Self::Output(_) => 1,
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let mut error = json!({ "message": self.to_string() });
        if let Self::Client(sixferry_client::Error::Rpc(rpc)) = self {
            error["code"] = json!(rpc.code as i32);
            error["reason"] = json!(rpc.reason);
            let fields = rpc.fields.iter();
            let field = |f: &sixferry_client::FieldViolation| {
                json!({
                    "field": f.field,
                    "description": f.description,
                })
            };
            error["fields"] = fields.map(field).collect();
            error["resource"] = json!(rpc.resource.as_ref().map(|r| json!({
                "type": r.kind, "name": r.name, "owner": r.owner, "description": r.description,
            })));
        }
        json!({ "error": error })
    }

    /// Says it on standard error and gives the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let code = self.exit_code();
        if code != 0 {
            let text = if json {
                self.to_json().to_string()
            } else {
                format!("sixferry: {self}{}", self.advice())
            };
            crate::output::note(&text);
        }
        ExitCode::from(code)
    }

    /// What to do about refusals whose way out is an option of this program.
    fn advice(&self) -> &'static str {
        let Self::Client(error) = self else {
            return "";
        };
        let owner = match error {
            sixferry_client::Error::Rpc(rpc) => rpc.resource.as_ref().map(|r| r.owner.as_str()),
            _ => None,
        };
        match error.reason() {
            Some("OWNED_BY_OTHER") if owner == Some("static") => {
                "\n  (it stands in the configuration file: change it there and `sixferry reload`)"
            }
            Some("OWNED_BY_OTHER") => "\n  (change it as its owner: --owner NAME)",
            Some("ELECTION_LOST") => {
                "\n  (a controller of this owner runs: change it there, or take over with a \
                 higher --election-id)"
            }
            Some("TUNNEL_EXISTS") => "\n  (change it with `sixferry tunnel set`, or --replace it)",
            Some("DOMAIN_EXISTS") => "\n  (change it with `sixferry domain set`, or --replace it)",
            Some("IMMUTABLE_FIELD") => "\n  (delete it and add it anew)",
            Some("ROUTE_EXISTS") => "\n  (--replace it)",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let connect = sixferry_client::Error::Connect {
            target: "/x".into(),
            cause: "refused".into(),
            hint: "",
        };
        let deadline = sixferry_client::Error::Deadline {
            call: "GetInfo",
            after: std::time::Duration::from_secs(1),
        };
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for (error, code) in [
            (CliError::Usage(String::new()), 2),
            (CliError::Client(connect), 2),
            (CliError::Client(deadline), 1),
            (CliError::Failed(String::new()), 1),
            (CliError::Output(pipe), 0),
            (CliError::Output(full), 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }

    #[test]
    fn errors_as_json_have_a_message() {
        let error = CliError::Usage("no such file".into());
        assert_eq!(
            error.to_json().to_string(),
            r#"{"error":{"message":"no such file"}}"#
        );
    }
}
