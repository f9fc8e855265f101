//! What both engines must do alike.

use sixferry_lifecycle::secret::Sealed;
use sixferry_lifecycle::store::{Batch, Change, Conflict, Constraint, Write};
use sixferry_lifecycle::{
    AccountId, AccountStatus, AddressPair, Cause, Pool, PoolId, PoolKind, Profile, Slot, Transport,
    Tunnel, TunnelId, TunnelState,
};

pub(crate) use crate::after::*;
use crate::home::{Home, account, bury, commit, insert, put, tunnel, udp_tunnel};

pub(crate) fn pool(id: i64, kind: PoolKind) -> Pool {
    Pool {
        id: PoolId(id),
        name: format!("pool{id}"),
        kind,
        prefix: format!("2001:db8:{id:x}::/48").parse().expect("prefix"),
        quarantine_seconds: 3600,
    }
}

pub(crate) async fn accounts_and_pools_come_back(home: &Home) {
    let store = home.open().await;
    let mut first = account(1);
    first.prefixes = vec![
        "2001:db8:ff::/48".parse().expect("prefix"),
        "2001:db8:2::/64".parse().expect("prefix"),
    ];
    let second = account(2);
    let pairs = pool(1, PoolKind::HostPair);
    let mut networks = pool(2, PoolKind::Delegation { len: 56 });
    put(&store, vec![Write::InsertAccount(first.clone())]).await;
    put(&store, vec![Write::InsertAccount(second.clone())]).await;
    for pool in [&pairs, &networks] {
        let pool = pool.clone();
        put(&store, vec![Write::InsertPool { pool, at: 7 }]).await;
    }
    first.name = "renamed".to_owned();
    first.status = AccountStatus::Suspended;
    first.prefixes.remove(0);
    first.changed_at = 2_000;
    networks.quarantine_seconds = 0;
    networks.kind = PoolKind::Delegation { len: 64 };
    let committed = put(
        &store,
        vec![
            Write::UpdateAccount(first.clone()),
            Write::UpdatePool {
                pool: networks.clone(),
                at: 8,
            },
            Write::RemoveAccount {
                account: second.id,
                at: 9,
            },
            Write::RemovePool {
                pool: pairs.id,
                at: 10,
            },
        ],
    )
    .await;
    assert_eq!(committed.seqs, 5..9);
    let position = |seq| Write::RelayAt {
        relay: "lab".into(),
        seq,
        at: 11,
    };
    put(&store, vec![position(3), position(5)]).await;
    store.close().await;

    let store = home.open().await;
    let loaded = store.load(0).await.expect("load");
    assert_eq!(loaded.accounts, [first]);
    assert_eq!(loaded.pools, [networks]);
    assert_eq!(loaded.last_seq, 8);
    assert_eq!(loaded.relays.len(), 1);
    assert_eq!((&*loaded.relays[0].relay, loaded.relays[0].seq), ("lab", 5));
    assert_eq!(loaded.store_id.len(), 32);
    let log = store.changes_since(5, 100).await.expect("log");
    let log: Vec<_> = log
        .iter()
        .map(|change| (change.seq, change.at, change.change))
        .collect();
    assert_eq!(
        log,
        [
            (6, 8, Change::Pool(PoolId(2))),
            (7, 9, Change::AccountRemoved(AccountId(2))),
            (8, 10, Change::PoolRemoved(PoolId(1))),
        ]
    );
    assert_eq!(store.changes_since(0, 2).await.expect("log").len(), 2);
    store.ping().await.expect("ping");
}

