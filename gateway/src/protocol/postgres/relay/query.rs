//! The simple protocol: a text is one request, and stays one.

use std::ops::Range;
use std::sync::Arc;

use super::batch::{MAX_PARAMETERS_RECORDED, shown_parameters};
use super::decide::{Answer, Named, Outcome, judgement, must_be_looked_at, running, shown_by, touches_tagged};
use super::trace::{NO_TYPES, Question, Traced, may_change_meanings, name, not_taken, prepare};
use super::{End, Reached, Relay};
use crate::approval;
use crate::policy::{Action, Gate, Kind, Operation};
use crate::protocol::postgres::operation::{Class, Name, Statement};
use crate::protocol::postgres::reply::{Checked, Fault, Running, Until};
use crate::protocol::postgres::shared::{Catalog, Freshness};
use crate::protocol::postgres::statement::Judged;
use crate::protocol::postgres::wire::{self, PassedOver, Report, Severity, TransactionState};
use crate::session::{Decision, Exact, Forwarded, Judgement, ReplySummary};

/// Of a message that is larger than what is looked at (program_limit_exceeded).
const TOO_LARGE: &str = "54000";
/// Bytes that the columns of a text's results may take until it has run.
const MAX_CHECKED: usize = 16 << 20;

/// Why a statement that touches tagged data is refused behind others of an open batch.
const IN_BATCH: &str = "the statement touches masked columns and follows others that ran in an open batch of the extended protocol; \
                        send Sync before it";

const AFTER_CHANGE: &str = "the statement reads masked columns and follows one, in the same text, after which names may mean something else; \
                            send the statements one at a time";
const EXECUTES_ITS_OWN: &str = "the statement executes what another one in the same text prepares, which touches masked columns; \
                                send the statements one at a time";
const TOO_MANY: &str = "its statements have too many columns to be checked together; send them one at a time";

/// What looking at a statement before it runs has brought.
enum Probed {
    /// The results of each statement that had to be looked at.
    Clean(Vec<Option<Checked>>),
    Unclean(String),
    /// The target itself does not take the statement.
    Failed(Vec<u8>),
}

