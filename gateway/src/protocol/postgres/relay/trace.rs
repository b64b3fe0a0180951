//! Having the target tell where the columns of a statement's result come from, before the statement runs: see
//! [`lineage`](crate::protocol::postgres::lineage).
//!
//! The target is asked in the client's own session, so that names mean what they mean there: with its search path, its role, its
//! temporary tables and what its transaction has made. Its settings are set for a transaction of the gateway's own, or behind
//! a savepoint of the client's, and go back with it.

use std::sync::Arc;

use super::decide::{Answer, DENIED, Outcome};
use super::{Encoding, End, PROBE, Relay};
use crate::policy::{Action, Kind};
use crate::protocol::postgres::catalog::TaggedSet;
use crate::protocol::postgres::lineage::Lineage;
use crate::protocol::postgres::operation::{Class, Query, Sample, Statement};
use crate::protocol::postgres::reply::{BY_COMMAND, Checked, Fault, Own, Until};
use crate::protocol::postgres::shared::{Catalog, Remembered};
use crate::protocol::postgres::statement::Judged;
use crate::protocol::postgres::traced;
use crate::protocol::postgres::wire::{self, Malformed, Report, Severity, TransactionState};

/// Has the target print what it makes of a statement, to the client alone. What it logs of this is in the documentation.
const PRINT: &str = "\
    SELECT pg_catalog.set_config('client_min_messages', 'log', true), \
           pg_catalog.set_config('debug_pretty_print', 'off', true), \
           pg_catalog.set_config('debug_print_rewritten', 'on', true)";
/// The same, with what the settings were before: within a batch there is nothing to go back with.
const PRINT_AND_KEEP: &str = "\
    SELECT pg_catalog.current_setting('client_min_messages'), pg_catalog.current_setting('debug_pretty_print'), \
           pg_catalog.current_setting('debug_print_rewritten'), \
           pg_catalog.set_config('client_min_messages', 'log', true), \
           pg_catalog.set_config('debug_pretty_print', 'off', true), \
           pg_catalog.set_config('debug_print_rewritten', 'on', true)";
const KEPT: [&str; 3] = ["client_min_messages", "debug_pretty_print", "debug_print_rewritten"];
pub(super) const NEW_COLUMNS: &str =
    "a table of the statement has columns that are newer than what is known of its masks; run the statement once more";
const NOT_UTF8: &str =
    "statements that read masked columns are not traced in a database that is not in UTF-8 or LATIN1";
/// Around the statement, where no transaction is open and where one is.
const OUTSIDE: (&str, &[&str]) = ("BEGIN", &["ROLLBACK"]);
pub(super) const WITHIN: (&str, &[&str]) =
    ("SAVEPOINT weir_probe", &["ROLLBACK TO SAVEPOINT weir_probe", "RELEASE SAVEPOINT weir_probe"]);
/// Of a statement whose parameters the client gives no types: a count, as [`wire::Parse`] has it.
pub(super) const NO_TYPES: &[u8] = &[0, 0];
/// Before, of the statement, after.
pub(super) const READINESSES: u32 = 3;

/// A text, and the types of its parameters.
type Key = (Arc<str>, Arc<[u8]>);

/// What a session knows of the results of statements that it prepares, by their texts and the types of their parameters.
#[derive(Default)]
pub(super) struct Traces {
    known: Remembered<Key, Arc<Known>>,
    /// The same for simple queries that differ in numbers only, by their template.
    by_template: Remembered<Arc<str>, Arc<Known>>,
    /// The session has changed what names may mean: what is found out is good for one batch.
    forgetful: bool,
}

/// What is known of a text's result, and when it was found out. The error says why it is refused.
pub(in crate::protocol::postgres) struct Known {
    catalog: Arc<Catalog>,
    batch: u64,
    pub(in crate::protocol::postgres) found: Result<Checked, String>,
}

/// What the target is asked about.
pub(super) struct Question {
    catalog: Arc<Catalog>,
    text: String,
    /// The types that the client gives its parameters: a count, as [`wire::Parse`] has it, and what is counted.
    types: Arc<[u8]>,
    /// What it is to the statement.
    query: Query,
    /// It writes a schema before each table that it names.
    qualified: bool,
}

