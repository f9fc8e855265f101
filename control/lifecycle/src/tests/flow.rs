//! What plugins and operators see, case by case.

use std::time::Duration;

use super::model::{World, account, link, until};
use crate::*;

const PREFIX: &str = "2001:db8:ffff::/64";

fn host(account: AccountId, remote: u8) -> Acquire {
    Acquire {
        profile: Profile::Host,
        host_prefix: Some(PREFIX.parse().unwrap()),
        ..link(account, remote)
    }
}

fn network(account: AccountId, remote: u8) -> Acquire {
    Acquire {
        profile: Profile::Network,
        exclusive: true,
        ..link(account, remote)
    }
}

#[tokio::test(start_paused = true)]
async fn login_and_quit() {
    let world = World::new(2).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let lease = service.acquire(host(alice, 10)).await.unwrap();
    assert_eq!(lease.slot.to_string(), "gif0");
    let pair = lease.pair.unwrap();
    assert_eq!(pair.client.to_string(), "2001:db8:ffff::6");
    assert_eq!(pair.server.to_string(), "2001:db8:ffff::5");
    assert!(!lease.resumed);
    for dataplane in &world.dataplanes {
        assert_eq!(
            dataplane.ids(),
            [lease.tunnel],
            "it forwards when it is answered"
        );
    }
    assert_eq!(service.stats().active, 1);
    let (id, number) = (lease.tunnel, lease.number);
    assert_eq!(service.holds(&[(id, number)]).await.unwrap(), [true]);
    service
        .release(id, LeaseNumber(9), Cause::Quit)
        .await
        .unwrap();
    assert_eq!(service.holds(&[(id, number)]).await.unwrap(), [true]);
    service.release(id, number, Cause::Quit).await.unwrap();
    assert_eq!(service.holds(&[(id, number)]).await.unwrap(), [false]);
    until("it is gone", || service.stats().releasing == 0).await;
    assert!(world.dataplanes.iter().all(|d| d.ids().is_empty()));
    service.shutdown().await;
    let states: Vec<_> = world.store.history(id, 10).await.unwrap();
    let states: Vec<_> = states.into_iter().map(|h| h.to).collect();
    use TunnelState::{Active, Pending, Releasing, Tombstone};
    assert_eq!(states, [Pending, Active, Releasing, Tombstone]);
}

