//! One session: its socket, its timer, and what its machine asks for.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sixferry_lifecycle::{Cause, Lease};
use tokio::io::{AsyncWriteExt as _, Interest, Ready};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::ask::{self, Done, Waiting, shown};
use super::registry::revoked;
use super::shared::{Held, Place};
use crate::limit::Pace;
use crate::machine::{Action, End, Event, Machine, Wish};
use crate::plan::{Ends, Settings};
use crate::stats::Counters;
use crate::wire::hex;
use crate::wire::line::{Assembler, Found, LINE_MAX};
use crate::wire::reply::{Failure, Reply, emit_greeting};

/// Bytes read at once.
const CHUNK: usize = 4096;

/// While so much waits to be sent, no further command is answered.
const UNSENT_MAX: usize = 8192;

/// How long FIN waits for the tunnel to be gone: the peer may look.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// Bytes of a peer that are thrown away while waiting for its FIN.
const DRAIN_MAX: usize = 1 << 20;

/// The longest wait for the peer when the whole server stops.
const LAST_WAIT: Duration = Duration::from_millis(500);

enum Woken {
    Orders,
    Done(Done),
    Socket(io::Result<Ready>),
    Timer,
}

pub(super) struct Session {
    stream: TcpStream,
    place: Place,
    machine: Machine,
    challenge: [u8; 16],
    assembler: Assembler,
    /// Read, but not looked at yet.
    rest: Vec<u8>,
    unsent: Vec<u8>,
    held: Option<Held>,
    waiting_for: Waiting,
    /// The tunnel on its way back.
    returning: Option<JoinHandle<()>>,
    pace: Pace,
    /// It was too fast: no line is read before.
    not_before: Option<Instant>,
    eof: bool,
    end: Option<End>,
}

impl Session {
    pub(super) fn new(stream: TcpStream, place: Place) -> Self {
        let now = Instant::now().into_std();
        Self {
            stream,
            place,
            machine: Machine::new(now),
            // From the operating system's generator by way of a cryptographic one.
            challenge: rand::random(),
            assembler: Assembler::new(LINE_MAX),
            rest: Vec::new(),
            unsent: Vec::new(),
            held: None,
            waiting_for: None,
            returning: None,
            pace: Pace::new(now),
            not_before: None,
            eof: false,
            end: None,
        }
    }

