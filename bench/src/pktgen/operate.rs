//! Generator and sink for people: a line a second, a summary at the end.

use super::generator::{Choice, Generator};
use super::histogram::Delays;
use super::pace::Pace;
use super::role::{Reading, Seat};
use super::sink::Sink;
use super::traffic::Traffic;
use crate::error::{Context, Error};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// A generator that sent less than this share of the rate has not reached it.
const REACHED: f64 = 0.98;
/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// When to stop; without either, when interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// After so long.
    pub duration: Option<Duration>,
    /// After so many frames.
    pub count: Option<u64>,
}

/// What to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The result as JSON.
    pub json: bool,
    /// No line a second.
    pub quiet: bool,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Send {
    /// The frames.
    pub traffic: Traffic,
    /// Where they leave.
    pub interface: String,
    /// So many a second, or as many as go.
    pub rate: Option<u64>,
    /// How.
    pub choice: Choice,
    /// On which CPU.
    pub cpu: Option<usize>,
    /// Until when.
    pub end: End,
    /// What to show.
    pub output: Output,
}

/// Where to count.
#[derive(Clone, Debug)]
pub struct SinkJob {
    /// The interface.
    pub interface: String,
    /// Until when.
    pub end: End,
    /// What to show.
    pub output: Output,
}

#[derive(Serialize)]
struct Sent {
    interface: String,
    mode: String,
    traffic: Traffic,
    rate: Option<u64>,
    sent: u64,
    bytes: u64,
    tagged: u64,
    seconds: f64,
    mpps: f64,
    gigabits: f64,
    reached: bool,
}

#[derive(Serialize)]
struct Received {
    interface: String,
    mode: &'static str,
    received: u64,
    bytes: u64,
    others: u64,
    tagged: u64,
    duplicates: u64,
    reordered: u64,
    skewed: u64,
    /// Between the first and the last frame, to 10 ms.
    seconds: f64,
    mpps: f64,
    delay_nanoseconds: Option<Delays>,
}

/// Sends, and says whether the rate was reached.
///
/// # Errors
/// What the kernel refuses.
pub fn send(job: &Send) -> Result<bool, Error> {
    let seat = job.cpu.map(|cpu| Seat { cpu, nice: 0 });
    let pace = job.rate.map_or(Pace::Full, Pace::PerSecond);
    let limit = job.end.count.unwrap_or(u64::MAX);
    let mut generator = Generator::start(
        &job.interface,
        &job.traffic,
        seat,
        job.choice,
        pace.orders(limit),
    )?;
    if !job.output.quiet {
        eprintln!("{}: {generator}", job.interface);
    }
    let start = Instant::now();
    let mut finished = None;
    watch(job.end, job.output, start, || {
        let reading = generator.reading()?;
        // a stream of a number of frames ends before anybody looks
        if reading.packets >= limit {
            finished.get_or_insert_with(Instant::now);
        }
        Ok(reading)
    })?;
    let elapsed = finished.unwrap_or_else(Instant::now) - start;
    let total = stop(&mut generator)?;
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let per_second = total.packets as f64 / seconds;
    let sent = Sent {
        interface: job.interface.clone(),
        mode: generator.to_string(),
        traffic: job.traffic.clone(),
        rate: job.rate,
        sent: total.packets,
        bytes: total.bytes,
        tagged: total.tagged,
        seconds,
        mpps: per_second / 1e6,
        gigabits: total.bytes as f64 * 8.0 / seconds / 1e9,
        reached: total.packets > 0
            && job
                .rate
                .is_none_or(|rate| per_second >= rate as f64 * REACHED),
    };
    print(job.output, &sent, || {
        format!(
            "{} frames in {seconds:.2} s by {}: {:.3} Mpps, {:.3} Gbit/s without FCS, {} tagged{}",
            sent.sent,
            sent.mode,
            sent.mpps,
            sent.gigabits,
            sent.tagged,
            if sent.reached {
                ""
            } else {
                "; the rate was not reached"
            },
        )
    })?;
    Ok(sent.reached)
}

/// Stops it; all that it has sent, when that does not change any more.
fn stop(generator: &mut Generator) -> Result<Reading, Error> {
    generator.order(Pace::Paused.orders(0))?;
    let mut last = generator.reading()?;
    loop {
        std::thread::sleep(LOOK);
        let now = generator.reading()?;
        if now.packets == last.packets {
            return Ok(now);
        }
        last = now;
    }
}

