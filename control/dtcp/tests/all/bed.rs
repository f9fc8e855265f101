//! A server on a loopback port over a fake lifecycle.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sixferry_dtcp::{Config, Server};

use crate::client::Client;
use crate::fake::Fake;

pub(crate) const ACCOUNTS: [(&str, &str); 4] = [
    ("alice", "s3cret"),
    ("bob", "hunter2"),
    ("carol", "open-sesame"),
    ("dave", "tr0ub4dor"),
];

pub(crate) struct Bed {
    pub(crate) server: Server,
    pub(crate) fake: Arc<Fake>,
    pub(crate) at: SocketAddr,
}

/// Loopback, a free port, and no delay after a wrong login.
pub(crate) fn config() -> Config {
    let mut config = Config {
        listen: vec![Ipv4Addr::LOCALHOST],
        port: 0,
        host_prefix: Some("2001:db8:ffff::/64".parse().unwrap()),
        ..Config::default()
    };
    config.timeouts.failure_delay = Duration::ZERO;
    config
}

/// The n-th client's address.
pub(crate) fn from(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + n)
}

impl Bed {
    pub(crate) fn new(config: Config) -> Self {
        let fake = Arc::new(Fake::new(&ACCOUNTS));
        let server = Server::start(config, fake.clone()).unwrap();
        let at = server.addresses()[0];
        Self { server, fake, at }
    }

    pub(crate) async fn client(&self, n: u32) -> Client {
        Client::connect(self.at, from(n)).await
    }

    /// A client with a tunnel.
    pub(crate) async fn logged_in(&self, n: u32, user: &str, kind: &str) -> Client {
        let mut client = self.client(n).await;
        let secret = ACCOUNTS.iter().find(|account| account.0 == user).unwrap().1;
        let reply = client.login(user, secret, kind).await;
        assert!(reply.starts_with("+OK "), "{reply}");
        client
    }

    /// Waits until something is so. Only where the server says nothing when it has done it.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never happened: {what}");
    }
}
