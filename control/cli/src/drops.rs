//! `sixferry drops`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use sixferry_client::api;

use crate::args::Global;
use crate::error::CliError;
use crate::json::counters::Report;
use crate::json::{DropCount, PacketsBytes};
use crate::output::{Column, Interrupt, Screen, Table};
use crate::{output, parse, units};

#[derive(Args, Debug)]
pub(crate) struct DropsArgs {
    /// Go on and show rates; ends with Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Time between two looks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse::duration,
        requires = "watch")]
    interval: Duration,
    /// Also reasons that never occurred.
    #[arg(long)]
    all: bool,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    count: DropCount,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_per_second: Option<f64>,
    text: String,
}

/// The answer of the command.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Drops {
    time: Option<String>,
    received: PacketsBytes,
    dropped: PacketsBytes,
    drops: Vec<Row>,
}

/// Packets dropped, by reason.
type Sums = BTreeMap<String, PacketsBytes>;

/// Reason texts, by the number of the reason.
struct Reasons {
    order: Vec<String>,
    text: HashMap<String, String>,
}

impl From<api::ListDropReasonsResponse> for Reasons {
    fn from(answer: api::ListDropReasonsResponse) -> Self {
        let order = answer.reasons.iter().map(|r| r.name.clone()).collect();
        let text = answer.reasons.into_iter().map(|r| (r.name, r.text));
        Self {
            order,
            text: text.collect(),
        }
    }
}

pub(crate) async fn run(global: &Global, args: DropsArgs) -> Result<(), CliError> {
    let client = global.connect().await?;
    let reasons = Reasons::from(client.drop_reasons().await?);
    let selection = api::CounterSelection::default();
    if !args.watch {
        let report = Report::new(client.counters(selection).await?, false);
        let drops = Drops::new(report, &reasons, args.all, None);
        if global.json {
            return output::json(&drops);
        }
        return output::line(&table(&drops, output::terminal().map(|t| t.0)));
    }
    let mut stream = client.stream_counters(selection, args.interval).await?;
    let mut screen = Screen::default();
    let mut before: Option<(Sums, std::time::Instant)> = None;
    let mut stop = Interrupt::install()?;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = stop.wait() => return Ok(()),
        };
        let Some(answer) = message.map_err(|s| CliError::Failed(s.message().to_owned()))? else {
            return Err(CliError::Failed(
                "the dataplane ended the stream".to_owned(),
            ));
        };
        let now = std::time::Instant::now();
        let report = Report::new(answer.report.unwrap_or_default(), false);
        let sums = report.drops();
        let since = before.map(|(then, at)| (then, now.duration_since(at)));
        let drops = Drops::new(report, &reasons, args.all, since);
        before = Some((sums, now));
        if global.json {
            output::json_line(&drops)?;
        } else {
            screen.draw(&table(&drops, None))?;
        }
    }
}

impl Drops {
    fn new(report: Report, reasons: &Reasons, all: bool, since: Option<(Sums, Duration)>) -> Self {
        let now = report.drops();
        let mut drops = Vec::new();
        // A reason this dataplane counts but does not explain is shown all the same.
        let unexplained = now.keys().filter(|r| !reasons.text.contains_key(*r));
        let names: Vec<&String> = reasons.order.iter().chain(unexplained).collect();
        for name in names {
            let count = now.get(name).copied().unwrap_or_default();
            if count.packets == 0 && !all {
                continue;
            }
            let rate = since.as_ref().map(|(then, elapsed)| {
                let then = then.get(name).map_or(0, |count| count.packets);
                count.packets.saturating_sub(then) as f64 / elapsed.as_secs_f64().max(1e-3)
            });
            drops.push(Row {
                count: DropCount {
                    reason: name.clone(),
                    count,
                },
                packets_per_second: rate,
                text: reasons.text.get(name).cloned().unwrap_or_default(),
            });
        }
        drops.sort_by_key(|row| std::cmp::Reverse(row.count.count.packets));
        Self {
            time: report.time,
            received: report.total.received,
            dropped: now
                .values()
                .fold(PacketsBytes::default(), |sum, count| PacketsBytes {
                    packets: sum.packets + count.packets,
                    bytes: sum.bytes + count.bytes,
                }),
            drops,
        }
    }
}

