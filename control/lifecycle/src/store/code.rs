//! How the vocabulary is written in columns.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::link::{Row, Value};
use super::record::Change;
use crate::model::{
    Account, AccountId, AccountStatus, AddressPair, Cause, LeaseNumber, Pool, PoolId, PoolKind,
    Profile, Slot, Transport, Tunnel, TunnelId, TunnelState,
};

/// A column that does not hold what it should.
fn unexpected(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unexpected {what}").into())
}

macro_rules! words {
    ($kind:ty, $what:literal, $word:ident, $parse:ident, $($variant:ident = $text:literal),+) => {
        pub(super) fn $word(value: $kind) -> &'static str {
            match value {
                $(<$kind>::$variant => $text,)+
            }
        }

        pub(super) fn $parse(text: &str) -> Result<$kind, sqlx::Error> {
            match text {
                $($text => Ok(<$kind>::$variant),)+
                _ => Err(unexpected($what)),
            }
        }
    };
}

words!(
    TunnelState,
    "tunnel state",
    state_word,
    parse_state,
    Pending = "pending",
    Active = "active",
    Orphaned = "orphaned",
    Releasing = "releasing",
    Tombstone = "tombstone"
);
words!(
    Cause,
    "cause",
    cause_word,
    parse_cause,
    Login = "login",
    Confirmed = "confirmed",
    Quit = "quit",
    ConnectionLost = "connection_lost",
    IdleTimeout = "idle_timeout",
    Replaced = "replaced",
    Administrative = "administrative",
    Shutdown = "shutdown",
    Restart = "restart",
    GraceEnded = "grace_ended",
    Refused = "refused"
);
words!(
    Profile,
    "profile",
    profile_word,
    parse_profile,
    Link = "link",
    Host = "host",
    Network = "network"
);
words!(
    AccountStatus,
    "account status",
    status_word,
    parse_status,
    Active = "active",
    Suspended = "suspended"
);

/// The words of `change_log.change` and the object's key.
pub(super) fn change_columns(change: Change) -> (&'static str, i64) {
    match change {
        Change::Account(id) => ("account", id.0),
        Change::AccountRemoved(id) => ("account_removed", id.0),
        Change::Pool(id) => ("pool", id.0),
        Change::PoolRemoved(id) => ("pool_removed", id.0),
        Change::Tunnel(id) => ("tunnel", id.0),
        Change::TunnelBuried(id) => ("tunnel_buried", id.0),
        Change::TunnelForgotten(id) => ("tunnel_forgotten", id.0),
    }
}

pub(super) fn parse_change(word: &str, id: i64) -> Result<Change, sqlx::Error> {
    Ok(match word {
        "account" => Change::Account(AccountId(id)),
        "account_removed" => Change::AccountRemoved(AccountId(id)),
        "pool" => Change::Pool(PoolId(id)),
        "pool_removed" => Change::PoolRemoved(PoolId(id)),
        "tunnel" => Change::Tunnel(TunnelId(id)),
        "tunnel_buried" => Change::TunnelBuried(TunnelId(id)),
        "tunnel_forgotten" => Change::TunnelForgotten(TunnelId(id)),
        _ => return Err(unexpected("change")),
    })
}

pub(super) fn v4(address: Ipv4Addr) -> Value {
    Value::Bytes(address.octets().to_vec())
}

pub(super) fn parse_v4(bytes: &[u8]) -> Result<Ipv4Addr, sqlx::Error> {
    let octets: [u8; 4] = bytes.try_into().map_err(|_| unexpected("IPv4 address"))?;
    Ok(octets.into())
}

fn parse_v6(bytes: &[u8]) -> Result<Ipv6Addr, sqlx::Error> {
    let octets: [u8; 16] = bytes.try_into().map_err(|_| unexpected("IPv6 address"))?;
    Ok(octets.into())
}

/// Columns `prefix` and `len`.
pub(super) fn net_columns(net: &Ipv6Net) -> [Value; 2] {
    [
        Value::Bytes(net.addr().octets().to_vec()),
        Value::Int(net.prefix_len().into()),
    ]
}

pub(super) fn parse_net(row: &Row, index: usize) -> Result<Ipv6Net, sqlx::Error> {
    let len = u8::try_from(row.int(index + 1)?).map_err(|_| unexpected("prefix length"))?;
    Ipv6Net::new(parse_v6(row.bytes(index)?)?, len).map_err(|_| unexpected("prefix length"))
}

fn port(value: i64) -> Result<u16, sqlx::Error> {
    u16::try_from(value).map_err(|_| unexpected("port"))
}

/// Columns of `tunnel` without `quarantine_until`, in the order of [`tunnel_values`].
pub(super) const TUNNEL_COLUMNS: &str = "id, account, service, lease, stem, unit, profile, local, \
     remote, local_port, remote_port, any_source, client6, server6, mtu, state, state_at, \
     created_at, revision";

/// How many those are.
pub(super) const TUNNEL_COLUMN_COUNT: usize = 19;

