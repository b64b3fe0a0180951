//! Where a statement stands within another one: that whose plan EXPLAIN shows, and that whose rows a new table keeps.

use std::ops::Range;

use pg_query::protobuf::{ExplainStmt, ScanToken, Token};
use pg_query::{Node, NodeEnum};

/// Types of plans (`pg_type.dat`).
const TEXT: u32 = 25;
const JSON: u32 = 114;
const XML: u32 = 142;

/// Where the statement begins whose plan is shown. None: it would run, or an option is not one that is known here.
pub(super) fn explained(explain: &ExplainStmt, tokens: &[ScanToken]) -> Option<usize> {
    const HARMLESS: &[&str] = &["verbose", "costs", "settings", "generic_plan", "format", "summary"];
    let option =
        |node: &Node| if let Some(NodeEnum::DefElem(it)) = &node.node { Some(it.defname.clone()) } else { None };
    let is_harmless = |node: &Node| option(node).is_some_and(|it| HARMLESS.contains(&it.as_str()));
    let is_query = matches!(
        explain.query.as_deref()?.node,
        Some(
            NodeEnum::SelectStmt(_)
                | NodeEnum::InsertStmt(_)
                | NodeEnum::UpdateStmt(_)
                | NodeEnum::DeleteStmt(_)
                | NodeEnum::MergeStmt(_)
        )
    );
    if !is_query || !explain.options.iter().all(is_harmless) {
        return None;
    }
    let mut words = words(tokens).skip(1);
    let mut first = words.next()?;
    let is_word = first.token() == Token::Verbose;
    if is_word {
        first = words.next()?;
    } else if !explain.options.is_empty() {
        let mut depth = 0_usize;
        loop {
            depth = deeper(depth, first)?;
            first = words.next()?;
            if depth == 0 {
                break;
            }
        }
    }
    usize::try_from(first.start).ok()
}

/// Whether it tells how many pages or bytes are looked at or written. `by_itself`: with ANALYZE the server counts buffers unless told not to.
pub(super) fn counts_pages(explain: &ExplainStmt, by_itself: bool) -> bool {
    let options = || explain.options.iter().filter_map(|it| it.node.as_ref());
    // Of several the last one counts: one that is off is all there is then.
    let is_on = |name: &str| {
        options().any(|it| matches!(it, NodeEnum::DefElem(it) if it.defname == name && !is_off(it.arg.as_deref())))
    };
    let is_told = options().any(|it| matches!(it, NodeEnum::DefElem(it) if it.defname == "buffers"));
    ["buffers", "wal", "memory"].into_iter().any(is_on) || by_itself && !is_told && is_on("analyze")
}

/// Whether an option's value is plainly "no" (`defGetBoolean`).
fn is_off(value: Option<&Node>) -> bool {
    match value.and_then(|it| it.node.as_ref()) {
        Some(NodeEnum::String(it)) => ["off", "false"].iter().any(|off| it.sval.eq_ignore_ascii_case(off)),
        Some(NodeEnum::Integer(it)) => it.ival == 0,
        _ => false,
    }
}

/// The type in which EXPLAIN shows the plan.
pub(super) fn plan_type(explain: &ExplainStmt) -> Option<u32> {
    let mut formats = explain.options.iter().filter_map(|node| match &node.node {
        Some(NodeEnum::DefElem(it)) if it.defname == "format" => it.arg.as_deref(),
        _ => None,
    });
    let Some(format) = formats.next_back() else { return Some(TEXT) };
    let Some(NodeEnum::String(format)) = &format.node else { return None };
    match format.sval.as_str() {
        "text" | "yaml" => Some(TEXT),
        "json" => Some(JSON),
        "xml" => Some(XML),
        _ => None,
    }
}

/// The place of the query whose rows a new table keeps: behind AS, without what says whether it keeps any.
pub(super) fn kept(tokens: &[ScanToken]) -> Option<Range<usize>> {
    let words: Vec<&ScanToken> = words(tokens).collect();
    // Reserved, so that no name before it can be one.
    let query = words.get(words.iter().position(|it| it.token() == Token::As)? + 1..)?;
    let endings: [&[Token]; 2] = [&[Token::With, Token::No, Token::DataP], &[Token::With, Token::DataP]];
    let without = |ending: &&[Token]| {
        let (rest, last) = query.split_at_checked(query.len().checked_sub(ending.len())?)?;
        last.iter().zip(*ending).all(|(word, token)| word.token() == *token).then_some(rest)
    };
    let query = endings.iter().find_map(without).unwrap_or(query);
    let (first, last) = (query.first()?, query.last()?);
    Some(usize::try_from(first.start).ok()?..usize::try_from(last.end).ok()?)
}

pub(super) fn words(tokens: &[ScanToken]) -> impl Iterator<Item = &ScanToken> {
    tokens.iter().filter(|it| !matches!(it.token(), Token::SqlComment | Token::CComment))
}

fn deeper(depth: usize, token: &ScanToken) -> Option<usize> {
    match token.token() {
        Token::Ascii40 => Some(depth + 1),
        Token::Ascii41 => depth.checked_sub(1),
        _ => Some(depth),
    }
}
