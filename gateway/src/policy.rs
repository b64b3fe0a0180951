//! Policy: from the facts of an operation to a verdict. Pure: no I/O, no clock.
//!
//! An operation is one or more *actions* (a statement with a data-changing CTE has two, a batch has one for each
//! statement). A rule that denies or holds applies if it matches **any** action; the operation goes on only if **every**
//! action is allowed by some rule, or held by one (an approved hold is the allow). Deny beats hold beats allow; no rule
//! allows means deny.
//!
//! Where facts leave room, a rule that restricts matches and a rule that allows does not: see [`Rule`].

mod explain;
mod lint;
mod pattern;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::show;

pub use explain::{Explanation, ResultColumn, RuleExplanation};
pub use lint::{Lint, lint};
pub use pattern::{ColumnPattern, Glob, InvalidPattern, NamePattern};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What an action does. One word for all protocols.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// The word that rules use.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    Connect => "connect",
    Select => "select",
    Insert => "insert",
    Update => "update",
    Delete => "delete",
    Merge => "merge",
    Truncate => "truncate",
    Create => "create",
    Alter => "alter",
    Drop => "drop",
    Grant => "grant",
    Revoke => "revoke",
    CopyIn => "copy_in",
    CopyOut => "copy_out",
    CopyProgram => "copy_program",
    Do => "do",
    Call => "call",
    Set => "set",
    SetRole => "set_role",
    Show => "show",
    Transaction => "transaction",
    Listen => "listen",
    Notify => "notify",
    Lock => "lock",
    Vacuum => "vacuum",
    Explain => "explain",
    Prepare => "prepare",
    Execute => "execute",
    Deallocate => "deallocate",
    Discard => "discard",
    Declare => "declare",
    Fetch => "fetch",
    FunctionCall => "function_call",
    /// Reads or writes a file of the target's host.
    ServerFile => "server_file",
    /// Administers the server or other people's sessions: ALTER SYSTEM, CHECKPOINT, ending a backend.
    Admin => "admin",
    /// Understood by nobody; allowed only by a rule that says so.
    Unparsed => "unparsed",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Words for several kinds at once.
pub const KIND_GROUPS: &[(&str, &[Kind])] = &[
    ("writes", &[Kind::Insert, Kind::Update, Kind::Delete, Kind::Merge, Kind::Truncate, Kind::CopyIn]),
    ("ddl", &[Kind::Create, Kind::Alter, Kind::Drop, Kind::Truncate]),
    ("privileges", &[Kind::Grant, Kind::Revoke, Kind::SetRole]),
];

/// A set of kinds; the empty set is written for "any" in rules.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct KindSet(u64);

const _: () = assert!(Kind::ALL.len() <= 64, "KindSet has one bit for each kind");

impl KindSet {
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u64) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn is_superset(self, other: KindSet) -> bool {
        other.0 & !self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |&kind| self.contains(kind))
    }
}

impl FromIterator<Kind> for KindSet {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u64))
    }
}

impl<const N: usize> From<[Kind; N]> for KindSet {
    fn from(kinds: [Kind; N]) -> Self {
        kinds.into_iter().collect()
    }
}

