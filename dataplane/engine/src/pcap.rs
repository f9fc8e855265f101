//! A port over capture files: receives the packets of one, writes what is sent to another.
//!
//! Replay is exact: time comes from a [`ReplayClock`] that the driver sets, so the same files give
//! the same packets, counters and timestamps. Unlike other ports this one allocates and does file
//! I/O in `rx` and `tx`; it is no packet path.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, TsResolution};
use sixferry_fwd::Ticks;

use crate::frame::{BATCH_MAX, FRAME_LEN, Frame, FramePool, HEADROOM};
use crate::port::{Port, PortQueueStats, RxPacket};

/// First bytes of a pcapng file: the type of its section header block.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What the packets of a file begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// An IPv4 or IPv6 header.
    RawIp,
}

impl LinkLayer {
    fn of(link: DataLink) -> Option<Self> {
        match link {
            DataLink::ETHERNET => Some(Self::Ethernet),
            DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Some(Self::RawIp),
            _ => None,
        }
    }

    fn data_link(self) -> DataLink {
        match self {
            Self::Ethernet => DataLink::ETHERNET,
            Self::RawIp => DataLink::RAW,
        }
    }
}

/// Why a capture file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file could not be opened, read or written.
    #[error("capture file: {0}")]
    Io(#[from] std::io::Error),
    /// The file is no capture file, or is damaged.
    #[error("capture file: {0}")]
    Format(#[from] pcap_file::PcapError),
    /// The file's packets begin with something else than the port expects.
    #[error("capture file: packets of link type {found:?}, expected {expected:?}")]
    LinkType {
        /// What the file says.
        found: DataLink,
        /// What the port is.
        expected: LinkLayer,
    },
    /// A pcapng packet names an interface the file does not describe.
    #[error("capture file: packet of interface {0}, which the file does not describe")]
    NoSuchInterface(u32),
}

/// The time of a replay, shared by its ports: they receive what was captured up to it, and stamp
/// with it what they send.
#[derive(Clone, Debug, Default)]
pub struct ReplayClock(Arc<AtomicU64>);

impl ReplayClock {
    /// Sets the time, as an offset from the epoch of the capture's timestamps.
    pub fn set(&self, time: Ticks) {
        self.0.store(time.0, Ordering::Relaxed);
    }

    /// The time.
    pub fn now(&self) -> Ticks {
        Ticks(self.0.load(Ordering::Relaxed))
    }
}

struct Captured {
    time: Ticks,
    bytes: Vec<u8>,
}

type Input = BufReader<Box<dyn Read + Send>>;

enum Source {
    Pcap(PcapReader<Input>),
    PcapNg(PcapNgReader<Input>),
    Ended,
}

/// A port over capture files.
pub struct PcapPort {
    link: LinkLayer,
    clock: ReplayClock,
    source: Source,
    next: Option<Captured>,
    sink: Option<PcapWriter<Box<dyn Write + Send>>>,
    batch: usize,
    error: Option<ReplayError>,
    stats: PortQueueStats,
}

impl std::fmt::Debug for PcapPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcapPort")
            .field("link", &self.link)
            .field("stats", &self.stats)
            .finish()
    }
}

impl PcapPort {
    /// A port that receives nothing and discards what is sent, until given files.
    pub fn new(link: LinkLayer, clock: ReplayClock) -> Self {
        Self {
            link,
            clock,
            source: Source::Ended,
            next: None,
            sink: None,
            batch: BATCH_MAX,
            error: None,
            stats: PortQueueStats::default(),
        }
    }

    /// Receives the packets of a pcap or pcapng stream.
    ///
    /// # Errors
    /// When it is neither, has another link type, or its first packet cannot be read.
    pub fn read_from(mut self, input: Box<dyn Read + Send>) -> Result<Self, ReplayError> {
        let mut input = BufReader::new(input);
        self.source = if input.fill_buf()?.starts_with(&PCAPNG_MAGIC) {
            Source::PcapNg(PcapNgReader::new(input)?)
        } else {
            let reader = PcapReader::new(input)?;
            check_link(reader.header().datalink, self.link)?;
            Source::Pcap(reader)
        };
        self.next = self.read_packet()?;
        Ok(self)
    }

