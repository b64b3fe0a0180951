//! What comes back from the target, and what of it the client may see.
//!
//! [`Replies`] keeps a queue of what the target still owes, one entry for each message that was forwarded. Every message
//! from the target must fit the head of that queue; one that does not is the target's fault and ends the session. Rows are
//! masked by the description that came before them, error texts of statements that touch tagged tables are withheld, and
//! what is left is passed on in runs, without a copy of its own. Bytes in, bytes out: no socket, no clock.

mod copied;
mod copy;
mod doubt;
mod fault;
mod masked;
mod own;
mod parts;
mod plan;
mod running;
mod settings;
mod shorten;
mod taken;
mod texts;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use self::copied::Copying;
pub(super) use self::doubt::Doubt;
pub(super) use self::fault::Fault;
pub(super) use self::own::{BY_COMMAND, Own, Until};
pub(super) use self::plan::unfit;
use self::plan::{Plan, plan};
pub(super) use self::settings::Sets;
use self::settings::Settings;
use self::shorten::Shortening;
use self::taken::Over;
pub(super) use self::taken::{Undo, Undoing};
use self::texts::{Setting, check_setting, lets_write, mask_strings, withheld};
use super::catalog::TaggedSet;
use super::copy::CopyForm;
use super::lineage::Lineage;
use super::statement::{Closed, Columns, Description, Judged, Names, Portal, Prepared, size_of_columns};
use super::wire::{self, Column, Fields, HEADER, Handling, Inbox, Malformed, Piece, TransactionState};
use crate::limit::{Allowance, Amount};
use crate::mask::{Hits, Masked, MaskedBuffer, Masker, NeedsMasking};
use crate::session::{Forwarded, ReplySummary};

/// While the client has this much to take, nothing more is made of the target's messages.
pub(super) const HIGH_WATER: usize = 64 << 10;
/// Why a text that could show values is withheld.
const BY_STATEMENT: &str = "the statement touches masked columns";
const BY_CODE: &str = "code of the target's ran in the statement (a trigger, a function, the action of a foreign key), \
                       which may have read masked columns";
/// How lines of a report's context begin that tell of the client's own data and not of code that ran. In another language
/// of the server's they are not known, and the text is withheld.
const OWN_CONTEXT: &[&str] =
    &["COPY ", "JSON data, line ", "unnamed portal ", "portal \"", "extended query with parameters"];
/// Instead of the codes of data and syntax errors, which tell values apart too (`1/0` where a condition holds).
const COLLAPSED: &str = "22000";

/// What the target owes for one message.
enum Expected {
    Query(Box<Running>),
    FunctionCall(Box<Running>),
    Parse {
        name: Vec<u8>,
        id: u64,
        previous: Option<Prepared>,
    },
    Bind {
        name: Vec<u8>,
        id: u64,
        previous: Option<Portal>,
    },
    DescribeStatement(Description),
    /// `hidden`: the gateway asked.
    DescribePortal {
        description: Description,
        hidden: bool,
    },
    Execute(Box<Running>),
    /// Of an empty statement.
    ExecuteNothing,
    /// And what the name stood for: where the Close is not reached, it still does.
    Close(Closed),
    Sync {
        batch: u64,
    },
    /// So many ends of COPY data, sent before the target asked for any; nothing is owed for them. Never the first: see
    /// [`Replies::answered_one`].
    CopyEnds(u32),
}

/// A statement that runs.
#[expect(clippy::struct_excessive_bools, reason = "properties that have nothing to do with each other")]
pub(super) struct Running {
    pub(super) forwarded: Forwarded,
    /// Of a simple query or a function call: the batch that it is. What the client has bound in later ones, sent ahead, is not
    /// touched by the end of its transaction.
    pub(super) batch: u64,
    pub(super) set: Arc<TaggedSet>,
    /// It touches a tagged table: its texts are withheld.
    pub(super) tagged: bool,
    /// It may be a COPY: no other statement sends or takes such data.
    pub(super) copies: bool,
    /// It may end a transaction, and with that bring up errors of statements before it.
    pub(super) ends_transaction: bool,
    pub(super) sets: Sets,
    pub(super) undoing: Undoing,
    /// What was found out of each statement of a simple query, or of the one of an Execute, before it ran; None: it had to be
    /// of none.
    pub(super) checked: Vec<Option<Checked>>,
    /// Of an Execute: its portal.
    pub(super) portal: Option<Portal>,
    /// It makes names by SQL, which stand for something once it has succeeded.
    pub(super) makes_names: Option<Arc<Judged>>,
    pub(super) allowance: Allowance,
    /// What of its results was passed on, and, once that was too much, why it must end.
    taken: Amount<u64>,
    over: Option<Over>,
    statement: usize,
    plan: Option<Arc<Plan>>,
    /// It shows all columns of something as they are: see [`Replies::shows_all`].
    pub(super) shows_all: bool,
    /// Why its rows wait.
    doubt: Option<Arc<Doubt>>,
    /// The rows that a COPY sends.
    copying: Option<Copying>,
    /// Of a simple query: the plan is that of the statement at hand.
    described: bool,
    /// The target sends COPY data.
    copying_out: bool,
    hits: Hits,
    summary: ReplySummary,
}

