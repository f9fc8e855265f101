//! The access service from end to end: accounts, the control plane, the dataplane, and clients that
//! log in by DTCP from several places at once.

mod hostile;
mod parts;
mod store;
mod tool;
mod udp;

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use sixferry_netns_tests::control::{Control, ControlConfig};
use sixferry_netns_tests::customer::{Client, Customer, secret};
use sixferry_netns_tests::daemon::{Daemon, DaemonConfig};
use sixferry_netns_tests::flow::UdpFlow;
use sixferry_netns_tests::raw::RawIpv4;
use sixferry_netns_tests::topology::{HOST_V6, Lab, LabPlan, RELAY_V4, RELAY_V6};
use sixferry_netns_tests::{Net, wait_until};

const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(40);
const RATE: u32 = 200;
/// Pairs of `host` tunnels are taken from here.
const PAIRS: &str = "2001:db8:f001::/64";

/// Everything but the customers. The processes come first: they go before their namespaces do.
struct Service {
    control: Control,
    daemon: Daemon,
    lab: Lab,
}

/// A user: name and prefixes.
type Account = (&'static str, &'static [&'static str]);

const ALICE: Account = ("alice", &["2001:db8:1001::/48"]);
const BOB: Account = ("bob", &[]);
const CAROL: Account = ("carol", &["2001:db8:1003::/48"]);
const DAVE: Account = ("dave", &[]);

/// The relay without users.
fn relay() -> (Lab, Daemon) {
    let lab = LabPlan::new().without_guest().build().expect("a lab");
    lab.host
        .ip(&format!("route add 2001:db8::/32 via {RELAY_V6}"));
    let daemon = Daemon::start(&lab.relay, &DaemonConfig::ports_of_lab(&lab, "auto"));
    (lab, daemon)
}

/// Section `[dtcp]`; `more` are further tables of it.
fn dtcp_keys(more: &str) -> String {
    format!(
        "host_prefix = \"{PAIRS}\"\nnetwork = true\nlisten = [\"{RELAY_V4}\"]\n\
         interfaces = \"gif0\"\n[dtcp.udp]\nenabled = true\n{more}"
    )
}

impl Service {
    fn start(accounts: &[Account]) -> Self {
        Self::start_with(accounts, &ControlConfig::default().dtcp(&dtcp_keys("")))
    }

    fn start_with(accounts: &[Account], config: &ControlConfig) -> Self {
        let (lab, daemon) = relay();
        let control = Control::start(&lab.relay, &daemon, config);
        for (name, prefixes) in accounts {
            control.add_user(name, &secret(name), prefixes);
        }
        Self {
            control,
            daemon,
            lab,
        }
    }

    /// Tunnels the dataplane has.
    fn carried(&self) -> u64 {
        self.daemon.api().info().expect("an answer").tunnel_count
    }

    fn nothing_is_left(&self) {
        wait_until("no tunnel is left", SOON, || self.carried() == 0);
        wait_until("no session is left", SOON, || {
            self.control.sessions().is_empty()
        });
        let tunnels = self.control.tunnels();
        assert!(tunnels.is_empty(), "{tunnels:?}");
    }

    fn dropped(&self, reason: &str) -> u64 {
        let total = self.daemon.api().counters().total.expect("a total");
        let row = total.drops.iter().find(|drop| drop.reason == reason);
        row.and_then(|drop| drop.count).map_or(0, |c| c.packets)
    }
}

/// The address of a customer that others reach.
fn inner(customer: &Customer, account: Account) -> Ipv6Addr {
    let text = customer.net.ip("-o -6 addr show scope global");
    let found = text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet6");
        let address = words.nth(1)?.split('/').next()?;
        address.parse().ok()
    });
    found.unwrap_or_else(|| panic!("{} has no address: {text}", account.0))
}

fn reaches(net: &Net, to: Ipv6Addr) -> bool {
    // Without a tunnel there is not even a route, which is no reply either.
    let done = net.try_run(&format!("ping -n -c 2 -i 0.2 -W 2 {to}"));
    done.status.success()
}

fn both_ways(service: &Service, customer: &Customer, address: Ipv6Addr) {
    assert!(reaches(&customer.net, HOST_V6), "out of {address}");
    assert!(reaches(&service.lab.host, address), "back to {address}");
}

struct Flows([UdpFlow; 2]);

impl Flows {
    fn start(service: &Service, customer: &Customer, address: Ipv6Addr) -> Self {
        let (user, host) = ((&customer.net, address), (&service.lab.host, HOST_V6));
        let flows = [
            UdpFlow::start(user, host, 200, RATE),
            UdpFlow::start(host, user, 200, RATE),
        ];
        for flow in &flows {
            flow.wait_received(u64::from(RATE) / 4, SOON);
        }
        Self(flows)
    }

