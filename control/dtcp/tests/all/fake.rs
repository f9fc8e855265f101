//! A lifecycle in memory: deterministic, and it fails, delays and takes away on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv6Net;
use parking_lot::Mutex;
use sixferry_dtcp::wire;
use sixferry_lifecycle::{
    AccountId, Acquire, AddressPair, Cause, Denied, Digest, Error, Lease, LeaseNumber, Profile,
    Reply, Revocation, RevokeCause, Slot, SlotChoice, Transport, TunnelId, Tunnels,
    WantedTransport,
};
use tokio::sync::{Semaphore, broadcast};

#[derive(Default)]
struct State {
    accounts: BTreeMap<String, (AccountId, String)>,
    live: BTreeMap<TunnelId, (AccountId, Acquire, Lease)>,
    slots: BTreeSet<Slot>,
    next: i64,
    failing: Option<Error>,
    checks: usize,
    /// Nothing can be given back.
    away: bool,
    /// What is asked about is taken away right after it was looked at.
    late: bool,
    released: Vec<Cause>,
}

pub(crate) struct Fake {
    state: Mutex<State>,
    revocations: Mutex<broadcast::Sender<Revocation>>,
    /// Acquisitions wait here while it has no permits.
    pub(crate) gate: Semaphore,
}

impl Fake {
    pub(crate) fn new(accounts: &[(&str, &str)]) -> Self {
        let fake = Self {
            state: Mutex::default(),
            revocations: Mutex::new(broadcast::Sender::new(1024)),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        };
        for (user, secret) in accounts {
            fake.set_account(user, secret);
        }
        fake
    }

    pub(crate) fn set_account(&self, user: &str, secret: &str) {
        let mut state = self.state.lock();
        let id = AccountId(i64::try_from(state.accounts.len()).unwrap() + 1);
        let entry = state
            .accounts
            .entry(user.to_owned())
            .or_insert((id, String::new()));
        entry.1 = secret.to_owned();
    }

    pub(crate) fn remove_account(&self, user: &str) {
        self.state.lock().accounts.remove(user);
    }

    /// From now on acquisitions end like this.
    pub(crate) fn fail(&self, error: Option<Error>) {
        self.state.lock().failing = error;
    }

    /// Whether tunnels cannot be given back from now on.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// From now on what is asked about is taken away after it was looked at and before the answer.
    pub(crate) fn revoke_what_is_asked_about(&self) {
        self.state.lock().late = true;
    }

