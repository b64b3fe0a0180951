//! What a hostile server says in the place of what it should: each takes the real message and returns what is sent instead.

use system_tests::postgres::{EMAIL, SSN};

/// Tag and length.
const HEADER: usize = 5;

pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a small message");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// A row of these cells.
fn row(cells: &[&[u8]]) -> Vec<u8> {
    let mut body = u16::try_from(cells.len()).expect("few cells").to_be_bytes().to_vec();
    for cell in cells {
        body.extend(u32::try_from(cell.len()).expect("a short cell").to_be_bytes());
        body.extend(*cell);
    }
    message(b'D', &body)
}

/// A row as the statements of the table have it, unmasked.
fn secret_row() -> Vec<u8> {
    row(&[b"1", SSN.as_bytes()])
}

/// An error or a notice with these fields.
fn report(tag: u8, fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (letter, text) in fields {
        body.push(*letter);
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    message(tag, &body)
}

/// A report that has a secret in every field that may have any text.
fn telling(tag: u8, severity: &str, code: &str) -> Vec<u8> {
    let mut fields = vec![(b'S', severity), (b'V', severity), (b'C', code)];
    fields.extend(b"MDHPpqWstcdnFLR".iter().map(|letter| (*letter, SSN)));
    report(tag, &fields)
}

fn with_body(message: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = message[HEADER..].to_vec();
    change(&mut body);
    self::message(message[0], &body)
}

fn with_length(message: &[u8], length: u32) -> Vec<u8> {
    let mut message = message.to_vec();
    message[1..HEADER].copy_from_slice(&length.to_be_bytes());
    message
}

fn before(first: Vec<u8>, message: &[u8]) -> Vec<u8> {
    [first, message.to_vec()].concat()
}

fn after(message: &[u8], last: Vec<u8>) -> Vec<u8> {
    [message.to_vec(), last].concat()
}

pub(crate) fn honest(message: &[u8]) -> Vec<u8> {
    message.to_vec()
}

pub(crate) fn nothing(_: &[u8]) -> Vec<u8> {
    Vec::new()
}

pub(crate) fn twice(message: &[u8]) -> Vec<u8> {
    message.repeat(2)
}

// Framing.

pub(crate) fn length_0(message: &[u8]) -> Vec<u8> {
    with_length(message, 0)
}

pub(crate) fn length_3(message: &[u8]) -> Vec<u8> {
    with_length(message, 3)
}

pub(crate) fn length_1_gib(message: &[u8]) -> Vec<u8> {
    with_length(message, 1 << 30)
}

pub(crate) fn length_negative(message: &[u8]) -> Vec<u8> {
    with_length(message, u32::MAX)
}

pub(crate) fn length_64_mib(message: &[u8]) -> Vec<u8> {
    with_length(message, 64 << 20)
}

pub(crate) fn length_beyond(message: &[u8]) -> Vec<u8> {
    with_length(message, u32::try_from(message.len()).expect("a small message") + 100)
}

pub(crate) fn half(message: &[u8]) -> Vec<u8> {
    message[..message.len() / 2].to_vec()
}

pub(crate) fn unknown_type(message: &[u8]) -> Vec<u8> {
    before(self::message(b'y', SSN.as_bytes()), message)
}

// Rows.

pub(crate) fn body_cut(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| body.truncate(body.len() / 2))
}

pub(crate) fn body_empty(message: &[u8]) -> Vec<u8> {
    self::message(message[0], b"")
}

pub(crate) fn body_longer(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| body.extend(SSN.as_bytes()))
}

pub(crate) fn one_cell_more(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| {
        body[1] += 1;
        body.extend(11u32.to_be_bytes());
        body.extend(SSN.as_bytes());
    })
}

pub(crate) fn one_cell_less(_: &[u8]) -> Vec<u8> {
    row(&[SSN.as_bytes()])
}

pub(crate) fn no_cells(_: &[u8]) -> Vec<u8> {
    row(&[])
}

pub(crate) fn cell_beyond(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| body[2..6].copy_from_slice(&1_000_000u32.to_be_bytes()))
}