    /// [`PcapPort::read_from`] a file.
    ///
    /// # Errors
    /// The same, and when the file cannot be opened.
    pub fn read_file(self, path: &Path) -> Result<Self, ReplayError> {
        self.read_from(Box::new(File::open(path)?))
    }

    /// Writes what is sent as pcap, with nanosecond timestamps.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn write_to(mut self, output: Box<dyn Write + Send>) -> Result<Self, ReplayError> {
        let header = PcapHeader {
            datalink: self.link.data_link(),
            ts_resolution: TsResolution::NanoSecond,
            endianness: pcap_file::Endianness::Little,
            ..PcapHeader::default()
        };
        self.sink = Some(PcapWriter::with_header(output, header)?);
        Ok(self)
    }

    /// [`PcapPort::write_to`] a file, which is replaced.
    ///
    /// # Errors
    /// The same, and when the file cannot be made.
    pub fn write_file(self, path: &Path) -> Result<Self, ReplayError> {
        self.write_to(Box::new(BufWriter::new(File::create(path)?)))
    }

    /// Receives at most `packets` (1 to [`BATCH_MAX`]) per turn.
    #[must_use]
    pub fn batches_of(mut self, packets: usize) -> Self {
        self.batch = packets.clamp(1, BATCH_MAX);
        self
    }

    /// When the next packet was captured; `None` at the end of the file. The driver sets the clock
    /// to the least of its ports' times, or somewhat later to get larger batches.
    pub fn next_time(&self) -> Option<Ticks> {
        self.next.as_ref().map(|captured| captured.time)
    }

    /// Ends the replay: writes out what is buffered and reports the first failure of `rx` or `tx`,
    /// which cannot return one.
    ///
    /// # Errors
    /// That failure, or one of writing.
    pub fn finish(mut self) -> Result<PortQueueStats, ReplayError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if let Some(sink) = self.sink.take() {
            sink.into_writer().flush()?;
        }
        Ok(self.stats)
    }

    fn read_packet(&mut self) -> Result<Option<Captured>, ReplayError> {
        match &mut self.source {
            Source::Ended => Ok(None),
            Source::Pcap(reader) => read_pcap(reader),
            Source::PcapNg(reader) => read_pcapng(reader, self.link),
        }
    }

    fn advance(&mut self) {
        self.next = self.read_packet().unwrap_or_else(|error| {
            self.source = Source::Ended;
            self.error.get_or_insert(error);
            None
        });
    }
}

fn check_link(found: DataLink, expected: LinkLayer) -> Result<(), ReplayError> {
    if LinkLayer::of(found) == Some(expected) {
        Ok(())
    } else {
        Err(ReplayError::LinkType { found, expected })
    }
}

fn read_pcap(reader: &mut PcapReader<Input>) -> Result<Option<Captured>, ReplayError> {
    let unit = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    // Raw, because files whose original lengths exceed the snap length are common and harmless.
    let Some(packet) = reader.next_raw_packet() else {
        return Ok(None);
    };
    let packet = packet?;
    let time = u64::from(packet.ts_sec) * Ticks::PER_SECOND + u64::from(packet.ts_frac) * unit;
    Ok(Some(Captured {
        time: Ticks(time),
        bytes: packet.data.into_owned(),
    }))
}

fn read_pcapng(
    reader: &mut PcapNgReader<Input>,
    expected: LinkLayer,
) -> Result<Option<Captured>, ReplayError> {
    loop {
        let Some(block) = reader.next_block() else {
            return Ok(None);
        };
        let (interface, stamp, bytes) = match block? {
            Block::EnhancedPacket(packet) => {
                // The reader takes every timestamp for nanoseconds; the unit is the interface's.
                let stamp = u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX);
                (packet.interface_id, stamp, packet.data.into_owned())
            }
            Block::SimplePacket(packet) => {
                let len = packet.data.len().min(packet.original_len as usize);
                (0, 0, packet.data[..len].to_vec())
            }
            _ => continue,
        };
        let described = reader
            .interfaces()
            .get(interface as usize)
            .ok_or(ReplayError::NoSuchInterface(interface))?;
        check_link(described.linktype, expected)?;
        let resolution = described.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        return Ok(Some(Captured {
            time: nanoseconds(stamp, resolution.unwrap_or(6)),
            bytes,
        }));
    }
}

