use super::*;
use proptest::prelude::*;

type Prefix = (u128, u32);

#[derive(Clone, Debug)]
enum Op {
    Insert(Prefix, u32),
    Remove(Prefix),
    /// Takes out the nth of those that are in, if any is.
    RemoveKnown(usize),
}

#[derive(Clone, Default)]
struct Model(BTreeMap<(u32, u128), u32>);

impl Model {
    fn lookup(&self, key: u128) -> u32 {
        self.best(key, 129).map_or(NONE, |(value, _)| value)
    }

    /// The longest prefix shorter than `len` that holds `key`.
    fn best(&self, key: u128, len: u32) -> Option<(u32, u32)> {
        let of = |len: u32| Some((*self.0.get(&(len, mask(key, len)))?, len));
        (0..len).rev().find_map(of)
    }

    fn inside(&self, key: u128, len: u32) -> BTreeMap<(u32, u128), u32> {
        let inside =
            |((at, prefix), _): &(&(u32, u128), _)| *at >= len && mask(*prefix, len) == key;
        let all = self.0.iter().filter(inside);
        all.map(|(prefix, value)| (*prefix, *value)).collect()
    }
}

/// Few distinct high bits, so that prefixes nest and nodes fill up.
fn clustered() -> impl Strategy<Value = Prefix> {
    (0u32..=128, any::<u128>(), 0u32..120).prop_map(|(len, bits, shift)| {
        let key = (bits & 0x3f) << shift | 0x2001_0db8u128 << 96;
        (mask(key, len), len)
    })
}

/// All lengths along few keys: nothing but nesting.
fn nested() -> impl Strategy<Value = Prefix> {
    (0u32..=128, 0usize..3).prop_map(|(len, which)| {
        let keys = [
            u128::MAX / 3,
            0x2001_0db8u128 << 96,
            (u128::MAX / 3) ^ (1 << 60),
        ];
        (mask(keys[which], len), len)
    })
}

/// Prefixes that mostly are alone.
fn lone() -> impl Strategy<Value = Prefix> {
    let len = prop_oneof![16u32..=128, Just(32), Just(48), Just(64), Just(128)];
    (len, any::<u128>()).prop_map(|(len, key)| (mask(key, len), len))
}

/// Neighbours that part in their last bits: a push through many levels.
fn twins() -> impl Strategy<Value = Prefix> {
    (any::<bool>(), 0u128..8).prop_map(|(long, host)| {
        let base = 0x2001_0db8_ffff_0000u128 << 64;
        if long {
            (base | host, 128)
        } else {
            (base + (host << 80), 48)
        }
    })
}

fn prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![3 => clustered(), 2 => nested(), 2 => lone(), 1 => twins()]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (prefix(), 1u32..1000).prop_map(|(prefix, value)| Op::Insert(prefix, value)),
        1 => prefix().prop_map(Op::Remove),
        3 => any::<usize>().prop_map(Op::RemoveKnown),
    ]
}

/// Walks as the packet path does.
fn walked(lpm: &Lpm, keys: &[u128]) -> Vec<u32> {
    let entered: Vec<_> = keys.iter().map(|key| lpm.enter(*key)).collect();
    let mut walks: Vec<Walk> = entered.iter().filter_map(|entered| entered.err()).collect();
    lpm.finish(&mut walks);
    let mut found = walks.iter().map(|walk| lpm.result(walk));
    let result = |entered: &Result<u32, Walk>| {
        entered.unwrap_or_else(|_| found.next().expect("one for each"))
    };
    entered.iter().map(result).collect()
}

fn visited(lpm: &Lpm, key: u128, len: u32) -> BTreeMap<(u32, u128), u32> {
    let mut seen = BTreeMap::new();
    lpm.visit(key, len, &mut |key, len, value| {
        assert_eq!(seen.insert((len, key), value), None, "seen twice");
        true
    });
    seen
}

/// Nodes, leaves among them, and values that are in blocks.
fn size(lpm: &Lpm) -> (usize, usize) {
    (lpm.nodes.in_use(), lpm.values.in_use())
}

