//! Every file of the fuzz corpus, through the function the fuzzer calls.

use sixferry_bench::corpus;
use sixferry_bench::fuzz_targets::TARGETS;
use std::fs;
use std::path::PathBuf;

fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus"))
}

#[test]
fn every_file_of_the_corpus_passes() {
    for (target, body) in TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(directory().join(target)).expect("a directory per target") {
            let path = entry.expect("an entry").path();
            let data = fs::read(&path).expect("a file");
            // the name of the last file printed is that of a failure
            println!("{}", path.display());
            body(&data);
            files += 1;
        }
        assert!(files >= 10, "{target}: {files} files");
    }
}

#[test]
fn seeds_are_as_committed() {
    for entry in corpus::entries() {
        let path = directory().join(entry.target).join(&entry.name);
        let committed = fs::read(&path).unwrap_or_default();
        assert!(
            committed == entry.data,
            "{} is out of date: run sixferry-fuzz-seeds",
            path.display()
        );
    }
}

#[test]
fn an_input_may_end_anywhere() {
    let (_, process) = TARGETS[0];
    let entry = corpus::entries()
        .into_iter()
        .find(|entry| entry.name == "decap-hairpin")
        .expect("a seed of that name");
    for len in 0..entry.data.len() {
        process(&entry.data[..len]);
    }
}
