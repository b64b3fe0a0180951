//! What a session knows of its statements: texts that were understood and judged, statements that were prepared, portals
//! that were bound.
//!
//! A name here must never stand for another text than it does at the target, or one statement would be judged and another
//! one run. What a client sends ahead is taken down at once, but it is used only by the same batch, which the target ignores
//! from the first error on; any later batch waits until the target has confirmed it. What SQL makes (PREPARE, DECLARE) is
//! known when it has succeeded. A name that may have changed is forgotten, and using it is an error or denied.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::catalog::TaggedSet;
use super::forecast::Expected;
use super::operation::{self, Class, Name, Parsed, Query, Statement};
use super::relay::Trace;
use super::reply::Checked;
use super::shared::{Catalog, Remembered};
use super::wire::Column;
use crate::policy::{Gate, Kind, Operation};
use crate::session::{Judgement, Session};

/// Prepared statements that a session may have.
const MAX_STATEMENTS: usize = 10_000;
/// Bytes that these, with what is known of their texts and results, and portals with their values may have together.
const MAX_BYTES: usize = 64 << 20;
/// Of these, what is known of results: it comes when it was let in already, so that there may be more than there is room for.
const MAX_DESCRIBED: usize = 2 * MAX_BYTES;
/// The same of texts and values whose names stand for others already, while the target has not answered what brought them:
/// with more, nothing is taken before it has.
const MAX_DISPLACED: usize = 16 << 20;
/// Portals that a session may have.
const MAX_PORTALS: usize = 1_000;
/// Names made by SQL that are remembered; their texts count among [`MAX_BYTES`].
const MAX_SQL_NAMES: usize = 10_000;

/// Of a statement that would let the session write.
pub(super) const ONLY_READS: &str =
    "no rule lets this agent do anything but read here, so its transactions stay read-only";

/// A text, what it does and what policy says of that.
pub(super) struct Judged {
    pub(super) text: Arc<str>,
    pub(super) parsed: Arc<Parsed>,
    pub(super) judgement: Judgement,
    /// The catalog under which it was understood.
    pub(super) catalog: Arc<Catalog>,
    pub(super) redact_parameters: bool,
    pub(super) effects: Effects,
    /// Relations in which it could reach a column that is newer than the catalog: see [`TaggedSet::reached`].
    pub(super) reached: Arc<[String]>,
    /// The key under which this may stand for other texts too: see [`template`] and [`free_template`].
    pub(super) template: Option<Arc<str>>,
    /// Bytes of memory that it takes, more or less.
    size: usize,
}

/// What a statement does to what is known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// Prepared statements and cursors that it makes.
    prepares: Vec<String>,
    declares: Vec<String>,
    /// Prepared statements and cursors that it uses, without those that the same text has made before.
    pub(super) uses: Vec<Name>,
    deallocates: Option<Deallocated>,
    /// The catalog may be another one afterwards.
    pub(super) changes_catalog: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Deallocated {
    One(String),
    All,
}

impl Judged {
    pub(super) fn new(
        session: &Session,
        database: &str,
        text: Arc<str>,
        parsed: Arc<Parsed>,
        catalog: Arc<Catalog>,
    ) -> Self {
        let only_reads = || (session.reads_only && parsed.lets_write()).then_some(ONLY_READS);
        let operation = Operation {
            text: parsed.redacted(),
            database: Some(database.to_owned()),
            actions: parsed.actions().into(),
            statements: parsed.count(),
            refusal: parsed.refusal().or_else(only_reads).map(str::to_owned),
        };
        let judgement = session.judge(Arc::new(operation));
        let redact_parameters = match &*parsed {
            Parsed::Statements(statements) => statements.iter().any(|it| it.redact_parameters),
            Parsed::Empty => false,
            Parsed::Unparsed { .. } => !catalog.set.is_empty(),
        };
        let effects = Effects::of(&parsed, &text);
        let reached = Arc::from(catalog.set.reached(statements_of(&parsed)));
        let template = template_of(&parsed, &text).map(Arc::from);
        // What was judged is what was understood once more.
        let size = text.len() + 2 * parsed.size();
        Self { text, parsed, judgement, catalog, redact_parameters, effects, reached, template, size }
    }

    /// The same statement with other literals in it: `text` has this one's template. It takes the memory of its own text.
    pub(super) fn with_literals(&self, text: Arc<str>) -> Self {
        let shown = text.trim_ascii().trim_end_matches(';').trim_ascii_end().to_owned();
        Self {
            judgement: self.judgement.with_text(shown),
            parsed: Arc::clone(&self.parsed),
            catalog: Arc::clone(&self.catalog),
            effects: self.effects.clone(),
            reached: Arc::clone(&self.reached),
            template: self.template.clone(),
            redact_parameters: self.redact_parameters,
            // The text is there twice: as it was sent, and as people see it.
            size: self.size + 2 * text.len(),
            text,
        }
    }

