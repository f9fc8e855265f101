//! `sixferry policy test-packet`.

use clap::{Args, ValueEnum};
use serde::Serialize;
use sixferry_client::{PacketForm, TestPacket, TestResult, TestVerdict};

use super::packets;
use crate::args::Global;
use crate::error::CliError;
use crate::output::{self, Column, Table};

#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Packets in hexadecimal (spaces and colons are ignored), or files: pcap, pcapng, or one
    /// packet in hexadecimal per line; - reads standard input.
    #[arg(required = true, value_name = "HEX|FILE")]
    packets: Vec<String>,
    /// The port they arrive at. [default: the first]
    #[arg(long, value_name = "NAME", add = crate::completion::ports())]
    port: Option<String>,
    /// How packets in hexadecimal begin. [default: what they look like]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Packets without an Ethernet header: the VLAN they arrive in.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Also the steps, and the packet that would be sent.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// With an Ethernet header.
    Ethernet,
    /// With an IPv4 or IPv6 header.
    Ip,
}

impl From<Form> for PacketForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Ethernet => Self::Ethernet,
            Form::Ip => Self::Ip,
        }
    }
}

/// What would happen to one packet, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// Position in the input, from 1.
    packet: usize,
    len: usize,
    verdict: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason_text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    egress_port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain_id: Option<String>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    packet_out: String,
    steps: Vec<String>,
}

/// The answer of the command.
#[derive(Serialize)]
struct Results {
    results: Vec<Row>,
}

impl Row {
    fn new(index: usize, packet: &TestPacket, result: TestResult) -> Self {
        Self {
            packet: index + 1,
            len: packet.data.len(),
            verdict: match result.verdict {
                TestVerdict::Unspecified => "unknown",
                TestVerdict::Forward => "forward",
                TestVerdict::Answer => "answer",
                TestVerdict::Punt => "punt",
                TestVerdict::Drop => "drop",
            },
            reason: result.reason,
            reason_text: result.reason_text,
            egress_port: result.egress_port,
            tunnel_id: result.tunnel_id,
            domain_id: result.domain_id,
            packet_out: hex(&result.packet_out),
            steps: result.steps,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) async fn run(global: &Global, args: &TestArgs) -> Result<(), CliError> {
    let mut tried: Vec<TestPacket> = Vec::new();
    for text in &args.packets {
        for packet in packets::read(text, args.form)? {
            tried.push(TestPacket {
                // The tag of a frame is in the frame.
                vlan_id: args.vlan.filter(|_| packet.form == PacketForm::Ip),
                data: packet.data,
                form: packet.form,
                port: args.port.clone(),
            });
        }
    }
    if tried.is_empty() {
        return Err(CliError::Usage("there is no packet to try".to_owned()));
    }
    let client = global.connect().await?;
    let results = client.test_packets(&tried).await?;
    let rows = tried.iter().zip(results).enumerate();
    let results: Vec<Row> = rows.map(|(i, (p, r))| Row::new(i, p, r)).collect();
    if global.json {
        return output::json(&Results { results });
    }
    output::line(&text(&results, args.verbose))
}

fn text(rows: &[Row], verbose: bool) -> String {
    if verbose {
        let blocks: Vec<String> = rows.iter().map(block).collect();
        return blocks.join("\n");
    }
    let mut table = Table::new(&[
        Column::Right("PACKET"),
        Column::Right("BYTES"),
        Column::Left("VERDICT"),
        Column::Left("TUNNEL"),
        Column::Left("WHY OR WHERE"),
    ]);
    for row in rows {
        let dash = || "-".to_owned();
        let owner = row.tunnel_id.clone().or_else(|| row.domain_id.clone());
        table.row([
            row.packet.to_string(),
            row.len.to_string(),
            row.verdict.to_owned(),
            owner.unwrap_or_else(dash),
            outcome(row),
        ]);
    }
    table.render()
}

/// The reason of a drop or a punt, the port of what is sent.
fn outcome(row: &Row) -> String {
    let out = match (row.reason.as_str(), row.egress_port.as_str()) {
        ("", "") => "-".to_owned(),
        ("", port) => format!("out of {port}, {} bytes", row.packet_out.len() / 2),
        (reason, _) => reason.to_owned(),
    };
    if row.reason_text.is_empty() {
        out
    } else {
        format!("{out}: {}", row.reason_text)
    }
}

fn block(row: &Row) -> String {
    let mut text = format!("packet {}: {} {}\n", row.packet, row.verdict, outcome(row));
    for step in &row.steps {
        text.push_str(&format!("  {step}\n"));
    }
    if !row.packet_out.is_empty() {
        text.push_str(&format!("  {}\n", row.packet_out));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let packet = |len| TestPacket {
            data: vec![0; len],
            form: PacketForm::Ip,
            port: None,
            vlan_id: None,
        };
        let none = TestResult {
            verdict: TestVerdict::Drop,
            reason: "NO_TUNNEL".into(),
            reason_text: "no tunnel has these outer addresses".into(),
            egress_port: String::new(),
            packet_out: Vec::new(),
            steps: vec!["from 192.0.2.9".into()],
            tunnel_id: None,
            domain_id: None,
        };
        let sent = TestResult {
            verdict: TestVerdict::Forward,
            reason: String::new(),
            reason_text: String::new(),
            egress_port: "eth1".into(),
            packet_out: vec![0x60; 54],
            steps: vec!["from 192.0.2.10: tunnel alice".into(), "to eth1".into()],
            tunnel_id: Some("alice".into()),
            domain_id: None,
        };
        vec![
            Row::new(0, &packet(60), none),
            Row::new(1, &packet(80), sent),
        ]
    }

    #[test]
    fn one_line_per_packet() {
        assert_eq!(
            text(&rows(), false),
            "\
PACKET  BYTES  VERDICT  TUNNEL  WHY OR WHERE
     1     60  drop     -       NO_TUNNEL: no tunnel has these outer addresses
     2     80  forward  alice   out of eth1, 54 bytes
"
        );
    }

    #[test]
    fn steps_when_asked_for() {
        let text = text(&rows(), true);
        assert!(
            text.starts_with(
                "packet 1: drop NO_TUNNEL: no tunnel has these outer addresses\n  \
                 from 192.0.2.9\n\npacket 2: forward out of eth1, 54 bytes\n  \
                 from 192.0.2.10: tunnel alice\n  to eth1\n  606060"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_shape_of_a_result_is_stable() {
        assert_eq!(
            serde_json::to_string(&rows()[0]).unwrap(),
            r#"{"packet":1,"len":60,"verdict":"drop","reason":"NO_TUNNEL","#.to_owned()
                + r#""reasonText":"no tunnel has these outer addresses","#
                + r#""steps":["from 192.0.2.9"]}"#
        );
    }
}
