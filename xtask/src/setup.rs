//! `cargo xtask setup`: brings what is missing, touches nothing that is there.
//!
//! For Debian 12 with rustup, as root or with sudo. Building needs a C compiler, libclang and the eBPF tool chain;
//! tests need real servers, clients and an emulator besides, two users, and the kernel's file systems mounted.

use std::path::{Path, PathBuf};

use crate::{Result, rust_src, shell, toolchain};

/// Older compilers lack what eBPF needs, newer ones bring another LLVM than [`BPF_LINKER`] links.
const BPF_LINKER: (&str, &str) = ("bpf-linker", "0.10.3");

/// `a|b`: either will do, the last is installed.
const BUILD_PACKAGES: &[&str] = &["build-essential", "libclang-14-dev|libclang-dev"];
/// `dpkg-shlibdeps` and the compiler of the static binary's C code.
const PACKAGE_PACKAGES: &[&str] = &["dpkg-dev", "musl-tools"];
const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.8.0");
const TEST_PACKAGES: &[&str] = &[
    "bind9",
    "bind9-dnsutils|dnsutils",
    "ca-certificates",
    "curl",
    "debootstrap",
    "e2fsprogs",
    "containerd",
    // These two bring some 55 MB.
    "docker.io",
    "podman",
    "iproute2",
    "libpq-dev",
    "musl-tools",
    "openssl",
    "passt",
    "pgbouncer",
    "postgresql",
    "postgresql-contrib",
    "procps",
    "python3",
    "python3-pip",
    "python3-psycopg",
    "python3-pycares",
    "qemu-system-x86",
    "runc",
    "slirp4netns",
    "systemd",
    "util-linux",
];

/// Programs that come from elsewhere as often as from Debian: the package is installed only where there is no such program.
const TEST_PROGRAMS: &[(&str, &str)] =
    &[("go", "golang-go"), ("javac", "default-jdk-headless"), ("mvn", "maven"), ("npm", "npm")];

/// The gateway's user and the witness's, and the agent's that the tests and the demo run as.
const USERS: [&str; 3] = ["weir", "weir-witness", "agent-coder"];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Enough to build the binary.
    Build,
    /// Enough to make the packages.
    Package,
    /// Enough to run every test.
    Test,
}

pub(crate) fn run(scope: Scope) -> Result {
    let mut packages = BUILD_PACKAGES.to_vec();
    match scope {
        Scope::Build => {}
        Scope::Package => packages.extend(PACKAGE_PACKAGES),
        Scope::Test => {
            packages.extend(TEST_PACKAGES);
            let missing = TEST_PROGRAMS.iter().filter(|(program, _)| !is_program(program));
            packages.extend(missing.map(|(_, package)| package));
        }
    }
    apt_install(&packages)?;
    toolchain::ensure()?;
    rust_src::ensure()?;
    cargo_tool(BPF_LINKER)?;
    if scope == Scope::Package {
        cargo_tool(CARGO_DEB)?;
        static_target()?;
    }
    if scope == Scope::Test {
        for user in USERS {
            add_user(user)?;
        }
        mount_bpffs()?;
        cgroup2_mount()?;
    }
    Ok(())
}

/// `cargo install NAME@VERSION`, unless that very version is installed.
pub(crate) fn cargo_tool((name, version): (&str, &str)) -> Result {
    let installed = shell::output(&mut shell::cargo(["install", "--list"])?)?;
    if installed.lines().any(|line| line == format!("{name} v{version}:")) {
        return Ok(());
    }
    shell::step(&format!("cargo install {name} {version}"), || {
        let mut cargo = shell::cargo(["install", name, "--version", version, "--locked", "--quiet"])?;
        // It runs for seconds: to build it at its fastest would take longer than it ever saves.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
        shell::run(cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16").env("CARGO_PROFILE_RELEASE_DEBUG", "none"))
    })
}

/// Cargo's own directory: where registries' sources and installed programs are.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo"))).ok_or("HOME is not set".to_owned())
}

