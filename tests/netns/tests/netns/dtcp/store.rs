//! The store is PostgreSQL, and is killed under logins.

use sixferry_netns_tests::login::Login;
use sixferry_postgres::Cluster;

use super::*;

/// How long a login waits for a store that is away, in seconds.
const WAIT: u64 = 2;

/// Whoever stands is not interrupted; whoever logs in is told, or waits; afterwards everybody gets
/// in, and nothing is there that should not be.
#[test]
#[ignore = "needs root"]
fn kills_of_postgresql_under_logins_interrupt_nobody() {
    let mut cluster = Cluster::start().expect("a cluster");
    let lifecycle = format!("grace_seconds = 30\ntunnels_per_user = 0\nwait_seconds = {WAIT}");
    let config = ControlConfig::default()
        .dtcp(&dtcp_keys(""))
        .lifecycle(&lifecycle)
        .store(&cluster.url("postgres"));
    let service = Service::start_with(&[ALICE, BOB, DAVE], &config);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let dave = Customer::natted(&service.lab, DAVE.0, 14, 50_000);
    let standing = alice.log_in("-t network -P lo/1/1");
    let address = inner(&alice, ALICE);
    both_ways(&service, &alice, address);
    let flows = Flows::start(&service, &alice, address);
    for round in 0..rounds() {
        let mut clients = [
            bob.launch("-l --retry-max 1 -t host"),
            dave.launch("-l --retry-max 1 -t host -U"),
        ];
        // Another moment in each round, so that each step of a login is hit some time.
        let moment = Duration::from_millis(u64::from(round * 7 % 60));
        let until = Instant::now() + moment;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        cluster.kill().expect("killed");
        // A login now has an answer, and none that gives anything.
        let mut late = Login::connect(&bob.net, bob.outer);
        let asked = Instant::now();
        let reply = late.tunnel(BOB.0, &secret(BOB.0), "host");
        assert!(reply.starts_with("-ERR "), "round {round}: {reply}");
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
        drop(late);
        cluster.resume().expect("started");
        for client in &mut clients {
            client.wait_up();
        }
        wait_until("everybody is in", PATIENCE, || {
            service.control.sessions().len() == 3 && service.carried() == 3
        });
        no_address_twice(&service);
        for client in clients {
            client.log_out();
        }
        wait_until("the others are gone", SOON, || {
            service.carried() == 1 && service.control.tunnels().len() == 1
        });
    }
    flows.expect_no_loss(ALICE.0);
    standing.log_out();
    service.nothing_is_left();
}
