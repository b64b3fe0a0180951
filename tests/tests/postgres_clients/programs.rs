//! The programs that come with PostgreSQL, straight at a server and through the gateway before the very same one: what they print
//! must be the same, byte by byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use system_tests::env::{Gateway, Place};
use system_tests::postgres::{DATABASE, NAME, PASSWORD, ROLE};
use system_tests::process::Finished;
use system_tests::shop::Shop;

/// What people type to look around, and what makes psql use more of the protocol.
const PSQL: &[&str] = &[
    "\\d",
    "\\d+ customers",
    "\\d+ contacts",
    "\\d+ pg_catalog.pg_class",
    "\\dS+",
    "\\dt+ *.*",
    "\\di+",
    "\\dv+",
    "\\ds+",
    "\\dn+",
    "\\du+",
    "\\dg",
    "\\l",
    "\\dx+",
    "\\dT+ *",
    "\\dC+",
    "\\do+",
    "\\da+",
    "\\df+ *",
    "\\dp",
    "\\ddp",
    "\\dD+",
    "\\dL+",
    "\\dO+",
    "\\db+",
    "\\dc+",
    "\\dd",
    "\\dA+",
    "\\dAc",
    "\\dAf",
    "\\dAo",
    "\\dF+",
    "\\dFp+",
    "\\dFd+",
    "\\dFt+",
    "\\dP+",
    "\\drds",
    "\\dRp+",
    "\\dRs+",
    "\\dX",
    "\\dy+",
    "\\dconfig *",
    "\\des+",
    "\\det+",
    "\\deu+",
    "\\dew+",
    "\\dl",
    "\\sv+ contacts",
    "\\sf pg_catalog.lpad(text, integer)",
    "\\encoding",
    "SELECT id, item, amount FROM orders ORDER BY id \\gdesc",
    "SELECT customer_id, item, amount FROM orders ORDER BY id \\crosstabview customer_id item amount",
    "SELECT format('SELECT %s AS n', n) FROM generate_series(1, 3) AS n \\gexec",
    "SELECT 1/0 \\; SELECT 2\n\\errverbose",
    "\\copy (SELECT * FROM orders ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)",
    "\\copy customers TO STDOUT",
    "\\set ON_ERROR_ROLLBACK on\nBEGIN; SELECT nothing; SELECT count(*) FROM orders; ROLLBACK",
    "\\set FETCH_COUNT 2\nSELECT id, item FROM orders ORDER BY id",
    "\\set AUTOCOMMIT off\nUPDATE orders SET amount = 1; SELECT sum(amount) FROM orders; ROLLBACK; SELECT sum(amount) FROM orders",
    "DO $$ BEGIN RAISE NOTICE 'from %', current_database(); RAISE WARNING 'careful'; END $$",
    "SHOW server_version; SHOW is_superuser; SHOW application_name",
];

/// A dump for psql has a random word in it otherwise.
const KEY: &str = "--restrict-key=same";

pub(crate) struct World {
    _gateway: Gateway,
    pub(crate) shop: Shop,
    files: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let (shop, gateway) = super::open_shop();
        super::make_superuser(&shop.postgres);
        let files = shop.env.dir().join("files");
        fs::create_dir(&files).unwrap();
        fs::set_permissions(&files, fs::Permissions::from_mode(0o777)).unwrap();
        Self { _gateway: gateway, shop, files }
    }

    /// A program as a user who is no agent, at the server itself.
    pub(crate) fn straight(&self, program: &str) -> Place<'_> {
        let place = self.shop.env.bystander_as("daemon", program).env("PGPASSWORD", PASSWORD);
        self.at(place.env("PGHOST", "127.0.0.1"))
    }

    pub(crate) fn through(&self, program: &str) -> Place<'_> {
        self.at(self.shop.env.agent(program).env("PGHOST", NAME))
    }

    fn at<'a>(&self, place: Place<'a>) -> Place<'a> {
        let port = self.shop.postgres.port().to_string();
        place.env("PGPORT", port).env("PGDATABASE", DATABASE).env("PGUSER", ROLE).env("HOME", &self.files)
    }

    /// What both said, if it is the same.
    fn both(&self, program: &str, words: &[&str]) -> Finished {
        let [straight, through] =
            [self.straight(program), self.through(program)].map(|place| place.args(words).run().unwrap());
        assert_eq!(
            (straight.code, &straight.stdout, &straight.stderr),
            (through.code, &through.stdout, &through.stderr),
            "{program} {words:?}: straight, then through the gateway\n{}",
            self.shop.env.log()
        );
        through
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }
}

#[test]
fn psql_shows_the_same() {
    let world = World::new();
    for (number, commands) in PSQL.iter().enumerate() {
        let script = world.file(&format!("{number}.sql"));
        fs::write(&script, format!("{commands}\n")).unwrap();
        let said = world.both("psql", &["--no-psqlrc", "--file", &script]);
        assert!(!(said.stdout.is_empty() && said.stderr.is_empty()), "{commands}");
    }
}

