//! PolicyService: rules, and packets tried on them.

use sixferry_fwd::{NextHop, NextHopState, PortConfig, PortId, PortKind, Route, RouteSource};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_wire::checksum;
use tonic::{Code, Status};

use super::{Daemon, said, tunnel};
use crate::netlink::Prefix;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const FILE: &str = "[router]\naddress = \"2001:db8:ffff::1\"\n";

async fn daemon() -> Daemon {
    let daemon = Daemon::with_config(FILE).await;
    daemon.shared.with(|control| {
        control.name_port(PortId(0), "up0");
        let config = PortConfig {
            kind: PortKind::Ethernet { mac: MAC },
            mtu: 1500,
            vlans: Vec::new(),
            up: true,
        };
        control.set_port(PortId(0), Some(config));
        let hop = control.builder_mut().add_next_hop(NextHop {
            port: PortId(0),
            vlan: None,
            vlan_service_tag: false,
            src_mac: MAC,
            mtu: 1500,
            state: NextHopState::Resolved { dst_mac: [4; 6] },
        });
        for everything in ["0.0.0.0", "::"] {
            let everything = everything.parse().expect("an address");
            let prefix = Prefix::of(everything, 0).expect("a prefix");
            control.set_mirrored(prefix, RouteSource::Kernel, Route::NextHop(hop));
        }
    });
    let session = daemon.open("test", 1).await.expect("opens");
    daemon.put(&session, vec![tunnel(1)]).await;
    daemon
}

/// From a host behind tunnel 1 to the native Internet.
fn inner(src_prefix: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 4, 59, 64];
    packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, src_prefix, 0, 0]);
    packet.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7]);
    packet.extend_from_slice(&[0x20, 1, 0x48, 0x60, 0, 0, 0, 0]);
    packet.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend_from_slice(&[1, 2, 3, 4]);
    packet
}

