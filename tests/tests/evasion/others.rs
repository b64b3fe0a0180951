//! What comes from elsewhere than the statement: tables that others change, settings that the database's own code sets, what the server
//! counts.

use system_tests::process::PATIENCE;
use system_tests::shop::POLICY;

use super::World;

/// For half a minute the catalog that is known is older than the columns.
#[test]
fn a_column_that_others_add_to_a_known_table_is_masked_for_who_reads_that() {
    let script = r#"
s, stream = session()
def run(sql): show(s, stream, sql)
def extended(sql):
    s.sendall(parse(b"", sql) + bind(b"", b"") + execute(b"") + sync)
    seen = until(stream, b"Z")
    errors(seen)
    print("extended", [body for tag, body in seen if tag in b"DC"])
for table in (b"orders", b"payments", b"customers", b"looked"):
    run(b"SELECT * FROM " + table + b" WHERE id = 1")
for sql in (b"SELECT item AS email FROM orders WHERE id = 1", b"SELECT upper(item) AS email FROM orders WHERE id = 2"):
    # What only looks like a masked column is shown, and not only once.
    run(sql), run(sql), extended(sql), extended(sql)
print("ready", flush=True)
sys.stdin.readline()
print("--- since then", flush=True)
how = os.environ["HOW"]
if how == "simple":
    for _ in range(2):
        for sql in (b"SELECT * FROM orders WHERE id = 1", b"SELECT email AS mail FROM payments WHERE id = 1", b"SELECT email FROM looked", b"SELECT *, 1 AS one FROM customers WHERE id = 1"):
            run(sql)
elif how == "extended":
    for _ in range(2):
        for sql in (b"SELECT * FROM orders WHERE id = 1", b"SELECT email AS mail FROM payments WHERE id = 1", b"SELECT email FROM looked", b"SELECT *, 1 AS one FROM customers WHERE id = 1"):
            extended(sql)
elif how == "computed":
    run(b"SELECT * FROM orders UNION SELECT * FROM orders")
elif how == "traced":
    run(b"SELECT email2 || '' FROM customers WHERE id = 1")
    run(b"SELECT email2 || '' FROM customers WHERE id = 1")
elif how == "writes":
    # It cannot be undone for the client alone, so the session ends.
    s.sendall(query(b"UPDATE payments SET note = 'x' WHERE id = 1 RETURNING *"))
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"])
"#;
    let made = "SET ROLE orders_rw; CREATE TABLE looked (id int, note text, email2 text); INSERT INTO looked VALUES (1, 'eve@renamed.example')";
    let change = "SET ROLE orders_rw;
        ALTER TABLE orders ADD email text DEFAULT 'eve@orders.example';
        ALTER TABLE payments ADD email text DEFAULT 'eve@payments.example';
        ALTER TABLE customers ADD email2 text DEFAULT 'eve@customers.example';
        ALTER TABLE looked RENAME note TO email";
    let policy = POLICY.replace("\"*.*.email\"", "\"*.*.email\", \"*.*.email2\"");
    for how in ["simple", "extended", "computed", "traced", "writes"] {
        let world = World::with(&policy);
        world.shop.postgres.sql(made).unwrap();
        let mut client = world.shop.raw_client(script).env("HOW", how).start().unwrap();
        client.wait_for("ready", PATIENCE).unwrap();
        world.shop.postgres.sql(change).unwrap();
        client.write("\n").unwrap();
        let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
        let (before, since) = said.split_once("--- since then").unwrap();
        assert_eq!(before.matches("kettle").count() - 1, 4, "{how}: {said}");
        assert!(before.matches("TEA, 500 G").count() == 4 && !before.contains("ERROR"), "{how}: {said}");
        assert!(!since.contains("eve@"), "{how}: {said}");
        if matches!(how, "simple" | "extended") {
            // The first is not known yet; from then on all is, and masked.
            assert_eq!(since.matches("***mple").count(), 3 + 2 + 4, "{how}: {said}");
            assert_eq!(since.matches("ERROR 40001").count(), 1, "{how}: {said}");
        }
        if how == "traced" {
            assert!(!since.contains("ERROR") && since.matches("\\x03***").count() == 2, "{how}: {said}");
        }
    }
}

