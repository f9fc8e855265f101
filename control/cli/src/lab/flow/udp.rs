//! UDP: numbered datagrams of several sizes to an echo server and back, both ways at once.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Figures, FlowResult, Party};
use crate::lab::error::Error;
use crate::lab::stop::Stop;

const NAME: &str = "UDP echo";
const PORT: u16 = 7;
/// Datagrams per second and direction: far below what the slowest XDP mode carries, so a loss
/// is a fault and not a limit.
const RATE: u32 = 2000;
/// Pause between bursts of datagrams.
const TICK: Duration = Duration::from_millis(2);
/// How long the last echo may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
const READ_LIMIT: Duration = Duration::from_millis(50);
/// IPv6 and UDP headers.
const HEADERS: usize = 48;
/// Number, then pattern.
const NUMBER_LEN: usize = 8;

/// Runs one exchange in each direction at the same time.
pub(super) fn both_ways(
    user: &Party,
    host: &Party,
    mtu: u16,
    seconds: Duration,
    stop: &Stop,
) -> Result<[FlowResult; 2], Error> {
    let count = u64::from(RATE) * seconds.as_millis() as u64 / 1000;
    thread::scope(|scope| {
        let up = scope.spawn(|| exchange(user, host, "user -> host", mtu, count, stop));
        let down = exchange(host, user, "host -> user", mtu, count, stop);
        let up = up
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok([up?, down?])
    })
}

fn exchange(
    client: &Party,
    server: &Party,
    direction: &'static str,
    mtu: u16,
    count: u64,
    stop: &Stop,
) -> Result<FlowResult, Error> {
    let server_socket = bind(server, PORT)?;
    let client_socket = bind(client, 0)?;
    client_socket
        .connect(SocketAddr::from((server.address, PORT)))
        .map_err(Error::io("cannot connect a UDP socket"))?;
    let sizes = sizes(mtu);
    let over = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let sender = scope.spawn(|| send(&client_socket, &sizes, count, stop));
        let echo = scope.spawn(|| echo(&server_socket, &over));
        let tally = receive(&client_socket, &sizes, count, || {
            stop.requested() || sender.is_finished()
        });
        over.store(true, Ordering::Relaxed);
        let join = "a traffic thread panicked";
        let sent = sender.join().map_err(|_| io::Error::other(join)).flatten();
        let echoed = echo.join().map_err(|_| io::Error::other(join)).flatten();
        Ok((sent?, echoed.and(tally)?))
    });
    stop.check()?;
    Ok(match outcome {
        Ok((sent, tally)) => judge(direction, &sent, &tally),
        Err(error) => {
            let error: io::Error = error;
            super::result(NAME, direction, false, error.to_string())
        }
    })
}

fn judge(direction: &'static str, sent: &Sent, tally: &Tally) -> FlowResult {
    let lost = sent.datagrams - tally.seen.len() as u64;
    let rate = sent.datagrams as f64 / sent.elapsed.as_secs_f64();
    let detail = format!(
        "{} datagrams sent at {rate:.0}/s, {} echoed, {lost} lost, {} damaged, {} duplicated",
        sent.datagrams,
        tally.seen.len(),
        tally.damaged,
        tally.duplicates
    );
    FlowResult {
        name: NAME,
        direction,
        passed: sent.datagrams > 0 && lost == 0 && tally.damaged == 0 && tally.duplicates == 0,
        detail,
        figures: Figures {
            sent: Some(sent.datagrams),
            lost: Some(lost),
            damaged: Some(tally.damaged),
            packets_per_second: Some(rate),
            bytes: Some(sent.bytes),
            ..Figures::default()
        },
    }
}

fn bind(party: &Party, port: u16) -> Result<UdpSocket, Error> {
    let address = SocketAddr::from((party.address, port));
    let socket = party.netns.enter(|| UdpSocket::bind(address))?;
    let socket = socket.map_err(Error::io(format!("cannot bind {address}")))?;
    socket
        .set_read_timeout(Some(READ_LIMIT))
        .map_err(Error::io("cannot set a time limit"))?;
    Ok(socket)
}

/// From the smallest to exactly the tunnel's MTU.
fn sizes(mtu: u16) -> [usize; 5] {
    [NUMBER_LEN, 64, 512, 1000, usize::from(mtu) - HEADERS]
}

