//! All that was measured; what was not asked for is absent.

use super::churn::Churn;
use super::idle::Idle;
use super::logins::Logins;
use super::usage::Machine;
use crate::statistics::Summary;
use serde::Serialize;
use std::fmt;

/// The result of a bench.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// `sqlite` or `postgres`.
    pub store: &'static str,
    /// A minute's load average before.
    pub load_before: f64,
    /// Rounds of idle sessions.
    pub idle: Vec<Idle>,
    /// Rounds of logins, by number of clients.
    pub logins: Vec<Logins>,
    /// Everybody at once.
    pub churn: Option<Churn>,
}

impl Report {
    /// Whether everybody was served, however fast.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.idle.iter().all(Idle::is_clean)
            && self.logins.iter().all(|logins| logins.failed.is_empty())
            && self.churn.as_ref().is_none_or(Churn::is_clean)
    }
}

/// Rounds with the same number of clients.
struct Level {
    clients: usize,
    per_second: Summary,
    p99: Summary,
    commits: Summary,
    changes: Summary,
}

fn levels(logins: &[Logins]) -> Vec<Level> {
    let mut clients: Vec<usize> = logins.iter().map(|round| round.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    let level = |clients: usize| {
        let summary = |pick: fn(&Logins) -> f64| {
            let rounds = logins.iter().filter(|round| round.clients == clients);
            Summary::of(&rounds.map(pick).collect::<Vec<_>>())
        };
        Level {
            clients,
            per_second: summary(|round| round.per_second),
            p99: summary(|round| round.latency.p99),
            commits: summary(|round| round.commits_per_second),
            changes: summary(|round| round.changes_per_commit),
        }
    };
    clients.into_iter().map(level).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "DTCP, store {}, {} CPUs, Linux {}, load {:.1}, durable append {:.2} ms",
            self.store, machine.cpus, machine.kernel, self.load_before, machine.append_ms
        )?;
        for idle in &self.idle {
            write!(f, "{idle}")?;
        }
        if self.idle.len() > 1 {
            let of = |pick: fn(&Idle) -> f64| {
                Summary::of(&self.idle.iter().map(pick).collect::<Vec<_>>()).median
            };
            writeln!(
                f,
                "idle, medians of {}: control {:.2} % and {:.2} KiB a session, sixferryd {:.2} %, \
                 ping p50 {:.2} ms, p99 {:.2} ms",
                self.idle.len(),
                of(|idle| idle.control.cpu_percent),
                of(|idle| idle.control.bytes_per_session) / 1024.0,
                of(|idle| idle.dataplane.cpu_percent),
                of(|idle| idle.pings.p50),
                of(|idle| idle.pings.p99)
            )?;
        }
        for level in levels(&self.logins) {
            let Summary {
                median,
                lower_quartile,
                upper_quartile,
                rounds,
                ..
            } = level.per_second;
            writeln!(
                f,
                "logins, {} clients: {median:.0}/s ({lower_quartile:.0} to {upper_quartile:.0}, \
                 {rounds} rounds), p99 {:.0} ms, {:.0} commits/s of {:.1} changes",
                level.clients, level.p99.median, level.commits.median, level.changes.median
            )?;
        }
        if let Some(churn) = &self.churn {
            write!(f, "{churn}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtcp::latency::Latency;
    use crate::dtcp::logins::Cores;

    fn round(clients: usize, per_second: f64) -> Logins {
        Logins {
            clients,
            per_second,
            latency: Latency::default(),
            failed: [].into(),
            commits_per_second: 0.0,
            changes_per_commit: 0.0,
            cores: Cores::default(),
            load: 0.0,
        }
    }

    #[test]
    fn rounds_are_grouped_by_clients() {
        let rounds = [
            round(256, 5.0),
            round(64, 1.0),
            round(256, 7.0),
            round(64, 3.0),
        ];
        let levels: Vec<(usize, f64)> = levels(&rounds)
            .iter()
            .map(|level| (level.clients, level.per_second.median))
            .collect();
        assert_eq!(levels, [(64, 2.0), (256, 6.0)]);
    }

    #[test]
    fn one_login_that_failed_is_not_clean() {
        let mut report = Report {
            machine: Machine {
                kernel: String::new(),
                cpus: 2,
                append_ms: 0.0,
            },
            store: "sqlite",
            load_before: 0.0,
            idle: Vec::new(),
            logins: vec![round(1, 1.0)],
            churn: None,
        };
        assert!(report.is_clean());
        report.logins[0].failed.insert("closed".to_owned(), 1);
        assert!(!report.is_clean());
    }
}
