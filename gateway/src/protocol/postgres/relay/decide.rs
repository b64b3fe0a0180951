//! From a text to a permit: what it does, what policy says of it, and what people say where policy asks them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use std::time::{Duration, Instant};

use super::batch::shown_parameters;
use super::trace::{Question, Traced, has_changes_of_meaning};
use super::{Encoding, End, Front, Reached, Relay};
use crate::approval;
use crate::policy::{Action, Gate, Kind};
use crate::protocol::postgres::operation::{self, Class, MAX_FACTS, Name, Parsed, Statement};
use crate::protocol::postgres::reply::{Checked, Running, Sets, Undoing};
use crate::protocol::postgres::shared::{Catalog, Freshness};
use crate::protocol::postgres::statement::{Columns, Judged, Portal};
use crate::protocol::postgres::wire::{self, Malformed, Report, Severity, TransactionState};
use crate::session::{Decision, Denial, Exact, Forwarded, Held, HeldEvent, Judgement, Permit, ReplySummary, Session};

/// Relations that are remembered as missing in the catalog.
const MAX_MISSING: usize = 1_000;
/// How long they are, within a transaction: what that has made itself no reading finds, and each would take its time. Others
/// may make one of that name meanwhile.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// How far names may stand for statements that use names.
const MAX_NAMED: usize = 4;
/// What stands behind the names of a text, as its record holds it beside the text's own: with more, it is not understood.
const MAX_NAMED_BYTES: usize = MAX_FACTS / 2;
pub(super) const DENIED: &str = "42501";
/// People were asked about other tables than those that it would change or read now.
const ABOUT_ANOTHER: &str = "what the statement names has become something else since it was shown to people, or cannot be looked at any \
                             more; ask again";
/// Where the columns of a result come from is asked of the target by the statement's text.
const BY_NAME: &str = "what the name stands for reads masked columns; send the statement itself";
/// What it does to settings, names and transactions would not be seen.
const COMMAND_BY_NAME: &str =
    "the name stands for a command, and not for a query or a change of rows; send the command itself";

/// A request that got through, or not.
pub(super) enum Outcome {
    Permit(Permit<Range<usize>>),
    /// The client was told no, or took it back.
    Over,
}

/// What a statement runs that it only names.
pub(super) struct Named {
    /// It may touch tagged tables.
    tagged: bool,
    /// Where the columns come from, if what it runs has to be traced.
    shows: Option<Shows>,
    /// On the statement with all that.
    judgement: Judgement,
}

/// Where the columns of what a name stands for come from.
pub(super) enum Shows {
    /// As the target said when the cursor was opened.
    Known(Checked),
    /// As it said when a portal was bound, which has not looked anything up by that.
    Bound(Checked),
    /// To be asked again: what a prepared statement is about can change.
    Again(Question),
}

/// How a request that does not run is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An error, then readiness.
    Query,
    /// The same, for what came in an open batch in which statements ran: they are not to be committed.
    QueryInBatch,
    /// An error; readiness comes with the Sync.
    Batch,
    /// The same, where the batch has failed at the target already, of which the client has not heard.
    Broken,
}