pub(crate) fn cell_negative(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| body[2..6].copy_from_slice(&(-2i32).to_be_bytes()))
}

pub(crate) fn row_first(message: &[u8]) -> Vec<u8> {
    before(secret_row(), message)
}

pub(crate) fn row_after(message: &[u8]) -> Vec<u8> {
    after(message, secret_row())
}

// Descriptions.

/// A column of a RowDescription: its name, and the rest.
type Column = (Vec<u8>, [u8; 18]);

fn columns(message: &[u8]) -> Vec<Column> {
    let (mut columns, mut rest) = (Vec::new(), &message[HEADER + 2..]);
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).expect("a name's end");
        let (name, behind) = rest.split_at(end);
        let (fixed, behind) = behind[1..].split_first_chunk().expect("a column");
        columns.push((name.to_vec(), *fixed));
        rest = behind;
    }
    columns
}

fn described(columns: &[Column]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).expect("few columns").to_be_bytes().to_vec();
    for (name, fixed) in columns {
        body.extend(name);
        body.push(0);
        body.extend(fixed);
    }
    message(b'T', &body)
}

/// The same with the last column changed: of `public.customers.ssn` in the statements of the table.
fn last_column(message: &[u8], change: impl FnOnce(&mut [u8; 18])) -> Vec<u8> {
    let mut columns = columns(message);
    change(&mut columns.last_mut().expect("a column").1);
    described(&columns)
}

pub(crate) fn columns_swapped(message: &[u8]) -> Vec<u8> {
    let mut columns = columns(message);
    columns.reverse();
    described(&columns)
}

pub(crate) fn column_less(message: &[u8]) -> Vec<u8> {
    let mut columns = columns(message);
    columns.pop();
    described(&columns)
}

pub(crate) fn column_more(message: &[u8]) -> Vec<u8> {
    let mut columns = columns(message);
    columns.extend(columns.last().cloned());
    described(&columns)
}

pub(crate) fn of_no_table(message: &[u8]) -> Vec<u8> {
    last_column(message, |fixed| fixed[..6].fill(0))
}

/// `name` is the second column of `customers`.
pub(crate) fn of_another_column(message: &[u8]) -> Vec<u8> {
    last_column(message, |fixed| fixed[4..6].copy_from_slice(&2i16.to_be_bytes()))
}

pub(crate) fn of_an_unknown_type(message: &[u8]) -> Vec<u8> {
    last_column(message, |fixed| fixed[6..10].copy_from_slice(&4_000_000_000u32.to_be_bytes()))
}

pub(crate) fn in_an_unknown_format(message: &[u8]) -> Vec<u8> {
    last_column(message, |fixed| fixed[16..18].copy_from_slice(&7i16.to_be_bytes()))
}

pub(crate) fn in_binary(message: &[u8]) -> Vec<u8> {
    last_column(message, |fixed| fixed[16..18].copy_from_slice(&1i16.to_be_bytes()))
}

pub(crate) fn count_absurd(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| body[..2].fill(0xff))
}

pub(crate) fn count_0(_: &[u8]) -> Vec<u8> {
    described(&[])
}

// Out of turn.

pub(crate) fn and_ready_again(message: &[u8]) -> Vec<u8> {
    after(message, self::message(b'Z', b"I"))
}

pub(crate) fn ready_in_no_state(_: &[u8]) -> Vec<u8> {
    message(b'Z', b"X")
}

pub(crate) fn ready_and_more(message: &[u8]) -> Vec<u8> {
    with_body(message, |body| body.extend(SSN.as_bytes()))
}

pub(crate) fn and_completed(message: &[u8]) -> Vec<u8> {
    after(message, self::message(b'C', b"SELECT 1\0"))
}

pub(crate) fn completed_by_secret(_: &[u8]) -> Vec<u8> {
    message(b'C', &[b"SELECT ", SSN.as_bytes(), b"\0"].concat())
}

pub(crate) fn parsed_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'1', b""), message)
}

pub(crate) fn bound_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'2', b""), message)
}

pub(crate) fn closed_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'3', b""), message)
}

