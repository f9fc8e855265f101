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

/// Objects named one by one in a plan; beyond this only their number is told.
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
            ("host_port", old.host_port != new.host_port),
            ("reassembly", old.reassembly != new.reassembly),
            ("liveness", old.liveness != new.liveness),
            ("state", old.state != new.state),
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
        plan.objects(
            "tunnel",
            old.tunnels.iter().map(|t| (&t.id, t)),
            new.tunnels.iter().map(|t| (&t.id, t)),
        );
        plan.objects(
            "domain",
            old.domains.iter().map(|d| (&d.id, d)),
            new.domains.iter().map(|d| (&d.id, d)),
        );
        plan
    }

    fn objects<'a, T: PartialEq + 'a>(
        &mut self,
        kind: &str,
        old: impl Iterator<Item = (&'a String, &'a T)>,
        new: impl Iterator<Item = (&'a String, &'a T)>,
    ) {
        let (old, new): (Vec<_>, Vec<_>) = (old.collect(), new.collect());
        let before: HashMap<_, _> = old.iter().copied().collect();
        let after: HashMap<_, _> = new.iter().copied().collect();
        let added = new.iter().filter(|(id, _)| !before.contains_key(id));
        let changed = new
            .iter()
            .filter(|(id, object)| before.get(id).is_some_and(|was| was != object));
        let removed = old.iter().filter(|(id, _)| !after.contains_key(id));
        self.name(&format!("add {kind}"), added.map(|(id, _)| *id));
        self.name(&format!("change {kind}"), changed.map(|(id, _)| *id));
        self.name(&format!("remove {kind}"), removed.map(|(id, _)| *id));
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