impl Relay<'_> {
    /// What the text of a simple query does and what policy says of it. The error is what the client is to be told, or the
    /// session's end.
    pub(super) async fn judged_query(&mut self, range: Range<usize>) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = self.catalog(Freshness::Usual).await.map_err(Err)?;
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range));
        let text = fields.string().and_then(|text| fields.end().map(|()| text)).map_err(|error| Err(error.into()))?;
        let catalog = match catalog {
            Ok(catalog) => catalog,
            Err(why) => return Ok(self.not_understood(utf8(text)?, why)),
        };
        let judged = self.memory.recall(self.session, &catalog, text);
        let judged = if let Some(judged) = judged.filter(|judged| !self.names_unknown(judged)) {
            judged
        } else {
            let text = utf8(text)?;
            self.judged_anew(text, catalog).await?
        };
        self.up_to_date(judged).await
    }

    /// What is about to run, under a catalog that knows the columns which it could reach.
    pub(super) async fn up_to_date(&mut self, judged: Arc<Judged>) -> Result<Arc<Judged>, Result<Report, End>> {
        if judged.reached.is_empty() || judged.is_denied() {
            return Ok(judged);
        }
        let set = &judged.catalog.set;
        match self.state.has_news(self.session, self.way, set, &judged.reached).await {
            Ok(false) => return Ok(judged),
            Ok(true) => {}
            Err(why) => return Ok(self.not_understood(Arc::clone(&judged.text), self.denied_until(&why))),
        }
        let text = Arc::clone(&judged.text);
        match self.catalog(Freshness::AsNewAs(Instant::now())).await.map_err(Err)? {
            Ok(catalog) => self.judged_anew(text, catalog).await,
            Err(why) => Ok(self.not_understood(text, why)),
        }
    }

    fn denied_until(&self, why: &str) -> String {
        let target = &self.session.target.name;
        format!("the target {target:?} is denied until the people who run Weir have put this right: {why}")
    }

    /// The same for a prepared statement's text.
    pub(super) async fn judged(&mut self, text: &[u8]) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = match self.catalog(Freshness::Usual).await.map_err(Err)? {
            Ok(catalog) => catalog,
            Err(why) => return Ok(self.not_understood(utf8(text)?, why)),
        };
        match self.memory.recall(self.session, &catalog, text).filter(|judged| !self.names_unknown(judged)) {
            Some(judged) => Ok(judged),
            None => self.judged_anew(utf8(text)?, catalog).await,
        }
    }

    /// The same for what was judged before: as it was, where nothing has changed since.
    pub(super) async fn judged_again(&mut self, judged: &Arc<Judged>) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = self.catalog(Freshness::Usual).await.map_err(Err)?;
        let is_same =
            |it: &Arc<Catalog>| Arc::ptr_eq(it, &judged.catalog) && self.session.is_current(&judged.judgement);
        if catalog.as_ref().is_ok_and(is_same) && !self.names_unknown(judged) {
            return Ok(Arc::clone(judged));
        }
        self.judged(judged.text.as_bytes()).await
    }

    /// Whether a statement names relations for which the catalog must be read anew: it does not have them, and somebody may
    /// have made them since it was read.
    fn names_unknown(&self, judged: &Judged) -> bool {
        let in_transaction = !self.replies.is_idle() || self.replies.state != TransactionState::Idle;
        let is_missing = |at: &Instant| in_transaction && at.elapsed() < MISSING_FOR;
        !judged.catalog.set.is_empty()
            && judged.unknown_relations().any(|it| !self.missing.get(it).is_some_and(is_missing))
    }

    /// The catalog that statements are understood under. The inner error is why everything is denied without it.
    pub(super) async fn catalog(&mut self, freshness: Freshness) -> Result<Result<Arc<Catalog>, String>, End> {
        let mut freshness = self.after_changes(freshness).await?;
        if std::mem::take(&mut self.is_outdated) {
            freshness = Freshness::AsNewAs(Instant::now());
        }
        if freshness == Freshness::Usual
            && let Some(catalog) = &self.catalog
            && catalog.is_fresh()
            && catalog.answers(self.session)
        {
            return Ok(Ok(Arc::clone(catalog)));
        }
        Ok(match self.state.catalog(self.session, self.way, freshness).await {
            Ok(catalog) => {
                self.catalog = Some(Arc::clone(&catalog));
                Ok(catalog)
            }
            Err(why) => {
                self.catalog = None;
                // What this session has changed is still to be seen.
                self.is_outdated |= freshness != Freshness::Usual;
                Err(self.denied_until(&why))
            }
        })
    }

    /// Whether this session may see changes of the catalog that nobody else sees.
    pub(super) fn sees_its_own(&self) -> bool {
        self.catalog_changed || self.change_unseen
    }

    /// A result has columns that the catalog does not know, or may know by another name: a newer one says whether it may be shown.
    /// What is shown once under a name that only could be a masked one's is not asked about again.
    pub(super) async fn settle(&mut self) {
        let Some(doubt) = self.replies.doubt().cloned() else { return };
        let own = self.sees_its_own() || self.replies.state != TransactionState::Idle;
        // What all columns of something are called is not what somebody has written.
        let is_written = !self.replies.shows_all();
        let is_known = is_written && self.catalog.as_ref().is_some_and(|it| it.has_vouched(&doubt));
        let shows = is_known || {
            let newer = self.state.catalog(self.session, self.way, Freshness::AsNewAs(Instant::now())).await;
            let shows = newer.as_ref().is_ok_and(|it| doubt.is_settled_by(&it.set, own));
            match newer {
                Ok(newer) => {
                    if shows && is_written {
                        newer.vouch(&doubt);
                    }
                    self.catalog = Some(newer);
                }
                Err(_) => self.is_outdated = true,
            }
            shows
        };
        self.replies.settled(shows);
    }

    /// How new the catalog must be after what this session has changed: read when that was done, and, where that was in a
    /// transaction, once more when it has ended.
    async fn after_changes(&mut self, freshness: Freshness) -> Result<Freshness, End> {
        if !self.catalog_changed && !self.change_unseen {
            return Ok(freshness);
        }
        // A reading that begins before the change has come about would not have it.
        self.drain().await?;
        let is_open = self.replies.state != TransactionState::Idle || self.forwarded.any;
        if !self.catalog_changed && is_open {
            return Ok(freshness);
        }
        (self.catalog_changed, self.change_unseen) = (false, is_open);
        Ok(Freshness::AsNewAs(Instant::now()))
    }

    /// A text that cannot be understood, since what is masked is not known: it is refused, and recorded as that.
    fn not_understood(&self, text: Arc<str>, why: String) -> Arc<Judged> {
        let redacted = format!("({} bytes, not shown: it is not known what of it is masked)", text.len());
        let parsed = Parsed::Unparsed { reason: why, redacted, refused: true };
        let catalog = Arc::new(Catalog::unknown());
        Arc::new(Judged::new(self.session, &self.way.database, text, Arc::new(parsed), catalog))
    }

    /// Has a request decided; what is denied, or waited for in vain, the client is told here.
    pub(super) async fn decide(
        &mut self,
        judgement: &Judgement,
        judged: &Judged,
        range: Range<usize>,
        portal: Option<&Portal>,
        answer: Answer,
    ) -> Result<Outcome, End> {
        let values: &[u8] = portal.map_or(&[], |portal| &portal.values);
        let mut parameters = portal.and_then(|portal| portal.parameters.as_deref());
        let all;
        if parameters.is_some() && matches!(judgement.gate(), Gate::Hold { .. }) {
            // Approvers see all of it: with more than they can be shown, they are not asked.
            all = shown_parameters(&wire::bound(&[], &[], values)?, approval::MAX_TEXT);
            parameters = all.as_deref();
        }
        let understood = match judgement.gate() {
            Gate::Hold { .. } => self.state.analyser.written_out(&judgement.operation().text).await,
            Gate::Allow { .. } | Gate::Deny { .. } => None,
        };
        let forecast = match portal {
            Some(portal) => portal.forecast.clone(),
            None if matches!(judgement.gate(), Gate::Hold { .. }) => {
                self.drain().await?;
                self.forecast(judged, None, &[]).await?.map(Arc::new)
            }
            None => None,
        };
        let bytes: &[&[u8]] = &[judged.text.as_bytes(), values];
        let is_revocable = self.is_revocable(judged, answer);
        let shown = forecast.as_deref().map(|it| &it.forecast);
        let exact = Exact { bytes, parameters, understood: understood.as_deref(), forecast: shown, is_revocable };
        match self.session.decide(judgement, range, exact).await? {
            Decision::Permit(permit) => Ok(Outcome::Permit(permit)),
            Decision::Denial(denial) => {
                self.deny(&denial, answer).await?;
                Ok(Outcome::Over)
            }
            Decision::Hold(held) => {
                let Outcome::Permit(permit) = self.hold(held, answer).await? else { return Ok(Outcome::Over) };
                // A portal keeps what it was bound to.
                let Some(shown) = forecast.filter(|_| portal.is_none()) else { return Ok(Outcome::Permit(permit)) };
                if self.forecast(judged, None, &[]).await?.is_some_and(|now| now.is_about_the_same(&shown)) {
                    return Ok(Outcome::Permit(permit));
                }
                self.not_run(permit, ABOUT_ANOTHER).await?;
                self.answer(&Report::new(Severity::Error, DENIED, ABOUT_ANOTHER), answer).await?;
                Ok(Outcome::Over)
            }
        }
    }

    /// Whether a statement that is to run now only reads or changes rows, in a transaction of the client's that is open and that nothing
    /// which is under way can end.
    fn is_revocable(&self, judged: &Judged, answer: Answer) -> bool {
        let [statement] = judged.statements() else { return false };
        let is_begun = self.replies.state == TransactionState::Open && self.replies.runs_nothing();
        let is_alone = match answer {
            Answer::Query => true,
            Answer::Batch => self.forwarded.reached != Reached::Executed,
            Answer::QueryInBatch | Answer::Broken => false,
        };
        is_begun && is_alone && statement.actions.iter().all(operation::is_undone_by_rollback)
    }

    pub(super) async fn deny(&mut self, denial: &Denial, answer: Answer) -> Result<(), End> {
        let report = Report::new(Severity::Error, DENIED, denial.sentence()).with_hint(denial.hint());
        self.drain().await?;
        self.answer(&report, answer).await
    }

    /// Says no, in order, with the transaction's true state.
    pub(super) async fn answer(&mut self, report: &Report, answer: Answer) -> Result<(), End> {
        if self.replies.skipping && answer != Answer::Broken {
            return Ok(());
        }
        self.tell(report);
        match answer {
            Answer::Broken => {}
            Answer::Query => self.tell_ready(),
            Answer::QueryInBatch => {
                self.fail_batch().await?;
                self.sync_at_target().await?;
                self.tell_ready();
            }
            Answer::Batch => {
                self.front = Front::Absorbing;
                if self.forwarded.reached == Reached::Executed {
                    self.fail_batch().await?;
                }
            }
        }
        Ok(())
    }

    /// Waits for people, and tells the client that it does. A client that leaves or cancels takes the request back.
    pub(super) async fn hold(&mut self, held: Held<Range<usize>>, answer: Answer) -> Result<Outcome, End> {
        self.drain().await?;
        if self.replies.skipping {
            return Ok(Outcome::Over);
        }
        self.thought = None;
        let (session, waiting) = (self.session, Arc::clone(&self.waiting));
        let cancelled = waiting.cancelled();
        tokio::pin!(cancelled);
        let mut held = held;
        loop {
            self.tell(&Report::new(Severity::Notice, "00000", held.notice()));
            let event = {
                let next = held.next(session);
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        biased;
                        () = &mut cancelled => break None,
                        event = &mut next => break Some(event),
                        progress = self.progress() => progress?,
                    }
                    self.receive().await?;
                }
            };
            match event {
                Some(HeldEvent::StillWaiting(again)) => held = again,
                Some(HeldEvent::Permit(permit)) => return Ok(Outcome::Permit(permit)),
                Some(HeldEvent::Denial(denial)) => {
                    self.deny(&denial, answer).await?;
                    return Ok(Outcome::Over);
                }
                None => {
                    let report = Report::new(Severity::Error, "57014", "canceling statement due to user request");
                    self.answer(&report, answer).await?;
                    return Ok(Outcome::Over);
                }
            }
        }
    }

    /// What a statement runs that it only names: prepared statements that it executes, cursors and portals that it fetches
    /// from. None: it names nothing.
    pub(super) async fn named(&mut self, judged: &Judged) -> Result<Option<Named>, Result<Report, End>> {
        if judged.effects.uses.is_empty() {
            return Ok(None);
        }
        // What the names stand for is certain once the target has answered to all that may have changed them.
        self.drain().await.map_err(Err)?;
        let mut operation = judged.judgement.operation().clone();
        let mut all = operation.actions.to_vec();
        let (mut tagged, mut unknown, mut shows) = (false, false, None);
        let is_alone = judged.statements().len() == 1 && judged.effects.uses.len() == 1;
        let mut open: Vec<(Name, usize)> = judged.effects.uses.iter().map(|name| (name.clone(), 1)).collect();
        let (mut looked_up, mut left) = (HashSet::new(), MAX_NAMED_BYTES);
        while let Some((name, depth)) = open.pop() {
            if !looked_up.insert(name.clone()) {
                continue;
            }
            let Some((text, maker)) = self.replies.names.text_of(&name).filter(|_| depth <= MAX_NAMED) else {
                unknown = true;
                break;
            };
            let inner = self.judged(text.as_bytes()).await?;
            let inner = self.up_to_date(inner).await?;
            let statements = inner.behind(maker.as_ref()).unwrap_or_default();
            unknown |= statements.is_empty();
            for statement in statements {
                let makes = |kind: Kind| matches!(kind, Kind::Prepare | Kind::Declare);
                let is_command = |it: &Action| !(runs_by_name(it.kind) || maker.is_some() && makes(it.kind));
                if statement.actions.iter().any(is_command) {
                    operation.refusal.get_or_insert_with(|| COMMAND_BY_NAME.to_owned());
                }
                let runs = |action: &&Action| !makes(action.kind);
                let actions = statement.actions.iter().filter(runs);
                let shown = inner.shown(statement);
                let takes = shown.len() + actions.clone().map(Action::record_size).sum::<usize>();
                unknown |= takes > left;
                if unknown {
                    break;
                }
                left -= takes;
                all.extend(actions.cloned());
                operation.text.extend([" [", name.word(), ": ", shown, "]"]);
                tagged |= statement.class != Class::Untouched;
                if matches!(statement.class, Class::Traced { .. }) {
                    let shown = if is_alone && depth == 1 { self.shows(&name, &inner, statement) } else { Ok(None) };
                    shows = shown.map_err(|error| Err(error.into()))?;
                    if shows.is_none() {
                        operation.refusal.get_or_insert_with(|| BY_NAME.to_owned());
                    }
                }
            }
            operation.refusal = operation.refusal.or_else(|| inner.parsed.refusal().map(str::to_owned));
            if unknown {
                break;
            }
            open.extend(inner.effects.uses.iter().map(|name| (name.clone(), depth + 1)));
        }
        if unknown {
            all.push(Action::unparsed("what a name in it stands for is not known".to_owned()));
            tagged = true;
        }
        operation.actions = all.into();
        Ok(Some(Named { tagged, shows, judgement: self.session.judge(Arc::new(operation)) }))
    }

    /// Where the columns of a traced statement come from that a name stands for.
    fn shows(&self, name: &Name, inner: &Judged, statement: &Statement) -> Result<Option<Shows>, Malformed> {
        let names = &self.replies.names;
        Ok(match name {
            Name::Fetches(cursor) if names.is_bound(cursor) => names.traced(cursor).map(Shows::Bound),
            Name::Fetches(cursor) => names.traced(cursor).map(Shows::Known),
            Name::Executes(prepared) => Some(Shows::Again(match names.types(prepared) {
                Some(types) => Question::new(inner, statement, types)?,
                None => Question::untyped(inner, statement)?,
            })),
            Name::Prepares(_) | Name::Declares(_) => None,
        })
    }

    /// The same, once it is known. None: it needs no trace, or the target does not take it. The inner error says why it is refused.
    pub(super) async fn shown(
        &mut self,
        judged: &Judged,
        named: Option<&Named>,
    ) -> Result<Result<Option<Checked>, String>, End> {
        Ok(match named.and_then(|it| it.shows.as_ref()) {
            None => Ok(None),
            Some(Shows::Known(checked)) => Ok(Some(checked.clone())),
            Some(Shows::Bound(checked)) => {
                let lookups = checked.lineage.as_deref().map_or(Ok(()), |it| self.look_up(&judged.catalog.set, it));
                lookups.map(|()| Some(checked.clone()))
            }
            Some(Shows::Again(question)) => match self.trace_now(question).await? {
                Traced::Clean(checked) => {
                    let lookups = checked.lineage.as_deref().map_or(Ok(()), |it| self.look_up(question.set(), it));
                    lookups.map(|()| Some(checked))
                }
                Traced::Unclean(reason) => Err(reason),
                Traced::Failed(_) => Ok(None),
                Traced::Broken(reason) => {
                    self.refuse_broken(judged, reason).await?;
                    Ok(None)
                }
            },
        })
    }

    /// What was permitted, and then could not run.
    pub(super) async fn not_run(&mut self, permit: Permit<Range<usize>>, why: &str) -> Result<(), End> {
        let (_, forwarded) = permit.forward();
        let outcome = format!("not run: {why}");
        self.session.replied(forwarded, ReplySummary { outcome, ..ReplySummary::default() }).await?;
        Ok(())
    }

    /// A statement is on its way: what is known here follows.
    pub(super) fn went(&mut self, judged: &Judged) {
        self.replies.names.forget(judged);
        if judged.effects.changes_catalog {
            self.catalog_changed = true;
        }
        if has_changes_of_meaning(judged) {
            self.traces.meanings_change();
        } else if judged.judgement.operation().actions.iter().any(|it| it.kind == Kind::Transaction) {
            self.traces.transaction_ends();
        }
    }

    async fn judged_anew(&mut self, text: Arc<str>, catalog: Arc<Catalog>) -> Result<Arc<Judged>, Result<Report, End>> {
        let mut judged = self.judge(&text, catalog).await;
        if self.names_unknown(&judged) {
            let catalog = match self.catalog(Freshness::AsNewAs(Instant::now())).await.map_err(Err)? {
                Ok(catalog) => catalog,
                Err(why) => return Ok(self.not_understood(text, why)),
            };
            let read = Instant::now();
            judged = self.judge(&text, catalog).await;
            if self.missing.len() >= MAX_MISSING {
                self.missing.clear();
            }
            self.missing.extend(judged.unknown_relations().take(MAX_MISSING).map(|it| (it.clone(), read)));
        }
        let judged = Arc::new(judged);
        self.memory.keep(&judged);
        Ok(judged)
    }

    async fn judge(&mut self, text: &Arc<str>, catalog: Arc<Catalog>) -> Judged {
        let mut parsed = catalog.understand(&self.state.analyser, text).await;
        if self.encoding != Encoding::Utf8 && operation::has_names_beyond_ascii(text) {
            let reason = "it has names that are not plain ASCII, and the target's database is not in UTF-8: they may be \
                          other ones there than here";
            parsed = Arc::new(Parsed::unparsed(reason, parsed.redacted(), &catalog.set));
        }
        Judged::new(self.session, &self.way.database, Arc::clone(text), parsed, catalog)
    }
}