/// A dump is the same, and what is restored through the gateway is what was dumped.
#[test]
fn pg_dump_and_pg_restore() {
    let world = World::new();
    let schema = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TABLE papers (id serial PRIMARY KEY, mood mood, n positive, body bytea, tags text[], at timestamptz);
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.at := '2020-01-01'; RETURN NEW; END$$;
        CREATE TRIGGER touch BEFORE INSERT ON papers FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE MATERIALIZED VIEW totals AS SELECT customer_id, sum(amount) FROM orders GROUP BY 1;
        CREATE TABLE parts (id int, region text) PARTITION BY LIST (region);
        CREATE TABLE parts_north PARTITION OF parts FOR VALUES IN ('north');
        INSERT INTO parts VALUES (1, 'north');
        INSERT INTO papers (mood, n, body, tags) SELECT 'ok', n, decode(repeat(md5(n::text), 200), 'hex'), ARRAY['a', n::text]
            FROM generate_series(1, 500) AS n;
        SELECT lo_from_bytea(0, decode(repeat('5eed', 50000), 'hex')); COMMENT ON TABLE papers IS 'it''s \"theirs\"'";
    world.shop.postgres.sql(schema).unwrap();
    let dump = world.both("pg_dump", &[KEY]).expect_success().unwrap();
    assert!(dump.contains("COPY public.papers") && dump.contains("lowrite"), "{dump}");
    world.both("pg_dump", &[KEY, "--schema-only", "--create", "--clean", "--if-exists"]).expect_success().unwrap();
    world.both("pg_dump", &[KEY, "--data-only", "--inserts", "--rows-per-insert", "50"]).expect_success().unwrap();
    world.both("pg_dumpall", &[KEY, "--globals-only", "--no-role-passwords"]).expect_success().unwrap();

    let archive = world.file("archive");
    world.through("pg_dump").args(["--format=custom", "--file", &archive]).run().unwrap().expect_success().unwrap();
    world.shop.postgres.sql(&format!("CREATE DATABASE restored OWNER {ROLE}")).unwrap();
    let restored = world.through("pg_restore").args(["--dbname", "restored", "--exit-on-error", &archive]).run();
    restored.unwrap().expect_success().unwrap();
    let again = world.straight("pg_dump").args([KEY, "--dbname", "restored"]).run().unwrap().expect_success().unwrap();
    assert_eq!(again, dump);
    // Several connections at once, and a directory of files.
    let directory = world.file("directory");
    let words = ["--format=directory", "--jobs=3", "--file", &directory];
    world.through("pg_dump").args(words).run().unwrap().expect_success().unwrap();
    world.shop.postgres.sql(&format!("CREATE DATABASE again OWNER {ROLE}")).unwrap();
    let words = ["--dbname", "again", "--jobs=3", "--exit-on-error", &directory];
    world.through("pg_restore").args(words).run().unwrap().expect_success().unwrap();
    let again = world.straight("pg_dump").args([KEY, "--dbname", "again"]).run().unwrap().expect_success().unwrap();
    assert_eq!(again, dump);
}

#[test]
fn pgbench_and_the_programs_for_upkeep() {
    let world = World::new();
    let succeeds = |program: &str, words: &[&str]| {
        world.through(program).args(words).run().unwrap().expect_success().unwrap_or_else(|error| panic!("{error}"))
    };
    succeeds("pgbench", &["--initialize", "--quiet", "--scale=1", "--foreign-keys", "--init-steps=dtgvpf"]);
    for mode in ["simple", "extended", "prepared"] {
        let words = ["--no-vacuum", "--client=4", "--transactions=50", "--protocol", mode];
        let report = succeeds("pgbench", &words);
        assert!(report.contains("number of transactions actually processed: 200/200"), "{report}");
        assert!(report.contains("number of failed transactions: 0"), "{report}");
    }
    let pipeline = world.file("pipeline.sql");
    let script =
        "\\startpipeline\nSELECT 1;\nINSERT INTO pgbench_history (tid, bid) VALUES (1, 1);\nSELECT 2;\n\\endpipeline\n";
    fs::write(&pipeline, script).unwrap();
    let report = succeeds(
        "pgbench",
        &["--no-vacuum", "--protocol=extended", "--client=2", "--transactions=50", "--file", &pipeline],
    );
    assert!(report.contains("number of transactions actually processed: 100/100"), "{report}");
    assert_eq!(world.shop.postgres.sql("SELECT count(*) FROM pgbench_history WHERE aid IS NULL").unwrap(), "100");
    succeeds("vacuumdb", &["--analyze", "--jobs=2"]);
    succeeds("reindexdb", &["--table=pgbench_accounts"]);
    succeeds("clusterdb", &[]);
    succeeds("createdb", &["made"]);
    succeeds("dropdb", &["made"]);
    succeeds("createuser", &["somebody"]);
    succeeds("dropuser", &["somebody"]);
}
