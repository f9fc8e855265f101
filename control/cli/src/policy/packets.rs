//! Packets to try: in hexadecimal on the command line, or in a file.

use std::io::{Cursor, Read};
use std::path::Path;

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use sixferry_client::PacketForm;

use super::test::Form;
use crate::error::CliError;

/// Larger files are no packets to try.
const MAX_FILE_LEN: u64 = 64 << 20;
/// More packets are a replay, not a test.
const MAX_PACKETS: usize = 10_000;
/// What the API takes.
const MAX_PACKET_LEN: usize = 2000;

/// A packet and how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) data: Vec<u8>,
    pub(super) form: PacketForm,
}

/// The packets of one argument: hexadecimal, the name of a file, or `-`.
pub(super) fn read(argument: &str, form: Option<Form>) -> Result<Vec<Packet>, CliError> {
    if let Some(bytes) = parse_hex(argument) {
        let packet = packet(bytes, form).map_err(CliError::Usage)?;
        return Ok(vec![packet]);
    }
    let problem = |e: String| CliError::Usage(format!("{argument}: {e}"));
    let bytes = read_file(argument).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => ": neither hexadecimal nor a file",
            _ => "",
        };
        problem(format!("{e}{hint}"))
    })?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(problem("larger than 64 MiB".to_owned()));
    }
    let packets = parse_file(&bytes, form).map_err(problem)?;
    if packets.len() > MAX_PACKETS {
        return Err(problem(format!("more than {MAX_PACKETS} packets")));
    }
    Ok(packets)
}

fn read_file(name: &str) -> std::io::Result<Vec<u8>> {
    let source: Box<dyn Read> = if name == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(Path::new(name))?)
    };
    let mut bytes = Vec::new();
    source.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes in hexadecimal, with spaces and colons anywhere between them.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits?;
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
}

fn packet(data: Vec<u8>, form: Option<Form>) -> Result<Packet, String> {
    if data.len() > MAX_PACKET_LEN {
        return Err(format!(
            "a packet of {} bytes: at most {MAX_PACKET_LEN}",
            data.len()
        ));
    }
    let form = form.map_or_else(|| guess(&data), PacketForm::from);
    Ok(Packet { data, form })
}

/// An IP header says how long the packet is; an Ethernet address does not happen to.
fn guess(data: &[u8]) -> PacketForm {
    let at = |i: usize| data.get(i).copied().map_or(0, usize::from);
    let is_ip = match at(0) >> 4 {
        4 => at(0) & 0xf >= 5 && (at(2) << 8 | at(3)) <= data.len() && data.len() >= 20,
        6 => (at(4) << 8 | at(5)) + 40 <= data.len(),
        _ => false,
    };
    // A frame of IP has its EtherType behind the two addresses.
    let is_frame = matches!(at(12) << 8 | at(13), 0x0800 | 0x86dd | 0x8100 | 0x88a8);
    if is_ip && !is_frame {
        PacketForm::Ip
    } else {
        PacketForm::Ethernet
    }
}

fn parse_file(bytes: &[u8], form: Option<Form>) -> Result<Vec<Packet>, String> {
    const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
    const PCAP: [[u8; 4]; 4] = [
        [0xa1, 0xb2, 0xc3, 0xd4],
        [0xd4, 0xc3, 0xb2, 0xa1],
        [0xa1, 0xb2, 0x3c, 0x4d],
        [0x4d, 0x3c, 0xb2, 0xa1],
    ];
    match bytes.first_chunk() {
        Some(magic) if PCAP.contains(magic) => parse_pcap(bytes),
        Some(&PCAPNG) => parse_pcapng(bytes),
        _ => parse_lines(bytes, form),
    }
}

fn form_of(link: DataLink) -> Result<Form, String> {
    match link {
        DataLink::ETHERNET => Ok(Form::Ethernet),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Ok(Form::Ip),
        other => Err(format!(
            "link type {other:?}: only Ethernet and raw IP can be tried"
        )),
    }
}

fn whole(captured: usize, original: u32) -> Result<(), String> {
    if u32::try_from(captured) == Ok(original) {
        return Ok(());
    }
    Err(format!(
        "only {captured} of {original} bytes were captured: capture whole packets"
    ))
}

fn parse_pcap(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let mut reader = PcapReader::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let form = form_of(reader.header().datalink)?;
    let mut packets = Vec::new();
    while let Some(record) = reader.next_packet() {
        let number = packets.len() + 1;
        let at = |e: String| format!("packet {number}: {e}");
        let record = record.map_err(|e| at(e.to_string()))?;
        whole(record.data.len(), record.orig_len).map_err(at)?;
        packets.push(packet(record.data.into_owned(), Some(form)).map_err(at)?);
        if number > MAX_PACKETS {
            break;
        }
    }
    Ok(packets)
}

