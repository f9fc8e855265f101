//! The shapes of `--json`: stable, named as the fields of the API in lowerCamelCase.
//!
//! Unlike protobuf's own JSON form, addresses are text, 64-bit numbers are numbers, and
//! enumerations are the short words the command line uses. A tunnel printed here can be loaded
//! again.

pub(crate) mod control;
pub(crate) mod counters;
pub(crate) mod domain;
pub(crate) mod outer;
pub(crate) mod port;
pub(crate) mod route;
pub(crate) mod system;
pub(crate) mod tunnel;
pub(crate) mod written;

use serde::{Deserialize, Serialize};
use sixferry_client::api;

/// A pair of counters that always move together.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct PacketsBytes {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl From<Option<api::PacketsBytes>> for PacketsBytes {
    fn from(proto: Option<api::PacketsBytes>) -> Self {
        let proto = proto.unwrap_or_default();
        Self {
            packets: proto.packets,
            bytes: proto.bytes,
        }
    }
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct DropCount {
    pub(crate) reason: String,
    #[serde(flatten)]
    pub(crate) count: PacketsBytes,
}

impl From<api::DropCount> for DropCount {
    fn from(proto: api::DropCount) -> Self {
        Self {
            reason: proto.reason,
            count: proto.count.into(),
        }
    }
}

/// The default of what is on unless somebody switches it off.
pub(crate) fn yes() -> bool {
    true
}

/// Seconds since 1970, as RFC 3339 text in UTC; `None` before that.
pub(crate) fn timestamp(seconds: i64) -> Option<String> {
    let seconds = u64::try_from(seconds).ok()?;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days (H. Hinnant): years begin in March, so the leap day is the last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds).as_deref(), Some(text));
        }
        assert_eq!(timestamp(-1), None);
    }
}
