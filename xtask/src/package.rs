//! `cargo xtask package`: the Debian package and the static tarball, with completions, manual pages, an SBOM and checksums.
//!
//! Both are reproducible: the same commit, built by the same compilers at the same place, has the same bytes, wherever the
//! clone is. The build sees the clone and its output at fixed paths, in a mount namespace of its own (cargo puts the path of a
//! crate outside its workspace into the names of symbols, which no compiler flag takes out again), the other paths of this
//! machine are mapped to some that are the same everywhere, and every file's time is the commit's. `--verify` builds everything a second
//! time, from another clone, and compares. `--verify-own`, which CI does, compiles Weir's own crates and the eBPF object
//! for the package a second time, from another clone, over what the registry's crates became at the first time, and packs
//! everything anew, the tarball with the static binary of the first time.
//!
//! The package's binary is linked with the system's C library, since the groups of `[access]` may come from NSS (SSSD, LDAP). The
//! tarball's needs nothing of the system (musl), and knows the users and groups of /etc only.

use std::cell::{OnceCell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::beside::Beside;
use crate::{Result, paths, sbom, setup, shell};

const PRODUCT: &str = "weir";
/// Where the build sees the clone and its output.
const SOURCE: &str = "/mnt/weir";
const OUTPUT: &str = "/mnt/target";
/// Makes it so (`$1` is the clone, `$2` the output directory), and runs the rest. They are opened first: they may lie
/// below what the new mount hides. If `$3` is not empty, it is an earlier build's output, which is seen below this one's and is not
/// changed; `$4` is a directory beside the output for what overlayfs needs.
const AT_FIXED_PATHS: &str = r#"
exec 3<"$1" 4<"$2"
if test -n "$3"; then
    mkdir -p "$4/work" "$4/seen"
    mount -t overlay -o "lowerdir=$3,upperdir=$2,workdir=$4/work" weir "$4/seen"
    exec 4<"$4/seen"
fi
mount -t tmpfs -o size=64k fixed /mnt
mkdir /mnt/weir /mnt/target
mount --no-canonicalize --bind /proc/self/fd/3 /mnt/weir
mount --no-canonicalize --bind /proc/self/fd/4 /mnt/target
exec 3<&- 4<&-
cd /mnt/weir
shift 4
exec "$@""#;
/// What compilers take for the time (`__DATE__`). Not the commit's: every new commit would have all C code compiled anew.
const COMPILED: &str = "0";
const SUMS: &str = "SHA256SUMS";
/// Where a build puts the packages, in its output directory.
const MADE: &str = "made";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build again from another clone and compare every byte; takes twice as long
    #[arg(long)]
    verify: bool,
    /// The same for Weir's own crates and the eBPF object in the package alone: crates of the registry and the static binary are
    /// compiled once
    #[arg(long, conflicts_with = "verify")]
    verify_own: bool,
}

pub(crate) fn run(args: &Args) -> Result {
    let made = make()?;
    if args.verify {
        shell::step("build again, elsewhere", || verify(&made))?;
    }
    if args.verify_own {
        shell::step("build what is Weir's own again, elsewhere", || verify_own(&made))?;
    }
    print!("{}", read(&made.join(SUMS))?);
    println!("in {}", made.display());
    Ok(())
}

/// The packages of the work tree, which are made once a run: when the first asks for them, or beside everything else until then.
pub(crate) struct Packages {
    beside: RefCell<Option<Beside>>,
    made: OnceCell<PathBuf>,
}

impl Packages {
    pub(crate) fn when_asked_for() -> Self {
        Self { beside: RefCell::new(None), made: OnceCell::new() }
    }

    /// Begins to make them, and to verify as CI does.
    pub(crate) fn begin() -> Result<Self> {
        setup::run(setup::Scope::Package)?;
        let beside = Beside::start(&["package", "--verify-own"])?;
        Ok(Self { beside: RefCell::new(Some(beside)), made: OnceCell::new() })
    }

    /// The directory with all of them, and nothing else.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        if let Some(made) = self.made.get() {
            return Ok(made.clone());
        }
        let made = match self.beside.take() {
            Some(beside) => beside.finish().and_then(|()| place())?,
            None => make()?,
        };
        Ok(self.made.get_or_init(|| made).clone())
    }
}

