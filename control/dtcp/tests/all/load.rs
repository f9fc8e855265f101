//! Figures, not part of the ordinary run:
//! `cargo nextest run --release -p sixferry-dtcp --run-ignored only -E 'test(load)' --no-capture`.
//!
//! Server and clients share one process, so CPU is counted by thread: the server's runtime has its
//! own threads, whose names say so.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use sixferry_dtcp::{Server, wire};
use sixferry_lifecycle::{
    AccountId, Acquire, Cause, Denied, Digest, Lease, LeaseNumber, Reply, Revocation, Slot,
    Transport, TunnelId, Tunnels,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::broadcast;

use crate::bed::{config, from};
use crate::client::Client;

/// A lifecycle that costs next to nothing beyond the digest, so that the figures are the server's.
struct Quick {
    live: Mutex<(i64, HashMap<TunnelId, LeaseNumber>)>,
    revocations: broadcast::Sender<Revocation>,
}

impl Quick {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            live: Mutex::default(),
            revocations: broadcast::Sender::new(16),
        })
    }
}

impl Tunnels for Quick {
    fn authenticate<'a>(&'a self, attempt: Digest<'a>) -> Reply<'a, Result<AccountId, Denied>> {
        let good = wire::digest(attempt.user, attempt.challenge, b"s3cret") == attempt.digest;
        Box::pin(async move { Ok(if good { Ok(AccountId(1)) } else { Err(Denied) }) })
    }

    fn acquire<'a>(&'a self, wanted: Acquire) -> Reply<'a, Lease> {
        Box::pin(async move {
            let mut live = self.live.lock();
            live.0 += 1;
            let (tunnel, number) = (TunnelId(live.0), LeaseNumber(1));
            live.1.insert(tunnel, number);
            let unit = u32::try_from(live.0).unwrap();
            Ok(Lease {
                tunnel,
                number,
                pair: wanted
                    .host_prefix
                    .map(|prefix| crate::fake::pair(prefix, unit)),
                slot: Slot {
                    stem: "gif".into(),
                    unit,
                },
                local: wanted.local,
                remote: wanted.remote,
                transport: Transport::SixInFour,
                prefixes: wanted.prefixes,
                mtu: wanted.mtu,
                resumed: false,
            })
        })
    }

    fn release<'a>(&'a self, tunnel: TunnelId, _: LeaseNumber, _: Cause) -> Reply<'a, ()> {
        self.live.lock().1.remove(&tunnel);
        Box::pin(async { Ok(()) })
    }

    fn revocations(&self) -> broadcast::Receiver<Revocation> {
        self.revocations.subscribe()
    }

    fn holds<'a>(&'a self, leases: &'a [(TunnelId, LeaseNumber)]) -> Reply<'a, Vec<bool>> {
        let live = self.live.lock();
        let holds = leases
            .iter()
            .map(|(tunnel, number)| live.1.get(tunnel) == Some(number));
        let holds = holds.collect();
        Box::pin(async move { Ok(holds) })
    }
}

const PREFIX: &str = "dtcp-server";

/// CPU seconds used by threads of that name so far.
fn cpu_seconds(name: &str) -> f64 {
    let ticks: u64 = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter(|stat| stat.contains(&format!("({name}")))
        .map(|stat| {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
            fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
        })
        .sum();
    ticks as f64 / 100.0
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// How many client connections this process has room for beside the server's end of each.
fn room() -> u32 {
    std::env::var("DTCP_LOAD_SESSIONS").map_or(4000, |n| n.parse().unwrap())
}

#[test]
#[ignore = "prints figures; run it alone and with --release"]
fn load_idle_sessions_pinging() {
    let server_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(PREFIX)
        .enable_all()
        .build()
        .unwrap();
    let server = server_runtime.block_on(async { Server::start(config(), Quick::new()).unwrap() });
    let at = server.addresses()[0];
    let sessions = room();
    let clients_runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    clients_runtime.block_on(async {
        // Memory of the clients is kept small and the same for each: a bare socket.
        let before = resident_bytes();
        let start = Instant::now();
        let mut clients = Vec::new();
        for n in 0..sessions {
            clients.push(login(at, from(n)).await);
        }
        let up = start.elapsed();
        let resident = resident_bytes() - before;
        println!(
            "{sessions} logins, one after the other: {:.0}/s; resident per session, both ends and \
             a lifecycle in memory: {:.1} KiB",
            f64::from(sessions) / up.as_secs_f64(),
            resident as f64 / f64::from(sessions) / 1024.0
        );
        // One ping per client and minute, spread evenly; ten seconds of it.
        let pings = sessions / 6;
        let interval = Duration::from_secs(10) / pings;
        let (cpu, start) = (cpu_seconds(PREFIX), Instant::now());
        let mut slowest = Vec::new();
        for n in 0..pings {
            tokio::time::sleep_until((start + interval * n).into()).await;
            let sent = Instant::now();
            ask(&mut clients[n as usize], b"ping\r\n").await;
            slowest.push(sent.elapsed());
        }
        let used = cpu_seconds(PREFIX) - cpu;
        slowest.sort_unstable();
        println!(
            "{pings} pings in {:?}: {:.2} % of a core, p99 {:?}",
            start.elapsed(),
            100.0 * used / start.elapsed().as_secs_f64(),
            slowest[slowest.len() * 99 / 100]
        );
        let start = Instant::now();
        drop(clients);
        while server.stats().sessions > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!(
            "{sessions} sessions cut at once are gone after {:?}",
            start.elapsed()
        );
    });
    server_runtime.block_on(server.shutdown());
}

async fn login(at: SocketAddr, from: Ipv4Addr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(at).await.unwrap();
    let mut greeting = [0; 57];
    stream.read_exact(&mut greeting).await.unwrap();
    let digest = sixferry_dtcp::wire::digest(b"alice", &greeting[4..36], b"s3cret");
    let digest = sixferry_dtcp::wire::hex(digest);
    let line = [&b"tunnel alice "[..], &digest, b" host\r\n"].concat();
    ask(&mut stream, &line).await;
    stream
}

async fn ask(stream: &mut tokio::net::TcpStream, line: &[u8]) {
    stream.write_all(line).await.unwrap();
    let mut answer = [0; 256];
    let len = stream.read(&mut answer).await.unwrap();
    assert!(answer[..len].starts_with(b"+OK "));
}

#[test]
#[ignore = "prints figures; run it alone and with --release"]
fn load_logins_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start(config(), Quick::new()).unwrap();
        let at = server.addresses()[0];
        let sessions = room();
        let start = Instant::now();
        let tasks: Vec<_> = (0..sessions)
            .map(|n| {
                tokio::spawn(async move {
                    let mut client = Client::connect(at, from(n)).await;
                    assert!(
                        client
                            .login("alice", "s3cret", "tunnelonly")
                            .await
                            .starts_with("+OK")
                    );
                    client
                })
            })
            .collect();
        let mut clients = Vec::new();
        for task in tasks {
            clients.push(task.await.unwrap());
        }
        let elapsed = start.elapsed();
        println!(
            "{sessions} connections and logins at once: {:.0}/s, client's work included",
            f64::from(sessions) / elapsed.as_secs_f64()
        );
        server.shutdown().await;
    });
}
