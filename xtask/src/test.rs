//! `cargo xtask test`: unit tests, then the system suites one after the other, with one line of sums at the end.
//!
//! The system suites are the test files of the crate in `tests/`. They need root (cgroups, eBPF, users) and share the machine, so each runs as root and
//! under a time limit, most of them one test at a time. Nothing is skipped silently: a suite that is missing, dies, runs no test or, under CI, ignores
//! one, counts as a failure.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::package::Packages;
use crate::{
    Result, botocore, clean_kernel, clients, corpus, paths, servers, setup, shell, vm_image, vm_kernel, workloads,
};

const UNIT: &str = "unit";
/// Suites that there must be, in this order; others follow. A suite is `tests/tests/NAME.rs`, with `_` for `-`.
const REQUIRED: [&str; 20] = [
    "kernel",
    "demo",
    BYPASS,
    "namespaces",
    "containers",
    "attribution",
    "identity",
    POSTGRES,
    CLIENTS,
    VERSIONS,
    "postgres-hostile",
    UTILITY,
    NONINTERFERENCE,
    DETECTORS,
    "record",
    "failure",
    "handover",
    PACKAGE,
    VM_SMOKE,
    KERNELS,
];
/// Needs AWS's word on its tokens.
const POSTGRES: &str = "postgres";
/// Needs clients of others, with their suites, and a server that speaks the newest protocol.
const CLIENTS: &str = "postgres-clients";
/// Needs servers of other versions.
const VERSIONS: &str = "postgres-versions";
/// Needs what people do with databases: query builders, TPC-H.
const UTILITY: &str = "postgres-utility";
/// Sessions made by chance, with servers of other versions, too.
const NONINTERFERENCE: &str = "noninterference";
/// Measured on sentences made by others' means.
const DETECTORS: &str = "detectors";
/// The attack corpus.
const BYPASS: &str = "bypass";
const SYSTEM_CRATE: &str = "system-tests";
/// Its programs are built by `cargo xtask fuzz`; clippy sees that they can be.
const FUZZ: &str = "weir-fuzz";
/// Needs the packages, which are release builds.
const PACKAGE: &str = "package";
/// Installs the package in a virtual machine: needs a disk image besides.
const VM_SMOKE: &str = "vm-smoke";
/// The same, once for each kernel.
const KERNELS: &str = "kernels";

/// How long one test program may take before it is killed and counted as failed.
const LIMITED: [&str; 2] = ["--kill-after=10", "20m"];
const LIMITED_ALL: [&str; 2] = ["--kill-after=10", "90m"];
/// Suites of which several tests run at once: each is in a place of its own (`tests/src/env.rs`), looks at nothing of the whole machine's, and
/// waits for its own servers most of the time.
const SIDE_BY_SIDE: [&str; 13] = [
    "approvals",
    "dns",
    "evasion",
    "identity",
    "masks",
    "passthrough",
    "record",
    "transparent",
    POSTGRES,
    VERSIONS,
    "postgres-hostile",
    UTILITY,
    NONINTERFERENCE,
];
const AT_ONCE: usize = 3;
/// Tests of the long form only. They count as filtered out, and not as passed.
const LONG_FORM: [(&str, &str); 1] = [(CLIENTS, "psycopg2")];
/// Virtual machines that run at once.
const GUESTS_AT_ONCE: usize = 2;
/// What takes longer for a single test is worth a line.
const SLOW: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Suites: unit, kernel, demo, bypass, identity, postgres, postgres-clients, postgres-versions, postgres-hostile, postgres-utility, noninterference, detectors, record, failure, handover, package, vm-smoke, kernels, or another file of tests/tests
    suites: Vec<String>,
    /// The long form: kernels has every kernel and every kind of attacker instead of one, and 50,000 sessions; attribution a
    /// million connections, handover a thousand restarts, postgres-clients psycopg2, and more of SQLAlchemy, Django and pgx
    #[arg(long)]
    all: bool,
    /// A Debian package from which vm-smoke and kernels upgrade; without it, this very build under another version
    #[arg(long, value_name = "DEB")]
    previous: Option<PathBuf>,
    /// One kernel for kernels: 5.10, 6.1, 6.12 or newest; the short form, unless with --all
    #[arg(long, value_parser = vm_kernel::KERNELS.map(|kernel| kernel.name))]
    kernel: Option<String>,
    /// How long noninterference goes on after its usual sessions
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=80))]
    minutes: Option<u32>,
    /// Where noninterference begins: the same seed makes the same sessions
    #[arg(long)]
    seed: Option<u32>,
    /// The major version of the servers of noninterference, instead of 15 at length and a little of the oldest and the newest
    #[arg(long, value_name = "MAJOR", value_parser = servers::MAJORS)]
    server: Option<String>,
    /// For the test programs themselves: a filter, --nocapture ...
    #[arg(last = true)]
    rest: Vec<String>,
}

