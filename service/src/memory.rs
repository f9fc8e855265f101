//! What the process takes of the host.

/// Resident memory of this process in bytes, from /proc.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn something_is_resident() {
        assert!(super::resident_bytes().expect("/proc") > 100_000);
    }
}
