//! Recordings on real disks: what was acknowledged is there after SIGKILL at any moment, a full disk is told and survived,
//! and what a gateway recorded of a real psql is found, replayed and proven, without a secret in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use system_tests::postgres::{self, CARD, EMAIL, SSN};
use system_tests::process::{PATIENCE, Running, wait_until};
use system_tests::recording::{denied, files_with, open, opened};
use system_tests::shop::Shop;
use weir::ids::{OperationId, SessionId};
use weir::record::index::Filter;
use weir::record::verify::{Verdict, verify};
use weir::record::{GATEWAY_LOST, RecordError, Store};

/// A directory that is gone with the test, on a file system of its own if it is `small`.
struct Place {
    path: PathBuf,
    mounted: bool,
}

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-test-record-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path, mounted: false }
    }

    fn small(name: &str, options: &str) -> Self {
        let mut place = Self::new(name);
        mount(Some("tmpfs"), &place.path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        place.mounted = true;
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
        }
        fs::remove_dir_all(&self.path).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn id(number: u32) -> SessionId {
    SessionId::new(1_780_000_000_000, number)
}

/// Highest operation of each session that the store has; that none before it is missing is part of the bargain.
async fn recorded(store: &Store) -> BTreeMap<SessionId, u32> {
    let mut all = BTreeMap::new();
    for row in store.sessions(Filter::default()).await.unwrap() {
        let (mut records, mut last) = (store.records(row.id).await.unwrap(), 0);
        while let Some(record) = records.next().await.unwrap() {
            if let Some(operation) = record.event.operation() {
                assert_eq!(operation.sequence, last + 1, "session {}: a record before it is missing", row.id);
                last = operation.sequence;
            }
        }
        all.insert(row.id, last);
    }
    all
}

#[test]
fn killed_at_any_moment_it_has_what_it_acknowledged() {
    const ROUNDS: usize = 15;
    let place = Place::new("kill");
    let mut acknowledged: BTreeMap<SessionId, u32> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recorder"));
        command.arg(&place.path);
        let mut recorder = Running::start(command).unwrap();
        // A different moment in every round, the first during the start already.
        let until = round * round * 5;
        wait_until("acknowledgements", PATIENCE, || recorder.stdout().lines().count() >= until).unwrap();
        recorder.kill();
        let said = recorder.stdout();
        // The last line may be torn by the signal.
        for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let operation: OperationId = line.trim().parse().unwrap();
            let last = acknowledged.entry(operation.session).or_default();
            *last = operation.sequence.max(*last);
        }
        if place.path.join("0000000000.segment").exists() {
            let report = verify(&place.path).unwrap();
            assert_eq!(report.verdict, Verdict::SelfConsistent, "round {round}: {report}");
        }
    }
    runtime().block_on(async {
        let store = open(&place.path).unwrap();
        let recorded = recorded(&store).await;
        for (session, last) in &acknowledged {
            let has = recorded.get(session).copied().unwrap_or(0);
            assert!(has >= *last, "session {session}: operation {last} was acknowledged, the last one there is {has}");
        }
        assert!(
            acknowledged.values().sum::<u32>() > 1000,
            "too little was recorded to prove anything: {acknowledged:?}"
        );
        let rows = store.sessions(Filter::default()).await.unwrap();
        assert!(rows.iter().all(|row| row.outcome.as_deref() == Some(GATEWAY_LOST)), "a broken session was left open");
        store.close("test");
    });
    assert_eq!(verify(&place.path).unwrap().verdict, Verdict::SelfConsistent);
}

/// Takes all space that is left on a file system.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    for size in [64 << 10, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_is_recorded_denied_and_survived() {
    let place = Place::small("full", "size=8m,mode=0700");
    let filler = place.path.join("filler");
    runtime().block_on(async {
        let store = open(&place.path).unwrap();
        let recorder = store.recorder().clone();
        recorder.append_durable(opened(id(1))).await.unwrap();
        fill(&filler);
        let mut durable = 0;
        let error = loop {
            match recorder.append_durable(denied(id(1).operation(durable + 1), &"x".repeat(1000))).await {
                Ok(()) => durable += 1,
                Err(error) => break error,
            }
            assert!(durable < 10_000, "the disk is full, and everything is acknowledged");
        };
        assert!(matches!(error, RecordError::DiskFull), "{error}");
        assert!(recorder.append(denied(id(1).operation(0), "x")).await.is_err(), "nothing is taken any more");
        assert!(recorder.health().is_err());
        // Who cannot wait for an answer is not lost.
        recorder.append_now(&opened(id(2)));
        let report = verify(&place.path).unwrap();
        assert_eq!(report.verdict, Verdict::SelfConsistent, "{report}");
        assert!(
            report.notes.iter().any(|note| note.contains("1 recorded gaps")),
            "the full disk is in the log: {report}"
        );

        fs::remove_file(&filler).unwrap();
        wait_until("recording after there is space", PATIENCE, || recorder.health().is_ok()).unwrap();
        recorder.append_durable(denied(id(1).operation(durable + 1), "y")).await.unwrap();
        assert_eq!(recorded(&store).await, BTreeMap::from([(id(1), durable + 1), (id(2), 0)]));
        store.close("test");
    });
    let report = verify(&place.path).unwrap();
    assert_eq!(report.verdict, Verdict::SelfConsistent, "{report}");
    assert!(report.notes.iter().any(|note| note.contains("2 recorded gaps")), "{report}");
}