impl Question {
    /// About the query that a statement is, or has in it.
    pub(super) fn new(judged: &Judged, statement: &Statement, types: Arc<[u8]>) -> Result<Self, Malformed> {
        let query = if let Class::Traced { query, .. } = &statement.class { query.clone() } else { Query::Itself };
        let whole = || judged.source(statement);
        let (text, types) = match &query {
            Query::Sampled(sample) => match types_of(sample, &types)? {
                Some(types) => (sample.text.as_str(), types),
                None => (whole(), types),
            },
            // Its parameters are the gateway's own.
            Query::Taken { insert, .. } => (insert.as_str(), Arc::from(NO_TYPES)),
            other => (other.text(&judged.text).unwrap_or_else(whole), types),
        };
        let (text, qualified) = (text.to_owned(), statement.is_qualified());
        Ok(Self { catalog: Arc::clone(&judged.catalog), text, types, query, qualified })
    }

    pub(super) fn set(&self) -> &TaggedSet {
        &self.catalog.set
    }

    /// The same, where the client gives no types.
    pub(super) fn untyped(judged: &Judged, statement: &Statement) -> Result<Self, Malformed> {
        Self::new(judged, statement, Arc::from(NO_TYPES))
    }
}

/// What tracing a statement has brought.
pub(super) enum Traced {
    Clean(Checked),
    Unclean(String),
    /// The target itself does not take the statement; its error, unless the client was told.
    Failed(Option<Vec<u8>>),
    /// The open batch has failed at the target by what the gateway asked for itself; why the statement is refused.
    Broken(String),
}

/// Statements after which a name may mean something else to the target.
fn changes_meanings(action: &Action) -> bool {
    matches!(
        action.kind,
        Kind::Set
            | Kind::SetRole
            | Kind::Discard
            | Kind::Create
            | Kind::Alter
            | Kind::Drop
            | Kind::Grant
            | Kind::Revoke
            | Kind::Do
            | Kind::Call
            | Kind::Unparsed
    )
}

/// Whether a text has such statements.
pub(super) fn has_changes_of_meaning(judged: &Judged) -> bool {
    match judged.statements() {
        [] => judged.judgement.operation().actions.iter().any(changes_meanings),
        statements => statements.iter().any(|it| !it.keeps_meanings && it.actions.iter().any(changes_meanings)),
    }
}

/// The same for a statement that the same text has before another one: the end of a transaction takes changes back, too.
pub(super) fn may_change_meanings(judged: &Judged, statement: &Statement) -> bool {
    let word = judged.source(statement);
    let word = word.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let begins = ["BEGIN", "START"].iter().any(|it| word.eq_ignore_ascii_case(it));
    let changes = |it: &Action| changes_meanings(it) && !statement.keeps_meanings;
    statement.actions.iter().any(|it| changes(it) || it.kind == Kind::Transaction && !begins)
}

impl Traces {
    /// A statement is on its way after which names may mean something else.
    pub(super) fn meanings_change(&mut self) {
        *self = Self { forgetful: true, ..Self::default() };
    }

    /// A transaction may have ended, and taken such changes back.
    pub(super) fn transaction_ends(&mut self) {
        self.next_batch();
    }

    pub(super) fn next_batch(&mut self) {
        if self.forgetful {
            *self = Self { forgetful: true, ..Self::default() };
        }
    }
}

impl Known {
    /// Whether it is good for a text in a batch: until the catalog is read anew, if nothing of the database's own is in it that
    /// somebody may replace meanwhile.
    fn is_current(&self, batch: u64, judged: &Judged) -> bool {
        let lineage = self.found.as_ref().ok().and_then(|it| it.lineage.as_ref());
        let is_plain = lineage.is_none_or(|it| !it.by_code);
        self.batch == batch || is_plain && Arc::ptr_eq(&self.catalog, &judged.catalog)
    }

    /// Bytes of memory that it takes, more or less.
    pub(in crate::protocol::postgres) fn size(&self) -> usize {
        self.found.as_ref().map_or_else(String::len, Checked::size)
    }
}