impl fmt::Debug for KindSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// As in configuration: `select, insert`.
impl fmt::Display for KindSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, kind) in self.iter().enumerate() {
            write!(f, "{}{kind}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The facts of one action: the input of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub kind: Kind,
    pub tables: Vec<TableUse>,
    /// Functions called, as written, lower-cased where unquoted: `pg_catalog.lower`, `now`.
    pub functions: Vec<String>,
    /// None where the action has no WHERE to have.
    pub has_where: Option<bool>,
    pub has_limit: Option<bool>,
    /// What was not understood, of one that is `unparsed`. Holds nothing of the text's literals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unparsed: Option<String>,
    /// Some function may do more than give a value.
    #[serde(skip)]
    pub runs_code: bool,
}

impl Action {
    /// An action of which nothing is known but its kind.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            tables: Vec::new(),
            functions: Vec::new(),
            has_where: None,
            has_limit: None,
            unparsed: None,
            runs_code: false,
        }
    }

    /// One of which this was not understood.
    pub fn unparsed(what: String) -> Self {
        Self { unparsed: Some(what), ..Self::of(Kind::Unparsed) }
    }

    /// Bytes of memory that it takes, more or less.
    pub fn size(&self) -> usize {
        let tables = self.tables.iter().map(|table| {
            let names = table.name.len() + table.schema.as_ref().map_or(0, String::len);
            let names = names + table.schemas.iter().map(|it| size_of::<String>() + it.len()).sum::<usize>();
            size_of::<TableUse>() + names + table.columns.iter().map(|it| size_of::<String>() + it.len()).sum::<usize>()
        });
        let functions = self.functions.iter().map(|it| size_of::<String>() + it.len());
        let unparsed = self.unparsed.as_ref().map_or(0, String::len);
        size_of::<Self>() + unparsed + tables.chain(functions).sum::<usize>()
    }

    /// Bytes that it takes in a record, more or less: names in quotation marks, and the words around them.
    pub fn record_size(&self) -> usize {
        const WORDS: usize = 80;
        let quoted = |it: &String| it.len() + 3;
        let tables = self.tables.iter().map(|table| {
            let names = quoted(&table.name) + table.schema.as_ref().map_or(0, quoted);
            let names = names + table.schemas.iter().map(quoted).sum::<usize>();
            WORDS + names + table.columns.iter().map(quoted).sum::<usize>()
        });
        let unparsed = self.unparsed.as_ref().map_or(0, quoted);
        WORDS + unparsed + tables.chain(self.functions.iter().map(quoted)).sum::<usize>()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableUse {
    /// None where the statement leaves it to the search path.
    pub schema: Option<String>,
    pub name: String,
    pub access: Access,
    /// Columns named for this table or that may belong to it, as far as the text tells; `*` for all.
    pub columns: BTreeSet<String>,
    /// How many rows the table has, as the target's catalog estimates. None: nobody asked, or it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Where the statement leaves the schema to the search path: those that have a relation of that name, by the target's catalog.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
}

impl TableUse {
    /// The schemas that it may be of, for who grants: the one that is written, or all that have it; `public` if nobody knows of one.
    fn candidates(&self) -> impl Iterator<Item = &str> {
        let known = self.schema.iter().chain(self.schemas.iter().filter(|_| self.schema.is_none()));
        let is_known = self.schema.is_some() || !self.schemas.is_empty();
        known.map(String::as_str).chain((!is_known).then_some("public"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Read,
    Write,
}

/// One normalised action, or several that are forwarded together: what is decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// What people are shown and what is recorded: secrets and literals that touch tagged data are redacted already.
    pub text: String,
    /// The database that the session is in. Where a protocol has databases it must say which: without one, no rule that
    /// names databases matches.
    pub database: Option<String>,
    /// Never empty: an operation without actions is denied. (An empty statement is a `select` of no table.)
    pub actions: Arc<[Action]>,
    /// How many statements were sent together.
    #[serde(default = "one")]
    pub statements: usize,
    /// What the protocol itself refuses about this operation on this target (data could leave unmasked), whatever the
    /// rules say; not recorded as a rule's doing.
    pub refusal: Option<String>,
}

/// Of an operation that says no number.
pub(crate) const fn one() -> usize {
    1
}

/// Who asks, for rules.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub agent: &'a str,
    pub groups: &'a [String],
    pub target: &'a str,
}

/// What policy says of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    Allow {
        /// The rules that allowed the actions, each once, in the configuration's order.
        rules: Vec<Arc<str>>,
    },
    Hold {
        /// Every one of these must be met.
        requirements: Vec<HoldRequirement>,
    },
    Deny {
        /// None: no rule allows it.
        rule: Option<String>,
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequirement {
    pub rule: String,
    pub message: Option<String>,
    /// Names from `[access] approve`.
    pub approvers: Vec<String>,
    /// Distinct people.
    pub count: u32,
    pub timeout: Duration,
}

/// All rules, compiled. The order of rules has no meaning.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub rules: Vec<Rule>,
    /// Some rule asks for what only the target's catalog knows: this is looked at for each statement.
    asks_of_catalog: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    Allow,
    Deny,
    Hold { approvers: Vec<String>, count: u32, timeout: Duration },
}

/// One `[[rule]]`: empty matchers match everything, with these exceptions and fine points.
///
/// - `unparsed` is never *allowed* by a rule that does not name it, nor by one that asks for what nobody knows of it (tables,
///   columns, functions, `has_where`, `has_limit`). Rules that deny or hold match it wherever they could.
/// - `tables`: a rule that denies or holds matches if **any** table of the action fits, one that allows only if **every**
///   table fits. An action that touches no table fits no rule that names tables, but for those of which the text does not say which they
///   touch (`DROP SCHEMA`, `GRANT ... ON ALL TABLES`, `DROP INDEX`, `VACUUM`): they fit all that deny or hold.
/// - `columns` and `columns_written` in the same way: any of them, or every one. `*` in a statement is a column of every name. An action that
///   names no column fits no rule that denies or holds by `columns`; removing rows writes all of theirs.
/// - `functions`: any, or every one that is called; who calls none is allowed by every list.
/// - A name that the statement leaves to the search path: see [`NamePattern`].
/// - `has_where` fits no action that could not have a WHERE, and so does `has_limit`.
/// - `more_rows_than` fits what takes whole tables (no WHERE, no LIMIT) of which one has more rows, or an unknown number.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Arc<str>,
    pub agents: Vec<String>,
    pub groups: Vec<String>,
    pub targets: Vec<String>,
    pub databases: Vec<String>,
    pub kinds: KindSet,
    pub tables: Vec<NamePattern>,
    pub columns: Vec<ColumnPattern>,
    pub columns_written: Vec<ColumnPattern>,
    pub functions: Vec<NamePattern>,
    pub has_where: Option<bool>,
    pub has_limit: Option<bool>,
    /// Of rules that deny or hold.
    pub more_rows_than: Option<u64>,
    /// Of rules that deny or hold.
    pub more_statements_than: Option<usize>,
    pub then: Then,
    pub message: Option<String>,
}

