//! How a session begins: the version of the protocol, which each leg has for itself, and the keys that cancel.

use std::time::Duration;

use system_tests::pgbouncer::Pgbouncer;
use system_tests::postgres::{DATABASE, PASSWORD, ROLE};
use system_tests::process::{PATIENCE, wait_until};
use system_tests::shop::{POLICY, Shop};

use super::World;

/// What a server of PostgreSQL 18 tells who asks for each version, with and without an option that nobody knows, and the length of
/// its key.
const ANSWERS: &str = "\
(3, 0) [] 4
(3, 0) [(3, 0, ['_pq_.x'])] 4
(3, 1) [] 4
(3, 1) [(3, 1, ['_pq_.x'])] 4
(3, 2) [] 32
(3, 2) [(3, 2, ['_pq_.x'])] 32
(3, 3) [(3, 2, [])] 32
(3, 3) [(3, 2, ['_pq_.x'])] 32
(3, 9999) [(3, 2, [])] 32
(3, 9999) [(3, 2, ['_pq_.x'])] 32
";

/// Debian's server speaks 3.0 and nothing else: it negotiates. A key of either length cancels, and no other bytes do.
#[test]
fn protocol_3_2_is_spoken_whatever_the_target_speaks() {
    let world = World::new();
    let said = world.shop.raw(include_str!("versions.py")).unwrap();
    let cancelled = ["(3, 0) slept", "(3, 0) 57014", "(3, 2) slept", "(3, 2) 57014"].join("\n") + "\n";
    assert_eq!(said, ANSWERS.to_owned() + &cancelled);
}

/// A key that no server would give is no key: the connection is closed, and the gateway goes on.
#[test]
fn a_key_beyond_the_protocols_bound_is_malformed() {
    let world = World::new();
    let said = world.raw(
        r#"
for length in 0, 1, 256, 257, 5000:
    s = connect()
    s.sendall(struct.pack(">III", 12 + length, 80877102, 7) + bytes(length))
    print(length, [tag for tag, _ in messages(s)])
"#,
    );
    assert_eq!(said, "0 [b'R', b'E']\n1 []\n256 []\n257 [b'R', b'E']\n5000 [b'R', b'E']\n");
    assert_eq!(world.rows("SELECT 1"), "1");
}

/// pgbouncer 1.18 hangs up on who asks for 3.2, as others do that stand before databases: it is asked for 3.0 then.
#[test]
fn a_pooler_that_does_not_negotiate_is_asked_for_3_0() {
    let shop = Shop::new().unwrap();
    let pooler = Pgbouncer::start(&shop, "session").unwrap();
    shop.configure_target(&pooler.target_config(), POLICY).unwrap();
    let _gateway = shop.serve().unwrap();
    let script = r#"
s = connect()
startup(s, 2)
stream = messages(s)
print([(tag, len(body)) for tag, body in until(stream, b"Z") if tag in b"vK"])
show(s, stream, b"SELECT id, ssn FROM customers WHERE id = 1")
"#;
    let client = shop.raw_client(script).env("PGPORT", pooler.port.to_string());
    let said = client.run().unwrap().expect_success().unwrap();
    assert!(said.starts_with("[(b'K', 36)]\n") && said.contains("*******1002"), "{said}");
}

/// libpq takes nothing but an answer to its start-up packet for a server's first word: a notice before it would end the attempt.
#[test]
fn whoever_waits_to_be_let_in_is_told_so() {
    let rule = "\n[[rule]]\nname = \"ask first\"\ntargets = [\"orders\"]\nkinds = [\"connect\"]\n\
                then = { hold = { approvers = [\"dba\"], count = 1, timeout = \"20s\" } }\n";
    let world = World::with(&(POLICY.to_owned() + rule));
    for verdict in ["approve", "deny"] {
        let psql = world.shop.psql("SELECT 'let', 'in'").env("PGCONNECT_TIMEOUT", "60").start().unwrap();
        wait_until("the notice", PATIENCE, || psql.stderr().contains("waiting for approval"))
            .unwrap_or_else(|error| panic!("{error}: {}", psql.stderr()));
        let number = super::approval_number(&psql.stderr());
        std::thread::sleep(Duration::from_secs(4));
        world.shop.env.weir([verdict, &number]).unwrap().expect_success().unwrap();
        let finished = psql.finish(PATIENCE).unwrap();
        if verdict == "approve" {
            assert!(finished.expect_success().unwrap().contains("let      | in"));
        } else {
            assert!(!finished.success() && finished.stderr.contains("was denied by"), "{finished:?}");
        }
    }
}

const ALL: &str = r#"
[access]
admin   = ["root"]
approve = { dba = ["root"] }

[[rule]]
name = "all"
then = "allow"
"#;