    /// One of its statements as it was sent. Where the statement is alone, another text's place of it may be the one at hand.
    pub(super) fn source(&self, statement: &Statement) -> &str {
        let is_alone = self.statements().len() == 1;
        if is_alone { &self.text } else { self.text.get(statement.text_range.clone()).unwrap_or_default() }
    }

    /// The same as people see it.
    pub(super) fn shown<'a>(&'a self, statement: &'a Statement) -> &'a str {
        let is_alone = self.statements().len() == 1;
        if is_alone { &self.judgement.operation().text } else { &statement.redacted }
    }

    /// The same, refused by the relay itself.
    pub(super) fn refused(&self, session: &Session, reason: String) -> Judgement {
        let operation = Operation { refusal: Some(reason), ..self.judgement.operation().clone() };
        session.judge(Arc::new(operation))
    }

    /// A function that may have run, when values are bound, before people have decided on the statement.
    pub(super) fn runs_before_people(&self) -> Option<&str> {
        let actions = self.judgement.operation().actions.iter().filter(|it| it.runs_code);
        let mut functions = actions.flat_map(|it| &it.functions).map(String::as_str);
        let is_planned = |it: &&str| self.catalog.set.user_function(it.rsplit('.').next().unwrap_or_default()).planned;
        functions.find(is_planned).filter(|_| matches!(self.judgement.gate(), Gate::Hold { .. }))
    }

    pub(super) fn is_denied(&self) -> bool {
        matches!(self.judgement.gate(), Gate::Deny { .. }) && !self.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(*self.parsed, Parsed::Empty)
    }

    pub(super) fn statements(&self) -> &[Statement] {
        statements_of(&self.parsed)
    }

    /// See [`must_be_plain`].
    pub(super) fn must_be_plain(&self, columns: Option<&[Column]>) -> Result<(), String> {
        must_be_plain(self.statements(), &self.catalog.set, columns)
    }

    /// Whether it makes names that it must be remembered for, when it has succeeded.
    pub(super) fn makes_names(&self) -> bool {
        !self.effects.prepares.is_empty() || !self.effects.declares.is_empty()
    }

    /// The statements that run when a name is used that this text, or its one statement that is `maker`, stands for. None:
    /// that is not one statement.
    pub(super) fn behind(&self, maker: Option<&Name>) -> Option<&[Statement]> {
        let Some(maker) = maker else { return Some(self.statements()).filter(|it| !it.is_empty()) };
        let mut made = self.statements().iter().enumerate().filter(|(_, it)| it.name.as_ref() == Some(maker));
        match (made.next(), made.next()) {
            (Some((at, _)), None) => self.statements().get(at..=at),
            _ => None,
        }
    }

    /// Relations that are named and that the catalog does not know, by schema and name.
    pub(super) fn unknown_relations(&self) -> impl Iterator<Item = &(Option<String>, String)> {
        self.statements().iter().flat_map(|it| &it.unknown_relations)
    }
}

fn statements_of(parsed: &Parsed) -> &[Statement] {
    match parsed {
        Parsed::Statements(statements) => statements,
        Parsed::Empty | Parsed::Unparsed { .. } => &[],
    }
}

/// Whether every column of a tagged statement's result is a column of an ordinary table, so that its mask is known. The error says
/// which is not.
pub(super) fn must_be_plain(
    statements: &[Statement],
    set: &TaggedSet,
    columns: Option<&[Column]>,
) -> Result<(), String> {
    let is_column = |it: &Column| it.table != 0 && it.attribute > 0 && set.is_ordinary(it.table);
    let columns = columns.unwrap_or_default();
    let Some((index, column)) = columns.iter().enumerate().find(|(_, it)| !is_column(it)) else { return Ok(()) };
    let relations = statements
        .iter()
        .filter_map(|it| if let Class::Plain { relations } = &it.class { Some(relations) } else { None });
    let tables: Vec<&str> = relations.flatten().map(String::as_str).collect();
    let tables = if tables.is_empty() { "a table".to_owned() } else { tables.join(", ") };
    Err(format!(
        "column {} (\"{}\") of the result is not plainly a column of a table, and {tables} in this statement has masked columns; \
         select the columns themselves",
        index + 1,
        String::from_utf8_lossy(&column.name)
    ))
}

/// The texts that a session has had judged lately.
#[derive(Default)]
pub(super) struct Memory {
    by_text: Remembered<Arc<str>, Arc<Judged>>,
    by_template: Remembered<Arc<str>, Arc<Judged>>,
}

impl Memory {
    /// What is known of a text under this catalog and the policy of this moment.
    pub(super) fn recall(&mut self, session: &Session, catalog: &Arc<Catalog>, text: &[u8]) -> Option<Arc<Judged>> {
        // A longer text is refused, whatever it is like.
        let text = std::str::from_utf8(text).ok().filter(|it| it.len() <= operation::MAX_STATEMENT_BYTES)?;
        let current =
            |judged: &Arc<Judged>| Arc::ptr_eq(&judged.catalog, catalog) && session.is_current(&judged.judgement);
        if let Some(judged) = self.by_text.get(text).filter(current) {
            return Some(judged);
        }
        let mut keys = template(text).into_iter().chain(free_template(text).map(|it| it.key));
        let known = keys.find_map(|key| self.by_template.get(key.as_str()).filter(current))?;
        Some(Arc::new(known.with_literals(text.into())))
    }

