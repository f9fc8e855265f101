//! Clients: a process that holds up to some ten thousand sessions and does as it is told.
//!
//! An order is a line of JSON on standard input, the answer one on standard output. One thread serves
//! all clients: what a client costs is small beside what it costs the daemons.

use super::{RELAY, User};
use crate::e2e::role::{READY, say};
use crate::e2e::{Context, Error};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use sixferry_dtcp::wire::{self, client};
use std::collections::{BTreeMap, VecDeque};
use std::io::BufRead;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Longer than any limit of the daemon: a client that waits so long is one that failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors that are no session's.
const RESERVED: u64 = 64;
/// A reply is one line; none is longer.
const REPLY_MAX: usize = 512;

/// What a swarm shall do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// All users log in, so many at a time, and stay.
    Login {
        /// How many have a login under way.
        at_once: usize,
    },
    /// Each that is logged in says `ping` once in `period` seconds, evenly spread.
    Ping {
        /// For how long, in seconds.
        seconds: f64,
        /// In seconds.
        period: f64,
    },
    /// So many clients each log in and quit, again and again, as users in turn.
    Cycle {
        /// How many.
        clients: usize,
        /// Seconds until anything counts.
        warm_up: f64,
        /// Seconds of what counts.
        seconds: f64,
    },
}

/// What came of an order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Said {
    /// Logins or pings that were answered with `+OK`.
    pub done: u64,
    /// Others, by what came instead.
    pub failed: BTreeMap<String, u64>,
    /// How long the order took.
    pub seconds: f64,
    /// Microseconds of each that was done: a login from connecting to its `+OK`.
    pub micros: Vec<u32>,
}

impl Said {
    fn note(&mut self, outcome: Result<Duration, String>) {
        match outcome {
            Ok(took) => {
                self.done += 1;
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                self.micros.push(micros);
            }
            Err(reason) => *self.failed.entry(reason).or_default() += 1,
        }
    }

    /// Adds what another swarm said of the same order.
    pub fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.micros.extend(other.micros);
        self.seconds = self.seconds.max(other.seconds);
        for (reason, count) in other.failed {
            *self.failed.entry(reason).or_default() += count;
        }
    }
}

/// A session with its tunnel.
struct Session {
    stream: TcpStream,
}

/// Runs a swarm of `count` users from `first` on until standard input ends.
///
/// # Errors
/// When the process may not hold so many descriptors, and of standard input and output.
pub fn run(first: u32, count: u32) -> Result<(), Error> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).during("the limit of descriptors")?;
    if limit
        .maximum
        .is_some_and(|most| u64::from(count) + RESERVED > most)
    {
        return Err("more sessions than descriptors").during(format!("{count} sessions"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("a runtime")?;
    let mut swarm = Swarm {
        users: (first..first + count).map(User).collect(),
        sessions: VecDeque::new(),
    };
    say(READY)?;
    for line in std::io::stdin().lock().lines() {
        let line = line.during("standard input")?;
        let order: Order = serde_json::from_str(&line).during("an order")?;
        let tasks = tokio::task::LocalSet::new();
        let start = Instant::now();
        let mut said = runtime.block_on(tasks.run_until(swarm.obey(order)));
        said.seconds = start.elapsed().as_secs_f64();
        say(&serde_json::to_string(&said).during("an answer")?)?;
    }
    Ok(())
}

struct Swarm {
    users: Vec<User>,
    sessions: VecDeque<Session>,
}

impl Swarm {
    async fn obey(&mut self, order: Order) -> Said {
        match order {
            Order::Login { at_once } => self.login(at_once).await,
            Order::Ping { seconds, period } => self.ping(seconds, period).await,
            Order::Cycle {
                clients,
                warm_up,
                seconds,
            } => self.cycle(clients, warm_up, seconds).await,
        }
    }

    async fn login(&mut self, at_once: usize) -> Said {
        let room = Rc::new(Semaphore::new(at_once.max(1)));
        let mut logins = JoinSet::new();
        for user in self.users.iter().copied() {
            let room = room.clone();
            logins.spawn_local(async move {
                let _place = room.acquire().await;
                patiently(login(user)).await
            });
        }
        let mut said = Said::default();
        while let Some(outcome) = logins.join_next().await {
            said.note(flat(outcome).map(|(session, took)| {
                self.sessions.push_back(session);
                took
            }));
        }
        said
    }

    async fn ping(&mut self, seconds: f64, period: f64) -> Said {
        let mut said = Said::default();
        if self.sessions.is_empty() {
            return said;
        }
        let start = Instant::now();
        let interval = period / self.sessions.len() as f64;
        let mut pings = JoinSet::new();
        let mut number = 0_u32;
        loop {
            let after = f64::from(number) * interval;
            if after >= seconds {
                break;
            }
            number += 1;
            sleep_until(start + Duration::from_secs_f64(after)).await;
            // each in turn: who has pinged goes to the end
            let Some(mut session) = self.sessions.pop_front() else {
                break;
            };
            pings.spawn_local(async move {
                let asked = Instant::now();
                let answer = patiently(session.ask("ping")).await;
                answer.map(|_| (session, asked.elapsed()))
            });
            while let Some(outcome) = pings.try_join_next() {
                self.answered(&mut said, outcome);
            }
        }
        while let Some(outcome) = pings.join_next().await {
            self.answered(&mut said, outcome);
        }
        said
    }

    fn answered(&mut self, said: &mut Said, outcome: Joined<(Session, Duration)>) {
        said.note(flat(outcome).map(|(session, took)| {
            self.sessions.push_back(session);
            took
        }));
    }

    async fn cycle(&mut self, clients: usize, warm_up: f64, seconds: f64) -> Said {
        let start = Instant::now();
        let from = start + Duration::from_secs_f64(warm_up);
        let to = from + Duration::from_secs_f64(seconds);
        let said = Rc::new(std::cell::RefCell::new(Said::default()));
        let turn = Rc::new(std::cell::Cell::new(0));
        let users: Rc<[User]> = self.users.clone().into();
        let mut loops = JoinSet::new();
        for _ in 0..clients {
            let (said, turn, users) = (said.clone(), turn.clone(), users.clone());
            loops.spawn_local(async move {
                while Instant::now() < to {
                    let user = users[turn.get() % users.len()];
                    turn.set(turn.get() + 1);
                    let outcome = patiently(login_and_quit(user)).await;
                    // what fails counts whenever it does
                    if outcome.is_err() || (from..to).contains(&Instant::now()) {
                        said.borrow_mut().note(outcome);
                    }
                }
            });
        }
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                said.borrow_mut().note(Err(error.to_string()));
            }
        }
        said.take()
    }
}