/// What may run by a name that the protocol has given, and nothing of it be missed.
fn runs_by_name(kind: Kind) -> bool {
    use Kind::{Delete, Execute, Insert, Merge, Select, Update};
    matches!(kind, Select | Insert | Update | Delete | Merge | Execute)
}

/// What is said of a statement, with what it names.
pub(super) fn judgement<'a>(judged: &'a Judged, named: Option<&'a Named>) -> &'a Judgement {
    named.map_or(&judged.judgement, |named| &named.judgement)
}

/// Whether results must be looked at before their statements run.
pub(super) fn must_be_looked_at(judged: &Judged, named: Option<&Named>) -> bool {
    let operation = judgement(judged, named);
    let tagged = (0..judged.statements().len()).any(|index| touches_tagged(judged, index, named));
    tagged && !matches!(operation.gate(), Gate::Deny { .. }) && operation.operation().refusal.is_none()
}

/// Whether a statement's result must be looked at before it runs: it names tagged tables, or something that may touch them.
pub(super) fn touches_tagged(judged: &Judged, index: usize, named: Option<&Named>) -> bool {
    let (before, Some(statement)) = (judged.statements().iter().take(index), judged.statements().get(index)) else {
        return true;
    };
    let maker = match (&statement.class, &statement.name) {
        (Class::Untouched, _) => return false,
        (Class::Plain { relations }, Some(name)) if relations.is_empty() => match name {
            Name::Executes(name) => Name::Prepares(name.clone()),
            Name::Fetches(name) => Name::Declares(name.clone()),
            Name::Prepares(_) | Name::Declares(_) => return true,
        },
        _ => return true,
    };
    // What the same text has made before is what it is; else it was looked up.
    match before.rev().find(|it| it.name.as_ref() == Some(&maker)) {
        Some(made) => made.class != Class::Untouched,
        None => named.is_none_or(|named| named.tagged),
    }
}

