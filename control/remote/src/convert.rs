//! Between the model of the lifecycle and the messages of `sixferry.control.v1`.
//!
//! What comes in is checked here: a function gives the refusal with the path of the field.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::Ipv6Net;
use sixferry_lifecycle::{
    Account, AccountId, AccountStatus, Acquire, AddressPair, Cause, Lease, LeaseNumber, Profile,
    RevokeCause, Slot, SlotChoice, Transport, Tunnel, TunnelId, TunnelState, WantedTransport,
};
use sixferry_proto::control::v1 as pb;
use tonic::Status;

use crate::status::bad_field;

/// Slots and exceptions a wish may name.
const MAX_SLOTS: usize = 65_536;
/// Prefixes of a tunnel or a user.
pub const MAX_PREFIXES: usize = 64;

/// Microseconds since 1970 as a timestamp.
pub fn time(micros: i64) -> prost_types::Timestamp {
    let nanos = micros.rem_euclid(1_000_000) * 1000;
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// An IPv4 address of a request.
pub fn ipv4(field: &str, bytes: &[u8]) -> Result<Ipv4Addr, Status> {
    let octets = <[u8; 4]>::try_from(bytes);
    octets.map(Ipv4Addr::from).map_err(|_| {
        bad_field(
            field,
            format!("{} bytes; an IPv4 address has 4", bytes.len()),
        )
    })
}

/// An IPv6 address of a request.
pub fn ipv6(field: &str, bytes: &[u8]) -> Result<Ipv6Addr, Status> {
    let octets = <[u8; 16]>::try_from(bytes);
    octets.map(Ipv6Addr::from).map_err(|_| {
        bad_field(
            field,
            format!("{} bytes; an IPv6 address has 16", bytes.len()),
        )
    })
}

/// A prefix as a message.
pub fn prefix_message(prefix: Ipv6Net) -> pb::Prefix {
    pb::Prefix {
        address: prefix.addr().octets().to_vec(),
        length: prefix.prefix_len().into(),
    }
}

/// A prefix of a request.
pub fn prefix(field: &str, message: &pb::Prefix) -> Result<Ipv6Net, Status> {
    let address = ipv6(&format!("{field}.address"), &message.address)?;
    let length = u8::try_from(message.length).unwrap_or(u8::MAX);
    let net = Ipv6Net::new(address, length)
        .map_err(|_| bad_field(format!("{field}.length"), "more than 128"))?;
    if net.trunc() != net {
        let problem = format!("{net} has bits beyond its length; {} has none", net.trunc());
        return Err(bad_field(field, problem));
    }
    Ok(net)
}

/// Prefixes of a request.
pub fn prefixes(field: &str, messages: &[pb::Prefix]) -> Result<Vec<Ipv6Net>, Status> {
    if messages.len() > MAX_PREFIXES {
        let problem = format!("{} entries; at most {MAX_PREFIXES}", messages.len());
        return Err(bad_field(field, problem));
    }
    let numbered = messages.iter().enumerate();
    numbered
        .map(|(i, message)| prefix(&format!("{field}[{i}]"), message))
        .collect()
}

/// A tunnel's id, `t` and a number.
pub fn tunnel_id(field: &str, text: &str) -> Result<TunnelId, Status> {
    let number = text.strip_prefix('t').and_then(|n| n.parse().ok());
    number
        .map(TunnelId)
        .ok_or_else(|| bad_field(field, format!("{text:?} is no tunnel: t and a number")))
}

fn slot_message(slot: &Slot) -> pb::Slot {
    pb::Slot {
        stem: slot.stem.to_string(),
        unit: slot.unit,
    }
}

fn slot(field: &str, message: pb::Slot) -> Result<Slot, Status> {
    Ok(Slot {
        stem: stem(&format!("{field}.stem"), message.stem)?,
        unit: message.unit,
    })
}

/// With a digit at its end the name of one slot would be that of another.
fn stem(field: &str, text: String) -> Result<Arc<str>, Status> {
    let plausible = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let digit = text.ends_with(|c: char| c.is_ascii_digit());
    if (1..=15).contains(&text.len()) && text.bytes().all(plausible) && !digit {
        return Ok(text.into());
    }
    let problem = "1 to 15 of A-Z a-z 0-9 _ . -, the last no digit";
    Err(bad_field(field, problem))
}

fn port(field: &str, number: u32) -> Result<u16, Status> {
    u16::try_from(number).map_err(|_| bad_field(field, format!("{number} is no port")))
}

/// 0: none.
fn optional_port(field: &str, number: u32) -> Result<Option<u16>, Status> {
    port(field, number).map(|port| (port != 0).then_some(port))
}

fn transport_message(transport: Transport) -> pb::Transport {
    use pb::transport::Transport as Kind;
    let kind = match transport {
        Transport::SixInFour => Kind::SixInFour(pb::SixInFour {}),
        Transport::Udp {
            local_port,
            remote_port,
            any_source,
        } => Kind::Udp(pb::UdpTransport {
            local_port: local_port.into(),
            remote_port: remote_port.unwrap_or_default().into(),
            any_source,
        }),
    };
    pb::Transport {
        transport: Some(kind),
    }
}

/// A tunnel's encapsulation.
pub fn transport(field: &str, message: Option<pb::Transport>) -> Result<Transport, Status> {
    use pb::transport::Transport as Kind;
    match message.and_then(|message| message.transport) {
        None => Err(bad_field(field, "is missing")),
        Some(Kind::SixInFour(_)) => Ok(Transport::SixInFour),
        Some(Kind::Udp(udp)) => Ok(Transport::Udp {
            local_port: port(&format!("{field}.udp.local_port"), udp.local_port)?,
            remote_port: optional_port(&format!("{field}.udp.remote_port"), udp.remote_port)?,
            any_source: udp.any_source,
        }),
    }
}

/// A profile as a message.
pub fn profile_message(profile: Profile) -> pb::Profile {
    match profile {
        Profile::Link => pb::Profile::Link,
        Profile::Host => pb::Profile::Host,
        Profile::Network => pb::Profile::Network,
    }
}

fn profile(field: &str, message: pb::Profile) -> Result<Profile, Status> {
    match message {
        pb::Profile::Link => Ok(Profile::Link),
        pb::Profile::Host => Ok(Profile::Host),
        pb::Profile::Network => Ok(Profile::Network),
        pb::Profile::Unspecified => Err(bad_field(field, "is missing")),
    }
}

/// A state as a message.
pub fn state_message(state: TunnelState) -> pb::TunnelState {
    match state {
        TunnelState::Pending => pb::TunnelState::Pending,
        TunnelState::Active => pb::TunnelState::Active,
        TunnelState::Orphaned => pb::TunnelState::Orphaned,
        TunnelState::Releasing => pb::TunnelState::Releasing,
        TunnelState::Tombstone => pb::TunnelState::Tombstone,
    }
}

/// A state asked for.
pub fn state(field: &str, message: pb::TunnelState) -> Result<TunnelState, Status> {
    match message {
        pb::TunnelState::Pending => Ok(TunnelState::Pending),
        pb::TunnelState::Active => Ok(TunnelState::Active),
        pb::TunnelState::Orphaned => Ok(TunnelState::Orphaned),
        pb::TunnelState::Releasing => Ok(TunnelState::Releasing),
        pb::TunnelState::Tombstone => Ok(TunnelState::Tombstone),
        pb::TunnelState::Unspecified => Err(bad_field(field, "unknown to this version")),
    }
}

/// A cause as a message.
pub fn cause_message(cause: Cause) -> pb::Cause {
    match cause {
        Cause::Login => pb::Cause::Login,
        Cause::Confirmed => pb::Cause::Confirmed,
        Cause::Quit => pb::Cause::Quit,
        Cause::ConnectionLost => pb::Cause::ConnectionLost,
        Cause::IdleTimeout => pb::Cause::IdleTimeout,
        Cause::Replaced => pb::Cause::Replaced,
        Cause::Administrative => pb::Cause::Administrative,
        Cause::Shutdown => pb::Cause::Shutdown,
        Cause::Restart => pb::Cause::Restart,
        Cause::GraceEnded => pb::Cause::GraceEnded,
        Cause::Refused => pb::Cause::Refused,
    }
}

/// The cause of a release.
pub fn cause(field: &str, message: pb::Cause) -> Result<Cause, Status> {
    match message {
        pb::Cause::Login => Ok(Cause::Login),
        pb::Cause::Confirmed => Ok(Cause::Confirmed),
        pb::Cause::Quit => Ok(Cause::Quit),
        pb::Cause::ConnectionLost => Ok(Cause::ConnectionLost),
        pb::Cause::IdleTimeout => Ok(Cause::IdleTimeout),
        pb::Cause::Replaced => Ok(Cause::Replaced),
        pb::Cause::Administrative => Ok(Cause::Administrative),
        pb::Cause::Shutdown => Ok(Cause::Shutdown),
        pb::Cause::Restart => Ok(Cause::Restart),
        pb::Cause::GraceEnded => Ok(Cause::GraceEnded),
        pb::Cause::Refused => Ok(Cause::Refused),
        pb::Cause::Unspecified => Err(bad_field(field, "unknown to this version")),
    }
}

/// Why a lease was taken away, as a message.
pub fn revoke_message(cause: RevokeCause) -> pb::RevokeCause {
    match cause {
        RevokeCause::Replaced => pb::RevokeCause::Replaced,
        RevokeCause::Administrative => pb::RevokeCause::Administrative,
        RevokeCause::Refused => pb::RevokeCause::Refused,
    }
}

/// The same back; a cause of a newer server is the operator's doing.
pub fn revoke(message: pb::RevokeCause) -> RevokeCause {
    match message {
        pb::RevokeCause::Replaced => RevokeCause::Replaced,
        pb::RevokeCause::Refused => RevokeCause::Refused,
        pb::RevokeCause::Administrative | pb::RevokeCause::Unspecified => {
            RevokeCause::Administrative
        }
    }
}

/// A user.
pub fn user_message(account: &Account) -> pb::User {
    let status = match account.status {
        AccountStatus::Active => pb::UserStatus::Active,
        AccountStatus::Suspended => pb::UserStatus::Suspended,
    };
    pb::User {
        name: account.name.clone(),
        id: account.id.0,
        status: status.into(),
        has_secret: account.has_secret,
        prefixes: account
            .prefixes
            .iter()
            .copied()
            .map(prefix_message)
            .collect(),
        create_time: Some(time(account.created_at)),
        change_time: Some(time(account.changed_at)),
    }
}

/// A status of a request. One of a newer client is refused: it may mean that the user is to be kept
/// out.
pub fn user_status(field: &str, number: i32) -> Result<AccountStatus, Status> {
    match pb::UserStatus::try_from(number) {
        Ok(pb::UserStatus::Suspended) => Ok(AccountStatus::Suspended),
        Ok(pb::UserStatus::Active | pb::UserStatus::Unspecified) => Ok(AccountStatus::Active),
        Err(_) => Err(bad_field(field, "unknown to this version")),
    }
}

fn pair_message(pair: AddressPair) -> pb::AddressPair {
    pb::AddressPair {
        client: pair.client.octets().to_vec(),
        server: pair.server.octets().to_vec(),
    }
}

/// A tunnel; `user` is the name of its account.
pub fn tunnel_message(tunnel: &Tunnel, user: String) -> pb::Tunnel {
    pb::Tunnel {
        id: tunnel.id.to_string(),
        user,
        service: tunnel.service.to_string(),
        lease: tunnel.lease.0,
        slot: Some(slot_message(&tunnel.slot)),
        profile: profile_message(tunnel.profile).into(),
        transport: Some(transport_message(tunnel.transport)),
        local: tunnel.local.octets().to_vec(),
        remote: tunnel.remote.octets().to_vec(),
        pair: tunnel.pair.map(pair_message),
        prefixes: tunnel
            .prefixes
            .iter()
            .copied()
            .map(prefix_message)
            .collect(),
        mtu: tunnel.mtu.into(),
        state: state_message(tunnel.state).into(),
        state_time: Some(time(tunnel.state_at)),
        create_time: Some(time(tunnel.created_at)),
        revision: tunnel.revision,
    }
}

/// A lease.
pub fn lease_message(lease: &Lease) -> pb::Lease {
    pb::Lease {
        tunnel_id: lease.tunnel.to_string(),
        number: lease.number.0,
        slot: Some(slot_message(&lease.slot)),
        local: lease.local.octets().to_vec(),
        remote: lease.remote.octets().to_vec(),
        transport: Some(transport_message(lease.transport)),
        pair: lease.pair.map(pair_message),
        prefixes: lease.prefixes.iter().copied().map(prefix_message).collect(),
        mtu: lease.mtu.into(),
        resumed: lease.resumed,
    }
}

/// The same back.
pub fn lease(message: pb::Lease) -> Result<Lease, Status> {
    let pair = message.pair.map(|pair| {
        Ok::<_, Status>(AddressPair {
            client: ipv6("lease.pair.client", &pair.client)?,
            server: ipv6("lease.pair.server", &pair.server)?,
        })
    });
    let slot_message = message.slot;
    Ok(Lease {
        tunnel: tunnel_id("lease.tunnel_id", &message.tunnel_id)?,
        number: LeaseNumber(message.number),
        slot: slot(
            "lease.slot",
            slot_message.ok_or_else(|| bad_field("lease.slot", "is missing"))?,
        )?,
        local: ipv4("lease.local", &message.local)?,
        remote: ipv4("lease.remote", &message.remote)?,
        transport: transport("lease.transport", message.transport)?,
        pair: pair.transpose()?,
        prefixes: prefixes("lease.prefixes", &message.prefixes)?,
        mtu: mtu("lease.mtu", message.mtu)?,
        resumed: message.resumed,
    })
}

fn mtu(field: &str, number: u32) -> Result<u16, Status> {
    u16::try_from(number).map_err(|_| bad_field(field, format!("{number} is no MTU")))
}

/// The name of a lease.
pub fn lease_key_message(tunnel: TunnelId, number: LeaseNumber) -> pb::LeaseKey {
    pb::LeaseKey {
        tunnel_id: tunnel.to_string(),
        number: number.0,
    }
}

/// The same back.
pub fn lease_key(
    field: &str,
    message: Option<&pb::LeaseKey>,
) -> Result<(TunnelId, LeaseNumber), Status> {
    let key = message.ok_or_else(|| bad_field(field, "is missing"))?;
    let tunnel = tunnel_id(&format!("{field}.tunnel_id"), &key.tunnel_id)?;
    Ok((tunnel, LeaseNumber(key.number)))
}

/// A wish for a tunnel, by this start of a plugin.
pub fn acquire_message(wanted: &Acquire, holder: &str) -> pb::AcquireRequest {
    use pb::slot_choice::Choice;
    use pb::wanted_transport::Transport as Kind;
    let transport = match &wanted.transport {
        WantedTransport::SixInFour => Kind::SixInFour(pb::SixInFour {}),
        WantedTransport::Udp {
            ports,
            remote_port,
            any_source,
        } => Kind::Udp(pb::WantedUdp {
            first_port: (*ports.start()).into(),
            last_port: (*ports.end()).into(),
            remote_port: remote_port.unwrap_or_default().into(),
            any_source: *any_source,
        }),
    };
    let choice = match &wanted.slot {
        SlotChoice::Range {
            stem,
            units,
            except,
        } => Choice::Range(pb::SlotRange {
            stem: stem.to_string(),
            first: *units.start(),
            last: *units.end(),
            except: except.to_vec(),
        }),
        SlotChoice::OneOf(slots) => Choice::OneOf(pb::SlotList {
            slots: slots.iter().map(slot_message).collect(),
        }),
        SlotChoice::Exactly(slot) => Choice::Exactly(slot_message(slot)),
    };
    pb::AcquireRequest {
        service: wanted.service.to_string(),
        account: wanted.account.0,
        profile: profile_message(wanted.profile).into(),
        local: wanted.local.octets().to_vec(),
        remote: wanted.remote.octets().to_vec(),
        transport: Some(pb::WantedTransport {
            transport: Some(transport),
        }),
        slot: Some(pb::SlotChoice {
            choice: Some(choice),
        }),
        host_prefix: wanted.host_prefix.map(prefix_message),
        prefixes: wanted
            .prefixes
            .iter()
            .copied()
            .map(prefix_message)
            .collect(),
        prefixless: wanted.prefixless,
        mtu: wanted.mtu.into(),
        exclusive: wanted.exclusive,
        holder: holder.to_owned(),
    }
}

/// The same back, without the holder.
pub fn acquire(message: pb::AcquireRequest) -> Result<Acquire, Status> {
    word("service", &message.service, 32)?;
    let host_prefix = message.host_prefix.as_ref();
    Ok(Acquire {
        profile: profile("profile", message.profile())?,
        service: message.service.into(),
        account: AccountId(message.account),
        local: ipv4("local", &message.local)?,
        remote: ipv4("remote", &message.remote)?,
        transport: wanted_transport(message.transport)?,
        slot: slot_choice(message.slot)?,
        host_prefix: host_prefix
            .map(|message| prefix("host_prefix", message))
            .transpose()?,
        prefixes: prefixes("prefixes", &message.prefixes)?,
        prefixless: message.prefixless,
        mtu: mtu("mtu", message.mtu)?,
        exclusive: message.exclusive,
    })
}

/// A name of a plugin or of one start of it.
pub fn word(field: &str, text: &str, most: usize) -> Result<(), Status> {
    let plausible = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=most).contains(&text.len()) && text.bytes().all(plausible) {
        return Ok(());
    }
    Err(bad_field(field, format!("1 to {most} of a-z 0-9 -")))
}