fn make() -> Result<PathBuf> {
    setup::run(setup::Scope::Package)?;
    shell::step("package", || Build::new(&paths::root(), &output()?)?.all())
}

fn output() -> Result<PathBuf> {
    Ok(paths::target()?.join("package"))
}

/// Where [`make`] has them.
fn place() -> Result<PathBuf> {
    Ok(output()?.join(MADE))
}

/// The same commit, cloned to another path and built with another output directory.
fn verify(made: &Path) -> Result {
    let changed = shell::output(&mut shell::command("git", ["status", "--porcelain"]))?;
    if !changed.is_empty() {
        return Err(format!("only a commit can be built again; these files differ from it:\n{changed}"));
    }
    let elsewhere = paths::cache()?.join("package-verify");
    let again = Build::new(&clone_to(&elsewhere)?, &elsewhere.join("output"))?.all()?;
    compare(made, &again)?;
    remove(&elsewhere)
}

/// The work tree, copied to another path, and built with what the first build has of the registry's crates.
fn verify_own(made: &Path) -> Result {
    let elsewhere = paths::cache()?.join("package-verify");
    let clone = clone_to(&elsewhere)?;
    carry_changes_to(&clone)?;
    let first = made.parent().map(Path::to_path_buf);
    let build = Build { below: first, ..Build::new(&clone, &elsewhere.join("output"))? };
    let again = build.all()?;
    // It is up to cargo what is compiled: what was not has no file of its own here.
    let binary = build.release(&build.target("gnu")).join(PRODUCT);
    if !binary.exists() {
        return Err(format!("{} was not built again", binary.display()));
    }
    compare(made, &again)?;
    remove(&elsewhere)
}

fn compare(made: &Path, again: &Path) -> Result {
    let (first, second) = (read(&made.join(SUMS))?, read(&again.join(SUMS))?);
    if first != second {
        return Err(format!("not the same bytes.\n{}\n{first}{}\n{second}", made.display(), again.display()));
    }
    println!("    the same bytes, twice");
    Ok(())
}

/// The same commit at another path. What this makes of a directory is gone before.
fn clone_to(elsewhere: &Path) -> Result<PathBuf> {
    let clone = elsewhere.join("a-clone/with-another-path");
    remove(elsewhere)?;
    shell::run(shell::command("git", ["clone", "--quiet"]).arg(paths::root()).arg(&clone))?;
    Ok(clone)
}