pub(super) fn running(session: &Session, judged: &Arc<Judged>, forwarded: Forwarded, tagged: bool) -> Box<Running> {
    let mut running = Running::new(forwarded, Arc::clone(&judged.catalog.set));
    running.allowance = session.allowance();
    running.shows_all = judged.statements().iter().any(|it| it.all_columns.shown);
    running.makes_names = judged.makes_names().then(|| Arc::clone(judged));
    running.tagged = tagged;
    let actions = &judged.judgement.operation().actions;
    let ends = |action: &Action| matches!(action.kind, Kind::Transaction | Kind::Set);
    running.ends_transaction = actions.iter().any(ends);
    running.sets = sets(judged, tagged);
    running.undoing = undoing(judged);
    // What cannot be parsed runs where policy only observes.
    let copies = [Kind::CopyIn, Kind::CopyOut, Kind::CopyProgram, Kind::Unparsed];
    running.copies = actions.iter().any(|action| copies.contains(&action.kind));
    running
}

/// The server's own: another schema's may do anything.
fn is_set_config(function: &str) -> bool {
    matches!(function, "set_config" | "pg_catalog.set_config")
}

/// What it can have set, as far as its text tells. Reading a table may run a policy's code.
fn sets(judged: &Judged, tagged: bool) -> Sets {
    let is_set = |it: &Action| matches!(it.kind, Kind::Set | Kind::Show);
    let reads_nothing = |it: &Action| {
        let computes = |it: &String| operation::only_computes(it) || is_set_config(it);
        it.kind == Kind::Select && it.tables.is_empty() && it.functions.iter().all(computes)
    };
    let actions = &judged.judgement.operation().actions;
    match () {
        () if tagged => Sets::Anything,
        () if actions.iter().all(|it| is_set(it) || reads_nothing(it)) => Sets::Own,
        () if actions.iter().all(|it| is_set(it) || it.kind == Kind::Transaction || reads_nothing(it)) => Sets::Back,
        () => Sets::Anything,
    }
}

