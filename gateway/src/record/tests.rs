use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use tempfile::TempDir;

mod forward;

use super::denials::Kind as Denied;
use super::event::{
    ConnectionRefused, Deciding, OperationDecided, OperationReplied, Recordable as _, SessionClosed, SessionOpened,
};
use super::segment::{FRAME_HEADER_LEN, FrameError, HEADER_LEN};
use super::verify::{Report, Verdict, verify};
use super::*;
use crate::approval::{Status, Transition};
use crate::identity::Principal;
use crate::origin::{Evidence, Origin, Process};
use crate::policy::{Access, Action, Gate, Kind, TableUse};
use crate::target::Protocol;

const LIMITS: Limits = Limits { segment_bytes: 64 << 20, segment_age: Duration::from_hours(1), reserve_bytes: 1 << 20 };

fn config(directory: &Path) -> RecordingConfig {
    RecordingConfig { directory: directory.to_owned(), keep: Duration::MAX, max_size: u64::MAX, reply_limit: 1 << 16 }
}

fn open(directory: &TempDir) -> Store {
    open_with(directory, LIMITS)
}

fn open_with(directory: &TempDir, limits: Limits) -> Store {
    Store::open(&config(directory.path()), limits, started(), &HashSet::new()).unwrap()
}

fn started() -> GatewayStarted {
    GatewayStarted {
        version: "1".to_owned(),
        host: "host".to_owned(),
        boot_id: "boot".to_owned(),
        config_version: "c".to_owned(),
        sessions_going_on: 0,
    }
}

fn id(number: u32) -> SessionId {
    SessionId::new(1_780_000_000_000, number)
}

fn opened(id: SessionId) -> Event {
    Event::SessionOpened(SessionOpened {
        id,
        origin: Origin {
            pid: 77,
            uid: 1001,
            gid: 1001,
            cgroup_id: 5,
            socket_cgroup_id: 5,
            netns_cookie: 1,
            connected_at: 9,
            started_at: None,
            destination: "[2001:db8::1]:5432".parse().unwrap(),
            source: "127.0.0.1:40000".parse().unwrap(),
        },
        evidence: Evidence {
            cgroup: "/agents.slice/coder@a.service".to_owned(),
            user: Some("agent-coder".to_owned()),
            tree: vec![Process { pid: 77, executable: "/usr/bin/psql".to_owned(), ..Process::default() }],
            ..Evidence::default()
        },
        principal: Principal {
            agent: "coder".to_owned(),
            subject: "coder-1".to_owned(),
            names: Vec::new(),
            issuer: "https://idp.example".to_owned(),
            groups: vec!["devs".to_owned()],
            expires_at: 1_800_000_000,
            token_id: None,
            token_digest: [7; 32],
        },
        target: "orders".to_owned(),
        protocol: Protocol::Postgres,
        config_version: "c".to_owned(),
        observe: false,
    })
}

fn decided(id: OperationId, gate: &Gate) -> Event {
    let table = TableUse {
        schema: Some("public".to_owned()),
        name: "customers".to_owned(),
        access: Access::Read,
        columns: ["id", "name"].map(str::to_owned).into(),
        rows: Some(3),
        schemas: Vec::new(),
    };
    Event::OperationDecided(OperationDecided {
        operation: id,
        text: "SELECT id, name FROM public.customers WHERE id = $1".to_owned(),
        database: Some("orders".to_owned()),
        actions: vec![Action {
            kind: Kind::Select,
            tables: vec![table],
            functions: Vec::new(),
            has_where: Some(true),
            has_limit: Some(false),
            unparsed: None,
            runs_code: false,
        }],
        statements: 2,
        parameters: None,
        gate: gate.clone(),
        refusal: None,
        approval: None,
        at_us: 100,
    })
}

fn borrow(decided: &OperationDecided) -> Deciding<'_> {
    Deciding {
        operation: decided.operation,
        text: &decided.text,
        database: decided.database.as_deref(),
        actions: &decided.actions,
        statements: decided.statements,
        parameters: decided.parameters.as_deref(),
        gate: &decided.gate,
        refusal: decided.refusal.as_deref(),
        approval: decided.approval,
        at_us: decided.at_us,
    }
}

fn allow() -> Gate {
    Gate::Allow { rules: vec!["coders work on orders".into()] }
}

fn deny() -> Gate {
    Gate::Deny { rule: Some("no schema changes".to_owned()), message: "no".to_owned() }
}

