//! The report for people.

use super::Summary;
use super::figures::Figures;
use super::goals::{Goal, Spread};
use std::fmt::Write;

/// What veth in copy mode hides, said in every report.
pub(super) const LIMITS: &str = "\
Both ends, the wire and the relay are on one host, joined by veth, where AF_XDP copies every frame and a \
transmit call costs more than a microsecond whatever the relay does. So these figures tell how little a \
relay adds to bare AF_XDP here, not how fast it is on a NIC with zero-copy, and the kernel's own forwarding, \
which copies nothing, is faster on veth than any AF_XDP program. Compare ratios, which are of tests of the \
same round, and no absolute values of different runs or machines.\n";

/// The whole report; `plots` are the names of image files beside it.
pub(super) fn text(summary: &Summary, figures: &Figures, plots: &[&str]) -> String {
    let mut out = String::from("# Benchmark report\n\n");
    environment(&mut out, summary, figures);
    out.push_str(LIMITS);
    goals(&mut out, &summary.goals);
    for plot in plots {
        let name = plot.trim_end_matches(".svg");
        line(&mut out, format_args!("\n![{name}]({plot})"));
    }
    rates(&mut out, figures);
    ratios(&mut out, figures);
    timing(&mut out, figures);
    memory(&mut out, figures);
    resync(&mut out, figures);
    at_scale(&mut out, figures);
    out
}

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String does not fail
    _ = writeln!(out, "{text}");
}

/// Date, commit, kernel, CPUs and load.
pub(super) fn machine(summary: &Summary, figures: &Figures) -> String {
    let machine = &summary.environment;
    let commit = match machine.commit.as_str() {
        "" => "unknown",
        commit => commit,
    };
    format!(
        "{}: commit {commit}, Linux {}, {} CPUs ({}), load average {} before and {} after",
        machine.date,
        machine.kernel,
        machine.cpus,
        machine.cpu,
        machine.load,
        figures.text("/load_after"),
    )
}

fn environment(out: &mut String, summary: &Summary, figures: &Figures) {
    line(
        out,
        format_args!(
            "{}. `make bench`; `bench/README.md` says what the tests are.\n",
            machine(summary, figures)
        ),
    );
}

fn quartiles(spread: Option<[f64; 2]>) -> String {
    spread.map_or_else(String::new, |[low, high]| {
        format!(" ({low:.2} to {high:.2})")
    })
}

fn goals(out: &mut String, goals: &[Goal]) {
    out.push_str("\n## Goals\n\n| # | what | must | aim | figure (quartiles) | |\n|---|---|---|---|---|---|\n");
    for goal in goals {
        let sign = if goal.at_most { "≤" } else { "≥" };
        let figure = goal.figure.map_or_else(String::new, |figure| {
            format!("{figure:.2}{}", quartiles(goal.quartiles))
        });
        let note = match goal.note.as_str() {
            "" => String::new(),
            note => format!("; {note}"),
        };
        line(
            out,
            format_args!(
                "| {} | {} | {sign} {} | {sign} {} | {figure} | {}{note} |",
                goal.number,
                goal.what,
                goal.must,
                goal.aim,
                goal.verdict.text(),
            ),
        );
    }
}

fn rates(out: &mut String, figures: &Figures) {
    let rates = figures.rates();
    if rates.is_empty() {
        return;
    }
    line(
        out,
        format_args!(
            "\n## Rates\n\nMillion packets a second, {} rounds, frames of {} bytes without FCS (before the \
             relay); {} trials in which generator or worker lacked CPU time are left out.\n\n\
             | test | median (quartiles) | what |\n|---|---|---|",
            figures.text("/throughput/rounds"),
            figures.text("/throughput/frame_len"),
            figures.text("/throughput/rejected"),
        ),
    );
    for rate in rates {
        let Spread {
            median,
            quartiles: spread,
            ..
        } = rate.mpps;
        let (name, text) = (rate.name, rate.text);
        line(
            out,
            format_args!("| `{name}` | {median:.3}{} | {text} |", quartiles(spread)),
        );
    }
}

