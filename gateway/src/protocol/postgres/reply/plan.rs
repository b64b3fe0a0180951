//! How the rows of one description are treated: which masks each column has, and in what form its values come.

use crate::mask::{CellFormat, CellType, Masker, RowPlan};
use crate::protocol::postgres::catalog::TaggedSet;
use crate::protocol::postgres::wire::Column;

/// How rows of one description are treated.
pub(super) struct Plan {
    pub(super) rows: RowPlan,
    pub(super) columns: usize,
    /// Whether any column has a mask of its own.
    pub(super) tagged: bool,
}

pub(super) fn plan(masker: &Masker, set: &TaggedSet, columns: &[Column], formats: Option<&[i16]>) -> Plan {
    let format = |index: usize, column: &Column| match formats {
        None => column.format,
        Some([]) => 0,
        Some([all]) => *all,
        Some(each) => each.get(index).copied().unwrap_or(0),
    };
    let rows = masker.plan(columns.iter().enumerate().map(|(index, column)| {
        (set.masks(column.table, column.attribute), cell_format(column.type_oid, format(index, column)))
    }));
    let tagged = columns.iter().any(|column| !set.masks(column.table, column.attribute).is_empty());
    Plan { rows, columns: columns.len(), tagged }
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
