//! TestPacket: a packet through the forwarding core, with the tables in force and nothing else of
//! the dataplane.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sixferry_engine::monotonic;
use sixferry_fwd::{
    Batch, FRAME_LEN, HEADROOM, IpId, Local, LocalConfig, Packet, PortConfig, PortId, PortKind,
    PuntInfo, Route, RouteView, Tables, TunnelId, Verdict, WorkerCounters, process,
};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_wire::ether;

use super::Api;
use crate::control::Control;
use crate::control::error::Error;
use crate::control::routes::Shown;

/// Packets in one call.
const MAX_PACKETS: usize = 64;
/// Bytes of one packet: its frame less the headroom, less what grows behind.
const MAX_LEN: usize = 1792;
/// A sender on the link, locally administered: it never leaves this function.
const SENDER: ether::Mac = [2, 0, 0, 0, 0, 1];

/// A packet as it will be received.
struct Arrival {
    port: PortId,
    /// With the link header the port has.
    frame: Vec<u8>,
    /// Where the IP header begins.
    l3: usize,
}

/// What the core said.
struct Outcome {
    verdict: Verdict,
    info: PuntInfo,
    bytes: Vec<u8>,
}

pub(super) fn run(
    api: &Api,
    inputs: Vec<pb::TestPacketInput>,
) -> Result<Vec<pb::TestPacketResult>, Error> {
    if inputs.len() > MAX_PACKETS {
        return Err(Error::TooManyEntries {
            field: "packets",
            given: inputs.len(),
            most: MAX_PACKETS,
        });
    }
    let (tables, arrivals) = api.shared.with(|control| {
        let read = |(i, input)| {
            arrival(control, input).map_err(|error| error.below(&format!("packets[{i}].")))
        };
        let arrivals = inputs.into_iter().enumerate().map(read);
        let arrivals: Vec<_> = arrivals.collect::<Result<_, Error>>()?;
        Ok::<_, Error>((control.snapshot(), arrivals))
    })?;
    let mut local = Local::new(LocalConfig {
        worker: 0,
        workers: 1,
        seed: 0,
        ip_id: IpId::Counter,
        shared: Arc::new(WorkerCounters::new()),
        dry_run: true,
    });
    let outcomes: Vec<_> = arrivals
        .iter()
        .map(|arrival| try_one(arrival, &tables, &mut local))
        .collect();
    Ok(api.shared.with(|control| {
        let told = arrivals.iter().zip(outcomes);
        told.map(|(arrival, outcome)| tell(control, arrival, outcome))
            .collect()
    }))
}

fn arrival(control: &Control, input: pb::TestPacketInput) -> Result<Arrival, Error> {
    let len = input.data.len();
    if len == 0 || len > MAX_LEN {
        return Err(Error::field(
            "data",
            format!("{len} bytes; 1 to {MAX_LEN} can be tried"),
        ));
    }
    let (port, config) = control
        .known_port(&input.port)
        .ok_or(Error::PortNotFound(input.port))?;
    let vlan = u16::try_from(input.vlan_id)
        .ok()
        .filter(|vlan| *vlan <= 4094)
        .ok_or_else(|| Error::field("vlan_id", "outside 1..4094"))?;
    let form = pb::PacketForm::try_from(input.form).unwrap_or_default();
    let (frame, l3) = framed(input.data, form, vlan, &config)?;
    Ok(Arrival { port, frame, l3 })
}

