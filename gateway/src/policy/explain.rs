//! Why a verdict is what it is: every rule, whether it matched and why not, and the smallest change that would allow.
//! What `weir explain` and `weir why` print.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{Action, Gate, Kind, Matcher, Operation, Policy, Rule, Subject, TableUse, Then, covers};
use crate::show;

/// An operation may have thousands of actions; so many are spoken of.
const MAX_ACTIONS: usize = 8;

/// A verdict with its reasons. Its `Display` is text for a terminal, in which nothing that an agent chose can begin a line or
/// be taken for a line of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub agent: String,
    pub groups: Vec<String>,
    pub target: String,
    pub database: Option<String>,
    /// The facts: what the operation does.
    pub actions: Vec<Action>,
    pub gate: Gate,
    pub rules: Vec<RuleExplanation>,
    /// What to change so that the operation is allowed; None where nothing is in its way.
    pub suggestion: Option<String>,
    /// The columns of its result, where the target was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ResultColumn>,
}

/// A column of a result, and what an agent sees of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultColumn {
    pub name: String,
    /// The masked columns that its values come from, with schema and table.
    pub from: Vec<String>,
    /// The masks of these, by name.
    pub masks: Vec<String>,
    /// Its values are computed from those, and covered whole.
    pub computed: bool,
    /// Its values are put together of others (a row, an array, JSON): what is masked in them. The items of an array are called `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<ResultColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleExplanation {
    pub name: String,
    /// `allow`, `hold` or `deny`.
    pub then: String,
    pub matched: bool,
    /// What matched, or the first thing that did not.
    pub because: String,
}

impl Policy {
    /// The verdict of [`Policy::judge`], with its reasons.
    pub fn explain(&self, subject: Subject<'_>, operation: &Operation) -> Explanation {
        let gate = self.judge(subject, operation);
        let suggestion = self.suggest(subject, operation, &gate);
        Explanation {
            agent: subject.agent.to_owned(),
            groups: subject.groups.to_vec(),
            target: subject.target.to_owned(),
            database: operation.database.clone(),
            actions: operation.actions.iter().take(MAX_ACTIONS).cloned().collect(),
            gate,
            rules: self.rules.iter().map(|rule| rule.explain(subject, operation)).collect(),
            suggestion,
            columns: Vec::new(),
        }
    }

    fn suggest(&self, subject: Subject<'_>, operation: &Operation, gate: &Gate) -> Option<String> {
        if let Some(refusal) = &operation.refusal {
            let refusal = show::escape(refusal);
            return Some(format!("No rule can allow this: {refusal}. Change the statement."));
        }
        let applying = || self.rules.iter().filter(|rule| rule.applies(subject, operation.database.as_deref()));
        match gate {
            Gate::Allow { .. } | Gate::Hold { .. } => None,
            Gate::Deny { rule: Some(rule), .. } => Some(format!(
                "Deny beats allow, so a further rule cannot allow this. Narrow rule \"{rule}\" (its agents, targets, \
                 databases, kinds, tables, columns or functions) so that it leaves this out."
            )),
            Gate::Deny { rule: None, .. } => {
                let open: Vec<&Action> = operation
                    .actions
                    .iter()
                    .filter(|action| !applying().any(|rule| rule.grants(operation, action)))
                    .collect();
                (!open.is_empty())
                    .then(|| format!("This rule would allow it:\n\n{}", rule_for(subject, operation, &open)))
            }
        }
    }
}

impl Rule {
    fn explain(&self, subject: Subject<'_>, operation: &Operation) -> RuleExplanation {
        let (matched, because) = match self.does_not_apply(subject, operation.database.as_deref()) {
            Some(because) => (false, because),
            None if operation.opens_session() => self.explain_connect(),
            None => self.explain_actions(operation),
        };
        let then = match self.then {
            Then::Allow => "allow",
            Then::Deny => "deny",
            Then::Hold { .. } => "hold",
        };
        RuleExplanation { name: self.name.to_string(), then: then.to_owned(), matched, because }
    }

