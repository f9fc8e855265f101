//! Compiles the XDP programs in `bpf/` with clang. No object file is committed: what runs is
//! always what the source says.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const PROGRAMS: [&str; 2] = ["steer", "pass"];

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for program in PROGRAMS {
        let source = format!("bpf/{program}.bpf.c");
        let object = out.join(format!("{program}.bpf.o"));
        if let Err(reason) = compile(&clang, Path::new(&source), &object) {
            eprintln!("error: cannot compile the XDP program {source}: {reason}");
            exit(1);
        }
    }
}

fn compile(clang: &str, source: &Path, object: &Path) -> Result<(), String> {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let target = match env("CARGO_CFG_TARGET_ENDIAN").as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let mut command = Command::new(clang);
    command
        .args([
            "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target,
        ])
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object);
    // Debian keeps <asm/types.h> in a directory that `-target bpf` does not search.
    let arch = env("CARGO_CFG_TARGET_ARCH");
    let multiarch = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    if multiarch.is_dir() {
        command.arg("-I").arg(multiarch);
    }
    let output = command.output().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            format!("`{clang}` is not installed; fix: apt-get install clang libbpf-dev")
        } else {
            format!("`{clang}`: {error}")
        }
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let missing = |header: &str| text.contains(header) && text.contains("file not found");
    let hint = if missing("bpf/bpf_") {
        "\nfix: apt-get install libbpf-dev"
    } else if missing("asm/") || missing("linux/") {
        "\nfix: apt-get install linux-libc-dev"
    } else if text.contains("unknown target triple") || text.contains("No available targets") {
        "\nfix: this clang has no BPF back end; apt-get install clang"
    } else {
        ""
    };
    Err(format!("{}\n{text}{hint}", output.status))
}
