//! Where a store of a test lives, and things to put into it.

use std::net::Ipv4Addr;

use sixferry_lifecycle::store::{
    Batch, Committed, Conflict, Group, Store, StoreError, StoreOptions, Write,
};
use sixferry_lifecycle::{
    Account, AccountId, AccountStatus, AddressPair, Cause, LeaseNumber, Profile, Slot, Transport,
    Tunnel, TunnelId, TunnelState,
};
use sixferry_postgres::Cluster;
use tempfile::TempDir;

/// An engine of a test's own.
pub(crate) enum Home {
    Sqlite(TempDir),
    Postgresql(Cluster),
}

impl Home {
    pub(crate) fn sqlite() -> Home {
        Home::Sqlite(tempfile::tempdir().expect("temporary directory"))
    }

    pub(crate) fn postgresql() -> Home {
        Home::Postgresql(Cluster::start().expect("PostgreSQL"))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Home::Sqlite(dir) => format!("sqlite:{}/control.db", dir.path().display()),
            Home::Postgresql(cluster) => cluster.url("postgres"),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url(), &StoreOptions::default())
            .await
            .expect("open")
    }
}

/// Commits groups; panics where the store fails.
pub(crate) async fn commit(store: &Store, groups: Vec<Group>) -> Vec<Result<Committed, Conflict>> {
    store.commit(&Batch::new(groups)).await.expect("commit")
}

/// Commits writes as one group that must be accepted.
pub(crate) async fn put(store: &Store, writes: Vec<Write>) -> Committed {
    let mut answers = commit(store, vec![writes]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).expect("accepted")
}

/// Commits, again and again while the store is away.
pub(crate) async fn commit_at_last(
    store: &Store,
    batch: &Batch,
) -> Vec<Result<Committed, Conflict>> {
    loop {
        match store.commit(batch).await {
            Ok(answers) => return answers,
            Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

pub(crate) fn account(id: i64) -> Account {
    Account {
        id: AccountId(id),
        name: format!("user{id}"),
        status: AccountStatus::Active,
        has_secret: false,
        prefixes: Vec::new(),
        created_at: 1_000,
        changed_at: 1_000,
    }
}

/// A host tunnel with protocol 41; everything unique follows from the id.
pub(crate) fn tunnel(id: i64, owner: i64) -> Tunnel {
    let number = u32::try_from(id).expect("small id");
    let (high, low) = (number >> 16, number & 0xffff);
    let pair = |end: u16| {
        let address = format!("2001:db8:1::{high:x}:{low:x}:{end:x}");
        address.parse().expect("address")
    };
    Tunnel {
        id: TunnelId(id),
        account: AccountId(owner),
        service: "dtcp".into(),
        lease: LeaseNumber(1),
        slot: Slot {
            stem: "gif".into(),
            unit: number,
        },
        profile: Profile::Host,
        transport: Transport::SixInFour,
        local: Ipv4Addr::new(192, 0, 2, 1),
        remote: Ipv4Addr::from(0x0a00_0000 + number),
        pair: Some(AddressPair {
            client: pair(2),
            server: pair(1),
        }),
        prefixes: Vec::new(),
        mtu: 1280,
        state: TunnelState::Pending,
        state_at: 5_000 + id,
        created_at: 5_000 + id,
        revision: 0,
    }
}

/// A network tunnel with UDP.
pub(crate) fn udp_tunnel(id: i64, owner: i64) -> Tunnel {
    let port = u16::try_from(20_000 + id).expect("small id");
    Tunnel {
        profile: Profile::Network,
        transport: Transport::Udp {
            local_port: port,
            remote_port: None,
            any_source: true,
        },
        pair: None,
        prefixes: vec![
            format!("2001:db8:{id:x}::/48").parse().expect("prefix"),
            format!("2001:db8:8000:{id:x}::/64")
                .parse()
                .expect("prefix"),
        ],
        ..tunnel(id, owner)
    }
}

pub(crate) fn insert(tunnel: &Tunnel) -> Write {
    Write::InsertTunnel {
        tunnel: tunnel.clone(),
        cause: Cause::Login,
    }
}

pub(crate) fn bury(tunnel: &Tunnel, at: i64, quarantine_until: i64) -> Write {
    Write::BuryTunnel {
        tunnel: Tunnel {
            state_at: at,
            ..tunnel.clone()
        },
        from: tunnel.state,
        cause: Cause::Quit,
        quarantine_until,
    }
}
