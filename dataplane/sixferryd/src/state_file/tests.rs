//! Written, read back, damaged.

use std::sync::Arc;

use sixferry_fwd::{PortConfig, PortId, PortKind, Settings};

use super::*;
use crate::control::Control;
use crate::netlink::Prefix;

fn shared() -> Shared {
    let instance: Arc<str> = "test".into();
    let mut control = Control::new(Settings::default(), 1, Arc::clone(&instance));
    control.name_port(PortId(0), "up0");
    let config = PortConfig {
        kind: PortKind::Ethernet { mac: [2; 6] },
        mtu: 1500,
        vlans: Vec::new(),
        up: true,
    };
    control.set_port(PortId(0), Some(config));
    Shared::new(control, instance)
}

fn tunnel(owner: &str, n: u8) -> pb::Tunnel {
    let mut prefix = vec![0x20, 1, 0x0d, 0xb8, 0, n];
    prefix.resize(16, 0);
    pb::Tunnel {
        id: format!("t{n}"),
        owner: owner.to_owned(),
        local: vec![198, 51, 100, 1],
        remote: vec![10, 0, 0, n],
        prefixes: vec![pb::IpPrefix {
            address: prefix,
            length: 48,
        }],
        mtu: 1400,
        liveness: pb::LivenessMode::Nud.into(),
        liveness_interval_seconds: 60,
        ..pb::Tunnel::default()
    }
}

fn domain(owner: &str) -> pb::EmbeddedDomain {
    let mut prefix = vec![0x20, 1, 0x0d, 0xb9];
    prefix.resize(16, 0);
    pb::EmbeddedDomain {
        id: "6rd".into(),
        owner: owner.to_owned(),
        mechanism: Some(pb::embedded_domain::Mechanism::SixRd(pb::SixRd {
            prefix: Some(pb::IpPrefix {
                address: prefix,
                length: 32,
            }),
            role: pb::SixRdRole::Ce.into(),
            br: vec![10, 0, 0, 1],
            ..pb::SixRd::default()
        })),
        local: vec![10, 9, 9, 9],
        ..pb::EmbeddedDomain::default()
    }
}

fn routes(owner: &str) -> Vec<pb::Route> {
    let destination = |text: &str, len| {
        let address = text.parse().expect("an address");
        let prefix = Prefix::of(address, len).expect("a prefix");
        Some(crate::convert::prefix_message(prefix))
    };
    let out = pb::Route {
        destination: destination("::", 0),
        owner: owner.to_owned(),
        action: pb::RouteAction::Domain.into(),
        domain_id: "6rd".into(),
        ..pb::Route::default()
    };
    let via = pb::Route {
        destination: destination("2001:4860::", 32),
        owner: owner.to_owned(),
        next_hop: Some(pb::NextHop {
            port: "up0".into(),
            gateway: vec![0x20; 16],
            ..pb::NextHop::default()
        }),
        ..pb::Route::default()
    };
    vec![out, via]
}

/// Two owners' tunnels, a domain and routes.
fn filled() -> Shared {
    let shared = shared();
    let block = Block {
        domains: vec![domain("lifecycle")],
        tunnels: vec![
            tunnel("lifecycle", 1),
            tunnel("lifecycle", 2),
            tunnel("cli", 3),
        ],
        routes: routes("cli"),
        ..Block::default()
    };
    for outcome in apply(&shared, block) {
        assert_eq!(outcome.failures, []);
    }
    shared
}

/// Everything but counters, revisions and what is learnt.
fn seen(shared: &Shared) -> Block {
    let mut all = Block::default();
    let mut bytes = Vec::new();
    write(shared, &mut bytes).expect("writes");
    format::read(&*bytes, |block| {
        all.domains.extend(block.domains);
        all.tunnels.extend(block.tunnels);
        all.routes.extend(block.routes);
    })
    .expect("whole");
    all
}