fn replied(id: OperationId) -> Event {
    Event::OperationReplied(OperationReplied {
        operation: id,
        outcome: "SELECT 1".to_owned(),
        rows: 1,
        cells_masked: 2,
        masks: vec!["customer PII".to_owned()],
        bytes: 60,
        content: vec![0, 159, 255, 1],
        content_truncated: false,
        started_us: 100,
        finished_us: 300,
    })
}

fn closed(id: SessionId) -> Event {
    Event::SessionClosed(SessionClosed { statements: 2, ..SessionClosed::new(id, "closed by the client") })
}

fn refused(id: SessionId) -> Event {
    Event::ConnectionRefused(ConnectionRefused {
        id,
        origin: None,
        evidence: None,
        agent: Some("coder".to_owned()),
        target: Some("orders".to_owned()),
        reason: "identity".to_owned(),
        message: "the token has expired".to_owned(),
        rule: None,
        observed: false,
    })
}

async fn records(store: &Store, id: SessionId) -> Vec<Record> {
    let (mut stream, mut all) = (store.records(id).await.unwrap(), Vec::new());
    while let Some(record) = stream.next().await.unwrap() {
        all.push(record);
    }
    all
}

/// A session with an allowed and a denied statement.
async fn session(store: &Store, id: SessionId) {
    let recorder = store.recorder();
    recorder.append_durable(opened(id)).await.unwrap();
    recorder.append(decided(id.operation(1), &allow())).await.unwrap();
    recorder.append(replied(id.operation(1))).await.unwrap();
    recorder.append_durable(decided(id.operation(2), &deny())).await.unwrap();
    recorder.append(closed(id)).await.unwrap();
}

fn segment_of(directory: &TempDir, number: u64) -> PathBuf {
    segment_path(directory.path(), number)
}

/// Where the frames of a segment begin, and where the last one ends.
fn frames(path: &Path) -> Vec<u64> {
    let mut reader = Reader::open(path).unwrap();
    let mut places = vec![HEADER_LEN as u64];
    while let Some(frame) = reader.next(None).unwrap() {
        places.push(frame.end);
    }
    places
}

fn drop_index(directory: &TempDir) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(directory.path().join(format!("index.sqlite{suffix}")));
    }
}

fn verdict(directory: &TempDir) -> Report {
    verify(directory.path()).unwrap()
}

/// A closed log: one segment for each of these many sessions.
async fn log_of(sessions: u32) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..sessions {
        let store = open(&directory);
        session(&store, id(number)).await;
        store.close("test");
    }
    directory
}

#[test]
fn events_survive_as_they_were() {
    let origin = match opened(id(1)) {
        Event::SessionOpened(event) => event.origin,
        _ => unreachable!(),
    };
    let (allowed, denied) = (allow(), deny());
    let events = [
        Event::GatewayStarted(started()),
        opened(id(1)),
        refused(id(2)),
        decided(id(1).operation(1), &allowed),
        decided(id(1).operation(2), &denied),
        replied(id(1).operation(1)),
        closed(id(1)),
        Event::Approval(Transition::Ended { number: 4, operation: id(1).operation(3), status: Status::Expired }),
        Event::KernelDenied { origin: origin.clone(), reason: "udp".to_owned(), protocol: 17 },
        Event::DnsRefused {
            origin,
            name: "example.com".to_owned(),
            kind: "A".to_owned(),
            reason: "no target has this name".to_owned(),
            observed: false,
            passed_over: 2,
        },
        Event::SegmentDeleted { segment: 3, last_hash: vec![9; 32], records: 1 },
        Event::Gap { reason: "why".to_owned() },
    ];
    for event in events {
        let mut bytes = Vec::new();
        event::encode(&event, &mut bytes).unwrap();
        assert_eq!(Event::decode(&bytes).unwrap(), event);
        assert_eq!(event::tag(&bytes), Some(event.name().as_bytes()));
        if let Event::OperationDecided(decided) = &event {
            let mut borrowed = Vec::new();
            event::encode(&borrow(decided), &mut borrowed).unwrap();
            assert_eq!(borrowed, bytes);
            assert_eq!(borrow(decided).prefix(5), event.prefix(5));
        }
        // And as what `--json` prints.
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.contains(&format!("\"type\":\"{}\"", event.name())), "{json}");
        for cut in 0..bytes.len() {
            assert!(Event::decode(&bytes[..cut]).is_err());
        }
    }
}

