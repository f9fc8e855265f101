//! Figures, not part of the ordinary run:
//! `cargo nextest run --release -p sixferry-dtcp --run-ignored only -E 'test(load)' --no-capture`.
//!
//! Server and clients share one process, so CPU is counted by thread: the server's runtime has its
//! own threads, whose names say so.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sixferry_dtcp::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::bed::{config, from};
use crate::client::Client;
use crate::fake::Fake;

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
    let fake = Arc::new(Fake::new(&[("alice", "s3cret")]));
    let server = server_runtime.block_on(async { Server::start(config(), fake).unwrap() });
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
             the fake lifecycle: {:.1} KiB",
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
        let fake = Arc::new(Fake::new(&[("alice", "s3cret")]));
        let server = Server::start(config(), fake).unwrap();
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