type Joined<T> = Result<Result<T, String>, tokio::task::JoinError>;

fn flat<T>(outcome: Joined<T>) -> Result<T, String> {
    outcome.map_err(|error| error.to_string())?
}

async fn patiently<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
    }
}

/// Connects and logs in; how long that took.
async fn login(user: User) -> Result<(Session, Duration), String> {
    let start = Instant::now();
    let mut session = Session::connect(user).await?;
    let greeting = session.line().await?;
    let challenge = client::greeting(&greeting).map_err(|error| format!("{greeting}: {error}"))?;
    let name = user.name();
    let digest = client::answer(&name, challenge, user.secret().as_bytes());
    let wish = client::Wish {
        kind: "host",
        udp: None,
    };
    session.ask(&client::login(&name, &digest, &wish)).await?;
    Ok((session, start.elapsed()))
}

/// A login, and the whole way out: until the server has closed.
async fn login_and_quit(user: User) -> Result<Duration, String> {
    let (mut session, took) = login(user).await?;
    session.ask("quit").await?;
    match session.stream.read(&mut [0; 1]).await {
        Ok(0) => Ok(took),
        Ok(_) => Err("words after the last".to_owned()),
        Err(error) => Err(text(&error)),
    }
}

impl Session {
    async fn connect(user: User) -> Result<Self, String> {
        let socket = TcpSocket::new_v4().map_err(|error| text(&error))?;
        let own = (user.address(), 0).into();
        socket.bind(own).map_err(|error| text(&error))?;
        let stream = socket.connect((RELAY, wire::PORT).into()).await;
        let stream = stream.map_err(|error| text(&error))?;
        stream.set_nodelay(true).map_err(|error| text(&error))?;
        Ok(Self { stream })
    }

    /// Sends a line and returns the reply; an error is its text.
    async fn ask(&mut self, line: &str) -> Result<String, String> {
        let line = format!("{line}\r\n");
        let sent = self.stream.write_all(line.as_bytes()).await;
        sent.map_err(|error| text(&error))?;
        let reply = self.line().await?;
        if reply.starts_with("+OK") {
            Ok(reply)
        } else {
            Err(reply)
        }
    }

    /// Reads one line. The server says nothing unasked, so nothing follows it.
    async fn line(&mut self) -> Result<String, String> {
        let mut buffer = [0; REPLY_MAX];
        let mut len = 0;
        loop {
            match self.stream.read(&mut buffer[len..]).await {
                Ok(0) if len == REPLY_MAX => return Err("an endless line".to_owned()),
                Ok(0) => return Err("closed".to_owned()),
                Ok(read) => len += read,
                Err(error) => return Err(text(&error)),
            }
            if buffer[..len].ends_with(b"\n") {
                return Ok(String::from_utf8_lossy(&buffer[..len])
                    .trim_end()
                    .to_owned());
            }
        }
    }
}

/// The kind: addresses in a text would make each error one of its own.
fn text(error: &std::io::Error) -> String {
    error.kind().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_lines() {
        for order in [
            Order::Login { at_once: 3 },
            Order::Ping {
                seconds: 1.5,
                period: 60.0,
            },
            Order::Cycle {
                clients: 64,
                warm_up: 2.0,
                seconds: 10.0,
            },
        ] {
            let line = serde_json::to_string(&order).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
        }
    }

    #[test]
    fn swarms_are_summed_up() {
        let mut sum = Said::default();
        for (took, failure) in [(1_u32, "closed"), (3, "closed"), (2, "-ERR server busy")] {
            let mut said = Said {
                seconds: f64::from(took),
                ..Said::default()
            };
            said.note(Ok(Duration::from_millis(u64::from(took))));
            said.note(Err(failure.to_owned()));
            sum.merge(said);
        }
        assert_eq!((sum.done, sum.seconds), (3, 3.0));
        assert_eq!(sum.micros, [1000, 3000, 2000]);
        assert_eq!(sum.failed["closed"], 2);
        assert_eq!(sum.failed["-ERR server busy"], 1);
    }
}