impl Policy {
    pub fn new(rules: Vec<Rule>) -> Self {
        let asks_of_catalog = rules.iter().any(Rule::asks_of_catalog);
        Self { rules, asks_of_catalog }
    }

    /// The verdict on an operation.
    pub fn judge(&self, subject: Subject<'_>, operation: &Operation) -> Gate {
        if let Some(refusal) = &operation.refusal {
            return Gate::Deny { rule: None, message: refusal.clone() };
        }
        if operation.actions.is_empty() {
            return Gate::Deny { rule: None, message: "nothing is known of this operation".to_owned() };
        }
        let database = operation.database.as_deref();
        if operation.opens_session() {
            return self.judge_connect(subject, database);
        }
        let applying = || self.rules.iter().filter(move |rule| rule.applies(subject, database));
        let matches_any = |rule: &Rule| operation.actions.iter().any(|action| rule.matches(operation, action));

        if let Some(rule) = applying().find(|rule| rule.then == Then::Deny && matches_any(rule)) {
            return rule.deny();
        }
        let is_covered = |action: &Action| applying().any(|rule| rule.grants(operation, action));
        if let Some(action) = operation.actions.iter().find(|action| !is_covered(action)) {
            return Gate::Deny { rule: None, message: no_rule_allows(subject, action) };
        }
        let requirements: Vec<_> = applying().filter(|rule| matches_any(rule)).filter_map(Rule::requirement).collect();
        if !requirements.is_empty() {
            return Gate::Hold { requirements };
        }
        Gate::Allow {
            rules: applying()
                .filter(|rule| rule.then == Then::Allow && matches_any(rule))
                .map(|rule| Arc::clone(&rule.name))
                .collect(),
        }
    }

    /// The verdict on the session itself. It may open where some rule could allow something in it; a rule denies it by
    /// `kinds = ["connect"]`, or by denying everything, and holds it by `kinds = ["connect"]` only.
    pub fn judge_connect(&self, subject: Subject<'_>, database: Option<&str>) -> Gate {
        let applying = || self.rules.iter().filter(move |rule| rule.applies(subject, database));
        if let Some(rule) = applying().find(|rule| rule.then == Then::Deny && rule.concerns_connect()) {
            return rule.deny();
        }
        let requirements: Vec<_> =
            applying().filter(|rule| rule.holds_connect()).filter_map(Rule::requirement).collect();
        if !requirements.is_empty() {
            return Gate::Hold { requirements };
        }
        let rules: Vec<_> =
            applying().filter(|rule| rule.then != Then::Deny).map(|rule| Arc::clone(&rule.name)).collect();
        if rules.is_empty() {
            let place = database.map(|name| format!(", database \"{name}\"")).unwrap_or_default();
            let message = format!(
                "no rule allows agent \"{}\" anything on target \"{}\"{place}; ask for a rule that does",
                subject.agent, subject.target
            );
            return Gate::Deny { rule: None, message };
        }
        Gate::Allow { rules }
    }
}

