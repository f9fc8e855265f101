//! The state machine against a model that is obviously right.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;
use sixferry_fwd::{Ipv6Prefix, Settings, TunnelSpec};

use super::error::Error;
use super::liveness::Liveness;
use super::patch::TunnelPatch;
use super::session::{OwnerId, STATIC};
use super::tunnels::TunnelOp;
use super::{Atomicity, Control, WriteMode};

mod domains;

fn control() -> Control {
    Control::new(Settings::default(), 1, Arc::from("test"))
}

/// Few values, so that entries collide.
fn spec(remote: u8, prefix: u8, mtu: u16) -> TunnelSpec {
    let mut spec = TunnelSpec::new(
        Ipv4Addr::new(198, 51, 100, 1),
        Ipv4Addr::new(192, 0, 2, remote),
    );
    let address = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(prefix) << 80);
    spec.prefixes = vec![Ipv6Prefix::containing(address, 48)];
    spec.mtu = mtu;
    spec
}

fn upsert(id: &str, spec: TunnelSpec) -> TunnelOp {
    let patch = Box::new(TunnelPatch::whole(&spec, Liveness::default()));
    TunnelOp::Upsert {
        id: id.to_owned(),
        patch,
        mode: WriteMode::Upsert,
    }
}

fn delete(id: &str) -> TunnelOp {
    TunnelOp::Delete {
        id: id.to_owned(),
        must_exist: false,
    }
}