impl Args {
    pub(crate) fn all() -> Self {
        Self {
            suites: Vec::new(),
            all: false,
            previous: None,
            kernel: None,
            minutes: None,
            seed: None,
            server: None,
            rest: Vec::new(),
        }
    }

    fn wants(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|name| name == suite)
    }

    fn wants_kernel(&self, kernel: &vm_kernel::Kernel) -> bool {
        self.kernel.as_ref().map_or(kernel.always || self.all, |name| name == kernel.name)
    }
}

pub(crate) fn run(args: &Args, packages: &Packages) -> Result {
    setup::run(setup::Scope::Test)?;
    clean_kernel::run()?;
    let written = written()?;
    let others = written.iter().map(String::as_str).filter(|suite| !REQUIRED.contains(suite));
    let known: Vec<&str> = REQUIRED.into_iter().chain(others).collect();
    if let Some(unknown) = args.suites.iter().find(|suite| !known.contains(&suite.as_str()) && *suite != UNIT) {
        return Err(format!("no suite {unknown}; there are: {UNIT}, {}", known.join(", ")));
    }
    let programs = shell::step("build the tests", || build(args))?;
    let mut sums = Sums::default();
    if args.wants(UNIT) {
        for program in programs.iter().filter(|program| program.suite.is_none()) {
            sums.add(program.run(args, packages)?);
        }
        sums.add(doc_tests(args)?);
    }
    let mut guests = Vec::new();
    for suite in known.into_iter().filter(|suite| args.wants(suite)) {
        let Some(program) = programs.iter().find(|program| program.suite.as_deref() == Some(suite)) else {
            sums.fail(format!("suite {suite} has no tests/tests/{}.rs", suite.replace('-', "_")));
            continue;
        };
        match suite {
            VM_SMOKE => guests.push((program.name.clone(), program.command(args, packages)?)),
            KERNELS => {
                for kernel in vm_kernel::KERNELS.iter().filter(|kernel| args.wants_kernel(kernel)) {
                    let name = format!("{} {}", program.name, kernel.name);
                    guests.push((name, program.command_on(args, packages, kernel, &programs)?));
                }
            }
            _ => {
                sums.add(program.run(args, packages)?);
                clean_kernel::run()?;
            }
        }
    }
    run_guests(guests)?.into_iter().for_each(|outcome| sums.add(outcome));
    sums.verdict()
}

/// A test program that cargo built.
struct Program {
    name: String,
    /// The system suite that it is; none for unit tests.
    suite: Option<String>,
    executable: PathBuf,
    /// Its package's directory: where cargo would run it.
    package: PathBuf,
}

/// The suites that have a file, in order.
fn written() -> Result<Vec<String>> {
    let directory = paths::root().join("tests/tests");
    let entries = std::fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut suites: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".rs")?.replace('_', "-"))).collect();
    suites.sort_unstable();
    Ok(suites)
}

/// What is asked for and nothing else: each program takes seconds to link.
fn build(args: &Args) -> Result<Vec<Program>> {
    shell::run(&mut shell::cargo(["build", "--locked", "--workspace", "--exclude", FUZZ, "--bins"])?)?;
    let mut words = vec![
        "test",
        "--locked",
        "--workspace",
        "--exclude",
        FUZZ,
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ];
    let mut targets: Vec<String> = args.suites.iter().map(|suite| suite.replace('-', "_")).collect();
    if args.wants(KERNELS) {
        targets.push(BYPASS.to_owned());
    }
    if !args.suites.is_empty() && !args.wants(UNIT) {
        words.extend(targets.iter().flat_map(|target| ["--test", target]));
    }
    let messages = shell::cargo(words)?.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo test: {e}"))?;
    if !messages.status.success() {
        return Err("the tests do not build".to_owned());
    }
    let lines = String::from_utf8_lossy(&messages.stdout);
    Ok(lines.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?)).collect())
}

/// The test program in one of cargo's messages (The Cargo Book, "External tools").
fn program(message: &Value) -> Option<Program> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let name = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    let suite = name.replace('_', "-");
    let is_system = kind == "test" && message["package_id"].as_str()?.contains(SYSTEM_CRATE);
    Some(Program {
        name: format!("{name} ({kind})"),
        suite: is_system.then_some(suite),
        executable: PathBuf::from(message["executable"].as_str()?),
        package: package.to_path_buf(),
    })
}

