//! What it comes to.

use super::Settings;
use super::publisher::{Demand, Done, Message};
use super::worker::{Adoption, Stretch};
use crate::arena::Direction;
use crate::goals::Goal;
use crate::statistics::{Summary, quantile};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Whoever makes changes has kept up with at least this share of them.
const REACHED_MIN: f64 = 0.98;
/// The worker had at least this share of its CPU, with changes and without.
const SHARE_MIN: f64 = 0.95;

/// One round: all of its stretches of either kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    changing: Stretch,
    quiet: Stretch,
    changes: u64,
    wanted: u64,
    /// Applying changes, publishing tables and freeing former ones.
    spent: [Duration; 3],
    changed_for: Duration,
    /// A worker did not take tables within a second.
    stuck: bool,
    /// From when a message was due until the worker had it, in microseconds.
    latencies: Vec<f64>,
}

impl Round {
    /// A stretch with changes.
    pub(super) fn changing(&mut self, stretch: Stretch, done: &Done, adoptions: &[Adoption]) {
        self.changing = self.changing.and(stretch);
        self.changes += done.changes;
        self.wanted += done.wanted;
        let spent = [done.applying, done.publishing, done.reclaiming];
        for (all, part) in self.spent.iter_mut().zip(spent) {
            *all += part;
        }
        self.changed_for += done.took;
        self.stuck |= done.stuck;
        let latencies = latencies(&done.messages, adoptions);
        self.latencies.extend(latencies.into_iter().map(micros));
    }

    /// A stretch without.
    pub(super) fn quiet(&mut self, stretch: Stretch) {
        self.quiet = self.quiet.and(stretch);
    }

    /// Rate with changes / without.
    fn ratio(&self) -> f64 {
        self.changing.mpps() / self.quiet.mpps().max(1e-9)
    }

    /// Changes made / changes that were due.
    fn reached(&self) -> f64 {
        (self.changes as f64 / (self.wanted as f64).max(1.0)).min(1.0)
    }

    /// The smaller of the two shares of its CPU that the worker had.
    fn share(&self) -> f64 {
        self.changing.share().min(self.quiet.share())
    }

    /// The share of its CPU that a part of making changes took.
    fn spent(&self, part: usize) -> f64 {
        self.spent[part].as_secs_f64() / self.changed_for.as_secs_f64().max(1e-9)
    }

    /// Whether it says something: changes came at the rate, and the worker had its CPU.
    fn is_sound(&self) -> bool {
        self.reached() >= REACHED_MIN && self.share() >= SHARE_MIN && !self.stuck
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// From when each message was due until the worker had tables with it. Those that came after the
/// worker had stopped looking are left out; both lists rise.
fn latencies(messages: &[Message], adoptions: &[Adoption]) -> Vec<Duration> {
    let mut adoptions = adoptions.iter().peekable();
    let mut found = Vec::new();
    for message in messages {
        while adoptions
            .next_if(|a| a.generation < message.generation)
            .is_some()
        {}
        if let Some(adoption) = adoptions.peek() {
            found.push(adoption.at.saturating_sub(message.due));
        }
    }
    found
}

/// One direction.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Case {
    direction: &'static str,
    /// Rate with changes / without, of the sound rounds.
    ratio: Summary,
    changing_mpps: Summary,
    quiet_mpps: Summary,
    /// The longest batch with changes and without, in microseconds.
    longest_batch_us: [Summary; 2],
    /// From when a change was due until the worker had it, in microseconds: p50, p99, the longest.
    latency_us: [f64; 3],
    /// The share of its CPU that applying, publishing and freeing took.
    changer_share: [Summary; 3],
    /// Share of the changes that was made, of all rounds.
    reached: Summary,
    /// Share of its CPU that the worker had, of all rounds.
    share: Summary,
    rejected: usize,
    lost: u64,
    /// Messages of changes of which it is known when the worker had them.
    messages: usize,
}

impl Case {
    pub(super) fn new(direction: Direction, rounds: &[Round]) -> Self {
        let sound: Vec<&Round> = rounds.iter().filter(|round| round.is_sound()).collect();
        let of = |pick: &dyn Fn(&Round) -> f64| {
            let values: Vec<f64> = sound.iter().map(|round| pick(round)).collect();
            Summary::of(&values)
        };
        let all = |pick: fn(&Round) -> f64| {
            let values: Vec<f64> = rounds.iter().map(pick).collect();
            Summary::of(&values)
        };
        let latencies = sound.iter().flat_map(|round| &round.latencies);
        let mut latencies: Vec<f64> = latencies.copied().collect();
        latencies.sort_by(f64::total_cmp);
        Self {
            direction: direction.name(),
            ratio: of(&Round::ratio),
            changing_mpps: of(&|round| round.changing.mpps()),
            quiet_mpps: of(&|round| round.quiet.mpps()),
            longest_batch_us: [
                of(&|round| micros(round.changing.longest_batch)),
                of(&|round| micros(round.quiet.longest_batch)),
            ],
            latency_us: [0.5, 0.99, 1.0].map(|share| quantile(&latencies, share)),
            changer_share: [0, 1, 2].map(|part| of(&|round| round.spent(part))),
            reached: all(Round::reached),
            share: all(Round::share),
            rejected: rounds.len() - sound.len(),
            lost: (rounds.iter())
                .map(|round| round.changing.lost + round.quiet.lost)
                .sum(),
            messages: rounds.iter().map(|round| round.latencies.len()).sum(),
        }
    }
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Apart from the figures of other benches, with which a report is made.
    in_memory_changes: Figures,
    goals: Vec<Goal>,
}

#[derive(Clone, Debug, Serialize)]
struct Figures {
    tunnels: u32,
    demand: Demand,
    inner_len: usize,
    /// Bytes of the tables for each tunnel: before the changes, and after all of them.
    bytes_a_tunnel: [f64; 2],
    cases: Vec<Case>,
}

impl Report {
    pub(super) fn new(settings: &Settings, cases: Vec<Case>, bytes: [usize; 2]) -> Self {
        let goal = |case: &Case| {
            let what = format!(
                "{} in memory, rate while {} tunnels change each second / without",
                case.direction, settings.demand.per_second
            );
            Goal::at_least(13, what, case.ratio, 0.95, 0.99)
        };
        let measured = cases.iter().filter(|case| case.ratio.rounds > 0);
        let a_tunnel = |bytes: usize| bytes as f64 / f64::from(settings.tunnels.max(1));
        Self {
            goals: measured.map(goal).collect(),
            in_memory_changes: Figures {
                tunnels: settings.tunnels,
                demand: settings.demand,
                inner_len: settings.inner_len,
                bytes_a_tunnel: bytes.map(a_tunnel),
                cases,
            },
        }
    }