impl Policy {
    /// Whether a session of this agent's on this target could open, whatever groups its token has and whatever database it
    /// names: what is asked before there is a token.
    pub fn may_open(&self, agent: &str, target: &str) -> bool {
        let concerned = || self.rules.iter().filter(|rule| names(&rule.agents, agent) && names(&rule.targets, target));
        let is_for_all = |rule: &Rule| rule.groups.is_empty() && rule.databases.is_empty();
        let denied = concerned().any(|rule| rule.then == Then::Deny && is_for_all(rule) && rule.concerns_connect());
        !denied && concerned().any(|rule| rule.then != Then::Deny)
    }

    /// Whether a rule about this target asks for what only its catalog knows.
    pub fn asks_of_catalog(&self, target: &str) -> bool {
        self.asks_of_catalog && self.rules.iter().any(|it| it.asks_of_catalog() && names(&it.targets, target))
    }

    /// Whether no rule lets this subject do anything but read, in whatever database: the target can be told to hold it to that.
    pub fn only_reads(&self, subject: Subject<'_>) -> bool {
        let is_of = |rule: &&Rule| {
            rule.then != Then::Deny
                && names(&rule.agents, subject.agent)
                && names(&rule.targets, subject.target)
                && (rule.groups.is_empty() || rule.groups.iter().any(|group| subject.groups.contains(group)))
        };
        // What a prepared statement does counts by its own kinds.
        let reads = |kind: Kind| kind == Kind::Execute || Action::of(kind).is_read_only();
        self.rules.iter().filter(is_of).all(|rule| !rule.kinds.is_empty() && rule.kinds.iter().all(reads))
    }
}

impl Rule {
    /// A rule that meets everything but what only a rule that names it allows.
    pub fn of_everything(name: &str, then: Then) -> Self {
        Self {
            name: name.into(),
            agents: Vec::new(),
            groups: Vec::new(),
            targets: Vec::new(),
            databases: Vec::new(),
            kinds: KindSet::default(),
            tables: Vec::new(),
            columns: Vec::new(),
            columns_written: Vec::new(),
            functions: Vec::new(),
            has_where: None,
            has_limit: None,
            more_rows_than: None,
            more_statements_than: None,
            then,
            message: None,
        }
    }

    /// How many rows tables have, which functions a name can stand for, which schemas a table: the text of a statement does not say.
    fn asks_of_catalog(&self) -> bool {
        let mut columns = self.columns.iter().chain(&self.columns_written);
        self.more_rows_than.is_some()
            || !self.functions.is_empty()
            || self.then != Then::Deny
                && (self.tables.iter().any(NamePattern::names_a_schema) || columns.any(ColumnPattern::names_a_schema))
    }

    /// Whether the rule speaks of this subject in this database at all.
    fn applies(&self, subject: Subject<'_>, database: Option<&str>) -> bool {
        names(&self.agents, subject.agent)
            && names(&self.targets, subject.target)
            && (self.groups.is_empty() || self.groups.iter().any(|group| subject.groups.contains(group)))
            && (self.databases.is_empty() || database.is_some_and(|name| names(&self.databases, name)))
    }

    /// Whether the rule's own effect (allow, deny or hold) meets this action.
    fn matches(&self, operation: &Operation, action: &Action) -> bool {
        self.mismatch(operation, action, self.then != Then::Allow).is_none()
    }

    /// Whether the rule lets this action go on, at once or after approval. A hold restricts whatever it could mean, but
    /// grants only what an allow in its place would.
    fn grants(&self, operation: &Operation, action: &Action) -> bool {
        self.then != Then::Deny && self.mismatch(operation, action, false).is_none()
    }

