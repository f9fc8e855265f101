//! The part of the README that `make bench` measures.

use super::Summary;
use super::figures::Figures;
use super::goals::{Goal, Verdict};
use super::markdown::{LIMITS, line, machine};
use crate::error::{Context, Error};
use std::collections::BTreeMap;
use std::path::Path;

/// What stands between these two lines is written by the program and by nobody else.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// The tests that the README shows, with the yardstick that each is a ratio to.
const ROWS: [(&str, &str, Option<&str>); 9] = [
    ("6in4 out of 1 tunnel", "decap", Some("ref-decap")),
    (
        "6in4 out of 2^20 tunnels, at random",
        "decap-many",
        Some("ref-decap"),
    ),
    ("IPv6 in UDP out of 1 tunnel", "decap-udp", Some("decap")),
    ("6in4 into 1 tunnel", "encap", Some("ref-encap")),
    ("6in4 by 220,000 routes", "encap-routes", Some("ref-encap")),
    (
        "6in4 into 2^20 tunnels, at random",
        "encap-many",
        Some("ref-encap"),
    ),
    (
        "AF_XDP worker that strips a header, no lookup",
        "ref-decap",
        None,
    ),
    ("DPDK testpmd, AF_XDP driver, no work", "testpmd", None),
    ("Linux forwards plain IPv6, no tunnel", "forwarding", None),
];

/// `text` with the measured part replaced.
///
/// # Errors
/// When there is no such part.
pub(super) fn replace(text: &str, measured: &str) -> Result<String, Error> {
    let parts = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts
        .ok_or_else(|| format!("no lines {BEGIN} and {END}"))
        .during("the measured part")?;
    Ok(format!("{before}{BEGIN}\n{measured}{END}{after}"))
}

/// The measured part; the report and its plots lie in `directory`, as seen from the README.
pub(super) fn text(summary: &Summary, figures: &Figures, directory: &Path) -> String {
    let directory = directory.display();
    let mut out = String::new();
    line(
        &mut out,
        format_args!(
            "Measured by `make bench` on {}. Medians of {} rounds that ran every test once; ratios are taken \
             within a round. [The whole report]({directory}/report.md) has quartiles, delays and each goal.\n",
            machine(summary, figures),
            figures.text("/throughput/rounds"),
        ),
    );
    rows(&mut out, figures);
    line(
        &mut out,
        format_args!("\n![Million packets a second]({directory}/rates.svg)\n"),
    );
    memory(&mut out, figures);
    out.push_str(LIMITS);
    goals(&mut out, &summary.goals);
    out
}

fn rows(out: &mut String, figures: &Figures) {
    line(
        out,
        format_args!(
            "| frames of {} bytes | Mpps | ratio to |\n|---|---|---|",
            figures.text("/throughput/frame_len")
        ),
    );
    let rates = figures.rates();
    for (text, test, yardstick) in ROWS {
        let Some(rate) = rates.iter().find(|rate| rate.name == test) else {
            continue;
        };
        let ratio = yardstick.and_then(|yardstick| {
            let spread = figures.ratio(test, yardstick)?;
            Some(format!("{:.2} of `{yardstick}`", spread.median))
        });
        line(
            out,
            format_args!(
                "| {text} (`{test}`) | {:.2} | {} |",
                rate.mpps.median,
                ratio.unwrap_or_default()
            ),
        );
    }
}

/// What a packet costs without I/O.
fn memory(out: &mut String, figures: &Figures) {
    let cases = figures.memory();
    let of = |name: &str| {
        let case = cases.iter().find(|case| case.name == name)?;
        let (time, ratio) = (case.nanoseconds.median, case.to_yardstick.median);
        Some(format!("{time:.0} ns ({ratio:.2} of the yardstick)"))
    };
    let texts = [
        ("out of one tunnel", "decap one tunnel"),
        (
            "out of a million scattered over the address space",
            "decap scattered",
        ),
        ("by 220,000 routes into tunnels", "encap routes"),
    ];
    let known = texts.map(|(text, name)| of(name).map(|figure| format!("{text} {figure}")));
    let known: Vec<String> = known.into_iter().flatten().collect();
    if !known.is_empty() {
        let list = known.join(", ");
        line(
            out,
            format_args!("In memory, on one core, a packet takes {list}.\n"),
        );
    }
}