#[tokio::test]
async fn what_was_denied_is_found_in_one_list() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    session(&store, id(1)).await;
    store.recorder().append(refused(id(2))).await.unwrap();
    let Event::SessionOpened(event::SessionOpened { origin, .. }) = opened(id(1)) else { unreachable!() };
    let destination = origin.destination;
    let query = Event::DnsRefused {
        origin: origin.clone(),
        name: "example.com".to_owned(),
        kind: "A".to_owned(),
        reason: "no target has this name".to_owned(),
        observed: false,
        passed_over: 2,
    };
    store.recorder().append(query).await.unwrap();
    let kernel = Event::KernelDenied { origin, reason: "denied_udp".to_owned(), protocol: 17 };
    store.recorder().append(kernel).await.unwrap();

    let denials = store.denials(Filter::default()).await.unwrap();
    let lines: Vec<_> =
        denials.iter().map(|denial| (denial.kind, denial.id, denial.what.as_str(), denial.more)).collect();
    assert_eq!(lines[0], (Denied::Kernel, None, format!("UDP {destination}").as_str(), 0));
    assert_eq!(lines[1], (Denied::Dns, None, "example.com A", 2));
    assert_eq!((lines[2].0, lines[2].1), (Denied::Connection, Some(id(2).operation(0))));
    assert_eq!((lines[3].0, lines[3].1), (Denied::Operation, Some(id(1).operation(2))));
    assert_eq!(denials[3].agent.as_deref(), Some("coder"));
    assert_eq!(denials.len(), 4);
    let only = |filter: Filter| async { store.denials(filter).await.unwrap().len() };
    assert_eq!(only(Filter { limit: 2, ..Filter::default() }).await, 2);
    assert_eq!(only(Filter { agent: Some("nobody".to_owned()), ..Filter::default() }).await, 0);
    assert_eq!(only(Filter { since_ns: Some(u64::MAX >> 1), ..Filter::default() }).await, 0);
}

#[tokio::test]
async fn what_waited_is_denied_when_nobody_let_it_run_and_what_was_observed_passed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let Event::SessionOpened(opened) = opened(id(1)) else { unreachable!() };
    let observed = Event::SessionOpened(event::SessionOpened { observe: true, id: id(2), ..opened.clone() });
    for event in [Event::SessionOpened(opened), observed] {
        store.recorder().append(event).await.unwrap();
    }
    let held = Gate::Hold { requirements: Vec::new() };
    for (number, sequence) in [(7, 1), (8, 2)] {
        let Event::OperationDecided(decided) = decided(id(1).operation(sequence), &held) else { unreachable!() };
        let waiting = OperationDecided { approval: Some(number), ..decided };
        store.recorder().append(Event::OperationDecided(waiting)).await.unwrap();
    }
    assert_eq!(store.denials(Filter::default()).await.unwrap(), []);
    let expired = Transition::Ended { number: 7, operation: id(1).operation(1), status: Status::Expired };
    store.recorder().append(Event::Approval(expired)).await.unwrap();
    store.recorder().append(decided(id(2).operation(1), &deny())).await.unwrap();

    let denials = store.denials(Filter::default()).await.unwrap();
    let lines: Vec<_> = denials.iter().map(|denial| (denial.id.unwrap(), denial.observed)).collect();
    assert_eq!(lines, [(id(2).operation(1), true), (id(1).operation(1), false)]);
    assert_eq!(denials[1].reason, "nobody approved it in time");
}

#[tokio::test]
async fn an_index_of_the_first_layout_is_taken_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    session(&store, id(1)).await;
    let before = store.sessions(Filter::default()).await.unwrap();
    store.close("test");
    let db = rusqlite::Connection::open(directory.path().join("index.sqlite")).unwrap();
    db.execute_batch("DROP TABLE denials; ALTER TABLE sessions DROP COLUMN observed; PRAGMA user_version = 1").unwrap();
    drop(db);
    let store = open(&directory);
    assert_eq!(store.sessions(Filter::default()).await.unwrap(), before);
    session(&store, id(2)).await;
    let denials = store.denials(Filter::default()).await.unwrap();
    assert_eq!(denials.iter().map(|denial| denial.id.unwrap().session).collect::<Vec<_>>(), [id(2)]);
}

