//! Agents in containers of the runtimes that Debian has: intercepted there, known by the container's id, and agents by the
//! name and the labels that the runtime gave it. No image comes from anywhere: all have psql, what it is linked with, and cat.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::User;
use serde_json::{Value, json};
use system_tests::env::{AGENT, AGENT_USER, Attacker, Gateway, Place};
use system_tests::process::{Finished, PATIENCE, Running, wait_until};
use system_tests::shop::{POLICY, Shop};
use system_tests::{machine, postgres};

const PSQL: [&str; 6] =
    ["/psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", "SELECT ssn FROM customers WHERE id = 1"];
const MASKED: &str = "*******1002";
const NOBODY: &str = "no agent is configured for the cgroup";
/// What Docker and Podman call the image. Podman asks nobody for names below localhost.
const IMAGE: &str = "localhost/weir-test:latest";
/// Docker's client, and no other that may be first in the path.
const DOCKER: &str = "/usr/bin/docker";
/// Until Docker has set up its network.
const DOCKER_STARTS: Duration = Duration::from_mins(1);

struct World {
    _gateway: Gateway,
    shop: Shop,
    user: User,
}

impl World {
    fn new() -> Self {
        machine::enter().unwrap();
        let shop = Shop::new().unwrap();
        shop.configure(POLICY).unwrap();
        let gateway = shop.serve().unwrap();
        let user = User::from_name(AGENT_USER).unwrap().unwrap();
        Self { _gateway: gateway, shop, user }
    }

    /// From now on the agent is whatever container has these.
    fn agent_is(&self, container: &str) {
        let env = &self.shop.env;
        let whole = fs::read_to_string(env.config_path()).unwrap();
        let by_cgroup = env.agent_config();
        let by_cgroup: Vec<&str> =
            by_cgroup.lines().filter(|line| line.starts_with("cgroup") || line.starts_with("user")).collect();
        let text = whole.replace(&by_cgroup.join("\n"), &format!("container = {{ {container} }}"));
        assert_ne!(text, whole);
        fs::write(env.config_path(), text).unwrap();
        env.weir(["reload"]).unwrap().expect_success().unwrap();
    }

    /// A token of this second: one is good for one user of one container.
    fn new_token(&self) {
        self.shop.give_token(&self.shop.claims()).unwrap();
    }

    /// What psql is told, as variables.
    fn variables(&self) -> [String; 3] {
        let (host, port, database) = (postgres::NAME, self.shop.postgres.port(), postgres::DATABASE);
        [format!("PGHOST={host}"), format!("PGPORT={port}"), format!("PGDATABASE={database}")]
    }

    /// The same as words of `docker run` and `podman run`.
    fn variable_words(&self) -> Vec<String> {
        self.variables().into_iter().flat_map(|variable| ["--env".to_owned(), variable]).collect()
    }

    /// The agent's numbers, as a container's user.
    fn numbers(&self) -> String {
        format!("{}:{}", self.user.uid, self.user.gid)
    }

    /// The cgroup below which the agent's containers are to be, as `--cgroup-parent` takes it.
    fn parent(&self) -> String {
        format!("/{}/agents/{AGENT}", self.shop.env.attach())
    }

    /// The image as a file, made once.
    fn archive(&self) -> PathBuf {
        let (root, archive) = (self.shop.env.dir().join("image"), self.shop.env.dir().join("image.tar"));
        if archive.exists() {
            return archive;
        }
        make_root(&root);
        let tar = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(tar.success());
        archive
    }

    fn assert_masked(&self, psql: &Finished) {
        assert!(psql.stdout.lines().any(|line| line == MASKED), "{psql:?}\n{}", self.shop.env.log());
    }

    /// The last session that was opened, as `weir sessions show` has it.
    fn last_session(&self) -> String {
        let env = &self.shop.env;
        let sessions = env.weir(["sessions", "--json"]).unwrap().expect_success().unwrap();
        let sessions: Value = serde_json::from_str(&sessions).unwrap();
        let opened = sessions.as_array().unwrap().iter().find(|session| session["refused"].is_null()).unwrap();
        env.weir(["sessions", "show", opened["id"].as_str().unwrap()]).unwrap().expect_success().unwrap()
    }
}

