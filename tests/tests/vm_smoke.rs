//! The units in `systemd/`, first as systemd reads them, then in a virtual machine with a real systemd as PID 1: the package
//! installed, the programs at the real cgroup root, a reboot, an upgrade, removal, and the static tarball in its place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use system_tests::ca::Ca;
use system_tests::env::Env;
use system_tests::issuer::{AUDIENCE, Issuer};
use system_tests::packages::Packages;
use system_tests::vm::Machine;
use system_tests::{postgres, shop};

/// One boot with everything in it, emulated on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_mins(10);
/// The most that `systemd-analyze security` may find exposed, in tenths: of the gateway's unit, and of an agent's unit whose
/// own settings are only a user and a command.
const GATEWAY_EXPOSURE: u32 = 30;
const AGENT_EXPOSURE: u32 = 25;
/// Where the issuer's documents are served inside the machine.
const ISSUER: &str = "http://127.0.0.1:8080";

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
    let tree = env.dir().join("tree");
    fill(&env, &tree);
    machine.add(&tree).unwrap();

    let first = Said { all: machine.boot(BOOT_LIMIT).unwrap() };
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

    let second = Said { all: machine.boot(BOOT_LIMIT).unwrap() };
    second.assert_verdict("boot.kernel", "active");
    second.assert_verdict("boot.gateway", "inactive");
    second.assert_verdict("boot.started", "active");
    second.assert_closed("boot");
    second.assert_masked("late");

    let third = Said { all: machine.boot(BOOT_LIMIT).unwrap() };
    third.assert_upgrade();
    third.assert_removal();
    third.assert_purge();
    third.assert_static();
}

/// What a boot said: verdicts by name, and what the agent printed at each of its runs.
struct Said {
    all: String,
}

impl Said {
    fn verdicts(&self) -> BTreeMap<&str, &str> {
        self.all.lines().filter_map(|line| line.trim_end().strip_prefix("VERDICT ")?.split_once('=')).collect()
    }