/// What the work tree has that is in no commit.
fn carry_changes_to(clone: &Path) -> Result {
    let git = |words: &[&str]| shell::output(shell::command("git", words).current_dir(paths::root()));
    let (changed, new) =
        (git(&["diff", "-z", "--name-only", "HEAD"])?, git(&["ls-files", "-z", "--others", "--exclude-standard"])?);
    for path in (changed + &new).split('\0').filter(|path| !path.is_empty()) {
        let (from, to) = (paths::root().join(path), clone.join(path));
        if from.exists() {
            to.parent().map_or(Ok(()), create)?;
            fs::copy(&from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
        } else if to.exists() {
            fs::remove_file(&to).map_err(|e| format!("{}: {e}", to.display()))?;
        }
    }
    Ok(())
}

/// One build: where its sources are, and where its output goes.
struct Build {
    source: PathBuf,
    output: PathBuf,
    /// The output of an earlier build, which is good for what has not changed since.
    below: Option<PathBuf>,
    /// The commit's time, in seconds: the time of everything that is made.
    epoch: String,
    version: String,
    /// `x86_64`
    machine: String,
}

impl Build {
    fn new(source: &Path, output: &Path) -> Result<Self> {
        let git = |words: &[&str]| shell::output(shell::command("git", words).current_dir(source));
        let machine = shell::output(&mut shell::command("uname", ["-m"]))?.trim().to_owned();
        Ok(Self {
            source: source.to_path_buf(),
            output: output.to_path_buf(),
            below: None,
            epoch: git(&["log", "-1", "--format=%ct"])?.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
        })
    }

    fn all(&self) -> Result<PathBuf> {
        let made = self.output.join(MADE);
        remove(&made)?;
        create(&made)?;
        let (system, fixed) = (self.target("gnu"), self.target("musl"));
        shell::step("build: for the system's C library", || self.compile(&system))?;
        let generated = self.generate(&system)?;
        self.debian(&system, &made)?;
        match &self.below {
            None => shell::step("build: static", || self.compile(&fixed))?,
            Some(first) => {
                let name = format!("{fixed}/release/{PRODUCT}");
                copy(&first.join(&name), &self.output.join(&name), 0o755)?;
            }
        }
        self.tarball(&fixed, &generated, &made)?;
        copy(&generated.join("weir.cdx.json"), &made.join(format!("{PRODUCT}-{}.cdx.json", self.version)), 0o644)?;
        let sums = shell::output(shell::command("sh", ["-c", "sha256sum -- *"]).current_dir(&made))?;
        write(&made.join(SUMS), &sums)?;
        Ok(made)
    }

    fn target(&self, library: &str) -> String {
        format!("{}-unknown-linux-{library}", self.machine)
    }

    fn release(&self, target: &str) -> PathBuf {
        self.output.join(target).join("release")
    }

    fn compile(&self, target: &str) -> Result {
        let mut cargo = self.cargo(&["build", "--locked", "--release", "--package", PRODUCT, "--target", target])?;
        // For crates with C code. Linking is the system's, with start files and libc from rustup.
        let fixed = self.target("musl").replace('-', "_");
        cargo.env(format!("CC_{fixed}"), "musl-gcc");
        // libclang, which reads their headers, finds the compiler's and musl's own only if it is told.
        let compilers = shell::output(&mut shell::command("gcc", ["-print-file-name=include"]))?;
        let headers = format!("-isystem {} -isystem /usr/include/{}-linux-musl", compilers.trim(), self.machine);
        cargo.env(format!("BINDGEN_EXTRA_CLANG_ARGS_{fixed}"), headers);
        shell::run(&mut cargo)
    }

    /// Cargo, so that nothing of this machine gets into what it builds: no path, no time, no setting of the caller's.
    fn cargo(&self, words: &[&str]) -> Result<Command> {
        create(&self.output)?;
        let mut namespace = vec!["--mount", "--propagation", "private"];
        if !shell::is_root() {
            namespace.push("--map-root-user");
        }
        let mut command = shell::command("unshare", namespace);
        let below = self.below.as_deref().unwrap_or(Path::new(""));
        command.args(["sh", "-ec", AT_FIXED_PATHS, "sh"]).args([&self.source, &self.output]);
        command.arg(below).arg(self.output.with_extension("overlay"));
        command.arg(shell::cargo_program()).args(words);
        let sysroot = shell::output(&mut shell::command("rustc", ["--print", "sysroot"]))?;
        let cargo_home = setup::cargo_home()?.display().to_string();
        let maps = [(SOURCE, "weir"), (OUTPUT, "target"), (cargo_home.as_str(), "cargo"), (sysroot.trim(), "rust")];
        let maps = || maps.iter().map(|(from, to)| format!("{from}=/usr/src/{to}"));
        let rust = maps().map(|map| format!("--remap-path-prefix={map}")).collect::<Vec<_>>();
        let c = maps().map(|map| format!("-ffile-prefix-map={map}")).collect::<Vec<_>>();
        command.env("CARGO_TARGET_DIR", OUTPUT).env("SOURCE_DATE_EPOCH", COMPILED);
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f")).env("CFLAGS", c.join(" "));
        // Names of functions stay, for backtraces. Line tables would make it many times as large.
        command.env("CARGO_PROFILE_RELEASE_DEBUG", "none").env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
        command.env("CARGO_INCREMENTAL", "0");
        Ok(command)
    }

    /// What the binary says of itself, and the SBOM, beside the binary: the assets in gateway/Cargo.toml name them there.
    fn generate(&self, target: &str) -> Result<PathBuf> {
        let generated = self.release(target).join("package");
        remove(&generated)?;
        create(&generated)?;
        let binary = self.release(target).join(PRODUCT);
        let weir = |words: &[&str]| shell::output(Command::new(&binary).args(words));
        for (shell, file) in [("bash", "weir.bash"), ("zsh", "_weir"), ("fish", "weir.fish")] {
            write(&generated.join(file), &weir(&["completions", shell])?)?;
        }
        weir(&["man", &generated.join("man").to_string_lossy()])?;
        write(&generated.join("weir.cdx.json"), &sbom::cyclonedx(&self.source, target, &self.epoch)?)?;
        Ok(generated)
    }

    /// By cargo-deb, from `[package.metadata.deb]`.
    fn debian(&self, target: &str, made: &Path) -> Result {
        let words =
            ["deb", "--quiet", "--no-build", "--no-strip", "--locked", "--package", PRODUCT, "--target", target];
        let name = made.strip_prefix(&self.output).map_err(|e| format!("{}: {e}", made.display()))?;
        let mut cargo = self.cargo(&words)?;
        shell::run(cargo.env("SOURCE_DATE_EPOCH", &self.epoch).arg("--output").arg(Path::new(OUTPUT).join(name)))
    }

    /// A tree as it lies below `/`, so that installing it is unpacking it. Configuration is an example only: unpacking a new
    /// version must not undo what an administrator wrote.
    fn tarball(&self, target: &str, generated: &Path, made: &Path) -> Result {
        let name = format!("{PRODUCT}-{}-{}-linux-static", self.version, self.machine);
        let stage = self.output.join("stage");
        remove(&stage)?;
        let root = stage.join(&name);
        copy(&self.release(target).join(PRODUCT), &root.join("usr/bin/weir"), 0o755)?;
        let systemd = self.source.join("systemd");
        for (from, to) in [
            ("weir.service", "usr/lib/systemd/system/weir.service"),
            ("weir-kernel.service", "usr/lib/systemd/system/weir-kernel.service"),
            ("agents.slice", "usr/lib/systemd/system/agents.slice"),
            ("weir-agent.conf", "usr/lib/weir/weir-agent.conf"),
            ("weir.sysusers", "usr/lib/sysusers.d/weir.conf"),
            ("weir.tmpfiles", "usr/lib/tmpfiles.d/weir.conf"),
            ("weir.toml", "usr/share/doc/weir/examples/weir.toml"),
        ] {
            copy(&systemd.join(from), &root.join(to), 0o644)?;
        }
        for document in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
            copy(&self.source.join(document), &root.join("usr/share/doc/weir").join(document), 0o644)?;
        }
        for (from, to) in [
            ("weir.bash", "usr/share/bash-completion/completions/weir"),
            ("_weir", "usr/share/zsh/vendor-completions/_weir"),
            ("weir.fish", "usr/share/fish/vendor_completions.d/weir.fish"),
            ("weir.cdx.json", "usr/share/doc/weir/weir.cdx.json"),
        ] {
            copy(&generated.join(from), &root.join(to), 0o644)?;
        }
        let pages = generated.join("man");
        for page in fs::read_dir(&pages).map_err(|e| format!("{}: {e}", pages.display()))?.flatten() {
            copy(&page.path(), &root.join("usr/share/man/man1").join(page.file_name()), 0o644)?;
        }
        let archive = made.join(format!("{name}.tar.gz"));
        let script = r#"tar --create --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$1" "$2" \
            | gzip --no-name --best > "$3""#;
        let mut tar = shell::command("sh", ["-ec", script, "sh", &self.epoch, &name]);
        shell::run(tar.arg(&archive).current_dir(&stage))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn create(path: &Path) -> Result {
    fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn remove(path: &Path) -> Result {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", path.display())),
        _ => Ok(()),
    }
}

/// With this very mode, whatever the umask and the checkout say.
fn copy(from: &Path, to: &Path, mode: u32) -> Result {
    use std::os::unix::fs::PermissionsExt;
    for directory in to.ancestors().skip(1).filter(|directory| !directory.exists()).collect::<Vec<_>>().iter().rev() {
        create(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
            .map_err(|e| format!("{}: {e}", directory.display()))?;
    }
    fs::copy(from, to).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(|e| format!("{}: {e}", to.display()))
}
