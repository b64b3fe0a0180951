//! Code that a statement brings along and runs: the body of a DO.

use pg_query::{Node, NodeEnum, protobuf};

use super::{Unknown, Walk, Walked, string, walk_within};
use crate::policy::Kind;
use crate::protocol::postgres::operation::body::{self, Part, Runs};
use crate::protocol::postgres::operation::{Lexed, MAX_BODIES, PART_STEPS};

/// What it is of which a line is told.
const BODY: &str = "the body of the DO";

impl Walk<'_> {
    /// What a body does are actions of the statement's own. What is not understood of it is one too, as which rules know it.
    pub(super) fn code(&mut self, code: &protobuf::DoStmt) -> Walked {
        let parts = match plpgsql(&code.args) {
            Some(text) if self.depth < MAX_BODIES => body::parts(text),
            Some(_) => Err(format!("more than {MAX_BODIES} bodies of code stand in each other")),
            None => Err("it is no text in PL/pgSQL".to_owned()),
        };
        let parts = match parts {
            Ok(parts) => parts,
            Err(what) => {
                self.not_understood(format!("{BODY}: {what}"));
                return Ok(());
            }
        };
        for Part { line, runs } in &parts {
            let understood = match runs {
                Runs::Unknown(what) => Err((*what).to_owned()),
                Runs::Statement(text) => {
                    self.part(*line, text, false).map_err(|it| format!("a statement of SQL: {it}"))
                }
                Runs::Expression(text) => {
                    self.part(*line, &format!("SELECT {text}"), true).map_err(|it| format!("an expression: {it}"))
                }
            };
            // A part that takes the last of the steps is not one that is not understood: the whole text is.
            self.in_bounds()?;
            if let Err(what) = understood {
                self.not_understood(format!("{BODY}: line {line}: {what}"));
            }
        }
        Ok(())
    }

    fn part(&mut self, line: usize, text: &str, is_expression: bool) -> Result<(), String> {
        self.spend(PART_STEPS);
        let tree = Lexed::new(text)?.tree()?;
        let [only] = tree.stmts.as_slice() else { return Err("not one statement".to_owned()) };
        let node = only.stmt.as_deref().ok_or("a statement without a tree")?;
        let (actions, seen) =
            walk_within(self.depth + 1, node, self.set, &mut self.left).map_err(|Unknown(what)| what.to_owned())?;
        self.seen.pinned = self.seen.pinned.take().or(seen.pinned);
        self.seen.lets_write |= seen.lets_write;
        self.seen.secret_strings |= seen.secret_strings;
        for mut action in actions {
            // In a body within this one.
            action.unparsed = action.unparsed.map(|what| format!("{BODY}: line {line}: {what}"));
            let computes = is_expression && action.kind == Kind::Select;
            let tells = !computes || !action.tables.is_empty() || !action.functions.is_empty();
            self.spend(self.actions.len());
            if tells && !self.actions.contains(&action) {
                self.actions.push(action);
            }
        }
        // What a name stands for afterwards nobody would know.
        if seen.name.is_some() { Err("it makes, or uses, a prepared statement or a cursor".to_owned()) } else { Ok(()) }
    }
}

/// The text of a DO in the language that is read here.
fn plpgsql(args: &[Node]) -> Option<&str> {
    let mut text = None;
    for arg in args {
        let Some(NodeEnum::DefElem(option)) = &arg.node else { return None };
        let value = match &option.arg.as_deref()?.node {
            Some(NodeEnum::String(it)) => it.sval.as_str(),
            _ => string(option.arg.as_deref()?)?,
        };
        match option.defname.as_str() {
            "language" if value == "plpgsql" => {}
            "as" if text.is_none() => text = Some(value),
            _ => return None,
        }
    }
    text
}
