//! The part of the README that `make bench` measures.

use super::Summary;
use super::figures::Figures;
use super::goals::{Goal, Verdict};
use super::markdown::{LIMITS, line, machine};
use crate::error::{Context, Error};
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

/// What is met in a sentence, what is not in a list.
fn goals(out: &mut String, goals: &[Goal]) {
    let numbers = |verdict| {
        let mut numbers: Vec<u8> = goals
            .iter()
            .filter(|goal| goal.verdict == verdict)
            .map(|goal| goal.number)
            .collect();
        numbers.dedup();
        let texts: Vec<String> = numbers.iter().map(u8::to_string).collect();
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(", ")
        }
    };
    line(
        out,
        format_args!(
            "\nGoals (numbers as in the report): met as hoped: {}; met: {}; missed: {}; not measurable here: {}.",
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
        }})]);
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
        assert!(text.contains("missed: 1;"), "{text}");
        assert!(text.contains("0.50, must be at least 0.95"), "{text}");
    }
}
