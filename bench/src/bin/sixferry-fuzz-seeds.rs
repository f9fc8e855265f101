//! Writes the seeds of the fuzz corpus.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_bench::corpus;
use std::path::PathBuf;

/// Writes the seeds of the fuzz corpus; other files there stay as they are.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Directory with one directory per target
    #[arg(default_value = "tests/fuzz/corpus")]
    directory: PathBuf,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    for entry in corpus::entries() {
        let directory = args.directory.join(entry.target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(&entry.name), &entry.data)?;
    }
    Ok(())
}