#[test]
fn settings_that_code_sets_tell_no_masked_values() {
    let world = World::allowing(r#""set_role", "discard""#);
    // `hidden` says what it does where no text tells: then what the target reports of it is what must not be passed on.
    let tells = "PERFORM set_config('application_name', (SELECT ssn FROM customers WHERE id = 1), false)";
    let hides = "EXECUTE 'SELECT set_' || 'config(''application_name'', (SELECT s' || 'sn FROM customers WHERE id = 1), false)'";
    let function = |name: &str, does: &str| {
        format!("CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {does}; RETURN NULL; END $f$")
    };
    for setup in [
        function("tells", tells),
        function("hides", hides),
        function("says", "EXECUTE format('SET application_name = %L', (SELECT max(ssn) FROM customers))"),
        function("guards", "PERFORM set_config('app.guard', '1', true)"),
        "CREATE FUNCTION put(text) RETURNS text LANGUAGE sql AS $f$ SELECT set_config('app.last', $1, false) $f$".to_owned(),
        function("through", "PERFORM put(min(email)) FROM customers"),
        "SET ROLE orders_rw; CREATE TABLE told (id int); CREATE TRIGGER t AFTER INSERT ON told FOR EACH ROW EXECUTE FUNCTION tells()".to_owned(),
        "SET ROLE orders_rw; CREATE TABLE said (id int); CREATE TRIGGER t AFTER INSERT ON said FOR EACH STATEMENT EXECUTE FUNCTION says()".to_owned(),
        "SET ROLE orders_rw; CREATE TABLE passed (id int); CREATE TRIGGER t AFTER INSERT ON passed FOR EACH ROW EXECUTE FUNCTION through()".to_owned(),
        "SET ROLE orders_rw; CREATE TABLE hidden (id int); CREATE TRIGGER t AFTER INSERT ON hidden FOR EACH ROW EXECUTE FUNCTION hides()".to_owned(),
        "SET ROLE orders_rw; CREATE TABLE late (id int);
         CREATE CONSTRAINT TRIGGER t AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hides()".to_owned(),
        "SET ROLE orders_rw; CREATE TABLE plain (id int)".to_owned(),
        "SET ROLE orders_rw; CREATE TRIGGER t AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guards();
         CREATE TRIGGER t AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION guards()".to_owned(),
    ] {
        world.shop.postgres.sql(&setup).unwrap();
    }
    let said = world
        .shop
        .raw(
            r#"
def all_of(messages, ready=1):
    s.sendall(messages)
    for _ in range(ready):
        seen = until(stream, b"Z")
        errors(seen)
        print([(tag, body) for tag, body in seen if tag in b"SDC"])
def run(sql): all_of(query(sql))
def ahead(*texts): all_of(b"".join(parse(b"", it) + bind(b"", b"") + execute(b"") for it in texts) + sync)
s, stream = session()
for sql in (b"INSERT INTO told VALUES (1)", b"INSERT INTO said VALUES (1)", b"INSERT INTO passed VALUES (1)"):
    run(sql), ahead(sql)
run(b"SHOW application_name")
for table in (b"hidden", b"late"):
    insert = b"INSERT INTO " + table + b" VALUES (1)"
    for texts in ((b"BEGIN", insert, b"COMMIT"), (insert, b"SET work_mem = '5MB'"), (insert, b"BEGIN", b"SET application_name = 'between'", b"ROLLBACK"),
                  (b"BEGIN", insert, b"SET application_name = 'between'", b"ROLLBACK"), (insert, b"BEGIN", b"SET LOCAL application_name = 'local'", b"COMMIT")):
        for way in ("one by one", "in one text", "ahead"):
            s, stream = session()
            if way == "one by one":
                for text in texts:
                    run(text)
            elif way == "in one text":
                run(b"; ".join(texts))
            else:
                ahead(*texts)
            s.close()
print("--- its own", flush=True)
s, stream = session()
run(b"SET application_name = 'own 1'")
run(b"BEGIN; SET application_name = 'own 2'; COMMIT")
run(b"SELECT set_config('application_name', 'own 3', false)")
ahead(b"SET application_name = 'own 4'")
run(b"BEGIN"), run(b"INSERT INTO plain VALUES (1)"), run(b"SET application_name = 'own 5'"), run(b"COMMIT")
run(b"BEGIN"), run(b"SET application_name = 'own 6'"), run(b"ROLLBACK")
run(b"UPDATE orders SET item = item WHERE id = 1"), run(b"UPDATE customers SET phone = phone WHERE id = 1")
"#,
        )
        .unwrap();
    let (code, own) = said.split_once("--- its own").unwrap();
    assert!(!said.contains("900-") && !said.contains("@shop"), "{said}");
    assert_eq!(code.matches("42501").count(), 6, "{said}");
    for number in 1..=6 {
        assert!(own.contains(&format!("own {number}")), "{number}: {said}");
    }
    assert_eq!(own.matches("own 5\\x00").count(), 2, "what is taken back is told: {said}");
    assert!(own.matches("UPDATE 1").count() == 2 && !own.contains("ERROR"), "{said}");
    // With a trigger of its own that keeps a masked value where it can be read, the table is closed.
    let keeps = function("keeps", "PERFORM set_config('app.last', NEW.ssn, false)");
    let closes = "SET ROLE orders_rw; CREATE TRIGGER u AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION keeps()";
    world.shop.postgres.sql(&keeps).unwrap();
    world.shop.postgres.sql(closes).unwrap();
    drop(world.gateway);
    let _gateway = world.shop.serve().unwrap();
    let said = world.shop.psql("UPDATE customers SET phone = phone WHERE id = 1").run().unwrap();
    assert!(said.stderr.contains("denied by policy"), "{said:?}");
}

/// How much the log has grown behind a change of a row says how long the row is, and there is a lot that counts bytes or pages.
#[test]
fn how_much_a_change_takes_is_not_told() {
    let world = World::with(POLICY);
    let sql = |text: &str| world.shop.postgres.sql(text).unwrap();
    sql("ALTER SYSTEM SET full_page_writes = on");
    sql("SELECT pg_reload_conf()");
    let position = || sql("SELECT pg_current_wal_insert_lsn() - '0/0'").trim().parse::<u64>().unwrap();
    let grown = |length: u32| {
        sql(&format!("UPDATE customers SET ssn = repeat('9', {length}) WHERE id = 2"));
        sql("CHECKPOINT");
        let before = position();
        // The first change of a page since then takes the page.
        sql("UPDATE customers SET phone = phone WHERE id = 1");
        position() - before
    };
    let (short, long) = (grown(10), grown(2010));
    // (The server has compressed it.)
    assert!(long > short + 100, "{short} {long}");
    let said = world
        .shop
        .raw(
            r#"
s, stream = session()
for name in ("pg_current_wal_lsn()", "pg_current_wal_insert_lsn()", "pg_current_wal_flush_lsn()", "pg_last_wal_receive_lsn()", "pg_last_wal_replay_lsn()",
             "pg_stat_get_blocks_fetched('customers'::regclass)", "pg_stat_get_blocks_hit('customers'::regclass)", "pg_get_wal_stats('0/0', '0/1')",
             "(pg_control_checkpoint()).redo_lsn", "pg_stat_get_wal_senders()", "pg_ls_waldir()", "pg_get_backend_memory_contexts()", "pg_stat_get_wal()",
             "pg_stat_get_io()", "pg_stat_get_slru()", "pg_stat_get_progress_info('COPY')", "pg_stat_get_db_blocks_hit(1)", "pg_switch_wal()",
             "pg_stat_get_archiver()", "pg_show_replication_origin_status()", "pg_stat_get_bgwriter_buf_written_clean()"):
    print(name, end=" ")
    show(s, stream, f"SELECT {name}".encode())
for view in ("pg_stat_wal", "pg_stat_io", "pg_stat_slru", "pg_stat_database", "pg_stat_bgwriter", "pg_stat_checkpointer", "pg_stat_archiver", "pg_stat_replication",
             "pg_stat_wal_receiver", "pg_stat_subscription", "pg_stat_progress_copy", "pg_stat_progress_vacuum", "pg_stat_progress_create_index",
             "pg_stat_progress_analyze", "pg_stat_progress_cluster", "pg_stat_progress_basebackup", "pg_statio_all_tables", "pg_statio_user_tables",
             "pg_statio_user_indexes", "pg_statio_all_indexes", "pg_statio_user_sequences", "pg_backend_memory_contexts", "pg_replication_origin_status",
             "pg_shmem_allocations", "pg_stat_recovery_prefetch", "pg_stat_user_tables", "pg_stat_all_indexes", "pg_stat_xact_sys_tables", "pg_locks"):
    print(view, end=" ")
    show(s, stream, f"SELECT * FROM {view}".encode())
print("--- harmless", flush=True)
for sql in (b"SELECT pg_wal_lsn_diff('0/2', '0/1')", b"SELECT pg_stat_get_live_tuples('orders'::regclass) >= 0", b"SELECT pg_relation_size('orders') > 0"):
    show(s, stream, sql)
"#,
        )
        .unwrap();
    let (told, harmless) = said.split_once("--- harmless").unwrap();
    let refused = told.lines().filter(|it| it.contains("ERROR 42501")).count();
    // Two are of newer servers.
    assert_eq!(refused + told.matches("ERROR 42P01").count(), 21 + 29, "{said}");
    assert!(refused >= 48, "{said}");
    assert!(!harmless.contains("ERROR") && harmless.matches("SELECT 1").count() == 3, "{said}");
}
