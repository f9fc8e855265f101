//! Bulk transfers over TCP whose every byte is checked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::net::Net;
use crate::wait::wait_for;

/// A stalled connection is given up after this long.
const STALL: Duration = Duration::from_secs(20);

/// `len` bytes that compress badly and differ at every offset; the same for the same seed.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A listening socket in a namespace.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Listens on a free port of `address` in `net`.
    ///
    /// # Panics
    /// When the address is not one of `net`.
    #[must_use]
    pub fn listen(net: &Net, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let listener = net.enter(|| TcpListener::bind((address, 0)));
        let listener = listener.unwrap_or_else(|error| panic!("listening on {address}: {error}"));
        listener
            .set_nonblocking(true)
            .expect("a listener that does not block");
        let address = listener.local_addr().expect("a bound address");
        Self { listener, address }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// When none comes within the stall time.
    pub fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = wait_for(STALL, || self.listener.accept().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "nobody connected"))?
            .0;
        stream.set_nonblocking(false)?;
        set_timeouts(&stream)?;
        Ok(stream)
    }

    /// Takes one connection on a thread and reads it to its end.
    #[must_use]
    pub fn receive(self) -> JoinHandle<io::Result<Vec<u8>>> {
        thread::spawn(move || {
            let mut stream = self.accept()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    /// Takes one connection on a thread and writes `bytes` to it.
    #[must_use]
    pub fn send(self, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
        thread::spawn(move || {
            let mut stream = self.accept()?;
            stream.write_all(&bytes)?;
            stream.shutdown(Shutdown::Write)?;
            // Wait for the far end to finish reading: closing now would reset what is in flight.
            stream.read_to_end(&mut Vec::new()).map(drop)
        })
    }
}

/// Connects from `net`.
///
/// # Errors
/// When the connection is refused or not answered in time.
pub fn connect(net: &Net, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = net.enter(|| TcpStream::connect_timeout(&to, STALL))?;
    set_timeouts(&stream)?;
    Ok(stream)
}

/// Sends `len` bytes from `client` to a server on `address` in `server`, checks them there and
/// says how long it took.
///
/// # Errors
/// When the connection stalls or the bytes differ.
pub fn bulk(
    client: &Net,
    server: &Net,
    address: impl Into<IpAddr>,
    len: usize,
) -> io::Result<Duration> {
    let bytes = pattern(len, len as u64);
    let listening = Server::listen(server, address);
    let to = listening.address;
    let receiver = listening.receive();
    let start = Instant::now();
    let sent = connect(client, to).and_then(|mut stream| {
        stream.write_all(&bytes)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())
    });
    let received = receiver.join().expect("the receiver does not panic");
    sent?;
    let received = received?;
    if received != bytes {
        let text = format!(
            "{} bytes arrived, {len} were sent, or some differ",
            received.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(start.elapsed())
}

/// The guest connects to `server` and sends back all it receives; `len` bytes go both ways at once
/// and are checked when they return.
///
/// # Errors
/// When the connection stalls or the bytes differ.
pub fn echoed(
    guest: &Guest,
    server: &Net,
    address: impl Into<IpAddr>,
    len: usize,
) -> io::Result<()> {
    let bytes = pattern(len, len as u64);
    let listening = Server::listen(server, address);
    let (to, port) = (listening.address.ip(), listening.address.port());
    let echo = guest.start(&format!("nc {to} {port} -e /bin/cat"));
    let mut stream = listening.accept()?;
    let mut sending = stream.try_clone()?;
    let sent = bytes.clone();
    let sender = thread::spawn(move || {
        sending.write_all(&sent)?;
        sending.shutdown(Shutdown::Write)
    });
    let mut received = Vec::with_capacity(len);
    stream.read_to_end(&mut received)?;
    sender.join().expect("the sender does not panic")?;
    let said = echo.wait(STALL);
    if said.code != 0 || received != bytes {
        let (code, text) = (said.code, said.text);
        let got = received.len();
        let text = format!("{got} of {len} bytes, or some differ; nc: {code} {text}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(())
}

/// A line there and back over an open connection.
///
/// # Errors
/// When it does not come back.
pub fn echo_once(near: &mut TcpStream, far: &mut TcpStream, line: &[u8]) -> io::Result<()> {
    one_way(near, far, line)?;
    one_way(far, near, line)
}

fn one_way(from: &mut TcpStream, to: &mut TcpStream, line: &[u8]) -> io::Result<()> {
    from.write_all(line)?;
    let mut bytes = vec![0; line.len()];
    to.read_exact(&mut bytes)?;
    if bytes == line {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "another line came",
    ))
}

fn set_timeouts(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))
}
