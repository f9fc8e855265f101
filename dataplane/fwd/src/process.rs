//! The three passes.

use crate::batch::{BATCH_MAX, Batch, PuntInfo};
use crate::classify::{Kind, Parsed, classify};
use crate::decap;
use crate::drop_reason::DropReason;
use crate::encap;
use crate::fast;
use crate::icmp4;
use crate::id::Ticks;
use crate::local::Local;
use crate::lookup::lookup;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::{PuntReason, Verdict};
use arrayvec::ArrayVec;

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
    for packet in &batch.packets {
        // the headers reach to byte 78 of an untagged frame: two lines
        let bytes = packet.bytes();
        prefetch_index::prefetch_index(bytes, 0);
        prefetch_index::prefetch_index(bytes, 64);
    }
    let mut parsed = ArrayVec::<Parsed, BATCH_MAX>::new();
    for packet in &batch.packets {
        let p = classify(packet, tables);
        match p.kind {
            Kind::Outer => tables.index().prefetch41(p.key),
            Kind::Udp => tables.index().prefetch_udp(p.key),
            _ => {}
        }
        // as many as there are packets
        _ = parsed.try_push(p);
    }
    lookup(&mut parsed, &batch.packets, tables, local.worker);
    let mut context = Context { tables, local, now };
    for (i, (packet, p)) in batch.packets.iter_mut().zip(&parsed).enumerate() {
        let received = packet.len();
        let verdict = match decide::<SHORTCUT>(&mut context, packet, p) {
            Ok(verdict) => verdict,
            Err(Stop::Drop(reason)) => Verdict::Drop(reason),
            Err(Stop::Punt(reason, info)) => {
                _ = batch
                    .punts
                    .try_push((u8::try_from(i).unwrap_or(u8::MAX), info));
                Verdict::Punt(reason)
            }
        };
        let counters = &mut context.local.counters;
        let taken = if batch.injected {
            &mut counters.injected
        } else {
            &mut counters.received
        };
        taken.add(received);
        context.local.count(verdict, packet.len());
        _ = batch.verdicts.try_push(verdict);
    }
}

/// Pass three for one packet.
#[inline]
fn decide<const SHORTCUT: bool>(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    if SHORTCUT {
        let ordinary = match parsed.kind {
            Kind::Outer | Kind::Udp => fast::decap(context, packet, parsed),
            Kind::Native => fast::encap(context, packet, parsed),
            _ => None,
        };
        if let Some(verdict) = ordinary {
            return Ok(verdict);
        }
    }
    in_full(context, packet, parsed)
}

/// Every check in its order.
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
        Kind::Bad(reason) => Err(reason.into()),
    }
}
