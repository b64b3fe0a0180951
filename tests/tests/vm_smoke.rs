//! The units in `systemd/`, first as systemd reads them, then in a virtual machine with a real systemd as PID 1: the package
//! installed, the programs at the real cgroup root, a reboot, an upgrade, removal, and the static tarball in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use system_tests::env::Env;
use system_tests::packages::Packages;
use system_tests::vm::{Machine, Said, Tree};

/// One boot with everything in it, emulated on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_mins(10);
/// The most that `systemd-analyze security` may find exposed, in tenths: of the gateway's unit, and of an agent's unit whose
/// own settings are only a user and a command.
const GATEWAY_EXPOSURE: u32 = 29;
const AGENT_EXPOSURE: u32 = 25;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// The units with a binary that exists on this machine, and an agent's unit with the drop-in.
fn staged_units(env: &Env) -> PathBuf {
    let staged = env.dir().join("units");
    fs::create_dir_all(staged.join("coder.service.d")).unwrap();
    for unit in ["weir-kernel.service", "weir.service", "agents.slice"] {
        let text = fs::read_to_string(units().join(unit)).unwrap();
        assert!(unit == "agents.slice" || text.contains("/usr/bin/weir "), "{unit} runs no weir");
        fs::write(staged.join(unit), text.replace("/usr/bin/weir ", &format!("{} ", env.weir_path().display())))
            .unwrap();
    }
    fs::copy(units().join("weir-agent.conf"), staged.join("coder.service.d/weir-agent.conf")).unwrap();
    fs::write(staged.join("coder.service"), "[Service]\nExecStart=/bin/true\nUser=agent-coder\n").unwrap();
    staged
}

#[test]
fn systemd_reads_the_units_without_a_complaint() {
    let env = Env::new().unwrap();
    let staged = staged_units(&env);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).env("SYSTEMD_UNIT_PATH", format!("{}:", staged.display()));
    for unit in ["weir-kernel.service", "weir.service", "agents.slice", "coder.service"] {
        verify.arg(staged.join(unit));
    }
    assert_eq!(output(&mut verify), "");
}

#[test]
fn the_units_are_not_exposed() {
    let env = Env::new().unwrap();
    let staged = staged_units(&env);
    for (unit, threshold) in [("weir.service", GATEWAY_EXPOSURE), ("coder.service", AGENT_EXPOSURE)] {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager", &format!("--threshold={threshold}")]);
        security.arg(staged.join(unit)).env("SYSTEMD_UNIT_PATH", format!("{}:", staged.display()));
        let out = security.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains(&format!("Overall exposure level for {unit}")), "{text}");
        assert!(out.status.success(), "{text}");
    }
}

#[test]
fn an_agents_slice_cannot_start_before_the_kernel_half() {
    let env = Env::new().unwrap();
    let staged = staged_units(&env);
    let read = |unit: &str| fs::read_to_string(staged.join(unit)).unwrap();
    for unit in ["agents.slice", "coder.service.d/weir-agent.conf"] {
        assert!(read(unit).contains("\nRequires=weir-kernel.service\n"), "{unit} starts without the kernel half");
    }
    assert!(read("coder.service.d/weir-agent.conf").contains("\nSlice=agents.slice\n"));
    assert!(read("weir-kernel.service").contains("Before=agents.slice "));
    assert!(!read("weir-kernel.service").contains("ExecStop"), "stopping the unit must not detach");
}

#[test]
fn sysusers_and_tmpfiles_make_what_the_units_name() {
    let env = Env::new().unwrap();
    let root = env.dir().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    let run = |program: &str, words: &[&str], file: &str| {
        let mut command = Command::new(program);
        command
            .args(words)
            .arg(format!("--root={}", root.display()))
            .arg(fs::canonicalize(units().join(file)).unwrap());
        let text = output(&mut command);
        assert!(command.status().unwrap().success(), "{program}: {text}");
    };
    run("systemd-sysusers", &[], "weir.sysusers");
    run("systemd-tmpfiles", &["--create"], "weir.tmpfiles");
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(passwd.contains("weir:x:"), "{passwd}");
    for directory in ["run/weir", "var/lib/weir", "etc/weir/conf.d", "etc/weir/credentials"] {
        assert!(root.join(directory).is_dir(), "{directory}");
    }
}

#[test]
fn agents_are_masked_and_a_reboot_stays_closed() {
    let env = Env::new().unwrap();
    let machine = Machine::new(&env).unwrap();
    let tree = Tree::new(&env).unwrap();
    tree.add_upgrade(&env).unwrap();
    fs::copy(Packages::of_this_run().unwrap().tarball(), tree.path("opt/smoke/static.tar.gz").unwrap()).unwrap();
    tree.put("opt/smoke/run", 0o755, include_str!("../vm/smoke")).unwrap();
    tree.put("opt/smoke/lifecycle", 0o755, include_str!("../vm/lifecycle")).unwrap();
    machine.add(&tree).unwrap();

    let first = machine.boot(BOOT_LIMIT).unwrap();
    // The package, as installed: enabled, started, and closed.
    first.assert_verdict("install", "0");
    first.assert_verdict("install.kernel", "active");
    first.assert_verdict("install.gateway", "active");
    first.assert_closed("unconfigured");
    first.assert_verdict("kernel", "active");
    first.assert_verdict("elsewhere", "0"); // the server is there for everybody else
    first.assert_verdict("gateway", "active");
    first.assert_verdict("up.started", "0");
    first.assert_masked("up");
    first.assert_verdict("reload", "0");
    first.assert_closed("stopped");
    first.assert_verdict("no-kernel.started", "1");
    assert_eq!(first.agent("no-kernel"), "", "an agent ran without the kernel half\n{}", first.all);
    first.assert_masked("again");
    first.assert_masked("recreated");
    first.assert_masked("hung supervised-by");
    first.assert_masked("hung witness");
    first.assert_masked("private");

    let second = machine.boot(BOOT_LIMIT).unwrap();
    second.assert_reboot_stays_closed();

    let third = machine.boot(BOOT_LIMIT).unwrap();
    third.assert_upgrade();
    assert_removal(&third);
    assert_purge(&third);
    assert_static(&third);
}

/// Refused while there are agents, or units that would be; then nothing stays in the kernel, or runs, or listens.
fn assert_removal(said: &Said) {
    said.assert_verdict("remove.agents", "refused");
    said.assert_verdict("remove.agents.gateway", "active");
    said.assert_verdict("remove.links", "refused");
    said.assert_verdict("remove.before", "shut out");
    said.assert_verdict("remove", "0");
    said.assert_verdict("remove.after", "passes");
    said.assert_verdict("remove.left", "");
    said.assert_verdict("remove.kept", "configuration recordings");
    said.assert_verdict("remove.slice", "refused");
    said.assert_verdict("reinstall", "0");
    said.assert_verdict("reinstall.gateway", "active");
}

/// With an agent alive only after a detach; then nothing stays but the agent and the recordings, which are whole.
fn assert_purge(said: &Said) {
    said.assert_verdict("purge.agents", "refused");
    said.assert_verdict("purge.agent-lives", "yes");
    said.assert_verdict("purge", "0");
    said.assert_verdict("purge.left", "");
    said.assert_verdict("purge.kept", "/var/lib/weir/recordings");
}

fn assert_static(said: &Said) {
    said.assert_verdict("static.gateway", "active");
    said.assert_masked("static");
    said.assert_verdict("static.verify", "10"); // whole in itself: there is no anchor elsewhere
}
