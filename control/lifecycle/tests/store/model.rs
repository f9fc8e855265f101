//! Random groups against a model in memory: the same are accepted, and the same is there after it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sixferry_lifecycle::secret::Sealed;
use sixferry_lifecycle::store::{Batch, Group, Store, StoreOptions, Write};
use sixferry_lifecycle::{
    Account, AccountId, Cause, Slot, Transport, Tunnel, TunnelId, TunnelState,
};

use crate::home::{Home, account, bury, insert, tunnel};

/// A wish, made into a write when the state it meets is known.
#[derive(Clone, Debug)]
enum Wish {
    Account {
        id: i64,
        name: u8,
        prefix: Option<u8>,
    },
    Rename {
        id: i64,
        name: u8,
    },
    Secret {
        id: i64,
        set: bool,
    },
    Remove {
        id: i64,
    },
    Insert {
        old_id: Option<i64>,
        owner: i64,
        unit: u32,
        remote: u8,
        port: Option<u16>,
        prefixes: Vec<u8>,
    },
    Move {
        which: usize,
        prefixes: Option<Vec<u8>>,
    },
    Bury {
        which: usize,
        quarantine: i64,
    },
    Forget {
        which: usize,
    },
}

fn wish() -> impl Strategy<Value = Wish> {
    let prefixes = || {
        prop::collection::btree_set(0_u8..8, 0..3)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>())
    };
    prop_oneof![
        1 => (1_i64..4, 0_u8..3, prop::option::of(0_u8..2))
            .prop_map(|(id, name, prefix)| Wish::Account { id, name, prefix }),
        1 => (1_i64..4, 0_u8..3).prop_map(|(id, name)| Wish::Rename { id, name }),
        1 => (1_i64..4, any::<bool>()).prop_map(|(id, set)| Wish::Secret { id, set }),
        1 => (1_i64..4).prop_map(|id| Wish::Remove { id }),
        8 => (
            prop::option::weighted(0.1, 1_i64..9), 1_i64..4, 0_u32..6, 0_u8..6,
            prop::option::of(0_u16..4), prefixes(),
        ).prop_map(|(old_id, owner, unit, remote, port, prefixes)| {
            Wish::Insert { old_id, owner, unit, remote, port, prefixes }
        }),
        4 => (any::<usize>(), prop::option::of(prefixes()))
            .prop_map(|(which, prefixes)| Wish::Move { which, prefixes }),
        4 => (any::<usize>(), 0_i64..100)
            .prop_map(|(which, quarantine)| Wish::Bury { which, quarantine }),
        1 => any::<usize>().prop_map(|which| Wish::Forget { which }),
    ]
}

/// What the store must hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    accounts: BTreeMap<i64, Account>,
    secrets: BTreeMap<i64, Sealed>,
    tunnels: BTreeMap<i64, Tunnel>,
    tombstones: BTreeMap<i64, (Tunnel, i64)>,
    seq: i64,
}

impl Model {
    /// Applies writes in order, without looking at what must be unique; `None`: what is to be changed
    /// is not there, or what comes is.
    fn apply(&mut self, writes: &[Write]) -> Option<()> {
        for write in writes {
            self.seq += 1;
            match write {
                Write::InsertAccount(account) => {
                    let before = self.accounts.insert(account.id.0, account.clone());
                    before.is_none().then_some(())?;
                }
                Write::UpdateAccount(account) => {
                    let present = self.accounts.get_mut(&account.id.0)?;
                    *present = account.clone();
                }
                Write::SetSecret {
                    account,
                    secret,
                    at,
                } => {
                    self.accounts.get_mut(&account.0)?.changed_at = *at;
                    self.secrets.remove(&account.0);
                    self.secrets
                        .extend(secret.clone().map(|secret| (account.0, secret)));
                }
                Write::RemoveAccount { account, .. } => {
                    self.accounts.remove(&account.0)?;
                    self.secrets.remove(&account.0);
                    let has_tunnel = self.tunnels.values().any(|t| t.account == *account);
                    (!has_tunnel).then_some(())?;
                }
                Write::InsertTunnel { tunnel, .. } => {
                    self.accounts.get(&tunnel.account.0)?;
                    let id = tunnel.id.0;
                    (!self.tombstones.contains_key(&id)).then_some(())?;
                    let mut tunnel = tunnel.clone();
                    tunnel.revision = self.seq;
                    self.tunnels.insert(id, tunnel).is_none().then_some(())?;
                }
                Write::UpdateTunnel {
                    tunnel,
                    new_prefixes,
                    ..
                } => {
                    let present = self.tunnels.get_mut(&tunnel.id.0)?;
                    let mut tunnel = tunnel.clone();
                    tunnel.revision = self.seq;
                    if !new_prefixes {
                        tunnel.prefixes.clone_from(&present.prefixes);
                    }
                    *present = tunnel;
                }
                Write::BuryTunnel {
                    tunnel,
                    quarantine_until,
                    ..
                } => {
                    let gone = Tunnel {
                        state: TunnelState::Tombstone,
                        revision: self.seq,
                        prefixes: self.tunnels.remove(&tunnel.id.0)?.prefixes,
                        ..tunnel.clone()
                    };
                    self.tombstones
                        .insert(tunnel.id.0, (gone, *quarantine_until));
                }
                Write::ForgetTunnel { tunnel, .. } => {
                    self.tombstones.remove(&tunnel.0)?;
                }
                other => panic!("not generated: {other:?}"),
            }
        }
        Some(())
    }