fn agrees(lpm: &Lpm, model: &Model, about: &[Prefix]) {
    assert_eq!(lpm.len(), model.0.len());
    let mut keys = vec![];
    for &(key, len) in about {
        let last = key | u128::MAX.checked_shr(len).unwrap_or(0);
        keys.extend([
            key,
            last,
            key ^ 1,
            last.wrapping_add(1),
            key ^ ((1 << 127) >> len.min(127)),
        ]);
        assert_eq!(lpm.get(key, len), model.0.get(&(len, key)).copied());
        assert_eq!(lpm.covering(key, len), model.best(key, len));
        assert_eq!(lpm.find(last), model.best(last, 129));
        let inside = model.inside(key, len);
        let longer = inside.keys().any(|(at, _)| *at > len);
        assert_eq!(lpm.has_longer(key, len), longer, "{key:x}/{len}");
        assert_eq!(visited(lpm, key, len), inside, "{key:x}/{len}");
    }
    for (key, found) in keys.iter().zip(walked(lpm, &keys)) {
        assert_eq!(found, model.lookup(*key), "{key:x}");
        assert_eq!(lpm.lookup(*key), found, "{key:x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec(op(), 1..300)) {
        let mut lpm = Lpm::new();
        let empty = (lpm.bytes(), size(&lpm));
        let mut model = Model::default();
        let mut recent = vec![];
        let mut snapshots = vec![];
        for (step, op) in ops.into_iter().enumerate() {
            let op = match op {
                Op::RemoveKnown(_) if model.0.is_empty() => continue,
                Op::RemoveKnown(nth) => {
                    let nth = nth % model.0.len();
                    let ((len, key), _) = model.0.iter().nth(nth).expect("there is one");
                    Op::Remove((*key, *len))
                }
                op => op,
            };
            match op {
                Op::Insert((key, len), value) => {
                    prop_assert_eq!(lpm.insert(key, len, value), model.0.insert((len, key), value));
                    recent.push((key, len));
                }
                Op::Remove((key, len)) => {
                    prop_assert_eq!(lpm.remove(key, len), model.0.remove(&(len, key)));
                    recent.push((key, len));
                }
                Op::RemoveKnown(_) => {}
            }
            if step % 16 == 15 {
                agrees(&lpm, &model, &recent);
                snapshots.push((lpm.clone(), model.clone(), std::mem::take(&mut recent)));
            }
        }
        agrees(&lpm, &model, &recent);
        let all: Vec<Prefix> = model.0.keys().map(|(len, key)| (*key, *len)).collect();
        agrees(&lpm, &model, &all);
        prop_assert_eq!(visited(&lpm, 0, 0), model.0.clone());

        // what has been in and gone leaves no trace in the shape
        let mut anew = Lpm::new();
        for ((len, key), value) in model.0.iter().rev() {
            anew.insert(*key, *len, *value);
        }
        prop_assert_eq!(size(&anew), size(&lpm));

        for (key, len) in all {
            prop_assert!(lpm.remove(key, len).is_some());
        }
        prop_assert_eq!((lpm.bytes(), size(&lpm)), empty);
        for (snapshot, model, recent) in snapshots {
            agrees(&snapshot, &model, &recent);
        }
    }
}

#[test]
fn a_lone_prefix_takes_one_place_whatever_its_length() {
    for len in DIRECT..=128 {
        let mut lpm = Lpm::new();
        lpm.insert(mask(u128::MAX / 3, len), len, 7);
        assert_eq!(size(&lpm), (1, 0), "/{len}");
        assert_eq!(lpm.find(u128::MAX / 3), Some((7, len)));
    }
}

#[test]
fn a_prefix_that_is_alone_again_takes_one_place() {
    let (one, other) = (0x2001_0db8u128 << 96, 0x2001_0db8u128 << 96 | 1);
    let mut lpm = Lpm::new();
    lpm.insert(one, 128, 1);
    lpm.insert(other, 128, 2);
    // 58 bits lie in the direct index; then a node for each six bits, and two values in the last one
    assert_eq!(size(&lpm), (12, 2));
    assert_eq!(
        (lpm.lookup(one), lpm.lookup(other), lpm.lookup(one | 2)),
        (1, 2, NONE)
    );
    assert_eq!(lpm.remove(one, 128), Some(1));
    assert_eq!(size(&lpm), (1, 0));
    assert_eq!((lpm.lookup(one), lpm.lookup(other)), (NONE, 2));
}

#[test]
fn scattered_prefixes_take_little() {
    let mut lpm = Lpm::new();
    let empty = lpm.bytes();
    let mut bits = 1u64;
    while lpm.len() < 100_000 {
        // xorshift64: in no order, and the same in every run
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        lpm.insert(mask(u128::from(bits) << 64, 48), 48, 1);
    }
    // 24 for a leaf, the rest for the nodes above and for room
    let each = (lpm.bytes() - empty) / lpm.len();
    assert!(each < 48, "{each} bytes");
}

#[test]
fn a_snapshot_is_not_disturbed() {
    let mut lpm = Lpm::new();
    for i in 0..2000u128 {
        lpm.insert((0x2001_0db8_0000 + i) << 80, 48, 1);
    }
    let snapshot = lpm.clone();
    for i in 0..2000u128 {
        lpm.remove((0x2001_0db8_0000 + i) << 80, 48);
    }
    assert_eq!(lpm.len(), 0);
    for i in 0..2000u128 {
        assert_eq!(snapshot.lookup((0x2001_0db8_0000 + i) << 80 | 5), 1);
    }
}

#[test]
fn freed_memory_is_used_again() {
    let mut lpm = Lpm::new();
    // one that stays: an empty table would simply begin anew
    lpm.insert(0xfd00u128 << 112, 16, 1);
    let mut first = 0;
    for round in 0..5 {
        for i in 0..5000u128 {
            lpm.insert((0x2001_0db8_0000 + i * 7) << 80, 48, 1);
        }
        for i in 0..5000u128 {
            lpm.remove((0x2001_0db8_0000 + i * 7) << 80, 48);
        }
        if round == 0 {
            first = lpm.bytes();
        }
    }
    assert!(
        lpm.bytes() <= first + first / 4,
        "{} after {first}",
        lpm.bytes()
    );
}
