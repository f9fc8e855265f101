//! What is counted. Counters only grow; gauges are the present number.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident, $text:literal;)*) => {
        /// The counters while they count.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            /// What they show now; the gauges are filled in by whoever knows them.
            pub(crate) fn read(&self) -> Stats {
                Stats {
                    $($name: self.$name.0.load(Ordering::Relaxed),)*
                    ..Stats::default()
                }
            }
        }

        /// What the counters show.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            /// Sessions now.
            pub sessions: u64,
            /// Of these, without a tunnel.
            pub greeted: u64,
            /// How many sessions there may be.
            pub session_limit: u64,
            $(#[doc = $text] pub $name: u64,)*
        }

        impl Stats {
            /// Name, help text and value of every counter, for a metrics page.
            #[must_use]
            pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $text, self.$name),)*]
            }
        }
    };
}

counters! {
    accepted, "Connections that were greeted";
    refused_sessions, "Connections refused at the limit of sessions";
    refused_greeted, "Connections refused at the limit of sessions without a tunnel";
    refused_address, "Connections refused at the limit of one address";
    accept_errors, "Failures of accept, for example without a free descriptor";
    lines, "Complete lines";
    invalid_lines, "Lines that are no command";
    long_lines, "Lines above 1024 bytes";
    floods, "Sessions ended after 8192 bytes without a line";
    throttled, "Times a session sent lines faster than it may and had to wait";
    pings, "ping commands";
    logins, "Tunnels given to a login";
    denied_digest, "Logins with an unknown user or a wrong digest";
    denied, "Times a client was told that authentication failed, for whatever reason";
    denied_limited, "Logins from addresses with too many failures";
    denied_unavailable, "Logins that could not be checked because the store was away";
    refused_type, "Logins for a tunnel type that is not offered";
    refused_sold_out, "Logins that found no free interface or port";
    refused_in_use, "Logins whose tunnel ends or prefix are another account's";
    refused_no_route, "Logins for a network tunnel without a prefix";
    refused_unavailable, "Logins that got no tunnel because store or dataplane were away";
    refused_other, "Logins that got no tunnel for another reason";
    replaced_own, "Tunnels given back for a second one in the same session";
    ended_quit, "Sessions ended by quit";
    ended_eof, "Sessions ended by the peer without quit";
    ended_broken, "Sessions whose connection broke";
    ended_idle, "Sessions ended by an idle limit";
    ended_failures, "Sessions ended by wrong logins";
    ended_replaced, "Sessions ended by a newer one";
    ended_administrative, "Sessions ended by the operator";
    ended_withdrawn, "Sessions ended because no dataplane carries the tunnel";
    ended_shutdown, "Sessions ended by the stop of the server";
    ended_stalled, "Sessions whose peer did not read what was sent";
    release_retries, "Tunnels whose return had to be tried again";
    revocations_missed, "Times revocations came faster than they were read";
    log_suppressed, "Log lines left out because there were too many";
    routetable_reloads, "Times the routetable was read";
    routetable_failures, "Times the routetable could not be read";
    bytes_in, "Bytes received";
    bytes_out, "Bytes sent";
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }
}
