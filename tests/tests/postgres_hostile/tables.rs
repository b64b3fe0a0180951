//! What a hostile server does, one deed a row, and what must come of it.

use super::deeds;
use super::server::{Stage, Tamper, Then, Whose};

/// By which of PostgreSQL's protocols a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Simple,
    Extended,
    /// The simple one, in a session of protocol 3.2.
    Newer,
}

impl How {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Newer => "newer",
        }
    }
}

/// What must come of a deed. The words are the gateway's, to the client and in the record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Must {
    /// The session ends.
    End(&'static str),
    /// The server ends the session, and of what it says of that nothing passes.
    EndWithheld,
    /// There is no session, and the password was not proven to know.
    TurnAway(&'static str),
    /// There is no session; the proof was given, which tells nobody the password.
    TurnAwayProven(&'static str),
    /// The statement is refused before it runs, and the session goes on.
    Refuse(&'static str),
    /// The statement, and all others, are refused until the catalog is read.
    Deny(&'static str),
    /// The statement fails, of what the server says of that nothing passes, and the session goes on.
    Withhold(&'static str),
    /// The deed has no effect: the row comes, masked.
    Mask,
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) how: &'static [How],
    pub(crate) sql: &'static str,
    pub(crate) tamper: Tamper,
    pub(crate) must: Must,
}

/// A row with a masked column behind another one.
pub(crate) const SSN_OF_ONE: &str = "SELECT id, ssn FROM customers WHERE id = 1";
/// A statement of a table without a masked column.
const FREE: &str = "SELECT id, item FROM orders WHERE id = 3";
/// The second one shows a masked column.
const BATCH: &str = "SELECT id, item FROM orders WHERE id = 3; SELECT id, ssn FROM customers WHERE id = 1";
/// It names what is not in the catalog, which is therefore read again.
const UNKNOWN: &str = "SELECT * FROM nowhere";

const BOTH: &[How] = &[How::Simple, How::Extended];

impl Case {
    /// At the first message of this type while the statement runs.
    const fn new(name: &'static str, tag: u8, deed: fn(&[u8]) -> Vec<u8>, must: Must) -> Self {
        let tamper = Tamper { whose: Whose::Session, stage: Stage::Run, tag, nth: 1, deed, then: Then::GoOn };
        Self { name, how: BOTH, sql: SSN_OF_ONE, tamper, must }
    }

    /// At the server's request for authentication of this number.
    const fn login(name: &'static str, code: u32, deed: fn(&[u8]) -> Vec<u8>, must: Must) -> Self {
        Self::new(name, b'R', deed, must).simple().at(Stage::Login(code))
    }

    /// While the catalog is read.
    const fn catalog(name: &'static str, tag: u8, deed: fn(&[u8]) -> Vec<u8>, must: Must) -> Self {
        let mut case = Self::new(name, tag, deed, must).simple().asking(UNKNOWN);
        case.tamper.whose = Whose::Catalog;
        case
    }

    const fn simple(mut self) -> Self {
        self.how = &[How::Simple];
        self
    }

    const fn extended(mut self) -> Self {
        self.how = &[How::Extended];
        self
    }

    /// At the server's word that it speaks no 3.2.
    const fn version(name: &'static str, deed: fn(&[u8]) -> Vec<u8>, must: Must) -> Self {
        let mut case = Self::new(name, b'v', deed, must).at(Stage::Login(u32::MAX));
        case.how = &[How::Newer];
        case
    }

    const fn asking(mut self, sql: &'static str) -> Self {
        self.sql = sql;
        self
    }

    const fn at(mut self, stage: Stage) -> Self {
        self.tamper.stage = stage;
        self
    }

    const fn nth(mut self, nth: usize) -> Self {
        self.tamper.nth = nth;
        self
    }

    const fn then(mut self, then: Then) -> Self {
        self.tamper.then = then;
        self
    }
}

const LENGTH: Must = Must::End("the impossible length");
const CLOSED: Must = Must::End("the target closed the connection");
const FORM: Must = Must::End("the body of a message does not have its type's form");
const COLUMNS: Must = Must::End("a row that does not have the columns that it described");
const OTHER: Must = Must::End("are not those that were checked before");
const SETTING: Must = Must::End("under which statements mean something else");
const TEXT_WITHHELD: Must = Must::Withhold("the target's message is withheld");
const NO_TREE: Must = Must::Refuse("did not print one tree");
const OTHER_PLAN: Must = Must::Refuse("describes another result than the one that it plans");

/// Where the message of a type cannot be.
macro_rules! none {
    ($tag:literal) => {
        Must::End(concat!("a message of type '", $tag, "' where none can be"))
    };
}

/// With nothing changed: what the others' clients would see.
pub(crate) const HONEST: [Case; 5] = [
    Case::new("nothing", b'D', deeds::honest, Must::Mask),
    Case::new("nothing at the description", b'T', deeds::honest, Must::Mask).simple(),
    Case::new("nothing at the tree", b'N', deeds::honest, Must::Mask).at(Stage::Probe),
    Case::new("nothing in a batch", b'D', deeds::honest, Must::Mask).asking(BATCH).nth(2).simple(),
    Case::version("nothing at the version", deeds::honest, Must::Mask),
];

pub(crate) const RUN: &[Case] = &[
    // Framing.
    Case::new("a length of 0", b'D', deeds::length_0, LENGTH),
    Case::new("a length of 3", b'D', deeds::length_3, LENGTH),
    Case::new("a length of 1 GiB", b'D', deeds::length_1_gib, LENGTH),
    Case::new("a negative length", b'D', deeds::length_negative, LENGTH),
    Case::new("a row too large to be checked, and the end", b'D', deeds::length_64_mib, CLOSED).then(Then::Close),
    Case::new("a length beyond the end", b'D', deeds::length_beyond, CLOSED).then(Then::Close),
    Case::new("half a row, and the end", b'D', deeds::half, CLOSED).then(Then::Close),
    Case::new("the end instead of a row", b'D', deeds::nothing, CLOSED).then(Then::Close),
    Case::new("the end while it is probed", b'T', deeds::nothing, CLOSED).at(Stage::Probe).then(Then::Close),
    Case::new("an unknown type", b'D', deeds::unknown_type, none!('y')),
    Case::new("an unknown type to the probe", b'T', deeds::unknown_type, none!('y')).at(Stage::Probe),
    Case::new("a length of 0 to the probe", b'T', deeds::length_0, LENGTH).at(Stage::Probe),
    // Rows.
    Case::new("a row cut", b'D', deeds::body_cut, FORM),
    Case::new("a row without a count", b'D', deeds::body_empty, FORM),
    Case::new("a row with more behind it", b'D', deeds::body_longer, FORM),
    Case::new("a cell more", b'D', deeds::one_cell_more, COLUMNS),
    Case::new("a cell less", b'D', deeds::one_cell_less, COLUMNS),
    Case::new("no cells", b'D', deeds::no_cells, COLUMNS),
    Case::new("a cell beyond the message", b'D', deeds::cell_beyond, FORM),
    Case::new("a cell of length -2", b'D', deeds::cell_negative, FORM),
    Case::new("a row before its description", b'T', deeds::row_first, none!('D')).simple(),
    Case::new("a row before it is bound", b'2', deeds::row_first, none!('D')).extended().at(Stage::Bound),
    Case::new("a row before it is described", b'T', deeds::row_first, none!('D')).extended().at(Stage::Bound),
    Case::new("a row behind the end", b'C', deeds::row_after, none!('D')),
    Case::new("a row behind the readiness", b'Z', deeds::row_after, none!('D')),
    // The same where no column is masked.
    Case::new("a free row cut", b'D', deeds::body_cut, FORM).asking(FREE),
    Case::new("a free row with more behind it", b'D', deeds::body_longer, FORM).asking(FREE),
    Case::new("a free row with a cell more", b'D', deeds::one_cell_more, COLUMNS).asking(FREE),
    Case::new("a free row with a cell less", b'D', deeds::one_cell_less, COLUMNS).asking(FREE),
    Case::new("a free row's cell beyond the message", b'D', deeds::cell_beyond, FORM).asking(FREE),
    Case::new("a free row's cell of length -2", b'D', deeds::cell_negative, FORM).asking(FREE),
    Case::new("a row behind a free statement's end", b'C', deeds::row_after, none!('D')).asking(FREE),
    Case::new("a row of a batch without its description", b'T', deeds::nothing, none!('D'))
        .asking(BATCH)
        .nth(2)
        .simple(),
    // Descriptions that are not what was found before.
    Case::new("columns swapped", b'T', deeds::columns_swapped, OTHER).simple(),
    Case::new("a column described less", b'T', deeds::column_less, OTHER).simple(),
    Case::new("a column described more", b'T', deeds::column_more, OTHER).simple(),
    Case::new("a masked column of no table", b'T', deeds::of_no_table, OTHER).simple(),
    Case::new("a masked column as another one", b'T', deeds::of_another_column, OTHER).simple(),
    Case::new("a masked column of an unknown type", b'T', deeds::of_an_unknown_type, OTHER).simple(),
    Case::new("a masked column of an unknown format", b'T', deeds::in_an_unknown_format, FORM).simple(),
    Case::new("a masked column in binary", b'T', deeds::in_binary, Must::Mask).simple(),
    Case::new("65,535 columns", b'T', deeds::count_absurd, FORM).simple(),
    Case::new("no columns", b'T', deeds::count_0, OTHER).simple(),
    Case::new("a description of nothing", b'T', deeds::body_empty, FORM).simple(),
    Case::new("a description cut", b'T', deeds::body_cut, FORM).simple(),
    Case::new("a batch's column of no table", b'T', deeds::of_no_table, OTHER).asking(BATCH).nth(2).simple(),
    Case::new("columns swapped when bound", b'T', deeds::columns_swapped, OTHER).extended().at(Stage::Bound),
    Case::new("a column as another one when bound", b'T', deeds::of_another_column, OTHER).extended().at(Stage::Bound),
    Case::new("65,535 columns when bound", b'T', deeds::count_absurd, FORM).extended().at(Stage::Bound),
    Case::new("columns swapped when probed", b'T', deeds::columns_swapped, OTHER_PLAN).at(Stage::Probe),
    Case::new("a column of no table when probed", b'T', deeds::of_no_table, OTHER_PLAN).at(Stage::Probe),
    Case::new("a column as another one when probed", b'T', deeds::of_another_column, OTHER_PLAN).at(Stage::Probe),
    Case::new("a description cut when probed", b'T', deeds::body_cut, FORM).at(Stage::Probe),
    // Out of turn.
    Case::new("ready twice", b'Z', deeds::and_ready_again, none!('Z')),
    Case::new("ready in no state", b'Z', deeds::ready_in_no_state, FORM),
    Case::new("ready and more", b'Z', deeds::ready_and_more, FORM),
    Case::new("completed without a statement", b'Z', deeds::and_completed, none!('C')),
    Case::new("parsed and more", b'1', deeds::body_longer, FORM).extended().at(Stage::Bound),
    Case::new("bound and more", b'2', deeds::body_longer, FORM).extended().at(Stage::Bound),
    Case::new("completed and more", b'C', deeds::body_longer, FORM),
    Case::new("completed twice, prepared", b'C', deeds::twice, none!('C')).extended(),
    Case::new("parsed without a Parse", b'D', deeds::parsed_first, none!('1')),
    Case::new("bound without a Bind", b'D', deeds::bound_first, none!('2')),
    Case::new("closed without a Close", b'D', deeds::closed_first, none!('3')),
    Case::new("no data where there is", b'D', deeds::no_data_first, none!('n')),
    Case::new("parameters that nobody asked for", b'D', deeds::parameters_first, none!('t')),
    Case::new("suspended without a portal", b'D', deeds::suspended_first, none!('s')).simple(),
    Case::new("bound before it is parsed", b'1', deeds::bound_first, none!('2')).extended().at(Stage::Bound),
    Case::new("a key in the middle", b'D', deeds::key_first, none!('K')),
    Case::new("a version in the middle", b'D', deeds::version_first, none!('v')),
    Case::new("a function's result", b'D', deeds::function_first, none!('V')),
    Case::new("the password asked for in the middle", b'D', deeds::clear_text, none!('R')),
    Case::new("COPY out that nobody asked for", b'D', deeds::copied_out, none!('H')),
    Case::new("the same of a free statement", b'T', deeds::copied_out, none!('H')).asking(FREE).simple(),
    Case::new("COPY data in the middle", b'D', deeds::copy_data_first, none!('d')),
    Case::new("the same of a free statement", b'D', deeds::copy_data_first, none!('d')).asking(FREE),
    Case::new("the end of COPY in the middle", b'D', deeds::copy_done_first, none!('c')).asking(FREE),
    Case::new("COPY in that nobody asked for", b'D', deeds::copied_in, none!('G')),
    Case::new("the same of a free statement", b'T', deeds::copied_in, none!('G')).asking(FREE).simple(),
    Case::new("COPY both", b'D', deeds::copied_both, none!('W')),
    // Texts.
    Case::new("an error that tells", b'D', deeds::telling_error, TEXT_WITHHELD).simple(),
    Case::new("an error that tells by its code", b'D', deeds::telling_error_by_code, TEXT_WITHHELD).simple(),
    Case::new("an error that tells, and the end", b'D', deeds::telling_error, none!('C')).extended(),
    Case::new("the same by its code", b'D', deeds::telling_error_by_code, none!('C')).extended(),
    Case::new("a fatal error that tells", b'D', deeds::telling_fatal_error, Must::EndWithheld).then(Then::Close),
    Case::new("a fatal error, and more", b'D', deeds::telling_fatal_error, none!('C')),
    Case::new("an error without an end", b'D', deeds::report_without_end, FORM),
    Case::new("a notice that tells", b'D', deeds::telling_notice_first, Must::Mask),
    Case::new("a setting that tells", b'D', deeds::telling_setting_first, Must::Mask),
    Case::new("an unknown setting that tells", b'D', deeds::telling_unknown_setting_first, Must::Mask),
    Case::new("a time zone that tells", b'D', deeds::telling_zone_first, Must::Mask),
    Case::new("a notification that tells", b'D', deeds::telling_notification_first, Must::Mask),
    Case::new("a command's tag that tells", b'C', deeds::completed_by_secret, FORM),
    Case::new("half a setting", b'D', deeds::half_a_setting_first, FORM),
    Case::new("another encoding", b'D', deeds::encoding_first, SETTING),
    Case::new("another meaning of strings", b'D', deeds::strings_first, SETTING),
    Case::new("the same to the probe", b'T', deeds::strings_first, SETTING).at(Stage::Probe),
    // What the server prints of a statement.
    Case::new("no tree", b'N', deeds::nothing, NO_TREE).at(Stage::Probe),
    Case::new("two trees", b'N', deeds::twice, NO_TREE).at(Stage::Probe),
    Case::new("a forged tree before it", b'N', deeds::forged_tree_first, NO_TREE).at(Stage::Probe),
    Case::new("a forged tree instead", b'N', deeds::forged_tree, Must::Refuse("")).at(Stage::Probe),
    Case::new("a tree of garbage", b'N', deeds::tree_garbage, Must::Refuse("")).at(Stage::Probe),
    Case::new("a tree cut", b'N', deeds::tree_cut, Must::Refuse("")).at(Stage::Probe),
    Case::new("a deep tree", b'N', deeds::tree_deep, Must::Refuse("")).at(Stage::Probe),
    Case::new("a long tree", b'N', deeds::tree_long, Must::Refuse("")).at(Stage::Probe),
    Case::new("a tree that is no text", b'N', deeds::tree_not_utf8, Must::Refuse("")).at(Stage::Probe),
    Case::new("a tree of another column", b'N', deeds::tree_of_another_column, OTHER_PLAN).at(Stage::Probe),
    Case::new("a tree of another table", b'N', deeds::tree_without_the_table, Must::Refuse("")).at(Stage::Probe),
    Case::new("a tree that others print", b'N', deeds::tree_by_others, NO_TREE).at(Stage::Probe),
    Case::new("a forged tree too early", b'1', deeds::forged_tree_first, Must::Mask).at(Stage::Probe),
    Case::new("a forged tree too late", b'D', deeds::forged_tree_first, Must::Mask),
];

const GIVEN_AWAY: Must = Must::TurnAway("which would give it away");
const NO_SCRAM: Must = Must::TurnAway("offers no SCRAM-SHA-256");
const OUT_OF_TURN: Must = Must::TurnAway("a message of type 'R' during the login");
const NO_PROOF: Must = Must::TurnAway("let the gateway in without a password");
const SCRAM: Must = Must::TurnAway("could not prove that it knows the password");
const SCRAM_PROVEN: Must = Must::TurnAwayProven("could not prove that it knows the password");
const BAD_FORM: Must = Must::TurnAway("does not speak PostgreSQL's protocol");

/// A code that stands for the first message that is no request for authentication.
const GREETING: Stage = Stage::Greeting;

pub(crate) const LOGIN: &[Case] = &[
    Case::new("no encryption", b'S', deeds::no_encryption, Must::TurnAway("offers no TLS"))
        .simple()
        .at(Stage::Encryption)
        .then(Then::Silence),
    Case::new("an error in the clear", b'S', deeds::error_before_encryption, Must::TurnAway("offers no TLS"))
        .simple()
        .at(Stage::Encryption)
        .then(Then::Silence),
    Case::new("an unknown answer", b'S', deeds::unknown_answer, Must::TurnAway("a message of type 'X'"))
        .simple()
        .at(Stage::Encryption)
        .then(Then::Silence),
    Case::new(
        "a login in the clear",
        b'S',
        deeds::encryption_and_plaintext,
        Must::TurnAway("TLS with the target failed"),
    )
    .simple()
    .at(Stage::Encryption)
    .then(Then::Silence),
    Case::new("the end instead of TLS", b'S', deeds::nothing, Must::TurnAway("the connection to the target broke"))
        .simple()
        .at(Stage::Encryption)
        .then(Then::Close),
    Case::version("the version that was asked for", deeds::version_3_2, Must::TurnAway("the protocol version 3.2")),
    Case::version("a newer version", deeds::version_3_3, Must::TurnAway("the protocol version 3.3")),
    Case::version("a version that never was", deeds::version_3_1, Must::TurnAway("the protocol version 3.1")),
    Case::version("another protocol", deeds::version_2_0, Must::TurnAway("the protocol version 2.0")),
    Case::version("an option that nobody asked for", deeds::version_with_option, BAD_FORM),
    Case::version("half a version", deeds::body_cut, BAD_FORM),
    Case::version("two versions", deeds::twice, Must::TurnAway("a message of type 'v' during the login")),
    Case::version("a version, and let in", deeds::version_and_let_in, NO_PROOF),
    // It is asked once more then, for 3.0.
    Case::version("no such version, and the end", deeds::no_such_version, Must::Mask).then(Then::Close),
    Case::version("the end instead of a version", deeds::nothing, Must::Mask).then(Then::Close),
    Case::version("an error of another kind", deeds::starting_up, Must::TurnAway("the database system is starting up"))
        .then(Then::Close),
    Case::login("the password in clear text", 10, deeds::clear_text, GIVEN_AWAY),
    Case::login("the password by MD5", 10, deeds::md5, GIVEN_AWAY),
    Case::login("Kerberos", 10, deeds::kerberos, NO_SCRAM),
    Case::login("GSS", 10, deeds::gss, NO_SCRAM),
    Case::login("GSS that goes on", 10, deeds::gss_goes_on, NO_SCRAM),
    Case::login("SSPI", 10, deeds::sspi, NO_SCRAM),
    Case::login("an unknown request", 10, deeds::unknown_request, OUT_OF_TURN),
    Case::login("a request for nothing", 10, deeds::request_without_code, BAD_FORM),
    Case::login("no SCRAM", 10, deeds::other_mechanism, NO_SCRAM),
    Case::login("mechanisms without an end", 10, deeds::mechanisms_without_end, BAD_FORM),
    Case::login("offered twice", 10, deeds::twice, OUT_OF_TURN),
    Case::login("let in without proof", 10, deeds::let_in_without_proof, NO_PROOF),
    Case::login("a challenge without an offer", 10, deeds::challenge_at_once, OUT_OF_TURN),
    Case::login("a proof without an offer", 10, deeds::proof_at_once, OUT_OF_TURN),
    Case::login(
        "a key before the login",
        10,
        deeds::key_first,
        Must::TurnAway("a message of type 'K' during the login"),
    ),
    Case::login(
        "a version nobody asked for",
        10,
        deeds::version_first,
        Must::TurnAway("a message of type 'v' during the login"),
    ),
    Case::login("a length of 0", 10, deeds::length_0, BAD_FORM),
    Case::login("a length of 64 MiB", 10, deeds::length_64_mib, BAD_FORM),
    Case::login("the end at the offer", 10, deeds::nothing, Must::TurnAway("the connection to the target broke"))
        .then(Then::Close),
    Case::login(
        "a binding that it has not offered",
        10,
        deeds::bound_mechanism_offered,
        Must::TurnAwayProven("the target refused"),
    ),
    Case::login("clear text after the offer", 11, deeds::clear_text, GIVEN_AWAY),
    Case::login("MD5 after the offer", 11, deeds::md5, GIVEN_AWAY),
    Case::login("let in after the offer", 11, deeds::let_in_without_proof, NO_PROOF),
    Case::login("a proof without a challenge", 11, deeds::proof_at_once, SCRAM),
    Case::login("a nonce that is not ours", 11, deeds::foreign_nonce, SCRAM),
    Case::login("no rounds", 11, deeds::rounds_0, Must::TurnAway("rounds")),
    Case::login("one round", 11, deeds::rounds_1, Must::TurnAway("rounds")),
    Case::login("4,294,967,295 rounds", 11, deeds::rounds_without_end, Must::TurnAway("rounds")),
    Case::login("rounds that are no number", 11, deeds::rounds_no_number, SCRAM),
    Case::login("half a challenge", 11, deeds::challenge_cut, SCRAM),
    Case::login("clear text after the proof", 12, deeds::clear_text, Must::TurnAwayProven("which would give it away")),
    Case::login("two challenges", 12, deeds::challenge_at_once, SCRAM_PROVEN),
    Case::login("a wrong signature", 12, deeds::wrong_signature, SCRAM_PROVEN),
    Case::login("an error of SCRAM", 12, deeds::scram_error, SCRAM_PROVEN),
    Case::login(
        "let in without a signature",
        12,
        deeds::let_in_without_proof,
        Must::TurnAwayProven("let the gateway in without"),
    ),
    Case::login("two signatures", 12, deeds::twice, Must::TurnAwayProven("a message of type 'R' during the login")),
    Case::login("clear text after SCRAM", 0, deeds::clear_text, Must::TurnAwayProven("which would give it away")),
    Case::login("let in twice", 0, deeds::twice, Must::TurnAwayProven("a message of type 'R' during the login")),
    Case::new(
        "the password asked for behind the login",
        b'K',
        deeds::clear_text,
        Must::TurnAwayProven("a message of type 'R'"),
    )
    .simple()
    .at(GREETING),
    Case::new("a row behind the login", b'K', deeds::row_first, Must::TurnAwayProven("a message of type 'D'"))
        .simple()
        .at(GREETING),
    Case::new("two keys", b'K', deeds::twice, Must::TurnAwayProven("a message of type 'K'")).simple().at(GREETING),
    Case::new(
        "a key of 5,000 bytes",
        b'K',
        deeds::large_key,
        Must::TurnAwayProven("does not speak PostgreSQL's protocol"),
    )
    .simple()
    .at(GREETING),
    Case::new("a key of 32 bytes in 3.0", b'K', deeds::long_key, Must::TurnAwayProven("PostgreSQL's protocol"))
        .simple()
        .at(GREETING),
    Case::new("a setting of 1 MiB", b'K', deeds::large_setting_first, Must::TurnAwayProven("more than the"))
        .simple()
        .at(GREETING),
    Case::new("a thousand settings", b'K', deeds::settings_without_end, Must::TurnAwayProven("a message of type 'S'"))
        .simple()
        .at(GREETING),
    Case::new(
        "another meaning of strings",
        b'K',
        deeds::strings_first,
        Must::TurnAwayProven("standard_conforming_strings off"),
    )
    .simple()
    .at(GREETING),
    Case::new("another encoding", b'K', deeds::encoding_first, Must::TurnAwayProven("client_encoding"))
        .simple()
        .at(GREETING),
    Case::new(
        "ready in a transaction",
        b'Z',
        deeds::ready_in_a_transaction,
        Must::TurnAwayProven("does not speak PostgreSQL's protocol"),
    )
    .simple()
    .at(GREETING),
    Case::new("ready and a row", b'Z', deeds::row_after, Must::End("a message of type 'D' where none can be"))
        .simple()
        .at(GREETING),
];

const UNREADABLE: Must = Must::Deny("catalog could not be read: ");

pub(crate) const CATALOG: &[Case] = &[
    Case::catalog("a row cut", b'D', deeds::body_cut, UNREADABLE),
    Case::catalog("rows of nothing", b'D', deeds::no_cells, UNREADABLE),
    Case::catalog("a length of 0", b'D', deeds::length_0, UNREADABLE),
    Case::catalog("a row without end", b'D', deeds::length_1_gib, Must::Deny("the target has sent more than 256 MiB"))
        .then(Then::Flood),
    Case::catalog("a cell of length -2", b'D', deeds::cell_negative, UNREADABLE).nth(2),
    Case::catalog("cells of NULL", b'D', deeds::cells_null, UNREADABLE).nth(2),
    Case::catalog("the end", b'D', deeds::nothing, UNREADABLE).then(Then::Close),
    Case::catalog("an error that tells", b'D', deeds::telling_error, UNREADABLE),
    Case::catalog("the same by its code", b'D', deeds::telling_error_by_code, UNREADABLE),
    Case::catalog("a notice that tells, and the end", b'D', deeds::telling_notice_first, UNREADABLE).then(Then::Close),
    Case::catalog("an unknown type", b'D', deeds::unknown_type, UNREADABLE),
    Case::catalog("65,535 columns", b'T', deeds::count_absurd, UNREADABLE).at(Stage::Bound),
    Case::catalog("COPY in", b'D', deeds::copied_in, UNREADABLE),
    Case::catalog("nothing more", b'D', deeds::nothing, Must::Deny("could not be read in time")).then(Then::Silence),
    Case::new(
        "the password asked for, of the catalog's login",
        b'R',
        deeds::clear_text,
        Must::Deny("which would give it away"),
    )
    .simple()
    .asking(UNKNOWN)
    .of_catalog()
    .at(Stage::Login(10)),
];

impl Case {
    const fn of_catalog(mut self) -> Self {
        self.tamper.whose = Whose::Catalog;
        self
    }
}
