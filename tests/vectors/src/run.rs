//! Runs vectors and compares.

use crate::config::KINDS;
use crate::harness::Harness;
use crate::schema::{Config, Vector, VectorFile, hex, unhex};
use sixferry_fwd::{DropReason, PuntReason, Verdict};
use sixferry_wire::{describe, ether};

/// A fragment waits for others: no verdict yet.
const HELD: Verdict = Verdict::Punt(PuntReason::Fragment);

/// What a vector came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdicted {
    /// As expected.
    Passed,
    /// Not as expected; what to read.
    Failed(String),
    /// Needs what this version does not have; what that is.
    Skipped(&'static str),
}

/// Runs every vector of a file, in its order.
pub fn run(file: &VectorFile) -> Vec<(&Vector, Verdicted)> {
    file.vectors
        .iter()
        .map(|vector| {
            let result = file.configs.get(&vector.config).map_or_else(
                || Verdicted::Failed(format!("no configuration `{}`", vector.config)),
                |config| run_one(vector, config).unwrap_or_else(Verdicted::Failed),
            );
            (vector, result)
        })
        .collect()
}

/// Runs one vector against a relay of its own, since what a vector changes is forgotten after it.
///
/// # Errors
/// What makes the vector itself unusable.
pub fn run_one(vector: &Vector, config: &Config) -> Result<Verdicted, String> {
    let packets = vector
        .in_hex
        .as_slice()
        .iter()
        .map(|t| unhex(t))
        .collect::<Result<Vec<_>, _>>()?;
    if !KINDS.contains(&config.kind.as_str()) {
        return Ok(Verdicted::Skipped("unknown mechanism"));
    }
    let mut harness = Harness::new(config)?;
    let mut last = None;
    for packet in &packets {
        let outcome = harness.send(packet, ether_type(&vector.name, packet))?;
        if outcome.verdict != HELD {
            last = Some(outcome);
        }
    }
    // nothing came of any of them: what waits is not waited for any longer
    let outcome = last
        .or_else(|| harness.wait_for_fragments())
        .ok_or("no packet")?;
    let want = expected(vector)?;
    let same = match (&want, outcome.verdict) {
        (Want::Forward(out), Verdict::Tx(_)) | (Want::Answer(out), Verdict::Answer(_)) => {
            *out == outcome.packet
        }
        (Want::Drop(reason), Verdict::Drop(got)) => *reason == got,
        _ => false,
    };
    if !same {
        let input = packets.last().map_or(&[][..], Vec::as_slice);
        return Ok(Verdicted::Failed(explain(
            vector,
            input,
            &want,
            &outcome.packet,
            outcome.verdict,
        )));
    }
    Ok(check_counters(&harness, packets.len(), outcome.verdict)
        .map_or(Verdicted::Passed, Verdicted::Failed))
}

enum Want {
    Forward(Vec<u8>),
    Answer(Vec<u8>),
    Drop(DropReason),
}

fn expected(vector: &Vector) -> Result<Want, String> {
    let out = || unhex(vector.out_hex.as_deref().ok_or("no out_hex")?);
    Ok(match vector.expect.as_str() {
        "forward" => Want::Forward(out()?),
        "icmp" => Want::Answer(out()?),
        "drop" => {
            let name = vector.drop_reason.as_deref().ok_or("no drop_reason")?;
            Want::Drop(DropReason::from_name(name).ok_or_else(|| format!("reason `{name}`"))?)
        }
        other => return Err(format!("expect `{other}`")),
    })
}

/// The side a packet comes from: its first nibble, except where the vector is about just that nibble.
fn ether_type(name: &str, packet: &[u8]) -> u16 {
    if name.starts_with("encap-") {
        return ether::TYPE_IPV6;
    }
    if name.starts_with("decap-") {
        return ether::TYPE_IPV4;
    }
    match packet.first().map(|byte| byte >> 4) {
        Some(6) => ether::TYPE_IPV6,
        _ => ether::TYPE_IPV4,
    }
}

/// Whether every packet was counted once and the last for the verdict it got.
fn check_counters(harness: &Harness, packets: usize, verdict: Verdict) -> Option<String> {
    let counters = harness.counters();
    if counters.received.packets != packets as u64
        || counters.unaccounted() != 0
        || !harness.fragments_add_up()
    {
        return Some(format!("counters do not add up: {counters:?}"));
    }
    let slow = |reason| {
        harness
            .slow_drops()
            .iter()
            .filter(move |d| d.reason == reason)
    };
    let counted = match verdict {
        Verdict::Tx(_) => counters.forwarded.packets,
        Verdict::Answer(_) => counters.answered.packets,
        Verdict::Punt(_) => counters.punted.packets,
        Verdict::Drop(reason) => {
            let in_core = counters.drops_for(reason).packets;
            in_core + slow(reason).map(|d| d.packets).sum::<u64>()
        }
    };
    (counted == 0).then(|| format!("{verdict:?} was not counted: {counters:?}"))
}

fn explain(vector: &Vector, input: &[u8], want: &Want, got: &[u8], verdict: Verdict) -> String {
    let mut text = format!("in   {}\n{}", hex(input), indent(&describe::packet(input)));
    let wanted = match want {
        Want::Forward(out) | Want::Answer(out) => {
            text += &format!(
                "want {} {}\n{}",
                vector.expect,
                hex(out),
                indent(&describe::packet(out))
            );
            out.as_slice()
        }
        Want::Drop(reason) => {
            text += &format!("want drop {}\n", reason.name());
            &[]
        }
    };
    match verdict {
        Verdict::Tx(_) | Verdict::Answer(_) => {
            let what = if matches!(verdict, Verdict::Tx(_)) {
                "forward"
            } else {
                "icmp"
            };
            text += &format!(
                "got  {what} {}\n{}",
                hex(got),
                indent(&describe::packet(got))
            );
            let differs = wanted.iter().zip(got).position(|(a, b)| a != b);
            if let Some(at) = differs {
                text += &format!("first difference at byte {at}\n");
            }
        }
        Verdict::Drop(reason) => text += &format!("got  drop {}\n", reason.name()),
        Verdict::Punt(reason) => text += &format!("got  punt {}\n", reason.name()),
    }
    text
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("       {line}\n"))
        .collect()
}
