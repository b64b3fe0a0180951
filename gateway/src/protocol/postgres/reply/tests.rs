use std::time::SystemTime;

use super::*;
use crate::ids::SessionId;
use crate::mask::{ColumnPattern, DetectorKind, MaskKind, MaskRule};
use crate::protocol::postgres::catalog::{ColumnRow, RelationRow, Snapshot};
use crate::protocol::postgres::wire::{Report, Severity, message, put_row_description, put_string};

const CUSTOMERS: u32 = 20_000;
const SSN: (u32, i16) = (CUSTOMERS, 2);

/// One column that keeps its last four characters, and the detector of cards.
fn rules() -> Vec<Arc<MaskRule>> {
    let rule = |name: &str, columns, detectors, with| {
        Arc::new(MaskRule {
            name: name.to_owned(),
            targets: Vec::new(),
            columns,
            detectors,
            with,
            lookups_per_minute: None,
        })
    };
    let column = ColumnPattern { schema: None, table: Some("customers".to_owned()), column: "ssn".to_owned() };
    vec![
        rule("pii", vec![column], Vec::new(), MaskKind::Partial { keep_last: 4 }),
        rule("cards", Vec::new(), vec![DetectorKind::CreditCard], MaskKind::Redact),
    ]
}

fn set() -> Arc<TaggedSet> {
    let relation = RelationRow {
        oid: CUSTOMERS,
        schema: "public".to_owned(),
        name: "customers".to_owned(),
        kind: 'r',
        rows: None,
        columns: 100,
    };
    let columns = vec![ColumnRow { relation: CUSTOMERS, number: SSN.1, name: "ssn".to_owned() }];
    let snapshot = Snapshot { relations: vec![relation], columns, ..Snapshot::default() };
    Arc::new(TaggedSet::resolve(&snapshot, &rules(), SystemTime::UNIX_EPOCH).unwrap())
}

/// Both ends of the target's side.
struct Pair<'m> {
    replies: Replies<'m>,
    inbox: Inbox,
    out: MaskedBuffer,
    operations: u32,
}

impl<'m> Pair<'m> {
    fn new(masker: &'m Masker) -> Self {
        let replies = Replies::new(masker, 1 << 16, Names::default(), false);
        Self { replies, inbox: Inbox::default(), out: MaskedBuffer::new(), operations: 0 }
    }

    fn running(&mut self) -> Box<Running> {
        self.operations += 1;
        Running::new(Forwarded::for_test(SessionId::from_u64(1).operation(self.operations)), set())
    }

    fn query(&mut self) {
        let running = self.running();
        self.replies.query(running);
    }

    /// The target sends this, in pieces of at most `most` bytes.
    fn sends(&mut self, bytes: &[u8], most: usize) -> Result<(), Fault> {
        for piece in bytes.chunks(most) {
            let mut rest = piece;
            while !rest.is_empty() {
                let space = self.inbox.space().unwrap();
                let now = rest.len().min(space.len());
                space[..now].copy_from_slice(&rest[..now]);
                self.inbox.filled(now);
                rest = &rest[now..];
            }
            self.replies.receive(&mut self.inbox, &mut self.out)?;
            self.inbox.compact();
        }
        Ok(())
    }

    fn got(&mut self) -> Vec<u8> {
        let got = self.out.as_masked().get().to_vec();
        self.out.clear();
        got
    }

    fn outcomes(&mut self) -> Vec<String> {
        self.replies.finished.drain(..).map(|(_, summary)| summary.outcome).collect()
    }
}

fn masker() -> Masker {
    Masker::for_target(&rules(), "any")
}

fn column(name: &str, (table, attribute): (u32, i16)) -> Column {
    Column { name: name.as_bytes().to_vec(), table, attribute, type_oid: 25, modifier: -1, format: 0 }
}