    pub(super) fn keep(&mut self, judged: &Arc<Judged>) {
        match &judged.template {
            Some(template) => self.by_template.put(Arc::clone(template), Arc::clone(judged), judged.size),
            None => self.by_text.put(Arc::clone(&judged.text), Arc::clone(judged), judged.size),
        }
    }
}

impl Effects {
    fn of(parsed: &Parsed, text: &str) -> Self {
        let mut effects = Self::default();
        let Parsed::Statements(statements) = parsed else {
            // Allowed by a rule, though nobody knows what it does.
            let unknown = matches!(parsed, Parsed::Unparsed { .. });
            let deallocates = unknown.then_some(Deallocated::All);
            return Self { changes_catalog: unknown, deallocates, ..effects };
        };
        for statement in statements {
            effects.changes_catalog |= statement.changes_catalog();
            match &statement.name {
                Some(Name::Prepares(name)) => effects.prepares.push(name.clone()),
                Some(Name::Declares(name)) => effects.declares.push(name.clone()),
                Some(Name::Executes(name)) if effects.prepares.contains(name) => {}
                Some(Name::Fetches(name)) if effects.declares.contains(name) => {}
                Some(used) => effects.uses.push(used.clone()),
                None => {}
            }
            for action in &statement.actions {
                match action.kind {
                    Kind::Deallocate if effects.deallocates.is_none() => {
                        effects.deallocates = Some(deallocated(text.get(statement.text_range.clone()).unwrap_or("")));
                    }
                    Kind::Deallocate => effects.deallocates = Some(Deallocated::All),
                    Kind::Discard if discards_all(text.get(statement.text_range.clone()).unwrap_or("")) => {
                        effects.deallocates = Some(Deallocated::All);
                    }
                    _ => {}
                }
            }
        }
        effects
    }
}

/// What a text has in common with others that it may stand for, which differ in literals: it is one statement that people see as it
/// is, and of which the target is asked nothing but by all of it.
fn template_of(parsed: &Parsed, text: &str) -> Option<String> {
    let Parsed::Statements(statements) = parsed else { return None };
    let [statement] = statements.as_slice() else { return None };
    if statement.redact_parameters || text.get(statement.text_range.clone()) != Some(statement.redacted.as_str()) {
        return None;
    }
    match statement.class {
        Class::Untouched => {
            let free = free_template(text)?;
            (!free.has_strings || statement.only_computes()).then_some(free.key)
        }
        Class::Traced { query: Query::Itself, .. } => template(text),
        Class::Traced { .. } | Class::Plain { .. } | Class::Refused { .. } => None,
    }
}

/// A text without its integers and its strings, wherever they stand: what a statement does, as far as rules can tell, is not up to
/// them (but see [`FreeTemplate::has_strings`]), and of one that touches nothing tagged nothing else is asked. None as for [`template`],
/// and where people must not see one of the strings.
pub(super) fn free_template(text: &str) -> Option<FreeTemplate> {
    const VERBS: &[&str] = &["select", "insert", "update", "delete"];
    let text = without_end(text, VERBS)?;
    let bytes = text.as_bytes();
    let is_part_of_a_word = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at)).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
    };
    let (mut key, mut done, mut at, mut has_strings) = (String::with_capacity(text.len()), 0, 0, false);
    while let Some(byte) = bytes.get(at) {
        let before = at.checked_sub(1);
        let (end, stands_for) = match byte {
            b'\'' => {
                // Letters before it make it a string of another kind (`E''`, `U&''`), and behind a string it goes on with that.
                let goes_on = key.ends_with('\'') && text[done..at].trim_ascii().is_empty();
                if is_part_of_a_word(before) || text[..at].ends_with('&') || goes_on {
                    return None;
                }
                has_strings = true;
                (at + string_length(&text[at..])?, Some('\''))
            }
            b'0'..=b'9' => {
                let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
                (end, (!is_part_of_a_word(before) && !is_part_of_a_word(Some(end))).then_some('?'))
            }
            _ if is_plain(&bytes[at..]) => (at + 1, None),
            _ => return None,
        };
        if let Some(stands_for) = stands_for {
            key.push_str(&text[done..at]);
            key.push(stands_for);
            done = end;
        }
        at = end;
    }
    key.push_str(&text[done..]);
    (done > 0).then_some(FreeTemplate { key, has_strings })
}

/// What [`free_template`] makes.
pub(super) struct FreeTemplate {
    pub(super) key: String,
    /// Functions can do by a string what they like (`set_config`): it stands for others only where all that are called compute.
    pub(super) has_strings: bool,
}

