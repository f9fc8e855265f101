//! Behaviours of the protocol that are the lifecycle's (docs/dtcp-coverage.md).

use std::time::{Duration, Instant};

use super::model::{World, account, link, until};
use crate::*;

/// The median time of a login, for each of several kinds that take turns.
async fn medians<const N: usize>(service: &Lifecycle, users: [&str; N]) -> [Duration; N] {
    const ROUNDS: usize = 501;
    let mut times = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (user, times) in users.iter().zip(&mut times) {
            let attempt = Digest {
                user: user.as_bytes(),
                challenge: b"0B1517C87D516A5FA65BED722D51A04F",
                digest: [0; 16],
            };
            let begin = Instant::now();
            let answer = service.authenticate(attempt).await;
            times.push(begin.elapsed());
            assert_eq!(answer, Ok(Err(Denied)));
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    })
}

#[tokio::test]
async fn dtcp_06_unknown_user_and_wrong_digest_take_the_same_time() {
    let world = World::new(0).await;
    let service = world.start().await;
    for n in 0..200 {
        account(&service, &format!("user{n}"), &[]).await;
    }
    let suspended = account(&service, "suspended", &[]).await;
    service
        .set_status(suspended, AccountStatus::Suspended)
        .await
        .unwrap();
    let bare = account(&service, "no-secret", &[]).await;
    service.set_secret(bare, None).await.unwrap();
    let users = ["user100", "nobody", "suspended", "no-secret"];
    // Another process may take the machine from one of them, but not each time.
    let mut seen = Vec::new();
    for _ in 0..8 {
        let times = medians(&service, users).await;
        let [first, ..] = times;
        if times.iter().all(|time| time.abs_diff(first) * 10 < first) {
            return;
        }
        seen.push(times);
    }
    panic!("{users:?} never took the same time: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn dtcp_11_units_beyond_four_digits_give_addresses() {
    let world = World::new(1).await;
    let service = world.start().await;
    let alice = account(&service, "alice", &[]).await;
    for (host, unit, server, client, network) in [
        (1, 0, "5", "6", "4"),
        (2, 16_382, "fffd", "fffe", "fffc"),
        (3, 16_383, "1:1", "1:2", "1:0"),
    ] {
        let slot = Slot {
            stem: "gif".into(),
            unit,
        };
        let wanted = Acquire {
            profile: Profile::Host,
            host_prefix: Some("2001:db8:ffff::/64".parse().unwrap()),
            slot: SlotChoice::Exactly(slot),
            ..link(alice, host)
        };
        let lease = service.acquire(wanted).await.unwrap();
        let address = |tail: &str| format!("2001:db8:ffff::{tail}").parse().unwrap();
        let expected = AddressPair {
            client: address(client),
            server: address(server),
        };
        assert_eq!(lease.pair, Some(expected), "{unit}");
        let network = ipnet::Ipv6Net::new(address(network), 126).unwrap();
        assert_eq!(crate::pairs::link_of(&expected), network);
        let table = world.dataplanes[0].table.lock();
        assert_eq!(table.get(lease.tunnel).unwrap().pair, Some(expected));
    }
    // The neighbours do not share a link: all three forward.
    until("in step", || service.stats().relays[0].synced).await;
    assert_eq!(world.dataplanes[0].ids().len(), 3);
    assert_eq!(world.dataplanes[0].table.lock().clashes, 0);
}
