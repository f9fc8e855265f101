//! Which tunnels of the account stand in the way of a wish, and which one is given again.

use std::sync::Arc;

use crate::machine::forwards;
use crate::pairs::pair_of;
use crate::slots::fits;
use crate::state::{AccountEntry, Entry, State};
use crate::{
    AccountId, Acquire, Profile, SlotChoice, Transport, Tunnel, TunnelId, TunnelState,
    WantedTransport,
};

/// What the account has already that matters.
pub(super) struct Rivals {
    /// Given again.
    pub(super) keep: Option<Arc<Tunnel>>,
    /// Taken away first.
    pub(super) release: Vec<Arc<Tunnel>>,
    /// Some of them are on their way to the store.
    pub(super) in_commit: bool,
}

pub(super) fn find(state: &State, wanted: &Acquire) -> Rivals {
    let mut rivals = Rivals {
        keep: None,
        release: Vec::new(),
        in_commit: false,
    };
    let Some(account) = state.account(wanted.account) else {
        return rivals;
    };
    let mut standing: Vec<&Entry> = Vec::new();
    for entry in candidates(state, account, wanted) {
        let tunnel = &*entry.tunnel;
        if !forwards(tunnel.state) {
            continue;
        }
        let orphan = tunnel.state == TunnelState::Orphaned && is_same(wanted, tunnel);
        if orphan || is_rival(wanted, tunnel) {
            rivals.in_commit |= entry.in_commit;
            standing.push(entry);
        }
    }
    // An orphan that is the very same comes before one that has to be changed.
    let good = |e: &&&Entry| can_become(wanted, &e.tunnel);
    let orphan =
        |e: &&&Entry| e.tunnel.state == TunnelState::Orphaned && is_same(wanted, &e.tunnel);
    let kept = standing
        .iter()
        .filter(good)
        .find(orphan)
        .or_else(|| standing.iter().find(good))
        .map(|e| e.tunnel.clone());
    for entry in standing {
        let tunnel = &entry.tunnel;
        let is_kept = kept.as_ref().is_some_and(|k| k.id == tunnel.id);
        // An orphan of the same kind that does no harm may find its own user yet.
        if !is_kept && is_rival(wanted, tunnel) {
            rivals.release.push(tunnel.clone());
        }
    }
    rivals.keep = kept;
    rivals
}

/// All that can matter: an account may have thousands of tunnels, of which a wish that excludes
/// nothing meets those with the same ends and the orphans.
fn candidates<'a>(
    state: &'a State,
    account: &'a AccountEntry,
    wanted: &Acquire,
) -> impl Iterator<Item = &'a Entry> {
    let between = state.between(wanted.local, wanted.remote);
    let between = between.map(|entry| entry.tunnel.id);
    let between = between.filter(|id| account.tunnels.contains(id) && !wanted.exclusive);
    let several = match wanted.exclusive {
        true => &account.tunnels,
        false => &account.orphans,
    };
    let between = between.filter(|id| !several.contains(id));
    let ids = between.into_iter().chain(several.iter().copied());
    ids.filter_map(|id| state.tunnel(id))
}

/// The same as wished for, but for the numbers.
fn is_same(wanted: &Acquire, tunnel: &Tunnel) -> bool {
    tunnel.service == wanted.service
        && tunnel.profile == wanted.profile
        && tunnel.local == wanted.local
        && tunnel.remote == wanted.remote
        && same_transport(&wanted.transport, tunnel.transport)
}

fn same_transport(wanted: &WantedTransport, has: Transport) -> bool {
    match (wanted, has) {
        (WantedTransport::SixInFour, Transport::SixInFour) => true,
        (
            WantedTransport::Udp {
                ports,
                remote_port,
                any_source,
            },
            Transport::Udp {
                local_port,
                remote_port: port,
                any_source: any,
            },
        ) => ports.contains(&local_port) && *remote_port == port && *any_source == any,
        _ => false,
    }
}

/// Both cannot be at once.
fn is_rival(wanted: &Acquire, tunnel: &Tunnel) -> bool {
    let same_ends = tunnel.local == wanted.local && tunnel.remote == wanted.remote;
    let both_41 =
        tunnel.transport == Transport::SixInFour && wanted.transport == WantedTransport::SixInFour;
    let in_slot = match &wanted.slot {
        SlotChoice::Exactly(slot) => tunnel.slot == *slot,
        SlotChoice::OneOf(_) | SlotChoice::Range { .. } => false,
    };
    let same_kind = tunnel.service == wanted.service && tunnel.profile == wanted.profile;
    (both_41 && same_ends) || (wanted.exclusive && (same_kind || in_slot))
}

/// Whether an update makes it what is wished for: the dataplane does not change the encapsulation or
/// our ports, and the user's numbers must be those of a new tunnel in this place.
fn can_become(wanted: &Acquire, tunnel: &Tunnel) -> bool {
    let place = tunnel.service == wanted.service
        && tunnel.local == wanted.local
        && same_transport(&wanted.transport, tunnel.transport)
        && fits(&wanted.slot, &tunnel.slot);
    if !place || wanted.profile != tunnel.profile {
        return false;
    }
    match (wanted.profile, wanted.host_prefix) {
        (Profile::Host, Some(prefix)) => pair_of(prefix, tunnel.slot.unit) == tunnel.pair,
        (Profile::Host, None) => false,
        (Profile::Link | Profile::Network, _) => true,
    }
}

/// The account's own tunnel that has the prefix, other than the kept one.
pub(super) fn holder_of(
    state: &State,
    prefix: ipnet::Ipv6Net,
    account: AccountId,
    kept: Option<TunnelId>,
) -> Option<&Entry> {
    let holder = state.claims.holder(prefix).filter(|id| Some(*id) != kept)?;
    state
        .tunnel(holder)
        .filter(|entry| entry.tunnel.account == account)
}
