//! What the gateway asks the target for itself, in the client's session, while nothing else is owed.

use super::{Fault, Replies, described, transaction_state};
use crate::protocol::postgres::lineage;
use crate::protocol::postgres::statement::Columns;
use crate::protocol::postgres::wire;

/// Which of the target's readinesses the answer to the statement itself ends with, where it is traced.
const OF_STATEMENT: u32 = 1;
/// Closes that each of the gateway's own commands has: of its portal and its statement, before and after.
pub(in crate::protocol::postgres) const BY_COMMAND: u32 = 4;
/// Rows of data that are kept: no answer has more that matter.
const MAX_ROWS: usize = 2;
/// Where a report of the server's own tree comes from: what code at the target says itself comes from elsewhere.
const PRINTED_BY: (&[u8], &[u8]) = (b"print.c", b"elog_node_display");

/// The answer to the gateway's own messages, as far as it is there.
pub(in crate::protocol::postgres) struct Own {
    until: Until,
    /// Readinesses that came, and Closes that were done.
    ready: u32,
    closed: u32,
    done: bool,
    pub(in crate::protocol::postgres) error: Option<Vec<u8>>,
    /// The same of the commands around a statement that is traced.
    pub(in crate::protocol::postgres) around: Option<Vec<u8>>,
    /// The description that came; None inside: there is no result.
    pub(in crate::protocol::postgres) columns: Option<Columns>,
    /// Of a statement that is traced: the trees that the target printed. More than one is too many.
    pub(in crate::protocol::postgres) trees: Vec<Vec<u8>>,
    /// The first rows of data: settings as they were, or a forecast.
    pub(in crate::protocol::postgres) rows: Vec<Vec<u8>>,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum Until {
    Ready,
    Error,
    /// Ready so many times: the target is told to print the tree of one statement in between.
    Traced(u32),
    /// The same within an open batch, which no readiness ends: so many names were closed, or the batch has failed.
    Closed(u32),
}

impl Own {
    pub(super) fn new(until: Until) -> Self {
        Self {
            until,
            ready: 0,
            closed: 0,
            done: false,
            error: None,
            around: None,
            columns: None,
            trees: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether notices are for the gateway: what the target prints, and what it says of the commands around that.
    pub(super) fn hears_notices(&self) -> bool {
        matches!(self.until, Until::Traced(_) | Until::Closed(_))
    }

    fn is_of_statement(&self) -> bool {
        match self.until {
            Until::Ready | Until::Error => true,
            Until::Traced(_) => self.ready == OF_STATEMENT,
            // The command before it closes its own names.
            Until::Closed(_) => self.closed >= BY_COMMAND,
        }
    }

    fn notice(&mut self, message: &[u8]) -> Result<(), Fault> {
        let fields = wire::report_fields(message)?;
        let field = |letter: u8| fields.iter().find(|(it, _)| *it == letter).map(|(_, text)| *text);
        let printed = (field(b'F'), field(b'R')) == (Some(PRINTED_BY.0), Some(PRINTED_BY.1));
        if let Some(tree) = field(b'D').filter(|it| printed && self.is_of_statement() && it.len() <= lineage::MAX_BYTES)
            && self.trees.len() < 2
        {
            self.trees.push(tree.to_vec());
        }
        Ok(())
    }
}

impl Replies<'_> {
    pub(super) fn own_message(&mut self, tag: u8, message: &[u8]) -> Result<(), Fault> {
        let Some(own) = &mut self.own else { return Err(Fault::Unexpected(char::from(tag))) };
        match (tag, own.until) {
            (b'3', until) => {
                own.closed += 1;
                own.done = matches!(until, Until::Closed(times) if own.closed >= times);
            }
            (b'1' | b't', _) | (b'2' | b'C', Until::Traced(_) | Until::Closed(_)) => {}
            (b'D', Until::Traced(_) | Until::Closed(_)) => {
                if own.rows.len() < MAX_ROWS {
                    own.rows.push(message.to_vec());
                }
            }
            (b'N', Until::Traced(_) | Until::Closed(_)) => own.notice(message)?,
            (b'T' | b'n', _) => own.columns = Some(described(tag, message)?),
            (b'E', until) => {
                wire::report_fields(message)?;
                let place = if own.is_of_statement() { &mut own.error } else { &mut own.around };
                place.get_or_insert_with(|| message.to_vec());
                own.done = matches!(until, Until::Error | Until::Closed(_));
            }
            (b'Z', Until::Ready | Until::Traced(_)) => {
                own.ready += 1;
                own.done = match own.until {
                    Until::Traced(times) => own.ready >= times,
                    _ => true,
                };
                self.state = transaction_state(message)?;
                if self.own.as_ref().is_some_and(Own::is_done) {
                    self.transaction_may_have_ended(None);
                }
            }
            _ => return Err(Fault::Unexpected(char::from(tag))),
        }
        Ok(())
    }
}