#[tokio::test]
async fn what_is_recorded_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    session(&store, id(1)).await;
    store.recorder().append(refused(id(2))).await.unwrap();

    let rows = store.sessions(Filter::default()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id(2), id(1)], "the newest first");
    let row = &rows[1];
    assert_eq!((row.statements, row.denied, row.outcome.as_deref()), (2, 1, Some("closed by the client")));
    assert_eq!((row.agent.as_deref(), row.executable.as_deref()), (Some("coder"), Some("/usr/bin/psql")));
    let only = |filter: Filter| async { store.sessions(filter).await.unwrap().len() };
    assert_eq!(only(Filter { refused_only: true, ..Filter::default() }).await, 1);
    assert_eq!(only(Filter { agent: Some("other".to_owned()), ..Filter::default() }).await, 0);
    assert_eq!(only(Filter { limit: 1, ..Filter::default() }).await, 1);

    let found = records(&store, id(1)).await;
    let names: Vec<_> = found.iter().map(|record| record.event.name()).collect();
    let expected = ["session_opened", "operation_decided", "operation_replied", "operation_decided", "session_closed"];
    assert_eq!(names, expected);
    assert!(found.is_sorted_by_key(|record| record.sequence) && found[0].at_unix_ns > 0);

    let why = store.operation(id(1).operation(2)).await.unwrap();
    assert_eq!(why.iter().map(|record| record.event.name()).collect::<Vec<_>>(), [expected[0], expected[3]]);
    assert_eq!(store.operation(id(2).operation(0)).await.unwrap().len(), 1);
    assert!(matches!(store.operation(id(1).operation(9)).await, Err(RecordError::UnknownOperation(_))));
    assert!(matches!(store.records(id(9)).await, Err(RecordError::UnknownSession(_))));
    store.close("test");
    assert_eq!((verdict(&directory).verdict, verdict(&directory).records), (Verdict::SelfConsistent, 8));
}

#[tokio::test]
async fn a_record_in_the_queue_is_seen_by_who_asks_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..50 {
        store.recorder().append(refused(id(number))).await.unwrap();
        assert_eq!(store.sessions(Filter::default()).await.unwrap().len(), number as usize + 1);
    }
}

#[tokio::test]
async fn only_one_gateway_writes_to_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let second = Store::open(&config(directory.path()), LIMITS, started(), &HashSet::new());
    assert!(matches!(second, Err(RecordError::InUse(_))));
    drop(store);
    open(&directory);
}

#[tokio::test]
async fn sessions_of_a_dead_gateway_are_closed_with_what_is_known_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.recorder().append_durable(opened(id(1))).await.unwrap();
    store.recorder().append(decided(id(1).operation(1), &allow())).await.unwrap();
    store.recorder().append_durable(replied(id(1).operation(1))).await.unwrap();
    session(&store, id(2)).await;
    let open_row = store.sessions(Filter::default()).await.unwrap().pop().unwrap();
    assert_eq!((open_row.closed_ns, open_row.statements), (None, 1), "an open session's statements are counted");
    // As after SIGKILL: nobody says goodbye.
    drop(store);
    for _ in 0..2 {
        let store = open(&directory);
        let row = store.sessions(Filter::default()).await.unwrap().pop().unwrap();
        assert_eq!((row.id, row.outcome.as_deref()), (id(1), Some(GATEWAY_LOST)));
        assert_eq!((row.statements, row.rows, row.cells_masked), (1, 1, 2));
        let closings = records(&store, id(1)).await;
        assert_eq!(closings.iter().filter(|record| record.event.name() == "session_closed").count(), 1);
        drop(store);
    }
}

#[tokio::test]
async fn what_a_dead_gateway_took_ahead_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    session(&store, id(1)).await;
    store.recorder().flush().await.unwrap();
    let path = segment_of(&directory, 0);
    let alive = fs::read(&path).unwrap();
    store.close("test");
    drop(store);
    let whole = fs::read(&path).unwrap();
    let (begun, ahead) = alive.split_at(alive.iter().rposition(|&byte| byte != 0).unwrap() + 1);
    assert!(!ahead.is_empty() && whole.starts_with(begun));
    // As after SIGKILL.
    fs::write(&path, &alive).unwrap();
    drop_index(&directory);
    assert_eq!(verdict(&directory).verdict, Verdict::SelfConsistent);
    let store = open(&directory);
    // A record may end with some zeros of its own.
    let kept = fs::read(&path).unwrap();
    assert!(kept.starts_with(begun) && kept.len() - begun.len() < 8, "{} of {} bytes", kept.len(), begun.len());
    store.close("test");
    assert_eq!(verdict(&directory).verdict, Verdict::SelfConsistent);
}

