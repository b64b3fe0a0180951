//! The command line and the admin socket of a running gateway: who is answered, what operators see, and that an agent is
//! refused whatever it is allowed otherwise.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use system_tests::env::{AGENT, AGENT_USER, Env, Gateway};
use system_tests::issuer::Issuer;
use system_tests::process::{Finished, wait_until};
use system_tests::recording;
use system_tests::shop::{POLICY, Shop};

/// The agent's uid and root are in groups of every right, so that nothing but being an agent can refuse them.
const ACCESS: &str = "\n[access]\nadmin = [\"root\", \"agent-coder\"]\naudit = [\"root\"]\napprove = { dba = [\"root\", \"agent-coder\"] }\n";
/// Nobody is there (RFC 5737): the tests need only what the gateway says of it.
const TARGET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PORT: u16 = 5432;
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway without a database. Dropped in this order.
struct World {
    gateway: Option<Gateway>,
    env: Env,
    _issuer: Issuer,
}

impl World {
    fn new() -> Self {
        let (env, issuer) = (Env::new().unwrap(), Issuer::start().unwrap());
        env.set_credential("orders-db", "never used").unwrap();
        env.configure(&config(&env, &issuer)).unwrap();
        Self { gateway: Some(env.serve().unwrap()), env, _issuer: issuer }
    }

    fn weir(&self, line: &str) -> Finished {
        self.env.weir(line.split_whitespace()).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        let finished = self.weir(&format!("{line} --json"));
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {finished:?}"))
    }

    /// A connect of the agent to the target, to its end.
    fn connect(&self) -> Finished {
        let script = format!("import socket; s = socket.create_connection(('{TARGET}', {PORT}), 5); s.recv(100)");
        self.env.agent("python3").args(["-c", &script]).run().unwrap()
    }
}

fn config(env: &Env, issuer: &Issuer) -> String {
    format!(
        "[identity]\nissuer = \"{}\"\naudience = \"weir\"\ninsecure = \"on loopback, for a test\"\n{}{ACCESS}\n\
         [[target]]\nname = \"orders\"\nprotocol = \"postgres\"\naddress = [\"{TARGET}:{PORT}\"]\n\
         login = {{ user = \"orders_rw\", password = {{ credential = \"orders-db\" }} }}\n\
         [[rule]]\nname = \"all\"\nagents = [\"{AGENT}\"]\nthen = \"allow\"\n",
        issuer.url(),
        env.agent_config()
    )
}

