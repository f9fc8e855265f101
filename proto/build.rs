//! Compiles the .proto files with protox, so that no protoc is needed, and writes the descriptor
//! set for server reflection.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = proto_files(&root.join("sixferry/dataplane/v1"))?;
    println!(
        "cargo::rerun-if-changed={}",
        root.join("sixferry").display()
    );
    println!("cargo::rerun-if-changed={}", root.join("google").display());

    let set = protox::compile(&files, [&root])?;
    // `compile_fds` writes no descriptor file: reflection needs it, so it is written here.
    fs::write(out.join("sixferry_descriptor.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(set)?;
    Ok(())
}

fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    // Directory order differs between file systems; the descriptor set must not.
    files.sort();
    Ok(files)
}
