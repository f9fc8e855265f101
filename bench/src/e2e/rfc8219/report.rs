//! The report, as RFC 8219 (and RFC 2544, whose formats it takes over) wants it.

use super::rates::Point as Loss;
use super::scalability::Point;
use super::{FCS_LEN, Measured, Sized, times};
use crate::pktgen::search::ATTEMPTS;
use std::fmt;

/// Preamble and gap between two frames on a wire.
const GAP_LEN: usize = 20;

impl Measured {
    fn has(&self, pick: impl Fn(&Sized) -> bool) -> bool {
        self.sizes.iter().any(pick)
    }

    /// What a reader must know to compare.
    fn set_up(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (environment, scale) = (&self.environment, &self.scale);
        writeln!(f, "# RFC 8219: sixferryd, {}\n", environment.date)?;
        writeln!(
            f,
            "Single DUT, encapsulation class, {:?}, one worker; tester and DUT on one host (Linux {}, {} CPUs, {}), \
             joined by veth, AF_XDP in copy mode: veth has no zero-copy, and one transmit call costs more than a \
             microsecond whatever the DUT does. Traffic goes one way at a time, all of it through tunnels; \
             inner packets are UDP. Commit {}, load average {} before and {} after.\n",
            self.encapsulation,
            environment.kernel,
            environment.cpus,
            environment.cpu,
            environment.commit,
            environment.load,
            self.load_after
        )?;
        writeln!(
            f,
            "Scale `{}`: trials of {:.1} s, {} steps of a search (a rate passes if one of {ATTEMPTS} trials loses no \
             frame: on a shared machine what others do can only add loss), latency over the second half of {:.1} s, \
             delay variation over {:.1} s, {} repetitions.\n",
            scale.name,
            scale.trial.as_secs_f64(),
            scale.steps,
            scale.latency.as_secs_f64(),
            scale.variation.as_secs_f64(),
            scale.repetitions
        )
    }