impl Relay<'_> {
    /// Where the columns of a statement's result come from, by the target's word. The target owes nothing.
    pub(super) async fn trace(&mut self, question: &Question) -> Result<Traced, End> {
        if self.encoding == Encoding::Other {
            // A value that is cut, or has no equivalent in the client's encoding, fails as it is sent.
            return Ok(Traced::Unclean(NOT_UTF8.to_owned()));
        }
        let (before, after) = match self.replies.state {
            TransactionState::Idle => OUTSIDE,
            TransactionState::Open => WITHIN,
            TransactionState::Failed => return Ok(Traced::Failed(None)),
        };
        let state = self.replies.state;
        let mut out = Vec::new();
        command(&mut out, before);
        command(&mut out, PRINT);
        wire::message(&mut out, b'S', |_| {});
        prepare(&mut out, &question.text, &question.types);
        name(&mut out, b'D', b'S');
        name(&mut out, b'C', b'S');
        wire::message(&mut out, b'S', |_| {});
        for text in after {
            command(&mut out, text);
        }
        wire::message(&mut out, b'S', |_| {});

        let answer = self.ask(&out, Until::Traced(READINESSES)).await?;
        self.must_be_back(state)?;
        // Where the settings were refused, the statement has failed by that.
        if let Some(error) = answer.around {
            return Ok(Traced::Unclean(not_shown(&error)));
        }
        if answer.error.is_some() {
            return Ok(Traced::Failed(answer.error));
        }
        self.found(question, answer)
    }

    /// After a question of the gateway's own the client's transaction is what it was, or the session ends: what the gateway has begun
    /// could not be taken back (a cancel request that came within it), and the client would go on in it.
    pub(super) fn must_be_back(&self, state: TransactionState) -> Result<(), End> {
        if self.replies.state == state { Ok(()) } else { Err(Fault::NotBack.into()) }
    }

    /// The same in an open batch, of which something has run or waits: nothing may end it. The settings are set back by hand,
    /// for a transaction that the client goes on with. Where the target does not take the statement, the batch has failed, as
    /// it would have by the client's own, and the client is told.
    async fn trace_in_batch(&mut self, question: &Question) -> Result<Traced, End> {
        if self.encoding == Encoding::Other {
            return Ok(Traced::Unclean(NOT_UTF8.to_owned()));
        }
        let mut out = Vec::new();
        command(&mut out, PRINT_AND_KEEP);
        prepare(&mut out, &question.text, &question.types);
        name(&mut out, b'D', b'S');
        name(&mut out, b'C', b'S');
        wire::message(&mut out, b'H', |_| {});
        let answer = self.ask(&out, Until::Closed(BY_COMMAND + 1)).await?;
        if let Some(error) = &answer.error {
            self.replies.skipping = true;
            self.tell_not_taken(error);
            return Ok(Traced::Failed(None));
        }
        if let Some(error) = &answer.around {
            self.replies.skipping = true;
            return Ok(Traced::Broken(not_shown(error)));
        }
        let Some(row) = answer.rows.first() else { return Err(Fault::Unexpected('C').into()) };
        let mut out = Vec::new();
        command(&mut out, &set_back(row)?);
        wire::message(&mut out, b'H', |_| {});
        let set = self.ask(&out, Until::Closed(BY_COMMAND)).await?;
        if let Some(error) = set.error.or(set.around) {
            self.replies.skipping = true;
            return Ok(Traced::Broken(not_shown(&error)));
        }
        self.found(question, answer)
    }

    /// What the target's answer tells, if the catalog has all of the tables' columns, or this session makes some that nobody else sees.
    fn found(&mut self, question: &Question, answer: Own) -> Result<Traced, End> {
        let traced = found(question, answer)?;
        let news = matches!(&traced, Traced::Clean(it) if it.lineage.as_ref().is_some_and(|it| it.has_news));
        if !news || self.sees_its_own() {
            return Ok(traced);
        }
        self.is_outdated = true;
        Ok(Traced::Unclean(NEW_COLUMNS.to_owned()))
    }

    /// Refuses a statement with whose trace its batch has failed at the target, on record: nothing of it can run any more, also
    /// where policy only observes.
    pub(super) async fn refuse_broken(&mut self, judged: &Judged, reason: String) -> Result<(), End> {
        let refused = judged.refused(self.session, reason.clone());
        if let Outcome::Permit(permit) = self.decide(&refused, judged, 0..0, None, Answer::Broken).await? {
            self.not_run(permit, &reason).await?;
            self.tell(&Report::new(Severity::Error, DENIED, reason));
        }
        Ok(())
    }

    /// Traces where a batch may be open. The target owes nothing.
    pub(super) async fn trace_now(&mut self, question: &Question) -> Result<Traced, End> {
        if self.forwarded.any { self.trace_in_batch(question).await } else { self.trace(question).await }
    }

    /// Traces a statement of the extended protocol before it is bound. None: it needs no trace, or the target does not take it.
    pub(super) async fn trace_ahead(
        &mut self,
        judged: &Arc<Judged>,
        types: &Arc<[u8]>,
    ) -> Result<Option<Arc<Known>>, End> {
        let [statement] = judged.statements() else { return Ok(None) };
        if !is_traced(judged) || judged.is_denied() {
            return Ok(None);
        }
        let is_current = |it: &Arc<Known>| it.is_current(self.batch, judged);
        let key = (Arc::clone(&judged.text), Arc::clone(types));
        if let Some(known) = self.traces.known.get(&key).filter(is_current) {
            return Ok(Some(known));
        }
        self.drain().await?;
        if self.replies.skipping {
            return Ok(None);
        }
        let question = Question::new(judged, statement, Arc::clone(types))?;
        let found = match self.trace_now(&question).await? {
            Traced::Clean(checked) => Ok(checked),
            Traced::Unclean(reason) => Err(reason),
            Traced::Failed(Some(error)) if question.query.is_within() => Err(not_taken(&error)),
            // It will tell so itself.
            Traced::Failed(_) => return Ok(None),
            Traced::Broken(reason) => {
                self.refuse_broken(judged, reason).await?;
                return Ok(None);
            }
        };
        let known = Arc::new(Known { catalog: Arc::clone(&judged.catalog), batch: self.batch, found });
        let size = judged.text.len() + types.len() + known.size();
        self.traces.known.put(key, Arc::clone(&known), size);
        Ok(Some(known))
    }

    /// What is known of a simple query that only reads, and shows what it did before: the target's description of it comes
    /// before its rows, and one that is another ends the session.
    pub(super) fn traced_before(&mut self, judged: &Judged) -> Option<Checked> {
        let known = match &judged.template {
            Some(template) => self.traces.by_template.get(template),
            None => self.traces.known.get(&(Arc::clone(&judged.text), Arc::from(NO_TYPES))),
        };
        let known = known.filter(|it| only_reads(judged) && it.is_current(self.batch, judged))?;
        known.found.clone().ok()
    }

    /// Remembers it of a simple query that was traced.
    pub(super) fn remember_trace(&mut self, judged: &Judged, found: &Checked) {
        if !only_reads(judged) {
            return;
        }
        let known = Known { catalog: Arc::clone(&judged.catalog), batch: self.batch, found: Ok(found.clone()) };
        let size = judged.text.len() + known.size();
        match &judged.template {
            Some(template) => self.traces.by_template.put(Arc::clone(template), Arc::new(known), size),
            None => self.traces.known.put((Arc::clone(&judged.text), Arc::from(NO_TYPES)), Arc::new(known), size),
        }
    }

    /// Counts what a statement looks rows up by. The error says why it may not.
    pub(super) fn look_up(&self, set: &TaggedSet, lineage: &Lineage) -> Result<(), String> {
        let agent = &self.session.principal.agent;
        lineage.lookups.iter().try_for_each(|&column| self.state.lookups.take(agent, set, column))
    }
}

