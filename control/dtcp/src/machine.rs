//! One session: what it answers, what it asks for, when it ends. No I/O, no
//! clock: an event and the time go in, actions come out.
//!
//! ```text
//! greeted --tunnel ok--> up --quit, EOF, reset, timeout, revocation, shutdown--> ended
//!    \______________________same_____________________________________________/
//! ```
//!
//! One command at a time: while [`Machine::wants_line`] is false the next line stays unread, so
//! answers come in order and a peer that sends faster than it is served is held back by TCP.

use std::time::{Duration, Instant};

use sixferry_lifecycle::{AccountId, Cause};

use crate::wire::command::{self, Command};
use crate::wire::reply::{Failure, Granted, Reply};
use crate::wire::{TunnelType, udp};

/// The longest an answer to a wrong login is kept back, however many there were.
const PENALTY_MAX: Duration = Duration::from_secs(10);

/// What the configuration says about sessions.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Idle limit without a tunnel.
    pub greeted_idle: Duration,
    /// How long a session may be without a tunnel at all.
    pub greeted_total: Duration,
    /// Idle limit with a tunnel.
    pub up_idle: Duration,
    /// End a session whose tunnel brought no packet for so long.
    pub traffic: Option<Duration>,
    /// The n-th wrong login in a row is answered n times this later.
    pub failure_delay: Duration,
    /// So many wrong logins in a row end the session.
    pub failures_max: u32,
    /// `host` is offered.
    pub host: bool,
    /// `network` is offered.
    pub network: bool,
    /// Tunnels over UDP are offered.
    pub udp: bool,
    /// An empty line is a valid command that does nothing.
    pub empty_line_ok: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A complete line, without CR and LF.
    Line(&'a [u8]),
    /// A line above the limit was skipped.
    LongLine,
    /// Too many bytes without any line.
    Flood,
    /// The peer has closed or reset the connection, though what it sent before is not answered yet.
    Hangup,
    /// The peer will send no more, and all it sent is answered.
    Eof,
    /// The connection broke.
    Broken,
    /// [`Machine::deadline`] has come.
    Timer,
    /// Answer to [`Action::Authenticate`].
    Authenticated(Authentication),
    /// The tunnel of [`Action::Replace`] is given back.
    Replaced,
    /// Answer to [`Action::Acquire`]: the tunnel is there.
    Acquired(Granted),
    /// Answer to [`Action::Acquire`]: it is not.
    Refused(Failure),
    /// The tunnel was taken away; it must not be given back.
    Revoked(Failure),
    /// The operator ends this session.
    Disconnect,
    /// The server stops.
    Shutdown,
    /// So many packets have come out of the tunnel since it is up.
    Traffic(u64),
}

/// How a login went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// It is this account.
    Accepted(AccountId),
    /// Unknown user or wrong digest.
    Denied,
    /// This address had too many wrong ones; it was not even looked at.
    Limited,
    /// It could not be decided.
    Unavailable,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this line.
    Send(Reply),
    /// Check a login.
    Authenticate {
        /// User name as sent.
        user: Box<[u8]>,
        /// The answer to the challenge.
        digest: [u8; 16],
    },
    /// Give the present tunnel back and say when that is done.
    Replace,
    /// Get a tunnel.
    Acquire(Wish),
    /// Give the tunnel back.
    Release(Cause),
    /// Send FIN after what was sent, and end.
    Close(End),
}

/// A tunnel that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// For whom.
    pub account: AccountId,
    /// His name.
    pub user: Box<[u8]>,
    /// Addressing.
    pub kind: TunnelType,
    /// Over UDP.
    pub udp: Option<udp::Request>,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `quit`.
    Quit,
    /// The peer closed, without `quit`.
    Eof,
    /// The connection broke.
    Broken,
    /// Nothing was heard for too long.
    Idle,
    /// Too many wrong logins.
    Failures,
    /// Bytes without end of line.
    Flood,
    /// A newer session has the tunnel.
    Replaced,
    /// The operator.
    Administrative,
    /// No dataplane carries the tunnel.
    Withdrawn,
    /// The server stops.
    Shutdown,
}

impl End {
    /// What the tunnel's history says.
    fn cause(self) -> Cause {
        match self {
            Self::Quit => Cause::Quit,
            Self::Eof | Self::Broken | Self::Failures | Self::Flood => Cause::ConnectionLost,
            Self::Idle => Cause::IdleTimeout,
            Self::Replaced => Cause::Replaced,
            Self::Administrative => Cause::Administrative,
            Self::Withdrawn => Cause::Refused,
            Self::Shutdown => Cause::Shutdown,
        }
    }
}

#[derive(Debug)]
enum Phase {
    /// Waiting for a line.
    Ready,
    /// A login is being checked.
    Authenticating(Box<Request>),
    /// A wrong login is answered when this comes.
    Penalty(Instant),
    /// The tunnel before is being given back.
    Replacing(Box<Wish>),
    /// A tunnel is being set up; if an end is set, it is unwanted by now.
    Acquiring(Option<(Failure, End)>),
    Ended,
}

