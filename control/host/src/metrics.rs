//! Prometheus metrics: read from the parts at scrape time.
//!
//! Labels are bounded: parts, states, dataplanes (at most 64). Never users or tunnels; the API lists
//! those.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use sixferry_lifecycle::{RelayStats, Stats};
use sixferry_service::{Families, label, resident_bytes};

use crate::api::Api;

/// Reads everything at scrape time.
pub(crate) struct Metrics(pub(crate) Api);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The registry to scrape.
    pub(crate) fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix("sixferry");
        registry.register_collector(Box::new(self));
        registry
    }
}

/// Name, help and value of what only grows.
fn counters(stats: &Stats) -> [(&'static str, &'static str, u64); 12] {
    [
        (
            "control_logins",
            "Logins with the right answer",
            stats.logins_ok,
        ),
        (
            "control_logins_denied",
            "Logins that were denied",
            stats.logins_denied,
        ),
        (
            "control_acquired",
            "Tunnels that were given",
            stats.acquired,
        ),
        (
            "control_resumed",
            "Of these, those the user had before",
            stats.resumed,
        ),
        (
            "control_sold_out",
            "Wishes without a free number",
            stats.sold_out,
        ),
        (
            "control_refused",
            "Wishes a dataplane refused",
            stats.refused,
        ),
        (
            "control_timed_out",
            "Wishes that ran out of time",
            stats.timed_out,
        ),
        ("control_released", "Tunnels given back", stats.released),
        ("control_commits", "Transactions", stats.commits),
        ("control_groups", "Changes in them", stats.groups),
        (
            "control_conflicts",
            "Changes refused because of another writer",
            stats.conflicts,
        ),
        (
            "control_task_restarts",
            "Tasks started again after a failure",
            stats.restarts,
        ),
    ]
}

/// Name, help and value of what goes up and down.
fn gauges(stats: &Stats) -> [(&'static str, &'static str, u64); 4] {
    [
        ("control_users", "Users", stats.accounts),
        (
            "control_queue_depth",
            "Wishes waiting for the store",
            stats.queue_depth,
        ),
        (
            "control_queue_limit",
            "Most there may be",
            stats.queue_limit,
        ),
        (
            "control_store_away_seconds",
            "For how long the store has been away",
            stats.store_away.as_secs(),
        ),
    ]
}

fn states(stats: &Stats) -> [(&'static str, u64); 5] {
    [
        ("pending", stats.pending),
        ("active", stats.active),
        ("orphaned", stats.orphaned),
        ("releasing", stats.releasing),
        ("tombstone", stats.tombstones),
    ]
}

/// The figures without labels, as GetStatus gives them.
pub(crate) fn figures(api: &Api) -> Vec<(String, u64)> {
    let mut figures = Vec::new();
    if let Some(running) = api.lifecycle.as_ref().and_then(|place| place.get()) {
        let stats = running.lifecycle.stats();
        let all = counters(&stats).into_iter().chain(gauges(&stats));
        figures.extend(all.map(|(name, _, value)| (name.to_owned(), value)));
        let by_state = states(&stats).map(|(state, n)| (format!("control_tunnels_{state}"), n));
        figures.extend(by_state);
    }
    if let Some(server) = api.dtcp.get() {
        let stats = server.stats();
        figures.push(("dtcp_sessions".to_owned(), stats.sessions));
        figures.push(("dtcp_sessions_greeted".to_owned(), stats.greeted));
        let all = stats.counters().into_iter();
        figures.extend(all.map(|(name, _, value)| (format!("dtcp_{name}"), value)));
    }
    figures.sort();
    figures
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Families { encoder };
        let version = label("version", env!("CARGO_PKG_VERSION"));
        out.gauges("control_build_info", "The running version", [(version, 1)])?;
        let resident = resident_bytes().unwrap_or(0);
        out.gauge(
            "control_resident_memory_bytes",
            "Resident memory of the process",
            resident,
        )?;
        self.parts(&mut out)?;
        if let Some(running) = self.0.lifecycle.as_ref().and_then(|place| place.get()) {
            lifecycle(&mut out, &running.lifecycle.stats())?;
        }
        match self.0.dtcp.get() {
            Some(server) => dtcp(&mut out, &server.stats()),
            None => Ok(()),
        }
    }
}

impl Metrics {
    fn parts(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let parts = self.0.board.read();
        let up = parts
            .iter()
            .map(|(name, part)| (label("part", name), part.up.into()));
        out.gauges("control_part_up", "Whether a part runs", up)?;
        let restarts = parts
            .iter()
            .map(|(name, part)| (label("part", name), part.restarts));
        out.counters(
            "control_part_restarts",
            "Times a part was started again",
            restarts,
        )
    }
}

fn lifecycle(out: &mut Families<'_>, stats: &Stats) -> Result<(), Error> {
    let by_state = states(stats).map(|(state, count)| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        (label("state", state), count)
    });
    out.gauges("control_tunnels", "Tunnels by state", by_state)?;
    for (name, help, value) in counters(stats) {
        out.counter(name, help, value)?;
    }
    for (name, help, value) in gauges(stats) {
        out.gauge(name, help, value)?;
    }
    type Read = fn(&RelayStats) -> u64;
    let values: [(&str, &str, Read); 3] = [
        ("control_dataplane_up", "Connected and in step", |relay| {
            u64::from(relay.connected && relay.synced)
        }),
        (
            "control_dataplane_backlog",
            "Tunnels to be written",
            |relay| relay.backlog,
        ),
        (
            "control_dataplane_applied_seq",
            "Last change that was applied",
            |relay| relay.applied_seq.unsigned_abs(),
        ),
    ];
    for (name, help, read) in values {
        let each = stats.relays.iter().map(|relay| {
            let value = i64::try_from(read(relay)).unwrap_or(i64::MAX);
            (label("dataplane", &relay.name), value)
        });
        out.gauges(name, help, each)?;
    }
    let counts: [(&str, &str, Read); 3] = [
        (
            "control_dataplane_resyncs",
            "Re-syncs that were completed",
            |relay| relay.resyncs,
        ),
        (
            "control_dataplane_applied",
            "Entries it confirmed",
            |relay| relay.applied,
        ),
        ("control_dataplane_refused", "Entries it refused", |relay| {
            relay.refused
        }),
    ];
    for (name, help, read) in counts {
        let each = stats.relays.iter();
        let each = each.map(|relay| (label("dataplane", &relay.name), read(relay)));
        out.counters(name, help, each)?;
    }
    Ok(())
}

fn dtcp(out: &mut Families<'_>, stats: &sixferry_dtcp::Stats) -> Result<(), Error> {
    out.gauge("dtcp_sessions", "Sessions", stats.sessions)?;
    out.gauge(
        "dtcp_sessions_greeted",
        "Sessions without a tunnel",
        stats.greeted,
    )?;
    out.gauge(
        "dtcp_session_limit",
        "Most sessions there may be",
        stats.session_limit,
    )?;
    for (name, help, value) in stats.counters() {
        out.counter(&format!("dtcp_{name}"), help, value)?;
    }
    Ok(())
}
