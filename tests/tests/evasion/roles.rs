//! Another role has other names, other rows and other rights: what is masked stays so.

use system_tests::shop::POLICY;

use super::{SSN, World};

/// A role whose schema comes before `public` once it is taken, and whose names show what is masked under those of what is not.
const SETUP: &str = "
    CREATE ROLE reporter; GRANT reporter TO orders_rw; CREATE SCHEMA reporter AUTHORIZATION reporter;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO reporter; GRANT USAGE ON SCHEMA reporter TO orders_rw;
    SET ROLE reporter;
    CREATE VIEW reporter.customers AS SELECT id, name, ssn AS phone FROM public.customers;
    CREATE VIEW reporter.orders AS SELECT id, ssn AS item FROM public.customers;
    GRANT SELECT ON ALL TABLES IN SCHEMA reporter TO orders_rw;
    RESET ROLE; SET ROLE orders_rw;
    CREATE TABLE public.diary (id int, note text, email text);
    INSERT INTO public.diary VALUES (1, 'theirs', 'one@diary.example'), (2, 'hidden', 'two@diary.example');
    GRANT SELECT ON public.diary TO reporter;
    ALTER TABLE public.diary ENABLE ROW LEVEL SECURITY; ALTER TABLE public.diary FORCE ROW LEVEL SECURITY;
    CREATE POLICY of_all ON public.diary TO reporter USING (true); CREATE POLICY of_one ON public.diary TO orders_rw USING (id = 1);
    RESET ROLE; ALTER ROLE orders_rw NOINHERIT";