fn parse_pcapng(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let mut reader = PcapNgReader::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut packets = Vec::new();
    loop {
        let number = packets.len() + 1;
        let at = |e: String| format!("packet {number}: {e}");
        let Some(block) = reader.next_block() else {
            return Ok(packets);
        };
        let Block::EnhancedPacket(block) = block.map_err(|e| at(e.to_string()))? else {
            continue;
        };
        let (data, original, interface) = (
            block.data.to_vec(),
            block.original_len,
            block.interface_id as usize,
        );
        let link = reader.interfaces().get(interface).map(|i| i.linktype);
        let link = link.ok_or_else(|| at("of an interface that is not described".to_owned()))?;
        whole(data.len(), original).map_err(at)?;
        packets.push(packet(data, Some(form_of(link)?)).map_err(at)?);
        if number > MAX_PACKETS {
            return Ok(packets);
        }
    }
}

/// One packet in hexadecimal per line; empty lines and those that begin with `#` are skipped.
fn parse_lines(bytes: &[u8], form: Option<Form>) -> Result<Vec<Packet>, String> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| "neither pcap, nor pcapng, nor text".to_owned())?;
    let mut packets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |e: String| format!("line {}: {e}", index + 1);
        let bytes = parse_hex(line).ok_or_else(|| at("not whole bytes in hexadecimal".into()))?;
        packets.push(packet(bytes, form).map_err(at)?);
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
    use proptest::prelude::*;

    use super::*;

    fn ipv6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 4, 17, 64];
        packet.resize(44, 0);
        packet
    }

    fn frame() -> Vec<u8> {
        let mut frame = vec![0x62; 12];
        frame.extend([0x86, 0xdd]);
        frame.extend(ipv6());
        frame
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn hexadecimal_tells_frames_from_packets() {
        let one = |text: &str| read(text, None).unwrap().remove(0);
        assert_eq!(one(&hex(&ipv6())).form, PacketForm::Ip);
        assert_eq!(one(&hex(&frame())).form, PacketForm::Ethernet);
        assert_eq!(one("45 00").form, PacketForm::Ethernet, "no whole header");
        let spaced = one("60:00 00:00\n0000 3b40");
        assert_eq!(spaced.data, [0x60, 0, 0, 0, 0, 0, 0x3b, 0x40]);
        let forced = read(&hex(&frame()), Some(Form::Ip)).unwrap();
        assert_eq!(forced[0].form, PacketForm::Ip);
    }

    #[test]
    fn what_is_no_packet_is_named() {
        let error = |argument: &str| read(argument, None).unwrap_err().to_string();
        assert!(error("60000").contains("neither hexadecimal nor a file"));
        assert!(error(&"00".repeat(2001)).contains("at most 2000"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.txt");
        std::fs::write(&path, "# a comment\n\n6000\nxyz\n").unwrap();
        let error = error(path.to_str().unwrap());
        assert!(error.contains("p.txt: line 4: not whole bytes"), "{error}");
    }

    #[test]
    fn captures_in_both_formats() {
        let header = |datalink| PcapHeader {
            datalink,
            ..PcapHeader::default()
        };
        let write = |datalink, data: &[u8], len: u32| {
            let mut writer = PcapWriter::with_header(Vec::new(), header(datalink)).unwrap();
            let packet = PcapPacket::new(std::time::Duration::ZERO, len, data);
            writer.write_packet(&packet).unwrap();
            writer.into_writer()
        };
        let frame = frame();
        let len = u32::try_from(frame.len()).unwrap();
        let packets = parse_file(&write(DataLink::ETHERNET, &frame, len), None).unwrap();
        assert_eq!(packets[0].data, frame);
        assert_eq!(packets[0].form, PacketForm::Ethernet);
        let packets = parse_file(&write(DataLink::RAW, &ipv6(), 44), None).unwrap();
        assert_eq!(packets[0].form, PacketForm::Ip);
        let error = parse_file(&write(DataLink::RAW, &ipv6(), 100), None).unwrap_err();
        assert_eq!(
            error,
            "packet 1: only 44 of 100 bytes were captured: capture whole packets"
        );
        let error = parse_file(&write(DataLink::IEEE802_11, &frame, len), None).unwrap_err();
        assert!(error.contains("only Ethernet and raw IP"), "{error}");

        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        writer
            .write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: Vec::new(),
            })
            .unwrap();
        writer
            .write_pcapng_block(EnhancedPacketBlock {
                interface_id: 0,
                timestamp: std::time::Duration::ZERO,
                original_len: len,
                data: frame.as_slice().into(),
                options: Vec::new(),
            })
            .unwrap();
        let packets = parse_file(&writer.into_inner(), None).unwrap();
        assert_eq!(packets[0].data, frame);
    }

    proptest! {
        #[test]
        fn any_bytes_in_hexadecimal_come_back(
            bytes in proptest::collection::vec(any::<u8>(), 1..200),
            gap in "[ :]{0,2}",
        ) {
            let text: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
            prop_assert_eq!(parse_hex(&text.join(&gap)), Some(bytes));
        }

        #[test]
        fn no_file_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_file(&bytes, None);
            for magic in [[0xd4, 0xc3, 0xb2, 0xa1], [0x0a, 0x0d, 0x0d, 0x0a]] {
                let _ = parse_file(&[&magic, bytes.as_slice()].concat(), None);
            }
        }
    }
}
