//! Lines to and from the server; signals; and the machine in between.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::time::Duration;

use sixferry_dtcp_wire::client::Grant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::auth::Source;
use super::lines::Lines;
use super::machine::{Action, Event, Level, Machine, Outcome};
use crate::Error;

/// How long a line may wait for room in the send buffer: it never does, unless the network is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of a server's name that are tried.
const MAX_ADDRESSES: usize = 8;

/// This host, as far as a tunnel is concerned.
pub trait Site {
    /// Makes the tunnel so, whatever it was before.
    fn set_up(&mut self, grant: &Grant, local: Ipv4Addr)
    -> impl Future<Output = Result<(), Error>>;
    /// Takes it away.
    fn tear_down(&mut self, reason: &str) -> impl Future<Output = ()>;
    /// Resolves when the tunnel stops working.
    fn broken(&mut self) -> impl Future<Output = String>;
    /// Prints the counters.
    fn report(&self);
}

/// From the outside.
#[derive(Clone, Debug)]
pub enum Control {
    /// For the machine.
    Event(Event),
    /// Print the counters.
    Report,
}

/// Where to log in, as whom.
#[derive(Debug)]
pub struct Endpoint {
    /// Name or address.
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub source: Source,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// The way to the server.
enum Link {
    Down,
    Connecting(Connecting),
    Up(TcpStream, Lines),
}

/// What came over it.
enum Arrival {
    Connected(TcpStream),
    Line(String),
    End(Option<String>),
}

/// Runs a machine to its end.
pub async fn drive(
    mut machine: Machine,
    site: &mut impl Site,
    endpoint: &Endpoint,
    mut controls: mpsc::Receiver<Control>,
) -> Outcome {
    let mut link = Link::Down;
    let mut event = Event::Start;
    loop {
        let mut follow = Some(event);
        while let Some(event) = follow.take() {
            for action in machine.handle(event, Instant::now()) {
                match carry_out(action, &mut link, site, endpoint).await {
                    Carried::Done => {}
                    Carried::Event(event) => follow = Some(event),
                    Carried::Exit(outcome) => return outcome,
                }
            }
        }
        event = loop {
            let deadline = machine.deadline();
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                arrival = next(&mut link) => break arrived(arrival, &mut link, endpoint),
                Some(control) = controls.recv() => match control {
                    Control::Event(event) => break event,
                    Control::Report => site.report(),
                },
                why = site.broken() => break Event::TunnelBroken(why),
                () = due => break Event::Tick,
            }
        };
    }
}

enum Carried {
    Done,
    Event(Event),
    Exit(Outcome),
}

async fn carry_out(
    action: Action,
    link: &mut Link,
    site: &mut impl Site,
    endpoint: &Endpoint,
) -> Carried {
    match action {
        Action::Connect => {
            let reaching = connect(endpoint.server.clone(), endpoint.port);
            *link = Link::Connecting(Box::pin(reaching));
        }
        Action::Send(line) => {
            if let Link::Up(stream, _) = link {
                let verb = line.split(' ').next().unwrap_or_default();
                tracing::debug!(verb, "sending");
                let bytes = format!("{line}\r\n");
                let sent = timeout(SEND_TIMEOUT, stream.write_all(bytes.as_bytes())).await;
                // If it is not sent, the session is dead, and reading will say so.
                if !matches!(sent, Ok(Ok(()))) {
                    tracing::debug!(verb, "cannot be sent");
                }
            }
        }
        Action::Close => *link = Link::Down,
        Action::SetUp { grant, local } => {
            return Carried::Event(match site.set_up(&grant, local).await {
                Ok(()) => Event::TunnelUp,
                Err(error) => Event::TunnelFailed(error.to_string()),
            });
        }
        Action::TearDown { reason } => site.tear_down(&reason).await,
        Action::Say(level, text) => match level {
            Level::Debug => tracing::debug!("{text}"),
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
        },
        Action::Exit(outcome) => return Carried::Exit(outcome),
    }
    Carried::Done
}

fn arrived(arrival: Arrival, link: &mut Link, endpoint: &Endpoint) -> Event {
    match arrival {
        Arrival::Line(line) => Event::Line(line),
        Arrival::End(error) => {
            *link = Link::Down;
            Event::Closed { error }
        }
        Arrival::Connected(stream) => {
            let local = match stream.local_addr().map(|address| address.ip()) {
                Ok(IpAddr::V4(local)) => local,
                other => {
                    *link = Link::Down;
                    let error = format!("no IPv4 address of our own: {other:?}");
                    return Event::Closed { error: Some(error) };
                }
            };
            match endpoint.source.password(&endpoint.server, &endpoint.user) {
                Ok(password) => {
                    *link = Link::Up(stream, Lines::default());
                    tracing::debug!(%local, "connected");
                    Event::Connected { local, password }
                }
                Err(error) => {
                    *link = Link::Down;
                    Event::Closed {
                        error: Some(error.to_string()),
                    }
                }
            }
        }
    }
}

/// What the server says next. Nothing is lost when this is dropped half way.
async fn next(link: &mut Link) -> Arrival {
    match link {
        Link::Down => std::future::pending().await,
        Link::Connecting(reaching) => match reaching.await {
            Ok(stream) => Arrival::Connected(stream),
            Err(error) => Arrival::End(Some(error.to_string())),
        },
        Link::Up(stream, lines) => loop {
            match lines.pop() {
                Ok(Some(line)) => return Arrival::Line(line),
                Ok(None) => {}
                Err(_) => return Arrival::End(Some("a line without end".to_owned())),
            }
            if let Err(error) = stream.readable().await {
                return Arrival::End(Some(error.to_string()));
            }
            let mut buffer = [0; 1024];
            match stream.try_read(&mut buffer) {
                Ok(0) => return Arrival::End(None),
                Ok(len) => lines.push(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Arrival::End(Some(error.to_string())),
            }
        },
    }
}

/// A session with the first address of the server that takes one.
async fn connect(server: String, port: u16) -> io::Result<TcpStream> {
    let found = tokio::net::lookup_host((server.as_str(), port)).await;
    let found = found.map_err(|e| io::Error::other(format!("cannot find {server}: {e}")))?;
    let mut last = io::Error::other(format!("{server} has no IPv4 address"));
    for address in found
        .filter(std::net::SocketAddr::is_ipv4)
        .take(MAX_ADDRESSES)
    {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => {
                last = io::Error::new(error.kind(), format!("cannot reach {address}: {error}"));
            }
        }
    }
    Err(last)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
