//! COPY to the client, as the query whose rows it sends.

use pg_query::protobuf::{CopyStmt, RangeVar, ScanToken, Token};
use pg_query::{Node, NodeEnum};

use super::walk::name_parts;
use crate::protocol::postgres::copy::CopyForm;

/// The form in which a COPY sends rows to the client. None: it does not, or in one that is not understood here.
pub(super) fn form(copy: &CopyStmt) -> Option<CopyForm> {
    if copy.is_from || copy.is_program || !copy.filename.is_empty() {
        return None;
    }
    let (mut format, mut delimiter, mut null, mut quote, mut escape, mut header) =
        ("text", None, None, None, None, false);
    for option in &copy.options {
        let Some(NodeEnum::DefElem(option)) = &option.node else { return None };
        let text = option.arg.as_deref().and_then(string);
        match option.defname.as_str() {
            "format" => format = text?,
            "delimiter" => delimiter = Some(byte(text?)?),
            "null" => null = Some(text?),
            "quote" => quote = Some(byte(text?)?),
            "escape" => escape = Some(byte(text?)?),
            "header" => header = option.arg.as_deref().map_or(Some(true), truth)?,
            // Which values stand in quotation marks is seen in each.
            "force_quote" => {}
            _ => return None,
        }
    }
    match format {
        "text" if null.is_none_or(|it| it == r"\N") => {
            Some(CopyForm::Text { delimiter: delimiter.unwrap_or(b'\t'), header })
        }
        "csv" => {
            let quote = quote.unwrap_or(b'"');
            let null = null.unwrap_or_default().to_owned();
            Some(CopyForm::Csv {
                delimiter: delimiter.unwrap_or(b','),
                quote,
                escape: escape.unwrap_or(quote),
                null,
                header,
            })
        }
        "binary" => Some(CopyForm::Binary),
        _ => None,
    }
}

/// The query whose rows a table's COPY sends, with the table's children left out as COPY does.
pub(super) fn of_table(relation: &RangeVar, columns: &[Node]) -> Option<String> {
    if !relation.catalogname.is_empty() {
        return None;
    }
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let columns: Vec<String> = name_parts(columns).ok()?.into_iter().map(quoted).collect();
    let columns = if columns.is_empty() { "*".to_owned() } else { columns.join(", ") };
    let schema = if relation.schemaname.is_empty() { String::new() } else { quoted(&relation.schemaname) + "." };
    Some(format!("SELECT {columns} FROM ONLY {schema}{}", quoted(&relation.relname)))
}

/// The place of what stands in the first brackets among a statement's tokens: the query that it copies.
pub(super) fn in_brackets(tokens: &[&ScanToken]) -> Option<std::ops::Range<usize>> {
    let mut depth = 0_usize;
    let mut start = None;
    for token in tokens {
        match token.token() {
            Token::Ascii40 => {
                depth += 1;
                start = start.or(usize::try_from(token.end).ok());
            }
            Token::Ascii41 => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(start?..usize::try_from(token.start).ok()?);
                }
            }
            _ => {}
        }
    }
    None
}

fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(it) => Some(&it.sval),
        _ => None,
    }
}

fn byte(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    }
}

/// A boolean as the server reads an option's.
fn truth(node: &Node) -> Option<bool> {
    match node.node.as_ref()? {
        NodeEnum::Integer(it) => match it.ival {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        NodeEnum::Boolean(it) => Some(it.boolval),
        NodeEnum::String(it) => match it.sval.to_ascii_lowercase().as_str() {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
