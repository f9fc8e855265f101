//! What both engines must do alike when all is written: commits broken off, ids, pruning, quarantine.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use sixferry_lifecycle::store::{Batch, NextIds, Retention, StoreError, Write};
use sixferry_lifecycle::{AccountId, PoolKind, TunnelId, TunnelState};

use crate::cases::pool;
use crate::home::{Home, account, bury, commit, commit_at_last, insert, put, tunnel, udp_tunnel};

/// Polls a future so often, then drops it; says whether it ended before.
async fn poll_times<F: Future>(future: F, times: usize) -> bool {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(context).map(|_| true)
    })
    .await
}

pub(crate) async fn a_commit_that_was_broken_off_is_done_once(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let mut id = 0;
    let mut broken_off = 0;
    // Broken off at every point where it waits; the last attempts end.
    for times in 1.. {
        id += 1;
        let batch = Batch::new(vec![vec![insert(&tunnel(id, 1))]]);
        let ended = poll_times(store.commit(&batch), times).await;
        broken_off += usize::from(!ended);
        let answers = commit_at_last(&store, &batch).await;
        assert_eq!(answers[0].as_ref().expect("accepted").seqs, id + 1..id + 2);
        if ended {
            break;
        }
    }
    assert!(broken_off > 0, "it never waits");
    let loaded = store.load(0).await.expect("load");
    assert_eq!(loaded.tunnels.len() as i64, id);
    assert_eq!(loaded.last_seq, id + 1);
}

pub(crate) async fn ids_are_never_given_twice(home: &Home) {
    let store = home.open().await;
    let fresh = store.load(0).await.expect("load").next;
    assert_eq!(fresh, NextIds::default());
    put(&store, vec![Write::InsertAccount(account(4))]).await;
    put(&store, vec![insert(&tunnel(7, 4))]).await;
    put(&store, vec![bury(&tunnel(7, 4), 10, 0)]).await;
    let tunnel = TunnelId(7);
    put(&store, vec![Write::ForgetTunnel { tunnel, at: 11 }]).await;
    let account = AccountId(4);
    put(&store, vec![Write::RemoveAccount { account, at: 12 }]).await;
    // A refused group has used nothing.
    let refused = Write::UpdateAccount(crate::home::account(4));
    let wild = Write::InsertPool {
        pool: pool(99, PoolKind::HostPair),
        at: 1,
    };
    let answers = commit(&store, vec![vec![wild, refused], vec![]]).await;
    assert!(answers[0].is_err() && answers[1].is_ok());
    store.close().await;
    let loaded = home.open().await.load(0).await.expect("load");
    let next = NextIds {
        account: 5,
        pool: 1,
        tunnel: 8,
    };
    assert_eq!(loaded.next, next);
    assert_eq!(loaded.tombstones, []);
}

pub(crate) async fn prune_keeps_to_age_and_number(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    for id in 1..=10 {
        put(&store, vec![insert(&tunnel(id, 1))]).await;
    }
    for id in 1..=8 {
        // The second is in quarantine for long.
        let until = if id == 2 { 1_000_000 } else { 0 };
        put(&store, vec![bury(&tunnel(id, 1), 10_000 + id, until)]).await;
    }
    // 19 changes, 18 of history, 8 tombstones. By age: all that is older than 5 008.
    let by_age = Retention {
        age: 5_000,
        ..Retention::default()
    };
    let pruned = store.prune(&by_age, 10_008).await.expect("prune");
    assert_eq!(
        (pruned.changes, pruned.history, pruned.tombstones),
        (8, 7, 0)
    );
    assert!(!pruned.more);
    let by_number = Retention {
        changes: 4,
        history: 3,
        tombstones: 5,
        ..Retention::default()
    };
    let pruned = store.prune(&by_number, 10_008).await.expect("prune");
    assert_eq!(
        (pruned.changes, pruned.history, pruned.tombstones),
        (7, 8, 2)
    );
    let log = store.changes_since(0, 100).await.expect("log");
    assert_eq!(
        log.iter().map(|change| change.seq).collect::<Vec<_>>(),
        [16, 17, 18, 19]
    );
    let left = store.tombstones(None, 100).await.expect("tombstones");
    let ids: Vec<_> = left.iter().map(|tombstone| tombstone.tunnel.id.0).collect();
    assert_eq!(ids, [8, 7, 6, 5, 4, 2]);
    let page = store
        .tombstones(Some(TunnelId(6)), 2)
        .await
        .expect("tombstones");
    assert_eq!(page.len(), 2);
    assert_eq!(page[0].tunnel.id, TunnelId(5));
    let loaded = store.load(0).await.expect("load");
    assert_eq!(loaded.tunnels.len(), 2);
}

