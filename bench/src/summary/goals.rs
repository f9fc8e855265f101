//! The performance goals, and which of them the figures of a run meet.

use super::figures::Figures;
use serde::Serialize;

/// How far a figure gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As good as hoped.
    Aim,
    /// Good enough.
    Must,
    /// Not good enough.
    Missed,
    /// Nobody knows.
    NotMeasured,
}

impl Verdict {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Aim => "met (aim)",
            Self::Must => "met (must)",
            Self::Missed => "**missed**",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A goal and what the run says about it.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// Number in the list of all goals.
    pub number: u8,
    /// What is measured.
    pub what: String,
    /// Whether less is better.
    pub at_most: bool,
    /// What it must be.
    pub must: f64,
    /// What it had better be.
    pub aim: f64,
    /// The figure: a median, if there were rounds.
    pub figure: Option<f64>,
    /// Its quartiles.
    pub quartiles: Option<[f64; 2]>,
    /// Which limit it meets.
    pub verdict: Verdict,
    /// Why there is no figure, or what else belongs to it.
    pub note: String,
}

/// A figure of the run: median and quartiles over rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) quartiles: Option<[f64; 2]>,
    /// Sound rounds behind it, if it is of rounds.
    pub(super) rounds: Option<u64>,
}

/// Fewer sound rounds than this prove nothing: those that were rejected may be those that differ.
const ROUNDS_MIN: u64 = 3;

