//! `sixferry-vectors FILE`: runs a vector file, prints what differs, ends with one summary line.

#![forbid(unsafe_code)]

use clap::Parser;
use sixferry_vectors::run::{Verdicted, run};
use sixferry_vectors::schema::VectorFile;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs packet vectors through the forwarding core.
#[derive(Debug, Parser)]
struct Args {
    /// Vector file, schema proto41-vectors-1.
    file: PathBuf,
    /// Also name the vectors that pass or are skipped.
    #[arg(long, short)]
    verbose: bool,
    /// Only vectors whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match load(&args) {
        Ok(file) => report(&args, &file),
        Err(error) => {
            eprintln!("sixferry-vectors: {}: {error}", args.file.display());
            ExitCode::from(2)
        }
    }
}

fn load(args: &Args) -> Result<VectorFile, String> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| e.to_string())?;
    let mut file: VectorFile = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if file.schema != "proto41-vectors-1" {
        return Err(format!("schema `{}` is not proto41-vectors-1", file.schema));
    }
    if let Some(only) = &args.only {
        file.vectors.retain(|v| v.name.contains(only.as_str()));
        file.steering.retain(|v| v.name.contains(only.as_str()));
    }
    Ok(file)
}

fn report(args: &Args, file: &VectorFile) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    for (vector, result) in run(file) {
        match result {
            Verdicted::Passed => {
                passed += 1;
                if args.verbose {
                    println!("pass {} ({})", vector.name, vector.config);
                }
            }
            Verdicted::Failed(text) => {
                failed += 1;
                println!("FAIL {} ({})\n{text}", vector.name, vector.config);
            }
            Verdicted::Skipped(reason) => {
                *skipped.entry(reason).or_default() += 1;
                if args.verbose {
                    println!("skip {} ({}): {reason}", vector.name, vector.config);
                }
            }
        }
    }
    for (reason, count) in &skipped {
        println!("skipped: {count} that need {reason}");
    }
    let steering_ok = steering(args, file);
    println!(
        "{passed} passed, {failed} failed, {} skipped",
        skipped.values().sum::<usize>()
    );
    if failed == 0 && steering_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(not(feature = "steering"))]
fn steering(_args: &Args, file: &VectorFile) -> bool {
    println!(
        "steering: {} frames not run (built without the steering feature)",
        file.steering.len()
    );
    true
}

#[cfg(feature = "steering")]
fn steering(args: &Args, file: &VectorFile) -> bool {
    sixferry_vectors::steering::report(file, args.verbose)
}