impl Args {
    /// What suites read of them.
    fn add_to(&self, environment: &mut BTreeMap<&str, PathBuf>) -> Result {
        if self.all {
            environment.insert("WEIR_ALL", PathBuf::from("yes"));
        }
        for (name, number) in [("WEIR_MINUTES", self.minutes), ("WEIR_SEED", self.seed)] {
            number.and_then(|it| environment.insert(name, PathBuf::from(it.to_string())));
        }
        if let Some(server) = &self.server {
            environment.insert("WEIR_SERVER", PathBuf::from(server));
        }
        if let Some(previous) = &self.previous {
            let path = std::path::absolute(previous).map_err(|e| format!("{}: {e}", previous.display()))?;
            environment.insert("WEIR_PREVIOUS", path);
        }
        Ok(())
    }
}

impl Program {
    fn run(&self, args: &Args, packages: &Packages) -> Result<Outcome> {
        run_counted(&self.name, self.suite.is_some(), self.command(args, packages)?, &mut std::io::stdout())
    }

    /// For a virtual machine with this kernel. The attack corpus goes along: its programs, and the suite that judges them.
    fn command_on(
        &self,
        args: &Args,
        packages: &Packages,
        kernel: &vm_kernel::Kernel,
        programs: &[Self],
    ) -> Result<Command> {
        let image = vm_image::ensure()?;
        let corpus =
            programs.iter().find(|program| program.suite.as_deref() == Some(BYPASS)).ok_or("no suite bypass")?;
        let environment = [
            ("WEIR_VM_IMAGE", image.clone()),
            ("WEIR_VM_KERNEL", vm_kernel::ensure(kernel, &image)?),
            ("WEIR_PACKAGES", packages.ensure()?),
            ("WEIR_VM_SUITE", corpus.executable.clone()),
            ("WEIR_VM_ATTACKERS", PathBuf::from(if args.all { "all" } else { "user" })),
        ];
        let mut environment = BTreeMap::from(environment);
        args.add_to(&mut environment)?;
        self.system_command(args, environment)
    }

    fn command(&self, args: &Args, packages: &Packages) -> Result<Command> {
        if self.suite.is_none() {
            let mut command = shell::command("timeout", LIMITED);
            command.arg(&self.executable).args(&args.rest).current_dir(&self.package);
            return Ok(command);
        }
        let mut environment = BTreeMap::new();
        args.add_to(&mut environment)?;
        if [PACKAGE, VM_SMOKE].map(Some).contains(&self.suite.as_deref()) {
            environment.insert("WEIR_PACKAGES", packages.ensure()?);
        }
        if self.suite.as_deref() == Some(POSTGRES) {
            environment.insert("WEIR_BOTOCORE", botocore::ensure()?);
        }
        if self.suite.as_deref() == Some(CLIENTS) {
            environment.insert("WEIR_CLIENTS", clients::ensure()?);
        }
        if self.suite.as_deref() == Some(DETECTORS) {
            environment.insert("WEIR_CORPUS", corpus::ensure()?);
        }
        if self.suite.as_deref() == Some(UTILITY) {
            environment.insert("WEIR_WORKLOADS", workloads::ensure()?);
        }
        if [VERSIONS, CLIENTS, NONINTERFERENCE].map(Some).contains(&self.suite.as_deref()) {
            environment.insert("WEIR_SERVERS", servers::ensure()?);
        }
        if self.suite.as_deref() == Some(VM_SMOKE) {
            environment.insert("WEIR_VM_IMAGE", vm_image::ensure()?);
        }
        self.system_command(args, environment)
    }

    fn system_command(&self, args: &Args, mut environment: BTreeMap<&str, PathBuf>) -> Result<Command> {
        // Through `env`, since sudo passes no environment on.
        environment.insert("WEIR_BIN", paths::target()?.join("debug/weir"));
        environment.insert("WEIR_CACHE", paths::cache()?);
        let limited = if args.all || args.minutes.is_some() { LIMITED_ALL } else { LIMITED };
        let environment = environment.iter().map(|(name, value)| format!("{name}={}", value.display()));
        let mut command = shell::as_root("env", environment);
        command.arg("RUST_BACKTRACE=1").arg("timeout").args(limited).arg(&self.executable);
        let is_in_its_own_place = self.suite.as_deref().is_some_and(|suite| SIDE_BY_SIDE.contains(&suite));
        command.arg(format!("--test-threads={}", if is_in_its_own_place { AT_ONCE } else { 1 }));
        for (_, test) in LONG_FORM.iter().filter(|(suite, _)| !args.all && self.suite.as_deref() == Some(*suite)) {
            println!("    note: {suite}'s {test} runs with --all", suite = self.name);
            command.args(["--skip", test]);
        }
        command.args(&args.rest).current_dir(&self.package);
        Ok(command)
    }
}

fn doc_tests(args: &Args) -> Result<Outcome> {
    let mut command = shell::cargo(["test", "--locked", "--workspace", "--exclude", FUZZ, "--doc", "--quiet", "--"])?;
    command.args(&args.rest);
    run_counted("documentation", false, command, &mut std::io::stdout())
}