/// What a session begins with, and a setting of it.
const SETTINGS: &[(&str, &str)] = &[
    ("-c work_mem=3MB", "work_mem"),
    ("-c bytea_output=escape", "bytea_output"),
    ("-c synchronous_commit=off", "synchronous_commit"),
    ("-c idle_session_timeout=50000", "idle_session_timeout"),
    ("-c default_transaction_deferrable=on", "default_transaction_deferrable"),
    ("-c plan_cache_mode=force_custom_plan", "plan_cache_mode"),
    ("--enable-seqscan=off", "enable_seqscan"),
    ("-capp.user=it\'s\\\\ -c app.x=1", "app.user"),
    ("-c app.user=a -c APP.USER=b", "app.user"),
    ("-c search_path=shop,pg_catalog", "search_path"),
    ("-c standard_conforming_strings=on", "standard_conforming_strings"),
    ("-c role=orders_rw", "role"),
    ("-c role=postgres", "role"),
    ("-c no_such_setting=1", "work_mem"),
    ("-c work_mem=much", "work_mem"),
    ("-c ignore_system_indexes=on", "ignore_system_indexes"),
    ("-c log_connections=on", "log_connections"),
    ("-c transaction_timeout=5000", "application_name"),
];

/// A session may begin with whatever it may SET a moment later, and then it is as at the server.
#[test]
fn settings_of_the_beginning_are_judged_as_set_is() {
    let world = World::with(ALL);
    let (shop, postgres) = (&world.shop, &world.shop.postgres);
    for (options, setting) in SETTINGS {
        let asked = |place: system_tests::env::Place<'_>| {
            let ask = format!("SHOW {setting}");
            let psql = place.env("PGOPTIONS", options).args(["--no-psqlrc", "--tuples-only", "--command", &ask]);
            let said = psql.run().unwrap();
            // In front of it is whom it could not connect to, and behind it that it has tried once more without TLS.
            let error =
                said.stderr.split_once("FATAL: ").map(|(_, error)| error.lines().next().unwrap_or("").to_owned());
            let error = error.map(|it| it.replace("the target refused the session: ", ""));
            (said.stdout, error)
        };
        let direct = shop.env.bystander("psql").env("PGHOST", "127.0.0.1").env("PGPORT", postgres.port().to_string());
        let direct = direct.env("PGUSER", ROLE).env("PGDATABASE", DATABASE).env("PGPASSWORD", PASSWORD);
        assert_eq!(asked(shop.client("psql")), asked(direct), "{options}");
    }
    let begun = |options: &str| shop.psql("SELECT 1").env("PGOPTIONS", options).run().unwrap();
    for options in ["-c client_encoding=LATIN1", "-c local_preload_libraries=x"] {
        assert!(begun(options).stderr.contains("does not pass through Weir"), "{options}");
    }
    let many: Vec<String> = (0..33).map(|number| format!("-c app.x{number}=1")).collect();
    assert!(begun(&many.join(" ")).stderr.contains("more than 32 settings"));

    // Who may not SET may not begin with it; what all begin with needs no rule.
    shop.configure(&POLICY.replace("\"set\", ", "")).unwrap();
    shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    let denied = begun("-c work_mem=3MB").stderr;
    assert!(denied.contains("denied by policy") && denied.contains("weir why"), "{denied}");
    assert!(begun("-c statement_timeout=7s -c search_path=public").success());
    let recorded = world.recorded();
    assert!(
        recorded.contains("SET \\\"work_mem\\\" TO '3MB'") || recorded.contains("SET \"work_mem\" TO '3MB'"),
        "{recorded}"
    );

    // Masked columns, and roles.
    shop.configure(POLICY).unwrap();
    shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    assert!(begun("-c work_mem=3MB").success());
    for options in ["-c role=orders_rw", "-c debug_print_plan=on", "-c auto_explain.log_level=notice"] {
        let denied = begun(options).stderr;
        assert!(denied.contains("denied by policy"), "{options}: {denied}");
    }

    // Whoever waits is told so.
    let held = "\n[[rule]]\nname = \"ask\"\nkinds = [\"set\"]\nthen = { hold = { approvers = [\"dba\"], count = 1, timeout = \"20s\" } }\n";
    shop.configure(&(ALL.to_owned() + held)).unwrap();
    shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    let psql = shop.psql("SHOW work_mem").env("PGOPTIONS", "-c work_mem=3MB").start().unwrap();
    wait_until("the notice", PATIENCE, || psql.stderr().contains("waiting for approval"))
        .unwrap_or_else(|error| panic!("{error}: {}", psql.stderr()));
    let number = super::approval_number(&psql.stderr());
    shop.env.weir(["approve", &number]).unwrap().expect_success().unwrap();
    assert!(psql.finish(PATIENCE).unwrap().expect_success().unwrap().contains("3MB"));
}
