//! The replay tool against files under `golden/`: inputs, configuration and expected outputs.
//!
//! `SIXFERRY_BLESS=1` writes what the tool gives now; read the difference before committing it.

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use sixferry_bench::population::{INSIDE, OUTSIDE};
use sixferry_bench::relay::TUN;
use sixferry_bench::seeds::{HOST, ethernet, seeds, udp, user};
use sixferry_wire::ether;
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const PORTS: [&str; 3] = ["outside", "inside", "host"];
/// Seconds since 1970 of the first packet.
const START: u64 = 1_800_000_000;

type Packets = Vec<(Duration, Vec<u8>)>;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn blessing() -> bool {
    std::env::var_os("SIXFERRY_BLESS").is_some()
}

/// What each port receives: all seeds, a millisecond apart, and some of this relay's own cases.
fn inputs() -> [Packets; 3] {
    let mut inputs: [Packets; 3] = Default::default();
    let own = [
        (
            INSIDE,
            ethernet(
                ether::TYPE_IPV6,
                &udp(HOST, 0x2001_0db8_0088 << 80 | 1, 9, 20),
            ),
        ),
        (
            INSIDE,
            ethernet(
                ether::TYPE_IPV6,
                &udp(HOST, 0x2001_0db8_0099 << 80 | 1, 9, 20),
            ),
        ),
        (TUN, udp(0x2001_0db8_0088 << 80 | 1, user(1, 5), 33, 1440)),
        (TUN, udp(0x2001_0db8_0088 << 80 | 1, user(1, 5), 33, 1441)),
    ];
    let packets = seeds()
        .into_iter()
        .map(|seed| (seed.packet.port, seed.packet.bytes));
    for (number, (port, bytes)) in packets.chain(own).enumerate() {
        assert!(port == OUTSIDE || port == INSIDE || port == TUN);
        let time = Duration::from_millis(START * 1000 + number as u64);
        inputs[port.index()].push((time, bytes));
    }
    inputs
}

fn link(port: usize) -> DataLink {
    if port == TUN.index() {
        DataLink::RAW
    } else {
        DataLink::ETHERNET
    }
}

fn pcap(packets: &Packets, link: DataLink) -> Vec<u8> {
    let header = PcapHeader {
        datalink: link,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a header");
    for (time, bytes) in packets {
        let packet = PcapPacket::new(*time, bytes.len() as u32, bytes);
        writer.write_packet(&packet).expect("a packet");
    }
    writer.into_writer()
}

fn pcapng(packets: &Packets, link: DataLink) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).expect("a section");
    let interface = InterfaceDescriptionBlock {
        linktype: link,
        snaplen: 0,
        options: vec![],
    };
    writer.write_pcapng_block(interface).expect("an interface");
    for (time, bytes) in packets {
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            // the block's unit is the interface's: microseconds
            timestamp: Duration::from_nanos(time.as_micros() as u64),
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
            options: vec![],
        };
        writer.write_pcapng_block(packet).expect("a packet");
    }
    writer.into_inner()
}

fn read(path: &Path) -> Packets {
    let bytes = fs::read(path).expect("a capture file");
    let mut reader = PcapReader::new(bytes.as_slice()).expect("a capture header");
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.expect("a packet");
        packets.push((packet.timestamp, packet.data.into_owned()));
    }
    packets
}

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sixferry-replay"))
}