#[tokio::test]
async fn a_record_that_was_begun_over_zeros_is_cut_off() {
    let (directory, tails) = (log_of(1).await, [0, 1, 1 << 20]);
    let path = segment_of(&directory, 0);
    let whole = fs::read(&path).unwrap();
    let places = frames(&path);
    let last = usize::try_from(places[places.len() - 2]).unwrap();
    for (written, zeros) in (last..whole.len()).flat_map(|written| tails.map(|zeros| (written, zeros))) {
        let begun = [&whole[..written], &vec![0; zeros]].concat();
        fs::write(&path, &begun).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let end = loop {
            match reader.next(None) {
                Ok(Some(frame)) => assert!(frame.end <= last as u64),
                end => break end.map(|frame| frame.is_none()),
            }
        };
        let cut = matches!(end, Ok(true) | Err(ReadError::Frame { error: FrameError::Incomplete, .. }));
        assert!(cut, "{written} bytes of {}, {zeros} zeros: {end:?}", whole.len());
        // What is written later is read on.
        fs::write(&path, &whole).unwrap();
        assert_eq!(reader.next(None).unwrap().unwrap().end, whole.len() as u64);
    }
    // Nothing but zeros may lie there.
    fs::write(&path, [&whole[..], &[0; 100], b"x"].concat()).unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::Altered);
}

#[tokio::test]
async fn records_that_are_written_over_zeros_after_these_were_read_are_read() {
    let directory = log_of(1).await;
    let path = segment_of(&directory, 0);
    let whole = fs::read(&path).unwrap();
    let places = frames(&path);
    let last = usize::try_from(places[places.len() - 2]).unwrap();
    // As it was before the last one, with what lay ahead; and as it is after it, with what lies ahead by now.
    fs::write(&path, [&whole[..last], &vec![0; whole.len() - last - 20]].concat()).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    for _ in 2..places.len() {
        reader.next(None).unwrap().unwrap();
    }
    fs::write(&path, [&whole[..], &vec![0; 1 << 20]].concat()).unwrap();
    assert_eq!(reader.next(None).unwrap().unwrap().end, whole.len() as u64);
    assert!(reader.next(None).unwrap().is_none());
}

#[tokio::test]
async fn the_index_is_made_anew_with_the_same_answers() {
    let directory = log_of(3).await;
    let answers = async |directory: &TempDir| {
        let store = open(directory);
        let rows = store.sessions(Filter::default()).await.unwrap();
        let found = records(&store, id(1)).await;
        store.close("test");
        (rows, found)
    };
    let before = answers(&directory).await;
    assert_eq!(before.0.len(), 3);
    drop_index(&directory);
    assert_eq!(answers(&directory).await, before, "deleted");
    fs::write(directory.path().join("index.sqlite"), [0xa5; 8192]).unwrap();
    let _ = fs::remove_file(directory.path().join("index.sqlite-wal"));
    assert_eq!(answers(&directory).await, before, "overwritten");
    let db = rusqlite::Connection::open(directory.path().join("index.sqlite")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert_eq!(answers(&directory).await, before, "of another layout");
}

#[tokio::test]
async fn numbers_of_approvals_are_not_given_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    assert_eq!(store.next_approval_number().unwrap(), 1);
    let view = serde_json::from_value(serde_json::json!({
        "number": 41, "status": "pending", "operation": id(1).operation(1), "digest": "", "text": "DELETE",
        "agent": "coder", "agent_uid": 1, "subject": "s", "groups": [], "target": "orders", "database": null,
        "requirements": [], "evidence": Evidence::default(), "requested_at": 1, "expires_at": 2, "votes": [],
    }));
    let requested = Event::Approval(Transition::Requested(view.unwrap()));
    store.recorder().append_durable(requested).await.unwrap();
    store.close("test");
    drop(store);
    drop_index(&directory);
    assert_eq!(open(&directory).next_approval_number().unwrap(), 42);
}