/// A statement's result as it was described before it ran.
#[derive(Clone)]
pub(super) struct Checked {
    pub(super) columns: Columns,
    /// Where its columns come from; None: each is what the description says it is.
    pub(super) lineage: Option<Arc<Lineage>>,
    /// How its rows are sent, if a COPY sends them.
    pub(super) copied: Option<CopyForm>,
}

impl Checked {
    /// Of a result whose rows come one by one.
    pub(super) fn described(columns: Columns, lineage: Option<Arc<Lineage>>) -> Self {
        Self { columns, lineage, copied: None }
    }

    /// Whether it is the very same.
    fn is(&self, other: &Self) -> bool {
        fn same<T: ?Sized>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
            a.map(Arc::as_ptr).map(<*const T>::addr) == b.map(Arc::as_ptr).map(<*const T>::addr)
        }
        same(self.columns.as_ref(), other.columns.as_ref()) && same(self.lineage.as_ref(), other.lineage.as_ref())
    }

    /// Bytes of memory that it takes, more or less.
    pub(super) fn size(&self) -> usize {
        size_of_columns(&self.columns) + self.lineage.as_ref().map_or(0, |it| it.size())
    }
}

impl Running {
    pub(super) fn new(forwarded: Forwarded, set: Arc<TaggedSet>) -> Box<Self> {
        Box::new(Self {
            forwarded,
            batch: u64::MAX,
            set,
            tagged: false,
            copies: false,
            ends_transaction: false,
            sets: Sets::Anything,
            undoing: Undoing::Never,
            checked: Vec::new(),
            portal: None,
            makes_names: None,
            allowance: Allowance::default(),
            taken: Amount::default(),
            over: None,
            statement: 0,
            plan: None,
            shows_all: false,
            doubt: None,
            copying: None,
            described: false,
            copying_out: false,
            hits: Hits::default(),
            summary: ReplySummary::default(),
        })
    }
}

/// A row description and the plan that it led to.
struct Known {
    message: Vec<u8>,
    set: Arc<TaggedSet>,
    /// What it agreed with, where the statement was traced.
    traced: Option<Checked>,
    plan: Arc<Plan>,
}

impl Known {
    fn is_of(&self, message: &[u8], set: &Arc<TaggedSet>, traced: Option<&Checked>) -> bool {
        let same = match (&self.traced, traced) {
            (None, None) => true,
            (Some(known), Some(traced)) => known.is(traced),
            _ => false,
        };
        same && self.message == message && Arc::ptr_eq(&self.set, set)
    }
}

/// The target's side of the conversation.
#[expect(clippy::struct_excessive_bools, reason = "states that have nothing to do with each other")]
pub(super) struct Replies<'s> {
    masker: &'s Masker,
    pub(super) names: Names,
    /// The session is to read only, at the target too.
    reads_only: bool,
    expected: VecDeque<Expected>,
    own: Option<Own>,
    pub(super) state: TransactionState,
    /// A message of the client's batch failed at the target, which now ignores all up to the Sync.
    pub(super) skipping: bool,
    /// The target takes COPY data.
    pub(super) copying_in: bool,
    /// The target has said that it ends the session, and the client was told.
    pub(super) ended: bool,
    /// Some statement of this transaction, of those that are answered, touches a tagged table.
    transaction_tagged: bool,
    settings: Settings,
    /// What of all results of the session was passed on.
    taken: Amount<u64>,
    /// The statement that runs has to be cancelled at the target.
    pub(super) wants_cancel: bool,
    /// Of a statement beyond a limit. Until that is done, nothing may be sent to the target.
    pub(super) undo: Option<Undo>,
    /// Operations whose replies are complete.
    pub(super) finished: Vec<(Forwarded, ReplySummary)>,
    /// The last row description.
    known: Option<Known>,
    /// Bytes of each reply that are kept for the record.
    content_limit: usize,
    /// The row that comes in parts, and is too large to be masked as a whole.
    shortening: Option<Shortening>,
}

