//! The extended protocol: statements are prepared, bound, described and executed one message at a time, in batches that end
//! with a Sync. The decision falls when a statement is executed, with the parameters that it is executed with.

use std::ops::Range;
use std::sync::Arc;

use super::decide::{Answer, DENIED, Outcome, judgement, must_be_looked_at, running, shown_by};
use super::trace::{NEW_COLUMNS, Question, Traced, is_traced, is_within, only_reads};
use super::{End, Front, PROBE, Reached, Relay};
use crate::policy::Gate;
use crate::protocol::postgres::forecast::Expected;
use crate::protocol::postgres::operation;
use crate::protocol::postgres::reply::{Checked, Fault, Until, unfit};
use crate::protocol::postgres::statement::{Columns, Description, Judged, Portal, Prepared};
use crate::protocol::postgres::traced::only_as_text;
use crate::protocol::postgres::wire::{self, Malformed, Report, Severity, TransactionState};

/// A text that no server takes for a statement: it makes a batch fail at the target that failed for the client.
const NO_STATEMENT: &[u8] = b"denied by policy";
/// Of a portal whose statement did not need to be traced when it was bound.
const NOT_TRACED: &str = "what its statement names has changed since it was bound; bind it again";
/// Of one that is about something else when it runs than when it was bound.
const CHANGED: &str = "what it names may have become something else since it was bound; bind it again";
/// Of a function that people are asked about.
const PLANNED: &str = "is said to be immutable or stable, and so it may run when values are bound, before anybody has decided; send the statement as a \
                       simple query, with its values in it, or have the function declared VOLATILE";
/// Of a name of an earlier transaction, behind a pooler.
const OF_A_POOLER: &str = "this target is a pooler, behind which names end with their transaction; if each session keeps its connection there, \
                           the people who run Weir can say pool_mode = \"session\"";
/// Of the parameters of a statement that nobody is asked about: these are for its record.
pub(super) const MAX_PARAMETERS_RECORDED: usize = 1_000;

