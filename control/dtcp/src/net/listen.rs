//! Listening sockets and the way from a connection to a session.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseport;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::session::Session;
use super::shared::{Alarm, Shared};
use crate::Error;
use crate::config::Config;
use crate::wire::reply::{Failure, Reply};

/// Pause after a failure to accept that will not go away by itself.
const PAUSE: Duration = Duration::from_millis(100);

/// So many failures one after the other are not the connections' fault.
const FATAL: u32 = 1000;

/// One listening address; gives it up when dropped.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) asked: SocketAddrV4,
    pub(super) bound: SocketAddr,
    socket: Arc<TcpListener>,
    shares_port: bool,
    task: JoinHandle<()>,
}

impl Listener {
    pub(super) fn bind(
        address: SocketAddrV4,
        config: &Config,
        shared: &Arc<Shared>,
    ) -> Result<Self, Error> {
        Self::bind_beside(address, config, shared, &[])
    }

    /// Binds an address that overlaps those of listeners that will be given up for it.
    fn bind_beside(
        address: SocketAddrV4,
        config: &Config,
        shared: &Arc<Shared>,
        old: &[Self],
    ) -> Result<Self, Error> {
        let failed = |operation| {
            move |source| Error::Listen {
                address,
                operation,
                source,
            }
        };
        let _lent = Lent::by(old, address).map_err(failed("SO_REUSEPORT"))?;
        let socket = TcpSocket::new_v4().map_err(failed("socket"))?;
        // Before bind: connections of the server before may still be in TIME_WAIT.
        socket.set_reuseaddr(true).map_err(failed("SO_REUSEADDR"))?;
        let beside = old.iter().any(|old| old.overlaps(address));
        if config.share_port || beside {
            socket.set_reuseport(true).map_err(failed("SO_REUSEPORT"))?;
        }
        socket.bind(address.into()).map_err(failed("bind"))?;
        let listener = socket.listen(config.backlog).map_err(failed("listen"))?;
        set_socket_reuseport(&listener, config.share_port)
            .map_err(|errno| failed("SO_REUSEPORT")(errno.into()))?;
        let bound = listener.local_addr().map_err(failed("getsockname"))?;
        warn_of_short_queue(config.backlog);
        let socket = Arc::new(listener);
        let task = tokio::spawn(accept(Arc::clone(&socket), Arc::clone(shared)));
        Ok(Self {
            asked: address,
            bound,
            socket,
            shares_port: config.share_port,
            task,
        })
    }

    fn overlaps(&self, address: SocketAddrV4) -> bool {
        let any = |ip: IpAddr| ip.is_unspecified();
        let new = IpAddr::V4(*address.ip());
        self.bound.port() == address.port()
            && (any(self.bound.ip()) || any(new) || self.bound.ip() == new)
    }
}

/// Listeners that let another socket of this user have their port, until this is dropped. The
/// system looks at both ends: those that stay in force must not be among them.
struct Lent<'l>(Vec<&'l Listener>);

impl<'l> Lent<'l> {
    fn by(listeners: &'l [Listener], address: SocketAddrV4) -> io::Result<Self> {
        let mut lent = Self(Vec::new());
        for listener in listeners.iter().filter(|old| old.overlaps(address)) {
            set_socket_reuseport(&listener.socket, true)?;
            lent.0.push(listener);
        }
        Ok(lent)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        for listener in &self.0 {
            // What was set a moment ago can be set back.
            let _ = set_socket_reuseport(&listener.socket, listener.shares_port);
        }
    }
}

/// Listens at these addresses instead, or as before if one of them cannot be had. New ones are bound
/// before old ones are given up, so that somebody listens all the time; where they overlap, as
/// 0.0.0.0 and an address of this host do, both have the port for a moment.
pub(super) fn change(
    listeners: &mut Vec<Listener>,
    config: &Config,
    shared: &Arc<Shared>,
) -> Result<(), Error> {
    let wanted = config.addresses();
    let (mut staying, going): (Vec<_>, Vec<_>) = std::mem::take(listeners)
        .into_iter()
        .partition(|listener| wanted.contains(&listener.asked));
    let new = wanted
        .iter()
        .filter(|address| staying.iter().all(|listener| listener.asked != **address))
        .map(|address| Listener::bind_beside(*address, config, shared, &going))
        .collect::<Result<Vec<_>, _>>();
    let (result, more) = match new {
        Ok(new) => (Ok(()), new),
        Err(error) => (Err(error), going),
    };
    staying.extend(more);
    *listeners = staying;
    result
}

/// The server speaks first in DTCP. A client whose handshake ended while the queue was full believes
/// to be connected, sends nothing that could be acknowledged, and waits: with SYN cookies, or once the
/// kernel has given up its half of the handshake, for ever.
fn warn_of_short_queue(asked: u32) {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(most) = most.filter(|most| *most < asked) {
        tracing::warn!(
            asked,
            somaxconn = most,
            "when many clients connect at once some will wait for a second or for ever: \
             raise net.core.somaxconn before the start"
        );
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: Arc<TcpListener>, shared: Arc<Shared>) {
    let _alarm = Alarm::new(&shared, "a listener");
    let mut spare = spare();
    let mut in_a_row = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                in_a_row = 0;
                admit(stream, &shared);
            }
            Err(error) => {
                shared.counters.accept_errors.one();
                if !exhausted(&error) {
                    // That one connection is gone; the next one may be fine.
                    in_a_row += 1;
                    if in_a_row >= FATAL {
                        return shared.fail(format!("a listener: {error}"));
                    }
                    tokio::task::yield_now().await;
                    continue;
                }
                shared.log(|| tracing::error!(%error, "cannot accept connections"));
                // The descriptor that was kept for this lets one be told, then it is kept again.
                drop(spare.take());
                if let Ok(Ok((stream, _))) =
                    tokio::time::timeout(Duration::ZERO, listener.accept()).await
                {
                    refuse(stream);
                }
                tokio::time::sleep(PAUSE).await;
                spare = self::spare();
            }
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn exhausted(error: &io::Error) -> bool {
    let out_of = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    out_of
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn admit(stream: TcpStream, shared: &Arc<Shared>) {
    // A peer that has reset the connection by now has no address any more.
    let (Ok(SocketAddr::V4(client)), Ok(SocketAddr::V4(server))) =
        (stream.peer_addr(), stream.local_addr())
    else {
        shared.counters.accept_errors.one();
        return;
    };
    match shared.enrol(client, server) {
        Some(place) => {
            // Replies are single lines that somebody waits for.
            let _ = stream.set_nodelay(true);
            shared.counters.accepted.one();
            tokio::spawn(Session::new(stream, place).run());
        }
        None => refuse(stream),
    }
}

fn refuse(stream: TcpStream) {
    let mut line = Vec::new();
    Reply::Failed(Failure::Busy).emit(&mut line);
    // The send buffer of a new connection has room; if not, closing says enough.
    let _ = stream.try_write(&line);
    if let Ok(stream) = stream.into_std() {
        let _ = stream.shutdown(Shutdown::Write);
    }
}