#[test]
fn without_its_reserve_a_full_disk_loses_nothing_acknowledged() {
    let place = Place::small("reserve", "size=8m,mode=0700");
    runtime().block_on(async {
        let store = open(&place.path).unwrap();
        let recorder = store.recorder();
        fs::remove_file(place.path.join("reserve")).unwrap();
        let filler = place.path.join("filler");
        fill(&filler);
        let mut durable = 0;
        recorder.append_durable(opened(id(1))).await.unwrap_or_default();
        while recorder.append_durable(denied(id(1).operation(durable + 1), &"x".repeat(1000))).await.is_ok() {
            durable += 1;
        }
        assert_eq!(verify(&place.path).unwrap().verdict, Verdict::SelfConsistent, "what was refused is not there");
        fs::remove_file(&filler).unwrap();
        wait_until("recording after there is space", PATIENCE, || recorder.health().is_ok()).unwrap();
        recorder.append_durable(opened(id(2))).await.unwrap();
        let recorded = recorded(&store).await;
        assert_eq!(recorded.get(&id(1)).copied().unwrap_or(0), durable);
        store.close("test");
    });
    assert_eq!(verify(&place.path).unwrap().verdict, Verdict::SelfConsistent);
}

#[test]
fn a_disk_without_space_for_the_reserve_starts_nothing() {
    let place = Place::small("tiny", "size=256k,mode=0700");
    let error = open(&place.path).unwrap_err();
    assert!(error.to_string().contains("make space"), "{error}");
}

fn json(shop: &Shop, command: &[&str]) -> Value {
    let finished = shop.env.weir(command.iter().chain(&["--json"])).unwrap();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}: {finished:?}"))
}