    /// The first matcher that the action does not fit; `restricts`: in doubt it fits.
    fn mismatch(&self, operation: &Operation, action: &Action, restricts: bool) -> Option<Matcher> {
        let unknown = action.kind == Kind::Unparsed;
        if !(self.kinds.contains(action.kind) || self.kinds.is_empty() && (restricts || !unknown)) {
            return Some(Matcher::Kinds);
        }
        if unknown {
            // Nobody knows more of it.
            return if restricts { None } else { self.asks_of_actions().next() };
        }
        let fits = |matcher: &Matcher| match matcher {
            Matcher::Kinds => true,
            Matcher::HasWhere => self.has_where == action.has_where,
            Matcher::HasLimit => self.has_limit == action.has_limit,
            Matcher::Rows => self.more_rows_than.is_some_and(|most| action.takes_more_rows_than(most)),
            Matcher::Statements => self.more_statements_than.is_some_and(|most| operation.statements > most),
            Matcher::Tables if restricts => {
                action.names_no_table() || action.tables.iter().any(|it| may_mean(&self.tables, it))
            }
            Matcher::Tables => !action.tables.is_empty() && action.tables.iter().all(|it| covers(&self.tables, it)),
            Matcher::Columns => fit(&self.columns, action.tables.iter(), restricts),
            Matcher::ColumnsWritten => {
                let written = action.tables.iter().filter(|it| it.access == Access::Write);
                fit(&self.columns_written, written, restricts)
            }
            Matcher::Functions => {
                let is_one = |function: &String| {
                    let (schema, name) = split(function);
                    self.functions
                        .iter()
                        .any(|it| if restricts { it.may_be(schema, name) } else { it.is(schema, name) })
                };
                if restricts { action.functions.iter().any(is_one) } else { action.functions.iter().all(is_one) }
            }
        };
        self.asks_of_actions().find(|matcher| !fits(matcher))
    }

    /// What it asks of an action beside its kind.
    fn asks_of_actions(&self) -> impl Iterator<Item = Matcher> {
        let asked = [
            (self.has_where.is_some(), Matcher::HasWhere),
            (self.has_limit.is_some(), Matcher::HasLimit),
            (self.more_rows_than.is_some(), Matcher::Rows),
            (self.more_statements_than.is_some(), Matcher::Statements),
            (!self.tables.is_empty(), Matcher::Tables),
            (!self.columns.is_empty(), Matcher::Columns),
            (!self.columns_written.is_empty(), Matcher::ColumnsWritten),
            (!self.functions.is_empty(), Matcher::Functions),
        ];
        asked.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, matcher)| matcher)
    }

    fn concerns_connect(&self) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(Kind::Connect)) && self.asks_of_actions().next().is_none()
    }

    /// A hold on everything holds each operation; it does not hold the session too.
    fn holds_connect(&self) -> bool {
        matches!(self.then, Then::Hold { .. }) && self.kinds.contains(Kind::Connect) && self.concerns_connect()
    }

    fn requirement(&self) -> Option<HoldRequirement> {
        let Then::Hold { approvers, count, timeout } = &self.then else { return None };
        Some(HoldRequirement {
            rule: self.name.to_string(),
            message: self.message.clone(),
            approvers: approvers.clone(),
            count: *count,
            timeout: *timeout,
        })
    }

    fn deny(&self) -> Gate {
        let message = self.message.clone().unwrap_or_else(|| "this is not allowed here".to_owned());
        Gate::Deny { rule: Some(self.name.to_string()), message }
    }
}

/// The matchers of a rule that look at an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matcher {
    Kinds,
    HasWhere,
    HasLimit,
    Rows,
    Statements,
    Tables,
    Columns,
    ColumnsWritten,
    Functions,
}

fn may_mean(patterns: &[NamePattern], table: &TableUse) -> bool {
    patterns.iter().any(|it| it.may_be(table.schema.as_deref(), &table.name))
}

fn covers(patterns: &[NamePattern], table: &TableUse) -> bool {
    table.candidates().all(|schema| patterns.iter().any(|it| it.is(Some(schema), &table.name)))
}

/// Whether one of these tables' columns could be one of the patterns'; or, if nothing is restricted, whether all are.
fn fit<'a>(patterns: &[ColumnPattern], mut tables: impl Iterator<Item = &'a TableUse>, restricts: bool) -> bool {
    if restricts {
        tables.any(|table| patterns.iter().any(|it| it.may_mean(table)))
    } else {
        tables.all(|table| ColumnPattern::cover(patterns, table))
    }
}