    fn is_unique(&self) -> bool {
        fn all_different<T: Ord>(mut keys: Vec<T>) -> bool {
            let count = keys.len();
            keys.sort();
            keys.dedup();
            keys.len() == count
        }
        let tunnels = || self.tunnels.values();
        let port = |t: &Tunnel| match t.transport {
            Transport::SixInFour => None,
            Transport::Udp { local_port, .. } => Some(local_port),
        };
        all_different(self.accounts.values().map(|a| a.name.clone()).collect())
            && all_different(
                self.accounts
                    .values()
                    .flat_map(|a| a.prefixes.clone())
                    .collect(),
            )
            && all_different(tunnels().map(|t| t.slot.clone()).collect())
            && all_different(
                tunnels()
                    .filter(|t| port(t).is_none())
                    .map(|t| t.remote)
                    .collect(),
            )
            && all_different(tunnels().filter_map(port).collect())
            && all_different(tunnels().filter_map(|t| t.pair.map(|p| p.client)).collect())
            && all_different(tunnels().flat_map(|t| t.prefixes.clone()).collect())
    }

    /// Applies groups and looks at what must be unique where the store does: around every write that
    /// is not a tunnel's, and at the end. What is given up in between is free for all of them.
    fn apply_together(&mut self, groups: &[Group]) -> Option<()> {
        for write in groups.iter().flatten() {
            let is_tunnels = matches!(
                write,
                Write::InsertTunnel { .. } | Write::UpdateTunnel { .. } | Write::BuryTunnel { .. }
            );
            (is_tunnels || self.is_unique()).then_some(())?;
            self.apply(std::slice::from_ref(write))?;
            (is_tunnels || self.is_unique()).then_some(())?;
        }
        self.is_unique().then_some(())
    }

    /// All groups, or else each half, down to one; whether each is accepted.
    fn commit(&mut self, groups: &[Group]) -> Vec<bool> {
        let mut after = self.clone();
        if after.apply_together(groups).is_some() {
            *self = after;
            return vec![true; groups.len()];
        }
        if groups.len() == 1 {
            return vec![false];
        }
        let (left, right) = groups.split_at(groups.len() / 2);
        let mut accepted = self.commit(left);
        accepted.extend(self.commit(right));
        accepted
    }

    /// Wishes into a group, each as the ones before it leave the state. Accounts first: they are not
    /// folded with the tunnels, whose order within a group is free.
    fn group(&self, mut wishes: Vec<Wish>, next: &mut i64) -> Group {
        wishes.sort_by_key(|wish| {
            matches!(
                wish,
                Wish::Insert { .. } | Wish::Move { .. } | Wish::Bury { .. }
            )
        });
        let mut state = self.clone();
        let mut group = Group::new();
        for wish in wishes {
            let Some(write) = state.write(wish, next) else {
                continue;
            };
            let _ = state.apply(std::slice::from_ref(&write));
            group.push(write);
        }
        group
    }

    fn write(&self, wish: Wish, next: &mut i64) -> Option<Write> {
        let prefix = |n: u8| format!("2001:db8:{n:x}::/48").parse().expect("prefix");
        let pick = |which: usize| {
            let count = self.tunnels.len().max(1);
            self.tunnels.values().nth(which % count).cloned()
        };
        Some(match wish {
            Wish::Account {
                id,
                name,
                prefix: number,
            } => Write::InsertAccount(Account {
                name: format!("n{name}"),
                prefixes: number.map(prefix).into_iter().collect(),
                ..account(id)
            }),
            Wish::Rename { id, name } => {
                let present = self.accounts.get(&id).cloned();
                Write::UpdateAccount(Account {
                    name: format!("n{name}"),
                    changed_at: 7_000 + id,
                    ..present.unwrap_or_else(|| account(id))
                })
            }
            Wish::Secret { id, set } => Write::SetSecret {
                account: AccountId(id),
                secret: set.then(|| Sealed::from_bytes(vec![id as u8, 1])),
                at: 8_000,
            },
            Wish::Remove { id } => Write::RemoveAccount {
                account: AccountId(id),
                at: 9_000,
            },
            Wish::Insert {
                old_id,
                owner,
                unit,
                remote,
                port,
                prefixes,
            } => {
                *next += 1;
                let mut wanted = tunnel(old_id.unwrap_or(*next), owner);
                wanted.slot = Slot {
                    stem: "gif".into(),
                    unit,
                };
                wanted.remote = Ipv4Addr::new(10, 0, 0, remote);
                wanted.prefixes = prefixes.into_iter().map(prefix).collect();
                if let Some(port) = port {
                    wanted.pair = None;
                    wanted.transport = Transport::Udp {
                        local_port: 4_000 + port,
                        remote_port: Some(port),
                        any_source: port == 1,
                    };
                }
                insert(&wanted)
            }
            Wish::Move { which, prefixes } => {
                *next += 1;
                let before = pick(which)?;
                let mut tunnel = before.clone();
                // Somewhere nobody was before: what is given up is free for others.
                tunnel.remote = Ipv4Addr::from(0x0b00_0000 + u32::try_from(*next).expect("few"));
                tunnel.state = TunnelState::Active;
                tunnel.lease.0 += 1;
                let new_prefixes = prefixes.is_some();
                if let Some(prefixes) = prefixes {
                    tunnel.prefixes = prefixes.into_iter().map(prefix).collect();
                }
                let (from, cause) = (before.state, Cause::Login);
                Write::UpdateTunnel {
                    tunnel,
                    from,
                    cause,
                    new_prefixes,
                }
            }
            Wish::Bury { which, quarantine } => bury(&pick(which)?, 6_000, quarantine),
            Wish::Forget { which } => {
                let count = self.tombstones.len().max(1);
                let tunnel = TunnelId(*self.tombstones.keys().nth(which % count)?);
                Write::ForgetTunnel { tunnel, at: 6_500 }
            }
        })
    }
}