#[test]
fn a_session_is_found_replayed_and_proven_and_holds_no_secret() {
    let shop = Shop::new().unwrap();
    let gateway = shop.serve().unwrap();
    let rows = shop.psql("SELECT ssn, email FROM customers").run().unwrap().expect_success().unwrap();
    assert!(rows.contains("(3 rows)") || rows.contains("rows)"), "{rows}");
    let dropped = shop.psql("DROP TABLE customers").run().unwrap();
    assert!(dropped.stderr.contains("Schema changes go through migrations"), "{dropped:?}");
    // By standard input: what an agent puts into arguments is evidence of its processes, and recorded as that.
    let mut psql = shop.client("psql").args(["--no-psqlrc"]).start().unwrap();
    psql.write(&format!("SELECT id FROM customers WHERE ssn = '{SSN}';\n")).unwrap();
    psql.close_stdin();
    psql.finish(PATIENCE).unwrap();

    let sessions = json(&shop, &["sessions", "list"]);
    let sessions = sessions.as_array().unwrap();
    assert_eq!(sessions.len(), 3, "{sessions:?}");
    let first = sessions[2]["id"].as_str().unwrap();
    assert!(sessions[2]["cells_masked"].as_u64().unwrap() > 0, "{sessions:?}");
    assert_eq!(sessions[1]["denied"], 1, "{sessions:?}");
    let shown = shop.env.weir(["sessions", "show", first]).unwrap().expect_success().unwrap();
    for part in ["psql", "coder@shop.example", "SELECT ssn, email FROM customers"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let replayed = shop.env.weir(["sessions", "replay", first]).unwrap().expect_success().unwrap();
    assert!(replayed.contains(&SSN[SSN.len() - 4..]) && !replayed.contains(SSN), "{replayed}");

    let token = fs::read_to_string(shop.env.token_path()).unwrap();
    let directory = shop.env.state_dir().join("recordings");
    assert!(
        !files_with(&directory, "SELECT ssn, email FROM customers").unwrap().is_empty(),
        "the search finds nothing"
    );
    for secret in [postgres::PASSWORD, token.trim(), SSN, EMAIL, CARD] {
        assert_eq!(files_with(&shop.env.state_dir(), secret).unwrap(), [""; 0], "{secret}");
    }
    let verified = shop.env.weir(["verify"]).unwrap();
    assert_eq!(verified.code, Some(10), "{verified:?}");
    gateway.kill().unwrap();
}

#[test]
fn a_killed_gateways_session_is_closed_as_lost_and_nothing_acknowledged_is_missing() {
    let shop = Shop::new().unwrap();
    let gateway = shop.serve().unwrap();
    let mut psql = shop.client("psql").args(["--no-psqlrc"]).start().unwrap();
    psql.write("DROP TABLE customers;\nDELETE FROM orders WHERE id = -1;\n").unwrap();
    psql.wait_for("DELETE 0", PATIENCE).unwrap();
    gateway.kill().unwrap();
    psql.kill();
    assert_eq!(shop.env.weir(["verify"]).unwrap().code, Some(10), "right after SIGKILL");

    let gateway = shop.serve().unwrap();
    let sessions = json(&shop, &["sessions", "list"]);
    assert_eq!(sessions[0]["outcome"], GATEWAY_LOST, "{sessions}");
    assert_eq!(sessions[0]["denied"], 1, "the denial was durable before it was told: {sessions}");
    let lost = sessions[0]["id"].as_str().unwrap();
    let shown = shop.env.weir(["sessions", "show", lost]).unwrap().expect_success().unwrap();
    assert!(
        shown.contains("DELETE FROM orders WHERE id = -1"),
        "the write was durable before it was forwarded: {shown}"
    );
    shop.psql("SELECT 1").run().unwrap().expect_success().unwrap();
    assert_eq!(json(&shop, &["sessions", "list"]).as_array().unwrap().len(), 2);

    gateway.stop().unwrap();
    let index = shop.env.state_dir().join("recordings/index.sqlite");
    let known = fs::metadata(&index).unwrap().len() > 0;
    assert!(known, "a gateway that was stopped leaves its index");
    fs::remove_file(&index).unwrap();
    let _gateway = shop.serve().unwrap();
    let rebuilt = json(&shop, &["sessions", "list"]);
    assert_eq!(rebuilt.as_array().unwrap().len(), 2, "the index was made anew: {rebuilt}");
    assert_eq!(rebuilt[1], sessions[0]);
}

/// Within a transaction changes need not be durable before what lets them stand.
#[test]
fn what_is_committed_when_a_gateway_is_killed_is_in_the_records() {
    let shop = Shop::new().unwrap();
    let gateway = shop.serve().unwrap();
    let script = r#"
import psycopg
with psycopg.connect("", autocommit=True) as c:
    for n in range(1, 1_000_000):
        for protocol in (dict(prepare=False), dict(prepare=True)):
            c.execute("BEGIN")
            c.execute("INSERT INTO orders (customer_id, item, amount) VALUES (1, %s, %s)", ["number", n], **protocol)
            c.execute("UPDATE orders SET amount = amount WHERE amount = %s" % n)
            c.execute("COMMIT")
        if n == 150:
            print("begun", flush=True)
"#;
    let mut client = shop.client("/usr/bin/python3").args(["-c", script]).start().unwrap();
    client.wait_for("begun", PATIENCE).unwrap();
    gateway.kill().unwrap();
    client.kill();
    let committed = shop.postgres.sql("SELECT count(*), max(amount)::int FROM orders WHERE item = 'number'").unwrap();
    let (rows, last) = committed.trim().split_once('|').unwrap();
    let (rows, last): (usize, usize) = (rows.parse().unwrap(), last.parse().unwrap());
    assert!(rows >= 300, "{committed}");

    let _gateway = shop.serve().unwrap();
    let sessions = json(&shop, &["sessions", "list"]);
    let lost = sessions[0]["id"].as_str().unwrap();
    let shown = shop.env.weir(["sessions", "show", lost]).unwrap().expect_success().unwrap();
    let inserts = shown.lines().filter(|it| it.contains("INSERT INTO orders")).count();
    assert!(inserts >= rows, "{rows} rows are there, and {inserts} records of them");
    let update = format!("UPDATE orders SET amount = amount WHERE amount = {last}");
    assert!(shown.contains(&update), "{last} is the last one: {}", &shown[shown.len().saturating_sub(2_000)..]);
}

#[test]
fn what_was_changed_behind_the_gateways_back_is_told() {
    let shop = Shop::new().unwrap();
    let gateway = shop.serve().unwrap();
    shop.psql("SELECT 1").run().unwrap().expect_success().unwrap();
    gateway.stop().unwrap();
    let segment = shop.env.state_dir().join("recordings/0000000000.segment");
    let mut bytes = fs::read(&segment).unwrap();
    let place = bytes.windows(8).position(|window| window == b"SELECT 1").unwrap();
    bytes[place + 7] = b'2';
    fs::write(&segment, &bytes).unwrap();
    let verified = shop.env.weir(["verify"]).unwrap();
    assert_eq!(verified.code, Some(20), "{verified:?}");
    assert!(verified.stdout.contains("segment 0"), "{verified:?}");
}