fn ratios(out: &mut String, figures: &Figures) {
    let ratios = figures.ratios();
    if ratios.is_empty() {
        return;
    }
    out.push_str("\n| ratio within a round | median (quartiles) |\n|---|---|\n");
    for (pair, spread) in ratios {
        let (median, spread) = (spread.median, quartiles(spread.quartiles));
        line(out, format_args!("| {pair} | {median:.2}{spread} |"));
    }
}

fn timing(out: &mut String, figures: &Figures) {
    let rows = [
        (
            "loss-free / flat-out rate",
            "/loss_free",
            "/reference_loss_free",
        ),
        (
            "one-way delay at half rate, p50, µs",
            "/delays/0/0",
            "/delays/1/0",
        ),
        ("p99", "/delays/0/1", "/delays/1/1"),
        ("p99.9", "/delays/0/2", "/delays/1/2"),
        ("idle round trip, p50, µs", "/echoes/0/0", "/echoes/1/0"),
        ("p99", "/echoes/0/1", "/echoes/1/1"),
    ];
    if figures.timing(rows[0].1).is_none() {
        return;
    }
    out.push_str("\n## Loss and delay\n\n| | relay | reference worker |\n|---|---|---|\n");
    let cell = |field: &str| {
        figures.timing(field).map_or_else(String::new, |spread| {
            format!("{:.2}{}", spread.median, quartiles(spread.quartiles))
        })
    };
    for (what, own, reference) in rows {
        let (own, reference) = (cell(own), cell(reference));
        line(out, format_args!("| {what} | {own} | {reference} |"));
    }
}

/// What a packet costs without I/O.
pub(super) fn memory(out: &mut String, figures: &Figures) {
    let cases = figures.memory();
    if cases.is_empty() {
        return;
    }
    out.push_str(
        "\n## In memory\n\n`process` alone on one core, packets of 64 bytes for random tunnels; the yardstick does only \
         what no relay can do without.\n\n| | ns a packet (quartiles) | of the yardstick's time |\n|---|---|---|\n",
    );
    for case in cases {
        let (name, spread) = (case.name, case.nanoseconds);
        let (median, spread) = (spread.median, quartiles(spread.quartiles));
        let ratio = case.to_yardstick.median;
        line(
            out,
            format_args!("| {name} | {median:.1}{spread} | {ratio:.2} |"),
        );
    }
}

fn resync(out: &mut String, figures: &Figures) {
    if figures.found("/resync/lost").is_none() {
        return;
    }
    line(
        out,
        format_args!(
            "\n## Control process under traffic\n\n{} tunnels loaded over gRPC in {:.1} s, {:.0} MiB \
             resident. While control processes were killed and re-synced all tunnels, with traffic of {:.3} \
             Mpps: {} packets lost in the last attempt of each event; {} of {} in all, with those that were \
             repeated.",
            figures.text("/resync/tunnels"),
            figures.number("/resync/load_seconds"),
            figures.number("/resync/resident_loaded_mib"),
            figures.number("/resync/asked_mpps"),
            figures.text("/resync/lost"),
            figures.text("/resync/lost_in_all"),
            figures.text("/resync/packets_in_all"),
        ),
    );
}

