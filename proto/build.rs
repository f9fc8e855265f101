//! Compiles the .proto files with protox, so that no protoc is needed, and writes the descriptor
//! sets for server reflection.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;

/// The APIs, and where the descriptors of each are put: a daemon reflects its own alone.
const PACKAGES: [(&str, &str); 2] = [
    ("sixferry/dataplane/v1", "dataplane_descriptor.bin"),
    ("sixferry/control/v1", "control_descriptor.bin"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!(
        "cargo::rerun-if-changed={}",
        root.join("sixferry").display()
    );
    println!("cargo::rerun-if-changed={}", root.join("google").display());

    for (package, descriptor) in PACKAGES {
        let files = proto_files(&root.join(package))?;
        let set = protox::compile(&files, [&root])?;
        // `compile_fds` writes no descriptor file: reflection needs it, so it is written here.
        fs::write(out.join(descriptor), set.encode_to_vec())?;
        tonic_prost_build::configure()
            .extern_path(".google.rpc", "::tonic_types::pb")
            .compile_fds(set)?;
    }
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