    fn throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("## Throughput (7.1)\n\nSizes are at the tunnel's side, with FCS.\n\n")?;
        let head = "direction|size|outer / inner without FCS|frames/s|Mbit/s of 10 Gbit/s|flat out, frames/s";
        table(
            f,
            head,
            self.sizes.iter().map(|sized| {
                let rate = sized.throughput.found.mpps * 1e6;
                let wire = (sized.lengths.outer + FCS_LEN + GAP_LEN) as f64 * 8.0;
                format!(
                    "{}|{}|{} / {}|{rate:.0}|{:.0}|{:.0}",
                    sized.direction,
                    sized.lengths.nominal,
                    sized.lengths.outer,
                    sized.lengths.inner,
                    rate * wire / 1e6,
                    sized.throughput.flat_out_mpps * 1e6
                )
            }),
        )
    }

    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has(|sized| sized.latency.is_some() || sized.pdv.is_some()) {
            return Ok(());
        }
        f.write_str(
            "## Latency (7.2) and packet delay variation (7.3.1)\n\nMicroseconds, at the throughput; medians \
             (quartiles) of the repetitions.\n\n",
        )?;
        let head = "direction|size|frames/s|typical latency|worst case (99.9th percentile)|PDV";
        let spread = |summary: &crate::statistics::Summary| {
            format!(
                "{:.2} ({:.2} to {:.2})",
                summary.median, summary.lower_quartile, summary.upper_quartile
            )
        };
        table(
            f,
            head,
            self.sizes.iter().map(|sized| {
                let [typical, worst] = match &sized.latency {
                    Some(latency) => [spread(&latency.typical), spread(&latency.worst)],
                    None => [const { String::new() }; 2],
                };
                let pdv = sized.pdv.as_ref().map(|pdv| spread(&pdv.variation));
                format!(
                    "{}|{}|{:.0}|{typical}|{worst}|{}",
                    sized.direction,
                    sized.tagged_lengths.nominal,
                    sized.throughput.usable_mpps() * 1e6,
                    pdv.unwrap_or_default()
                )
            }),
        )?;
        let few = |sized: &Sized| sized.latency.as_ref().is_some_and(|l| !l.is_sound());
        if self.has(few) {
            let least = times::TAGGED_MIN;
            writeln!(
                f,
                "Some repetitions had fewer than {least} tagged frames.\n"
            )?;
        }
        Ok(())
    }

    fn frame_loss(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has(|sized| sized.frame_loss.is_some()) {
            return Ok(());
        }
        f.write_str(
            "## Frame loss (7.4)\n\nPercent of the frames, by the share of the flat-out rate that was offered, \
             down to the second rate in a row without loss.\n\n",
        )?;
        let curves = || {
            self.sizes
                .iter()
                .filter_map(|sized| Some((sized, sized.frame_loss.as_ref()?)))
        };
        let longest = curves()
            .map(|(_, curve)| curve.points.len())
            .max()
            .unwrap_or(0);
        let percents: String = (0..longest)
            .map(|at| format!("|{} %", 100 - 10 * at))
            .collect();
        let cell = |point: &Loss| format!("|{:.4}", point.lost_percent);
        table(
            f,
            &format!("direction|size{percents}"),
            curves().map(|(sized, curve)| {
                let mut cells: String = curve.points.iter().map(cell).collect();
                cells.push_str(&"|".repeat(longest - curve.points.len()));
                format!("{}|{}{cells}", sized.direction, sized.lengths.nominal)
            }),
        )
    }

    fn back_to_back(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bursts = || {
            self.sizes
                .iter()
                .filter_map(|sized| Some((sized, sized.back_to_back.as_ref()?)))
        };
        if bursts().next().is_none() {
            return Ok(());
        }
        f.write_str(
            "## Back-to-back frames (7.5)\n\nMean of the longest bursts without loss, sent as fast as the generator \
             can.\n\n",
        )?;
        table(
            f,
            "direction|size|frames|searches",
            bursts().map(|(sized, burst)| {
                let more = if burst.is_bound { " or more" } else { "" };
                format!(
                    "{}|{}|{:.0}{more}|{}",
                    sized.direction,
                    sized.lengths.nominal,
                    burst.mean,
                    burst.bursts.len()
                )
            }),
        )
    }

    fn events(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recoveries = || {
            self.sizes
                .iter()
                .filter_map(|sized| Some((sized, sized.recovery?)))
        };
        if recoveries().next().is_some() {
            f.write_str(
                "## System recovery (7.6)\n\nFrom the end of an overload of 110 % of the throughput until, at 50 %, \
                 nothing more was lost and nothing queued.\n\n",
            )?;
            table(
                f,
                "direction|size|overload, frames/s|frames lost|milliseconds",
                recoveries().map(|(sized, recovery)| {
                    format!(
                        "{}|{}|{:.0}|{}|{:.1}",
                        sized.direction,
                        sized.lengths.nominal,
                        recovery.overload_mpps * 1e6,
                        recovery.lost,
                        recovery.milliseconds
                    )
                }),
            )?;
        }
        if self.resets.is_empty() {
            return Ok(());
        }
        f.write_str(
            "## Reset (7.7, RFC 6201: software reset of the process)\n\nThe process is killed and started again; it \
             has its tunnels from its own state file. Frames lost over the rate, at 50 % of the throughput.\n\n",
        )?;
        table(
            f,
            "direction|frames/s|restarts|milliseconds, median (quartiles)",
            self.resets.iter().map(|reset| {
                let time = &reset.milliseconds;
                format!(
                    "{}|{:.0}|{}|{:.0} ({:.0} to {:.0})",
                    reset.direction,
                    reset.mpps * 1e6,
                    reset.lost.len(),
                    time.median,
                    time.lower_quartile,
                    time.upper_quartile
                )
            }),
        )
    }

    fn scalability(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scalability in &self.scalability {
            writeln!(
                f,
                "## Overload scalability (10.2): {}\n",
                scalability.direction
            )?;
            f.write_str(
                "Packets of random tunnels. Degradation is (x1 - xn) / x1 of the throughput, and of the flat-out \
                 rate, which noise disturbs less.\n\n",
            )?;
            let head = "start|tunnels|added in, s|throughput, frames/s|degradation, %|flat out, frames/s|degradation, %";
            let row = |how: &str, point: &Point| {
                format!(
                    "{how}|{}|{:.2}|{:.0}|{:.1}|{:.0}|{:.1}",
                    point.tunnels,
                    point.added_in,
                    point.throughput.found.mpps * 1e6,
                    point.degradation,
                    point.throughput.flat_out_mpps * 1e6,
                    point.flat_out_degradation
                )
            };
            let at_once = scalability
                .simultaneous
                .iter()
                .map(|p| row("simultaneous", p));
            let added = scalability
                .incremental
                .iter()
                .map(|p| row("incremental", p));
            table(f, head, at_once.chain(added))?;
        }
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set_up(f)?;
        if !self.sizes.is_empty() {
            self.throughput(f)?;
        }
        self.times(f)?;
        self.frame_loss(f)?;
        self.back_to_back(f)?;
        self.events(f)?;
        self.scalability(f)
    }
}

/// A table; cells are separated by `|`.
fn table(
    f: &mut fmt::Formatter<'_>,
    head: &str,
    rows: impl Iterator<Item = String>,
) -> fmt::Result {
    writeln!(f, "| {} |", head.replace('|', " | "))?;
    writeln!(f, "|{}", "---|".repeat(head.split('|').count()))?;
    for row in rows {
        writeln!(f, "| {} |", row.replace('|', " | "))?;
    }
    writeln!(f)
}