pub(crate) fn no_data_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'n', b""), message)
}

pub(crate) fn parameters_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b't', &[0, 0]), message)
}

pub(crate) fn suspended_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b's', b""), message)
}

pub(crate) fn key_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'K', &[0; 8]), message)
}

pub(crate) fn version_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]), message)
}

fn version(minor: u8, options: u8) -> Vec<u8> {
    message(b'v', &[0, 3, 0, minor, 0, 0, 0, options])
}

pub(crate) fn version_3_1(_: &[u8]) -> Vec<u8> {
    version(1, 0)
}

pub(crate) fn version_3_2(_: &[u8]) -> Vec<u8> {
    version(2, 0)
}

pub(crate) fn version_3_3(_: &[u8]) -> Vec<u8> {
    version(3, 0)
}

pub(crate) fn version_2_0(_: &[u8]) -> Vec<u8> {
    message(b'v', &[0, 2, 0, 0, 0, 0, 0, 0])
}

pub(crate) fn version_with_option(_: &[u8]) -> Vec<u8> {
    version(0, 1)
}

pub(crate) fn version_and_let_in(version: &[u8]) -> Vec<u8> {
    after(version, let_in())
}

pub(crate) fn no_such_version(_: &[u8]) -> Vec<u8> {
    report(b'E', &[(b'S', "FATAL"), (b'C', "08P01"), (b'M', "bad packet header")])
}

pub(crate) fn starting_up(_: &[u8]) -> Vec<u8> {
    report(b'E', &[(b'S', "FATAL"), (b'C', "57P03"), (b'M', "the database system is starting up")])
}

pub(crate) fn long_key(_: &[u8]) -> Vec<u8> {
    message(b'K', &[7; 36])
}

pub(crate) fn function_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'V', &[&11u32.to_be_bytes(), SSN.as_bytes()].concat()), message)
}

/// A COPY that nobody asked for.
pub(crate) fn copied_out(_: &[u8]) -> Vec<u8> {
    let data = message(b'd', &[SSN.as_bytes(), b"\n"].concat());
    [message(b'H', &[0, 0, 1, 0, 0]), data, message(b'c', b"")].concat()
}

pub(crate) fn copy_data_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'd', &[SSN.as_bytes(), b"\n"].concat()), message)
}

pub(crate) fn copy_done_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'c', b""), message)
}

pub(crate) fn copied_in(_: &[u8]) -> Vec<u8> {
    message(b'G', &[0, 0, 1, 0, 0])
}

pub(crate) fn copied_both(_: &[u8]) -> Vec<u8> {
    message(b'W', &[0, 0, 1, 0, 0])
}

// Texts.

pub(crate) fn telling_error(_: &[u8]) -> Vec<u8> {
    telling(b'E', "ERROR", "22012")
}

pub(crate) fn telling_error_by_code(_: &[u8]) -> Vec<u8> {
    telling(b'E', SSN, SSN)
}

pub(crate) fn telling_fatal_error(_: &[u8]) -> Vec<u8> {
    telling(b'E', "FATAL", "57P01")
}

pub(crate) fn telling_notice_first(message: &[u8]) -> Vec<u8> {
    before(telling(b'N', "NOTICE", "00000"), message)
}

pub(crate) fn report_without_end(_: &[u8]) -> Vec<u8> {
    message(b'E', &[b"MERROR: ", SSN.as_bytes()].concat())
}

fn setting(name: &str, value: &str) -> Vec<u8> {
    message(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat())
}

pub(crate) fn telling_setting_first(message: &[u8]) -> Vec<u8> {
    before(setting("application_name", SSN), message)
}

pub(crate) fn telling_unknown_setting_first(message: &[u8]) -> Vec<u8> {
    before(setting(SSN, EMAIL), message)
}

pub(crate) fn telling_zone_first(message: &[u8]) -> Vec<u8> {
    before(setting("TimeZone", SSN), message)
}

pub(crate) fn encoding_first(message: &[u8]) -> Vec<u8> {
    before(setting("client_encoding", "LATIN1"), message)
}

