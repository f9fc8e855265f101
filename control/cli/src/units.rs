//! Numbers for people. JSON never uses these.

use std::time::Duration;

/// `9999`, `12.3k`, `4.56M`: three digits and an SI prefix.
pub(crate) fn count(value: u64) -> String {
    if value < 10_000 {
        return value.to_string();
    }
    scaled(value as f64, "")
}

/// `0`, `0.4`, `12.3k`: a rate.
pub(crate) fn rate(value: f64) -> String {
    if value < 0.05 {
        return "0".to_owned();
    }
    if value < 10.0 {
        return format!("{value:.1}");
    }
    if value < 1000.0 {
        return format!("{value:.0}");
    }
    scaled(value, "")
}

/// Bytes per second as bits per second: `12.3M`.
pub(crate) fn bits(bytes_per_second: f64) -> String {
    rate(bytes_per_second * 8.0)
}

/// `512 B`, `1.50 kB`, `3.20 GB`: powers of 1000.
pub(crate) fn bytes(value: u64) -> String {
    if value < 1000 {
        return format!("{value} B");
    }
    scaled(value as f64, " ") + "B"
}

/// `512 B`, `4.0 KiB`, `1.5 GiB`: powers of 1024, for memory.
pub(crate) fn memory(value: u64) -> String {
    let mut value = value as f64;
    if value < 1024.0 {
        return format!("{value} B");
    }
    let mut unit = 'K';
    for next in ['K', 'M', 'G', 'T'] {
        value /= 1024.0;
        unit = next;
        if value < 1024.0 {
            break;
        }
    }
    format!("{value:.1} {unit}iB")
}

/// `42 s`, `3 min 20 s`, `2 d 4 h`: the two largest units.
pub(crate) fn age(value: Duration) -> String {
    let seconds = value.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn scaled(value: f64, separator: &str) -> String {
    let mut value = value;
    let mut unit = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        // 999.5 would round to 1000.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    format!("{value:.digits$}{separator}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        for (value, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0k"),
            (999_499, "999k"),
            (999_500, "1.00M"),
            (1_234_567, "1.23M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn rates_bytes_and_memory() {
        assert_eq!(rate(0.01), "0");
        assert_eq!(rate(0.44), "0.4");
        assert_eq!(rate(999.0), "999");
        assert_eq!(rate(1500.0), "1.50k");
        assert_eq!(bits(125.0), "1.00k");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.50 MB");
        assert_eq!(memory(512), "512 B");
        assert_eq!(memory(600 * 1024 * 1024), "600.0 MiB");
        assert_eq!(memory(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn ages_show_two_units() {
        for (seconds, text) in [
            (42, "42 s"),
            (200, "3 min 20 s"),
            (7_260, "2 h 1 min"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
