//! What an SQL text does: its statements, the actions of each, and how each relates to tagged data.
//!
//! [`analyse`] is pure: text and catalog in, facts out. PostgreSQL's own grammar (`pg_query`) reads the text, and a walk
//! over every node gives the facts; what the walk does not know makes the text [`Parsed::Unparsed`], which is denied unless
//! a rule allows it by that name. The parser is C and the trees are deep, so texts are bounded before they are parsed
//! ([`MAX_STATEMENT_BYTES`], [`MAX_NESTING`]), and [`Analyser`] keeps threads with large stacks for all but small ones.

mod body;
mod copy;
mod descent;
mod functions;
mod inner;
mod sample;
mod text;
mod utility;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use pg_query::protobuf::{ObjectType, ParseResult, RawStmt, ScanToken, Token};
use pg_query::{DeparseOptions, FingerprintOptions, Node, NodeEnum};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub(super) use self::functions::{
    ANY_NON_ARRAY, COLLATABLE, SCALARS, Total, harmless_functions, is_harmless, is_of_sequences, only_computes,
    reads_beyond_arguments, total,
};
pub(super) use self::utility::pinned;
pub use self::utility::{PINNED_SETTINGS, WRITING_SETTINGS};

pub use self::sample::Sample;
use self::text::Hide;
pub(super) use self::text::looks_secret;
use self::walk::Seen;
use super::catalog::{Exposure, TaggedSet};
use super::copy::CopyForm;
use super::wire::OWN_NAME;
use crate::policy::{Action, Kind};

/// Longer texts are not parsed.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;
/// Texts with more tokens are not parsed: a tree takes some 500 bytes for each.
pub const MAX_TOKENS: usize = 250_000;
/// Texts whose trees could be deeper, counted in tokens, are not parsed.
pub const MAX_NESTING: usize = 8_000;
/// Deeper texts are not written out anew for approvers: that recurses without a bound of its own.
const WRITTEN_NESTING: usize = 500;
/// Steps of the walk that grow with columns times tables, for all statements of a text; with more it is not understood. A
/// statement of a hundred tables and a thousand columns takes 100,000.
const MAX_STEPS: usize = 500_000;
/// The same for a text that is parsed where it is asked for; with more it goes to a thread. Some milliseconds.
const INLINE_STEPS: usize = 20_000;
/// Statements of a text that may make or use prepared statements and cursors: each is looked up, and compared with all that
/// are before it.
const MAX_NAMES: usize = 100;
/// How deep bodies of code may stand in each other; deeper ones are not understood.
const MAX_BODIES: usize = 3;
/// Steps that a statement or an expression within a body takes, so that a text has 5,000 at most.
const PART_STEPS: usize = 100;
/// Bytes that the actions of a text may take in its record, beside the text itself. Some 13,000 small statements.
pub const MAX_FACTS: usize = 1 << 20;
/// Tokens times repetitions that the parser may have to hold.
const MAX_EXPANSION: usize = 4_000_000;
/// Of each parsing thread. The parser itself gives up at some 100 KiB of its own stack, which the trees that come out of it
/// need a hundredfold where nothing is optimised.
pub const PARSER_STACK: usize = 64 << 20;
/// Texts up to these sizes are parsed where they are asked for, on any stack of a megabyte or more. Frames that the
/// compiler did not optimise are five times as large.
const INLINE_BYTES: usize = 16 << 10;
const INLINE_NESTING: usize = if cfg!(debug_assertions) { 30 } else { 150 };
/// Texts that wait for a parsing thread; more wait for a place in the queue.
const QUEUE: usize = 64;
/// A text must have been understood by then, its wait for a thread included, or it is not: whoever asked goes on without.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A text, understood or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Parsed {
    Statements(Vec<Statement>),
    /// Nothing but white space, comments and semicolons.
    Empty,
    Unparsed {
        /// Why; holds nothing of the text's literals.
        reason: String,
        /// The text as people may see it.
        redacted: String,
        /// It must not be forwarded whatever the rules say, because the target has tagged data.
        refused: bool,
    },
}

