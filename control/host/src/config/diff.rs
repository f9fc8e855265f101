//! What a reload changes, and what it cannot.

use super::Config;

/// What a reload would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For people.
    pub(crate) changes: Vec<String>,
    /// Keys whose change needs a restart.
    pub(crate) restart_required: Vec<String>,
}

impl Plan {
    pub(crate) fn between(old: &Config, new: &Config) -> Self {
        let mut plan = Self::default();
        if old.log.level != new.log.level {
            let (old, new) = (&old.log.level, &new.log.level);
            plan.changes.push(format!("log.level: {old} -> {new}"));
        }
        match (old.runs_dtcp(), new.runs_dtcp()) {
            (Some(old), Some(new)) if old != new => plan.changes.push("dtcp: changed".to_owned()),
            (None, Some(_)) => plan.changes.push("dtcp: switched on".to_owned()),
            (Some(_), None) => plan.changes.push("dtcp: switched off".to_owned()),
            _ => {}
        }
        let restart = [
            ("control.state_dir", old.state_dir != new.state_dir),
            ("control.unix_socket", old.unix_socket != new.unix_socket),
            ("control.tcp", old.tcp != new.tcp),
            ("control.lifecycle", old.remote != new.remote),
            ("metrics.listen", old.metrics != new.metrics),
            ("log.format", old.log.json != new.log.json),
            ("store", old.store != new.store),
            ("lifecycle", limits(old) != limits(new)),
            ("dataplane", dataplanes(old) != dataplanes(new)),
        ];
        let restart = restart.into_iter().filter(|(_, changed)| *changed);
        plan.restart_required = restart.map(|(key, _)| key.to_owned()).collect();
        plan
    }
}

fn limits(config: &Config) -> impl PartialEq {
    let lifecycle = &config.lifecycle;
    (
        lifecycle.grace,
        lifecycle.acquire_timeout,
        lifecycle.tunnels_per_account,
        lifecycle.max_tunnels,
        lifecycle.max_accounts,
        lifecycle.retention,
    )
}

fn dataplanes(config: &Config) -> Vec<(String, String, std::time::Duration)> {
    let dataplanes = config.lifecycle.dataplanes.iter();
    dataplanes
        .map(|d| {
            (
                d.name.to_string(),
                format!("{:?}", d.target),
                d.options.timeout,
            )
        })
        .collect()
}