/// What a target's answer tells of a statement's result.
fn found(question: &Question, answer: Own) -> Result<Traced, End> {
    let Some(columns) = answer.columns else { return Err(Fault::Unexpected('Z').into()) };
    let tree = match answer.trees.as_slice() {
        [tree] => std::str::from_utf8(tree).ok(),
        _ => None,
    };
    let Some(tree) = tree else {
        return Ok(Traced::Unclean("the target did not print one tree of the statement that can be read".to_owned()));
    };
    Ok(match traced::checked(&question.query, tree, columns, &question.catalog.set, question.qualified) {
        Ok(checked) => Traced::Clean(checked),
        Err(reason) => Traced::Unclean(reason),
    })
}

/// The types of a sample's parameters, by those that a client gives the statement's. Each that is left out has some, since the server
/// finds out none. None: it has another one than what stands for it, and so it may be converted by other code.
fn types_of(sample: &Sample, given: &Arc<[u8]>) -> Result<Option<Arc<[u8]>>, Malformed> {
    const UNKNOWN: [u32; 2] = [0, 705];
    const TEXT: u32 = 25;
    let mut fields = wire::Fields::new(given);
    let mut types = Vec::new();
    for _ in 0..fields.count()? {
        types.push(fields.u32()?);
    }
    let of = |number: &u16| number.checked_sub(1).and_then(|at| types.get(usize::from(at))).copied().unwrap_or(0);
    if sample.left_out.iter().any(|(one, other)| of(one) != of(other)) {
        return Ok(None);
    }
    let last = sample.parameters.last().copied().unwrap_or(0).max(u16::try_from(types.len()).unwrap_or(u16::MAX));
    let mut own = last.to_be_bytes().to_vec();
    for number in 1..=last {
        let is_missing = UNKNOWN.contains(&of(&number)) && !sample.parameters.contains(&number);
        own.extend(if is_missing { TEXT } else { of(&number) }.to_be_bytes());
    }
    Ok(Some(own.into()))
}

