//! An INSERT of many rows, by a few of them that stand for all that are like them: the server's tree of so many is not read.
//!
//! The server gives each value of a VALUES list its column's type, row by row (`transformInsertStmt`). So the tree of a row is
//! up to what its constants and parameters are, and not to their values: rows of the same kinds have the same one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::ops::Range;

use pg_query::protobuf::{InsertStmt, ScanToken, SelectStmt, Token, TypeName, a_const};
use pg_query::{Node, NodeEnum};
use serde::Serialize;

use super::walk::name_parts;

/// INSERTs with no more values than this are traced as they are.
const MAX_WHOLE: usize = 500;
/// Rows that stand for others.
const MAX_KINDS: usize = 32;
/// Of one row the server makes a tree of another form than of several.
const FIRST_ROWS: usize = 2;

/// An INSERT with some of a statement's rows: the first ones, and one of each kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub text: String,
    /// How many rows the statement has.
    pub rows: usize,
    /// The parameters that it has.
    pub parameters: BTreeSet<u16>,
    /// Those that only the statement has, each with the one that stands for it here.
    pub left_out: Vec<(u16, u16)>,
}

impl Sample {
    /// Bytes of memory that it takes beside itself, more or less.
    pub(super) fn size(&self) -> usize {
        let numbers = self.parameters.len() + 2 * self.left_out.len();
        self.text.len() + numbers * size_of::<u16>()
    }
}

/// A row of constants, parameters and DEFAULT.
struct Row {
    /// What each of its values is.
    kind: String,
    parameters: Vec<u16>,
}

/// A sample of an INSERT that has many rows and nothing in them but constants, parameters and DEFAULT. None: it is not one of these.
pub(super) fn sample(insert: &InsertStmt, tokens: &[ScanToken], sql: &str, statement: &Range<usize>) -> Option<Sample> {
    let lists = values(insert)?;
    let rows = lists.iter().map(Row::new).collect::<Option<Vec<Row>>>()?;
    let places = places(tokens, rows.len())?;
    let (first, last) = (places.first()?.start, places.last()?.end);
    let mut seen = HashSet::new();
    let is_news = rows.iter().flat_map(|it| &it.parameters).all(|it| seen.insert(*it));
    let mut parameters = tokens.iter().filter(|it| it.token() == Token::Param);
    // What a parameter is, is decided where it stands first.
    if !is_news || parameters.any(|it| !usize::try_from(it.start).is_ok_and(|at| (first..last).contains(&at))) {
        return None;
    }
    let mut kinds: HashMap<&str, &Row> = HashMap::new();
    let (mut kept, mut sample) = (
        Vec::new(),
        Sample { text: String::new(), rows: rows.len(), parameters: BTreeSet::new(), left_out: Vec::new() },
    );
    for (index, row) in rows.iter().enumerate() {
        let known = kinds.get(row.kind.as_str()).copied();
        if known.is_none() && kinds.len() == MAX_KINDS {
            return None;
        }
        let like = *kinds.entry(&row.kind).or_insert(row);
        if known.is_none() || index < FIRST_ROWS {
            kept.push(sql.get(places.get(index)?.clone())?);
            sample.parameters.extend(&row.parameters);
        } else {
            sample.left_out.extend(row.parameters.iter().copied().zip(like.parameters.iter().copied()));
        }
    }
    sample.text = [sql.get(statement.start..first)?, &kept.join(", "), sql.get(last..statement.end)?].concat();
    Some(sample)
}

/// The lists of an INSERT's VALUES, where they are many and nothing else belongs to them.
fn values(insert: &InsertStmt) -> Option<&[Node]> {
    let Some(NodeEnum::SelectStmt(select)) = &insert.select_stmt.as_deref()?.node else { return None };
    let SelectStmt { values_lists, sort_clause, limit_offset, limit_count, locking_clause, with_clause, .. } =
        &**select;
    let is_plain = insert.with_clause.is_none()
        && with_clause.is_none()
        && limit_offset.is_none()
        && limit_count.is_none()
        && sort_clause.is_empty()
        && locking_clause.is_empty();
    let size = |it: &Node| if let Some(NodeEnum::List(row)) = &it.node { row.items.len() } else { 0 };
    (is_plain && values_lists.iter().map(size).sum::<usize>() > MAX_WHOLE).then_some(values_lists)
}