pub(crate) async fn tombstones_come_back_while_in_quarantine(home: &Home) {
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    for id in 1..=4 {
        let tunnel = udp_tunnel(id, 1);
        put(&store, vec![insert(&tunnel)]).await;
        // The later, the earlier it was buried.
        put(&store, vec![bury(&tunnel, 10_000 - id, 20_000 + id)]).await;
    }
    let loaded = store.load(20_002).await.expect("load");
    assert_eq!(loaded.tunnels, []);
    let ids: Vec<_> = loaded.tombstones.iter().map(|t| t.tunnel.id.0).collect();
    assert_eq!(ids, [3, 4]);
    let third = &loaded.tombstones[0];
    assert_eq!(third.quarantine_until, 20_003);
    assert_eq!(third.tunnel.prefixes, udp_tunnel(3, 1).prefixes);
    assert_eq!(third.tunnel.state, TunnelState::Tombstone);
    assert_eq!(third.tunnel.account, AccountId(1));
    let ports: Vec<_> = loaded
        .freed_ports
        .iter()
        .map(|(e, at)| (e.port, *at))
        .collect();
    assert_eq!(
        ports,
        [
            (20_004, 9_996),
            (20_003, 9_997),
            (20_002, 9_998),
            (20_001, 9_999)
        ]
    );
    // The account can go now; who had it is still known.
    let account = AccountId(1);
    put(&store, vec![Write::RemoveAccount { account, at: 12 }]).await;
    let known = store.tombstones(None, 1).await.expect("tombstones");
    assert_eq!(known[0].tunnel.account, AccountId(1));
}

pub(crate) async fn a_closed_store_is_unavailable(home: &Home) {
    let store = home.open().await;
    let clone = store.clone();
    store.close().await;
    let batch = Batch::new(vec![vec![Write::InsertAccount(account(1))]]);
    let refused = clone.commit(&batch).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(clone.load(0).await.is_err());
    let store = home.open().await;
    assert_eq!(store.load(0).await.expect("load").accounts, []);
}

pub(crate) async fn prefixes_come_back_while_in_quarantine(home: &Home) {
    let store = home.open().await;
    let hold = |prefix: &str, until| Write::Quarantine {
        prefix: prefix.parse().expect("prefix"),
        until,
    };
    let mut owner = account(1);
    owner.prefixes = vec!["2001:db8:1::/48".parse().expect("prefix")];
    put(&store, vec![Write::InsertAccount(owner.clone())]).await;
    owner.prefixes.clear();
    let update = Write::UpdateAccount(owner);
    let committed = put(&store, vec![update, hold("2001:db8:1::/48", 100)]).await;
    assert_eq!(committed.seqs, 2..3, "it has no sequence of its own");
    let refused = Write::UpdateAccount(account(9));
    let groups = vec![
        vec![hold("2001:db8:2::/48", 50), hold("2001:db8:2::/48", 40)],
        // The later end counts, in one batch or in two.
        vec![hold("2001:db8:1::/48", 90)],
        vec![hold("2001:db8:3::/48", 100), refused],
    ];
    let answers = commit(&store, groups).await;
    assert!(answers[0].is_ok() && answers[1].is_ok() && answers[2].is_err());
    store.close().await;

    let store = home.open().await;
    let at = async |now| store.load(now).await.expect("load").quarantine;
    let net = |text: &str| text.parse().expect("prefix");
    let both = [(net("2001:db8:1::/48"), 100), (net("2001:db8:2::/48"), 50)];
    assert_eq!(at(49).await, both);
    assert_eq!(at(50).await, both[..1]);
    let keep = Retention::default();
    store.prune(&keep, 60).await.expect("prune");
    assert_eq!(at(0).await, both[..1], "what is over was removed");
    store.prune(&keep, 100).await.expect("prune");
    assert_eq!(at(0).await, []);
}