fn outer(inner: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + inner.len()).expect("short");
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0, 0, 64, 41, 0, 0]);
    packet.extend_from_slice(&[10, 0, 0, 1, 198, 51, 100, 1]);
    let sum = checksum::finish(checksum::sum(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(inner);
    packet
}

fn ip(data: Vec<u8>) -> pb::TestPacketInput {
    pb::TestPacketInput {
        data,
        form: pb::PacketForm::Ip.into(),
        ..pb::TestPacketInput::default()
    }
}

async fn try_packets(
    daemon: &Daemon,
    packets: Vec<pb::TestPacketInput>,
) -> Result<Vec<pb::TestPacketResult>, Status> {
    let answer = daemon
        .policy()
        .test_packet(pb::TestPacketRequest { packets })
        .await?;
    Ok(answer.into_inner().results)
}

#[tokio::test]
async fn a_packet_is_tried_and_leaves_no_trace() {
    let daemon = daemon().await;
    let packets = vec![
        ip(outer(&inner(1))),
        ip(outer(&inner(2))),
        ip(vec![0x45; 12]),
    ];
    let results = try_packets(&daemon, packets).await.expect("tried");
    let verdicts: Vec<_> = results.iter().map(|r| (r.verdict(), &*r.reason)).collect();
    assert_eq!(
        verdicts,
        [
            (pb::TestVerdict::Forward, ""),
            (pb::TestVerdict::Drop, "INNER_SRC_SPOOF"),
            (pb::TestVerdict::Drop, "V4_TRUNCATED"),
        ]
    );
    let first = &results[0];
    assert_eq!((&*first.egress_port, &*first.tunnel_id), ("up0", "t1"));
    let mut expected = vec![4; 6];
    expected.extend_from_slice(&MAC);
    expected.extend_from_slice(&[0x86, 0xdd]);
    let mut forwarded = inner(1);
    forwarded[7] -= 1;
    expected.extend(forwarded);
    assert_eq!(first.packet_out, expected);
    assert_eq!(
        first.steps,
        [
            "IPv4 10.0.0.1 > 198.51.100.1, protocol 41",
            "out of tunnel t1",
            "IPv6 2001:db8:1::7 > 2001:4860::1, next header 59, hop limit 64",
            "route ::/0: by port up0",
        ]
    );
    assert!(!results[1].reason_text.is_empty());
    let tunnel = daemon.shared.with(|c| c.tunnel("t1", true)).expect("there");
    assert_eq!(tunnel.totals, Some(sixferry_fwd::TunnelTotals::default()));
}

#[tokio::test]
async fn an_ethernet_frame_is_taken_as_it_is() {
    let daemon = daemon().await;
    let mut frame = MAC.to_vec();
    frame.extend_from_slice(&[6; 6]);
    frame.extend_from_slice(&[0x08, 0]);
    frame.extend(outer(&inner(1)));
    let input = pb::TestPacketInput {
        data: frame,
        port: "up0".into(),
        form: pb::PacketForm::Ethernet.into(),
        vlan_id: 0,
    };
    let mut tagged = input.clone();
    tagged.data.splice(12..12, [0x81, 0, 0, 100]);
    let results = try_packets(&daemon, vec![input, tagged]).await;
    let results = results.expect("tried");
    assert_eq!(results[0].verdict(), pb::TestVerdict::Forward);
    assert_eq!(&*results[1].reason, "ETH_VLAN");
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused() {
    let daemon = daemon().await;
    let cases = [
        (
            vec![ip(inner(1)); 65],
            Code::InvalidArgument,
            "TOO_MANY_ENTRIES",
        ),
        (vec![ip(Vec::new())], Code::InvalidArgument, "INVALID_FIELD"),
        (
            vec![pb::TestPacketInput {
                form: 0,
                ..ip(inner(1))
            }],
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            vec![pb::TestPacketInput {
                port: "nope".into(),
                ..ip(inner(1))
            }],
            Code::NotFound,
            "PORT_NOT_FOUND",
        ),
    ];
    for (packets, code, reason) in cases {
        let error = try_packets(&daemon, packets).await.expect_err("refused");
        let (said_code, said_reason, _) = said(&error);
        assert_eq!((said_code, &*said_reason), (code, reason));
    }
}

#[tokio::test]
async fn policy_changes_hold_until_a_reload() {
    let daemon = daemon().await;
    let get = async || {
        let answer = daemon.policy().get_policy(pb::GetPolicyRequest {}).await;
        let answer = answer.expect("told").into_inner();
        (answer.policy.expect("a policy"), answer.overridden)
    };
    let (file, overridden) = get().await;
    assert_eq!(overridden, Vec::<String>::new());
    assert!(file.native_source_check);
    let mask = |paths: &[&str]| {
        Some(prost_types::FieldMask {
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
        })
    };
    let changed = pb::Policy {
        outer_options: pb::OuterOptions::Skip.into(),
        icmp_errors: Some(pb::RateLimit {
            per_second: 7,
            ..pb::RateLimit::default()
        }),
        ..pb::Policy::default()
    };
    let request = pb::SetPolicyRequest {
        policy: Some(changed.clone()),
        update_mask: mask(&["outer_options", "icmp_errors"]),
    };
    let answer = daemon.policy().set_policy(request).await.expect("set");
    assert_eq!(
        answer.into_inner().overridden,
        ["icmp_errors", "outer_options"]
    );
    let (now, _) = get().await;
    let expected = pb::Policy {
        router_address: file.router_address.clone(),
        answers: file.answers,
        native_source_check: true,
        ..changed.clone()
    };
    assert_eq!(now, expected);

    let bad = pb::SetPolicyRequest {
        policy: Some(changed),
        update_mask: mask(&["router_address", "native_source_check"]),
    };
    let error = daemon.policy().set_policy(bad).await.expect_err("refused");
    assert!(said(&error).2.starts_with("policy.router_address: "));
    assert_eq!(get().await.0, expected, "all or nothing");

    let report = daemon.api.manager.reload(&daemon.shared).await;
    assert!(report.applied);
    assert_eq!(get().await, (file, Vec::new()));
}
