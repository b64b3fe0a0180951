//! One of Debian's kernels, with a real systemd as PID 1: the package installed, the attack corpus, a round trip to
//! PostgreSQL, `weir doctor`, everybody who might run something for an agent, a reboot, an upgrade. `cargo xtask test kernels`
//! runs this once for each kernel; on one that is too old everything has to stay closed, and say why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use system_tests::env::Env;
use system_tests::vm::{Machine, Said, Tree};

#[path = "kernels/doors.rs"]
mod doors;
#[path = "kernels/ways.rs"]
mod ways;

/// One boot, emulated on a busy machine; the corpus in it takes the most. Without `--all` the suite has less than that.
const BOOT_LIMIT: Duration = Duration::from_mins(45);
/// What `smoke.service` has of it in the machine.
const SCRIPT_LIMIT: &str = "[Service]\nTimeoutStartSec=43min\n";
/// The oldest kernel that README promises to hold agents on.
const OLDEST: (u32, u32) = (6, 1);
/// MiB for 50,000 sessions: four sockets each, and what the gateway keeps of them.
const MEMORY_FOR_SESSIONS: u32 = 6144;
/// With everything that the kernel offers of what Weir can use. Since 6.18 the storage of sockets is allocated in a way that needs
/// cmpxchg16b, which the emulator lacks (`vm.rs`), or the allocator's checks: without both, agents can make no socket at all.
const PARAMETERS: &str = "lsm=landlock,lockdown,yama,apparmor,bpf slub_debug=F,kmalloc-*";
/// The same, but for the BPF LSM, and so locked down that programs may copy nothing from the kernel's memory.
const WITHOUT_LSM: &str = "lsm=landlock,lockdown,yama,apparmor lockdown=confidentiality slub_debug=F,kmalloc-*";

#[test]
fn agents_are_held_on_this_kernel_or_told_why_not() {
    let kernel = named("WEIR_VM_KERNEL");
    let env = Env::new().unwrap();
    let all = std::env::var_os("WEIR_ALL").is_some();
    let machine = Machine::with_kernel(&env, &kernel, PARAMETERS).unwrap();
    let machine = if all { machine.with_memory(MEMORY_FOR_SESSIONS) } else { machine };
    let tree = Tree::new(&env).unwrap();
    tree.put("opt/smoke/run", 0o755, include_str!("../vm/kernels")).unwrap();
    tree.put("usr/lib/systemd/system/smoke.service.d/kernels.conf", 0o644, SCRIPT_LIMIT).unwrap();
    tree.put("usr/lib/systemd/system/usr-lib-modules.mount", 0o644, MODULES).unwrap();
    tree.enable("sysinit.target", &["usr-lib-modules.mount"]).unwrap();
    tree.add_upgrade(&env).unwrap();
    add_corpus(&tree);
    if all {
        add_bench(&tree);
    }
    ways::add(&tree);
    doors::add(&tree);
    machine.add(&tree).unwrap();

    let first = machine.boot(BOOT_LIMIT).unwrap();
    let release = fs::read_to_string(kernel.join("release")).unwrap();
    first.assert_verdict("release", release.trim());
    first.assert_verdict("elsewhere", "0"); // the server is there for everybody else
    first.assert_verdict("install", "0");
    println!("Linux {}", release.trim());
    if number_of(&release) < OLDEST {
        return assert_refused(&first);
    }
    first.assert_verdict("install.kernel", "active");
    first.assert_verdict("install.gateway", "active");
    first.assert_verdict("corpus", "0");
    assert!(first.all.contains("CORPUS test result: ok. 1 passed;"), "{}", first.all);
    // These kernels have it, and so it was judged with the rows that it closes.
    assert!(first.all.contains("the BPF LSM: in effect"), "{}", first.all);
    if all {
        first.assert_verdict("open", "0");
        first.all.lines().filter_map(|line| line.strip_prefix("BENCH ")).for_each(|line| println!("{line}"));
        assert!(first.all.contains("beside 50000 sessions"), "{}", first.all);
    }
    // Another build has as many as it has.
    if std::env::var_os("WEIR_PREVIOUS").is_none() {
        first.assert_verdict("lsm", "5");
    }
    first.assert_verdict("gateway", "active");
    first.assert_verdict("status", "0");
    first.assert_verdict("up.started", "0");
    first.assert_masked("up");
    first.assert_verdict("up.doctor", "0");
    assert!(findings(&first).iter().all(|finding| finding["level"] != "fail"), "{}", first.all);
    assert!(first.number("up.prober.tries") > 0, "{}", first.all);
    first.assert_verdict("up.prober.free", "0");
    ways::judge(&first);

    let second = machine.boot(BOOT_LIMIT).unwrap();
    second.assert_reboot_stays_closed();
    second.assert_upgrade();
    second.assert_verdict("lsm", "5");

    let third = machine.with_parameters(WITHOUT_LSM).boot(BOOT_LIMIT).unwrap();
    third.assert_verdict("without.prober.free", "0");
    let is_gap = |finding: &Value| finding["level"] == "fail" && finding["subject"] == "interception";
    assert!(!findings(&third).iter().any(is_gap), "{}", third.all);
    doors::judge(&third);
    third.assert_verdict("lockdown", "[confidentiality]");
    // Sockets that no agent made, which the BPF LSM keeps from agents where there is one.
    third.assert_verdict("corpus", "0");
    assert!(third.all.contains("the BPF LSM: absent"), "{}", third.all);
    assert!(third.all.contains("CORPUS test result: ok. 1 passed;"), "{}", third.all);
    for finding in findings(&first).iter().filter(|finding| finding["level"] == "warn") {
        println!("warning: {}: {}", finding["subject"], finding["message"]);
    }
}

