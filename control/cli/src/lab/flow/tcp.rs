//! TCP: a stream of known bytes for some seconds; the receiver compares every one of them and
//! says how many it got.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::{Figures, FlowResult, Party};
use crate::lab::error::Error;
use crate::lab::stop::Stop;

const PORT: u16 = 5001;
/// A stream that stands still this long has failed.
const STALL_LIMIT: Duration = Duration::from_secs(5);
const ACCEPT_LIMIT: Duration = Duration::from_secs(10);
/// A multiple of eight, so that a chunk starts at a word.
const CHUNK: usize = 64 * 1024;

/// Sends for `seconds` and has the receiver check.
pub(super) fn transfer(
    from: &Party,
    to: &Party,
    direction: &'static str,
    seconds: Duration,
    stop: &Stop,
) -> Result<FlowResult, Error> {
    let address = SocketAddr::from((to.address, PORT));
    let listener = to.netns.enter(|| TcpListener::bind(address))?;
    let listener = listener.map_err(Error::io(format!("cannot listen on {address}")))?;
    let outcome = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener, stop));
        let sent = from
            .netns
            .enter(|| connect(from.address, to.address))
            .map(|stream| stream.and_then(|stream| send(stream, seconds, stop)));
        let received = receiver
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.map(|sent| (sent, received))
    })?;
    stop.check()?;
    Ok(judge(direction, outcome))
}

/// What the receiver found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    bytes: u64,
    wrong: u64,
}

struct Sent {
    bytes: u64,
    elapsed: Duration,
    verdict: Verdict,
}

fn judge(
    direction: &'static str,
    (sent, received): (io::Result<Sent>, io::Result<()>),
) -> FlowResult {
    let name = "TCP transfer";
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) => {
            let other = received
                .err()
                .map(|e| format!("; receiver: {}", in_words(&e)))
                .unwrap_or_default();
            return super::result(
                name,
                direction,
                false,
                format!("sender: {}{other}", in_words(&error)),
            );
        }
    };
    let rate = sent.bytes as f64 * 8.0 / sent.elapsed.as_secs_f64() / 1e6;
    let complete = sent.verdict.bytes == sent.bytes && sent.bytes > 0;
    let detail = format!(
        "{:.1} MB in {:.1} s, {rate:.0} Mbit/s, {} bytes arrived, {} wrong",
        sent.bytes as f64 / 1e6,
        sent.elapsed.as_secs_f64(),
        if complete {
            "all".to_owned()
        } else {
            sent.verdict.bytes.to_string()
        },
        sent.verdict.wrong
    );
    FlowResult {
        name,
        direction,
        passed: complete && sent.verdict.wrong == 0 && received.is_ok(),
        detail,
        figures: Figures {
            bytes: Some(sent.bytes),
            damaged: Some(sent.verdict.wrong),
            megabits_per_second: Some(rate),
            ..Figures::default()
        },
    }
}

/// Connects from an address of our choice: the user's end has several.
fn connect(from: Ipv6Addr, to: Ipv6Addr) -> io::Result<TcpStream> {
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrV6::new(from, 0, 0, 0))?;
    // This limit also holds for connecting.
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(STALL_LIMIT))?;
    match rustix::net::connect(&socket, &SocketAddrV6::new(to, PORT, 0, 0)) {
        Ok(()) => Ok(socket.into()),
        // What a connect says whose time limit has passed.
        Err(Errno::INPROGRESS) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection")),
        Err(e) => Err(e.into()),
    }
}

/// In words: a time limit that passes on a socket says EAGAIN.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock => format!("stood still for {STALL_LIMIT:?}"),
        _ => error.to_string(),
    }
}

fn send(mut stream: TcpStream, seconds: Duration, stop: &Stop) -> io::Result<Sent> {
    stream.set_write_timeout(Some(STALL_LIMIT))?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    let started = Instant::now();
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    while started.elapsed() < seconds && !stop.requested() {
        fill(&mut chunk, bytes);
        stream.write_all(&chunk)?;
        bytes += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 16];
    // Only now everything has arrived, so only now the clock stops.
    stream.read_exact(&mut answer)?;
    let elapsed = started.elapsed();
    let number = |at: usize| {
        answer[at..at + 8]
            .iter()
            .fold(0, |n, b| n << 8 | u64::from(*b))
    };
    Ok(Sent {
        bytes,
        elapsed,
        verdict: Verdict {
            bytes: number(0),
            wrong: number(8),
        },
    })
}