#[tokio::test]
async fn segments_end_by_size_and_by_age() {
    for limits in [Limits { segment_bytes: 1000, ..LIMITS }, Limits { segment_age: Duration::ZERO, ..LIMITS }] {
        let directory = tempfile::tempdir().unwrap();
        let store = open_with(&directory, limits);
        for number in 0..5 {
            session(&store, id(number)).await;
        }
        let rows = store.sessions(Filter::default()).await.unwrap();
        assert!(rows.len() == 5 && rows.iter().all(|row| row.statements == 2));
        assert_eq!(records(&store, id(0)).await.len(), 5, "a session may span segments");
        store.close("test");
        let numbers = segment_numbers(directory.path()).unwrap();
        assert!(numbers.len() >= 5);
        for number in numbers {
            let taken = std::fs::metadata(segment_of(&directory, number)).unwrap().blocks() * 512;
            assert!(taken <= 64 << 10, "{taken} bytes: what was taken ahead is given back");
        }
        assert_eq!(verdict(&directory).verdict, Verdict::SelfConsistent);
    }
}

#[tokio::test]
async fn deleted_segments_leave_a_record_and_the_rest_is_provable() {
    let directory = log_of(4).await;
    let store = open(&directory);
    let rows = store.sessions(Filter::default()).await.unwrap().len();
    let sizes: u64 = (0..5).map(|number| fs::metadata(segment_of(&directory, number)).unwrap().len()).sum();
    let oldest = fs::metadata(segment_of(&directory, 0)).unwrap().len();
    store.sweep(&RecordingConfig { max_size: sizes - oldest, ..config(directory.path()) }).unwrap();
    assert_eq!(segment_numbers(directory.path()).unwrap(), [1, 2, 3, 4]);
    let left = store.sessions(Filter::default()).await.unwrap();
    assert_eq!(left.len(), rows - 1, "what is gone is not listed");
    assert!(matches!(store.records(id(0)).await, Err(RecordError::UnknownSession(_))));
    let report = verdict(&directory);
    assert_eq!((report.verdict, report.exit_code), (Verdict::Deleted, 12), "{report}");

    store.sweep(&RecordingConfig { keep: Duration::ZERO, ..config(directory.path()) }).unwrap();
    assert_eq!(segment_numbers(directory.path()).unwrap(), [4], "the one that is being written stays");
    assert_eq!(verdict(&directory).verdict, Verdict::Deleted);
    store.close("test");
    fs::remove_file(segment_of(&directory, 4)).unwrap();
    assert_ne!(verdict(&directory).verdict, Verdict::Deleted, "the records of deletion went, too");
}

#[tokio::test]
async fn what_deletion_left_of_a_session_is_listed_by_a_new_index() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(&directory, Limits { segment_age: Duration::ZERO, ..LIMITS });
    session(&store, id(1)).await;
    store.recorder().flush().await.unwrap();
    fs::remove_file(segment_of(&directory, 0)).unwrap();
    fs::remove_file(segment_of(&directory, 1)).unwrap();
    store.close("test");
    drop(store);
    drop_index(&directory);
    let store = open(&directory);
    let rows = store.sessions(Filter::default()).await.unwrap();
    assert_eq!((rows.len(), rows[0].id, rows[0].opened_ns / 1_000_000), (1, id(1), 1_780_000_000_000));
}

#[tokio::test]
async fn any_flipped_bit_is_seen() {
    let directory = log_of(2).await;
    assert_eq!(verdict(&directory).verdict, Verdict::SelfConsistent);
    for number in 0..2 {
        let path = segment_of(&directory, number);
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        for at in 0..file.metadata().unwrap().len() {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).unwrap();
            let report = verdict(&directory);
            // A length that now points behind the end looks as if the record's rest were missing; the index knows better.
            let seen = matches!(report.verdict, Verdict::Altered | Verdict::Truncated);
            assert!(seen, "segment {number}, byte {at}: {report}");
            file.write_all_at(&byte, at).unwrap();
        }
    }
}