/// What undoes it, as far as its text tells.
fn undoing(judged: &Judged) -> Undoing {
    let reads = |action: &Action| matches!(action.kind, Kind::Select | Kind::CopyOut);
    // A procedure may commit, and what cannot be parsed may be anything.
    let commits = |action: &Action| matches!(action.kind, Kind::Call | Kind::Unparsed);
    let actions = &judged.judgement.operation().actions;
    match judged.statements() {
        [only] if actions.iter().all(reads) && only.only_computes() => Undoing::Nothing,
        _ if actions.iter().any(commits) => Undoing::Never,
        _ => Undoing::Rollback,
    }
}

/// The result of what a name stands for, as the target describes it by that name.
pub(super) fn shown_by(shown: Checked, columns: Columns) -> Result<Checked, String> {
    let Some(described) = columns.as_deref() else { return Ok(Checked::described(columns, None)) };
    match shown.lineage.filter(|it| it.agrees(described)) {
        Some(lineage) => Ok(Checked::described(columns, Some(lineage))),
        None => Err("its result is not the one that the target planned before".to_owned()),
    }
}

fn utf8(text: &[u8]) -> Result<Arc<str>, Result<Report, End>> {
    let text = std::str::from_utf8(text);
    text.map(Arc::from).map_err(|_| Ok(Report::new(Severity::Error, "22021", "the statement is not valid UTF-8")))
}