pub(super) fn tunnel_values(tunnel: &Tunnel, state: TunnelState, revision: i64) -> Vec<Value> {
    let (local_port, remote_port, any_source) = match tunnel.transport {
        Transport::SixInFour => (None, None, false),
        Transport::Udp {
            local_port,
            remote_port,
            any_source,
        } => (Some(local_port), remote_port, any_source),
    };
    let end = |address: fn(&AddressPair) -> Ipv6Addr| {
        Value::MaybeBytes(
            tunnel
                .pair
                .as_ref()
                .map(|pair| address(pair).octets().to_vec()),
        )
    };
    let values = vec![
        Value::Int(tunnel.id.0),
        Value::Int(tunnel.account.0),
        Value::Text(tunnel.service.clone()),
        Value::Int(tunnel.lease.0),
        Value::Text(tunnel.slot.stem.clone()),
        Value::Int(tunnel.slot.unit.into()),
        profile_word(tunnel.profile).into(),
        v4(tunnel.local),
        v4(tunnel.remote),
        Value::MaybeInt(local_port.map(i64::from)),
        Value::MaybeInt(remote_port.map(i64::from)),
        Value::Int(any_source.into()),
        end(|pair| pair.client),
        end(|pair| pair.server),
        Value::Int(tunnel.mtu.into()),
        state_word(state).into(),
        Value::Int(tunnel.state_at),
        Value::Int(tunnel.created_at),
        Value::Int(revision),
    ];
    debug_assert_eq!(values.len(), TUNNEL_COLUMN_COUNT);
    values
}

/// A row of [`TUNNEL_COLUMNS`]; prefixes are in a table of their own.
pub(super) fn parse_tunnel(row: &Row) -> Result<Tunnel, sqlx::Error> {
    let transport = match row.maybe_int(9)? {
        None => Transport::SixInFour,
        Some(local_port) => Transport::Udp {
            local_port: port(local_port)?,
            remote_port: row.maybe_int(10)?.map(port).transpose()?,
            any_source: row.int(11)? != 0,
        },
    };
    let pair = match (row.maybe_bytes(12)?, row.maybe_bytes(13)?) {
        (Some(client), Some(server)) => Some(AddressPair {
            client: parse_v6(client)?,
            server: parse_v6(server)?,
        }),
        _ => None,
    };
    Ok(Tunnel {
        id: TunnelId(row.int(0)?),
        account: AccountId(row.int(1)?),
        service: row.text(2)?.into(),
        lease: LeaseNumber(row.int(3)?),
        slot: Slot {
            stem: row.text(4)?.into(),
            unit: u32::try_from(row.int(5)?).map_err(|_| unexpected("unit"))?,
        },
        profile: parse_profile(row.text(6)?)?,
        transport,
        local: parse_v4(row.bytes(7)?)?,
        remote: parse_v4(row.bytes(8)?)?,
        pair,
        prefixes: Vec::new(),
        mtu: u16::try_from(row.int(14)?).map_err(|_| unexpected("MTU"))?,
        state: parse_state(row.text(15)?)?,
        state_at: row.int(16)?,
        created_at: row.int(17)?,
        revision: row.int(18)?,
    })
}

/// A row of `id, name, status, has_secret, created_at, changed_at`.
pub(super) fn parse_account(row: &Row) -> Result<Account, sqlx::Error> {
    Ok(Account {
        id: AccountId(row.int(0)?),
        name: row.text(1)?.to_owned(),
        status: parse_status(row.text(2)?)?,
        has_secret: row.maybe_int(3)?.is_some(),
        prefixes: Vec::new(),
        created_at: row.int(4)?,
        changed_at: row.int(5)?,
    })
}

/// Columns `id, name, delegated_len, prefix, len, quarantine_seconds` of `pool`.
pub(super) fn pool_values(pool: &Pool) -> Vec<Value> {
    let delegated = match pool.kind {
        PoolKind::HostPair => None,
        PoolKind::Delegation { len } => Some(i64::from(len)),
    };
    let [prefix, len] = net_columns(&pool.prefix);
    vec![
        Value::Int(pool.id.0),
        pool.name.as_str().into(),
        Value::MaybeInt(delegated),
        prefix,
        len,
        Value::Int(pool.quarantine_seconds.into()),
    ]
}

/// A row of the columns of [`pool_values`].
pub(super) fn parse_pool(row: &Row) -> Result<Pool, sqlx::Error> {
    let kind = match row.maybe_int(2)? {
        None => PoolKind::HostPair,
        Some(len) => PoolKind::Delegation {
            len: u8::try_from(len).map_err(|_| unexpected("delegated length"))?,
        },
    };
    Ok(Pool {
        id: PoolId(row.int(0)?),
        name: row.text(1)?.to_owned(),
        kind,
        prefix: parse_net(row, 3)?,
        quarantine_seconds: u32::try_from(row.int(5)?).map_err(|_| unexpected("quarantine"))?,
    })
}
