//! Whatever the store refuses, does not take or answers too late: what is in memory is what a new start
//! would read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use ipnet::Ipv6Net;
use proptest::prelude::*;

use super::model::{World, clock, link, stand_still, until};
use crate::claims::Claim;
use crate::secret::Secret;
use crate::state::State;
use crate::*;

/// What somebody wants. Few names and numbers, so that many want the same.
#[derive(Clone, Debug)]
enum Wish {
    Add(u8, u8),
    Delete(u8),
    Secret(u8, Option<u8>),
    Status(u8, bool),
    Prefixes(u8, Vec<u8>),
    Delegate(u8),
    Assign(u8, u8),
    TakeBack(u8, u8),
    AddPool(u8),
    DeletePool(u8),
    Import(u8, u8, bool),
    Login(u8, u8, bool),
    Logout(u8),
    Disconnect(u8),
}

fn wish() -> impl Strategy<Value = Wish> {
    let name = || 0_u8..3;
    let number = || 0_u8..6;
    prop_oneof![
        3 => (name(), number()).prop_map(|(n, p)| Wish::Add(n, p)),
        3 => name().prop_map(Wish::Delete),
        2 => (name(), proptest::option::of(0_u8..3)).prop_map(|(n, s)| Wish::Secret(n, s)),
        1 => (name(), any::<bool>()).prop_map(|(n, s)| Wish::Status(n, s)),
        2 => (name(), proptest::collection::vec(number(), 0..3))
            .prop_map(|(n, p)| Wish::Prefixes(n, p)),
        2 => name().prop_map(Wish::Delegate),
        2 => (name(), number()).prop_map(|(n, p)| Wish::Assign(n, p)),
        2 => (name(), number()).prop_map(|(n, p)| Wish::TakeBack(n, p)),
        1 => (0_u8..2).prop_map(Wish::AddPool),
        1 => (0_u8..2).prop_map(Wish::DeletePool),
        2 => (name(), number(), any::<bool>()).prop_map(|(n, p, s)| Wish::Import(n, p, s)),
        6 => (name(), 1_u8..4, any::<bool>()).prop_map(|(n, h, e)| Wish::Login(n, h, e)),
        3 => (0_u8..8).prop_map(Wish::Logout),
        1 => name().prop_map(Wish::Disconnect),
    ]
}

/// What is wanted at once, and how the store takes it: refusals and failures in a hundred, whether it
/// is away for a while, whether an answer is lost.
type Round = (Vec<Wish>, u64, u64, bool, bool);

fn round() -> impl Strategy<Value = Round> {
    (
        proptest::collection::vec(wish(), 1..12),
        prop_oneof![Just(0_u64), Just(30), Just(70)],
        prop_oneof![Just(0_u64), Just(40)],
        any::<bool>(),
        any::<bool>(),
    )
}

/// One of the pool, or one that is nobody's.
fn prefix(number: u8) -> Ipv6Net {
    match number % 2 {
        0 => format!("2001:db8:d:{number}::/64"),
        _ => format!("2001:db8:{number}::/48"),
    }
    .parse()
    .unwrap()
}

fn name(number: u8) -> String {
    format!("user{number}")
}

fn secret(number: u8) -> Secret {
    Secret::new(vec![b'a' + number]).unwrap()
}

fn new_pool(number: u8) -> NewPool {
    NewPool {
        name: format!("pool{number}"),
        kind: PoolKind::Delegation { len: 64 },
        // The same: either is in the other's way.
        prefix: "2001:db8:d::/60".parse().unwrap(),
        quarantine_seconds: 0,
    }
}

fn status(active: bool) -> AccountStatus {
    match active {
        true => AccountStatus::Active,
        false => AccountStatus::Suspended,
    }
}

/// What comes of a wish. Everybody may be refused, and comes away with nothing.
type Outcome = BoxFuture<'static, Option<Lease>>;

macro_rules! run {
    ($call:expr) => {
        async move { drop($call.await) }.map(|()| None).boxed()
    };
}

fn id(service: &Lifecycle, n: u8) -> AccountId {
    let account = service.account_named(&name(n));
    account.map_or(AccountId(99), |account| account.id)
}

