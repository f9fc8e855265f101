//! Logs go to stderr, which the service manager collects; the level can change later.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// JSON, a line each; else text.
    pub json: bool,
    /// `info`, or a filter such as `warn,sixferry=debug`.
    pub level: String,
}

/// Whether a level can be read.
pub fn check_level(level: &str) -> Result<(), String> {
    EnvFilter::try_new(level)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Sets the log level.
pub type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Starts logging; gives what changes the level.
pub fn init_log(config: &LogConfig) -> Result<SetLevel, Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(&config.level)?;
    let (filter, handle) = reload::Layer::<_, Registry>::new(filter);
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format: Box<dyn Layer<_> + Send + Sync> = if config.json {
        format.json().boxed()
    } else {
        format.with_ansi(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(format)
        .try_init()?;
    Ok(Box::new(move |level| {
        let changed = EnvFilter::try_new(level)
            .map_err(|error| error.to_string())
            .and_then(|filter| handle.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = changed {
            tracing::error!("log level stays: {error}");
        }
    }))
}
