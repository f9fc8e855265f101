//! ECN at the tunnel exit (RFC 6040 section 4.2, figure 4).

use crate::drop_reason::DropReason;

const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

/// The field to forward, and whether the combination is one the RFC marks as unused.
///
/// # Errors
/// Congestion marked on a packet that cannot carry the mark: dropping is the only signal left.
#[inline]
pub(crate) const fn merge(inner: u8, outer: u8) -> Result<(u8, bool), DropReason> {
    Ok(match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => return Err(DropReason::EcnCeOnNotEct),
        (NOT_ECT, outer) => (NOT_ECT, outer != NOT_ECT),
        (CE, outer) => (CE, outer == ECT1),
        (_, CE) => (CE, false),
        (ECT0, ECT1) => (ECT1, false),
        (ECT1, ECT0) => (ECT1, true),
        (inner, _) => (inner, false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sixteen_cases() {
        // rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer Not-ECT, ECT(0), ECT(1), CE
        let expected = [
            (
                NOT_ECT,
                [
                    Some((NOT_ECT, false)),
                    Some((NOT_ECT, true)),
                    Some((NOT_ECT, true)),
                    None,
                ],
            ),
            (
                ECT0,
                [
                    Some((ECT0, false)),
                    Some((ECT0, false)),
                    Some((ECT1, false)),
                    Some((CE, false)),
                ],
            ),
            (
                ECT1,
                [
                    Some((ECT1, false)),
                    Some((ECT1, true)),
                    Some((ECT1, false)),
                    Some((CE, false)),
                ],
            ),
            (
                CE,
                [
                    Some((CE, false)),
                    Some((CE, false)),
                    Some((CE, true)),
                    Some((CE, false)),
                ],
            ),
        ];
        for (inner, row) in expected {
            for (outer, want) in [NOT_ECT, ECT0, ECT1, CE].into_iter().zip(row) {
                assert_eq!(
                    merge(inner, outer).ok(),
                    want,
                    "inner {inner} outer {outer}"
                );
            }
        }
    }
}
