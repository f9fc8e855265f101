//! How many sessions the process may hold.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of descriptors to the hard one; what it is then.
pub(super) fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "cannot raise the limit of descriptors");
    }
    // `None` is "no limit".
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many sessions fit: `wanted`, or what the limit leaves after the reserve. The reserve is never
/// more than a quarter, so that a small limit still serves somebody.
pub(super) fn sessions(wanted: usize, reserve: usize, limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    wanted.min(limit - reserve.min(limit / 4)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept() {
        assert_eq!(sessions(200_000, 512, 20_000), 19_488);
        assert_eq!(sessions(1000, 512, 20_000), 1000);
        assert_eq!(sessions(200_000, 512, 1024), 768);
        assert_eq!(sessions(200_000, 512, u64::MAX), 200_000);
    }
}
