//! From a text to a permit: what it does, what policy says of it, and what people say where policy asks them.

use std::ops::Range;
use std::sync::Arc;

use std::time::Instant;

use super::{End, Front, Relay};
use crate::policy::{Action, Kind};
use crate::protocol::postgres::operation::Class;
use crate::protocol::postgres::reply::Running;
use crate::protocol::postgres::shared::{Catalog, Freshness};
use crate::protocol::postgres::statement::{Judged, Portal};
use crate::protocol::postgres::wire::{self, Column, Report, Severity};
use crate::session::{Decision, Denial, Exact, Forwarded, Held, HeldEvent, Judgement, Permit};

/// Relations that are remembered as missing in the catalog.
const MAX_MISSING: usize = 1_000;
const DENIED: &str = "42501";

/// A request that got through, or not.
pub(super) enum Outcome {
    Permit(Permit<Range<usize>>),
    /// The client was told no, or took it back.
    Over,
}

/// How a request that does not run is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An error, then readiness.
    Query,
    /// An error; readiness comes with the Sync.
    Batch,
}

impl Relay<'_> {
    /// What the text of a simple query does and what policy says of it. The error is what the client is to be told, or the
    /// session's end.
    pub(super) async fn judged_query(&mut self, range: Range<usize>) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = self.catalog(Freshness::Usual).await.map_err(Ok)?;
        let mut fields = wire::Fields::of(self.client.inbox.bytes(range));
        let text = fields.string().and_then(|text| fields.end().map(|()| text)).map_err(|error| Err(error.into()))?;
        if let Some(judged) = self.memory.recall(self.session, &catalog, text) {
            return Ok(judged);
        }
        let text = utf8(text)?;
        self.judged_anew(text, catalog).await
    }

    /// The same for a prepared statement's text.
    pub(super) async fn judged(&mut self, text: &[u8]) -> Result<Arc<Judged>, Result<Report, End>> {
        let catalog = self.catalog(Freshness::Usual).await.map_err(Ok)?;
        match self.memory.recall(self.session, &catalog, text) {
            Some(judged) => Ok(judged),
            None => self.judged_anew(utf8(text)?, catalog).await,
        }
    }

    /// The catalog that statements are understood under.
    pub(super) async fn catalog(&mut self, freshness: Freshness) -> Result<Arc<Catalog>, Report> {
        let freshness = match (freshness, self.catalog_changed_at.take()) {
            (Freshness::Usual, Some(changed)) => Freshness::AsNewAs(changed),
            (freshness, _) => freshness,
        };
        if freshness == Freshness::Usual
            && let Some(catalog) = &self.catalog
            && catalog.is_fresh()
        {
            return Ok(Arc::clone(catalog));
        }
        match self.state.catalog(self.session, self.way, freshness).await {
            Ok(catalog) => {
                if freshness == Freshness::Usual {
                    self.missing.clear();
                }
                self.catalog = Some(Arc::clone(&catalog));
                Ok(catalog)
            }
            Err(why) => {
                self.catalog = None;
                let message =
                    format!("the target {:?} is denied until this is put right: {why}", self.session.target.name);
                let hint = "What is masked cannot be known without its catalog, so nothing passes. This is for the \
                            people who run Weir, not for you; do not retry at once.";
                Err(Report::new(Severity::Error, DENIED, message).with_hint(hint))
            }
        }
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
        let exact = Exact {
            bytes: &[judged.text.as_bytes(), values],
            parameters: portal.and_then(|portal| portal.parameters.as_deref()),
        };
        match self.session.decide(judgement, range, exact).await? {
            Decision::Permit(permit) => Ok(Outcome::Permit(permit)),
            Decision::Denial(denial) => {
                self.deny(&denial, answer).await?;
                Ok(Outcome::Over)
            }
            Decision::Hold(held) => self.hold(held, answer).await,
        }
    }

    pub(super) async fn deny(&mut self, denial: &Denial, answer: Answer) -> Result<(), End> {
        let report = Report::new(Severity::Error, DENIED, denial.sentence()).with_hint(denial.hint());
        self.drain().await?;
        self.answer(&report, answer).await
    }

    /// Says no, in order, with the transaction's true state.
    pub(super) async fn answer(&mut self, report: &Report, answer: Answer) -> Result<(), End> {
        if self.replies.skipping {
            return Ok(());
        }
        self.tell(report);
        match answer {
            Answer::Query => self.tell_ready(),
            Answer::Batch => {
                self.front = Front::Absorbing;
                if self.forwarded.executed {
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

    /// Whether results must be looked at before their statements run.
    pub(super) fn must_be_looked_at(&self, judged: &Judged) -> bool {
        let tagged = judged.statements().iter().any(|it| self.replies.names.touches_tagged(it));
        tagged && !judged.is_denied() && judged.parsed.refusal().is_none()
    }

    /// A statement is on its way: what is known here follows.
    pub(super) fn went(&mut self, judged: &Judged) {
        self.replies.names.apply(judged);
        if judged.effects.changes_catalog {
            self.catalog_changed_at = Some(Instant::now());
        }
    }

    async fn judged_anew(&mut self, text: Arc<str>, catalog: Arc<Catalog>) -> Result<Arc<Judged>, Result<Report, End>> {
        let mut judged = self.judge(&text, catalog).await;
        if !judged.catalog.set.is_empty() && judged.unknown_relations().any(|it| !self.missing.contains(it)) {
            let catalog = self.catalog(Freshness::AsNewAs(Instant::now())).await.map_err(Ok)?;
            judged = self.judge(&text, catalog).await;
            // Temporary tables, and what does not exist: the catalog need not be read for these again and again.
            let room = MAX_MISSING.saturating_sub(self.missing.len());
            self.missing.extend(judged.unknown_relations().take(room).cloned());
        }
        let judged = Arc::new(judged);
        self.memory.keep(&judged);
        Ok(judged)
    }

    async fn judge(&mut self, text: &Arc<str>, catalog: Arc<Catalog>) -> Judged {
        let parsed = catalog.understand(&self.state.analyser, text).await;
        Judged::new(self.session, &self.way.database, Arc::clone(text), parsed, catalog)
    }
}

pub(super) fn running(judged: &Judged, forwarded: Forwarded, tagged: bool) -> Box<Running> {
    let mut running = Running::new(forwarded, Arc::clone(&judged.catalog.set));
    running.tagged = tagged;
    let ends = |action: &Action| matches!(action.kind, Kind::Transaction | Kind::Set);
    running.ends_transaction = judged.judgement.operation().actions.iter().any(ends);
    running
}

/// Whether every column of a tagged statement's result is a column of an ordinary table, so that its mask is known.
pub(super) fn plain(judged: &Judged, columns: Option<&[Column]>) -> Result<(), String> {
    let Some(columns) = columns else { return Ok(()) };
    for (index, column) in columns.iter().enumerate() {
        let is_column = column.table != 0 && column.attribute > 0 && judged.catalog.set.is_ordinary(column.table);
        if !is_column {
            let tables: Vec<&str> = judged
                .statements()
                .iter()
                .filter_map(|it| if let Class::Plain { relations } = &it.class { Some(relations) } else { None })
                .flatten()
                .map(String::as_str)
                .collect();
            let tables = if tables.is_empty() { "a table".to_owned() } else { tables.join(", ") };
            return Err(format!(
                "column {} (\"{}\") of the result is not plainly a column of a table, and {tables} in this statement has \
                 masked columns; select the columns themselves",
                index + 1,
                String::from_utf8_lossy(&column.name)
            ));
        }
    }
    Ok(())
}

fn utf8(text: &[u8]) -> Result<Arc<str>, Result<Report, End>> {
    let text = std::str::from_utf8(text);
    text.map(Arc::from).map_err(|_| Ok(Report::new(Severity::Error, "22021", "the statement is not valid UTF-8")))
}
