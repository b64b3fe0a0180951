//! A database for the fuzz targets: the shop of the system tests, with the numbers that its tables have in `seeds/tree.txt`, and what shows
//! their masked columns under other names.

use std::sync::Arc;
use std::time::SystemTime;

use weir::mask::{MaskKind, MaskRule};
use weir::protocol::postgres::catalog::{ColumnRow, RelationRow, Snapshot, TaggedSet};

/// `customers.ssn` and `customers.email`.
pub(crate) const SSN: (u32, i16) = (16_387, 4);
pub(crate) const EMAIL: (u32, i16) = (16_387, 3);

/// The shop with these columns masked (`schema.table.column`).
pub(crate) fn shop(masked: &[&str]) -> TaggedSet {
    let relation = |oid, name: &str, kind, columns| RelationRow {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind,
        rows: None,
        columns,
    };
    let column = |(relation, number): (u32, i16), name: &str| ColumnRow { relation, number, name: name.to_owned() };
    let mut snapshot = Snapshot::default();
    snapshot.relations = vec![
        relation(SSN.0, "customers", 'r', 6),
        relation(16_397, "orders", 'r', 5),
        relation(16_412, "payments", 'r', 4),
        relation(16_420, "contacts", 'v', 3),
        relation(16_430, "kept", 'm', 2),
        relation(16_440, "people", 'p', 2),
        relation(16_441, "people_1", 'r', 2),
    ];
    snapshot.columns =
        vec![column(SSN, "ssn"), column(EMAIL, "email"), column((16_440, 2), "email"), column((16_441, 2), "email")];
    snapshot.rewrites = vec![(16_420, SSN.0), (16_430, SSN.0)];
    snapshot.inherits = vec![(16_441, 16_440)];
    let mask = MaskRule {
        name: "fuzz".to_owned(),
        targets: Vec::new(),
        columns: masked.iter().map(|it| it.parse().expect("a column")).collect(),
        detectors: Vec::new(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    };
    TaggedSet::resolve(&snapshot, &[Arc::new(mask)], SystemTime::UNIX_EPOCH).expect("each is there")
}
