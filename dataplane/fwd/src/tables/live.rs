//! What is learnt about a tunnel while packets flow: where a UDP peer is now, what the path takes.
//!
//! A tunnel's two directions may be handled by different workers, so this state is shared: a few
//! atomics a tunnel, in blocks that all snapshots have in common. A slot is used again when its
//! tunnel has gone; every value therefore carries the generation of the tunnel it belongs to, and a
//! worker that still has an older snapshot cannot leave anything to a slot's next owner.
//!
//! Every value is one word and stands alone, so relaxed order is enough.

use crate::id::Ticks;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CHUNK: usize = 256;

/// Learnt state of one tunnel.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Live {
    /// Address, port and generation: 32, 16 and 16 bits. Port 0: nothing learnt.
    endpoint: AtomicU64,
    /// Generation, MTU, and the second from which a raise may be tried: 16, 16 and 32 bits. MTU 65535:
    /// nothing learnt.
    path_mtu: AtomicU64,
    /// When the endpoint last changed, nanoseconds.
    changed: AtomicU64,
    /// When a packet from elsewhere was last announced, nanoseconds.
    announced: AtomicU64,
    /// When what a router said was last announced, nanoseconds.
    reported: AtomicU64,
    /// ICMPv4 errors about the tunnel's packets that were accepted.
    errors: AtomicU64,
}

/// Where a UDP peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: [u8; 4],
    pub(crate) port: u16,
}

impl Endpoint {
    #[inline]
    pub(crate) const fn known(self) -> bool {
        self.port != 0 && u32::from_be_bytes(self.address) != 0
    }
}

/// Shortest time between two changes of an endpoint that packets may cause.
const HOLD_DOWN: u64 = 10 * Ticks::PER_SECOND;
/// The same where only the port can change.
const PORT_HOLD_DOWN: u64 = Ticks::PER_SECOND;
/// Shortest time between two announcements about one tunnel.
const ANNOUNCE_EVERY: u64 = Ticks::PER_SECOND;
/// A decreased path MTU stays at least this many seconds (RFC 1191 section 6.3 suggests 10 minutes).
const FIRST_RAISE: u64 = 600;
/// After that it is raised by one plateau in this many seconds.
const NEXT_RAISE: u64 = 120;
/// RFC 1191 section 7.1.
const PLATEAUS: [u16; 11] = [
    65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68,
];

/// The largest plateau below `len`.
pub(crate) fn plateau_below(len: u16) -> u16 {
    PLATEAUS.into_iter().find(|p| *p < len).unwrap_or(68)
}

/// The smallest plateau above `mtu`.
fn plateau_above(mtu: u16) -> u16 {
    PLATEAUS
        .into_iter()
        .rev()
        .find(|p| *p > mtu)
        .unwrap_or(u16::MAX)
}

#[derive(Clone, Copy)]
struct PathMtu {
    generation: u16,
    mtu: u16,
    raise_at: u32,
}

impl PathMtu {
    const fn unpack(word: u64) -> Self {
        let [g0, g1, m0, m1, s0, s1, s2, s3] = word.to_be_bytes();
        Self {
            generation: u16::from_be_bytes([g0, g1]),
            mtu: u16::from_be_bytes([m0, m1]),
            raise_at: u32::from_be_bytes([s0, s1, s2, s3]),
        }
    }

    const fn pack(self) -> u64 {
        let [g0, g1] = self.generation.to_be_bytes();
        let [m0, m1] = self.mtu.to_be_bytes();
        let [s0, s1, s2, s3] = self.raise_at.to_be_bytes();
        u64::from_be_bytes([g0, g1, m0, m1, s0, s1, s2, s3])
    }
}

const fn pack_endpoint(generation: u16, endpoint: Endpoint) -> u64 {
    let [a, b, c, d] = endpoint.address;
    let [p0, p1] = endpoint.port.to_be_bytes();
    let [g0, g1] = generation.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, p0, p1, g0, g1])
}

const fn unpack_endpoint(word: u64) -> (u16, Endpoint) {
    let [a, b, c, d, p0, p1, g0, g1] = word.to_be_bytes();
    let endpoint = Endpoint {
        address: [a, b, c, d],
        port: u16::from_be_bytes([p0, p1]),
    };
    (u16::from_be_bytes([g0, g1]), endpoint)
}