async fn compare(store: &Store, model: &Model) {
    let loaded = store.load(50).await.expect("load");
    let mut accounts: Vec<_> = model.accounts.values().cloned().collect();
    for account in &mut accounts {
        account.has_secret = model.secrets.contains_key(&account.id.0);
    }
    assert_eq!(loaded.accounts, accounts);
    assert_eq!(
        loaded.tunnels,
        model.tunnels.values().cloned().collect::<Vec<_>>()
    );
    let quarantined = model.tombstones.values().filter(|(_, until)| *until > 50);
    let seen = loaded
        .tombstones
        .iter()
        .map(|t| (t.tunnel.clone(), t.quarantine_until));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        quarantined.cloned().collect::<Vec<_>>()
    );
    assert_eq!(loaded.last_seq, model.seq);
    let secrets = store.secrets(AccountId(0), 100).await.expect("secrets");
    let secrets: BTreeMap<_, _> = secrets.into_iter().map(|(id, s)| (id.0, s)).collect();
    assert_eq!(secrets, model.secrets);
    let log = store.changes_since(0, 10_000).await.expect("log");
    assert!(log.iter().map(|change| change.seq).eq(1..=model.seq));
}

async fn play(url: &str, batches: Vec<Vec<Vec<Wish>>>) -> (usize, usize) {
    let options = StoreOptions::default();
    let store = Store::open(url, &options).await.expect("open");
    let mut model = Model::default();
    let mut next = 100;
    let mut counts = (0, 0);
    for batch in batches {
        // Every group is thought out on the state before the batch and the groups before it.
        let mut thought = model.clone();
        let groups: Vec<Group> = batch
            .into_iter()
            .map(|wishes| {
                let group = thought.group(wishes, &mut next);
                thought.commit(std::slice::from_ref(&group));
                group
            })
            .collect();
        let batch = Batch::new(groups);
        let answers = store.commit(&batch).await.expect("commit");
        let accepted: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(
            model.commit(batch.groups()),
            accepted,
            "{answers:?}\n{batch:#?}"
        );
        counts.0 += accepted.iter().filter(|accepted| **accepted).count();
        counts.1 += accepted.iter().filter(|accepted| !**accepted).count();
        compare(&store, &model).await;
    }
    store.close().await;
    let store = Store::open(url, &options).await.expect("open again");
    compare(&store, &model).await;
    counts
}

fn random_sequences(cases: u32, home: impl Fn() -> (Option<Home>, String)) {
    let accepted = Arc::new(AtomicU32::new(0));
    let refused = Arc::new(AtomicU32::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let group = prop::collection::vec(wish(), 1..4);
    let batches = prop::collection::vec(prop::collection::vec(group, 1..8), 1..12);
    TestRunner::new(config)
        .run(&batches, |batches| {
            let (_home, url) = home();
            let counts = runtime.block_on(play(&url, batches));
            let add = |total: &AtomicU32, count: usize| {
                total.fetch_add(u32::try_from(count).expect("few"), Ordering::Relaxed);
            };
            add(&accepted, counts.0);
            add(&refused, counts.1);
            Ok(())
        })
        .expect("as the model");
    let (accepted, refused) = (
        accepted.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
    );
    println!("{accepted} groups accepted, {refused} refused");
    assert!(
        accepted > cases && refused > cases,
        "the sequences are not random enough"
    );
}

#[test]
fn random_sequences_on_sqlite() {
    random_sequences(64, || {
        let home = Home::sqlite();
        let url = home.url();
        (Some(home), url)
    });
}

#[test]
#[ignore = "needs root"]
fn random_sequences_on_postgresql() {
    let home = Home::postgresql();
    let Home::Postgresql(cluster) = &home else {
        unreachable!("made so")
    };
    let number = AtomicU32::new(0);
    random_sequences(24, || {
        let name = format!("case{}", number.fetch_add(1, Ordering::Relaxed));
        (None, cluster.create_schema(&name).expect("schema"))
    });
}