impl Relay<'_> {
    pub(super) fn sync(&mut self, range: Range<usize>) {
        if self.replies.copying_in {
            self.to_target.harmless(self.client.inbox.bytes(range));
            return;
        }
        let absorbed = std::mem::replace(&mut self.front, Front::Open) == Front::Absorbing;
        if self.forwarded.any || self.replies.skipping || !absorbed {
            self.to_target.harmless(self.client.inbox.bytes(range));
            self.replies.sync(self.batch);
        } else {
            // Nothing of the batch reached the target, and it owes nothing: its state is known.
            self.tell_ready();
        }
        self.next_batch();
    }

    pub(super) async fn parse(&mut self, range: Range<usize>) -> Result<(), End> {
        let message = wire::parse(self.client.inbox.bytes(range.clone()))?;
        let (name, text, types) = (message.name.to_vec(), message.query.to_vec(), Arc::from(message.types));
        let judged = match self.judged(&text).await {
            Ok(judged) => judged,
            Err(problem) => return self.batch_problem(&problem?).await,
        };
        // The batch may have failed at the target while the catalog was waited for.
        if self.replies.skipping {
            return Ok(());
        }
        if judged.is_denied() {
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
            // Recorded and told by the decision; a denied statement is not even prepared.
            if let Outcome::Over = self.decide(&judged.judgement, &judged, range.clone(), None, Answer::Batch).await? {
                return Ok(());
            }
        }
        if let Some(function) = judged.runs_before_people() {
            let refused = judged.refused(self.session, format!("{function} {PLANNED}"));
            if let Outcome::Over = self.decide(&refused, &judged, range.clone(), None, Answer::Batch).await? {
                return Ok(());
            }
        }
        self.trace_ahead(&judged, &types).await?;
        if self.replies.skipping {
            return Ok(());
        }
        let taken = self.replies.names.may_be_prepared(&name);
        let id = self.replies.names.fresh_id();
        let description = Description::default();
        let prepared = Prepared { id, judged, types, description, batch: self.batch, confirmed: false };
        let previous = match self.replies.names.set_statement(&name, Some(prepared)) {
            Ok(previous) => previous,
            Err(full) => return self.batch_problem(&Report::new(Severity::Error, "54000", full.to_string())).await,
        };
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.replies.parse(name, id, previous);
        self.in_batch();
        if taken {
            self.drain().await?;
        }
        Ok(())
    }

    pub(super) async fn bind(&mut self, range: Range<usize>) -> Result<(), End> {
        let message = wire::bind(self.client.inbox.bytes(range.clone()))?;
        let name = message.portal.to_vec();
        let statement = message.statement.to_vec();
        let Some(prepared) = self.certain_statement(&statement).await? else { return Ok(()) };
        let traced = if is_traced(&prepared.judged) {
            let judged = match self.judged_again(&prepared.judged).await {
                Ok(judged) => judged,
                Err(problem) => return self.batch_problem(&problem?).await,
            };
            self.trace_ahead(&judged, &prepared.types).await?
        } else {
            None
        };
        if self.replies.skipping {
            return Ok(());
        }
        let forecast = self.forecast_portal(&prepared, range.clone()).await?;
        if self.replies.skipping {
            return Ok(());
        }
        let message = wire::bind(self.client.inbox.bytes(range.clone()))?;
        let parameters =
            shown_parameters(&message, MAX_PARAMETERS_RECORDED).filter(|_| !prepared.judged.redact_parameters);
        let portal = Portal {
            id: self.replies.names.fresh_id(),
            values: message.values.into(),
            parameters: parameters.map(Arc::from),
            result_formats: message.result_formats.into(),
            judged: prepared.judged,
            description: Description::default(),
            statement_description: prepared.description,
            asked: false,
            names: 0,
            types: prepared.types,
            traced,
            forecast,
            batch: self.batch,
            confirmed: false,
        };
        let id = portal.id;
        let previous = match self.replies.names.set_portal(&name, Some(portal)) {
            Ok(previous) => previous,
            Err(full) => return self.batch_problem(&Report::new(Severity::Error, "54000", full.to_string())).await,
        };
        let names = self.replies.names.changes();
        if let Some(portal) = self.replies.names.portal_mut(&name) {
            portal.names = names;
        }
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.replies.bind(name, id, previous);
        self.in_batch();
        self.forwarded.reached = self.forwarded.reached.max(Reached::Bound);
        Ok(())
    }

    /// What the target expects of a statement with the values of a Bind that is not sent yet, if people will have to decide. It
    /// is asked outside of the batch, which may have prepared statements so far, and nothing else.
    async fn forecast_portal(
        &mut self,
        prepared: &Prepared,
        range: Range<usize>,
    ) -> Result<Option<Arc<Expected>>, End> {
        let is_held = matches!(prepared.judged.judgement.gate(), Gate::Hold { .. });
        if !is_held || self.forwarded.reached > Reached::Prepared {
            return Ok(None);
        }
        self.drain().await?;
        // What a batch has prepared may end with it.
        let ends = self.replies.names.end_with_transactions() && self.replies.state == TransactionState::Idle;
        if self.replies.skipping || ends {
            return Ok(None);
        }
        if std::mem::take(&mut self.forwarded.any) {
            self.sync_at_target().await?;
        }
        let values = wire::bind(self.client.inbox.bytes(range))?.values.to_vec();
        Ok(self.forecast(&prepared.judged, Some(&prepared.types), &values).await?.map(Arc::new))
    }

    pub(super) async fn describe(&mut self, range: Range<usize>) -> Result<(), End> {
        let (kind, name) = self.kind_and_name(range.clone())?;
        if kind == b'S' {
            let Some(prepared) = self.certain_statement(&name).await? else { return Ok(()) };
            self.replies.describe_statement(prepared.description);
        } else {
            let known = self.replies.names.portal_mut(&name).map(|portal| {
                portal.asked = true;
                portal.description.clone()
            });
            let description = match known {
                Some(description) => description,
                None if self.is_cursor(&name).await? => Description::default(),
                None => return self.unknown_portal(&name).await,
            };
            if self.replies.skipping {
                return Ok(());
            }
            self.replies.describe_portal(description, false);
        }
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.in_batch();
        Ok(())
    }

    pub(super) async fn execute(&mut self, range: Range<usize>) -> Result<(), End> {
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range.clone()));
        let name = fields.name()?.to_vec();
        let _rows = fields.u32()?;
        fields.end()?;
        // A Bind of an earlier batch may have failed: then the name stands for something else at the target.
        let names = &self.replies.names;
        let is_unsure = |portal: &Portal| !portal.confirmed || names.end_with_transactions();
        if names.portal(&name).is_some_and(|portal| portal.batch != self.batch && is_unsure(portal)) {
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
        }
        let Some(portal) = self.replies.names.portal(&name).cloned() else {
            return self.unknown_portal(&name).await;
        };
        let judged = match self.judged_again(&portal.judged).await {
            Ok(judged) => judged,
            Err(problem) => return self.batch_problem(&problem?).await,
        };
        let newer = match self.up_to_date(Arc::clone(&judged)).await {
            Ok(newer) => Some(newer).filter(|it| !Arc::ptr_eq(it, &judged)),
            Err(problem) => return self.batch_problem(&problem?).await,
        };
        if self.replies.skipping {
            return Ok(());
        }
        if judged.is_empty() {
            // It runs nothing.
            self.to_target.harmless(self.client.inbox.bytes(range));
            self.replies.execute_nothing();
            self.in_batch();
            return Ok(());
        }
        let named = match self.named(&judged).await {
            Ok(named) => named,
            Err(problem) => return self.batch_problem(&problem?).await,
        };
        if self.replies.skipping {
            return Ok(());
        }
        // What it was bound under is older than what it could reach.
        let mut refused = newer.map(|it| it.refused(self.session, NEW_COLUMNS.to_owned()));
        let looked_at = refused.is_none() && must_be_looked_at(&judged, named.as_ref());
        let mut traced = Vec::new();
        let known = if looked_at && only_reads(&judged) { planned(&portal) } else { None };
        if let Some(found) = known {
            // Its description comes before its rows, and one that is another ends the session.
            self.ask_portal(&portal, &name);
            match found.lineage.as_deref().map_or(Ok(()), |it| self.look_up(&judged.catalog.set, it)) {
                Ok(()) => traced = vec![Some(found)],
                Err(reason) => refused = Some(judged.refused(self.session, reason)),
            }
        } else if looked_at {
            self.ask_portal(&portal, &name);
            self.drain().await?;
            if self.replies.skipping {
                return Ok(());
            }
            let Some(columns) = portal.description.get() else { return Err(Fault::Unexpected('n').into()) };
            let shown = self.shown(&judged, named.as_ref()).await?;
            if self.replies.skipping {
                return Ok(());
            }
            let checked = if named.is_some() && portal.names != self.replies.names.changes() {
                // The target describes it by what the names stood for when it was bound, and runs what they stand for now.
                Err(CHANGED.to_owned())
            } else {
                match shown {
                    Ok(Some(shown)) => shown_by(shown, columns).and_then(|it| fit(it, &portal)),
                    Ok(None) => self.checked(&judged, &portal, columns),
                    Err(reason) => Err(reason),
                }
            };
            match checked {
                Ok(found) => traced = vec![Some(found)],
                Err(reason) => refused = Some(judged.refused(self.session, reason)),
            }
        } else if !portal.asked && portal.statement_description.get().is_none() {
            self.ask_portal(&portal, &name);
        }
        let judgement = refused.as_ref().unwrap_or(judgement(&judged, named.as_ref()));
        let outcome = self.decide(judgement, &judged, range, Some(&portal), Answer::Batch).await?;
        let Outcome::Permit(permit) = outcome else { return Ok(()) };
        let held = looked_at && refused.is_none() && matches!(judgement.gate(), Gate::Hold { .. });
        if held && !self.replies.skipping && is_within(&judged) {
            // People took their time, and what it is about is looked up when it runs.
            match self.trace_again(&judged, &portal).await? {
                Ok(found) => traced = vec![Some(found)],
                Err(reason) => {
                    self.not_run(permit, &reason).await?;
                    return self.answer(&Report::new(Severity::Error, DENIED, reason), Answer::Batch).await;
                }
            }
        }
        if self.replies.skipping {
            // The batch failed at the target meanwhile: nothing of it may follow, and nothing was forwarded.
            return self.not_run(permit, "the batch has failed").await;
        }
        let forwarded = self.to_target.permitted(permit, &self.client.inbox);
        // What is refused and permitted all the same is only observed: nothing is masked or withheld.
        let tagged = looked_at && refused.is_none();
        let mut running = running(self.session, &judged, forwarded, tagged);
        running.portal = Some(portal);
        running.checked = traced;
        if self.forwarded.reached == Reached::Executed {
            running.follows_work();
        }
        self.replies.execute(running);
        self.in_batch();
        self.forwarded.reached = Reached::Executed;
        self.went(&judged);
        Ok(())
    }

    /// Where the columns of what a portal is about come from now. The inner error says why it is refused.
    async fn trace_again(&mut self, judged: &Judged, portal: &Portal) -> Result<Result<Checked, String>, End> {
        let [statement] = judged.statements() else { return Ok(Err(NOT_TRACED.to_owned())) };
        let question = Question::new(judged, statement, Arc::clone(&portal.types))?;
        Ok(match self.trace_now(&question).await? {
            Traced::Clean(found) => Ok(found),
            Traced::Unclean(reason) => Err(reason),
            Traced::Broken(reason) => {
                // The batch is over at the target, and nothing else tells of it.
                self.tell(&Report::new(Severity::Error, DENIED, reason.clone()));
                Err(reason)
            }
            Traced::Failed(_) => Err("the target does not take the statement any more".to_owned()),
        })
    }

    /// Whether the masks of a portal's columns are known, as the target describes them.
    fn checked(&self, judged: &Judged, portal: &Portal, columns: Columns) -> Result<Checked, String> {
        if !is_traced(judged) {
            return judged.must_be_plain(columns.as_deref()).map(|()| Checked::described(columns, None));
        }
        let found = portal.traced.as_ref().ok_or(NOT_TRACED)?.found.clone()?;
        if is_within(judged) {
            // What these are about the target looks up when they run. Rows of their own they have none, but for a plan.
            if portal.names != self.replies.names.changes() {
                return Err(CHANGED.to_owned());
            }
            found.lineage.as_deref().map_or(Ok(()), |it| self.look_up(&judged.catalog.set, it))?;
            return Ok(found);
        }
        let lineage = found.lineage.clone().filter(|it| it.agrees(columns.as_deref().unwrap_or_default()));
        let lineage = lineage.ok_or("its result is not the one that the target planned before; bind it again")?;
        self.look_up(&judged.catalog.set, &lineage)?;
        fit(Checked::described(columns, Some(lineage)), portal)
    }

    pub(super) fn close_name(&mut self, range: Range<usize>) -> Result<(), End> {
        let (kind, name) = self.kind_and_name(range.clone())?;
        // Closing what does not exist is no error.
        let names = &mut self.replies.names;
        let closed = if kind == b'S' { names.close_statement(name) } else { names.close_portal(name) };
        self.to_target.harmless(self.client.inbox.bytes(range));
        self.replies.close(closed);
        self.in_batch();
        Ok(())
    }

    /// The statement of this name, as the target has it: a Parse of an earlier batch may have failed, and then the name stands
    /// for something else there. None: the client was told, or the batch has failed.
    async fn certain_statement(&mut self, name: &[u8]) -> Result<Option<Prepared>, End> {
        let names = &self.replies.names;
        let is_unsure = |statement: &Prepared| !statement.confirmed || names.end_with_transactions();
        if names.statement(name).is_some_and(|statement| statement.batch != self.batch && is_unsure(statement)) {
            self.drain().await?;
            if self.replies.skipping {
                return Ok(None);
            }
        }
        if let Some(statement) = self.replies.names.statement(name) {
            return Ok(Some(statement.clone()));
        }
        let text = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
        let mut report = Report::new(Severity::Error, "26000", text);
        if self.replies.names.end_with_transactions() {
            report = report.with_hint(OF_A_POOLER);
        }
        self.batch_error(&report).await?;
        Ok(None)
    }

    /// An error that the target would have made of it: there, too, an open transaction has failed with it.
    async fn batch_error(&mut self, report: &Report) -> Result<(), End> {
        self.batch_problem(report).await?;
        if self.front == Front::Absorbing
            && self.forwarded.reached != Reached::Executed
            && self.replies.state == TransactionState::Open
        {
            self.forwarded.any = true;
            self.fail_batch().await?;
        }
        Ok(())
    }

    pub(super) async fn batch_problem(&mut self, report: &Report) -> Result<(), End> {
        self.drain().await?;
        self.answer(report, Answer::Batch).await
    }

    /// To the client the batch has failed, so what ran of it must not be committed: it fails at the target too.
    pub(super) async fn fail_batch(&mut self) -> Result<(), End> {
        let mut out = Vec::new();
        wire::message(&mut out, b'P', |out| {
            wire::put_string(out, PROBE);
            wire::put_string(out, NO_STATEMENT);
            out.extend_from_slice(&[0, 0]);
        });
        wire::message(&mut out, b'H', |_| {});
        self.ask(&out, Until::Error).await.map(drop)
    }

    /// The kind and name of a Describe or Close.
    fn kind_and_name(&self, range: Range<usize>) -> Result<(u8, Vec<u8>), Malformed> {
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range));
        let (kind, name) = (fields.u8()?, fields.name()?.to_vec());
        fields.end()?;
        if matches!(kind, b'S' | b'P') { Ok((kind, name)) } else { Err(Malformed::Body) }
    }

    /// Asks for a portal's description, unless the client has.
    fn ask_portal(&mut self, portal: &Portal, name: &[u8]) {
        if portal.asked {
            return;
        }
        let mut out = Vec::new();
        wire::message(&mut out, b'D', |out| {
            out.push(b'P');
            wire::put_string(out, name);
        });
        self.to_target.harmless(&out);
        if let Some(portal) = self.replies.names.portal_mut(name) {
            portal.asked = true;
        }
        self.replies.describe_portal(portal.description.clone(), true);
        self.in_batch();
    }

    /// Whether SQL has declared a cursor of this name, which is a portal that may be described.
    async fn is_cursor(&mut self, name: &[u8]) -> Result<bool, End> {
        self.drain().await?;
        Ok(self.replies.names.is_declared(name))
    }

    async fn unknown_portal(&mut self, name: &[u8]) -> Result<(), End> {
        let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
        self.batch_error(&Report::new(Severity::Error, "34000", text)).await
    }
}

