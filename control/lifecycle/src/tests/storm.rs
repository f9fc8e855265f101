//! Many at once: random lives with crashes, and how fast it goes.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use ipnet::Ipv6Net;
use proptest::prelude::*;

use super::model::{RELAY, World, account, clock, link, stand_still, until};
use crate::pairs::link_of;
use crate::store::{Batch, Tombstone, Write};
use crate::*;

#[derive(Clone, Debug)]
enum Step {
    /// Account, kind of tunnel, host.
    Login(usize, u8, u8),
    /// Several at once, so that they share a transaction.
    Burst(usize, u8),
    Logout(usize),
    /// The process is killed and starts again; so many seconds of the grace pass.
    Crash(u8),
    RestartDataplane(usize),
    CutDataplane(usize),
    Away(usize, bool),
    StoreAway(bool),
    LoseAnswer,
    /// An account gets a prefix of a pool.
    Delegate(usize),
    TakeBack(usize),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..4, 0_u8..5, 1_u8..8).prop_map(|(a, k, h)| Step::Login(a, k, h)),
        2 => (0_usize..4, 0_u8..5).prop_map(|(a, k)| Step::Burst(a, k)),
        4 => (0_usize..20).prop_map(Step::Logout),
        1 => prop_oneof![0_u8..5, 80_u8..89].prop_map(Step::Crash),
        1 => (0_usize..2).prop_map(Step::RestartDataplane),
        1 => (0_usize..2).prop_map(Step::CutDataplane),
        1 => (0_usize..2, any::<bool>()).prop_map(|(d, away)| Step::Away(d, away)),
        1 => any::<bool>().prop_map(Step::StoreAway),
        1 => Just(Step::LoseAnswer),
        2 => (0_usize..4).prop_map(Step::Delegate),
        2 => (0_usize..20).prop_map(Step::TakeBack),
        3 => (1_u16..20_000).prop_map(Step::Pass),
    ]
}

fn wish(account: AccountId, kind: u8, host: u8) -> Acquire {
    let bare = link(account, host);
    let udp = WantedTransport::Udp {
        ports: 4028..=4032,
        remote_port: None,
        any_source: false,
    };
    match kind {
        0 => bare,
        1 => Acquire {
            profile: Profile::Host,
            host_prefix: Some(HOSTS.parse().unwrap()),
            ..bare
        },
        2 => Acquire {
            profile: Profile::Network,
            exclusive: true,
            ..bare
        },
        3 => Acquire {
            transport: udp,
            ..bare
        },
        _ => Acquire {
            slot: SlotChoice::Exactly(Slot {
                stem: "gif".into(),
                unit: 2,
            }),
            transport: udp,
            exclusive: true,
            ..bare
        },
    }
}

/// No number is given twice.
fn check_numbers(tunnels: &[Tunnel]) {
    let mut seen = HashSet::new();
    for tunnel in tunnels {
        let mut numbers = vec![format!("slot {}", tunnel.slot)];
        numbers.push(match tunnel.transport {
            Transport::SixInFour => format!("ends {} {}", tunnel.local, tunnel.remote),
            Transport::Udp { local_port, .. } => format!("port {} {local_port}", tunnel.local),
        });
        let prefixes = tunnel.prefixes.iter().copied();
        let prefixes = prefixes.chain(tunnel.pair.iter().map(link_of));
        numbers.extend(prefixes.map(|p| format!("prefix {p}")));
        for number in numbers {
            assert!(seen.insert(number.clone()), "{number} twice: {tunnels:#?}");
        }
    }
}

const HOSTS: &str = "2001:db8:ffff::/64";
const HOST_QUARANTINE: u32 = 15;
const DELEGATION_QUARANTINE: u32 = 25;

/// No pair came back before its time.
fn check_quarantine(tombstones: &[Tombstone], live: &[Tunnel]) {
    // Pair, from when to when it was nobody else's.
    let mut spans = Vec::new();
    for tombstone in tombstones {
        let tunnel = &tombstone.tunnel;
        if let Some(pair) = tunnel.pair {
            let least = tunnel.state_at + i64::from(HOST_QUARANTINE) * 1_000_000;
            spans.push((pair.client, tunnel.created_at, least));
        }
    }
    let pairs = live
        .iter()
        .filter_map(|t| Some((t.pair?.client, t.created_at)));
    spans.extend(pairs.map(|(client, from)| (client, from, i64::MAX)));
    spans.sort_unstable();
    for two in spans.windows(2) {
        let [(pair, _, until), (next, from, _)] = *two else {
            continue;
        };
        assert!(pair != next || until <= from, "{pair} came back too early");
    }
}