fn row(out: &mut Vec<u8>, cells: &[Option<&str>]) {
    message(out, b'D', |out| {
        out.extend_from_slice(&u16::try_from(cells.len()).unwrap().to_be_bytes());
        for cell in cells {
            match cell {
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(text) => {
                    out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
    });
}

fn complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| put_string(out, tag.as_bytes()));
}

fn ready(out: &mut Vec<u8>) {
    wire::ready_for_query(out, TransactionState::Idle);
}

fn error(out: &mut Vec<u8>, code: &str, text: &str) {
    Report::new(Severity::Error, code, text).write(out);
}

fn empty(out: &mut Vec<u8>, tags: &[u8]) {
    for tag in tags {
        message(out, *tag, |_| {});
    }
}

/// The reply to a simple query with rows of one or two plain columns.
fn result(count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_row_description(&mut out, &[column("id", (CUSTOMERS, 1)), column("note", (0, 0))], None);
    for at in 0..count {
        row(&mut out, &[Some(&at.to_string()), [None, Some("a note of no interest")][at % 2]]);
    }
    complete(&mut out, &format!("SELECT {count}"));
    ready(&mut out);
    out
}

#[test]
fn where_nothing_applies_the_bytes_are_the_same_however_they_come() {
    let (masked, unmasked) = (masker(), Masker::for_target(&[], "any"));
    for masker in [&masked, &unmasked] {
        for most in [1, 2, 3, 5, 7, 64, 1000, 1 << 20] {
            let mut pair = Pair::new(masker);
            let mut sent = Vec::new();
            for count in [0, 1, 200] {
                pair.query();
                sent.extend(result(count));
            }
            pair.sends(&sent, most).unwrap();
            assert_eq!(pair.got(), sent, "{most}");
            assert!(pair.replies.is_idle());
            assert_eq!(pair.outcomes(), ["SELECT 0", "SELECT 1", "SELECT 200"]);
        }
    }
}

#[test]
fn a_masked_column_and_a_finding_are_masked_and_counted() {
    let masker = masker();
    let mut sent = Vec::new();
    put_row_description(&mut sent, &[column("x", SSN), column("note", (0, 0))], None);
    row(&mut sent, &[Some("900-11-1002"), Some("card 4111111111111111")]);
    row(&mut sent, &[None, None]);
    complete(&mut sent, "SELECT 2");
    ready(&mut sent);
    for most in [1, 1000] {
        let mut pair = Pair::new(&masker);
        pair.query();
        pair.sends(&sent, most).unwrap();
        let got = String::from_utf8_lossy(&pair.got()).into_owned();
        assert!(got.contains("*******1002") && !got.contains("900-11") && !got.contains("4111111111111111"), "{got}");
        let (_, summary) = pair.replies.finished.pop().unwrap();
        assert_eq!((summary.rows, summary.cells_masked), (2, 2));
        assert_eq!(summary.masks, ["pii", "cards"]);
        assert!(!String::from_utf8_lossy(&summary.content).contains("900-11"));
    }
}

#[test]
fn what_does_not_fit_ends_the_session_and_nothing_of_it_passes() {
    let masker = masker();
    let rows = |columns: &[Column], cells: &[Option<&str>]| {
        let mut out = Vec::new();
        put_row_description(&mut out, columns, None);
        row(&mut out, cells);
        out
    };
    let mut before = Vec::new();
    row(&mut before, &[Some("900-11-1002")]);
    let mut setting = Vec::new();
    wire::parameter_status(&mut setting, "standard_conforming_strings", "off");
    let mut unknown = Vec::new();
    empty(&mut unknown, b"q");
    let mut unasked = Vec::new();
    empty(&mut unasked, b"1");
    let masked_column = [column("x", SSN)];
    for (sent, fault) in [
        (before, Fault::Unexpected('D')),
        (rows(&masked_column, &[Some("900-11-1002"), Some("900-11-1002")]), Fault::Row),
        (rows(&masked_column, &[]), Fault::Row),
        (setting, Fault::Setting("standard_conforming_strings")),
        (unknown, Fault::Unexpected('q')),
        (unasked, Fault::Unexpected('1')),
        (vec![b'D', 0, 0, 0, 3], Fault::Malformed(Malformed::Length { tag: b'D', length: 3 })),
        (vec![b'T', 0, 0, 0, 6, 0xff, 0xff], Fault::Malformed(Malformed::Body)),
    ] {
        let mut pair = Pair::new(&masker);
        pair.query();
        assert_eq!(pair.sends(&sent, 1000), Err(fault));
        assert!(!String::from_utf8_lossy(&pair.got()).contains("900-11"));
    }
}

#[test]
fn a_result_must_be_the_one_that_was_checked() {
    let masker = masker();
    let checked = Some(Checked::described(Some(Arc::from([column("x", SSN)])), None));
    let mut other = Vec::new();
    put_row_description(&mut other, &[column("x", (0, 0))], None);
    let mut same = Vec::new();
    put_row_description(&mut same, &[column("renamed", SSN)], None);
    for (sent, expected) in [(other, Err(Fault::Disagreement)), (same, Ok(()))] {
        let mut pair = Pair::new(&masker);
        let mut running = pair.running();
        (running.tagged, running.checked) = (true, vec![checked.clone()]);
        pair.replies.query(running);
        assert_eq!(pair.sends(&sent, 1000), expected);
    }
}

#[test]
fn texts_of_tagged_statements_are_withheld() {
    let masker = masker();
    let mut sent = Vec::new();
    Report::new(Severity::Notice, "00000", "about 900-11-1002").write(&mut sent);
    error(&mut sent, "22012", "invalid input 900-11-1002");
    ready(&mut sent);
    let mut pair = Pair::new(&masker);
    let mut running = pair.running();
    running.tagged = true;
    pair.replies.query(running);
    pair.sends(&sent, 1000).unwrap();
    let got = String::from_utf8_lossy(&pair.got()).into_owned();
    assert!(got.contains(COLLAPSED) && got.contains("withheld"), "{got}");
    assert!(!got.contains("900-11") && !got.contains("22012"), "{got}");
    // Whether there was a notice is told no more than what it said.
    assert!(!got.contains("NOTICE"), "{got}");
    assert_eq!(pair.outcomes(), ["ERROR 22012"]);
}

#[test]
fn texts_of_code_that_a_statement_sets_off_are_withheld() {
    let told = |context: &str| {
        let masker = masker();
        let mut pair = Pair::new(&masker);
        pair.query();
        let mut sent = Vec::new();
        message(&mut sent, b'E', |out| {
            for (letter, text) in
                [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "P0001"), (b'M', "its text"), (b'W', context)]
            {
                out.push(letter);
                put_string(out, text.as_bytes());
            }
            out.push(0);
        });
        pair.sends(&sent, 1000).unwrap();
        String::from_utf8_lossy(&pair.got()).into_owned()
    };
    for own in ["COPY t, line 1, column a: \"x\"", "JSON data, line 1: {x", "unnamed portal parameter $1 = 'x'"] {
        assert!(told(own).contains("its text"), "{own}");
    }
    for code in [
        "PL/pgSQL function f() line 1 at RAISE",
        "SQL statement \"UPDATE ONLY customers ...\"",
        "PL/pgSQL function f() line 1 at RAISE\nCOPY t, line 1: \"x\"",
        "Funktion »f«",
    ] {
        let told = told(code);
        assert!(told.contains("P0001") && told.contains("a trigger") && !told.contains("its text"), "{told}");
    }
}