pub(crate) fn strings_first(message: &[u8]) -> Vec<u8> {
    before(setting("standard_conforming_strings", "off"), message)
}

pub(crate) fn half_a_setting_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'S', SSN.as_bytes()), message)
}

pub(crate) fn telling_notification_first(message: &[u8]) -> Vec<u8> {
    before(self::message(b'A', &[&[0, 0, 0, 1], &b"news\0"[..], SSN.as_bytes(), b"\0"].concat()), message)
}

// What the server prints of a statement.

fn fields(report: &[u8]) -> Vec<(u8, String)> {
    let fields = report[HEADER..].split(|byte| *byte == 0).filter(|field| !field.is_empty());
    fields.map(|field| (field[0], String::from_utf8_lossy(&field[1..]).into_owned())).collect()
}

/// The same notice with a field changed.
fn printed(notice: &[u8], letter: u8, change: impl Fn(&str) -> String) -> Vec<u8> {
    let mut fields = fields(notice);
    for (_, text) in fields.iter_mut().filter(|(it, _)| *it == letter) {
        *text = change(text);
    }
    let fields: Vec<(u8, &str)> = fields.iter().map(|(letter, text)| (*letter, &**text)).collect();
    report(b'N', &fields)
}

/// A tree in the right form that nothing stands behind.
fn forged() -> Vec<u8> {
    let printed_by = [(b'F', "print.c"), (b'R', "elog_node_display")];
    let text = [(b'S', "LOG"), (b'V', "LOG"), (b'C', "00000"), (b'M', "rewritten parse tree:"), (b'D', SSN)];
    report(b'N', &[&text[..], &printed_by].concat())
}

pub(crate) fn tree_garbage(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'D', |_| "({QUERY :commandType 1 } ) ( {".to_owned())
}

pub(crate) fn tree_cut(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'D', |tree| tree[..tree.len() / 2].to_owned())
}

pub(crate) fn tree_deep(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'D', |_| format!("({{QUERY :targetList {}", "({TARGETENTRY :expr ".repeat(500_000)))
}

pub(crate) fn tree_long(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'D', |tree| format!("{tree}{}", " ".repeat(15 << 20)))
}

/// It says that the values come from `name`.
pub(crate) fn tree_of_another_column(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'D', |tree| {
        let forged = tree
            .replace(":varattno 4", ":varattno 2")
            .replace(":varattnosyn 4", ":varattnosyn 2")
            .replace(":resorigcol 4", ":resorigcol 2");
        assert_ne!(forged, tree);
        forged
    })
}

/// It says that the values are written in the statement.
pub(crate) fn tree_without_the_table(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'D', |tree| {
        let forged = tree.replace(":relid ", ":relid 9");
        assert_ne!(forged, tree);
        forged
    })
}

pub(crate) fn tree_not_utf8(notice: &[u8]) -> Vec<u8> {
    let mut notice = notice.to_vec();
    let at = notice.windows(9).position(|it| it == b"DETAIL: \0").unwrap_or(notice.len() / 2);
    notice[at] = 0xff;
    notice
}

pub(crate) fn tree_by_others(notice: &[u8]) -> Vec<u8> {
    printed(notice, b'F', |_| "pl_exec.c".to_owned())
}

pub(crate) fn forged_tree_first(message: &[u8]) -> Vec<u8> {
    before(forged(), message)
}

pub(crate) fn forged_tree(_: &[u8]) -> Vec<u8> {
    forged()
}

// Encryption and authentication.

/// A request for authentication.
fn request(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat())
}

fn let_in() -> Vec<u8> {
    let conforming = setting("standard_conforming_strings", "on");
    [request(0, b""), conforming, message(b'K', &[0; 8]), message(b'Z', b"I")].concat()
}

pub(crate) fn no_encryption(_: &[u8]) -> Vec<u8> {
    b"N".to_vec()
}

pub(crate) fn error_before_encryption(_: &[u8]) -> Vec<u8> {
    telling(b'E', "FATAL", "08004")
}

pub(crate) fn unknown_answer(_: &[u8]) -> Vec<u8> {
    b"X".to_vec()
}