struct Storm {
    world: World,
    service: Lifecycle,
    accounts: Vec<AccountId>,
    leases: Vec<Lease>,
    pool: PoolId,
    delegated: Vec<(AccountId, Ipv6Net)>,
    /// When somebody had to give it back, at the earliest.
    taken_back: HashMap<Ipv6Net, i64>,
}

impl Storm {
    async fn new() -> Self {
        let world = World::new(2).await;
        let service = world.start().await;
        let mut accounts = Vec::new();
        for n in 0..4 {
            let prefix = format!("2001:db8:{n}::/48");
            accounts.push(account(&service, &format!("user{n}"), &[&prefix]).await);
        }
        let hosts = NewPool {
            name: "hosts".to_owned(),
            kind: PoolKind::HostPair,
            prefix: HOSTS.parse().unwrap(),
            quarantine_seconds: HOST_QUARANTINE,
        };
        service.add_pool(hosts).await.unwrap();
        let homes = NewPool {
            name: "homes".to_owned(),
            kind: PoolKind::Delegation { len: 64 },
            prefix: "2001:db8:d::/61".parse().unwrap(),
            quarantine_seconds: DELEGATION_QUARANTINE,
        };
        let pool = service.add_pool(homes).await.unwrap().id;
        Self {
            world,
            service,
            accounts,
            leases: Vec::new(),
            pool,
            delegated: Vec::new(),
            taken_back: HashMap::new(),
        }
    }

    async fn delegate(&mut self, account: AccountId) {
        let Ok(prefix) = self.service.delegate(account, self.pool).await else {
            return;
        };
        let taken_back = self.taken_back.get(&prefix).copied().unwrap_or(0);
        let until = taken_back + i64::from(DELEGATION_QUARANTINE) * 1_000_000;
        assert!(clock().now() >= until, "{prefix} came back too early");
        self.delegated.push((account, prefix));
    }

    async fn take_back(&mut self, which: usize) {
        if self.delegated.is_empty() {
            return;
        }
        let which = which % self.delegated.len();
        let (account, prefix) = self.delegated[which];
        let now = clock().now();
        let done = self.service.take_back(account, prefix).await;
        // Not done in time may be done yet: then it is tried again, and is not found.
        if matches!(done, Ok(()) | Err(AdminError::NotFound { .. })) {
            self.delegated.swap_remove(which);
        }
        if done.is_ok() {
            self.taken_back.insert(prefix, now);
        }
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Login(account, kind, host) => {
                let wish = wish(self.accounts[account], kind, host);
                self.leases.extend(self.service.acquire(wish).await.ok());
            }
            Step::Burst(account, kind) => {
                let account = self.accounts[account];
                let wishes = (1..8).map(|host| self.service.acquire(wish(account, kind, host)));
                let given = futures::future::join_all(wishes).await;
                self.leases.extend(given.into_iter().flatten());
            }
            Step::Logout(which) if !self.leases.is_empty() => {
                let lease = self.leases.swap_remove(which % self.leases.len());
                drop(
                    self.service
                        .release(lease.tunnel, lease.number, Cause::Quit),
                );
            }
            Step::Logout(_) => {}
            Step::Crash(pass) => self.crash(pass).await,
            Step::RestartDataplane(n) => self.world.dataplanes[n].restart(),
            Step::CutDataplane(n) => self.world.dataplanes[n].cut(),
            Step::Away(n, away) => {
                self.world.dataplanes[n].table.lock().away = away;
                self.world.dataplanes[n].cut();
            }
            Step::StoreAway(away) => self.world.trouble.lock().away = away,
            Step::Delegate(account) => self.delegate(self.accounts[account]).await,
            Step::TakeBack(which) => self.take_back(which).await,
            Step::LoseAnswer => self.world.trouble.lock().lost_answers = 1,
            Step::Pass(millis) => tokio::time::sleep(Duration::from_millis(millis.into())).await,
        }
        check_numbers(&self.service.tunnels(&TunnelFilter::default(), None, 1000));
    }

    async fn crash(&mut self, pass: u8) {
        self.leases.clear();
        self.service.inner.kill();
        // A transaction that is under way ends before the store is read again, as with a lock.
        let store = self.world.store.clone();
        let mark = Batch::new(vec![vec![Write::RelayAt {
            relay: "d0".into(),
            seq: 0,
            at: 0,
        }]]);
        stand_still(async move { store.commit(&mark).await.unwrap() }).await;
        self.service = self.world.start().await;
        let all = TunnelFilter::default();
        let mut orphans = self.service.tunnels(&all, None, 1000);
        orphans.retain(|tunnel| tunnel.state == TunnelState::Orphaned);
        tokio::time::sleep(Duration::from_secs(pass.into())).await;
        for orphan in orphans {
            let now = self.service.tunnel(orphan.id).map(|tunnel| tunnel.state);
            assert_eq!(now, Some(TunnelState::Orphaned), "its grace is not over");
        }
    }

    /// Everything is well again, and time passes: what is left is what somebody holds.
    async fn quiet(&mut self) {
        self.world.trouble.lock().away = false;
        for dataplane in &self.world.dataplanes {
            dataplane.table.lock().away = false;
        }
        let service = &self.service;
        until("in step", || {
            service.stats().relays.iter().all(|r| r.synced)
        })
        .await;
        tokio::time::sleep(self.world.config.grace + Duration::from_secs(5)).await;
        until("nothing is on its way", || {
            let stats = service.stats();
            stats.releasing + stats.pending + stats.orphaned == 0
                && stats.relays.iter().all(|r| r.backlog == 0)
        })
        .await;
        let tunnels = service.tunnels(&TunnelFilter::default(), None, 1000);
        let ids: Vec<_> = tunnels.iter().map(|t| t.id).collect();
        for dataplane in &self.world.dataplanes {
            until("left-overs are gone", || dataplane.ids() == ids).await;
            for tunnel in &tunnels {
                let there = dataplane.table.lock().get(tunnel.id).unwrap().clone();
                assert_eq!(
                    (there.remote, &there.prefixes),
                    (tunnel.remote, &tunnel.prefixes)
                );
            }
        }
        let held: Vec<_> = self.leases.iter().map(|l| (l.tunnel, l.number)).collect();
        let holds = service.holds(&held).await.unwrap();
        let held: HashSet<_> = held
            .iter()
            .zip(holds)
            .filter(|(_, h)| *h)
            .map(|(l, _)| l.0)
            .collect();
        assert_eq!(
            held,
            ids.iter().copied().collect(),
            "somebody holds every tunnel there is"
        );
        service.shutdown().await;
        let loaded = self.world.store.load(0).await.unwrap();
        let stored: Vec<_> = loaded.tunnels.iter().map(|t| t.id).collect();
        assert_eq!(stored, ids, "the store agrees");
        let tombstones = self.world.store.tombstones(None, 10_000).await.unwrap();
        check_quarantine(&tombstones, &loaded.tunnels);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn no_number_twice_and_nothing_left_over(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut storm = Storm::new().await;
            for step in &steps {
                storm.step(step).await;
            }
            storm.quiet().await;
        });
    }
}