    fn does_not_apply(&self, subject: Subject<'_>, database: Option<&str>) -> Option<String> {
        let not_among = |key: &str, name: &str, list: &[String]| {
            let listed = !list.is_empty() && !list.iter().any(|it| it == name);
            listed.then(|| format!("{key}: \"{name}\" is not among {}", list.join(", ")))
        };
        let groups = || {
            let missing = !self.groups.is_empty() && !self.groups.iter().any(|group| subject.groups.contains(group));
            missing.then(|| format!("groups: the agent is in none of {}", self.groups.join(", ")))
        };
        not_among("agents", subject.agent, &self.agents)
            .or_else(groups)
            .or_else(|| not_among("targets", subject.target, &self.targets))
            .or_else(|| not_among("databases", database.unwrap_or("(none)"), &self.databases))
    }

    fn explain_connect(&self) -> (bool, String) {
        match self.then {
            Then::Deny if self.concerns_connect() => (true, "denies the session".to_owned()),
            Then::Hold { .. } if self.holds_connect() => (true, "holds the session".to_owned()),
            Then::Deny => (false, "denies some of what may be done in the session".to_owned()),
            Then::Allow | Then::Hold { .. } => (true, "speaks of what may be done in the session".to_owned()),
        }
    }

    fn explain_actions(&self, operation: &Operation) -> (bool, String) {
        let actions = &operation.actions;
        if let Some(action) = actions.iter().find(|action| self.matches(operation, action)) {
            return (true, format!("matches \"{action}\""));
        }
        let reasons: BTreeSet<String> =
            actions.iter().take(MAX_ACTIONS).filter_map(|action| self.explain_mismatch(operation, action)).collect();
        (false, reasons.into_iter().collect::<Vec<_>>().join("; "))
    }

    fn not_fit(&self) -> &'static str {
        if self.then == Then::Allow { "not all are covered" } else { "none is meant" }
    }

    fn explain_mismatch(&self, operation: &Operation, action: &Action) -> Option<String> {
        let kind = action.kind;
        Some(match self.mismatch(operation, action, self.then != Then::Allow)? {
            Matcher::Kinds if self.kinds.is_empty() => {
                "kinds: unparsed is allowed only where a rule names it".to_owned()
            }
            Matcher::Kinds => format!("kinds: {kind} is not among {}", self.kinds),
            Matcher::HasWhere => match action.has_where {
                Some(true) => format!("has_where: the {kind} has a WHERE"),
                Some(false) => format!("has_where: the {kind} has no WHERE"),
                None => format!("has_where: {kind} has no WHERE to ask for"),
            },
            Matcher::HasLimit => match action.has_limit {
                Some(true) => format!("has_limit: the {kind} has a LIMIT"),
                Some(false) => format!("has_limit: the {kind} has no LIMIT"),
                None => format!("has_limit: {kind} has no LIMIT to ask for"),
            },
            Matcher::Rows => "more_rows_than: it takes no whole table with so many rows".to_owned(),
            Matcher::Statements => format!("more_statements_than: of {} statements", operation.statements),
            Matcher::Tables if action.tables.is_empty() => format!("tables: nothing is known of a table in \"{kind}\""),
            Matcher::Tables => {
                let patterns = list(&self.tables);
                let not_covered = action.tables.iter().filter(|table| !covers(&self.tables, table));
                format!("tables: {} is not covered by {patterns}", list(&not_covered.collect::<Vec<_>>()))
            }
            Matcher::Columns => format!("columns: {} by {}", self.not_fit(), list(&self.columns)),
            Matcher::ColumnsWritten => {
                format!("columns_written: {} by {}", self.not_fit(), list(&self.columns_written))
            }
            Matcher::Functions => format!("functions: {} by {}", self.not_fit(), list(&self.functions)),
        })
    }
}