impl<'s> Replies<'s> {
    pub(super) fn new(masker: &'s Masker, content_limit: usize, names: Names, reads_only: bool) -> Self {
        Self {
            masker,
            names,
            reads_only,
            expected: VecDeque::new(),
            own: None,
            state: TransactionState::Idle,
            skipping: false,
            copying_in: false,
            ended: false,
            transaction_tagged: false,
            settings: Settings::default(),
            taken: Amount::default(),
            wants_cancel: false,
            undo: None,
            finished: Vec::new(),
            known: None,
            content_limit,
            shortening: None,
        }
    }

    /// Whether the target owes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.expected.is_empty() && self.own.is_none()
    }

    /// Whether none of what it owes runs a statement.
    pub(super) fn runs_nothing(&self) -> bool {
        let runs = |it: &Expected| {
            !matches!(
                it,
                Expected::Parse { .. }
                    | Expected::Bind { .. }
                    | Expected::DescribeStatement(_)
                    | Expected::DescribePortal { .. }
            )
        };
        self.own.is_none() && !self.expected.iter().any(runs)
    }

    /// Messages that the target has not answered yet.
    pub(super) fn owed(&self) -> usize {
        self.expected.len()
    }

    pub(super) fn query(&mut self, running: Box<Running>) {
        self.expected.push_back(Expected::Query(running));
    }

    pub(super) fn function_call(&mut self, running: Box<Running>) {
        self.expected.push_back(Expected::FunctionCall(running));
    }

    pub(super) fn parse(&mut self, name: Vec<u8>, id: u64, previous: Option<Prepared>) {
        self.expected.push_back(Expected::Parse { name, id, previous });
    }

    pub(super) fn bind(&mut self, name: Vec<u8>, id: u64, previous: Option<Portal>) {
        self.expected.push_back(Expected::Bind { name, id, previous });
    }

    pub(super) fn describe_statement(&mut self, description: Description) {
        self.expected.push_back(Expected::DescribeStatement(description));
    }

    pub(super) fn describe_portal(&mut self, description: Description, hidden: bool) {
        self.expected.push_back(Expected::DescribePortal { description, hidden });
    }

    pub(super) fn execute(&mut self, running: Box<Running>) {
        self.expected.push_back(Expected::Execute(running));
    }

    pub(super) fn execute_nothing(&mut self) {
        self.expected.push_back(Expected::ExecuteNothing);
    }

    pub(super) fn close(&mut self, closed: Closed) {
        self.expected.push_back(Expected::Close(closed));
    }

    pub(super) fn sync(&mut self, batch: u64) {
        self.skipping = false;
        // While the target takes COPY data it ignores Sync.
        if !self.copying_in {
            self.expected.push_back(Expected::Sync { batch });
        }
    }

    /// The first of what the target owes is done.
    fn answered_one(&mut self) -> Option<Expected> {
        let answered = self.expected.pop_front();
        if let Some(Expected::CopyEnds(_)) = self.expected.front() {
            // What they stood behind asked for no data: the target ignores them.
            self.expected.pop_front();
        }
        answered
    }

    /// What comes next is the answer to the gateway's own messages.
    pub(super) fn ask(&mut self, until: Until) {
        self.own = Some(Own::new(until));
    }

    /// The answer to the gateway's own messages, once it is there.
    pub(super) fn answered(&mut self) -> Option<Own> {
        self.own.take_if(|own| own.is_done())
    }

    /// Ends what is still running, for the record.
    pub(super) fn abandon(&mut self, outcome: &str) {
        for expected in std::mem::take(&mut self.expected) {
            if let Expected::Query(running) | Expected::Execute(running) | Expected::FunctionCall(running) = expected {
                self.finish(running, Some(outcome));
            }
        }
    }

    /// Makes of the target's messages what the client may see, until there are no more or the client has enough to take.
    pub(super) fn receive(&mut self, inbox: &mut Inbox, out: &mut MaskedBuffer) -> Result<(), Fault> {
        let mut run = Run::default();
        let result = self.receive_run(inbox, out, &mut run);
        if result.is_ok() {
            self.flush(&mut run, inbox, out)?;
        }
        result
    }

    fn receive_run(&mut self, inbox: &mut Inbox, out: &mut MaskedBuffer, run: &mut Run) -> Result<(), Fault> {
        while out.len() + run.range.len() < HIGH_WATER {
            if inbox.next_tag() == Some(b'D') {
                self.plan_rows()?;
            }
            // Rows wait until it is settled, wherever they are.
            if self.doubt().is_some() {
                break;
            }
            // What nobody has to look at passes in parts, where it is too large to be held, and what cannot be looked at is dropped so.
            let begins = !inbox.is_within_message();
            let handling = |tag, length| {
                let in_parts = self.passes_unseen(tag) || self.is_too_large(tag, length);
                if in_parts { Handling::Stream } else { Handling::Whole }
            };
            match inbox.next(handling)? {
                Piece::Incomplete => break,
                Piece::Message(tag, range) => self.message(tag, range, inbox, out, run)?,
                Piece::Part(tag, range) => {
                    self.flush(run, inbox, out)?;
                    self.part(tag, begins, inbox.bytes(range), out)?;
                    if !inbox.is_within_message() {
                        self.shortened(out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        tag: u8,
        range: Range<usize>,
        inbox: &Inbox,
        out: &mut MaskedBuffer,
        run: &mut Run,
    ) -> Result<(), Fault> {
        if self.ended {
            return Err(Fault::Unexpected(char::from(tag)));
        }
        match tag {
            // Rows of a plan that need no look at each are the bulk of all traffic.
            b'D' if self.own.is_none() => match self.row(range.len())? {
                Row::Passes(columns) => {
                    if wire::row_columns(inbox.bytes(range.clone()))? != columns {
                        return Err(Fault::Row);
                    }
                    run.add(range, true);
                }
                Row::Dropped => self.flush(run, inbox, out)?,
                Row::ByCell(plan) => {
                    self.flush(run, inbox, out)?;
                    self.masked_row(&plan, inbox.bytes(range), out)?;
                }
            },
            b'N' if self.own.as_ref().is_some_and(Own::hears_notices) => {
                self.own_message(tag, inbox.bytes(range))?;
            }
            b'N' | b'S' | b'A' => {
                self.flush(run, inbox, out)?;
                self.aside(tag, inbox.bytes(range), out)?;
            }
            _ if self.own.is_some() => self.own_message(tag, inbox.bytes(range))?,
            b'E' => {
                self.flush(run, inbox, out)?;
                self.error(inbox.bytes(range), out)?;
            }
            b'T' | b'n' | b't' => {
                wire::check_form(tag, inbox.bytes(range.clone()))?;
                self.flush(run, inbox, out)?;
                if self.description(tag, inbox.bytes(range.clone()))? == Shown::ToClient {
                    run.add(range, false);
                }
            }
            b'd' => {
                self.flush(run, inbox, out)?;
                self.copy_data(inbox.bytes(range), out)?;
            }
            b'V' => {
                self.flush(run, inbox, out)?;
                self.function_result(inbox.bytes(range), out)?;
            }
            // The client is told of the limit, and not that its data is complete.
            b'c' if self.is_over() => {
                wire::check_form(tag, inbox.bytes(range))?;
                self.flush(run, inbox, out)?;
                self.copied_beyond()?;
            }
            b'C' | b's' if self.is_over() => {
                wire::check_form(tag, inbox.bytes(range))?;
                self.flush(run, inbox, out)?;
                self.done_beyond(out)?;
            }
            b'C' | b's' | b'I' | b'Z' | b'1' | b'2' | b'3' | b'G' | b'H' | b'c' => {
                wire::check_form(tag, inbox.bytes(range.clone()))?;
                if tag == b'Z' && self.must_undo(inbox.bytes(range.clone()))? {
                    self.flush(run, inbox, out)?;
                    return self.ready(inbox.bytes(range));
                }
                run.add(range.clone(), false);
                self.progress(tag, range, inbox, out, run)?;
            }
            other => return Err(Fault::Unexpected(char::from(other))),
        }
        Ok(())
    }

    /// Messages that carry no data and move the conversation on. They are in the run already.
    fn progress(
        &mut self,
        tag: u8,
        range: Range<usize>,
        inbox: &Inbox,
        out: &mut MaskedBuffer,
        run: &mut Run,
    ) -> Result<(), Fault> {
        let unexpected = Err(Fault::Unexpected(char::from(tag)));
        let message = inbox.bytes(range);
        match (tag, self.expected.front_mut()) {
            (b'C', Some(Expected::Query(running))) => {
                running.completed(message)?;
                running.next_statement();
                self.settings.ran(running);
                self.copying_in = false;
            }
            (b'I', Some(Expected::Query(running))) => running.next_statement(),
            (b'C' | b's' | b'I', Some(Expected::Execute(running))) => {
                if tag == b'C' {
                    running.completed(message)?;
                }
                self.copying_in = false;
                self.flush(run, inbox, out)?;
                if let Some(Expected::Execute(running)) = self.answered_one() {
                    self.settings.ran(&running);
                    self.finish(running, (tag == b's').then_some("suspended"));
                }
            }
            (b'Z', Some(Expected::Query(_) | Expected::FunctionCall(_) | Expected::Sync { .. })) => {
                self.flush(run, inbox, out)?;
                self.ready(message)?;
            }
            (b'3', Some(Expected::Close(_))) | (b'I', Some(Expected::ExecuteNothing)) => {
                self.answered_one();
            }
            (b'1', Some(Expected::Parse { .. })) => {
                if let Some(Expected::Parse { name, id, .. }) = self.answered_one()
                    && let Some(statement) = self.names.statement_mut(&name).filter(|statement| statement.id == id)
                {
                    statement.confirmed = true;
                }
            }
            (b'2', Some(Expected::Bind { .. })) => {
                if let Some(Expected::Bind { name, id, .. }) = self.answered_one()
                    && let Some(portal) = self.names.portal_mut(&name).filter(|portal| portal.id == id)
                {
                    portal.confirmed = true;
                }
            }
            (b'G', Some(Expected::Query(running) | Expected::Execute(running))) if running.copies => {
                self.copy_in_begins()?;
            }
            (b'H', Some(Expected::Query(running) | Expected::Execute(running)))
                if running.copies && !running.copying_out =>
            {
                running.copying_out = true;
                running.copy_begins(self.masker, message)?;
            }
            (b'c', Some(Expected::Query(running) | Expected::Execute(running))) if running.copying_out => {
                running.copying_out = false;
            }
            _ => return unexpected,
        }
        Ok(())
    }

    fn ready(&mut self, message: &[u8]) -> Result<(), Fault> {
        self.state = transaction_state(message)?;
        self.settings.ready(self.state == TransactionState::Idle);
        let batch = match self.answered_one() {
            Some(Expected::Query(running) | Expected::FunctionCall(running)) => {
                let batch = running.batch;
                self.finish(running, None);
                Some(batch)
            }
            Some(Expected::Sync { batch }) => Some(batch),
            _ => None,
        };
        self.transaction_may_have_ended(batch);
        Ok(())
    }

    fn transaction_may_have_ended(&mut self, batch: Option<u64>) {
        if self.state == TransactionState::Idle {
            self.transaction_tagged = false;
            // What the gateway asks for itself is asked when nothing of a later batch was sent.
            self.names.transaction_ended(batch.unwrap_or(u64::MAX));
        }
    }

    fn finish(&mut self, running: Box<Running>, outcome: Option<&str>) {
        // Only now: a transaction before its own may have been open when it was sent ahead.
        self.transaction_tagged |= running.tagged;
        let Running { forwarded, mut summary, hits, makes_names, checked, .. } = *running;
        if let (Some(judged), None, false) = (makes_names, outcome, summary.outcome.starts_with("ERROR")) {
            self.names.remember(&judged, &checked);
        }
        if summary.outcome.is_empty() {
            outcome.unwrap_or("completed").clone_into(&mut summary.outcome);
        }
        if !hits.is_empty() {
            summary.masks = self.masker.names(hits).map(str::to_owned).collect();
        }
        self.finished.push((forwarded, summary));
    }

    /// RowDescription, NoData, ParameterDescription.
    fn description(&mut self, tag: u8, message: &[u8]) -> Result<Shown, Fault> {
        match (tag, self.expected.front_mut()) {
            (b'T', Some(Expected::Query(running))) => {
                let checked = running.checked.get(running.statement);
                let traced = checked.and_then(Option::as_ref).filter(|it| it.lineage.is_some());
                let known = self.known.as_ref().filter(|it| it.is_of(message, &running.set, traced));
                // What was known of a trace has agreed with it then.
                let plan = if let Some(known) = known.filter(|_| traced.is_some() || !running.tagged) {
                    Arc::clone(&known.plan)
                } else {
                    let columns = wire::row_description(message)?;
                    if running.tagged || traced.is_some() {
                        agrees(checked, &columns)?;
                    }
                    let plan = Arc::new(plan(self.masker, &running.set, &columns, None, lineage(checked)));
                    self.known = Some(Known {
                        message: message.to_vec(),
                        set: Arc::clone(&running.set),
                        traced: traced.cloned(),
                        plan: Arc::clone(&plan),
                    });
                    plan
                };
                running.tagged |= plan.tagged;
                running.doubt.clone_from(&plan.doubt);
                running.plan = Some(plan);
                running.described = true;
            }
            (b't', Some(Expected::DescribeStatement(_))) => {}
            (b'T' | b'n', Some(Expected::DescribeStatement(description))) => {
                self.names.describe(description, described(tag, message)?)?;
                self.answered_one();
            }
            (b'T' | b'n', Some(Expected::DescribePortal { description, hidden })) => {
                self.names.describe(description, described(tag, message)?)?;
                let shown = if *hidden { Shown::Hidden } else { Shown::ToClient };
                self.answered_one();
                return Ok(shown);
            }
            _ => return Err(Fault::Unexpected(char::from(tag))),
        }
        Ok(Shown::ToClient)
    }

    /// What to do with a row, by the plan of the statement that runs.
    fn row(&mut self, bytes: usize) -> Result<Row, Fault> {
        if self.is_over() {
            return Ok(Row::Dropped);
        }
        let running = match self.expected.front_mut() {
            // The description of an earlier statement of the text is not this one's.
            Some(Expected::Query(running)) if running.described => running,
            Some(Expected::Execute(running)) => running,
            _ => return Err(Fault::Unexpected('D')),
        };
        let plan = running.plan.as_ref().ok_or(Fault::Unexpected('D'))?;
        let row = if plan.rows.by_cell() { Row::ByCell(Arc::clone(plan)) } else { Row::Passes(plan.columns) };
        // How long masked values are is told by no limit: of these rows what is left counts, when it is there.
        let bytes = if matches!(row, Row::ByCell(_)) { 0 } else { bytes };
        if !self.takes(bytes) {
            return Ok(Row::Dropped);
        }
        if let Some(running) = self.running_mut() {
            running.summary.rows += 1;
        }
        Ok(row)
    }

    /// Passes a run on, or, where a detector may find something in it, looks at each row.
    fn flush(&mut self, run: &mut Run, inbox: &Inbox, out: &mut MaskedBuffer) -> Result<(), Fault> {
        let Run { range, rows } = std::mem::take(run);
        if range.is_empty() {
            return Ok(());
        }
        let bytes = inbox.bytes(range);
        let plan = self.running().and_then(|running| running.plan.clone());
        let passed = match &plan {
            Some(plan) if rows => self.masker.pass_rows(&plan.rows, bytes),
            None if rows => return Err(Fault::Unexpected('D')),
            _ => Ok(self.masker.pass_metadata(bytes)),
        };
        match (passed, plan) {
            (Ok(passed), _) => self.send(&passed, out),
            (Err(_), Some(plan)) => {
                let (mut rest, mut goes_on) = (bytes, true);
                while let Some((tag, length)) = wire::header(rest)? {
                    let (message, behind) = rest.split_at_checked(length).ok_or(Malformed::Body)?;
                    rest = behind;
                    if tag == b'D' {
                        // Behind a row that is not shown there is none.
                        goes_on = goes_on && self.mask_row(&plan, message, out)?;
                    } else {
                        let passed = self.masker.pass_metadata(message);
                        self.send(&passed, out);
                    }
                }
            }
            (Err(_), None) => return Err(Fault::Row),
        }
        Ok(())
    }

    fn function_result(&mut self, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        if !matches!(self.expected.front(), Some(Expected::FunctionCall(_))) {
            return Err(Fault::Unexpected('V'));
        }
        let mut fields = Fields::of(message);
        let value = fields.value()?;
        fields.end()?;
        if !self.takes_text(message.len()) {
            let over = self.running().and_then(|it| it.over.as_ref()).map(ToString::to_string);
            return Err(Fault::Limit(over.unwrap_or_default()));
        }
        let start = out.len();
        out.framing([b'V', 0, 0, 0, 0]);
        match value {
            None => out.framing((-1i32).to_be_bytes()),
            Some(value) => {
                let cell = self.masker.mask_text(value);
                let length = cell.len().unwrap_or(0);
                out.framing(u32::try_from(length).map_err(|_| Fault::Row)?.to_be_bytes());
                out.cell(&cell);
                self.masked_one(cell.hits);
            }
        }
        close_message(out, start)?;
        self.account(start, out);
        Ok(())
    }

    fn masked_one(&mut self, hits: Hits) {
        if hits.is_empty() {
            return;
        }
        if let Some(running) = self.running_mut() {
            running.hits.add(hits);
            running.summary.cells_masked += 1;
        }
    }

    /// What a target may send at any time: notices, settings, notifications.
    fn aside(&mut self, tag: u8, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        if self.reads_only && tag == b'S' && lets_write(message)? {
            return Err(Fault::Setting("default_transaction_read_only"));
        }
        if tag == b'S' && check_setting(message)? == Setting::Free && self.columns_are_masked() {
            let name = Fields::of(message).string()?;
            let running = running(&self.expected);
            if !self.settings.are_own(name, running) {
                // Code at the target may have put anything into it.
                return Ok(());
            }
        }
        let is_withheld = tag == b'N' && self.why_withheld(message)?.is_some();
        // Whoever sent a notification, through whatever function or trigger, may have put any row into it.
        let tagged = is_withheld || tag == b'A' && self.columns_are_masked();
        // How long a text is that is withheld no limit tells.
        let was_over = self.is_over();
        if tag != b'S' && !tagged && !self.takes_text(message.len()) {
            self.wants_cancel |= !was_over;
            return Ok(());
        }
        match self.masker.pass_text(tagged, message) {
            Ok(passed) => self.send(&passed, out),
            Err(NeedsMasking::Columns) if tag == b'A' => {
                let mut notification = Vec::new();
                wire::withheld_notification(&mut notification, message)?;
                self.send(&Masked::from_gateway(&notification), out);
            }
            // Whether code says anything may be up to a masked value: the client does not hear that there was a notice.
            Err(NeedsMasking::Columns) => {}
            Err(NeedsMasking::Finding) => {
                let start = out.len();
                let hits = mask_strings(self.masker, tag, message, out)?;
                self.masked_one(hits);
                self.account(start, out);
            }
        }
        Ok(())
    }

    fn columns_are_masked(&self) -> bool {
        self.masker.rules().iter().any(|rule| !rule.columns.is_empty())
    }

    /// Why an error or a notice could show values of tagged columns, if so: by its statement, or because it comes out of code
    /// that the statement set off without naming what that reads.
    fn why_withheld(&self, message: &[u8]) -> Result<Option<&'static str>, Fault> {
        if self.texts_withheld() {
            return Ok(Some(BY_STATEMENT));
        }
        if !self.columns_are_masked() {
            return Ok(None);
        }
        let own = |line: &[u8]| OWN_CONTEXT.iter().any(|begin| line.starts_with(begin.as_bytes()));
        let fields = wire::report_fields(message)?;
        let mut contexts = fields.iter().filter(|(letter, _)| *letter == b'W');
        Ok(contexts.any(|(_, text)| !text.split(|byte| *byte == b'\n').all(own)).then_some(BY_CODE))
    }

    /// Whether the texts of what runs now could show values of tagged columns.
    fn texts_withheld(&self) -> bool {
        match self.expected.front() {
            Some(Expected::Query(running) | Expected::Execute(running) | Expected::FunctionCall(running)) => {
                running.tagged || running.ends_transaction && self.transaction_tagged
            }
            // Parse and Describe read no data.
            None | Some(Expected::Parse { .. } | Expected::DescribeStatement(_) | Expected::DescribePortal { .. }) => {
                false
            }
            // Bind evaluates constant expressions; Sync may end the transaction.
            Some(_) => self.transaction_tagged,
        }
    }

    fn error(&mut self, message: &[u8], out: &mut MaskedBuffer) -> Result<(), Fault> {
        self.ended |= wire::report_fields(message)?.iter().any(|field| matches!(field, (b'V', b"FATAL" | b"PANIC")));
        let code = wire::sqlstate(message).unwrap_or("XX000").to_owned();
        if let Some(running) = self.running_mut() {
            running.summary.outcome = format!("ERROR {code}");
        }
        let why = self.why_withheld(message)?;
        if why.is_none() {
            self.takes_text(message.len());
        }
        let told = self.tell_limit(out);
        match self.masker.pass_text(why.is_some(), message) {
            _ if told => {}
            Ok(passed) => self.send(&passed, out),
            Err(NeedsMasking::Columns) => {
                let mut report = Vec::new();
                withheld(message, &code, why.unwrap_or(BY_STATEMENT))?.write(&mut report);
                self.send(&Masked::from_gateway(&report), out);
            }
            Err(NeedsMasking::Finding) => {
                let start = out.len();
                let hits = mask_strings(self.masker, b'E', message, out)?;
                self.masked_one(hits);
                self.account(start, out);
            }
        }
        self.copying_in = false;
        match self.expected.front() {
            // The target says it is ready next, or ends the connection.
            None | Some(Expected::Query(_) | Expected::FunctionCall(_) | Expected::Sync { .. }) => {}
            Some(_) => self.fail_batch(),
        }
        Ok(())
    }

    /// The target ignores the rest of the batch: whatever was forwarded of it is not done, up to the Sync.
    fn fail_batch(&mut self) {
        let end = self.expected.iter().position(|expected| matches!(expected, Expected::Sync { .. }));
        self.skipping = end.is_none();
        let failed: Vec<Expected> = self.expected.drain(..end.unwrap_or(self.expected.len())).collect();
        // Names go back to what they stood for, the last change first.
        for expected in failed.into_iter().rev() {
            match expected {
                Expected::Parse { name, previous, .. } => {
                    // There was room for it before.
                    let _ = self.names.set_statement(&name, previous);
                }
                Expected::Bind { name, previous, .. } => {
                    let _ = self.names.set_portal(&name, previous);
                }
                Expected::Execute(running) => self.finish(running, Some("not run")),
                Expected::Close(closed) => self.names.reopen(closed),
                _ => {}
            }
        }
    }

    fn running(&self) -> Option<&Running> {
        running(&self.expected)
    }

    fn running_mut(&mut self) -> Option<&mut Running> {
        running_mut(&mut self.expected)
    }

    fn send<T: AsRef<[u8]>>(&mut self, passed: &Masked<T>, out: &mut MaskedBuffer) {
        let start = out.len();
        out.append(passed);
        self.account(start, out);
    }

    /// Counts what was just written for the client, and keeps it for the record while there is room.
    fn account(&mut self, start: usize, out: &MaskedBuffer) {
        let limit = self.content_limit;
        let Some(running) = self.running_mut() else { return };
        let masked = out.as_masked();
        let written = masked.get().get(start..).unwrap_or_default();
        running.summary.bytes += written.len() as u64;
        running.keep(written, limit);
    }
}

fn running(expected: &VecDeque<Expected>) -> Option<&Running> {
    match expected.front() {
        Some(Expected::Query(running) | Expected::Execute(running) | Expected::FunctionCall(running)) => Some(running),
        _ => None,
    }
}

fn running_mut(expected: &mut VecDeque<Expected>) -> Option<&mut Running> {
    match expected.front_mut() {
        Some(Expected::Query(running) | Expected::Execute(running) | Expected::FunctionCall(running)) => Some(running),
        _ => None,
    }
}

/// Messages that lie one behind the other and are passed on together.
#[derive(Default)]
struct Run {
    range: Range<usize>,
    rows: bool,
}

impl Run {
    fn add(&mut self, range: Range<usize>, row: bool) {
        if self.range.is_empty() {
            self.range = range;
        } else {
            self.range.end = range.end;
        }
        self.rows |= row;
    }
}

enum Row {
    /// It is beyond a limit.
    Dropped,
    /// It must have so many columns.
    Passes(usize),
    ByCell(Arc<Plan>),
}

#[derive(PartialEq, Eq)]
enum Shown {
    ToClient,
    Hidden,
}

fn described(tag: u8, message: &[u8]) -> Result<Columns, Malformed> {
    if tag == b'n' { Ok(None) } else { wire::row_description(message).map(|columns| Some(columns.into())) }
}

/// A tagged statement's result must be the one that was checked before it ran.
fn agrees(checked: Option<&Option<Checked>>, columns: &[Column]) -> Result<(), Fault> {
    match checked.map(|it| it.as_ref().map(|it| &it.columns)) {
        // This statement of the batch touches nothing tagged.
        Some(None) => Ok(()),
        Some(Some(Some(checked))) => {
            let same =
                |(a, b): (&Column, &Column)| (a.table, a.attribute, a.type_oid) == (b.table, b.attribute, b.type_oid);
            let equal = checked.len() == columns.len() && checked.iter().zip(columns).all(same);
            if equal { Ok(()) } else { Err(Fault::Disagreement) }
        }
        Some(Some(None)) | None => Err(Fault::Disagreement),
    }
}

fn lineage(checked: Option<&Option<Checked>>) -> Option<&Lineage> {
    checked?.as_ref()?.lineage.as_deref()
}

fn transaction_state(message: &[u8]) -> Result<TransactionState, Fault> {
    let mut fields = Fields::of(message);
    let state = TransactionState::from_byte(fields.u8()?).ok_or(Malformed::Body)?;
    fields.end()?;
    Ok(state)
}

/// Sets the length of the message that begins at `start`.
fn close_message(out: &mut MaskedBuffer, start: usize) -> Result<(), Fault> {
    let length = u32::try_from(out.len() - start - 1).map_err(|_| Fault::Row)?;
    out.set_u32(start + 1, length).map_err(|_| Fault::Row)
}

#[cfg(test)]
mod tests;