/// The bytes with the link header of the port, and where the IP header begins.
fn framed(
    data: Vec<u8>,
    form: pb::PacketForm,
    vlan: u16,
    port: &PortConfig,
) -> Result<(Vec<u8>, usize), Error> {
    match (form, port.kind) {
        (pb::PacketForm::Unspecified, _) => {
            Err(Error::field("form", "missing: give ETHERNET or IP"))
        }
        (pb::PacketForm::Ethernet, PortKind::RawIp) => Err(Error::field(
            "form",
            "the port has no Ethernet headers: give IP",
        )),
        (pb::PacketForm::Ethernet, PortKind::Ethernet { .. }) => {
            let l3 = ether::parse(&data).map_or(data.len(), |header| header.len);
            Ok((data, l3))
        }
        (pb::PacketForm::Ip, PortKind::RawIp) => Ok((data, 0)),
        (pb::PacketForm::Ip, PortKind::Ethernet { mac }) => {
            let ether_type = match data.first().map(|byte| byte >> 4) {
                Some(4) => ether::TYPE_IPV4,
                Some(6) => ether::TYPE_IPV6,
                _ => return Err(Error::field("data", "begins with neither IPv4 nor IPv6")),
            };
            let mut frame = Vec::with_capacity(data.len() + ether::HEADER_LEN + ether::TAG_LEN);
            frame.extend_from_slice(&mac);
            frame.extend_from_slice(&SENDER);
            if vlan != 0 {
                frame.extend_from_slice(&ether::TYPE_8021Q.to_be_bytes());
                frame.extend_from_slice(&vlan.to_be_bytes());
            }
            frame.extend_from_slice(&ether_type.to_be_bytes());
            let l3 = frame.len();
            frame.extend_from_slice(&data);
            Ok((frame, l3))
        }
    }
}

fn try_one(arrival: &Arrival, tables: &Tables, local: &mut Local) -> Option<Outcome> {
    let mut frame = [0; FRAME_LEN];
    let len = arrival.frame.len();
    frame
        .get_mut(HEADROOM..HEADROOM + len)?
        .copy_from_slice(&arrival.frame);
    let packet = Packet::new(&mut frame, HEADROOM, len, arrival.port)?;
    let mut batch = Batch::new();
    batch.push(packet).ok()?;
    process(&mut batch, tables, local, monotonic());
    // Nobody hears of what a dry run notices.
    local.take_events(drop);
    Some(Outcome {
        verdict: *batch.verdicts().first()?,
        info: batch.punt_info(0),
        bytes: batch.packets().first()?.bytes().to_vec(),
    })
}

fn tell(control: &Control, arrival: &Arrival, outcome: Option<Outcome>) -> pb::TestPacketResult {
    let mut story = Story::default();
    story.packet(control, arrival.frame.get(arrival.l3..).unwrap_or(&[]));
    let mut result = pb::TestPacketResult::default();
    // Length and port were checked: there is an outcome.
    let Some(outcome) = outcome else {
        return result;
    };
    let port = |id| control.port_name(id).unwrap_or_default().to_owned();
    match outcome.verdict {
        Verdict::Tx(id) => {
            result.verdict = pb::TestVerdict::Forward.into();
            result.egress_port = port(id);
            result.packet_out = outcome.bytes;
        }
        Verdict::Answer(id) => {
            result.verdict = pb::TestVerdict::Answer.into();
            result.egress_port = port(id);
            result.packet_out = outcome.bytes;
        }
        Verdict::Punt(reason) => {
            result.verdict = pb::TestVerdict::Punt.into();
            reason.name().clone_into(&mut result.reason);
            reason.text().clone_into(&mut result.reason_text);
            result.packet_out = outcome.bytes;
            story.tunnel = outcome.info.tunnel.or(story.tunnel);
        }
        Verdict::Drop(reason) => {
            result.verdict = pb::TestVerdict::Drop.into();
            reason.name().clone_into(&mut result.reason);
            reason.text().clone_into(&mut result.reason_text);
        }
    }
    if let Some(tunnel) = story.tunnel {
        let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
        result.tunnel_id = name(control.tunnel_name(tunnel));
        result.domain_id = name(control.domain_name(tunnel));
    }
    result.steps = story.steps;
    result
}

/// What the headers say and what the tables have for it. Told beside the verdict, which is the
/// core's alone.
#[derive(Default)]
struct Story {
    steps: Vec<String>,
    tunnel: Option<TunnelId>,
}

impl Story {
    fn packet(&mut self, control: &Control, l3: &[u8]) {
        match l3.first().map(|byte| byte >> 4) {
            Some(4) => self.v4(control, l3),
            Some(6) => self.v6(control, l3),
            _ => self.steps.push("no IP packet".to_owned()),
        }
    }