pub(crate) async fn every_shape_of_tunnel_comes_back(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let mut shapes = vec![tunnel(1, 1), udp_tunnel(2, 1), udp_tunnel(3, 1)];
    shapes[2].transport = Transport::Udp {
        local_port: 65_535,
        remote_port: Some(1),
        any_source: false,
    };
    shapes.push(Tunnel {
        profile: Profile::Link,
        pair: None,
        service: "static".into(),
        slot: Slot {
            stem: "tun.x-y_z".into(),
            unit: u32::MAX,
        },
        ..tunnel(4, 1)
    });
    for (shape, revision) in shapes.iter_mut().zip(2..) {
        put(&store, vec![insert(shape)]).await;
        shape.revision = revision;
    }
    assert_eq!(store.load(0).await.expect("load").tunnels, shapes);

    // A new holder from somewhere else, with other prefixes; then one whose prefixes stay.
    shapes[1].state = TunnelState::Active;
    shapes[1].state_at = 9_000;
    shapes[1].remote = "10.9.9.9".parse().expect("address");
    shapes[1].lease.0 = 2;
    shapes[1].mtu = 1472;
    shapes[1].prefixes = vec!["2001:db8:beef::/48".parse().expect("prefix")];
    let update = |tunnel: &Tunnel, new_prefixes| Write::UpdateTunnel {
        tunnel: tunnel.clone(),
        from: TunnelState::Pending,
        cause: Cause::Confirmed,
        new_prefixes,
    };
    let committed = put(&store, vec![update(&shapes[1], true)]).await;
    shapes[1].revision = committed.seqs.start;
    shapes[2].state = TunnelState::Orphaned;
    let committed = put(&store, vec![update(&shapes[2], false)]).await;
    shapes[2].revision = committed.seqs.start;
    assert_eq!(store.load(0).await.expect("load").tunnels, shapes);

    let history = store.history(TunnelId(2), 10).await.expect("history");
    let history: Vec<_> = history
        .iter()
        .map(|entry| {
            (
                entry.seq,
                entry.at,
                entry.from,
                entry.to,
                entry.cause,
                entry.remote,
            )
        })
        .collect();
    let first = (
        3,
        5_002,
        None,
        TunnelState::Pending,
        Cause::Login,
        tunnel(2, 1).remote,
    );
    let from = Some(TunnelState::Pending);
    let second = (
        6,
        9_000,
        from,
        TunnelState::Active,
        Cause::Confirmed,
        shapes[1].remote,
    );
    assert_eq!(history, [first, second]);
    let last = store.history(TunnelId(2), 1).await.expect("history");
    assert_eq!(last[0].seq, 6);
}

pub(crate) async fn secrets_come_back_and_go_with_the_account(home: &Home) {
    let store = home.open().await;
    let secret = |account, sealed: Option<&[u8]>, at| Write::SetSecret {
        account: AccountId(account),
        secret: sealed.map(|bytes| Sealed::from_bytes(bytes.to_vec())),
        at,
    };
    let sealed = |bytes: &[u8]| Some(Sealed::from_bytes(bytes.to_vec()));
    for id in 1..=3 {
        put(&store, vec![Write::InsertAccount(account(id))]).await;
        put(
            &store,
            vec![secret(id, Some(&[id as u8, 0, 255]), 2_000 + id)],
        )
        .await;
    }
    put(
        &store,
        vec![secret(1, Some(b"other"), 3_000), secret(2, None, 3_000)],
    )
    .await;
    let read = |id| store.secret(AccountId(id));
    assert_eq!(read(1).await.expect("secret"), sealed(b"other"));
    assert_eq!(read(2).await.expect("secret"), None);
    assert_eq!(read(3).await.expect("secret"), sealed(&[3, 0, 255]));
    let all = store.secrets(AccountId(1), 10).await.expect("secrets");
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0, AccountId(3));
    let accounts = store.load(0).await.expect("load").accounts;
    let seen: Vec<_> = accounts
        .iter()
        .map(|a| (a.has_secret, a.changed_at))
        .collect();
    assert_eq!(seen, [(true, 3_000), (false, 3_000), (true, 2_003)]);

    let account = AccountId(3);
    put(&store, vec![Write::RemoveAccount { account, at: 4_000 }]).await;
    assert_eq!(read(3).await.expect("secret"), None);
}

async fn assert_refused(home: &Home, writes: Vec<Write>, constraint: Constraint) {
    let store = home.open().await;
    let before = store.load(0).await.expect("load");
    let answers = commit(&store, vec![writes]).await;
    assert_eq!(answers, [Err(Conflict { constraint })]);
    assert_eq!(store.load(0).await.expect("load"), before);
    store.close().await;
}