    fn expect_no_loss(self, what: &str) {
        for (way, flow) in ["up", "down"].into_iter().zip(self.0) {
            flow.wait_received(u64::from(RATE) / 4, SOON);
            let report = flow.stop();
            assert!(
                report.lost.is_empty() && report.duplicated == 0,
                "{what} {way}: {report:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn every_type_over_both_transports_at_once_and_nothing_is_left() {
    let service = Service::start(&[ALICE, BOB, CAROL, DAVE]);
    let lab = &service.lab;
    let alice = Customer::direct(lab, ALICE.0, 11);
    let bob = Customer::direct(lab, BOB.0, 12);
    let carol = Customer::natted(lab, CAROL.0, 13, 50_000);
    let dave = Customer::natted(lab, DAVE.0, 14, 50_000);
    // Nothing passes before a login.
    assert!(!reaches(&alice.net, HOST_V6));

    let clients = [
        alice.launch("-t network -P lo/1/1"),
        bob.launch("-t host"),
        carol.launch("-t network -U -P lo/1/1"),
        dave.launch("-t host -U"),
    ];
    let mut clients = clients;
    for client in &mut clients {
        client.wait_up();
    }
    assert_eq!(service.control.sessions().len(), 4);
    assert_eq!(service.carried(), 4);
    let customers = [(&alice, ALICE), (&bob, BOB), (&carol, CAROL), (&dave, DAVE)];
    let addresses = customers.map(|(customer, account)| inner(customer, account));
    for ((customer, _), address) in customers.iter().zip(addresses) {
        both_ways(&service, customer, address);
    }
    // Users reach each other, too.
    assert!(reaches(&dave.net, addresses[0]));

    let flows: Vec<Flows> = customers
        .iter()
        .zip(addresses)
        .map(|((customer, _), address)| Flows::start(&service, customer, address))
        .collect();
    for (flows, (_, account)) in flows.into_iter().zip(customers) {
        flows.expect_no_loss(account.0);
    }

    // The NAT of one forgets him, and he is found again by his next packet.
    carol.rebind(51_000);
    wait_until("the user with another port", PATIENCE, || {
        reaches(&carol.net, HOST_V6)
    });
    assert!(reaches(&service.lab.host, addresses[2]));
    both_ways(&service, &dave, addresses[3]);

    for client in clients {
        client.log_out();
    }
    service.nothing_is_left();
    for ((customer, _), address) in customers.iter().zip(addresses) {
        assert!(!reaches(&service.lab.host, address), "{address}");
        let left = customer.net.ip("-o link show");
        assert!(!left.contains("dtcp0"), "{left}");
    }
}

#[test]
#[ignore = "needs root"]
fn tunnelonly_gives_a_bare_tunnel() {
    let service = Service::start(&[BOB]);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let client = bob.log_in("-t tunnelonly");
    assert_eq!(service.carried(), 1);
    let tunnel = &service.control.tunnels()[0];
    assert_eq!(tunnel.remote, bob.outer.octets());
    assert_eq!(tunnel.local, RELAY_V4.octets());
    assert!(tunnel.pair.is_none() && tunnel.prefixes.is_empty());
    client.log_out();
    service.nothing_is_left();
}

/// A packet of protocol 41 as anybody on the underlay can send it.
fn send_as(net: &Net, outer: Ipv4Addr, source: Ipv6Addr) {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(source.octets(), HOST_V6.octets(), 64)
        .udp(1000, 1000)
        .write(&mut packet, b"spoofed")
        .expect("a packet");
    RawIpv4::protocol_41(net, outer).send(RELAY_V4, &packet);
}

#[test]
#[ignore = "needs root"]
fn nobody_sends_what_is_not_his() {
    let service = Service::start(&[ALICE, BOB]);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let victim: Ipv6Addr = "2001:db8:1001::1".parse().expect("address");
    let ours = alice.log_in("-t network -P lo/1/1");
    // Before a login.
    send_as(&bob.net, bob.outer, victim);
    wait_until("a packet of nobody's tunnel", SOON, || {
        service.dropped("NO_TUNNEL") == 1
    });
    let his = bob.log_in("-t host");
    both_ways(&service, &bob, inner(&bob, BOB));
    let before = service.dropped("INNER_SRC_SPOOF");
    send_as(&bob.net, bob.outer, victim);
    wait_until("a spoofed source", SOON, || {
        service.dropped("INNER_SRC_SPOOF") == before + 1
    });
    // After the logout.
    his.log_out();
    wait_until("his tunnel is gone", SOON, || service.carried() == 1);
    let before = service.dropped("NO_TUNNEL");
    send_as(&bob.net, bob.outer, victim);
    wait_until("a packet of a tunnel that is gone", SOON, || {
        service.dropped("NO_TUNNEL") == before + 1
    });
    // A wrong password opens nothing.
    let mut wrong = bob.launch_as(ALICE.0, "-t host");
    let status = wrong.process().wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert_eq!(service.carried(), 1);
    ours.log_out();
    service.nothing_is_left();
}

/// How often to kill; `make soak` asks for more.
fn rounds() -> u32 {
    let asked = std::env::var("SIXFERRY_KILL_ROUNDS").ok();
    asked.map_or(3, |text| {
        text.parse().expect("SIXFERRY_KILL_ROUNDS is a number")
    })
}

/// No two live tunnels have an address, prefix or port in common, and the dataplane has just these.
fn no_address_twice(service: &Service) {
    let tunnels = service.control.tunnels();
    let mut seen = HashSet::new();
    for tunnel in &tunnels {
        let slot = tunnel.slot.as_ref().expect("a slot");
        assert!(seen.insert(format!("{slot:?}")), "{tunnels:#?}");
        if let Some(pair) = &tunnel.pair {
            assert!(seen.insert(format!("{:?}", pair.client)), "{tunnels:#?}");
        }
        for prefix in &tunnel.prefixes {
            assert!(seen.insert(format!("{prefix:?}")), "{tunnels:#?}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn users_are_not_interrupted_when_control_is_killed_again_and_again() {
    let mut service = Service::start(&[ALICE, BOB, CAROL]);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let carol = Customer::natted(&service.lab, CAROL.0, 13, 50_000);
    let clients = [
        alice.log_in("-l --retry-max 1 -t network -P lo/1/1"),
        bob.log_in("-l --retry-max 1 -t host"),
        carol.log_in("-l --retry-max 1 -t network -U -P lo/1/1"),
    ];
    let customers = [(&alice, ALICE), (&bob, BOB), (&carol, CAROL)];
    let addresses = customers.map(|(customer, account)| inner(customer, account));
    for ((customer, _), address) in customers.iter().zip(addresses) {
        both_ways(&service, customer, address);
    }
    let flows: Vec<Flows> = customers
        .iter()
        .zip(addresses)
        .map(|((customer, _), address)| Flows::start(&service, customer, address))
        .collect();
    for round in 0..rounds() {
        service.control.kill();
        service.control.start_again(&service.lab.relay);
        wait_until("everybody is back", PATIENCE, || {
            service.control.sessions().len() == customers.len()
        });
        no_address_twice(&service);
        assert_eq!(service.carried(), 3, "round {round}");
        let now = customers.map(|(customer, account)| inner(customer, account));
        assert_eq!(now, addresses, "round {round}");
    }
    for (flows, (_, account)) in flows.into_iter().zip(customers) {
        flows.expect_no_loss(account.0);
    }
    for client in clients {
        client.log_out();
    }
    service.nothing_is_left();
}

/// Logins keep coming while the control plane is killed: whatever moment it hits, what is there
/// afterwards is what the store says, and every user gets in.
#[test]
#[ignore = "needs root"]
fn kills_in_the_middle_of_logins_leave_nothing_behind() {
    let mut service = Service::start(&[ALICE, BOB, DAVE]);
    let customers = [
        Customer::direct(&service.lab, ALICE.0, 11),
        Customer::direct(&service.lab, BOB.0, 12),
        Customer::direct(&service.lab, DAVE.0, 14),
    ];
    let kinds = ["-t network -P lo/1/1", "-t host", "-t host -U"];
    for round in 0..rounds() {
        let options = |kind: &str| format!("-l --retry-max 1 {kind}");
        let mut clients: Vec<Client> = customers
            .iter()
            .zip(kinds)
            .map(|(customer, kind)| customer.launch(&options(kind)))
            .collect();
        // Another moment in each round, so that each step of a login is hit some time.
        let moment = Duration::from_millis(u64::from(round * 7 % 60));
        let until = Instant::now() + moment;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        service.control.kill();
        service.control.start_again(&service.lab.relay);
        for client in &mut clients {
            client.wait_up();
        }
        wait_until("everybody is in", PATIENCE, || {
            service.control.sessions().len() == customers.len()
        });
        no_address_twice(&service);
        for client in clients {
            client.log_out();
        }
        service.nothing_is_left();
    }
}

/// The dataplane is killed: it comes back with what it had, and control fills in the rest.
#[test]
#[ignore = "needs root"]
fn a_dataplane_that_was_killed_carries_the_same_tunnels_again() {
    let mut service = Service::start(&[ALICE, BOB]);
    let alice = Customer::direct(&service.lab, ALICE.0, 11);
    let bob = Customer::direct(&service.lab, BOB.0, 12);
    let clients = [
        alice.log_in("-l -t network -P lo/1/1"),
        bob.log_in("-l -t host"),
    ];
    for _ in 0..rounds() {
        service.daemon.kill_and_start_again(&service.lab.relay);
        wait_until("the tunnels are back", PATIENCE, || service.carried() == 2);
        wait_until("packets pass", PATIENCE, || {
            reaches(&alice.net, HOST_V6) && reaches(&bob.net, HOST_V6)
        });
    }
    assert_eq!(service.control.sessions().len(), 2);
    for client in clients {
        client.log_out();
    }
    service.nothing_is_left();
}