#[test]
fn an_error_takes_the_rest_of_its_batch_with_it() {
    let masker = masker();
    let mut pair = Pair::new(&masker);
    pair.replies.parse(b"a".to_vec(), 1, None);
    let running = pair.running();
    pair.replies.execute(running);
    pair.replies.sync(0);
    pair.replies.parse(b"b".to_vec(), 2, None);
    pair.replies.sync(1);
    let mut sent = Vec::new();
    error(&mut sent, "42601", "no");
    ready(&mut sent);
    empty(&mut sent, b"1");
    ready(&mut sent);
    pair.sends(&sent, 1000).unwrap();
    assert_eq!(pair.got(), sent);
    assert_eq!(pair.outcomes(), ["not run"]);
    assert!(pair.replies.is_idle() && !pair.replies.skipping);

    pair.replies.parse(b"c".to_vec(), 3, None);
    let mut sent = Vec::new();
    error(&mut sent, "42601", "no");
    pair.sends(&sent, 1000).unwrap();
    assert!(pair.replies.is_idle() && pair.replies.skipping, "the Sync is still to come");
    pair.replies.sync(2);
    assert!(!pair.replies.skipping);
}

#[test]
fn a_sync_that_copy_data_swallows_is_not_owed() {
    let masker = masker();
    let mut pair = Pair::new(&masker);
    // As libpq sends it: Execute and Sync, then the data, then another Sync.
    let mut running = pair.running();
    running.copies = true;
    pair.replies.execute(running);
    pair.replies.sync(0);
    let mut begin = Vec::new();
    message(&mut begin, b'G', |out| out.extend_from_slice(&[0, 0, 0]));
    pair.sends(&begin, 1000).unwrap();
    assert!(pair.replies.copying_in);
    pair.replies.copy_ended();
    pair.replies.sync(1);
    let mut end = Vec::new();
    complete(&mut end, "COPY 3");
    ready(&mut end);
    pair.sends(&end, 1).unwrap();
    assert!(pair.replies.is_idle());
    assert_eq!(pair.outcomes(), ["COPY 3"]);
}

