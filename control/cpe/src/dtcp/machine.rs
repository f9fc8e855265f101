//! What a DTCP client does, without any I/O: (event, now) gives actions.
//!
//! ```text
//!            +--------------------- wait (back-off) <-----------------------+
//!            v                                                              |
//!  connect -> greeting -> login -> setting up -> up --(EOF, no answer)------+--> end
//!                 \          \          \         \
//!                  `----------`----------`---------`--(stop, refused)--> quitting
//! ```
//!
//! The tunnel outlives the session it came with for a while when the client is to reconnect: a server
//! that comes back gives the same tunnel to whoever logs in within its grace time, and what flows is
//! then never interrupted.

use std::net::Ipv4Addr;
use std::time::Duration;

use sixferry_dtcp_wire::client::{self, Grant, Reply, Wish, shown};
use tokio::time::Instant;
use zeroize::Zeroize;

use super::backoff::Backoff;

/// How long a TCP connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a greeting, and the answer to a login or to `ping`, may take.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long we wait for a server to close after `quit`.
pub const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
/// From when the tunnel is up, and from each answer.
pub const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Lines that answer nothing, in one session, until the server is taken for something else.
const MAX_UNASKED: u32 = 64;

/// The fixed wishes of one client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// User name.
    pub user: String,
    /// What is asked for.
    pub wish: Wish,
    /// Our address need not be the one the server sees.
    pub nat_allowed: bool,
    /// Begin again for ever.
    pub reconnect: bool,
    /// Longest pause between two attempts.
    pub retry_max: Duration,
    /// How long a tunnel stays without a session.
    pub hold: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Begin.
    Start,
    /// The TCP session is there.
    Connected {
        /// Our address in it.
        local: Ipv4Addr,
        /// The password, read afresh.
        password: Secret,
    },
    /// A line came.
    Line(String),
    /// The session, or the attempt at one, ended.
    Closed {
        /// Why, if it was no orderly end.
        error: Option<String>,
    },
    /// The tunnel is as the grant says.
    TunnelUp,
    /// The tunnel cannot be set up.
    TunnelFailed(String),
    /// The tunnel stopped working.
    TunnelBroken(String),
    /// Time has passed.
    Tick,
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP.
    Restart,
}

/// A password. Not to be seen anywhere.
#[derive(Clone, Default)]
pub struct Secret(pub Vec<u8>);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a TCP session; [`Event::Connected`] or [`Event::Closed`] follows.
    Connect,
    /// Send a line.
    Send(String),
    /// Close the TCP session; nothing of it is to be reported any more.
    Close,
    /// Make the tunnel so, whatever it was before.
    SetUp {
        /// What the server gave.
        grant: Grant,
        /// Our address.
        local: Ipv4Addr,
    },
    /// Take the tunnel away.
    TearDown {
        /// Why.
        reason: String,
    },
    /// For the user, once.
    Say(Level, String),
    /// The end.
    Exit(Outcome),
}

/// How loud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// With `-d`.
    Debug,
    /// Always.
    Info,
    /// Something is wrong.
    Warn,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A signal, or the server closed a session that was up.
    Done,
    /// Refused, not reached, not understood, or behind a NAT.
    Failed,
    /// The tunnel cannot be set up on this host.
    Setup,
}

#[derive(Debug)]
enum State {
    Idle,
    Connecting {
        until: Instant,
    },
    Greeting {
        until: Instant,
        local: Ipv4Addr,
        password: Secret,
    },
    LoggingIn {
        until: Instant,
        local: Ipv4Addr,
    },
    /// The tunnel is being made; the session is up.
    SettingUp,
    Up {
        /// For the next ping, or for the answer to the last one.
        until: Instant,
        asked: bool,
    },
    Quitting {
        until: Instant,
        then: Then,
    },
    Waiting {
        until: Instant,
    },
    Ended,
}

/// What follows a session's end.
#[derive(Clone, Copy, Debug)]
enum Then {
    Exit(Outcome),
    Again,
}