pub(crate) async fn every_constraint_has_its_name(home: &Home) {
    let store = home.open().await;
    let mut owner = account(1);
    owner.prefixes = vec!["2001:db8:aa::/48".parse().expect("prefix")];
    let host = tunnel(1, 1);
    let network = udp_tunnel(2, 1);
    let mut gone = tunnel(3, 1);
    put(&store, vec![Write::InsertAccount(owner.clone())]).await;
    let pairs = pool(1, PoolKind::HostPair);
    put(&store, vec![Write::InsertPool { pool: pairs, at: 1 }]).await;
    put(&store, vec![insert(&host), insert(&network), insert(&gone)]).await;
    put(&store, vec![bury(&gone, 10, 20)]).await;
    store.close().await;

    let other = |change: fn(&mut Tunnel)| {
        let mut tunnel = tunnel(9, 1);
        change(&mut tunnel);
        vec![insert(&tunnel)]
    };
    let pair = |change: fn(&mut AddressPair)| {
        let mut tunnel = tunnel(9, 1);
        change(tunnel.pair.as_mut().expect("pair"));
        vec![insert(&tunnel)]
    };
    let renamed = |name: &str| Pool {
        name: name.to_owned(),
        ..pool(2, PoolKind::HostPair)
    };
    let mut same_name = account(9);
    same_name.name.clone_from(&owner.name);
    let mut same_prefix = account(9);
    same_prefix.prefixes.clone_from(&owner.prefixes);
    gone.state = TunnelState::Active;
    let secret = Write::SetSecret {
        account: AccountId(8),
        secret: Some(Sealed::from_bytes(vec![1])),
        at: 1,
    };
    let cases = [
        (
            vec![Write::InsertAccount(owner.clone())],
            Constraint::AccountId,
        ),
        (
            vec![Write::InsertAccount(same_name)],
            Constraint::AccountName,
        ),
        (
            vec![Write::InsertAccount(same_prefix)],
            Constraint::AccountPrefix,
        ),
        (vec![Write::UpdateAccount(account(8))], Constraint::Missing),
        (vec![secret], Constraint::Missing),
        (
            vec![Write::RemoveAccount {
                account: owner.id,
                at: 1,
            }],
            Constraint::Account,
        ),
        (vec![insert(&tunnel(9, 8))], Constraint::Account),
        (
            vec![Write::InsertPool {
                pool: pool(1, PoolKind::HostPair),
                at: 1,
            }],
            Constraint::PoolId,
        ),
        (
            vec![Write::InsertPool {
                pool: renamed("pool1"),
                at: 1,
            }],
            Constraint::PoolName,
        ),
        (
            vec![Write::RemovePool {
                pool: PoolId(8),
                at: 1,
            }],
            Constraint::Missing,
        ),
        (other(|t| t.id = TunnelId(3)), Constraint::TunnelId),
        (other(|t| t.slot.unit = 1), Constraint::Slot),
        (
            other(|t| t.remote = tunnel(1, 1).remote),
            Constraint::Pair41,
        ),
        (
            other(|t| {
                t.transport = udp_tunnel(2, 1).transport;
                t.remote = tunnel(1, 1).remote;
            }),
            Constraint::UdpPort,
        ),
        (
            pair(|p| p.client = "2001:db8:1::0:1:2".parse().expect("address")),
            Constraint::ClientAddress,
        ),
        (
            pair(|p| p.server = "2001:db8:1::0:1:1".parse().expect("address")),
            Constraint::ServerAddress,
        ),
        (
            other(|t| t.prefixes = vec![udp_tunnel(2, 1).prefixes[1]]),
            Constraint::Prefix,
        ),
        (vec![bury(&gone, 11, 21)], Constraint::Missing),
        (vec![bury(&tunnel(8, 1), 11, 21)], Constraint::Missing),
        (
            vec![Write::ForgetTunnel {
                tunnel: host.id,
                at: 1,
            }],
            Constraint::Missing,
        ),
    ];
    for (writes, constraint) in cases {
        assert_refused(home, writes, constraint).await;
    }
}

