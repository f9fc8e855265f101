//! Scripted servers, byte for byte, over loopback TCP.

use std::cell::RefCell;
use std::rc::Rc;

use sixferry_dtcp_wire::{client::Wish, udp};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::dtcp::machine::{ANSWER_TIMEOUT, Secret, Settings};

const LIMIT: Duration = Duration::from_secs(20);

/// What happened to the tunnel, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

struct FakeSite {
    log: Log,
    changes: mpsc::UnboundedSender<String>,
}

impl FakeSite {
    fn note(&self, text: String) {
        self.log.0.borrow_mut().push(text.clone());
        let _ = self.changes.send(text);
    }
}

impl Site for FakeSite {
    async fn set_up(&mut self, grant: &Grant, local: Ipv4Addr) -> Result<(), Error> {
        let pair = grant.pair.map(|(own, peer)| format!(" {own} {peer}"));
        let prefixes: String = grant.prefixes.iter().map(|p| format!(" {p}")).collect();
        let port = grant.udp_port.map(|port| format!(" udp {port}"));
        self.note(format!(
            "up {local} {}{}{prefixes}{}",
            grant.server4,
            pair.unwrap_or_default(),
            port.unwrap_or_default()
        ));
        Ok(())
    }

    async fn tear_down(&mut self, _reason: &str) {
        self.note("down".to_owned());
    }

    async fn broken(&mut self) -> String {
        std::future::pending().await
    }

    fn report(&self) {
        self.note("report".to_owned());
    }
}

fn settings(user: &str, kind: &'static str) -> Settings {
    Settings {
        user: user.to_owned(),
        wish: Wish { kind, udp: None },
        // The addresses of the transcripts are not those of this host.
        nat_allowed: true,
        reconnect: false,
        retry_max: Duration::from_millis(50),
        hold: Duration::from_secs(300),
    }
}

/// A client against a server that is a listening socket in the hands of the test.
struct Lab {
    listener: TcpListener,
    log: Log,
    changes: mpsc::UnboundedReceiver<String>,
    controls: mpsc::Sender<Control>,
    client: tokio::task::JoinHandle<Outcome>,
}

impl Lab {
    async fn start(settings: Settings, password: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket");
        let endpoint = Endpoint {
            server: "127.0.0.1".to_owned(),
            port: listener.local_addr().expect("an address").port(),
            user: settings.user.clone(),
            source: Source::Typed(Secret(password.as_bytes().to_vec())),
        };
        let log = Log::default();
        let (sender, changes) = mpsc::unbounded_channel();
        let mut site = FakeSite {
            log: log.clone(),
            changes: sender,
        };
        let (controls, receiver) = mpsc::channel(8);
        let client = tokio::task::spawn_local(async move {
            drive(Machine::new(settings), &mut site, &endpoint, receiver).await
        });
        Self {
            listener,
            log,
            changes,
            controls,
            client,
        }
    }

    async fn accept(&self) -> Peer {
        let accepted = timeout(LIMIT, self.listener.accept()).await;
        Peer(accepted.expect("a client comes").expect("accepted").0)
    }

    async fn change(&mut self) -> String {
        let change = timeout(LIMIT, self.changes.recv()).await;
        change.expect("it happens").expect("the client lives")
    }

    async fn control(&self, event: Event) {
        let sent = self.controls.send(Control::Event(event)).await;
        sent.expect("the client lives");
    }

    async fn end(self) -> (Outcome, Vec<String>) {
        let outcome = timeout(LIMIT, self.client).await.expect("it ends");
        (outcome.expect("no panic"), self.log.0.take())
    }
}

/// The server's side of a session.
struct Peer(TcpStream);

impl Peer {
    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    /// Exactly these bytes come next.
    async fn hear(&mut self, wanted: &str) {
        let mut bytes = vec![0; wanted.len()];
        let read = timeout(LIMIT, self.0.read_exact(&mut bytes)).await;
        read.expect("something comes").expect("no end");
        assert_eq!(String::from_utf8_lossy(&bytes), wanted);
    }

