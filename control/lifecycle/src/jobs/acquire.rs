//! A wish for a tunnel.
//!
//! What stands in its way and is the account's own is taken away first, and the wish is decided anew
//! once those numbers are free. What is another account's refuses it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv6Net;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::release::{release_edit, revoke};
use super::rivals::{self, holder_of};
use crate::machine::{Event, step};
use crate::pairs::{link_of, pair_of};
use crate::shared::{Shared, count};
use crate::slots::fits;
use crate::state::edit::Edit;
use crate::state::{State, Waiter};
use crate::writer::{Job, Plan};
use crate::{
    Acquire, AddressPair, Cause, Error, Lease, LeaseNumber, Profile, RevokeCause, Slot, SlotChoice,
    Transport, Tunnel, TunnelId, TunnelState, WantedTransport,
};

/// What the asking side has got so far: if it gives up, this is released.
pub(crate) type Held = Arc<Mutex<Option<(TunnelId, LeaseNumber)>>>;

/// One wish.
pub(crate) struct Acquiring {
    wanted: Acquire,
    shared: Arc<Shared>,
    held: Held,
    reply: Option<oneshot::Sender<Result<Lease, Error>>>,
    /// Who is told that he lost a tunnel.
    replaced: Vec<Arc<Tunnel>>,
}

impl Acquiring {
    pub(crate) fn new(
        wanted: Acquire,
        shared: Arc<Shared>,
        held: Held,
        reply: oneshot::Sender<Result<Lease, Error>>,
    ) -> Self {
        Self {
            wanted,
            shared,
            held,
            reply: Some(reply),
            replaced: Vec::new(),
        }
    }

    fn refuse(&mut self, error: Error) -> Plan {
        if matches!(error, Error::SoldOut { .. }) {
            count(&self.shared.counters.sold_out);
        }
        if let Some(reply) = self.reply.take() {
            // He may have gone away.
            let _ = reply.send(Err(error));
        }
        Plan::Done
    }
}

