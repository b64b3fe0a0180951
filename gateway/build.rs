//! Builds the kernel half with the same stable compiler, and leaves the object in `OUT_DIR` for `witness::kernel` to embed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "bpfel-unknown-none";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Two lines, so that cargo shows the second one as the error's last word.
            eprintln!("the eBPF programs were not built: {reason}");
            eprintln!("`cargo xtask setup` installs what is missing");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let source = root.join("gateway-ebpf");
    for part in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", source.join(part).display());
    }
    for part in ["src", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join("gateway-common").join(part).display());
    }
    let rustc = variable("RUSTC")?;
    let sysroot = sysroot(&rustc)?;
    require_rust_source(&sysroot)?;
    require_linker()?;
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join("ebpf");
    let mut command = Command::new(variable("CARGO")?);
    command
        .args(["build", "--locked", "--release", "-Z", "build-std=core", "--target", TARGET])
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("RUSTC", &rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&root, &sysroot)?)
        // Stable rustc builds `core` for this target, if told so.
        .env("RUSTC_BOOTSTRAP", "1");
    // What cargo and clippy set for the outer build is not meant for this one.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_MAKEFLAGS", "MAKEFLAGS"] {
        command.env_remove(name);
    }
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("CARGO_PROFILE_")) {
        command.env_remove(name);
    }
    let output = command.output().map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let object = target_dir.join(TARGET).join("release/weir");
    println!("cargo:rustc-env=WEIR_EBPF_OBJECT={}", object.display());
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set"))
}

/// With BTF, whose line information names source files: by paths that are the same wherever it is built.
fn flags(root: &Path, sysroot: &Path) -> Result<String, String> {
    let cargo_home = env::var("CARGO_HOME").or_else(|_| env::var("HOME").map(|home| format!("{home}/.cargo")));
    let cargo_home = PathBuf::from(cargo_home.map_err(|_| "neither CARGO_HOME nor HOME is set")?);
    let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    for (from, to) in [(root.as_path(), "weir"), (cargo_home.as_path(), "cargo"), (sysroot, "rust")] {
        flags.push(format!("--remap-path-prefix={}=/usr/src/{to}", from.display()));
    }
    Ok(flags.join("\x1f"))
}

fn sysroot(rustc: &str) -> Result<PathBuf, String> {
    let output =
        Command::new(rustc).args(["--print", "sysroot"]).output().map_err(|error| format!("rustc: {error}"))?;
    let sysroot = String::from_utf8(output.stdout).map_err(|error| format!("rustc --print sysroot: {error}"))?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// `core` is compiled for the target, from the sources of this very compiler.
fn require_rust_source(sysroot: &Path) -> Result<(), String> {
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if core.exists() { Ok(()) } else { Err(format!("rust-src is missing ({} does not exist)", core.display())) }
}

fn require_linker() -> Result<(), String> {
    let found = Command::new("bpf-linker").arg("--version").output().is_ok_and(|output| output.status.success());
    if found { Ok(()) } else { Err("bpf-linker is missing from PATH".to_owned()) }
}
