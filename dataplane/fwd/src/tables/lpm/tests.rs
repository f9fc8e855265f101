use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Model(BTreeMap<(u32, u128), u32>);

impl Model {
    fn lookup(&self, key: u128) -> u32 {
        (0..=128u32)
            .rev()
            .find_map(|len| self.0.get(&(len, mask(key, len))).copied())
            .unwrap_or(NONE)
    }
}

fn prefix() -> impl Strategy<Value = (u128, u32)> {
    // few distinct high bits, so that prefixes nest and nodes fill up
    (0u32..=128, any::<u128>(), 0u32..120).prop_map(|(len, bits, shift)| {
        let key = (bits & 0x3f) << shift | 0x2001_0db8u128 << 96;
        (mask(key, len), len)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_map(
        ops in prop::collection::vec((any::<bool>(), prefix(), 1u32..1000), 1..300),
    ) {
        let mut lpm = Lpm::new();
        let mut model = Model::default();
        let mut keys = vec![];
        for (add, (key, len), value) in ops {
            keys.extend([key, key | (u128::MAX >> 1 >> len.min(127)), key ^ 1]);
            if add {
                prop_assert_eq!(lpm.insert(key, len, value), model.0.insert((len, key), value));
            } else {
                prop_assert_eq!(lpm.remove(key, len), model.0.remove(&(len, key)));
            }
            prop_assert_eq!(lpm.get(key, len), model.0.get(&(len, key)).copied());
        }
        prop_assert_eq!(lpm.len(), model.0.len());
        let mut out: Vec<_> = keys.iter().map(|key| lpm.enter(*key)).collect();
        let mut walks: Vec<Walk> = out.iter().filter_map(|entered| entered.err()).collect();
        lpm.finish(&mut walks);
        let mut walked = walks.iter().map(|walk| lpm.result(walk));
        for (key, entered) in keys.iter().zip(&mut out) {
            let got = entered.unwrap_or_else(|_| walked.next().expect("one for each"));
            prop_assert_eq!(got, model.lookup(*key));
            prop_assert_eq!(lpm.lookup(*key), got);
        }
        let mut seen = BTreeMap::new();
        lpm.visit(0, 0, &mut |key, len, value| {
            seen.insert((len, key), value);
            true
        });
        prop_assert_eq!(&seen, &model.0);
        for (len, key) in model.0.keys() {
            let longer = model.0.keys().any(|(l, k)| l > len && mask(*k, *len) == *key);
            prop_assert_eq!(lpm.has_longer(*key, *len), longer);
            let covering = (0..*len).rev().find_map(|l| {
                model.0.get(&(l, mask(*key, l))).map(|value| (*value, l))
            });
            prop_assert_eq!(lpm.covering(*key, *len), covering);
        }
        for (len, key) in model.0.keys().copied().collect::<Vec<_>>() {
            lpm.remove(key, len);
        }
        prop_assert_eq!(lpm.len(), 0);
    }
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