/// Converts a timestamp by the interface's `if_tsresol`: a power of ten, or of two with the high bit
/// set.
fn nanoseconds(stamp: u64, resolution: u8) -> Ticks {
    let exponent = u32::from(resolution & 0x7f);
    let base = if resolution & 0x80 == 0 { 10_u128 } else { 2 };
    let per_second = base.checked_pow(exponent).unwrap_or(u128::MAX);
    let time = u128::from(stamp) * u128::from(Ticks::PER_SECOND) / per_second;
    Ticks(u64::try_from(time).unwrap_or(u64::MAX))
}

impl Port for PcapPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut ArrayVec<RxPacket, BATCH_MAX>) {
        let now = self.clock.now();
        let mut room = self.batch.min(out.remaining_capacity());
        while room > 0 && self.next_time().is_some_and(|time| time <= now) {
            let Some(captured) = &self.next else { return };
            let len = captured.bytes.len();
            if len > FRAME_LEN - HEADROOM {
                self.stats.rx_dropped += 1;
                self.advance();
                continue;
            }
            let Some(mut frame) = pool.pop() else {
                self.stats.rx_fill_empty += 1;
                return;
            };
            frame.bytes_mut()[HEADROOM..HEADROOM + len].copy_from_slice(&captured.bytes);
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += len as u64;
            out.push(RxPacket {
                frame,
                head: HEADROOM as u16,
                len: len as u16,
            });
            room -= 1;
            self.advance();
        }
    }

    fn tx(&mut self, frame: Frame, head: u16, len: u16, pool: &mut FramePool) -> Result<(), Frame> {
        let start = usize::from(head);
        let time = Duration::from_nanos(self.clock.now().0);
        let Some(bytes) = frame.bytes().get(start..start + usize::from(len)) else {
            self.stats.tx_errors += 1;
            return Err(frame);
        };
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.write_packet(&PcapPacket::new(time, u32::from(len), bytes))
        {
            self.stats.tx_errors += 1;
            self.error.get_or_insert(error.into());
        }
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += u64::from(len);
        pool.push(frame);
        Ok(())
    }

    fn flush(&mut self, _pool: &mut FramePool) {}

    fn held(&self) -> usize {
        0
    }

    fn stats(&self) -> PortQueueStats {
        self.stats
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self, _pool: &mut FramePool) {
        self.source = Source::Ended;
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::io::Cursor;

    use parking_lot::Mutex;
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;

    use super::*;

    /// A file in memory whose contents survive the port.
    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn port() -> PcapPort {
        PcapPort::new(LinkLayer::Ethernet, ReplayClock::default())
    }

    /// Sends packets into a pcap file, each at its time.
    fn pcap_file(packets: &[(u64, &[u8])]) -> Vec<u8> {
        let output = Output::default();
        let mut port = port().write_to(Box::new(output.clone())).unwrap();
        let mut pool = FramePool::heap(1);
        for (time, bytes) in packets {
            port.clock.set(Ticks(*time));
            let mut frame = pool.pop().unwrap();
            frame.bytes_mut()[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            port.tx(frame, HEADROOM as u16, bytes.len() as u16, &mut pool)
                .unwrap();
        }
        assert_eq!(port.finish().unwrap().tx_packets, packets.len() as u64);
        output.0.lock().clone()
    }

    fn receive(port: &mut PcapPort, now: u64) -> Vec<Vec<u8>> {
        let mut pool = FramePool::heap(BATCH_MAX);
        let mut out = ArrayVec::new();
        port.clock.set(Ticks(now));
        port.rx(&mut pool, &mut out);
        out.drain(..)
            .map(|RxPacket { frame, head, len }| {
                let start = usize::from(head);
                let bytes = frame.bytes()[start..start + usize::from(len)].to_vec();
                pool.push(frame);
                bytes
            })
            .collect()
    }

    #[test]
    fn what_is_written_can_be_read_in_time() {
        let file = pcap_file(&[
            (1_000_000_005, b"one"),
            (1_000_000_005, b"two"),
            (9, b"three"),
        ]);
        let mut port = port().read_from(Box::new(Cursor::new(file))).unwrap();
        assert_eq!(port.next_time(), Some(Ticks(1_000_000_005)));
        assert!(receive(&mut port, 1_000_000_004).is_empty());
        // a time that steps back in the file does not hold the replay up
        assert_eq!(
            receive(&mut port, 1_000_000_005),
            [&b"one"[..], b"two", b"three"]
        );
        assert_eq!(port.next_time(), None);
        assert_eq!(port.finish().unwrap().rx_packets, 3);
    }

    #[test]
    fn batches_are_as_small_as_asked() {
        let file = pcap_file(&[(1, b"one"), (2, b"two"), (3, b"three")]);
        let mut port = port()
            .read_from(Box::new(Cursor::new(file)))
            .unwrap()
            .batches_of(2);
        assert_eq!(receive(&mut port, 10).len(), 2);
        assert_eq!(receive(&mut port, 10).len(), 1);
    }

    #[test]
    fn pcapng_timestamps_follow_the_interface() {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        for options in [vec![], vec![InterfaceDescriptionOption::IfTsResol(9)]] {
            let linktype = DataLink::ETHERNET;
            let block = InterfaceDescriptionBlock {
                linktype,
                snaplen: 0,
                options,
            };
            writer.write_pcapng_block(block).unwrap();
        }
        for (interface_id, stamp) in [(0, 3_000_001), (1, 4_000_000_007)] {
            let block = EnhancedPacketBlock {
                interface_id,
                timestamp: Duration::from_nanos(stamp),
                original_len: 3,
                data: Cow::Borrowed(b"abc"),
                options: vec![],
            };
            writer.write_pcapng_block(block).unwrap();
        }
        let file = writer.into_inner();
        let mut port = port().read_from(Box::new(Cursor::new(file))).unwrap();
        assert_eq!(port.next_time(), Some(Ticks(3_000_001_000)));
        assert_eq!(receive(&mut port, 3_000_001_000), [b"abc"]);
        assert_eq!(port.next_time(), Some(Ticks(4_000_000_007)));
        assert_eq!(nanoseconds(3 << 20, 0x80 | 20), Ticks(3_000_000_000));
        assert_eq!(nanoseconds(u64::MAX, 127), Ticks(0));
    }

    #[test]
    fn a_file_of_another_link_type_is_refused() {
        let file = pcap_file(&[(1, b"one")]);
        let port = PcapPort::new(LinkLayer::RawIp, ReplayClock::default());
        let error = port.read_from(Box::new(Cursor::new(file))).unwrap_err();
        assert!(matches!(error, ReplayError::LinkType { .. }), "{error}");
    }

    #[test]
    fn damage_ends_the_file_and_is_reported() {
        let mut file = pcap_file(&[(1, b"one"), (2, b"two")]);
        file.truncate(file.len() - 1);
        let mut port = port().read_from(Box::new(Cursor::new(file))).unwrap();
        assert_eq!(receive(&mut port, 10), [b"one"]);
        assert!(matches!(port.finish(), Err(ReplayError::Format(_))));
    }

    #[test]
    fn a_packet_longer_than_a_frame_is_counted() {
        let long = vec![0; FRAME_LEN - HEADROOM];
        let mut file = pcap_file(&[(1, &long), (2, b"two")]);
        // one byte longer: captured and original length, and the byte itself
        for at in [24 + 8, 24 + 12] {
            file[at..at + 4].copy_from_slice(&(long.len() as u32 + 1).to_le_bytes());
        }
        file.insert(24 + 16, 0);
        let mut port = port().read_from(Box::new(Cursor::new(file))).unwrap();
        assert_eq!(receive(&mut port, 10), [b"two"]);
        assert_eq!(port.stats().rx_dropped, 1);
    }
}
