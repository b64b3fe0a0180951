//! Asking the target what it expects of a statement that people are to decide on, in the client's own session, where names
//! mean what they will. Planning may run functions that are said to be immutable: so it is done in a transaction that only reads, and not
//! where agents may have made some.

use super::trace::{NO_TYPES, WITHIN, command, name, prepare};
use super::{End, PROBE, Relay};
use crate::protocol::postgres::forecast::{
    Expected, MADE_BY_AGENTS, effects_query, is_explainable, is_truncate, read, read_effects,
};
use crate::protocol::postgres::reply::Until;
use crate::protocol::postgres::statement::Judged;
use crate::protocol::postgres::wire::{self, Fields, Malformed, TransactionState};

/// How long the target may plan, and wait for locks, which a client does without hearing of it.
const BOUNDS: [&str; 2] = ["SET LOCAL statement_timeout = '2s'", "SET LOCAL lock_timeout = '500ms'"];

/// Of the question, and of what takes it back.
const READINESSES: u32 = 2;

impl Relay<'_> {
    /// What the target expects of a text, with the parameters of a Bind if it has some. None: it cannot be told. The target owes
    /// nothing, and no batch is open.
    pub(super) async fn forecast(
        &mut self,
        judged: &Judged,
        types: Option<&[u8]>,
        values: &[u8],
    ) -> Result<Option<Expected>, End> {
        let [statement] = judged.statements() else { return Ok(None) };
        let has_plan = is_explainable(&statement.actions);
        if !has_plan && !is_truncate(&statement.actions) || self.forwarded.any {
            return Ok(None);
        }
        let state = self.replies.state;
        let (before, after) = match self.replies.state {
            TransactionState::Idle => (&["BEGIN READ ONLY"][..], &["ROLLBACK"][..]),
            TransactionState::Open => (&[WITHIN.0, "SET LOCAL transaction_read_only = on"][..], WITHIN.1),
            TransactionState::Failed => return Ok(None),
        };
        let mut out = Vec::new();
        // All in one batch: where the transaction cannot begin, nothing is planned.
        for text in before.iter().chain(&BOUNDS) {
            command(&mut out, text);
        }
        let source = judged.source(statement);
        if has_plan {
            command(&mut out, MADE_BY_AGENTS);
            let parameters = parameters(values)?;
            prepare(&mut out, &format!("EXPLAIN (VERBOSE, FORMAT JSON) {source}"), types.unwrap_or(NO_TYPES));
            wire::message(&mut out, b'B', |out| {
                wire::put_string(out, PROBE);
                wire::put_string(out, PROBE);
                out.extend_from_slice(&parameters);
                out.extend_from_slice(&[0, 0]);
            });
            wire::message(&mut out, b'E', |out| {
                wire::put_string(out, PROBE);
                out.extend_from_slice(&[0; 4]);
            });
            name(&mut out, b'C', b'P');
            name(&mut out, b'C', b'S');
        }
        if let Some(text) = effects_query(&statement.actions, source) {
            command(&mut out, &text);
        }
        wire::message(&mut out, b'S', |_| {});
        for text in after {
            command(&mut out, text);
        }
        wire::message(&mut out, b'S', |_| {});

        let answer = self.ask(&out, Until::Traced(READINESSES)).await?;
        self.must_be_back(state)?;
        if answer.around.or(answer.error).is_some() {
            return Ok(None);
        }
        let value = |row: &Vec<u8>| -> Result<Option<Vec<u8>>, Malformed> {
            let mut fields = Fields::of(row);
            fields.count()?;
            Ok(fields.value()?.map(<[u8]>::to_vec))
        };
        let values: Result<Vec<_>, Malformed> = answer.rows.iter().map(value).collect();
        let mut values = values?.into_iter();
        let Some(Some(first)) = values.next() else { return Ok(None) };
        Ok(if has_plan { read(&first, values.next().flatten().as_deref()) } else { read_effects(&first) })
    }
}

/// The part of a Bind that has parameters, from what is behind its names.
fn parameters(values: &[u8]) -> Result<Vec<u8>, Malformed> {
    if values.is_empty() {
        return Ok(vec![0; 4]);
    }
    let mut fields = Fields::new(values);
    for _ in 0..fields.count()? {
        fields.i16()?;
    }
    for _ in 0..fields.count()? {
        fields.value()?;
    }
    let rest = fields.rest().len();
    Ok(values[..values.len() - rest].to_vec())
}