/// The one of this number, or the first there is.
fn pool(service: &Lifecycle, n: Option<u8>) -> PoolId {
    let wanted = n.map(|n| new_pool(n).name);
    let mut views = service.pools().into_iter();
    let found = views.find(|v| wanted.as_ref().is_none_or(|name| v.pool.name == *name));
    found.map_or(PoolId(99), |view| view.pool.id)
}

fn done(wish: Wish, service: &Lifecycle, leases: &[Lease]) -> Outcome {
    let service = service.clone();
    match wish {
        Wish::Login(n, host, exclusive) => {
            let wanted = Acquire {
                exclusive,
                ..link(id(&service, n), host)
            };
            async move { service.acquire(wanted).await.ok() }.boxed()
        }
        Wish::Logout(n) => match leases.get(usize::from(n)).cloned() {
            None => std::future::ready(None).boxed(),
            Some(lease) => run!(service.release(lease.tunnel, lease.number, Cause::Quit)),
        },
        Wish::Disconnect(n) => {
            let id = id(&service, n);
            run!(service.disconnect_account(id))
        }
        Wish::AddPool(n) => run!(service.add_pool(new_pool(n))),
        Wish::DeletePool(n) => {
            let pool = pool(&service, Some(n));
            run!(service.delete_pool(pool))
        }
        other => account_done(other, service),
    }
}

/// Those about accounts.
fn account_done(wish: Wish, service: Lifecycle) -> Outcome {
    match wish {
        Wish::Add(n, p) => {
            let new = NewAccount {
                name: name(n),
                secret: Some(secret(p)),
                status: AccountStatus::Active,
                prefixes: vec![prefix(p)],
            };
            run!(service.add_account(new))
        }
        Wish::Delete(n) => {
            let id = id(&service, n);
            run!(service.delete_account(id))
        }
        Wish::Secret(n, s) => {
            let id = id(&service, n);
            run!(service.set_secret(id, s.map(secret)))
        }
        Wish::Status(n, active) => {
            let id = id(&service, n);
            run!(service.set_status(id, status(active)))
        }
        Wish::Prefixes(n, all) => {
            let id = id(&service, n);
            run!(service.set_prefixes(id, all.into_iter().map(prefix).collect()))
        }
        Wish::Delegate(n) => {
            let (id, pool) = (id(&service, n), pool(&service, None));
            run!(service.delegate(id, pool))
        }
        Wish::Assign(n, p) => {
            let (id, pool) = (id(&service, n), pool(&service, None));
            run!(service.assign(id, pool, prefix(p)))
        }
        Wish::TakeBack(n, p) => {
            let id = id(&service, n);
            run!(service.take_back(id, prefix(p)))
        }
        Wish::Import(n, p, active) => {
            let wanted = ImportedAccount {
                name: name(n),
                status: Some(status(active)),
                secret: Some(secret(p)),
                prefixes: Some(vec![prefix(p)]),
            };
            run!(service.import(vec![wanted]))
        }
        other => unreachable!("{other:?} is not about an account"),
    }
}

/// An account, its secret, its tunnels, and those that wait for their user.
type Held = (
    Account,
    Option<secret::Sealed>,
    Vec<TunnelId>,
    Vec<TunnelId>,
);
/// A pool, how many of its numbers are given, and the free ones.
type Given = (Pool, Option<(u64, Vec<Ipv6Net>)>);

/// A mirror, put so that two of them can be compared.
#[derive(Debug, PartialEq)]
struct Summary {
    accounts: BTreeMap<i64, Held>,
    names: BTreeMap<String, AccountId>,
    pools: Vec<Given>,
    /// As decided, and as committed.
    tunnels: BTreeMap<i64, (Tunnel, Option<Tunnel>)>,
    order: Vec<TunnelId>,
    counts: crate::state::Counts,
    claims: Vec<String>,
    slots: Vec<u32>,
}

