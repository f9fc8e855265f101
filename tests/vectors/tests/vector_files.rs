//! The project's vector file, whole and in pieces.

use sixferry_fwd::{DropReason, Verdict};
use sixferry_vectors::harness::{Harness, NEIGHBOUR_MAC, PORT_MAC};
use sixferry_vectors::run::{Verdicted, run};
use sixferry_vectors::schema::{VectorFile, unhex};
use sixferry_wire::ether;

fn file() -> VectorFile {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proto41.json"))
        .expect("proto41.json");
    serde_json::from_str(&text).expect("schema")
}

#[test]
fn every_vector_passes() {
    let file = file();
    let mut wrong = Vec::new();
    for (vector, result) in run(&file) {
        if result != Verdicted::Passed {
            wrong.push(format!("{}: {result:?}", vector.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(file.vectors.len(), 141);
}

#[test]
fn every_packet_cut_at_every_length_gets_one_verdict_and_is_counted() {
    let file = file();
    for vector in &file.vectors {
        let config = &file.configs[&vector.config];
        let mut harness = Harness::new(config).expect("config");
        let mut sent = 0;
        for text in vector.in_hex.as_slice() {
            let packet = unhex(text).expect("hex");
            for ether_type in [ether::TYPE_IPV4, ether::TYPE_IPV6, 0x0806] {
                for len in 0..packet.len() {
                    let outcome = harness.send(&packet[..len], ether_type).expect("fits");
                    sent += 1;
                    if ether_type == 0x0806 {
                        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::EthType));
                    }
                }
            }
            let mut frame = [0u8; ether::HEADER_LEN];
            ether::emit(&mut frame, PORT_MAC, NEIGHBOUR_MAC, ether::TYPE_IPV4);
            for len in 0..frame.len() {
                let outcome = harness.send_frame(&frame[..len]).expect("fits");
                sent += 1;
                assert_eq!(outcome.verdict, Verdict::Drop(DropReason::EthTruncated));
            }
        }
        assert_eq!(harness.counters().received.packets, sent, "{}", vector.name);
        assert_eq!(harness.counters().unaccounted(), 0, "{}", vector.name);
        assert!(harness.fragments_add_up(), "{}", vector.name);
    }
}

#[test]
fn a_vector_that_is_wrong_fails() {
    let mut file = file();
    file.vectors.retain(|v| v.name == "encap-basic-static");
    for vector in &mut file.vectors {
        // one bit of the outer TTL
        let out = vector.out_hex.as_mut().expect("out");
        out.replace_range(16..18, "41");
    }
    let results = run(&file);
    assert!(
        matches!(&results[..], [(_, Verdicted::Failed(text))] if text.contains("byte 8")),
        "{results:?}"
    );
}

#[test]
fn a_drop_with_another_reason_fails() {
    let mut file = file();
    file.vectors.retain(|v| v.name == "decap-bad-checksum");
    for vector in &mut file.vectors {
        vector.drop_reason = Some("V4_LENGTH".to_owned());
    }
    assert!(
        matches!(&run(&file)[..], [(_, Verdicted::Failed(text))] if text.contains("V4_CHECKSUM"))
    );
}
