//! Workers on threads of their own.

use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sixferry_engine::{
    Engine, EngineConfig, FramePool, IdlePolicy, InjectKind, MemLink, MemPort, PortSet, SpawnError,
    SpawnOptions, WorkerHandle,
};
use sixferry_fwd::PortId;

use crate::support::{REMOTE, V4_PORT, V6_PORT, control, from_user, ports, to_user, tunnel_to};

/// Longer than any test may take: a wake-up that does not come shows as a failed deadline.
const FOREVER: Duration = Duration::from_secs(300);
const DEADLINE: Duration = Duration::from_secs(60);

fn options(name: &str, idle: IdlePolicy) -> SpawnOptions {
    SpawnOptions {
        name: name.into(),
        cpu: None,
        idle,
        drop_capabilities: true,
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// One sleeping worker over two ports that can wake it.
fn sleeper() -> (Engine, WorkerHandle<MemPort>, [MemLink; 2]) {
    let mut control = control(1);
    let mut engine = Engine::new(&EngineConfig::new(1, 7), control.tables.snapshot()).unwrap();
    let (v4_port, v4) = MemPort::pair_pollable(128, 128).unwrap();
    let (v6_port, v6) = MemPort::pair_pollable(128, 128).unwrap();
    let worker = engine
        .seats
        .remove(0)
        .worker(ports([v4_port, v6_port]), FramePool::heap(256));
    let idle = IdlePolicy::Poll {
        spin_turns: 2,
        timeout: FOREVER,
    };
    let handle = worker.spawn(options("sleeper", idle)).unwrap();
    (engine, handle, [v4, v6])
}

/// Until the worker has gone to sleep another time.
fn until_asleep(handle: &WorkerHandle<MemPort>, sleeps: &mut u64) {
    until("the worker sleeps", || {
        handle.stats().report().sleeps > *sleeps
    });
    *sleeps = handle.stats().report().sleeps;
}

#[test]
fn a_sleeping_worker_wakes_for_packets_injections_snapshots_and_the_end() {
    let (mut engine, handle, [v4, v6]) = sleeper();
    let mut sleeps = 0;
    for _ in 0..20 {
        until_asleep(&handle, &mut sleeps);
        assert!(v4.push(&from_user(10)));
        until("the packet is forwarded", || v6.discard() == 1);

        until_asleep(&handle, &mut sleeps);
        let kind = InjectKind::Process { rx_port: V4_PORT };
        engine.injector.inject(0, &from_user(10), kind).unwrap();
        until("the injected packet is forwarded", || v6.discard() == 1);

        until_asleep(&handle, &mut sleeps);
        let generation = engine.publisher.store(control(1).tables.snapshot());
        assert!(
            engine
                .publisher
                .readers()
                .wait_adopted(generation, DEADLINE)
        );
        assert_eq!(engine.publisher.collect(), 0);
    }
    until_asleep(&handle, &mut sleeps);
    handle.stop();
    let stats = Arc::clone(handle.stats());
    let worker = handle.join().unwrap();
    assert_eq!(worker.frames(), worker.frames_total());
    assert_eq!(engine.counters[0].snapshot().forwarded.packets, 40);
    assert_eq!(
        stats.port(V6_PORT).unwrap().tx_packets,
        40,
        "published at the end"
    );
    let report = stats.report();
    assert!(report.idle_ns > 0 && report.busy_ns > 0 && report.busy_share() < 1.0);
}

#[test]
fn ports_come_and_go_under_a_running_worker() {
    let (_engine, handle, [v4, v6]) = sleeper();
    assert!(handle.detach(V6_PORT));
    let mut left = None;
    until("the port has left", || {
        left = left.take().or_else(|| handle.departed());
        left.is_some()
    });
    let (id, _old) = left.unwrap();
    assert_eq!((id, handle.stats().port(V6_PORT)), (V6_PORT, None));
    assert!(v4.push(&from_user(10)));
    until("the packet is taken", || v4.backlog() == 0);

    let (port, link) = MemPort::pair_pollable(128, 128).unwrap();
    handle.attach(V6_PORT, port).unwrap();
    // the attach is queued before the packet, so it is effective by the time the packet is taken
    assert!(v4.push(&from_user(10)));
    until("the packet leaves by the new port", || link.discard() == 1);
    assert!(link.push(&to_user(10)));
    until("the new port receives", || v4.discard() == 1);
    assert_eq!(v6.discard(), 0);

    let (surplus, _link) = MemPort::pair(1, 1);
    handle.attach(V4_PORT, surplus).unwrap();
    until("the surplus port comes back", || {
        handle.departed().is_some_and(|(id, _)| id == V4_PORT)
    });
    handle.stop();
    let worker = handle.join().unwrap();
    assert_eq!(worker.frames(), worker.frames_total());
}

#[test]
fn a_worker_is_pinned_where_it_was_told() {
    let spawn = |cpu| {
        let mut control = control(1);
        let config = EngineConfig::new(1, 7);
        let mut engine = Engine::new(&config, control.tables.snapshot()).unwrap();
        let ports: PortSet<MemPort> = PortSet::new();
        let worker = engine.seats.remove(0).worker(ports, FramePool::heap(1));
        worker.spawn(SpawnOptions {
            cpu: Some(cpu),
            ..options("pinned", IdlePolicy::POLL)
        })
    };
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let cpu = (0..1024).find(|cpu| allowed.is_set(*cpu)).unwrap();
    let handle = spawn(cpu).unwrap();
    assert_eq!(handle.stats().report().cpu, Some(cpu as u32));
    handle.stop();
    handle.join().unwrap();

    let error = spawn(1_000_000).unwrap_err();
    assert!(
        matches!(error, SpawnError::Pin { cpu: 1_000_000, .. }),
        "{error}"
    );
}

/// The effective capabilities of this process's threads of that name.
fn capabilities_of(name: &str) -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let named = tasks
        .map(|task| task.unwrap().path())
        .filter(|task| read(task.join("comm")).trim_end() == name);
    named
        .map(|task| {
            let status = read(task.join("status"));
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
            u64::from_str_radix(effective.expect("CapEff").trim(), 16).unwrap()
        })
        .collect()
}

/// Means something only where the tests run as root.
#[test]
fn a_worker_gives_up_its_capabilities_and_nobody_elses() {
    let before = capabilities_of("sleeper-caps");
    assert_eq!(before, []);
    let mut control = control(1);
    let config = EngineConfig::new(1, 7);
    let mut engine = Engine::new(&config, control.tables.snapshot()).unwrap();
    let ports: PortSet<MemPort> = PortSet::new();
    let worker = engine.seats.remove(0).worker(ports, FramePool::heap(1));
    let mine = rustix::thread::capabilities(None).unwrap();
    let handle = worker
        .spawn(options("sleeper-caps", IdlePolicy::POLL))
        .unwrap();
    assert_eq!(capabilities_of("sleeper-caps"), [0]);
    assert_eq!(
        rustix::thread::capabilities(None).unwrap().permitted,
        mine.permitted
    );
    handle.stop();
    handle.join().unwrap();
}

/// Sends through one worker until told to stop; returns how many packets left the relay.
fn traffic(v4: &MemLink, v6: &MemLink, remotes: [Ipv4Addr; 2], packets: usize) -> usize {
    let packet = to_user(64);
    let (mut pushed, mut pulled) = (0, 0);
    until("all packets are through", || {
        while pushed < packets && pushed - pulled < 64 && v6.push(&packet) {
            pushed += 1;
        }
        while let Some(sent) = v4.pull() {
            let remote: [u8; 4] = sent[30..34].try_into().unwrap();
            assert!(
                remotes.contains(&remote.into()),
                "neither the old nor the new tunnel"
            );
            pulled += 1;
        }
        pulled == packets
    });
    pulled
}

#[test]
fn publishing_under_two_workers_loses_nothing() {
    const PACKETS: usize = 20_000;
    let remotes = [REMOTE, Ipv4Addr::new(192, 0, 2, 11)];
    let mut control = control(2);
    let mut engine = Engine::new(&EngineConfig::new(2, 7), control.tables.snapshot()).unwrap();
    let mut handles = Vec::new();
    let mut flows = Vec::new();
    for (i, seat) in std::mem::take(&mut engine.seats).into_iter().enumerate() {
        let (v4_port, v4) = MemPort::pair(128, 128);
        let (v6_port, v6) = MemPort::pair(128, 128);
        let worker = seat.worker(ports([v4_port, v6_port]), FramePool::heap(256));
        let idle = IdlePolicy::Poll {
            spin_turns: 8,
            timeout: Duration::from_millis(1),
        };
        handles.push(worker.spawn(options(&format!("worker-{i}"), idle)).unwrap());
        flows.push(std::thread::spawn(move || {
            traffic(&v4, &v6, remotes, PACKETS)
        }));
    }
    let mut snapshots: Vec<Weak<_>> = Vec::new();
    let mut flips = 0;
    while flows.iter().any(|flow| !flow.is_finished()) || flips < 100 {
        flips += 1;
        let spec = tunnel_to(remotes[flips % 2]);
        control.tables.update_tunnel(control.tunnel, &spec).unwrap();
        let snapshot = control.tables.snapshot();
        snapshots.push(Arc::downgrade(&snapshot));
        let generation = engine.publisher.store(snapshot);
        assert!(
            engine
                .publisher
                .readers()
                .wait_adopted(generation, DEADLINE)
        );
        assert_eq!(engine.publisher.collect(), 0);
        snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        assert_eq!(snapshots.len(), 1, "only the newest is alive");
    }
    for flow in flows {
        assert_eq!(flow.join().unwrap(), PACKETS);
    }
    handles.iter().for_each(WorkerHandle::stop);
    for handle in handles {
        let worker = handle.join().unwrap();
        assert_eq!(worker.frames(), worker.frames_total());
        assert_eq!(worker.local().counters().forwarded.packets, PACKETS as u64);
        assert_eq!(worker.local().counters().unaccounted(), 0);
    }
    let unknown = PortId(9);
    assert!(
        engine
            .injector
            .inject(2, b"", InjectKind::Transmit { port: unknown })
            .is_err()
    );
}