fn receive(listener: &TcpListener, stop: &Stop) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let accepted = stop.wait_for(ACCEPT_LIMIT, || match listener.accept() {
        Ok((stream, _)) => Ok(Some(Ok(stream))),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Ok(Some(Err(e))),
    });
    let Ok(Some(stream)) = accepted else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody connected"));
    };
    let mut stream = stream?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    let mut chunk = vec![0; CHUNK];
    let mut verdict = Verdict::default();
    loop {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            break;
        }
        verdict.wrong += compare(&chunk[..len], verdict.bytes);
        verdict.bytes += len as u64;
    }
    stream.write_all(&verdict.bytes.to_be_bytes())?;
    stream.write_all(&verdict.wrong.to_be_bytes())
}

/// The eight bytes of the stream at word `index`: SplitMix64, so a shift, a swap or a repeated
/// packet shows.
fn word(index: u64) -> [u8; 8] {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_be_bytes()
}

/// Writes the stream from `offset`, which is that of a word, on.
fn fill(chunk: &mut [u8], offset: u64) {
    for (index, bytes) in chunk.chunks_mut(8).enumerate() {
        let word = word(offset / 8 + index as u64);
        bytes.copy_from_slice(&word[..bytes.len()]);
    }
}

/// Counts bytes that are not those of the stream from `offset`, any offset, on.
fn compare(chunk: &[u8], offset: u64) -> u64 {
    let skip = (offset % 8) as usize;
    let (head, tail) = chunk.split_at(chunk.len().min((8 - skip) % 8));
    let wrong = |got: &[u8], expected: &[u8]| {
        got.iter()
            .zip(expected)
            .filter(|(got, expected)| got != expected)
            .count() as u64
    };
    let first = (offset + head.len() as u64) / 8;
    let head_wrong = if head.is_empty() {
        0
    } else {
        wrong(head, &word(offset / 8)[skip..])
    };
    tail.chunks(8)
        .zip(first..)
        .fold(head_wrong, |sum, (got, index)| {
            let expected = word(index);
            if got == expected {
                sum
            } else {
                sum + wrong(got, &expected)
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_stream_compares_equal_and_any_flip_is_seen() {
        let mut stream = vec![0; 4096];
        fill(&mut stream, 0);
        for (start, end) in [
            (0, 4096),
            (0, 1),
            (1, 2),
            (3, 9),
            (7, 8),
            (8, 17),
            (13, 4001),
        ] {
            let mut cut = stream[start..end].to_vec();
            assert_eq!(compare(&cut, start as u64), 0, "{start}..{end}");
            cut[(end - start) / 2] ^= 1;
            assert_eq!(compare(&cut, start as u64), 1, "{start}..{end}");
        }
        assert!(
            compare(&stream[8..], 0) > 4000,
            "a stream moved by a word looks right"
        );
    }

    #[test]
    fn chunks_continue_each_other() {
        let mut whole = vec![0; 2 * CHUNK];
        fill(&mut whole, 0);
        let mut second = vec![0; CHUNK];
        fill(&mut second, CHUNK as u64);
        assert_eq!(whole[CHUNK..], second);
    }

    #[test]
    fn missing_and_wrong_bytes_fail_the_flow() {
        let outcome = |bytes, wrong| {
            let verdict = Verdict { bytes, wrong };
            (
                Ok(Sent {
                    bytes: 100,
                    elapsed: Duration::from_secs(1),
                    verdict,
                }),
                Ok(()),
            )
        };
        assert!(judge("", outcome(100, 0)).passed);
        assert!(!judge("", outcome(99, 0)).passed);
        assert!(!judge("", outcome(100, 1)).passed);
        assert!(!judge("", (Err(io::Error::other("reset")), Ok(()))).passed);
    }
}
