//! Logins by challenge and response: MD5 of user, challenge and secret.
//!
//! Whatever the reason for a refusal, the same is computed: an unknown user has a secret too, one that
//! nobody knows.

use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;

use crate::secret::{KeyRing, Sealed, Secret};
use crate::state::State;
use crate::{AccountId, AccountStatus, Denied, Digest};

/// No account has this id.
const NOBODY: AccountId = AccountId(0);

/// How often it is said that secrets do not open. Anybody who knows a name can make it happen, and
/// with a key file missing every login does.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Checks logins.
pub(crate) struct Authenticator {
    keys: KeyRing,
    nobody: Sealed,
    unopened: Mutex<Unopened>,
}

/// Logins that failed for a secret that does not open.
#[derive(Default)]
struct Unopened {
    /// Since it was last said.
    logins: u64,
    quiet_until: Option<Instant>,
}

impl Unopened {
    /// Counts one; how many there were, if it is time to say so.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.logins += 1;
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        self.quiet_until = Some(now + COMPLAINT);
        Some(std::mem::take(&mut self.logins))
    }
}

impl Authenticator {
    pub(crate) fn new(keys: KeyRing) -> Self {
        let unknown: [u8; 16] = rand::random();
        let text = unknown.map(|byte| b'a' + byte % 26);
        // Letters only: always a good secret.
        let nobody = Secret::new(text.to_vec()).map_or_else(
            |_| Sealed::from_bytes(Vec::new()),
            |s| keys.seal(NOBODY, &s),
        );
        Self {
            keys,
            nobody,
            unopened: Mutex::default(),
        }
    }

    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// What has to be opened for this user; the state is not needed for the rest.
    pub(crate) fn candidate(&self, state: &State, user: &[u8]) -> (AccountId, Sealed, bool) {
        let name = std::str::from_utf8(user).unwrap_or_default();
        let entry = state.names.get(name).and_then(|id| state.account(*id));
        match entry.map(|e| (e, &e.sealed)) {
            Some((entry, Some(sealed))) => {
                let may = entry.account.status == AccountStatus::Active;
                (entry.account.id, sealed.clone(), may)
            }
            _ => (NOBODY, self.nobody.clone(), false),
        }
    }

    pub(crate) fn check(
        &self,
        attempt: &Digest<'_>,
        (account, sealed, may): (AccountId, Sealed, bool),
    ) -> Result<AccountId, Denied> {
        let secret = self.keys.unseal(account, &sealed);
        let mut md5 = Md5::new();
        md5.update(attempt.user);
        md5.update(attempt.challenge);
        md5.update(secret.as_ref().map_or(&b""[..], |s| s.expose()));
        let right = md5.finalize().as_slice().ct_eq(&attempt.digest);
        if let Err(why) = &secret
            && account != NOBODY
            && let Some(logins) = self.unopened.lock().count(Instant::now())
        {
            tracing::error!(
                account = account.0,
                %why,
                logins,
                "a stored secret does not open; logins with such are refused"
            );
        }
        match bool::from(right) && may && secret.is_ok() {
            true => Ok(account),
            false => Err(Denied),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::span;

    use super::*;

    /// Counts what is logged.
    struct Counting(Arc<AtomicUsize>);

    impl tracing::Subscriber for Counting {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn secrets_that_do_not_open_are_not_logged_per_login() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyRing::open(&dir.path().join("key"), true).unwrap();
        let authenticator = Authenticator::new(keys);
        let attempt = Digest {
            user: b"alice",
            challenge: &[b'0'; 32],
            digest: [0; 16],
        };
        let said = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Counting(Arc::clone(&said)), || {
            for account in 1..=1000 {
                let sealed = Sealed::from_bytes(vec![1; 64]);
                let candidate = (AccountId(account), sealed, true);
                assert!(authenticator.check(&attempt, candidate).is_err());
            }
        });
        assert_eq!(said.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_complaint_says_how_many_logins_it_stands_for() {
        let start = Instant::now();
        let mut unopened = Unopened::default();
        assert_eq!(unopened.count(start), Some(1));
        for second in 0..60 {
            assert_eq!(unopened.count(start + Duration::from_secs(second)), None);
        }
        assert_eq!(unopened.count(start + COMPLAINT), Some(61));
        assert_eq!(unopened.count(start + COMPLAINT), None);
    }
}