impl Relay<'_> {
    pub(super) async fn query(&mut self, range: Range<usize>) -> Result<(), End> {
        let Some(answer) = self.after_batch().await? else { return Ok(()) };
        let judged = match self.judged_query(range.clone()).await {
            Ok(judged) => judged,
            Err(problem) => return self.query_problem(&problem?, answer).await,
        };
        if judged.is_empty() {
            self.drain().await?;
            if answer == Answer::QueryInBatch {
                self.sync_at_target().await?;
            }
            self.tell_empty();
            self.tell_ready();
        } else {
            match self.named(&judged).await {
                Ok(named) => self.forward_query(&judged, named.as_ref(), range, answer).await?,
                Err(problem) => return self.query_problem(&problem?, answer).await,
            }
        }
        self.next_batch();
        Ok(())
    }

    /// A message that nobody has looked at is denied where it stands, and its like goes on.
    pub(super) async fn too_large(&mut self, message: PassedOver) -> Result<(), End> {
        let PassedOver { tag, length } = message;
        if !self.takes(tag)? {
            return Ok(());
        }
        let is_batch = matches!(tag, b'P' | b'B');
        let answer = if is_batch { Some(Answer::Batch) } else { self.after_batch().await? };
        let Some(answer) = answer else { return Ok(()) };
        let (what, instead) = match tag {
            b'Q' | b'P' => ("text", "send large values as parameters, or by COPY"),
            _ => ("values", "send them in parts, or by COPY"),
        };
        let most = wire::most_of(tag);
        let reason =
            format!("its {what} of {length} bytes cannot be looked at as a whole: the limit is {most}; {instead}");
        let operation = Operation {
            text: format!("({what} of {length} bytes, not kept)"),
            database: Some(self.way.database.clone()),
            actions: Arc::from([Action::of(Kind::Unparsed)]),
            statements: 1,
            refusal: Some(reason.clone()),
        };
        let judgement = self.session.judge(Arc::new(operation));
        let report = match self.session.decide(&judgement, 0..0, Exact::default()).await? {
            Decision::Denial(denial) => {
                Report::new(Severity::Error, TOO_LARGE, denial.sentence()).with_hint(denial.hint())
            }
            // Where policy only observes there is still nothing that could be forwarded.
            Decision::Permit(permit) => {
                self.not_run(permit, &reason).await?;
                Report::new(Severity::Error, TOO_LARGE, reason)
            }
            Decision::Hold(_) => Report::new(Severity::Error, TOO_LARGE, reason),
        };
        self.drain().await?;
        self.answer(&report, answer).await?;
        if !is_batch {
            self.next_batch();
        }
        Ok(())
    }

    /// A request of the simple protocol ends an open batch of the extended one, as clients rely on that prepare with a Flush, and
    /// runs in its transaction. Returns how it is answered; None: the batch failed, and all up to the Sync is ignored.
    async fn after_batch(&mut self) -> Result<Option<Answer>, End> {
        if !self.forwarded.any {
            return Ok(Some(Answer::Query));
        }
        self.drain().await?;
        if self.replies.skipping {
            return Ok(None);
        }
        if self.forwarded.reached == Reached::Executed {
            return Ok(Some(Answer::QueryInBatch));
        }
        // Nothing of it has run: to end it here changes nothing.
        self.sync_at_target().await?;
        self.next_batch();
        Ok(Some(Answer::Query))
    }

    /// Ends the batch, and its transaction, at a target that owes nothing.
    pub(super) async fn sync_at_target(&mut self) -> Result<(), End> {
        let mut sync = Vec::new();
        wire::message(&mut sync, b'S', |_| {});
        self.ask(&sync, Until::Ready).await.map(drop)
    }

    /// Calls by oid, without a text: what the function does is not known here.
    pub(super) async fn function_call(&mut self, range: Range<usize>) -> Result<(), End> {
        let Some(answer) = self.after_batch().await? else { return Ok(()) };
        let oid = wire::Fields::of(self.client.inbox.bytes(range.clone())).u32()?;
        self.drain().await?;
        let (catalog, refusal) = match self.catalog(Freshness::Usual).await? {
            Ok(catalog) if catalog.set.is_empty() => (catalog, None),
            Ok(catalog) => {
                let masked = "a function called by number is not known to be harmless; this target has masked columns";
                (catalog, Some(masked.to_owned()))
            }
            Err(why) => (Arc::new(Catalog::unknown()), Some(why)),
        };
        let action = Action { functions: vec![oid.to_string()], ..Action::of(Kind::FunctionCall) };
        let operation = Operation {
            text: format!("function call {oid}"),
            database: Some(self.way.database.clone()),
            actions: Arc::from([action]),
            statements: 1,
            refusal,
        };
        // Where columns are masked, a value may be one of theirs.
        let is_shown = operation.refusal.is_none();
        let judgement = self.session.judge(Arc::new(operation));
        let bytes = self.client.inbox.bytes(range.clone()).to_vec();
        let most = match judgement.gate() {
            Gate::Hold { .. } => approval::MAX_TEXT,
            Gate::Allow { .. } | Gate::Deny { .. } => MAX_PARAMETERS_RECORDED,
        };
        let arguments = wire::call_arguments(&bytes)?;
        let arguments = shown_parameters(&wire::bound(&[], &[], &arguments)?, most).filter(|_| is_shown);
        let exact = Exact { bytes: &[&bytes], parameters: arguments.as_deref(), ..Exact::default() };
        match self.session.decide(&judgement, range, exact).await? {
            Decision::Permit(permit) => {
                let forwarded = self.to_target.permitted(permit, &self.client.inbox);
                self.call(forwarded, &catalog);
            }
            Decision::Denial(denial) => self.deny(&denial, answer).await?,
            Decision::Hold(held) => {
                if let Outcome::Permit(permit) = self.hold(held, answer).await? {
                    let forwarded = self.to_target.permitted(permit, &self.client.inbox);
                    self.call(forwarded, &catalog);
                }
            }
        }
        self.next_batch();
        Ok(())
    }

    fn call(&mut self, forwarded: Forwarded, catalog: &Catalog) {
        let mut running = Running::new(forwarded, Arc::clone(&catalog.set));
        running.batch = self.batch;
        running.allowance = self.session.allowance();
        self.replies.function_call(running);
    }

    async fn forward_query(
        &mut self,
        judged: &Arc<Judged>,
        named: Option<&Named>,
        range: Range<usize>,
        answer: Answer,
    ) -> Result<(), End> {
        let looked_at = must_be_looked_at(judged, named);
        let judgement = judgement(judged, named);
        let (mut checked, mut refused) = (Vec::new(), None);
        // In a failed transaction the target's own error is worth the look.
        let runs = answer == Answer::Query && self.replies.state != TransactionState::Failed;
        let known = if looked_at && runs { self.traced_before(judged) } else { None };
        if let Some(found) = known {
            match found.lineage.as_deref().map_or(Ok(()), |it| self.look_up(&judged.catalog.set, it)) {
                Ok(()) => checked = vec![Some(found)],
                Err(reason) => refused = Some(judged.refused(self.session, reason)),
            }
        } else if looked_at && answer == Answer::QueryInBatch {
            // Looking at it would commit what ran before it.
            refused = Some(judged.refused(self.session, IN_BATCH.to_owned()));
        } else if looked_at {
            self.drain().await?;
            match self.probe(judged, named).await? {
                Probed::Clean(columns) => checked = columns,
                Probed::Unclean(reason) => refused = Some(judged.refused(self.session, reason)),
                Probed::Failed(error) => return self.failed_probe(judged, judgement, range, &error).await,
            }
        }
        let judgement = refused.as_ref().unwrap_or(judgement);
        let Outcome::Permit(permit) = self.decide(judgement, judged, range, None, answer).await? else {
            return Ok(());
        };
        if looked_at && refused.is_none() && matches!(judgement.gate(), Gate::Hold { .. }) {
            // People took their time: what it was found to show then may be something else now.
            let problem = match self.probe(judged, named).await? {
                Probed::Clean(columns) => {
                    checked = columns;
                    None
                }
                Probed::Unclean(reason) => Some(reason),
                Probed::Failed(_) => Some("the target does not take the statement any more".to_owned()),
            };
            if let Some(problem) = problem {
                self.not_run(permit, &problem).await?;
                return self.answer(&Report::new(Severity::Error, "42501", problem), answer).await;
            }
        }
        // What is refused and permitted all the same is only observed: nothing is masked or withheld.
        let tagged = looked_at && refused.is_none();
        let forwarded = self.to_target.permitted(permit, &self.client.inbox);
        let mut running = running(self.session, judged, forwarded, tagged);
        running.checked = checked;
        running.batch = self.batch;
        if answer == Answer::QueryInBatch {
            running.follows_work();
        }
        self.replies.query(running);
        self.went(judged);
        Ok(())
    }

    /// The target does not take the statement: its error is the answer, for it has read no data. In a transaction the error
    /// has happened there too, and the state says so.
    async fn failed_probe(
        &mut self,
        judged: &Arc<Judged>,
        judgement: &Judgement,
        range: Range<usize>,
        error: &[u8],
    ) -> Result<(), End> {
        let code = wire::sqlstate(error).unwrap_or("XX000").to_owned();
        if matches!(judgement.gate(), Gate::Allow { .. })
            && let Outcome::Permit(permit) = self.decide(judgement, judged, range, None, Answer::Query).await?
        {
            let (_, forwarded) = permit.forward();
            let outcome = format!("ERROR {code} (found when it was checked)");
            self.session.replied(forwarded, ReplySummary { outcome, ..ReplySummary::default() }).await?;
        }
        self.tell_not_taken(error);
        self.tell_ready();
        Ok(())
    }

    /// The target's own error of a statement that was only prepared.
    pub(super) fn tell_not_taken(&mut self, error: &[u8]) {
        if let Ok(passed) = self.session.masker().pass_text(false, error) {
            self.to_client.append(&passed);
        } else {
            let code = wire::sqlstate(error).unwrap_or("XX000");
            self.tell(&Report::new(Severity::Error, code, "the target does not take this statement"));
        }
    }

    /// Has the target describe the results of statements that touch tagged tables, before they run.
    async fn probe(&mut self, judged: &Judged, named: Option<&Named>) -> Result<Probed, End> {
        let statements = judged.statements();
        let (mut checked, mut left) = (vec![None; statements.len()], MAX_CHECKED);
        for (index, statement) in statements.iter().enumerate() {
            if !touches_tagged(judged, index, named) {
                continue;
            }
            let text = judged.source(statement);
            if executes_its_own(statements, index) {
                return Ok(Probed::Unclean(EXECUTES_ITS_OWN.to_owned()));
            }
            if let Class::Traced { query, .. } = &statement.class {
                if statements[..index].iter().any(|it| may_change_meanings(judged, it)) {
                    return Ok(Probed::Unclean(AFTER_CHANGE.to_owned()));
                }
                match self.trace(&Question::untyped(judged, statement)?).await? {
                    Traced::Clean(found) => {
                        if let Some(Err(reason)) =
                            found.lineage.as_deref().map(|it| self.look_up(&judged.catalog.set, it))
                        {
                            return Ok(Probed::Unclean(reason));
                        }
                        if !fits(&found, &mut left) {
                            return Ok(Probed::Unclean(TOO_MANY.to_owned()));
                        }
                        self.remember_trace(judged, &found);
                        checked[index] = Some(found);
                        continue;
                    }
                    // Broken is what was an open batch, which a simple query has ended before.
                    Traced::Unclean(reason) | Traced::Broken(reason) => return Ok(Probed::Unclean(reason)),
                    // The target would look at what is within only when it runs. Its transaction has not failed by that.
                    Traced::Failed(Some(error)) if query.is_within() => {
                        let is_told = statements.len() == 1 && self.replies.state == TransactionState::Idle;
                        return Ok(if is_told { Probed::Failed(error) } else { Probed::Unclean(not_taken(&error)) });
                    }
                    // Below it fails once more, and this time for the client.
                    Traced::Failed(_) => {}
                }
            }
            let shown = match self.shown(judged, named).await? {
                Ok(shown) => shown,
                Err(reason) => return Ok(Probed::Unclean(reason)),
            };
            let mut out = Vec::new();
            // A question that was interrupted may have left its own.
            name(&mut out, b'C', b'S');
            prepare(&mut out, text, NO_TYPES);
            name(&mut out, b'D', b'S');
            name(&mut out, b'C', b'S');
            wire::message(&mut out, b'S', |_| {});
            let answer = self.ask(&out, Until::Ready).await?;
            let columns = match (answer.error, answer.columns) {
                (Some(_), _) if statements.len() > 1 => {
                    let reason = "the statement touches masked columns and could not be checked as part of a batch; \
                                  send the statements one at a time";
                    return Ok(Probed::Unclean(reason.to_owned()));
                }
                (Some(error), _) => return Ok(Probed::Failed(error)),
                (None, Some(columns)) => columns,
                (None, None) => return Err(Fault::Unexpected('Z').into()),
            };
            let found = match shown {
                Some(shown) => shown_by(shown, columns),
                None => judged.must_be_plain(columns.as_deref()).map(|()| Checked::described(columns, None)),
            };
            let found = match found {
                Ok(found) => found,
                Err(reason) => return Ok(Probed::Unclean(reason)),
            };
            if matches!(statement.class, Class::Traced { .. }) {
                return Ok(Probed::Unclean("the target did not take the statement at first, and then did".to_owned()));
            }
            if !fits(&found, &mut left) {
                return Ok(Probed::Unclean(TOO_MANY.to_owned()));
            }
            checked[index] = Some(found);
        }
        Ok(Probed::Clean(checked))
    }

    async fn query_problem(&mut self, report: &Report, answer: Answer) -> Result<(), End> {
        self.drain().await?;
        self.answer(report, answer).await?;
        self.next_batch();
        Ok(())
    }
}

/// Whether a statement executes what another one before it, in the same text, prepares: of that nobody would count what is looked up.
fn executes_its_own(statements: &[Statement], index: usize) -> bool {
    let Some(Name::Executes(name)) = statements.get(index).and_then(|it| it.name.as_ref()) else { return false };
    let prepares = |it: &&Statement| matches!(&it.name, Some(Name::Prepares(made)) if made == name);
    statements[..index].iter().rev().find(prepares).is_some_and(|it| matches!(it.class, Class::Traced { .. }))
}

/// Whether there is room for what was found out of one more statement; takes it.
fn fits(found: &Checked, left: &mut usize) -> bool {
    let rest = left.checked_sub(found.size());
    *left = rest.unwrap_or(0);
    rest.is_some()
}