/// The schema of a function, as it is written, and its name.
fn split(function: &str) -> (Option<&str>, &str) {
    match function.rsplit_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, function),
    }
}

/// Actions that people are shown, each once.
const MAX_ACTIONS_SHOWN: usize = 100;

impl Operation {
    /// What it does, for people: changes first, and at the end how many more there are, so that nothing hides behind many of a kind.
    pub fn shown_actions(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let (reads, changes): (Vec<&Action>, Vec<&Action>) = self.actions.iter().partition(|it| it.is_read_only());
        let all: Vec<String> =
            changes.iter().chain(&reads).map(ToString::to_string).filter(|it| seen.insert(it.clone())).collect();
        let more = all.len().saturating_sub(MAX_ACTIONS_SHOWN);
        let told = (more > 0).then(|| format!("and {more} more"));
        all.into_iter().take(MAX_ACTIONS_SHOWN).chain(told).collect()
    }

    /// Whether it is the opening of a session in which operations will follow: `connect` alone, in a database. (Where a
    /// protocol has no databases the connection is all that is asked for, and `connect` is judged as any action.)
    fn opens_session(&self) -> bool {
        self.database.is_some() && matches!(self.actions[..], [Action { kind: Kind::Connect, .. }])
    }

    /// Whether it only reads, as far as its text tells: its record need not be durable before it is forwarded.
    pub fn is_read_only(&self) -> bool {
        !self.actions.is_empty() && self.actions.iter().all(Action::is_read_only)
    }
}

impl Action {
    /// Whether it takes all rows of its tables, as far as its text tells, and one of these has more of them, or nobody knows how many.
    fn takes_more_rows_than(&self, most: u64) -> bool {
        use Kind::{CopyOut, Delete, Merge, Select, Update};
        matches!(self.kind, Select | CopyOut | Update | Delete | Merge)
            && self.has_where != Some(true)
            && self.has_limit != Some(true)
            && self.tables.iter().any(|it| it.rows.is_none_or(|rows| rows > most))
    }

    /// Whether it may be about tables that it does not name: a schema's, an owner's, an index's.
    fn names_no_table(&self) -> bool {
        use Kind::{Alter, Drop, Grant, Revoke, Vacuum};
        self.tables.is_empty() && matches!(self.kind, Alter | Drop | Grant | Revoke | Vacuum)
    }

    fn is_read_only(&self) -> bool {
        use Kind::{
            Connect, CopyOut, Deallocate, Declare, Discard, Explain, Fetch, Listen, Prepare, Select, Set, Show,
            Transaction,
        };
        let reads = matches!(
            self.kind,
            Connect
                | CopyOut
                | Deallocate
                | Declare
                | Discard
                | Explain
                | Fetch
                | Listen
                | Prepare
                | Select
                | Set
                | Show
                | Transaction
        );
        reads && !self.runs_code && self.tables.iter().all(|table| table.access == Access::Read)
    }
}

/// As people write it: `update public.customers, orders`; with what was not understood: `unparsed (line 3: ...)`. On one line,
/// and no name in it can be taken for more than a name.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for (i, table) in self.tables.iter().enumerate() {
            write!(f, "{}{table}", if i == 0 { " " } else { ", " })?;
        }
        if let Some(what) = &self.unparsed {
            write!(f, " ({})", show::escape(what))?;
        }
        Ok(())
    }
}

impl fmt::Display for TableUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", show::name(schema))?;
        }
        write!(f, "{}", show::name(&self.name))?;
        match &self.schemas[..] {
            [first, rest @ ..] if self.schema.is_none() && !rest.is_empty() => {
                write!(f, " (of {}", show::name(first))?;
                rest.iter().try_for_each(|schema| write!(f, " or {}", show::name(schema)))?;
                f.write_str(": write which)")
            }
            _ => Ok(()),
        }
    }
}

/// An empty matcher names everything.
fn names(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|it| it == name)
}

fn no_rule_allows(subject: Subject<'_>, action: &Action) -> String {
    format!("no rule allows \"{action}\" to agent \"{}\" on target \"{}\"", subject.agent, subject.target)
}

#[cfg(test)]
mod tests;