    fn agent(&self, run: &str) -> String {
        let prefix = format!("AGENT {run}: ");
        let lines = self.all.lines().filter_map(|line| line.trim_end().strip_prefix(&prefix));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn assert_verdict(&self, name: &str, expected: &str) {
        assert_eq!(self.verdicts().get(name), Some(&expected), "verdict {name}\n{}", self.all);
    }

    /// The agent got its rows, with what is secret masked, and nothing else on the network.
    fn assert_masked(&self, run: &str) {
        let agent = self.agent(run);
        assert!(agent.contains("psql: 0") && agent.contains("Ada Okafor"), "{run}\n{}", self.all);
        assert!(agent.contains("1002") && !agent.contains(postgres::SSN), "{run}\n{}", self.all);
        assert!(!agent.contains(postgres::EMAIL), "{run}\n{}", self.all);
        assert!(agent.contains("SSL connection") && agent.contains("verified: 0"), "{run}\n{}", self.all);
        self.assert_nothing_elsewhere(run);
    }

    /// The agent ran, and reached nothing at all.
    fn assert_closed(&self, run: &str) {
        let agent = self.agent(run);
        assert!(agent.contains("psql: 2") && !agent.contains("Ada Okafor"), "{run}\n{}", self.all);
        self.assert_nothing_elsewhere(run);
    }

    fn number(&self, name: &str) -> u64 {
        let said = self.verdicts().get(name).and_then(|text| text.parse().ok());
        said.unwrap_or_else(|| panic!("no number {name}\n{}", self.all))
    }

    /// Another version, with an agent that tried to get by all the while: nothing stopped, nothing passed.
    fn assert_upgrade(&self) {
        self.assert_verdict("upgrade", "0");
        self.assert_verdict("upgrade.gateway", "active");
        self.assert_verdict("upgrade.enforcing", "0");
        self.assert_verdict("upgrade.restarted", "yes");
        self.assert_verdict("upgrade.swapped", "yes");
        self.assert_verdict("upgrade.agent-lives", "yes");
        self.assert_verdict("upgrade.configuration", "kept");
        self.assert_masked("upgraded");
        assert!(self.number("prober.tries") > 20, "{}", self.all);
        self.assert_verdict("prober.free", "0");
    }

    /// Refused while there are agents, or units that would be; then nothing stays in the kernel, or runs, or listens.
    fn assert_removal(&self) {
        self.assert_verdict("remove.agents", "refused");
        self.assert_verdict("remove.agents.gateway", "active");
        self.assert_verdict("remove.links", "refused");
        self.assert_verdict("remove.before", "shut out");
        self.assert_verdict("remove", "0");
        self.assert_verdict("remove.after", "passes");
        self.assert_verdict("remove.left", "");
        self.assert_verdict("remove.kept", "configuration recordings");
        self.assert_verdict("remove.slice", "refused");
        self.assert_verdict("reinstall", "0");
        self.assert_verdict("reinstall.gateway", "active");
    }

    /// With an agent alive only after a detach; then nothing stays but the agent and the recordings, which are whole.
    fn assert_purge(&self) {
        self.assert_verdict("purge.agents", "refused");
        self.assert_verdict("purge.agent-lives", "yes");
        self.assert_verdict("purge", "0");
        self.assert_verdict("purge.left", "");
        self.assert_verdict("purge.kept", "/var/lib/weir/recordings");
    }

    fn assert_static(&self) {
        self.assert_verdict("static.gateway", "active");
        self.assert_masked("static");
        self.assert_verdict("static.verify", "10"); // whole in itself: there is no anchor elsewhere
    }

    /// The agent tried a server that is no target, and got not a byte of its answer.
    fn assert_nothing_elsewhere(&self, run: &str) {
        let agent = self.agent(run);
        assert!(agent.contains("elsewhere: done") && !agent.contains("\"keys\""), "{run}\n{}", self.all);
    }
}

/// The packages to install, and everything that an administrator would write, at its place.
fn fill(env: &Env, tree: &Path) {
    let put = |path: &str, mode: u32, text: &str| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let packages = Packages::of_this_run().unwrap();
    fs::create_dir_all(tree.join("opt/smoke")).unwrap();
    fs::copy(packages.debian(), tree.join("opt/smoke/weir.deb")).unwrap();
    packages.later_debian(&env.dir().join("later"), &tree.join("opt/smoke/later.deb")).unwrap();
    fs::copy(packages.tarball(), tree.join("opt/smoke/static.tar.gz")).unwrap();

    let (ca, issuer) = (Ca::new().unwrap(), Issuer::start().unwrap());
    let leaf = ca.issue(&[postgres::NAME]).unwrap();
    put("opt/smoke/schema.sql", 0o644, postgres::SCHEMA);
    put("opt/smoke/server.crt", 0o644, &leaf.certificate);
    put("opt/smoke/server.key", 0o600, &leaf.key);
    put("etc/postgresql/15/main/conf.d/smoke.conf", 0o644, SERVER_SETTINGS);
    for (path, document) in issuer.documents(ISSUER).unwrap() {
        put(&format!("opt/smoke/issuer{path}"), 0o644, &document.to_string());
    }
    // Copied to /etc/weir once the package is there.
    put("opt/smoke/etc/weir.toml", 0o644, &configuration());
    put("opt/smoke/etc/db-ca.pem", 0o644, ca.pem());
    put("opt/smoke/etc/credentials/orders-db", 0o600, postgres::PASSWORD);
    put("opt/smoke/credentials.conf", 0o644, CREDENTIALS);
    put("etc/coder.token", 0o600, &issuer.token(&json!({ "iss": ISSUER })).unwrap());
    put("etc/hosts", 0o644, &format!("127.0.0.1 localhost vm {}\n", postgres::NAME));
    put("opt/smoke/agent-hosts", 0o644, "127.0.0.1 localhost\n");

    for (name, text) in [
        ("agent", include_str!("../vm/agent")),
        ("lifecycle", include_str!("../vm/lifecycle")),
        ("prober", include_str!("../vm/prober")),
        ("run", include_str!("../vm/smoke")),
    ] {
        put(&format!("opt/smoke/{name}"), 0o755, text);
    }
    put("usr/lib/sysusers.d/coder.conf", 0o644, "u agent-coder - - - -\n");
    for (name, text) in [
        ("coder.service", include_str!("../vm/coder.service")),
        ("issuer.service", include_str!("../vm/issuer.service")),
        ("prober.service", include_str!("../vm/prober.service")),
        ("smoke.service", include_str!("../vm/smoke.service")),
    ] {
        put(&format!("usr/lib/systemd/system/{name}"), 0o644, text);
    }
    enable(tree, "multi-user.target", &["issuer.service", "smoke.service"]);
}

const CREDENTIALS: &str = "[Service]\nLoadCredential=orders-db:/etc/weir/credentials/orders-db\n";
const SERVER_SETTINGS: &str = "ssl_cert_file = '/etc/postgresql/15/main/server.crt'\n\
    ssl_key_file = '/etc/postgresql/15/main/server.key'\n";

/// Only defaults in `[gateway]`: the real root cgroup, the real paths.
fn configuration() -> String {
    let identity =
        format!("[identity]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\ninsecure = \"files on this machine\"\n");
    let agent = "[[agent]]\nname = \"coder\"\nunit = \"coder.service\"\nuser = \"agent-coder\"\n\
                 token = { file = \"/etc/coder.token\" }\n";
    let target = postgres::target_config(5432, Path::new("/etc/weir/db-ca.pem"));
    [identity.as_str(), agent, &target, shop::POLICY].join("\n")
}

/// What `systemctl enable` does.
fn enable(tree: &Path, target: &str, names: &[&str]) {
    let wants = tree.join(format!("etc/systemd/system/{target}.wants"));
    fs::create_dir_all(&wants).unwrap();
    for name in names {
        symlink(format!("/usr/lib/systemd/system/{name}"), wants.join(name)).unwrap();
    }
}