/// Copies psql and cat with their libraries, by what ldd says.
fn make_root(root: &Path) {
    let versions = fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path().join("bin/psql"));
    let psql = versions.into_iter().find(|psql| psql.exists()).unwrap();
    for program in [&psql, Path::new("/bin/cat")] {
        let linked = Command::new("ldd").arg(program).output().unwrap();
        let linked = String::from_utf8(linked.stdout).unwrap();
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for library in libraries {
            let to = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
        fs::copy(program, root.join(program.file_name().unwrap())).unwrap();
    }
    fs::create_dir(root.join("etc")).unwrap();
    // psql wants a name for its user.
    fs::copy("/etc/passwd", root.join("etc/passwd")).unwrap();
    // A resolver that is not there.
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
}

/// A container by the OCI runtime specification alone.
struct Bundle {
    id: String,
    directory: PathBuf,
}

impl Bundle {
    fn new(world: &World, annotations: &Value) -> Self {
        let (env, id) = (&world.shop.env, container_id());
        let bundle = env.dir().join(&id);
        make_root(&bundle.join("rootfs"));
        let words = ["spec", "--bundle", &bundle.display().to_string()];
        env.bystander("runc").args(words).run().unwrap().expect_success().unwrap();
        let file = bundle.join("config.json");
        let mut spec: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["user"] = json!({ "uid": world.user.uid.as_raw(), "gid": world.user.gid.as_raw() });
        spec["process"]["env"] = json!(world.variables());
        spec["process"]["args"] = json!(PSQL);
        spec["root"]["path"] = json!(bundle.join("rootfs"));
        // What `--cgroup-parent` does.
        spec["linux"]["cgroupsPath"] = json!(format!("{}/docker-{id}.scope", world.parent()));
        spec["annotations"] = annotations.clone();
        fs::write(&file, spec.to_string()).unwrap();
        Self { id, directory: bundle }
    }

    /// One that is to be in the host's network and outside every agent's cgroup: what an attacker asks an engine for.
    fn outside(world: &World) -> Self {
        let bundle = Self::new(world, &json!({}));
        let file = bundle.directory.join("config.json");
        let mut spec: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{}", outside_parent(world), bundle.id));
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
        spec["process"]["env"] = json!(outside_variables(world));
        // An agent's own user is intercepted wherever it runs.
        spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
        fs::write(&file, spec.to_string()).unwrap();
        bundle
    }

    fn by_runc(&self, world: &World) -> Finished {
        let runc = world.shop.env.bystander("runc");
        runc.args(["run", "--bundle"]).arg(&self.directory).arg(&self.id).run().unwrap()
    }

    fn by_containerd(&self, world: &World) -> Finished {
        // To a file: what ends at once may be gone before ctr has copied its output.
        let output = self.directory.join("output");
        let ctr = world.shop.env.bystander("ctr").args(["run", "--rm", "--log-uri"]);
        let ctr = ctr.arg(format!("file://{}", output.display())).arg("--config");
        let ctr = ctr.arg(self.directory.join("config.json")).arg(&self.id).run().unwrap();
        let said = fs::read_to_string(output).unwrap();
        Finished { stdout: said.clone(), stderr: ctr.stderr + &said, ..ctr }
    }
}

/// Some id that no other container has.
fn container_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{:032x}{:032x}", std::process::id(), now.as_nanos())
}

/// Debian's containerd where it keeps its state.
struct Containerd {
    _daemon: Running,
}

impl Containerd {
    const SOCKET: &str = "/run/containerd/containerd.sock";

    fn new(world: &World) -> Self {
        let root = world.shop.env.dir().join("containerd");
        let daemon = world.shop.env.bystander("containerd").arg("--root").arg(root).start().unwrap();
        wait_until("containerd", PATIENCE, || UnixStream::connect(Self::SOCKET).is_ok())
            .unwrap_or_else(|error| panic!("{error}: {}", daemon.stderr()));
        Self { _daemon: daemon }
    }
}

/// Debian's Docker, with the image.
struct Docker<'a> {
    world: &'a World,
    _daemon: Running,
    _containerd: Containerd,
}

impl<'a> Docker<'a> {
    const SOCKET: &'static str = "/run/docker/docker.sock";

    fn new(world: &'a World) -> Self {
        let containerd = Containerd::new(world);
        let daemon = world.shop.env.bystander("dockerd").args([
            "--containerd",
            Containerd::SOCKET,
            "--host",
            &format!("unix://{}", Self::SOCKET),
            "--pidfile=/run/docker/docker.pid",
            // Where systemd is not the first process.
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ]);
        let daemon = daemon.start().unwrap();
        wait_until("Docker", DOCKER_STARTS, || UnixStream::connect(Self::SOCKET).is_ok())
            .unwrap_or_else(|error| panic!("{error}: {}", daemon.stderr()));
        let docker = Self { world, _daemon: daemon, _containerd: containerd };
        docker.command("import").arg(world.archive()).arg(IMAGE).run().unwrap().expect_success().unwrap();
        docker
    }

