//! Code that a statement brings along and runs: the body of a DO.

use pg_query::{Node, NodeEnum, protobuf};

use super::{Unknown, Walk, Walked, string, walk_within};
use crate::policy::Kind;
use crate::protocol::postgres::operation::body::{self, Part};
use crate::protocol::postgres::operation::{Lexed, MAX_BODIES, PART_STEPS};

impl Walk<'_> {
    /// What a body does are actions of the statement's own. What is not understood of it is one too, as which rules know it.
    pub(super) fn code(&mut self, code: &protobuf::DoStmt) -> Walked {
        let parts = match plpgsql(&code.args) {
            Some(text) if self.depth < MAX_BODIES => body::parts(text).unwrap_or_else(|_| vec![Part::Unknown]),
            _ => vec![Part::Unknown],
        };
        for part in &parts {
            let understood = match part {
                Part::Unknown => false,
                Part::Statement(text) => self.part(text, false).is_ok(),
                Part::Expression(text) => self.part(&format!("SELECT {text}"), true).is_ok(),
            };
            // A part that takes the last of the steps is not one that is not understood: the whole text is.
            self.in_bounds()?;
            if !understood {
                self.add_action(Kind::Unparsed, None);
            }
        }
        Ok(())
    }

    fn part(&mut self, text: &str, is_expression: bool) -> Result<(), String> {
        self.spend(PART_STEPS);
        let tree = Lexed::new(text)?.tree()?;
        let [only] = tree.stmts.as_slice() else { return Err("not one statement".to_owned()) };
        let node = only.stmt.as_deref().ok_or("a statement without a tree")?;
        let (actions, seen) =
            walk_within(self.depth + 1, node, self.set, &mut self.left).map_err(|Unknown(what)| what.to_owned())?;
        self.seen.pinned = self.seen.pinned.take().or(seen.pinned);
        self.seen.lets_write |= seen.lets_write;
        self.seen.secret_strings |= seen.secret_strings;
        for action in actions {
            let computes = is_expression && action.kind == Kind::Select;
            let tells = !computes || !action.tables.is_empty() || !action.functions.is_empty();
            self.spend(self.actions.len());
            if tells && !self.actions.contains(&action) {
                self.actions.push(action);
            }
        }
        // What a name stands for afterwards nobody would know.
        if seen.name.is_some() { Err("a prepared statement".to_owned()) } else { Ok(()) }
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