/// Too old: nothing that is an agent's runs, and everybody who asks is told in a sentence.
fn assert_refused(said: &Said) {
    // It is tried again and again, for the gateway's sake.
    assert_ne!(said.verdicts().get("install.kernel"), Some(&"active"), "{}", said.all);
    said.assert_verdict("attach", "1");
    said.assert_verdict("doctor", "1");
    said.assert_verdict("unsupported.started", "1");
    assert_eq!(said.agent("unsupported"), "", "an agent ran without the kernel half\n{}", said.all);
    let sentence = format!("Weir needs Linux {}.{} or newer", OLDEST.0, OLDEST.1);
    assert!(said.all.lines().any(|line| line.starts_with("weir: ") && line.contains(&sentence)), "{}", said.all);
    assert!(said.all.lines().any(|line| line.starts_with("LOG ") && line.contains(&sentence)), "{}", said.all);
    let kernel = findings(said).into_iter().find(|finding| finding["subject"] == "kernel");
    assert!(kernel.is_some_and(|finding| finding["level"] == "fail"), "{}", said.all);
}

fn findings(said: &Said) -> Vec<Value> {
    findings_of(said, "DOCTOR")
}

/// What doctor said in the line that begins with this word.
fn findings_of(said: &Said, word: &str) -> Vec<Value> {
    let line = said.all.lines().find_map(|line| line.trim_end().strip_prefix(word)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("doctor said nothing\n{}", said.all));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{}", said.all))
}

/// `6.12.95+deb12-cloud-amd64` -> (6, 12).
fn number_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The kernel's modules come on a disk of their own.
const MODULES: &str = "[Unit]\nDefaultDependencies=no\nBefore=systemd-modules-load.service sysinit.target\n\
    [Mount]\nWhat=/dev/vdb\nWhere=/usr/lib/modules\nType=ext4\nOptions=ro\n";

/// The benchmark's row of sessions that are open: a process of this machine may have as many descriptors as it takes.
fn add_bench(tree: &Tree) {
    put_program(tree, &named("WEIR_BIN").with_file_name("bench"), "opt/smoke/bin/bench");
}

/// The attack corpus, and the suite that judges it: the one that runs on this machine, too.
fn add_corpus(tree: &Tree) {
    let program = named("WEIR_BIN").with_file_name("bypass");
    for (from, to) in [(named("WEIR_VM_SUITE"), "opt/smoke/suite"), (program, "opt/smoke/bin/bypass")] {
        put_program(tree, &from, to);
    }
    let attackers = std::env::var("WEIR_VM_ATTACKERS").unwrap();
    tree.put("opt/smoke/attackers", 0o644, &attackers).unwrap();
}

fn put_program(tree: &Tree, from: &Path, to: &str) {
    let to = tree.path(to).unwrap();
    // Line tables are most of it, and the disk is small.
    let strip = Command::new("strip").arg("--strip-debug").arg("-o").arg(&to).arg(from).output().unwrap();
    assert!(strip.status.success(), "{}: {strip:?}", from.display());
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
}

fn named(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| panic!("no {variable}: run `cargo xtask test kernels`"));
    let path = Path::new(&path).to_path_buf();
    assert!(path.exists(), "{variable}: no {}", path.display());
    path
}
