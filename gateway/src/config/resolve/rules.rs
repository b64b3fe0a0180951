//! `[[rule]]`, `[[mask]]` and `[[limit]]`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::super::raw::{At, RawHold, RawLimit, RawMask, RawRule, RawThen, RawWith};
use super::super::{Access, text};
use super::{Names, Resolver, Scope, not_long};
use crate::limit::{Amount, LimitRule};
use crate::mask::{ColumnPattern, MAX_MASKS, MaskKind, MaskRule};
use crate::policy::{self, InvalidPattern, Policy, Rule, Then};
use crate::target::{Protocol, Target};

const DEFAULT_HOLD: Duration = Duration::from_mins(5);
/// A client waits no longer, and a transaction holds its locks no longer.
const MAX_HOLD: Duration = Duration::from_hours(24);
const MAX_APPROVALS: u32 = 16;
/// Limits in one configuration: all of them are looked at for each row.
const MAX_LIMITS: usize = 64;
const MAX_KEEP_LAST: u8 = 32;
/// More a minute is no limit to somebody who tries values.
const MAX_LOOKUPS: u32 = 10_000;

impl Resolver<'_> {
    pub(super) fn policy(&mut self, raw: Vec<(usize, At<RawRule>)>, access: &Access, targets: &[Target]) -> Policy {
        let mut names = Names::new("rule");
        let (mut rules, mut places) = (Vec::new(), Vec::new());
        for (file, At { value: raw, .. }) in raw {
            let scope = Scope::named(file, "rule", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let at = raw.name.span.clone();
            let rule = self.rule(&scope, raw, access);
            if let Some(message) = never_meets_a_database(&rule, targets) {
                self.out.warn(&scope, &at, "databases", message);
            }
            rules.push(rule);
            places.push((scope, at));
        }
        let policy = Policy::new(rules);
        for lint in policy::lint(&policy) {
            if let Some((scope, at)) = places.get(lint.rule) {
                self.out.warn(scope, at, "", lint.message);
            }
        }
        policy
    }

    fn rule(&mut self, scope: &Scope, raw: RawRule, access: &Access) -> Rule {
        let agents = self.out.references(scope, "agents", &raw.agents, &self.known.agents, ("agent", ""));
        let targets = self.out.references(scope, "targets", &raw.targets, &self.known.targets, ("target", ""));
        let tables = self.patterns(scope, "tables", &raw.tables);
        let columns = self.patterns(scope, "columns", &raw.columns);
        let columns_written = self.patterns(scope, "columns_written", &raw.columns_written);
        let functions = self.patterns(scope, "functions", &raw.functions);
        if matches!(raw.then, RawThen::Allow) {
            let rows = raw.more_rows_than.as_ref().map(|it| ("more_rows_than", &it.span));
            let statements = raw.more_statements_than.as_ref().map(|it| ("more_statements_than", &it.span));
            for (key, span) in rows.into_iter().chain(statements) {
                let message =
                    "an allow would let through what is large and nothing else; write a rule that denies or holds it";
                self.out.fault(scope, span, key, message);
            }
        }
        let message = raw.message.as_ref().and_then(|message| self.out.read(scope, "message", message, not_long));
        let values = |list: Vec<At<String>>| list.into_iter().map(|it| it.value).collect();
        let then = match raw.then {
            RawThen::Allow => Then::Allow,
            RawThen::Deny => Then::Deny,
            RawThen::Hold(hold) => self.hold(scope, &hold, access),
        };
        Rule {
            name: raw.name.value.into(),
            agents,
            groups: values(raw.groups),
            targets,
            databases: values(raw.databases),
            kinds: raw.kinds.iter().flat_map(|it| it.0.iter()).collect(),
            tables,
            columns,
            columns_written,
            functions,
            has_where: raw.has_where,
            has_limit: raw.has_limit,
            more_rows_than: raw.more_rows_than.map(|it| it.value),
            more_statements_than: raw.more_statements_than.map(|it| it.value as usize),
            then,
            message,
        }
    }

    fn patterns<T: FromStr<Err = InvalidPattern>>(&mut self, scope: &Scope, key: &str, list: &[At<String>]) -> Vec<T> {
        let read = |text: &str| text.parse::<T>().map_err(|error| error.to_string());
        let read = |(i, pattern)| self.out.read(scope, &format!("{key}[{i}]"), pattern, read);
        list.iter().enumerate().filter_map(read).collect()
    }

    fn hold(&mut self, scope: &Scope, raw: &RawHold, access: &Access) -> Then {
        let scope = Scope { file: scope.file, path: scope.key("then.hold") };
        let list = &raw.approvers.value;
        let approvers =
            self.out.references(&scope, "approvers", list, &self.known.approvers, ("approver", " in [access] approve"));
        for name in list {
            if access.approve.get(&name.value).is_some_and(Vec::is_empty) {
                let message = format!("\"{}\" has no group in [access] approve, so nobody could approve", name.value);
                self.out.fault(&scope, &name.span, "approvers", message);
            }
        }
        if list.is_empty() {
            self.out.fault(&scope, &raw.approvers.span, "approvers", "names nobody who could approve");
        }
        let count = raw.count.as_ref().map_or(1, |At { value, span }| {
            if !(1..=MAX_APPROVALS).contains(value) {
                self.out.fault(&scope, span, "count", format!("expected a number from 1 to {MAX_APPROVALS}"));
            }
            *value
        });
        let timeout = |text: &str| match text::duration(text)? {
            Duration::ZERO => Err("leaves no time to approve".to_owned()),
            timeout if timeout > MAX_HOLD => Err("a request waits 24h at most".to_owned()),
            timeout => Ok(timeout),
        };
        let timeout = self.out.read_or(&scope, "timeout", raw.timeout.as_ref(), DEFAULT_HOLD, timeout);
        Then::Hold { approvers, count, timeout }
    }

    pub(super) fn masks(&mut self, raw: Vec<(usize, At<RawMask>)>, targets: &[Target]) -> Vec<Arc<MaskRule>> {
        let mut names = Names::new("mask");
        names.max = MAX_MASKS;
        let mut masks = Vec::new();
        for (file, At { value: raw, span }) in raw {
            let scope = Scope::named(file, "mask", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let named = self.out.references(&scope, "targets", &raw.targets, &self.known.targets, ("target", ""));
            let is_cut = self.out.is_cut(&scope, "detect") || self.out.is_cut(&scope, "columns");
            if raw.columns.is_empty() && raw.detect.is_empty() && !is_cut {
                self.out.fault(&scope, &span, "", "masks nothing: give columns, detect, or both");
            }
            let is_opaque =
                |target: &&Target| target.protocol == Protocol::TlsPassthrough && named.contains(&target.name);
            if let Some(target) = targets.iter().find(is_opaque) {
                let message =
                    format!("nothing in target \"{}\" can be masked: its bytes are passed on as they are", target.name);
                self.out.fault(&scope, &span, "targets", message);
            }
            let columns = raw.columns.iter().enumerate().filter_map(|(i, pattern)| {
                let read = |text: &str| text.parse::<ColumnPattern>().map_err(|error| error.to_string());
                self.out.read(&scope, &format!("columns[{i}]"), pattern, read)
            });
            let columns = columns.collect();
            let with = self.with(&scope, raw.with);
            if matches!(with, MaskKind::Hash { .. }) && !raw.detect.is_empty() {
                let message = "what is found anywhere is not hashed: an agent could have its own guesses hashed and compare; \
                               name columns, or take another kind";
                self.out.fault(&scope, &span, "with.hash", message);
            }
            if let Some(At { span, .. }) = raw.lookups_per_minute.as_ref().filter(|_| raw.columns.is_empty()) {
                self.out.fault(
                    &scope,
                    span,
                    "lookups_per_minute",
                    "there is nothing to look up: the mask names no columns",
                );
            }
            let lookups_per_minute = raw.lookups_per_minute.map(|At { value, span }| {
                if !(1..=MAX_LOOKUPS).contains(&value) {
                    let message =
                        format!("expected a number from 1 to {MAX_LOOKUPS}; without it no rows are looked up");
                    self.out.fault(&scope, &span, "lookups_per_minute", message);
                }
                value
            });
            masks.push(Arc::new(MaskRule {
                name: raw.name.value,
                targets: named,
                columns,
                detectors: raw.detect,
                with,
                lookups_per_minute,
            }));
        }
        masks
    }

    pub(super) fn limits(&mut self, raw: Vec<(usize, At<RawLimit>)>, targets: &[Target]) -> Vec<Arc<LimitRule>> {
        let mut names = Names::new("limit");
        names.max = MAX_LIMITS;
        let mut limits = Vec::new();
        for (file, At { value: raw, span }) in raw {
            let scope = Scope::named(file, "limit", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let agents = self.out.references(&scope, "agents", &raw.agents, &self.known.agents, ("agent", ""));
            let named = self.out.references(&scope, "targets", &raw.targets, &self.known.targets, ("target", ""));
            let is_opaque =
                |target: &&Target| target.protocol == Protocol::TlsPassthrough && named.contains(&target.name);
            if let Some(target) = targets.iter().find(is_opaque) {
                let message = format!("what target \"{}\" answers is not read: it cannot be counted", target.name);
                self.out.fault(&scope, &span, "targets", message);
            }
            let mut bytes = |key: &str, text: Option<&At<String>>| {
                text.and_then(|text| self.out.read(&scope, key, text, text::size))
            };
            let statement = Amount { rows: raw.rows.map(|it| it.value), bytes: bytes("bytes", raw.bytes.as_ref()) };
            let session = Amount {
                rows: raw.session_rows.map(|it| it.value),
                bytes: bytes("session_bytes", raw.session_bytes.as_ref()),
            };
            let is_cut = ["bytes", "session_bytes"].iter().any(|key| self.out.is_cut(&scope, key));
            let bounds = [statement.rows, statement.bytes, session.rows, session.bytes];
            if bounds.iter().all(Option::is_none) && !is_cut {
                self.out.fault(&scope, &span, "", "limits nothing: give rows, bytes, session_rows or session_bytes");
            }
            limits.push(Arc::new(LimitRule { name: raw.name.value, agents, targets: named, statement, session }));
        }
        limits
    }

    fn with(&mut self, scope: &Scope, raw: RawWith) -> MaskKind {
        match raw {
            RawWith::Redact => MaskKind::Redact,
            RawWith::Null => MaskKind::Null,
            RawWith::Partial(partial) => {
                let At { value, span } = partial.keep_last;
                if !(1..=MAX_KEEP_LAST).contains(&value) {
                    let message = format!("expected a number from 1 to {MAX_KEEP_LAST}; \"redact\" keeps nothing");
                    self.out.fault(scope, &span, "with.partial.keep_last", message);
                }
                MaskKind::Partial { keep_last: usize::from(value) }
            }
            RawWith::Fixed(text) => {
                let fixed = |text: &str| match text {
                    _ if text.contains('\0') => Err("a NUL is no text in a database".to_owned()),
                    _ => not_long(text),
                };
                MaskKind::Fixed(self.out.read_or(scope, "with.fixed", Some(&text), String::new(), fixed))
            }
            RawWith::Hash(hash) => match self.out.credential(scope, "with.hash.key", &hash.key, "mask-key") {
                Some(key) => MaskKind::Hash { key },
                // The fault has been told: no configuration comes of this.
                None => MaskKind::Null,
            },
        }
    }
}

/// A rule that names databases which none of its targets has can never match.
fn never_meets_a_database(rule: &Rule, targets: &[Target]) -> Option<String> {
    let mut own = targets.iter().filter(|target| rule.targets.is_empty() || rule.targets.contains(&target.name));
    let has = |target: &Target| {
        target.protocol != Protocol::TlsPassthrough
            && (target.databases.is_empty() || target.databases.iter().any(|it| rule.databases.contains(it)))
    };
    let never = !rule.databases.is_empty() && !targets.is_empty() && !own.any(has);
    never.then(|| "can never match: none of the rule's targets has one of these databases".to_owned())
}