/// One statement of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Where it stands in the text, in bytes.
    pub text_range: Range<usize>,
    /// What it does, outermost action first.
    pub actions: Vec<Action>,
    pub class: Class,
    /// As records, approvals and notices show it.
    pub redacted: String,
    /// Parameter values are not to be shown with it.
    pub redact_parameters: bool,
    /// Relations that the catalog does not know, by schema and name: it may be out of date.
    pub unknown_relations: Vec<(Option<String>, String)>,
    /// The prepared statement or cursor that it makes or uses.
    pub name: Option<Name>,
    /// It would let this transaction, or later ones, write where a session is only to read.
    pub lets_write: bool,
    /// A SET of something by which no name, and no expression, comes to mean something else.
    pub keeps_meanings: bool,
    pub all_columns: AllColumns,
}

/// What a statement does with all columns of a relation, which it does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AllColumns {
    /// Names of relations of which they are read, be it under other names, and not just shown as they are.
    pub by_place: BTreeSet<String>,
    /// It shows some as they are.
    pub shown: bool,
}

/// How a statement relates to the target's tagged data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It cannot show any: its reply needs no column masks.
    Untouched,
    /// It names tagged tables (or a prepared statement or cursor that may): every column of its result must be a column of an
    /// ordinary table by (oid, number), as the server describes it *before* the statement runs, and error texts are replaced.
    Plain { relations: Vec<String> },
    /// It reads tagged tables, or what shows their values under other names, and does nothing else: where the columns of its
    /// result come from the server tells before it runs.
    Traced { relations: Vec<String>, query: Query },
    /// It could show tagged data in a way that is not checked, and is not forwarded.
    Refused { reason: String },
}

/// The query of a statement that is traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// All of the statement.
    Itself,
    /// All of it but rows that are like others.
    Sampled(Sample),
    /// That of a cursor, or of a statement that is prepared: where it stands in the text.
    Made(Range<usize>),
    /// That whose rows a COPY sends to the client.
    Copied { query: String, form: CopyForm },
    /// The INSERT that a COPY from the client is judged as; `all`: its rows have all columns, which are not named.
    Taken { insert: String, all: bool },
    /// The statement whose plan is shown, which does not run: where it stands in the text, and the oid of the type that the plan has.
    Planned { range: Range<usize>, plan: u32 },
    /// That whose rows a new table keeps: where it stands in the text.
    Kept(Range<usize>),
}

impl Query {
    /// Its text, where that is another than the statement's, which stands in `text`.
    pub(super) fn text<'t>(&'t self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Itself => None,
            Self::Made(range) | Self::Planned { range, .. } | Self::Kept(range) => {
                Some(text.get(range.clone()).unwrap_or_default())
            }
            Self::Sampled(sample) => Some(&sample.text),
            Self::Copied { query, .. } => Some(query),
            Self::Taken { insert, .. } => Some(insert),
        }
    }

    /// Bytes of memory that it takes beside itself, more or less.
    fn size(&self) -> usize {
        match self {
            Self::Itself | Self::Made(_) | Self::Planned { .. } | Self::Kept(_) => 0,
            Self::Sampled(sample) => sample.size(),
            Self::Copied { query: text, .. } | Self::Taken { insert: text, .. } => text.len(),
        }
    }

    /// Whether it stands within the statement, which the target resolves when that runs.
    pub(super) fn is_within(&self) -> bool {
        !matches!(self, Self::Itself | Self::Sampled(_))
    }
}

/// A name in the session that a statement makes or uses. Prepared statements and cursors share these name spaces with those
/// that the extended protocol makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    Prepares(String),
    Executes(String),
    Declares(String),
    Fetches(String),
}

impl Name {
    /// The bare name.
    pub fn word(&self) -> &str {
        match self {
            Self::Prepares(name) | Self::Executes(name) | Self::Declares(name) | Self::Fetches(name) => name,
        }
    }
}