#[test]
fn operators_see_the_state_of_the_moment() {
    let world = World::new();
    let status = world.json("status");
    assert_eq!(status["problems"], Value::Array(vec![]), "{status}");
    assert_eq!((&status["agents"], &status["targets"], &status["rules"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!(status["kernel"]["attach"].as_str().map(|at| at.trim_matches('/')), Some(world.env.attach()));
    let text = world.weir("status");
    assert!(text.success() && text.stdout.contains("enforce"), "{text:?}");
    assert!(status["verdicts"].is_null() && text.stdout.contains("none yet"), "{text:?}");
    assert_eq!(world.json("approvals"), Value::Array(vec![]));
    assert_eq!(world.weir("approve 7").code, Some(1));
    assert!(world.weir("kernel status").success());
    let doctor = world.json("doctor --quick");
    let looked = |subject: &str| doctor.as_array().unwrap().iter().find(|it| it["subject"] == subject).unwrap().clone();
    assert_eq!(
        (&looked("interception")["level"], &looked("gateway")["level"]),
        (&"ok".into(), &"ok".into()),
        "{doctor}"
    );
}

/// What happens to an agent, and not only what is attached.
#[test]
fn doctor_tries_what_an_agent_would() {
    let mut world = World::new();
    let trial = |world: &World| {
        let doctor = world.json("doctor --quick");
        let findings = doctor.as_array().unwrap().iter().filter(|finding| finding["subject"] == "trial");
        let said = |finding: &Value| format!("{} {}", finding["level"], finding["message"]).replace('"', "");
        let said: Vec<String> = findings.map(said).collect();
        assert!(!said.is_empty(), "{doctor}");
        said
    };
    let said = trial(&world);
    assert!(said.contains(&"ok a connection over IPv4 of an agent is intercepted".to_owned()), "{said:?}");
    assert!(said.iter().all(|line| line.starts_with("ok ")), "{said:?}");
    world.gateway.take().unwrap().kill().unwrap();
    let said = trial(&world);
    assert!(said.contains(&"ok a connection over IPv4 of an agent is refused".to_owned()), "{said:?}");
    // Without the programs it goes wherever the host lets it.
    let removed = world.weir("kernel remove");
    assert!(removed.success(), "{removed:?}");
    // Their cgroups are gone, too; somebody makes them again.
    drop(world.env.agent_in(AGENT, "root", "true").unwrap());
    let said = trial(&world);
    assert!(said.contains(&"fail a datagram of an agent is not stopped: it was sent".to_owned()), "{said:?}");
}

#[test]
fn agents_are_refused_whatever_they_may() {
    let world = World::new();
    let weir = world.env.weir_path().to_string_lossy().into_owned();
    let config = world.env.config_path();
    let in_cgroup = |user| world.env.agent_in(AGENT, user, &weir).unwrap();
    let by_user = || world.env.bystander_as(AGENT_USER, &weir);
    for words in [&["status"][..], &["approve", "1"], &["sessions"], &["reload"]] {
        for (place, reason) in [
            (in_cgroup("root"), "an agent's cgroup"),
            (in_cgroup(AGENT_USER), "an agent's cgroup"),
            (by_user(), "an agent's user"),
        ] {
            let refused = place.args(words).arg("--config").arg(&config).run().unwrap();
            assert_eq!(refused.code, Some(1), "{words:?}: {refused:?}");
            assert!(refused.stderr.contains(reason), "{words:?}: {refused:?}");
        }
    }
    let stranger = world.env.bystander_as("daemon", &weir).arg("status").arg("--config").arg(&config).run();
    let stranger = stranger.unwrap();
    assert!(stranger.code == Some(1) && stranger.stderr.contains("[access]"), "{stranger:?}");
}

#[test]
fn a_refused_connection_is_found_and_explained() {
    let world = World::new();
    // No token was written.
    world.connect();
    let rows = world.json("sessions --refused");
    let row = &rows.as_array().unwrap_or_else(|| panic!("{rows}"))[0];
    assert_eq!((&row["refused"], &row["agent"], &row["target"]), (&"identity".into(), &AGENT.into(), &"orders".into()));
    let id = row["id"].as_str().unwrap();
    let shown = world.weir(&format!("sessions show {id}"));
    for part in ["python3", world.env.attach(), "192.0.2.10:5432", "agent-coder", "token"] {
        assert!(shown.stdout.contains(part), "{part}: {shown:?}");
    }
    let why = world.weir(&format!("why {id}"));
    assert!(why.success() && why.stdout.contains("token") && why.stdout.contains("[[agent]]"), "{why:?}");
    let replay = world.weir(&format!("sessions replay {id}"));
    assert!(replay.success() && replay.stdout.contains("closed:"), "{replay:?}");
    assert_eq!(world.weir("sessions show 01k3v9m2c7q4x").code, Some(1), "there is none of that ID");
    assert_eq!(world.weir("verify").code, Some(10), "whole, and nothing outside vouches for it");
}

#[test]
fn a_mask_that_protects_nothing_is_a_problem_that_operators_see() {
    let shop = Shop::new().unwrap();
    shop.configure(&POLICY.replace("public.customers.ssn", "public.customers.sssn")).unwrap();
    let _gateway = shop.serve().unwrap();
    let denied = shop.psql("SELECT name FROM customers").run().unwrap();
    assert!(!denied.success(), "{denied:?}");
    let status = shop.env.weir(["status"]).unwrap();
    assert!(status.code == Some(1) && status.stdout.contains("sssn"), "{status:?}");
    let doctor = shop.env.weir(["doctor"]).unwrap();
    assert!(doctor.code == Some(1) && doctor.stdout.contains("sssn"), "{doctor:?}");
    shop.configure(POLICY).unwrap();
    assert!(shop.env.weir(["reload"]).unwrap().success());
    // A failure is not tried again at once.
    let works = || shop.psql("SELECT name FROM customers").run().unwrap().success();
    wait_until("the repaired target", PATIENCE, works).unwrap();
    let status = shop.env.weir(["status"]).unwrap();
    assert!(status.success() && status.stdout.contains(", half of them within "), "{status:?}");
}

#[test]
fn reload_is_all_or_nothing_and_says_why() {
    let world = World::new();
    let before = world.json("status")["config"].clone();
    let good = fs::read_to_string(world.env.config_path()).unwrap();
    fs::write(world.env.config_path(), format!("{good}\n[[rule]]\nnmae = \"x\"\n")).unwrap();
    let check = world.weir("check");
    assert!(check.code == Some(1) && check.stdout.contains("nmae"), "{check:?}");
    let refused = world.weir("reload");
    assert!(refused.code == Some(1) && refused.stderr.contains("nmae"), "{refused:?}");
    assert_eq!(world.json("status")["config"], before);
    fs::write(world.env.config_path(), good.replace("name = \"all\"", "name = \"everything\"")).unwrap();
    assert!(world.weir("check").success());
    let after = world.json("reload")["configuration"].clone();
    assert!(after != before && world.json("status")["config"] == after, "{before} {after}");
}

#[test]
fn detaching_is_roots_alone_and_seen_by_everybody() {
    let world = World::new();
    let weir = world.env.weir_path().to_string_lossy().into_owned();
    let words = ["detach", "--for", "1m", "--reason", "test", "--config"];
    let agent = world.env.agent_in(AGENT, "root", &weir).unwrap();
    let refused = agent.args(words).arg(world.env.config_path()).run().unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(world.weir("status").success());

    assert!(world.weir("detach --for 1m --reason test").success());
    let status = world.weir("status");
    assert!(status.code == Some(1) && status.stdout.contains("detached"), "{status:?}");
    assert!(world.weir("detach --for 0 --reason done").success());
    assert!(world.weir("status").success());
    // It is on record, and why.
    let mut recorded = Vec::new();
    recording::each_event(&world.env.state_dir().join("recordings"), |event| {
        recorded.push(serde_json::to_value(event).unwrap());
    })
    .unwrap();
    let actions = recorded.iter().filter(|it| it["type"] == "admin_action" && it.to_string().contains("detach"));
    let actions: Vec<_> = actions.map(Value::to_string).collect();
    assert!(["test", "done"].iter().all(|why| actions.iter().any(|it| it.contains(why))), "{recorded:?}");
}

#[test]
fn a_command_runs_as_the_agent_in_a_cgroup_of_its_own() {
    let world = World::new();
    let weir = world.env.weir_path().to_string_lossy().into_owned();
    let run = |command: &[&str]| {
        let place = world.env.bystander(&weir).env("SECRET", "of root's shell");
        place.arg("--config").arg(world.env.config_path()).args(["run", "--"]).args(command).run().unwrap()
    };
    let told = run(&["sh", "-c", "id -un; cat /proc/self/cgroup; grep NoNewPrivs /proc/self/status; env"]);
    let told = told.expect_success().unwrap();
    assert!(told.starts_with(&format!("{AGENT_USER}\n")), "{told}");
    assert!(told.contains(&format!("0::/{}/agents/{AGENT}/run-", world.env.attach())), "{told}");
    assert!(told.contains("NoNewPrivs:\t1") && !told.contains("SECRET"), "{told}");
    assert_eq!(run(&["sh", "-c", "exit 7"]).code, Some(7));
    let left = fs::read_dir(world.env.cgroup().join("agents").join(AGENT)).unwrap();
    let left: Vec<_> = left
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.to_string_lossy().starts_with("run-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_dead_gateway_is_said_to_be_dead() {
    let mut world = World::new();
    world.gateway.take().unwrap().kill().unwrap();
    let status = world.weir("status");
    assert!(status.code == Some(1) && status.stderr.contains("systemctl status weir"), "{status:?}");
    assert_eq!(world.weir("verify").code, Some(10), "recordings need no gateway");
    assert!(world.weir("kernel status").success(), "the kernel half stays");
}

#[test]
fn explain_says_where_the_columns_of_a_result_come_from() {
    let shop = Shop::new().unwrap();
    let _gateway = shop.serve().unwrap();
    let explained = |sql: &str, more: &[&str]| {
        let mut words = vec!["explain", "--live", "--target", "orders", "--agent", AGENT];
        words.extend(more);
        words.push(sql);
        shop.env.weir(words).unwrap()
    };
    let sql = "SELECT name, ssn AS s, lower(email) || phone AS both, json_build_object('id', id, 'm', email) AS j FROM customers WHERE id = 1";
    let early = explained(sql, &[]);
    assert!(early.stderr.contains("no session has been at database"), "{early:?}");
    shop.psql("SELECT 1").run().unwrap().expect_success().unwrap();

    let said = explained(sql, &[]).expect_success().unwrap();
    for line in [
        "name: not masked",
        "s: customers.ssn, masked by \"customer PII\"",
        "both: computed from customers.email, covered by \"customer PII\"",
        "j: put together of (m: customers.email, masked by \"customer PII\")",
        "verdict: allow",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let json: serde_json::Value = serde_json::from_str(&explained(sql, &["--json"]).expect_success().unwrap()).unwrap();
    assert_eq!(json["columns"][2]["computed"], true, "{json}");
    let plain = explained("SELECT item FROM orders", &[]).expect_success().unwrap();
    assert!(plain.contains("item: not masked"), "{plain}");

    let before = shop.postgres.sql("SELECT count(*) FROM customers").unwrap();
    for (sql, why) in [
        ("SELECT id FROM customers ORDER BY ssn", "ORDER BY uses customers.ssn, which is masked"),
        ("SELECT ssn::int FROM customers", "No rule can allow this"),
        (
            "INSERT INTO customers (name, email, ssn, since) VALUES ('a', 'b', 'c', now())",
            "customers.ssn, which is masked and in a key",
        ),
        ("SELECT nothing FROM customers", "the target says: column \"nothing\" does not exist (42703)"),
        ("DELETE FROM customers", "verdict: hold"),
    ] {
        let said = explained(sql, &[]);
        assert_eq!(said.code.map(|it| it > 0), Some(true), "{sql}: {said:?}");
        assert!(said.stdout.contains(why) || said.stderr.contains(why), "{sql}: {said:?}");
    }
    assert_eq!(shop.postgres.sql("SELECT count(*) FROM customers").unwrap(), before);

    let reports = POLICY
        .replace("\"insert\", \"update\", \"delete\", ", "")
        .replace("kinds     = [\"update\", \"delete\"]\nhas_where = false", "kinds     = [\"show\"]");
    shop.configure(&reports).unwrap();
    shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    let said = explained("SET default_transaction_read_only = off", &[]);
    assert!(said.stdout.contains("its transactions stay read-only"), "{said:?}");
}

#[test]
fn what_explain_says_is_what_happens() {
    let shop = Shop::new().unwrap();
    shop.configure(POLICY).unwrap();
    let _gateway = shop.serve().unwrap();
    for (sql, verdict, rule) in [
        ("SELECT item FROM orders", "allow", "coders work on orders"),
        ("DELETE FROM orders WHERE id = 4711", "allow", "coders work on orders"),
        ("DROP TABLE orders", "deny", "no schema changes"),
        ("LISTEN something", "deny", ""),
        ("SELECT (", "deny", ""),
        ("DELETE FROM orders", "hold", "whole-table writes need a human"),
    ] {
        let words = ["explain", "--target", "orders", "--agent", AGENT, "--json", sql];
        let explained = shop.env.weir(words).unwrap();
        assert_eq!(explained.code, Some(i32::from(verdict != "allow")), "{sql}: {explained:?}");
        assert!(
            explained.stdout.contains(&format!("\"{verdict}\"")) && explained.stdout.contains(rule),
            "{explained:?}"
        );
        let mut psql = shop.psql(sql).start().unwrap();
        if verdict == "hold" {
            psql.wait_for("approval", PATIENCE).unwrap();
            psql.kill();
            continue;
        }
        let ran = psql.finish(PATIENCE).unwrap();
        assert_eq!(ran.success(), verdict == "allow", "{sql}: {ran:?}");
        assert_eq!(ran.stderr.contains("denied by policy"), verdict == "deny", "{sql}: {ran:?}");
    }
}

#[test]
fn json_in_a_terminal_deceives_nobody() {
    let shop = Shop::new().unwrap();
    let _gateway = shop.serve().unwrap();
    // Whose direction is turned, and which begins a terminal sequence in eight bits.
    let mut psql = shop.psql("DELETE FROM orders -- \u{202e}\u{9b}31m\u{e0041}").start().unwrap();
    psql.wait_for("waiting for approval", PATIENCE).unwrap();
    let shown = shop.env.weir(["approvals", "--json"]).unwrap().expect_success().unwrap();
    assert!(shown.is_ascii() && shown.contains(r"-- \u202e\u009b31m\udb40\udc41"), "{shown}");
    let value: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(value[0]["text"], "DELETE FROM orders -- \u{202e}\u{9b}31m\u{e0041}");
    psql.kill();
}

#[test]
fn an_agent_cannot_make_a_session_that_nobody_can_look_at() {
    let shop = Shop::new().unwrap();
    let _gateway = shop.serve().unwrap();
    // Names of control characters, each of which takes six bytes in JSON, in the text and as facts.
    let tables: Vec<String> = (0..1700).map(|number| format!("\"{}{number:05}\"", "\u{1}".repeat(57))).collect();
    assert!(!shop.psql(&format!("SELECT 1 FROM {}", tables.join(", "))).run().unwrap().success());
    let listed = shop.env.weir(["sessions", "--json"]).unwrap().expect_success().unwrap();
    let id = serde_json::from_str::<Value>(&listed).unwrap()[0]["id"].as_str().unwrap().to_owned();
    for words in [["sessions", "show", &id].as_slice(), &["why", &format!("{id}-1")]] {
        let shown = shop.env.weir(words).unwrap();
        assert!(shown.success() && shown.stdout.contains(r"\u{1}00001"), "{:?} {}", words, shown.stderr);
    }
}

#[test]
fn init_writes_what_runs_and_check_takes_it() {
    let env = Env::new().unwrap();
    // Of what is on the host's loopback only servers by their well-known ports are targets.
    let _server = std::net::TcpListener::bind("127.0.0.77:5432").unwrap();
    let script = "import socket, sys; s = socket.create_connection(('127.0.0.77', 5432)); print('up', flush=True); sys.stdin.read()";
    // A bystander: nothing is intercepted yet when somebody runs `weir init`.
    let agent = env.bystander_as(AGENT_USER, "/usr/bin/python3").args(["-c", script]).start().unwrap();
    agent.wait_for("up", PATIENCE).unwrap();
    let file = env.dir().join("started.toml");
    let pid = agent.pid().to_string();
    let words = ["--config", file.to_str().unwrap(), "init", "--pid", &pid];
    let weir = env.weir_path().to_string_lossy().into_owned();
    let run = |words: &[&str]| env.bystander(&weir).args(words).run().unwrap();
    let written = run(&words);
    assert!(written.success(), "{written:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"observe\"") && text.contains(AGENT_USER) && text.contains("127.0.0.77:5432"), "{text}");
    assert!(!run(&words).success(), "an existing file is not overwritten");
    let checked = run(&["--config", file.to_str().unwrap(), "check"]);
    assert!(checked.success(), "{checked:?}\n{text}");
}