/// Of what stands within a statement, when the target does not take it.
pub(super) fn not_taken(error: &[u8]) -> String {
    let code = wire::sqlstate(error).unwrap_or("XX000");
    format!("the target does not take what is within it ({code}), and it touches masked columns")
}

/// Of a target that does not do as it is asked.
fn not_shown(error: &[u8]) -> String {
    let code = wire::sqlstate(error).unwrap_or("XX000");
    format!(
        "the target does not show what it makes of the statement ({code}), which touches masked columns; the gateway's role must \
         be allowed to set debug_print_rewritten"
    )
}

/// The command that gives the settings the values of a row of [`PRINT_AND_KEEP`].
fn set_back(row: &[u8]) -> Result<String, Malformed> {
    let mut fields = wire::Fields::of(row);
    fields.count()?;
    let mut calls = Vec::new();
    for setting in KEPT {
        let value = fields.value()?.unwrap_or_default();
        // Words such as `notice` and `off`.
        if !value.iter().all(u8::is_ascii_alphanumeric) {
            return Err(Malformed::Body);
        }
        calls.push(format!("pg_catalog.set_config('{setting}', '{}', true)", String::from_utf8_lossy(value)));
    }
    Ok(format!("SELECT {}", calls.join(", ")))
}

/// Whether what is traced stands within the statement, which the target resolves when it runs.
pub(super) fn is_within(judged: &Judged) -> bool {
    judged.statements().iter().any(|it| matches!(&it.class, Class::Traced { query, .. } if query.is_within()))
}

/// Whether a text is one query that is traced as it stands, and changes nothing: if it shows something else than what was found
/// before, nothing is lost by finding that out as its result comes.
pub(super) fn only_reads(judged: &Judged) -> bool {
    let [statement] = judged.statements() else { return false };
    matches!(statement.class, Class::Traced { query: Query::Itself, .. })
        && statement.actions.iter().all(|it| it.kind == Kind::Select)
}

/// Whether a text of the extended protocol has to be traced.
pub(super) fn is_traced(judged: &Judged) -> bool {
    judged.statements().iter().any(|it| matches!(it.class, Class::Traced { .. }))
}

/// A command of the gateway's own, under a name that clients are not expected to use. One before it that failed has left its own.
pub(super) fn command(out: &mut Vec<u8>, text: &str) {
    name(out, b'C', b'P');
    name(out, b'C', b'S');
    prepare(out, text, NO_TYPES);
    wire::message(out, b'B', |out| {
        wire::put_string(out, PROBE);
        wire::put_string(out, PROBE);
        out.extend_from_slice(&[0; 6]);
    });
    wire::message(out, b'E', |out| {
        wire::put_string(out, PROBE);
        out.extend_from_slice(&[0; 4]);
    });
    name(out, b'C', b'P');
    name(out, b'C', b'S');
}

pub(super) fn prepare(out: &mut Vec<u8>, text: &str, types: &[u8]) {
    wire::message(out, b'P', |out| {
        wire::put_string(out, PROBE);
        wire::put_string(out, text.as_bytes());
        out.extend_from_slice(types);
    });
}

/// A Describe or a Close.
pub(super) fn name(out: &mut Vec<u8>, tag: u8, kind: u8) {
    wire::message(out, tag, |out| {
        out.push(kind);
        wire::put_string(out, PROBE);
    });
}