/// Bytes of the string literal that a text begins with, if it has no escapes and people may see it.
fn string_length(text: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr(b'\'', &text.as_bytes()[at..])? + 1;
        // Two quotes are one within.
        if text.as_bytes().get(at) != Some(&b'\'') {
            break;
        }
        at += 1;
    }
    let string = &text[..at];
    let is_shown = !string.contains('\\') && !operation::looks_secret(string);
    is_shown.then_some(at)
}

/// Whether a text begins with a character that is what it seems: no quote, comment or end of a statement, and none that a template has
/// for something else.
fn is_plain(text: &[u8]) -> bool {
    let is_comment = matches!(text, [b'-', b'-', ..] | [b'/', b'*', ..]);
    let plain = |b: &u8| (b.is_ascii_graphic() || b.is_ascii_whitespace()) && !b"'\"$\\;?".contains(b);
    text.first().is_some_and(plain) && !is_comment
}

/// The text without what ends it, if it begins with one of these words.
fn without_end<'t>(text: &'t str, verbs: &[&str]) -> Option<&'t str> {
    let text = text.trim_ascii().trim_end_matches(';').trim_ascii_end();
    let verb = text.split_ascii_whitespace().next()?;
    verbs.iter().any(|it| it.eq_ignore_ascii_case(verb)).then_some(text)
}

/// A text without the integers that it compares or assigns by `=`, each with nothing else on that side: statements that differ
/// in nothing else do the same as far as rules and masks can tell, and are understood once. Integers of another type are
/// another text, since the operator that compares them is. None for texts in which that could be otherwise.
pub(super) fn template(text: &str) -> Option<String> {
    const OPERATORS: &[u8] = b"+-*/<>=~!@#%^&|`?:";
    const VERBS: &[&str] = &["select", "update", "delete"];
    let text = without_end(text, VERBS)?;
    let bytes = text.as_bytes();
    if !(0..bytes.len()).all(|at| is_plain(&bytes[at..])) {
        return None;
    }
    let is_operator = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(|b| OPERATORS.contains(b));
    let (mut key, mut done, mut found) = (String::with_capacity(text.len()), 0, false);
    for equals in (0..bytes.len()).filter(|&at| bytes[at] == b'=') {
        if is_operator(equals.checked_sub(1)) || is_operator(Some(equals + 1)) {
            continue;
        }
        let run = |from: usize, is: fn(&u8) -> bool| from + bytes[from..].iter().take_while(|b| is(b)).count();
        let start = run(equals + 1, u8::is_ascii_whitespace);
        let end = run(start, u8::is_ascii_digit);
        let Some(stands_for) = integer_type(&text[start..end]).filter(|_| ends_expression(&text[end..])) else {
            continue;
        };
        key.push_str(&text[done..start]);
        key.push_str(stands_for);
        (done, found) = (end, true);
    }
    key.push_str(&text[done..]);
    found.then_some(key)
}

/// What stands for an integer, by the type that the server gives it; none where that is `numeric`.
fn integer_type(digits: &str) -> Option<&'static str> {
    match digits.parse::<i64>().ok()? {
        ..=0x7fff_ffff => Some("?4"),
        _ => Some("?8"),
    }
}

/// Whether nothing in a text adds to the expression before it.
fn ends_expression(rest: &str) -> bool {
    const FOLLOW: &[&str] =
        &["and", "or", "order", "group", "limit", "offset", "returning", "union", "for", "from", "where", "having"];
    let behind = rest.trim_ascii_start();
    match behind.bytes().next() {
        None | Some(b')' | b',') => true,
        Some(_) if behind.len() == rest.len() => false,
        Some(_) => {
            let word = behind.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
            FOLLOW.iter().any(|it| it.eq_ignore_ascii_case(word))
        }
    }
}

/// What a DEALLOCATE names; all, where its form is not the plain one.
fn deallocated(text: &str) -> Deallocated {
    let mut words = text.split_ascii_whitespace().skip(1).peekable();
    if words.peek().is_some_and(|word| word.eq_ignore_ascii_case("prepare")) {
        words.next();
    }
    let (Some(word), None) = (words.next(), words.next()) else { return Deallocated::All };
    let quoted = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
    match quoted {
        Some(name) if !name.contains('"') => Deallocated::One(name.to_owned()),
        None if word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !word.eq_ignore_ascii_case("all") => {
            Deallocated::One(word.to_ascii_lowercase())
        }
        _ => Deallocated::All,
    }
}

/// DISCARD ALL takes prepared statements with it, DISCARD PLANS and its like do not.
fn discards_all(text: &str) -> bool {
    text.split_ascii_whitespace().next_back().is_some_and(|word| word.eq_ignore_ascii_case("all"))
}

/// A prepared statement of the extended protocol.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) id: u64,
    pub(super) judged: Arc<Judged>,
    /// The types of its parameters, as [`super::wire::Parse`] has them.
    pub(super) types: Arc<[u8]>,
    pub(super) description: Description,
    pub(super) batch: u64,
    /// The target has it under this name.
    pub(super) confirmed: bool,
}