/// What one test program came to.
struct Outcome {
    name: String,
    counts: Counts,
    success: bool,
    /// A system suite: it must have run something.
    is_system: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
    filtered: u32,
}

/// Suites in virtual machines, some at once: these wait most of the time. Each shows what it printed when it has ended.
fn run_guests(guests: Vec<(String, Command)>) -> Result<Vec<Outcome>> {
    let waiting = Mutex::new(guests.into_iter());
    let next = || waiting.lock().map_or(None, |mut waiting| waiting.next());
    let run = || {
        let mut outcomes = Vec::new();
        while let Some((name, command)) = next() {
            println!("==> test {name}, begins");
            let mut printed = Vec::new();
            let outcome = run_counted(&name, true, command, &mut printed);
            std::io::stdout().lock().write_all(&printed).map_err(|e| format!("{name}: {e}"))?;
            outcomes.push(outcome?);
        }
        Ok(outcomes)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..GUESTS_AT_ONCE).map(|_| scope.spawn(run)).collect();
        let ended = workers.into_iter().map(|it| it.join().map_err(|_| "a suite's thread died".to_owned())?);
        ended.collect::<Result<Vec<Vec<Outcome>>>>().map(|outcomes| outcomes.into_iter().flatten().collect())
    })
}

/// Runs a libtest program, shows what it prints and counts by its closing lines.
fn run_counted(name: &str, is_system: bool, mut command: Command, shown: &mut dyn Write) -> Result<Outcome> {
    let failed = |e: std::io::Error| format!("{name}: {e}");
    writeln!(shown, "==> test {name}").map_err(failed)?;
    let watch = shell::Watch::start();
    let mut last = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
    let stdout = child.stdout.take().ok_or("no output to read")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.map_err(|e| format!("{name}: {e}"))?;
        let line = String::from_utf8_lossy(&line);
        writeln!(shown, "{line}").map_err(failed)?;
        if line.starts_with("test ") && line.contains(" ... ") {
            if last.elapsed() > SLOW {
                writeln!(shown, "    {:.0} s since the one before", last.elapsed().as_secs_f32()).map_err(failed)?;
            }
            last = Instant::now();
        }
        if let Some(more) = closing_line(&line) {
            counts.passed += more.passed;
            counts.failed += more.failed;
            counts.ignored += more.ignored;
            counts.filtered += more.filtered;
        }
    }
    let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
    if !status.success() {
        writeln!(shown, "    {name}: {status}").map_err(failed)?;
    }
    writeln!(shown, "    {name}: {watch}").map_err(failed)?;
    Ok(Outcome { name: name.to_owned(), counts, success: status.success(), is_system })
}

/// `test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; ...`
fn closing_line(line: &str) -> Option<Counts> {
    let (_, sums) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in sums.split("; ") {
        let (number, what) = part.split_once(' ')?;
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.ignored = number,
            "filtered out" => counts.filtered = number,
            _ => {}
        }
    }
    Some(counts)
}

#[derive(Default)]
struct Sums {
    passed: u32,
    failed: u32,
    complaints: Vec<String>,
}

impl Sums {
    fn add(&mut self, outcome: Outcome) {
        let Outcome { name, counts, success, is_system } = outcome;
        self.passed += counts.passed;
        self.failed += counts.failed;
        if counts.failed > 0 {
            self.complaints.push(format!("{name}: {} failed", counts.failed));
        } else if !success {
            self.fail(format!("{name}: ended without a verdict (killed, or over its time)"));
        }
        if success && is_system && counts.passed + counts.filtered == 0 {
            self.fail(format!("{name}: ran no test"));
        }
        if counts.ignored > 0 {
            let ignored = format!("{name}: {} ignored", counts.ignored);
            if shell::in_ci() {
                self.fail(ignored);
            } else {
                println!("    note: {ignored}");
            }
        }
    }

    fn fail(&mut self, complaint: String) {
        self.failed += 1;
        self.complaints.push(complaint);
    }

    fn verdict(self) -> Result {
        for complaint in &self.complaints {
            println!("    {complaint}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { Ok(()) } else { Err("tests failed".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(closing_line(line), Some(Counts { passed: 12, failed: 3, ignored: 1, filtered: 4 }));
        assert_eq!(closing_line("test kernel::x ... ok"), None);
    }

    #[test]
    fn a_program_that_dies_without_a_verdict_is_a_failure() {
        let mut sums = Sums::default();
        let counts = Counts { passed: 3, ..Counts::default() };
        sums.add(Outcome { name: "kernel".to_owned(), counts, success: false, is_system: true });
        assert_eq!((sums.passed, sums.failed), (3, 1));
        assert!(sums.verdict().is_err());
    }
}