    fn command(&self, command: &str) -> Place<'_> {
        self.world.shop.env.bystander(DOCKER).args(["--host", &format!("unix://{}", Self::SOCKET), command])
    }

    /// `docker run` with `words`, below the agent's cgroup.
    fn run(&self, words: &[&str], program: &[&str]) -> Finished {
        let run = self.command("run").args(["--rm", "--cgroup-parent", &self.world.parent()]);
        run.args(self.world.variable_words()).args(words).arg(IMAGE).args(program).run().unwrap()
    }
}

#[test]
fn an_agent_in_a_container_is_intercepted_and_known_by_the_containers_id() {
    let world = World::new();
    let bundle = Bundle::new(&world, &json!({}));
    world.assert_masked(&bundle.by_runc(&world));
    let shown = world.last_session();
    assert!(shown.contains(&bundle.id) && shown.contains("/psql"), "{shown}");
}

/// The agent is whatever container has a label, or a name, by root's runtimes.
#[test]
fn a_container_is_an_agent_by_what_its_runtime_says() {
    let world = World::new();
    let _containerd = Containerd::new(&world);
    let annotations = json!({ "weir.agent": "coder", "nerdctl/name": "coder-7" });
    world.agent_is(r#"label = "weir.agent=coder", name = "coder-*""#);
    for run in [Bundle::by_runc, Bundle::by_containerd] {
        world.assert_masked(&run(&Bundle::new(&world, &annotations), &world));
        let other = json!({ "weir.agent": "tester", "nerdctl/name": "coder-7" });
        let psql = run(&Bundle::new(&world, &other), &world);
        assert!(psql.stderr.contains(NOBODY), "{psql:?}");
    }
    // Outside every container nobody is this agent.
    let psql = world.shop.psql("SELECT 1").run().unwrap();
    assert!(psql.stderr.contains(NOBODY), "{psql:?}");
    assert!(world.last_session().contains("coder-7"));
}

/// Whatever network Docker gives it, and whatever resolver it is told to ask.
#[test]
fn an_agent_in_dockers_containers_is_known_by_name_and_label() {
    let world = World::new();
    world.agent_is(r#"label = "weir.agent=coder", name = "coder-*""#);
    let docker = Docker::new(&world);
    docker.command("network").args(["create", "own"]).run().unwrap().expect_success().unwrap();
    let numbers = world.numbers();
    let agent = ["--user", &numbers, "--name", "coder-7", "--label", "weir.agent=coder"];
    for network in ["none", "bridge", "own", "host"] {
        let id = world.shop.env.dir().join(format!("id-{network}"));
        let words = [&agent[..], &["--network", network, "--cidfile", id.to_str().unwrap()]].concat();
        world.assert_masked(&docker.run(&words, &PSQL));
        let (id, shown) = (fs::read_to_string(id).unwrap(), world.last_session());
        let all = [id.as_str(), "coder-7", "/psql"];
        assert!(all.iter().all(|what| shown.contains(what)), "{network} {id}: {shown}");
    }
    // Docker's own resolver, which a network that somebody made brings along.
    let resolver = docker.run(&["--network", "own"], &["/cat", "/etc/resolv.conf"]).expect_success().unwrap();
    assert!(resolver.contains("nameserver 127.0.0.11"), "{resolver}");

    for other in
        [["--name", "coder-8", "--label", "weir.agent=tester"], ["--name", "tester-7", "--label", "weir.agent=coder"]]
    {
        let psql = docker.run(&[&["--user", &numbers], &other[..]].concat(), &PSQL);
        assert!(psql.stderr.contains(NOBODY), "{psql:?}");
    }
    // Docker leaves its root a capability by which packets go around.
    let root = docker.run(&agent[2..], &PSQL);
    assert!(root.stderr.contains("holds CAP_NET_RAW") && root.stderr.contains("accept_risk"), "{root:?}");
    world.new_token();
    world.assert_masked(&docker.run(&[&agent[2..], &["--cap-drop", "NET_RAW"]].concat(), &PSQL));
}

/// Podman keeps labels in a database of its own, and writes annotations where the runtime reads them.
#[test]
fn an_agent_in_podmans_containers_is_known_by_name_and_annotation() {
    let world = World::new();
    world.agent_is(r#"label = "weir.agent=coder", name = "coder-*""#);
    let env = &world.shop.env;
    let archive = world.archive();
    env.bystander("podman").arg("import").arg(archive).arg(IMAGE).run().unwrap().expect_success().unwrap();
    let numbers = world.numbers();
    let run = |words: &[&str]| {
        let podman = env.bystander("podman").args(["run", "--rm", "--cgroup-parent", &world.parent()]);
        podman.args(PODMAN_LIMITS).args(world.variable_words()).args(words).arg(IMAGE).args(PSQL).run().unwrap()
    };
    let agent = ["--name", "coder-7", "--annotation", "weir.agent=coder"];
    for network in ["none", "bridge", "host"] {
        let id = env.dir().join(format!("id-{network}"));
        let more = ["--user", &numbers, "--network", network, "--cidfile", id.to_str().unwrap()];
        world.assert_masked(&run(&[&agent[..], &more].concat()));
        let (id, shown) = (fs::read_to_string(id).unwrap(), world.last_session());
        let all = [id.as_str(), "coder-7", "/psql"];
        assert!(all.iter().all(|what| shown.contains(what)), "{network} {id}: {shown}");
    }
    // Its root has nothing that leads around, but is another user with the same token.
    assert!(run(&agent).stderr.contains("in use by container coder-7"));
    world.new_token();
    world.assert_masked(&run(&agent));
    for other in [
        ["--name", "coder-7", "--label", "weir.agent=coder"],
        ["--name", "tester-7", "--annotation", "weir.agent=coder"],
    ] {
        let psql = run(&other);
        assert!(psql.stderr.contains(NOBODY), "{psql:?}");
    }
}

/// Podman's own are higher than a machine may allow, and it does not ask.
const PODMAN_LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];

/// An agent that starts containers by itself stays what it is: Podman, slirp4netns and what runs in the container are in its
/// cgroup.
#[test]
fn an_agent_in_a_container_of_its_own_is_still_that_agent() {
    let world = World::new();
    let env = &world.shop.env;
    let archive = world.archive();
    let home = env.dir().join("home");
    let podman = |words: &[&str]| {
        let podman = env.agent("podman").env("XDG_RUNTIME_DIR", &home).env("TMPDIR", &home);
        podman.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]).args(words)
    };
    podman(&["import", archive.to_str().unwrap(), IMAGE]).run().unwrap().expect_success().unwrap();
    let run = podman(&["run", "--rm", "--network", "slirp4netns", "--name", "mine"]).args(PODMAN_LIMITS);
    let psql = run.args(world.variable_words()).arg(IMAGE).args(PSQL).run().unwrap();
    world.assert_masked(&psql);
    let shown = world.last_session();
    assert!(shown.contains(&format!("agents/{AGENT}")) && shown.contains("/psql"), "{shown}");
}