/// `cargo nextest run -p sixferry-lifecycle --run-ignored only --no-capture how_fast`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; set SIXFERRY_PERF_TUNNELS for another number than 20000"]
async fn how_fast() {
    let count = std::env::var("SIXFERRY_PERF_TUNNELS");
    let count: u32 = count.ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let world = World::new(1).await;
    let service = world.start().await;
    let mut accounts = Vec::new();
    for n in 0..100 {
        accounts.push(account(&service, &format!("user{n}"), &[]).await);
    }
    until("in step", || service.stats().relays[0].synced).await;
    let begin = Instant::now();
    let wishes = stream::iter(0..count).map(|n| {
        let wanted = Acquire {
            profile: Profile::Host,
            host_prefix: Some("2001:db8:ffff::/64".parse().unwrap()),
            remote: Ipv4Addr::from(0x0a00_0000 + n),
            local: RELAY,
            ..link(accounts[n as usize % 100], 0)
        };
        let service = service.clone();
        tokio::spawn(async move { service.acquire(wanted).await })
    });
    let leases: Vec<_> = wishes.buffer_unordered(1024).collect().await;
    let leases: Vec<Lease> = leases.into_iter().map(|l| l.unwrap().unwrap()).collect();
    let took = begin.elapsed();
    let stats = service.stats();
    println!(
        "{} acquires/s with 1024 at once: {count} in {took:.2?}, {} commits",
        (f64::from(count) / took.as_secs_f64()) as u64,
        stats.commits,
    );
    let cut: Vec<_> = leases.iter().take(10_000).collect();
    let begin = Instant::now();
    let left = leases.len() - cut.len();
    for lease in &cut {
        drop(service.release(lease.tunnel, lease.number, Cause::ConnectionLost));
    }
    let table = Arc::clone(&world.dataplanes[0].table);
    until("they are gone", || table.lock().len() == left).await;
    println!(
        "{} cut at once: gone after {:.2?}",
        cut.len(),
        begin.elapsed()
    );
    service.shutdown().await;
}