    fn v4(&mut self, control: &Control, l3: &[u8]) {
        let Some(header) = l3.first_chunk::<20>() else {
            return self.steps.push("shorter than an IPv4 header".to_owned());
        };
        let at = usize::from(header[0] & 0x0f) * 4;
        let protocol = header[9];
        let src = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let dst = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        self.steps
            .push(format!("IPv4 {src} > {dst}, protocol {protocol}"));
        let builder = control.builder();
        let payload = l3.get(at..).unwrap_or(&[]);
        let (found, inner) = match (protocol, payload.first_chunk::<8>()) {
            (41, _) => {
                let tunnel = builder.tunnel_by_outer(dst, src);
                (tunnel.or_else(|| builder.domain_by_local(dst)), payload)
            }
            (17, Some(udp)) => {
                let from = u16::from_be_bytes([udp[0], udp[1]]);
                let to = u16::from_be_bytes([udp[2], udp[3]]);
                self.steps.push(format!("UDP port {from} > {to}"));
                let tunnel = builder.tunnel_by_port((dst, to), Some((src, from)));
                (tunnel, payload.get(8..).unwrap_or(&[]))
            }
            _ => return,
        };
        self.tunnel = found;
        self.steps.push(match found {
            Some(tunnel) => format!("out of {}", named(control, tunnel)),
            None => "no tunnel or domain has these outer addresses".to_owned(),
        });
        if found.is_some() && inner.first().is_some_and(|byte| byte >> 4 == 6) {
            self.v6(control, inner);
        }
    }

    fn v6(&mut self, control: &Control, l3: &[u8]) {
        let Some(header) = l3.first_chunk::<40>() else {
            return self.steps.push("shorter than an IPv6 header".to_owned());
        };
        let address = |at: usize| {
            let bytes = header.get(at..at + 16).and_then(|b| b.first_chunk::<16>());
            Ipv6Addr::from(bytes.copied().unwrap_or_default())
        };
        let (src, dst) = (address(8), address(24));
        let (next_header, hop_limit) = (header[6], header[7]);
        self.steps.push(format!(
            "IPv6 {src} > {dst}, next header {next_header}, hop limit {hop_limit}"
        ));
        let Some((prefix, view)) = control.lookup(IpAddr::V6(dst)) else {
            return self.steps.push(format!("no route to {dst}"));
        };
        let (way, tunnel) = way(control, view);
        self.tunnel = self.tunnel.or(tunnel);
        self.steps.push(format!("route {}: {way}", Shown(prefix)));
    }
}

fn named(control: &Control, tunnel: TunnelId) -> String {
    match (control.tunnel_name(tunnel), control.domain_name(tunnel)) {
        (Some(id), _) => format!("tunnel {id}"),
        (None, Some(id)) => format!("domain {id}"),
        (None, None) => "a tunnel that is gone".to_owned(),
    }
}

fn way(control: &Control, view: RouteView) -> (String, Option<TunnelId>) {
    match view {
        RouteView::Tunnel(id) => (format!("into {}", named(control, id)), Some(id)),
        RouteView::Domain(id) => (format!("into {}", named(control, id)), Some(id)),
        RouteView::TunnelLink(id) => (format!("the link of {}", named(control, id)), Some(id)),
        RouteView::TunnelAddress(id) => {
            (format!("our address on {}", named(control, id)), Some(id))
        }
        RouteView::Route(route) => match route {
            Route::Tunnel(id) | Route::Domain(id) => {
                (format!("into {}", named(control, id)), Some(id))
            }
            Route::NextHop(id) => {
                let port = control.builder().next_hop(id).map(|hop| hop.port);
                let name = port.and_then(|id| control.port_name(id));
                (format!("by port {}", name.unwrap_or("?")), None)
            }
            Route::Local => ("this host".to_owned(), None),
            Route::Blackhole => ("discard".to_owned(), None),
            Route::Unreachable => ("unreachable".to_owned(), None),
            Route::Prohibit => ("prohibited".to_owned(), None),
        },
    }
}
