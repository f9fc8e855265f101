//! What an operator who knows stf(4) has to know.

use ipnet::Ipv4Net;
use sixferry_client::{Mechanism, SixToFourRole, Urpf};

use super::stf::{Around, Made};

/// RFC 1918.
pub(super) const PRIVATE: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(192, 168, 0, 0), 16),
];

pub(super) fn notes(made: &Made, around: &Around) -> Vec<String> {
    let mut notes = vec![
        "Stricter than stf: the IPv4 address inside a 6to4 source must be the one the packet came \
         from, and inside a 6to4 destination this relay's (RFC 3964); one of the two addresses \
         must be 6to4."
            .to_owned(),
        "Stricter than stf: 169.254.0.0/16, 240.0.0.0/4, 100.64.0.0/10 and the blocks for \
         documentation and benchmarks are no peers either; `allow_v4` exempts what a laboratory \
         needs."
            .to_owned(),
    ];
    notes.push(urpf(made));
    notes.push(
        "ttl = 40 and dscp = \"copy\" are what stf does; without the two lines it is 64 and 0."
            .to_owned(),
    );
    notes.push(ecn(made));
    notes.push(mtu(made));
    role(&mut notes, made);
    if !made.domain.input {
        notes.push(
            "input = false is link0: nothing comes in. Do not use or advertise this 6to4 prefix \
             as a source: answers to it are lost."
                .to_owned(),
        );
    }
    if around.permit_private {
        notes.push(
            "allow_v4 is net.link.stf.permit_rfc1918=1: for a laboratory, not for the Internet."
                .to_owned(),
        );
    }
    if let Some(own) = made.own {
        notes.push(format!(
            "There is no interface, so {own} is nobody's address any more: give it to another \
             interface of the host if something uses it."
        ));
    }
    for what in &around.not_needed {
        notes.push(format!(
            "Left out: {what}; the prefix of a domain is routed by itself."
        ));
    }
    if around.foreign > 0 {
        let lines = around.foreign;
        notes.push(format!("Left out: {lines} lines that are not about stf."));
    }
    notes
}

fn urpf(made: &Made) -> String {
    match made.domain.urpf {
        Urpf::Off => "link2 was set, so the source is not checked against the routes of this \
                      host (urpf off)."
            .to_owned(),
        Urpf::Loose | Urpf::Strict => {
            "urpf = \"strict\" is stf's ingress filter: the route to the source must lead out of \
             the port the packet came in by. \"loose\" is for asymmetric routes; link2 would be \
             \"off\"."
                .to_owned()
        }
    }
}

fn ecn(made: &Made) -> String {
    let stf = if made.link1 {
        "link1 was set: stf turns CE into ECT(0) at the entry and merges at the exit."
    } else {
        "link1 was not set: stf copies the ECN field at the entry and ignores it at the exit."
    };
    format!(
        "{stf} Sixferry always follows RFC 6040: it copies the field, CE included, and merges it; \
         `ecn = \"compat\"` is for peers that would lose the marks."
    )
}

fn mtu(made: &Made) -> String {
    match made.mtu_cut {
        Some(mtu) => format!(
            "mtu {mtu} was more than fits into an Ethernet frame without fragments: it is 1480 \
             here."
        ),
        None => format!(
            "The MTU is {}, and DF is clear, as with stf.",
            made.domain.mtu
        ),
    }
}

fn role(notes: &mut Vec<String>, made: &Made) {
    let Mechanism::SixToFour(m) = &made.domain.mechanism else {
        return;
    };
    match m.role {
        SixToFourRole::Relay { anycast } => {
            let guessed = if made.role_guessed {
                "No default route into 6to4 was given, so this is a relay; --role site would make \
                 it a site. "
            } else {
                ""
            };
            notes.push(format!(
                "{guessed}A relay has native IPv6 behind it, and advertises 2002::/16 there and \
                 nothing longer (RFC 3056 section 5.2)."
            ));
            if anycast {
                notes.push(
                    "The anycast address 192.88.99.1 is deprecated (RFC 7526): serve it only if \
                     you advertise 192.88.99.0/24 to your own users."
                        .to_owned(),
                );
            }
        }
        SixToFourRole::Site { relay } => notes.push(match relay {
            Some(relay) => format!("The way out is the relay {relay}."),
            None => "The way out is the anycast address 192.88.99.1; that is deprecated \
                     (RFC 7526) and answers hardly anywhere: give a relay's own address as \
                     `relay`."
                .to_owned(),
        }),
    }
    if m.peer_v4_length > 0 {
        notes.push(format!(
            "prefixlen {} restricts peers to {}: others are S6TO4_PEER_RESTRICTED, and have no \
             route.",
            16 + m.peer_v4_length,
            Ipv4Net::new(made.domain.local, m.peer_v4_length)
                .map_or_else(|_| "none".to_owned(), |net| net.trunc().to_string())
        ));
    }
}
