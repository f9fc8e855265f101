//! Typed client of the dataplane API: re-sync by owner, retry, transactions.