/// Where the rows of the VALUES list stand that has so many, each in its brackets.
fn places(tokens: &[ScanToken], rows: usize) -> Option<Vec<Range<usize>>> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.token() {
            Token::Ascii40 => depth += 1,
            Token::Ascii41 => depth = depth.checked_sub(1)?,
            // A table or a column may have this name, but not so many brackets behind it.
            Token::Values if depth == 0 => {
                let found = in_brackets(tokens.get(index + 1..)?)?;
                if found.len() == rows {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

/// The places of what stands in brackets, with nothing but commas between.
fn in_brackets(tokens: &[ScanToken]) -> Option<Vec<Range<usize>>> {
    let (mut places, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for token in tokens {
        match token.token() {
            Token::Ascii40 => {
                if depth == 0 {
                    start = usize::try_from(token.start).ok()?;
                }
                depth += 1;
            }
            Token::Ascii41 => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    places.push(start..usize::try_from(token.end).ok()?);
                }
            }
            Token::Ascii44 | Token::SqlComment | Token::CComment => {}
            _ if depth == 0 => break,
            _ => {}
        }
    }
    Some(places)
}

impl Row {
    fn new(list: &Node) -> Option<Self> {
        let Some(NodeEnum::List(list)) = &list.node else { return None };
        let mut row = Self { kind: String::new(), parameters: Vec::new() };
        list.items.iter().try_for_each(|it| row.add(it))?;
        Some(row)
    }

    fn add(&mut self, value: &Node) -> Option<()> {
        match value.node.as_ref()? {
            NodeEnum::SetToDefault(_) => self.kind.push('d'),
            NodeEnum::TypeCast(cast) => {
                self.plain(cast.arg.as_deref()?)?;
                self.put_type(cast.type_name.as_ref()?)?;
            }
            _ => self.plain(value)?,
        }
        Some(())
    }

    /// A constant, or a parameter.
    fn plain(&mut self, value: &Node) -> Option<()> {
        let kind = match value.node.as_ref()? {
            NodeEnum::AConst(it) if it.isnull => 'n',
            NodeEnum::AConst(it) => match it.val.as_ref()? {
                a_const::Val::Ival(_) => 'i',
                a_const::Val::Fval(it) => number(&it.fval)?,
                a_const::Val::Boolval(_) => 'b',
                a_const::Val::Sval(_) => 's',
                a_const::Val::Bsval(_) => 'x',
            },
            NodeEnum::ParamRef(it) => {
                self.parameters.push(u16::try_from(it.number).ok()?);
                'p'
            }
            _ => return None,
        };
        self.kind.push(kind);
        Some(())
    }

    fn put_type(&mut self, of: &TypeName) -> Option<()> {
        let TypeName { names, type_oid: _, setof, pct_type, typmods, typemod: _, array_bounds, location: _ } = of;
        if *setof || *pct_type {
            return None;
        }
        let number = |it: &Node| match &it.node {
            Some(NodeEnum::AConst(it)) => match it.val {
                Some(a_const::Val::Ival(it)) => Some(it.ival),
                _ => None,
            },
            _ => None,
        };
        let bounds = typmods.iter().map(number).collect::<Option<Vec<i32>>>()?;
        // Writing to a string cannot fail.
        let _ = write!(self.kind, "{:?}{bounds:?}{}", name_parts(names).ok()?, array_bounds.len());
        Some(())
    }
}

/// The type that a server gives a number which the parser takes for none of the usual one. None: in other notations that is not known.
fn number(text: &str) -> Option<char> {
    match text.parse::<i64>() {
        Ok(it) if i32::try_from(it).is_ok() => Some('i'),
        Ok(_) => Some('l'),
        Err(_) => text.bytes().all(|it| it.is_ascii_digit() || b"+-.eE".contains(&it)).then_some('f'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(sql: &str) -> Option<Sample> {
        let tokens = pg_query::scan_tokens(sql).unwrap();
        let tree = pg_query::parse(sql, 0).unwrap().protobuf;
        match tree.stmts[0].stmt.as_deref().and_then(|it| it.node.as_ref()) {
            Some(NodeEnum::InsertStmt(it)) => sample(it, &tokens, sql, &(0..sql.len())),
            other => panic!("{other:?}"),
        }
    }

    fn times(row: &str, times: usize) -> String {
        vec![row; times].join(", ")
    }

    #[test]
    fn rows_of_a_kind_are_left_out() {
        let many = times("(1, 'x')", 300);
        let sql =
            format!("INSERT INTO values (values, b) /* ( */ VALUES {many} ON CONFLICT (values) DO NOTHING RETURNING b");
        let found = sampled(&sql).unwrap();
        let expected = "INSERT INTO values (values, b) /* ( */ VALUES (1, 'x'), (1, 'x') ON CONFLICT (values) DO NOTHING RETURNING b";
        assert_eq!((found.text.as_str(), found.rows), (expected, 300));
        let kinds = [
            "(-1, 'y')",
            "(NULL, ')')",
            "(1.5, DEFAULT)",
            "(3000000000, 'a'::numeric(10, 2))",
            "(true, 'a'::numeric(10, 3))",
        ];
        let found = sampled(&format!("INSERT INTO t VALUES {many}, {}, {many}", kinds.join(", "))).unwrap();
        assert_eq!(found.text, format!("INSERT INTO t VALUES (1, 'x'), (1, 'x'), {}", kinds[1..].join(", ")));
        assert_eq!(found.rows, 605);
    }

    #[test]
    fn parameters_that_are_left_out_are_like_others() {
        let numbered: Vec<String> = (0..300).map(|it| format!("(${}, ${})", 2 * it + 1, 2 * it + 2)).collect();
        let found = sampled(&format!("INSERT INTO t VALUES {}", numbered.join(", "))).unwrap();
        assert_eq!(found.text, "INSERT INTO t VALUES ($1, $2), ($3, $4)");
        assert_eq!(found.parameters, BTreeSet::from([1, 2, 3, 4]));
        assert_eq!((found.left_out.len(), found.left_out[0], found.left_out[595]), (596, (5, 1), (600, 2)));
        // One that stands elsewhere too may have its type from there.
        assert_eq!(sampled(&format!("INSERT INTO t VALUES {} RETURNING $7", numbered.join(", "))), None);
        assert_eq!(sampled(&format!("INSERT INTO t VALUES {}, ($1, $601)", numbered.join(", "))), None);
    }

    #[test]
    fn what_is_not_constant_is_not_sampled() {
        let many = times("(1, 'x')", 300);
        for sql in [
            times("(1, 'x')", 250),
            format!("{many}, (1, now())"),
            format!("{many}, (1, (SELECT 'x'))"),
            format!("{many}, (1, 'a'::text::int)"),
            format!("{many}, (1, 1 + 1)"),
            format!("{many}, (1, 0xFFFFFFFFFF)"),
            format!("{many} ORDER BY 1"),
            format!("{many} LIMIT 1"),
            (0..40).map(|it| format!("(1, 'x'::numeric({it})), {many}")).collect::<Vec<_>>().join(", "),
        ] {
            assert_eq!(sampled(&format!("INSERT INTO t VALUES {sql}")), None);
        }
        assert_eq!(sampled(&format!("WITH w AS (SELECT 1) INSERT INTO t VALUES {many}")), None);
        assert_eq!(sampled(&format!("INSERT INTO t WITH w AS (SELECT 1) VALUES {many}")), None);
    }
}
