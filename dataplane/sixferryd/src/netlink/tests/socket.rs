//! Datagrams taken apart.

use super::*;

/// A message of this type with this payload.
fn raw(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + payload.len()).expect("small");
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn messages_are_told_apart() {
    let mut datagram = raw(
        RTM_DELNEXTHOP,
        0,
        &[0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 9, 0, 0, 0],
    );
    datagram.extend(raw(NLMSG_ERROR, 0, &(-2i32).to_ne_bytes()));
    datagram.extend(raw(NLMSG_ERROR, 0, &0i32.to_ne_bytes()));
    datagram.extend(raw(NLMSG_DONE, NLM_F_DUMP_INTR, &0i32.to_ne_bytes()));
    datagram.extend(raw(NLMSG_DONE, 0, &(-95i32).to_ne_bytes()));
    datagram.extend(raw(24, 0, &[2]));
    let found = messages(&datagram, None);
    assert!(matches!(found[0], Message::NexthopObjectGone(id) if id.to_le() == 9));
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    assert!(matches!(&found[1], Message::Answer(Err(e)) if missing(e)));
    assert!(matches!(found[2], Message::Answer(Ok(()))));
    assert!(matches!(found[3], Message::Done { interrupted: true }));
    assert!(matches!(found[4], Message::Answer(Err(_))));
    assert!(matches!(found[5], Message::Undecodable(_)));
    assert_eq!(found.len(), 6);
    assert!(
        messages(&datagram, Some(1)).is_empty(),
        "answers to an older question"
    );
}

#[test]
fn no_datagram_makes_us_panic() {
    let whole = raw(16, 0, &[0; 40]);
    for len in 0..whole.len() {
        messages(&whole[..len], None);
    }
    for at in 0..whole.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut broken = whole.clone();
            broken[at] = byte;
            messages(&broken, None);
        }
    }
}
