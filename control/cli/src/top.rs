//! `sixferry top`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sixferry_client::api;

use crate::args::Global;
use crate::error::CliError;
use crate::json::counters::Report;
use crate::output::{Column, Interrupt, Screen, Table};
use crate::{output, parse, units};

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Measure once and end.
    #[arg(long)]
    once: bool,
    /// Time to measure over, 100ms to 10s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// How many tunnels, 1 to 100.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    count: u32,
    /// Busiest by what.
    #[arg(long, value_enum, default_value = "packets")]
    sort: Sort,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Packets per second, both directions.
    Packets,
    /// Bytes per second, both directions.
    Bytes,
    /// Drops per second.
    Drops,
}

fn interval(text: &str) -> Result<Duration, String> {
    let value = parse::duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(10)).contains(&value) {
        Ok(value)
    } else {
        Err("must be 100ms to 10s".to_owned())
    }
}

pub(crate) async fn run(global: &Global, args: TopArgs) -> Result<(), CliError> {
    let client = global.connect().await?;
    let order = match args.sort {
        Sort::Packets => api::TopOrder::Packets,
        Sort::Bytes => api::TopOrder::Bytes,
        Sort::Drops => api::TopOrder::Drops,
    };
    let window = api_duration(args.interval);
    let selection = api::CounterSelection {
        top: Some(api::TopTunnels {
            limit: args.count,
            order: order.into(),
            window: Some(window),
        }),
        ..Default::default()
    };
    if args.once {
        if args.interval >= global.timeout {
            let problem = "--interval must be shorter than --timeout".to_owned();
            return Err(CliError::Usage(problem));
        }
        let report = Report::new(client.counters(selection).await?, true);
        if global.json {
            return output::json(&report);
        }
        return output::line(&table(&report));
    }
    let mut stream = client.stream_counters(selection, args.interval).await?;
    let mut screen = Screen::default();
    let mut stop = Interrupt::install()?;
    // The first message has nothing to compare with.
    let mut first = true;
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
        let report = Report::new(answer.report.unwrap_or_default(), true);
        if global.json {
            output::json_line(&report)?;
        } else if first {
            screen.draw("measuring\n")?;
        } else {
            screen.draw(&table(&report))?;
        }
        first = false;
    }
}

fn api_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos() as i32,
    }
}

fn table(report: &Report) -> String {
    let tunnels = report.top_tunnels.as_deref().unwrap_or_default();
    let total = &report.total;
    let mut text = format!(
        "received {}  forwarded {}  answered {}  punted {}  dropped {}\n\n",
        units::count(total.received.packets),
        units::count(total.forwarded.packets),
        units::count(total.answered.packets),
        units::count(total.punted.packets),
        units::count(total.dropped().packets),
    );
    if tunnels.is_empty() {
        text.push_str("no tunnel carried a packet\n");
        return text;
    }
    let mut table = Table::new(&[
        Column::Left("TUNNEL"),
        Column::Left("OWNER"),
        Column::Right("IN pkt/s"),
        Column::Right("bit/s"),
        Column::Right("OUT pkt/s"),
        Column::Right("bit/s"),
        Column::Right("DROP/s"),
    ]);
    for tunnel in tunnels {
        table.row([
            tunnel.tunnel_id.clone(),
            tunnel.owner.clone(),
            units::rate(tunnel.received_packets_per_second),
            units::bits(tunnel.received_bytes_per_second),
            units::rate(tunnel.sent_packets_per_second),
            units::bits(tunnel.sent_bytes_per_second),
            units::rate(tunnel.dropped_packets_per_second),
        ]);
    }
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let packets = |packets| {
            Some(api::PacketsBytes {
                packets,
                bytes: packets * 100,
            })
        };
        let total = api::WorkerCounters {
            received: packets(1_000_000),
            forwarded: packets(999_000),
            ..Default::default()
        };
        let top = api::TopTunnelEntry {
            tunnel_id: "user-1".into(),
            owner: "dtcp".into(),
            received_packets_per_second: 12_345.6,
            received_bytes_per_second: 1_250_000.0,
            sent_packets_per_second: 7.25,
            sent_bytes_per_second: 725.0,
            ..Default::default()
        };
        let report = api::CounterReport {
            total: Some(total),
            top_tunnels: vec![top],
            ..Default::default()
        };
        Report::new(report, true)
    }

    #[test]
    fn the_table_fits_80_columns() {
        assert_eq!(
            table(&report()),
            "\
received 1.00M  forwarded 999k  answered 0  punted 0  dropped 0

TUNNEL  OWNER  IN pkt/s  bit/s  OUT pkt/s  bit/s  DROP/s
user-1  dtcp      12.3k  10.0M        7.2  5.80k       0
"
        );
    }

    #[test]
    fn idle_relays_say_so() {
        assert!(table(&Report::default()).ends_with("no tunnel carried a packet\n"));
    }

    #[test]
    fn the_shape_is_stable() {
        let value = serde_json::to_value(report()).unwrap();
        let keys: Vec<_> = value["topTunnels"][0].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "counters",
                "droppedPacketsPerSecond",
                "owner",
                "receivedBytesPerSecond",
                "receivedPacketsPerSecond",
                "sentBytesPerSecond",
                "sentPacketsPerSecond",
                "tunnelId"
            ]
        );
    }

    #[test]
    fn intervals_have_limits() {
        assert!(interval("99ms").is_err());
        assert!(interval("11s").is_err());
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
    }
}
