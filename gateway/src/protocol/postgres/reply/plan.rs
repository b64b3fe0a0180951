//! How the rows of one description are treated: which masks each column has, and in what form its values come.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Doubt;
use crate::mask::{CellFormat, CellType, ColumnMasks, MaskRule, Masker, Part, RowPlan, Syntax};
use crate::protocol::postgres::catalog::{ColumnType, TaggedSet};
use crate::protocol::postgres::lineage::{Flow, Form, Lineage, Parts, Shows};
use crate::protocol::postgres::wire::Column;

/// How rows of one description are treated.
pub(super) struct Plan {
    pub(super) rows: RowPlan,
    pub(super) columns: usize,
    /// Whether any column has a mask of its own.
    pub(super) tagged: bool,
    /// What must be asked before rows are shown: of what was not traced the catalog alone tells.
    pub(super) doubt: Option<Arc<Doubt>>,
}

/// A column's masks are those of the column that the server names, or, where the statement was traced, of the columns that
/// its values come from.
pub(super) fn plan(
    masker: &Masker,
    set: &Arc<TaggedSet>,
    columns: &[Column],
    formats: Option<&[i16]>,
    lineage: Option<&Lineage>,
) -> Plan {
    let format = |index: usize, column: &Column| match formats {
        None => column.format,
        Some([]) => 0,
        Some([all]) => *all,
        Some(each) => each.get(index).copied().unwrap_or(0),
    };
    let mut traced = lineage.map(Lineage::shows);
    let masks: Vec<ColumnMasks<'_>> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let named = set.masks(column.table, column.attribute);
            let format = cell_format(column.type_oid, format(index, column));
            let mut parts = None;
            let (masks, computed) = match traced.as_mut().and_then(Iterator::next) {
                None | Some(Shows::Clear) => (Cow::Borrowed(named), false),
                Some(Shows::Column(table, number)) => (Cow::Borrowed(set.masks(table, number)), false),
                Some(Shows::Computed(sources)) => (Cow::Owned(all_masks(set, sources)), true),
                Some(Shows::Together(together, sources)) => {
                    parts = parts_in(set, together, format);
                    (Cow::Owned(all_masks(set, sources)), true)
                }
            };
            ColumnMasks { masks, computed, format, width: width(column.type_oid, column.modifier), parts }
        })
        .collect();
    let tagged = masks.iter().any(|column| !column.masks.is_empty());
    let doubt = if lineage.is_none() { Doubt::of(set, columns) } else { None };
    Plan { rows: masker.plan(masks), columns: columns.len(), tagged, doubt }
}

/// The parts of a result's column, if it is of a type in which they are written so.
fn parts_in<'s>(set: &'s TaggedSet, parts: &Parts, format: CellFormat) -> Option<Box<Part<ColumnMasks<'s>>>> {
    let (CellFormat::Text(cell_type) | CellFormat::Binary(cell_type)) = format;
    let is_written_so = match parts.syntax {
        Syntax::Native => matches!(cell_type, CellType::Array | CellType::Other),
        Syntax::Json => cell_type == CellType::Json,
        Syntax::Jsonb => cell_type == CellType::Jsonb,
    };
    is_written_so.then(|| Box::new(part(set, parts, parts.syntax, matches!(format, CellFormat::Binary(_)))))
}

/// `around`: how what it is part of is written.
fn part<'s>(set: &'s TaggedSet, parts: &Parts, around: Syntax, binary: bool) -> Part<ColumnMasks<'s>> {
    // What is within JSON is JSON, and that is text, also as it is sent.
    let syntax = if around == Syntax::Native { parts.syntax } else { around };
    let binary = binary && syntax == Syntax::Native;
    let inner = |flow: &Flow| match flow.shows() {
        Shows::Clear => Part::Clear,
        Shows::Column(table, number) => {
            let ColumnType { oid, modifier } = set.column_type((table, number)).unwrap_or(UNKNOWN);
            Part::Value(ColumnMasks {
                masks: Cow::Borrowed(set.masks(table, number)),
                computed: false,
                format: cell_format(oid, i16::from(binary)),
                width: width(oid, modifier),
                parts: None,
            })
        }
        Shows::Computed(sources) => Part::Value(ColumnMasks {
            masks: Cow::Owned(all_masks(set, sources)),
            computed: true,
            format: cell_format(UNKNOWN.oid, i16::from(binary)),
            width: None,
            parts: None,
        }),
        Shows::Together(parts, _) => part(set, parts, syntax, binary),
    };
    match &parts.form {
        Form::Fields(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(name, flow)| (name.clone(), inner(flow))).collect();
            if syntax == Syntax::Jsonb {
                // The order of its keys (`lengthCompareJsonbString`).
                fields.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
            }
            Part::Fields(syntax, fields)
        }
        Form::Items(item) => Part::Items(syntax, Box::new(inner(item))),
    }
}