/// The columns of a result, once the target has described it: shared by all that was sent for one statement or portal, also
/// when its name stands for another one already. None inside: it has no result.
#[derive(Clone, Default)]
pub(super) struct Description(Arc<Mutex<Option<Described>>>);

/// The columns of a result; None: there is none.
pub(super) type Columns = Option<Arc<[Column]>>;

/// Columns that are counted for as long as they are held.
struct Described {
    columns: Columns,
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Described {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Description {
    pub(super) fn get(&self) -> Option<Columns> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|held| held.columns.clone())
    }
}

/// Bytes of memory that columns take, more or less.
pub(super) fn size_of_columns(columns: &Columns) -> usize {
    columns.iter().flat_map(|columns| columns.iter()).map(|it| size_of::<Column>() + it.name.len()).sum()
}

/// A statement with its parameters, ready to be executed.
#[derive(Clone)]
pub(super) struct Portal {
    pub(super) id: u64,
    pub(super) judged: Arc<Judged>,
    /// The Bind message behind its names: what an approval is bound to.
    pub(super) values: Arc<[u8]>,
    pub(super) parameters: Option<Arc<str>>,
    pub(super) result_formats: Arc<[i16]>,
    pub(super) description: Description,
    /// That of its statement, where it has none of its own.
    pub(super) statement_description: Description,
    /// Whether a description is on its way.
    pub(super) asked: bool,
    /// The types of its parameters, as [`super::wire::Parse`] has them.
    pub(super) types: Arc<[u8]>,
    /// Where its columns come from, as the target said before it was bound.
    pub(super) traced: Option<Arc<Trace>>,
    /// What the target expects of it, if people are to decide.
    pub(super) forecast: Option<Arc<Expected>>,
    /// [`Names::changes`] when it was bound: what it describes of a name is what the name stood for then.
    pub(super) names: u64,
    pub(super) batch: u64,
    pub(super) confirmed: bool,
}

impl Prepared {
    fn size(&self) -> usize {
        self.judged.size
    }
}

impl Portal {
    /// Its statement may have lost its name: it is the portal's as well.
    fn size(&self) -> usize {
        self.judged.size + self.values.len() + self.traced.as_ref().map_or(0, |it| it.size())
    }
}

/// A name that was closed, with what it stood for.
pub(super) enum Closed {
    Statement(Vec<u8>, Option<Prepared>),
    Portal(Vec<u8>, Option<Portal>),
}

/// No room for another one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("a session through Weir may have {MAX_STATEMENTS} prepared statements; close some")]
    Statements,
    #[error("a session through Weir may have {MAX_PORTALS} portals; close some")]
    Portals,
    #[error("the prepared statements and portals of this session have more than {} MiB of texts, values and columns", MAX_BYTES >> 20)]
    Bytes,
}

/// What a name stands for that SQL has made.
struct Made {
    text: Arc<str>,
    /// Where a cursor's columns come from, if it had to be traced.
    traced: Option<Checked>,
}

impl Made {
    fn size(&self) -> usize {
        self.text.len() + self.traced.as_ref().map_or(0, Checked::size)
    }
}

/// How long the target keeps prepared statements and cursors for who has made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lifetime {
    #[default]
    Session,
    /// A pooler's next transaction may be another connection's, where the same names are somebody else's.
    Transaction,
}

/// The names of a session.
#[derive(Default)]
pub(super) struct Names {
    lifetime: Lifetime,
    statements: HashMap<Vec<u8>, Prepared>,
    portals: HashMap<Vec<u8>, Portal>,
    bytes: usize,
    /// Of what is known of results.
    described: Arc<AtomicUsize>,
    /// Of what lost its name since the target last owed nothing; it is held until the target has answered.
    displaced: usize,
    /// The statements that SQL has prepared, and the cursors that it has declared.
    sql: HashMap<Name, Made>,
    next_id: u64,
    /// Counts what may have made a name stand for something else.
    changes: u64,
}

impl Names {
    pub(super) fn lasting(lifetime: Lifetime) -> Self {
        Self { lifetime, ..Self::default() }
    }

    /// Whether what an earlier batch has named may be somebody else's by now, if that ended a transaction.
    pub(super) fn end_with_transactions(&self) -> bool {
        self.lifetime == Lifetime::Transaction
    }

