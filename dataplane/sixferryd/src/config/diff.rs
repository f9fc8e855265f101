//! What a new configuration would change, before anything is done.

use std::collections::HashMap;

use super::Config;

/// The difference between the running configuration and a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For people, one change each.
    pub(crate) changes: Vec<String>,
    /// Keys that differ but are read only at start.
    pub(crate) restart_required: Vec<String>,
}

/// Tunnels named one by one in a plan; beyond this only their number is told.
const NAMED: usize = 10;

impl Plan {
    /// From `old` to `new`.
    pub(crate) fn between(old: &Config, new: &Config) -> Self {
        let mut plan = Self::default();
        let fixed = [
            ("state_dir", old.state_dir != new.state_dir),
            ("api", old.api != new.api),
            ("metrics.listen", old.metrics != new.metrics),
            ("log.format", old.log.json != new.log.json),
            ("worker", old.worker != new.worker),
            ("port", old.ports != new.ports),
        ];
        for (key, _) in fixed.iter().filter(|(_, differs)| *differs) {
            plan.restart_required.push((*key).to_owned());
        }
        if old.log.level != new.log.level {
            plan.changes
                .push(format!("log.level: {} -> {}", old.log.level, new.log.level));
        }
        if old.settings != new.settings {
            plan.changes.push("router: settings change".to_owned());
        }
        if old.steering != new.steering {
            plan.changes.push("steering: prefixes change".to_owned());
        }
        plan.tunnels(old, new);
        plan
    }

    fn tunnels(&mut self, old: &Config, new: &Config) {
        let before: HashMap<_, _> = old.tunnels.iter().map(|t| (&t.id, &t.spec)).collect();
        let after: HashMap<_, _> = new.tunnels.iter().map(|t| (&t.id, &t.spec)).collect();
        let added = new
            .tunnels
            .iter()
            .filter(|t| !before.contains_key(&t.id))
            .map(|t| &t.id);
        let changed = new
            .tunnels
            .iter()
            .filter(|t| before.get(&t.id).is_some_and(|spec| **spec != t.spec))
            .map(|t| &t.id);
        let removed = old
            .tunnels
            .iter()
            .filter(|t| !after.contains_key(&t.id))
            .map(|t| &t.id);
        self.name("add tunnel", added);
        self.name("change tunnel", changed);
        self.name("remove tunnel", removed);
    }

    fn name<'a>(&mut self, what: &str, ids: impl Iterator<Item = &'a String>) {
        let ids: Vec<_> = ids.collect();
        for id in ids.iter().take(NAMED) {
            self.changes.push(format!("{what} {id}"));
        }
        if ids.len() > NAMED {
            self.changes
                .push(format!("{what}: {} more", ids.len() - NAMED));
        }
    }
}