/// Where the figure of a goal is.
enum Source {
    /// The ratio of two tests within a round.
    Ratio(&'static str, &'static str),
    /// A field of the timing part, and the one that stands beside it.
    Timing(&'static str, Option<(&'static str, &'static str)>),
    /// Frames lost during re-syncs and changes.
    Lost,
    /// Some program has judged it: these files have a list of goals.
    Judged(&'static str),
    /// The same, beside what the yardstick loses.
    Degradation,
    /// It cannot be measured here.
    Nowhere(&'static str),
}

struct Wanted {
    number: u8,
    what: &'static str,
    at_most: bool,
    must: f64,
    aim: f64,
    source: Source,
}

const fn at_least(number: u8, what: &'static str, limits: [f64; 2], source: Source) -> Wanted {
    let [must, aim] = limits;
    Wanted {
        number,
        what,
        at_most: false,
        must,
        aim,
        source,
    }
}

const fn at_most(number: u8, what: &'static str, limits: [f64; 2], source: Source) -> Wanted {
    Wanted {
        at_most: true,
        ..at_least(number, what, limits, source)
    }
}

const IN_MEMORY: &str = "by sixferry-bench-ratio";

const WANTED: [Wanted; 18] = [
    at_least(
        1,
        "6in4 decap, 1 tunnel / reference",
        [0.95, 0.98],
        Source::Ratio("decap", "ref-decap"),
    ),
    at_least(
        2,
        "6in4 decap, 2^20 tunnels, random sources / reference",
        [0.90, 0.95],
        Source::Ratio("decap-many", "ref-decap"),
    ),
    at_least(
        3,
        "encap, 220,000 routes / reference",
        [0.90, 0.95],
        Source::Ratio("encap-routes", "ref-encap"),
    ),
    at_least(
        4,
        "decap of IPv6 in UDP / own 6in4 decap",
        [0.90, 0.95],
        Source::Ratio("decap-udp", "decap"),
    ),
    at_least(
        5,
        "decap / DPDK testpmd with its AF_XDP driver",
        [0.90, 1.0],
        Source::Ratio("decap", "testpmd"),
    ),
    at_least(
        6,
        "decap / Linux IPv6 forwarding on a CPU of its own",
        [0.75, 0.85],
        Source::Ratio("decap", "forwarding"),
    ),
    at_most(
        7,
        "decap in memory, time / yardstick",
        [1.5, 1.1],
        Source::Judged(IN_MEMORY),
    ),
    at_most(
        8,
        "encap in memory, 220,000 routes, time / yardstick",
        [1.5, 1.1],
        Source::Judged(IN_MEMORY),
    ),
    at_most(
        9,
        "degradation in memory from 1 to 1M scattered tunnels, %",
        [65.0, 55.0],
        Source::Degradation,
    ),
    at_least(
        10,
        "loss-free rate / flat-out rate",
        [0.95, 0.99],
        Source::Timing(
            "/loss_free",
            Some(("the reference worker", "/reference_loss_free")),
        ),
    ),
    at_most(
        11,
        "idle echo round trip, p50 / reference",
        [1.5, 1.2],
        Source::Timing("/echo_ratios/0", None),
    ),
    at_most(
        12,
        "one-way delay p99.9 at half rate / reference",
        [2.0, 1.3],
        Source::Timing("/delay_ratios/2", None),
    ),
    at_least(
        13,
        "rate while 10,000 tunnels change each second / without",
        [0.95, 0.99],
        Source::Judged("by sixferry-bench-changes"),
    ),
    at_most(
        14,
        "frames lost by untouched tunnels during re-syncs and 10,000 changes/s",
        [0.0, 0.0],
        Source::Lost,
    ),
    at_least(
        15,
        "reception through the steering program / without parsing",
        [0.90, 0.97],
        Source::Ratio("rxdrop", "rxdrop-bare"),
    ),
    at_most(
        16,
        "bytes of tables a tunnel",
        [256.0, 128.0],
        Source::Judged(IN_MEMORY),
    ),
    at_least(
        17,
        "two workers on two queues and two CPUs / one",
        [1.8, 1.95],
        Source::Nowhere("needs four CPUs and a NIC with two queues"),
    ),
    at_least(
        18,
        "6in4 decap, 1M tunnels, zero-copy NIC, Mpps",
        [6.0, 8.0],
        Source::Nowhere("needs a NIC with zero-copy"),
    ),
];

/// All goals with what the figures say.
#[must_use]
pub fn judge(figures: &Figures) -> Vec<Goal> {
    WANTED
        .iter()
        .flat_map(|wanted| wanted.judge(figures))
        .collect()
}

impl Wanted {
    fn judge(&self, figures: &Figures) -> Vec<Goal> {
        let one = |spread: Option<Spread>, note: String| vec![self.goal(spread, note)];
        match self.source {
            Source::Ratio(test, yardstick) => {
                let spread = figures.ratio(test, yardstick);
                let why = figures.why_not(test).or_else(|| figures.why_not(yardstick));
                one(spread, why.unwrap_or_default())
            }
            Source::Timing(field, beside) => {
                let note = beside.and_then(|(name, field)| {
                    let spread = figures.timing(field)?;
                    Some(format!("{name}: {:.2}", spread.median))
                });
                one(figures.timing(field), note.unwrap_or_default())
            }
            Source::Lost => one(figures.lost(), String::new()),
            Source::Nowhere(why) => one(None, why.to_owned()),
            Source::Judged(by) => self.judged(figures, by, ""),
            Source::Degradation => {
                let beside = figures.degradation_of_yardstick();
                let note = beside.map(|lost| format!("the yardstick, from its medians: {lost:.1}"));
                self.judged(figures, IN_MEMORY, &note.unwrap_or_default())
            }
        }
    }

    /// What the bench itself has judged, which may be several goals.
    fn judged(&self, figures: &Figures, by: &str, note: &str) -> Vec<Goal> {
        let found = figures.judged(self.number);
        if found.is_empty() {
            return vec![self.goal(None, format!("{by}: not in these files"))];
        }
        let goal = |(what, spread): (String, Spread)| Goal {
            what,
            ..self.goal(Some(spread), note.to_owned())
        };
        found.into_iter().map(goal).collect()
    }

    fn goal(&self, spread: Option<Spread>, mut note: String) -> Goal {
        let rounds = spread.and_then(|spread| spread.rounds);
        let few = rounds.filter(|rounds| *rounds < ROUNDS_MIN);
        if let Some(rounds) = few {
            note = format!("only {rounds} sound rounds; {note}");
        }
        Goal {
            number: self.number,
            what: self.what.to_owned(),
            at_most: self.at_most,
            must: self.must,
            aim: self.aim,
            figure: spread.map(|spread| spread.median),
            quartiles: spread.and_then(|spread| spread.quartiles),
            verdict: match spread {
                Some(spread) if few.is_none() => self.verdict(spread.median),
                _ => Verdict::NotMeasured,
            },
            note,
        }
    }

    fn verdict(&self, figure: f64) -> Verdict {
        let meets = |limit: f64| {
            if self.at_most {
                figure <= limit
            } else {
                figure >= limit
            }
        };
        if meets(self.aim) {
            Verdict::Aim
        } else if meets(self.must) {
            Verdict::Must
        } else {
            // a figure that is no number has met nothing
            Verdict::Missed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_belong_to_what_meets_them() {
        let decap = |figure| WANTED[0].verdict(figure);
        assert_eq!(decap(0.98), Verdict::Aim);
        assert_eq!(decap(0.97), Verdict::Must);
        assert_eq!(decap(0.95), Verdict::Must);
        assert_eq!(decap(0.949), Verdict::Missed);
        assert_eq!(decap(f64::NAN), Verdict::Missed);
        let echo = |figure| WANTED[10].verdict(figure);
        assert_eq!(echo(1.2), Verdict::Aim);
        assert_eq!(echo(1.21), Verdict::Must);
        assert_eq!(echo(1.51), Verdict::Missed);
    }

    #[test]
    fn goals_are_numbered_and_one_without_figures_is_not_met() {
        let goals = judge(&Figures::default());
        assert!(goals.iter().map(|goal| goal.number).eq(1..=18));
        let all = goals
            .iter()
            .all(|goal| goal.verdict == Verdict::NotMeasured);
        assert!(all);
    }

    #[test]
    fn figures_are_found_where_the_benches_put_them() {
        let summary = |median: f64| {
            json!({"median": median, "lower_quartile": median - 0.1,
                   "upper_quartile": median + 0.1, "rounds": 5})
        };
        let e2e = json!({
            "throughput": {
                "ratios": [
                    {"test": "decap", "yardstick": "ref-decap", "ratio": summary(0.96)},
                    {"test": "decap-many", "yardstick": "ref-decap",
                     "ratio": {"median": 0.99, "lower_quartile": 0.98, "upper_quartile": 1.0,
                               "rounds": 2}},
                    {"test": "decap", "yardstick": "testpmd",
                     "ratio": {"median": 0.0, "lower_quartile": 0.0, "upper_quartile": 0.0,
                               "rounds": 0}}
                ],
                "skipped": [{"name": "testpmd", "why": "not installed"}]
            },
            "timing": {"loss_free": summary(0.9), "reference_loss_free": summary(0.8)},
            "resync": {"lost": 0}
        });
        let memory = json!({"goals": [
            {"number": 7, "what": "one tunnel", "figure": 1.2},
            {"number": 7, "what": "a million", "figure": 1.6},
            {"number": 9, "what": "decap", "figure": 61.0},
            {"number": 13, "what": "decap", "figure": 0.96, "spread": summary(0.96)}
        ], "cases": [
            {"name": "decap one tunnel", "yardstick_nanoseconds": summary(15.0)},
            {"name": "decap scattered", "yardstick_nanoseconds": summary(40.0)}
        ]});
        let goals = judge(&Figures::new(vec![e2e, memory]));
        let of = |number| goals.iter().filter(move |goal| goal.number == number);
        let verdicts = |number| of(number).map(|goal| goal.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(1), [Verdict::Must]);
        assert_eq!(verdicts(2), [Verdict::NotMeasured], "too few rounds");
        assert_eq!(verdicts(5), [Verdict::NotMeasured]);
        assert_eq!(
            of(5).next().map(|goal| goal.note.as_str()),
            Some("not installed")
        );
        assert_eq!(verdicts(7), [Verdict::Must, Verdict::Missed]);
        let changes = of(13).map(|goal| (goal.verdict, goal.quartiles.is_some()));
        assert!(changes.eq([(Verdict::Must, true)]));
        assert_eq!(verdicts(10), [Verdict::Missed]);
        let note = of(10).next().map(|goal| goal.note.as_str());
        assert_eq!(note, Some("the reference worker: 0.80"));
        let note = of(9).next().map(|goal| goal.note.as_str());
        assert_eq!(note, Some("the yardstick, from its medians: 62.5"));
        assert_eq!(verdicts(14), [Verdict::Aim]);
        let changes = json!({"resync": {"lost": 0}, "changes": {"lost": 2}});
        let goals = judge(&Figures::new(vec![changes]));
        let lost = goals.iter().find(|goal| goal.number == 14);
        let lost = lost.map(|goal| (goal.figure, goal.verdict));
        assert_eq!(lost, Some((Some(2.0), Verdict::Missed)));
    }
}