/// What is met in a sentence, what is not in a list. A goal of several parts is what its worst part is.
fn goals(out: &mut String, goals: &[Goal]) {
    const BEST_FIRST: [Verdict; 4] = [
        Verdict::Aim,
        Verdict::Must,
        Verdict::Missed,
        Verdict::NotMeasured,
    ];
    let rank = |goal: &Goal| {
        BEST_FIRST
            .iter()
            .position(|verdict| *verdict == goal.verdict)
    };
    let mut worst = BTreeMap::new();
    for goal in goals {
        let own = worst.entry(goal.number).or_insert(None);
        *own = (*own).max(rank(goal));
    }
    let numbers = |verdict| {
        let at = BEST_FIRST.iter().position(|other| *other == verdict);
        let own = worst.iter().filter(|(_, rank)| **rank == at);
        let texts: Vec<String> = own.map(|(number, _)| number.to_string()).collect();
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(", ")
        }
    };
    line(
        out,
        format_args!(
            "\nGoals (numbers as in the report): met as hoped: {}; met: {}; missed: {}; not measured: {}.",
            numbers(Verdict::Aim),
            numbers(Verdict::Must),
            numbers(Verdict::Missed),
            numbers(Verdict::NotMeasured),
        ),
    );
    for goal in goals.iter().filter(|goal| goal.verdict == Verdict::Missed) {
        let sign = if goal.at_most { "at most" } else { "at least" };
        line(
            out,
            format_args!(
                "- missed: {}: {:.2}, must be {sign} {}",
                goal.what,
                goal.figure.unwrap_or_default(),
                goal.must
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_between_the_lines_changes() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replace(&text, "new\n").expect("both lines");
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replace(&new, "new\n").expect("both lines"), new);
        assert!(replace("a\nb\n", "new").is_err());
        assert!(replace(&format!("{END}{BEGIN}"), "new").is_err());
    }

    #[test]
    fn a_test_that_was_not_run_has_no_row_and_a_missed_goal_is_named() {
        let summary = |median: f64| {
            json!({"median": median, "lower_quartile": median, "upper_quartile": median,
                   "rounds": 5})
        };
        let figures = Figures::new(vec![json!({"throughput": {
            "rounds": 5, "frame_len": 82,
            "tests": [{"name": "decap", "text": "", "mpps": summary(0.5)},
                      {"name": "ref-decap", "text": "", "mpps": summary(1.0)}],
            "ratios": [{"test": "decap", "yardstick": "ref-decap", "ratio": summary(0.5)}]
        }, "cases": [
            {"name": "decap one tunnel", "nanoseconds": summary(28.4),
             "ratio_to_yardstick": summary(1.25)}
        ], "goals": [
            {"number": 7, "what": "one tunnel", "figure": 1.25},
            {"number": 7, "what": "a million", "figure": 1.6}
        ]})]);
        let text = text(
            &Summary::new(&figures),
            &figures,
            Path::new("docs/measured"),
        );
        assert!(
            text.contains("(`decap`) | 0.50 | 0.50 of `ref-decap` |"),
            "{text}"
        );
        assert!(text.contains("docs/measured/rates.svg"));
        assert!(!text.contains("testpmd`"), "{text}");
        assert!(text.contains("missed: 1, 7;"), "{text}");
        assert!(
            text.contains("takes out of one tunnel 28 ns (1.25 of the yardstick).\n"),
            "{text}"
        );
        assert!(!text.contains("220,000 routes into tunnels"), "{text}");
        assert!(text.contains("0.50, must be at least 0.95"), "{text}");
    }
}
