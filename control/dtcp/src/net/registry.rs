//! The sessions there are: for the operator, and to find whose tunnel was taken away.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use parking_lot::Mutex;
use sixferry_lifecycle::{Lease, LeaseNumber, Revocation, RevokeCause, Slot, Transport, TunnelId};
use tokio::sync::Notify;

use crate::wire::TunnelType;
use crate::wire::reply::Failure;

/// Revocations that are remembered for a session that has its tunnel but has not said so yet.
const RECENT: usize = 8192;

/// Microseconds since 1970 UTC.
pub(super) fn wall_clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What an operator sees of a session. Times are microseconds since 1970 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its number; never used again while the server runs.
    pub id: u64,
    /// The client.
    pub client: SocketAddrV4,
    /// The server's end.
    pub server: SocketAddrV4,
    /// Since when it is connected.
    pub since: i64,
    /// When the last complete line came.
    pub last_line: i64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// With a tunnel or without.
    pub state: SessionState,
}

/// Whether a session has a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It has none.
    Greeted,
    /// It has one.
    Up {
        /// Whose.
        user: Box<str>,
        /// Its type.
        kind: TunnelType,
        /// The tunnel.
        tunnel: TunnelId,
        /// Its logical interface.
        interface: Slot,
        /// Its encapsulation.
        transport: Transport,
        /// Since when.
        since: i64,
    },
}

/// A session in the registry.
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) client: SocketAddrV4,
    pub(super) server: SocketAddrV4,
    since: i64,
    last_line: AtomicI64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// `None` while it has no tunnel. Boxed: most of the time of a storm sessions have none.
    login: Mutex<Option<Box<SessionState>>>,
    orders: Mutex<Orders>,
    /// There are orders.
    pub(super) wake: Notify,
}

/// What a session is to do, from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub(super) disconnect: bool,
    pub(super) shutdown: bool,
    pub(super) revoked: Option<((TunnelId, LeaseNumber), Failure)>,
    pub(super) packets: Option<u64>,
}

impl Entry {
    pub(super) fn heard(&self) {
        self.last_line.store(wall_clock(), Ordering::Relaxed);
    }

    pub(super) fn login(&self, user: &[u8], kind: TunnelType, lease: &Lease) {
        *self.login.lock() = Some(Box::new(SessionState::Up {
            user: String::from_utf8_lossy(user).into(),
            kind,
            tunnel: lease.tunnel,
            interface: lease.slot.clone(),
            transport: lease.transport,
            since: wall_clock(),
        }));
    }

    pub(super) fn logout(&self) {
        *self.login.lock() = None;
    }

    pub(super) fn orders(&self) -> Orders {
        std::mem::take(&mut *self.orders.lock())
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock());
        self.wake.notify_one();
    }

    fn info(&self) -> SessionInfo {
        let login = self.login.lock();
        SessionInfo {
            id: self.id,
            client: self.client,
            server: self.server,
            since: self.since,
            last_line: self.last_line.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            state: login.as_deref().cloned().unwrap_or(SessionState::Greeted),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

type Key = (TunnelId, LeaseNumber);

#[derive(Default)]
struct Leases {
    held: HashMap<Key, Arc<Entry>>,
    recent: HashMap<Key, RevokeCause>,
    recent_order: VecDeque<Key>,
    /// How often revocations were missed.
    missed: u64,
}

/// All sessions.
#[derive(Default)]
pub(super) struct Registry {
    next: AtomicU64,
    sessions: Mutex<HashMap<u64, Arc<Entry>>>,
    leases: Mutex<Leases>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    pub(super) fn add(&self, client: SocketAddrV4, server: SocketAddrV4) -> Arc<Entry> {
        let now = wall_clock();
        let entry = Arc::new(Entry {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            client,
            server,
            since: now,
            last_line: AtomicI64::new(now),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            login: Mutex::new(None),
            orders: Mutex::default(),
            wake: Notify::new(),
        });
        self.sessions.lock().insert(entry.id, Arc::clone(&entry));
        entry
    }

    pub(super) fn remove(&self, id: u64) {
        self.sessions.lock().remove(&id);
    }

    pub(super) fn list(&self) -> Vec<SessionInfo> {
        let entries: Vec<Arc<Entry>> = self.sessions.lock().values().cloned().collect();
        let mut list: Vec<_> = entries.iter().map(|entry| entry.info()).collect();
        list.sort_unstable_by_key(|info| info.id);
        list
    }

    pub(super) fn disconnect(&self, id: u64) -> bool {
        let entry = self.sessions.lock().get(&id).cloned();
        entry.is_some_and(|entry| {
            entry.order(|orders| orders.disconnect = true);
            true
        })
    }

    pub(super) fn shutdown(&self) {
        for entry in self.sessions.lock().values() {
            entry.order(|orders| orders.shutdown = true);
        }
    }

    /// How often revocations were missed so far: to be asked before a tunnel is, and compared when
    /// it is there.
    pub(super) fn missed(&self) -> u64 {
        self.leases.lock().missed
    }

    /// From now on revocations of this lease reach the session. If one came before: why.
    pub(super) fn hold(&self, key: Key, entry: &Arc<Entry>) -> Option<RevokeCause> {
        let mut leases = self.leases.lock();
        leases.held.insert(key, Arc::clone(entry));
        leases.recent.get(&key).copied()
    }

    pub(super) fn let_go(&self, key: Key) {
        self.leases.lock().held.remove(&key);
    }

    pub(super) fn revoke(&self, revocation: &Revocation) {
        let key = (revocation.tunnel, revocation.number);
        let mut leases = self.leases.lock();
        if let Some(entry) = leases.held.get(&key) {
            let failure = revoked(revocation.cause);
            entry.order(|orders| orders.revoked = Some((key, failure)));
            return;
        }
        if leases.recent_order.len() >= RECENT
            && let Some(oldest) = leases.recent_order.pop_front()
        {
            leases.recent.remove(&oldest);
        }
        if leases.recent.insert(key, revocation.cause).is_none() {
            leases.recent_order.push_back(key);
        }
    }

    /// Revocations were missed: the leases that have to be asked about.
    pub(super) fn note_missed(&self) -> Vec<Key> {
        let mut leases = self.leases.lock();
        leases.missed += 1;
        leases.held.keys().copied().collect()
    }

    /// Which tunnels are held.
    pub(super) fn held(&self) -> Vec<Key> {
        self.leases.lock().held.keys().copied().collect()
    }

    /// It is gone, and why was missed.
    pub(super) fn lost(&self, key: Key) {
        if let Some(entry) = self.leases.lock().held.get(&key) {
            entry.order(|orders| orders.revoked = Some((key, Failure::Withdrawn)));
        }
    }

    pub(super) fn traffic(&self, key: Key, packets: u64) {
        if let Some(entry) = self.leases.lock().held.get(&key) {
            entry.order(|orders| orders.packets = Some(packets));
        }
    }
}

/// What a session is told.
pub(super) fn revoked(cause: RevokeCause) -> Failure {
    match cause {
        RevokeCause::Replaced => Failure::Replaced,
        RevokeCause::Administrative => Failure::Administrative,
        RevokeCause::Refused => Failure::Withdrawn,
    }
}