    /// The session's life. An `async fn` would keep its argument twice, where it was passed and
    /// where it is used; the block uses it where it is.
    #[expect(clippy::manual_async_fn, reason = "half the memory")]
    pub(super) fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            emit_greeting(
                self.challenge,
                &self.settings().config.banner,
                &mut self.unsent,
            );
            let mut timer = pin!(sleep_until(Instant::now()));
            loop {
                self.work();
                self.flush();
                if self.end.is_some() {
                    break;
                }
                if self.has_work() {
                    // What had to be sent first is sent.
                    continue;
                }
                let deadline = self.deadline();
                // A deadline that has moved away is left to fire early: cheaper than moving the timer
                // with every line.
                if let Some(deadline) = deadline
                    && (timer.is_elapsed() || deadline < timer.deadline())
                {
                    timer.as_mut().reset(deadline);
                }
                let interest = self.interest();
                let stream = &self.stream;
                let woken = tokio::select! {
                    biased;
                    () = self.place.entry.wake.notified() => Woken::Orders,
                    done = ask::wait(&mut self.waiting_for), if self.waiting_for.is_some() => {
                        Woken::Done(done)
                    }
                    result = stream.ready(interest.unwrap_or(Interest::ERROR)),
                        if interest.is_some() => Woken::Socket(result),
                    () = &mut timer, if deadline.is_some() => Woken::Timer,
                };
                self.woken(woken);
            }
            // Boxed: a session spends its life above, and need not carry the room for its end.
            Box::pin(self.close()).await;
        }
    }

    fn settings(&self) -> Arc<Settings> {
        self.place.shared.settings()
    }

    fn counters(&self) -> &Counters {
        &self.place.shared.counters
    }

    fn deadline(&self) -> Option<Instant> {
        let deadline = self
            .machine
            .deadline(&self.settings().rules)
            .map(Instant::from_std);
        [deadline, self.not_before].into_iter().flatten().min()
    }

    /// What to wait for at the socket: bytes, room to send, or only the peer's end.
    fn interest(&self) -> Option<Interest> {
        let write = !self.unsent.is_empty();
        let read = !write && !self.eof && self.rest.is_empty() && self.ready();
        if read {
            return Some(Interest::READABLE);
        }
        // Urgent data is never asked for: what `PRIORITY` wakes for is a FIN or RST, also behind
        // bytes that stay unread.
        let watch = self.machine.is_up().then_some(Interest::PRIORITY);
        let write = write.then_some(Interest::WRITABLE);
        match (watch, write) {
            (Some(watch), Some(write)) => Some(watch | write),
            (watch, write) => watch.or(write),
        }
    }

    fn woken(&mut self, woken: Woken) {
        match woken {
            Woken::Orders => self.orders(),
            Woken::Done(done) => {
                self.waiting_for = None;
                self.done(done);
            }
            Woken::Timer => {
                if self.not_before.is_some_and(|until| Instant::now() >= until) {
                    self.not_before = None;
                }
                self.step(Event::Timer);
            }
            Woken::Socket(Ok(ready)) => self.socket(ready),
            Woken::Socket(Err(_)) => self.step(Event::Broken),
        }
    }

    fn socket(&mut self, ready: Ready) {
        if self.interest() == Some(Interest::READABLE) {
            self.read();
        } else if ready.is_read_closed() {
            self.step(Event::Hangup);
        }
        // Room to send is used at the top of the loop.
    }

    fn orders(&mut self) {
        let orders = self.place.entry.orders();
        if let Some(packets) = orders.packets {
            self.step(Event::Traffic(packets));
        }
        if let Some((key, failure)) = orders.revoked
            && self.held.as_ref().is_some_and(|held| held.key == key)
        {
            if let Some(held) = self.held.take() {
                held.forget();
            }
            self.step(Event::Revoked(failure));
        }
        if orders.disconnect {
            self.step(Event::Disconnect);
        }
        if orders.shutdown {
            self.step(Event::Shutdown);
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => self.eof = true,
            Ok(len) => {
                self.counters().bytes_in.add(len as u64);
                self.place
                    .entry
                    .bytes_in
                    .fetch_add(len as u64, Ordering::Relaxed);
                self.lines(&chunk[..len]);
            }
            Err(error) if would_wait(&error) => {}
            Err(_) => self.step(Event::Broken),
        }
    }

    /// Goes on with what was read before, and notices the end.
    fn work(&mut self) {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.lines(&rest);
        }
        if self.eof && self.rest.is_empty() && self.ready() {
            match self.assembler.finish() {
                Some(found) => {
                    self.found(found);
                    // It may have to wait for what the line asked for.
                    if self.ready() {
                        self.step(Event::Eof);
                    }
                }
                None => self.step(Event::Eof),
            }
        }
    }

    fn has_work(&self) -> bool {
        self.ready() && (self.eof || !self.rest.is_empty())
    }

    /// Whether a line can be answered now.
    fn ready(&self) -> bool {
        self.end.is_none()
            && self.machine.wants_line()
            && self.not_before.is_none()
            && self.unsent.len() < UNSENT_MAX
    }

    fn lines(&mut self, mut input: &[u8]) {
        while !input.is_empty() && self.ready() {
            let found = self.assembler.feed(&mut input);
            self.found(found);
        }
        if !input.is_empty() && self.end.is_none() {
            self.rest = input.to_vec();
        }
    }

    fn found(&mut self, found: Found) {
        let event = match found {
            Found::More => return,
            Found::Flood => Event::Flood,
            Found::TooLong => Event::LongLine,
            Found::Line => Event::Line(&[]),
        };
        if found == Found::Flood {
            self.counters().floods.one();
        } else {
            self.counters().lines.one();
            self.place.entry.heard();
            let now = Instant::now().into_std();
            let rate = self.settings().config.limits.lines_per_second;
            self.not_before = self.pace.line(now, rate).map(Instant::from_std);
            if self.not_before.is_some() {
                self.counters().throttled.one();
            }
        }
        match event {
            Event::Line(_) => {
                // The machine needs the line, the assembler keeps it: part them for a moment.
                let assembler = std::mem::replace(&mut self.assembler, Assembler::new(LINE_MAX));
                self.step(Event::Line(assembler.line()));
            }
            event => {
                if matches!(event, Event::LongLine) {
                    self.counters().long_lines.one();
                }
                self.step(event);
            }
        }
    }

    /// Gives the machine an event and does what it says.
    fn step(&mut self, event: Event<'_>) {
        let settings = self.settings();
        let now = Instant::now().into_std();
        let mut actions = Vec::new();
        self.machine
            .handle(event, now, &settings.rules, &mut actions);
        for action in actions {
            self.perform(action, &settings);
        }
        if self.end.is_none() {
            self.place.set_up(self.machine.is_up());
        }
    }

    fn perform(&mut self, action: Action, settings: &Arc<Settings>) {
        match action {
            Action::Send(reply) => self.send(&reply),
            Action::Authenticate { user, digest } => {
                let challenge = hex(self.challenge);
                let (shared, client) = (Arc::clone(&self.place.shared), self.place.entry.client);
                let asked = ask::authenticate(shared, client, challenge, user, digest);
                self.waiting_for = Some(Box::pin(asked));
            }
            Action::Replace => {
                self.counters().replaced_own.one();
                self.place.entry.logout();
                let handle = self.held.take().map(|held| held.release(Cause::Replaced));
                self.waiting_for = Some(Box::pin(ask::replace(handle)));
            }
            Action::Acquire(wish) => {
                let entry = &self.place.entry;
                let ends = Ends {
                    server: *entry.server.ip(),
                    client: *entry.client.ip(),
                };
                let plan = settings.plan(&wish, ends);
                let asked = ask::acquire(Arc::clone(&self.place.shared), wish, plan);
                self.waiting_for = Some(Box::pin(asked));
            }
            Action::Release(cause) => {
                self.place.entry.logout();
                self.returning = self.held.take().map(|held| held.release(cause));
            }
            Action::Close(end) => self.ended(end),
        }
    }

    fn send(&mut self, reply: &Reply) {
        let counters = self.counters();
        match reply {
            Reply::Hi => counters.pings.one(),
            Reply::Failed(failure) => count_failure(counters, failure),
            Reply::Granted(_) => counters.logins.one(),
            Reply::Help | Reply::Bye | Reply::Nothing => {}
        }
        reply.emit(&mut self.unsent);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Authenticated(result) => self.step(Event::Authenticated(result)),
            Done::Replaced => self.step(Event::Replaced),
            Done::Acquired(wish, Err(failure), _) => {
                if failure == Failure::InterfaceName {
                    let user = shown(&wish.user);
                    self.place
                        .shared
                        .log(|| tracing::error!(user, "interface name without a number"));
                }
                self.step(Event::Refused(failure));
            }
            Done::Acquired(wish, Ok(lease), missed) => self.leased(*wish, *lease, missed),
            Done::Checked(leased, holds) => {
                if !holds && let Some(held) = self.held.take() {
                    held.forget();
                }
                // It may have been taken away after it was looked at: then it is held no more.
                let gone = self.held.is_none().then_some(Failure::Withdrawn);
                self.granted(&leased.0, &leased.1, gone);
            }
        }
    }

    /// There is a lease: from here on it is given back whatever happens.
    fn leased(&mut self, wish: Wish, lease: Lease, missed: u64) {
        let shared = Arc::clone(&self.place.shared);
        let key = (lease.tunnel, lease.number);
        self.held = Some(Held::new(&shared, key));
        if let Some(cause) = shared.registry.hold(key, &self.place.entry) {
            if let Some(held) = self.held.take() {
                held.forget();
            }
            return self.granted(&wish, &lease, Some(revoked(cause)));
        }
        if shared.registry.missed() == missed {
            return self.granted(&wish, &lease, None);
        }
        // It may be among those whose revocation was missed.
        self.waiting_for = Some(Box::pin(ask::check(shared, wish, lease)));
    }

    fn granted(&mut self, wish: &Wish, lease: &Lease, gone: Option<Failure>) {
        let granted = match self.settings().granted(wish, lease) {
            Ok(granted) => granted,
            Err(failure) => {
                if let Some(held) = self.held.take() {
                    drop(held.release(Cause::Refused));
                }
                return self.step(Event::Refused(failure));
            }
        };
        if gone.is_none() {
            self.place.entry.login(&wish.user, wish.kind, lease);
            let client = self.place.entry.client;
            self.place.shared.log(|| {
                tracing::info!(
                    %client,
                    user = shown(&wish.user),
                    interface = %lease.slot,
                    tunnel = %lease.tunnel,
                    kind = %wish.kind,
                    resumed = lease.resumed,
                    "tunnel configured"
                );
            });
        }
        self.step(Event::Acquired(granted));
        if let Some(failure) = gone {
            self.step(Event::Revoked(failure));
        }
    }

    fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.try_write(&self.unsent) {
                Ok(len) => {
                    self.counters().bytes_out.add(len as u64);
                    self.place
                        .entry
                        .bytes_out
                        .fetch_add(len as u64, Ordering::Relaxed);
                    self.unsent.drain(..len);
                }
                Err(error) if would_wait(&error) => return,
                Err(_) => {
                    self.unsent = Vec::new();
                    return self.step(Event::Broken);
                }
            }
        }
        self.unsent = Vec::new();
    }

    fn ended(&mut self, end: End) {
        let counters = self.counters();
        match end {
            End::Quit => &counters.ended_quit,
            End::Eof => &counters.ended_eof,
            End::Broken => &counters.ended_broken,
            End::Idle => &counters.ended_idle,
            End::Failures | End::Flood => &counters.ended_failures,
            End::Replaced => &counters.ended_replaced,
            End::Administrative => &counters.ended_administrative,
            End::Withdrawn => &counters.ended_withdrawn,
            End::Shutdown => &counters.ended_shutdown,
        }
        .one();
        self.waiting_for = None;
        self.end = Some(end);
        let client = self.place.entry.client;
        self.place
            .shared
            .log(|| tracing::info!(%client, ?end, "session ended"));
    }

    /// Says the last words, waits for the tunnel to be gone, then for the peer to close too.
    async fn close(mut self) {
        self.place.close();
        let fin = self.settings().config.timeouts.fin;
        let wait = if self.place.shared.stopping() {
            fin.min(LAST_WAIT)
        } else {
            fin
        };
        let until = Instant::now() + wait;
        if !self.unsent.is_empty() && self.end != Some(End::Broken) {
            let sent = timeout_at(until, self.stream.write_all(&self.unsent)).await;
            if !matches!(sent, Ok(Ok(()))) {
                self.counters().ended_stalled.one();
            }
        }
        if let Some(returning) = self.returning.take() {
            let _ = timeout(RELEASE_WAIT, returning).await;
        }
        if self.end == Some(End::Broken) || self.stream.shutdown().await.is_err() || self.eof {
            return;
        }
        let _ = timeout_at(Instant::now() + wait, self.drain()).await;
    }

    /// Reads until the peer closes: closing with bytes unread would reset the connection, and the
    /// peer might lose the last line.
    async fn drain(&mut self) {
        let mut left = DRAIN_MAX;
        while left > 0 && self.stream.ready(Interest::READABLE).await.is_ok() {
            let mut chunk = [0; CHUNK];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return,
                Ok(len) => left = left.saturating_sub(len),
                Err(error) if would_wait(&error) => {}
                Err(_) => return,
            }
        }
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Where a failure that is told to a client is counted.
fn count_failure(counters: &Counters, failure: &Failure) {
    match failure {
        Failure::Authentication => counters.denied.one(),
        Failure::Invalid => counters.invalid_lines.one(),
        Failure::UnsupportedType(_) => counters.refused_type.one(),
        Failure::SoldOut => counters.refused_sold_out.one(),
        Failure::InUse | Failure::PrefixInUse => counters.refused_in_use.one(),
        Failure::NoRoute => counters.refused_no_route.one(),
        Failure::Busy => counters.refused_unavailable.one(),
        Failure::InterfaceName | Failure::Internal => counters.refused_other.one(),
        // Counted where they arise.
        Failure::TooManyFailures
        | Failure::TimedOut
        | Failure::Replaced
        | Failure::Administrative
        | Failure::Withdrawn
        | Failure::ShuttingDown => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred thousand sessions wait in futures of this type.
    #[test]
    fn session_is_small() {
        fn future<F: Future>(_: impl FnOnce(Session) -> F) -> usize {
            size_of::<F>()
        }
        let size = future(Session::run);
        assert!(size <= 1024, "{size} bytes");
    }
}