impl Parsed {
    /// Everything that would be done: the input of rules.
    pub fn actions(&self) -> Vec<Action> {
        match self {
            Self::Statements(statements) => statements.iter().flat_map(|it| it.actions.iter().cloned()).collect(),
            Self::Empty => Vec::new(),
            Self::Unparsed { reason, .. } => vec![Action::unparsed(reason.clone())],
        }
    }

    /// How many statements there are. What is not understood may be any number of them, and rules know that.
    pub fn count(&self) -> usize {
        match self {
            Self::Statements(statements) => statements.len(),
            Self::Empty | Self::Unparsed { .. } => 1,
        }
    }

    /// Why it is not forwarded whatever the rules say.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Statements(statements) => statements.iter().find_map(|it| match &it.class {
                Class::Refused { reason } => Some(reason.as_str()),
                Class::Untouched | Class::Plain { .. } | Class::Traced { .. } => None,
            }),
            Self::Unparsed { reason, refused: true, .. } => Some(reason),
            Self::Empty | Self::Unparsed { .. } => None,
        }
    }

    /// Whether it would let a session write that is only to read.
    pub fn lets_write(&self) -> bool {
        match self {
            Self::Statements(statements) => statements.iter().any(|it| it.lets_write),
            Self::Empty => false,
            Self::Unparsed { .. } => true,
        }
    }

    /// The text as records, approvals and notices show it.
    pub fn redacted(&self) -> String {
        match self {
            Self::Statements(statements) => {
                let texts: Vec<&str> = statements.iter().map(|it| it.redacted.as_str()).collect();
                texts.join("; ")
            }
            Self::Empty => String::new(),
            Self::Unparsed { redacted, .. } => redacted.clone(),
        }
    }

    /// Bytes of memory that it takes, more or less: a short text can say a lot.
    pub fn size(&self) -> usize {
        match self {
            Self::Statements(statements) => statements.iter().map(Statement::size).sum(),
            Self::Empty => 0,
            Self::Unparsed { reason, redacted, .. } => reason.len() + redacted.len(),
        }
    }

    pub(super) fn unparsed(reason: impl Into<String>, redacted: String, set: &TaggedSet) -> Self {
        Self::Unparsed { reason: reason.into(), redacted, refused: !set.is_empty() }
    }
}

impl Statement {
    /// Whether it calls nothing but functions that give a value and do nothing else.
    pub(super) fn only_computes(&self) -> bool {
        self.actions.iter().flat_map(|it| &it.functions).all(|it| functions::only_computes(it))
    }

    fn size(&self) -> usize {
        let relations = match &self.class {
            Class::Plain { relations } => size_of_names(relations),
            Class::Traced { relations, query } => size_of_names(relations) + query.size(),
            Class::Refused { reason } => reason.len(),
            Class::Untouched => 0,
        };
        let unknown = self.unknown_relations.iter().map(|(schema, name)| {
            size_of::<(Option<String>, String)>() + name.len() + schema.as_ref().map_or(0, String::len)
        });
        let actions = self.actions.iter().map(Action::size);
        let by_place = self.all_columns.by_place.iter().map(|it| size_of::<String>() + it.len()).sum::<usize>();
        size_of::<Self>() + self.redacted.len() + by_place + relations + actions.chain(unknown).sum::<usize>()
    }

    /// True if it writes a schema before each of its tables, so that these cannot become others.
    pub(super) fn is_qualified(&self) -> bool {
        self.actions.iter().flat_map(|action| &action.tables).all(|table| table.schema.is_some())
    }

    /// True if what the catalog was read as may no longer hold after it.
    pub fn changes_catalog(&self) -> bool {
        let changes = |kind| matches!(kind, Kind::Create | Kind::Alter | Kind::Drop | Kind::Do | Kind::Call);
        self.actions.iter().any(|it| changes(it.kind))
    }
}