/// Why it does not go on now.
enum Stop {
    Error(Error),
    /// What is needed comes free soon.
    Wait,
    Defer,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Job for Acquiring {
    fn plan(&mut self, state: &mut State, now: i64) -> Plan {
        self.replaced.clear();
        match self.decide(state, now) {
            Ok(plan) => plan,
            Err(Stop::Wait) => Plan::Wait,
            Err(Stop::Defer) => Plan::Defer,
            Err(Stop::Error(error)) => self.refuse(error),
        }
    }

    fn committed(&mut self, shared: &Shared, state: &mut State, edits: &[Edit]) {
        for tunnel in self.replaced.drain(..) {
            revoke(shared, &tunnel, RevokeCause::Replaced);
        }
        let got = edits.iter().find_map(|edit| match edit {
            Edit::Tunnel { before, after, .. } if after.state != TunnelState::Releasing => {
                Some((before.is_some(), after))
            }
            _ => None,
        });
        let Some((resumed, tunnel)) = got else {
            return;
        };
        let Some(reply) = self.reply.take() else {
            return;
        };
        state.set_grace(tunnel.id, None);
        *self.held.lock() = Some((tunnel.id, tunnel.lease));
        if reply.is_closed() {
            // He gave up while it was being stored; his guard may have looked too early.
            shared.give_back_later(tunnel.id, tunnel.lease);
            return;
        }
        state.wait_for(tunnel.id, Waiter { reply, resumed });
    }

    fn failed(&mut self, _shared: &Shared, problem: &str) {
        self.refuse(Error::Unavailable(problem.to_owned()));
    }

    fn abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Acquiring {
    fn decide(&mut self, state: &mut State, now: i64) -> Result<Plan, Stop> {
        let account = state.account(self.wanted.account).ok_or(Error::NoAccount)?;
        if account.in_commit {
            return Err(Stop::Defer);
        }
        if !account.may_log_in() {
            return Err(Error::NoAccount.into());
        }
        check(&self.wanted, self.shared.config.max_prefixes)?;
        let own = account.account.prefixes.clone();
        if state.connected() == 0 {
            return Err(Stop::Wait);
        }
        let rivals = rivals::find(state, &self.wanted);
        if rivals.in_commit {
            return Err(Stop::Defer);
        }
        let kept = rivals.keep.as_ref().map(|t| t.id);
        let mut release = rivals.release;
        let prefixes = self.prefixes(state, &own, kept, &mut release)?;
        if !release.is_empty() {
            return self.make_room(&release, now);
        }
        check_ends(state, &self.wanted)?;
        match rivals.keep {
            Some(tunnel) => self.resume(&tunnel, prefixes, now),
            None => self.create(state, prefixes, now),
        }
    }

    /// What is routed into it, and which tunnels of the account must lose it.
    fn prefixes(
        &self,
        state: &State,
        own: &[Ipv6Net],
        kept: Option<TunnelId>,
        release: &mut Vec<Arc<Tunnel>>,
    ) -> Result<Vec<Ipv6Net>, Stop> {
        let wanted = &self.wanted;
        let mut prefixes: Vec<Ipv6Net> = match wanted.profile {
            Profile::Host => Vec::new(),
            Profile::Link => own.to_vec(),
            Profile::Network if wanted.prefixless => Vec::new(),
            Profile::Network if wanted.prefixes.is_empty() => own.to_vec(),
            Profile::Network => wanted.prefixes.clone(),
        };
        if wanted.profile == Profile::Network && prefixes.is_empty() && !wanted.prefixless {
            return Err(Error::NoPrefix.into());
        }
        let mut waits = false;
        let mut defers = false;
        prefixes.retain(|prefix| {
            let Some(entry) = holder_of(state, *prefix, wanted.account, kept) else {
                return true;
            };
            let holder = &entry.tunnel;
            if release.iter().any(|t| t.id == holder.id) {
                return true;
            }
            defers |= entry.in_commit;
            if holder.state == TunnelState::Releasing {
                waits = true;
            } else if wanted.profile == Profile::Link {
                // It can be in one tunnel only, and a bare link serves without.
                return false;
            } else {
                release.push(holder.clone());
            }
            true
        });
        if defers {
            return Err(Stop::Defer);
        }
        if waits {
            return Err(Stop::Wait);
        }
        for prefix in &prefixes {
            foreign_claim(state, *prefix, wanted)?;
        }
        Ok(prefixes)
    }

    fn make_room(&mut self, release: &[Arc<Tunnel>], now: i64) -> Result<Plan, Stop> {
        let mut edits = Vec::with_capacity(release.len());
        for tunnel in release {
            if let Some(edit) = release_edit(tunnel, Cause::Replaced, now) {
                edits.push(edit);
            }
            if tunnel.state != TunnelState::Orphaned {
                self.replaced.push(tunnel.clone());
            }
        }
        Ok(Plan::First(edits))
    }

    /// Gives him a tunnel he had.
    fn resume(
        &mut self,
        tunnel: &Arc<Tunnel>,
        prefixes: Vec<Ipv6Net>,
        now: i64,
    ) -> Result<Plan, Stop> {
        let replaced = tunnel.state != TunnelState::Orphaned;
        // The states were looked at before; anything else is on its way to an end.
        let step =
            step(Some(tunnel.state), Event::Acquired { replaced }).map_err(|_| Stop::Wait)?;
        let mut after = Tunnel::clone(tunnel);
        after.lease = LeaseNumber(tunnel.lease.0 + i64::from(step.new_lease));
        after.remote = self.wanted.remote;
        after.prefixes = prefixes;
        after.mtu = self.wanted.mtu;
        after.state = step.to;
        after.state_at = now;
        if replaced {
            self.replaced.push(tunnel.clone());
        }
        Ok(Plan::Edits(vec![Edit::Tunnel {
            before: Some(tunnel.clone()),
            after: Arc::new(after),
            cause: step.cause,
        }]))
    }

    fn create(&self, state: &mut State, prefixes: Vec<Ipv6Net>, now: i64) -> Result<Plan, Stop> {
        let wanted = &self.wanted;
        check_limits(state, wanted, &self.shared)?;
        let (slot, pair) = choose_slot(state, wanted)?;
        let transport = choose_transport(state, wanted)?;
        let step = step(None, Event::Acquired { replaced: false }).map_err(|_| Stop::Wait)?;
        let id = TunnelId(state.next.tunnel);
        state.next.tunnel += 1;
        let tunnel = Tunnel {
            id,
            account: wanted.account,
            service: wanted.service.clone(),
            lease: LeaseNumber(1),
            slot,
            profile: wanted.profile,
            transport,
            local: wanted.local,
            remote: wanted.remote,
            pair,
            prefixes,
            mtu: wanted.mtu,
            state: step.to,
            state_at: now,
            created_at: now,
            revision: 0,
        };
        Ok(Plan::Edits(vec![Edit::Tunnel {
            before: None,
            after: Arc::new(tunnel),
            cause: step.cause,
        }]))
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Error {
    Error::Invalid {
        field,
        problem: problem.into(),
    }
}

fn check(wanted: &Acquire, max_prefixes: usize) -> Result<(), Error> {
    let service = wanted.service.as_bytes();
    let letters = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    if !(1..=32).contains(&service.len()) || !service.iter().all(letters) {
        return Err(invalid("service", "1 to 32 of [a-z0-9-]"));
    }
    let most = match wanted.transport {
        WantedTransport::SixInFour => 1480,
        WantedTransport::Udp { .. } => 1472,
    };
    if !(1280..=most).contains(&wanted.mtu) {
        return Err(invalid("mtu", format!("1280 to {most}")));
    }
    let unicast = |a: Ipv4Addr| !(a.is_unspecified() || a.is_multicast() || a.is_broadcast());
    if !unicast(wanted.local) {
        return Err(invalid("local", "not a unicast address"));
    }
    if !unicast(wanted.remote) || wanted.remote == wanted.local {
        return Err(invalid("remote", "not another unicast address"));
    }
    if wanted.prefixes.len() > max_prefixes {
        return Err(invalid("prefixes", format!("more than {max_prefixes}")));
    }
    for (index, prefix) in wanted.prefixes.iter().enumerate() {
        if prefix.trunc() != *prefix || prefix.prefix_len() < 8 {
            return Err(invalid(
                "prefixes",
                format!("{prefix}: host bits, or too short"),
            ));
        }
        if wanted.prefixes[..index].contains(prefix) {
            return Err(invalid("prefixes", format!("{prefix} twice")));
        }
    }
    match (wanted.profile, wanted.host_prefix) {
        (Profile::Host, None) => Err(invalid("host_prefix", "needed for a host tunnel")),
        (Profile::Host, Some(p)) if p.prefix_len() < 64 || p.prefix_len() > 125 => {
            Err(invalid("host_prefix", "a /64 to /125"))
        }
        _ => Ok(()),
    }
}

/// Another account's claim to the prefix.
fn foreign_claim(state: &State, prefix: Ipv6Net, wanted: &Acquire) -> Result<(), Stop> {
    let foreign = state
        .claims
        .overlapping(prefix, |claim| claim.account != wanted.account);
    let Some(claim) = foreign else {
        return Ok(());
    };
    let leaving = claim.tunnel.is_some_and(|id| state.releasing.contains(&id));
    if leaving && !claim.own {
        return Err(Stop::Wait);
    }
    Err(Error::PrefixInUse { prefix }.into())
}

fn check_ends(state: &State, wanted: &Acquire) -> Result<(), Stop> {
    let (local, remote) = (wanted.local, wanted.remote);
    if wanted.transport != WantedTransport::SixInFour {
        return Ok(());
    }
    match state.between(local, remote) {
        Some(entry) if entry.tunnel.state == TunnelState::Releasing => Err(Stop::Wait),
        Some(entry) if entry.tunnel.account != wanted.account => {
            Err(Error::EndpointInUse { local, remote }.into())
        }
        _ => Ok(()),
    }
}

fn check_limits(state: &State, wanted: &Acquire, shared: &Shared) -> Result<(), Stop> {
    let sold_out = Stop::Error(Error::SoldOut { what: "tunnel" });
    if state.tunnels.len() >= shared.config.max_tunnels {
        return Err(sold_out);
    }
    let limit = shared.config.tunnels_per_account as usize;
    if limit == 0 {
        return Ok(());
    }
    let has = state.account(wanted.account).map_or(0, |account| {
        let all = account.tunnels.iter();
        all.filter(|id| !state.releasing.contains(*id)).count()
    });
    match has < limit {
        true => Ok(()),
        false => Err(sold_out),
    }
}

fn choose_slot(state: &State, wanted: &Acquire) -> Result<(Slot, Option<AddressPair>), Stop> {
    let prefix = wanted
        .host_prefix
        .filter(|_| wanted.profile == Profile::Host);
    let taken = prefix.and_then(|prefix| state.pairs.taken(prefix));
    let sold_out = |choice: &SlotChoice| {
        let mut leaving = state.releasing.iter().filter_map(|id| state.tunnel(*id));
        match leaving.any(|entry| fits(choice, &entry.tunnel.slot)) {
            true => Stop::Wait,
            false => Stop::Error(Error::SoldOut { what: "interface" }),
        }
    };
    let Some(slot) = state.slots.choose(&wanted.slot, taken) else {
        return Err(sold_out(&wanted.slot));
    };
    let Some(prefix) = prefix else {
        return Ok((slot, None));
    };
    let sold = Stop::Error(Error::SoldOut { what: "prefix" });
    let pair = pair_of(prefix, slot.unit).ok_or(sold)?;
    foreign_claim(state, link_of(&pair), wanted)?;
    Ok((slot, Some(pair)))
}

fn choose_transport(state: &State, wanted: &Acquire) -> Result<Transport, Stop> {
    let WantedTransport::Udp {
        ports,
        remote_port,
        any_source,
    } = &wanted.transport
    else {
        return Ok(Transport::SixInFour);
    };
    let Some(local_port) = state.ports.choose(wanted.local, ports) else {
        let mut leaving = state.releasing.iter().filter_map(|id| state.tunnel(*id));
        let soon = leaving.any(|entry| match entry.tunnel.transport {
            Transport::Udp { local_port, .. } => {
                entry.tunnel.local == wanted.local && ports.contains(&local_port)
            }
            Transport::SixInFour => false,
        });
        return Err(match soon {
            true => Stop::Wait,
            false => Stop::Error(Error::SoldOut { what: "UDP port" }),
        });
    };
    Ok(Transport::Udp {
        local_port,
        remote_port: *remote_port,
        any_source: *any_source,
    })
}