/// Only NULL is surely a value of it.
const UNKNOWN: ColumnType = ColumnType { oid: 0, modifier: -1 };

fn all_masks(set: &TaggedSet, sources: &BTreeSet<(u32, i16)>) -> Vec<Arc<MaskRule>> {
    let mut masks: Vec<Arc<MaskRule>> = Vec::new();
    for mask in sources.iter().flat_map(|&(table, number)| set.masks(table, number)) {
        if !masks.iter().any(|it| Arc::ptr_eq(it, mask)) {
            masks.push(Arc::clone(mask));
        }
    }
    masks
}

/// A column that is computed from something masked, in a format in which a value of its type may not be sent: that it fails would
/// tell of it.
pub(in crate::protocol::postgres) fn unfit(lineage: &Lineage, columns: &[Column], formats: &[i16]) -> Option<usize> {
    let format = |index: usize| match formats {
        [] => 0,
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    };
    let mut shown = lineage.shows().zip(columns).enumerate();
    shown.position(|(index, (shows, column))| match cell_format(column.type_oid, format(index)) {
        CellFormat::Text(_) => false,
        CellFormat::Binary(cell_type) => match shows {
            Shows::Computed(_) => cell_type == CellType::Other,
            Shows::Together(parts, _) => parts.as_text_only,
            Shows::Clear | Shows::Column(..) => false,
        },
    })
}

/// What a mask may write into a value of the type: characters of a text, digits before a numeric's point (PostgreSQL's
/// `varchar.c` and `numeric.c` have what a modifier says).
fn width(type_oid: u32, modifier: i32) -> Option<usize> {
    /// `"char"` and `name`: one byte, and 63 of them.
    const CHAR: u32 = 18;
    const NAME: u32 = 19;
    const BPCHAR: u32 = 1042;
    const VARCHAR: u32 = 1043;
    const NUMERIC: u32 = 1700;
    /// Modifiers are stored with the length of a header that no value has any more.
    const HEADER: i32 = 4;
    let bounds = modifier.checked_sub(HEADER).filter(|bounds| *bounds >= 0);
    let width = match type_oid {
        CHAR => 1,
        NAME => 63,
        BPCHAR | VARCHAR => bounds?,
        NUMERIC => {
            // Sixteen bits of precision, and eleven of scale, which may be negative.
            let (precision, scale) = (bounds? >> 16 & 0xffff, ((bounds? & 0x7ff) ^ 0x400) - 0x400);
            precision - scale
        }
        _ => return None,
    };
    Some(usize::try_from(width).unwrap_or(0))
}

/// The types that masks tell apart, by the oids of PostgreSQL's `pg_type.dat`.
fn cell_format(type_oid: u32, format: i16) -> CellFormat {
    let cell_type = match type_oid {
        16 => CellType::Bool,
        17 => CellType::Bytea,
        20 => CellType::Int8,
        21 => CellType::Int2,
        23 => CellType::Int4,
        18 | 19 | 25 | 705 | 1042 | 1043 => CellType::Text,
        114 => CellType::Json,
        700 => CellType::Float4,
        701 => CellType::Float8,
        1082 => CellType::Date,
        1114 | 1184 => CellType::Timestamp,
        1700 => CellType::Numeric,
        2950 => CellType::Uuid,
        3802 => CellType::Jsonb,
        199 | 143 | 1000..=1003 | 1005..=1017 | 1021 | 1022 | 1028 | 1115 | 1182 | 1185 | 1231 | 2951 | 3807 => {
            CellType::Array
        }
        _ => CellType::Other,
    };
    if format == 0 { CellFormat::Text(cell_type) } else { CellFormat::Binary(cell_type) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pg_attribute.atttypmod` has for these types.
    #[test]
    fn modifiers_say_how_wide_a_value_may_be() {
        for (type_oid, modifier, expected) in [
            (1043, 24, Some(20)),
            (1043, -1, None),
            (1042, 9, Some(5)),
            (25, -1, None),
            (19, -1, Some(63)),
            (18, -1, Some(1)),
            (1700, -1, None),
            (1700, 655_366, Some(8)),                      // numeric(10,2)
            (1700, (2 << 16 | 4) + 4, Some(0)),            // numeric(2,4)
            (1700, (3 << 16 | (-2 & 0x7ff)) + 4, Some(5)), // numeric(3,-2)
            (1700, 3, None),
            (1043, i32::MIN, None),
            (23, -1, None),
        ] {
            assert_eq!(width(type_oid, modifier), expected, "{type_oid} {modifier}");
        }
    }
}