fn wanted_transport(message: Option<pb::WantedTransport>) -> Result<WantedTransport, Status> {
    use pb::wanted_transport::Transport as Kind;
    match message.and_then(|message| message.transport) {
        None => Err(bad_field("transport", "is missing")),
        Some(Kind::SixInFour(_)) => Ok(WantedTransport::SixInFour),
        Some(Kind::Udp(udp)) => {
            let first = port("transport.udp.first_port", udp.first_port)?;
            let last = port("transport.udp.last_port", udp.last_port)?;
            if first == 0 || first > last {
                return Err(bad_field("transport.udp", "the ports are no range from 1"));
            }
            Ok(WantedTransport::Udp {
                ports: first..=last,
                remote_port: optional_port("transport.udp.remote_port", udp.remote_port)?,
                any_source: udp.any_source,
            })
        }
    }
}

fn slot_choice(message: Option<pb::SlotChoice>) -> Result<SlotChoice, Status> {
    use pb::slot_choice::Choice;
    let bounded = |field: &str, len: usize| match len {
        0..=MAX_SLOTS => Ok(()),
        _ => Err(bad_field(
            field,
            format!("{len} entries; at most {MAX_SLOTS}"),
        )),
    };
    match message.and_then(|message| message.choice) {
        None => Err(bad_field("slot", "is missing")),
        Some(Choice::Range(range)) => {
            bounded("slot.range.except", range.except.len())?;
            if !range.except.is_sorted() {
                return Err(bad_field("slot.range.except", "is not sorted"));
            }
            Ok(SlotChoice::Range {
                stem: stem("slot.range.stem", range.stem)?,
                units: range.first..=range.last,
                except: range.except.into(),
            })
        }
        Some(Choice::OneOf(list)) => {
            bounded("slot.one_of.slots", list.slots.len())?;
            let slots = list.slots.into_iter();
            let slots: Result<Arc<[Slot]>, Status> =
                slots.map(|one| slot("slot.one_of.slots", one)).collect();
            Ok(SlotChoice::OneOf(slots?))
        }
        Some(Choice::Exactly(one)) => Ok(SlotChoice::Exactly(slot("slot.exactly", one)?)),
    }
}

#[cfg(test)]
mod tests;