/// Whether a text has names, written or escaped, that a server with another encoding than UTF-8 may cut and fold otherwise
/// than the grammar here does.
pub(super) fn has_names_beyond_ascii(sql: &str) -> bool {
    let escapes = sql.as_bytes().windows(2).any(|it| it.eq_ignore_ascii_case(b"U&"));
    if sql.is_ascii() && !escapes {
        return false;
    }
    let beyond = |token: &ScanToken| {
        let range = usize::try_from(token.start).ok().zip(usize::try_from(token.end).ok());
        let text = range.and_then(|(start, end)| sql.get(start..end));
        match token.token() {
            Token::Uident => true,
            Token::Sconst | Token::Usconst | Token::SqlComment | Token::CComment => false,
            _ => !text.is_some_and(str::is_ascii),
        }
    };
    Lexed::new(sql).map_or(true, |it| it.has_body() || it.tokens.iter().any(beyond))
}

/// Understands a text. Runs on the caller's stack, which must be [`PARSER_STACK`] large: see [`Analyser`] and
/// [`analyse_blocking`].
fn analyse(sql: &str, set: &TaggedSet) -> Parsed {
    match Lexed::new(sql) {
        Ok(lexed) => lexed.analyse(set, &mut { MAX_STEPS }),
        Err(reason) => Parsed::unparsed(reason, text::fingerprint(sql), set),
    }
}

/// A text within bounds, and its tokens.
struct Lexed<'a> {
    sql: &'a str,
    tokens: Vec<ScanToken>,
    nesting: usize,
}