/// Counts, and says whether all arrived that were expected.
///
/// # Errors
/// What the kernel refuses.
pub fn sink(job: &SinkJob) -> Result<bool, Error> {
    let sink = Sink::attach(&job.interface)?;
    let mode = if sink.is_generic() {
        "generic XDP"
    } else {
        "native XDP"
    };
    if !job.output.quiet {
        eprintln!("{}: {mode}", job.interface);
    }
    // (first, last) moment at which the number had changed
    let mut span: Option<(u64, u64)> = None;
    let mut known = 0;
    watch(job.end, job.output, Instant::now(), || {
        let reading = sink.counters()?.reading;
        if reading.packets != known {
            known = reading.packets;
            span = Some((span.map_or(reading.at, |(first, _)| first), reading.at));
        }
        Ok(reading)
    })?;
    let all = sink.counters_and_delays()?;
    let seconds = span.map_or(0.0, |(first, last)| (last - first) as f64 / 1e9);
    let received = Received {
        interface: job.interface.clone(),
        mode,
        received: all.reading.packets,
        bytes: all.reading.bytes,
        others: all.others,
        tagged: all.reading.tagged,
        duplicates: all.duplicates,
        reordered: all.reordered,
        skewed: all.skewed,
        seconds,
        mpps: all.reading.packets as f64 / seconds.max(1e-2) / 1e6,
        delay_nanoseconds: all
            .delays
            .map(|histogram| histogram.delays())
            .filter(|delays| delays.count > 0),
    };
    print(job.output, &received, || summary(&received))?;
    Ok(job.end.count.is_none_or(|count| received.received >= count))
}

fn summary(received: &Received) -> String {
    let mut text = format!(
        "{} frames in {:.2} s by {}: {:.3} Mpps; {} others",
        received.received, received.seconds, received.mode, received.mpps, received.others
    );
    if received.tagged > 0 {
        text += &format!(
            "\n{} tagged: {} duplicates, {} out of order, {} by another clock",
            received.tagged, received.duplicates, received.reordered, received.skewed
        );
    }
    if let Some(delays) = received.delay_nanoseconds {
        let microseconds = |nanoseconds: f64| nanoseconds / 1e3;
        text += &format!(
            "\ndelay in µs: min {:.2}, p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}; variation {:.2}",
            microseconds(delays.min),
            microseconds(delays.p50),
            microseconds(delays.p99),
            microseconds(delays.p999),
            microseconds(delays.max),
            microseconds(delays.pdv)
        );
    }
    text
}

pub(super) fn print<T: Serialize>(
    output: Output,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Error> {
    if output.json {
        let json = serde_json::to_string_pretty(value).during("the result")?;
        println!("{json}");
    } else {
        println!("{}", text());
    }
    Ok(())
}

/// Reads until the end has come or somebody interrupts, and shows every second what there was.
fn watch(
    end: End,
    output: Output,
    start: Instant,
    mut read: impl FnMut() -> Result<Reading, Error>,
) -> Result<Reading, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("a runtime")?;
    runtime.block_on(async {
        let watch = |kind| signal(kind).during("watching for signals");
        let mut interrupt = watch(SignalKind::interrupt())?;
        let mut terminate = watch(SignalKind::terminate())?;
        let mut last = read()?;
        let mut shown = start;
        loop {
            let interrupted = tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = read()?;
            let enough = end.count.is_some_and(|count| now.packets >= count)
                || end.duration.is_some_and(|time| start.elapsed() >= time);
            if shown.elapsed() >= SECOND && !output.quiet {
                let span = (now.at - last.at).max(1) as f64;
                eprintln!(
                    "{:>6.1} s  {:>9.4} Mpps  {:>9.4} Gbit/s  {} frames",
                    start.elapsed().as_secs_f64(),
                    (now.packets - last.packets) as f64 * 1e3 / span,
                    (now.bytes - last.bytes) as f64 * 8.0 / span,
                    now.packets
                );
                (last, shown) = (now, Instant::now());
            }
            if enough || interrupted {
                return Ok(now);
            }
        }
    })
}

/// Reads a hardware address.
///
/// # Errors
/// Says what it is instead.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| {
            u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| part.len() == 2)
        })
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "want six bytes as in 02:00:00:00:00:01".to_owned())
}

/// Reads a number of frames a second.
///
/// # Errors
/// Says what it is instead.
pub fn rate(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.char_indices().next_back() {
        Some((at, 'k')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if (1.0..=1e9).contains(&(number * factor)) => Ok((number * factor) as u64),
        _ => Err("want frames a second, 1 to 1000M, as in 250000, 500k or 1.5M".to_owned()),
    }
}

/// Reads seconds.
///
/// # Errors
/// Says what it is instead.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    match number {
        Ok(seconds) if (0.01..=1e6).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("want seconds, as in 0.5 or 60".to_owned()),
    }
}

/// The hardware address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn interface_mac(interface: &str) -> Result<[u8; 6], Error> {
    super::interface_index(interface)?;
    let path = format!("/sys/class/net/{interface}/address");
    let text = std::fs::read_to_string(&path).during(&path)?;
    mac(text.trim()).during(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_or_refused() {
        assert_eq!(mac("02:00:00:00:00:0a"), Ok([2, 0, 0, 0, 0, 10]));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "x",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
        assert_eq!(rate("250000"), Ok(250_000));
        assert_eq!(rate("500k"), Ok(500_000));
        assert_eq!(rate("1.5M"), Ok(1_500_000));
        for text in ["", "k", "0", "-1", "2G", "nan", "inf", "1e30"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "0", "nan", "inf", "-1"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