    /// As long as it is the same, every name that SQL can use stands for the same.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn statement(&self, name: &[u8]) -> Option<&Prepared> {
        self.statements.get(name)
    }

    pub(super) fn statement_mut(&mut self, name: &[u8]) -> Option<&mut Prepared> {
        self.statements.get_mut(name)
    }

    pub(super) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        self.portals.get(name)
    }

    pub(super) fn portal_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.portals.get_mut(name)
    }

    /// Whether the target may have a prepared statement of this name already, so that preparing another one may fail.
    pub(super) fn may_be_prepared(&self, name: &[u8]) -> bool {
        !name.is_empty()
            && (self.statements.contains_key(name)
                || std::str::from_utf8(name).is_ok_and(|name| self.sql.contains_key(&Name::Prepares(name.to_owned()))))
    }

    /// Puts a statement in its place, or takes it away; returns what was there.
    pub(super) fn set_statement(&mut self, name: &[u8], new: Option<Prepared>) -> Result<Option<Prepared>, Full> {
        if let Some(new) = &new {
            if self.statements.len() >= MAX_STATEMENTS {
                return Err(Full::Statements);
            }
            if self.bytes + self.described.load(Ordering::Relaxed) + new.size() > MAX_BYTES {
                return Err(Full::Bytes);
            }
            self.bytes += new.size();
            self.changes += u64::from(!name.is_empty());
            self.forget_sql(name, Name::Prepares);
        }
        let old = match new {
            Some(new) => self.statements.insert(name.to_vec(), new),
            None => self.statements.remove(name),
        };
        self.displace(old.as_ref().map_or(0, Prepared::size));
        Ok(old)
    }

    /// Puts a portal in its place, or takes it away; returns what was there.
    pub(super) fn set_portal(&mut self, name: &[u8], new: Option<Portal>) -> Result<Option<Portal>, Full> {
        if let Some(new) = &new {
            if self.portals.len() >= MAX_PORTALS {
                return Err(Full::Portals);
            }
            if self.bytes + self.described.load(Ordering::Relaxed) + new.size() > MAX_BYTES {
                return Err(Full::Bytes);
            }
            self.bytes += new.size();
            self.changes += u64::from(!name.is_empty());
            self.forget_sql(name, Name::Declares);
        }
        let old = match new {
            Some(new) => self.portals.insert(name.to_vec(), new),
            None => self.portals.remove(name),
        };
        self.displace(old.as_ref().map_or(0, Portal::size));
        Ok(old)
    }

    /// Takes in what the target says of a result.
    pub(super) fn describe(&self, description: &Description, columns: Columns) -> Result<(), Full> {
        let (bytes, all) = (size_of_columns(&columns), Arc::clone(&self.described));
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let described = Described { columns, bytes, all };
        if before + bytes > MAX_DESCRIBED {
            return Err(Full::Bytes);
        }
        *description.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(described);
        Ok(())
    }

    fn displace(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.displaced += bytes;
    }

    /// Whether so much is held without a name that the target must answer first.
    pub(super) fn holds_too_much(&self) -> bool {
        self.displaced > MAX_DISPLACED
    }

    /// The target owes nothing any more: what lost its name is gone.
    pub(super) fn all_answered(&mut self) {
        self.displaced = 0;
    }

    /// Takes a statement's name away.
    pub(super) fn close_statement(&mut self, name: Vec<u8>) -> Closed {
        let statement = self.statements.remove(&name);
        self.displace(statement.as_ref().map_or(0, Prepared::size));
        Closed::Statement(name, statement)
    }

    /// Takes a portal's name away.
    pub(super) fn close_portal(&mut self, name: Vec<u8>) -> Closed {
        let portal = self.portals.remove(&name);
        self.displace(portal.as_ref().map_or(0, Portal::size));
        Closed::Portal(name, portal)
    }

    /// The target did not come to it.
    pub(super) fn reopen(&mut self, closed: Closed) {
        // There was room for it before.
        match closed {
            Closed::Statement(name, Some(statement)) => drop(self.set_statement(&name, Some(statement))),
            Closed::Portal(name, Some(portal)) => drop(self.set_portal(&name, Some(portal))),
            Closed::Statement(_, None) | Closed::Portal(_, None) => {}
        }
    }

    /// A transaction has ended, and with it the portals that were bound in it.
    pub(super) fn transaction_ended(&mut self, batch: u64) {
        if self.end_with_transactions() {
            self.statements_end(batch);
        }
        if self.portals.is_empty() {
            return;
        }
        let bytes = &mut self.bytes;
        self.portals.retain(|_, portal| {
            let stays = portal.batch > batch;
            if !stays {
                *bytes -= portal.size();
            }
            stays
        });
    }

    fn statements_end(&mut self, batch: u64) {
        let bytes = &mut self.bytes;
        self.statements.retain(|_, statement| {
            let stays = statement.batch > batch;
            if !stays {
                *bytes -= statement.size();
            }
            stays
        });
        *bytes -= self.sql.values().map(Made::size).sum::<usize>();
        self.sql.clear();
        self.changes += 1;
    }

    /// A statement is forwarded that may change names at the target: what they stand for is not known until it has succeeded.
    pub(super) fn forget(&mut self, judged: &Judged) {
        let effects = &judged.effects;
        // A SET search_path is enough for a prepared statement to be about other tables.
        self.changes += 1;
        match &effects.deallocates {
            Some(Deallocated::One(name)) => {
                // Taking away cannot fail.
                let _ = self.set_statement(name.as_bytes(), None);
                self.forget_sql(name.as_bytes(), Name::Prepares);
            }
            Some(Deallocated::All) => {
                self.bytes -= self.statements.values().map(Prepared::size).sum::<usize>();
                self.bytes -= self.sql.values().map(Made::size).sum::<usize>();
                self.statements.clear();
                self.sql.clear();
            }
            None => {}
        }
        for name in &effects.prepares {
            let _ = self.set_statement(name.as_bytes(), None);
            self.forget_sql(name.as_bytes(), Name::Prepares);
        }
        for name in &effects.declares {
            let _ = self.set_portal(name.as_bytes(), None);
            self.forget_sql(name.as_bytes(), Name::Declares);
        }
    }

    fn forget_sql(&mut self, name: &[u8], made: fn(String) -> Name) {
        if let (false, Ok(name)) = (self.sql.is_empty(), std::str::from_utf8(name)) {
            self.bytes -= self.sql.remove(&made(name.to_owned())).map_or(0, |it| it.size());
        }
    }

    /// A text that makes names has succeeded at the target. `checked`: what was found out of each of its statements.
    pub(super) fn remember(&mut self, judged: &Judged, checked: &[Option<Checked>]) {
        for (index, statement) in judged.statements().iter().enumerate() {
            let Some(name @ (Name::Prepares(_) | Name::Declares(_))) = &statement.name else { continue };
            let made = Made { text: Arc::clone(&judged.text), traced: checked.get(index).cloned().flatten() };
            // Without room for it, the name stays unknown.
            if self.sql.len() < MAX_SQL_NAMES && self.bytes + made.size() <= MAX_BYTES {
                self.bytes += made.size();
                self.bytes -= self.sql.insert(name.clone(), made).map_or(0, |old| old.size());
            }
        }
    }

    /// The text behind a name that a statement uses, and what made it where that was SQL. None: nobody here knows. Certain when
    /// the target owes nothing.
    pub(super) fn text_of(&self, used: &Name) -> Option<(Arc<str>, Option<Name>)> {
        let (by_protocol, maker) = match used {
            Name::Executes(name) | Name::Prepares(name) => {
                let statement = self.statements.get(name.as_bytes()).filter(|it| it.confirmed);
                (statement.map(|it| &it.judged), Name::Prepares(name.clone()))
            }
            Name::Fetches(name) | Name::Declares(name) => {
                let portal = self.portals.get(name.as_bytes()).filter(|it| it.confirmed);
                (portal.map(|it| &it.judged), Name::Declares(name.clone()))
            }
        };
        match by_protocol {
            Some(judged) => Some((Arc::clone(&judged.text), None)),
            None => self.sql.get(&maker).map(|made| (Arc::clone(&made.text), Some(maker))),
        }
    }

    /// Whether SQL has declared a cursor of this name.
    pub(super) fn is_declared(&self, name: &[u8]) -> bool {
        let declares = |name: &str| self.sql.contains_key(&Name::Declares(name.to_owned()));
        std::str::from_utf8(name).is_ok_and(declares)
    }

    /// Whether a cursor's name is that of a portal which the protocol has bound.
    pub(super) fn is_bound(&self, cursor: &str) -> bool {
        self.portals.get(cursor.as_bytes()).is_some_and(|it| it.confirmed)
    }

    /// Where the columns of a cursor or portal come from, as the target said when it was made. None: nobody asked.
    pub(super) fn traced(&self, cursor: &str) -> Option<Checked> {
        match self.portals.get(cursor.as_bytes()).filter(|it| it.confirmed) {
            Some(portal) => portal.traced.as_ref().and_then(|it| it.found.clone().ok()),
            None => self.sql.get(&Name::Declares(cursor.to_owned())).and_then(|made| made.traced.clone()),
        }
    }

    /// The types that the client gave the parameters of a prepared statement, where the protocol has prepared it.
    pub(super) fn types(&self, statement: &str) -> Option<Arc<[u8]>> {
        self.statements.get(statement.as_bytes()).filter(|it| it.confirmed).map(|it| Arc::clone(&it.types))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_strings_are_left_out_of_a_free_template() {
        let key = |text| free_template(text).map(|it| it.key);
        for (text, expected) in [
            ("INSERT INTO t (a, b) VALUES (1, -22, now());", "INSERT INTO t (a, b) VALUES (?, -?, now())"),
            ("update t1 set a2 = a2 + 34 where x[5] < 6", "update t1 set a2 = a2 + ? where x[?] < ?"),
            (
                "SELECT 1.5, 1e5, 0x1F, 1_000, .5, a.b FROM t LIMIT 10",
                "SELECT 1.5, 1e5, 0x1F, 1_000, .5, a.b FROM t LIMIT ?",
            ),
            ("select 12345678901234567890", "select ?"),
            ("SELECT '1', 2", "SELECT ', ?"),
            ("select a from t where b = 'it''s -- /* \"$1;' and c='é'", "select a from t where b = ' and c='"),
            ("INSERT INTO t VALUES ('', '''', date '2026-01-01')", "INSERT INTO t VALUES (', ', date ')"),
        ] {
            assert_eq!(key(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "SELECT a FROM t1",
            "SELECT 'a\\', 2",
            "SELECT E'a'",
            "SELECT U&'a'",
            "SELECT 'a'\n'b'",
            "SELECT b'1'",
            "SELECT 'a",
            "SELECT 'postgres://a:b@c'",
            "SELECT ?, 1",
            "SELECT é, 1",
            "SELECT 1 -- 2",
            "SELECT $1 + 2",
            "SELECT 1; SELECT 2",
            "SET x = 1",
            "SELECT U&\"a\" + 1",
        ] {
            assert_eq!(key(text), None, "{text}");
        }
    }

    #[test]
    fn strings_are_left_out_where_nothing_but_computing_is_called() {
        let set = TaggedSet::empty(std::time::SystemTime::UNIX_EPOCH);
        let has_template = |text| template_of(&operation::analyse_blocking(text, &set), text).is_some();
        for text in ["SELECT lower('a')", "INSERT INTO t VALUES ('a')", "SELECT a FROM t WHERE b = 'c'", "SELECT f(1)"]
        {
            assert!(has_template(text), "{text}");
        }
        for text in [
            "SELECT set_config('role', 'a', false)",
            "SELECT nextval('a')",
            "SELECT f('a')",
            "SELECT public.lower('a')",
            "SELECT 'password=a'",
            "SELECT 'a'; SELECT 'b'",
        ] {
            assert!(!has_template(text), "{text}");
        }
    }

    #[test]
    fn a_text_is_counted_by_its_own_length() {
        let short: Arc<str> = "SELECT 'a'".into();
        let catalog = Arc::new(Catalog::unknown());
        let parsed = Arc::new(operation::analyse_blocking(&short, &catalog.set));
        let actions = parsed.actions().into();
        let operation = Operation { text: short.to_string(), database: None, actions, statements: 1, refusal: None };
        let judgement = Judgement::by(Arc::new(operation), Gate::Allow { rules: Vec::new() });
        let size = parsed.size();
        let effects = Effects::default();
        let judged = Judged {
            text: short,
            parsed,
            judgement,
            catalog,
            redact_parameters: false,
            effects,
            reached: Arc::from([]),
            template: None,
            size,
        };
        let long = format!("SELECT '{}'", "a".repeat(100_000));
        let other = judged.with_literals(long.as_str().into());
        assert!(other.size > 2 * long.len() && other.judgement.operation().text == long && *other.text == long);
    }

    #[test]
    fn only_plain_comparisons_with_integers_make_a_template() {
        let key = |text| template(text);
        let same = Some("SELECT a FROM t WHERE id = ?4 LIMIT 3".to_owned());
        assert_eq!(key("SELECT a FROM t WHERE id = 1 LIMIT 3;"), same);
        assert_eq!(key(" SELECT a FROM t WHERE id = 2147483647 LIMIT 3 ; "), same);
        assert_eq!(key("SELECT a FROM t WHERE id = 2147483648"), Some("SELECT a FROM t WHERE id = ?8".to_owned()));
        assert_eq!(
            key("select f(x) from t where a=1and b = 2"),
            Some("select f(x) from t where a=1and b = ?4".to_owned())
        );
        for text in [
            "SELECT a FROM t LIMIT 3",
            "SELECT a FROM t WHERE id <= 3",
            "SELECT f(a => 3)",
            "SELECT a FROM t WHERE id = 3.5",
            "SELECT a FROM t WHERE id = 9223372036854775808",
            "SELECT a FROM t WHERE id = 3 + length(b)",
            "SELECT a FROM t WHERE id = 3 OPERATOR(pg_catalog.+) length(b)",
            "SELECT a FROM t WHERE id = 3 IS DISTINCT FROM b",
            "SELECT a FROM t WHERE id = 0x1F",
            "SELECT a FROM t WHERE id = 1_000",
            "SELECT a FROM t WHERE id = 3; DROP TABLE t",
            "SELECT a FROM t WHERE b = 'x' AND id = 3",
            "SELECT a FROM t WHERE id = 3 -- x",
            "SELECT a FROM t WHERE id = /**/ 3",
            "SELECT $$ = 3 $$",
            "SELECT \"a = 3 \"",
            "SET standard_conforming_strings = 0",
            "SELECT a FROM t WHERE id = \u{a0}3",
        ] {
            assert_eq!(key(text), None, "{text}");
        }
    }

    #[test]
    fn deallocate_names_one_or_all() {
        let one = |name: &str| Deallocated::One(name.to_owned());
        assert_eq!(deallocated("DEALLOCATE _pg3_0"), one("_pg3_0"));
        assert_eq!(deallocated("deallocate prepare \"A b\""), Deallocated::All);
        assert_eq!(deallocated("deallocate prepare \"Ab\""), one("Ab"));
        assert_eq!(deallocated("DEALLOCATE ALL"), Deallocated::All);
        assert_eq!(deallocated("DEALLOCATE/**/x"), Deallocated::All);
    }
}
