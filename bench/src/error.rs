//! The error of everything that has to do with the kernel and with processes.

/// What went wrong, with what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct Error {
    action: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// Names the action.
    ///
    /// # Errors
    /// The error, with the action.
    fn during(self, action: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn during(self, action: impl Into<String>) -> Result<T, Error> {
        self.map_err(|error| Error {
            action: action.into(),
            source: error.into(),
        })
    }
}