#[tokio::test(start_paused = true)]
async fn logins_are_checked() {
    let world = World::new(1).await;
    let service = world.start().await;
    let foo = account(&service, "foo", &[]).await;
    let attempt = |user: &'static str, first: u8| Digest {
        user: user.as_bytes(),
        challenge: b"0B1517C87D516A5FA65BED722D51A04F",
        // The vector of the original: user foo, secret bar.
        digest: [
            first, 0xc4, 0x87, 0xc8, 0xdf, 0xbb, 0xf9, 0xee, 0x5c, 0x7f, 0x8c, 0xdc, 0xc3, 0x7b,
            0x62, 0xa3,
        ],
    };
    assert_eq!(
        service.authenticate(attempt("foo", 0xda)).await.unwrap(),
        Ok(foo)
    );
    assert_eq!(
        service.authenticate(attempt("foo", 0)).await.unwrap(),
        Err(Denied)
    );
    assert_eq!(
        service.authenticate(attempt("bar", 0xda)).await.unwrap(),
        Err(Denied)
    );
    service
        .set_status(foo, AccountStatus::Suspended)
        .await
        .unwrap();
    assert_eq!(
        service.authenticate(attempt("foo", 0xda)).await.unwrap(),
        Err(Denied)
    );
    service
        .set_status(foo, AccountStatus::Active)
        .await
        .unwrap();
    service.set_secret(foo, None).await.unwrap();
    assert_eq!(
        service.authenticate(attempt("foo", 0xda)).await.unwrap(),
        Err(Denied)
    );
    let stats = service.stats();
    assert_eq!((stats.logins_ok, stats.logins_denied), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn the_newest_network_login_wins_and_the_older_is_told() {
    let world = World::new(1).await;
    let service = world.start().await;
    let carol = account(&service, "carol", &["2001:db8:100::/48"]).await;
    let mut revoked = service.revocations();
    let first = service.acquire(network(carol, 10)).await.unwrap();
    assert_eq!(first.prefixes, ["2001:db8:100::/48".parse().unwrap()]);
    let second = service.acquire(network(carol, 11)).await.unwrap();
    assert_eq!(second.tunnel, first.tunnel);
    assert!(second.resumed && second.number > first.number);
    let told = revoked.try_recv().unwrap();
    assert_eq!((told.tunnel, told.number), (first.tunnel, first.number));
    assert_eq!(told.cause, RevokeCause::Replaced);
    let table = world.dataplanes[0].table.lock();
    assert_eq!(table.get(first.tunnel).unwrap().remote.octets()[3], 11);
}

#[tokio::test(start_paused = true)]
async fn another_encapsulation_in_the_same_slot_replaces_the_tunnel() {
    let world = World::new(1).await;
    let service = world.start().await;
    let bob = account(&service, "bob", &["2001:db8:200::/56"]).await;
    let slot = SlotChoice::Exactly(Slot {
        stem: "gif".into(),
        unit: 42,
    });
    let six = Acquire {
        slot: slot.clone(),
        ..network(bob, 10)
    };
    let udp = Acquire {
        transport: WantedTransport::Udp {
            ports: 4028..=65535,
            remote_port: None,
            any_source: false,
        },
        ..six.clone()
    };
    let first = service.acquire(six).await.unwrap();
    let second = service.acquire(udp).await.unwrap();
    assert_ne!(first.tunnel, second.tunnel);
    assert_eq!(second.slot, first.slot);
    assert_eq!(world.dataplanes[0].ids(), [second.tunnel]);
    assert_eq!(world.dataplanes[0].table.lock().clashes, 0);
}

#[tokio::test(start_paused = true)]
async fn two_ends_belong_to_one_account() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let bob = account(&service, "bob", &[]).await;
    let first = service.acquire(link(alice, 10)).await.unwrap();
    let error = service.acquire(link(bob, 10)).await.unwrap_err();
    assert!(matches!(error, Error::EndpointInUse { .. }), "{error}");
    let again = service.acquire(link(alice, 10)).await.unwrap();
    assert_eq!((again.tunnel, again.resumed), (first.tunnel, true));
    let other = service.acquire(link(alice, 11)).await.unwrap();
    assert_ne!(other.tunnel, first.tunnel);
}

#[tokio::test(start_paused = true)]
async fn sold_out_until_one_leaves() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let one = |host| Acquire {
        slot: SlotChoice::Range {
            stem: "gif".into(),
            units: 10..=10,
            except: [].into(),
        },
        ..link(alice, host)
    };
    let first = service.acquire(one(10)).await.unwrap();
    let error = service.acquire(one(11)).await.unwrap_err();
    assert_eq!(error, Error::SoldOut { what: "interface" });
    // The dataplane takes its time; whoever comes meanwhile waits for the number.
    world.dataplanes[0].table.lock().delay = Duration::from_millis(300);
    service
        .release(first.tunnel, first.number, Cause::Quit)
        .await
        .unwrap();
    let next = service.acquire(one(12)).await.unwrap();
    assert_eq!(next.slot.unit, 10);
    assert_eq!(service.stats().sold_out, 1);
}