    /// Packets of tunnels that nobody touched, and that were not forwarded.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let cases = &self.in_memory_changes.cases;
        cases.iter().map(|case| case.lost).sum()
    }

    /// Messages of changes that reached the worker.
    #[cfg(test)]
    pub(super) fn changes_seen(&self) -> usize {
        let cases = &self.in_memory_changes.cases;
        cases.iter().map(|case| case.messages).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            tunnels,
            demand: Demand { per_second, batch },
            inner_len,
            bytes_a_tunnel: [before, after],
            cases,
        } = &self.in_memory_changes;
        writeln!(
            f,
            "{tunnels} tunnels, {per_second} changes/s in messages of {batch}, inner packets of {inner_len} \
             bytes; tables {before:.0} bytes a tunnel, {after:.0} after all changes"
        )?;
        for case in cases {
            case.line(f)?;
        }
        for goal in &self.goals {
            writeln!(f, "{goal}")?;
        }
        writeln!(f, "packets of untouched tunnels lost: {}", self.lost())
    }
}

impl Case {
    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, longest] = self.latency_us;
        let [with, without] = self.longest_batch_us;
        let [applying, publishing, freeing] = self.changer_share.map(|share| share.median * 100.0);
        writeln!(
            f,
            "{}: {:.2} Mpps with changes, {:.2} without, ratio {:.3} ({:.3} to {:.3}) of {} rounds",
            self.direction,
            self.changing_mpps.median,
            self.quiet_mpps.median,
            self.ratio.median,
            self.ratio.lower_quartile,
            self.ratio.upper_quartile,
            self.ratio.rounds,
        )?;
        writeln!(
            f,
            "    until the worker has a change: p50 {p50:.0} p99 {p99:.0} longest {longest:.0} µs; longest \
             batch {:.0} µs with changes, {:.0} without",
            with.median, without.median
        )?;
        writeln!(
            f,
            "    the other CPU: {applying:.1} % applies, {publishing:.1} % publishes, {freeing:.1} % frees; \
             {:.3} of the changes made",
            self.reached.median
        )?;
        if self.rejected > 0 {
            writeln!(
                f,
                "    {} rounds do not count: changes or worker fell behind (smallest share of the changes \
                 {:.3}, of the worker's CPU {:.2})",
                self.rejected, self.reached.min, self.share.min
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ratio: f64, reached: f64, share: f64) -> Round {
        let stretch = |packets| Stretch {
            packets,
            busy: Duration::from_secs(1),
            on_cpu: Duration::from_secs_f64(share),
            took: Duration::from_secs(1),
            ..Stretch::default()
        };
        let done = Done {
            changes: (reached * 1000.0) as u64,
            wanted: 1000,
            took: Duration::from_secs(1),
            ..Done::default()
        };
        let mut round = Round::default();
        for _ in 0..2 {
            round.changing(stretch((ratio * 1e6) as u64), &done, &[]);
            round.quiet(stretch(1_000_000));
        }
        round
    }

    #[test]
    fn a_message_is_there_when_tables_of_its_generation_or_later_ones_are() {
        let ms = Duration::from_millis;
        let message = |due, generation| Message {
            due: ms(due),
            generation,
        };
        let adoption = |generation, at| Adoption {
            generation,
            at: ms(at),
        };
        // 3 was overtaken by 4; nobody looked when 6 came
        let found = latencies(
            &[message(1, 2), message(2, 3), message(4, 4), message(9, 6)],
            &[
                adoption(1, 0),
                adoption(2, 3),
                adoption(4, 8),
                adoption(5, 9),
            ],
        );
        assert_eq!(found, [ms(2), ms(6), ms(4)]);
    }

    #[test]
    fn rounds_without_the_changes_or_the_cpu_do_not_count() {
        let rounds = [
            round(0.97, 1.0, 1.0),
            round(0.98, 0.99, 0.99),
            round(0.99, 1.0, 0.99),
            round(2.0, 0.5, 1.0),
            round(3.0, 1.0, 0.5),
        ];
        let case = Case::new(Direction::Decap, &rounds);
        assert_eq!((case.rejected, case.ratio.rounds), (2, 3));
        assert!((case.ratio.median - 0.98).abs() < 1e-9);
        assert!((case.reached.min - 0.5).abs() < 1e-9);
    }
}
