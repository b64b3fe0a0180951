//! Rules that do nothing: those that can never match, and those that another rule leaves no room.

use super::{ColumnPattern, Kind, KindSet, NamePattern, Policy, Rule, Then};

/// A rule that does not do what its author must have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Index into [`Policy::rules`].
    pub rule: usize,
    pub message: String,
}

/// Kinds that can have a WHERE.
const WITH_WHERE: [Kind; 8] =
    [Kind::Select, Kind::Update, Kind::Delete, Kind::Merge, Kind::Insert, Kind::CopyIn, Kind::Declare, Kind::Explain];

/// What is odd about each rule, and between them.
pub fn lint(policy: &Policy) -> Vec<Lint> {
    let rules = &policy.rules;
    let mut lints = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let message = never_matches(rule).or_else(|| {
            let shadow = |(other_index, other): (usize, &Rule)| {
                let first_of_equals = !(includes(rule, other) && rule.then == other.then) || other_index < index;
                (other_index != index && first_of_equals).then(|| shadowed_by(rule, other)).flatten()
            };
            rules.iter().enumerate().find_map(shadow)
        });
        lints.extend(message.map(|message| Lint { rule: index, message }));
    }
    lints
}

fn never_matches(rule: &Rule) -> Option<String> {
    let kinds = rule.kinds;
    if kinds.is_empty() {
        return None;
    }
    if rule.has_where.is_some() && !WITH_WHERE.iter().any(|kind| kinds.contains(*kind)) {
        return Some(format!("can never match: {kinds} has no WHERE, and the rule asks for has_where"));
    }
    let asks = rule.asks_of_actions().next().is_some();
    let unparsed = KindSet::from([Kind::Unparsed]);
    if rule.then == Then::Allow && unparsed.is_superset(kinds) && asks {
        return Some("can never match: nobody knows the tables, or more, of what is unparsed".to_owned());
    }
    let connect = KindSet::from([Kind::Connect]);
    if connect.is_superset(kinds) && asks {
        return Some("can never match: connect touches no table, and calls nothing".to_owned());
    }
    None
}

fn shadowed_by(rule: &Rule, other: &Rule) -> Option<String> {
    if !includes(other, rule) {
        return None;
    }
    let name = &other.name;
    match (&other.then, &rule.then) {
        (Then::Deny, Then::Deny) | (Then::Allow, Then::Allow) => {
            Some(format!("has no effect: rule \"{name}\" does the same for all that it matches"))
        }
        (Then::Deny, _) => Some(format!("has no effect: rule \"{name}\" denies all that it matches, and deny wins")),
        (Then::Hold { .. }, Then::Allow) => {
            Some(format!("has no effect: rule \"{name}\" holds all that it allows, and hold wins"))
        }
        (Then::Hold { .. } | Then::Allow, _) => None,
    }
}

/// Whether `wide` matches whatever `narrow` matches.
fn includes(wide: &Rule, narrow: &Rule) -> bool {
    list_includes(&wide.agents, &narrow.agents)
        && list_includes(&wide.groups, &narrow.groups)
        && list_includes(&wide.targets, &narrow.targets)
        && list_includes(&wide.databases, &narrow.databases)
        && kinds_include(wide, narrow)
        && patterns_include(&wide.tables, &narrow.tables, NamePattern::includes)
        && patterns_include(&wide.columns, &narrow.columns, ColumnPattern::includes)
        && patterns_include(&wide.columns_written, &narrow.columns_written, ColumnPattern::includes)
        && patterns_include(&wide.functions, &narrow.functions, NamePattern::includes)
        && (wide.has_where.is_none() || wide.has_where == narrow.has_where)
        && (wide.has_limit.is_none() || wide.has_limit == narrow.has_limit)
        && wide.more_rows_than.is_none_or(|wide| narrow.more_rows_than.is_some_and(|it| it >= wide))
        && wide.more_statements_than.is_none_or(|wide| narrow.more_statements_than.is_some_and(|it| it >= wide))
}

fn list_includes(wide: &[String], narrow: &[String]) -> bool {
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|name| wide.contains(name))
}

fn kinds_include(wide: &Rule, narrow: &Rule) -> bool {
    if wide.kinds.is_empty() {
        return wide.then == Then::Deny || !narrow.kinds.contains(Kind::Unparsed);
    }
    !narrow.kinds.is_empty() && wide.kinds.is_superset(narrow.kinds)
}

fn patterns_include<T>(wide: &[T], narrow: &[T], includes: fn(&T, &T) -> bool) -> bool {
    wide.is_empty()
        || !narrow.is_empty() && narrow.iter().all(|pattern| wide.iter().any(|other| includes(other, pattern)))
}