#[test]
fn a_daemon_that_starts_again_has_everything_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = filled();
    assert_eq!(save(&before, dir.path()).expect("saves"), 6);
    let after = shared();
    let restored = restore(&after, dir.path());
    let expected = Restored {
        objects: 6,
        left_out: 0,
    };
    assert_eq!(restored, expected);
    assert_eq!(seen(&after), seen(&before));
    let (_, has) = after
        .with(|c| c.open_session("lifecycle", 1))
        .expect("opens");
    assert_eq!((has.tunnels, has.domains, has.routes), (2, 1, 0));
}

#[test]
fn the_configuration_file_comes_first_and_is_not_saved() {
    let dir = tempfile::tempdir().expect("a directory");
    save(&filled(), dir.path()).expect("saves");
    let after = shared();
    let op = tunnel_op(put_tunnel(pb::Tunnel {
        id: "mine".into(),
        ..tunnel("", 1)
    }));
    let owner = crate::control::session::STATIC;
    let each = Atomicity::EachForItself;
    let outcome = after.with(|c| c.program_tunnels(owner, vec![op], each, false));
    assert_eq!(outcome.failures, []);
    let restored = restore(&after, dir.path());
    assert_eq!((restored.objects, restored.left_out), (5, 1));
    let ids: Vec<_> = seen(&after).tunnels.into_iter().map(|t| t.id).collect();
    assert_eq!(ids.len(), 2);
    assert!(!ids.contains(&"mine".to_owned()) && !ids.contains(&"t1".to_owned()));
}

#[test]
fn a_damaged_file_is_refused_whole_wherever_the_damage_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(NAME);
    save(&filled(), dir.path()).expect("saves");
    let good = std::fs::read(&path).expect("reads");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("writes");
        let after = shared();
        assert_eq!(restore(&after, dir.path()), Restored::default());
        assert_eq!(seen(&after), Block::default());
        assert!(!path.exists() && dir.path().join("tables.refused").exists());
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        refused(&bad);
        refused(&good[..at]);
    }
    refused(&[&good[..], b"x"].concat());
}

#[test]
fn a_file_of_a_newer_daemon_is_refused() {
    let mut bytes = b"SXFTABLE".to_vec();
    let mut writer = Writer::new(Vec::new()).expect("writes");
    let head = format::Head {
        version: format::VERSION + 1,
        daemon: "9".into(),
    };
    let block = Block {
        head: Some(head),
        ..Block::default()
    };
    writer.block(&block).expect("writes");
    let (all, _) = writer.finish().expect("writes");
    // Behind the writer's own head: magic, length, checksum and the block itself.
    let first = u32::from_be_bytes(all[8..12].try_into().expect("four bytes")) as usize;
    bytes.extend_from_slice(&all[16 + first..]);
    let error = format::read(&*bytes, drop).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "has version 2; this daemon reads up to 1"
    );
}

#[test]
fn no_file_is_no_matter() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(restore(&shared(), dir.path()), Restored::default());
    assert!(!dir.path().join("tables.refused").exists());
}

#[tokio::test]
async fn changes_are_saved_as_they_come_and_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(NAME);
    let shared = Arc::new(filled());
    let interval = Duration::from_millis(10);
    let saver = Saver::new(Arc::clone(&shared), dir.path().to_owned(), interval);
    let counts = saver.counts();
    let (stop, stopped) = watch::channel(false);
    let saving = tokio::spawn(saver.run(stopped));
    while counts.read().0 < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(counts.read(), (1, 0, 6));
    let ops = vec![tunnel_op(put_tunnel(tunnel("", 9)))];
    let each = Atomicity::EachForItself;
    shared.with(|control| {
        let owner = control.restore_owner("cli").expect("known");
        control.program_tunnels(owner, ops, each, false)
    });
    stop.send_replace(true);
    saving.await.expect("ends");
    assert_eq!(counts.read(), (2, 0, 7));
    let file = File::open(&path).expect("there");
    assert_eq!(format::read(file, drop).expect("whole"), 7);
}

#[tokio::test]
async fn without_a_directory_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    let saver = Saver::new(
        Arc::new(filled()),
        missing.clone(),
        Duration::from_millis(1),
    );
    let (_stop, stopped) = watch::channel(false);
    saver.run(stopped).await;
    assert!(!missing.exists());
}
