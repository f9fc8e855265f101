//! A DTCP client that says what it is told to: for what no well-behaved client does.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use sixferry_dtcp::wire::{PORT, client};

use crate::net::Net;
use crate::topology::RELAY_V4;

/// How long an answer may take; a test waits less long for the conditions it is about.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection to the server.
#[derive(Debug)]
pub struct Login {
    stream: BufReader<TcpStream>,
    /// What the greeting told.
    pub challenge: String,
}

impl Login {
    /// Connects from an address of `net` and reads the greeting; `Err` is what came instead.
    ///
    /// # Errors
    /// What the kernel or the server says.
    pub fn try_connect(net: &Net, from: Ipv4Addr) -> io::Result<Self> {
        let mut login = net.enter(|| Self::raw(from))?;
        login.greeted()?;
        Ok(login)
    }

    /// The same.
    ///
    /// # Panics
    /// When there is no greeting.
    #[must_use]
    pub fn connect(net: &Net, from: Ipv4Addr) -> Self {
        Self::try_connect(net, from).unwrap_or_else(|error| panic!("connecting: {error}"))
    }

    /// Connects from where the calling thread is, and leaves the greeting to be read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn raw(from: Ipv4Addr) -> io::Result<Self> {
        // A client that is started later must not hold it open.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrV4::new(from, 0))?;
        connect(&socket, &SocketAddrV4::new(RELAY_V4, PORT))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::with_capacity(512, stream),
            challenge: String::new(),
        })
    }

    /// Reads the greeting.
    ///
    /// # Errors
    /// What came instead.
    pub fn greeted(&mut self) -> io::Result<()> {
        let line = self.try_line()?;
        let challenge = client::greeting(&line).map_err(|_| io::Error::other(line.clone()))?;
        challenge.clone_into(&mut self.challenge);
        Ok(())
    }

    /// The next line without its end.
    ///
    /// # Errors
    /// As the connection does, also when it ends.
    pub fn try_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Sends bytes to a server that may have closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// A line and its answer.
    ///
    /// # Panics
    /// When none comes.
    pub fn ask(&mut self, line: &str) -> String {
        assert!(self.send(format!("{line}\r\n").as_bytes()), "{line}");
        let answer = self.try_line();
        answer.unwrap_or_else(|error| panic!("no answer to {line:?}: {error}"))
    }

    /// What proves that somebody knows `secret`.
    #[must_use]
    pub fn digest(&self, user: &str, secret: &str) -> String {
        client::answer(user, &self.challenge, secret.as_bytes())
    }

    /// Asks for a tunnel; `words` are its type and what follows.
    ///
    /// # Panics
    /// When no answer comes.
    pub fn tunnel(&mut self, user: &str, secret: &str, words: &str) -> String {
        let digest = self.digest(user, secret);
        self.ask(&format!("tunnel {user} {digest} {words}"))
    }

    /// Where it comes from.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().expect("an address")
    }
}