fn table(drops: &Drops, width: Option<u16>) -> String {
    let mut text = format!(
        "{} of {} packets dropped\n",
        units::count(drops.dropped.packets),
        units::count(drops.received.packets)
    );
    if drops.drops.is_empty() {
        return text;
    }
    let with_rate = drops.drops.iter().any(|r| r.packets_per_second.is_some());
    let mut columns = vec![
        Column::Left("REASON"),
        Column::Right("PACKETS"),
        Column::Right("BYTES"),
    ];
    if with_rate {
        columns.push(Column::Right("PER S"));
    }
    columns.push(Column::Left("MEANING"));
    let mut table = Table::new(&columns).wrap(width);
    for row in &drops.drops {
        let mut cells = vec![
            row.count.reason.clone(),
            units::count(row.count.count.packets),
            units::bytes(row.count.count.bytes),
        ];
        if with_rate {
            cells.push(units::rate(row.packets_per_second.unwrap_or_default()));
        }
        cells.push(row.text.clone());
        table.row(cells);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons() -> Reasons {
        let reason = |number, name: &str, text: &str| api::DropReason {
            name: name.into(),
            label: name.to_lowercase(),
            number,
            text: text.into(),
        };
        Reasons::from(api::ListDropReasonsResponse {
            reasons: vec![
                reason(0, "V4_TRUNCATED", "shorter than an IPv4 header"),
                reason(1, "NO_TUNNEL", "no tunnel has these outer addresses"),
            ],
            ..Default::default()
        })
    }

    fn report(no_tunnel: u64) -> Report {
        let drop = |reason: &str, packets| api::DropCount {
            reason: reason.into(),
            count: Some(api::PacketsBytes {
                packets,
                bytes: packets * 100,
            }),
        };
        let total = api::WorkerCounters {
            received: Some(api::PacketsBytes {
                packets: 50_000,
                bytes: 5_000_000,
            }),
            drops: vec![drop("NO_TUNNEL", no_tunnel - 100)],
            ..Default::default()
        };
        let slow_path = api::SlowPathCounters {
            drops: vec![drop("NO_TUNNEL", 100), drop("NEW_REASON", 1)],
            ..Default::default()
        };
        let report = api::CounterReport {
            total: Some(total),
            slow_path: Some(slow_path),
            ..Default::default()
        };
        Report::new(report, false)
    }

    #[test]
    fn the_table_has_the_largest_first_and_explains() {
        let drops = Drops::new(report(300), &reasons(), false, None);
        assert_eq!(
            table(&drops, None),
            "\
301 of 50.0k packets dropped

REASON      PACKETS    BYTES  MEANING
NO_TUNNEL       300  30.0 kB  no tunnel has these outer addresses
NEW_REASON        1    100 B
"
        );
    }

    #[test]
    fn watching_shows_rates() {
        let before = (report(300).drops(), Duration::from_secs(2));
        let drops = Drops::new(report(1300), &reasons(), true, Some(before));
        let rates: Vec<_> = drops.drops.iter().map(|r| r.packets_per_second).collect();
        assert_eq!(rates, [Some(500.0), Some(0.0), Some(0.0)]);
        assert!(table(&drops, None).contains("PER S"));
    }

    #[test]
    fn the_shape_is_stable() {
        let drops = Drops::new(report(300), &reasons(), false, None);
        let value = serde_json::to_value(&drops).unwrap();
        assert_eq!(
            value["drops"][0].to_string(),
            r#"{"bytes":30000,"packets":300,"reason":"NO_TUNNEL","text":"no tunnel has these outer addresses"}"#
        );
        assert_eq!(value["dropped"]["packets"], 301);
    }

    #[test]
    fn nothing_dropped_is_one_line() {
        let empty = Drops::new(Report::default(), &reasons(), false, None);
        assert_eq!(table(&empty, None), "0 of 0 packets dropped\n");
    }
}