#[test]
fn a_row_needs_the_description_of_its_own_statement() {
    let masker = masker();
    let mut pair = Pair::new(&masker);
    pair.query();
    let mut sent = Vec::new();
    put_row_description(&mut sent, &[column("free", (0, 0))], None);
    row(&mut sent, &[Some("first")]);
    complete(&mut sent, "SELECT 1");
    pair.sends(&sent, 1000).unwrap();
    let mut sent = Vec::new();
    row(&mut sent, &[Some("900-11-1002")]);
    assert_eq!(pair.sends(&sent, 1000), Err(Fault::Unexpected('D')));
}

#[test]
fn what_is_passed_on_as_it_is_has_its_types_form() {
    let masker = masker();
    for (tag, body) in [
        (b'C', &b"SELECT 900-11-1002\0"[..]),
        (b'C', b"ada@shop.example\0"),
        (b'C', b"SELECT 1\0900-11-1002"),
        (b'I', b"900-11-1002"),
        (b'Z', b"I900-11-1002"),
        (b'T', b"\0\0900-11-1002"),
    ] {
        let mut pair = Pair::new(&masker);
        pair.query();
        let mut sent = Vec::new();
        message(&mut sent, tag, |out| out.extend_from_slice(body));
        assert_eq!(pair.sends(&sent, 1000), Err(Fault::Malformed(Malformed::Body)), "{}", char::from(tag));
        assert_eq!(pair.got(), b"", "nothing of it passes");
    }
}

#[test]
fn a_setting_that_the_client_did_not_set_is_not_told() {
    let masker = masker();
    for (name, value, is_told) in [
        ("application_name", "900-11-1002", false),
        ("TimeZone", "900-11-1002", false),
        ("TimeZone", "Europe/Vienna", true),
        ("DateStyle", "ISO, MDY", true),
        ("in_hot_standby", "on", true),
        ("in_hot_standby", "900-11-1002", false),
        ("anything", "on", false),
    ] {
        for sets in [false, true] {
            let mut pair = Pair::new(&masker);
            let mut running = pair.running();
            running.sets = if sets { Sets::Own } else { Sets::Anything };
            pair.replies.query(running);
            let mut sent = Vec::new();
            complete(&mut sent, if sets { "SET" } else { "SELECT 1" });
            let mut setting = Vec::new();
            wire::parameter_status(&mut setting, name, value);
            sent.extend_from_slice(&setting);
            ready(&mut sent);
            pair.sends(&sent, 1000).unwrap();
            let got = pair.got();
            let told = got.windows(setting.len()).any(|it| it == setting);
            assert_eq!(told, is_told || sets, "{name} = {value}, {sets}");
        }
    }
}

#[test]
fn noise_never_panics_and_never_shows_a_masked_value() {
    let masker = masker();
    let mut sent = Vec::new();
    put_row_description(&mut sent, &[column("x", SSN)], None);
    row(&mut sent, &[Some("900-11-1002")]);
    complete(&mut sent, "SELECT 1");
    ready(&mut sent);
    let checked = Some(Checked::described(Some(Arc::from([column("x", SSN)])), None));
    for at in 0..sent.len() {
        for bit in 0..8 {
            let mut broken = sent.clone();
            broken[at] ^= 1 << bit;
            let mut pair = Pair::new(&masker);
            let mut running = pair.running();
            (running.tagged, running.checked) = (true, vec![checked.clone()]);
            pair.replies.query(running);
            // Whether it is a fault or not.
            let _ = pair.sends(&broken, 1000);
            assert!(!String::from_utf8_lossy(&pair.got()).contains("900-11-1"), "byte {at}, bit {bit}");
        }
    }
}