/// What programming takes: what it is, its unit, where its figures are.
const AT_SCALE: [(&str, &str, &[&str]); 13] = [
    ("all tunnels loaded", "s", &["/changes/load_seconds"]),
    ("all replaced", "s", &["/changes/replace_seconds"]),
    (
        "all confirmed, none changed",
        "s",
        &["/changes/confirm_seconds"],
    ),
    (
        "resident memory of the daemon, for each tunnel",
        "bytes",
        &["/changes/resident_bytes_a_tunnel"],
    ),
    (
        "changes acknowledged, as many as go",
        "a second",
        &["/changes/fastest_per_second"],
    ),
    (
        "changes acknowledged under traffic, of 10,000",
        "a second",
        &["/changes/reached_per_second"],
    ),
    (
        "their acknowledgement, p50 / p99 / longest",
        "ms",
        &[
            "/changes/acknowledged_ms/0",
            "/changes/acknowledged_ms/1",
            "/changes/acknowledged_ms/2",
        ],
    ),
    (
        "frames of untouched tunnels lost meanwhile",
        "",
        &["/changes/lost"],
    ),
    (
        "call of the API to first packet, no other tunnels, p50 / p99 / longest",
        "ms",
        &[
            "/changes/first_packets/0/through_ms/0",
            "/changes/first_packets/0/through_ms/1",
            "/changes/first_packets/0/through_ms/2",
        ],
    ),
    (
        "call of the API to first packet, beside all tunnels, p50 / p99 / longest",
        "ms",
        &[
            "/changes/first_packets/1/through_ms/0",
            "/changes/first_packets/1/through_ms/1",
            "/changes/first_packets/1/through_ms/2",
        ],
    ),
    (
        "in memory: 10,000 changes/s, until the worker has one, p50 / p99",
        "µs",
        &[
            "/in_memory_changes/cases/0/latency_us/0",
            "/in_memory_changes/cases/0/latency_us/1",
        ],
    ),
    (
        "in memory, decap: longest batch of a round, with changes / without",
        "µs",
        &[
            "/in_memory_changes/cases/0/longest_batch_us/0/median",
            "/in_memory_changes/cases/0/longest_batch_us/1/median",
        ],
    ),
    (
        "in memory, encap: longest batch of a round, with changes / without",
        "µs",
        &[
            "/in_memory_changes/cases/1/longest_batch_us/0/median",
            "/in_memory_changes/cases/1/longest_batch_us/1/median",
        ],
    ),
];

fn at_scale(out: &mut String, figures: &Figures) {
    let row = |(what, unit, pointers): &(&'static str, &'static str, &[&str])| {
        let values = pointers.iter().map(|pointer| figures.found(pointer));
        let texts: Option<Vec<String>> = values.map(|value| value.map(short)).collect();
        Some((*what, format!("{} {unit}", texts?.join(" / "))))
    };
    let rows: Vec<(&str, String)> = AT_SCALE.iter().filter_map(row).collect();
    if rows.is_empty() {
        return;
    }
    let places = ["/changes/tunnels", "/in_memory_changes/tunnels"];
    let tunnels = places.iter().find_map(|place| figures.found(place));
    line(
        out,
        format_args!(
            "\n## Programming at scale\n\n{} tunnels. Generator, control process and the daemon's own \
             control threads share one CPU.\n\n| what | figure |\n|---|---|",
            tunnels.unwrap_or_default()
        ),
    );
    for (what, figure) in rows {
        line(out, format_args!("| {what} | {} |", figure.trim_end()));
    }
}

/// Three digits are enough for people.
fn short(value: f64) -> String {
    if value.abs() >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_measured_is_in_the_section_and_nothing_else() {
        let text = |value| {
            let mut out = String::new();
            at_scale(&mut out, &Figures::new(vec![value]));
            out
        };
        assert_eq!(text(json!({"resync": {"lost": 0}})), "");
        let all = text(json!({"changes": {
            "tunnels": 1_048_576, "load_seconds": 3.24, "lost": 0,
            "first_packets": [{"through_ms": [0.5, 1.25, 12.5]}]
        }}));
        assert!(all.contains("1048576 tunnels."), "{all}");
        assert!(all.contains("| all tunnels loaded | 3.24 s |"), "{all}");
        assert!(all.contains("lost meanwhile | 0 |"), "{all}");
        assert!(all.contains("| 0.50 / 1.25 / 12.5 ms |"), "{all}");
        assert!(!all.contains("replaced") && !all.contains("with all of them"));
    }
}