fn world() -> World {
    let world =
        World::allowing(r#""set_role", "discard", "declare", "fetch", "prepare", "execute", "deallocate", "copy_out""#);
    world.shop.postgres.sql(SETUP).unwrap();
    world
}

/// How a role is taken and given back; within a transaction.
const WAYS: &[(&str, &str)] = &[
    ("SET ROLE reporter", "RESET ROLE"),
    ("SET ROLE 'reporter'", "SET ROLE NONE"),
    ("SET SESSION ROLE reporter", "DISCARD ALL"),
    ("SET role = reporter", "SET role TO DEFAULT"),
    ("SELECT set_config('role', 'reporter', false)", "SELECT set_config('role', 'none', false)"),
    ("BEGIN; SET LOCAL ROLE reporter", "ROLLBACK"),
    ("BEGIN; SET ROLE reporter", "ROLLBACK"),
    ("BEGIN; SAVEPOINT s; SET ROLE reporter", "ROLLBACK TO SAVEPOINT s; COMMIT"),
];

#[test]
fn masks_hold_whatever_role_is_set() {
    let world = world();
    let ways = WAYS.iter().map(|(take, give)| format!("{take}\x1f{give}")).collect::<Vec<_>>().join("\x1e");
    let script = r#"
SELECTS = (b"SELECT phone FROM customers ORDER BY id", b"SELECT phone || '' FROM customers ORDER BY id", b"SELECT item FROM orders WHERE id = 1",
           b"SELECT * FROM customers ORDER BY id", b"SELECT phone FROM reporter.customers ORDER BY id", b"SELECT ssn, phone FROM public.customers ORDER BY id",
           b"SELECT note, email, lower(email) FROM diary ORDER BY id", b"COPY (SELECT phone FROM customers) TO STDOUT",
           b"SELECT id FROM customers WHERE phone LIKE '900-1%'", b"SELECT d::text FROM public.diary d ORDER BY id")
def all_of(run):
    for sql in SELECTS:
        run(sql)
def simple(sql):
    s.sendall(query(sql))
    print(sql, [body for tag, body in until(stream, b"Z") if tag in b"DdE"])
def extended(sql):
    s.sendall(parse(b"", sql) + bind(b"", b"") + execute(b"") + sync)
    print(sql, [body for tag, body in until(stream, b"Z") if tag in b"DdE"])
for way in os.environ["WAYS"].split("\x1e"):
    take, give = (it.encode() for it in way.split("\x1f"))
    s, stream = session()
    print("---", take)
    all_of(simple)
    # Prepared, bound and declared as the one role, and run as the other.
    for number, sql in enumerate(SELECTS[:4]):
        s.sendall(parse(b"p%d" % number, sql) + sync + query(b"PREPARE q%d AS " % number + sql))
        until(stream, b"Z"), until(stream, b"Z")
    s.sendall(query(take))
    print([body for tag, body in until(stream, b"Z") if tag == b"E"])
    show(s, stream, b"SELECT 'now ' || current_user")
    for number in range(4):
        s.sendall(bind(b"", b"p%d" % number) + execute(b"") + sync)
        print(number, [body for tag, body in until(stream, b"Z") if tag in b"DE"])
        simple(b"EXECUTE q%d" % number)
        if b"BEGIN" in take:
            # One that was refused has failed it.
            s.sendall(query(b"ROLLBACK") + query(take))
            until(stream, b"Z"), until(stream, b"Z")
    all_of(simple)
    all_of(extended)
    simple(b"DECLARE c CURSOR WITH HOLD FOR SELECT phone FROM customers")
    simple(b"FETCH ALL FROM c")
    s.sendall(query(give))
    print([body for tag, body in until(stream, b"Z") if tag == b"E"])
    show(s, stream, b"SELECT 'then ' || current_user")
    simple(b"FETCH ALL FROM c")
    all_of(simple)
    all_of(extended)
    s.close()
# Together, and ahead.
for take in (b"SET ROLE reporter", b"SELECT set_config('role', 'reporter', false)"):
    for sql in SELECTS[:4]:
        s, stream = session()
        simple(sql)
        simple(take + b"; " + sql)
        s.sendall(query(b"RESET ROLE"))
        until(stream, b"Z")
        s.sendall(query(take) + query(sql))
        until(stream, b"Z")
        print(sql, [body for tag, body in until(stream, b"Z") if tag in b"DE"])
        s.sendall(query(b"RESET ROLE") + parse(b"a", sql) + bind(b"a", b"a") + parse(b"", take) + bind(b"", b"") + execute(b"") + execute(b"a") +
            bind(b"b", b"a") + execute(b"b") + sync)
        until(stream, b"Z")
        print(sql, [body for tag, body in until(stream, b"Z") if tag in b"DE"])
        s.close()
"#;
    let client = world.shop.raw_client(script).env("WAYS", ways).start().unwrap();
    let said = client.finish(4 * super::PATIENCE).unwrap().expect_success().unwrap();
    for secret in [SSN, "900-22", "900-33", "one@", "two@", "@shop"] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    assert_eq!(said.matches("now reporter").count(), WAYS.len(), "{said}");
    assert_eq!(said.matches("then orders_rw").count(), WAYS.len(), "{said}");
    // Each role has its own rows, and what is not masked is seen.
    assert!(said.contains("555-0101") && said.contains("hidden") && said.contains("theirs"), "{said}");
    assert!(said.contains("*******1002") && said.contains("*mple"), "{said}");
}

#[test]
fn taking_a_role_is_a_kind_of_its_own() {
    let rule = "\n[[rule]]\nname = \"as yourself\"\nkinds = [\"set_role\"]\nthen = \"deny\"\nmessage = \"Stay who you are.\"\n";
    let statements = [
        "SET ROLE reporter",
        "SET LOCAL ROLE reporter",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION reporter",
        "SET LOCAL SESSION AUTHORIZATION 'reporter'",
        "RESET SESSION AUTHORIZATION",
        "SET session_authorization = reporter",
        "SET role TO reporter",
        "SELECT set_config('role', 'reporter', false)",
        "SELECT pg_catalog.set_config('session_authorization', 'reporter', true)",
        "SELECT 1; SET ROLE reporter",
    ];
    for (policy, why) in [(POLICY.to_owned(), "no rule"), (format!("{POLICY}{rule}"), "Stay who you are.")] {
        let world = World::with(&policy);
        world.shop.postgres.sql(SETUP).unwrap();
        for sql in statements {
            let denied = world.shop.psql(sql).run().unwrap();
            assert!(denied.stderr.contains("denied by policy") && denied.stderr.contains(why), "{sql}: {denied:?}");
        }
        let log = world.shop.postgres.log();
        assert!(
            !log.contains("statement: SET ROLE rep") && !log.contains("SESSION AUTHORIZATION"),
            "it reached the server"
        );
        let roles = world.shop.psql("SELECT current_user, session_user").run().unwrap().expect_success().unwrap();
        assert!(roles.contains("orders_rw") && !roles.contains("reporter"), "{roles}");
    }
    // With a rule the target's own rights decide.
    let world = world();
    let denied = world.shop.psql("SET SESSION AUTHORIZATION reporter").run().unwrap();
    assert!(denied.stderr.contains("permission denied to set session authorization"), "{denied:?}");
    let denied = world.shop.psql("SET ROLE postgres").run().unwrap();
    assert!(denied.stderr.contains("permission denied to set role"), "{denied:?}");
}
