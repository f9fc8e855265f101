//! The three passes.

use crate::batch::{BATCH_MAX, Batch, PuntInfo};
use crate::classify::{Kind, Parsed, classify};
use crate::counters::PacketsBytes;
use crate::decap;
use crate::drop_reason::DropReason;
use crate::encap;
use crate::fast::{self, Glance, Shortcut};
use crate::icmp4;
use crate::id::Ticks;
use crate::local::Local;
use crate::lookup::{Walks, lookup};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::{PuntReason, Verdict};

/// Why a step goes no further.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Drop(DropReason),
    Punt(PuntReason, PuntInfo),
}

impl From<DropReason> for Stop {
    #[inline]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// What every step of pass three needs.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) local: &'a mut Local,
    pub(crate) now: Ticks,
}

/// Decides and rewrites one batch in place.
///
/// Every packet gets exactly one verdict and is counted once. Packets with [`Verdict::Tx`] or
/// [`Verdict::Answer`] are complete frames for that port; a punted packet is as it was received; a
/// dropped one may have been changed. Processing packets together or one by one gives the same.
#[inline(never)]
pub fn process(batch: &mut Batch<'_>, tables: &Tables, local: &mut Local, now: Ticks) {
    passes::<true>(batch, tables, local, now);
}

/// [`process`]; without `SHORTCUT` the full path decides about every packet, which must not make a
/// difference.
#[inline]
pub(crate) fn passes<const SHORTCUT: bool>(
    batch: &mut Batch<'_>,
    tables: &Tables,
    local: &mut Local,
    now: Ticks,
) {
    batch.verdicts.clear();
    batch.punts.clear();
    let mut received = PacketsBytes::default();
    for packet in &batch.packets {
        received.add(packet.len());
    }
    local.counters.take(batch.injected, received);
    let mut all = [Parsed::EMPTY; BATCH_MAX];
    let parsed = all.get_mut(..batch.packets.len()).unwrap_or_default();
    let tunnels = tables.tunnels(local.worker);
    let mut walks = Walks::new(tables.fib6(), tunnels);
    let glance = Glance::new(tables);
    classify::<SHORTCUT>(&batch.packets, &glance, &mut walks, parsed);
    lookup(parsed, &batch.packets, tables, &mut walks);
    let mut context = Context { tables, local, now };
    decide::<SHORTCUT>(batch, parsed, &mut context, Shortcut::new(tunnels));
}

/// Pass three for all packets.
#[inline(never)]
fn decide<const SHORTCUT: bool>(
    batch: &mut Batch<'_>,
    parsed: &[Parsed],
    context: &mut Context<'_>,
    mut shortcut: Shortcut<'_>,
) {
    // all but those that are decided in full
    let mut forwarded = PacketsBytes {
        packets: parsed.len() as u64,
        bytes: 0,
    };
    for (i, (packet, p)) in batch.packets.iter_mut().zip(parsed).enumerate() {
        if SHORTCUT && let Some(verdict) = ordinary(&mut shortcut, context, packet, p) {
            forwarded.bytes += packet.len() as u64;
            _ = batch.verdicts.try_push(verdict);
            continue;
        }
        forwarded.packets -= 1;
        let verdict = match in_full(context, packet, p) {
            Ok(verdict) => verdict,
            Err(Stop::Drop(reason)) => Verdict::Drop(reason),
            Err(Stop::Punt(reason, info)) => {
                _ = batch
                    .punts
                    .try_push((u8::try_from(i).unwrap_or(u8::MAX), info));
                Verdict::Punt(reason)
            }
        };
        context.local.count(verdict, packet.len());
        _ = batch.verdicts.try_push(verdict);
    }
    let counters = &mut context.local.counters;
    counters.forwarded = counters.forwarded.sum(forwarded);
}

/// Pass three for a packet that meets no exception.
#[inline]
fn ordinary(
    shortcut: &mut Shortcut<'_>,
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Option<Verdict> {
    if parsed.ordinary == 0 {
        return None;
    }
    match parsed.kind {
        Kind::Outer | Kind::Udp => fast::decap(shortcut, context, packet, parsed),
        Kind::Native => fast::encap(shortcut, context, packet, parsed),
        _ => None,
    }
}

/// Pass three for any packet: every check in its order.
#[inline(never)]
fn in_full(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    match parsed.kind {
        Kind::Outer | Kind::Udp => decap::decap(context, packet, parsed),
        Kind::Fragment => decap::fragment(context, packet, parsed),
        Kind::Native => encap::from_native(context, packet, parsed),
        Kind::Icmp4 => icmp4::error(context, packet, parsed),
        Kind::Bad => Err(parsed.reason.into()),
    }
}