/// One client.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    backoff: Backoff,
    /// When the present session came up.
    up_since: Option<Instant>,
    /// A tunnel stands; without a session until then.
    tunnel: Option<Option<Instant>>,
    unasked: u32,
    /// The last thing the server complained about without being asked.
    complaint: Option<String>,
}

impl Machine {
    /// A client that has done nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            backoff: Backoff::new(settings.retry_max),
            settings,
            state: State::Idle,
            up_since: None,
            tunnel: None,
            unasked: 0,
            complaint: None,
        }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let own = match self.state {
            State::Connecting { until }
            | State::Greeting { until, .. }
            | State::LoggingIn { until, .. }
            | State::Up { until, .. }
            | State::Quitting { until, .. }
            | State::Waiting { until } => Some(until),
            State::Idle | State::SettingUp | State::Ended => None,
        };
        let hold = self.tunnel.flatten();
        own.into_iter().chain(hold).min()
    }

    /// Whether a session is up and its tunnel set up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Decides.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut out = Vec::new();
        if matches!(self.state, State::Ended) {
            return out;
        }
        match event {
            Event::Start => self.connect(now, &mut out),
            Event::Connected { local, password } => {
                if matches!(self.state, State::Connecting { .. }) {
                    self.state = State::Greeting {
                        until: now + ANSWER_TIMEOUT,
                        local,
                        password,
                    };
                }
            }
            Event::Line(line) => self.line(&line, now, &mut out),
            Event::Closed { error } => self.closed(error, now, &mut out),
            Event::TunnelUp => {
                if matches!(self.state, State::SettingUp) {
                    self.up_since = Some(now);
                    self.backoff.came_up();
                    self.state = State::Up {
                        until: now + PING_INTERVAL,
                        asked: false,
                    };
                }
            }
            Event::TunnelFailed(why) => self.broken(why, true, now, &mut out),
            Event::TunnelBroken(why) => self.broken(why, false, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
            Event::Stop => self.stop(now, &mut out),
            Event::Restart => self.restart(now, &mut out),
        }
        out
    }

    fn connect(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.unasked = 0;
        self.complaint = None;
        self.state = State::Connecting {
            until: now + CONNECT_TIMEOUT,
        };
        out.push(Action::Connect);
    }

    fn line(&mut self, line: &str, now: Instant, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Greeting {
                local, password, ..
            } => self.greeted(line, local, &password, now, out),
            State::LoggingIn { local, .. } => self.answered(line, local, now, out),
            State::Up { until, asked } => {
                self.state = State::Up { until, asked };
                self.while_up(line, now, out);
            }
            // The answer to `quit`, or what crossed it.
            other => self.state = other,
        }
    }

    fn greeted(
        &mut self,
        line: &str,
        local: Ipv4Addr,
        password: &Secret,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let challenge = match client::reply(line) {
            Ok(Reply::Ok(text)) => client::challenge(text),
            Ok(Reply::Err(text)) => {
                let why = format!("the server takes nobody: {}", shown(text));
                return self.lost(&why, now, out);
            }
            Err(error) => Err(error),
        };
        let challenge = match challenge {
            Ok(challenge) => challenge,
            Err(error) => {
                return self.lost(&format!("this is no DTCP server: {error}"), now, out);
            }
        };
        let digest = client::answer(&self.settings.user, challenge, &password.0);
        let login = client::login(&self.settings.user, &digest, &self.settings.wish);
        out.push(Action::Send(login));
        self.state = State::LoggingIn {
            until: now + ANSWER_TIMEOUT,
            local,
        };
    }

    fn answered(&mut self, line: &str, local: Ipv4Addr, now: Instant, out: &mut Vec<Action>) {
        let grant = match client::reply(line) {
            Ok(Reply::Ok(text)) => Grant::parse(text),
            Ok(Reply::Err(text)) => {
                let why = format!("refused: {}", shown(text));
                return self.refused(why, now, out);
            }
            Err(error) => Err(error),
        };
        let grant = match grant {
            Ok(grant) => grant,
            Err(error) => {
                let why = format!("the answer to the login cannot be used: {error}");
                return self.refused(why, now, out);
            }
        };
        if grant.udp_port.is_some() != self.settings.wish.udp.is_some() {
            let why = if self.settings.wish.udp.is_some() {
                "the server gave a tunnel without UDP"
            } else {
                "the server gave a UDP tunnel nobody asked for"
            };
            return self.refused(why.to_owned(), now, out);
        }
        let checked = !self.settings.nat_allowed && self.settings.wish.udp.is_none();
        if checked && grant.client4 != local.to_string() {
            let why = format!(
                "behind a NAT: the server sees {}, this host has {local}; use -U, or -n where \
                 protocol 41 is forwarded",
                grant.client4
            );
            return self.refused(why, now, out);
        }
        self.tunnel = Some(None);
        self.state = State::SettingUp;
        out.push(Action::SetUp { grant, local });
    }

    fn while_up(&mut self, line: &str, now: Instant, out: &mut Vec<Action>) {
        let State::Up { asked, .. } = self.state else {
            return;
        };
        match client::reply(line) {
            Ok(_) if asked => {
                let heard = format!("ping: {}", shown(line));
                out.push(Action::Say(Level::Debug, heard));
                self.unasked = 0;
                self.state = State::Up {
                    until: now + PING_INTERVAL,
                    asked: false,
                };
            }
            Ok(Reply::Err(text)) => {
                self.unasked += 1;
                self.complaint = Some(shown(text));
            }
            _ => self.unasked += 1,
        }
        if self.unasked > MAX_UNASKED {
            self.lost("the server talks without being asked", now, out);
        }
    }

    fn closed(&mut self, error: Option<String>, now: Instant, out: &mut Vec<Action>) {
        let was_up = matches!(self.state, State::Up { .. } | State::SettingUp);
        match self.state {
            State::Quitting { then, .. } => return self.after_quit(then, now, out),
            State::Idle | State::Waiting { .. } | State::Ended => return,
            _ => {}
        }
        let orderly = error.is_none();
        let mut why = error.unwrap_or_else(|| "the server closed the session".to_owned());
        if let Some(complaint) = self.complaint.take() {
            why = format!("{why}: {complaint}");
        }
        // The original, too, calls it a success when the server ends what was up.
        let outcome = if was_up && orderly {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        self.ended(&why, outcome, now, out);
    }

    /// The session is of no more use, and the server does not know: close it.
    fn lost(&mut self, why: &str, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::Close);
        self.ended(why, Outcome::Failed, now, out);
    }

    /// No session any more.
    fn ended(&mut self, why: &str, outcome: Outcome, now: Instant, out: &mut Vec<Action>) {
        if !self.settings.reconnect {
            out.push(Action::Say(Level::Warn, why.to_owned()));
            return self.exit(outcome, why, out);
        }
        let up_for = self.up_since.take().map(|since| now - since);
        let pause = self.backoff.lost(up_for);
        self.say_pause(why, pause, out);
        if let Some(hold @ None) = &mut self.tunnel {
            *hold = Some(now + self.settings.hold);
        }
        self.state = State::Waiting { until: now + pause };
    }

    fn say_pause(&self, why: &str, pause: Duration, out: &mut Vec<Action>) {
        let again = format!("{why}; again in {:.1} s", pause.as_secs_f64());
        out.push(Action::Say(Level::Warn, again));
    }

    /// The server will not have us, or we will not have what it gave: what there was is void.
    fn refused(&mut self, why: String, now: Instant, out: &mut Vec<Action>) {
        self.tear_down(&why, out);
        if self.settings.reconnect {
            let pause = self.backoff.refused();
            self.say_pause(&why, pause, out);
            out.push(Action::Send("quit".to_owned()));
            out.push(Action::Close);
            self.state = State::Waiting { until: now + pause };
        } else {
            out.push(Action::Say(Level::Warn, why));
            self.quit(Then::Exit(Outcome::Failed), now, out);
        }
    }

    fn broken(&mut self, why: String, fresh: bool, now: Instant, out: &mut Vec<Action>) {
        let never_up = fresh && self.backoff.never_up();
        self.tear_down(&why, out);
        if !self.settings.reconnect || never_up {
            // Quit says it to the server even when it is we who cannot.
            out.push(Action::Say(Level::Warn, why));
            let outcome = Then::Exit(Outcome::Setup);
            return match self.state {
                State::Waiting { .. } => self.after_quit(outcome, now, out),
                _ => self.quit(outcome, now, out),
            };
        }
        if matches!(self.state, State::Waiting { .. } | State::Quitting { .. }) {
            return;
        }
        out.push(Action::Send("quit".to_owned()));
        self.lost(&why, now, out);
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Some(Some(until)) = self.tunnel
            && until <= now
        {
            self.tear_down("no session for too long", out);
        }
        match self.state {
            State::Connecting { until } if until <= now => {
                self.lost("the server cannot be reached in time", now, out);
            }
            State::Greeting { until, .. } if until <= now => {
                self.lost("the server does not greet", now, out);
            }
            State::LoggingIn { until, .. } if until <= now => {
                self.lost("the server does not answer the login", now, out);
            }
            State::Up { until, asked: true } if until <= now => {
                self.lost("the server does not answer a ping", now, out);
            }
            State::Up {
                until,
                asked: false,
            } if until <= now => {
                out.push(Action::Send("ping".to_owned()));
                self.state = State::Up {
                    until: now + ANSWER_TIMEOUT,
                    asked: true,
                };
            }
            State::Quitting { until, then } if until <= now => {
                out.push(Action::Close);
                self.after_quit(then, now, out);
            }
            State::Waiting { until } if until <= now => self.connect(now, out),
            _ => {}
        }
    }

    fn stop(&mut self, now: Instant, out: &mut Vec<Action>) {
        let done = Then::Exit(Outcome::Done);
        match self.state {
            State::LoggingIn { .. }
            | State::SettingUp
            | State::Up { .. }
            | State::Greeting { .. } => {
                self.quit(done, now, out);
            }
            // Asked twice: do not wait for the server.
            State::Quitting { then, .. } => {
                out.push(Action::Close);
                let then = match then {
                    Then::Exit(_) => then,
                    Then::Again => done,
                };
                self.after_quit(then, now, out);
            }
            State::Connecting { .. } => {
                out.push(Action::Close);
                self.after_quit(done, now, out);
            }
            State::Idle | State::Waiting { .. } | State::Ended => self.after_quit(done, now, out),
        }
    }

    fn restart(&mut self, now: Instant, out: &mut Vec<Action>) {
        match self.state {
            State::Up { .. } | State::SettingUp | State::LoggingIn { .. } => {
                out.push(Action::Say(Level::Info, "asked to log in again".to_owned()));
                self.quit(Then::Again, now, out);
            }
            State::Waiting { .. } => self.connect(now, out),
            _ => {}
        }
    }

    fn quit(&mut self, then: Then, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::Send("quit".to_owned()));
        self.state = State::Quitting {
            until: now + QUIT_TIMEOUT,
            then,
        };
    }

    fn after_quit(&mut self, then: Then, now: Instant, out: &mut Vec<Action>) {
        match then {
            Then::Exit(outcome) => self.exit(outcome, "stopped", out),
            Then::Again => {
                self.up_since = None;
                if let Some(hold @ None) = &mut self.tunnel {
                    *hold = Some(now + self.settings.hold);
                }
                self.connect(now, out);
            }
        }
    }

    fn exit(&mut self, outcome: Outcome, why: &str, out: &mut Vec<Action>) {
        self.tear_down(why, out);
        out.push(Action::Exit(outcome));
        self.state = State::Ended;
    }

    fn tear_down(&mut self, why: &str, out: &mut Vec<Action>) {
        if self.tunnel.take().is_some() {
            out.push(Action::TearDown {
                reason: why.to_owned(),
            });
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
