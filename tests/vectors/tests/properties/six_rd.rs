//! The computation of 6rd (RFC 5969 section 7.1) against strings of bits, for every shape of domain.

use proptest::prelude::*;
use sixferry_fwd::{DomainSpec, DropReason, Ipv6Prefix, SixRdRole, Verdict};
use sixferry_vectors::relay::{HOST, INSIDE, OUTSIDE, Relay, udp};
use sixferry_wire::ipv4;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A domain of any legal shape, two customers and a rest of an address.
#[derive(Debug)]
struct Shape {
    n: usize,
    m: usize,
    /// n bits.
    prefix: String,
    /// m bits.
    common: String,
    /// 32 - m bits each: relay, customer, another customer.
    low: [String; 3],
    /// Subnet and interface.
    rest: String,
}

fn bits(len: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!['0', '1']), len)
        .prop_map(|bits| bits.into_iter().collect())
}

fn shape() -> impl Strategy<Value = Shape> {
    // the delegated prefix is at most a /64
    let sizes = (16usize..=63, 0usize..=32).prop_filter("64 bits", |(n, m)| n + 32 - m <= 64);
    sizes.prop_flat_map(|(n, m)| {
        let o = 32 - m;
        let low = [bits(o), bits(o), bits(o)];
        (bits(n - 4), bits(m), low, bits(128 - n - o)).prop_map(move |(tail, common, low, rest)| {
            Shape {
                n,
                m,
                // 3000::/4: global unicast, and neither 2002::/16 nor where the test's hosts are
                prefix: format!("0011{tail}"),
                common,
                low,
                rest,
            }
        })
    })
}

impl Shape {
    fn v4(&self, which: usize) -> Ipv4Addr {
        let text = format!("{}{}", self.common, self.low[which]);
        Ipv4Addr::from(u32::from_str_radix(&text, 2).expect("32 bits"))
    }

    /// An address of a customer: prefix, low bits of the IPv4 address, rest.
    fn at(&self, which: usize) -> Ipv6Addr {
        let text = format!("{}{}{}", self.prefix, self.low[which], self.rest);
        assert_eq!(text.len(), 128);
        Ipv6Addr::from(u128::from_str_radix(&text, 2).expect("128 bits"))
    }

    fn domain(&self) -> DomainSpec {
        let prefix = format!("{}{}", self.prefix, "0".repeat(128 - self.n));
        let prefix = Ipv6Addr::from(u128::from_str_radix(&prefix, 2).expect("128 bits"));
        let common = format!("{}{}", self.common, "0".repeat(32 - self.m));
        let common = Ipv4Addr::from(u32::from_str_radix(&common, 2).expect("32 bits"));
        DomainSpec::six_rd(
            self.v4(0),
            Ipv6Prefix::new(prefix, u8::try_from(self.n).expect("small")).expect("no host bits"),
            common,
            u8::try_from(self.m).expect("small"),
            SixRdRole::Br { anycast: false },
        )
    }

    /// Whether these are three different hosts that can exist, and none of them the tests' own.
    fn is_usable(&self) -> bool {
        let possible = |v4: Ipv4Addr| (1..224).contains(&v4.octets()[0]) && !v4.is_loopback();
        (0..3).all(|i| possible(self.v4(i)))
            && self.v4(0) != self.v4(1)
            && self.v4(1) != self.v4(2)
            && self.v4(0) != self.v4(2)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_through_any_domain(shape in shape()) {
        prop_assume!(shape.is_usable());
        let spec = shape.domain();
        let mut relay = Relay::new();
        relay.builder.insert_domain(&spec).expect("a legal shape");
        relay.publish();
        let (br, ce, other) = (shape.v4(0), shape.v4(1), shape.v4(2));
        let [at_ce, at_other] = [1, 2].map(|i| shape.at(i).to_string());

        let delegated = spec.delegated(ce).expect("a customer");
        prop_assert_eq!(usize::from(delegated.len()), shape.n + 32 - shape.m);
        prop_assert!(delegated.contains(shape.at(1)) && !delegated.contains(shape.at(2)));
        prop_assert_eq!(spec.embedded(shape.at(1)), Some(ce));

        // entry: the outer destination is computed
        let sent = relay.native(&udp(HOST, &at_ce, 64, 8));
        prop_assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
        let header = ipv4::Header(sent.ip().first_chunk().expect("header"));
        prop_assert_eq!((header.src(), header.dst()), (br.octets(), ce.octets()));
        // exit: from that address and no other
        let packet = udp(&at_ce, HOST, 64, 8);
        prop_assert_eq!(relay.decapsulated(ce, br, &packet).verdict, Verdict::Tx(INSIDE));
        let spoofed = relay.decapsulated(other, br, &packet).verdict;
        prop_assert_eq!(spoofed, Verdict::Drop(DropReason::S6rdSrcMismatch));
        // customer to customer
        let sent = relay.decapsulated(ce, br, &udp(&at_ce, &at_other, 64, 8));
        prop_assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
        let header = ipv4::Header(sent.ip().first_chunk().expect("header"));
        prop_assert_eq!(header.dst(), other.octets());
        // one bit outside the domain
        let outside = Ipv6Addr::from(u128::from(shape.at(1)) ^ (1 << (128 - shape.n)));
        let sent = relay.decapsulated(ce, br, &udp(&outside.to_string(), HOST, 64, 8));
        prop_assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6rdSrcNotInDomain));
    }
}