/// A `tunnel` command while its login is checked.
#[derive(Debug)]
struct Request {
    user: Box<[u8]>,
    kind: Box<[u8]>,
    udp: Option<udp::Request>,
}

/// The state of one session.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    up: bool,
    failures: u32,
    last_line: Instant,
    /// Since when it has no tunnel; with one, since when the last packet came out of it.
    since: Instant,
    packets: u64,
}

impl Machine {
    /// A session that has been greeted.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Ready,
            up: false,
            failures: 0,
            last_line: now,
            since: now,
            packets: 0,
        }
    }

    /// Whether it has a tunnel.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether the next line may be given to it.
    #[must_use]
    pub fn wants_line(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// When it wants an [`Event::Timer`]; one that comes earlier does no harm.
    #[must_use]
    pub fn deadline(&self, rules: &Rules) -> Option<Instant> {
        match self.phase {
            Phase::Ready if self.up => {
                let idle = self.last_line + rules.up_idle;
                let quiet = rules.traffic.map(|limit| self.since + limit);
                Some(quiet.map_or(idle, |quiet| idle.min(quiet)))
            }
            Phase::Ready => {
                let idle = self.last_line + rules.greeted_idle;
                Some(idle.min(self.since + rules.greeted_total))
            }
            Phase::Penalty(until) => Some(until),
            // What is being done for it has its own limits; the peer cannot be blamed for these.
            Phase::Authenticating(_) | Phase::Replacing(_) | Phase::Acquiring(_) | Phase::Ended => {
                None
            }
        }
    }

    /// Takes an event; appends what is to be done.
    pub fn handle(&mut self, event: Event<'_>, now: Instant, rules: &Rules, out: &mut Vec<Action>) {
        match event {
            Event::Line(line) => {
                self.last_line = now;
                self.line(line, now, rules, out);
            }
            Event::LongLine => {
                self.last_line = now;
                send(out, Failure::Invalid);
            }
            Event::Flood => {
                send(out, Failure::Invalid);
                self.end(End::Flood, out);
            }
            Event::Hangup => self.hangup(now, out),
            Event::Eof => self.end(End::Eof, out),
            Event::Broken => self.end(End::Broken, out),
            Event::Timer => self.timer(now, rules, out),
            Event::Authenticated(result) => self.authenticated(result, now, rules, out),
            Event::Replaced => self.replaced(now, out),
            Event::Acquired(granted) => self.acquired(granted, now, out),
            Event::Refused(failure) => self.refused(failure, out),
            Event::Revoked(failure) => self.revoked(failure, out),
            Event::Disconnect => {
                self.forced((Failure::Administrative, End::Administrative), out);
            }
            Event::Shutdown => self.forced((Failure::ShuttingDown, End::Shutdown), out),
            Event::Traffic(packets) if packets != self.packets => {
                self.packets = packets;
                if self.up {
                    self.since = now;
                }
            }
            Event::Traffic(_) => {}
        }
    }

    fn line(&mut self, line: &[u8], now: Instant, rules: &Rules, out: &mut Vec<Action>) {
        match command::parse(line, rules.udp) {
            Command::Ping => out.push(Action::Send(Reply::Hi)),
            Command::Help => out.push(Action::Send(Reply::Help)),
            Command::Quit => {
                out.push(Action::Send(Reply::Bye));
                self.end(End::Quit, out);
            }
            Command::Empty if rules.empty_line_ok => out.push(Action::Send(Reply::Nothing)),
            Command::Empty | Command::Invalid => send(out, Failure::Invalid),
            Command::TunnelMisspelt => send(out, Failure::Authentication),
            Command::Tunnel(tunnel) => {
                let Some(digest) = crate::wire::parse_hex(tunnel.digest) else {
                    // Nobody's answer looks like this: wrong without asking, and as slowly.
                    return self.denied(now, rules, out);
                };
                let user: Box<[u8]> = tunnel.user.into();
                out.push(Action::Authenticate {
                    user: user.clone(),
                    digest,
                });
                let kind = tunnel.kind.into();
                self.phase = Phase::Authenticating(Box::new(Request {
                    user,
                    kind,
                    udp: tunnel.udp,
                }));
            }
        }
    }

    fn timer(&mut self, now: Instant, rules: &Rules, out: &mut Vec<Action>) {
        if self.deadline(rules).is_none_or(|deadline| now < deadline) {
            return;
        }
        if let Phase::Penalty(_) = self.phase {
            return self.answer_denied(rules, out);
        }
        send(out, Failure::TimedOut);
        self.end(End::Idle, out);
    }

    fn authenticated(
        &mut self,
        result: Authentication,
        now: Instant,
        rules: &Rules,
        out: &mut Vec<Action>,
    ) {
        let Phase::Authenticating(request) = std::mem::replace(&mut self.phase, Phase::Ready)
        else {
            return;
        };
        match result {
            Authentication::Denied => self.denied(now, rules, out),
            Authentication::Unavailable => send(out, Failure::Busy),
            Authentication::Limited => {
                send(out, Failure::TooManyFailures);
                self.end(End::Failures, out);
            }
            Authentication::Accepted(account) => {
                self.failures = 0;
                self.begin(account, *request, rules, out);
            }
        }
    }

    fn begin(
        &mut self,
        account: AccountId,
        request: Request,
        rules: &Rules,
        out: &mut Vec<Action>,
    ) {
        let kind = TunnelType::parse(&request.kind).filter(|kind| match kind {
            TunnelType::TunnelOnly => true,
            TunnelType::Host => rules.host,
            TunnelType::Network => rules.network,
        });
        let Some(kind) = kind else {
            return send(out, Failure::UnsupportedType(request.kind));
        };
        let wish = Wish {
            account,
            user: request.user,
            kind,
            udp: request.udp,
        };
        if self.up {
            // The one before goes first: the new one may need its numbers.
            out.push(Action::Replace);
            self.phase = Phase::Replacing(Box::new(wish));
        } else {
            out.push(Action::Acquire(wish));
            self.phase = Phase::Acquiring(None);
        }
    }

    fn replaced(&mut self, now: Instant, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.phase, Phase::Acquiring(None)) {
            Phase::Replacing(wish) => {
                self.without_tunnel(now);
                out.push(Action::Acquire(*wish));
            }
            other => self.phase = other,
        }
    }

    fn acquired(&mut self, granted: Granted, now: Instant, out: &mut Vec<Action>) {
        self.up = true;
        self.since = now;
        self.packets = 0;
        match std::mem::replace(&mut self.phase, Phase::Ready) {
            Phase::Acquiring(None) => {
                out.push(Action::Send(Reply::Granted(Box::new(granted))));
            }
            Phase::Acquiring(Some((failure, end))) => {
                send(out, failure);
                self.end(end, out);
            }
            other => self.phase = other,
        }
    }

    fn refused(&mut self, failure: Failure, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.phase, Phase::Ready) {
            Phase::Acquiring(None) => send(out, failure),
            Phase::Acquiring(Some((failure, end))) => {
                send(out, failure);
                self.end(end, out);
            }
            other => self.phase = other,
        }
    }

    fn revoked(&mut self, failure: Failure, out: &mut Vec<Action>) {
        // While it is being replaced it is gone anyway, and the new one is not meant.
        if !self.up || matches!(self.phase, Phase::Replacing(_)) {
            return;
        }
        self.up = false;
        let end = match failure {
            Failure::Replaced => End::Replaced,
            Failure::Administrative => End::Administrative,
            _ => End::Withdrawn,
        };
        send(out, failure);
        self.end(end, out);
    }

    /// Ends the session from outside, but never between asking for a tunnel and having it.
    fn forced(&mut self, (failure, end): (Failure, End), out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Ended => {}
            Phase::Acquiring(doom) => *doom = Some((failure, end)),
            Phase::Ready | Phase::Authenticating(_) | Phase::Penalty(_) | Phase::Replacing(_) => {
                send(out, failure);
                self.end(end, out);
            }
        }
    }

    fn denied(&mut self, now: Instant, rules: &Rules, out: &mut Vec<Action>) {
        self.failures += 1;
        let delay = (rules.failure_delay * self.failures).min(PENALTY_MAX);
        if delay.is_zero() {
            return self.answer_denied(rules, out);
        }
        self.phase = Phase::Penalty(now + delay);
    }

    fn answer_denied(&mut self, rules: &Rules, out: &mut Vec<Action>) {
        self.phase = Phase::Ready;
        send(out, Failure::Authentication);
        if self.failures >= rules.failures_max {
            self.end(End::Failures, out);
        }
    }

    /// The tunnel does not outlive the peer. The session does, for as long as it would have anyway:
    /// who hangs up on a penalty sits it out, and half a connection is enough for answers.
    fn hangup(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.up {
            return;
        }
        if !matches!(self.phase, Phase::Replacing(_)) {
            out.push(Action::Release(Cause::ConnectionLost));
        }
        self.without_tunnel(now);
    }

    fn without_tunnel(&mut self, now: Instant) {
        self.up = false;
        self.since = now;
    }

    fn end(&mut self, end: End, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        // While it is being replaced, the tunnel is on its way back already.
        if self.up && !matches!(self.phase, Phase::Replacing(_)) {
            out.push(Action::Release(end.cause()));
        }
        self.up = false;
        self.phase = Phase::Ended;
        out.push(Action::Close(end));
    }
}

fn send(out: &mut Vec<Action>, failure: Failure) {
    out.push(Action::Send(Reply::Failed(failure)));
}
