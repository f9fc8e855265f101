//! Limits and times, with the defaults an operator gets who sets nothing.

use std::sync::Arc;
use std::time::Duration;

use sixferry_client::{Options, Target};

use crate::Service;
use crate::store::Retention;

/// What the lifecycle works with.
#[derive(Clone, Debug)]
pub struct LifecycleConfig {
    /// Dataplanes that follow; at most 64.
    pub dataplanes: Vec<DataplaneConfig>,
    /// How long an orphaned tunnel waits for its user to come back. Default 90 s.
    pub grace: Duration,
    /// How long a wish waits for a store or a dataplane that is away. Default 10 s.
    pub acquire_timeout: Duration,
    /// Tunnels of one account; 0: no limit. Default 0: a DTCP user may log in as often as he likes, as
    /// with the original server.
    pub tunnels_per_account: u32,
    /// Tunnels altogether. Default 1,000,000.
    pub max_tunnels: usize,
    /// Accounts altogether. Default 1,000,000.
    pub max_accounts: usize,
    /// Prefixes of one account, and of one tunnel (the dataplane takes no more than 64). Default 64.
    pub max_prefixes: usize,
    /// Wishes that wait for the store. Further ones wait to be taken in. Default 16,384.
    pub queue: usize,
    /// Transitions a watcher may lag behind before it is told that it lost some. Default 16,384.
    pub watch_backlog: usize,
    /// Services whose tunnels live as long as a session of the plugin: orphaned when the process
    /// starts. Default `dtcp`.
    pub session_bound: Vec<Service>,
    /// How much of the past the store keeps.
    pub retention: Retention,
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self {
            dataplanes: Vec::new(),
            grace: Duration::from_secs(90),
            acquire_timeout: Duration::from_secs(10),
            tunnels_per_account: 0,
            max_tunnels: 1_000_000,
            max_accounts: 1_000_000,
            max_prefixes: 64,
            queue: 16_384,
            watch_backlog: 16_384,
            session_bound: vec![Arc::from("dtcp")],
            retention: Retention::default(),
        }
    }
}

/// A dataplane that follows.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// Its name in logs and metrics; unique, 1 to 63 of `[A-Za-z0-9._-]`.
    pub name: Arc<str>,
    /// Where it listens.
    pub target: Target,
    /// Limits of the connection.
    pub options: Options,
}

impl LifecycleConfig {
    /// Most dataplanes: who has confirmed a change is a bit each.
    pub const MAX_DATAPLANES: usize = 64;
    /// What a dataplane takes.
    pub const MAX_PREFIXES: usize = 64;

    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.dataplanes.len() > Self::MAX_DATAPLANES {
            return Err(format!("more than {} dataplanes", Self::MAX_DATAPLANES));
        }
        for (index, dataplane) in self.dataplanes.iter().enumerate() {
            let name = &dataplane.name;
            let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if !(1..=63).contains(&name.len()) || !name.bytes().all(good) {
                return Err(format!(
                    "dataplane name {name:?}: 1 to 63 of [A-Za-z0-9._-]"
                ));
            }
            if self.dataplanes[..index].iter().any(|d| d.name == *name) {
                return Err(format!("dataplane name {name:?} is used twice"));
            }
        }
        for (what, zero) in [
            ("acquire_timeout", self.acquire_timeout.is_zero()),
            ("max_tunnels", self.max_tunnels == 0),
            ("max_accounts", self.max_accounts == 0),
            ("queue", self.queue == 0),
            ("watch_backlog", self.watch_backlog == 0),
        ] {
            if zero {
                return Err(format!("{what} must not be 0"));
            }
        }
        if self.max_prefixes > Self::MAX_PREFIXES {
            return Err(format!("max_prefixes: at most {}", Self::MAX_PREFIXES));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_good_and_doubles_are_not() {
        let mut config = LifecycleConfig::default();
        assert_eq!(config.check(), Ok(()));
        let dataplane = DataplaneConfig {
            name: "a".into(),
            target: Target::default(),
            options: Options::default(),
        };
        config.dataplanes = vec![dataplane.clone(), dataplane];
        assert!(config.check().unwrap_err().contains("twice"));
        config.dataplanes.clear();
        config.queue = 0;
        assert!(config.check().unwrap_err().contains("queue"));
    }
}