    async fn hear_end(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(LIMIT, self.0.read_to_end(&mut rest)).await;
        read.expect("an end comes").expect("no error");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

const ALICE: &[u8] = b"+OK 3D5F0C8A9E7B4126F0D1C2B3A4958677 KAME tunnel server\r\n";
const LOGIN: &str = "tunnel alice A7EAC42C3A53955E885769A055E9AC17 host\r\n";
const HOST: &[u8] = b"+OK 192.0.2.10 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5\r\n";
const UP: &str = "up 127.0.0.1 198.51.100.1 2001:db8:ffff::6 2001:db8:ffff::5";

#[test]
fn transcript_of_a_host_session() {
    local(async {
        let mut lab = Lab::start(settings("alice", "host"), "s3cret").await;
        let mut peer = lab.accept().await;
        peer.say(ALICE).await;
        peer.hear(LOGIN).await;
        peer.say(HOST).await;
        assert_eq!(lab.change().await, UP);
        // The minute to the first ping, without waiting for it.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
        peer.hear("ping\r\n").await;
        peer.say(b"+OK hi, happy to hear from you\r\n").await;
        lab.control(Event::Stop).await;
        peer.hear("quit\r\n").await;
        peer.say(b"+OK see you soon.\r\n").await;
        drop(peer);
        let (outcome, log) = lab.end().await;
        assert_eq!(
            (outcome, log),
            (Outcome::Done, vec![UP.to_owned(), "down".to_owned()])
        );
    });
}

#[test]
fn transcript_of_a_refusal_with_the_texts_of_both_generations() {
    for (greeting, login, refusal, goodbye) in [
        (
            &b"+OK 3D5F0C8A9E7B4126F0D1C2B3A4958677 KAME tunnel server\r\n"[..],
            "tunnel bob 7E820669D4928077BBB2B1DA59874C74 tunnelonly\r\n",
            &b"-ERR authentication failed.\r\n"[..],
            &b"+OK see you soon.\r\n"[..],
        ),
        (
            b"+OK 3d5f0c8a9e7b4126f0d1c2b3a4958677 Feel6 DTCP tunnel server\n",
            "tunnel bob b78f0135f1227f8ea62fc64fc23f4850 tunnelonly\r\n",
            b"-ERR no\n",
            b"+OK tunnel server quitting\n",
        ),
    ] {
        local(async {
            let lab = Lab::start(settings("bob", "tunnelonly"), "hunter2").await;
            let mut peer = lab.accept().await;
            peer.say(greeting).await;
            peer.hear(login).await;
            peer.say(refusal).await;
            peer.hear("quit\r\n").await;
            peer.say(goodbye).await;
            drop(peer);
            assert_eq!(lab.end().await, (Outcome::Failed, Vec::new()));
        });
    }
}

#[test]
fn transcript_of_a_network_session_that_the_server_ends() {
    local(async {
        let mut lab = Lab::start(settings("carol", "network"), "open-sesame").await;
        let mut peer = lab.accept().await;
        peer.say(b"+OK 7A00FF11EE22DD33CC44BB55AA669988 KAME tunnel server\r\n")
            .await;
        peer.hear("tunnel carol B604C6985DCBD5434CAC6D749B5E3467 network\r\n")
            .await;
        peer.say(b"+OK 192.0.2.10 198.51.100.1 2001:db8:100::/48\r\n")
            .await;
        let up = "up 127.0.0.1 198.51.100.1 2001:db8:100::/48";
        assert_eq!(lab.change().await, up);
        peer.say(b"-ERR connection timed out, disconnecting\r\n")
            .await;
        drop(peer);
        let (outcome, log) = lab.end().await;
        assert_eq!(
            (outcome, log),
            (Outcome::Done, vec![up.to_owned(), "down".to_owned()])
        );
    });
}

#[test]
fn transcript_of_udp_behind_a_nat() {
    local(async {
        let udp = Settings {
            wish: Wish {
                kind: "tunnelonly",
                udp: Some(udp::Request { client_port: None }),
            },
            nat_allowed: false,
            ..settings("alice", "tunnelonly")
        };
        let mut lab = Lab::start(udp, "s3cret").await;
        let mut peer = lab.accept().await;
        peer.say(ALICE).await;
        peer.hear("tunnel alice A7EAC42C3A53955E885769A055E9AC17 tunnelonly udp\r\n")
            .await;
        peer.say(b"+OK 203.0.113.7 198.51.100.1 udp 4028\r\n").await;
        assert_eq!(lab.change().await, "up 127.0.0.1 198.51.100.1 udp 4028");
        lab.control(Event::Stop).await;
        peer.hear("quit\r\n").await;
        drop(peer);
        assert_eq!(lab.end().await.0, Outcome::Done);
    });
}

#[test]
fn a_nat_in_between_means_quit_and_failure() {
    local(async {
        let strict = Settings {
            nat_allowed: false,
            ..settings("alice", "host")
        };
        let lab = Lab::start(strict, "s3cret").await;
        let mut peer = lab.accept().await;
        peer.say(ALICE).await;
        peer.hear(LOGIN).await;
        peer.say(HOST).await;
        peer.hear("quit\r\n").await;
        drop(peer);
        assert_eq!(lab.end().await, (Outcome::Failed, Vec::new()));
    });
}

#[test]
fn bytes_that_come_one_by_one_or_all_at_once_are_the_same() {
    local(async {
        let mut lab = Lab::start(settings("alice", "host"), "s3cret").await;
        let mut peer = lab.accept().await;
        peer.0.set_nodelay(true).expect("set");
        for byte in ALICE {
            peer.say(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        peer.hear(LOGIN).await;
        for byte in HOST {
            peer.say(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(lab.change().await, UP);
        lab.control(Event::Stop).await;
        peer.hear("quit\r\n").await;
        drop(peer);
        assert_eq!(lab.end().await.0, Outcome::Done);

        // A server that says everything before it is asked.
        let mut lab = Lab::start(settings("alice", "host"), "s3cret").await;
        let mut peer = lab.accept().await;
        peer.say(&[ALICE, HOST, b"+OK hi\r\n"].concat()).await;
        peer.hear(LOGIN).await;
        assert_eq!(lab.change().await, UP);
        drop(peer);
        assert_eq!(lab.end().await.0, Outcome::Done);
    });
}

#[test]
fn oversized_garbage_and_binary_replies_end_it() {
    for reply in [
        vec![b'x'; 100_000],
        [b"+OK ".to_vec(), vec![b'x'; 100_000], b"\r\n".to_vec()].concat(),
        b"\x00\xff\xfe\r\n".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
    ] {
        local(async {
            let lab = Lab::start(settings("alice", "host"), "s3cret").await;
            let mut peer = lab.accept().await;
            // The client may be gone before all of it is sent.
            let _ = peer.0.write_all(&reply).await;
            assert_eq!(lab.end().await, (Outcome::Failed, Vec::new()));
        });
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    local(async {
        let lab = Lab::start(settings("alice", "host"), "s3cret").await;
        let mut peer = lab.accept().await;
        let settle = async || {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        // The client has seen that it is connected; from here its clock runs to the greeting.
        settle().await;
        tokio::time::pause();
        tokio::time::advance(ANSWER_TIMEOUT - Duration::from_secs(1)).await;
        settle().await;
        assert!(!lab.client.is_finished(), "it gave up too early");
        tokio::time::advance(Duration::from_secs(2)).await;
        settle().await;
        tokio::time::resume();
        peer.hear_end().await;
        assert_eq!(lab.end().await, (Outcome::Failed, Vec::new()));
    });
}

#[test]
fn a_server_that_is_not_there_fails_and_with_reconnect_is_tried_again() {
    local(async {
        let again = Settings {
            reconnect: true,
            ..settings("alice", "host")
        };
        let mut lab = Lab::start(again, "s3cret").await;
        for _ in 0..3 {
            let mut peer = lab.accept().await;
            peer.say(ALICE).await;
            peer.hear(LOGIN).await;
            peer.say(HOST).await;
            // The same tunnel, and never taken down in between.
            assert_eq!(lab.change().await, UP);
        }
        lab.control(Event::Stop).await;
        let (outcome, log) = lab.end().await;
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(log, [UP, UP, UP, "down"]);

        let lab = Lab::start(settings("alice", "host"), "s3cret").await;
        let Lab {
            listener, client, ..
        } = lab;
        drop(listener);
        let outcome = timeout(LIMIT, client).await.expect("it ends");
        assert_eq!(outcome.expect("no panic"), Outcome::Failed);
    });
}

#[test]
fn a_report_is_not_an_event() {
    local(async {
        let mut lab = Lab::start(settings("alice", "host"), "s3cret").await;
        let _peer = lab.accept().await;
        lab.controls.send(Control::Report).await.expect("it lives");
        assert_eq!(lab.change().await, "report");
        lab.client.abort();
    });
}