/// The standard library for static binaries.
fn static_target() -> Result {
    let target = format!("{}-unknown-linux-musl", shell::output(&mut shell::command("uname", ["-m"]))?.trim());
    let words = ["--print", "target-libdir", "--target", &target];
    let libraries = shell::output(&mut shell::command("rustc", words))?;
    if Path::new(libraries.trim()).exists() {
        return Ok(());
    }
    shell::step(&format!("rustup target add {target}"), || {
        shell::run(&mut shell::command("rustup", ["target", "add", &target]))
    })
}

fn apt_install(packages: &[&str]) -> Result {
    let missing: Vec<&str> = packages.iter().filter_map(|choice| missing(choice)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    shell::step("apt-get update", || shell::run(&mut apt(&["update"])))?;
    shell::step(&format!("apt-get install {}", missing.join(" ")), || {
        // The tests start servers of their own: none is to appear on the machine by the way.
        let no_services = NoServices::begin()?;
        let installed = shell::run(apt(&["install", "--yes", "--no-install-recommends"]).args(&missing));
        no_services.end()?;
        installed
    })
}

/// What is to be installed for `a|b`, if nothing of it is.
fn missing(choice: &str) -> Option<&str> {
    let present = choice.split('|').any(|package| {
        let query = ["--show", "--showformat=${db:Status-Abbrev}", package];
        shell::output(&mut shell::command("dpkg-query", query)).is_ok_and(|status| status.starts_with("ii"))
    });
    if present { None } else { choice.split('|').next_back() }
}

/// Whether a command of this name would be found.
fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

fn apt(args: &[&str]) -> std::process::Command {
    let mut command =
        shell::as_root("env", ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]);
    command.args(args);
    command
}

/// While it lasts, packages that are installed start no services (`policy-rc.d`) and PostgreSQL's makes no cluster.
struct NoServices {
    /// The files that this made, and so removes; a file that was there before stays as it is.
    made: Vec<&'static str>,
}

impl NoServices {
    const FILES: [(&str, &str); 2] = [
        ("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
        ("/etc/postgresql-common/createcluster.d/weir-setup.conf", "create_main_cluster = false\n"),
    ];

    fn begin() -> Result<Self> {
        let mut made = Vec::new();
        for (path, text) in Self::FILES {
            if Path::new(path).exists() {
                continue;
            }
            let script = r#"mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1" && chmod 755 "$1""#;
            shell::run(&mut shell::as_root("sh", ["-c", script, "sh", path, text]))?;
            made.push(path);
        }
        Ok(Self { made })
    }

    fn end(self) -> Result {
        if self.made.is_empty() { Ok(()) } else { shell::run(shell::as_root("rm", ["-f"]).args(&self.made)) }
    }
}

fn add_user(name: &str) -> Result {
    if shell::succeeds(&mut shell::command("id", [name])) {
        return Ok(());
    }
    shell::step(&format!("user {name}"), || {
        let words = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name];
        shell::run(&mut shell::as_root("useradd", words))
    })
}

fn mount_bpffs() -> Result {
    if mount_point("bpf")?.is_some() {
        return Ok(());
    }
    shell::step("mount bpffs", || shell::run(&mut shell::as_root("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"])))
}

/// Where cgroup2 is mounted; mounts it beside the old hierarchies where there is none.
pub(crate) fn cgroup2_mount() -> Result<PathBuf> {
    if let Some(mount) = mount_point("cgroup2")? {
        return Ok(mount);
    }
    let mount = "/sys/fs/cgroup/unified";
    shell::step("mount cgroup2", || {
        shell::run(&mut shell::as_root("mkdir", ["-p", mount]))?;
        shell::run(&mut shell::as_root("mount", ["-t", "cgroup2", "cgroup2", mount]))
    })?;
    Ok(PathBuf::from(mount))
}

/// The first mount of a file system type (proc(5), "mountinfo": the type is the first field after " - ").
fn mount_point(fs_type: &str) -> Result<Option<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    Ok(mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_it = after.split(' ').next() == Some(fs_type);
        is_it.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    }))
}
