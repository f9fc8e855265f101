//! Base64 (RFC 4648 section 4), as much of it as `gdbm_dump` writes.

use zeroize::Zeroizing;

/// Decodes padded text without line ends; `None` when it is not that.
pub(super) fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (quads, []) = text.as_chunks::<4>() else {
        return None;
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(quads.len() * 3));
    for (index, quad) in quads.iter().enumerate() {
        let padding = quad.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && index + 1 < quads.len()) {
            return None;
        }
        let mut bits = 0_u32;
        for byte in &quad[..4 - padding] {
            bits = bits << 6 | u32::from(value(*byte)?);
        }
        bits <<= 6 * padding;
        let [_, triple @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(&triple[..3 - padding]);
    }
    Some(bytes)
}

fn value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_rfc_4648() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(
                decode(text.as_bytes()).unwrap().as_slice(),
                bytes.as_bytes()
            );
        }
        for bad in [
            "Z", "Zg=", "Z===", "====", "Zg==Zg==", "Zm9\n", "Zm9-", "=m9v",
        ] {
            assert!(decode(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
