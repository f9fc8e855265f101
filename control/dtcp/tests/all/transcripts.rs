//! The conversations in `tests/transcripts` as golden files: every line, and what becomes of the
//! tunnel, through wire and machine without a socket.
//!
//! A file has settings, an empty line, then `S:` and `C:` lines, `(N s)` that pass, `tunnels N` that
//! there are, and `FIN`.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use sixferry_dtcp::Config;
use sixferry_dtcp::machine::{Action, Authentication, Event, Machine, Wish};
use sixferry_dtcp::plan::{Ends, Settings, refusal};
use sixferry_dtcp::routetable::RouteTable;
use sixferry_dtcp::wire::line::{Assembler, Found, LINE_MAX};
use sixferry_dtcp::wire::{hex, parse_hex, reply};
use sixferry_lifecycle::{Cause, Digest, Lease, Tunnels as _};

use crate::fake::Fake;

struct Stage {
    fake: Fake,
    settings: Settings,
    ends: Ends,
    challenge: [u8; 16],
    machine: Machine,
    assembler: Assembler,
    now: Instant,
    lease: Option<Lease>,
    said: VecDeque<String>,
    fin: bool,
}

impl Stage {
    fn new(settings: &str) -> Self {
        let fake = Fake::new(&[]);
        let mut config = Config::default();
        let mut routes = String::new();
        let (mut client, mut server, mut challenge) = (None, None, None);
        for line in settings.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["client", address] => client = address.parse().ok(),
                ["server", address] => server = address.parse().ok(),
                ["challenge", text] => challenge = parse_hex(text.as_bytes()),
                ["prefix", text] => {
                    config.host_prefix =
                        Some(sixferry_dtcp::config::parse_host_prefix(text).unwrap());
                }
                ["udp", port] => {
                    config.udp.enabled = true;
                    config.udp.first_port = port.parse().unwrap();
                }
                ["user", user, secret] => fake.set_account(user, secret),
                ["route", ..] => routes += &format!("{}\n", words[1..].join(" ")),
                _ => panic!("setting {line:?}"),
            }
        }
        let routes = (!routes.is_empty()).then(|| {
            config.routetable = Some("routetable".into());
            RouteTable::parse(routes.as_bytes()).0.into()
        });
        let now = Instant::now();
        let mut stage = Self {
            fake,
            settings: Settings::new(config, routes).unwrap(),
            ends: Ends {
                server: server.unwrap(),
                client: client.unwrap(),
            },
            challenge: challenge.unwrap(),
            machine: Machine::new(now),
            assembler: Assembler::new(LINE_MAX),
            now,
            lease: None,
            said: VecDeque::new(),
            fin: false,
        };
        let mut greeting = Vec::new();
        reply::emit_greeting(
            stage.challenge,
            &stage.settings.config.banner,
            &mut greeting,
        );
        stage.say(&greeting);
        stage
    }

    fn say(&mut self, bytes: &[u8]) {
        let line = bytes.strip_suffix(b"\r\n").expect("CR LF");
        self.said
            .push_back(String::from_utf8(line.to_vec()).unwrap());
    }

    fn hear(&mut self, line: &str) {
        let bytes = format!("{line}\r\n").into_bytes();
        let mut input = &bytes[..];
        assert_eq!(self.assembler.feed(&mut input), Found::Line);
        let line = self.assembler.line().to_vec();
        self.step(Event::Line(&line));
    }

    fn step(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.machine
            .handle(event, self.now, &self.settings.rules, &mut actions);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send(reply) => {
                let mut bytes = Vec::new();
                reply.emit(&mut bytes);
                self.say(&bytes);
            }
            Action::Authenticate { user, digest } => {
                let challenge = hex(self.challenge);
                let attempt = Digest {
                    user: &user,
                    challenge: &challenge,
                    digest,
                };
                let found = self
                    .fake
                    .authenticate(attempt)
                    .now_or_never()
                    .unwrap()
                    .unwrap();
                let result = found.map_or(Authentication::Denied, Authentication::Accepted);
                self.step(Event::Authenticated(result));
            }
            Action::Acquire(wish) => self.acquire(&wish),
            Action::Replace => {
                self.release(Cause::Replaced);
                self.step(Event::Replaced);
            }
            Action::Release(cause) => self.release(cause),
            Action::Close(_) => self.fin = true,
        }
    }

    fn acquire(&mut self, wish: &Wish) {
        let plan = self.settings.plan(wish, self.ends).unwrap();
        match self.fake.acquire(plan).now_or_never().unwrap() {
            Ok(lease) => {
                let granted = self.settings.granted(wish, &lease).unwrap();
                self.lease = Some(lease);
                self.step(Event::Acquired(granted));
            }
            Err(error) => self.step(Event::Refused(refusal(&error))),
        }
    }

    fn release(&mut self, cause: Cause) {
        let lease = self.lease.take().expect("a tunnel to give back");
        let released = self.fake.release(lease.tunnel, lease.number, cause);
        released.now_or_never().unwrap().unwrap();
    }

    fn play(&mut self, line: &str) {
        if let Some(expected) = line.strip_prefix("S: ") {
            assert_eq!(self.said.pop_front().as_deref(), Some(expected));
            return;
        }
        // Nothing may be said that the file does not have.
        assert_eq!(self.said, VecDeque::<String>::new(), "before {line:?}");
        if let Some(said) = line.strip_prefix("C:") {
            self.hear(said.strip_prefix(' ').unwrap_or(said));
        } else if let Some(count) = line.strip_prefix("tunnels ") {
            assert_eq!(self.fake.count(), count.parse::<usize>().unwrap(), "{line}");
        } else if let Some(seconds) = line.strip_prefix('(').and_then(|l| l.strip_suffix(" s)")) {
            self.pass(Duration::from_secs(seconds.parse().unwrap()));
        } else {
            assert_eq!(line, "FIN");
            assert!(self.fin, "the session goes on");
        }
    }

    /// Time passes; at its end, and not a moment earlier, whatever was due then happens.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.now = end - Duration::from_millis(1);
        self.step(Event::Timer);
        assert_eq!(self.said, VecDeque::<String>::new(), "too early");
        self.now = end;
        self.step(Event::Timer);
    }
}

fn play(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let (settings, lines) = text.split_once("\n\n").unwrap();
    let mut stage = Stage::new(settings);
    for line in lines.lines() {
        stage.play(line);
    }
    assert_eq!(stage.said, VecDeque::<String>::new(), "at the end");
    assert_eq!(stage.fin, lines.ends_with("FIN\n"));
}

#[test]
fn transcript_1_host() {
    play("01-host.txt");
}

#[test]
fn transcript_2_failure_retry_idle() {
    play("02-failure-retry-idle.txt");
}

#[test]
fn transcript_3_network() {
    play("03-network.txt");
}

#[test]
fn transcript_4_odd_input() {
    play("04-odd-input.txt");
}

#[test]
fn transcript_5_udp_nat() {
    play("05-udp-nat.txt");
}

#[test]
fn dtcp_25_second_tunnel_of_a_session() {
    play("06-second-tunnel.txt");
}

#[test]
fn dtcp_26_failed_tunnel_keeps_the_short_idle_limit() {
    play("07-idle-and-cap.txt");
}
