//! What both daemons do alike around their work: listening, TLS, deadlines, reflection, metrics over
//! HTTP, logs, findings about a configuration and how they are told, the service manager.
//!
//! What it must not do: know what a daemon serves.
#![forbid(unsafe_code)]

mod accept;
mod deadline;
mod families;
mod finding;
mod front;
mod grpc;
pub mod http;
mod listen;
mod log;
mod memory;

use std::error::Error;

pub use accept::{Counted, bounded};
pub use deadline::RequireDeadline;
pub use families::{Families, Labels, label};
pub use finding::{Finding, Findings, Severity};
pub use front::{answer_check, first_error, refuse};
pub use grpc::{MAX_CONNECTIONS, Reflection, reflection, server};
pub use listen::{Listener, ServeError, SocketFile, TcpTls, bind_tcp, bind_unix, tls};
pub use log::{LogConfig, SetLevel, check_level, init_log};
pub use memory::resident_bytes;
pub use sd_notify::NotifyState;

/// Largest configuration text, in bytes.
pub const MAX_TEXT_LEN: usize = 1024 * 1024;

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', "; ")
}

/// Tells the service manager; there may be none.
pub fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "sd_notify");
    }
}