pub(crate) fn encryption_and_plaintext(yes: &[u8]) -> Vec<u8> {
    after(yes, let_in())
}

pub(crate) fn clear_text(_: &[u8]) -> Vec<u8> {
    request(3, b"")
}

pub(crate) fn md5(_: &[u8]) -> Vec<u8> {
    request(5, b"salt")
}

pub(crate) fn kerberos(_: &[u8]) -> Vec<u8> {
    request(2, b"")
}

pub(crate) fn gss(_: &[u8]) -> Vec<u8> {
    request(7, b"")
}

pub(crate) fn gss_goes_on(_: &[u8]) -> Vec<u8> {
    request(8, b"token")
}

pub(crate) fn sspi(_: &[u8]) -> Vec<u8> {
    request(9, b"")
}

pub(crate) fn unknown_request(_: &[u8]) -> Vec<u8> {
    request(4711, b"")
}

pub(crate) fn request_without_code(_: &[u8]) -> Vec<u8> {
    message(b'R', b"")
}

pub(crate) fn let_in_without_proof(_: &[u8]) -> Vec<u8> {
    let_in()
}

pub(crate) fn other_mechanism(_: &[u8]) -> Vec<u8> {
    request(10, b"OAUTHBEARER\0\0")
}

pub(crate) fn mechanisms_without_end(_: &[u8]) -> Vec<u8> {
    request(10, b"SCRAM-SHA-256")
}

pub(crate) fn bound_mechanism_offered(_: &[u8]) -> Vec<u8> {
    request(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
}

pub(crate) fn challenge_at_once(_: &[u8]) -> Vec<u8> {
    request(11, b"r=abc,s=c2FsdA==,i=4096")
}

pub(crate) fn proof_at_once(_: &[u8]) -> Vec<u8> {
    request(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
}

pub(crate) fn foreign_nonce(_: &[u8]) -> Vec<u8> {
    challenge_at_once(b"")
}

/// The same challenge with its rounds changed.
fn rounds(challenge: &[u8], count: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&challenge[HEADER + 4..]).into_owned();
    let (rest, _) = text.rsplit_once(",i=").expect("a challenge");
    request(11, format!("{rest},i={count}").as_bytes())
}

pub(crate) fn rounds_0(challenge: &[u8]) -> Vec<u8> {
    rounds(challenge, "0")
}

pub(crate) fn rounds_1(challenge: &[u8]) -> Vec<u8> {
    rounds(challenge, "1")
}

pub(crate) fn rounds_without_end(challenge: &[u8]) -> Vec<u8> {
    rounds(challenge, "4294967295")
}

pub(crate) fn rounds_no_number(challenge: &[u8]) -> Vec<u8> {
    rounds(challenge, "many")
}

pub(crate) fn challenge_cut(challenge: &[u8]) -> Vec<u8> {
    with_body(challenge, |body| body.truncate(body.len() / 2))
}

pub(crate) fn wrong_signature(_: &[u8]) -> Vec<u8> {
    proof_at_once(b"")
}

pub(crate) fn scram_error(_: &[u8]) -> Vec<u8> {
    request(12, b"e=invalid-proof")
}

pub(crate) fn large_setting_first(message: &[u8]) -> Vec<u8> {
    before(setting("application_name", &"x".repeat(1 << 20)), message)
}

pub(crate) fn settings_without_end(message: &[u8]) -> Vec<u8> {
    before((0..1000).flat_map(|number| setting(&format!("setting_{number}"), "x")).collect(), message)
}

pub(crate) fn large_key(_: &[u8]) -> Vec<u8> {
    message(b'K', &[7; 5000])
}

pub(crate) fn ready_in_a_transaction(_: &[u8]) -> Vec<u8> {
    message(b'Z', b"T")
}

// The catalog.

pub(crate) fn cells_null(row: &[u8]) -> Vec<u8> {
    let count = usize::from(row[HEADER + 1]);
    let cells = (-1i32).to_be_bytes().repeat(count);
    message(b'D', &[&row[HEADER..HEADER + 2], &cells].concat())
}
