//! Compiles the XDP programs of the end-to-end bench, if it is wanted (feature `e2e`).

use std::path::PathBuf;
use std::process::{Command, exit};

const PROGRAMS: [&str; 4] = ["bare", "decap", "generator", "sink"];

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    if std::env::var_os("CARGO_FEATURE_E2E").is_none() {
        return;
    }
    for program in PROGRAMS {
        if let Err(reason) = compile(program) {
            eprintln!("error: cannot compile bpf/{program}.bpf.c: {reason}");
            exit(1);
        }
    }
}

fn compile(program: &str) -> Result<(), String> {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let target = match env("CARGO_CFG_TARGET_ENDIAN").as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut command = Command::new(&clang);
    command
        .args([
            "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target, "-c",
        ])
        .arg(format!("bpf/{program}.bpf.c"))
        .arg("-o")
        .arg(PathBuf::from(env("OUT_DIR")).join(format!("{program}.bpf.o")));
    // Debian keeps <asm/types.h> in a directory that `-target bpf` does not search
    let multiarch = format!("/usr/include/{}-linux-gnu", env("CARGO_CFG_TARGET_ARCH"));
    if PathBuf::from(&multiarch).is_dir() {
        command.args(["-I", &multiarch]);
    }
    let output = command
        .output()
        .map_err(|error| format!("`{clang}`: {error}; fix: apt-get install clang libbpf-dev"))?;
    if output.status.success() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}\n{text}", output.status))
    }
}