    pub(crate) fn tunnels(&self) -> Vec<Lease> {
        self.state
            .lock()
            .live
            .values()
            .map(|(_, _, lease)| lease.clone())
            .collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Digests that were looked at.
    pub(crate) fn checks(&self) -> usize {
        self.state.lock().checks
    }

    /// Why tunnels were given back, in order.
    pub(crate) fn released(&self) -> Vec<Cause> {
        self.state.lock().released.clone()
    }

    pub(crate) fn revoke(&self, tunnel: TunnelId, cause: RevokeCause) {
        let mut state = self.state.lock();
        if let Some((_, _, lease)) = state.live.remove(&tunnel) {
            state.slots.remove(&lease.slot);
            let _ = self.revocations.lock().send(Revocation {
                tunnel,
                number: lease.number,
                cause,
            });
        }
    }

    /// Whoever listens for revocations hears that there will be no more.
    pub(crate) fn stop_telling(&self) {
        *self.revocations.lock() = broadcast::Sender::new(1);
    }

    /// More revocations than any receiver keeps, the true one among the first.
    pub(crate) fn revoke_in_a_flood(&self, tunnel: TunnelId) {
        self.revoke(tunnel, RevokeCause::Administrative);
        for other in 0..4096 {
            let _ = self.revocations.lock().send(Revocation {
                tunnel: TunnelId(1_000_000 + other),
                number: LeaseNumber(1),
                cause: RevokeCause::Replaced,
            });
        }
    }

    fn acquire_now(&self, wanted: Acquire) -> Result<Lease, Error> {
        let mut state = self.state.lock();
        if let Some(error) = &state.failing {
            return Err(error.clone());
        }
        if let Some(old) = takes_over(&state, &wanted)? {
            // The same tunnel, a new holder.
            let (_, _, lease) = state.live.get_mut(&old).unwrap();
            let number = lease.number;
            lease.number = LeaseNumber(number.0 + 1);
            lease.local = wanted.local;
            lease.remote = wanted.remote;
            lease.resumed = true;
            let lease = lease.clone();
            let cause = RevokeCause::Replaced;
            let _ = self.revocations.lock().send(Revocation {
                tunnel: old,
                number,
                cause,
            });
            return Ok(lease);
        }
        for (account, _, lease) in state.live.values() {
            for prefix in &wanted.prefixes {
                if *account != wanted.account && lease.prefixes.contains(prefix) {
                    return Err(Error::PrefixInUse { prefix: *prefix });
                }
            }
        }
        if wanted.profile == Profile::Network && wanted.prefixes.is_empty() && !wanted.prefixless {
            return Err(Error::NoPrefix);
        }
        let slot = free_slot(&state, &wanted.slot).ok_or(Error::SoldOut { what: "interface" })?;
        let transport =
            free_transport(&state, &wanted.transport).ok_or(Error::SoldOut { what: "UDP port" })?;
        state.next += 1;
        let lease = Lease {
            tunnel: TunnelId(state.next),
            number: LeaseNumber(1),
            pair: wanted.host_prefix.map(|prefix| pair(prefix, slot.unit)),
            slot,
            local: wanted.local,
            remote: wanted.remote,
            transport,
            prefixes: wanted.prefixes.clone(),
            mtu: wanted.mtu,
            resumed: false,
        };
        state.slots.insert(lease.slot.clone());
        state
            .live
            .insert(lease.tunnel, (wanted.account, wanted, lease.clone()));
        Ok(lease)
    }
}

fn takes_over(state: &State, wanted: &Acquire) -> Result<Option<TunnelId>, Error> {
    for (tunnel, (account, other, lease)) in &state.live {
        let same_slot = matches!(&wanted.slot, SlotChoice::Exactly(slot) if *slot == lease.slot);
        let same_kind = other.profile == wanted.profile;
        if wanted.exclusive && *account == wanted.account && (same_slot || same_kind) {
            return Ok(Some(*tunnel));
        }
        let ends = |local: Ipv4Addr, remote: Ipv4Addr| {
            lease.transport == Transport::SixInFour
                && wanted.transport == WantedTransport::SixInFour
                && (lease.local, lease.remote) == (local, remote)
        };
        if ends(wanted.local, wanted.remote) {
            if *account == wanted.account && same_kind {
                return Ok(Some(*tunnel));
            }
            return Err(Error::EndpointInUse {
                local: wanted.local,
                remote: wanted.remote,
            });
        }
    }
    Ok(None)
}

fn free_slot(state: &State, choice: &SlotChoice) -> Option<Slot> {
    match choice {
        SlotChoice::Range {
            stem,
            units,
            except,
        } => units
            .clone()
            .filter(|unit| !except.contains(unit))
            .map(|unit| Slot {
                stem: stem.clone(),
                unit,
            })
            .find(|slot| !state.slots.contains(slot)),
        SlotChoice::OneOf(slots) => slots
            .iter()
            .find(|slot| !state.slots.contains(*slot))
            .cloned(),
        SlotChoice::Exactly(slot) => (!state.slots.contains(slot)).then(|| slot.clone()),
    }
}

fn free_transport(state: &State, wanted: &WantedTransport) -> Option<Transport> {
    match wanted {
        WantedTransport::SixInFour => Some(Transport::SixInFour),
        WantedTransport::Udp {
            ports,
            remote_port,
            any_source,
        } => {
            let taken = |port: u16| {
                state.live.values().any(|(_, _, lease)| {
                    matches!(lease.transport, Transport::Udp { local_port, .. } if local_port == port)
                })
            };
            let local_port = ports.clone().find(|port| !taken(*port))?;
            Some(Transport::Udp {
                local_port,
                remote_port: *remote_port,
                any_source: *any_source,
            })
        }
    }
}

/// The server has 4(n+1)+1, the client the one after it.
pub(crate) fn pair(prefix: Ipv6Net, unit: u32) -> AddressPair {
    let server = u128::from(prefix.network()) + 4 * (u128::from(unit) + 1) + 1;
    AddressPair {
        server: server.into(),
        client: (server + 1).into(),
    }
}

impl Tunnels for Fake {
    fn authenticate<'a>(&'a self, attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            state.checks += 1;
            let user = std::str::from_utf8(attempt.user).unwrap_or_default();
            let nobody = (AccountId(0), "nobody's secret".to_owned());
            let found = state.accounts.get(user);
            let (account, secret) = found.unwrap_or(&nobody);
            let digest = wire::digest(attempt.user, attempt.challenge, secret.as_bytes());
            let differs = digest
                .iter()
                .zip(attempt.digest)
                .fold(0, |all, (a, b)| all | (a ^ b));
            Ok(if differs == 0 && found.is_some() {
                Ok(*account)
            } else {
                Err(Denied)
            })
        })
    }

    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease> {
        Box::pin(async move {
            let _permit = self.gate.acquire().await.unwrap();
            self.acquire_now(wanted)
        })
    }

    fn release<'a>(&'a self, tunnel: TunnelId, number: LeaseNumber, cause: Cause) -> Reply<'a, ()> {
        Box::pin(async move {
            let mut state = self.state.lock();
            if state.away {
                return Err(Error::Unavailable("the lifecycle is away".into()));
            }
            let holds = state
                .live
                .get(&tunnel)
                .is_some_and(|live| live.2.number == number);
            if holds && let Some((_, _, lease)) = state.live.remove(&tunnel) {
                state.slots.remove(&lease.slot);
                state.released.push(cause);
            }
            Ok(())
        })
    }

    fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.revocations.lock().subscribe()
    }

    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>> {
        Box::pin(async move {
            let (answer, late) = {
                let state = self.state.lock();
                let holds = |(tunnel, number): &(TunnelId, LeaseNumber)| {
                    state
                        .live
                        .get(tunnel)
                        .is_some_and(|live| live.2.number == *number)
                };
                (leases.iter().map(holds).collect(), state.late)
            };
            if late {
                for (tunnel, _) in leases {
                    self.revoke(*tunnel, RevokeCause::Refused);
                }
                // Long enough for everybody to hear of it before the answer.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(answer)
        })
    }
}