/// Everything a reader can see, by id.
fn seen(control: &Control) -> BTreeMap<String, (TunnelSpec, u64, bool)> {
    let mut all = BTreeMap::new();
    let mut next = Some(0);
    while let Some(from) = next {
        let (views, more) = control.list_tunnels(from, 64, None, false);
        next = more;
        all.extend(
            views
                .into_iter()
                .map(|v| (v.id, (v.spec, v.revision, v.stale))),
        );
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    Program {
        ops: Vec<Entry>,
        whole: bool,
        dry: bool,
    },
    BeginSync,
    CommitSync,
    AbortSync,
}

#[derive(Clone, Debug)]
enum Entry {
    Put {
        id: u8,
        remote: u8,
        prefix: u8,
        mtu: u16,
    },
    Delete {
        id: u8,
    },
}

fn entry() -> impl Strategy<Value = Entry> {
    let mtu = prop::sample::select(vec![1280_u16, 1400, 1500]);
    prop_oneof![
        3 => (0_u8..8, 1_u8..8, 0_u8..8, mtu)
            .prop_map(|(id, remote, prefix, mtu)| Entry::Put { id, remote, prefix, mtu }),
        1 => (0_u8..8).prop_map(|id| Entry::Delete { id }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ops = prop::collection::vec(entry(), 0..12);
    prop_oneof![
        8 => (ops, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(ops, whole, dry)| Step::Program { ops, whole, dry }),
        1 => Just(Step::BeginSync),
        1 => Just(Step::CommitSync),
        1 => Just(Step::AbortSync),
    ]
}

/// What must come of the steps, said as simply as possible.
#[derive(Clone, Default)]
struct Model {
    tunnels: BTreeMap<String, (u8, u8, u16)>,
    stale: std::collections::BTreeSet<String>,
    syncing: bool,
}

impl Model {
    fn apply(&mut self, entry: &Entry) -> bool {
        match entry {
            Entry::Delete { id } => {
                self.tunnels.remove(&id.to_string());
                self.stale.remove(&id.to_string());
                true
            }
            Entry::Put {
                id,
                remote,
                prefix,
                mtu,
            } => {
                let id = id.to_string();
                let others = || self.tunnels.iter().filter(|(other, _)| **other != id);
                let taken = others().any(|(_, (r, p, _))| r == remote || p == prefix);
                if taken || *mtu > 1480 {
                    return false;
                }
                self.stale.remove(&id);
                self.tunnels.insert(id, (*remote, *prefix, *mtu));
                true
            }
        }
    }

    /// Gives which entries fail.
    fn program(&mut self, ops: &[Entry], whole: bool, dry: bool) -> Vec<usize> {
        let before = self.clone();
        let mut failed = Vec::new();
        for (index, entry) in ops.iter().enumerate() {
            if !self.apply(entry) {
                failed.push(index);
                if whole {
                    break;
                }
            }
        }
        if dry || whole && !failed.is_empty() {
            *self = before;
        }
        failed
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn behaves_like_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let mut control = control();
        let mut model = Model::default();
        let (opened, ..) = control.open_session("test", 1).expect("opens");
        let owner = opened.owner;
        let mut generation = 0;
        for step in steps {
            let before = (seen(&control), control.revision());
            match step {
                Step::Program { ops, whole, dry } => {
                    let failed = model.program(&ops, whole, dry);
                    let ops = ops.iter().map(|entry| match entry {
                        Entry::Put { id, remote, prefix, mtu } => {
                            upsert(&id.to_string(), spec(*remote, *prefix, *mtu))
                        }
                        Entry::Delete { id } => delete(&id.to_string()),
                    });
                    let atomicity =
                        if whole { Atomicity::AllOrNothing } else { Atomicity::EachForItself };
                    let outcome = control.program_tunnels(owner, ops.collect(), atomicity, dry);
                    let found: Vec<_> = outcome.failures.iter().map(|(i, _)| *i).collect();
                    prop_assert_eq!(found, failed);
                    if outcome.rolled_back || dry {
                        prop_assert_eq!(&(seen(&control), control.revision()), &before);
                    }
                }
                Step::BeginSync => {
                    generation = control.begin_sync(owner).0;
                    model.syncing = true;
                    model.stale = model.tunnels.keys().cloned().collect();
                }
                Step::CommitSync => {
                    let swept = control.commit_sync(owner, generation.into(), 0);
                    if model.syncing {
                        let swept = swept.expect("a sync runs");
                        prop_assert_eq!(swept.tunnels, model.stale.len() as u64);
                        prop_assert_eq!(swept.next, None);
                        for id in std::mem::take(&mut model.stale) {
                            model.tunnels.remove(&id);
                        }
                        model.syncing = false;
                    } else {
                        prop_assert_eq!(swept, Err(Error::NoSync { owner: "test".into() }));
                    }
                }
                Step::AbortSync => {
                    let aborted = control.abort_sync(owner, generation.into());
                    prop_assert_eq!(aborted.is_ok(), model.syncing);
                    model.syncing = false;
                    model.stale.clear();
                }
            }
            let expected: BTreeMap<_, _> = model
                .tunnels
                .iter()
                .map(|(id, (r, p, m))| (id.clone(), (spec(*r, *p, *m), model.stale.contains(id))))
                .collect();
            let found: BTreeMap<_, _> = seen(&control)
                .into_iter()
                .map(|(id, (spec, _, stale))| (id, (spec, stale)))
                .collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(control.tunnel_count(), control.builder().tunnel_count());
            let counted = control.owner_counts().iter().map(|(_, has)| has.tunnels).sum::<u64>();
            prop_assert_eq!(counted, model.tunnels.len() as u64);
        }
    }

    /// A watcher that only reads the log ends up with what the table says.
    #[test]
    fn the_log_tells_the_whole_story(
        messages in prop::collection::vec(prop::collection::vec(entry(), 0..12), 1..30),
        pause in 1_usize..20,
    ) {
        use super::read::WatchItem;
        let mut control = control();
        let mut copy = BTreeMap::new();
        let mut cursor = 0;
        for (at, ops) in messages.into_iter().enumerate() {
            let ops = ops.iter().map(|entry| match entry {
                Entry::Put { id, remote, prefix, mtu } => {
                    upsert(&id.to_string(), spec(*remote, *prefix, *mtu))
                }
                Entry::Delete { id } => delete(&id.to_string()),
            });
            control.program_tunnels(STATIC, ops.collect(), Atomicity::EachForItself, false);
            if at % pause != 0 {
                continue;
            }
            loop {
                let (items, reached) = control.changes_since(cursor, 5, None).expect("kept");
                for item in items {
                    match item {
                        WatchItem::Upserted { tunnel, .. } => {
                            copy.insert(tunnel.id.clone(), tunnel.spec);
                        }
                        WatchItem::Removed { id, .. } => {
                            copy.remove(&id);
                        }
                    }
                }
                if reached == cursor {
                    break;
                }
                cursor = reached;
            }
            let now: BTreeMap<_, _> =
                seen(&control).into_iter().map(|(id, (spec, ..))| (id, spec)).collect();
            prop_assert_eq!(&copy, &now);
        }
    }
}

#[test]
fn a_sweep_works_in_slices() {
    let mut control = control();
    let many = |from: u32, to: u32| {
        (from..to)
            .map(|n| {
                let remote = Ipv4Addr::from(0x0a00_0000 + n);
                upsert(
                    &n.to_string(),
                    TunnelSpec::new([198, 51, 100, 1].into(), remote),
                )
            })
            .collect::<Vec<_>>()
    };
    for from in (0..3000).step_by(500) {
        let ops = many(from, from + 500);
        control.program_tunnels(STATIC, ops, Atomicity::EachForItself, false);
    }
    let (generation, stale) = control.begin_sync(STATIC);
    assert_eq!(stale, 3000);
    control.program_tunnels(STATIC, many(0, 100), Atomicity::EachForItself, false);
    let (mut from, mut slices, mut removed) = (0, 0, 0);
    loop {
        let swept = control
            .commit_sync(STATIC, generation.into(), from)
            .expect("runs");
        assert!(swept.tunnels <= 512, "bounded work under the lock");
        slices += 1;
        removed += swept.tunnels;
        // Meanwhile others go on writing, and what they write now is confirmed.
        control.program_tunnels(STATIC, many(50, 60), Atomicity::EachForItself, false);
        match swept.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!((removed, control.tunnel_count()), (2900, 100));
    assert!(slices >= 6, "{slices}");
}

#[test]
fn an_unknown_owner_has_nothing() {
    let control = control();
    assert_eq!(control.find_owner("nobody"), None);
    assert_eq!(control.find_owner("static"), Some(OwnerId(0)));
}
