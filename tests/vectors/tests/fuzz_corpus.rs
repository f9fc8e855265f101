//! Every file of this crate's fuzz corpus, through the function the fuzzer calls.

use proptest::prelude::*;
use sixferry_vectors::fuzz::{TARGETS, mixed, reassembly, seeds};
use sixferry_vectors::schema::VectorFile;
use std::fs;
use std::path::PathBuf;

fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"))
}

fn vectors() -> VectorFile {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proto41.json"));
    serde_json::from_str(&text.expect("proto41.json")).expect("schema")
}

#[test]
fn every_file_of_the_corpus_passes() {
    for (target, body) in TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(directory().join(target)).expect("a directory per target") {
            let path = entry.expect("an entry").path();
            // the name of the last file printed is that of a failure
            println!("{}", path.display());
            body(&fs::read(&path).expect("a file"));
            files += 1;
        }
        assert!(files >= 7, "{target}: {files} files");
    }
}

#[test]
fn seeds_are_as_committed() {
    for (target, name, data) in seeds(&vectors()).expect("seeds") {
        let path = directory().join(target).join(&name);
        let committed = fs::read(&path).unwrap_or_default();
        let path = path.display();
        assert!(
            committed == data,
            "{path} is out of date: run the example fuzz-seeds"
        );
    }
}

#[test]
fn an_input_may_end_anywhere() {
    let seeds = seeds(&vectors()).expect("seeds");
    for (target, name, data) in &seeds {
        let step = if *target == "mixed" {
            data.len() / 5
        } else {
            7
        };
        if name == "relay" || name == "three" {
            let body = if *target == "mixed" {
                mixed
            } else {
                reassembly
            };
            (0..data.len())
                .step_by(step)
                .for_each(|len| body(&data[..len]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What a fuzzer would do first: a seed with a few bytes changed.
    #[test]
    fn changed_seeds_pass(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let seeds = seeds(&vectors()).expect("seeds");
        let seeds: Vec<_> = seeds.iter().filter(|(target, ..)| *target == "reassembly").collect();
        let mut data = which.get(&seeds).2.clone();
        for (at, value) in changes {
            let at = at.index(data.len());
            data[at] = value;
        }
        reassembly(&data);
    }
}
