//! The units in `systemd/`, first as systemd reads them, then in a virtual machine with a real systemd as PID 1, the
//! programs at the real cgroup root, and a reboot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::env::Env;

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