impl<'a> Lexed<'a> {
    fn new(sql: &'a str) -> Result<Self, String> {
        if sql.len() > MAX_STATEMENT_BYTES {
            return Err(format!("the text is {} bytes long, the limit is {MAX_STATEMENT_BYTES}", sql.len()));
        }
        if sql.contains('\0') {
            return Err("the text has a zero byte".to_owned());
        }
        // Of a text without tokens the crate makes a slice from a null pointer.
        let is_blank = sql.bytes().all(|it| matches!(it, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c'));
        let tokens = if is_blank { Vec::new() } else { pg_query::scan_tokens(sql).map_err(|error| spoken(&error))? };
        let nesting = text::nesting(&tokens);
        Ok(Self { sql, tokens, nesting })
    }

    fn is_small(&self) -> bool {
        self.sql.len() <= INLINE_BYTES && self.nesting <= INLINE_NESTING && !self.has_body()
    }

    /// Whether one of its strings is code that it runs, whose nesting and names the text's own tokens do not show.
    fn has_body(&self) -> bool {
        let mut words = inner::words(&self.tokens).map(ScanToken::token).peekable();
        let begins_body = |it: &Token| matches!(it, Token::Sconst | Token::Usconst | Token::Language);
        std::iter::from_fn(|| words.next().map(|it| (it, words.peek().copied())))
            .any(|(word, next)| word == Token::Do && next.as_ref().is_some_and(begins_body))
    }

    fn analyse(&self, set: &TaggedSet, left: &mut usize) -> Parsed {
        match self.understand(set, left) {
            Ok(parsed) => parsed,
            Err(reason) => {
                let shown = text::redact(self.sql, 0..self.sql.len(), &self.tokens, Hide::Unread);
                Parsed::unparsed(reason, shown, set)
            }
        }
    }

    /// What the text is to the parser, if it is within bounds.
    fn tree(&self) -> Result<ParseResult, String> {
        if self.nesting > MAX_NESTING {
            return Err(format!("the statement is nested too deeply, the limit is {MAX_NESTING} levels"));
        }
        if self.tokens.len() > MAX_TOKENS {
            return Err(format!("the text has {} tokens, the limit is {MAX_TOKENS}", self.tokens.len()));
        }
        if text::repetition(&self.tokens).saturating_mul(self.tokens.len()) > MAX_EXPANSION {
            return Err("the statement assigns too many columns at once from one expression".to_owned());
        }
        // The crate indexes into trees; a panic there is a text that is not understood, not the end of a session.
        let result = catch_unwind(|| pg_query::parse(self.sql, 0)).map_err(|_| "the parser failed".to_owned())?;
        Ok(result.map_err(|error| spoken(&error))?.protobuf)
    }

    fn understand(&self, set: &TaggedSet, left: &mut usize) -> Result<Parsed, String> {
        let tree = self.tree()?;
        let statements: Result<Vec<Statement>, String> =
            tree.stmts.iter().map(|it| self.statement(it, set, left)).collect();
        let statements = statements?;
        if statements.iter().filter(|it| it.name.is_some()).count() > MAX_NAMES {
            return Err(format!("more than {MAX_NAMES} of its statements make or use prepared statements or cursors"));
        }
        if statements.iter().flat_map(|it| &it.actions).map(Action::record_size).sum::<usize>() > MAX_FACTS {
            return Err("it does more at once than one record can hold".to_owned());
        }
        Ok(if statements.is_empty() { Parsed::Empty } else { Parsed::Statements(statements) })
    }

    fn statement(&self, raw: &RawStmt, set: &TaggedSet, left: &mut usize) -> Result<Statement, String> {
        let text_range = self.range(raw).ok_or("a statement outside of its text")?;
        let node = raw.stmt.as_deref().ok_or("a statement without a tree")?;
        let (actions, seen) = walk::walk(node, set, left)
            .map_err(|unknown| format!("the statement has a part not understood here: {}", unknown.0))?;
        let class = classify(&seen, &actions, self.query_within(node, &text_range), set);
        let hide = match &class {
            Class::Plain { .. } | Class::Traced { .. } | Class::Refused { .. } if !set.is_empty() => {
                Hide::Literals { shown: &seen.shown }
            }
            _ if seen.secret_strings => Hide::Strings,
            _ => Hide::Passwords,
        };
        let redact_parameters = match hide {
            Hide::Literals { shown } => seen.parameters.iter().any(|it| !shown.contains(it)),
            Hide::Strings | Hide::Unread => true,
            Hide::Passwords => false,
        };
        let redacted = text::redact(self.sql, text_range.clone(), &self.tokens, hide);
        let unknown_relations = seen.unknown.into_iter().collect();
        Ok(Statement {
            text_range,
            actions,
            class,
            redacted,
            redact_parameters,
            unknown_relations,
            name: seen.name,
            lets_write: seen.lets_write,
            keeps_meanings: seen.keeps_meanings,
            all_columns: seen.all_columns,
        })
    }

    /// What of a statement can be traced: the query of a cursor, a query or a change that is prepared, that of a COPY, of an EXPLAIN or of a new
    /// table, if it is one of those; some of many rows. Only where rows can be masked: none of a cursor whose rows come in binary, and none whose
    /// parameters have types that are written.
    fn query_within(&self, node: &Node, statement: &Range<usize>) -> Query {
        self.query_of(node, statement).unwrap_or(Query::Itself)
    }

    fn query_of(&self, node: &Node, statement: &Range<usize>) -> Option<Query> {
        const BINARY: i32 = 1;
        let is_select = |query: &Option<Box<Node>>| {
            matches!(query.as_deref().and_then(|it| it.node.as_ref()), Some(NodeEnum::SelectStmt(_)))
        };
        let tokens = self.tokens_within(statement);
        // Both words are reserved, so that no name before them can be one.
        let before = match &node.node {
            Some(NodeEnum::DeclareCursorStmt(it)) if is_select(&it.query) && it.options & BINARY == 0 => Token::For,
            Some(NodeEnum::PrepareStmt(it)) if it.argtypes.is_empty() => Token::As,
            Some(NodeEnum::InsertStmt(it)) => {
                return sample::sample(it, tokens, self.sql, statement).map(Query::Sampled);
            }
            Some(NodeEnum::CopyStmt(it)) if it.is_from => return copy::taken(it, tokens, self.sql, statement.end),
            Some(NodeEnum::CopyStmt(it)) => {
                let form = copy::form(it)?;
                let query = match &it.relation {
                    Some(relation) => copy::of_table(relation, &it.attlist)?,
                    None if is_select(&it.query) => self.sql.get(copy::in_brackets(tokens)?)?.to_owned(),
                    None => return None,
                };
                return Some(Query::Copied { query, form });
            }
            Some(NodeEnum::ExplainStmt(it)) => {
                return Some(Query::Planned {
                    range: inner::explained(it, tokens)?..statement.end,
                    plan: inner::plan_type(it)?,
                });
            }
            Some(NodeEnum::CreateTableAsStmt(it))
                if it.objtype() == ObjectType::ObjectTable && !it.is_select_into && is_select(&it.query) =>
            {
                return inner::kept(tokens).map(Query::Kept);
            }
            _ => return None,
        };
        let before = tokens.iter().find(|it| it.token() == before)?;
        Some(Query::Made(usize::try_from(before.end).ok()?..statement.end))
    }

    fn tokens_within(&self, statement: &Range<usize>) -> &[ScanToken] {
        let starts_in = |limit| self.tokens.partition_point(|it| usize::try_from(it.start).is_ok_and(|at| at < limit));
        self.tokens.get(starts_in(statement.start)..starts_in(statement.end)).unwrap_or_default()
    }

    /// A statement's place in the text, without the white space around it.
    fn range(&self, raw: &RawStmt) -> Option<Range<usize>> {
        let start = usize::try_from(raw.stmt_location).ok()?;
        let length = usize::try_from(raw.stmt_len).ok()?;
        let end = if length == 0 { self.sql.len() } else { start.checked_add(length)? };
        let text = self.sql.get(start..end)?;
        let start = start + (text.len() - text.trim_ascii_start().len());
        Some(start..start + text.trim_ascii().len())
    }
}

/// A parser's message without the part of the text that it quotes.
fn spoken(error: &pg_query::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at or near ").next().unwrap_or_default();
    let message = message.split(" at end of input").next().unwrap_or_default();
    // Other messages quote names and values too.
    let message = message.split('"').next().unwrap_or_default().trim_end();
    message.to_owned()
}

/// What the walk saw, as the one word that the relay acts on. The order is from the reasons that hold on any target, by way
/// of those that hold on a target with tagged data, to those of this statement.
fn classify(seen: &Seen, actions: &[Action], query: Query, set: &TaggedSet) -> Class {
    let refused = |reason: String| Class::Refused { reason };
    if seen.name.as_ref().is_some_and(|it| it.word().as_bytes() == OWN_NAME) {
        return refused(own_name());
    }
    if let Some(reason) = &seen.pinned {
        return refused(reason.clone());
    }
    if set.is_empty() {
        return Class::Untouched;
    }
    if let Some(reason) = &seen.hazard {
        return refused(format!("{reason}; this target has masked columns"));
    }
    if let Some(code) = &seen.opaque_code {
        return refused(format!(
            "{code} is not known to be harmless: it could read masked columns of this target where the gateway cannot see"
        ));
    }
    if seen.touched.is_empty() {
        return match seen.name {
            // What it shows was decided when the name was made; its result tells.
            Some(Name::Executes(_) | Name::Fetches(_)) => Class::Plain { relations: Vec::new() },
            _ => Class::Untouched,
        };
    }
    let relations = || seen.touched.iter().map(|it| it.relation.clone()).collect();
    // The first action is then that of making the cursor, or the name, or of copying.
    let is_within = query.is_within();
    let queries = actions.get(usize::from(is_within)..).unwrap_or_default();
    let takes_rows = matches!(query, Query::Taken { .. });
    let only_reads = !seen.writes_values && !takes_rows && queries.iter().all(|it| it.kind == Kind::Select);
    let runs_nothing = matches!(query, Query::Planned { .. }) && queries.iter().all(is_query);
    if (only_reads || runs_nothing) && seen.effect.is_none() && (seen.wrapper.is_none() || is_within) {
        return Class::Traced { relations: relations(), query };
    }
    // The server's tree tells what is written, and by what rows are chosen. What is prepared is judged anew when it is executed.
    let changes =
        takes_rows || matches!(query, Query::Made(_)) || seen.wrapper.is_none() && !is_plain_insert(seen, actions);
    let is_traced = changes && queries.iter().all(is_query);
    match touching(seen, is_traced) {
        Some(reason) if !seen.shows_nothing => refused(reason),
        _ if is_traced => Class::Traced { relations: relations(), query },
        _ => Class::Plain { relations: relations() },
    }
}

fn size_of_names(names: &[String]) -> usize {
    names.iter().map(|it| size_of::<String>() + it.len()).sum()
}

/// An action of a query, or of a change of rows.
fn is_query(action: &Action) -> bool {
    matches!(action.kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge)
}

/// Whether all that an action does is undone by a rollback, as far as its text tells: it calls nothing but functions that compute.
pub(super) fn is_undone_by_rollback(action: &Action) -> bool {
    is_query(action) && action.functions.iter().all(|it| functions::only_computes(it))
}

/// An INSERT of which the text tells all: it reads nothing that is tagged, writes no tagged column, and no key has one.
fn is_plain_insert(seen: &Seen, actions: &[Action]) -> bool {
    let reads = seen.reads_tagged || seen.stores_tagged.is_some() || seen.whole_row.is_some() || seen.returns_computed;
    matches!(actions, [only] if only.kind == Kind::Insert) && !reads && !seen.inserts_tagged && !seen.mixed
}

/// Of a statement that has the name of the gateway's own ones.
fn own_name() -> String {
    format!("{:?} is the name of the gateway's own statements; take another", String::from_utf8_lossy(OWN_NAME))
}

/// Why a statement that names tagged data cannot be masked, if so; `is_traced`: without what the server's tree tells better.
fn touching(seen: &Seen, is_traced: bool) -> Option<String> {
    if let Some(derived) = seen.touched.iter().find(|it| it.exposure == Exposure::Derived) {
        let name = &derived.relation;
        return Some(format!("{name} shows values of masked columns under other names; query the masked table itself"));
    }
    let tables = seen.touched.iter().map(|it| it.relation.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(word) = seen.wrapper.filter(|_| !is_traced) {
        return Some(format!("{word} is not possible here on {tables}, which has masked columns"));
    }
    if let Some(function) = &seen.effect {
        return Some(format!("{function} beside {tables}, which has masked columns, could carry their values away"));
    }
    if let Some(column) = &seen.writes_tagged {
        let column = if column == "*" { "all of its columns" } else { column };
        return Some(format!(
            "{tables} has masked columns, and the statement writes {column}: a masked value written back \
                             would destroy the real one; name the columns to write, without the masked ones"
        ));
    }
    if is_traced {
        return None;
    }
    if let Some(column) = &seen.stores_tagged {
        let column = if column == "*" { "a whole row" } else { column };
        return Some(format!("the statement would copy {column} of {tables} to where it is not masked"));
    }
    if seen.writes_values && seen.reads_tagged {
        return Some(format!("the statement would copy data of {tables}, which has masked columns, into a table"));
    }
    if let Some(row) = &seen.whole_row {
        return Some(format!("{row} as a whole row cannot be masked; name its columns"));
    }
    None
}

/// Understands texts: small ones at once, others on threads of its own whose stacks are large enough for any text.
#[derive(Debug)]
pub struct Analyser {
    queue: mpsc::Sender<Job>,
    patience: Duration,
}

#[derive(Debug)]
enum Job {
    Understand { sql: Arc<str>, set: Arc<TaggedSet>, reply: oneshot::Sender<Parsed> },
    WriteOut { sql: String, reply: oneshot::Sender<Option<String>> },
}

impl Analyser {
    /// Starts the threads; they end when the analyser is dropped.
    pub fn new(threads: usize) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            let thread = thread::Builder::new().name(format!("sql-{number}")).stack_size(PARSER_STACK);
            thread.spawn(move || work(&jobs))?;
        }
        Ok(Self { queue, patience: ANSWER_TIMEOUT })
    }

    /// Understands a text; from any runtime. An error is what stands for a text that nobody got to in time: the next try may
    /// fare better.
    pub async fn analyse(&self, sql: &Arc<str>, set: &Arc<TaggedSet>) -> Result<Arc<Parsed>, Arc<Parsed>> {
        if let Some(parsed) = at_once(sql, set) {
            return Ok(Arc::new(parsed));
        }
        let unparsed = |reason: &str| Arc::new(Parsed::unparsed(reason, text::fingerprint(sql), set));
        match timeout(self.patience, self.on_a_thread(sql, set)).await {
            Ok(Some(parsed)) => Ok(Arc::new(parsed)),
            Ok(None) => Ok(unparsed("the parser failed")),
            Err(_elapsed) => Err(unparsed("the gateway is busy with other statements; try again later")),
        }
    }

    async fn on_a_thread(&self, sql: &Arc<str>, set: &Arc<TaggedSet>) -> Option<Parsed> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Job::Understand { sql: Arc::clone(sql), set: Arc::clone(set), reply }).await.ok()?;
        answer.await.ok()
    }

    /// A text as the parser understood it, written out anew: without comments, with every name as it is meant. None where that is
    /// what the text says already, but for white space and case, or where it cannot be told in time.
    pub(super) async fn written_out(&self, sql: &str) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.queue.send(Job::WriteOut { sql: sql.to_owned(), reply }).await.ok()?;
            answer.await.ok()?
        };
        timeout(self.patience, asked).await.ok()?
    }
}