/// Datagram number `number`: its number, then bytes that depend on it.
fn datagram(number: u64, sizes: &[usize]) -> Vec<u8> {
    let len = sizes[number as usize % sizes.len()];
    let mut datagram = number.to_be_bytes().to_vec();
    datagram.extend((NUMBER_LEN..len).map(|i| (number as usize + i) as u8));
    datagram
}

struct Sent {
    datagrams: u64,
    bytes: u64,
    elapsed: Duration,
}

fn send(socket: &UdpSocket, sizes: &[usize], count: u64, stop: &Stop) -> io::Result<Sent> {
    let started = Instant::now();
    let mut sent = Sent {
        datagrams: 0,
        bytes: 0,
        elapsed: Duration::ZERO,
    };
    while sent.datagrams < count && !stop.requested() {
        let due = (started.elapsed().as_secs_f64() * f64::from(RATE)) as u64;
        while sent.datagrams < due.min(count) {
            let datagram = datagram(sent.datagrams, sizes);
            socket.send(&datagram)?;
            sent.datagrams += 1;
            sent.bytes += datagram.len() as u64;
        }
        thread::sleep(TICK);
    }
    sent.elapsed = started.elapsed();
    Ok(sent)
}

fn echo(socket: &UdpSocket, over: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => _ = socket.send_to(&buffer[..len], from)?,
            Err(e) if is_timeout(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    seen: HashSet<u64>,
    damaged: u64,
    duplicates: u64,
}

impl Tally {
    fn count(&mut self, received: &[u8], sizes: &[usize], count: u64) {
        match received
            .first_chunk()
            .map(|number| u64::from_be_bytes(*number))
        {
            Some(number) if number < count && received == datagram(number, sizes) => {
                self.duplicates += u64::from(!self.seen.insert(number));
            }
            _ => self.damaged += 1,
        }
    }
}

/// Collects echoes until all are there, or nothing has come for a while and `give_up` agrees.
fn receive(
    socket: &UdpSocket,
    sizes: &[usize],
    count: u64,
    give_up: impl Fn() -> bool,
) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut buffer = [0; 2048];
    let mut last = Instant::now();
    while (tally.seen.len() as u64) < count {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                tally.count(&buffer[..len], sizes, count);
                last = Instant::now();
            }
            Err(e) if is_timeout(&e) => {
                if last.elapsed() > DRAIN_LIMIT && give_up() {
                    break;
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(tally)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_checked_byte_by_byte() {
        let sizes = sizes(1280);
        let mut tally = Tally::default();
        for number in 0..10 {
            tally.count(&datagram(number, &sizes), &sizes, 10);
        }
        assert_eq!(
            (tally.seen.len(), tally.damaged, tally.duplicates),
            (10, 0, 0)
        );
        tally.count(&datagram(4, &sizes), &sizes, 10);
        assert_eq!(tally.duplicates, 1);
        tally.count(&datagram(10, &sizes), &sizes, 10);
        tally.count(&datagram(3, &sizes)[..600], &sizes, 10);
        tally.count(b"", &sizes, 10);
        let mut damaged = datagram(2, &sizes);
        damaged[300] ^= 0x40;
        tally.count(&damaged, &sizes, 10);
        assert_eq!(
            (tally.seen.len(), tally.damaged, tally.duplicates),
            (10, 4, 1)
        );
    }

    #[test]
    fn the_largest_datagram_is_exactly_the_mtu() {
        let longest = (0..5).map(|n| datagram(n, &sizes(1280)).len()).max();
        assert_eq!(longest, Some(1280 - HEADERS));
    }

    #[test]
    fn a_lost_or_damaged_datagram_fails_the_flow() {
        let sent = || Sent {
            datagrams: 2,
            bytes: 72,
            elapsed: Duration::from_secs(1),
        };
        let all = Tally {
            seen: HashSet::from([0, 1]),
            ..Tally::default()
        };
        assert!(judge("", &sent(), &all).passed);
        let one = Tally {
            seen: HashSet::from([1]),
            ..Tally::default()
        };
        assert!(!judge("", &sent(), &one).passed);
        assert!(!judge("", &sent(), &Tally { damaged: 1, ..all }).passed);
    }
}