/// A cgroup that is no agent's.
fn outside_parent(world: &World) -> String {
    format!("/{}/bystanders", world.shop.env.attach())
}

/// Nobody outside asks the gateway for names.
fn outside_variables(world: &World) -> [String; 4] {
    let [_, port, database] = world.variables();
    [format!("PGHOST={}", world.shop.postgres.address()), port, database, "PGUSER=postgres".to_owned()]
}

/// Who runs what he is told by a socket in the file system.
#[derive(Clone, Copy, Debug)]
enum Engine {
    Docker,
    Containerd,
    Podman,
}

impl Engine {
    const ALL: [Self; 3] = [Self::Docker, Self::Containerd, Self::Podman];

    /// Where packages have it.
    const fn socket(self) -> &'static str {
        match self {
            Self::Docker => "/run/docker.sock",
            Self::Containerd => Containerd::SOCKET,
            Self::Podman => "/run/podman/podman.sock",
        }
    }

    /// Where it is on this test's machine, whose `/run` is everybody's.
    const fn real_socket(self) -> &'static str {
        match self {
            Self::Docker => Docker::SOCKET,
            Self::Containerd | Self::Podman => self.socket(),
        }
    }

    /// Its client, which asks for psql in a container outside; and the file for what psql says, if the client does not tell.
    fn ask(self, world: &World) -> (Vec<String>, Option<PathBuf>) {
        let url = format!("unix://{}", self.socket());
        let mut words: Vec<String> = match self {
            Self::Docker => [DOCKER, "--host", &url, "run"].map(str::to_owned).to_vec(),
            Self::Podman => ["podman", "--remote", "--url", &url, "run"].map(str::to_owned).to_vec(),
            Self::Containerd => {
                let bundle = Bundle::outside(world);
                let output = bundle.directory.join("output");
                let log = format!("file://{}", output.display());
                let config = bundle.directory.join("config.json").display().to_string();
                let words = ["ctr", "run", "--rm", "--log-uri", &log, "--config", &config, &bundle.id];
                return (words.map(str::to_owned).to_vec(), Some(output));
            }
        };
        words.extend(["--rm", "--network", "host", "--cgroup-parent", &outside_parent(world)].map(str::to_owned));
        words.extend(outside_variables(world).into_iter().flat_map(|variable| ["--env".to_owned(), variable]));
        if matches!(self, Self::Podman) {
            words.extend(PODMAN_LIMITS.map(str::to_owned));
        }
        words.push(IMAGE.to_owned());
        words.extend(PSQL.map(str::to_owned));
        (words, None)
    }
}

