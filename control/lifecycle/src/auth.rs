//! Logins by challenge and response: MD5 of user, challenge and secret.
//!
//! Whatever the reason for a refusal, the same is computed: an unknown user has a secret too, one that
//! nobody knows.

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

use crate::pace::Pace;
use crate::secret::{KeyRing, Sealed, Secret};
use crate::state::State;
use crate::{AccountId, Denied, Digest};

/// No account has this id.
const NOBODY: AccountId = AccountId(0);

/// Checks logins.
pub(crate) struct Authenticator {
    keys: KeyRing,
    nobody: Sealed,
    /// Whoever knows the name of such a user can try as often as he likes.
    unreadable: Pace,
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
            unreadable: Pace::default(),
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
            Some((entry, Some(sealed))) => (entry.account.id, sealed.clone(), entry.may_log_in()),
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
        if secret.is_err()
            && account != NOBODY
            && let Some(suppressed) = self.unreadable.allow()
        {
            tracing::error!(
                account = account.0,
                suppressed,
                "a stored secret does not open with these keys"
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
        let start = std::time::Instant::now();
        tracing::subscriber::with_default(Counting(Arc::clone(&said)), || {
            for account in 1..=1000 {
                let sealed = Sealed::from_bytes(vec![1; 64]);
                let candidate = (AccountId(account), sealed, true);
                assert!(authenticator.check(&attempt, candidate).is_err());
            }
        });
        // at most one a second, on a slow machine too
        let most = 1 + start.elapsed().as_secs() as usize;
        assert!((1..=most).contains(&said.load(Ordering::Relaxed)));
    }
}