fn summary(state: &State) -> Summary {
    let accounts = state.accounts.iter().map(|(id, entry)| {
        let tunnels = entry.tunnels.iter().copied().collect();
        let orphans = entry.orphans.iter().copied().collect();
        let account = Account::clone(&entry.account);
        (id.0, (account, entry.sealed.clone(), tunnels, orphans))
    });
    let pools = state.pools.values().map(|entry| {
        let numbers = entry.delegations.as_ref();
        let numbers = numbers.map(|d| (d.used(), d.free_ones().collect()));
        (entry.pool.clone(), numbers)
    });
    let tunnels = state.tunnels.iter().map(|(id, entry)| {
        let committed = entry.committed.as_deref().cloned();
        (id.0, (Tunnel::clone(&entry.tunnel), committed))
    });
    let claims = RefCell::new(Vec::new());
    let note = |claim: &Claim| {
        claims.borrow_mut().push(format!("{claim:?}"));
        false
    };
    assert!(state.claims.overlapping(Ipv6Net::default(), note).is_none());
    let mut claims = claims.into_inner();
    claims.dedup();
    let taken = |unit: &u32| {
        let stem = "gif".into();
        state.slots.is_taken(&Slot { stem, unit: *unit })
    };
    Summary {
        accounts: accounts.collect(),
        names: state.names.clone(),
        pools: pools.collect(),
        tunnels: tunnels.collect(),
        order: state.order.iter().copied().collect(),
        counts: state.counts,
        claims,
        slots: (0..64).filter(taken).collect(),
    }
}

async fn stored(world: &World) -> Summary {
    let store = world.store.clone();
    let (loaded, secrets) = stand_still(async move {
        let loaded = store.load(clock().now()).await.unwrap();
        let secrets = store.secrets(AccountId(0), 10_000).await.unwrap();
        (loaded, secrets.into_iter().collect::<HashMap<_, _>>())
    })
    .await;
    let config = LifecycleConfig {
        // Nobody's session ended.
        session_bound: Vec::new(),
        ..world.config.clone()
    };
    summary(&State::load(loaded, secrets, &config, clock()))
}

async fn live_through(rounds: Vec<Round>, dice: u64) {
    let world = World::new(1).await;
    world.trouble.lock().dice = dice;
    let service = world.start().await;
    let mut leases = Vec::new();
    for (wishes, refuses, fails, away, lost) in rounds {
        {
            let mut trouble = world.trouble.lock();
            trouble.refuses = refuses;
            trouble.fails = fails;
            trouble.away = away;
            trouble.lost_answers = u32::from(lost);
        }
        let told = format!("{wishes:?}");
        let wishes = wishes.into_iter().map(|w| done(w, &service, &leases));
        let wishes = futures::future::join_all(wishes.collect::<Vec<_>>());
        let back = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            world.trouble.lock().away = false;
            std::future::pending::<()>().await;
        };
        let given = tokio::select! {
            given = wishes => given,
            () = back => unreachable!(),
        };
        leases.extend(given.into_iter().flatten());
        {
            let mut trouble = world.trouble.lock();
            (trouble.refuses, trouble.fails, trouble.away) = (0, 0, false);
            trouble.lost_answers = 0;
        }
        let shared = &service.inner.shared;
        until("nothing is on its way", || {
            let state = shared.state.lock();
            let late = !state.late.is_empty() || !state.burials.is_empty();
            let moving = state.counts.pending + state.counts.releasing > 0;
            let commits = state.tunnels.values().any(|t| t.in_commit)
                || state.accounts.values().any(|a| a.in_commit);
            let releases = !shared.releases.lock().is_empty();
            !(late || moving || commits || releases)
        })
        .await;
        // A late write that was taken out is not yet stored, but it is with the next transaction.
        let fence = NewAccount {
            name: format!("fence{}", service.stats().commits),
            secret: None,
            status: AccountStatus::Active,
            prefixes: Vec::new(),
        };
        service.add_account(fence).await.unwrap();
        let mirror = summary(&shared.state.lock());
        assert_eq!(mirror, stored(&world).await, "after {told}");
        assert!(!shared.end.is_over(), "the writer goes on");
    }
    service.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_mirror_is_what_a_new_start_reads(
        rounds in proptest::collection::vec(round(), 1..8),
        dice in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(live_through(rounds, dice));
    }
}