#[tokio::test]
async fn a_cut_end_is_seen_where_the_index_knows_more() {
    let directory = log_of(2).await;
    let path = segment_of(&directory, 1);
    let whole = fs::read(&path).unwrap();
    let places = frames(&path);
    for cut in [places[1], places[2] - 3, places[places.len() - 2], whole.len() as u64 - 1] {
        fs::write(&path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
        let report = verdict(&directory);
        assert_eq!((report.verdict, report.exit_code), (Verdict::Truncated, 21), "{report}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::Truncated, "the last segment is gone");
    drop_index(&directory);
    let report = verdict(&directory);
    assert_eq!(report.verdict, Verdict::SelfConsistent);
    assert!(report.notes.iter().any(|note| note.contains("no anchor")), "and the report says what it cannot see");
}

#[tokio::test]
async fn a_cut_log_is_noticed_and_recorded_at_the_next_start() {
    let directory = log_of(2).await;
    fs::remove_file(segment_of(&directory, 1)).unwrap();
    let store = open(&directory);
    store.close("test");
    let mut reader = Reader::open(&segment_of(&directory, 1)).unwrap();
    let first = reader.next(None).unwrap().unwrap().decode().unwrap();
    assert!(matches!(&first.event, Event::Gap { reason } if reason.contains("cut or rewritten")), "{first:?}");
}

#[tokio::test]
async fn moved_records_and_segments_are_seen() {
    let directory = log_of(3).await;
    let path = segment_of(&directory, 1);
    let whole = fs::read(&path).unwrap();
    let places: Vec<_> = frames(&path).into_iter().map(|place| usize::try_from(place).unwrap()).collect();
    let parts = |order: &[usize]| -> Vec<u8> {
        let mut bytes = whole[..HEADER_LEN].to_vec();
        for &at in order {
            bytes.extend_from_slice(&whole[places[at]..places[at + 1]]);
        }
        bytes
    };
    let count = places.len() - 1;
    let all: Vec<_> = (0..count).collect();
    assert_eq!(parts(&all), whole);
    let mut swapped = all.clone();
    swapped.swap(1, 2);
    let mut doubled = all.clone();
    doubled.insert(1, 1);
    let mut missing = all.clone();
    missing.remove(2);
    for order in [swapped, doubled, missing] {
        fs::write(&path, parts(&order)).unwrap();
        assert_eq!(verdict(&directory).verdict, Verdict::Altered, "{order:?}");
    }
    fs::write(&path, &whole).unwrap();

    let (one, two) = (segment_of(&directory, 0), segment_of(&directory, 1));
    let aside = directory.path().join("aside");
    let swap = || {
        fs::rename(&one, &aside).unwrap();
        fs::rename(&two, &one).unwrap();
        fs::rename(&aside, &two).unwrap();
    };
    swap();
    assert_eq!(verdict(&directory).verdict, Verdict::Altered, "exchanged segments");
    swap();
    fs::rename(&two, &aside).unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::Truncated, "a deleted segment");
    fs::rename(&aside, &two).unwrap();
    fs::rename(&one, &aside).unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::Truncated, "a deleted first segment");
    let other = log_of(1).await;
    fs::copy(segment_of(&other, 0), &one).unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::Truncated, "a segment of another log");
    fs::rename(&aside, &one).unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::SelfConsistent);
}

#[tokio::test]
async fn a_torn_end_is_cut_at_every_byte() {
    let directory = log_of(1).await;
    let path = segment_of(&directory, 0);
    let whole = fs::read(&path).unwrap();
    let places = frames(&path);
    let last = places[places.len() - 2];
    for cut in last + 1..whole.len() as u64 {
        for ending in [&b""[..], &[0; 64], &[0xff; 64]] {
            let mut bytes = whole[..usize::try_from(cut).unwrap()].to_vec();
            bytes.extend_from_slice(ending);
            fs::write(&path, bytes).unwrap();
            let recovered = recover::recover(directory.path()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), last, "cut {cut}, {} more", ending.len());
            assert_eq!((recovered.tail.next_sequence, recovered.tail.next_segment), (places.len() as u64 - 2, 1));
            assert!(recovered.findings[0].contains("never acknowledged"), "{recovered:?}");
        }
    }
    assert_eq!(recover::recover(directory.path()).unwrap().findings, [""; 0]);
}

#[tokio::test]
async fn what_was_durable_once_is_never_cut() {
    let directory = log_of(1).await;
    let path = segment_of(&directory, 0);
    let whole = fs::read(&path).unwrap();
    let places = frames(&path);
    // The opening record was durable before the decisions behind it were written.
    for at in [places[1], places[1] + 8, places[1] + FRAME_HEADER_LEN as u64 + 30] {
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let recovered = recover::recover(directory.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes, "the evidence stays");
        assert!(recovered.findings[0].contains("altered or damaged"), "{recovered:?}");
        let store = open(&directory);
        session(&store, id(77)).await;
        assert!(store.sessions(Filter::default()).await.unwrap().iter().any(|row| row.id == id(77)), "work goes on");
        store.close("test");
        assert_eq!(verdict(&directory).verdict, Verdict::Altered);
        for number in 1..=segment_numbers(directory.path()).unwrap().pop().unwrap() {
            fs::remove_file(segment_of(&directory, number)).unwrap();
        }
        drop_index(&directory);
    }
}

