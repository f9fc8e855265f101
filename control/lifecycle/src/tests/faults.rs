//! What fails by itself, and what is left of it.

use std::time::Duration;

use super::model::{World, account, link, until};
use crate::*;

fn stopped<T>() -> Result<T, Error> {
    Err(Error::Unavailable("the lifecycle has stopped".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_failed_ends_the_service_and_a_new_start_finds_everything() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let held = service.acquire(link(alice, 10)).await.unwrap();
    world.trouble.lock().panic = true;
    let release = service.release(held.tunnel, held.number, Cause::Quit);
    assert_eq!(service.acquire(link(alice, 11)).await, stopped());
    assert!(release.await.is_err());
    assert_eq!(service.ended().await, "the writer failed");
    let told = service.health().unwrap_err();
    assert!(told.contains("the writer failed"), "{told}");
    // At once, and for good.
    assert_eq!(service.acquire(link(alice, 11)).await, stopped());
    let release = service.release(held.tunnel, held.number, Cause::Quit);
    assert!(release.await.is_err());
    let attempt = Digest {
        user: b"alice",
        challenge: b"0",
        digest: [0; 16],
    };
    assert_eq!(service.authenticate(attempt).await, stopped());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.dataplanes[0].ids(), [held.tunnel], "it forwards on");
    service.shutdown().await;
    drop(service);

    world.trouble.lock().panic = false;
    let service = world.start().await;
    let again = service.acquire(link(alice, 10)).await.unwrap();
    assert_eq!((again.tunnel, again.resumed), (held.tunnel, true));
    assert_eq!(service.health(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_dataplanes_task_that_failed_is_started_again() {
    let world = World::new(2).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let first = service.acquire(link(alice, 10)).await.unwrap();
    world.dataplanes[1].table.lock().panic = true;
    let second = service.acquire(link(alice, 11)).await.unwrap();
    let told = service.health().unwrap_err();
    assert!(told.contains("dataplane d1"), "{told}");
    until("in step again", || service.health().is_ok()).await;
    let both = [first.tunnel, second.tunnel];
    assert_eq!(world.dataplanes[0].ids(), both);
    assert_eq!(world.dataplanes[1].ids(), both);
    assert_eq!(service.stats().restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_the_store_does_not_take_is_kept_and_harms_nobody() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let kept = service.acquire(link(alice, 10)).await.unwrap();
    let other = service.acquire(link(alice, 11)).await.unwrap();
    world.trouble.lock().keeps = Some(kept.tunnel);
    let release = service.release(kept.tunnel, kept.number, Cause::Quit);
    service
        .release(other.tunnel, other.number, Cause::Quit)
        .await
        .unwrap();
    // Several in one transaction with it.
    let logins = (20..28).map(|host| service.acquire(link(alice, host)));
    for login in futures::future::join_all(logins).await {
        login.unwrap();
    }
    let told = service.health().unwrap_err();
    assert!(told.contains("told to"), "{told}");
    assert_eq!(world.dataplanes[0].ids().len(), 9);
    world.trouble.lock().keeps = None;
    release.await.unwrap();
    until("gone", || world.dataplanes[0].ids().len() == 8).await;
    until("well again", || service.health().is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_store_is_told_of_until_it_is_well() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let held = service.acquire(link(alice, 10)).await.unwrap();
    world.trouble.lock().broken = true;
    let logins = (20..25).map(|host| service.acquire(link(alice, host)));
    for login in futures::future::join_all(logins).await {
        let error = login.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
    assert!(service.health().is_err());
    let release = service.release(held.tunnel, held.number, Cause::Quit);
    world.trouble.lock().broken = false;
    release.await.unwrap();
    until("gone", || world.dataplanes[0].ids().is_empty()).await;
    until("well again", || service.health().is_ok()).await;
    // Nothing of the refused ones is left in the way.
    service.acquire(link(alice, 20)).await.unwrap();
    service.shutdown().await;
    let history = world.store.history(held.tunnel, 10).await.unwrap();
    let states: Vec<_> = history.into_iter().map(|h| h.to).collect();
    use TunnelState::{Active, Pending, Releasing, Tombstone};
    assert_eq!(states, [Pending, Active, Releasing, Tombstone]);
}

#[tokio::test(start_paused = true)]
async fn who_was_overtaken_decides_no_more() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    world.trouble.lock().overtaken = true;
    assert!(service.acquire(link(alice, 10)).await.is_err());
    let why = service.ended().await;
    assert!(why.contains("another control process"), "{why}");
    world.trouble.lock().overtaken = false;
    assert_eq!(service.acquire(link(alice, 10)).await, stopped());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_broken_off_leaves_the_account_as_it_was() {
    let world = World::new(1).await;
    let mut service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    // Waits for the dataplane, the caller gone in the end; then the process killed there.
    for (kill, hosts) in [(false, [10, 11, 12]), (true, [20, 21, 22])] {
        let held = service.acquire(link(alice, hosts[0])).await.unwrap();
        world.dataplanes[0].table.lock().delay = Duration::from_secs(3600);
        let deleting = tokio::spawn({
            let service = service.clone();
            async move { service.delete_account(alice).await }
        });
        until("its tunnel is given up", || {
            service.stats().releasing > 0 || service.tunnel(held.tunnel).is_none()
        })
        .await;
        let refused = service.acquire(link(alice, hosts[1])).await;
        assert_eq!(refused, Err(Error::NoAccount), "it is being deleted");
        if kill {
            service.inner.kill();
        }
        deleting.abort();
        assert!(deleting.await.unwrap_err().is_cancelled());
        world.dataplanes[0].table.lock().delay = Duration::ZERO;
        if kill {
            service = world.start().await;
        } else {
            world.dataplanes[0].cut();
        }
        let again = service.acquire(link(alice, hosts[2])).await.unwrap();
        assert_ne!(again.tunnel, held.tunnel);
        let there = service.account(alice).unwrap();
        assert_eq!(there.status, AccountStatus::Active);
    }
    service.delete_account(alice).await.unwrap();
    assert_eq!(service.account(alice), None);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_the_store_does_not_take_leaves_name_and_secret() {
    let world = World::new(1).await;
    let service = world.start().await;
    // The vector of the original: user foo, secret bar.
    let foo = account(&service, "foo", &["2001:db8:1::/48"]).await;
    let attempt = || Digest {
        user: b"foo",
        challenge: b"0B1517C87D516A5FA65BED722D51A04F",
        digest: [
            0xda, 0xc4, 0x87, 0xc8, 0xdf, 0xbb, 0xf9, 0xee, 0x5c, 0x7f, 0x8c, 0xdc, 0xc3, 0x7b,
            0x62, 0xa3,
        ],
    };
    world.trouble.lock().keeps_accounts = true;
    // In one transaction with it somebody takes what it gives up.
    let again = NewAccount {
        name: "foo".to_owned(),
        secret: None,
        status: AccountStatus::Active,
        prefixes: vec!["2001:db8:1::/48".parse().unwrap()],
    };
    let (deleted, added) = tokio::join!(service.delete_account(foo), service.add_account(again));
    assert!(matches!(deleted, Err(AdminError::Unavailable(_))));
    assert!(added.is_err());
    let there = service.account_named("foo").map(|account| account.id);
    assert_eq!(there, Some(foo));
    assert_eq!(service.authenticate(attempt()).await.unwrap(), Ok(foo));
    world.trouble.lock().keeps_accounts = false;
    service.delete_account(foo).await.unwrap();
    assert_eq!(service.account_named("foo"), None);
}

#[tokio::test(start_paused = true)]
async fn a_suspension_that_the_store_does_not_take_is_not_written_later() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let held = service.acquire(link(alice, 10)).await.unwrap();
    // The release of the tunnel brings its confirmation along, which is yet to be written.
    world.trouble.lock().keeps = Some(held.tunnel);
    let suspended = service.set_status(alice, AccountStatus::Suspended).await;
    assert!(matches!(suspended, Err(AdminError::Unavailable(_))));
    world.trouble.lock().keeps = None;
    service.shutdown().await;
    let loaded = world.store.load(0).await.unwrap();
    assert_eq!(loaded.accounts[0].status, AccountStatus::Active);
    assert_eq!(loaded.tunnels[0].state, TunnelState::Active, "confirmed");
}