fn exchange(word: &AtomicU64, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

/// Takes the turn of this second.
fn paced(stamp: &AtomicU64, now: Ticks) -> bool {
    let last = stamp.load(Ordering::Relaxed);
    (last == 0 || now.0.saturating_sub(last) >= ANNOUNCE_EVERY)
        && exchange(stamp, last, now.0.max(1))
}

fn seconds_after(now: Ticks, seconds: u64) -> u32 {
    u32::try_from(now.0 / Ticks::PER_SECOND + seconds).unwrap_or(u32::MAX)
}

impl Live {
    /// Forgets the former owner.
    pub(crate) fn reset(&self, generation: u16, endpoint: Option<Endpoint>, path_mtu: Option<u16>) {
        let nobody = Endpoint {
            address: [0; 4],
            port: 0,
        };
        let endpoint = pack_endpoint(generation, endpoint.unwrap_or(nobody));
        self.endpoint.store(endpoint, Ordering::Relaxed);
        let path_mtu = PathMtu {
            generation,
            mtu: path_mtu.unwrap_or(u16::MAX),
            // told, not measured: its time begins with the first packet
            raise_at: 0,
        };
        self.path_mtu.store(path_mtu.pack(), Ordering::Relaxed);
        for word in [&self.changed, &self.announced, &self.reported, &self.errors] {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The learnt endpoint.
    #[inline]
    pub(crate) fn endpoint(&self, generation: u16) -> Option<Endpoint> {
        let (of, endpoint) = unpack_endpoint(self.endpoint.load(Ordering::Relaxed));
        (of == generation && endpoint.port != 0).then_some(endpoint)
    }

    /// Adopts an endpoint, unless it changed too recently. `false`: not adopted.
    pub(crate) fn adopt(
        &self,
        generation: u16,
        endpoint: Endpoint,
        port_only: bool,
        now: Ticks,
    ) -> bool {
        let hold_down = if port_only { PORT_HOLD_DOWN } else { HOLD_DOWN };
        let word = self.endpoint.load(Ordering::Relaxed);
        if unpack_endpoint(word).0 != generation {
            return false;
        }
        let changed = self.changed.load(Ordering::Relaxed);
        if changed != 0 && now.0.saturating_sub(changed) < hold_down {
            return false;
        }
        // of two workers only one moves the peer
        exchange(&self.changed, changed, now.0.max(1))
            && exchange(&self.endpoint, word, pack_endpoint(generation, endpoint))
    }

    /// Whether a packet from elsewhere may be announced now.
    pub(crate) fn may_announce(&self, now: Ticks) -> bool {
        paced(&self.announced, now)
    }

    /// Whether something a router said may be announced now. Apart from the other, or a forger of
    /// ICMPv4 errors could keep a peer from being moved.
    pub(crate) fn may_report(&self, now: Ticks) -> bool {
        paced(&self.reported, now)
    }

    /// The path MTU now, raised a step if it is old enough; `None` when nothing below `link` is known.
    #[inline]
    pub(crate) fn path_mtu(&self, generation: u16, link: u16, now: Ticks) -> Option<u16> {
        let word = self.path_mtu.load(Ordering::Relaxed);
        let known = PathMtu::unpack(word);
        if known.generation != generation || known.mtu >= link {
            return None;
        }
        if now.0 / Ticks::PER_SECOND < u64::from(known.raise_at) {
            return Some(known.mtu);
        }
        self.raise(word, known, link, now)
    }

    #[cold]
    fn raise(&self, word: u64, known: PathMtu, link: u16, now: Ticks) -> Option<u16> {
        let (mtu, wait) = if known.raise_at == 0 {
            (known.mtu, FIRST_RAISE)
        } else {
            (plateau_above(known.mtu).min(link), NEXT_RAISE)
        };
        let next = PathMtu {
            mtu,
            raise_at: seconds_after(now, wait),
            ..known
        };
        // another worker may have been faster: then its value counts from the next packet on
        _ = exchange(&self.path_mtu, word, next.pack());
        (mtu < link).then_some(mtu)
    }

    /// Notes what a router reported. `false` when it lowers nothing.
    pub(crate) fn lower(&self, generation: u16, reported: u16, link: u16, now: Ticks) -> bool {
        let word = self.path_mtu.load(Ordering::Relaxed);
        let known = PathMtu::unpack(word);
        if known.generation != generation || reported >= known.mtu.min(link) {
            return false;
        }
        let next = PathMtu {
            generation,
            mtu: reported,
            raise_at: seconds_after(now, FIRST_RAISE),
        };
        exchange(&self.path_mtu, word, next.pack())
    }

    /// The estimate for whoever asks, without raising it.
    pub(crate) fn estimate(&self, generation: u16) -> Option<u16> {
        let word = self.path_mtu.load(Ordering::Relaxed);
        let known = PathMtu::unpack(word);
        (known.generation == generation && known.mtu != u16::MAX).then_some(known.mtu)
    }

    pub(crate) fn count_error(&self) {
        _ = self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// The slots. Grows by chunks that stay where they are.
#[derive(Clone, Debug)]
pub(crate) struct LiveTable {
    chunks: Arc<Vec<Arc<[Live]>>>,
}

impl LiveTable {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&Live> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)
    }

    pub(crate) fn reserve(&mut self, slot: u32) {
        while self.chunks.len() * CHUNK <= slot as usize {
            let chunk = (0..CHUNK).map(|_| Live::default()).collect();
            Arc::make_mut(&mut self.chunks).push(chunk);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Live>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = Ticks::PER_SECOND;

    fn at(seconds: u64) -> Ticks {
        Ticks(seconds * SECOND)
    }

    #[test]
    fn plateaus() {
        assert_eq!(plateau_below(1500), 1492);
        assert_eq!(plateau_below(1492), 1006);
        assert_eq!(plateau_below(68), 68);
        assert_eq!(plateau_above(1006), 1492);
        assert_eq!(plateau_above(65535), u16::MAX);
    }

    #[test]
    fn a_lowered_path_mtu_is_not_raised_for_ten_minutes_and_then_in_steps() {
        let live = Live::default();
        live.reset(1, None, None);
        assert_eq!(live.path_mtu(1, 1500, at(1000)), None);
        assert!(live.lower(1, 1000, 1500, at(1000)));
        assert!(!live.lower(1, 1000, 1500, at(1000)), "the same again");
        assert!(
            !live.lower(1, 1400, 1500, at(1000)),
            "never raised by a report"
        );
        for seconds in [1000, 1300, 1599] {
            assert_eq!(live.path_mtu(1, 1500, at(seconds)), Some(1000));
        }
        assert_eq!(live.path_mtu(1, 1500, at(1600)), Some(1006));
        assert_eq!(live.path_mtu(1, 1500, at(1719)), Some(1006));
        assert_eq!(live.path_mtu(1, 1500, at(1720)), Some(1492));
        assert_eq!(live.path_mtu(1, 1500, at(1839)), Some(1492));
        assert_eq!(live.path_mtu(1, 1500, at(1840)), None, "the link itself");
    }

    #[test]
    fn an_endpoint_moves_once_in_ten_seconds() {
        let live = Live::default();
        live.reset(3, None, None);
        let here = Endpoint {
            address: [192, 0, 2, 1],
            port: 1000,
        };
        let there = Endpoint { port: 2000, ..here };
        assert!(live.adopt(3, here, false, at(5)));
        assert_eq!(live.endpoint(3), Some(here));
        assert!(!live.adopt(3, there, false, at(14)));
        assert_eq!(live.endpoint(3), Some(here));
        assert!(live.adopt(3, there, false, at(15)));
        assert_eq!(live.endpoint(3), Some(there));
        assert_eq!(live.endpoint(4), None, "another tunnel's");
    }

    #[test]
    fn a_new_owner_starts_anew() {
        let here = Endpoint {
            address: [192, 0, 2, 1],
            port: 1000,
        };
        let live = Live::default();
        live.reset(1, None, None);
        assert!(live.lower(1, 1000, 1500, at(1)));
        assert!(live.adopt(1, here, false, at(1)));
        live.reset(2, None, Some(1400));
        assert_eq!(live.path_mtu(1, 1500, at(2)), None);
        assert_eq!(live.path_mtu(2, 1500, at(2)), Some(1400));
        assert_eq!(live.endpoint(2), None);
        // a worker with the old snapshot teaches nothing, and takes no time from the new owner
        assert!(!live.lower(1, 900, 1500, at(2)) && !live.adopt(1, here, false, at(20)));
        assert_eq!(live.path_mtu(2, 1500, at(2)), Some(1400));
        assert!(live.adopt(2, here, false, at(20)));
        live.reset(3, live.endpoint(2), None);
        assert_eq!(live.endpoint(3), Some(here));
    }

    #[test]
    fn announcements_are_paced() {
        let live = Live::default();
        let heard = (0..10_000u64)
            .filter(|i| live.may_announce(Ticks(SECOND + i * SECOND / 1000)))
            .count();
        assert_eq!(heard, 10);
    }
}
