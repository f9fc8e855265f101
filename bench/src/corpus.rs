//! The seeds of the fuzz corpus, as committed under `tests/fuzz/corpus`.

use crate::fuzz_dtcp;
use crate::fuzz_targets::pack;
use crate::relay::{Plan, Received};
use crate::seeds::{plans, seeds};
use sixferry_wire::ether;

/// One file of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The fuzz target.
    pub target: &'static str,
    /// File name.
    pub name: String,
    /// Contents.
    pub data: Vec<u8>,
}

/// All seeds of all targets.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |target, name: String, data| {
        entries.push(Entry { target, name, data });
    };
    for seed in seeds() {
        let packet = std::slice::from_ref(&seed.packet);
        add("process", seed.name.to_owned(), pack(&Plan::PLAIN, packet));
        let header = ether::parse(&seed.packet.bytes).map_or(0, |header| header.len);
        // headers are what `wire` reads; payload would only be weight
        let end = seed.packet.bytes.len().min(header + 140);
        let data = seed.packet.bytes[header..end].to_vec();
        add("wire", seed.name.to_owned(), data);
    }
    let short: Vec<Received> = seeds()
        .into_iter()
        .map(|seed| seed.packet)
        .filter(|packet| packet.bytes.len() < 300)
        .collect();
    for (number, plan) in plans().iter().enumerate().skip(1) {
        add("process", format!("plan-{number}"), pack(plan, &short));
    }
    for (name, text) in [
        ("v6", "2001:db8::/32"),
        ("v6-all", "::/0"),
        ("v6-host", "2001:db8::1/128"),
        ("v6-mapped", "::ffff:192.0.2.0/120"),
        ("v6-host-bits", "2001:db8::1/32"),
        ("v6-length", "2001:db8::/129"),
        ("v6-zone", "fe80::%1/64"),
        ("v4", "192.0.2.0/24"),
        ("v4-all", "0.0.0.0/0"),
        ("v4-octal", "192.0.02.0/24"),
        ("sign", "192.0.2.0/+24"),
        ("no-slash", "2001:db8::"),
        ("two-slashes", "::/0/0"),
    ] {
        add("prefix", name.to_owned(), text.as_bytes().to_vec());
    }
    for (name, data) in fuzz_dtcp::seeds() {
        add("dtcp", name.to_owned(), data);
    }
    entries
}