#[tokio::test]
async fn a_segment_that_was_just_being_made_is_made_again() {
    let directory = log_of(1).await;
    let path = segment_of(&directory, 1);
    for bytes in [vec![], vec![0; HEADER_LEN], segment::MAGIC.to_vec()] {
        fs::write(&path, bytes).unwrap();
        let recovered = recover::recover(directory.path()).unwrap();
        assert!(recovered.tail.next_segment == 1 && recovered.findings.is_empty() && !path.exists());
    }
}

#[tokio::test]
async fn a_log_without_a_readable_header_goes_on_after_the_one_before() {
    let directory = log_of(2).await;
    let path = segment_of(&directory, 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let recovered = recover::recover(directory.path()).unwrap();
    let first = Reader::open(&segment_of(&directory, 0)).unwrap();
    assert_eq!((recovered.tail.next_segment, recovered.tail.log), (2, first.header().log));
    assert!(recovered.findings[0].contains("header"), "{recovered:?}");
}

#[tokio::test]
async fn too_large_a_record_is_refused_and_the_recorder_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let huge = Event::Gap { reason: "x".repeat(segment::MAX_PAYLOAD) };
    assert!(matches!(store.recorder().append_durable(huge).await, Err(RecordError::TooLarge(_))));
    session(&store, id(1)).await;
    assert_eq!(records(&store, id(1)).await.len(), 5);
}

#[tokio::test]
async fn after_the_end_nobody_waits_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let recorder = store.recorder().clone();
    store.close("test");
    assert!(recorder.append_durable(closed(id(1))).await.is_err());
    assert!(recorder.append(closed(id(1))).await.is_err());
    assert!(recorder.flush().await.is_err());
    assert!(recorder.append_durable_blocking(&closed(id(1))).is_err());
    recorder.append_now(&closed(id(1)));
}

/// Many producers, ordinary and durable records mixed: order and number are right, and a full queue only slows them down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_producers_records_are_there_in_their_order() {
    const PRODUCERS: u32 = 16;
    const RECORDS: u32 = 500;
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(&directory, Limits { segment_bytes: 1 << 20, ..LIMITS });
    let mut tasks = Vec::new();
    for producer in 0..PRODUCERS {
        let recorder = store.recorder().clone();
        tasks.push(tokio::spawn(async move {
            let id = id(producer);
            recorder.append_durable(opened(id)).await.unwrap();
            for number in 0..RECORDS {
                let mut event = replied(id.operation(number));
                if let Event::OperationReplied(reply) = &mut event {
                    reply.content = vec![7; 4000];
                }
                if number % 100 == 0 {
                    recorder.append_durable(event).await.unwrap();
                } else {
                    recorder.append(event).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for producer in 0..PRODUCERS {
        let found = records(&store, id(producer)).await;
        let numbers: Vec<_> = found[1..].iter().map(|record| record.event.operation().unwrap().sequence).collect();
        assert_eq!(numbers, (0..RECORDS).collect::<Vec<_>>());
    }
    store.close("test");
    let report = verdict(&directory);
    assert_eq!((report.verdict, report.records), (Verdict::SelfConsistent, u64::from(PRODUCERS * (RECORDS + 1) + 2)));
}

/// A verifier that looks on while a gateway writes, ends segments and deletes old ones sees nothing wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifying_a_live_log_gives_no_false_alarm() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open_with(&directory, Limits { segment_bytes: 20_000, ..LIMITS }));
    let writing = Arc::clone(&store);
    let writer = tokio::spawn(async move {
        for number in 0..400 {
            session(&writing, id(number)).await;
            if number % 50 == 49 {
                let config = RecordingConfig { max_size: 100_000, ..config(writing.directory()) };
                let sweeping = Arc::clone(&writing);
                tokio::task::spawn_blocking(move || sweeping.sweep(&config)).await.unwrap().unwrap();
            }
        }
    });
    let mut rounds = 0;
    while !writer.is_finished() || rounds == 0 {
        let report = verdict(&directory);
        assert!(matches!(report.verdict, Verdict::SelfConsistent | Verdict::Deleted), "round {rounds}: {report}");
        rounds += 1;
    }
    writer.await.unwrap();
    assert_eq!(verdict(&directory).verdict, Verdict::Deleted);
}