#[tokio::test(start_paused = true)]
async fn orphans_forward_and_are_found_again_until_the_grace_ends() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let bob = account(&service, "bob", &[]).await;
    let kept = service.acquire(host(alice, 10)).await.unwrap();
    let lost = service.acquire(host(bob, 11)).await.unwrap();
    service.shutdown().await;
    drop(service);
    let service = world.start().await;
    until("in step", || service.stats().relays[0].synced).await;
    assert_eq!(world.dataplanes[0].ids(), [kept.tunnel, lost.tunnel]);
    assert_eq!(service.stats().orphaned, 2);
    assert_eq!(
        service.holds(&[(kept.tunnel, kept.number)]).await.unwrap(),
        [true]
    );
    let again = service.acquire(host(alice, 10)).await.unwrap();
    assert_eq!((again.tunnel, again.pair), (kept.tunnel, kept.pair));
    assert!(again.resumed && again.number > kept.number);
    tokio::time::sleep(Duration::from_secs(85)).await;
    assert_eq!(world.dataplanes[0].ids(), [kept.tunnel, lost.tunnel]);
    until("the grace ends", || {
        world.dataplanes[0].ids() == [kept.tunnel]
    })
    .await;
    assert_eq!(service.stats().active, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_tunnel_is_gone_and_not_tried_again() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    world.dataplanes[0].table.lock().refuse = Some([198, 51, 100, 10].into());
    let error = service.acquire(link(alice, 10)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused(text) if text.contains("PREFIX_IN_USE")),
        "{error}"
    );
    until("it is gone", || {
        service
            .tunnels(&TunnelFilter::default(), None, 9)
            .is_empty()
    })
    .await;
    let messages = world.dataplanes[0].table.lock().messages;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.dataplanes[0].table.lock().messages, messages);
    assert_eq!(service.stats().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_dataplane_a_wish_waits_and_leaves_nothing() {
    let world = World::new(1).await;
    world.dataplanes[0].table.lock().away = true;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let error = service.acquire(link(alice, 10)).await.unwrap_err();
    assert_eq!(
        error,
        Error::Unavailable("no dataplane is connected".to_owned())
    );
    assert!(
        service
            .tunnels(&TunnelFilter::default(), None, 9)
            .is_empty()
    );
    // One that does not answer is as bad, and what was stored for it is taken back.
    {
        let mut table = world.dataplanes[0].table.lock();
        table.away = false;
        table.delay = Duration::from_secs(3600);
    }
    until("connected", || service.stats().relays[0].connected).await;
    assert!(service.acquire(link(alice, 10)).await.is_err());
    until("released", || service.stats().releasing == 1).await;
    world.dataplanes[0].cut();
    until("gone", || service.stats().releasing == 0).await;
    assert_eq!(service.stats().timed_out, 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_forwarding_goes_on_and_nothing_is_lost() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let first = service.acquire(link(alice, 10)).await.unwrap();
    let second = service.acquire(link(alice, 11)).await.unwrap();
    world.trouble.lock().away = true;
    let released = service.release(first.tunnel, first.number, Cause::Quit);
    let error = service.acquire(link(alice, 12)).await.unwrap_err();
    assert_eq!(error, Error::Unavailable("the store is away".to_owned()));
    assert!(service.stats().store_away > Duration::from_secs(9));
    assert_eq!(world.dataplanes[0].ids(), [first.tunnel, second.tunnel]);
    world.trouble.lock().away = false;
    released.await.unwrap();
    until("the first is gone", || {
        world.dataplanes[0].ids() == [second.tunnel]
    })
    .await;
    until("all is quiet", || {
        service.stats().releasing + service.stats().pending == 0
    })
    .await;
    assert_eq!(service.stats().active, 1);
    assert_eq!(service.stats().store_away, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_the_store_changes_nothing() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    world.trouble.lock().lost_answers = 3;
    let lease = service.acquire(link(alice, 10)).await.unwrap();
    assert_eq!(world.dataplanes[0].ids(), [lease.tunnel]);
    assert_eq!(service.stats().conflicts, 0);
    let history = world.store.history(lease.tunnel, 10).await.unwrap();
    assert_eq!(history.iter().filter(|h| h.from.is_none()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_leaves_nothing() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    world.dataplanes[0].table.lock().delay = Duration::from_millis(500);
    let wish = service.acquire(link(alice, 10));
    let impatient = tokio::time::timeout(Duration::from_millis(100), wish).await;
    assert!(impatient.is_err());
    until("gone", || world.dataplanes[0].ids().is_empty()).await;
    until("quiet", || {
        service.stats().releasing + service.stats().pending == 0
    })
    .await;
    assert_eq!(service.stats().active, 0);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_dataplane_gets_everything_again() {
    let world = World::new(2).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let mut ids = Vec::new();
    for host in 0..20 {
        ids.push(service.acquire(link(alice, host)).await.unwrap().tunnel);
    }
    world.dataplanes[0].restart();
    until("full again", || world.dataplanes[0].ids() == ids).await;
    assert_eq!(world.dataplanes[1].ids(), ids);
    // What it had of an older life, in the way of what is wanted now.
    let stranger = crate::state::sample(900);
    {
        let mut table = world.dataplanes[1].table.lock();
        let stray = Tunnel {
            remote: table.get(ids[3]).unwrap().remote,
            ..stranger
        };
        table.remove(ids[3]);
        table.put(stray.into());
    }
    world.dataplanes[1].cut();
    until("in step again", || world.dataplanes[1].ids() == ids).await;
}

#[tokio::test(start_paused = true)]
async fn suspension_and_deletion_take_the_tunnels_away() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &["2001:db8:1::/48"]).await;
    let lease = service.acquire(network(alice, 10)).await.unwrap();
    let mut revoked = service.revocations();
    service
        .set_status(alice, AccountStatus::Suspended)
        .await
        .unwrap();
    assert_eq!(
        revoked.try_recv().unwrap().cause,
        RevokeCause::Administrative
    );
    until("gone", || world.dataplanes[0].ids().is_empty()).await;
    assert_eq!(
        service.acquire(network(alice, 10)).await,
        Err(Error::NoAccount)
    );
    service
        .set_status(alice, AccountStatus::Active)
        .await
        .unwrap();
    let second = service.acquire(network(alice, 10)).await.unwrap();
    assert_ne!(second.tunnel, lease.tunnel);
    service.disconnect(second.tunnel).await.unwrap();
    let third = service.acquire(network(alice, 10)).await.unwrap();
    assert!(!third.resumed);
    service.delete_account(alice).await.unwrap();
    assert!(world.dataplanes[0].ids().is_empty());
    assert_eq!(service.account(alice), None);
    assert_eq!(service.account_named("alice"), None);
    account(&service, "alice", &["2001:db8:1::/48"]).await;
}

#[tokio::test(start_paused = true)]
async fn pools_give_and_take_back_and_imports_repeat() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let new = NewPool {
        name: "homes".to_owned(),
        kind: PoolKind::Delegation { len: 56 },
        prefix: "2001:db8::/54".parse().unwrap(),
        quarantine_seconds: 60,
    };
    let pool = service.add_pool(new.clone()).await.unwrap();
    assert!(matches!(
        service.add_pool(new).await,
        Err(AdminError::Exists { .. })
    ));
    let first = service.delegate(alice, pool.id).await.unwrap();
    assert_eq!(first, "2001:db8::/56".parse().unwrap());
    let second = service.delegate(alice, pool.id).await.unwrap();
    service.take_back(alice, first).await.unwrap();
    assert_ne!(service.delegate(alice, pool.id).await.unwrap(), first);
    let view = service.pools().remove(0);
    assert_eq!((view.used, view.quarantined, view.total), (2, 1, 4));
    assert!((view.fill() - 75.0).abs() < 0.1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(service.delegate(alice, pool.id).await.unwrap(), first);
    assert!(matches!(
        service.delete_pool(pool.id).await,
        Err(AdminError::InUse { .. })
    ));
    let import = |name: &str, prefix: Option<ipnet::Ipv6Net>| ImportedAccount {
        name: name.to_owned(),
        status: None,
        secret: Some(secret::Secret::new(b"s3cret".to_vec()).unwrap()),
        prefixes: prefix.map(|p| vec![p]),
    };
    let all = vec![
        import("bob", Some("2001:db8:b::/48".parse().unwrap())),
        import("eve", Some(second)),
        import("dan", Some("2001:db8:b:1::/64".parse().unwrap())),
        import("no name", None),
        import("bob", None),
    ];
    let report = service.import(all.clone()).await.unwrap();
    assert_eq!((report.added, report.changed, report.skipped), (1, 0, 1));
    assert_eq!(report.refused_count, 3, "{:?}", report.refused);
    let report = service.import(all).await.unwrap();
    assert_eq!((report.added, report.changed, report.skipped), (0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn an_import_suspends_with_the_transaction_that_imports() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let held = service.acquire(link(alice, 10)).await.unwrap();
    until("confirmed", || service.stats().active == 1).await;
    let mut revoked = service.revocations();
    let import = |name: &str, status| ImportedAccount {
        name: name.to_owned(),
        status: Some(status),
        secret: Some(secret::Secret::new(b"bar".to_vec()).unwrap()),
        prefixes: None,
    };
    let both = |status| vec![import("alice", status), import("bob", status)];
    let before = service.stats().groups;
    let report = service.import(both(AccountStatus::Suspended)).await;
    let report = report.unwrap();
    assert_eq!((report.added, report.changed), (1, 1), "{report:?}");
    // The burial of the tunnel may have come by now, and nothing else.
    assert!(service.stats().groups <= before + 2);
    assert_eq!(revoked.try_recv().unwrap().tunnel, held.tunnel);
    service.inner.kill();
    drop(service);

    let service = world.start().await;
    for name in ["alice", "bob"] {
        let there = service.account_named(name).unwrap();
        assert_eq!(there.status, AccountStatus::Suspended, "{name}");
        let refused = service.acquire(link(there.id, 11)).await;
        assert_eq!(refused, Err(Error::NoAccount), "{name}");
    }
    // To leave out the status changes nothing, to say active lets them in again.
    let silent = ImportedAccount {
        status: None,
        ..import("bob", AccountStatus::Active)
    };
    let report = service.import(vec![silent]).await.unwrap();
    assert_eq!(report.skipped, 1);
    let report = service.import(both(AccountStatus::Active)).await.unwrap();
    assert_eq!(report.changed, 2);
    service.acquire(link(alice, 10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_was_taken_back_stays_in_quarantine_over_a_crash() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    let new = |name: &str, len| NewPool {
        name: name.to_owned(),
        kind: PoolKind::Delegation { len },
        prefix: "2001:db8::/55".parse().unwrap(),
        quarantine_seconds: 60,
    };
    let pool = service.add_pool(new("homes", 56)).await.unwrap().id;
    let first = service.delegate(alice, pool).await.unwrap();
    let second = service.delegate(alice, pool).await.unwrap();
    service.take_back(alice, first).await.unwrap();
    // An account that goes gives back what it had.
    service.delete_account(alice).await.unwrap();
    service.inner.kill();
    drop(service);

    let service = world.start().await;
    let bob = account(&service, "bob", &[]).await;
    let sold_out = Err(AdminError::SoldOut("homes".to_owned()));
    assert_eq!(service.delegate(bob, pool).await, sold_out);
    assert_eq!(service.pools()[0].quarantined, 2);
    // Nor under another name, cut differently.
    service.delete_pool(pool).await.unwrap();
    let other = service.add_pool(new("others", 64)).await.unwrap().id;
    let sold_out = Err(AdminError::SoldOut("others".to_owned()));
    assert_eq!(service.delegate(bob, other).await, sold_out);
    // By name the operator may.
    service.delete_pool(other).await.unwrap();
    let pool = service.add_pool(new("homes", 56)).await.unwrap().id;
    service.set_prefixes(bob, vec![second]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(service.delegate(bob, pool).await.is_err());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(service.delegate(bob, pool).await, Ok(first));
    assert!(service.delegate(bob, pool).await.is_err(), "one is bob's");
}

#[tokio::test(start_paused = true)]
async fn limits_hold() {
    let mut world = World::new(1).await;
    world.config.tunnels_per_account = 2;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    service.acquire(link(alice, 1)).await.unwrap();
    service.acquire(link(alice, 2)).await.unwrap();
    let error = service.acquire(link(alice, 3)).await.unwrap_err();
    assert_eq!(error, Error::SoldOut { what: "tunnel" });
    let wrong = Acquire {
        mtu: 1481,
        ..link(alice, 3)
    };
    let error = service.acquire(wrong).await.unwrap_err();
    assert!(
        matches!(error, Error::Invalid { field: "mtu", .. }),
        "{error}"
    );
}