fn run(inputs: &Path, outputs: &Path, more: &[&str]) -> Output {
    let mut command = tool();
    command
        .arg("--config")
        .arg(golden("relay.toml"))
        .arg("--json")
        .args(more);
    for port in PORTS {
        let file =
            |directory: &Path, name: String| format!("{port}={}", directory.join(name).display());
        command.args(["--in", &file(inputs, format!("{port}.in.pcap"))]);
        command.args(["--out", &file(outputs, format!("{port}.out.pcap"))]);
    }
    let output = command.output().expect("the tool starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output
}

#[test]
fn the_golden_replay_gives_the_golden_files() {
    for (port, packets) in inputs().iter().enumerate() {
        let path = golden(&format!("{}.in.pcap", PORTS[port]));
        let bytes = pcap(packets, link(port));
        if blessing() {
            fs::write(&path, &bytes).expect("written");
        }
        assert!(
            fs::read(&path).expect("an input") == bytes,
            "{}",
            path.display()
        );
    }
    let directory = tempfile::tempdir().expect("a directory");
    let output = run(&golden(""), directory.path(), &[]);
    if blessing() {
        fs::write(golden("report.json"), &output.stdout).expect("written");
        for port in PORTS {
            let name = format!("{port}.out.pcap");
            fs::copy(directory.path().join(&name), golden(&name)).expect("written");
        }
    }
    let report = fs::read_to_string(golden("report.json")).expect("a report");
    assert_eq!(String::from_utf8_lossy(&output.stdout), report);
    for port in PORTS {
        let name = format!("{port}.out.pcap");
        let now = fs::read(directory.path().join(&name)).expect("an output");
        assert!(
            now == fs::read(golden(&name)).expect("a golden file"),
            "{name} differs"
        );
    }
}

/// Not what the files say but what they must say: the counters balance, forwarded packets are there
/// with their times, and a packet's inside is what went in.
#[test]
fn the_golden_files_make_sense() {
    let report = fs::read_to_string(golden("report.json")).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let count = |path: &str| report.pointer(path).and_then(|v| v.as_u64()).unwrap_or(0);
    let drops = report["drops"].as_object().expect("drops");
    let dropped: u64 = drops.values().filter_map(|v| v["packets"].as_u64()).sum();
    let left = count("/forwarded/packets") + count("/answered/packets");
    let received: usize = inputs().iter().map(Vec::len).sum();
    assert_eq!(count("/received/packets"), received as u64);
    assert_eq!(received as u64, left + count("/punted/packets") + dropped);
    assert_eq!(count("/punts/dhcpv6"), 1);
    assert_eq!(count("/punts/next_hop_unresolved"), 1);
    let sent: usize = PORTS
        .iter()
        .map(|port| read(&golden(&format!("{port}.out.pcap"))).len())
        .sum();
    assert_eq!(sent as u64, left);

    // the first seed: out of alice's tunnel to a host on the tagged network
    let (time, frame) = read(&golden("inside.out.pcap")).remove(0);
    assert_eq!(time, Duration::from_secs(START));
    let header = ether::parse(&frame).expect("a frame");
    assert_eq!(
        (header.vlan, header.ether_type),
        (Some(100), ether::TYPE_IPV6)
    );
    assert_eq!(frame[header.len..], udp(user(0, 5), HOST, 63, 40));

    // bob's MTU is 1480: 40 + 1440 passes, with DF and the inner hop limit, one more byte does not
    let outside = read(&golden("outside.out.pcap"));
    let (_, frame) = outside
        .iter()
        .find(|(_, frame)| frame.len() == 14 + 1500)
        .expect("a full packet");
    assert_eq!((frame[14 + 6], frame[14 + 8]), (0x40, 32));
    let host = read(&golden("host.out.pcap"));
    let too_big = host.last().expect("an answer");
    assert_eq!(
        (too_big.1[40], &too_big.1[44..48]),
        (2, &[0, 0, 5, 200][..])
    );
}

#[test]
fn pcapng_gives_the_same_as_pcap() {
    let directory = tempfile::tempdir().expect("a directory");
    for (port, packets) in inputs().iter().enumerate() {
        let path = directory.path().join(format!("{}.in.pcap", PORTS[port]));
        fs::write(path, pcapng(packets, link(port))).expect("written");
    }
    let output = run(directory.path(), directory.path(), &[]);
    let report = fs::read(golden("report.json")).expect("a report");
    assert_eq!(output.stdout, report);
    for port in PORTS {
        let name = format!("{port}.out.pcap");
        let now = fs::read(directory.path().join(&name)).expect("an output");
        assert!(
            now == fs::read(golden(&name)).expect("a golden file"),
            "{name} differs"
        );
    }
}

#[test]
fn a_fixed_step_replaces_the_captures_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = run(&golden(""), directory.path(), &["--step", "1000"]);
    let report = fs::read(golden("report.json")).expect("a report");
    assert_eq!(output.stdout, report, "time matters for rate limits only");
    let received: usize = inputs().iter().map(Vec::len).sum();
    for port in PORTS {
        for (time, _) in read(&directory.path().join(format!("{port}.out.pcap"))) {
            let step = time.as_nanos();
            assert!(
                step % 1000 == 0 && step < received as u128 * 1000,
                "{time:?}"
            );
        }
    }
}

#[test]
fn mistakes_are_one_line_and_exit_2() {
    let config = golden("relay.toml");
    let file = |port: &str| format!("{port}={}", golden("host.in.pcap").display());
    for (args, says) in [
        (
            vec!["--in".to_owned(), file("nowhere")],
            "there is no port nowhere",
        ),
        (vec!["--in".to_owned(), file("inside")], "link type"),
        (
            vec![
                "--in".to_owned(),
                file("host"),
                "--in".to_owned(),
                file("host"),
            ],
            "two files",
        ),
        (
            vec!["--in".to_owned(), "host=/nonexistent".to_owned()],
            "port host",
        ),
    ] {
        let output = tool()
            .arg("--config")
            .arg(&config)
            .args(args)
            .output()
            .expect("starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.contains(says) && text.trim_end().lines().count() == 1,
            "{text}"
        );
    }
}