/// A small text, understood on this stack; None for others.
fn at_once(sql: &str, set: &TaggedSet) -> Option<Parsed> {
    if sql.len() > INLINE_BYTES {
        return None;
    }
    match Lexed::new(sql) {
        Ok(lexed) if lexed.is_small() => {
            let mut left = INLINE_STEPS;
            let parsed = lexed.analyse(set, &mut left);
            (left > 0).then_some(parsed)
        }
        Ok(_) => None,
        Err(reason) => Some(Parsed::unparsed(reason, text::fingerprint(sql), set)),
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let Ok(mut waiting) = jobs.lock() else { return };
        let Some(job) = waiting.blocking_recv() else { return };
        drop(waiting);
        match job {
            Job::Understand { sql, set, reply } => answer(reply, || analyse(&sql, &set)),
            Job::WriteOut { sql, reply } => answer(reply, || written_out(&sql)),
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, find: impl FnOnce() -> T) {
    // Whoever asked has left, or waited for too long: nothing is done for nobody.
    if reply.is_closed() {
        return;
    }
    // A panic drops the reply, and the one who waits hears of that.
    if let Ok(found) = catch_unwind(AssertUnwindSafe(find)) {
        // Nobody waits any more if the session has ended.
        let _ = reply.send(found);
    }
}

/// See [`Analyser::written_out`]. What is written out must be understood as the text is.
fn written_out(sql: &str) -> Option<String> {
    let plain = |sql: &str| {
        sql.chars().filter(|it| !it.is_whitespace() && *it != ';').flat_map(char::to_lowercase).collect::<String>()
    };
    let lexed = Lexed::new(sql).ok().filter(|it| !it.tokens.is_empty() && it.nesting <= WRITTEN_NESTING)?;
    let in_lines = DeparseOptions { pretty_print: true, ..DeparseOptions::default() };
    let written = pg_query::parse(lexed.sql, 0).ok()?.deparse(in_lines).ok()?;
    let meaning = |sql: &str| Some(pg_query::fingerprint(sql, 0, FingerprintOptions::FULL_RELNAME).ok()?.value);
    let is_same = meaning(&written)? == meaning(sql)?;
    (is_same && !written.is_empty() && plain(&written) != plain(sql)).then_some(written)
}

/// Understands a text on a thread made for it: for the command line and for tests.
pub fn analyse_blocking(sql: &str, set: &TaggedSet) -> Parsed {
    let understood = thread::scope(|scope| {
        let thread = thread::Builder::new().name("sql".to_owned()).stack_size(PARSER_STACK);
        thread.spawn_scoped(scope, || analyse(sql, set)).ok().and_then(|it| it.join().ok())
    });
    understood.unwrap_or_else(|| Parsed::unparsed("the parser failed", text::fingerprint(sql), set))
}