pub(crate) async fn a_refused_group_leaves_nothing_and_harms_no_other(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let mut groups: Vec<_> = (1..=40).map(|id| vec![insert(&tunnel(id, 1))]).collect();
    // The second write of a group is refused: the first must go too.
    groups[6].push(insert(&Tunnel {
        slot: tunnel(3, 1).slot,
        ..tunnel(101, 1)
    }));
    groups[31].insert(0, Write::UpdateAccount(account(77)));
    let answers = commit(&store, groups).await;
    let mut seq = 2;
    for (index, answer) in answers.iter().enumerate() {
        match index {
            6 => assert_eq!(
                answer,
                &Err(Conflict {
                    constraint: Constraint::Slot
                })
            ),
            31 => assert_eq!(
                answer,
                &Err(Conflict {
                    constraint: Constraint::Missing
                })
            ),
            _ => {
                assert_eq!(answer.as_ref().expect("accepted").seqs, seq..seq + 1);
                seq += 1;
            }
        }
    }
    let loaded = store.load(0).await.expect("load");
    let ids: Vec<_> = loaded.tunnels.iter().map(|tunnel| tunnel.id.0).collect();
    assert_eq!(
        ids,
        (1..=40)
            .filter(|id| ![7, 32].contains(id))
            .collect::<Vec<_>>()
    );
    assert_eq!(loaded.last_seq, seq - 1);
    let log = store.changes_since(0, 1000).await.expect("log");
    let seqs: Vec<_> = log.iter().map(|change| change.seq).collect();
    assert_eq!(seqs, (1..seq).collect::<Vec<_>>());
}

pub(crate) async fn what_is_given_up_can_be_taken_in_the_same_batch(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let old = udp_tunnel(1, 1);
    put(&store, vec![insert(&old)]).await;
    let new = Tunnel {
        id: TunnelId(2),
        ..old.clone()
    };
    let newest = Tunnel {
        id: TunnelId(3),
        ..old.clone()
    };
    // Replaced in one group, and once more by the next group.
    let groups = vec![
        vec![bury(&old, 10, 0), insert(&new)],
        vec![bury(&new, 11, 0), insert(&newest)],
    ];
    let answers = commit(&store, groups).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let tunnels = store.load(0).await.expect("load").tunnels;
    assert_eq!(tunnels.len(), 1);
    assert_eq!(
        tunnels[0],
        Tunnel {
            revision: 6,
            ..newest
        }
    );
}

pub(crate) async fn several_writes_of_one_tunnel_in_a_batch(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let pending = udp_tunnel(1, 1);
    let active = Tunnel {
        state: TunnelState::Active,
        mtu: 1400,
        ..pending.clone()
    };
    let update = Write::UpdateTunnel {
        tunnel: active.clone(),
        from: TunnelState::Pending,
        cause: Cause::Confirmed,
        new_prefixes: false,
    };
    let short_lived = tunnel(2, 1);
    let answers = commit(
        &store,
        vec![
            vec![insert(&pending)],
            vec![update.clone()],
            vec![insert(&short_lived), bury(&short_lived, 20, 30)],
            // Gone already.
            vec![bury(&short_lived, 21, 31)],
        ],
    )
    .await;
    let missing = Conflict {
        constraint: Constraint::Missing,
    };
    assert_eq!(answers[3], Err(missing));
    assert!(answers[..3].iter().all(Result::is_ok), "{answers:?}");
    let loaded = store.load(25).await.expect("load");
    assert_eq!(
        loaded.tunnels,
        [Tunnel {
            revision: 3,
            ..active
        }]
    );
    let tombstone = &loaded.tombstones[0];
    assert_eq!((tombstone.tunnel.id.0, tombstone.tunnel.state_at), (2, 20));
    assert_eq!(
        store.history(TunnelId(1), 9).await.expect("history").len(),
        2
    );
    assert_eq!(
        store.history(TunnelId(2), 9).await.expect("history").len(),
        2
    );
}

pub(crate) async fn a_batch_is_committed_once(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let batch = Batch::new(vec![
        vec![insert(&tunnel(1, 1))],
        vec![insert(&tunnel(1, 1))],
        vec![insert(&tunnel(2, 1))],
    ]);
    let answers = store.commit(&batch).await.expect("commit");
    let before = store.load(0).await.expect("load");
    assert_eq!(store.commit(&batch).await.expect("again"), answers);
    assert_eq!(store.load(0).await.expect("load"), before);
    assert_eq!(before.last_seq, 3);
    // The same writes in another batch are other writes.
    let other = Batch::new(batch.groups().to_vec());
    let answers = store.commit(&other).await.expect("commit");
    assert!(answers.iter().all(Result::is_err));
}
