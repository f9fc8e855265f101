//! A client that says what it is told to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sixferry_dtcp::wire::client;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Far longer than anything here takes; with the clock paused it must be longer than what is
/// waited for.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    pub(crate) challenge: String,
}

impl Client {
    /// Connects from an address of its own, without reading the greeting.
    pub(crate) async fn raw(server: SocketAddr, from: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        let stream = socket.connect(server).await.unwrap();
        Self {
            stream: BufReader::with_capacity(512, stream),
            challenge: String::new(),
        }
    }

    pub(crate) async fn connect(server: SocketAddr, from: Ipv4Addr) -> Self {
        let mut client = Self::raw(server, from).await;
        let greeting = client.line().await.expect("a greeting");
        client.greeted(&greeting);
        client
    }

    pub(crate) fn greeted(&mut self, greeting: &str) {
        self.challenge = client::greeting(greeting).expect(greeting).to_owned();
    }

    /// The next line without CR LF; `None` at the end of the stream.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_until(b'\n', &mut line)).await;
        match read.expect("an answer in time") {
            Ok(0) | Err(_) => None,
            Ok(_) => {
                let line = line
                    .strip_suffix(b"\r\n")
                    .expect("CR LF at the end of a line");
                Some(String::from_utf8(line.to_vec()).unwrap())
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends bytes to a server that may have closed.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// A line and its answer.
    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.line().await.expect("an answer")
    }

    pub(crate) fn digest(&self, user: &str, secret: &str) -> String {
        client::answer(user, &self.challenge, secret.as_bytes())
    }

    pub(crate) async fn login(&mut self, user: &str, secret: &str, kind: &str) -> String {
        let digest = self.digest(user, secret);
        self.ask(&format!("tunnel {user} {digest} {kind}")).await
    }

    pub(crate) async fn pings(&mut self) {
        assert_eq!(self.ask("ping").await, "+OK hi, happy to hear from you");
    }

    /// No more lines, and the peer's FIN: not a reset.
    pub(crate) async fn ends(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        assert_eq!(
            read.expect("FIN in time").expect("FIN, not a reset"),
            0,
            "{rest:?}"
        );
    }

    /// Sends FIN, keeps reading.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Goes away with a reset.
    pub(crate) fn reset(self) {
        self.stream.get_ref().set_zero_linger().unwrap();
    }
}