/// What a portal's result is, by what was found out before it was bound, where its formats can be told fit by that.
fn planned(portal: &Portal) -> Option<Checked> {
    let found = portal.traced.as_ref()?.found.clone().ok()?;
    found.lineage.as_ref()?;
    fit(found, portal).ok()
}

/// Whether what a portal shows of masked columns is given in a format that any value can be sent in.
fn fit(found: Checked, portal: &Portal) -> Result<Checked, String> {
    let columns = found.columns.as_deref().unwrap_or_default();
    match found.lineage.as_deref().and_then(|it| unfit(it, columns, &portal.result_formats)) {
        Some(index) => Err(only_as_text(index)),
        None => Ok(found),
    }
}

/// Parameters as people see them, none where there are none. Longer ones are cut, which is told.
pub(super) fn shown_parameters(bind: &wire::Bind<'_>, most: usize) -> Option<String> {
    use std::fmt::Write;
    if bind.parameters.is_empty() {
        return None;
    }
    let format = |index: usize| match &bind.parameter_formats[..] {
        [] => 0,
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    };
    let mut shown = String::new();
    for (index, value) in bind.parameters.iter().enumerate() {
        if shown.len() > most {
            break;
        }
        let separator = if index == 0 { "" } else { ", " };
        let begin = |value: &&[u8]| value.len().min(most.saturating_add(1));
        let looks_secret = |value: &&[u8]| operation::looks_secret(&String::from_utf8_lossy(&value[..begin(value)]));
        // Writing to a string cannot fail.
        let _ = match value {
            Some(value) if !value.iter().all(u8::is_ascii_digit) && looks_secret(value) => {
                write!(shown, "{separator}${} = '***'", index + 1)
            }
            None => write!(shown, "{separator}${} = NULL", index + 1),
            Some(value) if format(index) == 0 => {
                // As the server reads strings: none can look like its end and another parameter.
                let text = String::from_utf8_lossy(&value[..begin(value)]).replace('\'', "''");
                write!(shown, "{separator}${} = '{text}'", index + 1)
            }
            Some(value) => {
                let _ = write!(shown, "{separator}${} = binary ", index + 1);
                value[..begin(value)].iter().try_for_each(|byte| write!(shown, "{byte:02x}"))
            }
        };
    }
    if shown.len() > most {
        let values: usize = bind.parameters.iter().flatten().map(|value| value.len()).sum();
        shown.truncate(shown.floor_char_boundary(most));
        let _ = write!(shown, "... (cut here: {} parameters with {values} bytes in all)", bind.parameters.len());
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_look_secret_are_not_shown_in_either_format() {
        let values = [&b"host=h password=hunter2"[..], b"it's", b"7"];
        for (format, others) in [(0_u8, "$2 = 'it''s', $3 = '7'"), (1, "$2 = binary 69742773, $3 = binary 37")] {
            let mut message = vec![0, 1, 0, format, 0, 3];
            for value in values {
                message.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
                message.extend_from_slice(value);
            }
            message.extend_from_slice(&[0, 0]);
            let shown = shown_parameters(&wire::bound(&[], &[], &message).unwrap(), MAX_PARAMETERS_RECORDED).unwrap();
            assert_eq!(shown, format!("$1 = '***', {others}"));
        }
    }
}