/// `/run` as packages lay it out: with Docker's socket at its place, where there is no file on the machine itself.
const WITH_DOCKER: [&str; 7] = [
    "unshare",
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    r#"mount -t tmpfs none /mnt || exit
for kept in docker containerd podman; do mkdir -p /mnt/$kept && mount --bind /run/$kept /mnt/$kept || exit; done
mount -t tmpfs none /run
for kept in docker containerd podman; do mkdir /run/$kept && mount --bind /mnt/$kept /run/$kept || exit; done
: >/run/docker.sock && mount --bind /mnt/docker/docker.sock /run/docker.sock || exit
for hidden in $HIDE; do
    if [ -d "$hidden" ]; then mount -t tmpfs -o mode=000 none "$hidden"; elif [ -e "$hidden" ]; then mount --bind "$CLOSED" "$hidden"; fi || exit
done
exec "$@""#,
    "sh",
];

/// Whoever may talk to an engine has it run something outside, as real engines do: `weir doctor` fails, by name, while such an agent
/// lives, and with what the drop-in hides there is no such socket.
#[test]
fn whoever_may_talk_to_an_engine_gets_out_and_is_found() {
    const DROP_IN: &str = include_str!("../../systemd/weir-agent.conf");
    let world = World::new();
    let env = &world.shop.env;
    let _docker = Docker::new(&world);
    let archive = world.archive();
    env.bystander("podman").arg("import").arg(archive).arg(IMAGE).run().unwrap().expect_success().unwrap();
    let url = format!("unix://{}", Engine::Podman.socket());
    let podman = env.bystander("podman").args(["system", "service", "--time=0", &url]).start().unwrap();
    wait_until("Podman", PATIENCE, || UnixStream::connect(Engine::Podman.socket()).is_ok())
        .unwrap_or_else(|error| panic!("{error}: {}", podman.stderr()));
    // For a user that is in no group of theirs.
    for engine in Engine::ALL {
        fs::set_permissions(engine.real_socket(), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let hidden = DROP_IN.lines().filter_map(|line| line.strip_prefix("InaccessiblePaths="));
    let hidden: Vec<&str> =
        hidden.flat_map(|paths| paths.split(' ')).map(|path| path.trim_start_matches('-')).collect();
    let closed = env.dir().join("closed");
    fs::write(&closed, "").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let mut wrong = Vec::new();
    for attacker in Attacker::ALL {
        for (hide, is_open) in [(String::new(), true), (hidden.join(" "), false)] {
            let place = |program: &str| {
                let place = env.attacker_behind(&WITH_DOCKER, attacker, program);
                place.env("HIDE", &hide).env("CLOSED", &closed)
            };
            let sleeper = place("sleep").arg("600").start().unwrap();
            wait_until("the sleeper", PATIENCE, || is_called(&sleeper, "sleep")).unwrap();
            let doctor = env.weir(["doctor", "--quick", "--json"]).unwrap();
            let findings: Value = serde_json::from_str(&doctor.stdout).unwrap();
            for engine in Engine::ALL {
                let is_it = |finding: &Value| {
                    let message = finding["message"].as_str().unwrap();
                    finding["subject"] == "sockets"
                        && finding["level"] == "fail"
                        && message.contains(&format!("can talk to {}, ", engine.socket()))
                        && message.contains("sleep (")
                };
                if findings.as_array().unwrap().iter().any(is_it) != is_open {
                    wrong.push(format!("{attacker:?} {engine:?} open {is_open}: {doctor:?}"));
                }
                let (words, output) = engine.ask(&world);
                // Root without capabilities may not look into the home of another.
                let said = place(&words[0]).args(&words[1..]).env("HOME", "/").run().unwrap();
                // An engine's shim may write what it was told after the program has ended.
                let told = || output.as_ref().and_then(|it| fs::read_to_string(it).ok()).unwrap_or_default();
                // The server's own word: the gateway asks agents for no password.
                let got_out = || format!("{}{}", said.stderr, told()).contains("no password supplied");
                let _ = wait_until("its word", if is_open { PATIENCE } else { Duration::from_millis(300) }, got_out);
                if got_out() != is_open {
                    wrong.push(format!("{attacker:?} {engine:?} open {is_open}: {said:?} {}", told()));
                }
            }
            drop(sleeper);
            for group in [AGENT, "root", "container"] {
                fs::write(env.cgroup().join(format!("agents/{group}/cgroup.kill")), "1").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Root in a container of Docker's has one way out, the engine's socket, if somebody gave it that: nobody else who would run something
/// for it is to be seen from there.
#[test]
fn root_in_a_container_has_no_way_out_but_the_socket_that_it_was_given() {
    const ELSEWHERE: [&str; 8] = [
        "/run/systemd",
        "/run/dbus",
        "/run/user",
        "/run/containerd",
        "/run/podman",
        "/var/spool/cron",
        "/etc/cron.d",
        "/sys/fs/bpf/weir",
    ];
    const GIVEN: [&str; 2] = ["--volume", "/run/docker/docker.sock:/run/docker.sock"];
    const LOCKED: [&str; 4] = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let world = World::new();
    let docker = Docker::new(&world);
    for (number, (words, expected)) in [
        (GIVEN.to_vec(), &["capabilities", "sockets"][..]),
        ([&GIVEN[..], &LOCKED].concat(), &["sockets"]),
        (LOCKED.to_vec(), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("box-{number}");
        let run =
            docker.command("run").args(["--rm", "--interactive", "--name", &name, "--cgroup-parent", &world.parent()]);
        let container = run.args(&words).args([IMAGE, "/cat"]).start().unwrap();
        let pid = || {
            let inspected = docker.command("inspect").args(["--format", "{{.State.Pid}}", &name]).run().unwrap();
            inspected.stdout.trim().parse::<u32>().ok().filter(|pid| *pid != 0)
        };
        wait_until("the container", PATIENCE, || pid().is_some())
            .unwrap_or_else(|error| panic!("{error}: {}", container.stderr()));
        let root = PathBuf::from(format!("/proc/{}/root", pid().unwrap()));
        for path in ELSEWHERE {
            assert!(!root.join(&path[1..]).exists(), "{words:?} sees {path}");
        }
        let doctor = world.shop.env.weir(["doctor", "--quick", "--json"]).unwrap();
        let findings: Value = serde_json::from_str(&doctor.stdout).unwrap();
        let is_about_it = |it: &&Value| it["message"].as_str().unwrap().contains("cat (");
        let about_it = findings.as_array().unwrap().iter().filter(is_about_it);
        let (open, unknown): (Vec<&Value>, Vec<&Value>) = about_it.partition(|finding| finding["level"] == "fail");
        let subjects = |findings: &[&Value]| -> Vec<String> {
            findings.iter().map(|finding| finding["subject"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(subjects(&open), expected, "{words:?}: {doctor:?}");
        // Nobody knows what the engine's own filter of system calls lets through, and nothing else is a warning.
        assert_eq!(subjects(&unknown), ["socket families"], "{words:?}: {doctor:?}");
    }
    // What it does with the socket: Docker's own client, in the container, has another one run outside.
    let (ask, _) = Engine::Docker.ask(&world);
    let ask: Vec<&str> = ask.iter().map(|word| if word == DOCKER { "/docker" } else { word }).collect();
    let client = ["--volume", "/usr/bin/docker:/docker:ro"];
    for (words, gets_out) in [([&GIVEN[..], &client].concat(), true), (client.to_vec(), false)] {
        let said = docker.run(&words, &ask);
        assert_eq!(said.stderr.contains("no password supplied"), gets_out, "{words:?}: {said:?}");
    }
}

/// It has become that program.
fn is_called(process: &Running, name: &str) -> bool {
    let below = Command::new("pgrep").args(["--parent", &process.pid().to_string()]).output().unwrap();
    let below = String::from_utf8(below.stdout).unwrap();
    let pids = below.lines().map(str::to_owned).chain([process.pid().to_string()]);
    pids.map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()).any(|comm| comm.trim() == name)
}