/// A rule that allows just these actions, as TOML.
fn rule_for(subject: Subject<'_>, operation: &Operation, actions: &[&Action]) -> String {
    let kinds: BTreeSet<Kind> = actions.iter().map(|action| action.kind).collect();
    // A rule that names tables fits no action without one.
    let name_tables = actions.iter().all(|action| !action.tables.is_empty());
    let tables: BTreeSet<String> = actions.iter().flat_map(|action| &action.tables).flat_map(patterns_of).collect();
    let kind_list = list(&kinds.iter().collect::<Vec<_>>());
    let mut text = String::from("[[rule]]\n");
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<9} = {value}");
    };
    let strings =
        |items: &[&str]| format!("[{}]", list(&items.iter().map(|it| show::toml_string(it)).collect::<Vec<_>>()));
    line("name", show::toml_string(&format!("{}: {kind_list} on {}", subject.agent, subject.target)));
    line("agents", strings(&[subject.agent]));
    line("targets", strings(&[subject.target]));
    if let Some(database) = &operation.database {
        line("databases", strings(&[database]));
    }
    line("kinds", strings(&kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()));
    if name_tables {
        line("tables", strings(&tables.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    line("then", show::toml_string("allow"));
    text
}

/// A table as rules name it, in each schema that it may be of.
fn patterns_of(table: &TableUse) -> Vec<String> {
    match (&table.schema, &table.schemas[..]) {
        (Some(schema), _) => vec![format!("{schema}.{}", table.name)],
        (None, several @ [_, _, ..]) => several.iter().map(|schema| format!("{schema}.{}", table.name)).collect(),
        (None, _) => vec![table.name.clone()],
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {} on target {}", show::name(&self.agent), show::name(&self.target))?;
        if let Some(database) = &self.database {
            write!(f, ", database {}", show::name(database))?;
        }
        if !self.groups.is_empty() {
            write!(f, ", groups {}", names(&self.groups))?;
        }
        writeln!(f, "\n\nfacts")?;
        for action in &self.actions {
            write!(f, "  {action}")?;
            match action.has_where {
                Some(true) => write!(f, ", with WHERE")?,
                Some(false) => write!(f, ", without WHERE")?,
                None => {}
            }
            if action.has_limit == Some(true) {
                write!(f, ", with LIMIT")?;
            }
            if !action.functions.is_empty() {
                write!(f, ", calls {}", names(&action.functions))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\nrules")?;
        for rule in &self.rules {
            let mark = if rule.matched { "*" } else { " " };
            let (then, name) = (show::escape(&rule.then), show::escape(&rule.name));
            writeln!(f, "{mark} {then:<5} \"{name}\": {}", show::escape(&rule.because))?;
        }
        if self.rules.is_empty() {
            writeln!(f, "  none")?;
        }
        if !self.columns.is_empty() {
            writeln!(f, "\nresult")?;
        }
        for column in &self.columns {
            writeln!(f, "  {column}")?;
        }
        writeln!(f, "\nverdict: {}", self.gate)?;
        if let Some(suggestion) = &self.suggestion {
            writeln!(f, "\n{}", suggestion.trim_end())?;
        }
        Ok(())
    }
}

/// Names that may have dots in them, each on its own.
fn names(items: &[String]) -> String {
    list(&items.iter().map(|item| show::dotted(item)).collect::<Vec<_>>())
}

/// One line, for people.
impl fmt::Display for ResultColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, from, masks, computed, parts } = self;
        let (name, from) = (show::name(name), names(from));
        match (self.from.is_empty(), computed) {
            _ if !parts.is_empty() => {
                write!(f, "{name}: put together of (")?;
                for (index, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if index > 0 { "; " } else { "" })?;
                }
                f.write_str(")")
            }
            (true, _) => write!(f, "{name}: not masked"),
            (false, false) => write!(f, "{name}: {from}, masked by {}", quoted(masks)),
            (false, true) => write!(f, "{name}: computed from {from}, covered by {}", quoted(masks)),
        }
    }
}

/// One line, for people.
impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gate::Allow { rules } => write!(f, "allow, by {}", quoted(rules)),
            Gate::Hold { requirements } => {
                let needs = requirements.iter().map(|it| {
                    let approvers = it.approvers.join(" or ");
                    format!("{} of {approvers} within {} s (rule \"{}\")", it.count, it.timeout.as_secs(), it.rule)
                });
                write!(f, "hold, for {}", show::escape(&needs.collect::<Vec<_>>().join(" and ")))
            }
            Gate::Deny { rule, message } => {
                let by = rule.as_ref().map(|rule| format!(", by \"{}\"", show::escape(rule))).unwrap_or_default();
                write!(f, "deny{by}: {}", show::escape(message))
            }
        }
    }
}

fn quoted<T: fmt::Display>(items: &[T]) -> String {
    show::escape(&items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", "))
}
