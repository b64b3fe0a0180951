//! COPY to the client, as the query whose rows it sends; COPY from the client, as the INSERT of the rows that it takes.

use pg_query::protobuf::{CopyStmt, RangeVar, ScanToken, Token};
use pg_query::{Node, NodeEnum};

use super::Query;
use super::walk::name_parts;
use crate::protocol::postgres::copy::CopyForm;

/// What a COPY from the client may say of its rows: in which form they come, and what is done with those that have another one.
const TAKEN: &[&str] = &[
    "default",
    "delimiter",
    "encoding",
    "escape",
    "force_not_null",
    "force_null",
    "format",
    "freeze",
    "header",
    "log_verbosity",
    "null",
    "on_error",
    "quote",
    "reject_limit",
];

/// The INSERT that a COPY from the client is like, but for how many rows there are: of values that nobody knows for the columns that it
/// names, or, where it names none, of no column's. The condition on the new rows stands behind it, where it may say the same.
pub(super) fn taken(copy: &CopyStmt, tokens: &[ScanToken], sql: &str, end: usize) -> Option<Query> {
    let is_known = |it: &Node| matches!(&it.node, Some(NodeEnum::DefElem(it)) if TAKEN.contains(&it.defname.as_str()));
    if copy.is_program || !copy.filename.is_empty() || !copy.options.iter().all(is_known) {
        return None;
    }
    let (table, columns) = (written(copy.relation.as_ref()?)?, quoted_names(&copy.attlist)?);
    let all = columns.is_empty();
    let rows = if all {
        "DEFAULT VALUES".to_owned()
    } else {
        let values: Vec<String> = (1..=columns.len()).map(|number| format!("${number}")).collect();
        // As COPY does with identity columns.
        format!("({}) OVERRIDING SYSTEM VALUE VALUES ({})", columns.join(", "), values.join(", "))
    };
    let condition = match copy.where_clause {
        Some(_) => format!(" RETURNING ({}\n) IS TRUE", condition(tokens, sql, end)?),
        None => String::new(),
    };
    Some(Query::Taken { insert: format!("INSERT INTO {table} {rows}{condition}"), all })
}

/// What stands behind WHERE, to the end of the statement. Parameters have no meaning in it.
fn condition<'t>(tokens: &[ScanToken], sql: &'t str, end: usize) -> Option<&'t str> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.token() {
            Token::Ascii40 => depth += 1,
            Token::Ascii41 => depth = depth.checked_sub(1)?,
            // Reserved, so that no name before it can be one.
            Token::Where if depth == 0 => {
                let has_parameter = tokens.get(index..)?.iter().any(|it| it.token() == Token::Param);
                return sql.get(usize::try_from(token.end).ok()?..end).filter(|_| !has_parameter);
            }
            _ => {}
        }
    }
    None
}

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
    let columns = quoted_names(columns)?;
    let columns = if columns.is_empty() { "*".to_owned() } else { columns.join(", ") };
    Some(format!("SELECT {columns} FROM ONLY {}", written(relation)?))
}

/// A table as it is written in a statement; none with the name of a database.
fn written(relation: &RangeVar) -> Option<String> {
    if !relation.catalogname.is_empty() {
        return None;
    }
    let schema = if relation.schemaname.is_empty() { String::new() } else { quoted(&relation.schemaname) + "." };
    Some(schema + &quoted(&relation.relname))
}

fn quoted_names(columns: &[Node]) -> Option<Vec<String>> {
    Some(name_parts(columns).ok()?.into_iter().map(quoted).collect())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The place of what stands in the first brackets among a statement's tokens: the query that it copies.
pub(super) fn in_brackets(tokens: &[ScanToken]) -> Option<std::ops::Range<usize>> {
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
